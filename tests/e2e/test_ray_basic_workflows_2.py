"""Ray Workflow's behaviour, row by row: `init`, outputs of runs and of named steps.

Each test is named after its row in Ray's own suite (`test_basic_workflows_2.py` there). Chosen
departures are tested in place of Ray's: `init` is implied, and a home belongs to a process.
What was `test_wf_run` and `test_wf_no_run` here in 1.7 stands in `test_ray_basic_workflows_3.py`.
"""

from pathlib import Path
from typing import Any

import pytest

import weftline
from tests.e2e.conftest import (
    PATIENCE_S,
    Gate,
    Scripts,
    in_background,
    kill_controller,
    note,
    notes,
    pass_gate,
)
from weftline import workflow


@workflow.step
def double(number: int) -> int:
    return 2 * number


def test_init_twice(scripts: Scripts) -> None:
    said = scripts.run(
        """
        import sys
        import warnings
        from weftline import workflow

        workflow.init(storage="a home")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            workflow.init(storage="a home")
            workflow.init(storage=Path("a home").absolute())
            workflow.init(storage=f"file://{Path.cwd()}/a%20home")
        print(len(caught))
        try:
            workflow.init(storage="another home")
        except RuntimeError as error:
            print(error)
        """
    )
    count, message = said.splitlines()
    assert count == "3"
    assert str(scripts.folder / "a home") in message
    assert "another home" in message
    assert not (scripts.folder / "another home").exists()


def test_init_twice_2(scripts: Scripts, gate: Gate) -> None:
    """A chosen departure: two processes may use two homes, at the same time."""
    source = """
        import sys
        from weftline import workflow

        home, gate = sys.argv[1:]
        workflow.init(storage=home)

        @workflow.step
        def wait(home):
            pass_gate(gate, home)
            return home

        print(wait.step(home).run("the same id"), *workflow.list_all())
        """
    one, other = (scripts.start(source, home, gate.path) for home in ("one", "other"))
    assert set(gate.wait_for(2)) == {"one", "other"}
    gate.open(2)
    recorded = "('the same id', <RunStatus.SUCCESSFUL: 'SUCCESSFUL'>)"
    assert scripts.end(one)[0] == f"one {recorded}\n"
    assert scripts.end(other)[0] == f"other {recorded}\n"


@pytest.mark.usefixtures("home")
def test_get_output_1(run_id: str) -> None:
    assert double.step(21).run(run_id) == 42
    assert workflow.get_output(run_id).result() == 42


@pytest.mark.usefixtures("home")
def test_get_output_2(run_id: str, gate: Gate) -> None:
    path = gate.path

    @workflow.step
    def wait() -> int:
        pass_gate(path)
        return 10

    run = wait.step().run_async(run_id)
    asked = workflow.get_output(run_id)
    assert asked.status() == "RUNNING"
    gate.open()
    assert asked.result(PATIENCE_S) == run.result(PATIENCE_S) == 10


@pytest.mark.usefixtures("home")
def test_the_output_of_a_run_of_this_process_can_be_asked_while_it_runs(
    run_id: str, gate: Gate
) -> None:
    path = gate.path

    @workflow.step
    def wait() -> int:
        pass_gate(path)
        return 10

    run = in_background(wait.step().run, run_id)
    gate.wait_for()
    asked = workflow.get_output(run_id)
    assert asked.status() == "RUNNING"
    gate.open()
    assert asked.result() == run.result(PATIENCE_S) == 10


@pytest.mark.usefixtures("home")
def test_get_output_3(run_id: str, tmp_path: Path) -> None:
    tries, mended = tmp_path / "tries", tmp_path / "mended"

    @workflow.step
    def needs_mending() -> int:
        note(tries)
        if not mended.exists():
            raise ValueError("broken")
        return 10

    with pytest.raises(ValueError, match="broken"):
        needs_mending.options(max_retries=2).step().run(run_id)
    assert len(notes(tries)) == 2
    with pytest.raises(ValueError, match="broken"):
        workflow.get_output(run_id).result()
    mended.touch()
    with pytest.raises(ValueError, match="broken"):
        workflow.get_output(run_id).result()
    assert len(notes(tries)) == 2
    assert workflow.resume(run_id).result() == 10
    assert len(notes(tries)) == 3
    assert workflow.get_output(run_id).result() == 10
    assert len(notes(tries)) == 3


@pytest.mark.usefixtures("home")
def test_get_named_step_output_finished(run_id: str) -> None:
    inner = double.options(name="inner").step(1)
    outer = double.options(name="outer").step(inner)
    assert outer.run(run_id) == 4
    assert workflow.get_output(run_id).result() == 4
    assert workflow.get_output(run_id, name="inner").result() == 2
    assert workflow.get_output(run_id, name="outer").result() == 4


