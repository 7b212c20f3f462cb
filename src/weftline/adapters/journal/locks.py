"""Who writes, and who is alive: locks of the operating system, which end with their process.

All are POSIX record locks on whole files. Closing *any* descriptor of a file drops the locks its
process has on it, so every file locked here is opened once in a process and found in a table. A
forked child owns no lock; it starts with empty tables.
"""

import errno
import fcntl
import os
import threading
import time
from pathlib import Path
from types import TracebackType

from weftline.errors import StorageError
from weftline.filelocks import find_holder
from weftline.folders import make_private

_guard = threading.Lock()  # held while a table is changed or a locked file may be opened
_writers: dict[str, "WriterLock"] = {}  # by real path
_held: dict[str, int] = {}  # descriptors of lock files that this process holds, by real path


class WriterLock:
    """The right to write to a home, for one thread of one process at a time.

    SQLite has a lock of its own, but waits for it by sleeping, and unfairly; here the kernel wakes
    the next process at once. Made by `writer_lock`; used in a `with` statement.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.users = 0
        self._thread = threading.Lock()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def __enter__(self) -> None:
        self._thread.acquire()
        try:
            self._lock_file()
        except BaseException:
            self._thread.release()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_UN)
        finally:
            self._thread.release()

    def close(self) -> None:
        """One user less; the last one closes the file."""
        with _guard:
            self.users -= 1
            if self.users == 0 and _writers.get(self.path) is self:
                del _writers[self.path]
                self.drop()

    def drop(self) -> None:
        """Close the file, with whatever lock this process has on it."""
        file, self._file = self._file, -1
        os.close(file)

    def _lock_file(self) -> None:
        while True:
            if self._file < 0:
                raise StorageError(f"{self.path} was closed by another thread")
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX)
                return
            except OSError as error:
                # Two processes that write to two homes can look like a deadlock to the kernel,
                # which sees processes, not threads. It passes.
                if error.errno != errno.EDEADLK:
                    raise StorageError(f"cannot lock {self.path}: {error.strerror}") from error
                time.sleep(0.001)


def writer_lock(path: Path) -> WriterLock:
    """The lock of this file, shared by all who ask for it in this process; `close` it after use."""
    name = os.path.realpath(path)
    with _guard:
        lock = _writers.get(name)
        if lock is None:
            lock = _writers[name] = WriterLock(name)
        lock.users += 1
        return lock


def holder(path: Path) -> int | None:
    """The process that holds a lock on this file, or None, also when there is no such file.

    The id is 0 or less when the process cannot be seen from here (another container).
    """
    name = os.path.realpath(path)
    with _guard:
        return os.getpid() if name in _held else find_holder(name)


class EngineLocks:
    """One lock file for each living engine, in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = os.path.realpath(folder)

    def register(self, engine: str) -> None:
        """Hold the engine's lock from now on. The folder is made if it is missing.

        Raises: StorageError if another process holds it.
        """
        name = self._path(engine)
        with _guard:
            if name in _held:
                return
            owner = find_holder(name)
            if owner is not None:
                raise StorageError(f"the engine {engine} is registered by process {owner} already")
            make_private(Path(self._folder))
            # The file gets its name when it is locked: whoever finds it unlocked may remove it.
            hidden = os.path.join(self._folder, f".{engine}.{os.getpid()}")
            file = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.rename(hidden, name)
            except BaseException:
                os.close(file)
                raise
            _held[name] = file

    def release(self, engine: str) -> None:
        """Let go of the engine's lock; one that is not held here is no error."""
        name = self._path(engine)
        with _guard:
            file = _held.pop(name, None)
            if file is not None:
                _remove(name)
                os.close(file)

    def is_alive(self, engine: str) -> bool:
        """Whether a process holds the engine's lock; what a dead one left behind is removed."""
        name = self._path(engine)
        with _guard:
            if name in _held:
                return True
            if find_holder(name) is not None:
                return True
            _remove(name)
            return False

    def _path(self, engine: str) -> str:
        return os.path.join(self._folder, f"{engine}.lock")


def _remove(name: str) -> None:
    """Remove a file that means nothing any more; whether that works changes nothing."""
    try:
        os.unlink(name)
    except OSError:
        pass


def _after_fork_in_child() -> None:
    global _guard
    _guard = threading.Lock()
    for lock in _writers.values():
        lock.drop()
    for file in _held.values():
        os.close(file)
    _writers.clear()
    _held.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
