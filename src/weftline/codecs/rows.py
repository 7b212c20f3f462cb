"""The first rows of a table as text; what is not shown is not looked at."""

from collections.abc import Callable, Iterable
from datetime import date, time, timedelta
from decimal import Decimal
from itertools import islice
from typing import Any, NamedTuple

_ROWS = 5
_COLUMNS = 8
_CELL = 24
_WIDTH = 100
_MORE = "…"
_UNREAD = object()  # a cell that may hold anything, of any size


class _Column(NamedTuple):
    name: str
    cells: list[str]
    is_number: bool


def first_rows(table: Any, shown: Callable[[Any], str]) -> str:
    """Lines with the names of the first columns and their first cells; empty when `table` is none
    of pandas, polars or pyarrow, or has no row. `shown` tells what any other object is."""
    read = _READERS.get(type(table).__module__.partition(".")[0])
    if read is None or 0 in table.shape:
        return ""
    columns = [
        _Column(_cut(str(name)), [_cell(item, shown) for item in items], _is_number(items))
        for name, items in islice(read(table), _COLUMNS)
    ]
    return _laid_out(columns, has_more=table.shape[1] > _COLUMNS)


def _laid_out(columns: list[_Column], *, has_more: bool) -> str:
    lines = [""] * (1 + len(columns[0].cells))
    for column in columns:
        texts = [column.name, *column.cells]
        width = max(map(len, texts))
        if lines[0] and len(lines[0]) + 2 + width > _WIDTH:
            has_more = True
            break
        gap = "  " if lines[0] else ""
        aligned = [text.rjust(width) if column.is_number else text.ljust(width) for text in texts]
        lines = [line + gap + text for line, text in zip(lines, aligned, strict=True)]
    if has_more:
        lines = [f"{line}  {_MORE}" for line in lines]
    return "\n".join(line.rstrip() for line in lines)


def _cell(item: Any, shown: Callable[[Any], str]) -> str:
    if item is _UNREAD:
        return _MORE
    if type(item).__module__ == "numpy" and getattr(item, "shape", None) == ():
        item = item.item()
    if item is None:
        return "null"
    if isinstance(item, str):
        return _cut(item)
    if isinstance(item, bytes):
        return _cut(repr(item[: _CELL + 1]))
    if isinstance(item, float):
        return f"{item:.6g}"
    if isinstance(item, int):
        return str(item) if item.bit_length() < 128 else _MORE
    if isinstance(item, _PLAIN) or type(item).__name__ in ("NAType", "NaTType"):
        return _cut(str(item))
    return _cut(shown(item))


_PLAIN = (date, time, timedelta, Decimal)


def _is_number(items: list[Any]) -> bool:
    return all(isinstance(item, int | float) or item is None or _is_numpy(item) for item in items)


def _is_numpy(item: Any) -> bool:
    return type(item).__module__ == "numpy" and item.dtype.kind in "biuf"


def _cut(text: str) -> str:
    """The text as one short line."""
    text = " ".join(text[: 4 * _CELL].split())
    return text if len(text) <= _CELL else text[: _CELL - 1] + _MORE


_Named = Iterable[tuple[Any, list[Any]]]


def _of_pandas(frame: Any) -> _Named:
    head = frame.iloc[:_ROWS, :_COLUMNS]
    index = head.index
    if type(index).__name__ != "RangeIndex" or index.name is not None or index[0] != 0:
        yield ("" if index.name is None else index.name), list(index)
    for at, name in enumerate(head.columns):
        if str(head.dtypes.iloc[at]).startswith(("list<", "large_list<", "struct<", "map<")):
            yield name, [_UNREAD] * len(head)
        else:
            yield name, [head.iat[row, at] for row in range(len(head))]


def _of_polars(frame: Any) -> _Named:
    head = frame[:_ROWS, :_COLUMNS]
    for series in head.get_columns():
        match str(series.dtype):
            case "String" | "Utf8":
                yield series.name, series.str.slice(0, _CELL + 1).to_list()
            case "Binary":
                yield series.name, [_UNREAD] * len(series)
            case _ if series.dtype.is_nested():
                yield series.name, [_UNREAD] * len(series)
            case _:
                yield series.name, series.to_list()


def _of_pyarrow(table: Any) -> _Named:
    from pyarrow import types

    head = table.slice(0, _ROWS).select(list(range(min(_COLUMNS, table.num_columns))))
    for field, column in zip(head.schema, head.columns, strict=True):
        if types.is_nested(field.type) or hasattr(field.type, "extension_name"):
            yield field.name, [_UNREAD] * len(column)
        else:
            yield field.name, [_arrow_cell(scalar) for scalar in column]


def _arrow_cell(scalar: Any) -> Any:
    if hasattr(scalar, "index") and hasattr(scalar, "dictionary"):
        scalar = scalar.value
    if not hasattr(scalar, "as_buffer"):
        return scalar.as_py()
    content = scalar.as_buffer()  # no copy of what may be long
    if content is None:
        return None
    start = bytes(memoryview(content)[: 4 * _CELL])
    return start if "binary" in str(scalar.type) else start.decode(errors="replace")


_READERS: dict[str, Callable[[Any], _Named]] = {
    "pandas": _of_pandas,
    "polars": _of_polars,
    "pyarrow": _of_pyarrow,
}
