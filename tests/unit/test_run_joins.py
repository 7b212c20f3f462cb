"""Joins, and failures inside of what their sources returned: the source has failed by them."""

import pytest

from tests.graphs import Book, error, graph, picture, recount, some, step
from weftline.core.events import (
    Event,
    RunAdopted,
    RunFinished,
    RunResumed,
    RunStatus,
    ScopeClosed,
    StepFailed,
)
from weftline.core.graph import Join, OuterInput
from weftline.core.state import StepStatus
from weftline.errors import ImpossibleEvent

WAITING, READY, RUNNING = StepStatus.WAITING, StepStatus.READY, StepStatus.RUNNING
SUCCESSFUL, FAILED = StepStatus.SUCCESSFUL, StepStatus.FAILED
CANCELED, SKIPPED = StepStatus.CANCELED, StepStatus.SKIPPED
ALL_DONE, ONE_SUCCEEDED = Join.ALL_DONE, Join.ONE_SUCCEEDED


def check(book: Book) -> None:
    assert book.run.unfinished == recount(book.run)
    assert picture(book.reread()) == picture(book.run)


def failed(number: int, text: str = "it broke") -> Event:
    return RunFinished(status=RunStatus.FAILED, error=error(text), step=number)


def joined(join: Join = ALL_DONE) -> Book:
    """`a` joins `b` and `c`; `b` has returned `x`, which reads `y`, and beside it `z`."""
    book = Book(graph(step("a", 1, 2, join=join), step("b"), step("c")))
    book.extend("b", graph(step("x", 1), step("y"), step("z"), output=[0, 2]))
    return book


def test_a_source_has_failed_when_something_in_what_it_returned_has() -> None:
    book = joined()
    book.start("z")
    assert book.fail("y") == [ScopeClosed(1, error(), 4)]
    names = {"b": FAILED, "x": CANCELED, "y": FAILED, "z": CANCELED, "a": WAITING, "c": READY}
    assert book.statuses() == names
    assert book.run.dropped == [3, 5] or book.run.dropped == [5]
    assert book.run.error_of(1) == error()
    book.succeed("c")
    assert book.ready() == ["a"]
    assert book.run.inputs_of(0) == [b'["inline","json",null]', book.value("c")]
    book.succeed("a")
    assert book.state() is RunStatus.SUCCESSFUL
    check(book)


def test_it_is_as_if_the_source_had_failed_itself() -> None:
    inside, itself = joined(), Book(graph(step("a", 1, 2, join=ALL_DONE), step("b"), step("c")))
    inside.fail("y")
    itself.fail("b")
    for book in (inside, itself):
        book.succeed("c")
        assert (book.status("a"), book.status("b")) == (READY, FAILED)
        assert book.run.error_of(1) == error()
        book.succeed("a", 1)
        assert (book.state(), book.run.error) == (RunStatus.SUCCESSFUL, None)


def test_a_failure_far_below_reaches_the_source() -> None:
    book = joined()
    book.extend("y", graph(step("p", 1), step("q")))
    book.extend("p" if book["p"].status is READY else "q", graph(step("r")))
    assert book.fail("r") == [ScopeClosed(1, error(), book["r"].number)]
    assert (book.status("b"), book.status("y")) == (FAILED, CANCELED)
    check(book)


def test_a_failure_at_the_end_of_a_chain_reaches_the_source() -> None:
    book = Book(graph(step("a", 1, join=ALL_DONE), step("b")))
    for owner, returned in (("b", "c"), ("c", "d"), ("d", "e")):
        book.extend(owner, graph(step(returned)))
    assert book.fail("e") == [ScopeClosed(1, error(), 4)]
    assert book.statuses() == {"a": READY, "b": FAILED, "c": CANCELED, "d": CANCELED, "e": FAILED}
    book.succeed("a")
    assert book.state() is RunStatus.SUCCESSFUL
    check(book)


