"""Ray Workflow's behaviour, row by row: composing, failing, catching.

Each test is named after its row in Ray's own suite (`test_basic_workflows.py` there).
"""

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import weftline
from tests.e2e.conftest import PATIENCE_S, Gate, in_background, note, notes, pass_gate
from weftline import workflow

pytestmark = pytest.mark.usefixtures("home")


@workflow.step
def seed(kind: str = "oak") -> str:
    return kind


@workflow.step
def grow(plant: str, ring: str) -> str:
    return f"{plant}>{ring}"


@workflow.step
def graft(left: str, right: str) -> str:
    return f"({left}+{right})"


@workflow.step
def multiply(left: int, right: int) -> int:
    return left * right


@workflow.step
def factorial(number: int) -> Any:
    if number == 1:
        return 1
    return multiply.step(number, factorial.step(number - 1))


def test_basic_workflows() -> None:
    sequence = grow.step(grow.step(seed.step(), "1"), "2")
    assert sequence.run() == "oak>1>2"

    loop = seed.step(kind="elm")
    for ring in range(5):
        loop = grow.step(loop, str(ring))
    assert loop.run() == "elm>0>1>2>3>4"

    @workflow.step
    def nursery(rings: int) -> Any:
        plant = seed.step("fir")
        for ring in range(rings):
            plant = grow.step(plant, str(ring))
        return plant

    @workflow.step
    def garden() -> Any:
        return graft.step(nursery.step(1), nursery.step(2))

    assert grow.step(nursery.step(3), "last").run() == "fir>0>1>2>last"
    assert garden.step().run() == "(fir>0+fir>0>1)"

    stem = seed.step("yew")
    fork_join = graft.step(grow.step(stem, "left"), grow.step(stem, "right"))
    assert fork_join.run() == "(yew>left+yew>right)"

    assert factorial.step(10).run() == 3_628_800


def test_async_execution(run_id: str, gate: Gate) -> None:
    path = gate.path

    @workflow.step
    def wait() -> int:
        pass_gate(path)
        return 314

    handle = wait.step().run_async(run_id)
    gate.wait_for()  # so `run_async` returned while the step has not
    assert not handle.done()
    assert handle.status() == "RUNNING"
    gate.open()
    assert handle.result(PATIENCE_S) == weftline.get(handle) == 314


def test_partial() -> None:
    def add(left: int, right: int) -> int:
        return left + right

    ten_more = workflow.step(partial(add, 10))
    assert "__anonymous_func__" in ten_more.step(1)._name
    assert ten_more.step(1).run() == 11

    @workflow.step
    def chain(count: int) -> Any:
        value: Any = 0
        for number in range(count):
            value = workflow.step(partial(add, number)).step(value)
        return value

    assert chain.step(5).run() == 10


@pytest.mark.parametrize("driver", ["this process", "the controller"])
def test_run_or_resume_during_running(run_id: str, gate: Gate, driver: str) -> None:
    path = gate.path

    @workflow.step
    def wait() -> str:
        pass_gate(path)
        return "through"

    composition = grow.step(wait.step(), "once")
    if driver == "the controller":
        first: Future[str] = composition.run_async(run_id)  # refused from here on
    else:
        first = in_background(composition.run, run_id)
        gate.wait_for()
    again = grow.step(wait.step(), "again")
    attempts: list[Callable[[], Any]] = [
        lambda: again.run(run_id),
        lambda: again.run_async(run_id),
        lambda: workflow.resume(run_id),
    ]
    for attempt in attempts:
        for kind in (RuntimeError, ValueError, workflow.WorkflowRunningError):
            with pytest.raises(kind, match="is running"):
                attempt()
    assert workflow.get_status(run_id) == "RUNNING"
    gate.open()
    assert first.result(PATIENCE_S) == "through>once"
    assert again.run_async(run_id).result(PATIENCE_S) == "through>once"
    assert again.run(run_id) == "through>once"
    if driver == "the controller":
        gate.wait_for()
    assert gate.nobody_else()


@workflow.step
def unstable(tries: Path, good_try: int) -> int:
    """Succeeds at the given try."""
    note(tries)
    so_far = len(tries.read_text().splitlines())
    if so_far < good_try:
        raise ValueError(f"try {so_far} fails")
    return so_far


def test_step_failure(tmp_path: Path) -> None:
    for wrong in ("3", 0, -1, 1.5, None, True):
        with pytest.raises(ValueError, match="max_retries"):
            unstable.options(max_retries=wrong)

    tries = tmp_path / "too few"
    with pytest.raises(ValueError, match="try 2 fails"):
        unstable.options(max_retries=2).step(tries, 3).run()
    assert len(notes(tries)) == 2

    tries = tmp_path / "enough"
    assert unstable.options(max_retries=3).step(tries, 3).run() == 3

    catching = unstable.options(max_retries=2, catch_exceptions=True)
    value, error = catching.step(tmp_path / "caught", 3).run()
    assert value is None
    assert isinstance(error, ValueError)
    assert error.args == ("try 2 fails",)
    assert catching.step(tmp_path / "nothing to catch", 2).run() == (2, None)


def test_step_failure_decorator(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_retries"):
        workflow.step(max_retries=0)

    @workflow.step(max_retries=4)
    def four_tries(tries: Path, good_try: int) -> int:
        note(tries)
        so_far = len(tries.read_text().splitlines())
        if so_far < good_try:
            raise ValueError(f"try {so_far} fails")
        return so_far

    assert four_tries.step(tmp_path / "enough", 4).run() == 4
    with pytest.raises(ValueError, match="try 4 fails"):
        four_tries.step(tmp_path / "too few", 5).run()
    assert len(notes(tmp_path / "too few")) == 4

    @workflow.step(catch_exceptions=True)
    def caught() -> None:
        raise ValueError("always")

    value, error = caught.step().run()
    assert value is None
    assert isinstance(error, ValueError)

    @workflow.step(catch_exceptions=True)
    def fine() -> int:
        return 10

    assert fine.step().run() == (10, None)


def test_nested_catch_exception() -> None:
    @workflow.step
    def inner() -> int:
        return 10

    @workflow.step
    def outer() -> Any:
        return inner.step()

    assert outer.options(catch_exceptions=True).step().run() == (10, None)


def test_nested_catch_exception_2() -> None:
    @workflow.step
    def descend(levels: int) -> Any:
        if levels == 0:
            raise ValueError("the ground")
        return descend.step(levels - 1)

    value, error = descend.options(catch_exceptions=True).step(5).run()
    assert value is None
    assert isinstance(error, ValueError)
    assert error.args == ("the ground",)


def test_workflow_error_message() -> None:
    # This process has chosen its home already: the URL is judged first all the same.
    for url in ("c:\\workflow_data", "ftp://host/folder"):
        with pytest.raises(ValueError) as caught:
            workflow.init(storage=url)
        assert str(caught.value) == f"Invalid url: {url}."
