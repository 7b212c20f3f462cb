"""Who waits for a run, or for one step of it, is told how it ended: once, and in any case."""

import pytest

from tests.desk import Desk
from tests.graphs import error, graph, method, packed, signal, step
from weftline.core.events import RunStatus
from weftline.engine.active import Ended
from weftline.engine.turns import Turns
from weftline.errors import StepNotFoundError, WorkflowError, WorkflowQueueFull
from weftline.ports.journal import InboxKind


@pytest.fixture
def desk() -> Desk:
    return Desk()


def value(name: str) -> Ended:
    return Ended(RunStatus.SUCCESSFUL, packed(name), None, name, None)


# -- runs ---------------------------------------------------------------------------------------


def test_the_end_of_a_run_is_told_to_everybody(desk: Desk) -> None:
    desk.submit("r", step("a"))
    desk.watch("r", ear="one")
    desk.watch("r", ear="two")
    desk.succeed("a")
    for ear in ("r", "one", "two"):
        assert [ended.value for ended in desk.ended(ear)] == [packed("a")]


def test_a_run_that_nobody_drives_here_is_told_at_once(desk: Desk) -> None:
    desk.watch("nobody's")
    assert "is not driven here" in str(desk.gone("watch")[0])
    desk.submit("r", step("a"))
    desk.succeed("a")
    desk.watch("r", ear="late")
    assert "is not driven here" in str(desk.gone("late")[0])


def test_a_failed_run_whose_siblings_run_is_told_at_once(desk: Desk) -> None:
    desk.submit("r", step("sum", 1, 2), step("a"), step("b"))
    desk.fail("a")
    desk.watch("r")
    assert [ended.status for ended in desk.ended("watch")] == [RunStatus.FAILED]


def test_who_comes_while_a_late_outcome_is_being_written_is_told_then(desk: Desk) -> None:
    desk.submit("r", step("sum", 1, 2, 3), step("a"), step("b"), step("c"))
    desk.fail("a")
    desk.slow_commits()
    desk.succeed("b")
    assert desk.committer.batch is not None
    desk.watch("r")
    assert desk.news["watch"] == []
    desk.committer.finish()
    desk.turn()
    assert [ended.status for ended in desk.ended("watch")] == [RunStatus.FAILED]


def test_an_actor_at_rest_is_told_of_its_last_value(desk: Desk) -> None:
    desk.submit("r", method("__init__"), is_actor=True)
    desk.succeed("__init__", state=0, value=7)
    desk.watch("r")
    (ended,) = desk.ended("watch")
    assert (ended.status, ended.value) == (RunStatus.SUCCESSFUL, packed(7))


def test_a_failure_of_an_actor_is_told_although_it_was_at_rest_before(desk: Desk) -> None:
    desk.submit("r", method("__init__"), is_actor=True)
    desk.succeed("__init__", state=0)
    desk.call("r", method("add"))
    desk.turn()
    desk.watch("r")
    desk.fail("add")
    assert [ended.status for ended in desk.ended("watch")] == [RunStatus.FAILED]


# -- steps --------------------------------------------------------------------------------------


def test_the_value_of_a_step_is_told_when_it_is_durable(desk: Desk) -> None:
    desk.submit("r", step("a", 1), step("b"))
    desk.watch("r", "b")
    desk.journal.is_full = True
    desk.succeed("b")
    assert desk.news["watch"] == []
    desk.journal.is_full = False
    desk.wait(1.0)
    assert desk.news["watch"] == [value("b")]


def test_the_value_of_a_step_that_has_ended_is_told_at_once(desk: Desk) -> None:
    desk.submit("r", step("a", 1), step("b"))
    desk.succeed("b")
    desk.watch("r", "b")
    assert desk.news["watch"] == [value("b")]


def test_who_comes_while_the_value_is_being_written_is_told_then(desk: Desk) -> None:
    desk.submit("r", step("a", 1, 2), step("b"), step("c"))
    desk.slow_commits()
    desk.succeed("b")
    assert desk.committer.batch is not None
    desk.watch("r", "b")
    assert desk.news["watch"] == []
    for _ in range(2):
        if desk.committer.batch is not None:
            desk.committer.finish()
        desk.turn()
    assert desk.news["watch"] == [value("b")]


