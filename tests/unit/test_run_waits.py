"""Waits that need no worker: timers, signals, and waits for some of many steps."""

import pytest
from msgspec import Raw

from tests.graphs import Book, error, graph, packed, picture, recount, signal, some, step, timer
from weftline.core.actions import Wait, WaitKind
from weftline.core.events import (
    CancelRequested,
    Event,
    PauseChanged,
    RunAdopted,
    RunBegun,
    RunFinished,
    RunResumed,
    RunStatus,
    RunSubmitted,
    ScopeClosed,
    SignalReceived,
    StepFailed,
    StepSkipped,
    WaitBegun,
    WaitEnded,
)
from weftline.core.graph import GivenInput, Join, OuterInput
from weftline.core.run import Run
from weftline.core.state import StepState, StepStatus
from weftline.core.values import NOTHING, Error, pack_caught, pack_list, pack_split
from weftline.errors import ImpossibleEvent

WAITING, READY, RUNNING = StepStatus.WAITING, StepStatus.READY, StepStatus.RUNNING
SUCCESSFUL, FAILED = StepStatus.SUCCESSFUL, StepStatus.FAILED
CANCELED, SKIPPED = StepStatus.CANCELED, StepStatus.SKIPPED


def check(book: Book) -> None:
    """What is true after every event: the counter is right, and the journal folds to the run."""
    assert book.run.unfinished == recount(book.run)
    assert picture(book.reread()) == picture(book.run)


def send(book: Book, value: object, name: str = "news") -> list[Event]:
    return book.record(SignalReceived(name, Raw(packed(value))))


def wait_out(book: Book, until: float = 1e9) -> list[Event]:
    """Let the time be `until`; all that is recorded then."""
    recorded: list[Event] = []
    for event in book.run.due(until):
        recorded += [event, *book.record(event)]
    return recorded


def split(ready: list[object], *left: int) -> bytes:
    return pack_split([packed(value) for value in ready], "r", list(left))


def ended(number: int, value: bytes) -> WaitEnded:
    return WaitEnded(number, Raw(value))


def failed(number: int, text: str = "it broke") -> RunFinished:
    return RunFinished(status=RunStatus.FAILED, error=error(text), step=number)


# -- signals ------------------------------------------------------------------------------------


def test_a_wait_for_a_signal_has_no_time_unless_it_is_given_one() -> None:
    book = Book(graph(step("a", 1, 2), signal("w"), signal("v", seconds=5.0)))
    assert list(book.run.beginning) == [1, 2]
    assert book.run.begin_wait(1, 7.0) == WaitBegun(1, None, "news")
    assert book.run.begin_wait(2, 7.0) == WaitBegun(2, 12.0, "news")
    book.begin_wait("w")
    assert book.run.next_due() is None


def test_a_signal_ends_the_wait_for_it_with_its_value() -> None:
    book = Book(graph(step("a", 1), signal("w")))
    book.begin_wait("w")
    assert send(book, "other", "other news") == []
    assert send(book, "yes") == [ended(1, packed("yes"))]
    assert book.run.inputs_of(0) == [packed("yes")]
    check(book)


def test_a_signal_that_comes_before_its_wait_is_kept_for_it() -> None:
    book = Book(graph(step("a", 1, 2), signal("w", 2), step("b")))
    assert send(book, 1) == []
    assert send(book, 2) == []
    book.succeed("b")
    assert book.begin_wait("w") == [ended(1, packed(1))]
    check(book)


def test_each_signal_is_for_one_wait_in_the_order_in_which_they_began() -> None:
    book = Book(graph(step("a", 1, 2, 3), signal("u"), signal("v"), signal("w")))
    for name in "vuw":
        book.begin_wait(name)
    assert send(book, 1) == [ended(2, packed(1))]
    assert send(book, 2) == [ended(1, packed(2))]
    assert book.status("w") is RUNNING
    assert send(book, 3) == [ended(3, packed(3))]
    check(book)


