"""The arguments of one call, pickled with holes where the results of other steps will be."""

import pickle
from collections.abc import Callable, Iterable, Sequence
from io import BytesIO
from typing import Any, NamedTuple

from weftline.code.loads import context, load_pickle
from weftline.code.spool import Spool
from weftline.codecs.pickles import write_pickle
from weftline.codecs.rebuild import ObjectRef, StepRef, hole
from weftline.core.values import INLINE_LIMIT, Object
from weftline.errors import NotPicklable
from weftline.ports.objects import ObjectStore


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
        self._numbers: dict[object, int] = {}
        self._keys: list[object] = []  # kept, so that no `id` is used twice

    def hole_of(self, thing: object, key: object) -> tuple[Any, ...]:
        """What `__reduce_ex__` of a composition returns; the same `key` gets the same hole, and
        so do references that are equal."""
        known = key if isinstance(key, ObjectRef | StepRef) else id(key)
        number = self._numbers.get(known)
        if number is None:
            number = self._numbers[known] = len(self.found)
            self.found.append(thing)
            self._keys.append(key)
        return hole, (number,)


def current_capture() -> Capture | None:
    """The capture that this thread is pickling arguments for, if any."""
    capture: Capture | None = context.capture
    return capture


def capture_arguments(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    objects: ObjectStore,
    is_composition: Callable[[object], bool],
    label: str = "step",
) -> tuple[Captured, list[object]]:
    """The arguments of one call with its compositions taken out, and what arrives as its value:
    references to steps, and references to objects that are arguments themselves.

    A list of nothing but compositions, given as an argument itself, is one hole, unless one of
    them is given elsewhere, too: then it has to arrive there as the same object.

    Returns: the arguments, and per hole a composition, a list of compositions, or a reference.
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
        if isinstance(argument, ObjectRef):
            return _Bare(argument)
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
            return _dump_plain(args, kwargs, objects), capture.found
        spool = Spool(objects)
        codec, definitions = _dump(args, kwargs, spool, label)
    finally:
        context.capture = before
    size = spool.size
    stored = spool.finish()
    if isinstance(stored, bytes):
        return Captured(stored, False, definitions), capture.found
    return Captured(Object(stored, codec, size), False, (stored, *definitions)), capture.found


def _dump_plain(args: tuple[Any, ...], kwargs: dict[str, Any], objects: ObjectStore) -> Captured:
    stream = BytesIO()
    pickler = pickle.Pickler(stream, 5)
    # Without a memo: whether two equal strings are one object must not change the bytes.
    pickler.fast = True
    pickler.dump((args, kwargs))
    content = stream.getvalue()
    if len(content) <= INLINE_LIMIT:
        return Captured(content, True, ())
    name = objects.put(content)
    return Captured(Object(name, "pickle", len(content)), True, (name,))


def _dump(
    args: tuple[Any, ...], kwargs: dict[str, Any], spool: Spool, label: str
) -> tuple[str, tuple[str, ...]]:
    try:
        return write_pickle((args, kwargs), spool, "arguments")
    except NotPicklable:
        # Which argument it is, each one alone tells.
        numbered = ((str(index + 1), argument) for index, argument in enumerate(args))
        named = ((repr(name), argument) for name, argument in kwargs.items())
        for which, argument in (*numbered, *named):
            alone = Spool(spool.objects)
            write_pickle(argument, alone, f"argument {which} of step {label!r}")
            alone.clear()
        raise


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


class _Bare:
    """Stands for a reference that is an argument itself while arguments are pickled."""

    __slots__ = ("_ref",)

    def __init__(self, ref: ObjectRef) -> None:
        self._ref = ref

    def __reduce__(self) -> tuple[Any, ...]:
        capture: Capture = context.capture
        return capture.hole_of(self._ref, self._ref)


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
            if kind in _PLAIN or kind is StepRef or self._is_composition(item):
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
