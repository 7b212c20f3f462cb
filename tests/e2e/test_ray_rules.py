"""Ray Workflow's behaviour: what its documentation says and no row of its suite asks.

In the order in which one meets it: building, executing, errors, options for cost, management. Some
is told where its subject is: `test_ray_object_deref.py` (references), `test_ray_events.py`,
`test_ray_wait.py`, `test_ray_virtual_actor.py`, `test_ray_checkpoint.py`.
"""

import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import weftline
from tests.e2e.conftest import (
    PATIENCE_S,
    Gate,
    Scripts,
    eventually,
    in_background,
    kill_controller,
    note,
    notes,
    pass_gate,
)
from weftline import workflow

pytestmark = pytest.mark.usefixtures("home")


@workflow.step
def identity(value: Any) -> Any:
    return value


@workflow.step
def join(*values: Any) -> list[Any]:
    return list(values)


@workflow.step
def broken(text: str = "broken") -> None:
    raise ValueError(text)


# -- building -----------------------------------------------------------------------------------


def test_a_step_is_made_of_a_callable_in_three_ways() -> None:
    def add(left: int, right: int) -> int:
        return left + right

    assert workflow.step(add).step(1, 2).run() == 3
    assert workflow.step(max_retries=2)(add).step(1, 2).run() == 3
    assert workflow.step(partial(add, 1)).step(2).run() == 3
    for wrong in (1, "add", None):
        with pytest.raises(ValueError, match="takes one callable"):
            workflow.step(wrong)  # type: ignore[call-overload]


def test_a_method_of_a_plain_class_gets_no_self() -> None:
    class Plain:
        @workflow.step
        def method(self, value: int) -> int:
            return value

    with pytest.raises(TypeError, match="missing a required argument"):
        Plain().method.step(1)


def test_options_of_ray_that_are_not_here_say_what_to_use() -> None:
    for option in ("max_concurrency", "scheduling_strategy", "retry_exceptions", "num_cpu"):
        with pytest.raises(ValueError, match=option):
            identity.options(**{option: 1})
    with pytest.raises(ValueError, match="num_returns"):
        identity.options(num_returns=2)
    identity.options(num_returns=1)


def test_what_options_leave_out_stays(run_id: str) -> None:
    """A chosen departure: in Ray of that time the rest went back to the defaults."""
    named = identity.options(name="mine", metadata={"a": 1, "b": 1}).options(metadata={"b": 2})
    assert named.step(1).run(run_id) == 1
    assert workflow.get_metadata(run_id, "mine")["user_metadata"] == {"a": 1, "b": 2}


def test_an_id_that_is_not_given_is_random_and_has_the_time() -> None:
    handle = identity.step(1).run_async()
    digits = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    assert re.fullmatch(digits + r"\.\d+\.\d+", handle.workflow_id), handle.workflow_id
    assert handle.result(PATIENCE_S) == 1


def test_names_are_given_breadth_first_from_the_output(run_id: str) -> None:
    def at(position: str, *inputs: Any) -> Any:
        return join.options(name="join", metadata={"at": position}).step(*inputs)

    tree = at("top", at("left", at("left below")), at("right", at("right below")))
    tree.run_async(run_id).result(PATIENCE_S)
    names = ["join", "join_1", "join_2", "join_3", "join_4"]
    found = [workflow.get_metadata(run_id, name)["user_metadata"]["at"] for name in names]
    assert found == ["top", "left", "right", "left below", "right below"]
    assert workflow.get_metadata(run_id, "join")["workflows"] == ["join_1", "join_2"]


# -- executing ----------------------------------------------------------------------------------


def test_steps_begin_after_the_function_that_returned_them(
    run_id: str, gate: Gate, tmp_path: Path
) -> None:
    path, order = gate.path, tmp_path / "order"

    @workflow.step
    def inner() -> str:
        note(order, "inner")
        return "inner"

    @workflow.step
    def outer() -> Any:
        composed = inner.step()
        pass_gate(path)
        note(order, "outer")
        return composed

    handle = outer.options(name="outer").step().run_async(run_id)
    gate.wait_for()
    assert notes(order) == []
    gate.open()
    assert handle.result(PATIENCE_S) == "inner"
    assert notes(order) == ["outer", "inner"]
    assert workflow.get_output(run_id, name="outer").result() == "inner"


