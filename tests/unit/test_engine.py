"""What an engine writes, when, and what it starts; everything around it is in the test's hand."""

import gc
import weakref

import pytest
from msgspec import DecodeError

from tests.desk import HERE, Asleep, Desk
from tests.graphs import Book, error, graph, packed, step, timer
from weftline.core.actions import PythonCall
from weftline.core.environment import Environment
from weftline.core.events import RunStatus, StepFailed, decode_event
from weftline.core.graph import Join, OuterInput, Step, decode_pages
from weftline.core.policy import Placement
from weftline.core.rules import MAX_ADOPTIONS, MAX_LOSSES
from weftline.core.state import StepStatus
from weftline.core.values import Object, pack_list
from weftline.engine.active import Committed, Ended, Output, Stalled
from weftline.engine.dispatcher import RETRY_STARVED_S
from weftline.engine.inbox import LOOK_S
from weftline.engine.parking import PARK_AFTER_S
from weftline.engine.recovery import read_run
from weftline.engine.writer import MAX_BATCH_AGE_S, RETRY_COMMIT_S
from weftline.errors import (
    InvalidWorkflow,
    ResourcesUnavailable,
    StorageFull,
    WorkflowError,
    WorkflowRunningError,
)
from weftline.ports.executor import (
    Extended,
    GivenBack,
    Printed,
    Refused,
    Started,
    Succeeded,
    TimedOut,
)
from weftline.ports.journal import InboxKind


@pytest.fixture
def desk() -> Desk:
    return Desk()


# -- driving a run ------------------------------------------------------------------------------


def test_a_run_is_written_step_by_step_and_its_value_told(desk: Desk) -> None:
    desk.submit("r", step("sum", [1, 2]), step("a"), step("b"))
    assert desk.under_way() == ["a", "b"]
    desk.succeed("a", "b")
    assert desk.attempt("sum").inputs == [pack_list([packed("a"), packed("b")])]
    assert desk.attempt("sum").number == 1
    desk.succeed("sum")
    (ended,) = desk.ended("r")
    assert ended == Ended(RunStatus.SUCCESSFUL, packed("sum"), None, None, None)
    assert desk.journal.written() == [
        [("r", ["RunSubmitted"])],
        [("r", ["StepSucceeded", "StepSucceeded"])],
        [("r", ["StepSucceeded", "RunFinished"])],
    ]
    row = desk.journal.row("r")
    assert row.summary.status is RunStatus.SUCCESSFUL
    assert row.summary.value == packed("sum")
    assert (row.summary.steps, row.summary.succeeded) == (3, 3)
    assert desk.engine.drives("r") is None


def test_a_failure_is_written_with_the_end_of_the_run_in_one_commit(desk: Desk) -> None:
    desk.submit("r", step("a"))
    desk.fail("a")
    assert desk.journal.written()[-1] == [("r", ["StepFailed", "RunFinished"])]
    (ended,) = desk.ended("r")
    assert ended == Ended(RunStatus.FAILED, None, error("a"), "a", None)
    assert desk.journal.row("r").summary.error == error("a")


def test_what_an_attempt_tells_of_itself_is_recorded(desk: Desk) -> None:
    desk.submit("r", step("a", 1, timeout_s=9.0), step("b"), forward=True)
    attempt = desk.attempt("b")
    assert attempt.forward
    assert attempt.call == step("b").action
    desk.report(Started(key=attempt.key, at=1001.5, worker="child-1"))
    desk.turn()
    assert desk.status("r", "b") is StepStatus.RUNNING
    desk.report(
        Succeeded(key=attempt.key, value=packed(1), started_at=1001.5, worker="c", preview="1")
    )
    desk.turn()
    found = desk.journal.read("r")
    assert found is not None
    told = [decode_event(entry.body) for entry in found[1]][1:]
    assert [type(event).__name__ for event in told] == ["StepStarted", "StepSucceeded"]
    assert getattr(told[0], "worker") == "child-1"  # noqa: B009
    assert getattr(told[1], "preview") == "1"  # noqa: B009
    assert desk.attempt("a").timeout_s == 9.0


def test_lines_that_a_step_prints_are_told_with_its_name(desk: Desk) -> None:
    desk.submit("r", step("a"))
    desk.report(Printed(desk.attempt("a").key, "stderr", "oh\n"))
    desk.turn()
    assert desk.news["r"] == [Output("a", "stderr", "oh\n")]
    assert len(desk.journal.batches) == 1


def test_events_are_told_to_whoever_wants_them_once_they_are_durable(desk: Desk) -> None:
    desk.submit("r", step("a"), wants_events=True)
    desk.journal.is_full = True
    desk.succeed("a")
    told = [each for each in desk.news["r"] if isinstance(each, Committed)]
    assert [type(e).__name__ for each in told for _, e in each.events] == ["RunSubmitted"]
    desk.journal.is_full = False
    desk.clock.now += 1.0
    desk.turn()
    told = [each for each in desk.news["r"] if isinstance(each, Committed)]
    kinds = [type(e).__name__ for each in told for _, e in each.events]
    assert kinds == ["RunSubmitted", "StepSucceeded", "RunFinished"]


def test_objects_are_written_with_the_run_that_holds_them(desk: Desk) -> None:
    desk.submit("r", step("a"))
    key = desk.attempt("a").key
    desk.report(Succeeded(key=key, value=packed(1), objects=("ab", "cd")))
    desk.turn()
    assert desk.journal.batches[-1].objects == [("r", "ab"), ("r", "cd")]


def test_a_report_on_an_attempt_that_nobody_waits_for_is_void(desk: Desk) -> None:
    desk.submit("r", step("a", 1), step("b"))
    key = desk.attempt("b").key
    desk.report(
        Succeeded(key=key, value=packed(1)),
        Succeeded(key=key, value=packed(2)),
        Started(key=key, at=1.0, worker="w"),
        Succeeded(key=77, value=packed(3)),
    )
    desk.turn()
    assert desk.attempt("a").inputs == [packed(1)]
    assert desk.journal.kinds("r") == ["RunSubmitted", "StepSucceeded"]


def test_a_timed_out_attempt_counts_as_a_try_and_says_what_its_limit_was(desk: Desk) -> None:
    desk.submit("r", step("a", tries=2, timeout_s=2.5))
    for _ in range(2):
        desk.report(TimedOut(key=desk.attempt("a").key, after_s=2.5))
        desk.turn()
    (ended,) = desk.ended("r")
    assert ended.error is not None
    assert ended.error.type == "weftline.errors.StepTimeoutError"
    assert ended.error.text == "step 'a' ran longer than its timeout_s=2.5"
    assert desk.journal.kinds("r").count("StepFailed") == 2


