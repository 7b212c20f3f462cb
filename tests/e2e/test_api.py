"""Steps, options and compositions as people use them, beyond the rows of Ray's suite."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import (
    CPUS,
    PATIENCE_S,
    Gate,
    Scripts,
    eventually,
    in_background,
    note,
    notes,
    pass_gate,
)
from weftline import workflow
from weftline.app import home as opened_home
from weftline.authoring.step import to_workflow
from weftline.core.events import StepFailed, decode_event

pytestmark = pytest.mark.usefixtures("home")


@workflow.step
def plus_one(number: int) -> int:
    return number + 1


@workflow.step
def add(left: int, right: int) -> int:
    return left + right


@workflow.step
def total(numbers: list[int]) -> int:
    return sum(numbers)


@workflow.step
def failing(tries: Path, error: Exception) -> None:
    note(tries)
    raise error


def failures(run_id: str) -> list[tuple[float, StepFailed]]:
    """When each failure of the run was recorded, and what was recorded."""
    found = opened_home().journal.read(run_id)
    assert found is not None
    events = [(entry.at, decode_event(entry.body)) for entry in found[1]]
    return [(at, event) for at, event in events if isinstance(event, StepFailed)]


# -- options ------------------------------------------------------------------------------------


def test_options_are_cumulative(run_id: str) -> None:
    first = plus_one.options(name="one", metadata={"a": 1, "b": 1}, resources={"licence": 1})
    second = first.options(metadata={"b": 2, "c": 3}, max_retries=5, resources={"licence": 2})
    third = second.options(num_cpus=0.5, resources={})
    assert third.step(1).run(run_id) == 2
    found = workflow.get_metadata(run_id, "one")
    assert found["user_metadata"] == {"a": 1, "b": 2, "c": 3}
    assert found["step_options"]["max_retries"] == 5
    asked = found["step_options"]["ray_options"]
    assert (asked["num_cpus"], asked["resources"]) == (0.5, {"licence": 2})


def test_options_leave_the_step_they_are_called_on_as_it_was(run_id: str) -> None:
    plus_one.options(name="other", max_retries=9, metadata={"a": 1})
    plus_one.step(1).run(run_id)
    found = workflow.get_metadata(run_id, f"{__name__}.plus_one")
    assert found["user_metadata"] == {}
    assert found["step_options"]["max_retries"] == 1


def test_max_retries_counts_all_tries(tmp_path: Path) -> None:
    for tries in (1, 3):
        counter = tmp_path / str(tries)
        with pytest.raises(KeyError):
            failing.options(max_retries=tries).step(counter, KeyError("x")).run()
        assert len(notes(counter)) == tries


class Flaky(Exception):
    """A failure that is worth another try."""


class VeryFlaky(Flaky):
    pass


@pytest.mark.parametrize(
    ("error", "retry_on", "tries"),
    [
        (Flaky("x"), Flaky, 3),
        (VeryFlaky("x"), (KeyError, Flaky), 3),
        (Flaky("x"), VeryFlaky, 1),
        (Flaky("x"), KeyError, 1),
        (KeyError("x"), (LookupError,), 3),
        (KeyError("x"), None, 3),
    ],
)
def test_only_errors_of_retry_on_are_tried_again(
    tmp_path: Path, error: Exception, retry_on: Any, tries: int
) -> None:
    step = failing.options(max_retries=3, retry_on=retry_on)
    with pytest.raises(type(error)):
        step.step(tmp_path / "tries", error).run()
    assert len(notes(tmp_path / "tries")) == tries


def test_retries_wait_longer_each_time(run_id: str, tmp_path: Path) -> None:
    step = failing.options(max_retries=4, retry_delay_s=0.05, retry_backoff=2)
    with pytest.raises(KeyError):
        step.step(tmp_path / "tries", KeyError("x")).run(run_id)
    *tried_again, (_, last) = failures(run_id)
    assert last.retry_at is None
    started = [event.started_at for _, event in failures(run_id)]
    assert len(tried_again) == 3
    for (at, event), delay_s, next_start in zip(
        tried_again, (0.05, 0.1, 0.2), started[1:], strict=True
    ):
        assert event.retry_at is not None
        assert event.started_at + delay_s <= event.retry_at <= at + delay_s
        assert next_start >= event.retry_at


def test_jitter_makes_a_delay_longer_by_up_to_its_share(run_id: str, tmp_path: Path) -> None:
    step = failing.options(max_retries=2, retry_delay_s=0.1, retry_jitter=0.5)
    with pytest.raises(KeyError):
        step.step(tmp_path / "tries", KeyError("x")).run(run_id)
    at, event = failures(run_id)[0]
    assert event.retry_at is not None
    assert event.started_at + 0.1 <= event.retry_at <= at + 0.15


def test_a_step_that_runs_too_long_is_ended(run_id: str, gate: Gate, tmp_path: Path) -> None:
    path, processes = gate.path, tmp_path / "processes"

    @workflow.step(name="endless", timeout_s=0.2, max_retries=2)
    def endless() -> None:
        sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        note(processes, f"{os.getpid()} {sleeper.pid}")
        pass_gate(path)

    said = r"'endless' ran longer than its timeout_s=0\.2"
    with pytest.raises(workflow.StepTimeoutError, match=said):
        endless.step().run(run_id)
    with pytest.raises(TimeoutError, match=said):
        workflow.get_output(run_id).result()
    assert [event.is_timeout for _, event in failures(run_id)] == [True, True]
    assert len(gate.wait_for(2)) == 2
    for process in " ".join(notes(processes)).split():  # what the step started is ended with it
        assert not is_running(int(process))
    assert workflow.get_status(run_id) == "FAILED"


def is_running(process: int) -> bool:
    """Whether the process exists, other than as an entry that nobody has collected yet."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_timeout_can_be_caught_and_counts_as_a_try(gate: Gate) -> None:
    path = gate.path

    @workflow.step(timeout_s=0.1)
    def endless() -> None:
        pass_gate(path)

    value, error = endless.options(catch_exceptions=True).step().run()
    assert value is None
    assert type(error) is workflow.StepTimeoutError