def test_a_process_without_the_program_can_go_on(scripts: Scripts, gate: Gate) -> None:
    path = scripts.write(
        """
        import os, sys
        from weftline import workflow

        def helper(value):
            return f"helped {value}"

        @workflow.step
        def work(gate):
            arrived = os.open(os.path.join(gate, "arrived"), os.O_RDWR)
            os.write(arrived, b"x\\n")
            go = os.open(os.path.join(gate, "go"), os.O_RDWR)
            os.read(go, 1)
            return helper("by the program")

        work.step(sys.argv[1]).run_async("an id")
        """,
        "program.py",
    )
    scripts.run(path, gate.path)
    gate.wait_for()
    kill_controller(scripts.home)
    path.unlink()
    gate.open()
    said = scripts.run(
        'from weftline import workflow; print(workflow.resume("an id").result())', strict=False
    )
    assert said == "helped by the program\n"


def test_a_large_value_is_stored_once_however_many_read_it(home: Path) -> None:
    @workflow.step
    def large() -> bytes:
        return bytes(range(256)) * 4000

    @workflow.step
    def size(*values: bytes) -> int:
        return sum(map(len, values))

    before = set((home / "objects").rglob("*"))
    made = large.step()
    assert size.step(*[made] * 5).run() == 5 * 1_024_000
    assert join.step(size.step(made), size.step(made, made)).run() == [1_024_000, 2_048_000]
    new = [path for path in set((home / "objects").rglob("*")) - before if path.is_file()]
    assert len([path for path in new if path.stat().st_size >= 1_000_000]) == 1


def test_an_event_loop_may_run_where_a_run_is_started(scripts: Scripts) -> None:
    said = scripts.run(
        """
        import asyncio
        from weftline import workflow

        @workflow.step
        def double(number):
            return 2 * number

        async def main():
            here = double.step(1).run()
            handles = [double.step(number).run_async() for number in range(3)]
            return here, await asyncio.gather(*handles), await handles[0]

        async def gathered(handle):
            return await handle

        print(asyncio.run(main()))
        """
    )
    assert said == "(2, [0, 2, 4], 0)\n"


# -- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, BaseException])
def test_whatever_comes_out_of_a_function_is_its_failure(
    run_id: str, tmp_path: Path, kind: type[BaseException]
) -> None:
    tries = tmp_path / "tries"

    @workflow.step(max_retries=2)
    def leave() -> None:
        note(tries)
        raise kind("I leave")

    with pytest.raises(workflow.WorkflowExecutionError, match="I leave") as caught:
        leave.step().run_async(run_id).result(PATIENCE_S)
    assert caught.value.error_type is not None
    assert kind.__name__ in caught.value.error_type
    assert workflow.get_status(run_id) == "FAILED"
    assert len(notes(tries)) == 2


def test_a_pair_is_a_result_and_not_tried_again(run_id: str, tmp_path: Path) -> None:
    tries, mended = tmp_path / "tries", tmp_path / "mended"

    @workflow.step(max_retries=2, catch_exceptions=True)
    def caught() -> None:
        note(tries)
        raise ValueError("caught")

    @workflow.step
    def reader(pair: Any) -> str:
        if not mended.exists():
            raise RuntimeError("not mended")
        return repr(pair)

    with pytest.raises(RuntimeError, match="not mended"):
        reader.step(caught.step()).run(run_id)
    mended.touch()
    assert workflow.resume(run_id).result(PATIENCE_S) == "(None, ValueError('caught'))"
    assert len(notes(tries)) == 2


def test_catching_is_handed_down_and_tries_are_not(run_id: str, tmp_path: Path) -> None:
    tries = tmp_path / "tries"

    @workflow.step
    def inner() -> None:
        note(tries)
        raise ValueError("inner")

    @workflow.step(max_retries=3, catch_exceptions=True)
    def outer() -> Any:
        return identity.step(inner.step())  # an error of an input is caught as well

    value, error = outer.step().run(run_id)
    assert (value, repr(error)) == (None, "ValueError('inner')")
    assert len(notes(tries)) == 1


def test_a_failure_is_told_at_once_and_what_runs_goes_on(run_id: str, gate: Gate) -> None:
    path = gate.path

    @workflow.step(name="sibling")
    def sibling() -> str:
        pass_gate(path)
        return "sibling"

    other = Gate(Path(path).parent / "other")
    other_path = other.path

    @workflow.step
    def fail() -> None:
        pass_gate(other_path)
        raise ValueError("broken")

    handle = join.step(sibling.step(), fail.step()).run_async(run_id)
    gate.wait_for()
    other.open()
    with pytest.raises(ValueError, match="broken"):
        handle.result(PATIENCE_S)
    assert workflow.get_status(run_id) == "FAILED"
    gate.open()
    eventually(lambda: "end_time" in workflow.get_metadata(run_id, "sibling")["stats"], "it ends")
    assert workflow.get_output(run_id, name="sibling").result() == "sibling"


