"""`weft runs logs`: prints what the steps of a run printed, and with `--follow` what they print."""

import json
import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from typer import BadParameter

from weftline.app import App, home
from weftline.cli.following import ENDINGS, Files, Following, Line
from weftline.cli.runs import OPEN, record_of, step_of
from weftline.cli.terminal import is_terminal, iso, lines_of, one_line, say, say_json, say_note
from weftline.core.events import (
    Event,
    GraphExtended,
    LogRange,
    StepFailed,
    StepLost,
    StepStarted,
    StepSucceeded,
)
from weftline.core.run import Run
from weftline.engine.recovery import RunReader

LOOK_S = 0.05
"""Seconds between two looks for what is new."""


class Filter(NamedTuple):
    """What is to be shown: of these steps (none: all), of this try, of this stream."""

    steps: Collection[str]
    attempt: int | None
    stream: str | None

    def wants(self, step: str, attempt: int) -> bool:
        is_step = not self.steps or step in self.steps
        return is_step and self.attempt in (None, attempt)


def print_logs(
    run_id: str,
    *,
    steps: Collection[str],
    attempt: int | None,
    stream: str | None,
    follow: bool,
    as_json: bool,
) -> int:
    """What the run's steps printed, attempt by attempt; the exit status."""
    if stream not in (None, *ENDINGS):
        raise BadParameter(f"--stream is out or err, not {stream!r}")
    app = home()
    record_of(app, run_id)
    reader = RunReader(app.journal, run_id)
    events = reader.refresh()
    for name in steps:
        step_of(reader.run, run_id, name)
    folder = log_folder(app)
    wanted = Filter(steps, attempt, stream)
    if follow:
        return _follow(app, reader, events, folder, wanted, as_json=as_json)
    attempts = [
        one for one in attempts_of(reader.run, events) if wanted.wants(one.step, one.number)
    ]
    if as_json:
        say_json(_log_documents(attempts, folder, stream))
        return 0
    is_empty = True
    for one in attempts:
        for ending, text in _texts(one, folder, stream):
            for line in lines_of(text):
                is_empty = False
                _say_log_line(one.step, one.number, ending, line)
    if is_empty:
        say_note("nothing was printed" if not attempts else "nothing of it is left")
    return 0


def _say_log_line(step: str, attempt: int, ending: str, line: str) -> None:
    name = one_line(step, 60)
    name = name if attempt == 1 else f"{name} #{attempt}"
    sign, style = ("|", "cyan") if ending == "out" else ("!", "red")
    if is_terminal(sys.stdout):
        say((f"{name} {sign} ", style), line)
    else:
        sys.stdout.write(f"{name} {sign} {line}\n")


# -- what was printed ---------------------------------------------------------------------------


class Attempt(NamedTuple):
    """What one try of a step printed; without `ended` it may print more."""

    step: str
    number: int
    started_at: float
    log: LogRange
    ended: bool


AttemptEvent = StepStarted | StepSucceeded | StepFailed | StepLost | GraphExtended
"""Events of attempts."""


def attempts_of(run: Run, events: Iterable[tuple[float, Event]]) -> list[Attempt]:
    """Every attempt that printed something, in the order in which they began."""
    found: dict[tuple[int, int], Attempt] = {}
    for at, event in events:
        if not isinstance(event, AttemptEvent):
            continue
        key, is_end = (event.step, event.attempt), not isinstance(event, StepStarted)
        if event.log is not None:
            name = run.steps[event.step].name
            found[key] = Attempt(name, event.attempt, event.started_at or at, event.log, is_end)
        elif is_end:
            found.pop(key, None)
    return sorted(found.values(), key=lambda one: one.started_at)


def log_sizes(attempts: Iterable[Attempt], folder: Path | None) -> tuple[int, int]:
    """How many bytes they printed to stdout and stderr so far."""
    files, out, err = files_of(folder), 0, 0
    for one in attempts:
        log = one.log
        ends = log.out_end, log.err_end
        if not one.ended:
            ends = files.size(f"{log.file}.out"), files.size(f"{log.file}.err")
        out += max(0, ends[0] - log.out_start)
        err += max(0, ends[1] - log.err_start)
    return out, err


