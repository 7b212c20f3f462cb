"""Files in a home that belong to nobody any more: locks of dead processes, and old logs."""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from weftline.adapters.journal.locks import holder

_CHILD = re.compile(r"(?P<engine>.+)\.child-\d+")
_HIDDEN_S = 3600.0
"""What is made in passing is left alone for so long."""


class Leftover(NamedTuple):
    """A file that is left over."""

    path: Path
    size_bytes: int


class Leftovers:
    """The files of one home, while its engines live."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def locks(self) -> Iterator[Leftover]:
        """Locks and bells of engines that are dead, and of their children that are dead, too."""
        for entry in _entries(self._home / "engines"):
            if self._is_of_the_dead(entry) and (found := _leftover(entry)):
                yield found
        for folder, prefix in ((self._home, ".room-"), (self._home / "logs", ".trial.")):
            for entry in _entries(folder):
                if entry.name.startswith(prefix) and _age_s(entry) > _HIDDEN_S:
                    if found := _leftover(entry):
                        yield found

    def _is_of_the_dead(self, entry: "os.DirEntry[str]") -> bool:
        name, path = entry.name, Path(entry.path)
        if name.startswith("."):  # on its way to becoming a lock
            return _age_s(entry) > _HIDDEN_S and holder(path) is None
        if child := _CHILD.fullmatch(name):
            # One that outlives its engine is found by its lock, and ended.
            return not self._is_alive(child["engine"]) and holder(path) is None
        stem, dot, kind = name.rpartition(".")
        # Ids are never used again: who is dead now stays so.
        return bool(dot) and kind in ("lock", "bell") and not self._is_alive(stem)

    def _is_alive(self, engine: str) -> bool:
        return holder(self._home / "engines" / f"{engine}.lock") is not None

    def old_logs(self, older_than_s: float) -> list[Leftover]:
        """Files with output to which nothing was added for so long, and nothing will be. Events
        may name them."""
        old = [
            (entry, engine)
            for entry in _entries(self._home / "logs")
            if (engine := _writer_of(entry.name)) and _age_s(entry) >= older_than_s
        ]
        # A file is opened once, under a name of its own: what nobody has open now, nobody will.
        is_open = _open_files() if old else set()
        found = []
        for entry, engine in old:
            if not self._is_alive(engine) and _identity(entry) not in is_open:
                if left := _leftover(entry):
                    found.append(left)
        return found

    @staticmethod
    def remove(found: Leftover) -> bool:
        """Whether it was there to be removed. Raises: OSError."""
        try:
            found.path.unlink()
        except FileNotFoundError:
            return False
        return True


def _writer_of(name: str) -> str | None:
    """The engine, or what else, whose child writes the file of this name; None for other files."""
    stem, dot, kind = name.rpartition(".")
    return stem.rpartition(".")[0] or stem if dot and kind in ("out", "err") else None


def _open_files() -> set[tuple[int, int]]:
    """What processes of this user have open, as far as they can be seen from here."""
    found = set()
    for process in _entries(Path("/proc")):
        if process.name.isdigit():
            for entry in _entries(Path(process.path, "fd")):
                try:
                    status = os.stat(entry.path)
                except OSError:  # closed just now
                    continue
                found.add((status.st_dev, status.st_ino))
    return found


def _entries(folder: Path) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:  # it is not there, has ended, or is another user's
        return []


def _identity(entry: "os.DirEntry[str]") -> tuple[int, int] | None:
    try:
        status = os.stat(entry.path, follow_symlinks=False)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _age_s(entry: "os.DirEntry[str]") -> float:
    try:
        return time.time() - entry.stat(follow_symlinks=False).st_mtime
    except OSError:  # gone just now
        return -1.0


def _leftover(entry: "os.DirEntry[str]") -> Leftover | None:
    try:
        return Leftover(Path(entry.path), entry.stat(follow_symlinks=False).st_size)
    except OSError:
        return None