def test_signals_are_given_out_in_the_order_in_which_they_came() -> None:
    book = Book(graph(step("a", 1, 2), signal("u"), signal("w", 1)))
    for n in (1, 2, 3):
        send(book, n)
    assert book.begin_wait("u") == [ended(1, packed(1))]
    assert book.begin_wait("w") == [ended(2, packed(2))]
    assert list(book.reread().signals.kept()) == ["news"]
    check(book)


def test_a_wait_whose_signal_does_not_come_in_time_fails() -> None:
    book = Book(graph(step("a", 1), signal("w", seconds=5.0)))
    book.begin_wait("w")
    assert list(book.run.due(105.9)) == []
    until = book["w"].due_at
    assert until is not None
    text = "step 'w' got no signal 'news' within 5 s"
    late = Error(type="weftline.errors.StepTimeoutError", text=text)
    assert wait_out(book, until) == [
        StepFailed(1, 1, late, is_timeout=True),
        RunFinished(status=RunStatus.FAILED, error=late, step=1),
    ]
    check(book)


def test_a_signal_that_comes_after_the_failure_is_there_after_the_resume() -> None:
    book = Book(graph(step("a", 1), signal("w", seconds=5.0)))
    book.begin_wait("w")
    wait_out(book)
    assert send(book, "late") == []
    assert book.record(RunResumed()) == []
    assert list(book.run.beginning) == [1]
    assert book.begin_wait("w") == [ended(1, packed("late"))]
    check(book)


def test_a_wait_begun_anew_has_its_whole_time_again_and_waits_once() -> None:
    book = Book(graph(step("a", 1, 2), signal("w", seconds=5.0), signal("v")))
    book.begin_wait("w")
    book.begin_wait("v")
    wait_out(book)
    book.record(RunResumed())
    book.begin_wait("w")
    assert book["w"].due_at == book.now - 1.0 + 5.0
    assert send(book, 1) == [ended(2, packed(1))]  # it has been waiting for longer
    assert send(book, 2) == [ended(1, packed(2))]
    check(book)


@pytest.mark.parametrize("is_canceled", [True, False])
def test_a_signal_for_a_run_that_is_over_ends_its_wait_after_the_resume(is_canceled: bool) -> None:
    book = Book(graph(step("a", 1, 2), signal("w"), step("b")))
    book.begin_wait("w")
    if is_canceled:
        book.record(CancelRequested())
    else:
        book.fail("b")
    assert send(book, "yes") == []
    assert book.record(RunResumed()) == [ended(1, packed("yes"))]
    check(book)


def test_a_signal_for_a_run_that_has_its_result_is_impossible() -> None:
    book = Book(graph(step("a")))
    book.succeed("a")
    with pytest.raises(ImpossibleEvent, match="takes no signals"):
        send(book, 1)


def test_a_paused_run_takes_signals_but_begins_no_wait() -> None:
    book = Book(graph(step("a", 1, 2), signal("w"), signal("v", of="more")))
    book.begin_wait("w")
    book.record(PauseChanged(True))
    assert send(book, 1) == [ended(1, packed(1))]
    assert not book.run.may_start
    book.record(PauseChanged(False))
    assert list(book.run.beginning) == [2]
    check(book)


def test_a_wait_in_a_closed_scope_takes_no_signal_away() -> None:
    book = Book(graph(step("a", 1, 2), step("b", catch=True), signal("w")))
    book.extend("b", graph(step("x", 1, 2), signal("v"), step("y")))
    book.begin_wait("v")
    book.begin_wait("w")
    book.fail("y")
    assert book.status("v") is CANCELED
    assert send(book, 1) == [ended(2, packed(1))]
    check(book)


def test_a_wait_ends_with_a_signal_that_came_and_with_nothing_else() -> None:
    book = Book(graph(signal("w")))
    book.begin_wait("w")
    before = picture(book.run)
    with pytest.raises(ImpossibleEvent, match="no signal 'news' has come for step 'w'"):
        book.run.apply(ended(0, packed(1)), 200.0)
    assert picture(book.run) == before


