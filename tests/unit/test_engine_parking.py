"""Runs in which everything waits are unloaded, and come back for whatever news there are."""

import logging

import pytest

from tests.desk import Desk
from tests.graphs import LISTEN, method, packed, signal, step, timer
from weftline.core.events import RunStatus
from weftline.core.graph import Step
from weftline.core.state import StepStatus
from weftline.engine.active import Committed, Ended
from weftline.engine.engine import LAY_DOWN_STEPS
from weftline.engine.inbox import LOOK_S
from weftline.engine.parking import PARK_AFTER_S
from weftline.errors import WorkflowError, WorkflowRunningError
from weftline.ports.executor import Printed, Started, Succeeded
from weftline.ports.journal import Entry, InboxKind


def listener(name: str) -> Step:
    return step(name, action=LISTEN)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def parked(desk: Desk, *steps: Step, run_id: str = "r") -> None:
    """A run that has been unloaded."""
    desk.submit(run_id, *steps)
    assert desk.is_loaded(run_id)
    desk.wait(PARK_AFTER_S)
    assert not desk.is_loaded(run_id)


# -- going --------------------------------------------------------------------------------------


def test_a_run_in_which_everything_waits_is_unloaded_after_a_while(desk: Desk) -> None:
    desk.submit("r", step("a", 1, 2, 3), timer("t", 60.0), signal("w"), listener("l"))
    desk.wait(PARK_AFTER_S - 0.01)
    assert desk.is_loaded("r")
    desk.wait(0.01)
    assert not desk.is_loaded("r")
    assert desk.engine.open_runs == 1
    assert desk.under_way() == ["l"]


def test_a_run_with_a_step_under_way_or_one_that_could_be_stays(desk: Desk) -> None:
    desk.submit("r", step("a", 1, 2), step("b"), timer("t", 60.0))
    desk.executor.slots = 1
    desk.submit("s", step("c"))
    desk.wait(5.0)
    assert desk.is_loaded("r")
    assert desk.is_loaded("s")


def test_a_run_that_is_not_written_stays(desk: Desk) -> None:
    desk.submit("r", timer("t", 60.0))
    desk.journal.is_full = True
    desk.send("r", 1)
    desk.wait(5.0)
    assert desk.is_loaded("r")
    desk.journal.is_full = False
    desk.wait(5.0)
    assert not desk.is_loaded("r")


@pytest.mark.parametrize("fate", ["unknown, written", "unknown, not written"])
def test_a_run_whose_last_commit_is_in_doubt_stays(desk: Desk, fate: str) -> None:
    desk.submit("r", step("a", 1, 2), step("b"), timer("t", 60.0))
    desk.journal.troubles = [fate]
    desk.journal.is_silent = True
    desk.succeed("b")
    desk.wait(10.0)
    assert desk.is_loaded("r")
    desk.journal.is_silent = False
    desk.wait(50.0)
    desk.succeed("a")
    assert desk.ended("r")[0].status is RunStatus.SUCCESSFUL
    assert desk.gone("r") == []


def test_what_happens_now_and_then_keeps_a_run_loaded(desk: Desk) -> None:
    desk.submit("r", step("a", 1), signal("w"))
    for n in range(5):
        desk.wait(PARK_AFTER_S * 0.8)
        desk.send("r", n, "other")
        desk.turn()
        assert desk.is_loaded("r")
    desk.wait(2 * PARK_AFTER_S)
    assert not desk.is_loaded("r")


def test_a_paused_run_is_unloaded_and_lists_its_steps_anew(desk: Desk) -> None:
    desk.executor.slots = 1
    desk.submit("r", step("sum", 1, 2), step("a"), step("b"))
    desk.post("r", InboxKind.PAUSE)
    desk.turn()
    desk.wait(5.0)
    assert desk.is_loaded("r")  # `a` runs
    desk.succeed("a")
    desk.wait(5.0)
    assert not desk.is_loaded("r")
    desk.executor.wake()
    desk.turn()
    assert desk.under_way() == []
    desk.post("r", InboxKind.CONTINUE)
    desk.turn()
    assert desk.under_way() == ["b"]