def test_a_step_that_comes_later_is_told_too(desk: Desk) -> None:
    desk.submit("r", step("a"))
    desk.watch("r", "inner")
    desk.extend("a", step("x", 1), step("inner"))
    desk.succeed("inner")
    assert desk.news["watch"] == [value("inner")]


def test_a_step_that_returned_steps_is_told_with_their_value(desk: Desk) -> None:
    desk.submit("r", step("z", 1), step("a"))
    desk.watch("r", "a")
    desk.extend("a", step("x"))
    desk.succeed("x")
    assert desk.news["watch"] == [value("a")._replace(value=packed("x"))]


def test_a_failed_step_is_told_with_its_error(desk: Desk) -> None:
    desk.submit("r", step("a", 1), step("b"))
    desk.watch("r", "b", ear="b")
    desk.watch("r", "a", ear="a")
    desk.fail("b")
    assert desk.news["b"] == [Ended(RunStatus.FAILED, None, error("b"), "b", None)]
    (ended,) = desk.ended("a")
    assert (ended.status, ended.error, ended.step) == (RunStatus.FAILED, error("b"), "b")


def test_a_step_of_a_canceled_run_is_told(desk: Desk) -> None:
    desk.submit("r", step("a", 1), step("b"))
    desk.watch("r", "a")
    desk.post("r", InboxKind.CANCEL)
    desk.turn()
    (ended,) = desk.ended("watch")
    assert ended.status is RunStatus.CANCELED
    assert ended.reason == "step 'a' has no value: it is CANCELED"


def test_a_step_that_a_run_never_had_is_told_with_its_end(desk: Desk) -> None:
    desk.submit("r", step("sum", 1, 2), step("a"), step("b"))
    desk.watch("r", "nothing")
    desk.fail("a")
    (gone,) = desk.gone("watch")
    assert isinstance(gone, StepNotFoundError)
    assert str(gone) == "No such step_id nothing in workflow r"
    desk.watch("r", "nothing", ear="late")
    assert isinstance(desk.gone("late")[0], StepNotFoundError)


def test_calls_behind_a_failed_one_are_told_of_the_failure(desk: Desk) -> None:
    desk.submit("r", method("__init__"), is_actor=True)
    desk.succeed("__init__", state=0)
    for call in ("c1", "c2"):
        desk.call("r", method("add"), call=call)
        desk.watch("r", call, ear=call)
    desk.fail("add")
    assert [desk.ended(call)[0].error for call in ("c1", "c2")] == [error("add")] * 2
    assert desk.engine.drives("r") is None


def test_a_call_that_is_on_its_way_while_the_actor_fails_is_told_too(desk: Desk) -> None:
    desk.submit("r", method("__init__"), is_actor=True)
    desk.succeed("__init__", state=0)
    desk.call("r", method("add"), call="c1")
    desk.turn()
    desk.journal.is_silent = True
    desk.call("r", method("add"), call="c2")
    desk.watch("r", "c2")
    desk.journal.is_silent = False
    desk.fail("add")
    desk.wait(1.0)
    assert [ended.status for ended in desk.ended("watch")] == [RunStatus.FAILED]
    assert desk.journal.kinds("r").count("CallReceived") == 2


# -- runs that are not driven here any more -----------------------------------------------------


def test_who_waits_for_a_step_is_told_when_the_run_is_let_go(desk: Desk) -> None:
    desk.submit("r", step("a", 1), step("b"))
    desk.watch("r", "a")
    desk.engine.let_go("r", lambda: None)
    desk.turn()
    assert "was let go" in str(desk.gone("watch")[0])


def test_who_waits_for_a_step_is_told_when_the_engine_stops(desk: Desk) -> None:
    desk.submit("r", step("a", 1), signal("b"))
    desk.watch("r", "a")
    desk.wait(3.0)
    desk.engine.stop()
    desk.engine.run_forever()
    assert "the engine is stopping" in str(desk.gone("watch")[0])


