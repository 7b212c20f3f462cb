"""What stands in the way of pickling a thing, and how people are told."""

import pickle
import types
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from msgspec import Struct

from weftline.code.captures import attributes, captured, code_within, is_constant
from weftline.code.definitions import DefinitionPickler
from weftline.code.origin import find_by_name, is_importable, is_never_by_value
from weftline.errors import NotPicklable


class Obstacle(Struct, frozen=True, kw_only=True):
    """Something captured that cannot be pickled, and what could go by reference instead."""

    owner: Any
    kind: str
    key: str
    error: Exception
    way_out: Any

    def message(self, top: Any) -> str:
        whose = "its" if self.owner is top else f"{name_of(self.owner)} needs the"
        return (
            f"{name_of(top)} cannot be stored: {whose} {self.kind} {self.key!r} cannot be pickled "
            f"({_reason(self.error)}); make it where it is used, or move the function to a module "
            "that can be imported"
        )

    def warning(self) -> str:
        what = with_its_class(self.way_out)[-1]
        module = getattr(what, "__module__", None)
        where = "" if module is None else f" of module {module!r}"
        return (
            f"{name_of(what)}{where} goes by reference, since the {self.kind} {self.key!r} "
            f"cannot be pickled ({_reason(self.error)}): a resume runs the module as it is then"
        )


def find_obstacles(top: Any, by_reference: frozenset[int]) -> Iterator[Obstacle]:
    """Each thing captured by code that cannot be pickled, found by trying them one by one."""
    waiting: list[tuple[Any, tuple[Any, ...]]] = []
    if isinstance(top, partial):
        waiting.append((top.func, ()))
    elif isinstance(top, types.MethodType):
        waiting.append((top.__func__, ()))
    else:
        waiting.extend((part, ()) for part in code_within(top) or ())
    seen = set(by_reference)
    while waiting:
        owner, above = waiting.pop()
        if id(owner) in seen or is_never_by_value(owner):
            continue
        seen.add(id(owner))
        chain = (*above, owner)
        for kind, key, value in captured(owner):
            parts = code_within(value)
            if parts is not None:
                waiting.extend((part, chain) for part in parts)
                continue
            error = None if is_constant(value) else _pickling_error(value, by_reference)
            if error is not None:
                way_out = next(filter(is_importable, reversed(chain)), None)
                yield Obstacle(owner=owner, kind=kind, key=key, error=error, way_out=way_out)


def with_its_class(thing: Any) -> tuple[Any, ...]:
    """What goes by reference together: a method only with the class that has it."""
    if not isinstance(thing, types.FunctionType) or "." not in thing.__qualname__:
        return (thing,)
    return thing, find_by_name(thing.__module__, thing.__qualname__.rpartition(".")[0])


def _pickling_error(value: Any, by_reference: frozenset[int]) -> Exception | None:
    pickler = DefinitionPickler(Nowhere(), 5)
    pickler.by_reference = by_reference
    try:
        pickler.dump(value)
    except Exception as error:
        return error
    return None


def not_picklable(
    value: Any, label: str, error: Exception, dump: Callable[[Any], object]
) -> NotPicklable:
    """The error that says where inside `value` the trouble lies, found by dumping its parts."""
    path = label
    for _ in range(20):
        for step, part in _parts(value):
            try:
                dump(part)
            except Exception as deeper:
                path, value, error = path + step, part, deeper
                break
        else:
            break
    return NotPicklable(f"{path}: {_reason(error)}; leave it out, or make it where it is used")


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    kind = type(value)
    if issubclass(kind, dict):
        for key, item in value.items():
            yield f"[{_short(key)}]", item
            if type(key) is not str:
                yield f" (key {_short(key)})", key
    elif issubclass(kind, list | tuple):
        for index, item in enumerate(value):
            yield f"[{index}]", item
    elif issubclass(kind, set | frozenset):
        for item in value:
            yield f" (element {_short(item)})", item
    elif kind is types.FunctionType:
        for word, key, item in captured(value):
            if not is_constant(item):
                yield f" ({word} {key!r})", item
    elif issubclass(kind, partial):
        yield ".func", value.func
        yield from ((f" (argument {index + 1})", item) for index, item in enumerate(value.args))
        yield from ((f" (argument {key!r})", item) for key, item in value.keywords.items())
    elif not issubclass(kind, type | types.ModuleType):
        yield from ((f".{name}", item) for name, item in attributes(value).items())


def _short(key: Any) -> str:
    try:
        text = repr(key)
    except Exception:
        text = type(key).__name__
    return text if len(text) <= 40 else text[:37] + "..."


class Nowhere:
    """A file for pickles that are made only to see whether they can be."""

    def write(self, part: Any) -> int:
        return len(part)


def name_of(thing: Any) -> str:
    """What messages call a thing."""
    if isinstance(thing, types.ModuleType):
        return f"module {thing.__name__!r}"
    if isinstance(thing, type):
        return f"class {thing.__qualname__!r}"
    if isinstance(thing, types.FunctionType | types.MethodType):
        return f"function {thing.__qualname__!r}"
    return f"the {type(thing).__qualname__} object"


def _reason(error: Exception) -> str:
    text = str(error)
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, TypeError | pickle.PicklingError | NotPicklable) and text:
        return text
    return f"{type(error).__name__}: {text}"
