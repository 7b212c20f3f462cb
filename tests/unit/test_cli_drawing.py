"""A run's graph as lines of text: what is joined reads from each other, and nothing else is."""

from textwrap import dedent

import pytest
from msgspec import Raw

from tests.graphs import error, graph, step
from weftline.cli.drawing import MAX_LINES, draw
from weftline.cli.look import Glyphs
from weftline.cli.tree import Tree
from weftline.cli.view import fit, rows_of
from weftline.core.events import (
    CancelRequested,
    Event,
    RunFinished,
    RunStatus,
    StepFailed,
    StepSkipped,
    StepStarted,
    StepSucceeded,
)
from weftline.core.graph import Graph


def tree_of(*returned: tuple[int | None, Graph]) -> Tree:
    tree = Tree()
    for owner, each in returned:
        tree.add_scope(owner, each)
    return tree


def drawn(tree: Tree, *, is_plain: bool = False) -> str:
    lines = draw(tree, 100.0, Glyphs(is_plain=is_plain))
    return "\n".join(line.plain for line in lines)


def picture(text: str) -> str:
    return dedent(text).strip("\n")


def succeeded(number: int, took_s: float = 0.5) -> Event:
    return StepSucceeded(number, 1, Raw(b"null"), 50.0 - took_s)


def test_a_chain_goes_straight_down() -> None:
    tree = tree_of((None, graph(step("c", 1), step("b", 2), step("a"))))
    assert drawn(tree) == picture("""
        ○  a
        ○  b
        ○  c
    """)


def test_a_fan_out_is_one_line_and_a_diamond_joins_again() -> None:
    trains = [step("train", 6) for _ in range(4)]
    tree = tree_of(
        (None, graph(step("release", 1, 6), step("best", [2, 3, 4, 5]), *trains, step("load")))
    )
    assert drawn(tree) == picture("""
        ○    load
        ├─○  train ×4  4 waiting
        │ ○  best
        ○─╯  release
    """)


def test_a_rail_that_only_passes_is_not_joined() -> None:
    tree = tree_of(
        (
            None,
            graph(
                step("end", 1, 2, 3),
                step("x", 4, 5),
                step("y", 5),
                step("z", 4, 6),
                step("a"),
                step("b"),
                step("c"),
            ),
        )
    )
    assert drawn(tree) == picture("""
        ○        a
        │ ○      b
        │ │ ○    c
        ├─┼─│─○  x
        │ ○ │ │  y
        ○─│─╯ │  z
        ○─┴───╯  end
    """)


def test_steps_that_do_not_read_from_each_other_do_not_touch() -> None:
    tree = tree_of((None, graph(step("a"), step("b"), step("c"), output=[0, 1, 2])))
    assert drawn(tree) == picture("""
        ○    a
          ○  b
        ○    c
    """)


def test_what_a_step_returned_is_drawn_below_it() -> None:
    inner = graph(step("score", 1), step("fit"))
    tree = tree_of(
        (None, graph(step("end", 1, 2), step("train", 2), step("load"))),
        (1, inner),
        (3, graph(step("deep"))),
    )
    assert drawn(tree) == picture("""
        ○          load
        ├─○        train
        │ │ ┆ ○      fit
        │ │ ┆ ○      score
        │ │ ┆ ┆ ○      deep
        ○─╯        end
    """)


