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

from tests.attempts import Attempts, ends_of, kinds, make_children, open_objects
from weftline.codecs.exceptions import decode_error
from weftline.codecs.references import ObjectRef
from weftline.codecs.values import decode, encode
from weftline.core.actions import PythonCall
from weftline.core.graph import decode_pages
from weftline.core.policy import DEFAULT_PLACEMENT, Placement
from weftline.core.values import Object
from weftline.ports.executor import (
    Done,
    Extended,
    Failed,
    Printed,
    Report,
    Started,
    Starved,
    Succeeded,
    TimedOut,
)
from weftline.workers.attempt import current
from weftline.workers.inline import Inline
from weftline.workers.slots import Slots
from weftline.workers.threads import Threads
from weftline.workflow import step


@pytest.fixture(params=["inline", "threads", "children"])
def attempts(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Attempts]:
    objects, slots = open_objects(tmp_path), Slots(2, 1, {"licence": 1})
    executor: Any
    if request.param == "inline":
        executor = Inline(objects=objects, slots=slots, home=tmp_path)
    elif request.param == "threads":
        executor = Threads(objects=objects, slots=slots, home=tmp_path)
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
    own, in_thread = decode(report.value, attempts.objects)
    assert own == ["run 7", "add", 3, "run 7/add"]
    # Where others run beside it, a thread with a context of its own may be of any of them.
    assert in_thread == ([] if isinstance(attempts.executor, Threads) else own)
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
    if isinstance(attempts.executor, Threads):
        assert "runtime_env" in (attempts.executor.check(Placement(env_vars=variables)) or "")
        return
    assert attempts.value_of(look, placement=Placement(env_vars=variables)) == ["inner", "é"]
    assert attempts.value_of(look) == ["outer", None]
    assert os.environ["WEFTLINE_TEST_KEPT"] == "outer"
    assert "WEFTLINE_TEST_NEW" not in os.environ


def test_what_a_step_puts_in_place_of_stdout_is_gone_in_the_next(attempts: Attempts) -> None:
    if isinstance(attempts.executor, Threads):
        pytest.skip("it is there for all threads")

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
    assert kinds(reports[second.key]) == ["Succeeded"]
    assert attempts.executor.wait(0.0) == []


def test_many_attempts_are_each_reported_once(attempts: Attempts) -> None:
    call = attempts.call(lambda: None)
    made = [attempts.make(call) for _ in range(2_000)]
    reports = attempts.drive(*made)
    told = [[kind for kind in kinds(reports[one.key]) if kind != "GivenBack"] for one in made]
    assert told == [["Succeeded"]] * len(made)


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
    if isinstance(attempts.executor, Threads):
        return  # a thread that cannot be ended keeps what it has
    # What was killed may take a moment to make room.
    while attempts.executor.room(attempts.lane(attempt)) != room:
        attempts.executor.wait(0.01)


def test_a_limit_of_memory_is_refused_where_it_cannot_be_kept(attempts: Attempts) -> None:
    problem = attempts.executor.check(Placement(memory=1_000_000))
    if isinstance(attempts.executor, Inline | Threads):
        assert problem is not None
        assert "memory=1000000" in problem
    else:
        assert problem is None


# -- what is told beside a value ----------------------------------------------------------------


class Counting:
    """A method of an actor, as `weftline.workers` knows one."""

    def __weftline_actor__(
        self, state: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, Any]:
        return {"was": state, "args": args, **kwargs}, (state or 0) + args[0]

    def __call__(self) -> None:
        raise AssertionError("not an actor's method any more")


class CountingLater(Counting):
    async def __weftline_actor__(  # type: ignore[override]
        self, state: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, Any]:
        await asyncio.sleep(0)
        return super().__weftline_actor__(state, args, kwargs)


@pytest.mark.parametrize("kind", [Counting, CountingLater])
def test_a_method_of_an_actor_gets_a_state_and_leaves_one(
    attempts: Attempts, kind: type[Counting]
) -> None:
    report = attempts.end_of(attempts.make(kind(), 2, by="a"))
    assert isinstance(report, Succeeded), report
    assert decode(report.value, attempts.objects) == {"was": None, "args": (2,), "by": "a"}
    assert report.state == b'["inline","json",2]'
    report = attempts.end_of(attempts.make(kind(), 3, state=report.state))
    assert isinstance(report, Succeeded), report
    assert decode(report.value, attempts.objects)["was"] == 2
    assert report.state == b'["inline","json",5]'