def test_a_lost_attempt_starts_again_with_the_next_number_and_is_no_try(desk: Desk) -> None:
    desk.submit("r", step("a"))
    desk.lose("a")
    assert desk.attempt("a").number == 2
    desk.succeed("a")
    assert desk.ended("r")[0].status is RunStatus.SUCCESSFUL


def test_four_losses_in_a_row_hold_the_run_and_say_so(desk: Desk) -> None:
    desk.submit("r", step("a"))
    for _ in range(MAX_LOSSES):
        desk.lose("a")
    (ended,) = desk.ended("r")
    assert ended.status is RunStatus.RESUMABLE
    assert ended.step == "a"
    assert ended.reason is not None
    assert "4 times in a row" in ended.reason
    assert desk.under_way() == []
    assert desk.engine.drives("r") is None
    desk.adopt("r")
    assert desk.journal.kinds("r")[-2:] == ["RunAdopted", "RunResumed"]
    assert desk.attempt("a").number == 5


def test_an_attempt_that_was_given_back_is_started_again_as_the_same(desk: Desk) -> None:
    desk.submit("r", step("a", 1, 2), step("b"), step("c"))
    desk.executor.slots = 2
    desk.give_back("b")
    assert desk.attempt("b").number == 1
    assert desk.journal.kinds("r") == ["RunSubmitted"]


def test_a_retry_starts_when_its_time_has_come(desk: Desk) -> None:
    desk.submit("r", step("a", tries=2, retry_delay_s=30.0))
    desk.fail("a")
    assert desk.under_way() == []
    desk.wait(29.9)
    assert desk.under_way() == []
    desk.wait(0.1)
    assert desk.attempt("a").number == 2
    desk.succeed("a")
    assert desk.ended("r")[0].status is RunStatus.SUCCESSFUL


def test_retries_of_several_runs_share_one_clock(desk: Desk) -> None:
    for run_id, delay in [("r1", 20.0), ("r2", 10.0)]:
        desk.submit(run_id, step(run_id, tries=2, retry_delay_s=delay))
        desk.fail(run_id)
    desk.wait(10.0)
    assert desk.under_way() == ["r2"]
    desk.wait(9.9)
    assert desk.under_way() == ["r2"]
    desk.wait(0.1)
    assert desk.under_way() == ["r2", "r1"]


def test_the_jitter_of_a_retry_comes_from_the_seed_of_the_engine() -> None:
    waits = []
    for _ in range(2):
        desk = Desk()
        desk.submit("r", step("a", tries=2, retry_delay_s=10.0, retry_jitter=1.0))
        desk.fail("a")
        due = desk.journal.row("r").summary.wake_at
        assert due is not None
        waits.append(due - desk.clock.now)
    assert waits[0] == waits[1]
    assert 10.0 < waits[0] < 20.0


# -- group commit -------------------------------------------------------------------------------


def test_facts_of_many_runs_share_a_commit(desk: Desk) -> None:
    for n in range(5):
        desk.submit(f"r{n}", step("a"), turn=False)
    desk.turn()
    assert [len(batch) for batch in desk.journal.written()] == [5]
    for each in list(desk.executor.held.values()):
        desk.report(Succeeded(key=each.key, value=packed(1)))
    desk.turn()
    assert [len(batch) for batch in desk.journal.written()] == [5, 5]
    assert all(desk.ended(f"r{n}") for n in range(5))


def test_nothing_is_written_while_there_is_more_at_hand_and_it_is_young(desk: Desk) -> None:
    desk.submit("r", step("sum", 1, 2, 3), step("a"), step("b"), step("c"))
    written = len(desk.journal.batches)
    desk.succeed("a", turn=False)
    desk.engine.turn()
    assert len(desk.journal.batches) == written
    desk.succeed("b", turn=False)
    desk.engine.turn()
    assert len(desk.journal.batches) == written
    desk.engine.turn()  # nothing was at hand this time
    assert desk.journal.written()[-1] == [("r", ["StepSucceeded", "StepSucceeded"])]
    assert len(desk.journal.batches) == written + 1


def test_what_is_five_milliseconds_old_is_written_however_much_is_at_hand(desk: Desk) -> None:
    desk.submit("r", step("sum", 1, 2, 3), step("a"), step("b"), step("c"))
    desk.succeed("a", turn=False)
    desk.engine.turn()
    desk.clock.now += MAX_BATCH_AGE_S + 0.0001
    desk.succeed("b", turn=False)
    desk.engine.turn()
    assert desk.journal.written()[-1] == [("r", ["StepSucceeded", "StepSucceeded"])]


def test_the_engine_does_not_sleep_on_what_is_unwritten(desk: Desk) -> None:
    desk.submit("r", step("a", 1, 2), step("b"), step("c"))
    desk.succeed("b", turn=False)
    desk.engine.turn()
    desk.engine.turn()
    assert desk.executor.waited[-1] == 0.0
    with pytest.raises(Asleep):
        desk.engine.turn()
    assert desk.executor.waited[-1] == PARK_AFTER_S


def test_an_engine_that_never_drove_anything_sleeps_until_it_is_woken(desk: Desk) -> None:
    desk.turn()
    assert desk.executor.waited == [None]


def test_an_engine_at_rest_looks_at_its_inbox_now_and_then(desk: Desk) -> None:
    desk.submit("r", step("a"))
    desk.succeed("a")
    desk.wait(LOOK_S)
    assert desk.executor.waited[-1] == LOOK_S


def test_nothing_starts_before_what_it_reads_is_durable(desk: Desk) -> None:
    desk.journal.is_full = True
    desk.submit("r", step("a", 1), step("b"))
    assert desk.under_way() == []
    desk.journal.is_full = False
    desk.clock.now += 1.0
    desk.turn()
    assert desk.under_way() == ["b"]
    desk.journal.is_full = True
    desk.succeed("b")
    assert desk.under_way() == []
    desk.journal.is_full = False
    desk.clock.now += 1.0
    desk.turn()
    assert desk.under_way() == ["a"]