def test_who_waits_for_a_step_is_told_when_the_run_was_taken_over(desk: Desk) -> None:
    desk.submit("r", step("a", 1), step("b"))
    desk.watch("r", "a")
    Desk(desk.journal, "e2").adopt("r")
    desk.succeed("b")
    assert "taken over" in str(desk.gone("watch")[0])


def test_who_waits_for_a_step_is_told_when_the_loop_itself_fails(desk: Desk) -> None:
    desk.submit("r", step("a", 1), step("b"))
    desk.watch("r", "a")

    def broken() -> None:
        raise ValueError("a fault in the engine")

    desk.engine._put(broken)
    with pytest.raises(ValueError, match="a fault in the engine"):
        desk.engine.run_forever()
    assert "the engine failed" in str(desk.gone("watch")[0])
    desk.engine.look()  # whoever rings is not harmed


def test_a_watch_on_a_parked_run_that_cannot_be_read_is_told(desk: Desk) -> None:
    desk.submit("r", step("a", 1), signal("b"))
    desk.wait(3.0)
    desk.journal.is_silent = True
    desk.watch("r", "a")
    (gone,) = desk.gone("watch")
    assert isinstance(gone, WorkflowError) or "cannot be read" in str(gone)


# -- limits -------------------------------------------------------------------------------------


class Seats:
    """Turns of a home, which other processes use too."""

    def __init__(self, count: int) -> None:
        self.free = count

    def take(self) -> object | None:
        if not self.free:
            return None
        self.free -= 1
        return self

    def give_back(self, taken: object) -> None:
        self.free += 1


def limited(count: int, max_pending: int | None = None) -> tuple[Desk, Seats]:
    seats = Seats(count)
    return Desk(turns=Turns(seats, max_pending)), seats


def statuses(desk: Desk, *run_ids: str) -> list[RunStatus]:
    return [desk.journal.row(run_id).summary.status for run_id in run_ids]


RUNNING, PENDING, DONE = RunStatus.RUNNING, RunStatus.PENDING, RunStatus.SUCCESSFUL


def test_runs_beyond_the_limit_wait_for_their_turn() -> None:
    desk, seats = limited(1)
    for run_id in ("r1", "r2", "r3"):
        desk.submit(run_id, step(run_id))
    assert desk.under_way() == ["r1"]
    assert statuses(desk, "r1", "r2", "r3") == [RUNNING, PENDING, PENDING]
    desk.succeed("r1")
    assert desk.under_way() == ["r2"]
    assert desk.journal.kinds("r2") == ["RunSubmitted", "RunBegun"]
    desk.fail("r2")
    assert desk.under_way() == ["r3"]
    desk.succeed("r3")
    assert seats.free == 1


def test_a_turn_that_another_process_gave_back_is_found() -> None:
    desk, seats = limited(0)
    desk.submit("r", step("a"))
    desk.wait(5.0)
    assert not desk.is_loaded("r")
    seats.free = 1
    desk.wait(0.2)
    assert desk.under_way() == ["a"]
    desk.succeed("a")
    assert seats.free == 1


def test_beyond_the_limit_of_waiting_runs_one_is_refused() -> None:
    desk, seats = limited(1, max_pending=1)
    for run_id in ("r1", "r2", "r3"):
        desk.submit(run_id, step(run_id))
    (gone,) = desk.gone("r3")
    assert isinstance(gone, WorkflowQueueFull)
    assert desk.engine.drives("r3") is None
    desk.succeed("r1")
    desk.submit("r3", step("r3"))
    assert statuses(desk, "r2", "r3") == [RUNNING, PENDING]
    desk.engine.stop()
    desk.engine.run_forever()
    assert seats.free == 1
    assert statuses(desk, "r2", "r3") == [RunStatus.RESUMABLE] * 2


