"""What every executor promises: the same values, errors and endings, wherever an attempt runs."""

import asyncio
import contextvars
import io
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.attempts import Attempts, make_children, open_objects
from weftline.codecs.exceptions import decode_error
from weftline.codecs.values import decode, encode
from weftline.core.actions import PythonCall
from weftline.core.graph import decode_pages
from weftline.core.policy import DEFAULT_PLACEMENT, Placement
from weftline.core.values import Object
from weftline.ports import (
    Extended,
    Failed,
    GivenBack,
    Report,
    Starved,
    Succeeded,
    TimedOut,
)
from weftline.workers.attempt import current
from weftline.workers.inline import Inline
from weftline.workers.slots import Slots
from weftline.workflow import step


@pytest.fixture(params=["inline", "children"])
def attempts(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Attempts]:
    objects, slots = open_objects(tmp_path), Slots(2, 1, {"licence": 1})
    executor: Any
    if request.param == "inline":
        executor = Inline(objects=objects, slots=slots)
    else:
        executor = make_children(tmp_path, slots)
    yield Attempts(executor, objects)
    executor.close()


def failure(report: Report, attempts: Attempts) -> tuple[Failed, BaseException | None]:
    assert isinstance(report, Failed), report
    return report, decode_error(report.error, attempts.objects)


# -- values -------------------------------------------------------------------------------------


def test_a_function_is_called_with_its_arguments(attempts: Attempts) -> None:
    def join(first: str, *rest: str, end: str) -> str:
        return "-".join([first, *rest]) + end

    report = attempts.end_of(attempts.make(join, "a", "b", "c", end="!"))
    assert isinstance(report, Succeeded)
    assert report.value == b'["inline","json","a-b-c!"]'
    assert report.started_at > 1e9
    assert report.worker
    assert (report.log, report.objects, report.preview) == (None, (), None)


@pytest.mark.parametrize("value", [None, 2**70, (1, [2]), {"a": {1, 2}}, b"x" * 100_000])
def test_values_come_back_equal_and_of_the_same_type(attempts: Attempts, value: Any) -> None:
    report = attempts.end_of(attempts.make(lambda given: given, value))
    assert isinstance(report, Succeeded)
    found = decode(report.value, attempts.objects)
    assert (found, type(found)) == (value, type(value))
    assert all(attempts.objects.exists(name) for name in report.objects)


def test_attempts_get_copies_that_are_their_own(attempts: Attempts) -> None:
    given = [1]

    def change(values: list[int]) -> list[int]:
        values.append(2)
        return values

    assert attempts.value_of(change, given) == [1, 2]
    assert given == [1]
    call = attempts.call(change, given)
    ends = attempts.drive(attempts.make(call), attempts.make(call))
    values = {
        end.value for reports in ends.values() for end in reports if isinstance(end, Succeeded)
    }
    assert values == {b'["inline","json",[1,2]]'}


def test_a_composition_is_handed_on_as_its_graph(attempts: Attempts) -> None:
    @step
    def inner(number: int) -> int:
        return number + 1

    def returns_steps() -> Any:
        return inner.step(inner.step(1))

    report = attempts.end_of(attempts.make(returns_steps))
    assert isinstance(report, Extended), report
    assert [one.name for one in decode_pages(report.pages)] == [inner.name] * 2
    assert report.output == 0
    assert report.objects
    assert all(attempts.objects.exists(name) for name in report.objects)


def test_a_composition_that_cannot_be_stored_is_a_failure(attempts: Attempts) -> None:
    @step
    def inner(lock: Any) -> None: ...

    def returns_steps() -> Any:
        return inner.step(threading.Lock())

    report, _ = failure(attempts.end_of(attempts.make(returns_steps)), attempts)
    assert report.error.type == "weftline.errors.NotPicklable"
    assert "inner" in report.error.text


