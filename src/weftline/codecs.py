"""Values as bytes and back: JSON, `.npy`, Arrow or pickle, whichever gives an equal value back.

Only drivers and children use this: engine and server hand encoded values on without reading them.
"""

import math
import pickle
import sys
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from io import BytesIO
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from weftline.code import Spool, context, dump_value, load_pickle
from weftline.core.values import (
    INLINE_LIMIT,
    Caught,
    Error,
    Field,
    Inline,
    ListOf,
    Object,
    Value,
    unpack,
)
from weftline.errors import NotPicklable, StorageError, WorkflowExecutionError, find_error
from weftline.ports import ObjectStore

_json_text = msgspec.json.Encoder().encode
_json_value = msgspec.json.Decoder().decode


class Encoded(NamedTuple):
    """A value in the form the journal keeps.

    `packed` is the text of a `core.values.Value`; `objects` names every object it takes to decode
    it; `preview` is for people, and None when the text itself shows the value.
    """

    packed: bytes
    objects: tuple[str, ...]
    preview: str | None


# -- values -------------------------------------------------------------------------------------

_PREVIEW_LENGTH = 200
_JSON_HEAD = b'["inline","json",'
_NULL = Encoded(b'["inline","json",null]', (), None)
_TRUE = Encoded(b'["inline","json",true]', (), None)
_FALSE = Encoded(b'["inline","json",false]', (), None)


def encode(value: Any, objects: ObjectStore, label: str = "result") -> Encoded:
    """`value` in the form the journal keeps; what is large goes to the store.

    Raises: NotPicklable, saying where inside `label` the trouble lies; StorageFull.
    """
    kind = type(value)
    if kind is int and -(2**63) <= value < 2**63:
        return Encoded(b'["inline","json",%d]' % value, (), None)
    if kind is bool:
        return _TRUE if value else _FALSE
    if value is None:
        return _NULL
    text = _json(value, kind)
    if text is not None and len(text) <= INLINE_LIMIT:
        return Encoded(b'["inline","json",%b]' % text, (), None)
    spool = Spool(objects)
    codec, definitions = _write(value, kind, text, spool, label)
    size = spool.size
    content = spool.finish()
    if isinstance(content, bytes):
        base64 = b2a_base64(content, newline=False)
        packed = b'["inline","%b","%b"]' % (codec.encode(), base64)
        return Encoded(packed, definitions, _preview(value, size))
    packed = b'["object","%b","%b",%d]' % (content.encode(), codec.encode(), size)
    return Encoded(packed, (content, *definitions), _preview(value, size))


def decode(packed: bytes, objects: ObjectStore) -> Any:
    """The value that `packed` writes out, made anew: changing it changes nobody else's.

    Raises: ObjectNotFound, ObjectDamaged, and whatever the value's own classes raise.
    """
    if packed.startswith(_JSON_HEAD):
        return _json_value(packed[len(_JSON_HEAD) : -1])
    return _decode(unpack(packed), objects)


def _decode(value: Value, objects: ObjectStore) -> Any:
    match value:
        case Inline("json", data):
            return _json_value(data)
        case Inline(codec, data):
            return _read(codec, bytearray(a2b_base64(bytes(data)[1:-1])), objects)
        case Object(name, codec, _):
            return _read(codec, objects.read(name), objects)
        case ListOf(values):
            return [_decode(each, objects) for each in values]
        case Caught(inner, None):
            return (None if inner is None else _decode(inner, objects)), None
        case Caught(_, Error() as error):
            return None, decode_error(error, objects) or _execution_error(error)
        case Field(inner, path):
            found = _decode(inner, objects)
            for key in path:
                found = found[key]
            return found


def _json(value: Any, kind: type) -> bytes | None:
    """The JSON text of a value that comes back from it equal and of the same type, else None."""
    if kind is str or (kind is float and math.isfinite(value)):
        pass
    elif (kind is not list and kind is not dict) or not _is_json((value,), set(), 100):
        return None
    try:
        return _json_text(value)
    except UnicodeEncodeError:  # a lone surrogate
        return None


