"""A run's graph drawn in the terminal: a line a group, joined by rails from top to bottom.

    ✓      load
    ├─✓    check
    ├─✓    train ×12
    │ ●    pick_best

A rail begins at a step and ends at the last step that reads from it; what a step returned is drawn
below it, indented. A rail that only passes a crossing is drawn through it.
"""

from collections.abc import Iterable, Sequence

from rich.text import Text

from weftline.cli.look import STYLES, Glyphs, details_of, look_of
from weftline.cli.terminal import one_line
from weftline.cli.tree import Group, Tree

MAX_RAILS = 16
"""With more rails side by side nobody can follow one: names of inputs are listed instead."""

MAX_LINES = 200


class _Line:
    """A line to be drawn: rails (what stands left of the name) and the group itself."""

    __slots__ = ("depth", "group", "rails", "sources")

    def __init__(self, rails: Text, group: Group, sources: str, depth: int) -> None:
        self.rails, self.group, self.sources, self.depth = rails, group, sources, depth


def draw(tree: Tree, now: float, glyphs: Glyphs) -> list[Text]:
    """The lines of the drawing; `now` (seconds since 1970) for what still runs."""
    lines = list(_lines(tree, list(tree.root.children.values()), glyphs))
    hidden = len(lines) - MAX_LINES
    if hidden > 0:
        del lines[MAX_LINES:]
    details = [details_of(tree, line.group, now) for line in lines]
    titles = ["  " * line.depth + one_line(_title(tree, line.group, glyphs), 60) for line in lines]
    rails_width = max((line.rails.cell_len for line in lines), default=0)
    titles_width = max((Text(title).cell_len for title in titles), default=0)
    times_width = max((len(detail.time) for detail in details), default=0)
    drawn = []
    for line, title, detail in zip(lines, titles, details, strict=True):
        text = line.rails.copy()
        text.append(" " * (rails_width - text.cell_len + 2))
        text.append(title, STYLES[look_of(line.group)])
        text.append(" " * (titles_width - Text(title).cell_len))
        if times_width:
            text.append("  " + detail.time.rjust(times_width), "dim")
        notes = "  ".join(part for part in (detail.notes, line.sources) if part)
        if notes:
            text.append("  " + notes)
        text.rstrip()
        drawn.append(text)
    if hidden > 0:
        drawn.append(Text(f"... and {hidden:,} more lines", "dim"))
    return drawn


def _title(tree: Tree, group: Group, glyphs: Glyphs) -> str:
    title = tree.title_of(group)
    return title if group.total == 1 else f"{title} {glyphs.times}{group.total:,}"


def _lines(tree: Tree, groups: Sequence[Group], glyphs: Glyphs) -> Iterable[_Line]:
    """The lines of the groups and all below them, by a list of blocks to go on with: a tree may be
    as deep as the code is."""
    blocks = [_Block(groups, Text(), glyphs)]
    while blocks:
        group = blocks[-1].next()
        if group is None:
            blocks.pop()
            continue
        yield _Line(blocks[-1].rails, group, blocks[-1].sources, len(blocks) - 1)
        if group.children:
            before = blocks[-1].margin()
            blocks.append(_Block(list(group.children.values()), before, glyphs))


class _Block:
    """The groups of one graph, drawn one after the other."""

    def __init__(self, groups: Sequence[Group], margin: Text, glyphs: Glyphs) -> None:
        self._margin, self._glyphs = margin, glyphs
        self._groups = groups
        row_of = {group.index: row for row, group in enumerate(self._groups)}
        self._inputs = [
            {n for n in group.upstream if row_of.get(n, row) < row}
            for row, group in enumerate(self._groups)
        ]
        self._last_use: dict[int, int] = {}
        for row, sources in enumerate(self._inputs):
            for source in sources:
                self._last_use[source] = row
        self._row = -1
        self._rails: list[int | None] = []  # the group whose value runs down each of them
        self._above: set[int] = set()  # places where a line has come down to the last row
        self.rails = Text()
        self.sources = ""
        self._widest = self._width()

    def _width(self) -> int:
        """How many rails stand side by side at most."""
        open_rails = widest = 0
        ends: dict[int, int] = {}
        for row, group in enumerate(self._groups):
            open_rails -= ends.get(row, 0)
            widest = max(widest, open_rails + 1)
            last = self._last_use.get(group.index)
            if last is not None:
                open_rails += 1
                ends[last] = ends.get(last, 0) + 1
        return widest

    def next(self) -> Group | None:
        """The next group; `rails` and `sources` are those of its line then."""
        self._row += 1
        if self._row >= len(self._groups):
            return None
        group = self._groups[self._row]
        if self._widest > MAX_RAILS:
            self.rails = self._margin.copy()
            self.rails.append_text(self._glyphs.mark(look_of(group)))
            names = [self._groups[r].name for r in range(self._row) if self._is_input(r)]
            listed = ", ".join(one_line(name, 30) for name in names[:5])
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            self.sources = f"from {listed}{more}" if names else ""
        else:
            self._draw(group)
        return group

    def _is_input(self, row: int) -> bool:
        return self._groups[row].index in self._inputs[self._row]

    def _draw(self, group: Group) -> None:
        row, rails, inputs = self._row, self._rails, self._inputs[self._row]
        reads = {place for place, source in enumerate(rails) if source in inputs}
        ending = {place for place in reads if self._last_use[rails[place] or 0] == row}
        # Straight below an input that ends here, else where nothing has come down: a step below
        # another one, with no gap, reads from it.
        free = [n for n, source in enumerate(rails) if source is None and n not in self._above]
        own = min(ending) if ending else free[0] if free else len(rails)
        if own == len(rails):
            rails.append(None)
        left, right = min(reads | {own}), max(reads | {own})
        glyphs, text = self._glyphs, self._margin.copy()
        for place, source in enumerate(rails):
            inside = left <= place <= right
            if place == own:
                text.append_text(glyphs.mark(look_of(group)))
            elif place in reads:
                is_end = place in ending
                kind = "left" if place == left else "right" if place == right else "middle"
                text.append(glyphs.rail(kind, is_end=is_end), "dim")
            elif source is not None:
                text.append(glyphs.down, "dim")
            else:
                text.append(glyphs.across if inside else " ", "dim")
            if place + 1 < len(rails):
                text.append(glyphs.across if left <= place < right else " ", "dim")
        self._above = {own} | {n for n, source in enumerate(rails) if source is not None}
        for place in ending:
            rails[place] = None
        rails[own] = group.index if group.index in self._last_use else None
        while rails and rails[-1] is None and len(rails) - 1 not in self._above:
            rails.pop()
        text.rstrip()
        self.rails = text

    def margin(self) -> Text:
        """What stands left of what the last group returned."""
        margin = self._margin.copy()
        rails = [] if self._widest > MAX_RAILS else list(self._rails)
        while rails and rails[-1] is None:
            rails.pop()
        for source in rails:
            margin.append(f"{self._glyphs.down if source is not None else ' '} ", "dim")
        margin.append(f"{self._glyphs.inner} ", "dim")
        # Lines lie between now: nothing comes down to the next row but what runs on.
        self._above = {n for n, source in enumerate(self._rails) if source is not None}
        return margin
