"""Processes that wait to carry out a returned step in place: used once, or let go."""

import pytest

from tests.desk import Desk
from tests.graphs import LISTEN, packed, signal, some, step, timer
from weftline.core.events import RunStatus
from weftline.core.graph import Join, Step
from weftline.ports.journal import InboxKind


@pytest.fixture
def desk() -> Desk:
    return Desk()


def kept(desk: Desk, *returned: Step) -> int:
    """The key of a process that waits for the first of the steps that `a` returned."""
    desk.submit("r", step("z", 1), step("a"))
    key = desk.attempt("a").key
    desk.extend("a", *returned, stays=True)
    return key


def test_a_step_in_place_gets_the_process_that_waits_for_it_also_when_no_other_is_free(
    desk: Desk,
) -> None:
    desk.executor.slots = 1
    key = kept(desk, step("x"))
    assert desk.attempt("x").beside == key
    assert desk.executor.kept == set()
    desk.succeed("x")
    assert desk.attempt("z").beside is None


def test_it_begins_when_its_inputs_are_durable(desk: Desk) -> None:
    key = kept(desk, step("x", 1), step("y"))
    assert desk.under_way() == ["y"]
    assert desk.executor.kept == {key}
    desk.succeed("y", value=7)
    assert (desk.attempt("x").beside, desk.attempt("x").inputs) == (key, [packed(7)])


def test_a_step_in_place_that_comes_back_is_started_like_any_other(desk: Desk) -> None:
    kept(desk, step("x"))
    desk.give_back("x")
    assert desk.attempt("x").beside is None
    desk.lose("x")
    assert desk.attempt("x").beside is None


def test_a_chain_of_steps_in_place_uses_one_process(desk: Desk) -> None:
    kept(desk, step("x"))
    second = desk.attempt("x").key
    desk.extend("x", step("y"), stays=True)
    assert desk.attempt("y").beside == second
    desk.succeed("y")
    assert desk.executor.kept == set()


@pytest.mark.parametrize(
    ("returned", "output"),
    [
        ([timer("t", 60.0)], 0),
        ([signal("w")], 0),
        ([some("w", 1), step("x")], 0),
        ([step("l", action=LISTEN)], 0),
        ([step("x"), step("y")], [0, 1]),
    ],
)
def test_no_process_waits_for_what_no_process_carries_out(
    desk: Desk, returned: list[Step], output: int | list[int]
) -> None:
    desk.submit("r", step("z", 1), step("a"))
    desk.extend("a", *returned, stays=True, output=output)
    assert desk.executor.kept == set()


def test_no_process_waits_for_steps_that_are_refused(desk: Desk) -> None:
    kept(desk, step("x", when="a condition"))
    assert desk.executor.kept == set()
    assert desk.ended("r")[0].status is RunStatus.FAILED


def test_a_process_is_let_go_when_what_it_waits_for_is_dropped(desk: Desk) -> None:
    desk.submit("r", step("z", 1), step("c", catch=True))
    desk.extend("c", step("o", 1, 2), step("a"), step("b"))
    desk.extend("a", step("x", 1), step("y"), stays=True)
    assert len(desk.executor.kept) == 1
    desk.fail("b")
    assert desk.executor.kept == set()
    assert desk.under_way() == ["z"]


def test_a_process_is_let_go_when_its_run_ends(desk: Desk) -> None:
    kept(desk, step("x", 1), step("y"))
    desk.fail("y")
    assert desk.executor.kept == set()


@pytest.mark.parametrize("how", ["cancel", "pause", "let go", "taken over", "stop"])
def test_a_process_is_let_go_when_its_run_goes_on_no_more(desk: Desk, how: str) -> None:
    kept(desk, step("x", 1), step("y"))
    assert len(desk.executor.kept) == 1
    if how == "cancel":
        desk.post("r", InboxKind.CANCEL)
    elif how == "pause":
        desk.post("r", InboxKind.PAUSE)
        desk.turn()
        desk.succeed("y")
    elif how == "let go":
        desk.engine.let_go("r", lambda: None)
    elif how == "taken over":
        Desk(desk.journal, "e2").adopt("r")
        desk.succeed("y")
    else:
        desk.engine.stop()
        desk.engine.run_forever()
    if how != "stop":
        desk.turn()
    assert desk.executor.kept == set()


def test_a_process_is_let_go_when_its_run_is_unloaded(desk: Desk) -> None:
    kept(desk, step("x", 1), timer("t", 60.0))
    assert len(desk.executor.kept) == 1
    desk.wait(2.0)
    assert not desk.is_loaded("r")
    assert desk.executor.kept == set()
    desk.wait(60.0)
    assert desk.attempt("x").beside is None


def test_a_process_is_let_go_when_its_run_contradicts_itself(desk: Desk) -> None:
    desk.submit("r", step("z", 1), step("a"))
    desk.run_of("r").steps[1].attempt = 7
    desk.extend("a", step("x"), stays=True)
    assert desk.executor.kept == set()
    assert desk.engine.drives("r") is None


def test_a_step_in_place_that_begins_with_the_first_success_reads_only_what_is_durable(
    desk: Desk,
) -> None:
    desk.submit("other", step("o"))
    key = kept(desk, step("x", 1, 2, join=Join.ONE_SUCCEEDED), step("p"), step("q"))
    desk.slow_commits()
    desk.succeed("p")
    desk.succeed("q")
    desk.committer.finish()
    desk.turn()
    assert desk.under_way() == ["o"]
    desk.committer.finish()
    desk.turn()
    assert (desk.attempt("x").beside, desk.attempt("x").inputs) == (key, [packed("p"), packed("q")])