def _is_json(items: Sequence[Any], seen: set[int], depth: int) -> bool:
    """Whether all items are exactly what JSON knows, and no container is there twice."""
    for kind in set(map(type, items)):
        if kind is str or kind is bool or kind is type(None):
            continue
        if kind is not int and kind is not float and kind is not list and kind is not dict:
            return False
        alike: list[Any] = [item for item in items if type(item) is kind]
        if kind is int:
            if min(alike) < -(2**63) or max(alike) >= 2**63:
                return False
        elif kind is float:
            if not all(map(math.isfinite, alike)):
                return False
        elif depth == 0:
            return False
        else:
            for inner in alike:
                if id(inner) in seen:
                    return False
                seen.add(id(inner))
                if kind is dict:
                    if inner and set(map(type, inner)) != {str}:
                        return False
                    inner = list(inner.values())
                if inner and not _is_json(inner, seen, depth - 1):
                    return False
    return True


def _write(
    value: Any, kind: type, text: bytes | None, spool: Spool, label: str
) -> tuple[str, tuple[str, ...]]:
    """Write the content of a value. Returns: its codec, and the definitions it refers to."""
    if text is not None:
        spool.write(text)
        return "json", ()
    module = kind.__module__  # whatever a class of a user says
    write = _WRITERS.get(module.partition(".")[0]) if type(module) is str else None
    if write is not None:
        codec = write(value, kind, spool)
        if codec is not None:
            return codec, ()
    return dump_value(value, spool, label)


def _read(codec: str, content: bytearray | memoryview, objects: ObjectStore) -> Any:
    """The value of some content that is the caller's own: the value may keep and change it."""
    read = _READERS.get(codec)
    if read is not None:
        return read(content)
    return load_pickle(codec, content, objects)


# -- arrays -------------------------------------------------------------------------------------

_CHUNK_ITEMS = 128 * 1024


def _write_array(array: Any, kind: type, spool: Spool) -> str | None:
    """Write an array as `.npy`, in the order in which it lies in memory; None: it must not be."""
    import numpy

    if kind is not numpy.ndarray or not _is_npy_type(array.dtype):
        return None
    header = BytesIO()
    try:
        fields = numpy.lib.format.header_data_from_array_1_0(array)
        numpy.lib.format.write_array_header_1_0(header, fields)
    except ValueError:
        return None
    spool.write(header.getvalue())
    flat = array.T if fields["fortran_order"] else array
    if array.size == 0:
        pass
    elif flat.flags.c_contiguous:
        spool.write(flat.reshape(-1).view(numpy.uint8).data)
    else:
        chunks = numpy.nditer(
            flat, ["external_loop", "buffered"], buffersize=_CHUNK_ITEMS, order="C"
        )
        for chunk in chunks:
            spool.write(numpy.asarray(chunk).tobytes())
    return "npy"


def _is_npy_type(dtype: Any) -> bool:
    import numpy

    # Equality of types looks at neither metadata nor alignment.
    if dtype.metadata is not None or dtype.hasobject or dtype.itemsize == 0:
        return False
    if dtype.isbuiltin == 1:
        return True
    if dtype.fields is not None or dtype.subdtype is not None:
        return False
    return dtype.kind in "biufcmMSUV" and numpy.dtype(dtype.str) == dtype


def _read_array(content: bytearray | memoryview) -> Any:
    import numpy

    # The magic is followed by the version and, in version 1.0, two bytes of header length.
    start = 10 + int.from_bytes(content[8:10], "little")
    dtype, shape, is_fortran = _array_header(bytes(content[:start]))
    if math.prod(shape) == 0:
        return numpy.empty(shape, dtype, order="F" if is_fortran else "C")
    flat = numpy.frombuffer(content, dtype, math.prod(shape), start)
    return flat.reshape(shape[::-1]).T if is_fortran else flat.reshape(shape)


@lru_cache(256)
def _array_header(header: bytes) -> tuple[Any, tuple[int, ...], bool]:
    import numpy

    stream = BytesIO(header)
    numpy.lib.format.read_magic(stream)
    shape, is_fortran, dtype = numpy.lib.format.read_array_header_1_0(stream)
    return dtype, shape, is_fortran