def test_env_vars_are_set_for_the_step_alone() -> None:
    @workflow.step
    def look() -> tuple[str | None, str | None]:
        return os.environ.get("WL_ONE"), os.environ.get("WL_TWO")

    one = look.options(runtime_env={"env_vars": {"WL_ONE": "1", "WL_TWO": "1"}})
    both = one.options(runtime_env={"env_vars": {"WL_TWO": "2 = zwei"}})
    assert both.step().run() == ("1", "2 = zwei")
    assert one.step().run() == ("1", "1")
    assert look.step().run() == (None, None)
    assert "WL_ONE" not in os.environ


def test_the_folder_and_variables_of_a_step_are_those_of_the_run(tmp_path: Path) -> None:
    @workflow.step
    def wander(_: Any) -> str:
        before = os.getcwd()
        os.chdir(tmp_path)
        return before

    step: Any = None
    for _ in range(4):
        step = wander.step(step)
    assert step.run() == os.getcwd()


def test_an_async_step_is_run_to_its_end() -> None:
    @workflow.step
    async def gather(count: int) -> list[int]:
        async def one(number: int) -> int:
            await asyncio.sleep(0)
            return number

        return await asyncio.gather(*(one(number) for number in range(count)))

    assert total.step(gather.step(4)).run() == 6

    @workflow.step
    async def refuse() -> None:
        await asyncio.sleep(0)
        raise Flaky("async")

    with pytest.raises(Flaky, match="async"):
        refuse.step().run()

    @workflow.step
    async def compose() -> Any:
        return plus_one.step(1)

    assert compose.step().run() == 2


def test_current_tells_run_step_and_attempt(run_id: str, tmp_path: Path) -> None:
    told = tmp_path / "told"

    @workflow.step(name="teller", max_retries=3)
    def teller() -> tuple[Any, ...]:
        here = workflow.current()
        assert here is not None
        note(told, repr(tuple(here)))
        if here.attempt < 3:
            raise ValueError("again")
        return tuple(here)

    assert workflow.current() is None
    last = teller.step().run(run_id)
    assert workflow.current() is None
    assert last[:3] == (run_id, "teller", 3)
    seen = [eval(line) for line in notes(told)]
    assert [one[2] for one in seen] == [1, 2, 3]
    keys = {one[3] for one in seen}
    assert len(keys) == 1

    @workflow.step(name="keys")
    def key_of(_: Any) -> str:
        here = workflow.current()
        assert here is not None
        return here.idempotency_key

    chain = key_of.step(key_of.step(key_of.step(None)))
    chain.run(f"{run_id} other")
    for name in ("keys", "keys_1", "keys_2"):
        keys.add(workflow.get_output(f"{run_id} other", name=name).result())
    assert len(keys) == 4


