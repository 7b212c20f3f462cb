"""What a person sees while a run goes on: a live tree on a terminal, plain lines anywhere else.

The view of the run goes to stderr, so that stdout holds what the steps print and the result. Both
are shown above the live tree when they come out on the same terminal.
"""

import sys
import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol, TextIO

from rich.console import Group as Rows
from rich.live import Live
from rich.text import Text

from weftline.cli.look import STYLES, Glyphs, glyphs_for, look_of, times_of
from weftline.cli.terminal import (
    console,
    count,
    duration,
    is_terminal,
    lines_of,
    one_line,
    plain,
    say_warning,
)
from weftline.cli.tree import (
    CANCELED,
    DONE,
    FAILED,
    RETRYING,
    RUNNING,
    SKIPPED,
    WAITING,
    Group,
    Tree,
)
from weftline.core.events import (
    CancelRequested,
    Event,
    GraphExtended,
    RunSubmitted,
    ScopeClosed,
    StepFailed,
    StepLost,
    StepSkipped,
    StepStarted,
    StepSucceeded,
)
from weftline.engine.active import Output

PAINT_S = 0.1
"""Seconds between two paintings of the live tree."""

LINE_S = 1.0
"""Seconds between two lines on the progress of a large run."""

SMALL = 60
"""Steps up to which every change of a step is a line of its own."""

NAMED = 4
"""So many running steps of a group are shown by their own names."""


class View(Protocol):
    """Shows a run that goes on."""

    def begin(self, tree: Tree) -> None:
        """Show this from now on."""
        ...

    def note(self, event: Event, at: float) -> None:
        """This event has just been taken into the tree."""
        ...

    def print(self, output: Output) -> None:
        """A step printed something."""
        ...

    def warn(self, text: str) -> None: ...

    def refresh(self) -> None:
        """Show what is new, if it is time to."""
        ...

    def patience_s(self) -> float:
        """After how many seconds `refresh` has something to do at the latest."""
        ...

    def pause(self) -> None:
        """Leave the terminal to somebody else until the next `refresh`."""
        ...

    def end(self) -> None:
        """Show how it ended, for good."""
        ...


def new_view(*, quiet: bool, stdout_is_result: bool) -> View:
    """The view that fits the streams. With `stdout_is_result` what steps print goes to stderr."""
    out = sys.stderr if stdout_is_result else sys.stdout
    if quiet:
        return SilentView()
    if is_terminal(sys.stderr) and not console(sys.stderr).is_dumb_terminal:
        return LiveView(out)
    return PlainView(out)


class SilentView:
    """Shows nothing but warnings."""

    def begin(self, tree: Tree) -> None: ...

    def note(self, event: Event, at: float) -> None: ...

    def print(self, output: Output) -> None: ...

    def warn(self, text: str) -> None:
        say_warning(text)

    def refresh(self) -> None: ...

    def patience_s(self) -> float:
        return PAINT_S

    def pause(self) -> None: ...

    def end(self) -> None: ...


# -- anywhere but on a terminal -----------------------------------------------------------------