# -- tables -------------------------------------------------------------------------------------


def _write_arrow_table(table: Any, kind: type, spool: Spool) -> str | None:
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


def _read_arrow_table(content: bytearray | memoryview) -> Any:
    import pyarrow

    return pyarrow.ipc.open_stream(pyarrow.py_buffer(content)).read_all()


def _write_polars(frame: Any, kind: type, spool: Spool) -> str | None:
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


def _read_polars(content: bytearray | memoryview) -> Any:
    import polars

    return polars.read_ipc_stream(BytesIO(content))


def _write_pandas(frame: Any, kind: type, spool: Spool) -> str | None:
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


def _read_pandas(content: bytearray | memoryview) -> Any:
    import pandas

    table = _read_arrow_table(content)
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

# By the package that a value's class says it is of; nothing is imported for a value of another.
_WRITERS: Mapping[str, Callable[[Any, type, Spool], str | None]] = {
    "numpy": _write_array,
    "pandas": _write_pandas,
    "polars": _write_polars,
    "pyarrow": _write_arrow_table,
}
_READERS: Mapping[str, Callable[[bytearray | memoryview], Any]] = {
    "json": _json_value,
    "npy": _read_array,
    "arrow:pandas": _read_pandas,
    "arrow:polars": _read_polars,
    "arrow:pyarrow": _read_arrow_table,
}


# -- previews -----------------------------------------------------------------------------------


def _preview(value: Any, size: int) -> str:
    """A short text that tells a person what `value` is; whatever the value does, it never fails."""
    try:
        glance = _Glance(calls_repr=size <= INLINE_LIMIT)
        glance.show(value, 4)
        text = " ".join("".join(glance.parts)[: 2 * _PREVIEW_LENGTH].split())
    except Exception:
        text = type(value).__qualname__
    if len(text) > _PREVIEW_LENGTH:
        text = text[: _PREVIEW_LENGTH - 1] + "…"
    return text.encode("utf-8", "replace").decode()


class _Glance:
    """The beginning of a `repr` that looks at no more of a value than it shows."""

    def __init__(self, calls_repr: bool) -> None:
        self.parts: list[str] = []
        self._calls_repr = calls_repr
        self._room = _PREVIEW_LENGTH + 1

    def show(self, value: Any, depth: int) -> None:
        kind = type(value)
        if kind is str or kind is bytes or kind is bytearray:
            self._say(repr(value[: self._room]))
        elif kind in _SCALARS:
            self._say(repr(value))
        elif depth == 0 or self._room <= 0:
            self._say("...")
        elif kind in _BRACKETS:
            self._show_items(*_BRACKETS[kind], value, depth)
        elif isinstance(value, tuple) and hasattr(kind, "_fields"):
            self._show_fields(value, kind._fields, depth)
        elif hasattr(kind, "__dataclass_fields__"):
            names = [name for name, field in kind.__dataclass_fields__.items() if field.repr]
            self._show_fields(value, [name for name in names if hasattr(value, name)], depth)
        elif (summary := _summary(value, kind)) is not None:
            self._say(summary)
        elif isinstance(value, dict | list | tuple | set | frozenset):
            start, end = _BRACKETS[next(base for base in kind.__mro__ if base in _BRACKETS)]
            self._show_items(f"{kind.__qualname__}({start}", f"{end})", value, depth)
        elif self._calls_repr or isinstance(value, type):
            self._say(repr(value))
        else:  # its own `repr` might take for ever
            self._show_fields(value, list(getattr(value, "__dict__", ())), depth)

    def _say(self, text: str) -> None:
        self.parts.append(text)
        self._room -= len(text)

    def _show_items(self, start: str, end: str, items: Any, depth: int) -> None:
        if type(items) is set and not items:
            start, end = "set(", ")"
        self._say(start)
        comma = ""
        for item in items:
            if self._room <= 0:
                break
            self._say(comma)
            comma = ", "
            self.show(item, depth - 1)
            if isinstance(items, dict):
                self._say(": ")
                self.show(items[item], depth - 1)
        if type(items) is tuple and len(items) == 1:
            self._say(",")
        self._say(end)

    def _show_fields(self, value: Any, names: Iterable[str], depth: int) -> None:
        self._say(f"{type(value).__qualname__}(")
        comma = ""
        for name in names:
            if self._room <= 0:
                break
            self._say(f"{comma}{name}=")
            comma = ", "
            self.show(getattr(value, name), depth - 1)
        self._say(")")


