"""Ray Workflow's behaviour, row by row: ids used twice, shared steps, threads.

Each test is named after its row in Ray's own suite (`test_basic_workflows_3.py` there).
"""

from pathlib import Path

import pytest

from tests.e2e.conftest import PATIENCE_S, Scripts, in_background, note, notes
from weftline import workflow


@workflow.step
def counted(counter: Path, value: int = 1) -> int:
    note(counter)
    return value


@workflow.step
def join(*parts: int) -> list[int]:
    return list(parts)


@pytest.mark.usefixtures("home")
def test_wf_run(run_id: str, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    composition = counted.step(counter, 7)
    assert composition.run(run_id) == 7
    assert composition.run(run_id) == 7
    assert len(notes(counter)) == 1


def test_wf_no_run(scripts: Scripts) -> None:
    """A chosen departure: composing needs no home, and running opens one."""
    said = scripts.run(
        """
        import os
        import threading
        from weftline import workflow

        @workflow.step
        def add(left, right):
            return left + right

        home = Path(os.environ["WEFTLINE_HOME"])
        composition = add.options(name="sum").step(add.step(1, 2), 3)
        print(home.exists(), threading.active_count())
        print(composition.run(), home.exists())
        """
    )
    assert said == "False 1\n6 True\n"


@pytest.mark.usefixtures("home")
def test_dedupe_indirect(tmp_path: Path) -> None:
    counter = tmp_path / "counter"

    @workflow.step
    def plus_one(value: int) -> int:
        return value + 1

    shared = counted.step(counter, 5)
    diamond = join.step(plus_one.step(shared), plus_one.step(plus_one.step(shared)))
    assert diamond.run() == [6, 7]
    assert len(notes(counter)) == 1
    assert diamond.run() == [6, 7]
    assert len(notes(counter)) == 2

    assert join.step(shared, shared, shared, shared).run() == [5, 5, 5, 5]
    assert len(notes(counter)) == 3


@pytest.mark.usefixtures("home")
def test_run_off_main_thread(run_id: str, tmp_path: Path) -> None:
    composition = join.step(counted.step(tmp_path / "counter", 3))
    assert in_background(composition.run, run_id).result(PATIENCE_S) == [3]
    assert workflow.get_status(run_id) == "SUCCESSFUL"
