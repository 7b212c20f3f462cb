"""A run's time as lines of text: bars where something took place, and a scale that tells when."""

import re

import pytest
from msgspec import Raw

from tests.graphs import Book, error, graph, step, timer
from weftline.cli.look import Glyphs
from weftline.cli.spans import Outcome, Span, SpanKind, spans_of
from weftline.cli.timeline import MAX_ROWS, Rows, bounds, draw_timeline, rows_of
from weftline.cli.tree import Tree
from weftline.core.events import StepFailed, StepStarted, StepSucceeded


def rows(book: Book, *, is_driven: bool = True) -> Rows:
    return rows_of(Tree.of(book.run), spans_of(book.run, book.events, is_driven=is_driven))


def drawn(book: Book, now: float, width: int = 72, *, is_driven: bool = True) -> list[str]:
    spans = spans_of(book.run, book.events, is_driven=is_driven)
    begin, end = bounds(book.run, spans, now, is_driven=is_driven)
    found = rows_of(Tree.of(book.run), spans)
    lines = draw_timeline(found, begin, end, width=width, glyphs=Glyphs(is_plain=True))
    assert all(line.cell_len <= width for line in lines)
    return [line.plain for line in lines]


def bar_of(lines: list[str], name: str) -> str:
    """The bar of this row, from the first mark to the last."""
    [line] = [one for one in lines if re.match(rf". +{name} ", one)]
    ruler = lines[2]
    return line[ruler.index("|") : len(ruler)].strip()


def test_tries_waits_failures_and_losses_are_marked_in_the_bars() -> None:
    book = Book(
        graph(
            step("all", 1, 2, 3, 4), step("a", tries=2), timer("sleep", 9.0), step("b"), step("c")
        )
    )
    book.begin_wait("sleep")  # at 102
    book.record(StepStarted(1, 1, started_at=102.0))
    book.now = 107.0
    book.record(StepFailed(1, 1, error(), 112.0))  # at 108
    book.record(StepStarted(3, 1, started_at=101.0))
    book.now = 111.0
    book.record(StepSucceeded(1, 2, Raw(b"null"), started_at=112.0))
    book.now = 112.0
    book.lose("b")  # at 113
    book.start("c")  # at 114
    lines = drawn(book, 121.0)
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d to \d\d:\d\d:\d\d \(20.0 s\)", lines[0])
    assert re.fullmatch(r"=+x:+=+", bar_of(lines, "a"))
    assert re.fullmatch(r"=+!", bar_of(lines, "b"))
    assert re.fullmatch(r">+", bar_of(lines, "c"))
    assert re.fullmatch(r"\.+", bar_of(lines, "sleep"))
    assert lines[-2:] == [
        "... 1 step not begun",
        "   : delay before a retry   . waits   > runs   ! lost   x failed",
    ]


def test_a_bar_is_as_long_as_what_it_stands_for_took() -> None:
    book = Book(graph(step("b", 1), step("a")))
    book.record(StepSucceeded(1, 1, Raw(b"null"), started_at=101.0))
    book.now = 109.0
    book.record(StepSucceeded(0, 1, Raw(b"null"), started_at=106.0))  # at 110
    lines = drawn(book, 500.0)
    width = len(lines[2]) - lines[2].index("|")
    assert len(bar_of(lines, "a")) == pytest.approx(width / 9, abs=1.0)
    assert len(bar_of(lines, "b")) == pytest.approx(width * 4 / 9, abs=1.0)
    assert lines[1].split() == ["0", "2", "s", "4", "s", "6", "s", "8", "s"]


def test_a_run_that_was_left_is_drawn_up_to_its_last_event() -> None:
    book = Book(graph(step("both", 1, 2), step("a"), step("b")))
    book.start("a")
    book.now = 160.0
    book.succeed("b")  # at 161
    lines = drawn(book, 10_000.0, is_driven=False)
    assert "(1 min 00 s)" in lines[0]
    assert bar_of(lines, "a").endswith("!")
    assert "interrupted" in next(line for line in lines if "  a " in line)


@pytest.mark.parametrize(
    ("length", "ticks"),
    [
        (0.01, ["0", "2 ms", "4 ms", "6 ms", "8 ms"]),
        (100.0, ["0", "30 s", "1 min"]),
        (5400.0, ["0", "30 min", "1 h"]),
        (400_000.0, ["0", "1 d", "2 d", "3 d", "4 d"]),
        (86400.0 * 90, ["0", "18 d", "36 d", "54 d", "72 d"]),
    ],
)
def test_times_at_the_axis_are_round(length: float, ticks: list[str]) -> None:
    span = Span(0, 1, SpanKind.ATTEMPT, 100.0, 100.0 + length, Outcome.SUCCEEDED)
    tree = Tree.of(Book(graph(step("a"))).run)
    found = rows_of(tree, [span])
    lines = draw_timeline(found, 100.0, 100.0 + length, width=70, glyphs=Glyphs())
    assert re.split(r"  +", lines[1].plain.strip()) == ticks
    words, ruler = lines[1].plain, lines[2].plain
    marks = [n for n, sign in enumerate(ruler) if sign in "├┼"]
    assert [words.index(tick) for tick in ticks] == marks[: len(ticks)]


def test_up_to_forty_steps_have_a_row_each_in_the_order_of_their_beginnings() -> None:
    names = [f"s{n}" for n in range(MAX_ROWS)]
    book = Book(graph(*[step(name) for name in names], output=list(range(MAX_ROWS))))
    for name in reversed(names):
        book.succeed(name)
    found = rows(book)
    assert [row.title for row in found.rows] == names[::-1]
    assert found.rest == []


def test_more_steps_are_drawn_as_groups_with_those_that_matter() -> None:
    count = 1000
    trains = [step("train", count + 1) for _ in range(count)]
    book = Book(graph(step("best", list(range(1, count + 1))), *trains, step("load")))
    book.succeed("load")
    for n in range(1, 600):
        book.record(StepSucceeded(n, 1, Raw(b"null"), started_at=book.now))
    book.record(StepSucceeded(600, 1, Raw(b"null"), started_at=book.now - 50))
    book.record(StepStarted(601, 1, started_at=book.now))
    book.lose("train_601")
    found = rows(book)
    assert [(row.depth, row.title, row.total) for row in found.rows[:2]] == [
        (0, "load", 1),
        (0, "train", count),
    ]
    single = {row.title for row in found.rows if row.depth == 1}
    assert len(single) == 5
    assert {"train_599", "train_600", "train_601"} <= single
    assert found.rest == ["597 steps shown only as part of a group", "399 steps not begun"]
    [line] = [one for one in drawn(book, book.now) if "train x1,000" in one]
    assert "1 lost" in line


def test_of_too_many_groups_those_that_failed_or_took_long_are_drawn() -> None:
    count = 60
    steps = [step(f"s{n}", tries=1) for n in range(count)]
    book = Book(graph(*steps, step("end", list(range(count))), output=count))
    for n in range(count - 1):
        took = 30.0 if n == 7 else 0.25
        book.record(StepSucceeded(n, 1, Raw(b"null"), started_at=book.now + 1 - took))
    book.fail(f"s{count - 1}")
    found = rows(book)
    titles = [row.title for row in found.rows]
    assert len(titles) == MAX_ROWS
    assert {"s7", "s59"} <= set(titles)
    assert found.rest[0] == "20 steps not shown"


def test_a_run_in_which_nothing_began_is_only_its_time() -> None:
    book = Book(graph(step("a")))
    lines = drawn(book, 111.0)
    assert lines[-1] == "... 1 step not begun"
    assert "(10.0 s)" in lines[0]