def test_two_waits_whose_time_is_up_at_once_fail_once_where_one_catches() -> None:
    book = Book(graph(step("a", catch=True)))
    book.extend("a", graph(step("x", 1, 2), signal("v", seconds=5.0), signal("w", seconds=5.0)))
    until = book.run.begin_wait(2, 200.0)
    book.record(until)
    book.record(WaitBegun(3, until.until, "news"))
    kinds = [type(event) for event in wait_out(book)]
    assert kinds == [StepFailed, ScopeClosed, RunFinished]
    assert book.state() is RunStatus.SUCCESSFUL
    check(book)


def test_an_adoption_keeps_what_waits_and_what_has_come() -> None:
    book = Book(graph(step("a", 1, 2), signal("v"), signal("w", of="more", seconds=9.0)))
    book.begin_wait("v")
    book.begin_wait("w")
    due = book.run.next_due()
    send(book, 1, "unheard of")
    book.record(RunAdopted("e2"))
    assert book.run.next_due() == due
    assert send(book, 2) == [ended(1, packed(2))]
    check(book)


# -- values -------------------------------------------------------------------------------------


def test_a_wait_for_a_value_has_it_as_soon_as_it_begins() -> None:
    handed = step("v", 2, action=Wait(WaitKind.VALUE))
    given = step("g", GivenInput(packed(7)), action=Wait(WaitKind.VALUE))
    book = Book(graph(step("a", 1, 3), handed, step("b"), given))
    assert list(book.run.beginning) == [3]
    assert book.begin_wait("g") == [ended(3, packed(7))]
    book.succeed("b", 8)
    assert book.begin_wait("v") == [ended(1, packed(8))]
    assert book.run.inputs_of(0) == [packed(8), packed(7)]
    check(book)


@pytest.mark.parametrize("is_canceled", [True, False])
def test_a_wait_for_a_value_that_was_torn_off_ends_when_the_run_goes_on(is_canceled: bool) -> None:
    book = Book(graph(step("a", 1), step("v", 2, action=Wait(WaitKind.VALUE)), step("b")))
    book.succeed("b", 8)
    book.begin_wait("v")
    del book.events[-1]  # the crash came between the two
    book.run = book.reread()
    news = CancelRequested() if is_canceled else RunAdopted("e2")
    assert book.record(news)[0] == ended(1, packed(8))
    check(book)


# -- pending ------------------------------------------------------------------------------------


def pending(*steps: object, **options: object) -> Book:
    first = graph(*steps)  # type: ignore[arg-type]
    return Book(first, RunSubmitted(graph="g0", output=0, is_pending=True, **options))  # type: ignore[arg-type]


def test_a_pending_run_starts_nothing_until_it_begins() -> None:
    book = pending(step("a", 1, 2), step("b"), timer("t", 1.0), group=("g", 2))
    assert book.state() is RunStatus.PENDING
    assert book.run.group == ("g", 2)
    assert (book.run.submitted_at, book.run.started_at) == (book.now, None)
    assert book.run.is_open
    assert not book.run.may_start
    generation = book.run.generation
    book.record(RunBegun())
    assert book.run.generation == generation + 1
    assert book.state() is RunStatus.RUNNING
    assert (book.ready(), list(book.run.beginning)) == (["b"], [2])
    assert book.run.started_at == book.now
    check(book)


def test_a_run_begins_once_and_not_after_its_end() -> None:
    book = pending(step("a"))
    book.record(RunBegun())
    with pytest.raises(ImpossibleEvent, match="begins once"):
        book.record(RunBegun())
    book = pending(step("a"))
    book.record(CancelRequested())
    assert book.state() is RunStatus.CANCELED
    with pytest.raises(ImpossibleEvent, match="begins once"):
        book.record(RunBegun())
    check(book)


def test_a_resumed_run_may_have_to_wait_for_its_turn() -> None:
    book = Book(graph(step("a")))
    book.fail("a")
    book.record(RunResumed(is_pending=True))
    assert book.state() is RunStatus.PENDING
    assert not book.run.may_start
    book.record(RunAdopted("e2"))
    assert book.state() is RunStatus.PENDING
    book.record(RunBegun())
    assert book.ready() == ["a"]
    check(book)


