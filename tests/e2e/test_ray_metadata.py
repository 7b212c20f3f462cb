"""Ray Workflow's behaviour, row by row: metadata of runs and steps.

Each test is named after its row in Ray's own suite (`test_metadata.py` there).
"""

import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import PATIENCE_S, Gate, in_background, note, notes, pass_gate
from weftline import workflow

pytestmark = pytest.mark.usefixtures("home")


@workflow.step(name="simple")
def simple() -> int:
    return 0


@workflow.step(name="timed")
def timed(times: Path) -> int:
    note(times, repr(time.time()))
    note(times, repr(time.time()))
    return 0


def test_user_metadata(run_id: str) -> None:
    of_step = {"k1": "v1", "deep": {"list": [1, 2.5, None, True]}}
    of_run = {"k2": "v2", "": [[]]}
    simple.options(metadata=of_step).step().run(run_id, metadata=of_run)
    assert workflow.get_metadata(run_id)["user_metadata"] == of_run
    assert workflow.get_metadata(run_id, "simple")["user_metadata"] == of_step


def test_user_metadata_empty(run_id: str) -> None:
    simple.step().run(run_id)
    assert workflow.get_metadata(run_id)["user_metadata"] == {}
    assert workflow.get_metadata(run_id, "simple")["user_metadata"] == {}


@pytest.mark.parametrize("wrong", ["x", 1, [("a", 1)]])
def test_user_metadata_not_dict(run_id: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"metadata=.* must be a dict"):
        simple.options(metadata=wrong)
    with pytest.raises(ValueError, match=r"metadata=.* must be a dict"):
        simple.step().run(run_id, metadata=wrong)
    with pytest.raises(workflow.WorkflowNotFoundError):
        workflow.get_status(run_id)


@pytest.mark.parametrize("wrong", [object(), {1}, b"x", float("nan"), 1j])
def test_user_metadata_not_json_serializable(run_id: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"metadata=.* what JSON can hold"):
        simple.options(metadata={"x": wrong})
    with pytest.raises(ValueError, match=r"metadata=.* what JSON can hold"):
        simple.step().run(run_id, metadata={"x": wrong})
    with pytest.raises(workflow.WorkflowNotFoundError):
        workflow.get_status(run_id)


def test_runtime_metadata(run_id: str, tmp_path: Path) -> None:
    timed.step(tmp_path / "times").run(run_id)
    began, ended = map(float, notes(tmp_path / "times"))
    of_run = workflow.get_metadata(run_id)["stats"]
    of_step = workflow.get_metadata(run_id, "timed")["stats"]
    assert of_run["start_time"] <= of_step["start_time"] <= began
    assert ended <= of_step["end_time"] <= of_run["end_time"]


def test_successful_workflow(run_id: str, tmp_path: Path) -> None:
    step = timed.options(metadata={"k1": "v1"}, max_retries=3, num_cpus=2, catch_exceptions=True)
    step.step(tmp_path / "times").run(run_id, metadata={"k2": "v2"})
    of_run = workflow.get_metadata(run_id)
    assert of_run["status"] == "SUCCESSFUL"
    assert of_run["user_metadata"] == {"k2": "v2"}
    assert set(of_run["stats"]) == {"start_time", "end_time"}
    of_step = workflow.get_metadata(run_id, "timed")
    assert of_step["name"] == "timed"
    assert of_step["user_metadata"] == {"k1": "v1"}
    assert of_step["step_options"]["max_retries"] == 3
    assert of_step["step_options"]["catch_exceptions"] is True
    assert of_step["step_options"]["ray_options"]["num_cpus"] == 2
    began, ended = map(float, notes(tmp_path / "times"))
    assert of_run["stats"]["start_time"] <= of_step["stats"]["start_time"] <= began
    assert ended <= of_step["stats"]["end_time"] <= of_run["stats"]["end_time"]


def test_running_and_canceled_workflow(run_id: str, gate: Gate) -> None:
    path = gate.path

    @workflow.step(name="waiting")
    def waiting() -> None:
        pass_gate(path)

    handle = waiting.step().run_async(run_id, metadata={"k": "v"})
    gate.wait_for()
    running = workflow.get_metadata(run_id)
    assert running["status"] == "RUNNING"
    assert running["user_metadata"] == {"k": "v"}
    assert set(running["stats"]) == {"start_time"}
    workflow.cancel(run_id)
    canceled = workflow.get_metadata(run_id)
    assert canceled["status"] == "CANCELED"
    assert set(canceled["stats"]) == {"start_time"}
    with pytest.raises(ValueError, match="CANCELED"):
        _ = workflow.get_output(run_id)
    with pytest.raises(workflow.WorkflowCanceledError):
        handle.result(PATIENCE_S)


