"""What code captures: the globals, closures, defaults and attributes that it needs beside it."""

import types
from collections.abc import Iterator
from functools import cached_property, lru_cache
from typing import Any

from weftline.code.pickles import cloudpickle

MISSING = object()
"""Stands for what a name has no value for."""

LRU_CACHE = type(lru_cache(len))


def captured(thing: Any) -> Iterator[tuple[str, Any, Any]]:
    """What a function, class or module needs beside its own code: (kind, key, value)."""
    if isinstance(thing, types.FunctionType):
        code, namespace = thing.__code__, thing.__globals__
        for name in cloudpickle()._extract_code_globals(code):
            yield "global", name, namespace.get(name, MISSING)
        for index, name in enumerate(code.co_freevars):
            yield "closure variable", name, _cell_content(thing, index)
        positional = code.co_varnames[: code.co_argcount]
        defaults = thing.__defaults__ or ()
        if defaults:
            for name, value in zip(positional[-len(defaults) :], defaults, strict=True):
                yield "default", name, value
        for name, value in (thing.__kwdefaults__ or {}).items():
            yield "default", name, value
        for name, value in vars(thing).items():
            yield "attribute", name, value
    elif isinstance(thing, type):
        for base in thing.__bases__:
            yield "base", base.__name__, base
        for name, value in vars(thing).items():
            if not isinstance(value, types.GetSetDescriptorType | types.MemberDescriptorType):
                yield "attribute", name, value
    elif isinstance(thing, types.ModuleType):
        for name, value in module_state(thing).items():
            yield "global", name, value


def _cell_content(function: types.FunctionType, index: int) -> Any:
    try:
        return (function.__closure__ or ())[index].cell_contents
    except ValueError:  # not assigned yet
        return MISSING


def module_state(module: types.ModuleType) -> dict[str, Any]:
    """What a module holds, without what the import put there."""
    left_out = ("__builtins__", "__loader__", "__spec__", "__cached__")
    return {name: value for name, value in vars(module).items() if name not in left_out}


def code_within(value: Any) -> list[Any] | None:
    """The functions, classes and modules that a captured value is made of; None for data."""
    kind = type(value)  # not `isinstance`, which asks a proxy for what it stands for
    if issubclass(kind, types.FunctionType | type | types.ModuleType):
        return [value]
    if issubclass(kind, classmethod | staticmethod):
        return [value.__func__]
    if issubclass(kind, property):
        return [part for part in (value.fget, value.fset, value.fdel) if part is not None]
    if issubclass(kind, cached_property):
        return [value.func]
    if issubclass(kind, LRU_CACHE):
        return [value.__wrapped__]
    wrapped = _wrapped(value)
    return None if wrapped is None else [wrapped]


def _wrapped(value: Any) -> Any:
    """The function inside a step or another wrapper of Weftline's own, which never changes."""
    module = getattr(type(value), "__module__", None)
    if isinstance(module, str) and module.startswith("weftline."):
        return getattr(value, "__wrapped__", None)
    return None


CONSTANT_KINDS = frozenset({type(None), bool, int, float, complex, str, bytes, type(...)})


def is_constant(value: Any) -> bool:
    """Whether a captured value is data that can neither change nor fail to be pickled."""
    kind = type(value)
    if kind is tuple or kind is frozenset:
        return all(map(is_constant, value))
    return kind in CONSTANT_KINDS or value is MISSING


def attributes(value: Any) -> dict[str, Any]:
    """What an instance keeps, in slots and in its `__dict__`."""
    found: dict[str, Any] = {}
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            item = getattr(value, name, MISSING)
            if item is not MISSING and name not in ("__dict__", "__weakref__"):
                found[name] = item
    own = getattr(value, "__dict__", None)
    if isinstance(own, dict):
        found |= own
    return found
