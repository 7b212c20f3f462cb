"""What attempts print that share a process: caught as Python writes it, each one's own.

While somebody holds them, `sys.stdout` and `sys.stderr` are stand-ins. What is written within an
attempt, as its context tells, is kept and passed on; everything else goes to where it went before.
"""

import contextlib
import os
import sys
from collections.abc import Callable
from contextvars import ContextVar, Token
from pathlib import Path
from threading import Lock
from typing import Any

from weftline.core.events import LogRange
from weftline.workers.logs import PART_BYTES, STREAMS, LogFolder, Logs

Tell = Callable[[str, str], object]
"""Takes a stream's name, and whole lines or the rest of one."""


class LogBook:
    """What one worker's attempts print, one after the other. Files are opened for the first text.

    Without a `home` nothing is kept.
    """

    def __init__(self, home: Path | None, name: str) -> None:
        self._home, self._name = home, name
        self._logs: Logs | None = None
        self._ends = [0, 0]
        self.lock = Lock()

    def ends(self) -> tuple[int, int]:
        """How much was written to stdout and stderr so far."""
        return self._ends[0], self._ends[1]

    def write(self, stream: int, text: str) -> None:
        """Keep a text, if that is possible: no step fails because its output finds no room."""
        if self._home is None:
            return
        content = text.encode("utf-8", "backslashreplace")
        with contextlib.suppress(OSError):
            if self._logs is None:
                self._logs = LogFolder(self._home / "logs").open(self._name)
            while content:
                written = os.write(self._logs.fds[stream], content)
                self._ends[stream] += written
                content = content[written:]
            if not self._logs.are_named:
                self._logs.publish()

    def range_since(self, starts: tuple[int, int]) -> LogRange | None:
        """What was written since the ends were at `starts`; None when that is nothing."""
        ends = self.ends()
        if starts == ends:
            return None
        return LogRange(self._name, starts[0], ends[0], starts[1], ends[1])

    def close(self) -> None:
        logs, self._logs, self._home = self._logs, None, None
        if logs is not None:
            logs.close()


class Capture:
    """What one attempt prints: kept in a book, and told line by line if somebody wants it."""

    __slots__ = ("_book", "_is_open", "_rest", "_starts", "_tell")

    def __init__(self, book: LogBook, tell: Tell | None = None) -> None:
        self._book, self._tell = book, tell
        self._starts = book.ends()
        self._rest: list[str] | None = None
        self._is_open = True

    def enter(self) -> Token["Capture | None"]:
        """From now on, what is written in this context is caught; `leave` undoes it."""
        return _capture.set(self)

    def leave(self, token: Token["Capture | None"]) -> None:
        _capture.reset(token)

    def write(self, stream: int, text: str) -> bool:
        """Take a text; False when the attempt has ended: it is somebody else's then."""
        with self._book.lock:
            if not self._is_open:
                return False
            if self._rest is None:
                self._rest = ["", ""]
            text = self._rest[stream] + text
            cut = len(text) if len(text) >= PART_BYTES else text.rfind("\n") + 1
            self._rest[stream] = text[cut:]
            if cut:
                self._pass_on(stream, text[:cut])
        return True

    def end(self) -> LogRange | None:
        """Catch nothing more. Returns: where that lies which was kept."""
        if self._rest is None:
            self._is_open = False
            return None
        with self._book.lock:
            self._is_open = False
            for stream in (0, 1):
                if self._rest[stream]:
                    self._pass_on(stream, self._rest[stream])
            return self._book.range_since(self._starts)

    def so_far(self) -> LogRange | None:
        """Where that lies which was kept until now."""
        return self._book.range_since(self._starts)

    def _pass_on(self, stream: int, text: str) -> None:
        self._book.write(stream, text)
        if self._tell is not None:
            for start in range(0, len(text), PART_BYTES):
                self._tell(STREAMS[stream], text[start : start + PART_BYTES])


_capture: ContextVar[Capture | None] = ContextVar("weftline-capture", default=None)

# These talk to a person, who waits for them, and write prompts that have no line's end.
_DEBUGGERS = frozenset({"bdb", "cmd", "code", "pdb"})


class _Stream:
    """Stands in for `sys.stdout` or `sys.stderr`; `real` is what it stands for."""

    def __init__(self, real: Any, number: int) -> None:
        self.real, self._number = real, number

    def write(self, text: str) -> int:
        capture = _capture.get()
        if capture is not None and type(text) is str:
            is_debugger = sys._getframe(1).f_globals.get("__name__") in _DEBUGGERS
            if not is_debugger and capture.write(self._number, text):
                return len(text)
        return self.real.write(text)  # type: ignore[no-any-return]

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def close(self) -> None:
        if _capture.get() is None:
            self.real.close()

    @property
    def buffer(self) -> Any:
        return self.real.buffer if _capture.get() is None else _Bytes(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class _Bytes:
    """Takes bytes for a stream that takes text."""

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream

    def write(self, content: Any) -> int:
        text = bytes(content).decode("utf-8", "replace")
        self._stream.write(text)
        return len(content)

    def flush(self) -> None:
        pass


_holding = Lock()
_holders = 0


class Hold:
    """Has what attempts print caught, from now until `release` is called, which may be repeated.

    The last one puts the streams back that there were before.
    """

    def __init__(self) -> None:
        global _holders
        with _holding:
            self._is_released = False
            _holders += 1
            # Somebody may have put something else in place since another one came.
            if not isinstance(sys.stdout, _Stream) and sys.stdout is not None:
                sys.stdout = _Stream(sys.stdout, 0)
            if not isinstance(sys.stderr, _Stream) and sys.stderr is not None:
                sys.stderr = _Stream(sys.stderr, 1)

    def release(self) -> None:
        global _holders
        with _holding:
            if self._is_released:
                return
            self._is_released = True
            _holders -= 1
            if _holders == 0:
                if isinstance(sys.stdout, _Stream):
                    sys.stdout = sys.stdout.real
                if isinstance(sys.stderr, _Stream):
                    sys.stderr = sys.stderr.real