def test_a_pending_run_may_be_paused_and_says_that_it_is_pending() -> None:
    book = pending(step("a"))
    book.record(PauseChanged(True))
    assert book.state() is RunStatus.PENDING
    book.record(RunBegun())
    assert book.state() is RunStatus.PAUSED
    check(book)


# -- waits for some of many steps ---------------------------------------------------------------


def test_a_wait_for_steps_ends_when_enough_have_and_says_which_and_which_not() -> None:
    book = Book(graph(step("a", 1), some("w", 2, 3, 4, 5, count=2), *map(step, "pqrs")))
    book.begin_wait("w")
    assert book.succeed("r") == []
    assert book.succeed("p") == [ended(1, split(["p", "r"], 3, 5))]  # in the order of the inputs
    assert book.ready() == ["q", "s", "a"]
    check(book)


def test_a_run_ends_although_what_a_wait_left_still_runs() -> None:
    book = Book(graph(step("a", 1), some("w", 2, 3, 4), *map(step, "pqr")))
    book.begin_wait("w")
    book.start("q")
    book.succeed("p")
    assert book.succeed("a") == [RunFinished(status=RunStatus.SUCCESSFUL)]
    assert sorted(book.run.dropped) == [3, 4]
    assert [book.status(name) for name in "pqr"] == [SUCCESSFUL, CANCELED, CANCELED]
    with pytest.raises(ImpossibleEvent):
        book.succeed("q")
    check(book)


def test_a_wait_that_begins_late_finds_what_has_ended_by_then() -> None:
    book = Book(graph(step("a", 1), some("w", 2, 3, 4), *map(step, "pqr")))
    book.succeed("r")
    book.succeed("q")
    assert book.begin_wait("w") == [ended(1, split(["q"], 2, 4))]
    check(book)


@pytest.mark.parametrize("count", [3, 99])
def test_a_wait_for_all_or_more_than_there_are_waits_for_all(count: int) -> None:
    book = Book(graph(step("a", 1), some("w", 2, 3, 3, 4, count=count), *map(step, "pqr")))
    book.begin_wait("w")
    for name in "qr":
        assert book.succeed(name) == []
    assert book.succeed("p") == [ended(1, split(["p", "q", "r"]))]
    check(book)


def test_a_wait_for_lists_of_steps_and_for_order_counts_each_step_once() -> None:
    book = Book(graph(step("a", 1), some("w", [2, 3], 2, needs=[2], count=2), *map(step, "pq")))
    book.begin_wait("w")
    assert book.succeed("p") == []
    assert book.succeed("q") == [ended(1, split(["p", "q"]))]


def test_a_wait_for_nothing_ends_at_once() -> None:
    book = Book(graph(step("a", 1), some("w")))
    assert book.begin_wait("w") == [ended(1, split([]))]


def test_a_wait_whose_time_is_up_says_what_has_ended_so_far() -> None:
    book = Book(graph(step("a", 1), some("w", 2, 3, 4, count=2, seconds=5.0), *map(step, "pqr")))
    book.begin_wait("w")
    book.succeed("q")
    until = book["w"].due_at
    assert until is not None
    assert wait_out(book, until - 0.1) == []
    assert wait_out(book, until) == [ended(1, split(["q"], 2, 4))]
    assert wait_out(book) == []
    check(book)


def test_a_wait_that_has_ended_has_no_time_any_more() -> None:
    book = Book(graph(step("a", 1), some("w", 2, seconds=5.0), step("p")))
    book.begin_wait("w")
    book.succeed("p")
    assert book.run.next_due() is None
    assert wait_out(book) == []


def test_a_failed_step_among_the_first_is_the_failure_of_the_wait() -> None:
    book = Book(graph(step("a", 1), some("w", 2, 3), step("p"), step("q")))
    book.begin_wait("w")
    assert book.fail("q", "no") == [StepFailed(1, 1, error("no")), failed(3, "no")]
    assert book.statuses() == {"a": WAITING, "w": FAILED, "p": READY, "q": FAILED}
    assert book.run.error_of(1) == error("no")
    check(book)


