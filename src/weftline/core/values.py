"""What flows between steps: a small value itself, or a reference to a large one.

A value is written as one JSON text (`Packed`), made where the value was made and handed on as it
is: engine, journal and server pass the text along and read at most what is `json` inside it.
"""

import msgspec
from msgspec import Raw, Struct

INLINE_LIMIT = 32 * 1024
"""Bytes of encoded content up to which a value lives in the journal itself."""

Packed = bytes
"""The JSON text of a `Value`."""


class Inline(Struct, frozen=True, array_like=True, tag="inline"):
    """A small value. `data` is the JSON value for codec `json`, else a JSON string of base64."""

    codec: str
    data: Raw


class Object(Struct, frozen=True, array_like=True, tag="object"):
    """A large value in the object store, named by the SHA-256 of its content."""

    hash: str
    codec: str
    size: int


class ListOf(Struct, frozen=True, array_like=True, tag="list"):
    """A list made of values that exist already; costs nothing until a reader builds it."""

    values: list["Value"]


class Error(Struct, frozen=True, omit_defaults=True):
    """Why an attempt failed. Only drivers and steps open `blob`, the pickled exception."""

    type: str
    text: str
    traceback: str = ""
    blob: "Inline | Object | None" = None


class Caught(Struct, frozen=True, array_like=True, tag="caught"):
    """The pair of `catch_exceptions`: (value, None) or (None, exception)."""

    value: "Value | None"
    error: Error | None


class Field(Struct, frozen=True, array_like=True, tag="field"):
    """A part of a value, found by keys and indexes one after the other."""

    value: "Value"
    path: list[str | int]


class Split(Struct, frozen=True, array_like=True, tag="split"):
    """What a wait for steps came to: values of those that had ended, and the numbers of the
    others in their run, as an `OuterInput` has them."""

    ready: list["Value"]
    run_id: str
    left: list[int]


Value = Inline | Object | ListOf | Caught | Field | Split

_decoder: msgspec.json.Decoder[Value] = msgspec.json.Decoder(Value)
_error_encoder = msgspec.json.Encoder()


def unpack(packed: Packed) -> Value:
    """The value that `packed` writes out. Raises: msgspec.DecodeError when it is none."""
    return _decoder.decode(packed)


def pack(value: Value) -> Packed:
    """The JSON text of `value`; the inverse of `unpack`."""
    return msgspec.json.encode(value)


def objects_of(packed: Packed) -> set[str]:
    """Names of the objects that the value itself names."""
    found: set[str] = set()
    waiting: list[Value | None] = [unpack(packed)]
    while waiting:
        match waiting.pop():
            case Object(hash=name):
                found.add(name)
            case ListOf(values=values) | Split(ready=values):
                waiting += values
            case Caught(value=value, error=error):
                waiting += [value, None if error is None else error.blob]
            case Field(value=value):
                waiting.append(value)
            case _:
                pass
    return found


def pack_inline(codec: str, data: bytes) -> Packed:
    """The text of an `Inline` whose `data` is JSON text already."""
    return b'["inline","%b",%b]' % (codec.encode(), data)


NOTHING: Packed = pack_inline("json", b"null")
"""What a step gets where there is no value."""


def pack_list(values: list[Packed]) -> Packed:
    """The text of a `ListOf`, made by joining texts: no value is read."""
    return b'["list",[' + b",".join(values) + b"]]"


def pack_split(ready: list[Packed], run_id: str, left: list[int]) -> Packed:
    """The text of a `Split`."""
    rest = msgspec.json.encode((run_id, left))
    return b'["split",[' + b",".join(ready) + b"]," + rest[1:]


def pack_caught(value: Packed | None, error: Error | None) -> Packed:
    """The text of a `Caught`."""
    text = b"null" if error is None else _error_encoder.encode(error)
    return b'["caught",%b,%b]' % (b"null" if value is None else value, text)