_SCALARS = frozenset({int, float, bool, complex, type(None)})
_BRACKETS: dict[type, tuple[str, str]] = {
    dict: ("{", "}"),
    list: ("[", "]"),
    tuple: ("(", ")"),
    set: ("{", "}"),
    frozenset: ("frozenset({", "})"),
}


def _summary(value: Any, kind: type) -> str | None:
    """Type and shape of an array or a table, and None for anything else."""
    shape = getattr(value, "shape", None)
    if not isinstance(shape, tuple):
        return None
    sizes = "[" + ", ".join(map(str, shape)) + "]"
    if kind.__name__ in ("DataFrame", "Table"):
        schema = getattr(value, "schema", None)  # of pyarrow and polars
        if kind.__name__ == "Table" and schema is not None:
            columns = zip(schema.names, schema.types, strict=True)
        else:
            columns = zip(value.columns, value.dtypes, strict=True)
        shown = ", ".join(f"{name} {dtype}" for name, dtype in islice(columns, 20))
        return f"{kind.__name__} {sizes}: {shown}"
    dtype = getattr(value, "dtype", None)
    if dtype is None or (shape == () and kind.__name__ != "ndarray"):
        return None
    return f"{dtype} {sizes}"


# -- errors -------------------------------------------------------------------------------------

_TEXT_LENGTH = 16 * 1024
_TRACEBACK_LENGTH = 64 * 1024


def encode_error(
    error: BaseException, objects: ObjectStore, *, skip_frames_of: tuple[str, ...] = ()
) -> tuple[Error, tuple[str, ...]]:
    """What the journal keeps of an error, and the objects that it refers to.

    The exception itself goes along when it can be made again from its pickle. Frames of the files
    in `skip_frames_of` are left out of the traceback.
    """
    blob, names = _error_blob(error, objects)
    kind = type(error)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return (
        Error(
            type=_clean(f"{module}{kind.__qualname__}", _TEXT_LENGTH),
            text=_clean(_text(error), _TEXT_LENGTH),
            traceback=_clean(_traceback(error, skip_frames_of), _TRACEBACK_LENGTH),
            blob=blob,
        ),
        names,
    )


def decode_error(error: Error, objects: ObjectStore) -> BaseException | None:
    """The exception itself, or None when it was not kept or cannot be made here."""
    if error.blob is None:  # the engine pickles nothing: its errors are known by their names
        kind = find_error(error.type)
        return None if kind is None else kind(error.text)
    try:
        found = _decode(error.blob, objects)
    except Exception:
        return None
    return found if isinstance(found, BaseException) else None


def _execution_error(error: Error) -> WorkflowExecutionError:
    return WorkflowExecutionError(
        f"{error.type}: {error.text}",
        error_type=error.type,
        error_text=error.text,
        traceback=error.traceback,
    )


def _error_blob(
    error: BaseException, objects: ObjectStore
) -> tuple[Inline | Object | None, tuple[str, ...]]:
    if not isinstance(error, Exception):
        return None, ()
    for form in (error, _Noted(error)):
        spool = Spool(objects)
        try:
            codec, definitions = dump_value(form, spool, "error")
            size, content = spool.size, spool.finish()
            blob: Inline | Object
            if isinstance(content, bytes):
                base64 = b2a_base64(content, newline=False)
                blob, names = Inline(codec, msgspec.Raw(b'"%b"' % base64)), definitions
            else:
                blob, names = Object(content, codec, size), (content, *definitions)
            if _is_same_error(_decode(blob, objects), error):
                return blob, names
        except StorageError:
            raise
        except Exception:
            break  # it cannot be pickled, or not be made again
    return None, ()


