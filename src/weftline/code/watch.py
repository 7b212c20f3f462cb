"""Whether a stored function, or anything it had captured, has changed since."""

import hashlib
import types
from typing import Any
from weakref import ref

from weftline.code.captures import MISSING, captured, code_within, is_constant
from weftline.code.definitions import DefinitionPickler
from weftline.code.origin import is_never_by_value


class Watch:
    """Tells whether anything that a stored function had captured has changed since.

    Functions, classes and modules are compared by identity, and held weakly: the watch lives as
    long as the function, which must not live as long as the watch.
    """

    def __init__(self, function: types.FunctionType, by_reference: frozenset[int]) -> None:
        self._plain: list[tuple[Any, ...]] = []
        self._other: list[tuple[Any, ...]] = []
        self._by_reference = by_reference
        waiting: list[Any] = [function]
        seen = set(by_reference)
        while waiting:
            owner = waiting.pop()
            if id(owner) in seen or isinstance(owner, type) or is_never_by_value(owner):
                continue
            seen.add(id(owner))
            expected: list[tuple[str, str, Any, Any]] = []
            for kind, key, value in captured(owner):
                parts = code_within(value)
                if is_constant(value):
                    expected.append((kind, key, value, None))
                elif parts is not None and (weak := _weak(value)) is not None:
                    expected.append((kind, key, weak, ref))
                    waiting.extend(parts)
                else:
                    expected.append((kind, key, _digest(value, by_reference), bytes))
            shape = _shape(owner)
            # Nearly every function captures globals alone, and defaults that cannot change.
            if shape == (*shape[:2], None) and all(
                how is not bytes if kind == "global" else how is None and kind == "default"
                for kind, _, _, how in expected
            ):
                globals_ = [each for each in expected if each[0] == "global"]
                constants = [(key, what) for _, key, what, how in globals_ if how is None]
                code = [(key, what) for _, key, what, how in globals_ if how is ref]
                self._plain.append((ref(owner), *shape[:2], constants, code))
            else:
                self._other.append((ref(owner), shape, expected))

    def is_unchanged(self) -> bool:
        for owner, code, defaults, constants, weak in self._plain:
            function = owner()
            if (
                function is None
                or function.__code__ is not code
                or function.__defaults__ is not defaults
                or function.__kwdefaults__
                or function.__dict__
            ):
                return False
            namespace = function.__globals__
            for name, value in constants:
                if namespace.get(name, MISSING) is not value:
                    return False
            for name, expected in weak:
                value = expected()
                if value is None or namespace.get(name) is not value:
                    return False
        return all(self._is_same(*other) for other in self._other)

    def _is_same(
        self, weak: Any, shape: tuple[Any, ...], expected: list[tuple[str, str, Any, Any]]
    ) -> bool:
        owner = weak()
        if owner is None:
            return False
        if any(now is not before for now, before in zip(_shape(owner), shape, strict=True)):
            return False
        now_captured = list(captured(owner))
        if [each[:2] for each in now_captured] != [each[:2] for each in expected]:
            return False
        for (_, _, value), (_, _, before, how) in zip(now_captured, expected, strict=True):
            if how is None:
                same = value is before
            elif how is ref:
                same = value is before()
            else:
                same = before is not None and before == _digest(value, self._by_reference)
            if not same:
                return False
        return True


def _shape(owner: Any) -> tuple[Any, ...]:
    if isinstance(owner, types.FunctionType):
        return owner.__code__, owner.__defaults__, owner.__kwdefaults__
    return ()


def _weak(value: Any) -> Any:
    try:
        return ref(value)
    except TypeError:
        return None


def _digest(value: Any, by_reference: frozenset[int]) -> bytes | None:
    """The SHA-256 of the pickle of `value`; None when it has none."""
    sink = _Digest()
    pickler = _DigestPickler(sink, 5)
    pickler.by_reference = by_reference
    try:
        pickler.dump(value)
    except Exception:
        return None
    return sink.hash.digest()


class _DigestPickler(DefinitionPickler):
    """For telling a change within this process: a class is the one it is."""

    def reduce_class(self, cls: type) -> Any:
        return int, (id(cls),)


class _Digest:
    def __init__(self) -> None:
        self.hash = hashlib.sha256()

    def write(self, part: Any) -> int:
        self.hash.update(part)
        return len(part)