# -- arguments ----------------------------------------------------------------------------------


@dataclass
class Order:
    name: str
    parts: list[Any] = field(default_factory=list)


Pair = namedtuple("Pair", ["left", "right"])


class Color(Enum):
    RED = "red"


class Level(IntEnum):
    LOW = 1


class Text(str):
    __slots__ = ()


class Basket:
    """A plain class of a person, with compositions inside."""

    def __init__(self, **things: Any) -> None:
        self.things = things


def test_compositions_are_found_anywhere_in_arguments() -> None:
    one, two = plus_one.step(0), plus_one.step(1)

    @workflow.step
    def check(*args: Any, **kwargs: Any) -> str:
        listed, mapped, tupled, order, basket = args
        assert listed == [1, [2, [1]], "x"]
        assert mapped == {"a": 1, ("b", 2): {"c": (2,)}}
        assert tupled == (1, (2, ()), 3)
        assert type(order) is Order
        assert (order.name, order.parts) == ("order", [1, {"two": 2}])
        assert type(basket) is Basket
        assert basket.things == {"left": 1, "right": [2, 2]}
        assert kwargs == {"named": 1, "listed": [1, 2]}
        return "checked"

    composition = check.step(
        [one, [two, [one]], "x"],
        {"a": one, ("b", 2): {"c": (two,)}},
        (one, (two, ()), 3),
        Order("order", [one, {"two": two}]),
        Basket(left=one, right=[two, two]),
        named=one,
        listed=[one, two],
    )
    assert composition.run() == "checked"


def test_one_composition_runs_once_and_arrives_as_one_object(tmp_path: Path) -> None:
    counter = tmp_path / "counter"

    @workflow.step
    def make() -> list[int]:
        note(counter)
        return [1]

    @workflow.step
    def check(bare: list[int], listed: Any, mapped: Any, order: Order, *, named: Any) -> bool:
        everywhere = [bare, *listed, mapped["x"], order.parts[0], named]
        bare.append(2)
        return all(one is bare for one in everywhere) and named == [1, 2]

    made = make.step()
    composition = check.step(made, [made, made], {"x": made}, Order("o", [made]), named=made)
    assert composition.run() is True
    assert len(notes(counter)) == 1
    for _ in range(2):  # running the composition again is a new run
        assert composition.run() is True
    assert len(notes(counter)) == 3


def test_results_come_back_equal_and_of_the_same_type() -> None:
    @workflow.step
    def echo(value: Any) -> Any:
        return value

    values: list[Any] = [
        None,
        True,
        2**80,
        -1.5,
        float("inf"),
        "text \udcff é",
        b"bytes\0",
        (1, (2,), []),
        {1, 2},
        frozenset({"a"}),
        {"a": {1: None}, (1, 2): b""},
        [1, [2.0, [True]]],
        1 + 2j,
        range(3),
        Order("o", [1, (2,)]),
        Path("/x"),
        bytearray(b"x"),
        "long" * 20_000,
        Pair(1, Pair(2, None)),
        Color.RED,
        [Level.LOW, True, 1],
        OrderedDict(b=1, a=2),
        defaultdict(list, {"a": [1]}),
        Decimal("1.10"),
        datetime(2024, 2, 29, tzinfo=UTC),
        {1: "int", "1": "str", None: "none"},
        {True: "bool", 2.0: "float"},
        Text("of a subclass"),
        slice(1, None),
        Basket,
        len,
    ]
    for value in values:
        for found in (echo.step(value).run(), echo.step(echo.step(value)).run()):
            assert found == value
            assert type(found) is type(value)


def test_objects_within_a_result_stay_what_they_are_to_each_other() -> None:
    @workflow.step
    def tangled() -> Any:
        one = [1]
        circle: list[Any] = [one, one]
        circle.append(circle)
        return circle

    for composition in (tangled.step(), workflow.step(lambda value: value).step(tangled.step())):
        found = composition.run()
        assert found[0] == [1]
        assert found[0] is found[1]
        assert found[2] is found


def test_compositions_in_sets_keys_and_partials() -> None:
    @workflow.step
    def check(a_set: set[int], mapped: dict[int, int], call: Any) -> bool:
        return a_set == {2, 3} and mapped == {2: 5} and call() == 7

    two = plus_one.step(1)
    assert check.step({two, plus_one.step(2)}, {two: 5}, partial(sum, [two, 5])).run() is True


