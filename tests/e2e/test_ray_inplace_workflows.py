"""Ray Workflow's behaviour, row by row: steps that stay in the process of their caller.

Named after its row in Ray's own suite (`test_inplace_workflows.py` there); processes are told apart
by their ids.
"""

import os
from typing import Any

import pytest

from weftline import workflow

pytestmark = pytest.mark.usefixtures("home")

ELSEWHERE = {"env_vars": {"WEFTLINE_TEST_ELSEWHERE": "1"}}
"""What the process of a step without it can never give."""


@workflow.step
def where() -> int:
    return os.getpid()


@workflow.step
def beside(own: int, others: list[int]) -> list[int]:
    return [own, *others]


@workflow.step
def outer(inplace: bool) -> Any:
    """Returns a step that asks for another process; in place, what it asks for is ignored."""
    own = os.getpid()
    there = tell.options(allow_inplace=inplace, runtime_env=ELSEWHERE)
    return there.step(own)


@workflow.step
def tell(caller: int) -> tuple[int, int]:
    return caller, os.getpid()


def test_inplace_workflows() -> None:
    caller, callee = outer.step(True).run()
    assert caller == callee
    caller, callee = outer.step(False).run()
    assert caller != callee


def test_a_loop_of_tail_calls_stays_in_one_process(run_id: str) -> None:
    @workflow.step
    def count(left: int, seen: list[int]) -> Any:
        seen = [*seen, os.getpid()]
        if left == 0:
            return seen
        return count.options(allow_inplace=True).step(left - 1, seen)

    seen = count.step(100, []).run(run_id)
    assert len(seen) == 101
    assert len(set(seen)) == 1


def test_each_step_in_place_is_recorded(run_id: str) -> None:
    @workflow.step(name="shown")
    def shown() -> Any:
        return where.options(name="within", allow_inplace=True).step()

    value = shown.step().run(run_id)
    assert workflow.get_output(run_id, name="within").result() == value
    options = workflow.get_metadata(run_id, "within")["step_options"]
    assert options["allow_inplace"] is True


def test_one_in_place_that_has_inputs_runs_wherever_there_is_room(run_id: str) -> None:
    """A chosen departure: its inputs are steps of their own, and their process is not its."""

    @workflow.step
    def spread() -> Any:
        inputs = [where.options(runtime_env=ELSEWHERE).step() for _ in range(2)]
        return beside.options(allow_inplace=True).step(os.getpid(), inputs)

    own, *others = spread.step().run(run_id)
    assert own not in others


@pytest.mark.parametrize("wrong", [1, None, "yes"])
def test_allow_inplace_is_a_bool(wrong: Any) -> None:
    with pytest.raises(ValueError, match="allow_inplace"):
        where.options(allow_inplace=wrong)