def test_the_error_of_a_run_is_not_wrapped(run_id: str) -> None:
    """A chosen departure: Ray wraps it three times."""

    class Own(Exception):
        pass

    @workflow.step
    def fail() -> None:
        raise Own("mine", 1)

    for call in (fail.step().run, lambda name: fail.step().run_async(f"{name} 2").result()):
        with pytest.raises(Own) as caught:
            call(run_id)
        assert caught.value.args == ("mine", 1)
        assert any("resume(" in text for text in caught.value.__notes__)


# -- management ---------------------------------------------------------------------------------

TAKES_AN_ID: list[Callable[[Any], Any]] = [
    workflow.get_status,
    workflow.resume,
    workflow.cancel,
    workflow.delete,
    workflow.get_output,
    workflow.get_metadata,
    workflow.get_actor,
    workflow.pause,
    workflow.unpause,
    lambda one: workflow.signal(one, "news"),
]


@pytest.mark.parametrize("call", TAKES_AN_ID)
def test_an_id_is_a_str_that_is_known(call: Callable[[Any], Any]) -> None:
    for wrong in (1, None, b"x", ["x"]):
        with pytest.raises(TypeError, match="a workflow id is a str"):
            call(wrong)
    with pytest.raises(workflow.WorkflowNotFoundError, match="No such workflow_id nobody") as one:
        call("nobody")
    assert isinstance(one.value, ValueError)
    assert one.value.workflow_id == "nobody"


def test_resuming_a_finished_run_leaves_its_status(run_id: str, tmp_path: Path) -> None:
    counter = tmp_path / "counter"

    @workflow.step
    def count() -> int:
        note(counter)
        return 7

    count.step().run(run_id)
    before = workflow.get_metadata(run_id)
    assert workflow.resume(run_id).result(PATIENCE_S) == 7
    assert workflow.get_metadata(run_id) == before
    assert notes(counter) == ["x"]


def test_cancel_ends_what_runs_and_starts_nothing(run_id: str, gate: Gate, tmp_path: Path) -> None:
    path, counter = gate.path, tmp_path / "counter"

    @workflow.step
    def first() -> str:
        note(counter, "first")
        pass_gate(path)
        note(counter, "first ended")
        return "first"

    @workflow.step
    def second(before: str) -> str:
        note(counter, "second")
        return before

    handle = second.step(first.step()).run_async(run_id)
    gate.wait_for()
    workflow.cancel(run_id)
    assert workflow.get_status(run_id) == "CANCELED"
    workflow.cancel(run_id)  # once more changes nothing
    with pytest.raises(workflow.WorkflowCanceledError):
        handle.result(PATIENCE_S)
    with pytest.raises(ValueError, match="CANCELED"):
        _ = workflow.get_output(run_id)
    gate.open()  # nobody is there any more to take it
    assert workflow.get_status(run_id) == "CANCELED"
    assert notes(counter) == ["first"]
    assert workflow.resume(run_id).result(PATIENCE_S) == "first"
    assert notes(counter) == ["first", "first", "first ended", "second"]


def test_cancel_of_a_finished_run_changes_nothing(run_id: str) -> None:
    handle = identity.step(1).run_async(run_id)
    assert handle.result(PATIENCE_S) == 1
    workflow.cancel(run_id)
    assert handle.cancel() is False
    assert workflow.get_status(run_id) == "SUCCESSFUL"


def test_a_failed_run_can_be_canceled(run_id: str) -> None:
    with pytest.raises(ValueError, match="broken"):
        broken.step().run(run_id)
    workflow.cancel(run_id)
    assert workflow.get_status(run_id) == "CANCELED"


