"""Ray Workflow's behaviour, row by row: one object in several runs.

Named after its row in Ray's own suite (`test_serialization.py` there).
"""

from typing import Any

import pytest

from weftline import workflow

np = pytest.importorskip("numpy")


@pytest.mark.usefixtures("home")
def test_same_object_many_workflows(run_id: str) -> None:
    shared = np.arange(100_000)

    @workflow.step
    def hand_on(values: Any, listed: list[Any]) -> Any:
        return values, listed

    for number in range(2):
        hand_on.step(shared, [shared]).run(f"{run_id} {number}")
    for number in range(2):
        values, listed = workflow.get_output(f"{run_id} {number}").result()
        assert np.array_equal(values, shared)
        assert np.array_equal(listed[0], shared)
    workflow.delete(f"{run_id} 0")
    values, _ = workflow.get_output(f"{run_id} 1").result()
    assert np.array_equal(values, shared)
