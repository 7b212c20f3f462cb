"""Ray Workflow's behaviour, row by row: looking at many runs.

Each test is named after its row in Ray's own suite (`test_workflow_manager.py` there). Its parts on
`cancel` and `resume_all` wait for them; its hundred runs are driven by a hundred threads.
"""

from pathlib import Path
from typing import Any

import pytest

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


@pytest.mark.usefixtures("home")
def test_workflow_manager(run_id: str, tmp_path: Path, gate: Gate) -> None:
    path, mended = gate.path, tmp_path / "mended"

    @workflow.step
    def wait_and_judge(number: int) -> int:
        pass_gate(path)
        if number % 2 == 0 and not mended.exists():
            raise ValueError(f"{number} is even")
        return number

    def ids(wanted: Any) -> set[str]:
        found = workflow.list_all(wanted)
        assert len(dict(found)) == len(found)
        return {one for one, _ in found if one.startswith(f"{run_id} ")}

    every = {f"{run_id} {number}" for number in range(100)}
    even = {f"{run_id} {number}" for number in range(0, 100, 2)}
    runs = [
        in_background(wait_and_judge.step(number).run, f"{run_id} {number}")
        for number in range(100)
    ]
    # RUNNING does not depend on a free worker.
    eventually(lambda: ids("RUNNING") == every, "all runs are RUNNING")
    assert ids({"FAILED", "SUCCESSFUL"}) == set()
    gate.open(100)
    for number, run in enumerate(runs):
        if number % 2:
            assert run.result(PATIENCE_S) == number
        else:
            with pytest.raises(ValueError, match=f"{number} is even"):
                run.result(PATIENCE_S)

    assert ids(None) == every
    for failed in ("FAILED", workflow.FAILED, {"FAILED"}, {workflow.FAILED, "RUNNING"}):
        assert ids(failed) == even
    for finished in ("SUCCESSFUL", workflow.WorkflowStatus.SUCCESSFUL, [workflow.SUCCESSFUL]):
        assert ids(finished) == every - even
    assert ids("RUNNING") == ids(set()) == set()
    for wrong in ("ENDED", 1, ["FAILED", 1]):
        with pytest.raises(TypeError):
            workflow.list_all(wrong)  # type: ignore[arg-type]

    mended.touch()
    gate.open()
    assert workflow.resume(f"{run_id} 0").result() == 0
    assert workflow.get_status(f"{run_id} 0") == "SUCCESSFUL"
    assert ids("FAILED") == even - {f"{run_id} 0"}
