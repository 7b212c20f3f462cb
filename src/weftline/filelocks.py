"""Who holds a POSIX record lock, as the kernel tells without taking it; and the names of folders
and files for which there may be one holder, or which must be short.

Closing *any* descriptor of a file drops the locks its process has on it, so a file that is held
here is opened once in a process and found in a table. A forked child holds nothing.
"""

import fcntl
import os
import struct
import sys
import threading
from pathlib import Path
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


# -- the one who holds a file -------------------------------------------------------------------

_guard = threading.Lock()  # held while the table is changed or a held file may be opened
_held: dict[str, int] = {}  # descriptors of files that this process holds, by real path


class HeldFile:
    """A file that this process alone holds, until `close` or its end."""

    def __init__(self, path: str, file: int) -> None:
        self._path, self._file = path, file

    @property
    def is_there(self) -> bool:
        """Whether it is still the file of that name; else another process may hold that one."""
        return _is_same(self._file, self._path)

    def close(self) -> None:
        """Remove the file and hold it no more."""
        with _guard:
            if _held.get(self._path) != self._file:
                return
            del _held[self._path]
            if self.is_there:
                os.unlink(self._path)
            os.close(self._file)


def hold_file(path: Path) -> HeldFile | None:
    """Make the file if it is missing, and hold it; None when somebody else, or another part of
    this process, does."""
    name = os.path.realpath(path)
    with _guard:
        while name not in _held:
            file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                os.close(file)
                return None
            # Whoever held it before may have removed it between our two steps.
            if _is_same(file, name):
                _held[name] = file
                return HeldFile(name, file)
            os.close(file)
    return None


def holder_of(path: Path) -> int | None:
    """The process that holds the file, this one included; None when there is none."""
    name = os.path.realpath(path)
    with _guard:
        return os.getpid() if name in _held else find_holder(name)


def _is_same(file: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _after_fork_in_child() -> None:
    global _guard
    _guard = threading.Lock()
    for file in _held.values():
        os.close(file)
    _held.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)


# -- short names --------------------------------------------------------------------------------


class ShortName:
    """A short name of a folder, since the address of a socket must fit into 108 bytes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> str:
        self._file = os.open(self._folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._file}"

    def __exit__(self, *_: object) -> None:
        os.close(self._file)
