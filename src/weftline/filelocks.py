"""Who holds a POSIX record lock, as the kernel tells without taking it."""

import fcntl
import os
import struct
import sys
from typing import NamedTuple

# The struct that F_GETLK fills in, and where its parts are.
if sys.platform == "linux":
    _FLOCK, _TYPE, _START, _LENGTH, _PID = struct.Struct("@hhqqi"), 0, 2, 3, 4
else:  # macOS and the BSDs
    _FLOCK, _TYPE, _START, _LENGTH, _PID = struct.Struct("@qqihh"), 3, 0, 1, 2


class Held(NamedTuple):
    """A locked range of bytes. `length` 0 is to the end of the file.

    `pid` is 0 or less when the process cannot be seen from here (another container).
    """

    pid: int
    start: int
    length: int


def find_lock(file: int, start: int = 0, length: int = 0) -> Held | None:
    """A lock of another process on that range of the open file, if there is one; not the first."""
    query = [0] * 5
    query[_TYPE], query[_START], query[_LENGTH] = fcntl.F_WRLCK, start, length
    found = _FLOCK.unpack(fcntl.fcntl(file, fcntl.F_GETLK, _FLOCK.pack(*query)))
    if found[_TYPE] == fcntl.F_UNLCK:
        return None
    return Held(int(found[_PID]), int(found[_START]), int(found[_LENGTH]))


def find_holder(path: str | os.PathLike[str]) -> int | None:
    """The process that holds a lock on the file; None also when there is no such file.

    Never of a file that this process has locked itself: closing it here would drop that lock.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        held = find_lock(file)
    finally:
        os.close(file)
    return None if held is None else held.pid
