"""Ray Workflow's behaviour, row by row: how arguments and results arrive.

Each test is named after its row in Ray's own suite (`test_object_deref.py` there). What these rows
say of Ray's object references waits for them.
"""

import copy
import pickle
from typing import Any

import pytest

from weftline import workflow

np = pytest.importorskip("numpy")
pytestmark = pytest.mark.usefixtures("home")


@workflow.step
def plus_one(number: int) -> int:
    return number + 1


def test_objectref_inputs() -> None:
    @workflow.step
    def check(bare: int, listed: list[int], mapped: dict[str, list[dict[str, int]]]) -> str:
        assert bare == 2
        assert listed == [3, 4]
        assert mapped == {"deep": [{"deeper": 2}, {"deeper": 5}]}
        return "checked"

    two = plus_one.step(1)
    mapped = {"deep": [{"deeper": two}, {"deeper": plus_one.step(4)}]}
    composition = check.step(two, [plus_one.step(two), 4], mapped=mapped)
    assert composition.run() == "checked"


def test_object_deref() -> None:
    @workflow.step
    def numbers() -> Any:
        return np.zeros(3)

    @workflow.step
    def are_one(left: Any, right: Any) -> bool:
        left[0] = 42
        return left is right and bool(right[0] == 42)

    both = numbers.step()
    assert are_one.step(both, both).run() is True

    @workflow.step
    def handed_on(values: Any) -> Any:
        return values

    @workflow.step
    def total(values: Any) -> Any:
        return type(values).__name__, float(values.sum())

    assert total.step(handed_on.step(numbers.step())).run() == ("ndarray", 0.0)

    for carry in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(ValueError, match=r"composition of step .*plus_one.* cannot be pickled"):
            carry(plus_one.step(1))

    @workflow.step
    def wrapped() -> Any:
        return [plus_one.step(1)]

    with pytest.raises(ValueError, match="inside a container"):
        wrapped.step().run()