def test_an_async_function_is_run_to_its_end(attempts: Attempts) -> None:
    async def both() -> list[int]:
        async def one(number: int) -> int:
            await asyncio.sleep(0)
            return number

        return list(await asyncio.gather(one(1), one(2)))

    assert attempts.value_of(both) == [1, 2]


# -- failures -----------------------------------------------------------------------------------


def test_an_exception_is_a_failure_with_the_users_frames(attempts: Attempts) -> None:
    def fails() -> None:
        raise KeyError("missing")

    report, error = failure(attempts.end_of(attempts.make(fails)), attempts)
    assert (report.error.type, report.error.text) == ("KeyError", "'missing'")
    assert (type(error), str(error)) == (KeyError, "'missing'")
    assert 'raise KeyError("missing")' in report.error.traceback
    assert "weftline" not in report.error.traceback.replace(__file__, "")
    assert report.retryable


def test_an_exception_of_an_async_function_shows_the_users_frames(attempts: Attempts) -> None:
    async def fails() -> None:
        await asyncio.sleep(0)
        raise ValueError("no")

    report, _ = failure(attempts.end_of(attempts.make(fails)), attempts)
    assert report.error.traceback.count("File ") == 1


@pytest.mark.parametrize("kind", [SystemExit, GeneratorExit])
def test_what_would_end_a_process_is_a_failure_that_no_driver_raises(
    attempts: Attempts, kind: type[BaseException]
) -> None:
    def leave() -> None:
        raise kind("bye")

    report, error = failure(attempts.end_of(attempts.make(leave)), attempts)
    assert (report.error.type, report.error.text) == (kind.__name__, "bye")
    assert error is None


def test_a_result_that_cannot_be_stored_is_a_failure(attempts: Attempts) -> None:
    attempt = attempts.make(lambda: [threading.Lock()], step="locks")
    report, _ = failure(attempts.end_of(attempt), attempts)
    assert report.error.type == "weftline.errors.NotPicklable"
    assert "the result of step 'locks'" in report.error.text
    assert attempts.value_of(lambda: 1) == 1


def test_an_argument_that_cannot_be_read_is_a_failure(attempts: Attempts) -> None:
    call = attempts.call(lambda value: value, 1)
    gone = Object("0" * 64, "pickle", 5)
    broken = PythonCall(call.function, gone, call.code)
    report, _ = failure(attempts.end_of(attempts.make(broken)), attempts)
    assert report.error.type == "weftline.errors.ObjectNotFound"
    torn = PythonCall(call.function, b"\x80\x05", call.code)
    report, _ = failure(attempts.end_of(attempts.make(torn)), attempts)
    assert report.error.type


def test_a_function_that_cannot_be_read_is_a_failure(attempts: Attempts) -> None:
    call = attempts.call(lambda: 1)
    broken = PythonCall(Object("0" * 64, "pickle", 5), call.arguments, call.code)
    report, _ = failure(attempts.end_of(attempts.make(broken)), attempts)
    assert report.error.type == "weftline.errors.ObjectNotFound"


@pytest.mark.parametrize(
    ("classes", "is_retryable"),
    [
        (None, True),
        ((LookupError,), True),
        ((OSError, KeyError), True),
        ((OSError,), False),
        ((), False),
    ],
)
def test_the_child_says_whether_retry_on_matches(
    attempts: Attempts, classes: Any, is_retryable: bool
) -> None:
    def fails() -> None:
        raise KeyError("no")

    report, _ = failure(attempts.end_of(attempts.make(fails, retry_on=classes)), attempts)
    assert report.retryable is is_retryable


def test_an_own_exception_class_matches_retry_on(attempts: Attempts) -> None:
    class Mine(Exception): ...

    def fails() -> None:
        raise Mine("no")

    report, _ = failure(attempts.end_of(attempts.make(fails, retry_on=(Mine,))), attempts)
    assert report.retryable


# -- no room ------------------------------------------------------------------------------------


@pytest.fixture
def full(attempts: Attempts, tmp_path: Path) -> Path:
    """While this file exists, nothing can be stored."""
    return tmp_path / "objects" / "full"