class Growing:
    """An actor's method with a large state, which returns steps."""

    def __weftline_actor__(self, state: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        return args[0], bytes(100_000)

    def __call__(self) -> None: ...


def test_a_method_that_returns_steps_leaves_a_state_too(attempts: Attempts) -> None:
    class Method(Growing):
        def __weftline_actor__(self, state: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
            return step(lambda: 1).step(), bytes(100_000)

    report = attempts.end_of(attempts.make(Method()))
    assert isinstance(report, Extended), report
    assert report.state is not None
    assert decode(report.state, attempts.objects) == bytes(100_000)
    assert all(attempts.objects.exists(name) for name in report.objects)
    assert any(name.encode() in report.state for name in report.objects)


def test_a_state_that_cannot_be_stored_is_a_failure(attempts: Attempts) -> None:
    class Method(Growing):
        def __weftline_actor__(self, state: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
            return 1, threading.Lock()

    report, _ = failure(attempts.end_of(attempts.make(Method(), step="add")), attempts)
    assert "the state that step 'add' leaves" in report.error.text


@pytest.mark.parametrize("is_volatile", [True, False])
def test_only_a_large_result_can_be_volatile(
    attempts: Attempts, tmp_path: Path, is_volatile: bool
) -> None:
    report = attempts.end_of(attempts.make(lambda: b"x" * 100_000, is_volatile=is_volatile))
    assert isinstance(report, Succeeded)
    assert report.is_volatile is is_volatile
    loose = tmp_path / "objects" / "loose"
    assert (loose.read_text().split() if loose.exists() else []) == list(
        report.objects if is_volatile else ()
    )
    report = attempts.end_of(attempts.make(lambda: 1, is_volatile=is_volatile))
    assert isinstance(report, Succeeded)
    assert not report.is_volatile


def test_a_reference_that_is_returned_means_its_value(attempts: Attempts) -> None:
    stored = encode(b"y" * 100_000, attempts.objects)
    attempt = attempts.make(lambda: ObjectRef(stored.packed, stored.objects))
    attempts.objects.delete(stored.objects[0])  # nobody reads it
    report = attempts.end_of(attempt)
    assert isinstance(report, Succeeded), report
    assert (report.value, report.objects) == (stored.packed, stored.objects)


# -- those that listen --------------------------------------------------------------------------


async def appears(path: str, value: Any = "there") -> Any:
    """What waits for something outside: here, for a file."""
    while not os.path.exists(path):  # noqa: ASYNC110, ASYNC240 - as users poll
        await asyncio.sleep(0.005)
    return value


def test_those_that_listen_are_awaited_side_by_side_and_occupy_nothing(
    attempts: Attempts, tmp_path: Path
) -> None:
    path = tmp_path / "event"
    call = attempts.call(appears, str(path), listens=True)
    made = [attempts.make(call) for _ in range(300)]
    lane, plain = attempts.lane(made[0]), attempts.lane(attempts.make(lambda: 1))
    room = attempts.executor.room(plain)
    assert attempts.executor.room(lane) >= 10_000
    before = attempts.executor.room(lane)
    attempts.executor.start(lane, made)
    assert attempts.executor.room(lane) == before - len(made)
    keys = {one.key for one in made}
    begun = attempts.wait_for(
        lambda found: {each.key for each in found if isinstance(each, Started)} == keys
    )
    assert len(begun) == len(made)
    assert attempts.executor.room(plain) == room
    assert attempts.value_of(lambda: "beside them") == "beside them"
    path.touch()
    ends = ends_of(attempts.wait_for(lambda found: ends_of(found).keys() == keys))
    for end in ends.values():
        assert isinstance(end, Succeeded), end
        assert (end.value, end.log) == (b'["inline","json","there"]', None)
        assert end.started_at > 1e9
        assert end.worker
    assert attempts.executor.room(lane) == before


def test_a_listening_function_may_fail_and_need_not_wait(attempts: Attempts) -> None:
    async def fails() -> None:
        await asyncio.sleep(0)
        raise KeyError("no")

    report, error = failure(
        attempts.end_of(attempts.make(fails, listens=True, retry_on=(ValueError,))), attempts
    )
    assert (type(error), report.retryable) == (KeyError, False)
    assert report.error.traceback.count("File ") == 1
    report = attempts.end_of(attempts.make(lambda: 7, listens=True))  # type: ignore[assignment]
    assert isinstance(report, Succeeded)
    assert decode(report.value, attempts.objects) == 7

    async def cancels() -> None:
        raise asyncio.CancelledError

    report, _ = failure(attempts.end_of(attempts.make(cancels, listens=True)), attempts)
    assert report.error.type == "asyncio.exceptions.CancelledError"


def test_one_that_listens_too_long_has_timed_out_and_others_go_on(
    attempts: Attempts, tmp_path: Path
) -> None:
    path = tmp_path / "event"
    long = attempts.make(appears, str(path), listens=True, timeout_s=0.05)
    other = attempts.make(long.call, timeout_s=3600.0)
    attempts.start(long, other)
    ends = ends_of(attempts.wait_for(ends_of))
    timed_out = ends[long.key]
    assert isinstance(timed_out, TimedOut), ends
    assert (timed_out.after_s, timed_out.started_at > 1e9) == (0.05, True)
    path.touch()
    ends = ends_of(attempts.wait_for(ends_of))
    assert isinstance(ends.pop(other.key), Succeeded)
    assert not ends


def test_killing_gives_up_those_that_are_named_alone(attempts: Attempts, tmp_path: Path) -> None:
    path, note, begun = (tmp_path / name for name in ("event", "note", "begun"))

    async def stubborn() -> str:
        begun.touch()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            note.touch()
        return "although it was canceled"

    killed = attempts.make(stubborn, listens=True)
    other = attempts.make(appears, str(path), listens=True)
    attempts.start(killed)
    attempts.start(other)
    assert attempts.value_of_listening(appears, str(begun)) == "there"
    attempts.executor.kill({killed.key})
    assert attempts.value_of_listening(appears, str(note)) == "there"
    path.touch()
    reports = attempts.wait_for(ends_of)
    assert {each.key for each in reports if isinstance(each, Done)} == {other.key}


def test_what_listens_knows_which_it_is(attempts: Attempts, tmp_path: Path) -> None:
    path = tmp_path / "event"

    async def who(path: str) -> list[Any]:
        before = current()
        await appears(path)
        in_thread = await asyncio.to_thread(current)
        return [before == current() == in_thread, *(current() or ())]

    made = [attempts.make(who, str(path), listens=True, step=f"step {n}") for n in range(5)]
    attempts.start(*made)
    path.touch()
    reports = attempts.wait_for(lambda found: len(ends_of(found)) == 5)
    for number, one in enumerate(made):
        end = ends_of(reports)[one.key]
        assert isinstance(end, Succeeded)
        told = [True, "run", f"step {number}", 1, f"run/step {number}"]
        assert decode(end.value, attempts.objects) == told
    assert current() is None


# -- output -------------------------------------------------------------------------------------


def printed(reports: list[Report], stream: str) -> str:
    texts = [one.text for one in reports if isinstance(one, Printed) and one.stream == stream]
    return "".join(texts)


@pytest.mark.parametrize("forward", [True, False])
def test_what_a_step_prints_is_kept_and_told_if_that_is_wanted(
    attempts: Attempts, tmp_path: Path, capsys: pytest.CaptureFixture[str], forward: bool
) -> None:
    def talk() -> None:
        print("one")
        print("tw", end="", flush=True)
        print("to stderr", file=sys.stderr)
        sys.stdout.writelines(["o\n", "é"])
        sys.stdout.buffer.write("ü\n".encode())
        sys.stdout.buffer.flush()
        print("no end", end="")

    attempt = attempts.make(talk, forward=forward)
    reports = attempts.drive(attempt)[attempt.key]
    end = reports[-1]
    assert isinstance(end, Succeeded), end
    assert end.log is not None
    out, err = "one\ntwo\néü\nno end", "to stderr\n"
    told = (printed(reports, "stdout"), printed(reports, "stderr"))
    assert told == ((out, err) if forward else ("", ""))
    kept = [(tmp_path / "logs" / f"{end.log.file}.{name}").read_text() for name in ("out", "err")]
    assert kept == [out, err]
    assert (end.log.out_start, end.log.err_start) == (0, 0)
    assert (end.log.out_end, end.log.err_end) == (len(out.encode()), len(err))
    assert attempts.value_of(lambda: None) is None
    assert capsys.readouterr() == ("", "")


def test_a_step_that_prints_nothing_has_no_log(attempts: Attempts, tmp_path: Path) -> None:
    report = attempts.end_of(attempts.make(lambda: 1, forward=True))
    assert isinstance(report, Succeeded)
    assert report.log is None
    assert not (tmp_path / "logs").exists() or not os.listdir(tmp_path / "logs")


def test_what_is_printed_outside_of_attempts_is_left_alone(
    attempts: Attempts, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = sys.stdout, sys.stderr
    waits = attempts.make(appears, str(tmp_path / "event"), listens=True)
    attempts.start(waits)
    attempts.value_of(lambda: print("inside"))
    print("outside")
    print("error", file=sys.stderr)
    attempts.executor.close()
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr() == ("outside\n", "error\n")


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
