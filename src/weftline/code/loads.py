"""What stored pickles hold: values and functions, as they are read back.

Reading needs little of this folder, so that children, which often only read, start the faster.
"""

import pickle
import threading
import types
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from weftline.code.pickles import read_buffers
from weftline.core.values import Object
from weftline.errors import NewerHome
from weftline.ports.objects import ObjectStore


class _Context(threading.local):
    objects: ObjectStore | None = None
    values: Any = ()
    capture: Any = None
    held: dict[str, None] | None = None


context = _Context()
"""What the pickle that this thread reads or writes may refer to."""


def load_pickle(codec: str, content: bytes | bytearray | memoryview, objects: ObjectStore) -> Any:
    """The value of codec `pickle` or `pickle5`; large buffers stay where `content` is."""
    buffers: list[memoryview] | None = None
    if codec == "pickle5":
        content, buffers = read_buffers(memoryview(content))
    elif codec != "pickle":
        raise NewerHome(f"this Weftline does not know the codec {codec!r}; upgrade it")
    before = context.objects
    context.objects = objects
    try:
        return pickle.loads(content, buffers=buffers)
    finally:
        context.objects = before


building = threading.RLock()
"""Held while a class may exist half-built, so that no other thread finds it in that state."""

_LOADED_FUNCTIONS = 512
_loaded: OrderedDict[str, Any] = OrderedDict()


def load_function(value: Object, objects: ObjectStore) -> Callable[..., Any]:
    """The function that `dump_function` stored; plain functions and classes are kept by hash."""
    with building:
        function: Callable[..., Any] | None = _loaded.get(value.hash)
        if function is not None:
            _loaded.move_to_end(value.hash)
            return function
        function = load_pickle(value.codec, objects.read(value.hash), objects)
        # Anything else may have a state of its own, which no other attempt should see.
        if isinstance(function, types.FunctionType | types.BuiltinFunctionType | type):
            _loaded[value.hash] = function
            if len(_loaded) > _LOADED_FUNCTIONS:
                _loaded.popitem(last=False)
    return function