def test_a_step_sees_its_own_copy_of_an_argument() -> None:
    @workflow.step
    def spoil(values: list[int]) -> list[int]:
        values.append(4)
        return values

    @workflow.step
    def both(first: list[int], second: list[int]) -> list[list[int]]:
        return [first, second]

    mine = [1, 2, 3]
    made = spoil.step(mine)
    composition = both.step(made, spoil.step(made))
    assert composition.run() == [[1, 2, 3, 4], [1, 2, 3, 4, 4]]
    assert mine == [1, 2, 3]


def test_a_fan_in_keeps_its_order() -> None:
    @workflow.step
    def square(number: int) -> int:
        return number * number

    @workflow.step
    def listed(numbers: list[int]) -> list[int]:
        return numbers

    composition = listed.step([square.step(number) for number in range(300)])
    assert composition.run() == [number * number for number in range(300)]


def test_steps_of_classes_partials_and_builtins() -> None:
    class Shop:
        def __init__(self, price: int) -> None:
            self.price = price

        def cost(self, count: int) -> int:
            return self.price * count

        def __call__(self, count: int) -> int:
            return self.cost(count) + 1

    assert workflow.step(Shop(3).cost).step(4).run() == 12
    assert workflow.step(Shop(3)).step(plus_one.step(3)).run() == 13
    assert workflow.step(len).step([1, 2]).run() == 2
    assert workflow.step(lambda number: number + 1).step(1).run() == 2
    wrong: Any
    for wrong in (1, "x", None):
        with pytest.raises(ValueError, match="takes one callable"):
            workflow.step(wrong)


def test_a_direct_call_tells_to_compose() -> None:
    with pytest.raises(TypeError, match=r"plus_one.*cannot be called directly.*\.step\("):
        plus_one(1)


# -- dynamic workflows --------------------------------------------------------------------------


@pytest.mark.timeout(300)
def test_two_thousand_nested_steps(run_id: str) -> None:
    @workflow.step
    def descend(levels: int) -> Any:
        if levels == 0:
            return 0
        return plus_one.step(descend.step(levels - 1))

    assert descend.step(2_000).run(run_id) == 2_000
    assert workflow.get_output(run_id).result() == 2_000


def tail_chain(length: int) -> Any:
    @workflow.step
    def count(so_far: int) -> Any:
        return count.step(so_far + 1) if so_far < length else so_far

    return count.step(0)


@pytest.mark.timeout(300)
def test_a_long_chain_of_tail_calls(run_id: str) -> None:
    length = 20_000
    assert tail_chain(length).run(run_id) == length
    assert workflow.get_output(run_id).result() == length


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_chain_of_a_hundred_thousand_tail_calls(run_id: str) -> None:
    assert tail_chain(100_000).run(run_id) == 100_000


def test_a_returned_workflow_stands_for_its_parent_everywhere(run_id: str) -> None:
    @workflow.step(name="parent")
    def parent(number: int) -> Any:
        return add.options(name="child").step(plus_one.step(number), 10)

    made = parent.step(1)
    assert add.step(made, plus_one.step(made)).run(run_id) == 25
    assert workflow.get_output(run_id, name="parent").result() == 12
    assert workflow.get_output(run_id, name="child").result() == 12


def test_a_parent_that_returned_steps_never_runs_again(run_id: str, tmp_path: Path) -> None:
    counter, mended = tmp_path / "counter", tmp_path / "mended"

    @workflow.step
    def child() -> int:
        note(counter, "child")
        if not mended.exists():
            raise ValueError("broken")
        return 1

    @workflow.step
    def parent() -> Any:
        note(counter, "parent")
        return plus_one.step(child.step())

    with pytest.raises(ValueError, match="broken"):
        plus_one.step(parent.step()).run(run_id)
    mended.touch()
    assert workflow.resume(run_id).result() == 3
    assert notes(counter) == ["parent", "child", "child"]


# -- catching -----------------------------------------------------------------------------------


@workflow.step
def explode(text: str = "boom") -> None:
    raise Flaky(text)