def test_a_pending_run_that_is_canceled_never_begins() -> None:
    desk, seats = limited(1)
    desk.submit("r1", step("a"))
    desk.submit("r2", step("b"))
    desk.post("r2", InboxKind.CANCEL)
    desk.slow_commits()
    desk.turn()
    desk.succeed("a")
    for _ in range(3):
        if desk.committer.batch is not None:
            desk.committer.finish()
        desk.wait(0.2)
    assert desk.journal.kinds("r2") == ["RunSubmitted", "CancelRequested", "RunFinished"]
    assert seats.free == 1
    assert not desk.engine.turns.pending


def test_of_a_group_so_many_run_also_after_they_were_parked() -> None:
    desk = Desk()
    for n in range(4):
        desk.submit_graph(f"r{n}", graph(step(f"a{n}")), group=("g", 2))
    desk.turn()
    assert desk.under_way() == ["a0", "a1"]
    desk.wait(5.0)
    assert not desk.is_loaded("r3")
    desk.succeed("a0")
    assert desk.under_way() == ["a1", "a2"]
    desk.succeed("a1", "a2")
    desk.succeed("a3")
    assert statuses(desk, "r0", "r1", "r2", "r3") == [DONE] * 4


def test_a_run_that_waits_for_its_turn_and_cannot_be_read_keeps_its_place() -> None:
    desk, seats = limited(1)
    desk.submit("r1", step("a"))
    desk.submit("r2", step("b"))
    desk.submit("r3", step("c"))
    desk.wait(5.0)
    desk.journal.is_silent = True
    desk.succeed("a")
    assert desk.under_way() == []
    desk.journal.is_silent = False
    desk.wait(0.2)
    assert desk.under_way() == ["b"]
    assert seats.free == 0


def test_a_resumed_run_waits_for_its_turn_and_an_adopted_one_goes_on() -> None:
    desk, seats = limited(1)
    desk.submit("failed", step("a"))
    desk.fail("a")
    other = Desk(desk.journal, "e0")
    other.submit("open", step("b"))
    desk.submit("first", step("c"))
    desk.adopt("failed")
    assert statuses(desk, "failed") == [PENDING]
    desk.adopt("open")
    assert sorted(desk.under_way()) == ["b", "c"]
    desk.succeed("c")
    assert sorted(desk.under_way()) == ["a", "b"]
    desk.succeed("a", "b")
    assert seats.free == 1


def test_an_adopted_run_that_was_pending_waits_on() -> None:
    desk, _ = limited(0)
    desk.submit("r", step("a"))
    second, seats = limited(0)
    second = Desk(desk.journal, "e2", turns=Turns(seats))
    second.adopt("r")
    second.wait(1.0)
    assert second.under_way() == []
    seats.free = 1
    second.wait(0.2)
    assert second.under_way() == ["a"]


def test_an_actor_at_rest_needs_no_turn() -> None:
    desk, seats = limited(1)
    desk.submit("actor", method("__init__"), is_actor=True)
    assert seats.free == 0
    desk.succeed("__init__", state=0)
    assert seats.free == 1
    desk.submit("r", step("a"))
    desk.call("actor", method("add"))
    desk.turn()
    desk.succeed("add", state=1)
    assert desk.under_way() == ["a"]
    desk.succeed("a")
    assert seats.free == 1


def test_a_refused_submission_leaves_no_turn_behind() -> None:
    desk, seats = limited(2)
    Desk(desk.journal, "e0").submit("r", step("a"))
    desk.submit("r", step("b"))
    assert "in use already" in str(desk.gone("r")[0])
    assert seats.free == 2


def test_limits_may_be_set_while_runs_wait() -> None:
    desk, seats = limited(1)
    for n in range(4):
        desk.submit(f"r{n}", step(f"a{n}"))
    assert desk.under_way() == ["a0"]
    wider = Seats(3)
    desk.engine.limit(Turns(wider))
    desk.turn()
    assert desk.under_way() == ["a0", "a1", "a2"]
    assert (seats.free, wider.free) == (1, 0)
    desk.succeed("a0", "a1", "a2")
    desk.succeed("a3")
    assert wider.free == 3