def test_a_one_succeeded_step_reads_only_what_is_durable(desk: Desk) -> None:
    desk.submit("r", step("one", 1, 2, join=Join.ONE_SUCCEEDED), step("a"), step("b"))
    desk.executor.slots = 2
    desk.succeed("a", turn=False)
    desk.executor.slots = 1  # so that it queues
    desk.turn()
    assert desk.under_way() == ["b"]
    desk.executor.slots = 100
    desk.journal.is_full = True
    desk.succeed("b")
    assert desk.under_way() == []
    desk.journal.is_full = False
    desk.clock.now += 1.0
    desk.turn()
    assert desk.attempt("one").inputs == [packed("a"), packed("b")]


# -- commits beside the loop --------------------------------------------------------------------


def test_a_slow_commit_is_made_beside_the_loop_which_goes_on(desk: Desk) -> None:
    desk.submit("r", step("sum", 1, 2, 3), step("a"), step("b"), step("c"))
    desk.slow_commits()
    desk.succeed("a")
    assert desk.committer.batch is not None
    desk.succeed("b")
    assert desk.status("r", "a") is StepStatus.READY
    desk.committer.finish()
    desk.turn()
    assert desk.status("r", "a") is StepStatus.SUCCESSFUL
    assert desk.committer.batch is not None  # the next one, with what gathered meanwhile
    desk.committer.finish()
    desk.turn()
    assert desk.status("r", "b") is StepStatus.SUCCESSFUL
    assert desk.journal.written()[-2:] == [[("r", ["StepSucceeded"])], [("r", ["StepSucceeded"])]]


