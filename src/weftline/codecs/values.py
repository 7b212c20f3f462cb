"""Any value as what the journal keeps of it, and back."""

import math
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from weftline.code.loads import load_pickle
from weftline.code.spool import Spool
from weftline.codecs.arrays import read_array, write_array
from weftline.codecs.exceptions import decode_error, execution_error
from weftline.codecs.pickles import write_pickle
from weftline.codecs.pictures import picture_of
from weftline.codecs.previews import preview
from weftline.codecs.rebuild import ObjectRef, StepRef
from weftline.codecs.tables import (
    read_arrow_table,
    read_pandas,
    read_polars,
    write_arrow_table,
    write_pandas,
    write_polars,
)
from weftline.core.values import (
    INLINE_LIMIT,
    Caught,
    Error,
    Field,
    Inline,
    ListOf,
    Object,
    Split,
    Value,
    pack,
    unpack,
)
from weftline.errors import StorageError
from weftline.ports.objects import ObjectStore


class Encoded(NamedTuple):
    """A value in the form the journal keeps.

    `packed` is the text of a `core.values.Value`; `objects` names every object it takes to decode
    it; `preview` is for people, and None when the text itself shows the value. `is_volatile`: an
    object was written that a crash of the machine may take away. `picture` is the one of `objects`
    that shows the value, a PNG (or a JPEG, where the value is one).
    """

    packed: bytes
    objects: tuple[str, ...]
    preview: str | None
    is_volatile: bool = False
    picture: str | None = None


_json_text = msgspec.json.Encoder().encode
_json_value = msgspec.json.Decoder().decode

_JSON_HEAD = b'["inline","json",'
_NULL = Encoded(b'["inline","json",null]', (), None)
_TRUE = Encoded(b'["inline","json",true]', (), None)
_FALSE = Encoded(b'["inline","json",false]', (), None)


def encode(
    value: Any, objects: ObjectStore, label: str = "result", *, durable: bool = True
) -> Encoded:
    """`value` in the form the journal keeps; what is large goes to the store.

    A reference that is the value itself counts as what it refers to. Without `durable` an object
    need not survive a crash of the machine; the definitions of classes always do.
    Raises: NotPicklable, saying where inside `label` the trouble lies; StorageFull.
    """
    kind = type(value)
    if kind is int and -(2**63) <= value < 2**63:
        return Encoded(b'["inline","json",%d]' % value, (), None)
    if kind is bool:
        return _TRUE if value else _FALSE
    if value is None:
        return _NULL
    if kind is ObjectRef:
        return Encoded(value.packed, value.objects, None)
    text = _json(value, kind)
    if text is not None and len(text) <= INLINE_LIMIT:
        return Encoded(b'["inline","json",%b]' % text, (), None)
    spool = Spool(objects, durable=durable)
    codec, held = _write(value, kind, text, spool, label)
    size = spool.size
    content = spool.finish()
    is_object = isinstance(content, str)
    if isinstance(content, bytes):
        base64 = b2a_base64(content, newline=False)
        packed = b'["inline","%b","%b"]' % (codec.encode(), base64)
    else:
        packed = b'["object","%b","%b",%d]' % (content.encode(), codec.encode(), size)
        held = (content, *held)
    picture = None if text is not None else _store_picture(value, objects, durable)
    if picture is not None and picture not in held:
        held += (picture,)
    return Encoded(packed, held, preview(value, size), is_object and not durable, picture)


def _store_picture(value: Any, objects: ObjectStore, durable: bool) -> str | None:
    picture = picture_of(value)
    if picture is None:
        return None
    try:
        return objects.put(picture, durable=durable)
    except StorageError:  # the value itself is stored
        return None


def encode_object(value: Any, objects: ObjectStore, label: str) -> tuple[bytes, tuple[str, ...]]:
    """`value` as an object in the store, however small. Returns: its text, and what it takes.

    Raises: as `encode`.
    """
    kind = type(value)
    is_scalar = kind is bool or value is None or (kind is int and -(2**63) <= value < 2**63)
    text = _json_text(value) if is_scalar else _json(value, kind)
    spool = Spool(objects, limit=-1)
    codec, held = _write(value, kind, text, spool, label)
    size, name = spool.size, spool.finish()
    assert isinstance(name, str)
    return pack(Object(name, codec, size)), (name, *held)


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
            return None, decode_error(error, objects) or execution_error(error)
        case Field(inner, path):
            found = _decode(inner, objects)
            for key in path:
                found = found[key]
            return found
        case Split(ready, run_id, left):
            values = [_decode(each, objects) for each in ready]
            return values, [StepRef(run_id, number) for number in left]


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
    """Write the content of a value. Returns: its codec, and the objects it refers to."""
    if text is not None:
        spool.write(text)
        return "json", ()
    module = kind.__module__  # whatever a class of a user says
    write = _WRITERS.get(module.partition(".")[0]) if type(module) is str else None
    if write is not None:
        codec = write(value, kind, spool)
        if codec is not None:
            return codec, ()
    return write_pickle(value, spool, label)


def _read(codec: str, content: bytearray | memoryview, objects: ObjectStore) -> Any:
    """The value of some content that is the caller's own: the value may keep and change it."""
    read = _READERS.get(codec)
    if read is not None:
        return read(content)
    return load_pickle(codec, content, objects)


# By the package that a value's class says it is of; nothing is imported for a value of another.
_WRITERS: Mapping[str, Callable[[Any, type, Spool], str | None]] = {
    "numpy": write_array,
    "pandas": write_pandas,
    "polars": write_polars,
    "pyarrow": write_arrow_table,
}
_READERS: Mapping[str, Callable[[bytearray | memoryview], Any]] = {
    "json": _json_value,
    "npy": read_array,
    "arrow:pandas": read_pandas,
    "arrow:polars": read_polars,
    "arrow:pyarrow": read_arrow_table,
}