def test_after_a_resume_the_failed_step_and_the_wait_begin_afresh() -> None:
    book = Book(graph(step("a", 1), some("w", 2, 3, seconds=5.0), step("p"), step("q")))
    book.begin_wait("w")
    book.fail("q")
    book.record(RunResumed())
    assert (book.ready(), list(book.run.beginning)) == (["p", "q"], [1])
    assert book.begin_wait("w") == []
    assert book["w"].due_at == book.now - 1.0 + 5.0
    assert book.succeed("q", 7) == [ended(1, split([7], 2))]
    check(book)


def test_a_failed_step_behind_the_first_is_no_failure_of_the_wait() -> None:
    book = Book(graph(step("a", 1), some("w", 2, 3), step("p"), step("q")))
    book.succeed("p")
    assert book.fail("q") == []
    assert book.begin_wait("w") == [ended(1, split(["p"], 3))]
    book.succeed("a")
    assert book.state() is RunStatus.SUCCESSFUL
    assert book.status("q") is FAILED
    check(book)


def test_a_failure_found_when_the_time_is_up_is_in_the_journal() -> None:
    book = Book(graph(step("a", 1), some("w", 2, 3, count=2, seconds=5.0), step("p"), step("q")))
    book.begin_wait("w")
    book.fail("q", "no")
    assert wait_out(book) == [StepFailed(1, 1, error("no")), failed(3, "no")]
    check(book)
    book.record(RunResumed())
    assert book.ready() == ["p", "q"]
    check(book)


def test_a_wait_that_catches_has_the_failure_in_its_pair_and_leaves_the_step_alone() -> None:
    book = Book(graph(step("a", 1), some("w", 2, 3, catch=True), step("p"), step("q")))
    book.begin_wait("w")
    book.fail("q", "no")
    assert book.value("w") == pack_caught(None, error("no"))
    book.fail("p")
    book.succeed("a")
    assert book.state() is RunStatus.SUCCESSFUL
    check(book)


def test_a_failure_of_a_wait_climbs_to_the_step_that_catches() -> None:
    book = Book(graph(step("a", 1), step("b", catch=True)))
    book.extend("b", graph(step("x", 1), some("w", 2, 3), step("p"), step("q")))
    book.begin_wait("w")
    assert book.fail("q", "no") == [
        StepFailed(3, 1, error("no")),
        ScopeClosed(1, error("no"), 5),
    ]
    assert book.value("b") == pack_caught(None, error("no"))
    assert book.status("p") is CANCELED
    check(book)


def test_enough_that_ended_while_the_run_was_failed_end_the_wait_after_the_resume() -> None:
    book = Book(graph(step("a", 1, 4), some("w", 2, 3), *map(step, "pqz")))
    book.begin_wait("w")
    book.start("p")
    book.fail("z")
    assert book.succeed("p") == []
    assert book.status("w") is RUNNING
    assert book.record(RunResumed()) == [ended(1, split(["p"], 3))]
    check(book)


def test_a_skipped_step_has_ended_and_has_no_value() -> None:
    book = Book(graph(step("a", 1), some("w", 2, 3), step("p", when="x"), step("q")))
    book.begin_wait("w")
    assert book.decide("p", False)[1:] == [ended(1, pack_split([NOTHING], "r", [3]))]
    check(book)


def test_the_inputs_of_what_a_wait_waits_for_may_fail_without_harm() -> None:
    """The failure of what a step reads is that of the step, for a wait: it may come too late."""
    book = Book(
        graph(step("a", 1), some("w", 2, 3), step("p"), step("q", 4), step("r", 5), step("s"))
    )
    book.begin_wait("w")
    book.succeed("p")
    assert book.fail("s") == []
    assert book.state() is RunStatus.RUNNING
    book.succeed("a")
    assert book.state() is RunStatus.SUCCESSFUL
    assert [book.status(name) for name in "qrs"] == [CANCELED, CANCELED, FAILED]
    check(book)


