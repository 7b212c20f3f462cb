"""Where code comes from, and so how it travels: by value, or by reference."""

import os
import sys
import types
from typing import Any

_MAIN = ("__main__", "__mp_main__")
_PACKAGES = {"site-packages", "dist-packages"}
_STANDARD_LIBRARY = os.path.join(os.path.dirname(os.path.realpath(os.__file__)), "")
_origins: dict[str, tuple[int, bool]] = {}


def travels_by_value(module_name: str) -> bool:
    """Whether the code of this module is stored itself rather than its name."""
    module = sys.modules.get(module_name)
    known = _origins.get(module_name)
    if known is not None and known[0] == id(module):
        return known[1]
    verdict = _is_user_module(module_name, module)
    _origins[module_name] = (id(module), verdict)
    return verdict


def _is_user_module(name: str, module: types.ModuleType | None) -> bool:
    if name in _MAIN:
        return True
    top = name.partition(".")[0]
    if top in ("weftline", "cloudpickle"):
        return False
    if module is None:  # made on the fly, or its code came by value into this process
        if top != name and top in sys.modules:
            return travels_by_value(top)
        return top not in sys.stdlib_module_names
    path = getattr(module, "__file__", None)
    if path is None:
        folders = list(getattr(module, "__path__", ()))  # a namespace package
        if not folders:
            origin = getattr(getattr(module, "__spec__", None), "origin", None)
            return origin not in ("built-in", "frozen")
        path = os.path.join(folders[0], "")
    within = path.replace("\\", "/").split("/")[1:-1]
    if path.endswith((".so", ".pyd")) or not _PACKAGES.isdisjoint(within):
        return False
    return not os.path.realpath(path).startswith(_STANDARD_LIBRARY)


def find_by_name(module_name: str, qualname: str) -> Any:
    """What a loaded module has under this name; None when there is nothing."""
    thing: Any = sys.modules.get(module_name)
    for part in qualname.split("."):
        thing = getattr(thing, part, None)
    return thing


def is_installed(thing: Any) -> bool:
    """Whether a function or class belongs to an installed package and is found there by name."""
    module_name = getattr(thing, "__module__", None)
    if not isinstance(module_name, str):
        return False
    if travels_by_value(module_name):
        return False
    return find_by_name(module_name, thing.__qualname__) is thing


def is_never_by_value(thing: Any) -> bool:
    """Whether nothing of this thing is stored but its name, or it is no code at all."""
    if isinstance(thing, types.ModuleType):
        return not travels_by_value(thing.__name__)
    if isinstance(thing, types.FunctionType | type):
        return is_installed(thing)
    return True


def is_wrapper(found: Any, thing: Any) -> bool:
    """Whether `found` is what a decorator, like `workflow.step`, made of the function `thing`."""
    return isinstance(thing, types.FunctionType) and getattr(found, "__wrapped__", None) is thing


def is_importable(thing: Any) -> bool:
    """Whether another process can get this function, class or module by importing it."""
    if isinstance(thing, types.ModuleType):
        name = thing.__name__
        found: Any = sys.modules.get(name)
    else:
        name = getattr(thing, "__module__", None) or ""
        found = find_by_name(name, getattr(thing, "__qualname__", ""))
    if (found is not thing and not is_wrapper(found, thing)) or name in _MAIN:
        return False
    return getattr(sys.modules.get(name), "__spec__", None) is not None
