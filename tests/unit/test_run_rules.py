"""Each event's rule: what it changes, what follows from it, and when it is impossible."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from tests.graphs import ActorBook, Book, error, graph, packed, picture, recount, step, timer
from weftline.core.actions import Wait, WaitKind
from weftline.core.events import (
    ActorRested,
    AnyEvent,
    CallReceived,
    CancelRequested,
    ConditionDecided,
    Event,
    GraphExtended,
    LogRange,
    PauseChanged,
    Quarantined,
    RunAdopted,
    RunBegun,
    RunFinished,
    RunResumed,
    RunStatus,
    RunSubmitted,
    ScopeClosed,
    SignalReceived,
    StepFailed,
    StepLost,
    StepSkipped,
    StepStarted,
    StepSucceeded,
    WaitBegun,
    WaitEnded,
    decode_event,
    encode_event,
)
from weftline.core.graph import (
    GivenInput,
    Graph,
    Join,
    OptionalInput,
    OuterInput,
    decode_pages,
    encode_pages,
)
from weftline.core.rules import MAX_ADOPTIONS, MAX_LOSSES
from weftline.core.run import Run, fold
from weftline.core.state import StepStatus
from weftline.core.values import NOTHING, Error, Inline, Object, pack_caught, pack_list
from weftline.errors import ImpossibleEvent

WAITING, READY, RUNNING = StepStatus.WAITING, StepStatus.READY, StepStatus.RUNNING
SUCCESSFUL, FAILED = StepStatus.SUCCESSFUL, StepStatus.FAILED
CANCELED, SKIPPED = StepStatus.CANCELED, StepStatus.SKIPPED
ALL_DONE, ONE_SUCCEEDED = Join.ALL_DONE, Join.ONE_SUCCEEDED


def check(book: Book) -> None:
    """What is true after every event: the counter is right, and the journal folds to the run."""
    assert book.run.unfinished == recount(book.run)
    assert picture(book.reread()) == picture(book.run)


@pytest.fixture
def shallow() -> Iterator[None]:
    """A stack so low that a rule which recurses by depth of the graph cannot pass."""
    limit = sys.getrecursionlimit()
    depth, frame = 0, sys._getframe()
    while frame.f_back is not None:
        depth, frame = depth + 1, frame.f_back
    sys.setrecursionlimit(depth + 60)
    yield
    sys.setrecursionlimit(limit)


# -- RunSubmitted -------------------------------------------------------------------------------


def test_a_submitted_run_has_its_first_steps_ready() -> None:
    book = Book(graph(step("sum", 1, 2), step("a"), step("b")))
    assert book.ready() == ["a", "b"]
    assert book.statuses() == {"sum": WAITING, "a": READY, "b": READY}
    assert book.state() is RunStatus.RUNNING
    assert (book.run.submitted_at, book.run.started_at) == (101.0, 101.0)
    check(book)


def test_a_run_is_submitted_once() -> None:
    book = Book(graph(step("a")))
    with pytest.raises(ImpossibleEvent, match="submitted once"):
        book.run.apply(RunSubmitted(graph="g0", output=0), 1.0, book.graphs["g0"])


def test_a_submitted_run_needs_its_graph() -> None:
    with pytest.raises(ImpossibleEvent, match="a graph that is not there"):
        Run().apply(RunSubmitted(graph="g0", output=0), 1.0)


def test_warnings_of_a_submission_and_an_adoption_are_kept() -> None:
    run = Run()
    first = RunSubmitted(graph="g0", output=0, warnings=("a lock",))
    run.apply(first, 1.0, graph(step("a")))
    run.apply(RunAdopted(engine="e2", warnings=("its folder is gone",)), 2.0)
    assert run.warnings == ["a lock", "its folder is gone"]


def test_an_empty_run_has_no_end() -> None:
    run = Run()
    assert run.settle() is None
    assert run.status is RunStatus.RUNNING


# -- StepStarted --------------------------------------------------------------------------------


def test_a_started_step_is_running() -> None:
    book = Book(graph(step("a")))
    book.record(StepStarted(0, 1, "w", started_at=7.0))
    assert book.status("a") is RUNNING
    assert (book["a"].started_at, book["a"].attempt) == (7.0, 1)
    check(book)


def test_without_a_time_of_its_own_a_start_has_that_of_its_record() -> None:
    book = Book(graph(step("a")))
    book.start("a")
    assert book["a"].started_at == book.now


OUTCOMES: list[Callable[[int, int], Event]] = [
    StepStarted,
    lambda number, attempt: StepSucceeded(number, attempt, Raw(packed(1))),
    lambda number, attempt: StepFailed(number, attempt, error()),
    lambda number, attempt: StepLost(number, attempt, "killed"),
    lambda number, attempt: GraphExtended(number, attempt, "g1", 0),
]


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_an_outcome_of_a_step_that_waits_is_impossible(
    outcome: Callable[[int, int], Event],
) -> None:
    book = Book(graph(step("a", 1), step("b")))
    with pytest.raises(ImpossibleEvent, match="step 'a' is WAITING"):
        book.record(outcome(0, 1), graph(step("c")))


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_an_outcome_of_a_finished_step_is_impossible(
    outcome: Callable[[int, int], Event],
) -> None:
    book = Book(graph(step("a", 1), step("b")))
    book.succeed("b")
    with pytest.raises(ImpossibleEvent, match="step 'b' is SUCCESSFUL"):
        book.record(outcome(1, 2), graph(step("c")))


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_an_outcome_of_a_step_that_returned_steps_is_impossible(
    outcome: Callable[[int, int], Event],
) -> None:
    book = Book(graph(step("a")))
    book.extend("a", graph(step("inner")))
    with pytest.raises(ImpossibleEvent, match="step 'a' returned steps"):
        book.record(outcome(0, 2), graph(step("c")))


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_an_outcome_of_an_attempt_before_the_latest_is_impossible(
    outcome: Callable[[int, int], Event],
) -> None:
    book = Book(graph(step("a")))
    book.lose("a")
    with pytest.raises(ImpossibleEvent, match="attempt 1 of step 'a' is not its latest"):
        book.record(outcome(0, 1), graph(step("c")))


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_an_outcome_in_a_canceled_run_is_impossible(
    outcome: Callable[[int, int], Event],
) -> None:
    book = Book(graph(step("a")))
    book.start("a")
    book.record(CancelRequested())
    with pytest.raises(ImpossibleEvent):
        book.record(outcome(0, 1), graph(step("c")))


@pytest.mark.parametrize("number", [1, 99, -1])
@pytest.mark.parametrize(
    "outcome",
    [
        *OUTCOMES,
        lambda number, attempt: StepSkipped(number),
        lambda number, attempt: ConditionDecided(number, True),
        lambda number, attempt: WaitBegun(number),
        lambda number, attempt: WaitEnded(number, Raw(NOTHING)),
        lambda number, attempt: ScopeClosed(number, error()),
    ],
)
def test_an_event_of_a_step_that_is_not_there_is_impossible(
    outcome: Callable[[int, int], Event], number: int
) -> None:
    book = Book(graph(step("a")))
    with pytest.raises(ImpossibleEvent, match=f"no step number {number}"):
        book.record(outcome(number, 1), graph(step("c")))


# -- StepSucceeded ------------------------------------------------------------------------------


def test_a_finished_input_makes_its_reader_ready_and_hands_its_value_on() -> None:
    book = Book(graph(step("sum", 1, [1, 2], needs=[2]), step("a"), step("b")))
    book.succeed("a", 1)
    assert book.ready() == ["b"]
    book.succeed("b", 2)
    assert book.ready() == ["sum"]
    assert book.run.inputs_of(0) == [packed(1), pack_list([packed(1), packed(2)])]
    check(book)


def test_the_last_success_finishes_the_run_with_the_value_of_its_output() -> None:
    book = Book(graph(step("a", 1), step("b")))
    book.succeed("b")
    assert book.succeed("a", 42) == [RunFinished(status=RunStatus.SUCCESSFUL)]
    assert book.state() is RunStatus.SUCCESSFUL
    assert book.run.value == packed(42)
    assert book.run.ended_at == book.now
    assert book.run.succeeded == 2
    assert not book.run.is_open
    check(book)


def test_a_run_ends_when_all_its_steps_have_not_only_its_output() -> None:
    book = Book(graph(step("a"), step("loose")))
    assert book.succeed("a", 42) == []
    assert book.succeed("loose") == [RunFinished(status=RunStatus.SUCCESSFUL)]
    assert book.run.value == packed(42)


def test_a_run_may_have_a_list_as_its_value() -> None:
    book = Book(graph(step("a"), step("b"), output=[1, 0, 1]))
    book.succeed("a", 1)
    book.succeed("b", 2)
    assert book.run.value == pack_list([packed(2), packed(1), packed(2)])
    check(book)


def test_a_success_keeps_the_start_that_was_recorded() -> None:
    book = Book(graph(step("a")))
    book.record(StepStarted(0, 1, started_at=7.0))
    book.succeed("a")
    assert (book["a"].started_at, book["a"].ended_at) == (7.0, book.now)


def test_a_success_without_a_recorded_start_carries_its_own() -> None:
    book = Book(graph(step("a")))
    book.record(StepSucceeded(0, 1, Raw(packed(1)), started_at=8.0))
    assert book["a"].started_at == 8.0


def test_a_step_that_uses_an_input_many_times_waits_for_it_once() -> None:
    book = Book(graph(step("a", 1, 1, [1, 1], needs=[1]), step("b")))
    book.succeed("b")
    assert book.ready() == ["a"]


# -- StepFailed ---------------------------------------------------------------------------------


def test_a_failure_for_good_finishes_the_run_with_it() -> None:
    book = Book(graph(step("a", 1, 2), step("b"), step("c")))
    followed = book.fail("b", "no data")
    failed = RunFinished(status=RunStatus.FAILED, error=error("no data"), step=1)
    assert followed == [failed]
    assert book.state() is RunStatus.FAILED
    assert book.run.error == error("no data")
    assert book.run.failed_step == 1
    assert book.statuses() == {"a": WAITING, "b": FAILED, "c": READY}
    assert not book.run.may_start
    check(book)


def test_a_failed_try_with_tries_left_waits_for_its_time() -> None:
    book = Book(graph(step("a", tries=3)))
    assert book.fail("a", retry_at=500.0) == []
    assert book.status("a") is WAITING
    assert book.run.next_due() == 500.0
    book.run.ready.clear()
    assert list(book.run.due(499.9)) == []
    assert book.ready() == []
    assert list(book.run.due(500.0)) == []
    assert book.ready() == ["a"]
    assert book.run.next_due() is None
    book.succeed("a", 1)
    assert book.state() is RunStatus.SUCCESSFUL
    assert book["a"].tries == 1
    check(book)


def test_a_reader_of_the_journal_needs_no_clock_to_fold_a_retry() -> None:
    book = Book(graph(step("a", tries=9)))

    def fail_again(name: str) -> list[Event]:
        return book.fail(name, retry_at=2.0)

    for outcome in [book.start, book.lose, fail_again]:
        book.fail("a", retry_at=1.0)
        outcome("a")
        check(book)
        list(book.run.due(1e9))
    book.extend("a", graph(step("inner")))
    check(book)


def test_retries_are_due_in_the_order_of_their_times() -> None:
    book = Book(graph(step("sum", 1, 2, 3), *[step(name, tries=2) for name in "abc"]))
    for name, at in [("a", 700.0), ("b", 500.0), ("c", 600.0)]:
        book.fail(name, retry_at=at)
    book.run.ready.clear()
    list(book.run.due(1000.0))
    assert book.ready() == ["b", "c", "a"]


def test_how_often_and_when_a_failed_step_is_tried_again() -> None:
    book = Book(graph(step("a", tries=4, retry_delay_s=10.0, retry_backoff=2.0, retry_jitter=0.5)))
    waits = []
    for _ in range(3):
        retry_at = book.run.judge_failure(0, retryable=True, now=1000.0, luck=0.5)
        assert retry_at is not None
        waits.append(retry_at - 1000.0)
        book.fail("a", retry_at=retry_at)
        list(book.run.due(retry_at))
    assert waits == [12.5, 25.0, 50.0]
    assert book.run.judge_failure(0, retryable=True, now=1000.0, luck=0.5) is None


def test_with_retry_on_only_matching_failures_are_tried_again() -> None:
    book = Book(graph(step("a", 1, tries=2, retry_selected=True), step("b", tries=2)))
    judge = book.run.judge_failure
    assert judge(0, retryable=False, now=1.0, luck=0.0) is None
    assert judge(0, retryable=True, now=1.0, luck=0.0) == 1.0
    assert judge(1, retryable=False, now=1.0, luck=0.0) == 1.0


def test_a_failure_while_paused_may_be_tried_again() -> None:
    book = Book(graph(step("a", tries=2)))
    book.record(PauseChanged(True))
    assert book.run.judge_failure(0, retryable=True, now=1.0, luck=0.0) == 1.0


def test_a_failure_while_being_canceled_is_not_tried_again() -> None:
    book = Book(graph(step("a", tries=2)))
    book.run.apply(CancelRequested(), 1.0)
    assert book.run.judge_failure(0, retryable=True, now=1.0, luck=0.0) is None


def test_a_late_outcome_of_a_failed_run_is_recorded_and_changes_its_status_no_more() -> None:
    book = Book(graph(step("sum", 1, 2, 3, 4), *[step(name) for name in "abcd"]))
    book.start("b")
    book.fail("a", "first")
    assert book.succeed("b", 5) == []
    assert book.fail("c", "second") == []
    assert book.extend("d", graph(step("inner"))) == []
    assert book.state() is RunStatus.FAILED
    assert book.run.error == error("first")
    assert book.value("b") == packed(5)
    assert [book.status(name) for name in "abcd"] == [FAILED, SUCCESSFUL, FAILED, RUNNING]
    assert book.status("inner") is READY
    check(book)


def test_a_late_failure_with_tries_left_waits_for_the_resume() -> None:
    book = Book(graph(step("sum", 1, 2), step("a"), step("b", tries=3)))
    book.fail("a")
    assert book.run.judge_failure(2, retryable=True, now=200.0, luck=0.0) == 200.0
    book.fail("b", retry_at=200.0)
    assert list(book.run.due(1e9)) == []
    assert book.run.next_due() is None
    assert book.status("b") is WAITING
    book.record(RunResumed())
    assert book.ready() == ["a", "b"]
    assert book["b"].tries == 1
    check(book)


# -- joins --------------------------------------------------------------------------------------


def test_all_done_begins_when_all_inputs_have_ended_however_they_did() -> None:
    book = Book(graph(step("a", 1, 2, 3, join=ALL_DONE), step("b"), step("c"), step("d", when="x")))
    assert book.fail("b") == []
    assert book.status("b") is FAILED
    book.succeed("c", 3)
    assert book.ready() == []
    assert book.decide("d", False) == [StepSkipped(3, "its condition does not hold")]
    assert book.ready() == ["a"]
    assert book.run.inputs_of(0) == [NOTHING, packed(3), NOTHING]
    book.succeed("a")
    assert book.state() is RunStatus.SUCCESSFUL
    assert book.run.error_of(1) == error()
    check(book)


def test_a_failure_that_any_reader_cannot_bear_climbs() -> None:
    book = Book(graph(step("a", 1, 2), step("b", 2, join=ALL_DONE), step("c")))
    assert book.fail("c") == [RunFinished(status=RunStatus.FAILED, error=error(), step=2)]
    assert book.ready() == []
    check(book)


def test_a_failure_without_readers_climbs() -> None:
    book = Book(graph(step("a"), step("loose")))
    assert book.fail("loose") == [RunFinished(status=RunStatus.FAILED, error=error(), step=1)]


def test_a_failure_of_the_output_climbs_whoever_reads_it() -> None:
    book = Book(graph(step("a"), step("after", 0, join=ALL_DONE)))
    assert book.fail("a") == [RunFinished(status=RunStatus.FAILED, error=error(), step=0)]


def test_one_succeeded_begins_with_the_first_success_and_only_once() -> None:
    book = Book(graph(step("a", needs=[1, 2, 3], join=ONE_SUCCEEDED), *map(step, "bcd")))
    book.fail("b")
    assert book.state() is RunStatus.RUNNING
    book.succeed("c")
    assert book.ready() == ["d", "a"]
    book.succeed("d")
    assert book.ready() == ["a"]
    book.succeed("a")
    assert book.state() is RunStatus.SUCCESSFUL
    check(book)


def test_one_succeeded_with_a_condition_is_to_be_decided_once() -> None:
    book = Book(graph(step("a", 1, 2, join=ONE_SUCCEEDED, when="x"), step("b"), step("c")))
    book.succeed("b")
    book.succeed("c")
    assert list(book.run.undecided) == [0]
    book.decide("a", True)
    assert book.ready() == ["a"]
    check(book)


def test_a_run_waits_for_what_a_one_succeeded_join_did_not_wait_for() -> None:
    book = Book(graph(step("a", 1, 2, join=ONE_SUCCEEDED), step("b"), step("c")))
    book.succeed("b")
    assert book.succeed("a") == []
    assert book.fail("c") == [RunFinished(status=RunStatus.SUCCESSFUL)]
    check(book)


def test_failures_that_nobody_bears_after_all_climb_and_are_open_on_a_resume() -> None:
    book = Book(graph(step("a", needs=[1, 2], join=ONE_SUCCEEDED), step("b"), step("c")))
    assert book.fail("b", "first") == []
    assert book.run.unfinished == 2
    followed = book.fail("c", "second")
    assert followed == [RunFinished(status=RunStatus.FAILED, error=error("first"), step=1)]
    check(book)
    book.record(RunResumed())
    assert book.ready() == ["b", "c"]
    check(book)
    book.fail("c", "again")
    check(book)
    book.succeed("b")
    assert book.ready() == ["a"]
    book.succeed("a")
    assert book.state() is RunStatus.SUCCESSFUL
    check(book)


def test_failures_that_nobody_bears_are_caught_like_any_other() -> None:
    book = Book(graph(step("top", catch=True)))
    book.extend("top", graph(step("a", needs=[1], join=ONE_SUCCEEDED), step("b")))
    followed = book.fail("b")
    assert followed == [ScopeClosed(0, error(), 2), RunFinished(status=RunStatus.SUCCESSFUL)]
    assert book.run.value == pack_caught(None, error())
    check(book)


def test_two_joins_over_the_same_failure_open_it_once() -> None:
    book = Book(
        graph(
            step("top", 1, 2),
            step("a", needs=[3], join=ONE_SUCCEEDED),
            step("b", needs=[3], join=ONE_SUCCEEDED),
            step("c"),
        )
    )
    book.fail("c")
    check(book)
    book.record(RunResumed())
    check(book)
    assert book.ready() == ["c"]
    for name in ["c", "a", "b", "top"]:
        book.succeed(name)
    assert book.state() is RunStatus.SUCCESSFUL
    check(book)


def test_a_join_that_bore_the_failure_keeps_its_result_when_the_failure_is_open_again() -> None:
    book = Book(
        graph(
            step("top", 1, 2),
            step("bore", 3, join=ALL_DONE),
            step("one", needs=[3, 4], join=ONE_SUCCEEDED),
            step("c"),
            step("d"),
        )
    )
    book.fail("c")
    book.succeed("bore", "without c")
    book.fail("d")
    assert book.state() is RunStatus.FAILED
    check(book)
    book.record(RunResumed())
    for name in ["c", "d", "one", "top"]:
        book.succeed(name)
        check(book)
    assert book.value("bore") == packed("without c")
    assert book.state() is RunStatus.SUCCESSFUL


@pytest.mark.parametrize("decided", ["before the resume", "before the input", "after it"])
def test_a_condition_that_was_due_when_a_failure_opened_again_is_still_decided_once(
    decided: str,
) -> None:
    book = Book(
        graph(
            step("top", 1, 2),
            step("maybe", 3, join=ALL_DONE, when="x"),
            step("one", needs=[3, 4], join=ONE_SUCCEEDED),
            step("c"),
            step("d"),
        )
    )
    book.fail("c")
    assert list(book.run.undecided) == [1]
    book.fail("d")
    check(book)
    if decided == "before the resume":
        book.decide("maybe", True)
    book.record(RunResumed())
    if decided == "before the input":
        book.decide("maybe", True)
    book.succeed("c")
    book.succeed("d")
    assert list(book.run.undecided) == [1]
    if decided == "after it":
        book.decide("maybe", True)
    for name in ["one", "maybe", "top"]:
        book.succeed(name)
    assert book.state() is RunStatus.SUCCESSFUL
    check(book)


def test_a_one_succeeded_join_whose_inputs_were_all_skipped_is_skipped() -> None:
    book = Book(
        graph(step("a", needs=[1, 2], join=ONE_SUCCEEDED), *(step(n, when="x") for n in "bc"))
    )
    book.decide("b", False)
    followed = book.decide("c", False)
    assert [type(event).__name__ for event in followed] == [
        "StepSkipped",
        "StepSkipped",
        "RunFinished",
    ]
    assert book.status("a") is SKIPPED
    assert book.run.value == NOTHING
    check(book)


# -- ConditionDecided and StepSkipped -----------------------------------------------------------


def test_a_step_with_a_condition_waits_for_its_decision() -> None:
    book = Book(graph(step("a", 1, when="x > 1"), step("b")))
    assert list(book.run.undecided) == []
    book.succeed("b")
    assert list(book.run.undecided) == [0]
    assert book.ready() == []
    assert book.decide("a", True) == []
    assert book.ready() == ["a"]
    check(book)


def test_a_condition_that_does_not_hold_skips_the_step_and_its_readers() -> None:
    book = Book(graph(step("a", 1), step("b", 2), step("c", when="x"), step("d")))
    followed = book.decide("c", False)
    assert followed == [
        StepSkipped(2, "its condition does not hold"),
        StepSkipped(1, "an input was skipped"),
        StepSkipped(0, "an input was skipped"),
    ]
    assert book.statuses() == {"a": SKIPPED, "b": SKIPPED, "c": SKIPPED, "d": READY}
    assert book.succeed("d") == [RunFinished(status=RunStatus.SUCCESSFUL)]
    assert book.run.value == NOTHING
    assert book.run.succeeded == 1
    check(book)


def test_a_condition_is_decided_once() -> None:
    book = Book(graph(step("a", when="x")))
    book.decide("a", True)
    with pytest.raises(ImpossibleEvent, match="decided once"):
        book.decide("a", True)


def test_a_condition_of_a_step_whose_inputs_have_not_ended_cannot_be_decided() -> None:
    book = Book(graph(step("a", 1, when="x"), step("b")))
    with pytest.raises(ImpossibleEvent):
        book.decide("a", True)


def test_a_condition_of_a_step_without_one_cannot_be_decided() -> None:
    book = Book(graph(step("a", 1), step("b")))
    with pytest.raises(ImpossibleEvent):
        book.decide("a", True)


def test_a_skipped_input_with_a_default_is_replaced_by_it() -> None:
    with_default = OptionalInput(1, packed("none"))
    book = Book(graph(step("a", with_default, 2), step("b", when="x"), step("c")))
    book.decide("b", False)
    book.succeed("c", 3)
    assert book.ready() == ["a"]
    assert book.run.inputs_of(0) == [packed("none"), packed(3)]
    check(book)


def test_a_default_is_not_used_for_an_input_that_has_a_value() -> None:
    book = Book(graph(step("a", OptionalInput(1, packed("none"))), step("b")))
    book.succeed("b", 7)
    assert book.run.inputs_of(0) == [packed(7)]


def test_an_optional_input_without_a_default_skips_its_reader() -> None:
    book = Book(graph(step("a", OptionalInput(1)), step("b", when="x")))
    book.decide("b", False)
    assert book.status("a") is SKIPPED


def test_one_skipped_input_without_a_default_is_enough_to_skip() -> None:
    inputs = OptionalInput(1, packed(0)), 2
    book = Book(graph(step("a", *inputs), step("b", when="x"), step("c", when="x")))
    book.decide("b", False)
    book.decide("c", False)
    assert book.status("a") is SKIPPED
    check(book)


def test_a_step_is_skipped_only_after_all_its_inputs_have_ended() -> None:
    book = Book(graph(step("a", 1, 2), step("b", when="x"), step("c")))
    book.decide("b", False)
    assert book.status("a") is WAITING
    book.succeed("c")
    assert book.status("a") is SKIPPED
    check(book)


def test_a_step_that_needs_a_skipped_one_is_skipped() -> None:
    book = Book(graph(step("a", needs=[1]), step("b", when="x")))
    book.decide("b", False)
    assert book.status("a") is SKIPPED


def test_all_done_with_a_condition_waits_for_both() -> None:
    book = Book(graph(step("a", 1, join=ALL_DONE, when="x"), step("b")))
    book.fail("b")
    assert list(book.run.undecided) == [0]
    book.decide("a", True)
    book.succeed("a")
    assert book.state() is RunStatus.SUCCESSFUL
    check(book)


def test_a_running_step_is_not_skipped() -> None:
    book = Book(graph(step("a")))
    with pytest.raises(ImpossibleEvent, match="is READY and cannot be skipped"):
        book.record(StepSkipped(0))


def test_a_skipped_output_of_a_sub_graph_skips_its_owner() -> None:
    book = Book(graph(step("a", 1), step("b")))
    book.extend("b", graph(step("inner", when="x")))
    book.decide("inner", False)
    assert book.statuses() == {"a": SKIPPED, "b": SKIPPED, "inner": SKIPPED}
    assert book.state() is RunStatus.SUCCESSFUL
    check(book)


def test_the_links_of_a_skipped_chain_are_skipped() -> None:
    book = Book(graph(step("a")))
    book.extend("a", graph(step("b")))
    book.extend("b", graph(step("c", when="x")))
    book.decide("c", False)
    assert set(book.statuses().values()) == {SKIPPED}
    check(book)


# -- StepLost and Quarantined -------------------------------------------------------------------


def test_a_lost_step_is_ready_again_and_the_loss_is_no_try() -> None:
    book = Book(graph(step("a", tries=1)))
    book.run.ready.clear()
    assert book.lose("a") == []
    assert book.ready() == ["a"]
    assert (book["a"].attempt, book["a"].tries, book["a"].losses) == (1, 0, 1)
    check(book)


def test_four_losses_in_a_row_hold_the_run_until_a_person_resumes_it() -> None:
    book = Book(graph(step("a", 1), step("b")))
    for _ in range(MAX_LOSSES - 1):
        assert book.lose("b") == []
    (held,) = book.lose("b", "segmentation fault")
    assert isinstance(held, Quarantined)
    assert held.step == 1
    assert held.reason == ("step 'b' ended its process 4 times in a row (last: segmentation fault)")
    assert book.state() is RunStatus.RESUMABLE
    assert book.run.held == held.reason
    assert not book.run.is_open
    assert not book.run.may_start
    check(book)
    book.record(RunResumed())
    assert book.state() is RunStatus.RUNNING
    assert book.run.failed_step is None
    assert book.ready() == ["b"]
    assert book["b"].losses == 0
    for _ in range(MAX_LOSSES - 1):
        assert book.lose("b") == []
    check(book)


def test_a_failed_try_between_two_losses_begins_the_count_anew() -> None:
    book = Book(graph(step("a", tries=9)))
    for _ in range(3):
        book.lose("a")
    book.fail("a", retry_at=1.0)
    list(book.run.due(1e9))
    for _ in range(3):
        assert book.lose("a") == []
    check(book)


def test_losses_of_different_steps_are_not_added() -> None:
    book = Book(graph(step("sum", 1, 2, 3, 4), *map(step, "abcd")))
    for _ in range(MAX_LOSSES - 1):
        for name in "abcd":
            assert book.lose(name) == []
    check(book)


def test_losses_in_a_failed_run_hold_nothing() -> None:
    book = Book(graph(step("a", 1, 2), step("b"), step("c")))
    book.fail("b")
    for _ in range(MAX_LOSSES + 1):
        assert book.lose("c") == []
    assert book.state() is RunStatus.FAILED
    check(book)


# -- RunAdopted ---------------------------------------------------------------------------------


def test_an_adopted_run_has_its_running_steps_ready_again() -> None:
    book = Book(graph(step("sum", 1, 2, 3), *map(step, "abc")))
    book.start("a")
    book.succeed("b")
    generation = book.run.generation
    book.record(RunAdopted("e2"))
    assert book.ready() == ["a", "c"]
    assert list(book.run.ready) == [1, 3]
    assert book["a"].attempt == 1
    assert book.run.generation == generation + 1
    check(book)


def test_an_adopted_run_does_not_run_owners_of_open_sub_graphs_again() -> None:
    book = Book(graph(step("a")))
    book.extend("a", graph(step("inner")))
    book.record(RunAdopted("e2"))
    assert book.ready() == ["inner"]
    assert book.status("a") is RUNNING


def test_an_adopted_run_keeps_its_waits_and_retries() -> None:
    book = Book(graph(step("a", 1, 2), timer("t", 50.0), step("b", tries=2)))
    book.begin_wait("t")
    book.fail("b", retry_at=300.0)
    book.record(RunAdopted("e2"))
    assert book.ready() == []
    read = book.reread()
    assert list(read.due(299.0)) == [WaitEnded(1, Raw(NOTHING))]
    assert read.next_due() == 300.0
    check(book)


def test_ten_adoptions_without_news_hold_the_run() -> None:
    book = Book(graph(step("a")))
    for n in range(MAX_ADOPTIONS - 1):
        assert book.record(RunAdopted(f"e{n}")) == []
    (held,) = book.record(RunAdopted("e9"))
    assert held == Quarantined("it was adopted 10 times without getting any further")
    assert book.state() is RunStatus.RESUMABLE
    check(book)
    book.record(RunAdopted("e10"))
    book.record(RunResumed())
    assert book.state() is RunStatus.RUNNING
    assert book.run.adoptions == 0
    check(book)


def test_any_news_between_two_adoptions_begins_their_count_anew() -> None:
    book = Book(graph(step("a")))
    for n in range(3 * MAX_ADOPTIONS):
        assert book.record(RunAdopted(f"e{n}")) == []
        if n % (MAX_ADOPTIONS - 1) == 0:
            book.start("a")
    check(book)


def test_what_followed_from_the_last_recorded_event_follows_after_an_adoption() -> None:
    book = Book(graph(step("a", 1, 2), step("b"), step("c", when="x")))
    book.decide("c", False)
    cut = next(n for n, (_, event) in enumerate(book.events) if isinstance(event, StepSkipped))
    run = book.reread(cut)
    run.apply(RunAdopted("e2"), 200.0)
    assert run.settle() == StepSkipped(2, "its condition does not hold")


def test_what_did_not_follow_any_more_does_not_come_alive_after_a_resume() -> None:
    book = Book(graph(step("sum", 1, 2), step("a"), step("b")))
    book.fail("a")
    book.fail("b")
    book.record(RunResumed())
    read = book.reread()
    read.apply(RunAdopted("e2"), 200.0)
    assert read.settle() is None
    assert read.status is RunStatus.RUNNING


# -- scopes: GraphExtended ----------------------------------------------------------------------


def test_a_step_that_returns_steps_is_running_until_their_output_ends() -> None:
    book = Book(graph(step("a", 1), step("b")))
    book.extend("b", graph(step("x", 1), step("y")))
    assert book.status("b") is RUNNING
    assert book.ready() == ["y"]
    book.succeed("y", 1)
    assert book.run.inputs_of(2) == [packed(1)]
    book.succeed("x", 2)
    assert book.status("b") is SUCCESSFUL
    assert book.value("b") == packed(2)
    assert book.ready() == ["a"]
    assert book["b"].ended_at == book.now
    assert book.run.succeeded == 3
    check(book)


def test_a_returned_graph_may_have_a_list_as_its_value() -> None:
    book = Book(graph(step("a")))
    book.extend("a", graph(step("x"), step("y"), output=[0, 1, 0]))
    book.succeed("y", 2)
    assert book.status("a") is RUNNING
    book.succeed("x", 1)
    assert book.run.value == pack_list([packed(1), packed(2), packed(1)])
    check(book)


def test_an_absent_part_of_a_list_is_null() -> None:
    book = Book(graph(step("a")))
    book.extend("a", graph(step("x"), step("y", when="x"), output=[0, 1]))
    book.decide("y", False)
    book.succeed("x", 1)
    assert book.run.value == pack_list([packed(1), NOTHING])
    check(book)


def test_lists_of_lists_are_delivered_through_every_scope() -> None:
    book = Book(graph(step("a")))
    book.extend("a", graph(step("x"), step("y"), output=[0, 1]))
    book.extend("x", graph(step("p"), step("q"), output=[1, 0]))
    book.succeed("y", 1)
    book.succeed("p", 2)
    book.succeed("q", 3)
    inner = pack_list([packed(3), packed(2)])
    assert book.run.value == pack_list([inner, packed(1)])
    check(book)


def test_a_chain_of_tail_calls_delivers_to_its_first_owner() -> None:
    book = Book(graph(step("a", 1), step("b")))
    for owner, link in [("b", "c"), ("c", "d"), ("d", "e")]:
        book.extend(owner, graph(step(link)))
    assert [book.status(name) for name in "bcde"] == [RUNNING, RUNNING, RUNNING, READY]
    book.succeed("e", 9)
    assert [book.status(name) for name in "bcde"] == [SUCCESSFUL] * 4
    assert [book.value(name) for name in "bcde"] == [packed(9)] * 4
    assert book.run.succeeded == 4
    check(book)


def test_readers_of_a_link_inside_its_scope_wait_for_the_end_of_the_chain() -> None:
    book = Book(graph(step("a")))
    book.extend("a", graph(step("out"), step("after", 0)))
    book.extend("out", graph(step("x")))
    assert book.ready() == ["x"]
    book.succeed("x", 4)
    assert book.ready() == ["after"]
    assert book.run.inputs_of(2) == [packed(4)]
    assert book.succeed("after") == [RunFinished(status=RunStatus.SUCCESSFUL)]
    check(book)


def test_a_returned_graph_must_be_there() -> None:
    book = Book(graph(step("a")))
    with pytest.raises(ImpossibleEvent, match="a graph that is not there"):
        book.run.apply(GraphExtended(0, 1, "g1", 0), 1.0)


# -- scopes: catching ---------------------------------------------------------------------------


def test_a_catching_step_has_a_pair_as_its_value() -> None:
    book = Book(graph(step("a", 1, 2), step("b", catch=True), step("c", catch=True)))
    book.succeed("b", 1)
    assert book.fail("c") == []
    assert book.value("b") == pack_caught(packed(1), None)
    assert book.value("c") == pack_caught(None, error())
    assert book.status("c") is SUCCESSFUL
    assert book.ready() == ["a"]
    check(book)


def test_a_catching_step_is_tried_again_before_it_catches() -> None:
    book = Book(graph(step("a", catch=True, tries=2)))
    book.fail("a", "first", retry_at=1.0)
    assert book.status("a") is WAITING
    list(book.run.due(1e9))
    book.fail("a", "second")
    assert book.run.value == pack_caught(None, error("second"))
    check(book)


def test_a_failure_climbs_to_the_step_that_catches_and_closes_its_scope() -> None:
    book = Book(graph(step("a", 1), step("b", catch=True)))
    book.extend("b", graph(step("x", 1, 2, 3), *map(step, "pqr")))
    book.start("q")
    book.start("p")
    followed = book.fail("p")
    assert followed == [ScopeClosed(1, error(), 3)]
    assert book.statuses() == {
        "a": READY, "b": SUCCESSFUL, "x": CANCELED, "p": FAILED, "q": CANCELED, "r": CANCELED,
    }  # fmt: skip
    assert book.run.dropped == [4, 5]
    assert book.value("b") == pack_caught(None, error())
    assert book.ready() == ["a"]
    check(book)
    book.succeed("a")
    assert book.state() is RunStatus.SUCCESSFUL
    check(book)


def test_a_failure_climbs_through_scopes_that_do_not_catch() -> None:
    book = Book(graph(step("a", catch=True)))
    book.extend("a", graph(step("b", 1), step("c")))
    book.extend("c", graph(step("d", 1), step("e")))
    book.extend("e", graph(step("f"), step("g"), output=[0, 1]))
    followed = book.fail("g")
    assert followed == [
        ScopeClosed(0, error(), book["g"].number),
        RunFinished(status=RunStatus.SUCCESSFUL),
    ]
    assert book.run.value == pack_caught(None, error())
    assert book.status("f") is CANCELED
    check(book)


def test_the_innermost_of_two_catching_steps_catches() -> None:
    book = Book(graph(step("a", catch=True)))
    book.extend("a", graph(step("b", 1), step("c", catch=True)))
    book.extend("c", graph(step("d")))
    assert book.fail("d") == [ScopeClosed(2, error(), 3)]
    assert book.statuses() == {"a": RUNNING, "b": READY, "c": SUCCESSFUL, "d": FAILED}
    check(book)
    book.fail("b", "outside")
    assert book.run.value == pack_caught(None, error("outside"))
    check(book)


def test_outcomes_of_dropped_steps_are_impossible() -> None:
    book = Book(graph(step("a", 1), step("b", catch=True)))
    book.extend("b", graph(step("x", 1, 2), step("p"), step("q")))
    book.start("q")
    book.fail("p")
    with pytest.raises(ImpossibleEvent, match="step 'q' is CANCELED"):
        book.succeed("q")


def test_what_was_recorded_before_its_scope_closed_stays_as_it_is() -> None:
    book = Book(graph(step("a", catch=True)))
    book.extend("a", graph(step("x", 1, 2, 3), *map(step, "pqr")))
    book.succeed("q", 5)
    book.extend("r", graph(step("y")))
    book.extend("y", graph(step("z")))
    book.succeed("z", 6)
    book.fail("p")
    assert book.state() is RunStatus.SUCCESSFUL
    assert [book.status(name) for name in "qryz"] == [SUCCESSFUL] * 4
    assert [book.value(name) for name in "qryz"] == [packed(5)] + [packed(6)] * 3
    assert book.run.unfinished == 0
    check(book)


def test_retries_and_waits_of_a_closed_scope_are_dropped() -> None:
    book = Book(graph(step("a", 1), step("b", catch=True)))
    book.extend("b", graph(step("x", 1, 2, 3), step("p"), step("q", tries=2), timer("t", 5.0)))
    book.fail("q", retry_at=150.0)
    book.begin_wait("t")
    book.fail("p")
    assert list(book.run.due(1e9)) == []
    assert book.status("q") is CANCELED
    assert book.status("t") is CANCELED
    check(book)


def test_a_scope_is_closed_once() -> None:
    book = Book(graph(step("a", 1), step("b", catch=True)))
    book.extend("b", graph(step("x")))
    book.fail("x")
    with pytest.raises(ImpossibleEvent, match="no open scope"):
        book.record(ScopeClosed(1, error()))


def test_a_step_that_returned_nothing_has_no_scope_to_close() -> None:
    book = Book(graph(step("a", catch=True)))
    with pytest.raises(ImpossibleEvent, match="no open scope"):
        book.record(ScopeClosed(0, error()))


def test_catching_steps_that_return_each_other_make_one_flat_pair() -> None:
    book = Book(graph(step("a", catch=True)))
    book.extend("a", graph(step("b", catch=True)))
    book.extend("b", graph(step("c", catch=True)))
    book.succeed("c", 1)
    assert book.run.value == pack_caught(packed(1), None)
    check(book)


def test_a_pair_stays_flat_through_links_that_do_not_catch() -> None:
    book = Book(graph(step("a", catch=True)))
    book.extend("a", graph(step("b")))
    book.extend("b", graph(step("c", catch=True)))
    book.succeed("c", 1)
    assert book.run.value == pack_caught(packed(1), None)
    assert book.value("b") == pack_caught(packed(1), None)
    check(book)


def test_a_caught_failure_is_the_flat_pair_of_the_outer_step_too() -> None:
    book = Book(graph(step("a", catch=True)))
    book.extend("a", graph(step("b", catch=True)))
    book.fail("b")
    assert book.run.value == pack_caught(None, error())
    check(book)


def test_a_list_of_pairs_in_a_pair_is_not_flat() -> None:
    book = Book(graph(step("a", catch=True)))
    book.extend("a", graph(step("b", catch=True), output=[0]))
    book.succeed("b", 1)
    inner = pack_list([pack_caught(packed(1), None)])
    assert book.run.value == pack_caught(inner, None)
    check(book)


def test_a_catching_step_around_a_skipped_one_is_skipped() -> None:
    book = Book(graph(step("a", catch=True)))
    book.extend("a", graph(step("b", when="x")))
    book.decide("b", False)
    assert book.status("a") is SKIPPED
    check(book)


def test_a_one_succeeded_join_that_fails_too_late_to_matter_is_skipped() -> None:
    book = Book(graph(step("top", 1), step("a", catch=True)))
    book.extend("a", graph(step("out"), step("one", needs=[2], join=ONE_SUCCEEDED), step("b")))
    book.succeed("out")
    assert book.status("a") is SUCCESSFUL
    assert StepSkipped(3, "none of its inputs succeeded") in book.fail("b")
    book.succeed("top")
    assert book.state() is RunStatus.SUCCESSFUL
    check(book)


def test_what_fails_late_inside_a_source_of_a_one_succeeded_join_skips_it() -> None:
    book = Book(graph(step("top", 1), step("a", catch=True)))
    inner = (step("one", needs=[3], join=ONE_SUCCEEDED), step("k", needs=[3]), step("b"))
    book.extend("a", graph(step("out"), *inner))
    book.succeed("out")
    book.extend("b", graph(step("c")))
    book.fail("c")
    assert book.status("one") is SKIPPED
    book.succeed("top")
    assert book.state() is RunStatus.SUCCESSFUL
    check(book)


def test_a_failure_in_a_failed_run_is_still_caught() -> None:
    book = Book(graph(step("top", 1, 2), step("a", catch=True), step("b")))
    book.extend("a", graph(step("x")))
    book.fail("b")
    assert book.fail("x", "late") == [ScopeClosed(1, error("late"), 3)]
    assert book.value("a") == pack_caught(None, error("late"))
    assert book.state() is RunStatus.FAILED
    check(book)
    book.record(RunResumed())
    assert book.ready() == ["b"]
    check(book)


def test_a_failure_behind_the_output_of_its_scope_is_borne_by_the_step_that_caught() -> None:
    # `b` has its value already when a step that its value did not wait for fails.
    book = Book(graph(step("a", 1), step("b", catch=True)))
    book.extend("b", graph(step("x"), step("loose"), step("reader", 1)))
    book.succeed("x", 1)
    assert book.value("b") == pack_caught(packed(1), None)
    book.fail("loose")
    check(book)
    book.succeed("a")
    assert book.state() is RunStatus.SUCCESSFUL
    assert book.value("b") == pack_caught(packed(1), None)
    check(book)


def test_a_failure_behind_the_output_of_a_scope_nobody_catches_fails_the_run() -> None:
    book = Book(graph(step("a", 1), step("b")))
    book.extend("b", graph(step("x"), step("loose")))
    book.succeed("x", 1)
    book.succeed("a", 2)
    (failed,) = book.fail("loose")
    assert failed == RunFinished(status=RunStatus.FAILED, error=error(), step=3)
    book.record(RunResumed())
    assert book.succeed("loose") == [RunFinished(status=RunStatus.SUCCESSFUL)]
    assert book.run.value == packed(2)
    check(book)


def test_the_error_of_an_owner_is_that_of_the_step_below_it() -> None:
    book = Book(graph(step("top", 1, 2), step("a"), step("b")))
    book.extend("a", graph(step("x")))
    book.extend("x", graph(step("y")))
    book.fail("y", "deep")
    errors = {step.name: book.run.error_of(step.number) for step in book.run.steps}
    assert errors == {
        "top": None, "a": error("deep"), "b": None, "x": error("deep"), "y": error("deep"),
    }  # fmt: skip


# -- names --------------------------------------------------------------------------------------


def test_names_that_are_taken_get_suffixes_in_the_order_of_the_graph() -> None:
    book = Book(graph(step("a", 1, 2), step("a", 3), step("b"), step("a")))
    assert list(book.run.names) == ["a", "a_1", "b", "a_2"]
    book.extend("b", graph(step("a", 1), step("b")))
    assert list(book.run.names) == ["a", "a_1", "b", "a_2", "a_3", "b_1"]
    check(book)


def test_suffixes_step_over_names_that_people_gave() -> None:
    book = Book(graph(step("a", 1, 2, 3, 4), step("a_1"), step("a"), step("a"), step("a_1")))
    assert list(book.run.names) == ["a", "a_1", "a_2", "a_3", "a_1_1"]


def test_a_hundred_thousand_steps_of_one_name_are_named_in_linear_time() -> None:
    book = Book(graph(step("sum", list(range(1, 100_001))), *[step("a")] * 100_000))
    assert book["a_99999"].number == 100_000


def test_a_step_that_is_not_there_is_not_found() -> None:
    assert Book(graph(step("a"))).run.find_step("b") is None


# -- waits --------------------------------------------------------------------------------------


def test_a_timer_begins_when_its_inputs_are_there_and_ends_when_it_is_due() -> None:
    book = Book(graph(step("a", 1), timer("t", 30.0, 2), step("b")))
    book.succeed("b")
    assert book.ready() == []
    assert list(book.run.beginning) == [1]
    book.begin_wait("t")
    until = book["t"].due_at
    assert until is not None
    assert until == book.now - 1.0 + 30.0
    assert book.status("t") is RUNNING
    assert book.run.next_due() == until
    assert list(book.run.due(until - 0.1)) == []
    (ended,) = book.run.due(until)
    assert isinstance(ended, WaitEnded)
    book.record(ended)
    assert book.status("t") is SUCCESSFUL
    assert book.ready() == ["a"]
    assert book.run.inputs_of(0) == [NOTHING]
    check(book)


def test_a_catching_wait_has_a_pair_as_its_value() -> None:
    book = Book(graph(timer("t", 1.0, catch=True)))
    book.begin_wait("t")
    book.end_wait("t", 1)
    assert book.run.value == pack_caught(packed(1), None)


def test_a_timer_that_was_due_while_the_run_was_failed_ends_after_its_resume() -> None:
    book = Book(graph(step("a", 1, 2), timer("t", 5.0), step("b")))
    book.begin_wait("t")
    book.fail("b")
    assert list(book.run.due(1e9)) == []
    book.record(RunResumed())
    assert list(book.run.due(1e9)) == [WaitEnded(1, Raw(NOTHING))]


@pytest.mark.parametrize("end", [CancelRequested(), None])
def test_a_wait_that_is_not_under_way_does_not_end(end: Event | None) -> None:
    book = Book(graph(timer("t", 5.0)))
    if end is not None:
        book.begin_wait("t")
        book.record(end)
    with pytest.raises(ImpossibleEvent, match="does not wait"):
        book.end_wait("t")


def test_a_step_that_calls_a_function_does_not_wait() -> None:
    book = Book(graph(step("a")))
    book.start("a")
    with pytest.raises(ImpossibleEvent, match="does not wait"):
        book.end_wait("a")


def test_an_ended_wait_does_not_begin_again() -> None:
    book = Book(graph(step("a", 1), timer("t", 5.0)))
    book.begin_wait("t")
    book.end_wait("t")
    with pytest.raises(ImpossibleEvent):
        book.begin_wait("t")


# -- CancelRequested ----------------------------------------------------------------------------


def test_a_canceled_run_ends_at_once_and_drops_what_is_open() -> None:
    book = Book(graph(step("a", 1, 2, 3), *map(step, "bcd")))
    book.start("b")
    book.succeed("c", 1)
    assert book.record(CancelRequested()) == [RunFinished(status=RunStatus.CANCELED)]
    assert book.state() is RunStatus.CANCELED
    assert book.run.dropped == [1, 3]
    assert book.statuses() == {"a": CANCELED, "b": CANCELED, "c": SUCCESSFUL, "d": CANCELED}
    check(book)


def test_a_chain_that_had_ended_stays_successful_in_a_canceled_run() -> None:
    book = Book(graph(step("a", 1, 2), step("b"), step("c")))
    book.extend("b", graph(step("x")))
    book.extend("x", graph(step("y")))
    book.succeed("y", 1)
    book.record(CancelRequested())
    assert [book.status(name) for name in "bxy"] == [SUCCESSFUL] * 3
    check(book)


def test_a_successful_run_is_neither_canceled_nor_resumed() -> None:
    book = Book(graph(step("a")))
    book.succeed("a")
    with pytest.raises(ImpossibleEvent, match="not canceled"):
        book.record(CancelRequested())
    with pytest.raises(ImpossibleEvent, match="not resumed"):
        book.record(RunResumed())


def failed(book: Book) -> None:
    book.fail("b")


def held(book: Book) -> None:
    for _ in range(MAX_LOSSES):
        book.lose("b")


def paused(book: Book) -> None:
    book.record(PauseChanged(True))


def canceled(book: Book) -> None:
    book.record(CancelRequested())


def running(book: Book) -> None:
    book.start("b")


@pytest.mark.parametrize("state", [failed, held, paused, running, canceled])
def test_a_run_can_be_canceled_from_every_state(state: Callable[[Book], None]) -> None:
    book = Book(graph(step("a", 1, 2), step("b"), step("c")))
    state(book)
    assert book.record(CancelRequested()) == [RunFinished(status=RunStatus.CANCELED)]
    assert book.state() is RunStatus.CANCELED
    assert book.run.held is None
    assert book.run.error is None
    check(book)


# -- RunResumed ---------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [failed, held, canceled])
def test_a_run_goes_on_after_a_resume_from_every_state(state: Callable[[Book], None]) -> None:
    book = Book(graph(step("a", 1, 2, 3), *map(step, "bcd")))
    book.start("c")
    book.succeed("d", 4)
    state(book)
    generation = book.run.generation
    assert book.record(RunResumed()) == []
    assert book.run.generation == generation + 1
    assert book.state() is RunStatus.RUNNING
    assert book.run.may_start
    assert (book.run.error, book.run.failed_step, book.run.ended_at) == (None, None, None)
    assert book.run.started_at == book.now
    check(book)
    book.record(RunAdopted("e2"))
    assert book.ready() == ["b", "c"]
    for name in "bca":
        book.succeed(name)
    assert book.state() is RunStatus.SUCCESSFUL
    assert book.value("d") == packed(4)
    check(book)


def test_a_resume_tries_what_failed_afresh_with_all_its_tries() -> None:
    book = Book(graph(step("a", tries=2)))
    book.fail("a", retry_at=1.0)
    list(book.run.due(1e9))
    book.fail("a")
    assert book["a"].tries == 2
    book.record(RunResumed())
    assert (book["a"].tries, book["a"].attempt, book["a"].error) == (0, 2, None)
    assert book.run.judge_failure(0, retryable=True, now=1.0, luck=0.0) == 1.0
    check(book)


def test_a_resume_leaves_running_steps_of_a_failed_run_running() -> None:
    book = Book(graph(step("a", 1, 2), step("b"), step("c")))
    book.start("c")
    book.fail("b")
    book.record(RunResumed())
    assert book.statuses() == {"a": WAITING, "b": READY, "c": RUNNING}
    assert list(book.run.ready) == [1]
    book.succeed("c")
    check(book)


def test_a_resume_after_a_cancel_starts_what_was_running_again() -> None:
    book = Book(graph(step("a", 1, 2), step("b"), timer("t", 50.0)))
    book.start("b")
    book.begin_wait("t")
    book.record(CancelRequested())
    book.record(RunResumed())
    assert book.statuses() == {"a": WAITING, "b": READY, "t": RUNNING}
    assert book.run.next_due() is not None
    assert book.run.dropped == []
    check(book)


def test_a_resume_does_not_wait_for_retries() -> None:
    book = Book(graph(step("a", 1, 2), step("b", tries=2), step("c")))
    book.fail("b", retry_at=1e6)
    book.fail("c")
    book.record(RunResumed())
    assert book.ready() == ["b", "c"]
    assert list(book.run.due(1e9)) == []
    assert list(book.run.ready) == [1, 2]
    check(book)


def test_a_failure_inside_a_sub_graph_is_tried_afresh_there() -> None:
    book = Book(graph(step("a")))
    book.extend("a", graph(step("x", 1, 2), step("y"), step("z")))
    book.succeed("z", 1)
    book.fail("y")
    book.record(RunResumed())
    assert book.ready() == ["y"]
    assert book.status("a") is RUNNING
    book.succeed("y", 2)
    book.succeed("x", 3)
    assert book.run.value == packed(3)
    check(book)


def test_a_run_can_fail_and_be_resumed_many_times() -> None:
    book = Book(graph(step("a", 1, 2), step("b"), step("c")))
    for n in range(5):
        book.fail("b", str(n))
        book.fail("c", str(n))
        assert book.run.error == error(str(n))
        book.record(RunResumed())
        check(book)
    for name in "bca":
        book.succeed(name)
    assert book.state() is RunStatus.SUCCESSFUL
    check(book)


# -- PauseChanged -------------------------------------------------------------------------------


def test_a_paused_run_starts_nothing_until_it_is_let_go_on() -> None:
    book = Book(graph(step("a", 1), step("b")))
    book.record(PauseChanged(True))
    assert book.state() is RunStatus.PAUSED
    assert book.run.is_open
    assert not book.run.may_start
    book.record(PauseChanged(False))
    assert book.state() is RunStatus.RUNNING
    assert book.reread().may_start
    assert book.ready() == ["b"]
    check(book)


def test_outcomes_while_paused_are_recorded_and_may_end_the_run() -> None:
    book = Book(graph(step("a", 1), step("b")))
    book.start("b")
    book.record(PauseChanged(True))
    book.succeed("b")
    assert book.status("a") is READY
    assert book.state() is RunStatus.PAUSED
    book.succeed("a")
    assert book.state() is RunStatus.SUCCESSFUL
    check(book)


# -- RunFinished --------------------------------------------------------------------------------


def test_a_run_finishes_once_an_epoch() -> None:
    book = Book(graph(step("a")))
    book.fail("a")
    with pytest.raises(ImpossibleEvent, match="the run is FAILED already"):
        book.record(RunFinished(status=RunStatus.SUCCESSFUL))


# -- depth and length ---------------------------------------------------------------------------

DEPTH, LENGTH = 2_000, 100_000


def nest(book: Book, depth: int, inner: Graph) -> None:
    """Every level's output reads a step that returns the next level: no tail calls."""
    run = book.run
    for _ in range(depth):
        run.apply(GraphExtended(len(run.steps) - 1, 1, "inner", 0), 1.0, inner)