def test_nothing_is_started_while_too_much_waits_for_the_commit_under_way(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weftline.engine.writer.MOST_UNWRITTEN", 2)
    desk.executor.slots = 3
    desk.submit("r", step("sum", [1, 2, 3, 4, 5, 6]), *[step(name) for name in "abcdef"])
    desk.slow_commits()
    desk.succeed("a")
    assert desk.under_way() == ["b", "c", "d"]
    desk.succeed("b")
    assert desk.under_way() == ["c", "d", "e"]  # one fact waits
    desk.succeed("c")
    assert desk.under_way() == ["d", "e"]
    desk.committer.finish()
    desk.turn()
    assert desk.under_way() == ["d", "e", "f"]


def test_a_commit_beside_the_loop_that_fails_is_made_again_with_what_came_later(
    desk: Desk,
) -> None:
    desk.submit("r", step("sum", 1, 2, 3), step("a"), step("b"), step("c"))
    desk.slow_commits()
    desk.succeed("a")
    desk.succeed("b")
    desk.journal.troubles = ["full"]
    desk.committer.finish()
    desk.turn()
    desk.clock.now += 2 * RETRY_COMMIT_S
    desk.turn()
    desk.committer.finish()
    desk.turn()
    assert desk.journal.written()[-1] == [("r", ["StepSucceeded", "StepSucceeded"])]
    desk.succeed("c")
    desk.turn()
    assert desk.under_way() == ["sum"]


def test_a_run_that_fails_is_told_of_even_if_its_last_attempt_goes_meanwhile(desk: Desk) -> None:
    desk.submit("r", step("sum", 1, 2), step("a"), step("b"))
    desk.slow_commits()
    desk.fail("a")
    assert desk.committer.batch is not None
    desk.give_back("b")
    desk.committer.finish()
    desk.turn()
    assert [ended.status for ended in desk.ended("r")] == [RunStatus.FAILED]
    assert desk.engine.drives("r") is None


def test_a_resume_while_a_commit_is_under_way_opens_an_epoch(desk: Desk) -> None:
    desk.submit("r", step("sum", 1, 2, 3), step("a"), step("b"), step("c"))
    desk.fail("a")
    desk.slow_commits()
    desk.succeed("b")
    desk.engine.rejoin("r", desk.hear("again"))
    desk.turn()
    desk.committer.finish()
    desk.turn()
    desk.committer.finish()
    desk.turn()
    assert desk.journal.row("r").epoch == 2
    assert sorted(desk.under_way()) == ["a", "c"]


def test_letting_a_run_go_waits_for_the_commit_under_way(desk: Desk) -> None:
    desk.submit("r", step("sum", 1, 2), step("a"), step("b"))
    desk.slow_commits()
    desk.succeed("a")
    desk.engine.let_go("r", lambda: None)
    desk.turn()
    row = desk.journal.row("r")
    assert row.summary.status is RunStatus.RESUMABLE
    assert row.summary.succeeded == 1
    assert row.engine is None
    assert row.last_seq == 2


def test_a_retry_that_is_due_while_its_run_is_being_written_starts_after_that(desk: Desk) -> None:
    retried = step("a", tries=2, retry_delay_s=1.0)
    desk.submit("r", step("sum", 1, 2, 3), retried, step("b"), step("c"))
    desk.fail("a")
    desk.slow_commits()
    desk.succeed("b")
    assert desk.committer.batch is not None
    desk.clock.now += 2.0
    desk.turn()
    assert desk.under_way() == ["c"]
    desk.committer.finish()
    desk.turn()
    if desk.committer.batch is not None:
        desk.committer.finish()
        desk.turn()
    assert sorted(desk.under_way()) == ["a", "c"]


# -- lanes --------------------------------------------------------------------------------------


def other(name: str, function: str) -> Step:
    return step(name, action=PythonCall(function=Object(function, "code", 1), arguments=b""))


def test_lanes_take_turns(desk: Desk) -> None:
    desk.executor.slots = 0
    steps = [other(f"x{n}", "x") for n in range(3)] + [other(f"y{n}", "y") for n in range(3)]
    desk.submit("r", step("sum", [1, 2, 3, 4, 5, 6]), *steps)
    desk.executor.slots = 1
    desk.executor.wake()
    for _ in range(6):
        desk.turn()
        (name,) = desk.under_way()
        desk.succeed(name, turn=False)
    assert desk.executor.order == ["x0", "y0", "x1", "y1", "x2", "y2"]


def test_one_lane_is_started_in_the_order_in_which_its_steps_became_ready(desk: Desk) -> None:
    desk.executor.slots = 2
    desk.submit("r", step("sum", [1, 2, 3, 4]), *[step(name) for name in "abcd"])
    assert desk.under_way() == ["a", "b"]
    desk.succeed("b")
    assert desk.under_way() == ["a", "c"]


def test_runs_with_one_environment_and_function_share_a_lane(desk: Desk) -> None:
    there = Environment(python="/other", sys_path=(), cwd="/project")
    for run_id, environment in [("r1", HERE), ("r2", HERE), ("r3", there)]:
        desk.submit(run_id, step(run_id), environment=environment, turn=False)
    desk.turn()
    assert [lane.environment for lane in desk.executor.lanes] == [HERE, there]


def test_what_was_given_back_is_first_in_its_lane(desk: Desk) -> None:
    desk.executor.slots = 1
    desk.submit("r", step("sum", [1, 2]), step("a"), step("b"))
    desk.give_back("a")
    assert desk.under_way() == ["a"]


# -- scopes that close --------------------------------------------------------------------------


def test_attempts_of_a_closed_scope_are_killed_and_the_queued_are_not_started(desk: Desk) -> None:
    desk.executor.slots = 2
    desk.submit("r", step("top", 1), step("a", catch=True))
    desk.extend("a", step("sum", 1, 2, 3, 4), *[step(name) for name in "pqrs"])
    assert desk.under_way() == ["p", "q"]
    desk.fail("p")
    assert desk.executor.killed == ["q"]
    assert desk.under_way() == ["top"]
    desk.succeed("top")
    assert desk.ended("r")[0].status is RunStatus.SUCCESSFUL
    assert desk.executor.order == ["a", "p", "q", "top"]


# -- cancel -------------------------------------------------------------------------------------


def test_a_canceled_run_kills_its_attempts_and_is_told(desk: Desk) -> None:
    desk.submit("r", step("sum", 1, 2), step("a"), step("b"))
    desk.submit("other", step("c"))
    desk.post("r", InboxKind.CANCEL)
    desk.turn()
    assert desk.executor.killed == ["a", "b"]
    assert desk.under_way() == ["c"]
    assert desk.ended("r")[0].status is RunStatus.CANCELED
    assert desk.journal.kinds("r")[-2:] == ["CancelRequested", "RunFinished"]
    assert desk.engine.drives("r") is None


def test_a_cancel_of_a_run_that_is_not_here_does_nothing(desk: Desk) -> None:
    desk.post("nobody's", InboxKind.CANCEL)
    desk.turn()
    assert desk.journal.batches == []


def test_a_canceled_run_can_be_resumed(desk: Desk) -> None:
    desk.submit("r", step("a", 1, 2), step("b"), step("c"))
    desk.succeed("b")
    desk.post("r", InboxKind.CANCEL)
    desk.turn()
    desk.adopt("r")
    assert desk.under_way() == ["c"]
    desk.succeed("c")
    desk.succeed("a")
    assert desk.ended("r")[-1].status is RunStatus.SUCCESSFUL


# -- letting go, adopting -----------------------------------------------------------------------


def test_a_run_that_is_let_go_is_resumable_and_another_engine_goes_on(desk: Desk) -> None:
    done: list[str] = []
    desk.submit("r", step("a", 1, 2), step("b"), step("c"))
    desk.succeed("b")
    desk.engine.let_go("r", lambda: done.append("r"))
    desk.turn()
    assert done == ["r"]
    assert desk.executor.killed == ["c"]
    row = desk.journal.row("r")
    assert (row.summary.status, row.engine, row.epoch) == (RunStatus.RESUMABLE, None, 2)
    assert (row.summary.steps, row.summary.succeeded) == (3, 1)
    second = Desk(desk.journal, "e2")
    second.adopt("r")
    assert second.under_way() == ["c"]
    row = desk.journal.row("r")
    assert (row.summary.status, row.engine, row.epoch) == (RunStatus.RUNNING, "e2", 3)
    second.succeed("c")
    second.succeed("a")
    assert second.ended("r")[0].value == packed("a")


def test_what_was_not_written_when_a_run_was_let_go_is_not_told_by_its_row(desk: Desk) -> None:
    desk.submit("r", step("a"))
    desk.succeed("a", turn=False)
    desk.engine.let_go("r", lambda: None)
    desk.engine.turn()
    row = desk.journal.row("r")
    assert row.summary.status is RunStatus.RESUMABLE
    assert (row.summary.succeeded, row.summary.value, row.summary.ended_at) == (0, None, None)
    assert desk.ended("r") == []


def test_a_failed_run_that_is_let_go_stays_failed(desk: Desk) -> None:
    desk.submit("r", step("sum", 1, 2), step("a"), step("b"))
    desk.fail("a")
    desk.engine.let_go("r", lambda: None)
    desk.turn()
    row = desk.journal.row("r")
    assert row.summary.status is RunStatus.FAILED
    assert row.summary.error == error("a")
    assert desk.executor.killed == ["b"]


def test_stopping_lets_every_run_go(desk: Desk) -> None:
    for n in range(3):
        desk.submit(f"r{n}", step("a"))
    desk.engine.stop()
    desk.engine.run_forever()
    for n in range(3):
        assert desk.journal.row(f"r{n}").summary.status is RunStatus.RESUMABLE
        (gone,) = desk.gone(f"r{n}")
        assert "the engine is stopping" in str(gone)


def test_a_run_whose_id_is_taken_is_refused_and_says_so(desk: Desk) -> None:
    desk.submit("r", step("a"))
    second = Desk(desk.journal, "e2")
    second.submit("r", step("b"))
    (gone,) = second.gone("r")
    assert isinstance(gone, WorkflowRunningError)
    assert "in use already" in str(gone)
    assert second.under_way() == []
    assert second.engine.drives("r") is None
    desk.submit("r", step("c"))
    assert isinstance(desk.gone("r")[0], WorkflowRunningError)
    assert desk.under_way() == ["a"]


def test_a_refused_submission_writes_nothing_into_the_run_whose_id_it_wanted(desk: Desk) -> None:
    desk.submit("r", step("a"))
    second = Desk(desk.journal, "e2")
    second.submit("other", step("b"))
    second.slow_commits()
    second.submit("r", step("c"))
    assert second.committer.batch is not None
    second.post("r", InboxKind.CANCEL)
    second.turn()
    second.committer.finish()
    second.turn()
    assert "in use already" in str(second.gone("r")[0])
    second.succeed("b")
    if second.committer.batch is not None:
        second.committer.finish()
        second.turn()
    assert desk.journal.kinds("r") == ["RunSubmitted"]
    assert desk.status("r", "a") is StepStatus.READY


def test_a_run_whose_adoption_was_never_written_is_not_released(desk: Desk) -> None:
    desk.submit("r", step("a"))
    second = Desk(desk.journal, "e2")
    desk.journal.is_full = True
    second.adopt("r")
    second.engine.let_go("r", lambda: None)
    second.turn()
    desk.journal.is_full = False
    second.clock.now += 5.0
    second.turn()
    row = desk.journal.row("r")
    assert (row.summary.status, row.engine, row.epoch) == (RunStatus.RUNNING, "e1", 1)
    desk.succeed("a")
    assert desk.ended("r")[0].status is RunStatus.SUCCESSFUL


def test_a_run_that_somebody_else_took_is_dropped_and_its_attempts_killed(desk: Desk) -> None:
    desk.submit("r", step("sum", 1, 2), step("a"), step("b"))
    desk.submit("other", step("c"))
    second = Desk(desk.journal, "e2")
    second.adopt("r")
    desk.succeed("a")
    (gone,) = desk.gone("r")
    assert isinstance(gone, WorkflowRunningError)
    assert "taken over" in str(gone)
    assert desk.executor.killed == ["b"]
    assert desk.under_way() == ["c"]
    assert desk.engine.drives("r") is None
    assert second.under_way() == ["a", "b"]
    assert desk.journal.kinds("r") == ["RunSubmitted", "RunAdopted"]


def test_a_run_that_changed_since_it_was_read_is_not_adopted(desk: Desk) -> None:
    desk.submit("r", step("sum", 1, 2), step("a"), step("b"))
    second = Desk(desk.journal, "e2")
    recorded = read_run(desk.journal, "r")
    desk.succeed("a")
    second.engine.adopt(recorded, second.hear("r"))
    second.turn()
    assert isinstance(second.gone("r")[0], WorkflowRunningError)
    assert second.under_way() == []
    assert desk.under_way() == ["b"]


def test_an_adopted_run_goes_on_in_the_environment_that_was_found_for_it(desk: Desk) -> None:
    desk.submit("r", step("a"))
    there = Environment(python="/new", sys_path=(), cwd="/new")
    second = Desk(desk.journal, "e2")
    recorded = read_run(desk.journal, "r")
    second.engine.adopt(recorded, second.hear("r"), environment=there, warnings=("moved",))
    second.turn()
    assert second.executor.lanes[0].environment == there
    assert read_run(desk.journal, "r").run.warnings == ["moved"]


def test_an_adopted_run_waits_for_its_retries(desk: Desk) -> None:
    desk.submit("r", step("a", tries=3, retry_delay_s=50.0))
    desk.fail("a")
    second = Desk(desk.journal, "e2")
    second.adopt("r")
    second.wait(49.9)
    assert second.under_way() == []
    second.wait(0.1)
    assert second.attempt("a").number == 2


def test_ten_adoptions_without_news_hold_the_run_for_a_person(desk: Desk) -> None:
    desk.submit("r", step("a"))
    for n in range(MAX_ADOPTIONS - 1):
        Desk(desk.journal, f"e{n + 2}").adopt("r")
    tenth = Desk(desk.journal, "e11")
    tenth.adopt("r")
    assert desk.journal.kinds("r")[-2:] == ["RunAdopted", "Quarantined"]
    (ended,) = tenth.ended("r")
    assert ended.status is RunStatus.RESUMABLE
    assert tenth.under_way() == []
    person = Desk(desk.journal, "e12")
    person.adopt("r")
    assert person.under_way() == ["a"]


# -- a failed run whose siblings go on ----------------------------------------------------------


def test_siblings_of_a_failed_step_go_on_and_are_recorded(desk: Desk) -> None:
    desk.executor.slots = 2
    desk.submit("r", step("sum", 1, 2, 3), step("a"), step("b"), step("c"))
    desk.fail("a")
    assert desk.ended("r")[0].status is RunStatus.FAILED
    assert desk.under_way() == ["b"]  # nothing new starts
    assert desk.engine.drives("r") is False
    desk.succeed("b")
    assert desk.status("r", "b") is StepStatus.SUCCESSFUL
    assert desk.engine.drives("r") is None
    assert len(desk.ended("r")) == 1


def test_a_failed_run_is_rejoined_while_a_sibling_still_runs(desk: Desk) -> None:
    desk.submit("r", step("sum", 1, 2, 3), step("a"), step("b"), step("c"))
    desk.report(Started(key=desk.attempt("b").key, at=1000.0, worker="w"))
    desk.fail("a")
    key = desk.attempt("b").key
    desk.engine.rejoin("r", desk.hear("again"))
    desk.turn()
    assert sorted(desk.under_way()) == ["a", "b", "c"]
    assert desk.attempt("b").key == key
    assert desk.executor.order == ["a", "b", "c", "a"]
    assert desk.journal.row("r").epoch == 2
    desk.succeed("a", "b", "c")
    desk.succeed("sum")
    assert desk.ended("again")[0].value == packed("sum")
    assert len(desk.ended("r")) == 1


def test_a_sibling_that_was_given_back_meanwhile_starts_again_after_a_rejoin(desk: Desk) -> None:
    desk.submit("r", step("sum", 1, 2, 3), step("a"), step("b"), step("c"))
    desk.report(Started(key=desk.attempt("b").key, at=1000.0, worker="w"))
    desk.fail("a")
    desk.give_back("b")
    desk.engine.rejoin("r", desk.hear("again"))
    desk.turn()
    assert sorted(desk.under_way()) == ["a", "b", "c"]


def test_a_sibling_that_is_lost_between_rejoin_and_its_commit_starts_once(desk: Desk) -> None:
    desk.submit("r", step("sum", 1, 2, 3), step("a"), step("b"), step("c"))
    desk.fail("a")
    desk.journal.is_full = True
    desk.engine.rejoin("r", desk.hear("again"))
    desk.turn()
    desk.lose("b")
    desk.journal.is_full = False
    desk.clock.now += 1.0
    desk.turn()
    assert sorted(desk.under_way()) == ["a", "b", "c"]


def test_a_sibling_that_fails_between_rejoin_and_its_commit_waits_for_its_time(
    desk: Desk,
) -> None:
    slow = step("b", tries=3, retry_delay_s=60.0)
    desk.submit("r", step("sum", 1, 2, 3), step("a"), slow, step("c"))
    desk.fail("a")
    desk.journal.is_full = True
    desk.engine.rejoin("r", desk.hear("again"))
    desk.turn()
    desk.fail("b")
    desk.journal.is_full = False
    desk.clock.now += 1.0
    desk.turn()
    assert sorted(desk.under_way()) == ["a", "c"]
    desk.clock.now += 60.0
    desk.turn()
    assert sorted(desk.under_way()) == ["a", "b", "c"]


def test_what_is_given_back_before_the_resume_is_written_starts_after_it(desk: Desk) -> None:
    desk.submit("r", step("sum", 1, 2, 3), step("a"), step("b"), step("c"))
    desk.fail("a")
    desk.slow_commits()
    desk.engine.rejoin("r", desk.hear("again"))
    desk.turn()
    desk.give_back("b")
    assert desk.under_way() == ["c"]
    desk.committer.finish()
    desk.turn()
    if desk.committer.batch is not None:
        desk.committer.finish()
        desk.turn()
    assert sorted(desk.under_way()) == ["a", "b", "c"]


def test_a_run_that_goes_on_cannot_be_rejoined(desk: Desk) -> None:
    desk.submit("r", step("a"))
    desk.engine.rejoin("r", desk.hear("again"))
    desk.turn()
    assert "is running" in str(desk.gone("again")[0])
    desk.engine.rejoin("nobody's", desk.hear("none"))
    desk.turn()
    assert "has just ended" in str(desk.gone("none")[0])


def test_a_run_that_has_just_succeeded_cannot_be_rejoined_and_harms_no_other(desk: Desk) -> None:
    desk.submit("r", step("a"))
    desk.submit("other", step("b"))
    desk.succeed("a", turn=False)
    desk.engine.turn()
    assert desk.engine.drives("r") is False
    desk.engine.rejoin("r", desk.hear("again"))
    desk.turn()
    assert isinstance(desk.gone("again")[0], WorkflowRunningError)
    assert desk.ended("r")[0].status is RunStatus.SUCCESSFUL
    assert desk.under_way() == ["b"]


# -- a full disk --------------------------------------------------------------------------------


def test_a_full_disk_stalls_the_engine_which_goes_on_when_there_is_space(desk: Desk) -> None:
    desk.executor.slots = 1
    desk.submit("r", step("sum", 1, 2, 3), step("a"), step("b"), step("c"))
    desk.journal.is_full = True
    desk.succeed("a")
    assert desk.under_way() == ["b"]  # all that it reads had been written before
    (stalled,) = [each for each in desk.news["r"] if isinstance(each, Stalled)]
    assert isinstance(stalled.error, StorageFull)
    assert stalled.since == desk.clock.now
    assert desk.executor.waited[-1] == RETRY_COMMIT_S
    desk.clock.now += 10.0
    desk.turn()
    desk.succeed("b")
    assert desk.under_way() == []  # `c` is ready and there is room, but nothing starts now
    told = [each for each in desk.news["r"] if isinstance(each, Stalled)]
    assert len(told) > 1
    assert {each.since for each in told} == {stalled.since}
    desk.clock.now += RETRY_COMMIT_S
    desk.turn()
    assert desk.under_way() == []
    desk.journal.is_full = False
    desk.clock.now += RETRY_COMMIT_S
    desk.turn()
    assert desk.journal.written()[-1] == [("r", ["StepSucceeded", "StepSucceeded"])]
    assert desk.under_way() == ["c"]


def test_a_stalled_engine_is_not_woken_more_often_than_it_tries(desk: Desk) -> None:
    desk.submit("r", step("a", 1), step("b"))
    desk.journal.is_full = True
    desk.succeed("b")
    assert desk.executor.waited[-1] == RETRY_COMMIT_S
    desk.clock.now += 0.1
    desk.turn()
    assert desk.executor.waited[-1] == pytest.approx(RETRY_COMMIT_S - 0.1)


def test_letting_go_what_could_not_be_written_ends_the_stall_for_all_others(desk: Desk) -> None:
    desk.executor.slots = 1
    desk.submit("r", step("a"))
    desk.submit("other", step("b"))
    desk.journal.is_full = True
    desk.executor.slots = 0
    desk.succeed("a")
    desk.executor.slots = 1
    desk.executor.wake()
    desk.turn()
    assert desk.under_way() == []
    desk.engine.let_go("r", lambda: None)
    desk.turn()
    assert desk.under_way() == ["b"]
    desk.journal.is_full = False
    desk.clock.now += 5.0
    desk.turn()
    row = desk.journal.row("r")
    assert (row.summary.status, row.engine) == (RunStatus.RESUMABLE, None)
    assert desk.status("r", "a") is StepStatus.READY


def test_a_new_run_waits_for_space_as_well(desk: Desk) -> None:
    desk.journal.is_full = True
    desk.submit("r", step("a"))
    assert desk.under_way() == []
    desk.journal.is_full = False
    desk.clock.now += RETRY_COMMIT_S
    desk.turn()
    assert desk.under_way() == ["a"]
    assert desk.journal.kinds("r") == ["RunSubmitted"]


def test_a_step_whose_result_finds_no_room_is_started_again_after_a_while(desk: Desk) -> None:
    desk.submit("r", step("a", tries=1))
    desk.starve("a")
    (stalled,) = desk.news["r"]
    assert isinstance(stalled, Stalled)
    assert isinstance(stalled.error, StorageFull)
    assert desk.under_way() == []
    assert desk.executor.waited[-1] == RETRY_COMMIT_S
    waits = []
    for _ in range(12):
        begun = desk.clock.now
        while not desk.under_way():
            wait = desk.executor.waited[-1]
            assert wait is not None
            desk.clock.now += wait
            desk.turn()
        waits.append(desk.clock.now - begun)
        desk.starve("a")
    assert waits == sorted(waits)
    assert waits[-1] == pytest.approx(RETRY_STARVED_S)
    told = [each for each in desk.news["r"] if isinstance(each, Stalled)]
    assert {each.since for each in told} == {stalled.since}
    desk.clock.now += RETRY_STARVED_S
    desk.turn()
    desk.succeed("a")
    assert desk.ended("r")[0].status is RunStatus.SUCCESSFUL
    assert desk.journal.kinds("r") == ["RunSubmitted", "StepSucceeded", "RunFinished"]


def test_a_failed_run_whose_last_step_finds_no_room_is_not_kept_for_ever(desk: Desk) -> None:
    desk.submit("r", step("sum", 1, 2), step("a"), step("b"))
    desk.fail("a")
    desk.starve("b")
    desk.clock.now += RETRY_STARVED_S
    desk.turn()
    assert desk.under_way() == []
    assert desk.engine.drives("r") is None


def test_a_step_that_was_set_aside_starts_once_after_a_rejoin(desk: Desk) -> None:
    desk.submit("r", step("sum", 1, 2), step("a"), step("b"))
    desk.report(Started(key=desk.attempt("b").key, at=1000.0, worker="w"))
    desk.fail("a")
    desk.starve("b")
    desk.engine.rejoin("r", desk.hear("again"))
    desk.turn()
    assert sorted(desk.under_way()) == ["a", "b"]
    desk.clock.now += RETRY_STARVED_S
    desk.turn()
    assert sorted(desk.under_way()) == ["a", "b"]


# -- commits of unknown outcome -----------------------------------------------------------------


@pytest.mark.parametrize("fate", ["unknown, written", "unknown, not written"])
def test_after_a_commit_of_unknown_outcome_the_engine_goes_on_from_what_is_there(
    desk: Desk, fate: str
) -> None:
    desk.submit("r", step("a", 1), step("b"))
    desk.journal.troubles = [fate]
    desk.succeed("b")
    desk.clock.now += 1.0
    desk.turn()
    assert desk.under_way() == ["a"]
    assert desk.journal.kinds("r") == ["RunSubmitted", "StepSucceeded"]
    assert desk.gone("r") == []


@pytest.mark.parametrize("fate", ["unknown, written", "unknown, not written"])
def test_a_doubt_that_cannot_be_resolved_at_once_stalls_the_engine(desk: Desk, fate: str) -> None:
    desk.submit("r", step("sum", 1, 2), step("b"), step("c"))
    desk.journal.troubles = [fate]
    desk.journal.is_silent = True
    desk.succeed("b")
    desk.succeed("c")
    desk.clock.now += 1.0
    desk.turn()
    assert desk.under_way() == []
    desk.journal.is_silent = False
    desk.clock.now += 1.0
    desk.turn()
    desk.clock.now += 1.0
    desk.turn()
    assert desk.under_way() == ["sum"]
    assert desk.journal.kinds("r") == ["RunSubmitted", "StepSucceeded", "StepSucceeded"]
    assert desk.gone("r") == []


@pytest.mark.parametrize("fate", ["unknown, written", "unknown, not written"])
def test_a_submission_of_unknown_outcome_is_one_run(desk: Desk, fate: str) -> None:
    desk.journal.troubles = [fate]
    desk.submit("r", step("a"))
    desk.clock.now += 1.0
    desk.turn()
    assert desk.under_way() == ["a"]
    assert desk.journal.row("r").epoch == 1


@pytest.mark.parametrize("fate", ["unknown, written", "unknown, not written"])
def test_an_adoption_of_unknown_outcome_is_one_adoption(desk: Desk, fate: str) -> None:
    desk.submit("r", step("a"))
    second = Desk(desk.journal, "e2")
    desk.journal.troubles = [fate]
    second.adopt("r")
    second.clock.now += 1.0
    second.turn()
    assert second.under_way() == ["a"]
    assert desk.journal.row("r").epoch == 2
    assert desk.journal.kinds("r") == ["RunSubmitted", "RunAdopted"]


@pytest.mark.parametrize("fate", ["unknown, written", "unknown, not written"])
def test_a_run_that_was_lost_to_another_engine_in_a_doubtful_commit_is_dropped(
    desk: Desk, fate: str
) -> None:
    desk.submit("r", step("sum", 1, 2), step("a"), step("b"))
    desk.submit("other", step("top", 1), step("c"))
    Desk(desk.journal, "e2").adopt("r")
    desk.journal.troubles = [fate]
    desk.succeed("a", "c")
    desk.clock.now += 1.0
    desk.turn()
    assert "taken over" in str(desk.gone("r")[0])
    assert desk.gone("other") == []
    assert desk.under_way() == ["top"]


def test_a_refused_adoption_in_a_doubtful_commit_that_was_written_costs_no_other_run(
    desk: Desk,
) -> None:
    desk.submit("r", step("sum", 1, 2), step("a"), step("b"))
    second = Desk(desk.journal, "e2")
    second.submit("other", step("top", 1), step("c"))
    recorded = read_run(desk.journal, "r")
    desk.succeed("a")  # the run has grown since it was read, in the same epoch
    desk.journal.troubles = ["unknown, written"]
    second.engine.adopt(recorded, second.hear("r"))
    second.succeed("c")
    second.clock.now += 1.0
    second.turn()
    assert isinstance(second.gone("r")[0], WorkflowRunningError)
    assert second.gone("other") == []
    assert second.under_way() == ["top"]


def test_a_doubtful_submission_of_an_id_that_this_engine_used_before_is_refused(
    desk: Desk,
) -> None:
    desk.submit("r", step("a"))
    desk.succeed("a")
    desk.clock.now += 1.0
    desk.journal.troubles = ["unknown, written"]
    desk.submit("r", step("b"))
    desk.clock.now += 1.0
    desk.turn()
    assert "in use already" in str(desk.gone("r")[0])
    assert desk.under_way() == []
    assert desk.journal.kinds("r") == ["RunSubmitted", "StepSucceeded", "RunFinished"]


def test_a_doubt_about_a_commit_without_events_is_no_trouble(desk: Desk) -> None:
    desk.submit("r", step("a", 1, 2), step("b", tries=2, retry_delay_s=1.0), step("c"))
    desk.fail("b")
    desk.clock.now += 2.0
    desk.journal.troubles = ["unknown, not written"]
    desk.turn()
    desk.clock.now += 1.0
    desk.turn()
    assert sorted(desk.under_way()) == ["b", "c"]


def test_a_finished_run_that_is_let_go_in_doubt_is_not_told_to_be_resumable(desk: Desk) -> None:
    desk.submit("r", step("a"))
    desk.journal.troubles = ["unknown, written"]
    desk.journal.is_silent = True
    desk.succeed("a")
    desk.engine.let_go("r", lambda: None)
    desk.turn()
    desk.journal.is_silent = False
    desk.clock.now += 5.0
    desk.turn()
    desk.clock.now += 5.0
    desk.turn()
    assert desk.journal.row("r").summary.status is RunStatus.SUCCESSFUL


# -- what an engine refuses ---------------------------------------------------------------------


def test_a_graph_with_conditions_is_refused_with_a_clear_message(desk: Desk) -> None:
    problem = desk.engine.refusal_of(
        graph(step("a", 1, 2), timer("pause", 3.0), step("maybe", when="x"))
    )
    assert isinstance(problem, InvalidWorkflow)
    assert str(problem) == (
        "the workflow cannot run: step 'maybe' has a condition, which this engine does not carry"
        " out"
    )


def test_a_graph_that_reads_steps_its_run_does_not_have_is_refused(desk: Desk) -> None:
    outer = graph(step("a", OuterInput(3)))
    for run in (None, Book(graph(*map(step, "bcd"))).run):
        problem = desk.engine.dispatcher.refusal_of(outer, run)
        assert "step 'a' reads a step that its run does not have" in str(problem)
    assert desk.engine.dispatcher.refusal_of(outer, Book(graph(*map(step, "bcde"))).run) is None


def test_a_graph_with_problems_of_shape_is_refused_with_all_of_them(desk: Desk) -> None:
    problem = desk.engine.refusal_of(graph(step("a", 7), step("b", 8)))
    assert isinstance(problem, InvalidWorkflow)
    assert "position 7" in str(problem)
    assert "position 8" in str(problem)


def test_a_graph_that_asks_for_too_much_is_refused_at_submission(desk: Desk) -> None:
    much = Placement(num_cpus=1000.0)
    problem = desk.engine.refusal_of(
        graph(step("a", 1, 2), step("b", placement=much), step("c", placement=much))
    )
    assert isinstance(problem, ResourcesUnavailable)
    assert str(problem) == "step 'b' asks for too many CPUs"
    assert desk.engine.refusal_of(graph(step("a"))) is None


@pytest.mark.parametrize(
    ("returned", "kind", "says"),
    [
        (step("b", placement=Placement(num_cpus=1000.0)), "ResourcesUnavailable", "too many CPUs"),
        (step("b", OuterInput(1)), "InvalidWorkflow", "a step that its run does not have"),
        (step("b", OuterInput(0)), "InvalidWorkflow", "'b' reads step 'a', which ends only after"),
        (step("b", when="x"), "InvalidWorkflow", "has a condition"),
        (step("b", 5), "InvalidWorkflow", "position 5"),
    ],
)
def test_a_returned_step_that_cannot_run_fails_the_step_that_returned_it(
    desk: Desk, returned: Step, kind: str, says: str
) -> None:
    desk.submit("r", step("a"))
    desk.submit("other", step("c"))
    desk.extend("a", returned)
    (ended,) = desk.ended("r")
    assert ended.status is RunStatus.FAILED
    assert ended.step == "a"
    assert ended.error is not None
    assert ended.error.type == f"weftline.errors.{kind}"
    assert says in ended.error.text
    assert desk.under_way() == ["c"]


def test_a_returned_graph_that_cannot_be_read_harms_only_its_run(desk: Desk) -> None:
    desk.submit("r", step("a"))
    desk.submit("other", step("b"))
    pages = [b"\x93\x01"]
    with pytest.raises(DecodeError):
        decode_pages(pages)
    desk.report(Extended(key=desk.attempt("a").key, graph="ab", pages=pages, output=0))
    desk.turn()
    assert desk.ended("r")[0].status is RunStatus.FAILED
    assert desk.under_way() == ["b"]


def test_an_environment_that_cannot_be_used_holds_its_runs_and_no_others(desk: Desk) -> None:
    there = Environment(python="/gone", sys_path=(), cwd="/project")
    desk.submit("r1", step("a"), environment=there)
    desk.submit("r2", step("b"))
    desk.report(
        GivenBack(key=desk.attempt("a").key),
        Refused(environment=there, reason="the interpreter /gone is gone"),
    )
    desk.turn()
    (ended,) = desk.ended("r1")
    assert ended.status is RunStatus.RESUMABLE
    assert ended.reason == "the interpreter /gone is gone"
    assert desk.under_way() == ["b"]


def test_a_run_that_contradicts_itself_is_given_up_and_harms_no_other(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.submit("r", step("a"))
    desk.submit("other", step("b"))
    # No executor can bring this about: somebody else ended the step in the engine's own state.
    desk.run_of("r").steps[0].status = StepStatus.CANCELED
    desk.succeed("a")
    (gone,) = desk.gone("r")
    assert type(gone) is WorkflowError
    assert "step 'a' is CANCELED" in str(gone)
    assert "contradicts itself" in caplog.text
    assert desk.journal.kinds("r") == ["RunSubmitted"]
    assert desk.journal.row("r").summary.status is RunStatus.RESUMABLE
    desk.succeed("b")
    assert desk.ended("other")[0].status is RunStatus.SUCCESSFUL


def test_an_engine_that_has_ended_is_not_kept_by_what_it_had_to_start() -> None:
    desk = Desk()
    desk.executor.slots = 0
    desk.submit("r", step("a"))
    active = desk.engine.runs.find("r")
    assert active is not None
    knows_engine: list[object] = [desk.engine]
    active.listeners.append(knows_engine.append)
    desk.engine.stop()
    desk.engine.run_forever()
    left = weakref.ref(desk.engine)
    del desk, active, knows_engine
    gc.collect()
    assert left() is None


def test_nobody_is_left_waiting_when_the_loop_itself_fails(desk: Desk) -> None:
    desk.submit("r", step("a"))

    def broken() -> None:
        raise ValueError("a fault in the engine")

    desk.engine._put(broken)
    with pytest.raises(ValueError, match="a fault in the engine"):
        desk.engine.run_forever()
    assert "the engine failed: ValueError" in str(desk.gone("r")[0])


# -- failures -----------------------------------------------------------------------------------


def test_with_retry_on_a_failure_that_does_not_match_is_final(desk: Desk) -> None:
    desk.submit("r", step("a", tries=5, retry_selected=True))
    desk.fail("a", retryable=False)
    found = desk.journal.read("r")
    assert found is not None
    event = decode_event(found[1][1].body)
    assert isinstance(event, StepFailed)
    assert event.retry_at is None
    assert desk.ended("r")[0].status is RunStatus.FAILED


def test_a_step_is_tried_as_often_as_its_policy_says(desk: Desk) -> None:
    desk.submit("r", step("a", tries=3))
    for number in (1, 2, 3):
        assert desk.attempt("a").number == number
        desk.fail("a")
    assert desk.ended("r")[0].status is RunStatus.FAILED


def test_the_steps_that_a_step_returned_are_stored_with_the_event_that_names_them(
    desk: Desk,
) -> None:
    desk.submit("r", step("a"))
    desk.extend("a", step("b", 1), step("c"))
    (stored,) = desk.journal.batches[-1].graphs
    assert decode_pages(desk.journal.read_graph(stored[0])) == [step("b", 1), step("c")]
    assert desk.under_way() == ["c"]
    desk.succeed("c")
    desk.succeed("b")
    assert desk.ended("r")[0].value == packed("b")
