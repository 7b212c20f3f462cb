"""Ray Workflow's behaviour, row by row: large values between steps.

Named after its row in Ray's own suite (`test_large_intermediate.py` there).
"""

from typing import Any

import pytest

from weftline import workflow

np = pytest.importorskip("numpy")


@pytest.mark.usefixtures("home")
def test_simple_large_intermediate(run_id: str) -> None:
    @workflow.step
    def large() -> Any:
        return np.arange(2**24)  # 128 MiB

    @workflow.step
    def shifted(values: Any) -> Any:
        return values + 1

    @workflow.step
    def mean(values: Any) -> float:
        return float(np.mean(values))

    inner = shifted.options(name="shifted").step(large.step())
    assert mean.step(inner).run(run_id) == np.mean(np.arange(2**24)) + 1
    kept = workflow.get_output(run_id, name="shifted").result()
    assert (kept.dtype, kept.shape, kept[0], kept[-1]) == (np.dtype("int64"), (2**24,), 1, 2**24)
