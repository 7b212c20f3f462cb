"""Ray Workflow's behaviour, row by row: deleting runs.

Named after its row in Ray's own suite (`test_storage.py` there).
"""

from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.conftest import PATIENCE_S, Gate, Scripts, in_background, kill_controller, pass_gate
from weftline import workflow

ASKING: list[Callable[[str], Any]] = [
    workflow.get_output,
    workflow.get_status,
    workflow.get_metadata,
    workflow.resume,
    workflow.cancel,
    workflow.delete,
    workflow.get_actor,
]


@workflow.step
def fine(value: str) -> str:
    return value


def test_delete(scripts: Scripts, gate: Gate) -> None:
    source = """
        import sys
        from weftline import workflow

        @workflow.step
        def stuck(gate):
            pass_gate(gate)

        stuck.step(sys.argv[1]).run_async("an id")
        """
    scripts.run(source, gate.path)
    gate.wait_for()
    kill_controller(scripts.home)
    said = scripts.run(
        """
        from weftline import workflow

        @workflow.step
        def fine(value):
            return value

        def refused(call, *args):
            try:
                call(*args)
            except ValueError as error:
                return f"{type(error).__name__}: {error}"

        print(refused(workflow.delete, "nobody"))
        print(workflow.get_status("an id"))
        workflow.delete("an id")
        print(refused(workflow.get_output, "an id"), workflow.list_all())
        for value in ("first", "second"):
            print(fine.step(value).run_async("an id").result())
            print(workflow.get_output("an id").result(), workflow.list_all("SUCCESSFUL"))
            workflow.delete("an id")
            print(refused(workflow.get_output, "an id"), workflow.list_all())
        """
    )
    unknown = "WorkflowNotFoundError: No such workflow_id"
    listed = "[('an id', <RunStatus.SUCCESSFUL: 'SUCCESSFUL'>)]"
    lines = [f"{unknown} nobody", "RESUMABLE", f"{unknown} an id []"]
    for value in ("first", "second"):
        lines += [value, f"{value} {listed}", f"{unknown} an id []"]
    assert said.splitlines() == lines


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("ask", ASKING)
def test_nothing_is_known_of_a_deleted_run(run_id: str, ask: Callable[[str], Any]) -> None:
    assert fine.step("first").run(run_id) == "first"
    handle = workflow.get_output(run_id)
    workflow.delete(run_id)
    with pytest.raises(workflow.WorkflowNotFoundError, match="No such workflow_id "):
        ask(run_id)
    with pytest.raises(workflow.WorkflowNotFoundError):
        handle.result(PATIENCE_S)
    assert run_id not in dict(workflow.list_all())


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("driver", ["this process", "the controller"])
def test_a_run_that_is_driven_cannot_be_deleted(run_id: str, gate: Gate, driver: str) -> None:
    path = gate.path

    @workflow.step
    def waiting() -> str:
        pass_gate(path)
        return "done"

    composition = waiting.step()
    if driver == "the controller":
        _ = composition.run_async(run_id)
    else:
        in_background(composition.run, run_id)
    gate.wait_for()
    with pytest.raises(workflow.WorkflowRunningError, match="cannot be deleted"):
        workflow.delete(run_id)
    gate.open()
    assert workflow.get_output(run_id).result(PATIENCE_S) == "done"
    workflow.delete(run_id)
