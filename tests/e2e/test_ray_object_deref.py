"""Ray Workflow's behaviour, row by row: how arguments and results arrive.

Each test is named after its row in Ray's own suite (`test_object_deref.py` there). Ray's object
references are `weftline.put`, `weftline.get` and what they give here.
"""

import copy
import pickle
from typing import Any

import pytest

import weftline
from tests.e2e.conftest import note, notes
from weftline import workflow

np = pytest.importorskip("numpy")
pytestmark = pytest.mark.usefixtures("home")


@workflow.step
def plus_one(number: int) -> int:
    return number + 1


def test_objectref_inputs() -> None:
    @workflow.step
    def check(
        bare: int,
        ref: int,
        listed: list[int],
        mapped: dict[str, list[dict[str, int]]],
        refs: list[Any],
    ) -> str:
        assert bare == 2
        assert ref == 10
        assert listed == [3, 4]
        assert mapped == {"deep": [{"deeper": 2}, {"deeper": 5}]}
        assert isinstance(refs[0], weftline.ObjectRef)
        assert weftline.get(refs) == [10, 20]
        return "checked"

    two = plus_one.step(1)
    ten, twenty = weftline.put(10), weftline.put(20)
    mapped = {"deep": [{"deeper": two}, {"deeper": plus_one.step(4)}]}
    listed = [plus_one.step(two), 4]
    composition = check.step(two, ten, listed, mapped=mapped, refs=[ten, twenty])
    assert composition.run() == "checked"
    assert composition.run_async().result() == "checked"


def test_objectref_outputs(run_id: str) -> None:
    @workflow.step(name="bare")
    def bare() -> Any:
        return weftline.put("value")

    @workflow.step(name="listed")
    def listed() -> Any:
        return [weftline.put(number) for number in range(3)]

    @workflow.step
    def look(value: str, refs: list[Any]) -> Any:
        return value, [type(ref).__name__ for ref in refs], weftline.get(refs)

    assert bare.step().run() == "value"
    refs = listed.step().run()
    assert [type(ref) for ref in refs] == [weftline.ObjectRef] * 3
    assert weftline.get(refs) == [0, 1, 2]
    found = look.step(bare.step(), listed.step()).run(run_id)
    assert found == ("value", ["ObjectRef"] * 3, [0, 1, 2])
    assert workflow.get_output(run_id, name="bare").result() == "value"
    assert weftline.get(workflow.get_output(run_id, name="listed").result()) == [0, 1, 2]


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

    @workflow.step
    def a_reference() -> Any:
        return weftline.put(np.arange(4.0))

    assert total.step(a_reference.step()).run() == ("ndarray", 6.0)

    for carry in (pickle.dumps, copy.copy, copy.deepcopy, weftline.put):
        with pytest.raises(ValueError, match=r"composition of step .*plus_one.* cannot be pickled"):
            carry(plus_one.step(1))

    @workflow.step
    def wrapped() -> Any:
        return [plus_one.step(1)]

    with pytest.raises(ValueError, match="inside a container"):
        wrapped.step().run()


# -- what else is said of references ------------------------------------------------------------


def test_put_refuses_a_reference() -> None:
    with pytest.raises(TypeError, match="a reference to one cannot be made"):
        weftline.put(weftline.put(1))


def test_equal_values_have_equal_references() -> None:
    assert weftline.put([1, 2]) == weftline.put([1, 2])
    assert weftline.put([1, 2]) != weftline.put([2, 1])
    assert len({weftline.put("x"), weftline.put("x")}) == 1


def test_one_reference_twice_arrives_as_one_object() -> None:
    @workflow.step
    def are_one(left: list[int], right: list[int]) -> bool:
        left.append(1)
        return left is right

    ref = weftline.put([0])
    assert are_one.step(ref, ref).run() is True
    assert weftline.get(ref) == [0]


def test_get_takes_references_handles_and_lists_of_them(run_id: str) -> None:
    handle = plus_one.step(1).run_async(run_id)
    assert weftline.get([weftline.put("a"), handle, weftline.put("b")]) == ["a", 2, "b"]
    assert workflow.get(handle) == 2
    for wrong in (1, "x", plus_one.step(1), [1]):
        with pytest.raises(TypeError, match="get takes references and handles"):
            weftline.get(wrong)


def test_wait_gives_the_ready_ones_and_the_others_in_order() -> None:
    refs = [weftline.put(number) for number in range(3)]
    assert weftline.wait(refs) == (refs[:1], refs[1:])
    assert weftline.wait(refs, num_returns=3, timeout=0) == (refs, [])
    for wrong in (refs[0], [1], "refs"):
        with pytest.raises(TypeError):
            weftline.wait(wrong)  # type: ignore[arg-type]
    for count in (0, 4):
        with pytest.raises(ValueError, match="num_returns"):
            weftline.wait(refs, num_returns=count)
    with pytest.raises(ValueError, match="once"):
        weftline.wait([refs[0], refs[0]])


def test_a_handle_cannot_be_had_before_there_is_a_run() -> None:
    with pytest.raises(TypeError, match="get takes references and handles, not Workflow"):
        weftline.get(plus_one.step(1))


def test_a_handle_is_passed_on_as_what_asks_for_the_run(run_id: str) -> None:
    handle = plus_one.step(1).run_async(run_id)

    @workflow.step
    def ask(listed: list[Any]) -> Any:
        return listed[0].result()

    assert ask.step([handle]).run() == 2


def test_a_change_after_run_async_is_not_seen(run_id: str, tmp_path: Any) -> None:
    given, counter = [1, 2], tmp_path / "counter"

    @workflow.step
    def total(numbers: list[int]) -> int:
        note(counter, str(numbers))
        return sum(numbers)

    handle = total.step(given).run_async(run_id)
    given.append(1000)
    assert handle.result() == 3
    assert notes(counter) == ["[1, 2]"]
