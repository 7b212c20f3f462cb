"""Ray Workflow's behaviour, row by row: many runs at once, and their statuses.

Each test is named after its row in Ray's own suite (`test_workflow_manager.py` there).
"""

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


MANY = """
    import os
    import sys
    import weftline
    from weftline import workflow

    gate, mended = sys.argv[1], Path("mended")

    def let_through(count):
        go = os.open(os.path.join(gate, "go"), os.O_RDWR)
        os.write(go, b"." * count)
        os.close(go)

    def ids(wanted):
        found = workflow.list_all(wanted)
        assert len(dict(found)) == len(found)
        return set(dict(found))

    def failure_of(handle):
        return repr(handle.exception())

    @workflow.step
    def wait_and_judge(number):
        pass_gate(gate)
        if number % 2 == 0 and not mended.exists():
            raise ValueError(f"{number} is even")
        return number

    names = [str(number) for number in range(100)]
    every, even = set(names), set(names[::2])
    handles = [wait_and_judge.step(n).run_async(name) for n, name in enumerate(names)]

    # RUNNING at once, and whether or not there is a free worker.
    assert ids("RUNNING") == every
    assert ids({"FAILED", "SUCCESSFUL"}) == set()
    assert not any(handle.done() for handle in handles)
    let_through(100)
    for number, handle in enumerate(handles):
        if number % 2:
            assert handle.result() == number
        else:
            assert failure_of(handle) == f"ValueError('{number} is even')"

    assert ids(None) == every
    for failed in ("FAILED", workflow.FAILED, {"FAILED"}, {workflow.FAILED, "RUNNING"}):
        assert ids(failed) == even
    for finished in ("SUCCESSFUL", workflow.WorkflowStatus.SUCCESSFUL, [workflow.SUCCESSFUL]):
        assert ids(finished) == every - even
    assert ids("RUNNING") == ids(set()) == set()
    for wrong in ("ENDED", 1, ["FAILED", 1]):
        try:
            workflow.list_all(wrong)
        except TypeError:
            continue
        raise AssertionError(wrong)

    # One is resumed, and ends well.
    mended.touch()
    resumed = workflow.resume("0")
    assert workflow.get_status("0") == "RUNNING"
    let_through(1)
    assert resumed.result() == 0
    assert workflow.get_status("0") == "SUCCESSFUL"
    assert ids("FAILED") == even - {"0"}

    # Another one is resumed, and canceled.
    resumed = workflow.resume("2")
    workflow.cancel("2")
    assert workflow.get_status("2") == "CANCELED"
    assert failure_of(resumed).startswith("WorkflowCanceledError")

    # All others are resumed at once; what was canceled is left alone.
    assert workflow.resume_all() == []
    found = dict(workflow.resume_all(include_failed=True))
    assert ids("RUNNING") == set(found) == even - {"0", "2"}
    assert len(found) == 48
    let_through(48)
    assert sorted(weftline.get(list(found.values()))) == list(range(4, 100, 2))
    assert ids("SUCCESSFUL") == every - {"2"}
    assert ids("CANCELED") == {"2"}
    """


def test_workflow_manager(scripts: Scripts, gate: Gate) -> None:
    scripts.run(MANY, gate.path)


@pytest.mark.usefixtures("home")
def test_runs_of_this_process_are_running_without_a_free_worker(run_id: str, gate: Gate) -> None:
    path = gate.path

    @workflow.step
    def wait(number: int) -> int:
        pass_gate(path)
        return number

    names = {f"{run_id} {number}" for number in range(20)}
    runs = [in_background(wait.step(n).run, f"{run_id} {n}") for n in range(20)]
    eventually(lambda: names <= set(dict(workflow.list_all("RUNNING"))), "all are RUNNING")
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