def test_a_parked_run_whose_steps_still_stand_in_a_queue_harms_nobody(desk: Desk) -> None:
    desk.executor.slots = 0
    desk.submit("r", step("sum", 1, 2), step("a"), step("b"))
    desk.post("r", InboxKind.PAUSE)
    desk.turn()
    desk.wait(5.0)
    assert not desk.is_loaded("r")
    desk.executor.slots = 5
    desk.submit("other", step("c"))
    assert desk.under_way() == ["c"]
    desk.post("r", InboxKind.CONTINUE)
    desk.turn()
    assert sorted(desk.under_way()) == ["a", "b", "c"]


# -- coming back --------------------------------------------------------------------------------


def test_a_timer_brings_a_run_back(desk: Desk) -> None:
    parked(desk, step("a", 1), timer("t", 60.0))
    desk.wait(58.5)
    assert not desk.is_loaded("r")
    desk.wait(1.0)
    assert desk.under_way() == ["a"]
    desk.succeed("a")
    assert desk.ended("r")[0].status is RunStatus.SUCCESSFUL


def test_a_retry_brings_a_run_back(desk: Desk) -> None:
    desk.submit("r", step("a", tries=2, retry_delay_s=30.0))
    desk.fail("a")
    desk.wait(2 * PARK_AFTER_S)
    assert not desk.is_loaded("r")
    desk.wait(30.0)
    assert desk.attempt("a").number == 2


def test_news_bring_a_run_back(desk: Desk) -> None:
    parked(desk, step("a", 1), signal("w"))
    desk.send("r", "yes")
    desk.turn()
    assert desk.attempt("a").inputs == [packed("yes")]


def test_a_cancel_ends_a_parked_run_and_what_listens_in_it(desk: Desk) -> None:
    parked(desk, step("a", 1), listener("l"))
    desk.post("r", InboxKind.CANCEL)
    desk.turn()
    assert desk.ended("r")[0].status is RunStatus.CANCELED
    assert desk.executor.killed == ["l"]
    assert desk.engine.drives("r") is None


def test_an_outcome_of_what_listens_brings_a_run_back(desk: Desk) -> None:
    parked(desk, step("a", 1), listener("l"))
    key = desk.attempt("l").key
    desk.report(Started(key=key, at=1000.0, worker="w"), Printed(key, "stdout", "polled\n"))
    desk.turn()
    assert desk.status("r", "l") is StepStatus.RUNNING
    desk.wait(2 * PARK_AFTER_S)
    assert not desk.is_loaded("r")
    desk.succeed("l")
    assert desk.under_way() == ["a"]


def test_what_listened_and_died_is_started_again(desk: Desk) -> None:
    parked(desk, step("a", 1), listener("l"))
    desk.lose("l")
    assert desk.attempt("l").number == 2


def test_a_run_that_cannot_be_read_comes_back_later(desk: Desk) -> None:
    parked(desk, step("a", 1, 2), listener("l"), timer("t", 10.0))
    desk.journal.is_silent = True
    key = desk.attempt("l").key
    desk.report(Started(key=key, at=1000.0, worker="w"), Succeeded(key=key, value=packed("event")))
    desk.turn()
    assert not desk.is_loaded("r")
    desk.wait(15.0)
    assert not desk.is_loaded("r")
    desk.journal.is_silent = False
    desk.wait(1.0)
    assert desk.attempt("a").inputs == [packed("event"), b'["inline","json",null]']
    assert desk.journal.kinds("r").count("StepStarted") == 1


def test_letting_go_of_a_parked_run_drops_its_postponed_news(desk: Desk) -> None:
    parked(desk, step("a", 1), listener("l"))
    desk.journal.is_silent = True
    desk.succeed("l")
    desk.engine.let_go("r", lambda: None)
    desk.turn()
    desk.journal.is_silent = False
    desk.wait(5.0)
    assert desk.engine.drives("r") is None
    assert desk.journal.row("r").summary.status is RunStatus.RESUMABLE
    assert desk.journal.kinds("r") == ["RunSubmitted"]


def test_a_run_is_parked_again_when_its_news_led_to_nothing(desk: Desk) -> None:
    parked(desk, step("a", 1), signal("w"))
    desk.watch("r")
    assert desk.is_loaded("r")
    desk.wait(2 * PARK_AFTER_S)
    assert not desk.is_loaded("r")
    desk.send("r", "yes")
    desk.turn()
    desk.succeed("a")
    assert [ended.status for ended in desk.ended("watch")] == [RunStatus.SUCCESSFUL]