def chain(book: Book, length: int, link: Graph) -> None:
    run = book.run
    at = 0
    for _ in range(length):
        run.apply(GraphExtended(at, 1, "link", 0), 1.0, link)
        at = len(run.steps) - len(link.steps)


@pytest.mark.usefixtures("shallow")
def test_a_nesting_of_2_000_is_opened_and_delivered_in_a_constant_stack() -> None:
    book = Book(graph(step("a")))
    nest(book, DEPTH, graph(step("out", 1), step("in")))
    run = book.run
    for number in reversed(range(1, 2 * DEPTH + 1)):
        if run.steps[number].opened is None:
            run.apply(StepSucceeded(number, 1, Raw(packed(1))), 2.0)
    assert run.settle() == RunFinished(status=RunStatus.SUCCESSFUL)


@pytest.mark.usefixtures("shallow")
def test_a_delivery_through_2_000_catching_scopes_takes_a_constant_stack() -> None:
    book = Book(graph(step("a", catch=True)))
    chain(book, DEPTH, graph(step("link", catch=True)))
    book.record(StepSucceeded(DEPTH, 1, Raw(packed(1))))
    assert book.run.value == pack_caught(packed(1), None)


@pytest.mark.usefixtures("shallow")
def test_a_failure_under_a_nesting_of_2_000_climbs_in_a_constant_stack() -> None:
    book = Book(graph(step("a", catch=True)))
    nest(book, DEPTH, graph(step("out", 1), step("in")))
    book.record(StepFailed(2 * DEPTH, 1, error()))
    assert book.state() is RunStatus.SUCCESSFUL
    assert book.run.value == pack_caught(None, error())
    assert book.run.unfinished == 0


