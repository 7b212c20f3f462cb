"""News from outside: each is taken in once, whatever becomes of the commits around it."""

import logging

import msgspec
import pytest

from tests.desk import Desk
from tests.graphs import method, packed, signal, some, step, timer
from weftline.core.events import CallReceived, RunStatus, SignalReceived
from weftline.core.policy import Placement
from weftline.core.state import StepStatus
from weftline.engine.inbox import LOOK_S
from weftline.engine.parking import PARK_AFTER_S
from weftline.engine.writer import RETRY_COMMIT_S
from weftline.ports.journal import INBOX_AT_ONCE, ActorCall, InboxKind


@pytest.fixture
def desk() -> Desk:
    return Desk()


def waiting(desk: Desk, run_id: str = "r") -> None:
    """A run that waits for a signal, beside a step."""
    desk.submit(run_id, step("a", 1, 2), signal("w"), step("b"))


# -- each once ----------------------------------------------------------------------------------


def test_an_entry_is_taken_in_by_the_commit_that_records_it(desk: Desk) -> None:
    waiting(desk)
    desk.send("r", "yes", "news", "an object")
    desk.turn()
    batch = desk.journal.batches[-1]
    assert desk.journal.written()[-1] == [("r", ["SignalReceived", "WaitEnded"])]
    assert list(batch.changes[0].taken) == [1]
    assert batch.objects == [("r", "an object")]
    assert desk.journal.list_inbox("r") == []
    desk.succeed("b")
    assert desk.attempt("a").inputs == [packed("yes"), packed("b")]


@pytest.mark.parametrize("trouble", ["full", "unknown, written", "unknown, not written"])
def test_an_entry_is_taken_in_once_whatever_becomes_of_the_commit(desk: Desk, trouble: str) -> None:
    waiting(desk)
    desk.journal.troubles = [trouble]
    desk.send("r", "yes")
    desk.turn()
    desk.engine.look()
    desk.wait(1.0)
    assert desk.journal.kinds("r").count("SignalReceived") == 1
    assert desk.journal.list_inbox("r") == []
    assert desk.status("r", "w") is StepStatus.SUCCESSFUL


def test_an_entry_that_is_seen_again_before_its_commit_counts_once(desk: Desk) -> None:
    waiting(desk)
    desk.slow_commits()
    desk.send("r", 1)
    desk.turn()
    assert desk.committer.batch is not None
    desk.send("r", 2)
    desk.turn()
    for _ in range(2):
        if desk.committer.batch is not None:
            desk.committer.finish()
        desk.engine.look()
        desk.turn()
    events = desk.journal.events("r")
    values = [bytes(event.value) for event in events if isinstance(event, SignalReceived)]
    assert values == [packed(1), packed(2)]
    assert desk.journal.list_inbox("r") == []


def test_news_of_a_run_that_was_lost_are_taken_in_by_its_next_owner(desk: Desk) -> None:
    waiting(desk)
    second = Desk(desk.journal, "e2")
    desk.journal.is_full = True
    desk.send("r", "yes")
    desk.turn()
    desk.journal.is_full = False
    second.adopt("r")
    desk.wait(1.0)
    assert "taken over" in str(desk.gone("r")[0])
    second.turn()
    assert second.status("r", "w") is StepStatus.SUCCESSFUL
    assert desk.journal.kinds("r").count("SignalReceived") == 1


def test_news_from_before_an_adoption_are_taken_in_as_soon_as_it_is_written(desk: Desk) -> None:
    waiting(desk)
    desk.engine.let_go("r", lambda: None)
    desk.turn()
    desk.journal.post("r", InboxKind.PAUSE, b"null")
    second = Desk(desk.journal, "e2")
    second.adopt("r")
    assert desk.journal.kinds("r")[-2:] == ["RunAdopted", "PauseChanged"]
    assert second.clock.now == 1000.0  # no time passed


def test_a_lost_ring_costs_seconds_and_no_news(desk: Desk) -> None:
    waiting(desk)
    desk.send("r", 1, "other")
    desk.turn()
    desk.journal.post("r", InboxKind.CANCEL, b"null")
    desk.wait(LOOK_S + 0.1)
    assert desk.ended("r")[0].status is RunStatus.CANCELED


