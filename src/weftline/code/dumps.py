"""Values and code written as pickles.

A value refers to the definitions of its classes, which are objects of their own; a definition
holds all the code that it takes. Each needs the other, so they are here together.
"""

import hashlib
import sys
import types
from typing import Any
from weakref import WeakKeyDictionary

from msgspec import Struct

from weftline.code.definitions import CLOUDPICKLE_KINDS, CODE_KINDS, DefinitionPickler
from weftline.code.loads import context
from weftline.code.obstacles import Nowhere, find_obstacles, name_of, not_picklable, with_its_class
from weftline.code.pickles import Buffers, write_buffers
from weftline.code.rebuild import build_error, known_classes, known_definitions, restore_class
from weftline.code.spool import Spool, is_fresh, note_stored
from weftline.core.values import INLINE_LIMIT
from weftline.errors import NotPicklable, StorageError
from weftline.ports.objects import ObjectStore


def dump_value(value: Any, spool: Spool, label: str) -> tuple[str, tuple[str, ...]]:
    """Write a pickle of `value` in which classes by value are references to objects.

    Returns: the codec (`pickle`, or `pickle5` when large buffers lie beside the pickle), and the
        names of the objects with the definitions of classes, and of those that references in
        `value` refer to.
    Raises: NotPicklable, saying where inside `label` the trouble lies.
    """
    try:
        return _dump_value(value, spool)
    except (StorageError, MemoryError):
        raise
    except Exception as error:
        # A user's module may hold what cannot be pickled, and yet be there to be imported.
        try:
            return _dump_value(value, spool, prefers_reference=True)
        except (StorageError, MemoryError):
            raise
        except Exception:
            raise _not_picklable(value, label, spool.objects, error) from error


def _dump_value(
    value: Any, spool: Spool, prefers_reference: bool = False
) -> tuple[str, tuple[str, ...]]:
    buffers = Buffers()
    pickler = _ValuePickler(spool, 5, buffer_callback=buffers)
    pickler.objects = spool.objects
    if prefers_reference:
        pickler.prefers_reference = True
    before, context.held = context.held, {}
    try:
        pickler.dump(value)
        held = (*pickler.definitions, *context.held)
    except Exception:
        spool.clear()
        raise
    finally:
        context.held = before
    return write_buffers(buffers, spool), tuple(dict.fromkeys(held)) if held else ()


def _not_picklable(value: Any, label: str, objects: ObjectStore, error: Exception) -> NotPicklable:
    def dump(part: Any) -> None:
        pickler = _ValuePickler(Nowhere(), 5, buffer_callback=Buffers())
        pickler.objects = objects
        pickler.dump(part)

    return not_picklable(value, label, error, dump)


class ByValue(Struct, frozen=True, kw_only=True):
    """How some code was written by value; `by_reference` has by `id` what of it was not, and
    `objects` are those that references in it refer to."""

    codec: str
    by_reference: frozenset[int]
    objects: tuple[str, ...]
    warning: str | None


def dump_by_value(thing: Any, spool: Spool, buffers_from: int = INLINE_LIMIT) -> ByValue:
    """Write a pickle that holds the code of `thing` itself.

    A function, class or module with something in it that cannot be pickled goes by reference,
    with a warning, if it can be imported.

    Raises: NotPicklable.
    """
    by_reference: dict[int, Any] = {}
    warnings: dict[str, None] = {}
    capture, context.capture = context.capture, None
    before = context.held
    try:
        while True:
            buffers = Buffers()
            buffers.limit = buffers_from
            pickler = DefinitionPickler(spool, 5, buffer_callback=buffers)
            pickler.by_reference = frozenset(by_reference)
            held = context.held = {}
            try:
                pickler.dump(thing)
                break
            except (StorageError, MemoryError):
                spool.clear()
                raise
            except Exception as error:
                spool.clear()
                obstacles = list(find_obstacles(thing, pickler.by_reference))
                if not obstacles:
                    raise _not_picklable(thing, name_of(thing), spool.objects, error) from error
                for obstacle in obstacles:
                    if obstacle.way_out is None:
                        raise NotPicklable(obstacle.message(thing)) from obstacle.error
                    for way_out in with_its_class(obstacle.way_out):
                        by_reference[id(way_out)] = way_out
                    warnings[obstacle.warning()] = None
    finally:
        context.capture, context.held = capture, before
    return ByValue(
        codec=write_buffers(buffers, spool),
        by_reference=frozenset(by_reference),
        objects=tuple(held),
        warning="; ".join(warnings) or None,
    )


class _ValuePickler(DefinitionPickler):
    """Writes classes by value as references to objects that hold their definitions."""

    objects: ObjectStore
    definitions: tuple[str, ...] = ()

    def reducer_override(self, thing: Any) -> Any:
        kind = type(thing)
        if issubclass(kind, type) or kind in CODE_KINDS or kind in CLOUDPICKLE_KINDS:
            if kind is types.MethodType and _is_by_name(thing):
                return NotImplemented
            return super().reducer_override(thing)
        if isinstance(thing, BaseException):
            return _reduce_error(thing)
        return NotImplemented

    def reduce_class(self, cls: type) -> Any:
        if cls.__module__ == "builtins":
            return super().reduce_class(cls)
        name = _store_definition(cls, self.objects)
        if name is None:
            return NotImplemented
        for each in (name, *_held_by_definitions.get(cls, ())):
            if each not in self.definitions:
                self.definitions += (each,)
        return restore_class, (cls.__module__, cls.__qualname__, name)


def _is_by_name(method: types.MethodType) -> bool:
    """Whether a bound method is what its object has by its name, as it nearly always is."""
    found = getattr(method.__self__, method.__func__.__name__, None)
    return getattr(found, "__func__", None) is method.__func__


def _reduce_error(error: BaseException) -> Any:
    """An exception without its `__init__`, which rarely takes what is in `args`."""
    kind = type(error)
    if (
        isinstance(kind.__init__, types.FunctionType)
        and kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ in (BaseException.__reduce__, OSError.__reduce__)
    ):
        reduced: Any = error.__reduce__()
        return build_error, (kind, reduced[1]), *reduced[2:]
    return NotImplemented


_BY_REFERENCE = ("", b"")  # of a class that has no definition
_held_by_definitions: WeakKeyDictionary[type, tuple[str, ...]] = WeakKeyDictionary()


def _store_definition(cls: type, objects: ObjectStore) -> str | None:
    """The object that defines a class, now in the store; None: the class goes by reference."""
    known = known_definitions.get(cls)
    if known is None:
        known = known_definitions[cls] = _dump_class(cls, objects)
        if known is not _BY_REFERENCE:
            known_classes[known[0]] = cls
    if known is _BY_REFERENCE:
        return None
    name, content = known
    if not is_fresh(name, objects):
        objects.put(content)
        note_stored(name, objects)
    return name


def _dump_class(cls: type, objects: ObjectStore) -> tuple[str, bytes]:
    spool = Spool(objects, limit=sys.maxsize)
    by_value = dump_by_value(cls, spool, buffers_from=sys.maxsize)
    if id(cls) in by_value.by_reference:
        return _BY_REFERENCE
    if by_value.objects:
        _held_by_definitions[cls] = by_value.objects
    content = spool.finish()
    assert isinstance(content, bytes)
    return hashlib.sha256(content).hexdigest(), content
