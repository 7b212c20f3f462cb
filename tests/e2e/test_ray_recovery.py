"""Ray Workflow's behaviour, row by row: runs that lost their processes go on.

Each test is named after its row in Ray's own suite (`test_recovery.py` there). Ray's system error
is a WorkflowExecutionError here, and its failing cluster a driver, or a controller with all its
children, that is killed.
"""

import os
import signal
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest

from tests.e2e.conftest import Gate, Scripts, controller_of, kill_controller, note, notes
from weftline import workflow


@workflow.step
def counted(counter: Path, name: str, *inputs: str) -> str:
    note(counter, name)
    return f"{name}({','.join(inputs)})"


@workflow.step
def dying(counter: Path, mended: Path, name: str, *inputs: str) -> str:
    """Ends its own process until it is mended."""
    note(counter, name)
    if not mended.exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return f"{name}({','.join(inputs)})"


@pytest.mark.usefixtures("home")
def test_recovery_simple(run_id: str, tmp_path: Path) -> None:
    counter, mended = tmp_path / "counter", tmp_path / "mended"
    begin = counted.step(counter, "begin")
    middle = dying.options(name="middle").step(counter, mended, "middle", begin)
    with pytest.raises(workflow.WorkflowExecutionError, match="'middle' ended its process 4 times"):
        counted.step(counter, "end", middle).run(run_id)
    assert notes(counter) == ["begin", *["middle"] * 4]
    assert workflow.get_status(run_id) == "RESUMABLE"
    mended.touch()
    for _ in range(2):  # the second time nothing is executed
        assert workflow.resume(run_id).result() == "end(middle(begin()))"
        assert notes(counter) == ["begin", *["middle"] * 5, "end"]
        assert workflow.get_status(run_id) == "SUCCESSFUL"


@pytest.mark.usefixtures("home")
def test_recovery_complex(run_id: str, tmp_path: Path) -> None:
    counter, mended = tmp_path / "counter", tmp_path / "mended"
    shared = counted.step(counter, "shared")
    left = counted.step(counter, "left", shared)
    right = dying.step(counter, mended, "right", shared, left)
    end = counted.step(counter, "end", left, right, shared)
    with pytest.raises(workflow.WorkflowExecutionError):
        end.run(run_id)
    assert notes(counter) == ["shared", "left", *["right"] * 4]
    assert workflow.get_status(run_id) == "RESUMABLE"
    mended.touch()
    for _ in range(2):
        expected = "end(left(shared()),right(shared(),left(shared())),shared())"
        assert workflow.resume(run_id).result() == expected
        assert notes(counter) == ["shared", "left", *["right"] * 5, "end"]


@pytest.mark.usefixtures("home")
def test_recovery_non_exists_workflow() -> None:
    with pytest.raises(ValueError, match="No such workflow_id nobody"):
        workflow.resume("nobody").result()


DESCENT = """
    import sys
    from weftline import workflow

    how, counter, gate = sys.argv[1:]

    @workflow.step
    def descend(level):
        note(counter, f"down {level}")
        if level == 5:
            pass_gate(gate)
        return climb.step(level, descend.step(level + 1)) if level < 10 else "ground"

    @workflow.step
    def climb(level, below):
        note(counter, f"up {level}")
        return f"{below} {level}"

    getattr(descend.step(0), how)("climbing")
    """

WENT_DOWN = [f"down {level}" for level in (0, 1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 10)]
CAME_UP = [f"up {level}" for level in range(9, -1, -1)]
GROUND = "ground 9 8 7 6 5 4 3 2 1 0"


@pytest.mark.parametrize("how", ["run", "run_async"])
def test_recovery_cluster_failure(scripts: Scripts, gate: Gate, how: str) -> None:
    counter = scripts.folder / "counter"
    driver = scripts.start(DESCENT, how, counter, gate.path)
    gate.wait_for()
    kill_cluster(scripts, driver)
    gate.open(2)  # the one that was ended may still take one
    said = scripts.run(
        """
        from weftline import workflow

        print(workflow.list_all())
        print(workflow.resume("climbing").result())
        """
    )
    assert said == f"[('climbing', <RunStatus.RESUMABLE: 'RESUMABLE'>)]\n{GROUND}\n"
    assert notes(counter) == WENT_DOWN + CAME_UP


@pytest.mark.parametrize("how", ["run", "run_async"])
def test_recovery_cluster_failure_resume_all(scripts: Scripts, gate: Gate, how: str) -> None:
    counter = scripts.folder / "counter"
    driver = scripts.start(DESCENT, how, counter, gate.path)
    gate.wait_for()
    kill_cluster(scripts, driver)
    gate.open(2)
    said = scripts.run(
        """
        from weftline import workflow

        [(workflow_id, handle)] = workflow.resume_all()
        print(workflow_id, handle.result(), workflow.get_status(workflow_id))
        print(workflow.resume_all(), workflow.resume_all(include_failed=True))
        """
    )
    assert said == f"climbing {GROUND} SUCCESSFUL\n[] []\n"
    assert notes(counter) == WENT_DOWN + CAME_UP


def kill_cluster(scripts: Scripts, driver: "Popen[str]") -> None:
    """End all that drives, by SIGKILL."""
    if controller_of(scripts.home) is None:
        driver.kill()
    else:
        scripts.end(driver)
    driver.wait()
    kill_controller(scripts.home)


def test_resume_different_storage(scripts: Scripts) -> None:
    source = """
        import sys
        from weftline import workflow

        workflow.init(storage=sys.argv[1])

        @workflow.step
        def once():
            note("counter")
            return "here"

        if sys.argv[2] == "run":
            once.step().run("an id")
        try:
            print(workflow.resume("an id").result())
        except ValueError as error:
            print(error)
        """
    assert scripts.run(source, "some", "run") == "here\n"
    assert scripts.run(source, "other", "resume") == "No such workflow_id an id\n"
    assert scripts.run(source, "some", "resume") == "here\n"
    assert notes(scripts.folder / "counter") == ["x"]


@pytest.mark.usefixtures("home")
def test_a_failed_step_runs_again_on_resume_and_its_siblings_do_not(
    run_id: str, tmp_path: Path
) -> None:
    counter, mended = tmp_path / "counter", tmp_path / "mended"

    @workflow.step
    def fragile(before: str) -> str:
        note(counter, "fragile")
        if not mended.exists():
            raise RuntimeError("broken")
        return f"mended {before}"

    @workflow.step
    def both(left: Any, right: Any) -> list[Any]:
        return [left, right]

    sibling = counted.step(counter, "sibling")
    with pytest.raises(RuntimeError, match="broken"):
        both.step(sibling, fragile.step(sibling)).run(run_id)
    mended.touch()
    assert workflow.resume(run_id).result() == ["sibling()", "mended sibling()"]
    assert notes(counter) == ["sibling", "fragile", "fragile"]
