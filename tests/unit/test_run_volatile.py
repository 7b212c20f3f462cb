"""Values that need not survive a crash: whose they may be, and what is made again."""

from typing import Any

import pytest
from msgspec import Raw

from tests.graphs import WRITE, Book, graph, packed, picture, recount, some, step
from weftline.core.actions import Wait, WaitKind
from weftline.core.events import (
    CancelRequested,
    RunAdopted,
    RunResumed,
    RunStatus,
    StepSucceeded,
)
from weftline.core.graph import Graph, Join, Step
from weftline.core.state import StepStatus
from weftline.core.values import Packed
from weftline.errors import ImpossibleEvent

WAITING, READY, RUNNING = StepStatus.WAITING, StepStatus.READY, StepStatus.RUNNING
SUCCESSFUL, FAILED = StepStatus.SUCCESSFUL, StepStatus.FAILED


def check(book: Book) -> None:
    assert book.run.unfinished == recount(book.run)
    assert picture(book.reread()) == picture(book.run)


def volatile(name: str, *inputs: int, **options: Any) -> Step:
    return step(name, *inputs, checkpoint=False, **options)


class Store:
    """Which values are there; all others are gone."""

    def __init__(self, *values: object) -> None:
        self.values = {packed(value) for value in values}

    def is_there(self, value: Packed) -> bool:
        return value in self.values


def make(book: Book, name: str) -> None:
    """The step ends, with a value that may be lost if it may be."""
    state = book[name]
    event = StepSucceeded(
        state.number,
        state.attempt + (state.status is not RUNNING),
        Raw(packed(name)),
        is_volatile=book.run.may_be_volatile(state.number),
    )
    book.record(event)


def lost(book: Book, *there: object) -> list[str]:
    found = book.run.find_lost(Store(*there).is_there)
    return [book.run.steps[number].name for number in found]


def adopt(book: Book, *there: object) -> None:
    book.record(RunAdopted("e2", lost=book.run.find_lost(Store(*there).is_there)))


def names_that_may(book: Book) -> list[str]:
    return [each.name for each in book.run.steps if book.run.may_be_volatile(each.number)]


# -- whose value may be lost --------------------------------------------------------------------


def test_only_what_asks_for_it_may_be_volatile_and_no_output() -> None:
    book = Book(graph(volatile("a", 1, 2), volatile("b"), step("c"), volatile("d")))
    assert names_that_may(book) == ["b", "d"]
    book = Book(graph(volatile("a", 1), volatile("b"), volatile("c"), output=[0, 1]))
    assert names_that_may(book) == ["c"]
    assert names_that_may(Book(graph(step("a", 1), step("b")))) == []


def test_returned_steps_are_as_the_one_that_returned_them_unless_they_say_otherwise() -> None:
    book = Book(graph(step("a", 1, 2), volatile("b"), step("c")))
    inner = graph(step("x", 1, 2), step("y"), step("z", checkpoint=True))
    book.extend("b", inner)
    book.extend("c", inner)
    assert names_that_may(book) == ["b", "y"]
    book.extend("y", graph(step("u", 1), step("v")))
    assert names_that_may(book) == ["b", "y", "v"]


def test_a_method_of_an_actor_is_never_carried_out_twice() -> None:
    book = Book(graph(step("a", 1), volatile("b", action=WRITE)))
    assert names_that_may(book) == []


def test_what_a_wait_for_steps_may_hand_on_is_kept() -> None:
    book = Book(graph(step("a", 1, 3), some("w", 2), volatile("b", 3), volatile("c")))
    assert names_that_may(book) == ["c"]


def test_what_a_wait_hands_on_is_kept() -> None:
    handed = step("w", 2, action=Wait(WaitKind.VALUE))
    book = Book(graph(step("a", 1, 3), handed, volatile("b"), volatile("c")))
    assert names_that_may(book) == ["c"]


# -- what has to be made again ------------------------------------------------------------------


def test_a_lost_value_that_is_needed_is_made_again_and_its_lost_sources_too() -> None:
    book = Book(
        graph(step("a", 1), volatile("b", 2, 3), volatile("c", 4), volatile("d"), step("e"))
    )
    for name in "edcb":
        make(book, name)
    assert lost(book, "b", "c", "d") == []
    assert lost(book, "c") == ["b", "d"]
    adopt(book, "c")
    assert book.statuses() == {
        "a": WAITING,
        "b": WAITING,
        "c": SUCCESSFUL,
        "d": READY,
        "e": SUCCESSFUL,
    }
    assert book.ready() == ["d"]
    assert book.run.succeeded == 2
    check(book)
    make(book, "d")
    assert book.run.inputs_of(1) == [packed("c"), packed("d")]
    make(book, "b")
    make(book, "a")
    assert book.state() is RunStatus.SUCCESSFUL
    check(book)


