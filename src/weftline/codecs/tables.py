"""Tables of pyarrow, polars and pandas as Arrow streams, where that keeps all there is to them."""

import sys
from io import BytesIO
from typing import Any

from weftline.code.spool import Spool


def write_arrow_table(table: Any, kind: type, spool: Spool) -> str | None:
    """Write a table of pyarrow; None: it has types that another process may not know."""
    import pyarrow

    if kind is not pyarrow.Table or any(map(_has_extension, table.schema.types)):
        return None
    _write_stream(table, spool)
    return "arrow:pyarrow"


def _write_stream(table: Any, spool: Spool) -> None:
    import pyarrow

    with pyarrow.ipc.new_stream(pyarrow.PythonFile(spool, "w"), table.schema) as stream:
        stream.write_table(table)


def _has_extension(arrow_type: Any) -> bool:
    """Whether a type, or one within it, may not be known to another process."""
    import pyarrow

    if isinstance(arrow_type, pyarrow.BaseExtensionType):
        return True
    if pyarrow.types.is_dictionary(arrow_type):
        return _has_extension(arrow_type.value_type)
    return any(
        _has_extension(arrow_type.field(index).type) for index in range(arrow_type.num_fields)
    )


def read_arrow_table(content: bytearray | memoryview) -> Any:
    """The table of `arrow:pyarrow`."""
    import pyarrow

    return pyarrow.ipc.open_stream(pyarrow.py_buffer(content)).read_all()


def write_polars(frame: Any, kind: type, spool: Spool) -> str | None:
    """Write a frame of polars whose types Arrow has, too; None for any other."""
    import polars

    if kind is not polars.DataFrame or frame.width == 0:
        return None
    if not all(map(_is_plain_polars_type, frame.dtypes)):
        return None
    frame.write_ipc_stream(spool)
    return "arrow:polars"


def _is_plain_polars_type(dtype: Any) -> bool:
    import polars

    if isinstance(dtype, polars.List | polars.Array):
        return dtype.inner is not None and _is_plain_polars_type(dtype.inner)
    if isinstance(dtype, polars.Struct):
        return bool(dtype.fields) and all(
            _is_plain_polars_type(field.dtype) for field in dtype.fields
        )
    plain = (polars.Boolean, polars.String, polars.Binary, polars.Date, polars.Time)
    return (
        dtype.is_float()
        or dtype.is_integer()
        or dtype in (*plain, polars.Datetime, polars.Duration)
    )


def read_polars(content: bytearray | memoryview) -> Any:
    """The frame of `arrow:polars`."""
    import polars

    return polars.read_ipc_stream(BytesIO(content))


def write_pandas(frame: Any, kind: type, spool: Spool) -> str | None:
    """Write a frame whose every property Arrow keeps; None for any other."""
    import pandas

    if kind is not pandas.DataFrame or "pyarrow" not in sys.modules:
        return None
    import pyarrow

    index, columns = frame.index, frame.columns
    is_exact = (
        type(index) is pandas.RangeIndex
        and index.name is None
        and type(columns) is pandas.Index
        and columns.name is None
        and columns.dtype == pandas.Index(["a"]).dtype
        and columns.is_unique
        and set(map(type, columns)) == {str}
        and not frame.attrs
        and frame.flags.allows_duplicate_labels
        and all(getattr(dtype, "str", "") in _PANDAS_TYPES for dtype in frame.dtypes)
    )
    if not is_exact:
        return None
    # Column by column, so that a NaN stays what it is and is not made a null.
    arrays = [pyarrow.array(frame[name].to_numpy(), from_pandas=False) for name in columns]
    marks = {"weftline.index": f"{index.start},{index.stop},{index.step}"}
    table = pyarrow.Table.from_arrays(arrays, list(columns)).replace_schema_metadata(marks)
    _write_stream(table, spool)
    return "arrow:pandas"


def read_pandas(content: bytearray | memoryview) -> Any:
    """The frame of `arrow:pandas`, one array per column."""
    import pandas

    table = read_arrow_table(content)
    start, stop, step = map(int, table.schema.metadata[b"weftline.index"].split(b","))
    index = pandas.RangeIndex(start, stop, step)
    columns = {
        name: column.to_numpy().copy()
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    return pandas.DataFrame(columns, index=index, copy=False)


# Little-endian, as Arrow is. Strings are left out: frames keep them in many ways.
_PANDAS_TYPES = frozenset(
    {"|b1", "|i1", "<i2", "<i4", "<i8", "|u1", "<u2", "<u4", "<u8", "<f4", "<f8"}
    | {f"<{kind}8[{unit}]" for kind in "mM" for unit in ("s", "ms", "us", "ns")}
)
