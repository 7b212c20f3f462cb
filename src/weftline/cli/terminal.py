"""Text on a terminal: made harmless, put in few words, and coloured where there is colour."""

import json
import re
import shlex
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import islice
from pprint import pformat
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

# Sequences that a terminal acts on: CSI, the strings (OSC, DCS, ...) up to their end, and others.
_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]*[0-~]"
)
# What is left of them, other control characters, and those that turn the order of text around.
_CONTROLS: dict[int, str | None] = {
    **dict.fromkeys([*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0)]),
    **dict.fromkeys([0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]),
    0x2028: "\n",
    0x2029: "\n",
    **dict.fromkeys(range(0xD800, 0xE000), "\N{REPLACEMENT CHARACTER}"),
}
SHOWN_ITEMS = 100
"""So many items of a list or dict are shown where it is to be short."""

_SAFE = re.compile(r"[ -~]*")


def plain(text: str) -> str:
    """The text with nothing in it that a terminal would act on, but for tabs and line ends."""
    if _SAFE.fullmatch(text):
        return text
    return _SEQUENCES.sub("", text).translate(_CONTROLS)


def one_line(text: str, limit: int = 200) -> str:
    """The text as one line of at most `limit` characters."""
    line = " ".join(plain(text[: limit * 8]).split())
    return line if len(line) <= limit else line[: limit - 3].rstrip() + "..."


def lines_of(text: str) -> list[str]:
    """The lines that are left to be seen when a terminal has shown the text.

    A carriage return begins a line anew; programs draw progress that way.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    if lines and not lines[-1]:
        lines.pop()
    return [plain(line.rstrip("\r").rpartition("\r")[2]) for line in lines]


def duration(seconds: float) -> str:
    """A length of time, in two units at most."""
    seconds = max(0.0, seconds)
    if seconds < 0.00995:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, small_size, small in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // small_size:02d} {small}"
    return f"{whole} s"


def byte_count(size: int) -> str:
    """A number of bytes: `812 B`, `1.2 MB`; a megabyte is a million bytes."""
    amount, units = float(size), ["B", "kB", "MB", "GB", "TB", "PB"]
    while amount >= 999.5 and len(units) > 1:
        amount /= 1000
        del units[0]
    return f"{amount:.0f} {units[0]}" if units[0] == "B" else f"{amount:.3g} {units[0]}"


def moment(at: float | None) -> str:
    """A time as the clock on the wall shows it."""
    if at is None:
        return ""
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def iso(at: float | None) -> str | None:
    """A time for programs: ISO 8601 in UTC."""
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def count(number: int, noun: str) -> str:
    """`1 step`, `1,797 steps`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def command(*words: str) -> str:
    """A command that a person can paste into a shell."""
    return plain(shlex.join(words))


def value_text(value: Any, *, limit: int | None = None) -> str:
    """A user's value for people; with `limit`, a large one is cut to about so many characters."""
    if limit is not None:
        value = _cut(value, limit, depth=6)
    try:
        text = (
            value if type(value) is str else pformat(value, 1, 98, compact=True, sort_dicts=False)
        )
    except Exception as error:  # of the user's own __repr__
        text = f"<{type(value).__name__} whose repr raised {type(error).__name__}: {error}>"
    text = plain(text)
    return text if limit is None or len(text) <= limit else text[:limit].rstrip() + " ..."


class _More:
    """Stands for what was left out."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _cut(value: Any, limit: int, depth: int) -> Any:
    """The value without most of what is long in it; only lists, tuples, dicts and texts are."""
    if type(value) is str and len(value) > limit:
        return value[:limit] + " ..."
    if type(value) not in (list, tuple, dict) or not value:
        return value
    if depth == 0:
        return _More("...")
    left = len(value) - SHOWN_ITEMS
    if type(value) is dict:
        cut = {k: _cut(v, limit, depth - 1) for k, v in islice(value.items(), SHOWN_ITEMS)}
        return cut if left <= 0 else cut | {_More("..."): _More(f"{left:,} more")}
    items = [_cut(item, limit, depth - 1) for item in islice(value, SHOWN_ITEMS)]
    if left > 0:
        items.append(_More(f"... {left:,} more"))
    return items if type(value) is list else tuple(items)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person looks at the stream (or types into it)."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # it is closed
        return False


def console(stream: TextIO | None = None) -> Console:
    """What paints on the stream (stdout): it takes every text as it stands."""
    return Console(
        file=stream or sys.stdout,
        markup=False,
        highlight=False,
        emoji=False,
        soft_wrap=True,
        legacy_windows=False,
    )


def say(*parts: str | tuple[str, str] | Text, to: TextIO | None = None) -> None:
    """One line (on stdout); a part may come with a style."""
    console(to).print(Text.assemble(*parts), soft_wrap=True)


def say_error(text: str) -> None:
    """`error: ...` on stderr."""
    say(("error: ", "bold red"), plain(text), to=sys.stderr)


def say_warning(text: str) -> None:
    """`warning: ...` on stderr."""
    say(("warning: ", "yellow"), plain(text), to=sys.stderr)


def say_note(text: str) -> None:
    """What is worth knowing but belongs to no result, on stderr."""
    say(("note: ", "dim"), plain(text), to=sys.stderr)


def say_json(document: Any) -> None:
    """The document on stdout. Only ASCII is written, so that no terminal acts on any of it."""
    sys.stdout.write(json.dumps(document, indent=2) + "\n")
    sys.stdout.flush()


def say_table(head: tuple[str, ...], rows: Iterable[tuple[str | Text, ...]]) -> None:
    """Columns on stdout, as wide as what stands in them; nothing is cut, so that it can be used."""
    cells = [[Text(plain(c)) if isinstance(c, str) else c for c in row] for row in rows]
    widths = [
        max([len(title), *(row[n].cell_len for row in cells)]) for n, title in enumerate(head)
    ]
    paint = console()
    lines = [[Text(title, "bold") for title in head], *cells]
    for line in lines:
        text = Text()
        for cell, width in zip(line, widths, strict=True):
            text.append_text(cell)
            text.append(" " * (width - cell.cell_len + 2))
        text.rstrip()
        paint.print(text, soft_wrap=True)