def test_a_result_that_finds_no_room_fails_nothing(attempts: Attempts, full: Path) -> None:
    attempt = attempts.make(lambda: b"x" * 100_000)
    full.touch()
    report = attempts.end_of(attempt)
    assert isinstance(report, Starved), report
    assert "no room" in report.reason
    assert isinstance(attempts.end_of(attempts.make(attempt.call)), Starved)
    full.unlink()
    assert isinstance(attempts.end_of(attempts.make(attempt.call)), Succeeded)


def test_an_exception_that_finds_no_room_is_told_without_itself(
    attempts: Attempts, full: Path
) -> None:
    def fails() -> None:
        raise ValueError("no", b"x" * 100_000)

    attempt = attempts.make(fails)
    full.touch()
    report, _ = failure(attempts.end_of(attempt), attempts)
    assert report.error.type == "ValueError"
    assert report.error.text.startswith("('no', b'xxx")
    assert "no room" in report.error.text
    assert report.error.blob is None


# -- what an attempt finds ----------------------------------------------------------------------


def test_an_attempt_knows_which_it_is(attempts: Attempts) -> None:
    def who() -> list[Any]:
        found = []
        thread = threading.Thread(target=lambda: found.append(current()))
        thread.start()
        thread.join()
        return [list(one or ()) for one in (current(), *found)]

    attempt = attempts.make(who, run_id="run 7", step="add", number=3)
    report = attempts.end_of(attempt)
    assert isinstance(report, Succeeded)
    assert decode(report.value, attempts.objects) == [["run 7", "add", 3, "run 7/add"]] * 2
    assert current() is None


def test_nothing_of_one_attempts_context_is_left_for_the_next(attempts: Attempts) -> None:
    variable = "weftline-test-context"

    def first() -> None:
        contextvars.ContextVar[str](variable).set("left")

    def second() -> list[str]:
        return [one.name for one in contextvars.copy_context() if one.name == variable]

    attempts.value_of(first)
    assert attempts.value_of(second) == []