def test_events_go_on_being_told_after_a_run_came_back(desk: Desk) -> None:
    desk.submit("r", step("a", 1), signal("w"), wants_events=True)
    desk.wait(2 * PARK_AFTER_S)
    desk.send("r", 1)
    desk.turn()
    told = [each for each in desk.news["r"] if isinstance(each, Committed)]
    kinds = [type(event).__name__ for each in told for _, event in each.events]
    assert kinds == ["RunSubmitted", "WaitBegun", "SignalReceived", "WaitEnded"]


# -- owners -------------------------------------------------------------------------------------


def test_a_parked_run_that_somebody_else_took_is_told_to_be_gone(desk: Desk) -> None:
    parked(desk, step("a", 1), timer("t", 10.0))
    desk.watch("r", "a")
    desk.wait(2.0)
    second = Desk(desk.journal, "e2")
    second.clock.now = desk.clock.now
    second.adopt("r")
    desk.wait(10.0)
    for ear in ("r", "watch"):
        (gone,) = desk.gone(ear)
        assert isinstance(gone, WorkflowRunningError)
    assert desk.engine.drives("r") is None
    second.wait(10.0)
    assert second.under_way() == ["a"]


def test_a_timer_of_a_run_from_before_does_not_touch_the_one_that_came_after(desk: Desk) -> None:
    parked(desk, step("a", 1), timer("t", 10.0))
    desk.engine.let_go("r", lambda: None)
    desk.turn()
    second = Desk(desk.journal, "e2")
    second.adopt("r")
    second.engine.let_go("r", lambda: None)
    second.turn()
    desk.adopt("r")
    desk.wait(2.0)
    assert not desk.is_loaded("r")
    desk.wait(8.0)
    assert desk.under_way() == ["a"]
    desk.succeed("a")
    assert desk.ended("r")[-1].status is RunStatus.SUCCESSFUL
    assert desk.gone("r") == []


def test_a_run_that_comes_back_many_times_leaves_one_timer_behind(desk: Desk) -> None:
    parked(desk, step("a", 1), timer("t", 1e6))
    for n in range(20):
        desk.send("r", n, "other")
        desk.wait(3.0)
        assert not desk.is_loaded("r")
    assert len(desk.engine.timers) == 1


def test_a_run_that_has_ended_is_not_kept_by_its_timer(desk: Desk) -> None:
    desk.submit("r", step("a", 1), signal("w", seconds=1e6))
    desk.send("r", 1)
    desk.turn()
    desk.succeed("a")
    assert desk.engine.drives("r") is None
    assert all(not active.run.steps for active in desk.engine.timers)


def test_a_parked_run_is_let_go_like_any_other(desk: Desk) -> None:
    parked(desk, step("a", 1), timer("t", 10.0))
    desk.engine.stop()
    desk.engine.run_forever()
    row = desk.journal.row("r")
    assert (row.summary.status, row.engine) == (RunStatus.RESUMABLE, None)
    assert "the engine is stopping" in str(desk.gone("r")[0])