@pytest.mark.usefixtures("home")
def test_get_named_step_output_running(run_id: str, gate: Gate) -> None:
    path = gate.path

    @workflow.step
    def gated_double(number: int) -> int:
        pass_gate(path, str(number))
        return 2 * number

    inner = gated_double.options(name="inner").step(1)
    run = gated_double.options(name="outer").step(inner).run_async(run_id)
    asked = [workflow.get_output(run_id, name=name) for name in ("inner", "outer")]
    assert gate.wait_for() == ["1"]
    assert weftline.wait(asked, timeout=0.05) == ([], asked)
    gate.open()
    assert weftline.wait(asked, timeout=PATIENCE_S) == (asked[:1], asked[1:])
    assert gate.wait_for() == ["2"]
    assert weftline.get(asked[0]) == 2
    assert asked[0].status() == "RUNNING"
    with pytest.raises(TimeoutError):
        asked[1].result(timeout=0.05)
    gate.open()
    assert weftline.get([*asked, run], timeout=PATIENCE_S) == [2, 4, 4]
    names = ("inner", "outer")
    assert [workflow.get_output(run_id, name=name).result() for name in names] == [2, 4]


@pytest.mark.usefixtures("home")
def test_get_named_step_output_error(run_id: str) -> None:
    @workflow.step
    def refuse(number: int) -> None:
        raise ValueError(f"not {number}")

    inner = double.options(name="inner").step(1)
    with pytest.raises(ValueError, match="not 2"):
        refuse.options(name="outer").step(inner).run(run_id)
    assert workflow.get_output(run_id, name="inner").result() == 2
    with pytest.raises(ValueError, match="not 2"):
        workflow.get_output(run_id, name="outer").result()
    with pytest.raises(ValueError, match="not 2"):
        workflow.get_output(run_id).result()


@pytest.mark.usefixtures("home")
def test_get_named_step_default(run_id: str) -> None:
    @workflow.step
    def factorial(number: int, product: int = 1) -> Any:
        if number == 1:
            return product
        return factorial.step(number - 1, product * number)

    assert factorial.step(5).run(run_id) == 120
    name = f"{__name__}.test_get_named_step_default.locals.factorial"
    for suffix in ("", "_1", "_2", "_3", "_4"):
        assert workflow.get_output(run_id, name=name + suffix).result() == 120
    with pytest.raises(ValueError, match=f"No such step_id {name}_5 in workflow "):
        workflow.get_output(run_id, name=name + "_5").result()


@pytest.mark.usefixtures("home")
def test_get_named_step_duplicate(run_id: str) -> None:
    twin = double.options(name="twin")
    assert twin.step(twin.step(5)).run(run_id) == 20
    assert workflow.get_output(run_id, name="twin").result() == 20
    assert workflow.get_output(run_id, name="twin_1").result() == 10


UNKNOWN = ["get_status", "resume", "cancel", "get_actor", "get_output", "get_metadata", "delete"]


@pytest.mark.parametrize("first", ["run", "run_async", "list_all", "resume_all", *UNKNOWN])
def test_no_init(scripts: Scripts, first: str) -> None:
    """A chosen departure: whatever is called first opens `$WEFTLINE_HOME`, else `~/.weftline`."""
    variables = {"HOME": str(scripts.folder / "person")}
    place = scripts.folder / "person" / ".weftline"
    if first.startswith("run"):
        variables["WEFTLINE_HOME"] = str(place := scripts.folder / "chosen")
    said = scripts.run(
        """
        import os
        import sys
        from weftline import workflow

        if os.environ["WEFTLINE_HOME"] == "unset":
            del os.environ["WEFTLINE_HOME"]

        @workflow.step
        def ten():
            return 10

        if sys.argv[1] == "run":
            print(ten.step().run())
        elif sys.argv[1] == "run_async":
            print(ten.step().run_async().result())
        elif sys.argv[1].endswith("_all"):
            print(getattr(workflow, sys.argv[1])())
        else:
            try:
                getattr(workflow, sys.argv[1])("an id")
            except ValueError as error:
                print(error)
        """,
        first,
        variables={"WEFTLINE_HOME": "unset", **variables},
    )
    kill_controller(place)
    expected = "No such workflow_id an id"
    if first not in UNKNOWN:
        expected = "10" if first.startswith("run") else "[]"
    assert said == expected + "\n"
    assert (place / "weftline.db").exists() or not first.startswith("run")
    assert {p.name for p in scripts.folder.iterdir()} <= {"person", "chosen", "program_1.py"}