def test_the_failure_of_what_a_step_reads_is_the_failure_of_the_wait_for_it() -> None:
    book = Book(graph(step("a", 1), some("w", 2, 3), step("p"), step("q", 4), step("s")))
    book.begin_wait("w")
    assert book.fail("s", "no") == [StepFailed(1, 1, error("no")), failed(4, "no")]
    assert book.run.error_of(3) is None
    check(book)
    book.record(RunResumed())
    assert book.ready() == ["p", "s"]
    book.begin_wait("w")
    book.succeed("s")
    assert book.succeed("q", 1) == [ended(1, split([1], 2))]
    check(book)


def test_a_failure_inside_of_what_a_step_returned_is_the_failure_of_that_step() -> None:
    book = Book(graph(step("a", 1), some("w", 2, 3), step("p"), step("q")))
    book.begin_wait("w")
    book.extend("q", graph(step("x", 1), step("y")))
    book.extend("y", graph(step("z", 1), step("v")))
    assert book.fail("v", "no") == [StepFailed(1, 1, error("no")), failed(7, "no")]
    check(book)
    book.record(RunResumed())
    book.begin_wait("w")
    for name in "vzx":
        book.succeed(name)
    assert book.value("w") == split(["x"], 2)
    check(book)


def test_two_failures_below_a_step_that_was_left_are_both_tried_afresh() -> None:
    book = Book(graph(step("a", 1), some("w", 2, 3), step("p"), step("q")))
    book.begin_wait("w")
    book.extend("q", graph(step("x", 1, 2), step("y"), step("z")))
    book.succeed("p")
    assert book.fail("y", "one") == []
    assert book.fail("z", "two") == []
    followed = book.extend("a", graph(step("b", OuterInput(3))))
    assert followed == [failed(5, "one")]
    check(book)
    book.record(RunResumed())
    assert book.ready() == ["y", "z"]
    for name in "yzxb":
        book.succeed(name)
    assert book.state() is RunStatus.SUCCESSFUL
    check(book)


def test_a_step_that_was_left_and_is_read_by_nobody_fails_without_harm() -> None:
    book = Book(graph(step("a", 1), some("w", 2, 3), step("p"), step("q")))
    book.begin_wait("w")
    book.succeed("p")
    assert book.fail("q") == []
    assert book.state() is RunStatus.RUNNING
    check(book)


def test_a_failure_that_somebody_else_reads_too_is_one_of_the_run() -> None:
    book = Book(graph(step("a", 1, 3), some("w", 2, 3), step("p"), step("q")))
    book.begin_wait("w")
    book.succeed("p")
    assert book.fail("q") == [failed(3)]
    check(book)


def test_a_failure_behind_a_join_of_one_that_is_waited_for_is_one_of_the_run() -> None:
    joined = step("j", 4, 5, join=Join.ALL_DONE)
    book = Book(
        graph(step("a", 1), some("w", 2, 3), step("p"), joined, step("x", 6), *map(step, "yz"))
    )
    book.begin_wait("w")
    assert book.fail("z") == [failed(6)]


def test_a_wait_for_a_wait_bears_its_failure() -> None:
    book = Book(graph(step("a", 1), some("v", 2, 3), some("w", 4), step("p"), step("q")))
    book.begin_wait("v")
    book.begin_wait("w")
    book.succeed("p")
    assert book.value("v") == split(["p"], 2)
    assert book.fail("q") == [StepFailed(2, 1, error())]
    book.succeed("a")
    assert book.state() is RunStatus.SUCCESSFUL
    check(book)


# -- what was left, read later ------------------------------------------------------------------


def left() -> Book:
    """A run in which a wait has ended with `p`, and left `q`, number 3."""
    book = Book(graph(step("a", 1), some("w", 2, 3), step("p"), step("q")))
    book.begin_wait("w")
    book.succeed("p")
    return book


def test_what_was_left_is_read_by_those_who_come_later() -> None:
    book = left()
    book.extend("a", graph(step("b", OuterInput(3), GivenInput(packed(9)))))
    assert book.ready() == ["q"]
    book.succeed("q", 4)
    assert book.ready() == ["b"]
    assert book.run.inputs_of(book["b"].number) == [packed(4), packed(9)]
    book.succeed("b")
    assert book.state() is RunStatus.SUCCESSFUL
    check(book)