def _is_same_error(again: Any, error: BaseException) -> bool:
    return (
        type(again) is type(error)
        and str(again) == str(error)
        and list(map(type, again.args)) == list(map(type, error.args))
        and getattr(again, "__notes__", None) == getattr(error, "__notes__", None)
    )


class _Noted:
    """Pickles an exception whose own way of being pickled forgets its notes."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return add_notes, (self._error, getattr(self._error, "__notes__", []))


def add_notes(error: BaseException, notes: list[str]) -> BaseException:
    """The exception with notes. Written into pickles."""
    error.__notes__ = notes
    return error


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return f"<{type(error).__qualname__} whose str() fails>"


def _traceback(error: BaseException, skipped: tuple[str, ...]) -> str:
    from traceback import TracebackException

    try:
        whole = TracebackException.from_exception(error, compact=True)
        waiting = [whole]
        while waiting:
            one = waiting.pop()
            one.stack[:] = [frame for frame in one.stack if frame.filename not in skipped]
            waiting.extend(one.exceptions or ())
            waiting.extend(each for each in (one.__cause__, one.__context__) if each is not None)
        return "".join(whole.format())
    except Exception as trouble:  # `str` of the error, or of another in its chain, may fail
        return f"(the traceback cannot be shown: {type(trouble).__qualname__})"


def _clean(text: str, length: int) -> str:
    """`text` as JSON can hold it, without its middle when it is too long."""
    text = text.encode("utf-8", "backslashreplace").decode()
    if len(text) <= length:
        return text
    half = length // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"


# -- arguments ----------------------------------------------------------------------------------


class Captured(NamedTuple):
    """The arguments of one call, pickled with numbered holes.

    Small ones are a stream of codec `pickle`; large ones an object, whose codec is `pickle5` when
    large buffers lie beside the pickle. `plain`: equal arguments always give equal bytes.
    """

    arguments: bytes | Object
    plain: bool
    objects: tuple[str, ...]


class Capture:
    """What was found instead of a value while the arguments of one call are pickled."""

    __slots__ = ("_keys", "_numbers", "found")

    def __init__(self) -> None:
        self.found: list[object] = []
        self._numbers: dict[int, int] = {}
        self._keys: list[object] = []  # kept, so that no `id` is used twice

    def hole_of(self, thing: object, key: object) -> tuple[Any, ...]:
        """What `__reduce_ex__` of a composition returns; the same `key` gets the same hole."""
        number = self._numbers.get(id(key))
        if number is None:
            number = self._numbers[id(key)] = len(self.found)
            self.found.append(thing)
            self._keys.append(key)
        return hole, (number,)


def current_capture() -> Capture | None:
    """The capture that this thread is pickling arguments for, if any."""
    capture: Capture | None = context.capture
    return capture


def hole(n: int) -> Any:
    """The value for hole `n` of the arguments being loaded. Written into pickles."""
    return context.values[n]


def capture_arguments(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    objects: ObjectStore,
    is_composition: Callable[[object], bool],
    label: str = "step",
) -> tuple[Captured, list[object]]:
    """The arguments of one call with its compositions taken out.

    A list of nothing but compositions, given as an argument itself, is one hole, unless one of
    them is given elsewhere, too: then it has to arrive there as the same object.

    Returns: the arguments, and per hole a composition or a list of compositions.
    Raises: NotPicklable, naming the argument and the step, which is called `label`.
    """
    if not kwargs and _ONE_WAY.issuperset(map(type, args)):
        content = pickle.dumps((args, kwargs), 5)
        return Captured(content, True, ()), []
    captured, found = _capture(args, kwargs, objects, is_composition, label, has_fan_ins=True)
    if _is_any_shared(found):
        return _capture(args, kwargs, objects, is_composition, label, has_fan_ins=False)
    return captured, found


def _is_any_shared(found: list[object]) -> bool:
    """Whether a composition in one of the lists is found once more."""
    lists = [entry for entry in found if type(entry) is list]
    if not lists:
        return False
    everything = [entry for entry in found if type(entry) is not list]
    for one in lists:
        everything += one
    return len(set(map(id, everything))) < len(everything)


def _capture(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    objects: ObjectStore,
    is_composition: Callable[[object], bool],
    label: str,
    *,
    has_fan_ins: bool,
) -> tuple[Captured, list[object]]:
    capture = Capture()
    fan_ins: dict[int, _FanIn] = {}
    simple = _Simple(is_composition)
    is_plain = True

    def taken(argument: Any) -> Any:
        nonlocal is_plain
        is_list = has_fan_ins and type(argument) is list and argument
        if is_list and all(map(is_composition, argument)):
            return fan_ins.setdefault(id(argument), _FanIn(argument))
        is_plain = is_plain and simple.holds((argument,), 5)
        return argument

    args = tuple([taken(argument) for argument in args])
    kwargs = {name: taken(argument) for name, argument in kwargs.items()}
    before = context.capture
    context.capture = capture
    try:
        if is_plain:
            stream = BytesIO()
            pickler = pickle.Pickler(stream, 5)
            # Without a memo: whether two equal strings are one object must not change the bytes.
            pickler.fast = True
            pickler.dump((args, kwargs))
            content = stream.getvalue()
            if len(content) <= INLINE_LIMIT:
                return Captured(content, True, ()), capture.found
            name = objects.put(content)
            return Captured(Object(name, "pickle", len(content)), True, (name,)), capture.found
        spool = Spool(objects)
        try:
            codec, definitions = dump_value((args, kwargs), spool, "arguments")
        except NotPicklable:
            _raise_for_argument(args, kwargs, objects, label)
            raise
    finally:
        context.capture = before
    size = spool.size
    stored = spool.finish()
    if isinstance(stored, bytes):
        return Captured(stored, False, definitions), capture.found
    return Captured(Object(stored, codec, size), False, (stored, *definitions)), capture.found


def load_arguments(
    arguments: bytes | Object, values: Sequence[Any], objects: ObjectStore
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call, with `values[n]` itself wherever hole n is."""
    before = context.values
    context.values = values
    try:
        if isinstance(arguments, Object):
            content = objects.read(arguments.hash)
            args, kwargs = load_pickle(arguments.codec, content, objects)
        else:
            args, kwargs = load_pickle("pickle", arguments, objects)
    finally:
        context.values = before
    return args, kwargs