def test_what_nobody_needs_any_more_may_be_gone() -> None:
    book = Book(graph(step("a", 1), step("b", 2), volatile("c")))
    make(book, "c")
    make(book, "b")
    assert lost(book) == []


def test_a_lost_value_is_needed_for_a_lost_one_although_its_other_readers_have_ended() -> None:
    book = Book(graph(step("a", 1, 2), volatile("b", 3), step("c", 3), volatile("d")))
    for name in "dbc":
        make(book, name)
    adopt(book)
    assert [each.name for each in book.run.steps if each.status is READY] == ["d"]
    make(book, "d")
    assert book.ready() == ["b"]
    make(book, "b")
    make(book, "a")
    assert book.state() is RunStatus.SUCCESSFUL
    check(book)


def test_a_step_that_returned_steps_needs_its_inputs_no_more() -> None:
    book = Book(graph(step("a", 1), step("b", 2), volatile("c")))
    make(book, "c")
    book.extend("b", graph(step("x")))
    assert lost(book) == []


def test_what_ran_and_has_lost_an_input_waits_for_it() -> None:
    book = Book(graph(step("a", 1, 2), volatile("b"), step("c", 1)))
    make(book, "b")
    book.start("c")
    adopt(book)
    assert book.statuses() == {"a": WAITING, "b": READY, "c": WAITING}
    make(book, "b")
    assert book.ready() == ["c"]
    assert book["c"].attempt == 1
    check(book)


def test_a_retry_that_has_lost_an_input_waits_for_it_and_not_for_its_time() -> None:
    book = Book(graph(step("a", 1), step("b", 2, tries=3), volatile("c")))
    make(book, "c")
    book.fail("b", retry_at=1e6)
    adopt(book)
    assert book.run.next_due() is None
    make(book, "c")
    assert book.ready() == ["b"]
    assert book["b"].tries == 1
    check(book)


def test_a_failed_step_whose_input_was_lost_is_tried_afresh_after_the_input() -> None:
    book = Book(graph(step("a", 1), step("b", 2, tries=2), volatile("c")))
    make(book, "c")
    book.fail("b")
    assert lost(book) == ["c"]
    adopt(book)
    check(book)
    book.record(RunResumed())
    assert book.ready() == ["c"]
    assert book.status("b") is WAITING
    make(book, "c")
    assert book.ready() == ["b"]
    assert book["b"].tries == 0
    make(book, "b")
    make(book, "a")
    assert book.state() is RunStatus.SUCCESSFUL
    check(book)


def test_a_canceled_run_that_is_resumed_makes_lost_values_again() -> None:
    book = Book(graph(step("a", 1), volatile("b")))
    make(book, "b")
    book.start("a")
    book.record(CancelRequested())
    adopt(book)
    book.record(RunResumed())
    assert book.statuses() == {"a": WAITING, "b": READY}
    make(book, "b")
    make(book, "a")
    assert book.state() is RunStatus.SUCCESSFUL
    check(book)


def test_a_join_of_one_waits_for_the_lost_input_again() -> None:
    joined = step("a", 2, 3, join=Join.ONE_SUCCEEDED)
    book = Book(graph(step("z", 1), joined, volatile("c"), step("d")))
    make(book, "c")
    assert "a" in book.ready()
    adopt(book)
    assert book.status("a") is WAITING
    make(book, "d")
    assert book.status("a") is READY
    check(book)


def test_a_value_may_be_lost_many_times() -> None:
    book = Book(graph(step("a", 1), volatile("b", 2), volatile("c")))
    for _ in range(3):
        for name in "cb":
            if book.status(name) is READY:
                make(book, name)
        adopt(book)
        assert book.statuses() == {"a": WAITING, "b": WAITING, "c": READY}
        check(book)


def test_a_condition_that_was_decided_is_not_decided_again() -> None:
    book = Book(graph(step("a", 1), volatile("b", when="x")))
    book.decide("b", True)
    make(book, "b")
    adopt(book)
    assert book.ready() == ["b"]
    assert list(book.run.undecided) == [1]  # from the first time
    check(book)


@pytest.mark.parametrize("number", [0, 1])
def test_only_a_volatile_value_that_is_there_can_be_lost(number: int) -> None:
    book = Book(graph(step("a", 1), step("b")))
    book.succeed("b")
    with pytest.raises(ImpossibleEvent, match="has no value that could be lost"):
        book.record(RunAdopted("e2", lost=(number,)))


def test_a_lost_step_may_return_steps_this_time() -> None:
    book = Book(graph(step("a", 1), volatile("b")))
    make(book, "b")
    adopt(book)
    returned: Graph = graph(step("x"))
    book.extend("b", returned)
    make(book, "x")
    assert book.value("b") == packed("x")
    assert book.ready() == ["a"]
    check(book)
