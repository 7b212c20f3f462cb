"""What stored pickles of values and arguments call to make things again.

Pickles name these functions and classes by module and name, and are kept for as long as their
home: whatever is here must keep its name, its place and its arguments for ever.
"""

from typing import Any

import msgspec
from msgspec import Struct

from weftline.code.loads import context
from weftline.core.values import Object, unpack


def hole(n: int) -> Any:
    """The value for hole `n` of the arguments being loaded."""
    return context.values[n]


def add_notes(error: BaseException, notes: list[str]) -> BaseException:
    """The exception with notes."""
    error.__notes__ = notes
    return error


class ObjectRef(Struct, frozen=True):
    """A value in the object store, to be passed on without being read.

    `packed` is the text of the value, and `objects` names every object it takes to read it.
    References to equal content are equal.
    """

    packed: bytes
    objects: tuple[str, ...]

    def __repr__(self) -> str:
        try:
            value = unpack(self.packed)
        except msgspec.DecodeError:  # made by hand, or by a newer Weftline
            value = None
        if not isinstance(value, Object):
            return "<ObjectRef>"
        return f"<ObjectRef {value.codec}, {value.size:,} bytes, {value.hash[:8]}>"

    def __reduce__(self) -> tuple[Any, ...]:
        if context.held is not None:
            context.held.update(dict.fromkeys(self.objects))
        return ObjectRef, (self.packed, self.objects)


class StepRef(Struct, frozen=True):
    """A step that a run has already; `number` is its number there.

    Given to another step of that run, anywhere in its arguments, it arrives as the step's value.
    """

    run_id: str
    number: int

    def __repr__(self) -> str:
        return f"<StepRef {self.number} of run {self.run_id!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        if context.capture is not None:
            found: tuple[Any, ...] = context.capture.hole_of(self, self)
            return found
        return StepRef, (self.run_id, self.number)