def test_get_output_starts_nothing(scripts: Scripts, gate: Gate) -> None:
    source = """
        import sys
        from weftline import workflow

        @workflow.step(name="first")
        def first():
            return "kept"

        @workflow.step(name="second")
        def second(value, gate):
            pass_gate(gate)
            return value

        run = getattr(second.step(first.step(), sys.argv[1]), "run")
        run("an id")
        """
    driver = scripts.start(source, gate.path)
    gate.wait_for()
    driver.kill()
    driver.wait()
    gate.open(2)
    said = scripts.run(
        """
        from weftline import workflow

        print(workflow.get_status("an id"))
        try:
            workflow.get_output("an id")
        except ValueError as error:
            print(error)
        print(workflow.get_output("an id", name="first").result())
        try:
            workflow.get_output("an id", name="second").result(60)
        except ValueError as error:
            print(error)
        print(workflow.get_status("an id"))
        """
    )
    lines = said.splitlines()
    assert lines[0] == lines[-1] == "RESUMABLE"
    assert "resume it first" in lines[1]
    assert lines[2] == "kept"
    assert "resume it first" in lines[3]


def test_get_output_of_a_step_that_is_not_there(run_id: str) -> None:
    identity.step(1).run(run_id)
    with pytest.raises(workflow.StepNotFoundError, match="No such step_id nothing in workflow"):
        workflow.get_output(run_id, name="nothing").result(PATIENCE_S)


def test_a_run_that_ends_is_never_told_to_be_resumable(run_id: str) -> None:
    for number in range(100):
        name = f"{run_id} {number}"
        run = in_background(identity.step(number).run, name)
        seen = set()
        while not run.done():
            with suppress(workflow.WorkflowNotFoundError):
                seen.add(workflow.get_status(name))
        assert seen <= {workflow.RUNNING, workflow.SUCCESSFUL}
        assert run.result() == number


def test_status_is_text_as_well() -> None:
    members = ["PENDING", "RUNNING", "SUCCESSFUL", "FAILED", "CANCELED", "RESUMABLE", "PAUSED"]
    assert [str(status) for status in workflow.WorkflowStatus] == members
    for name in members:
        assert getattr(workflow, name) is workflow.WorkflowStatus(name)
        assert getattr(workflow, name) == name


def test_a_limit_of_runs_makes_others_wait_or_refuses_them(scripts: Scripts, gate: Gate) -> None:
    said = scripts.run(
        """
        import queue
        import sys
        from weftline import workflow

        workflow.init(max_running_workflows=2, max_pending_workflows=1)

        @workflow.step
        def wait(gate, number):
            pass_gate(gate, str(number))
            return number

        handles = [wait.step(sys.argv[1], number).run_async(str(number)) for number in range(3)]
        print(*[handle.status() for handle in handles])
        try:
            wait.step(sys.argv[1], 3).run_async("3")
        except queue.Full as error:
            print(type(error).__name__)
        print(sorted(workflow.list_all("PENDING")))
        """,
        gate.path,
    )
    pending = "[('2', <RunStatus.PENDING: 'PENDING'>)]"
    assert said == f"RUNNING RUNNING PENDING\nWorkflowQueueFull\n{pending}\n"
    assert sorted(gate.wait_for(2)) == ["0", "1"]
    assert gate.nobody_else()
    gate.open()
    assert gate.wait_for() == ["2"]
    gate.open(2)
    said = scripts.run(
        """
        from weftline import workflow

        print([workflow.get_output(str(number)).result() for number in range(3)])
        """
    )
    assert said == "[0, 1, 2]\n"


def test_what_is_paused_starts_no_step_until_it_continues(run_id: str, gate: Gate) -> None:
    path = gate.path

    @workflow.step
    def first() -> int:
        pass_gate(path, "first")
        return 1

    @workflow.step
    def second(value: int) -> int:
        pass_gate(path, "second")
        return value + 1

    handle = second.step(first.options(name="first").step()).run_async(run_id)
    assert gate.wait_for() == ["first"]
    workflow.pause(run_id)
    eventually(lambda: workflow.get_status(run_id) == "PAUSED", "it is paused")
    gate.open(2)
    assert workflow.get_output(run_id, name="first").result(PATIENCE_S) == 1
    assert gate.nobody_else()
    workflow.unpause(run_id)
    assert handle.result(PATIENCE_S) == 2
    with pytest.raises(ValueError, match="is SUCCESSFUL"):
        workflow.pause(run_id)


def test_many_are_submitted_at_once(run_id: str) -> None:
    handles = workflow.submit_many([identity.step(number) for number in range(20)], max_running=2)
    assert weftline.get(handles, timeout=PATIENCE_S) == list(range(20))
    assert len({handle.workflow_id for handle in handles}) == 20
    with pytest.raises(TypeError, match="takes compositions"):
        workflow.submit_many([identity.step(1), 2])  # type: ignore[list-item]
