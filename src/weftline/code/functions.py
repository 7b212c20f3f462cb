"""Functions on their way to the store: dumped once as long as nothing they need has changed."""

import types
from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from weftline.code.dumps import dump_by_value
from weftline.code.fingerprint import fingerprint
from weftline.code.spool import Spool, is_fresh, note_stored
from weftline.code.watch import Watch
from weftline.core.values import Object
from weftline.ports.objects import ObjectStore


class FunctionCode(NamedTuple):
    """A stored function. `fingerprint` is equal in every process as long as the source is;
    `objects` are those that references in the function refer to."""

    value: Object
    fingerprint: str
    warning: str | None
    objects: tuple[str, ...] = ()


_dumped: WeakKeyDictionary[Any, tuple[FunctionCode, Watch]] = WeakKeyDictionary()


def dump_function(function: Callable[..., Any], objects: ObjectStore) -> FunctionCode:
    """`function` as an object in the store; cheap as long as nothing it captured has changed.

    Partials, bound methods, classes and callable objects work too, but only plain functions are
    remembered.

    Raises: NotPicklable, naming the function and what it captured.
    """
    known = _dumped.get(function) if isinstance(function, types.FunctionType) else None
    if known is not None:
        code, watch = known
        if watch.is_unchanged() and is_fresh(code.value.hash, objects):
            return code
    spool = Spool(objects)
    by_value = dump_by_value(function, spool)
    size = spool.size
    content = spool.finish()
    name = content if isinstance(content, str) else objects.put(content)
    note_stored(name, objects)
    value = Object(name, by_value.codec, size)
    code = FunctionCode(value, fingerprint(function), by_value.warning, by_value.objects)
    if isinstance(function, types.FunctionType):
        _dumped[function] = code, Watch(function, by_value.by_reference)
    return code
