"""What people see of a run's steps: never anything else than what the run's own rules say."""

import sys
from random import Random
from types import FrameType
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from tests.graphs import Book, error, graph, step
from tests.unit.test_run_properties import drive
from weftline.cli import tree as states
from weftline.cli.tree import MAX_GROUPS, OTHERS, Tree
from weftline.core.events import (
    GraphExtended,
    RunAdopted,
    RunResumed,
    RunSubmitted,
    StepFailed,
    StepStarted,
    StepSucceeded,
)
from weftline.core.graph import Graph
from weftline.core.run import Run
from weftline.core.state import StepStatus

STATES = {
    StepStatus.WAITING: "open",
    StepStatus.READY: "open",
    StepStatus.RUNNING: "running",
    StepStatus.SUCCESSFUL: "done",
    StepStatus.FAILED: "failed",
    StepStatus.SKIPPED: "skipped",
    StepStatus.CANCELED: "canceled",
}
SHOWN = {
    states.WAITING: "open",
    states.RETRYING: "open",
    states.RUNNING: "running",
    states.DONE: "done",
    states.FAILED: "failed",
    states.SKIPPED: "skipped",
    states.CANCELED: "canceled",
}


def expected(run: Run) -> dict[str, str]:
    return {step.name: STATES[run.status_of(step)] for step in run.steps}


def shown(tree: Tree) -> dict[str, str]:
    return {name: SHOWN[state] for name, state in zip(tree.names, tree.states, strict=True)}


def counted(tree: Tree) -> None:
    """The counts of all groups are those of their steps."""
    for number, group in enumerate(tree.groups):
        assert group.index == number
        members = [n for n, each in enumerate(tree._group_of) if each is group]
        assert group.total == len(members) == sum(group.counts)
        for state, count in enumerate(group.counts):
            assert count == sum(tree.states[n] == state for n in members)
        assert set(group.running) == {n for n in members if tree.states[n] == states.RUNNING}
    assert sum(tree.counts) == tree.total == len(tree.names)


def fed(book: Book) -> Tree:
    """The tree after all events, compared with the run after each of them."""
    run, tree = Run(), Tree()
    for at, event in book.events:
        returned = None
        if isinstance(event, RunSubmitted | GraphExtended):
            returned = book.graphs[event.graph]
        run.apply(event, at, returned)
        if isinstance(event, RunAdopted | RunResumed):
            tree = Tree.of(run)  # as the command line does with a run that it goes on with
        else:
            tree.apply(at, event, returned)
            tree.apply(at, event, returned)  # once more: it changes nothing
        assert shown(tree) == expected(run)
        counted(tree)
    return tree


SEEDS = st.integers(min_value=0, max_value=2**32)


@given(SEEDS, SEEDS)
@settings(max_examples=100)
def test_a_tree_shows_what_the_run_says_after_every_event(program: int, order: int) -> None:
    whole = drive(program, Random(order))
    whole.to_the_end()
    tree = fed(whole.book)
    again = Tree.of(whole.run)
    assert shown(again) == shown(tree)
    counted(again)


# -- groups -------------------------------------------------------------------------------------


def groups_of(tree: Tree) -> list[tuple[int, str, int]]:
    return [(depth, tree.title_of(group), group.total) for depth, group in tree.walk()]


def built(*returned: tuple[int | None, Graph]) -> Tree:
    tree = Tree()
    for owner, each in returned:
        tree.add_scope(owner, each)
    return tree


def test_a_fan_out_is_one_group_in_the_order_in_which_things_run() -> None:
    trains = [step("train", 5) for _ in range(4)]
    tree = built((None, graph(step("best", [1, 2, 3, 4]), *trains, step("load"))))
    assert groups_of(tree) == [(0, "load", 1), (0, "train", 4), (0, "best", 1)]
    load, train, best = tree.groups
    assert list(train.upstream.values()) == [load]
    assert list(best.upstream.values()) == [train]


def test_one_name_at_two_places_is_two_groups() -> None:
    tree = built((None, graph(step("double", 1), step("double", 2), step("one"))))
    assert groups_of(tree) == [(0, "one", 1), (0, "double_1", 1), (0, "double", 1)]


def test_one_name_at_many_places_is_one_group() -> None:
    chain = [step("double", n + 1) for n in range(50)]
    tree = built((None, graph(*chain, step("one"))))
    assert groups_of(tree) == [(0, "one", 1), (0, "double", 50)]


def test_what_alike_steps_return_is_shown_together_below_them() -> None:
    inner = graph(step("score", 1), step("fit"))
    fan = graph(step("best", [1, 2]), step("train"), step("train"))
    tree = built((None, fan), (1, inner), (2, inner))
    assert groups_of(tree) == [(0, "train", 2), (1, "fit", 2), (1, "score", 2), (0, "best", 1)]


def test_a_step_that_comes_back_to_itself_makes_no_tree_any_deeper() -> None:
    tree = built((None, graph(step("count"))))
    for depth in range(3000):
        tree.add_scope(2 * depth, graph(step("add", 1), step("count")))
    assert groups_of(tree) == [(0, "count", 3001), (1, "add", 3000)]


def test_many_names_share_a_group_in_the_end() -> None:
    tree = built((None, graph(*[step(f"n{n}") for n in range(2 * MAX_GROUPS)])))
    assert len(tree.groups) == MAX_GROUPS + 1
    assert (tree.groups[-1].name, tree.groups[-1].total) == (OTHERS, MAX_GROUPS)
    counted(tree)


def test_the_cost_of_an_event_does_not_grow_with_the_graph() -> None:
    def lines_run(count: int) -> int:
        many = [step("one") for _ in range(count)]
        tree = built((None, graph(step("sum", list(range(1, count + 1))), *many)))
        executed = 0

        def trace(frame: FrameType, what: str, argument: Any) -> Any:
            nonlocal executed
            executed += what == "line"
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            for number in range(1, 11):
                tree.apply(2.0, StepSucceeded(number, 1, Raw(b"null"), 1.0))
        finally:
            sys.settrace(before)
        return executed

    assert lines_run(20_000) == lines_run(20) > 100


def test_times_and_attempts_are_counted() -> None:
    tree = built((None, graph(step("sum", [1, 2]), step("one", tries=3), step("one"))))
    one = tree.groups[0]
    tree.apply(10.0, StepStarted(1, 1, started_at=9.5))
    assert one.running == {1: 9.5}
    tree.apply(11.0, StepFailed(1, 1, error(), retry_at=12.0, started_at=9.5))
    assert one.counts[states.RETRYING] == 1
    tree.apply(14.0, StepSucceeded(1, 2, Raw(b"1"), 12.0))
    tree.apply(14.0, StepSucceeded(2, 1, Raw(b"1"), 13.0))
    assert (one.tries, one.shortest_s, one.longest_s) == (1, 1.0, 2.0)
    assert (one.started_at, one.ended_at, one.ended) == (9.5, 14.0, 2)


def test_a_run_that_nobody_drives_has_nothing_running() -> None:
    tree = built((None, graph(step("outer"))), (0, graph(step("inner"))))
    tree.apply(2.0, StepStarted(1, 1, started_at=1.0))
    tree.stop()
    assert shown(tree)["inner"] == "open"
    tree.stop(owners=True)
    assert shown(tree) == {"outer": "open", "inner": "open"}
