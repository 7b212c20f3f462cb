"""Ray Workflow's behaviour, row by row: deleting runs.

Named after its row in Ray's own suite (`test_storage.py` there).
"""

import os
import signal

import pytest

from tests.e2e.conftest import PATIENCE_S, Gate, in_background, pass_gate
from weftline import workflow


@workflow.step
def fine(value: str) -> str:
    return value


@workflow.step
def dying() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.usefixtures("home")
def test_delete(run_id: str, gate: Gate) -> None:
    with pytest.raises(workflow.WorkflowNotFoundError):
        workflow.delete("nobody")

    with pytest.raises(workflow.WorkflowExecutionError):
        dying.step().run(run_id)
    assert workflow.get_status(run_id) == "RESUMABLE"
    for value in ("first", "second"):
        workflow.delete(run_id)
        for gone in (
            workflow.get_output,
            workflow.get_status,
            workflow.get_metadata,
            workflow.resume,
            workflow.delete,
        ):
            with pytest.raises(ValueError, match="No such workflow_id "):
                gone(run_id)
        assert run_id not in dict(workflow.list_all())
        assert fine.step(value).run(run_id) == value
        assert workflow.get_output(run_id).result() == value
        assert (run_id, "SUCCESSFUL") in workflow.list_all()

    path = gate.path

    @workflow.step
    def waiting() -> str:
        pass_gate(path)
        return "third"

    workflow.delete(run_id)
    run = in_background(waiting.step().run, run_id)
    gate.wait_for()
    with pytest.raises(workflow.WorkflowRunningError, match="cannot be deleted"):
        workflow.delete(run_id)
    gate.open()
    assert run.result(PATIENCE_S) == "third"
