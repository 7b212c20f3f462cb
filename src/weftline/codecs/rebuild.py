"""What stored pickles of values and arguments call to make things again.

Pickles name these functions by module and name, and are kept for as long as their home: whatever
is here must keep its name, its place and its arguments for ever.
"""

from typing import Any

from weftline.code.loads import context


def hole(n: int) -> Any:
    """The value for hole `n` of the arguments being loaded."""
    return context.values[n]


def add_notes(error: BaseException, notes: list[str]) -> BaseException:
    """The exception with notes."""
    error.__notes__ = notes
    return error