def test_a_parked_run_whose_journal_makes_no_sense_is_given_up(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    parked(desk, step("a", 1), timer("t", 10.0))
    desk.submit("other", step("b"))
    entries = desk.journal._runs["r"].entries
    entries[1] = Entry(2, entries[1].at, "WaitBegun", b'{"kind":"WaitBegun","step":77}')
    with caplog.at_level(logging.CRITICAL):
        desk.wait(10.0)
    (gone,) = desk.gone("r")
    assert type(gone) is WorkflowError
    assert desk.engine.drives("r") is None
    desk.succeed("b")
    assert desk.ended("other")[0].status is RunStatus.SUCCESSFUL


# -- actors -------------------------------------------------------------------------------------


def test_an_actor_at_rest_is_unloaded_and_comes_back_for_a_call(desk: Desk) -> None:
    desk.submit("r", method("__init__"), is_actor=True)
    desk.succeed("__init__", state=1)
    desk.wait(2 * PARK_AFTER_S)
    assert not desk.is_loaded("r")
    assert desk.engine.open_runs == 0
    desk.call("r", method("add"), call="c")
    desk.watch("r", "c")
    assert desk.attempt("add").state == packed(1)
    desk.succeed("add", state=2)
    assert isinstance(desk.news["watch"][0], Ended)
    desk.engine.let_go("r", lambda: None)
    desk.turn()
    assert desk.journal.row("r").summary.status is RunStatus.SUCCESSFUL


def test_an_actor_lays_down_what_is_behind_it(desk: Desk) -> None:
    desk.submit("r", method("__init__"), is_actor=True)
    desk.succeed("__init__", state=0)
    for n in range(1, LAY_DOWN_STEPS + 3):
        desk.call("r", method("add"))
        desk.turn()
        desk.succeed("add" if n == 1 else f"add_{n - 1}", state=n)
    kinds = desk.journal.kinds("r")
    assert kinds.count("ActorRested") == 1
    base = kinds.index("ActorRested") + 1
    row = desk.journal.row("r")
    assert row.summary.base_seq == base
    assert (row.summary.steps, row.summary.succeeded) == (LAY_DOWN_STEPS + 3,) * 2
    assert len(desk.run_of("r").steps) < 5
    second = Desk(desk.journal, "e2")
    second.adopt("r")
    assert len(second.run_of("r").steps) < 5
    second.call("r", method("add"))
    second.turn()
    assert second.attempt(f"add_{LAY_DOWN_STEPS + 2}").state == packed(LAY_DOWN_STEPS + 2)
    assert desk.journal.row("r").summary.base_seq == base


def test_an_actor_whose_caller_still_waits_or_that_is_paused_lays_nothing_down(
    desk: Desk,
) -> None:
    desk.engine.lay_down_steps = 1
    desk.submit("r", method("__init__"), is_actor=True)
    desk.post("r", InboxKind.PAUSE)
    desk.turn()
    desk.succeed("__init__", state=0)
    assert "ActorRested" not in desk.journal.kinds("r")
    desk.post("r", InboxKind.CONTINUE)
    desk.turn()
    desk.watch("r", "somebody's call", is_expected=True)
    desk.call("r", method("add"))
    desk.turn()
    before = desk.journal.kinds("r").count("ActorRested")
    desk.succeed("add", state=1)
    assert desk.journal.kinds("r").count("ActorRested") == before


def test_a_parked_run_that_was_taken_over_meanwhile_is_found_out_by_and_by(desk: Desk) -> None:
    for n in range(25):
        desk.submit(f"r{n}", step("a", 1), signal("w"))
    desk.wait(3.0)
    second = Desk(desk.journal, "e2")
    second.adopt("r0")
    second.adopt("r24")
    desk.wait(4 * LOOK_S)
    for n in (0, 24):
        assert isinstance(desk.gone(f"r{n}")[0], WorkflowRunningError)
        assert desk.engine.drives(f"r{n}") is None
    assert desk.engine.open_runs == 23
    assert not desk.is_loaded("r7")


def test_a_run_whose_step_was_handed_back_and_waits_for_room_stays(desk: Desk) -> None:
    desk.executor.slots = 2
    desk.submit("r", step("a"))
    desk.submit("other", step("b"))
    desk.report(Started(key=desk.attempt("a").key, at=1000.0, worker="w"))
    desk.turn()
    desk.executor.slots = 1
    desk.give_back("a")
    desk.wait(5.0)
    assert desk.is_loaded("r")
    desk.succeed("b")
    assert desk.under_way() == ["a"]


def test_a_paused_run_with_a_held_back_wait_and_a_starved_step_is_unloaded(desk: Desk) -> None:
    desk.submit("r", step("sum", 1, 2, 3), step("a"), step("b"), timer("t", 1.0, 1))
    desk.starve("b")
    desk.post("r", InboxKind.PAUSE)
    desk.turn()
    desk.succeed("a")
    desk.wait(3.0)
    assert not desk.is_loaded("r")
    desk.wait(20.0)
    desk.post("r", InboxKind.CONTINUE)
    desk.wait(1.5)
    assert desk.under_way() == ["b"]
    assert desk.status("r", "t") is StepStatus.SUCCESSFUL


def test_a_paused_run_whose_last_attempt_came_back_is_unloaded(desk: Desk) -> None:
    desk.submit("r", step("a"))
    desk.post("r", InboxKind.PAUSE)
    desk.wait(5.0)
    assert desk.is_loaded("r")
    desk.give_back("a")
    desk.wait(2.0)
    assert not desk.is_loaded("r")


def test_an_outcome_for_a_parked_run_of_somebody_else_comes_to_nothing(desk: Desk) -> None:
    parked(desk, step("a", 1, 2), listener("l"), listener("m"))
    Desk(desk.journal, "e2").adopt("r")
    desk.succeed("l")
    assert isinstance(desk.gone("r")[0], WorkflowRunningError)
    assert desk.executor.killed == ["m"]
    assert desk.engine.dispatcher.in_flight == {}