def test_whatever_a_returned_workflow_raises_is_caught() -> None:
    @workflow.step
    def in_the_output() -> Any:
        return explode.step()

    @workflow.step
    def in_an_input() -> Any:
        return plus_one.step(plus_one.step(explode.step()))

    @workflow.step
    def deep(levels: int) -> Any:
        if levels == 0:
            return in_an_input.step()
        return plus_one.step(deep.step(levels - 1))

    @workflow.step
    def itself() -> None:
        raise Flaky("boom")

    for step, args in ((in_the_output, ()), (in_an_input, ()), (deep, (3,)), (itself, ())):
        value, error = step.options(catch_exceptions=True).step(*args).run()
        assert value is None
        assert type(error) is Flaky
        assert error.args == ("boom",)


def test_all_tries_are_used_before_a_failure_is_caught(run_id: str, tmp_path: Path) -> None:
    step = failing.options(max_retries=3, catch_exceptions=True)
    value, error = step.step(tmp_path / "tries", Flaky("x")).run(run_id)
    assert (value, type(error)) == (None, Flaky)
    assert len(notes(tmp_path / "tries")) == 3
    assert workflow.get_status(run_id) == "SUCCESSFUL"
    _, error = workflow.resume(run_id).result()  # the pair is what is recorded
    assert type(error) is Flaky
    assert len(notes(tmp_path / "tries")) == 3


def test_the_innermost_catching_step_catches() -> None:
    @workflow.step(catch_exceptions=True)
    def inner() -> Any:
        return explode.step("inner")

    @workflow.step
    def judge(pair: tuple[Any, Any]) -> str:
        return f"judged {pair[1]}"

    @workflow.step(catch_exceptions=True)
    def outer() -> Any:
        return judge.step(inner.step())

    assert outer.step().run() == ("judged inner", None)


def test_a_caught_error_reaches_the_next_step_as_itself() -> None:
    @workflow.step
    def judge(pair: tuple[Any, Exception]) -> str:
        try:
            raise pair[1]
        except Flaky as error:
            return f"{type(error).__name__} {error}"

    caught = explode.options(catch_exceptions=True)
    assert judge.step(caught.step("x")).run() == "Flaky x"


# -- runs within steps --------------------------------------------------------------------------


def test_run_inside_a_step_is_a_run_of_its_own(run_id: str) -> None:
    inner_id = f"{run_id} inner"

    @workflow.step(num_cpus=CPUS)
    def outer() -> int:
        # It needs every CPU, and never waits for those of the step that it is called from.
        return int(plus_one.options(num_cpus=CPUS).step(1).run(inner_id)) + 10

    assert outer.step().run(run_id) == 12
    assert workflow.get_output(inner_id).result() == 2
    assert workflow.get_status(inner_id) == "SUCCESSFUL"


def test_run_inside_a_step_without_an_id() -> None:
    @workflow.step
    def outer(levels: int) -> int:
        if levels == 0:
            return 0
        return int(outer.step(levels - 1).run()) + 1

    assert outer.step(2).run() == 2


def test_an_error_of_a_run_inside_a_step_comes_out_of_both(run_id: str) -> None:
    @workflow.step
    def outer() -> Any:
        return explode.step("inner").run(f"{run_id} inner")

    with pytest.raises(Flaky, match="inner"):
        outer.step().run(run_id)
    assert workflow.get_status(f"{run_id} inner") == "FAILED"


# -- handles and ids ----------------------------------------------------------------------------


def test_a_result_that_does_not_come_in_time_is_a_timeout(run_id: str, gate: Gate) -> None:
    path = gate.path

    @workflow.step
    def wait() -> str:
        pass_gate(path)
        return "through"

    run = in_background(wait.step().run, run_id)
    gate.wait_for()
    handle = workflow.get_output(run_id)
    assert (handle.workflow_id, handle.status()) == (run_id, "RUNNING")
    with pytest.raises(TimeoutError, match=r"has no result after 0\.02 s"):
        handle.result(timeout=0.02)
    with pytest.raises(TimeoutError):
        handle.result(timeout=0)
    gate.open()
    assert run.result(PATIENCE_S) == "through"
    assert handle.result(timeout=0) == "through"
    assert handle.status() == "SUCCESSFUL"


def test_a_used_id_gives_its_recorded_value_whatever_is_composed(run_id: str) -> None:
    assert plus_one.step(1).run(run_id) == 2
    assert plus_one.step(5).run(run_id) == 2
    assert total.step([1]).run(run_id, metadata={"later": True}) == 2
    assert workflow.get_metadata(run_id)["user_metadata"] == {}