@pytest.mark.usefixtures("shallow")
def test_skips_run_along_a_chain_of_2_000_readers_in_a_constant_stack() -> None:
    steps = [step(f"s{n}", n + 1) for n in range(DEPTH)]
    book = Book(graph(*steps, step("last", when="x")))
    book.decide("last", False)
    assert book.state() is RunStatus.SUCCESSFUL
    assert set(book.statuses().values()) == {SKIPPED}


def effort(work: Callable[[int], None], size: int) -> int:
    """Lines of the core that the work executes: a measure of time that no other work disturbs."""
    count = 0

    def follow(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        if "/weftline/core/" not in frame.f_code.co_filename:
            return None
        count += event == "line"
        return follow

    before = sys.gettrace()
    sys.settrace(follow)
    try:
        work(size)
    finally:
        sys.settrace(before)
    return count


def is_linear(work: Callable[[int], None], size: int) -> bool:
    """Whether four times as much takes about four times the effort."""
    return effort(work, 4 * size) < 5 * effort(work, size)


@pytest.mark.usefixtures("shallow")
def test_a_chain_of_100_000_tail_calls_is_flat_and_ends_at_once() -> None:
    book = Book(graph(step("a")))
    chain(book, LENGTH, graph(step("link")))
    assert book.run.unfinished == LENGTH + 1
    book.record(StepSucceeded(LENGTH, 1, Raw(packed(1))))
    assert book.state() is RunStatus.SUCCESSFUL
    assert book.run.value == packed(1)
    assert book.run.succeeded == LENGTH + 1
    assert book.run.value_of(LENGTH // 2) == packed(1)


def follow_tail_calls(length: int) -> None:
    book = Book(graph(step("a")))
    # Every link has a reader in its own scope, which waits for the end of the whole chain.
    chain(book, length, graph(step("link"), step("after", needs=[0])))
    book.record(StepSucceeded(2 * length - 1, 1, Raw(packed(1))))


def climb(depth: int) -> None:
    book = Book(graph(step("a", catch=True)))
    nest(book, depth, graph(step("out", 1), step("in")))
    book.record(StepFailed(2 * depth, 1, error()))


def skip_many(count: int) -> None:
    absent = [OptionalInput(n, packed(0)) for n in range(1, count + 1)]
    book = Book(graph(step("a", *absent), *[step("b", when="x")] * count))
    for number in range(1, count + 1):
        book.record(ConditionDecided(number, False))


def fail_one_by_one(count: int) -> None:
    book = Book(graph(step("a", *range(1, count + 1)), *[step("b")] * count))
    for number in range(1, count + 1):
        book.record(StepFailed(number, 1, error()))
    book.record(RunResumed())


def fan_in(count: int) -> None:
    book = Book(graph(step("a", list(range(1, count + 1))), *[step("b")] * count))
    for number in range(1, count + 1):
        book.record(StepSucceeded(number, 1, Raw(b"1")))
    book.run.inputs_of(0)


def catch_many(count: int) -> None:
    book = Book(graph(step("a", *range(1, count + 1)), *[step("b", catch=True)] * count))
    for number in range(1, count + 1):
        book.extend(book.run.steps[number].name, graph(step("x"), step("y"), output=[0, 1]))
    for number in range(1, count + 1):
        book.record(StepFailed(count + 2 * number, 1, error()))


@pytest.mark.parametrize("work", [follow_tail_calls, climb, skip_many, fail_one_by_one, fan_in])
def test_four_times_as_much_takes_about_four_times_as_long(work: Callable[[int], None]) -> None:
    assert is_linear(work, 500)


def test_many_caught_failures_take_linear_time() -> None:
    assert is_linear(catch_many, 250)


# -- the stored form ----------------------------------------------------------------------------

LOG = LogRange("out-1", 0, 10, 0, 0)
EVERY_EVENT: list[Event] = [
    RunSubmitted(graph="ab", output=[0, 1], warnings=("w",)),
    RunSubmitted(graph="ab", output=0, is_pending=True, is_actor=True, group=("g", 3)),
    RunBegun(),
    RunAdopted(engine="e", warnings=("w",), lost=(1, 2)),
    RunResumed(),
    RunResumed(is_pending=True),
    StepStarted(1, 2, "w", 3.5, LOG),
    StepSucceeded(1, 2, Raw(packed({"x": [1, None]})), 3.5, "w", "a preview", LOG),
    StepSucceeded(1, 2, Raw(packed(1)), picture="ab", state=Raw(packed([2])), is_volatile=True),
    StepFailed(
        1, 2, Error("T", "t", "tb", Inline("pickle", Raw(b'"AA=="'))), 9.5, True, 3.5, "w", LOG
    ),
    StepFailed(1, 2, Error("T", "t", blob=Object("ab", "pickle", 3))),
    StepLost(1, 2, "killed", 3.5, "w", LOG),
    StepSkipped(1, "why"),
    ConditionDecided(1, True),
    ConditionDecided(1, False),
    GraphExtended(1, 2, "cd", 0, 3.5, "w", LOG),
    GraphExtended(1, 2, "cd", 0, state=Raw(packed([2]))),
    WaitBegun(1, 5.5, "n"),
    WaitEnded(1, Raw(b"null")),
    SignalReceived("n", Raw(packed({"yes": True}))),
    CallReceived(b"\x00steps", "a call"),
    ActorRested(3, {"add": 3}, 1.5, Raw(packed(7)), Raw(packed(8)), 2.5, {"n": [Raw(packed(9))]}),
    ActorRested(0, {}, 1.5),
    ScopeClosed(1, error(), 3),
    CancelRequested(),
    PauseChanged(True),
    PauseChanged(False),
    Quarantined("why", 3),
    RunFinished(RunStatus.FAILED, error(), 3),
]


@pytest.mark.parametrize("event", EVERY_EVENT, ids=lambda event: type(event).__name__)
def test_an_event_comes_back_from_its_stored_form(event: Event) -> None:
    stored = encode_event(event)
    assert msgspec.json.decode(stored)["kind"] == type(event).__name__
    assert decode_event(stored) == event
    assert decode_event(stored.decode()) == event
    assert encode_event(decode_event(stored)) == stored


def test_every_event_is_in_the_list_above() -> None:
    assert {type(event) for event in EVERY_EVENT} == set(AnyEvent.__args__)


@pytest.mark.parametrize("event", EVERY_EVENT, ids=lambda event: type(event).__name__)
def test_a_field_of_a_later_release_is_ignored(event: Event) -> None:
    body = msgspec.json.decode(encode_event(event))
    assert decode_event(msgspec.json.encode(body | {"a_later_field": {"x": 1}})) == event


def test_a_field_that_an_earlier_release_did_not_write_has_its_default() -> None:
    old = b'{"kind":"StepSucceeded","step":3,"attempt":1,"value":["inline","json",1]}'
    assert decode_event(old) == StepSucceeded(3, 1, Raw(packed(1)))
    old = b'{"kind":"RunSubmitted","graph":"ab","output":0}'
    assert decode_event(old) == RunSubmitted(graph="ab", output=0)


def test_an_event_nobody_knows_is_an_error() -> None:
    with pytest.raises(msgspec.ValidationError, match="kind"):
        decode_event(b'{"kind":"StepExploded","step":1}')


# -- journals of this and of earlier releases, kept ---------------------------------------------

DATA = Path(__file__).parent / "data"


class Line(msgspec.Struct, omit_defaults=True):
    """A line of a kept journal: an event, or the pages of a graph (base64)."""

    at: float = 0.0
    event: Raw = Raw()
    graph: str | None = None
    pages: list[bytes] = []


def read_kept(name: str) -> tuple[list[tuple[float, Event]], dict[str, Graph]]:
    content = (DATA / name).read_bytes()
    lines = [msgspec.json.decode(line, type=Line) for line in content.splitlines()]
    pages = {line.graph: line.pages for line in lines if line.graph is not None}
    events: list[tuple[float, Event]] = []
    graphs: dict[str, Graph] = {}
    for line in lines:
        if line.graph is None:
            event = decode_event(bytes(line.event))
            events.append((line.at, event))
            if isinstance(event, RunSubmitted | GraphExtended):
                steps = decode_pages(pages[event.graph])
                graphs[event.graph] = Graph(steps=steps, output=event.output)
    return events, graphs


def told(run: Run) -> dict[str, tuple[str, str]]:
    return {
        step.name: (str(run.status_of(step)), (run.value_of(step.number) or b"-").decode())
        for step in run.steps
    }


def test_a_journal_from_before_waits_and_actors_still_folds_to_what_it_told_then() -> None:
    events, graphs = read_kept("journal.jsonl")
    run = fold(events, graphs)
    assert run.status is RunStatus.SUCCESSFUL
    assert run.unfinished == 0
    assert told(run) == {
        "report": ("SUCCESSFUL", '["inline","json","the report"]'),
        "train": ("SUCCESSFUL", '["inline","json",0.97]'),
        "check": (
            "SUCCESSFUL",
            '["caught",null,{"type":"builtins.ValueError","text":"it broke"}]',
        ),
        "notify": ("SKIPPED", "-"),
        "flaky": ("SUCCESSFUL", '["inline","json",3]'),
        "heavy": ("SUCCESSFUL", '["inline","json",4]'),
        "best": ("SUCCESSFUL", '["inline","json",0.97]'),
        "train_1": ("SUCCESSFUL", '["inline","json",0.9]'),
        "train_2": ("SUCCESSFUL", '["inline","json",0.97]'),
        "inner": ("FAILED", "-"),
    }
    assert run.value == packed("the report")


def test_a_journal_with_waits_still_folds_to_what_it_told_when_it_was_written() -> None:
    events, graphs = read_kept("journal_with_waits.jsonl")
    run = fold(events, graphs, "kept")
    assert run.status is RunStatus.SUCCESSFUL
    assert told(run) == {
        "report": ("SUCCESSFUL", '["inline","json","rest"]'),
        "approve": ("SUCCESSFUL", '["inline","json","yes"]'),
        "first": ("SUCCESSFUL", '["split",[["inline","json","fast"]],"kept",[6,3]]'),
        "pause": ("SUCCESSFUL", '["inline","json",null]'),
        "notify": ("SKIPPED", "-"),
        "fast": ("SUCCESSFUL", '["inline","json","fast"]'),
        "slow": ("SUCCESSFUL", '["inline","json","slow"]'),
        "rest": ("SUCCESSFUL", '["inline","json","rest"]'),
    }
    assert run.value == packed("rest")
    assert run.group == ("g", 2)


def test_a_journal_of_an_actor_still_folds_to_what_it_told_when_it_was_written() -> None:
    events, graphs = read_kept("journal_of_an_actor.jsonl")
    run = fold(events, graphs)
    assert (run.status, run.state, run.value) == (RunStatus.SUCCESSFUL, packed(6), packed(6))
    assert told(run) == {"add_2": ("SUCCESSFUL", '["inline","json",6]')}
    assert run.name_counts() == {"__init__": 1, "add": 3}


def test_the_kept_journals_hold_every_event() -> None:
    names = ("journal.jsonl", "journal_with_waits.jsonl", "journal_of_an_actor.jsonl")
    kept = {type(event) for name in names for _, event in read_kept(name)[0]}
    assert kept == set(AnyEvent.__args__)


def keep_journals() -> None:
    """Write the newer kept journals. Never again: they stand for what this release wrote. (The
    oldest is from before, and nothing here can write it.)"""
    first = graph(
        step("report", 1, 2, OptionalInput(4, packed("quiet"))),
        step("approve", action=Wait(WaitKind.SIGNAL, name="approval", seconds=3600.0)),
        step("first", 5, 6, 3, action=Wait(WaitKind.STEPS, count=1)),
        timer("pause", 60.0),
        step("notify", when="accuracy < 0.9"),
        step("fast"),
        step("slow", checkpoint=False),
    )
    submitted = RunSubmitted(graph="g0", output=0, is_pending=True, group=("g", 2))
    book = Book(first, submitted, run_id="kept")
    book.record(RunBegun())
    book.record(SignalReceived("approval", Raw(packed("yes"))))
    for name in ("approve", "first", "pause"):
        book.begin_wait(name)
    book.decide("notify", False)
    book.succeed("fast")
    book.record(RunAdopted("engine-2"))
    for event in book.run.due(1e9):
        book.record(event)
    book.extend("report", graph(step("rest", GivenInput(packed(1)), OuterInput(6))))
    book.succeed("slow")
    book.succeed("rest")
    keep(book, "journal_with_waits.jsonl")

    actor = ActorBook()
    actor.change("__init__", 0)
    for name, state in [("add", 1), ("add_1", 3)]:
        actor.call("add")
        actor.change(name, state, value=state)
    actor.rest()
    actor.call("add", call="a call")
    actor.change("add_2", 6, value=6)
    keep(actor, "journal_of_an_actor.jsonl")


def keep(book: Book, name: str) -> None:
    lines = []
    for at, event in book.events:
        if isinstance(event, RunSubmitted | GraphExtended):
            pages = encode_pages(book.graphs[event.graph].steps)[1]
            lines.append(Line(graph=event.graph, pages=pages))
        lines.append(Line(at=at, event=Raw(encode_event(event))))
    DATA.mkdir(exist_ok=True)
    (DATA / name).write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
