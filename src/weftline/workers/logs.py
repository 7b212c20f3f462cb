"""The output of one child: a file for stdout and one for stderr, which no attempt shares.

The engine's side holds them open too, so that what a child wrote survives it. A file gets its name
when it holds something.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from weftline.core.events import LogRange
from weftline.folders import make_private

STREAMS = ("stdout", "stderr")
PART_BYTES = 1 << 20
"""The most that is read at once, and so the longest text that is passed on as one."""

_MODE = 0o600
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC


class LogFolder:
    """The folder in which the files lie; made if it is missing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_private(folder)
        self._can_be_nameless = self._try_nameless()

    def open(self, name: str) -> "Logs":
        """New files for the child of this name."""
        paths = [str(self.folder / f"{name}.{end}") for end in ("out", "err")]
        return Logs(name, paths, [self._open(path) for path in paths], not self._can_be_nameless)

    def _open(self, path: str) -> int:
        # It may have been removed, with all that was in it.
        make_private(self.folder)
        if self._can_be_nameless:
            return os.open(self.folder, _FLAGS | os.O_TMPFILE, _MODE)
        return os.open(path, _FLAGS | os.O_CREAT, _MODE)

    def _try_nameless(self) -> bool:
        """Whether this file system has files without a name that can be given one later."""
        trial = self.folder / f".trial.{os.getpid()}"
        try:
            fd = os.open(self.folder, _FLAGS | os.O_TMPFILE, _MODE)
        except OSError:
            return False
        try:
            _give_name(fd, str(trial))
            trial.unlink()
        except OSError:
            return False
        finally:
            os.close(fd)
        return True


class Logs:
    """The two files of one child."""

    def __init__(self, name: str, paths: list[str], fds: list[int], is_named: bool) -> None:
        self.name = name
        self.fds = fds
        self._paths = paths
        self._is_named = [is_named, is_named]

    @property
    def are_named(self) -> bool:
        return all(self._is_named)

    def sizes(self) -> tuple[int, int]:
        """Bytes written so far to stdout and stderr."""
        return os.fstat(self.fds[0]).st_size, os.fstat(self.fds[1]).st_size

    def publish(self) -> None:
        """Give each file that holds something its name; tried again when that does not work."""
        for stream in (0, 1):
            if not self._is_named[stream] and os.fstat(self.fds[stream]).st_size:
                try:
                    _give_name(self.fds[stream], self._paths[stream])
                except OSError:  # a full disk, a folder that was removed: no reason to stop
                    continue
                self._is_named[stream] = True

    def range_of(self, starts: tuple[int, int], ends: tuple[int, int]) -> LogRange | None:
        """From `starts` to `ends` (stdout, stderr); None when nothing lies between."""
        if starts == ends:
            return None
        return LogRange(self.name, starts[0], ends[0], starts[1], ends[1])

    def read(self, stream: int, start: int, end: int) -> bytes:
        """What lies between; at most `PART_BYTES` of it."""
        return os.pread(self.fds[stream], min(end - start, PART_BYTES), start)

    def lines(self, stream: int, start: int, end: int, *, rest: bool) -> Iterator[tuple[str, int]]:
        """Texts of whole lines between the two offsets, each with the offset behind it.

        With `rest` also what follows the last line's end. A text is at most `PART_BYTES` long; a
        line longer than that comes in parts.
        """
        while start < end:
            part = self.read(stream, start, end)
            is_last = start + len(part) >= end
            if not part:
                return
            if not (is_last and rest):
                cut = part.rfind(b"\n") + 1
                if cut == 0:
                    if len(part) < PART_BYTES:
                        return
                    cut = _whole_characters(part)
                part = part[:cut]
            start += len(part)
            yield part.decode("utf-8", "replace"), start

    def tail(self) -> str:
        """The end of stderr, for telling why a child died."""
        size = self.sizes()[1]
        return self.read(1, max(0, size - 2000), size).decode("utf-8", "replace").strip()

    def close(self) -> None:
        """Keep what holds something, remove the rest."""
        self.publish()
        for stream in (0, 1):
            if self._is_named[stream] and os.fstat(self.fds[stream]).st_size == 0:
                try:
                    os.unlink(self._paths[stream])
                except FileNotFoundError:
                    pass
            os.close(self.fds[stream])


def _give_name(fd: int, path: str) -> None:
    # A folder's descriptor is named only to make this call linkat(), which alone follows the link.
    folder = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.link(str(fd), path, src_dir_fd=folder, follow_symlinks=True)
    finally:
        os.close(folder)


def _whole_characters(part: bytes) -> int:
    """Bytes of `part` up to where its last, perhaps unfinished, UTF-8 character begins."""
    for back in range(1, min(4, len(part)) + 1):
        byte = part[-back]
        if byte & 0xC0 != 0x80:
            is_whole = byte < 0x80 or back == (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4)
            return len(part) if is_whole else len(part) - back
    return len(part)