def test_states_times_and_counts_stand_beside_the_names() -> None:
    tree = tree_of(
        (None, graph(step("sum", [1, 2, 3]), *[step("one", 4)] * 3, step("load"), step("alone")))
    )
    tree.apply(50.0, succeeded(4, 0.25))
    tree.apply(50.0, succeeded(1, 0.2))
    tree.apply(50.0, succeeded(2, 0.4))
    tree.apply(50.0, StepFailed(3, 2, error(), started_at=49.5))
    tree.apply(50.0, StepStarted(5, 1, started_at=90.0))
    assert drawn(tree) == picture("""
        ✓    load           250 ms
        │ ●  alone          10.0 s  running
        ✗    one ×3  200 to 500 ms  2 done, 1 failed, 1 repeated attempt
        ○    sum
    """)
    tree.apply(60.0, StepSkipped(0, "why"))
    tree.apply(61.0, CancelRequested())
    tree.apply(61.0, RunFinished(status=RunStatus.CANCELED))
    assert drawn(tree).splitlines()[1:4:2] == [
        "│ ■  alone                  canceled",
        "–    sum                    skipped",
    ]


def test_a_terminal_that_knows_only_ascii_gets_only_that() -> None:
    tree = tree_of((None, graph(step("c", 1, 2), step("b", 2), step("a"))), (1, graph(step("x"))))
    text = drawn(tree, is_plain=True)
    assert text.isascii()
    assert text == picture("""
        .        a
        +-.      b
        | | : .    x
        .-'      c
    """)


def test_with_too_many_rails_the_inputs_are_named() -> None:
    sources = [step(f"n{number}") for number in range(20)]
    tree = tree_of((None, graph(step("end", *range(1, 21)), *sources)))
    assert drawn(tree).splitlines()[-1] == "○  end  from n0, n1, n2, n3, n4 and 15 more"


def test_a_large_drawing_is_cut_and_says_so() -> None:
    tree = tree_of((None, graph(*[step(f"n{n}") for n in range(300)], output=list(range(300)))))
    lines = drawn(tree).splitlines()
    assert len(lines) == MAX_LINES + 1
    assert lines[-1] == "... and 100 more lines"


def test_names_cannot_act_on_the_terminal() -> None:
    tree = tree_of((None, graph(step("[red]x[/red]\x1b[2J\nend"))))
    assert drawn(tree) == "○  [red]x[/red] end"


@pytest.mark.parametrize("depth", [3000])
def test_a_deep_tree_of_distinct_names_is_drawn_without_recursion(depth: int) -> None:
    tree = tree_of((None, graph(step("n0"))))
    for number in range(depth):
        tree.add_scope(number, graph(step(f"n{number + 1}")))
    assert len(drawn(tree).splitlines()) == MAX_LINES + 1


# -- the live tree ------------------------------------------------------------------------------


def test_where_there_is_no_room_what_goes_on_is_shown_and_the_rest_is_counted() -> None:
    chain = [step(f"n{n}", n + 1) for n in range(29)]
    tree = tree_of((None, graph(*chain, step("n29"))))
    for number in range(29, 15, -1):
        tree.apply(50.0, succeeded(number))
    tree.apply(50.0, StepStarted(15, 1, started_at=49.0))
    rows, rest = fit(rows_of(tree, 60.0), 6)
    assert [row.name for row in rows] == ["n17", "n16", "n15", "n14", "n13"]
    assert rest == "... and 25 more lines: 12 done, 13 waiting"
    assert fit(rows_of(tree, 60.0), 100)[1] == ""


def test_few_running_steps_of_a_group_have_a_line_of_their_own() -> None:
    tree = tree_of((None, graph(step("sum", [*range(1, 9)]), *[step("one") for _ in range(8)])))
    for number in range(1, 4):
        tree.apply(50.0, StepStarted(number, 1, started_at=50.0))
    tree.apply(51.0, succeeded(1, 1.0))
    names = [(row.depth, row.name, row.notes, row.time) for row in rows_of(tree, 52.0)]
    assert names == [
        (0, "one ×8", "1/8, 2 running", "2.0 s"),
        (1, "one_1", "", "2.0 s"),
        (1, "one_2", "", "2.0 s"),
        (0, "sum", "", ""),
    ]
    for number in range(4, 9):
        tree.apply(50.0, StepStarted(number, 1, started_at=50.0))
    assert len(rows_of(tree, 52.0)) == 2