def test_what_has_ended_meanwhile_is_there_at_once() -> None:
    book = left()
    book.succeed("q", 4)
    book.extend("a", graph(step("b", OuterInput(3))))
    assert book.ready() == ["b"]
    check(book)


def test_what_was_left_may_be_waited_for_again() -> None:
    book = left()
    book.extend("a", graph(some("b", OuterInput(2), OuterInput(3), count=2)))
    assert book.begin_wait("b") == []
    assert book.succeed("q", 4)[0] == ended(4, split(["p", 4]))
    assert book.state() is RunStatus.SUCCESSFUL
    check(book)


def test_what_was_left_and_fails_under_a_reader_fails_the_run_and_is_tried_afresh() -> None:
    book = left()
    book.extend("a", graph(step("b", OuterInput(3))))
    assert book.fail("q") == [failed(3)]
    book.record(RunResumed())
    assert book.ready() == ["q"]
    book.succeed("q")
    book.succeed("b")
    assert book.state() is RunStatus.SUCCESSFUL
    check(book)


def test_what_had_failed_when_its_first_reader_came_fails_the_run_then() -> None:
    book = left()
    book.fail("q", "no")
    assert book.extend("a", graph(step("b", OuterInput(3)))) == [failed(3, "no")]
    check(book)
    book.record(RunResumed())
    book.succeed("q")
    assert book.ready() == ["b"]
    book.succeed("b")
    assert book.state() is RunStatus.SUCCESSFUL
    check(book)


def test_what_had_failed_is_found_so_by_a_later_wait() -> None:
    book = left()
    book.fail("q", "no")
    book.extend("a", graph(some("b", OuterInput(3))))
    assert book.begin_wait("b") == [StepFailed(4, 1, error("no")), failed(3, "no")]
    book.record(RunResumed())
    book.begin_wait("b")
    assert book.succeed("q", 5)[0] == ended(4, split([5]))
    check(book)


def test_the_failure_of_what_was_left_is_caught_around_its_reader() -> None:
    book = left()
    book.fail("q", "no")
    book.extend("a", graph(step("c", 1), step("d", catch=True)))
    (closed,) = book.extend("d", graph(step("e", OuterInput(3))))
    assert closed == ScopeClosed(book["d"].number, error("no"), 3)
    assert book.status("e") is CANCELED
    book.succeed("c")
    assert book.state() is RunStatus.SUCCESSFUL
    assert recount(book.run) == 0  # what was caught is not tried afresh
    check(book)


def caught_left() -> Book:
    """A catching step has delivered a split; the `q` that it left, number 5, still runs."""
    book = Book(graph(step("a", 1), step("c", catch=True)))
    book.extend("c", graph(step("x", 1), some("w", 2, 3), step("p"), step("q")))
    book.begin_wait("w")
    book.succeed("p")
    book.succeed("x")
    assert book.status("c") is SUCCESSFUL
    return book


def test_what_was_left_behind_a_catching_step_fails_too_late_to_matter() -> None:
    book = caught_left()
    assert book.fail("q") == []
    assert book.succeed("a") == [RunFinished(status=RunStatus.SUCCESSFUL)]
    check(book)


def test_what_was_left_behind_a_catching_step_fails_whoever_reads_it() -> None:
    book = caught_left()
    book.extend("a", graph(step("b", OuterInput(5))))
    assert book.fail("q") == [failed(5)]
    book.record(RunResumed())
    for name in "qb":
        book.succeed(name)
    assert book.state() is RunStatus.SUCCESSFUL
    check(book)