class PlainView:
    """Lines on stderr: one for each change of a step, or now and then one on a large run."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._tree: Tree | None = None
        self._began_at = self._last_line = time.monotonic()
        self._told: tuple[int, ...] = ()

    def begin(self, tree: Tree) -> None:
        self._tree = tree
        self._told = tuple(tree.counts)

    def note(self, event: Event, at: float) -> None:
        tree = self._tree
        assert tree is not None
        delivered, tree.delivered = tree.delivered, []
        if tree.total > SMALL:
            return
        line = _told(tree, event, at)
        if line:
            self._say(line)
        for step in delivered:
            self._say(f"{_name(tree, step)}: done")
        self._told = tuple(tree.counts)

    def print(self, output: Output) -> None:
        stream = sys.stderr if output.stream == "stderr" else self._out
        prefix = f"({one_line(output.step, 60)}) "
        stream.write("".join(f"{prefix}{line}\n" for line in _encodable(output.text, stream)))
        stream.flush()

    def warn(self, text: str) -> None:
        say_warning(text)

    def refresh(self) -> None:
        if time.monotonic() - self._last_line >= LINE_S:
            self._say_progress()

    def patience_s(self) -> float:
        return max(0.0, self._last_line + LINE_S - time.monotonic())

    def pause(self) -> None: ...

    def end(self) -> None:
        self._say_progress()

    def _say_progress(self) -> None:
        tree = self._tree
        self._last_line = time.monotonic()
        if tree is None or tuple(tree.counts) == self._told:
            return
        self._told = tuple(tree.counts)
        parts = [f"{tree.ended:,} of {count(tree.total, 'step')} ended"]
        active = [group for group in tree.groups if 0 < group.ended < group.total]
        for group in active[-3:]:
            parts.append(f"{one_line(group.name, 40)} {_progress(group)}")
        self._say("; ".join(parts))

    def _say(self, text: str) -> None:
        passed = duration(time.monotonic() - self._began_at)
        line = f"[{passed:>6}] {text}"
        sys.stderr.write("".join(f"{one}\n" for one in _encodable(line, sys.stderr)))
        sys.stderr.flush()


def _told(tree: Tree, event: Event, at: float) -> str:
    """The change of a step in words; nothing for events that change none that is shown."""
    match event:
        case StepStarted(step=step):
            return f"{_name(tree, step)}: running"
        case StepSucceeded(step=step, started_at=began):
            return f"{_name(tree, step)}: done in {duration(at - (began or at))}"
        case StepFailed(step=step, error=error, retry_at=retry_at):
            text = f"{_name(tree, step)}: failed: {one_line(f'{error.type}: {error.text}', 160)}"
            again = None if retry_at is None else retry_at - at
            return text if again is None else f"{text} (tried again in {duration(again)})"
        case StepLost(step=step, reason=reason):
            return f"{_name(tree, step)}: its process died ({one_line(reason, 120)}); started again"
        case StepSkipped(step=step, reason=reason):
            return f"{_name(tree, step)}: skipped, {one_line(reason, 120)}"
        case GraphExtended(step=step):
            returned = tree.returned_by(step)
            return f"{_name(tree, step)}: returned {count(returned, 'step')}"
        case ScopeClosed(step=step):
            return f"{_name(tree, step)}: caught the failure of what it returned"
        case CancelRequested():
            return "canceled"
        case RunSubmitted():
            return count(tree.total, "step")
    return ""


def _name(tree: Tree, step: int) -> str:
    return one_line(tree.names[step], 60)


def _progress(group: Group) -> str:
    counts = group.counts
    parts = [f"{counts[DONE]:,}/{group.total:,}"]
    for state, word in (
        (RUNNING, "running"),
        (RETRYING, "to be tried again"),
        (FAILED, "failed"),
        (SKIPPED, "skipped"),
        (CANCELED, "canceled"),
    ):
        if counts[state]:
            parts.append(f"{counts[state]:,} {word}")
    return ", ".join(parts)


def _encodable(text: str, stream: TextIO) -> list[str]:
    encoding = stream.encoding or "utf-8"
    return [line.encode(encoding, "replace").decode(encoding) for line in lines_of(text)]


# -- on a terminal ------------------------------------------------------------------------------


class Row(NamedTuple):
    """A line of the tree; `bar` is a group of several steps."""

    depth: int
    look: int
    name: str
    bar: Group | None
    notes: str
    time: str


class LiveView:
    """A tree at the foot of the terminal, painted anew at most ten times a second."""

    def __init__(self, out: TextIO) -> None:
        self._console = console(sys.stderr)
        self._glyphs: Glyphs = glyphs_for(sys.stderr)
        self._out = out
        self._shares_terminal = is_terminal(out)
        self._tree: Tree | None = None
        self._live: Live | None = None
        self._began_at = time.monotonic()
        self._painted_at = 0.0
        self._printed: list[Text] = []
        self._is_over = False

    def begin(self, tree: Tree) -> None:
        self._tree = tree

    def note(self, event: Event, at: float) -> None: ...

    def print(self, output: Output) -> None:
        if not self._shares_terminal and output.stream != "stderr":
            prefix = f"({one_line(output.step, 60)}) "
            self._out.write(
                "".join(f"{prefix}{line}\n" for line in _encodable(output.text, self._out))
            )
            self._out.flush()
            return
        name = one_line(output.step, 60)
        style = "red" if output.stream == "stderr" else "dim"
        for line in lines_of(output.text):
            self._printed.append(Text.assemble((f"({name})", style), " ", line))
        if len(self._printed) >= 1000:
            self._paint()

    def warn(self, text: str) -> None:
        self._printed.append(Text.assemble(("warning: ", "yellow"), plain(text)))

    def refresh(self) -> None:
        if self.patience_s() <= 0.0:
            self._paint()

    def patience_s(self) -> float:
        return max(0.0, self._painted_at + PAINT_S - time.monotonic())

    def pause(self) -> None:
        self._flush()
        live, self._live = self._live, None
        if live is not None:
            live.transient = True
            live.stop()

    def end(self) -> None:
        self._is_over = True
        self._paint()
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def _paint(self) -> None:
        if self._live is None and self._tree is not None:
            self._live = Live(
                get_renderable=self._frame,
                console=self._console,
                auto_refresh=False,
                # Whatever else writes to this terminal is to stand above the tree.
                redirect_stdout=is_terminal(sys.stdout),
                redirect_stderr=True,
                vertical_overflow="crop",
            )
            self._live.start()
        self._flush()
        if self._live is not None:
            self._live.refresh()
        self._painted_at = time.monotonic()

    def _flush(self) -> None:
        """Show what steps printed; all at once, since each time the tree is painted again."""
        if self._printed:
            text = Text("\n").join(self._printed)
            self._printed.clear()
            self._console.print(text, soft_wrap=True)

    def _frame(self) -> Rows:
        tree = self._tree
        assert tree is not None
        size = self._console.size
        now = time.time()
        # One line is for the summary, one stays free for what a person types.
        rows, rest = fit(rows_of(tree, now, self._glyphs.times), size.height - 3)
        clock = None if self._is_over else now
        lines = [
            Text(""),
            *self._texts(rows, size.width, clock),
        ]
        if rest:
            lines.append(Text(f"    {rest}", "dim"))
        passed = duration(time.monotonic() - self._began_at)
        summary = f"  {tree.ended:,} of {count(tree.total, 'step')}, {passed}"
        lines.append(Text(summary, "dim"))
        for line in lines:
            line.no_wrap, line.overflow = True, "ellipsis"
            line.truncate(size.width, overflow="ellipsis")
        return Rows(*lines)

    def _texts(self, rows: Sequence[Row], width: int, clock: float | None) -> list[Text]:
        names = [Text(row.name).cell_len + 2 * row.depth for row in rows]
        name_width = min(max(names, default=0), max(16, width // 2))
        time_width = max((len(row.time) for row in rows), default=0)
        has_bars = any(row.bar for row in rows)
        bar_width = max(5, min(24, width - name_width - time_width - 40)) if has_bars else 0
        texts = []
        for row in rows:
            text = Text("  " + "  " * row.depth)
            text.append_text(self._glyphs.mark(row.look, clock))
            text.append(" ")
            name = Text(row.name, STYLES[row.look])
            name.truncate(max(4, name_width - 2 * row.depth), overflow="ellipsis", pad=True)
            text.append_text(name)
            text.append("  " + row.time.rjust(time_width), "dim")
            if has_bars and row.bar is not None:
                text.append("  ")
                text.append_text(self._glyphs.bar(row.bar, bar_width))
            if row.notes:
                text.append("  " + row.notes)
            texts.append(text)
        return texts


def rows_of(tree: Tree, now: float, times: str = "×") -> list[Row]:
    """The tree line by line; `now` in seconds since 1970."""
    rows: list[Row] = []
    for depth, group in tree.walk():
        counts, title = group.counts, one_line(tree.title_of(group), 60)
        look = look_of(group)
        if group.total == 1:
            notes = f"attempt {group.tries + 1}" if group.tries and look != DONE else ""
            if look in (FAILED, RETRYING, SKIPPED, CANCELED):
                word = {FAILED: "failed", RETRYING: "waits to be tried again"}
                word |= {SKIPPED: "skipped", CANCELED: "canceled"}
                notes = word[look]
            rows.append(Row(depth, look, title, None, notes, _single_time(group, now)))
            continue
        title += f" {times}{group.total:,}"
        rows.append(Row(depth, look, title, group, _progress(group), _time_of(group, now)))
        if 0 < counts[RUNNING] <= NAMED and not group.children:
            for step, started_at in group.running.items():
                name = one_line(tree.names[step], 60)
                rows.append(Row(depth + 1, RUNNING, name, None, "", duration(now - started_at)))
    return rows


def _single_time(group: Group, now: float) -> str:
    if group.running:
        return duration(now - next(iter(group.running.values())))
    return "" if group.shortest_s is None else duration(group.longest_s)


def _time_of(group: Group, now: float) -> str:
    """From the first start of a step of the group to its last end, or until now."""
    if group.started_at is None:
        return times_of(group)
    until = group.ended_at if group.ended == group.total else now
    return duration((until or now) - group.started_at)


def fit(rows: list[Row], height: int) -> tuple[list[Row], str]:
    """The rows that matter most, as many as there is room for, and a word on the rest.

    What goes on or went wrong comes first, then what is next to that.
    """
    height = max(height, 3)
    if len(rows) <= height:
        return rows, ""
    room = height - 1
    active = [n for n, row in enumerate(rows) if row.look in (RUNNING, RETRYING, FAILED)]
    anchor = active[-1] if active else len(rows) - 1
    order = sorted(
        range(len(rows)),
        key=lambda n: (rows[n].look not in (FAILED,), n not in set(active), abs(n - anchor)),
    )
    kept = set(order[:room])
    hidden = [row for n, row in enumerate(rows) if n not in kept]
    parts = []
    for word, looks in (
        ("done", (DONE,)),
        ("running", (RUNNING, RETRYING)),
        ("failed", (FAILED,)),
        ("waiting", (WAITING,)),
        ("skipped", (SKIPPED,)),
        ("canceled", (CANCELED,)),
    ):
        number = sum(row.look in looks for row in hidden)
        if number:
            parts.append(f"{number:,} {word}")
    rest = f"... and {count(len(hidden), 'more line')}: {', '.join(parts)}"
    return [row for n, row in enumerate(rows) if n in kept], rest
