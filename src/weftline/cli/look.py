"""How the steps of a run look to people: marks, colours, bars, and what is said beside them."""

from typing import NamedTuple, TextIO

from rich.text import Text

from weftline.cli.terminal import duration
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

STYLES = {
    WAITING: "dim",
    RUNNING: "cyan",
    RETRYING: "yellow",
    DONE: "",
    FAILED: "bold red",
    SKIPPED: "dim",
    CANCELED: "dim",
}
_MARK_STYLES = {**STYLES, DONE: "green"}
STATUS_STYLES = {
    "SUCCESSFUL": "green",
    "RUNNING": "cyan",
    "PENDING": "cyan",
    "FAILED": "bold red",
    "CANCELED": "dim",
    "RESUMABLE": "yellow",
    "PAUSED": "yellow",
}
_WORDS = {
    RUNNING: "running",
    RETRYING: "to be tried again",
    FAILED: "failed",
    SKIPPED: "skipped",
    CANCELED: "canceled",
}


class Glyphs:
    """The characters to draw with; `is_plain` for terminals that know only ASCII."""

    def __init__(self, *, is_plain: bool = False) -> None:
        self._is_plain = is_plain
        marks = ".>~vxs/" if is_plain else "○●↻✓✗–■"
        self._marks = dict(zip(range(7), marks, strict=True))
        self.spinner = "|/-\\" if is_plain else "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
        self.times = "x" if is_plain else "×"
        self.down = "|" if is_plain else "│"
        self.across = "-" if is_plain else "─"
        self.inner = ":" if is_plain else "┆"
        self._full, self._empty = ("#", "-") if is_plain else ("━", "─")
        # As `timeline` counts them: nothing, a delay, a wait, what is well, runs, was stopped, was
        # lost or failed, the last three with the cell in which that happened behind them.
        self.timeline = " :.=>=/=!=x" if is_plain else " ┈┄━╍━■━!━✗"
        self.ticks = "|-+" if is_plain else "├─┼"

    def mark(self, look: int, now: float | None = None) -> Text:
        """The sign of a state; with `now` that of something running turns."""
        sign = self._marks[look]
        if look == RUNNING and now is not None:
            sign = self.spinner[int(now * 10) % len(self.spinner)]
        return Text(sign, _MARK_STYLES[look])

    def level(self, level: str) -> str:
        """The sign of how something is: `ok`, `warn` or `bad`."""
        return {"ok": self._marks[DONE], "warn": "!", "bad": self._marks[FAILED]}[level]

    def rail(self, kind: str, *, is_end: bool) -> str:
        """Where a rail meets a line across: at its left or right end, or in its middle."""
        if self._is_plain:
            return "`" if is_end and kind == "left" else "'" if is_end else "+"
        if is_end:
            return {"left": "╰", "middle": "┴", "right": "╯"}[kind]
        return {"left": "├", "middle": "┼", "right": "┤"}[kind]

    def bar(self, group: Group, width: int) -> Text:
        """How far the group has come."""
        share = (group.counts[DONE] + group.counts[SKIPPED]) / group.total
        full = width if share >= 1 else min(int(share * width), width - 1)
        text = Text(self._full * full, "red" if group.counts[FAILED] else "green")
        text.append(self._empty * (width - full), "dim")
        return text


def glyphs_for(stream: TextIO) -> Glyphs:
    """Those that can be written to the stream."""
    encoding = (getattr(stream, "encoding", None) or "ascii").lower().replace("-", "")
    return Glyphs(is_plain=not encoding.startswith("utf"))


def look_of(group: Group) -> int:
    """The state that stands for the whole group: the one that matters most."""
    counts = group.counts
    for state in (FAILED, RUNNING, RETRYING):
        if counts[state]:
            return state
    if counts[WAITING]:
        return RUNNING if group.ended else WAITING
    return next((state for state in (CANCELED, DONE, SKIPPED) if counts[state]), WAITING)


class Details(NamedTuple):
    """What stands beside a group's name. `time`: how long it took; `notes`: what else there is."""

    time: str
    notes: str


def details_of(tree: Tree, group: Group, now: float) -> Details:
    """What is to be said of the group, in a run that one looks back on."""
    counts = group.counts
    if group.total == 1:
        parts = [_WORDS[state] for state in _WORDS if counts[state]]
        if group.tries:
            parts.append(f"{group.tries + 1} attempts")
        if counts[RUNNING]:
            started_at = next(iter(group.running.values()))
            return Details(duration(now - started_at), ", ".join(parts))
        time = duration(group.longest_s) if group.shortest_s is not None else ""
        return Details(time, ", ".join(parts))
    parts = [f"{counts[DONE]:,} done"] if counts[DONE] else []
    parts += [f"{counts[state]:,} {word}" for state, word in _WORDS.items() if counts[state]]
    if counts[WAITING]:
        parts.append(f"{counts[WAITING]:,} waiting")
    if group.tries:
        parts.append(f"{group.tries:,} repeated attempt{'' if group.tries == 1 else 's'}")
    return Details(times_of(group), ", ".join(parts))


def times_of(group: Group) -> str:
    """How long single steps of the group took."""
    if group.shortest_s is None:
        return ""
    shortest, longest = duration(group.shortest_s), duration(group.longest_s)
    if shortest == longest:
        return longest
    (low, unit), (high, high_unit) = shortest.rsplit(" ", 1), longest.rsplit(" ", 1)
    is_one_unit = unit == high_unit and " " not in low + high
    return f"{low if is_one_unit else shortest} to {longest}"
