"""Ray Workflow's behaviour, row by row: recovery when every result is stored.

Named after its row in Ray's own suite (`test_checkpoint.py` there). The parts of the row that skip
results wait for `checkpoint=False`.
"""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import note, notes
from weftline import workflow

np = pytest.importorskip("numpy")


@pytest.mark.usefixtures("home")
def test_checkpoint_dag_recovery(run_id: str, tmp_path: Path) -> None:
    made, mended = tmp_path / "made", tmp_path / "mended"

    @workflow.step
    def large() -> Any:
        note(made)
        return np.arange(2**24)  # 128 MiB

    @workflow.step
    def mean(values: Any) -> float:
        return float(np.mean(values))

    @workflow.step
    def dying(value: float) -> float:
        if not mended.exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return value

    with pytest.raises(workflow.WorkflowExecutionError):
        dying.step(mean.step(large.step())).run(run_id)
    assert workflow.get_status(run_id) == "RESUMABLE"
    mended.touch()
    assert workflow.resume(run_id).result() == np.mean(np.arange(2**24))
    assert len(notes(made)) == 1