def test_failed_and_resumed_workflow(run_id: str, tmp_path: Path) -> None:
    mended = tmp_path / "mended"

    @workflow.step(name="fragile")
    def fragile() -> int:
        if not mended.exists():
            raise ValueError("broken")
        return 1

    with pytest.raises(ValueError, match="broken"):
        fragile.step().run(run_id)
    failed = workflow.get_metadata(run_id)
    failed_step = workflow.get_metadata(run_id, "fragile")
    assert failed["status"] == "FAILED"
    assert failed["stats"]["start_time"] <= failed["stats"]["end_time"]
    mended.touch()
    assert workflow.resume(run_id).result() == 1
    resumed = workflow.get_metadata(run_id)
    assert resumed["status"] == "SUCCESSFUL"
    assert failed["stats"]["end_time"] < resumed["stats"]["start_time"]
    assert resumed["stats"]["start_time"] < resumed["stats"]["end_time"]
    resumed_step = workflow.get_metadata(run_id, "fragile")
    assert failed_step["stats"]["end_time"] < resumed_step["stats"]["start_time"]


def test_nested_workflow(run_id: str, tmp_path: Path) -> None:
    outer_times, inner_times = tmp_path / "outer", tmp_path / "inner"
    child = timed.options(name="inner", metadata={"inner_k": "inner_v"})

    @workflow.step(name="outer", metadata={"outer_k": "outer_v"})
    def outer() -> Any:
        note(outer_times, repr(time.time()))
        note(outer_times, repr(time.time()))
        return child.step(inner_times)

    outer.step().run(run_id, metadata={"k": "v"})
    of_run = workflow.get_metadata(run_id)
    of_outer = workflow.get_metadata(run_id, "outer")
    of_inner = workflow.get_metadata(run_id, "inner")
    assert of_run["user_metadata"] == {"k": "v"}
    assert of_outer["user_metadata"] == {"outer_k": "outer_v"}
    assert of_inner["user_metadata"] == {"inner_k": "inner_v"}
    times = [float(line) for path in (outer_times, inner_times) for line in notes(path)]
    in_order = [
        of_run["stats"]["start_time"],
        of_outer["stats"]["start_time"],
        *times[:2],
        of_outer["stats"]["end_time"],
        of_inner["stats"]["start_time"],
        *times[2:],
        of_inner["stats"]["end_time"],
        of_run["stats"]["end_time"],
    ]
    assert in_order == sorted(in_order)


def test_simple_virtual_actor(run_id: str) -> None:
    @workflow.virtual_actor
    class Actor:
        def __init__(self, value: int) -> None:
            self.value = value

        def add(self, amount: int) -> int:
            self.value += amount
            return self.value

        @workflow.virtual_actor.readonly
        def get(self) -> int:
            return self.value

    actor = Actor.get_or_create(run_id, 0)
    for number in range(3):
        actor.add.options(metadata={"call": number}).run(number)
    actor.get.run()
    for number, name in enumerate(("add", "add_1", "add_2")):
        found = workflow.get_metadata(run_id, name)
        assert found["name"] == name
        assert found["user_metadata"] == {"call": number}
        assert found["step_options"]["step_type"] == "ACTOR_METHOD"
        assert found["stats"]["start_time"] <= found["stats"]["end_time"]
    of_run = workflow.get_metadata(run_id)
    assert of_run["status"] == "SUCCESSFUL"
    assert of_run["user_metadata"] == {}
    for name in ("add_3", "get"):
        with pytest.raises(ValueError, match=f"No such step_id {name} in workflow "):
            workflow.get_metadata(run_id, name)


def test_nested_virtual_actor(run_id: str) -> None:
    @workflow.virtual_actor
    class Actor:
        def __init__(self) -> None:
            self.value = 0

        def outer(self, amount: int) -> Any:
            self.value += amount
            method = self.inner.options(name="within", metadata={"within": amount})  # type: ignore[attr-defined]
            return method.step(amount)

        def inner(self, amount: int) -> int:
            self.value += 10 * amount
            return self.value

    actor = Actor.get_or_create(run_id)
    for amount in (1, 2):
        method = actor.outer.options(metadata={"outer": amount})
        assert method.run(amount) == {1: 11, 2: 33}[amount]
    for suffix, amount in (("", 1), ("_1", 2)):
        outer = workflow.get_metadata(run_id, f"outer{suffix}")
        inner = workflow.get_metadata(run_id, f"within{suffix}")
        assert outer["user_metadata"] == {"outer": amount}
        assert inner["user_metadata"] == {"within": amount}
        assert outer["stats"]["end_time"] <= inner["stats"]["start_time"]


def test_no_workflow_found(run_id: str) -> None:
    simple.step().run(run_id)
    for name in (None, "simple"):
        with pytest.raises(ValueError) as caught:
            workflow.get_metadata("nobody", name)
        assert str(caught.value) == "No such workflow_id nobody"
    with pytest.raises(ValueError) as caught:
        workflow.get_metadata(run_id, "nothing")
    assert str(caught.value) == f"No such step_id nothing in workflow {run_id}"


def test_metadata_of_a_run_in_progress_is_partial(run_id: str, gate: Gate) -> None:
    path = gate.path

    @workflow.step(name="waiting")
    def waiting(value: int) -> int:
        pass_gate(path)
        return value

    run = in_background(waiting.step(simple.step()).run, run_id)
    gate.wait_for()
    assert set(workflow.get_metadata(run_id, "simple")["stats"]) == {"start_time", "end_time"}
    assert "end_time" not in workflow.get_metadata(run_id, "waiting")["stats"]
    assert workflow.get_metadata(run_id, "waiting")["workflows"] == ["simple"]
    gate.open()
    assert run.result(PATIENCE_S) == 0