@pytest.mark.parametrize("is_first", [True, False])
def test_what_fails_deep_behind_a_catching_step_fails_whoever_waits_for_it(is_first: bool) -> None:
    book = caught_left()
    book.extend("q", graph(step("y", 1), step("z")))
    number = book["z"].number
    if is_first:
        assert book.fail("z") == []
        assert book.extend("a", graph(step("b", OuterInput(5)))) == [failed(number)]
    else:
        book.extend("a", graph(step("b", OuterInput(5))))
        assert book.fail("z") == [failed(number)]
    check(book)
    book.record(RunResumed())
    for name in "zyb":
        book.succeed(name)
    assert book.state() is RunStatus.SUCCESSFUL
    check(book)


def test_one_that_was_left_may_itself_read_what_has_failed() -> None:
    book = Book(graph(step("a", 1), some("w", 2, 3, 4), *map(step, "pqs")))
    book.begin_wait("w")
    book.succeed("p")
    book.fail("s", "no")
    assert book.extend("q", graph(step("x", OuterInput(4)))) == []
    assert book.extend("a", graph(step("b", OuterInput(3)))) == [failed(4, "no")]
    check(book)
    book.record(RunResumed())
    for name in "sxb":
        book.succeed(name)
    assert book.state() is RunStatus.SUCCESSFUL
    check(book)


def test_a_reader_of_something_skipped_is_skipped() -> None:
    book = Book(graph(step("a", 1), some("w", 2, 3), step("p"), step("q", when="x")))
    book.begin_wait("w")
    book.succeed("p")
    book.decide("q", False)
    assert book.extend("a", graph(step("b", OuterInput(3))))[0] == StepSkipped(
        4, "an input was skipped"
    )
    check(book)


def test_a_reader_of_a_link_of_a_chain_gets_the_value_of_its_end() -> None:
    book = Book(graph(step("a", 1), some("w", 2, 3), step("p"), step("q")))
    book.begin_wait("w")
    book.extend("q", graph(step("q1")))
    book.extend("q1", graph(step("q2")))
    book.succeed("p")
    book.extend("a", graph(step("b", 1, OuterInput(4)), some("v", OuterInput(4), OuterInput(3))))
    book.begin_wait("v")
    followed = book.succeed("q2", 8)
    assert followed == [ended(book["v"].number, split([8], 3))]
    assert book.run.inputs_of(book["b"].number)[1] == packed(8)
    book.succeed("b")
    check(book)


def test_a_chain_that_fails_fails_the_wait_for_its_first_link() -> None:
    book = Book(graph(step("a", 1), some("w", 2, 3), step("p"), step("q")))
    book.begin_wait("w")
    book.extend("q", graph(step("q1")))
    book.extend("q1", graph(step("q2")))
    assert book.fail("q2", "no") == [StepFailed(1, 1, error("no")), failed(5, "no")]
    check(book)
    book.record(RunResumed())
    book.begin_wait("w")
    assert book.succeed("q2", 1) == [ended(1, split([1], 2))]
    check(book)


def test_a_cancel_and_a_resume_leave_a_split_as_it_was() -> None:
    book = left()
    book.start("q")
    book.record(CancelRequested())
    book.record(RunResumed())
    assert book.value("w") == split(["p"], 3)
    assert book.ready() == ["a", "q"]
    check(book)


def test_a_list_of_values_may_hold_what_waits_found() -> None:
    book = Book(graph(some("v", 2), some("w", 2), step("p"), output=[0, 1]))
    book.begin_wait("v")
    book.begin_wait("w")
    book.succeed("p")
    assert book.run.value == pack_list([split(["p"])] * 2)
    check(book)


def look_again(count: int) -> Book:
    steps = [step("a", 1), some("w", *range(2, count + 2), count=count)]
    book = Book(graph(*steps, *[step("b")] * count))
    book.begin_wait("w")
    return book


def test_a_wait_looks_at_all_of_its_many_steps_only_when_enough_have_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    book = look_again(300)
    calls = 0
    sources = Run.sources_of

    def counting(run: Run, of: StepState) -> list[int]:
        nonlocal calls
        calls += 1
        return sources(run, of)

    monkeypatch.setattr(Run, "sources_of", counting)
    for number in range(2, 302):
        book.succeed(book.run.steps[number].name)
    assert book.status("w") is SUCCESSFUL
    assert calls < 10
