"""Ray Workflow's behaviour, row by row: one object in several runs.

Named after its row in Ray's own suite (`test_serialization.py` there).
"""

from pathlib import Path
from typing import Any

import pytest

import weftline
from weftline import workflow

np = pytest.importorskip("numpy")


@pytest.mark.usefixtures("home")
def test_a_reference_in_many_runs_is_stored_once(home: Path, run_id: str) -> None:
    values = np.random.default_rng(7).random(100_000)
    ref = weftline.put(values)

    @workflow.step
    def total(bare: Any, listed: list[Any]) -> Any:
        return float(bare.sum() + weftline.get(listed[0]).sum())

    before = stored_files(home)
    for number in range(3):
        found = total.step(ref, [ref]).run_async(f"{run_id} {number}").result()
        assert found == pytest.approx(2 * values.sum())
    assert weftline.put(values) == ref
    larger = [path for path in stored_files(home) - before if path.stat().st_size >= values.nbytes]
    assert larger == []


def stored_files(home: Path) -> set[Path]:
    return {path for path in (home / "objects").rglob("*") if path.is_file()}


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
