"""Follows what the attempts of a run print, line by line, while they run.

A child appends to its file, for one attempt after the other; where an attempt's part of it ends is
known only when its end is recorded, a moment after it has ended. So what stands in a file is told
one look later: by then the journal tells if a part of it is the next attempt's. Should it have come
too late all the same, those bytes have been told once, and are not told again.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from weftline.core.events import (
    Event,
    GraphExtended,
    LogRange,
    StepFailed,
    StepLost,
    StepStarted,
    StepSucceeded,
)

MAX_PART_BYTES = 1 << 20
"""So much is read at once; a line that is longer comes in parts."""

ENDINGS = ("out", "err")


class Line(NamedTuple):
    """A line that an attempt of a step (by its number) printed; `ending` is `out` or `err`."""

    step: int
    attempt: int
    ending: str
    text: str


class Files(NamedTuple):
    """How to get at the files: by their names, `<child>.out` and `<child>.err`."""

    size: Callable[[str], int]
    """How many bytes it holds; 0 also when there is no such file (yet)."""

    read: Callable[[str, int, int], bytes | None]
    """Its bytes from, up to; None when it is gone."""


class _Stream:
    """One attempt's part of one file: told up to `at`, of a part that ends at `end` if known."""

    __slots__ = ("at", "end", "file", "seen")

    def __init__(self, file: str, start: int, end: int | None) -> None:
        self.file, self.at, self.end = file, start, end
        self.seen = start  # how far the file reached at the last look


class _Attempt:
    __slots__ = ("began", "is_over", "streams")

    def __init__(self, log: LogRange, began: float, *, is_over: bool) -> None:
        self.began, self.is_over = began, is_over
        self.streams = [
            _Stream(f"{log.file}.out", log.out_start, log.out_end if is_over else None),
            _Stream(f"{log.file}.err", log.err_start, log.err_end if is_over else None),
        ]


class Following:
    """What has been told of each attempt, and what is still to be told.

    `wants` says of which steps (by number) and attempts; `gone` is told of files that are missing
    although something was written to them.
    """

    def __init__(
        self, files: Files, wants: Callable[[int, int], bool], gone: Callable[[int, str], None]
    ) -> None:
        self._files, self._wants, self._gone = files, wants, gone
        self._attempts: dict[tuple[int, int], _Attempt] = {}
        self._told: dict[str, int] = {}  # by file, how far anybody's part was told

    @property
    def has_open(self) -> bool:
        """Whether there are attempts that may print more, as far as is known."""
        return bool(self._attempts)

    def take(self, at: float, event: Event) -> None:
        """An event of the run, in their order."""
        match event:
            case StepStarted():
                if event.log is not None and self._wants(event.step, event.attempt):
                    # The same attempt begins anew when there was no room for its result.
                    began = event.started_at or at
                    attempt = _Attempt(event.log, began, is_over=False)
                    self._attempts[event.step, event.attempt] = attempt
            case StepSucceeded() | StepFailed() | StepLost() | GraphExtended():
                self._end(at, event)
            case _:
                pass

    def _end(self, at: float, event: StepSucceeded | StepFailed | StepLost | GraphExtended) -> None:
        key = event.step, event.attempt
        if event.log is None:
            self._attempts.pop(key, None)  # it has printed nothing
        elif self._wants(*key):
            ended = _Attempt(event.log, event.started_at or at, is_over=True)
            before = self._attempts.get(key)
            for stream, known in zip(ended.streams, before.streams if before else (), strict=False):
                if known.file == stream.file and known.at > stream.at:
                    stream.at = known.at
            self._attempts[key] = ended

    def look(self) -> None:
        """See how far the files reach now; told is that by `lines` after the next events."""
        for attempt in self._attempts.values():
            for stream in attempt.streams:
                stream.seen = max(stream.seen, self._files.size(stream.file))

    def lines(self, *, is_last: bool = False) -> Iterator[Line]:
        """What is new: all of the attempts that have ended, whole lines of the others, as far as
        their files reached at the last look. With `is_last` also what follows the last line."""
        attempts = sorted(self._attempts.items(), key=lambda each: each[1].began)
        for (step, number), attempt in attempts:
            for ending, stream in zip(ENDINGS, attempt.streams, strict=True):
                for text in self._texts(step, stream, is_last=is_last):
                    yield Line(step, number, ending, text)
            if attempt.is_over:
                del self._attempts[step, number]

    def _texts(self, step: int, stream: _Stream, *, is_last: bool) -> Iterator[str]:
        is_over = stream.end is not None
        end = stream.seen if stream.end is None else stream.end
        # What was told of it as another attempt's is not told twice.
        stream.at = max(stream.at, min(self._told.get(stream.file, 0), end))
        while stream.at < end:
            content = self._files.read(stream.file, stream.at, min(end, stream.at + MAX_PART_BYTES))
            if content is None and is_over:
                self._gone(step, stream.file)
                stream.at = end
            if not content:  # it is gone, or was cut short
                return
            whole = _whole_lines(content)
            if not whole and (is_over or is_last) and stream.at + len(content) >= end:
                whole = content
            if not whole:
                return
            stream.at += len(whole)
            self._told[stream.file] = max(self._told.get(stream.file, 0), stream.at)
            yield from _decoded(whole)


def _whole_lines(content: bytes) -> bytes:
    """The lines that are complete; all of it when that is one that is too long."""
    end = content.rfind(b"\n") + 1
    return content if not end and len(content) >= MAX_PART_BYTES else content[:end]


def _decoded(content: bytes) -> list[str]:
    lines = content.decode("utf-8", "replace").split("\n")
    return lines if lines[-1] else lines[:-1]
