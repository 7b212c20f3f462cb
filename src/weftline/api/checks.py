"""What people give to the API, checked before anything is done with it."""

import os
import time
import uuid
from collections.abc import Iterable
from typing import Any

from weftline.authoring.options import is_text, problem_of_metadata
from weftline.core.events import RunStatus
from weftline.errors import InvalidOption


def new_id() -> str:
    """An id for a run that was given none: random, and with the time in nanoseconds.

    It begins with the time as well (a UUID of version 7): the journal keeps what it writes of a
    run by its id, and so writes what happens at the same time to few places.
    """
    now = time.time_ns()
    milliseconds, rest = divmod(now, 1_000_000)
    luck = int.from_bytes(os.urandom(8), "big") >> 2
    number = milliseconds << 80 | 0x7 << 76 | (rest << 12) // 1_000_000 << 64 | 0b10 << 62 | luck
    return f"{uuid.UUID(int=number)}.{now / 1e9:.9f}"


def checked_id(workflow_id: Any) -> str:
    """Raises: TypeError for what is no str; ValueError for one that cannot be an id."""
    if not isinstance(workflow_id, str):
        raise TypeError(f"a workflow id is a str, not {type(workflow_id).__name__}")
    if not workflow_id:
        raise InvalidOption("a workflow id is a non-empty string")
    if not is_text(workflow_id):
        raise InvalidOption(f"the workflow id {workflow_id!r} holds what is no character")
    return str.__str__(workflow_id)  # of a subclass, like StrEnum, its text alone


def checked_name(name: Any, what: str) -> str:
    """The name of a signal, or a key. Raises: TypeError, ValueError."""
    if not isinstance(name, str):
        raise TypeError(f"{what} is a str, not {type(name).__name__}")
    if not name or not is_text(name):
        raise InvalidOption(f"{what} is a non-empty string of characters, not {name!r}")
    return str.__str__(name)


def checked_metadata(metadata: Any) -> None:
    """Raises: ValueError for metadata that JSON cannot hold."""
    if metadata is not None and (problem := problem_of_metadata(metadata)):
        raise InvalidOption(f"metadata={metadata!r} {problem}")


def checked_seconds(seconds: Any, what: str) -> float:
    """A time in seconds. Raises: TypeError, ValueError for what is none."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"{what} is a number of seconds, not {type(seconds).__name__}")
    if not 0 <= seconds < 1e10:
        raise InvalidOption(f"{what}={seconds!r} must be a number of seconds, at least 0")
    return float(seconds)


def checked_statuses(given: Any) -> set[RunStatus] | None:
    """A status, its name, or several of either. Raises: TypeError."""
    if given is None:
        return None
    entries = [given] if isinstance(given, str) else given
    if not isinstance(entries, Iterable):
        raise TypeError(f"a filter is a status or a set of statuses, not {given!r}")
    found = set()
    for entry in entries:
        if not isinstance(entry, str) or entry not in RunStatus.__members__:
            names = ", ".join(RunStatus.__members__)
            raise TypeError(f"{entry!r} is no status; statuses are {names}")
        found.add(RunStatus(entry))
    return found