def test_a_changed_graph_under_a_used_id_is_a_warning(run_id: str, tmp_path: Path) -> None:
    mended = tmp_path / "mended"

    @workflow.step(name="fragile")
    def fragile(number: int) -> int:
        if not mended.exists():
            raise ValueError("broken")
        return number

    with pytest.raises(ValueError, match="broken"):
        fragile.step(1).run(run_id)
    mended.touch()
    with pytest.warns(UserWarning, match="'fragile' has other arguments.*another id"):
        assert fragile.step(2).run(run_id) == 1


def test_generated_ids_differ() -> None:
    before = set(dict(workflow.list_all()))
    composition = plus_one.step(1)
    for _ in range(3):
        composition.run()
    assert len(set(dict(workflow.list_all())) - before) == 3


@pytest.mark.parametrize("wrong", [1, b"x", Path("x")])
def test_an_id_is_a_str(wrong: Any) -> None:
    for call in (
        plus_one.step(1).run,
        workflow.get_status,
        workflow.get_output,
        workflow.get_metadata,
        workflow.resume,
        workflow.delete,
    ):
        with pytest.raises(TypeError, match="a workflow id is a str"):
            call(wrong)


class Ids(StrEnum):
    FIRST = "the first id"


def test_an_id_of_a_subclass_of_str_is_its_text() -> None:
    named = plus_one.options(name=Ids.FIRST, metadata={Ids.FIRST: Ids.FIRST})
    assert named.step(1).run(Ids.FIRST) == 2
    for one in (Ids.FIRST, "the first id"):
        assert workflow.get_output(one, name=Ids.FIRST).result() == 2
    (found,) = [one for one, _ in workflow.list_all() if one == "the first id"]
    assert type(found) is str
    metadata = workflow.get_metadata(Ids.FIRST, Ids.FIRST)["user_metadata"]
    assert metadata == {"the first id": "the first id"}


def test_metadata_comes_back_as_json_has_it(run_id: str) -> None:
    given: dict[Any, Any] = {1: (2, 3), None: {"deep": [True]}}
    plus_one.options(name="one", metadata=given).step(1).run(run_id, metadata=given)
    for name in (None, "one"):
        found = workflow.get_metadata(run_id, name)["user_metadata"]
        assert found == {"1": [2, 3], "null": {"deep": [True]}}


@pytest.mark.parametrize(
    "odd", ["a/b", "..", "a\0b", "snow \u2603", "'; drop table runs", "x" * 300, " "]
)
def test_any_text_is_an_id(run_id: str, odd: str) -> None:
    one = f"{odd}{run_id}" if len(odd) > 2 else odd
    assert plus_one.step(1).run(one) == 2
    assert workflow.get_output(one).result() == 2
    assert (one, "SUCCESSFUL") in workflow.list_all()
    workflow.delete(one)


# -- failing and going on -----------------------------------------------------------------------


@pytest.mark.parametrize("again", ["run", "resume"])
def test_a_failure_comes_out_at_once_and_siblings_are_joined_later(
    run_id: str, gate: Gate, tmp_path: Path, again: str
) -> None:
    mended, counter = tmp_path / "mended", tmp_path / "counter"
    slow, fast = gate.path, Gate(tmp_path / "fast")
    fast_path = fast.path

    @workflow.step(name="sibling")
    def sibling() -> str:
        note(counter, "sibling")
        pass_gate(slow)
        return "sibling"

    @workflow.step(name="fragile")
    def fragile() -> str:
        note(counter, "fragile")
        pass_gate(fast_path)
        if not mended.exists():
            raise Flaky("broken")
        return "mended"

    @workflow.step(name="both")
    def both(left: str, right: str) -> str:
        return f"{left} {right}"

    composition = both.step(sibling.step(), fragile.step())
    run = in_background(composition.run, run_id)
    gate.wait_for()
    fast.wait_for()
    fast.open()
    with pytest.raises(Flaky):
        run.result(PATIENCE_S)  # while the sibling stands at its gate
    assert workflow.get_status(run_id) == "FAILED"
    with pytest.raises(workflow.WorkflowRunningError):
        workflow.delete(run_id)
    mended.touch()
    if again == "run":
        resumed = in_background(composition.run, run_id)
    else:
        resumed = in_background(lambda: workflow.resume(run_id).result())
    fast.wait_for()
    assert workflow.get_status(run_id) == "RUNNING"
    gate.open()
    assert workflow.get_output(run_id, name="sibling").result(PATIENCE_S) == "sibling"
    fast.open()
    assert resumed.result(PATIENCE_S) == "sibling mended"
    assert sorted(notes(counter)) == ["fragile", "fragile", "sibling"]