def test_the_innermost_who_bears_or_catches_it_does() -> None:
    book = Book(graph(step("a", 1, catch=True), step("b", join=ALL_DONE)))
    book.succeed("b")
    book.extend("a", graph(step("c", 1, join=ALL_DONE), step("d")))
    book.extend("d", graph(step("e", 1, join=ALL_DONE), step("f", catch=True)))
    book.extend("f", graph(step("g")))
    assert book.fail("g") == [ScopeClosed(book["f"].number, error(), book["g"].number)]
    assert book.fail("e") == [ScopeClosed(book["d"].number, error(), book["e"].number)]
    assert book.fail("c")[0] == ScopeClosed(0, error(), book["c"].number)
    assert book.state() is RunStatus.SUCCESSFUL
    check(book)


@pytest.mark.parametrize("others", [[step("n", 1)], [step("n", 1), step("m", 1, join=ALL_DONE)]])
def test_a_source_that_somebody_needs_fails_the_run(others: list[object]) -> None:
    book = Book(graph(step("a", 2, join=ALL_DONE), step("b"), step("n", 1)))
    book.extend("b", graph(step("x")))
    assert book.fail("x") == [failed(3)]
    assert book.status("b") is RUNNING
    check(book)


def test_the_output_of_a_scope_is_needed() -> None:
    book = Book(graph(step("a"), step("after", 0, join=ALL_DONE)))
    book.extend("a", graph(step("x")))
    assert book.fail("x") == [failed(2)]
    check(book)


def test_one_of_the_sources_may_fail_inside_when_another_succeeds() -> None:
    book = joined(ONE_SUCCEEDED)
    assert book.fail("z") == [ScopeClosed(1, error(), 5)]
    assert book.ready() == ["c"]
    book.succeed("c")
    book.succeed("a")
    assert book.state() is RunStatus.SUCCESSFUL
    check(book)


def test_when_no_source_succeeds_a_resume_tries_what_failed_inside_afresh() -> None:
    book = joined(ONE_SUCCEEDED)
    book.start("z")
    book.fail("c", "no c")
    check(book)
    assert book.fail("y", "no y") == [ScopeClosed(1, error("no y"), 4), failed(4, "no y")]
    check(book)
    assert (book.status("b"), book.status("x"), book.status("y")) == (RUNNING, WAITING, FAILED)
    assert book.run.error_of(1) == error("no y")
    book.record(RunAdopted(engine="e2"))
    book.record(RunResumed())
    check(book)
    assert set(book.ready()) == {"y", "z", "c"}
    assert book["z"].attempt == 1
    for name in ("y", "z", "x"):
        book.succeed(name)
    assert (book.status("b"), book.ready()) == (SUCCESSFUL, ["c", "a"])
    book.succeed("a")
    assert book.state() is RunStatus.RUNNING
    book.fail("c")
    assert book.state() is RunStatus.SUCCESSFUL
    check(book)


def test_a_resumed_source_may_fail_inside_again() -> None:
    book = joined(ONE_SUCCEEDED)
    for _ in range(2):
        book.fail("c")
        assert book.fail("y") == [ScopeClosed(1, error(), 4), failed(4)]
        check(book)
        book.record(RunResumed())
    book.succeed("c")
    assert set(book.ready()) == {"y", "z", "a"}
    assert book.fail("y") == [ScopeClosed(1, error(), 4)]
    book.succeed("a")
    assert book.state() is RunStatus.SUCCESSFUL
    check(book)


def test_a_later_reader_that_needs_the_source_has_it_tried_afresh() -> None:
    book = Book(graph(step("a", 1, 2), some("w", 3, 4), step("j", 3, join=ALL_DONE),
                      step("b"), step("c")))  # fmt: skip
    book.begin_wait("w")
    book.extend("b", graph(step("x", 1), step("y")))
    closed, lost, over = book.fail("y")
    assert closed == ScopeClosed(3, error(), 6)
    assert (lost, over) == (StepFailed(1, 1, error()), failed(6))
    check(book)
    book.record(RunResumed())
    assert set(book.ready()) == {"y", "c", "j"}
    book.begin_wait("w")
    book.succeed("y")
    book.succeed("x")
    assert book.status("w") is SUCCESSFUL
    book.succeed("j")
    book.succeed("a")
    assert book.state() is RunStatus.SUCCESSFUL
    check(book)


