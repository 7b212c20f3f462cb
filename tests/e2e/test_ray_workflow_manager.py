"""Ray Workflow's behaviour, row by row: many runs at once, and their statuses.

Each test is named after its row in Ray's own suite (`test_workflow_manager.py` there).
"""

from pathlib import Path
from typing import Any

import pytest

import weftline
from tests.e2e.conftest import PATIENCE_S, Gate, Scripts, eventually, in_background, pass_gate
from weftline import workflow


def test_workflow_manager_simple(scripts: Scripts) -> None:
    said = scripts.run(
        """
        from weftline import workflow

        print(workflow.list_all())
        try:
            workflow.get_status("nobody")
        except workflow.WorkflowNotFoundError as error:
            print(error)
        """
    )
    assert said == "[]\nNo such workflow_id nobody\n"


def ids(run_id: str, wanted: Any) -> set[str]:
    """The runs of a test that have one of these statuses."""
    found = workflow.list_all(wanted)
    assert len(dict(found)) == len(found)
    return {one for one, _ in found if one.startswith(f"{run_id} ")}


@pytest.mark.usefixtures("home")
def test_workflow_manager(run_id: str, tmp_path: Path, gate: Gate) -> None:
    path, mended = gate.path, tmp_path / "mended"

    @workflow.step
    def wait_and_judge(number: int) -> int:
        pass_gate(path)
        if number % 2 == 0 and not mended.exists():
            raise ValueError(f"{number} is even")
        return number

    names = [f"{run_id} {number}" for number in range(100)]
    every, even = set(names), set(names[::2])
    handles = [wait_and_judge.step(n).run_async(name) for n, name in enumerate(names)]
    # At once, and whether or not there is a free worker.
    assert ids(run_id, "RUNNING") == every
    assert ids(run_id, {"FAILED", "SUCCESSFUL"}) == set()
    assert not any(handle.done() for handle in handles)
    gate.open(100)
    for number, handle in enumerate(handles):
        if number % 2:
            assert handle.result(PATIENCE_S) == number
        else:
            with pytest.raises(ValueError, match=f"{number} is even"):
                handle.result(PATIENCE_S)

    assert ids(run_id, None) == every
    for failed in ("FAILED", workflow.FAILED, {"FAILED"}, {workflow.FAILED, "RUNNING"}):
        assert ids(run_id, failed) == even
    for finished in ("SUCCESSFUL", workflow.WorkflowStatus.SUCCESSFUL, [workflow.SUCCESSFUL]):
        assert ids(run_id, finished) == every - even
    assert ids(run_id, "RUNNING") == ids(run_id, set()) == set()
    for wrong in ("ENDED", 1, ["FAILED", 1]):
        with pytest.raises(TypeError):
            workflow.list_all(wrong)  # type: ignore[arg-type]

    # One is resumed, and ends well.
    mended.touch()
    resumed = workflow.resume(names[0])
    assert workflow.get_status(names[0]) == "RUNNING"
    gate.open()
    assert resumed.result(PATIENCE_S) == 0
    assert workflow.get_status(names[0]) == "SUCCESSFUL"
    assert ids(run_id, "FAILED") == even - {names[0]}

    # Another one is resumed, and canceled.
    resumed = workflow.resume(names[2])
    workflow.cancel(names[2])
    assert workflow.get_status(names[2]) == "CANCELED"
    with pytest.raises(workflow.WorkflowCanceledError):
        resumed.result(PATIENCE_S)

    # All others are resumed at once; what is canceled is left alone.
    found = workflow.resume_all(include_failed=True)
    ours = {name: handle for name, handle in found if name in every}
    assert ids(run_id, "RUNNING") == set(ours) == even - {names[0], names[2]}
    assert len(ours) == 48
    gate.open(48)
    values = weftline.get(list(ours.values()), timeout=PATIENCE_S)
    assert sorted(values) == list(range(4, 100, 2))
    assert ids(run_id, "SUCCESSFUL") == every - {names[2]}
    assert ids(run_id, "CANCELED") == {names[2]}


@pytest.mark.usefixtures("home")
def test_runs_of_this_process_are_running_without_a_free_worker(run_id: str, gate: Gate) -> None:
    path = gate.path

    @workflow.step
    def wait(number: int) -> int:
        pass_gate(path)
        return number

    names = {f"{run_id} {number}" for number in range(20)}
    runs = [in_background(wait.step(n).run, f"{run_id} {n}") for n in range(20)]
    eventually(lambda: ids(run_id, "RUNNING") == names, "all of them are RUNNING")
    gate.open(20)
    assert [run.result(PATIENCE_S) for run in runs] == list(range(20))


@pytest.mark.usefixtures("home")
def test_actor_manager(run_id: str, gate: Gate) -> None:
    path = gate.path

    @workflow.virtual_actor
    class Waiting:
        def __init__(self) -> None:
            self.value = 0

        def write(self) -> int:
            pass_gate(path, "writer")
            self.value += 1
            return self.value

        @workflow.virtual_actor.readonly
        def read(self) -> int:
            pass_gate(path, "reader")
            return self.value

    actor = Waiting.get_or_create(run_id)
    actor.ready().result(PATIENCE_S)
    assert workflow.get_status(run_id) == "SUCCESSFUL"

    reader = actor.read.run_async()
    assert gate.wait_for() == ["reader"]
    assert workflow.get_status(run_id) == "SUCCESSFUL"
    assert (run_id, "SUCCESSFUL") in workflow.list_all("SUCCESSFUL")
    gate.open()
    assert reader.result(PATIENCE_S) == 0

    writers = [actor.write.run_async() for _ in range(2)]
    for at in range(2):
        assert gate.wait_for() == ["writer"]
        assert workflow.get_status(run_id) == "RUNNING"
        assert (run_id, "RUNNING") in workflow.list_all("RUNNING")
        gate.open()
        assert writers[at].result(PATIENCE_S) == at + 1
    assert workflow.get_status(run_id) == "SUCCESSFUL"
    assert run_id not in dict(workflow.resume_all(include_failed=True))