_ONE_WAY = frozenset({int, float, bool, type(None)})  # kinds whose pickle has but one form
_PLAIN = _ONE_WAY | {str, bytes}


class _FanIn:
    """Stands for a list of compositions while arguments are pickled."""

    __slots__ = ("_compositions",)

    def __init__(self, compositions: list[object]) -> None:
        self._compositions = compositions

    def __reduce__(self) -> tuple[Any, ...]:
        capture: Capture = context.capture
        return capture.hole_of(self._compositions, self._compositions)


class _Simple:
    """Whether arguments are few and of kinds that pickle to equal bytes when they are equal."""

    def __init__(self, is_composition: Callable[[object], bool]) -> None:
        self._is_composition = is_composition
        self._seen: set[int] = set()
        self._left = 1_000

    def holds(self, items: Iterable[Any], depth: int) -> bool:
        for item in items:
            kind = type(item)
            self._left -= 1
            if kind in _PLAIN or self._is_composition(item):
                continue
            if depth == 0 or self._left < 0 or kind not in (tuple, list, dict):
                return False
            if kind is not tuple:
                if id(item) in self._seen:  # one object in two places must stay one
                    return False
                self._seen.add(id(item))
            if kind is dict:
                if not self.holds(item, depth - 1):
                    return False
                item = item.values()
            if not self.holds(item, depth - 1):
                return False
        return True


def _raise_for_argument(
    args: tuple[Any, ...], kwargs: dict[str, Any], objects: ObjectStore, label: str
) -> None:
    numbered = ((str(index + 1), argument) for index, argument in enumerate(args))
    named = ((repr(name), argument) for name, argument in kwargs.items())
    for which, argument in (*numbered, *named):
        spool = Spool(objects)
        dump_value(argument, spool, f"argument {which} of step {label!r}")
        spool.clear()
