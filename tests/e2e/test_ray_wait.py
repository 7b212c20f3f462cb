"""Ray Workflow's behaviour, row by row: waiting for some of many steps.

Each test is named after its row in Ray's own suite (`test_wait.py` there). What ends first is
decided by gates.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import PATIENCE_S, Gate, eventually, note, notes, pass_gate
from weftline import workflow

pytestmark = pytest.mark.usefixtures("home")

Split = tuple[list[Any], list[Any]]


@workflow.step(num_cpus=0)
def behind(gate: str, value: Any) -> Any:
    """The value, once the test lets it through."""
    pass_gate(gate, str(value))
    return value


@workflow.step
def at_once(value: Any) -> Any:
    return value


@workflow.step
def ready_values(split: Split) -> list[Any]:
    return split[0]


@workflow.step
def join(*values: Any) -> list[Any]:
    return list(values)


@workflow.step
def all_of_it(split: Split) -> Any:
    """The ready values, and those of the others as they come."""
    ready, left = split
    return join.step(ready, *left)


@pytest.fixture
def gates(tmp_path: Path) -> Iterator[Callable[[str], Gate]]:
    made: dict[str, Gate] = {}

    def get(name: str) -> Gate:
        if name not in made:
            made[name] = Gate(tmp_path / name)
        return made[name]

    yield get
    for gate in made.values():
        gate.open(64)


def test_wait_basics(run_id: str, gates: Callable[[str], Gate]) -> None:
    a, b, c = (behind.options(name=name).step(gates(name).path, name) for name in "abc")
    split = workflow.wait([a, b, c], num_returns=2)
    consumers = [ready_values.step(split), ready_values.options(name="other").step(split)]
    handle = join.step(*consumers, all_of_it.options(name="all").step(split)).run_async(run_id)
    for name in "abc":
        gates(name).wait_for()
    gates("c").open()
    assert workflow.get_output(run_id, name="c").result(PATIENCE_S) == "c"
    gates("b").open()
    # Both consumers see the same two, in the order in which they were given.
    assert workflow.get_output(run_id, name="other").result(PATIENCE_S) == ["b", "c"]
    assert not handle.done()
    gates("a").open()
    assert handle.result(PATIENCE_S) == [["b", "c"], ["b", "c"], [["b", "c"], "a"]]


def test_what_is_left_may_go_into_another_wait(run_id: str, gates: Callable[[str], Gate]) -> None:
    @workflow.step
    def next_wait(split: Split, so_far: list[Any]) -> Any:
        ready, left = split
        note(f"{gates_path}/arrived", f"{len(left)} left")
        so_far = so_far + ready
        return next_wait.step(workflow.wait(left), so_far) if left else so_far

    gates_path = gates("turns").path
    steps = [behind.step(gates(name).path, name) for name in "abc"]
    handle = next_wait.step(workflow.wait(steps), []).run_async(run_id)
    for at, name in enumerate("cab"):
        gates(name).open()
        assert gates("turns").wait_for() == [f"{2 - at} left"]
    assert handle.result(PATIENCE_S) == ["c", "a", "b"]


def test_after_its_time_there_may_be_fewer(gates: Callable[[str], Gate]) -> None:
    held = behind.step(gates("held").path, "held")
    ready, left = workflow.wait([at_once.step(1), held], num_returns=2, timeout=0.5).run()
    assert ready in ([1], [])  # at most, even on a machine that starts no process in time
    assert len(ready) + len(left) == 2
    ready, left = workflow.wait([held], timeout=0).run()
    assert (ready, len(left)) == ([], 1)


@pytest.mark.parametrize("wrong", [1, "ab", None, at_once.step(1), {at_once.step(1)}])
def test_wait_takes_a_list(wrong: Any) -> None:
    with pytest.raises(TypeError, match="takes a list"):
        workflow.wait(wrong)


@pytest.mark.parametrize("wrong", [1, at_once, None, "x"])
def test_wait_takes_compositions(wrong: Any) -> None:
    with pytest.raises(TypeError, match="takes compositions"):
        workflow.wait([at_once.step(1), wrong])


@pytest.mark.parametrize("wrong", [0, -1, 3, 1.0, True, None, "1"])
def test_num_returns_is_a_count_of_what_is_given(wrong: Any) -> None:
    with pytest.raises(ValueError, match="num_returns"):
        workflow.wait([at_once.step(1), at_once.step(2)], num_returns=wrong)


def test_wait_takes_each_composition_once() -> None:
    one = at_once.step(1)
    with pytest.raises(ValueError, match="once"):
        workflow.wait([one, one])


@pytest.mark.parametrize("wrong", [-1, float("nan")])
def test_a_time_to_wait_is_not_negative(wrong: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        workflow.wait([at_once.step(1)], timeout=wrong)


def test_wait_basics_2(gates: Callable[[str], Gate]) -> None:
    steps = [at_once.step(number) for number in range(3)]
    assert workflow.wait(steps, num_returns=3).run() == ([0, 1, 2], [])
    held = behind.step(gates("held").path, "held")
    ready, left = workflow.wait([held, at_once.step("there")]).run()
    assert ready == ["there"]
    assert len(left) == 1
    with pytest.raises(ValueError, match="only by steps of its own run"):
        join.step(left[0]).run()


def test_wait_recursive(run_id: str, gates: Callable[[str], Gate]) -> None:
    turns = gates("turns").path

    @workflow.step
    def gather(split: Split, so_far: list[str]) -> Any:
        ready, left = split
        note(f"{turns}/arrived", ",".join(map(str, ready)))
        if not left:
            return so_far + ready
        return gather.step(workflow.wait(left), so_far + ready)

    names = [f"n{number}" for number in range(6)]
    steps = [at_once.step(behind.step(gates(name).path, name)) for name in names]
    handle = gather.step(workflow.wait(steps), []).run_async(run_id)
    order = [names[at] for at in (3, 0, 5, 1, 4, 2)]
    for name in order:
        gates(name).open()
        assert gates("turns").wait_for() == [name]
    assert handle.result(PATIENCE_S) == order


def test_wait_failure_recovery_1(run_id: str, tmp_path: Path, gates: Callable[[str], Gate]) -> None:
    mended, seen = tmp_path / "mended", tmp_path / "seen"
    broken = gates("consumer").path

    @workflow.step(name="consumer")
    def consumer(split: Split) -> Any:
        ready, left = split
        note(seen, f"{ready} and {len(left)}")
        pass_gate(broken)
        if not mended.exists():
            raise ValueError("broken")
        return join.step(ready, *left)

    held = behind.options(name="held").step(gates("held").path, "late")
    composition = consumer.step(workflow.wait([held, at_once.step("early")]))
    handle = composition.run_async(run_id)
    gates("held").wait_for()
    gates("consumer").open(2)
    with pytest.raises(ValueError, match="broken"):
        handle.result(PATIENCE_S)
    assert workflow.get_status(run_id) == "FAILED"
    gates("held").open()  # what runs already goes on, and is recorded
    eventually(lambda: "end_time" in workflow.get_metadata(run_id, "held")["stats"], "it ends")
    mended.touch()
    # By now all have ended; the consumer sees what was ready when the wait ended.
    assert workflow.resume(run_id).result(PATIENCE_S) == [["early"], "late"]
    assert notes(seen) == ["['early'] and 1"] * 2


def test_wait_failure_recovery_2(run_id: str, gates: Callable[[str], Gate]) -> None:
    held = behind.step(gates("held").path, "held")
    composition = all_of_it.step(workflow.wait([held, at_once.step("there")], num_returns=2))
    handle = composition.run_async(run_id)
    gates("held").wait_for()
    workflow.cancel(run_id)
    assert workflow.get_status(run_id) == "CANCELED"
    with pytest.raises(workflow.WorkflowCanceledError):
        handle.result(PATIENCE_S)
    resumed = workflow.resume(run_id)
    gates("held").wait_for()
    gates("held").open()
    assert resumed.result(PATIENCE_S) == [["held", "there"]]


# -- what else is said of waiting for some ------------------------------------------------------


def test_a_failure_of_one_that_is_ready_fails_who_reads_it(run_id: str) -> None:
    @workflow.step
    def broken() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        ready_values.step(workflow.wait([broken.step()])).run(run_id)
    caught = broken.options(catch_exceptions=True).step()
    ready, _ = workflow.wait([caught]).run()
    assert str(ready[0]) == "(None, ValueError('broken'))"


def test_what_is_left_and_not_wanted_does_not_hold_the_run_up(
    run_id: str, gates: Callable[[str], Gate]
) -> None:
    held = behind.options(name="held").step(gates("held").path, "held")
    first = workflow.wait([held, at_once.step("there")])
    assert ready_values.step(first).run(run_id) == ["there"]
    assert workflow.get_status(run_id) == "SUCCESSFUL"


def test_the_ones_left_can_be_pickled(run_id: str, gates: Callable[[str], Gate]) -> None:
    @workflow.step
    def hide(split: Split, gate: str) -> Any:
        pass_gate(gate, "the split")
        ready, left = split
        return show.step({"ready": ready, "left": [{"deep": left[0]}]})

    @workflow.step
    def show(found: Any) -> Any:
        return found

    held = behind.step(gates("held").path, "late")
    split = workflow.wait([held, at_once.step("early")])
    handle = hide.step(split, gates("seen").path).run_async(run_id)
    gates("seen").wait_for()
    gates("seen").open()
    gates("held").open()
    expected = {"ready": ["early"], "left": [{"deep": "late"}]}
    assert handle.result(PATIENCE_S) == expected
