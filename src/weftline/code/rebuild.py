"""What stored pickles call to make things again.

Pickles name these functions by module and name, and are kept for as long as their home: whatever
is here must keep its name, its place and its arguments for ever.
"""

import sys
import types
from collections.abc import Callable
from functools import cached_property, lru_cache
from importlib import import_module
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary

import msgspec

from weftline.code.loads import building, context, load_pickle
from weftline.code.origin import find_by_name
from weftline.code.pickles import cloudpickle
from weftline.errors import NotPicklable, OtherPython
from weftline.version import PYTHON

known_definitions: WeakKeyDictionary[type, tuple[str, bytes]] = WeakKeyDictionary()
"""The name and content of the object that defines a class."""

known_classes: WeakValueDictionary[str, type] = WeakValueDictionary()
"""The class that the object of this name defines."""

_unfilled: WeakSet[type] = WeakSet()


def import_wrapped(module_name: str, qualname: str) -> Any:
    """The function inside a decorated one, which is what its module has under its name."""
    import_module(module_name)
    return find_by_name(module_name, qualname).__wrapped__


def restore_class(module: str, qualname: str, name: str) -> type:
    """The class of a value: this process's own, else the one that the object `name` defines."""
    cls = _own_class(module, qualname) or known_classes.get(name)
    if cls is None:
        objects = context.objects
        if objects is None:
            raise NotPicklable(f"class {module}.{qualname} is stored; read it with its store")
        with building:
            content = bytes(objects.read(name))
            cls = load_pickle("pickle", content, objects)
            assert isinstance(cls, type)
            known_classes[name] = cls
            known_definitions.setdefault(cls, (name, content))
    return cls


def build_code(version: str, *arguments: Any) -> types.CodeType:
    """The code of a function, which only the Python that compiled it can run."""
    if version != PYTHON:
        raise OtherPython(
            f"this code was recorded by Python {version}, and Python {PYTHON} cannot run it: use a"
            f" Python {version} that has Weftline"
        )
    return types.CodeType(*arguments)


def build_class(module: str, qualname: str, make: Callable[..., type], arguments: Any) -> type:
    """The class of this name that the process has, else an empty one for `fill_class` to fill."""
    # The identifier is what makes two definitions of one class the same class.
    tracker_id = arguments[-2]
    known = _own_class(module, qualname)
    if known is None:
        known = cloudpickle()._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker_id)
    if known is not None:
        return known
    cls = make(*arguments)
    cls.__qualname__ = qualname
    _unfilled.add(cls)
    return cls


def fill_class(cls: type, state: Any) -> None:
    """Give a class its attributes, unless it has them already."""
    if cls in _unfilled:
        cloudpickle()._class_setstate(cls, state)
        _unfilled.discard(cls)


def build_struct(
    metaclass: Any,
    name: str,
    bases: Any,
    namespace: dict[str, Any],
    fields: dict[str, dict[str, Any]],
    options: dict[str, Any],
    tracker_id: str,
    extra: None,
) -> type:
    """A msgspec Struct with its fields; `build_class` calls this, and `fill_class` does the rest.

    The last two arguments are as in cloudpickle's own functions that make classes.
    """
    for field, settings in fields.items():
        namespace[field] = msgspec.field(**settings)
    if namespace.pop("__post_init__", False):
        # Looked up once, when the class is made; the real one comes later.
        namespace["__post_init__"] = lambda self: type(self).__post_init__(self)
    cls = metaclass(name, bases, namespace, **options)
    found: type = cloudpickle()._lookup_class_or_track(tracker_id, cls)
    return found


def build_typevar(module: str, name: str, arguments: Any) -> Any:
    """The type variable of this name that the process has, else a new one."""
    own = find_by_name(module, name)
    return own if type(own) is TypeVar else cloudpickle()._make_typevar(*arguments)


def build_cached_property(function: Callable[..., Any], name: str | None) -> Any:
    """A `cached_property` (Python 3.11's has a lock in it)."""
    made = cached_property(function)
    if name is not None:
        made.attrname = name
    return made


def build_lru_cache(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    """A function that keeps its results; none yet."""
    return lru_cache(**parameters)(function)


def build_module(name: str) -> types.ModuleType:
    """An empty module, to be filled by `fill_module`."""
    return types.ModuleType(name)


def fill_module(module: types.ModuleType, state: dict[str, Any]) -> None:
    """Give a module its content."""
    module.__dict__.update(state)
    module.__dict__["__builtins__"] = __builtins__


def build_error(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """An exception with these `args`, made without its own `__init__`."""
    error = kind.__new__(kind, *args)
    # What an exception of Python's own keeps beside `args`, its own `__init__` sets.
    inits = (vars(cls).get("__init__") for cls in kind.__mro__)
    init = next(init for init in inits if init and not isinstance(init, types.FunctionType))
    init(error, *args)
    return error


def _own_class(module: str, qualname: str) -> type | None:
    if "<locals>" in qualname:
        return None
    if module == "__main__":
        # A process that Weftline starts has a `__main__` that is none of the user's.
        spec = getattr(sys.modules.get(module), "__spec__", None)
        if spec is not None and spec.name.startswith("weftline"):
            return None
    found = find_by_name(module, qualname)
    return found if isinstance(found, type) else None