def test_a_sibling_of_a_failed_step_is_recorded_when_it_ends(
    run_id: str, gate: Gate, tmp_path: Path
) -> None:
    path, counter = gate.path, tmp_path / "counter"

    @workflow.step(name="sibling")
    def sibling() -> str:
        note(counter, "sibling")
        pass_gate(path, "sibling")
        return "recorded"

    @workflow.step
    def fragile() -> None:
        pass_gate(path, "fragile")
        raise Flaky("broken")

    @workflow.step
    def never(*_: Any) -> None:
        note(counter, "never")

    run = in_background(never.step(sibling.step(), fragile.step()).run, run_id)
    gate.wait_for(2)
    gate.open(2)
    with pytest.raises(Flaky):
        run.result(PATIENCE_S)

    def is_recorded() -> bool:
        return str(workflow.get_metadata(run_id, "sibling")["status"]) == "SUCCESSFUL"

    eventually(is_recorded, "the sibling is recorded")
    assert workflow.get_output(run_id, name="sibling").result() == "recorded"
    assert workflow.get_status(run_id) == "FAILED"
    assert notes(counter) == ["sibling"]


def test_a_failed_run_does_not_wait_for_a_retry(run_id: str, gate: Gate, tmp_path: Path) -> None:
    path, mended, counter = gate.path, tmp_path / "mended", tmp_path / "counter"

    @workflow.step(name="patient", max_retries=2, retry_delay_s=1_000)
    def patient() -> str:
        note(counter, "patient")
        if not mended.exists():
            raise Flaky("try again")
        return "patient"

    @workflow.step(name="fragile")
    def fragile() -> str:
        note(counter, "fragile")
        pass_gate(path)
        if not mended.exists():
            raise Flaky("broken")
        return "fragile"

    @workflow.step
    def both(left: str, right: str) -> str:
        return f"{left} {right}"

    run = in_background(both.step(patient.step(), fragile.step()).run, run_id)
    gate.wait_for()
    eventually(lambda: failures(run_id), "the first try of the patient step has failed")
    gate.open()
    with pytest.raises(Flaky, match="broken"):
        run.result(PATIENCE_S)
    mended.touch()
    gate.open()
    assert workflow.resume(run_id).result() == "patient fragile"  # at once: nobody waits 1,000 s
    assert sorted(notes(counter)) == ["fragile", "fragile", "patient", "patient"]


def test_what_runs_in_a_scope_that_failed_is_ended(gate: Gate, tmp_path: Path) -> None:
    path, processes, fast = gate.path, tmp_path / "processes", Gate(tmp_path / "fast")
    fast_path = fast.path

    @workflow.step
    def sibling() -> None:
        note(processes, str(os.getpid()))
        pass_gate(path)

    @workflow.step
    def fragile() -> None:
        pass_gate(fast_path)
        raise Flaky("broken")

    @workflow.step
    def both(*_: Any) -> None:
        raise AssertionError("never")

    @workflow.step(catch_exceptions=True)
    def careful() -> Any:
        return both.step(sibling.step(), fragile.step())

    @workflow.step
    def judge(pair: tuple[Any, Any]) -> str:
        return f"judged {pair[1]}"

    run = in_background(judge.step(careful.step()).run)
    gate.wait_for()
    fast.wait_for()
    fast.open()
    assert run.result(PATIENCE_S) == "judged broken"  # though the gate of the sibling is shut
    (process,) = notes(processes)
    eventually(lambda: not is_running(int(process)), "the sibling has been ended")


def test_waiting_for_a_slot_does_not_count_toward_a_time_limit(gate: Gate) -> None:
    path = gate.path

    @workflow.step(num_cpus=CPUS)
    def hog() -> None:
        pass_gate(path)

    run = in_background(hog.step().run)
    gate.wait_for()
    limited = in_background(plus_one.options(timeout_s=1).step(1).run)
    time.sleep(1.2)  # longer than its limit
    gate.open()
    assert limited.result(PATIENCE_S) == 2
    run.result(PATIENCE_S)