def _texts(attempt: Attempt, folder: Path | None, stream: str | None) -> Iterator[tuple[str, str]]:
    """What the attempt printed: (`out` or `err`, text)."""
    log = attempt.log
    for ending, start, end in (
        ("out", log.out_start, log.out_end),
        ("err", log.err_start, log.err_end),
    ):
        if stream not in (None, ending) or folder is None:
            continue
        if start == end and attempt.ended:
            continue
        text = read_log(folder / f"{log.file}.{ending}", start, end if attempt.ended else None)
        if text is None:
            if start != end:
                _say_gone(attempt.step, f"{log.file}.{ending}")
        elif text:
            yield ending, text


def _say_gone(step: str, file: str) -> None:
    say_note(f"what step {step!r} printed is gone: there is no file {file}")


def read_log(path: Path, start: int, end: int | None) -> str | None:
    """Bytes [start, end) of a log file as text (None: to its end); None when it is gone."""
    content = _read(path, start, end)
    return None if content is None else content.decode("utf-8", "replace")


def _read(path: Path, start: int, end: int | None) -> bytes | None:
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read() if end is None else file.read(end - start)
    except OSError:
        return None


def _log_documents(
    attempts: Iterable[Attempt], folder: Path | None, stream: str | None
) -> list[dict[str, Any]]:
    return [
        {
            "step": one.step,
            "attempt": one.number,
            "started_at": iso(one.started_at),
            "stream": ending,
            "text": text,
        }
        for one in attempts
        for ending, text in _texts(one, folder, stream)
    ]


# -- what is being printed ----------------------------------------------------------------------


def _follow(
    app: App,
    reader: RunReader,
    events: list[tuple[float, Event]],
    folder: Path | None,
    wanted: Filter,
    *,
    as_json: bool,
) -> int:
    """Print what there is and what comes, until the run goes on no more."""
    steps = reader.run.steps
    following = Following(
        files_of(folder),
        lambda step, attempt: wanted.wants(steps[step].name, attempt),
        lambda step, file: _say_gone(steps[step].name, file),
    )
    say_lines = _saying(lambda step: steps[step].name, wanted, as_json=as_json)
    seen = None
    while True:
        # Whether it goes on is asked before what was recorded: then all of a dead owner is there.
        # An attempt whose end is not recorded is told as far as its files reached a look ago, so
        # there is always another look after the last news.
        is_over = app.owners.status_of(reader.recorded().record) not in OPEN
        count = app.journal.change_count()
        if count != seen:
            seen = count
            events += reader.refresh()
        for at, event in events:
            following.take(at, event)
        is_last = is_over and not events
        say_lines(following.lines(is_last=is_last))
        if is_last:
            return 0
        events = []
        following.look()
        time.sleep(LOOK_S)


def log_folder(app: App) -> Path | None:
    """Where the files lie; None when the home is in memory."""
    return None if app.settings.home is None else app.settings.home / "logs"


def files_of(folder: Path | None) -> Files:
    """The files of that folder."""

    def size(name: str) -> int:
        try:
            return 0 if folder is None else os.stat(folder / name).st_size
        except OSError:
            return 0

    def read(name: str, start: int, end: int) -> bytes | None:
        return None if folder is None else _read(folder / name, start, end)

    return Files(size, read)


def _saying(
    name_of: Callable[[int], str], wanted: Filter, *, as_json: bool
) -> Callable[[Iterable[Line]], None]:
    """What prints the lines as they come; as JSON, a document a line."""

    def say_lines(lines: Iterable[Line]) -> None:
        is_new = False
        for line in lines:
            if wanted.stream not in (None, line.ending):
                continue
            is_new = True
            name = name_of(line.step)
            if as_json:
                document = {"step": name, "attempt": line.attempt, "stream": line.ending}
                sys.stdout.write(json.dumps(document | {"text": line.text}) + "\n")
                continue
            for text in lines_of(line.text + "\n"):
                _say_log_line(name, line.attempt, line.ending, text)
        if is_new:
            sys.stdout.flush()

    return say_lines
