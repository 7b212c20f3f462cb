"""A run's time drawn in the terminal: a row for each step or group of them, a bar for each try.

2026-03-01 12:00:00 to 12:00:09 (9.0 s)
             0          5 s
             ├──────────┼────────
✓  load      ━━━━                  1.9 s
✓  train ×3      ━━━✗┈┈━━━━━━━━    6.2 s  1 failed
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rich.text import Text

from weftline.cli.look import STYLES, Glyphs, look_of
from weftline.cli.spans import Outcome, Span, SpanKind
from weftline.cli.terminal import count, duration, moment, one_line
from weftline.cli.tree import CANCELED, RETRYING, RUNNING, Group, Tree
from weftline.core.run import Run

MAX_ROWS = 40
MAX_SINGLED_OUT = 5
"""So many steps of a group are shown beside it at most, if there is room."""

MIN_BAR = 16
_TICK_DISTANCE = 10
_TICKS_S = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30),
    *(60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400),
)

# What a cell of a bar shows: where there is more than one thing, what is later here.
_NOTHING, _DELAY, _WAIT, _OK, _RUNS, _STOPPED, _STOP, _LOST, _LOSS, _FAILED, _FAILURE = range(11)
_CELL_STYLES = {
    _DELAY: "yellow",
    _WAIT: "dim",
    _OK: "green",
    _RUNS: "cyan",
    _STOPPED: "dim",
    _STOP: "dim",
    _LOST: "yellow",
    _LOSS: "bold yellow",
    _FAILED: "red",
    _FAILURE: "bold red",
}
_CELLS_OF = {  # an outcome's body and its last cell
    Outcome.SUCCEEDED: (_OK, _OK),
    Outcome.RETURNED_STEPS: (_OK, _OK),
    Outcome.ENDED: (_OK, _OK),
    Outcome.RUNNING: (_RUNS, _RUNS),
    Outcome.WAITING: (_WAIT, _WAIT),
    Outcome.FAILED: (_FAILED, _FAILURE),
    Outcome.TIMED_OUT: (_FAILED, _FAILURE),
    Outcome.LOST: (_LOST, _LOSS),
    Outcome.INTERRUPTED: (_LOST, _LOSS),
    Outcome.CANCELED: (_STOPPED, _STOP),
}
_WORDS = {
    _DELAY: "delay before a retry",
    _WAIT: "waits",
    _RUNS: "runs",
    _STOP: "canceled",
    _LOSS: "lost",
    _FAILURE: "failed",
}


class Row(NamedTuple):
    """A step (or a group of `total`) with all that took place of it."""

    depth: int
    look: int
    title: str
    total: int
    spans: list[Span]


class Rows(NamedTuple):
    """What is drawn, and what there is besides, in words."""

    rows: list[Row]
    rest: list[str]


def rows_of(tree: Tree, spans: Sequence[Span], limit: int = MAX_ROWS) -> Rows:
    """A row a step, in the order of the beginnings; with too many steps, a row a group of alike
    ones, and those of their steps that went wrong or took longest."""
    by_step: dict[int, list[Span]] = {}
    for span in spans:
        by_step.setdefault(span.step, []).append(span)
    rest = []
    if len(by_step) <= limit:
        rows = [_row_of_step(tree, step, found, 0) for step, found in by_step.items()]
    else:
        rows, hidden = _grouped(tree, by_step, limit)
        rest.append(hidden)
    waiting = tree.total - len(by_step)
    if waiting:
        rest.append(f"{count(waiting, 'step')} not begun")
    return Rows(rows, rest)


def bounds(run: Run, spans: Sequence[Span], now: float, *, is_driven: bool) -> tuple[float, float]:
    """From when to when there is something to draw: until `now` while the run goes on."""
    known = [run.submitted_at, run.ended_at]
    known += [span.started_at for span in spans] + [span.ended_at for span in spans]
    times = [at for at in known if at is not None] or [now]
    return min(times), max(times[0], now) if is_driven and run.is_open else max(times)


def _row_of_step(tree: Tree, step: int, spans: list[Span], depth: int) -> Row:
    return Row(depth, tree.states[step], tree.names[step], 1, spans)


def _grouped(tree: Tree, by_step: dict[int, list[Span]], limit: int) -> tuple[list[Row], str]:
    members: dict[int, list[int]] = {}
    for step in by_step:
        members.setdefault(tree.group_of(step).index, []).append(step)
    order = sorted(members, key=lambda n: _interest(by_step, members[n]), reverse=True)
    shown = set(order[:limit])
    singled_out = _singled_out(by_step, {n: members[n] for n in shown}, limit - len(shown))
    rows = []
    for index, steps in members.items():
        if index not in shown:
            continue
        rows.append(_row_of_group(tree, tree.groups[index], by_step, steps))
        rows += [_row_of_step(tree, n, by_step[n], 1) for n in steps if n in singled_out]
    single = len(singled_out) + sum(len(members[n]) == 1 for n in shown)
    grouped = sum(len(members[n]) for n in shown) - single
    hidden = len(by_step) - single - grouped
    parts = [f"{count(grouped, 'step')} shown only as part of a group"] if grouped else []
    parts += [f"{count(hidden, 'step')} not shown"] if hidden else []
    return rows, ", ".join(parts)


def _row_of_group(
    tree: Tree, group: Group, by_step: dict[int, list[Span]], steps: list[int]
) -> Row:
    spans = [span for step in steps for span in by_step[step]]
    return Row(0, look_of(group), tree.title_of(group), group.total, spans)


def _singled_out(
    by_step: dict[int, list[Span]], members: dict[int, list[int]], room: int
) -> set[int]:
    """The steps of groups that deserve a row of their own."""
    candidates: list[int] = []
    for steps in members.values():
        if len(steps) > 1:
            steps = sorted(steps, key=lambda n: _interest(by_step, [n]), reverse=True)
            candidates += steps[:MAX_SINGLED_OUT]
    candidates.sort(key=lambda n: _interest(by_step, [n]), reverse=True)
    return set(candidates[:room])


def _interest(by_step: dict[int, list[Span]], steps: list[int]) -> tuple[bool, bool, float]:
    """Failures first, then what goes on, then what took long."""
    spans = [span for step in steps for span in by_step[step]]
    is_bad = any(_CELLS_OF[span.outcome][1] in (_FAILURE, _LOSS) for span in spans)
    goes_on = any(span.ended_at is None for span in spans)
    ends = [span.started_at if span.ended_at is None else span.ended_at for span in spans]
    return is_bad, goes_on, max(ends) - spans[0].started_at


# -- drawing ------------------------------------------------------------------------------------


class Scale(NamedTuple):
    """The time from `begin` to `end` (seconds since 1970) on `width` cells."""

    begin: float
    end: float
    width: int

    def cell(self, at: float) -> int:
        share = (at - self.begin) / max(self.end - self.begin, 1e-9)
        return min(max(int(share * self.width), 0), self.width - 1)


def draw_timeline(
    found: Rows, begin: float, end: float, *, width: int, glyphs: Glyphs
) -> list[Text]:
    """The lines of the drawing, none wider than `width`; what goes on is drawn up to `end`."""
    rows = found.rows
    titles = [_title(row, glyphs) for row in rows]
    title_width = min(max((Text(t).cell_len for t in titles), default=0), max(12, width // 4))
    times = [_time_of(row, end) for row in rows]
    time_width = max((len(text) for text in times), default=0)
    notes = [_notes_of(row) for row in rows]
    notes_width = min(max((len(text) for text in notes), default=0), width // 4)
    left = 3 + title_width + 2
    bar_width = max(MIN_BAR, width - left - 2 - time_width - 2 - notes_width)
    scale = Scale(begin, max(end, begin + 0.001), bar_width)
    lines = [Text(_heading(begin, scale.end), "dim")]
    lines += [Text(" " * left + text, "dim") for text in _axis(scale, glyphs)]
    used: set[int] = set()
    for row, title, time, note in zip(rows, titles, times, notes, strict=True):
        cells = _cells(row.spans, scale)
        used.update(cells)
        line = glyphs.mark(row.look)
        line.append("  ")
        name = Text(title, STYLES[row.look])
        name.truncate(title_width, overflow="ellipsis", pad=True)
        line.append_text(name)
        line.append("  ")
        for cell in cells:
            line.append(glyphs.timeline[cell], _CELL_STYLES.get(cell, ""))
        line.append("  " + time.rjust(time_width), "dim")
        line.append("  " + note if note else "")
        line.truncate(width, overflow="ellipsis")
        line.rstrip()
        lines.append(line)
    lines += [Text(f"... {text}", "dim") for text in found.rest]
    legend = [f"{glyphs.timeline[cell]} {word}" for cell, word in _WORDS.items() if cell in used]
    if legend:
        text = Text("   " + "   ".join(legend), "dim")
        text.truncate(width, overflow="ellipsis")
        lines.append(text)
    return lines


def _title(row: Row, glyphs: Glyphs) -> str:
    title = one_line(row.title, 60)
    title = title if row.total == 1 else f"{title} {glyphs.times}{row.total:,}"
    return "  " * row.depth + title


def _heading(begin: float, end: float) -> str:
    first, last = moment(begin), moment(end)
    if last[:10] == first[:10]:
        last = last[11:]
    return f"{first} to {last} ({duration(end - begin)})"


def _time_of(row: Row, end: float) -> str:
    """From the first beginning to the last end."""
    last = max(end if span.ended_at is None else span.ended_at for span in row.spans)
    return duration(last - min(span.started_at for span in row.spans))


def _notes_of(row: Row) -> str:
    """What the marks in the bar stand for, counted."""
    bad = [span for span in row.spans if span.kind is not SpanKind.RETRY_DELAY]
    parts = []
    for outcome in (Outcome.FAILED, Outcome.TIMED_OUT, Outcome.LOST, Outcome.INTERRUPTED):
        number = sum(span.outcome is outcome for span in bad)
        if number:
            parts.append(f"{number:,} {outcome}" if len(bad) > 1 else str(outcome))
    for look, word in ((RUNNING, "runs"), (RETRYING, "to be tried again"), (CANCELED, "canceled")):
        is_waiting = look == RUNNING and any(s.outcome is Outcome.WAITING for s in row.spans)
        if row.look == look:
            parts.append("waits" if is_waiting else word)
    return ", ".join(parts)


def _cells(spans: Iterable[Span], scale: Scale) -> list[int]:
    """What stands in each cell of the bar: of several things, the one that matters most."""
    cells = [_NOTHING] * scale.width
    for span in spans:
        body, last = _CELLS_OF[span.outcome]
        if span.kind is SpanKind.RETRY_DELAY:
            body = last = _DELAY
        elif span.kind is SpanKind.WAIT and body == _OK:
            body = last = _WAIT
        first_cell = scale.cell(span.started_at)
        last_cell = scale.cell(scale.end if span.ended_at is None else span.ended_at)
        for cell in range(first_cell, last_cell):
            cells[cell] = max(cells[cell], body)
        cells[last_cell] = max(cells[last_cell], last)
    return cells


def _axis(scale: Scale, glyphs: Glyphs) -> tuple[str, str]:
    """Times since the beginning, and a ruler with a tick below each of them."""
    length = scale.end - scale.begin
    most = max(1, scale.width // _TICK_DISTANCE)
    step = next((each for each in _TICKS_S if length / each <= most + 1e-6), None)
    if step is None:
        step = 86400 * -(-length // (86400 * most))
    words, ruler = "", [glyphs.ticks[1]] * scale.width
    number = 0
    while (after := number * step) < length * (1 - 1e-9):
        cell = scale.cell(scale.begin + after)
        word = _tick(after, step)
        if cell + len(word) <= scale.width:
            words = words.ljust(cell) + word
        ruler[cell] = glyphs.ticks[0] if number == 0 else glyphs.ticks[2]
        number += 1
    return words, "".join(ruler)


def _tick(after: float, step: float) -> str:
    if after == 0:
        return "0"
    if step < 1 and after < 1:
        return f"{after * 1000:g} ms"
    if after < 60:
        return f"{after:g} s"
    parts = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        number = int(after // size)
        after -= number * size
        if number:
            parts.append(f"{number} {unit}")
    return " ".join(parts[:2])