def test_variables_are_set_for_the_attempt_alone(
    attempts: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEFTLINE_TEST_KEPT", "outer")

    def look() -> list[str | None]:
        return [os.environ.get(f"WEFTLINE_TEST_{name}") for name in ("KEPT", "NEW")]

    variables = (("WEFTLINE_TEST_KEPT", "inner"), ("WEFTLINE_TEST_NEW", "é"))
    assert attempts.value_of(look, placement=Placement(env_vars=variables)) == ["inner", "é"]
    assert attempts.value_of(look) == ["outer", None]
    assert os.environ["WEFTLINE_TEST_KEPT"] == "outer"
    assert "WEFTLINE_TEST_NEW" not in os.environ


def test_what_a_step_puts_in_place_of_stdout_is_gone_in_the_next(attempts: Attempts) -> None:
    if isinstance(attempts.executor, Inline):
        pytest.skip("steps print where the process does")

    def redirect() -> None:
        sys.stdout = io.StringIO()

    attempts.value_of(redirect)
    assert attempts.value_of(lambda: print("fine")) is None


# -- time, order, and being interrupted ---------------------------------------------------------


def test_an_attempt_that_takes_longer_than_it_may_has_timed_out(attempts: Attempts) -> None:
    def slow() -> None:
        read, write = os.pipe()
        # Nobody writes: a process that can be ended is, one that cannot goes on by itself.
        import select

        select.select([read], [], [], 0.3)
        os.close(read)
        os.close(write)

    report = attempts.end_of(attempts.make(slow, timeout_s=0.05))
    assert isinstance(report, TimedOut), report
    assert report.after_s == 0.05
    assert report.started_at > 1e9
    assert attempts.value_of(lambda: "next") == "next"


def test_an_attempt_within_its_time_has_not(attempts: Attempts) -> None:
    report = attempts.end_of(attempts.make(lambda: 1, timeout_s=3600.0))
    assert isinstance(report, Succeeded)


def test_wait_returns_after_its_time_when_there_is_no_news(attempts: Attempts) -> None:
    assert attempts.executor.wait(0.0) == []
    assert attempts.executor.wait(0.01) == []


def test_wake_ends_a_wait_now_or_the_next(attempts: Attempts) -> None:
    executor = attempts.executor
    executor.wake()
    executor.wake()
    assert executor.wait(None) == []
    for _ in range(20):
        waker = threading.Thread(target=executor.wake)
        waker.start()
        assert executor.wait(None) == []
        waker.join()


def test_a_killed_attempt_is_not_reported_on(attempts: Attempts) -> None:
    def endless() -> None:
        threading.Event().wait()

    first, second = attempts.make(endless), attempts.make(lambda: 2)
    attempts.start(first)
    attempts.executor.kill({first.key})
    attempts.executor.kill({first.key, 4711})
    reports = attempts.drive(second)
    assert [type(each) for each in reports[second.key]] == [Succeeded]
    assert attempts.executor.wait(0.0) == []


def test_many_attempts_are_each_reported_once(attempts: Attempts) -> None:
    call = attempts.call(lambda: None)
    made = [attempts.make(call) for _ in range(2_000)]
    ends = attempts.drive(*made)
    done = [[each for each in ends[one.key] if not isinstance(each, GivenBack)] for one in made]
    assert [list(map(type, each)) for each in done] == [[Succeeded]] * len(made)


def test_inputs_fill_the_holes(attempts: Attempts) -> None:
    # Written as authoring does: a composition is a hole.
    @step
    def source() -> None: ...

    @step
    def total(first: int, others: list[int], *, again: int) -> list[Any]:
        return [first, others, again]

    made = source.step()
    graph, _ = type(made).__weftline_graph__(
        total.step(made, [source.step(), source.step()], again=made), attempts.objects
    )
    action = graph.steps[0].action
    assert isinstance(action, PythonCall)
    values = [encode(number, attempts.objects).packed for number in (7, [8, 9])]
    report = attempts.end_of(attempts.make(action, inputs=values))
    assert isinstance(report, Succeeded), report
    assert decode(report.value, attempts.objects) == [7, [8, 9], 7]


# -- resources ----------------------------------------------------------------------------------


def test_what_can_never_run_is_told(attempts: Attempts) -> None:
    check = attempts.executor.check
    assert check(DEFAULT_PLACEMENT) is None
    assert check(Placement(num_cpus=2, num_gpus=1, resources=(("licence", 1.0),))) is None
    assert "num_cpus=3" in (check(Placement(num_cpus=3)) or "")
    assert "num_gpus=2" in (check(Placement(num_gpus=2)) or "")
    assert "'licence'" in (check(Placement(resources=(("licence", 2.0),))) or "")


def test_there_is_room_at_first_and_no_more_than_is_taken(attempts: Attempts) -> None:
    def endless() -> None:
        threading.Event().wait()

    attempt = attempts.make(endless)
    room = attempts.executor.room(attempts.lane(attempt))
    assert room >= 2
    made = [attempt, *(attempts.make(attempt.call) for _ in range(room - 1))]
    attempts.start(*made)
    assert attempts.executor.room(attempts.lane(attempt)) == 0
    attempts.executor.kill({one.key for one in made})
    # What was killed may take a moment to make room.
    while attempts.executor.room(attempts.lane(attempt)) != room:
        attempts.executor.wait(0.01)


# -- inline alone -------------------------------------------------------------------------------


def test_an_interrupt_of_the_process_comes_out_of_an_inline_attempt(tmp_path: Path) -> None:
    objects = open_objects(tmp_path)
    executor = Inline(objects=objects, slots=Slots(1))
    attempts = Attempts(executor, objects)

    def interrupted() -> None:
        raise KeyboardInterrupt

    attempts.start(attempts.make(interrupted))
    with pytest.raises(KeyboardInterrupt):
        executor.wait(None)
    assert executor.wait(0.0) == []
    assert current() is None
