"""Something divisible that several processes of a machine take shares of: a GPU, a named resource.

It is a file of which nothing is ever written. Each of its bytes stands for the ten-thousandth part
of one, and who holds a lock on it has it. The system gives back what a dead process had.
"""

import errno
import fcntl
import os
import threading
from pathlib import Path

from weftline.filelocks import find_lock
from weftline.folders import make_private

_TRIES = 10

Ranges = list[tuple[int, int]]
"""Which bytes: from, up to."""


class Amount:
    """`total` of something, of which this process and others take shares.

    Without a `path` there are no others. The locks belong to the process, so within it there must
    be one `Amount` for a path, and a fork has none of what its parent took.
    """

    def __init__(self, total: int, path: Path | None = None) -> None:
        self.total, self._path = total, path
        self._mine: Ranges = []
        self._file = -1

    def share_at(self, path: Path) -> None:
        """From now on, share it with all who name the same file. Nothing is taken yet."""
        self._path = path

    def free(self) -> int:
        """How much nobody has."""
        return sum(end - start for start, end in self._gaps())

    def take(self, share: int) -> Ranges | None:
        """Take `share`; None when it is not there. What is returned goes to `give_back`."""
        for _ in range(_TRIES):
            taken = self._take_once(share)
            if taken is not None:
                self._mine += taken
                return taken
            if self.free() < share:
                return None
        return None

    def give_back(self, taken: Ranges) -> None:
        for start, end in taken:
            self._mine.remove((start, end))
            if self._path is not None:
                fcntl.lockf(self._open(), fcntl.LOCK_UN, end - start, start)

    def _take_once(self, share: int) -> Ranges | None:
        """As `take`; None also when another process was faster."""
        taken: Ranges = []
        for start, end in self._gaps():
            end = min(end, start + share)
            if not self._lock(start, end):
                break
            taken.append((start, end))
            share -= end - start
            if share == 0:
                return taken
        for start, end in taken:
            fcntl.lockf(self._open(), fcntl.LOCK_UN, end - start, start)
        return None

    def _lock(self, start: int, end: int) -> bool:
        if self._path is None:
            return True
        try:
            fcntl.lockf(self._open(), fcntl.LOCK_EX | fcntl.LOCK_NB, end - start, start)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            return False
        return True

    def _gaps(self) -> Ranges:
        """What neither this process nor another has."""
        taken = sorted(self._mine + self._others())
        gaps: Ranges = []
        at = 0
        for start, end in [*taken, (self.total, self.total)]:
            if at < min(start, self.total):  # what was taken may lie beyond a total that shrank
                gaps.append((at, min(start, self.total)))
            at = max(at, end)
        return gaps

    def _others(self) -> Ranges:
        """What other processes have, as the system tells."""
        found: Ranges = []
        if self._path is None:
            return found
        waiting = [(0, self.total)]
        while waiting:
            start, end = waiting.pop()
            held = find_lock(self._open(), start, end - start)
            if held is None:
                continue
            first, last = held.start, held.start + held.length if held.length else self.total
            found.append((max(first, start), min(last, end)))
            waiting += [each for each in ((start, first), (last, end)) if each[0] < each[1]]
        return found

    def _open(self) -> int:
        if self._file < 0:
            assert self._path is not None
            make_private(self._path.parent)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return self._file


class Places:
    """So many places for all processes of a machine that name the same file. For any thread."""

    def __init__(self, total: int, path: Path | None = None) -> None:
        self._amount, self._lock = Amount(total, path), threading.Lock()

    def have(self, total: int) -> None:
        """Let there be so many from now on; nobody loses one."""
        with self._lock:
            self._amount.total = total

    def take(self) -> Ranges | None:
        """One place; None when all are taken. What is returned goes to `give_back`."""
        with self._lock:
            return self._amount.take(1)

    def give_back(self, taken: Ranges) -> None:
        with self._lock:
            self._amount.give_back(taken)