def test_an_inbox_that_cannot_be_read_is_read_later(desk: Desk) -> None:
    waiting(desk)
    desk.journal.is_silent = True
    desk.post("r", InboxKind.CANCEL)
    desk.turn()
    assert desk.ended("r") == []
    desk.journal.is_silent = False
    desk.wait(RETRY_COMMIT_S)
    assert desk.ended("r")[0].status is RunStatus.CANCELED


def test_more_news_than_are_read_at_once_are_all_taken_in(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weftline.adapters.journal.memory.INBOX_AT_ONCE", 10)
    monkeypatch.setattr("weftline.engine.inbox.INBOX_AT_ONCE", 10)
    assert INBOX_AT_ONCE > 1000
    waiting(desk)
    for n in range(35):
        desk.journal.post("r", InboxKind.SIGNAL, b'{"name":"x","value":%d}' % n)
    desk.engine.look()
    desk.turn()
    assert desk.journal.list_inbox("r") == []
    events = desk.journal.events("r")
    values = [bytes(event.value) for event in events if isinstance(event, SignalReceived)]
    assert values == [b"%d" % n for n in range(35)]
    assert desk.clock.now == 1000.0


# -- what they do -------------------------------------------------------------------------------


def test_a_pause_starts_nothing_and_lets_what_runs_go_on(desk: Desk) -> None:
    desk.executor.slots = 1
    desk.submit("r", step("sum", 1, 2), step("a"), step("b"))
    desk.post("r", InboxKind.PAUSE)
    desk.turn()
    assert desk.journal.row("r").summary.status is RunStatus.PAUSED
    desk.succeed("a")
    assert desk.under_way() == []
    desk.post("r", InboxKind.PAUSE)
    desk.turn()
    desk.post("r", InboxKind.CONTINUE)
    desk.turn()
    assert desk.under_way() == ["b"]
    assert desk.journal.kinds("r").count("PauseChanged") == 2
    desk.post("r", InboxKind.CONTINUE)
    desk.turn()
    assert desk.journal.kinds("r").count("PauseChanged") == 2
    assert desk.journal.list_inbox("r") == []


def test_what_comes_back_while_a_run_is_paused_starts_again_when_it_continues(desk: Desk) -> None:
    from weftline.ports.executor import Started

    desk.submit("r", step("sum", 1, 2), step("a"), step("b"))
    desk.report(Started(key=desk.attempt("a").key, at=1000.0, worker="w"))
    desk.report(Started(key=desk.attempt("b").key, at=1000.0, worker="w"))
    desk.post("r", InboxKind.PAUSE)
    desk.turn()
    desk.give_back("a")
    desk.starve("b")
    desk.wait(10.0)
    assert desk.under_way() == []
    desk.post("r", InboxKind.CONTINUE)
    desk.turn()
    assert sorted(desk.under_way()) == ["a", "b"]
    desk.wait(10.0)
    assert sorted(desk.under_way()) == ["a", "b"]
    desk.succeed("a", "b")
    desk.succeed("sum")
    assert desk.ended("r")[0].status is RunStatus.SUCCESSFUL


def test_a_paused_run_that_fails_may_be_told_to_go_on_and_is_not_kept(desk: Desk) -> None:
    desk.submit("r", step("a"))
    desk.post("r", InboxKind.PAUSE)
    desk.turn()
    desk.fail("a")
    assert desk.engine.drives("r") is None
    desk.post("r", InboxKind.CONTINUE)
    desk.turn()
    assert desk.journal.kinds("r")[-1] == "PauseChanged"
    assert desk.journal.row("r").summary.status is RunStatus.FAILED
    assert desk.engine.drives("r") is None


def test_a_cancel_of_a_run_that_has_failed_is_recorded(desk: Desk) -> None:
    desk.submit("r", step("a"))
    desk.fail("a")
    assert desk.engine.drives("r") is None
    desk.post("r", InboxKind.CANCEL)
    desk.turn()
    assert desk.journal.kinds("r")[-2:] == ["CancelRequested", "RunFinished"]
    assert desk.journal.row("r").summary.status is RunStatus.CANCELED
    assert desk.journal.list_inbox("r") == []
    assert desk.engine.drives("r") is None


def test_a_cancel_from_before_a_resume_does_not_end_what_goes_on_from_there(desk: Desk) -> None:
    desk.submit("r", step("a", 1), step("b"))
    desk.post("r", InboxKind.CANCEL)
    desk.turn()
    assert desk.journal.row("r").summary.status is RunStatus.CANCELED
    desk.post("r", InboxKind.CANCEL)  # by somebody who asked at the same time
    desk.adopt("r")
    desk.engine.look()
    desk.turn()
    assert desk.journal.list_inbox("r") == []
    desk.succeed("b")
    desk.succeed("a")
    assert desk.ended("r")[-1].status is RunStatus.SUCCESSFUL


@pytest.mark.parametrize("kind", [InboxKind.CANCEL, InboxKind.PAUSE, InboxKind.CONTINUE])
def test_news_for_a_run_that_has_its_result_are_taken_in_and_change_nothing(
    desk: Desk, kind: InboxKind
) -> None:
    desk.submit("r", step("a"))
    desk.succeed("a")
    before = desk.journal.kinds("r")
    desk.post("r", kind)
    desk.turn()
    desk.send("r", "too late")
    desk.turn()
    assert desk.journal.kinds("r") == before
    assert desk.journal.list_inbox("r") == []
    assert desk.journal.row("r").summary.status is RunStatus.SUCCESSFUL


def test_news_for_the_run_of_somebody_else_are_left_alone(desk: Desk) -> None:
    waiting(desk)
    second = Desk(desk.journal, "e2")
    second.submit("other", step("a"))
    desk.journal.post("r", InboxKind.CANCEL, b"null")
    second.engine.look()
    second.turn()
    assert len(desk.journal.list_inbox("r")) == 1


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("signal", b"{}"),
        ("signal", b"not JSON"),
        ("call", b'{"steps":"AAAA","call":""}'),
        ("something new", b"null"),
    ],
)
def test_news_that_cannot_be_read_are_told_of_and_harm_nobody(
    desk: Desk, kind: str, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    desk.submit("r", method("__init__"), is_actor=True)
    desk.journal.post("r", InboxKind.CANCEL, body)
    entry = desk.journal._inbox.pop()
    desk.journal._inbox.append(entry._replace(kind=kind))
    with caplog.at_level(logging.ERROR):
        desk.engine.look()
        desk.turn()
    assert "run r: news that cannot be read" in caplog.text
    assert desk.journal.list_inbox("r") == []
    desk.succeed("__init__", state=1)
    assert desk.journal.row("r").summary.status is RunStatus.SUCCESSFUL


def test_a_call_of_what_is_no_actor_comes_to_nothing(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.submit("r", step("a"))
    desk.call("r", method("add"))
    desk.turn()
    assert "came too late" in caplog.text
    assert desk.journal.list_inbox("r") == []
    desk.succeed("a")
    assert desk.ended("r")[0].status is RunStatus.SUCCESSFUL


def test_a_run_that_is_being_released_takes_nothing_in(desk: Desk) -> None:
    waiting(desk)
    desk.journal.is_full = True
    desk.engine.let_go("r", lambda: None)
    desk.turn()
    desk.post("r", InboxKind.CANCEL)
    desk.turn()
    desk.journal.is_full = False
    desk.wait(10.0)
    row = desk.journal.row("r")
    assert (row.summary.status, row.engine) == (RunStatus.RESUMABLE, None)
    assert desk.journal.kinds("r")[-1] == "WaitBegun"
    second = Desk(desk.journal, "e2")
    second.adopt("r")
    assert desk.journal.row("r").summary.status is RunStatus.CANCELED


def test_a_run_that_was_let_go_in_doubt_takes_nothing_in_until_it_is_taken(desk: Desk) -> None:
    desk.submit("r", step("a", 1, 2), signal("w"), step("b"))
    desk.journal.troubles = ["unknown, written"]
    desk.journal.is_silent = True
    desk.succeed("b")
    desk.engine.let_go("r", lambda: None)
    desk.turn()
    desk.journal.is_silent = False
    desk.send("r", 1)
    desk.wait(10.0)
    assert desk.engine.drives("r") is None
    assert len(desk.journal.list_inbox("r")) == 1
    desk.adopt("r")
    desk.turn()
    assert desk.under_way() == ["a"]
    assert desk.journal.list_inbox("r") == []


# -- waits --------------------------------------------------------------------------------------


def test_a_wait_begins_in_the_commit_of_what_made_it_ready(desk: Desk) -> None:
    desk.submit("r", step("a", 1), timer("t", 60.0, 2), step("b"))
    assert desk.journal.written()[-1] == [("r", ["RunSubmitted"])]
    desk.succeed("b")
    assert desk.journal.written()[-1] == [("r", ["StepSucceeded", "WaitBegun"])]
    assert desk.journal.row("r").summary.wake_at == desk.clock.now + 60.0


def test_a_wait_begins_only_when_the_run_may_start_anything(desk: Desk) -> None:
    desk.submit("r", step("a", 1, 3), timer("t", 60.0, 2), step("b"), step("c"))
    desk.post("r", InboxKind.PAUSE)
    desk.turn()
    desk.succeed("b")
    desk.wait(100.0)
    assert "WaitBegun" not in desk.journal.kinds("r")
    desk.post("r", InboxKind.CONTINUE)
    desk.turn()
    assert desk.journal.written()[-1] == [("r", ["PauseChanged", "WaitBegun"])]
    assert desk.journal.row("r").summary.wake_at == desk.clock.now + 60.0


def test_a_deadline_is_kept_over_an_adoption(desk: Desk) -> None:
    desk.submit("r", step("a", 1), timer("t", 60.0))
    desk.wait(50.0)
    second = Desk(desk.journal, "e2")
    second.clock.now = desk.clock.now
    second.adopt("r")
    second.wait(9.9)
    assert second.under_way() == []
    second.wait(0.2)
    assert second.under_way() == ["a"]


def test_waits_whose_time_is_up_together_harm_nobody(desk: Desk) -> None:
    desk.submit("r", step("a", 1), step("c", catch=True))
    desk.submit("other", step("b"))
    waits = [signal(name, seconds=5.0) for name in "uvw"]
    desk.extend("c", step("x", 1, 2, 3), *waits)
    desk.wait(6.0)
    assert desk.journal.kinds("r")[-2:] == ["StepFailed", "ScopeClosed"]
    assert sorted(desk.under_way()) == ["a", "b"]


def test_a_wait_for_some_of_many_hands_on_what_it_found(desk: Desk) -> None:
    desk.submit("r", step("a", 1), some("w", 2, 3), step("p"), step("q"))
    desk.succeed("q")
    assert desk.attempt("a").inputs == [b'["split",[["inline","json","q"]],"r",[2]]']
    desk.succeed("a")
    assert desk.executor.killed == ["p"]
    assert desk.ended("r")[0].status is RunStatus.SUCCESSFUL
    assert desk.engine.drives("r") is None


# -- actors -------------------------------------------------------------------------------------


def actor(desk: Desk, run_id: str = "r") -> None:
    desk.submit(run_id, method("__init__"), is_actor=True)
    desk.succeed("__init__", state=0)


def test_calls_are_carried_out_one_by_one_with_the_state_of_the_one_before(desk: Desk) -> None:
    actor(desk)
    assert desk.ended("r")[0].status is RunStatus.SUCCESSFUL
    for n in range(3):
        desk.call("r", method("add"), objects=(f"object {n}",))
    desk.turn()
    for n, name in enumerate(["add", "add_1", "add_2"]):
        assert desk.under_way() == [name]
        assert desk.attempt(name).state == packed(n)
        desk.succeed(name, state=n + 1)
    assert desk.journal.row("r").summary.status is RunStatus.SUCCESSFUL
    assert len([b for batch in desk.journal.batches for b in batch.objects]) == 3


def test_the_state_is_durable_before_the_next_method_gets_it(desk: Desk) -> None:
    actor(desk)
    desk.call("r", method("add"))
    desk.call("r", method("add"))
    desk.turn()
    desk.journal.is_full = True
    desk.succeed("add", state=1)
    assert desk.under_way() == []
    desk.journal.is_full = False
    desk.wait(1.0)
    assert desk.attempt("add_1").state == packed(1)


def test_a_step_that_is_no_method_gets_no_state(desk: Desk) -> None:
    actor(desk)
    desk.call("r", method("add", 1), step("load"))
    desk.turn()
    assert desk.attempt("load").state is None
    desk.succeed("load")
    assert desk.attempt("add").state == packed(0)


def test_a_call_that_came_with_an_adoption_is_told_by_its_caller_name(desk: Desk) -> None:
    actor(desk)
    desk.call("r", method("add"), call="c1")
    desk.turn()
    (event,) = [e for e in desk.journal.events("r") if isinstance(e, CallReceived)]
    assert event.call == "c1"
    second = Desk(desk.journal, "e2")
    second.adopt("r")
    second.watch("r", "c1")
    second.succeed("add", state=1, value="done")
    (ended,) = second.ended("watch")
    assert (ended.status, ended.value, ended.step) == (RunStatus.SUCCESSFUL, packed("done"), "add")


MUCH = Placement(num_cpus=1000.0)
"""More than the machine of these tests ever has."""


def test_a_call_that_could_never_be_carried_out_here_is_refused_and_the_actor_goes_on(
    desk: Desk,
) -> None:
    actor(desk)
    desk.watch("r", "c1", is_expected=True)
    desk.call("r", method("add", placement=MUCH), call="c1", objects=("an object",))
    desk.turn()
    (ended,) = desk.ended("watch")
    assert (ended.status, ended.value, ended.step) == (RunStatus.FAILED, None, None)
    assert ended.error is not None
    assert ended.error.type == "weftline.errors.ResourcesUnavailable"
    assert ended.error.text == "step 'add' asks for too many CPUs"
    assert desk.journal.list_inbox("r") == []
    assert "CallReceived" not in desk.journal.kinds("r")
    assert desk.journal.row("r").summary.status is RunStatus.SUCCESSFUL
    desk.call("r", method("add"), call="c2")
    desk.watch("r", "c2", "second")
    desk.succeed("add", state=1, value=1)
    assert [each.status for each in desk.ended("second")] == [RunStatus.SUCCESSFUL]


def test_what_a_call_takes_as_arguments_must_be_possible_too(desk: Desk) -> None:
    actor(desk)
    desk.call("r", method("add", 1), step("load", placement=MUCH), call="c1")
    desk.watch("r", "c1")
    (ended,) = desk.ended("watch")
    assert ended.error is not None
    assert ended.error.text == "step 'load' asks for too many CPUs"


def test_a_call_that_cannot_be_read_is_refused_too(desk: Desk) -> None:
    actor(desk)
    desk.watch("r", "c1", is_expected=True)
    desk.post("r", InboxKind.CALL, msgspec.json.encode(ActorCall(b"no steps", "c1", ())))
    desk.turn()
    (ended,) = desk.ended("watch")
    assert ended.error is not None
    assert "the call cannot be read" in ended.error.text
    desk.call("r", method("add"), call="c2")
    desk.watch("r", "c2", "second")
    desk.succeed("add", state=1, value=1)
    assert [each.status for each in desk.ended("second")] == [RunStatus.SUCCESSFUL]


def test_who_watches_a_refused_call_late_is_told_as_well(desk: Desk) -> None:
    actor(desk)
    desk.call("r", method("add", placement=MUCH), call="c1")
    desk.turn()
    desk.wait(2 * PARK_AFTER_S)
    assert not desk.is_loaded("r")
    for ear in ("one", "two"):
        desk.watch("r", "c1", ear, is_expected=True)
        assert [each.status for each in desk.ended(ear)] == [RunStatus.FAILED]


def test_only_the_latest_refused_calls_are_remembered(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weftline.engine.inbox.REMEMBERED", 2)
    actor(desk)
    for n in range(3):
        desk.call("r", method("add", placement=MUCH), call=f"c{n}")
    desk.turn()
    for n in range(3):
        desk.watch("r", f"c{n}", f"ear {n}", is_expected=True)
    assert [len(desk.ended(f"ear {n}")) for n in range(3)] == [0, 1, 1]


def test_a_call_that_makes_no_sense_is_told_to_whoever_waits_for_it(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    actor(desk)
    desk.watch("r", "c1", is_expected=True)
    desk.call("r", method("add", 7), call="c1")
    desk.turn()
    (ended,) = desk.ended("watch")
    assert ended.status is RunStatus.FAILED
    assert ended.error is not None
    assert "cannot be carried out" in ended.error.text
    assert "cannot be carried out" in caplog.text
    desk.call("r", method("add"))
    desk.turn()
    assert desk.under_way() == ["add"]


def test_a_method_that_needs_no_state_yet_gets_none(desk: Desk) -> None:
    desk.submit("r", method("__init__"), is_actor=True)
    assert desk.attempt("__init__").state is None