def test_one_of_two_threads_that_start_the_same_id_runs_it(
    run_id: str, gate: Gate, tmp_path: Path
) -> None:
    path, counter = gate.path, tmp_path / "counter"

    @workflow.step
    def once() -> str:
        note(counter)
        pass_gate(path)
        return "ran"

    runs = [in_background(once.step().run, run_id) for _ in range(8)]
    gate.wait_for()
    eventually(lambda: sum(run.done() for run in runs) == 7, "all others were refused")
    gate.open()
    outcomes = [run.exception(PATIENCE_S) for run in runs]
    assert outcomes.count(None) == 1
    assert {type(each) for each in outcomes if each} == {workflow.WorkflowRunningError}
    assert len(notes(counter)) == 1


def test_a_canceled_run_goes_on_when_it_is_resumed(run_id: str, gate: Gate, tmp_path: Path) -> None:
    """The public `cancel` comes later; here the run is canceled through the engine."""
    path, counter = gate.path, tmp_path / "counter"

    @workflow.step(name="first")
    def first() -> int:
        note(counter, "first")
        return 1

    @workflow.step(name="second")
    def second(number: int) -> int:
        note(counter, str(os.getpid()))
        pass_gate(path)
        return number + 1

    app = opened_home()
    written, objects, _ = to_workflow(second.step(first.step()), app.objects, None)
    drive = app.attached.start(written, run_id=run_id, objects=objects)
    gate.wait_for()
    drive.cancel()
    assert drive.wait().status == "CANCELED"
    process = int(notes(counter)[1])
    eventually(lambda: not is_running(process), "the step has been ended")
    assert workflow.list_all("CANCELED")[0] == (run_id, "CANCELED")
    with pytest.raises(workflow.WorkflowCanceledError):
        opened_home().results.wait_for(run_id, None, 0)
    gate.open(2)
    assert workflow.resume(run_id).result() == 2
    assert [line for line in notes(counter) if line == "first"] == ["first"]
    assert len(notes(counter)) == 3


def test_losses_of_a_process_are_no_tries(run_id: str, tmp_path: Path) -> None:
    counter = tmp_path / "counter"

    @workflow.step(name="unlucky")
    def unlucky() -> str:
        note(counter)
        if len(counter.read_text().splitlines()) < 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return "survived"

    assert unlucky.step().run(run_id) == "survived"
    assert workflow.get_metadata(run_id, "unlucky")["attempts"] == 4


def test_finished_steps_of_a_run_that_is_held_can_be_read(run_id: str) -> None:
    @workflow.step(name="dying")
    def dying(_: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(workflow.WorkflowExecutionError, match="4 times in a row"):
        dying.step(plus_one.options(name="one").step(1)).run(run_id)
    assert workflow.get_status(run_id) == "RESUMABLE"
    assert workflow.get_output(run_id, name="one").result() == 2
    with pytest.raises(workflow.WorkflowExecutionError, match=r"'dying'.*has no value"):
        workflow.get_output(run_id, name="dying").result()
    with pytest.raises(workflow.StepNotFoundError):
        workflow.get_output(run_id, name="nobody").result()
    with pytest.raises(ValueError, match="is RESUMABLE and has no result: resume it first"):
        _ = workflow.get_output(run_id)


def test_runs_are_listed_newest_first(run_id: str) -> None:
    for number in range(3):
        plus_one.step(number).run(f"{run_id} {number}")
    listed = [one for one, _ in workflow.list_all() if one.startswith(run_id)]
    assert listed == [f"{run_id} {number}" for number in (2, 1, 0)]


def test_two_threads_run_at_once(run_id: str, gate: Gate) -> None:
    path = gate.path

    @workflow.step
    def meet(number: int) -> int:
        pass_gate(path, str(number))
        return number

    runs = [in_background(meet.step(n).run, f"{run_id} {n}") for n in range(2)]
    assert sorted(gate.wait_for(2)) == ["0", "1"]
    gate.open(2)
    assert [run.result(PATIENCE_S) for run in runs] == [0, 1]


def test_the_first_calls_may_come_from_many_threads_at_once(scripts: Scripts) -> None:
    said = scripts.run(
        """
        import threading
        from weftline import workflow

        @workflow.step
        def double(number):
            return 2 * number

        start, results = threading.Barrier(8), []

        def main(number):
            start.wait()
            results.append(double.step(number).run())

        threads = [threading.Thread(target=main, args=[n]) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(sorted(results), len(workflow.list_all()))
        """
    )
    assert said == "[0, 2, 4, 6, 8, 10, 12, 14] 8\n"