def test_a_wait_inside_that_failed_of_another_is_tried_afresh_with_it() -> None:
    book = joined(ONE_SUCCEEDED)
    book.fail("c")
    book.extend("y", graph(some("w", 1, 2), step("p"), step("q")))
    book.begin_wait("w")
    (lost, closed, over) = book.fail("p")
    number = book["p"].number
    assert lost == StepFailed(book["w"].number, 1, error())
    assert (closed, over) == (ScopeClosed(1, error(), number), failed(number))
    check(book)
    book.record(RunResumed())
    assert set(book.ready()) == {"c", "z", "p", "q"}
    book.begin_wait("w")
    for name in ("p", "z", "x"):
        book.succeed(name)
    assert (book.status("b"), book.status("a")) == (SUCCESSFUL, READY)
    check(book)


def test_a_join_inside_of_which_no_source_succeeded_has_them_tried_afresh() -> None:
    book = Book(graph(step("a", 1, join=ONE_SUCCEEDED), step("b")))
    book.extend("b", graph(step("c", 1), step("d", 2, join=ONE_SUCCEEDED), step("e")))
    book.extend("e", graph(step("f")))
    number = book["f"].number
    outer, inner = book["b"].number, book["e"].number
    assert book.fail("f") == [
        ScopeClosed(inner, error(), number), ScopeClosed(outer, error(), number), failed(number),
    ]  # fmt: skip
    book.record(RunResumed())
    assert book.ready() == ["f"]
    check(book)
    for name in ("f", "d", "c", "a"):
        book.succeed(name)
    assert book.state() is RunStatus.SUCCESSFUL
    check(book)


@pytest.mark.parametrize("join", [Join.ALL_SUCCEEDED, ALL_DONE, ONE_SUCCEEDED])
@pytest.mark.parametrize("is_failing", [True, False])
def test_what_ended_while_its_reader_was_dropped_is_seen_after_a_resume(
    join: Join, is_failing: bool
) -> None:
    book = Book(graph(step("top", 1), step("a", 2, 3, join=ONE_SUCCEEDED),
                      step("b", 4), step("c"), some("w", 5, 6), step("p"), step("q")))  # fmt: skip
    book.begin_wait("w")
    book.succeed("p")
    end, outer = (book.fail if is_failing else book.succeed), OuterInput(book["q"].number)
    book.extend("b", graph(step("x", outer, 2, join=join), step("y"), step("z"), output=[0, 1]))
    book.succeed("z") if join is not ONE_SUCCEEDED else None
    book.fail("y")
    assert end("q") == []
    book.fail("c")
    assert book.state() is RunStatus.FAILED
    check(book)
    book.record(RunResumed())
    check(book)
    for name in ("y", "c", "q", "z", "x"):
        if book.status(name) is READY:
            book.succeed(name)
    assert (book.status("x"), book.status("b"), book.status("a")) == (SUCCESSFUL, SUCCESSFUL, READY)
    book.succeed("a")
    book.succeed("top")
    assert book.state() is RunStatus.SUCCESSFUL
    check(book)


def test_a_failure_after_the_source_has_delivered_is_too_late_to_matter() -> None:
    book = Book(graph(step("a", 1, join=ALL_DONE), step("b")))
    book.extend("b", graph(step("x"), step("beside")))
    book.succeed("x")
    assert book.ready() == ["beside", "a"]
    assert book.fail("beside") == []
    book.succeed("a")
    assert book.state() is RunStatus.SUCCESSFUL
    check(book)


def test_a_condition_inside_is_still_undecided_after_a_resume() -> None:
    book = Book(graph(step("a", needs=[1], join=ONE_SUCCEEDED), step("b")))
    book.extend("b", graph(step("x", 1, 2), step("y"), step("maybe", when="x")))
    assert book.fail("y")[0] == ScopeClosed(1, error(), 3)
    book.record(RunResumed())
    assert list(book.run.undecided) == [4]
    book.decide("maybe", True)
    assert set(book.ready()) == {"y", "maybe"}
    check(book)


def test_a_scope_closes_only_for_who_catches_or_is_borne() -> None:
    book = Book(graph(step("a", 1), step("b")))
    book.extend("b", graph(step("x")))
    with pytest.raises(ImpossibleEvent, match="nobody"):
        book.record(ScopeClosed(1, error()))
