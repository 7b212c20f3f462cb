"""Ray Workflow's behaviour, row by row: waiting for time and for events from outside.

Each test is named after its row in Ray's own suite (`test_events.py` there). Its dying cluster is
the controller and all its children, ended by SIGKILL. Times are short, and are only bounds from
below: nothing here waits for a time to pass but what is asked to.
"""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import (
    PATIENCE_S,
    Gate,
    Scripts,
    controller_of,
    kill_controller,
    note,
    notes,
    pass_gate,
)
from weftline import workflow

SHORT_S = 0.3


class Flag(workflow.EventListener):
    """An event that has come when a file is there; reports at a gate that it listens."""

    async def poll_for_event(self, gate: str, flag: Path) -> str:
        note(os.path.join(gate, "arrived"), flag.name)
        while not is_there(flag):  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(0.005)
        return flag.name


def is_there(path: Path) -> bool:
    return path.exists()


@workflow.step
def now(*after: Any) -> float:
    return time.time()


@workflow.step
def gather(*values: Any) -> list[Any]:
    return list(values)


@pytest.mark.usefixtures("home")
def test_sleep() -> None:
    @workflow.step
    def nap(before: float) -> Any:
        return between.step(before, workflow.sleep(SHORT_S))

    @workflow.step
    def between(before: float, slept: None) -> tuple[float, float]:
        return before, time.time()

    before, after = nap.step(now.step()).run()
    assert after - before >= SHORT_S


@pytest.mark.usefixtures("home")
def test_sleep_checkpointing() -> None:
    first, second = workflow.sleep(SHORT_S), workflow.sleep(SHORT_S)
    assert first.run() is None  # by now the second one would be over if it had begun
    start = time.time()
    assert second.run() is None
    assert time.time() - start >= SHORT_S


def test_a_sleep_ends_when_it_should_over_a_crash(scripts: Scripts) -> None:
    look = """
        from weftline import workflow
        from weftline.app import home

        if "sleeping" in dict(workflow.list_all()):
            workflow.resume("sleeping")
        else:
            workflow.sleep(3600).run_async("sleeping")
        run = home().records.read("sleeping").run
        print(run.find_step("sleep").started_at, run.next_due())
        """
    began, until = map(float, scripts.run(look).split())
    assert until == pytest.approx(began + 3600, abs=1)
    kill_controller(scripts.home)
    assert scripts.run(look).split() == [repr(began), repr(until)]


@pytest.mark.usefixtures("home")
def test_wait_for_multiple_events(run_id: str, gate: Gate, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    events = [workflow.wait_for_event(Flag, gate.path, flag) for flag in (one, other)]
    handle = gather.step(*events).run_async(run_id)
    assert sorted(gate.wait_for(2)) == ["one", "other"]  # both are listened for at the same time
    assert not handle.done()
    other.touch()
    one.touch()
    assert handle.result(PATIENCE_S) == ["one", "other"]


@pytest.mark.usefixtures("home")
def test_event_after_arg_resolution(run_id: str, gate: Gate, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    event = workflow.wait_for_event(Flag, gate.path, flag)
    handle = gather.step(event, now.options(name="argument").step()).run_async(run_id)
    gate.wait_for()
    computed = workflow.get_output(run_id, name="argument").result(PATIENCE_S)
    assert handle.status() == "RUNNING"
    flag.touch()
    assert handle.result(PATIENCE_S) == ["flag", computed]


@pytest.mark.usefixtures("home")
def test_event_during_arg_resolution(run_id: str, gate: Gate, tmp_path: Path) -> None:
    flag, path = tmp_path / "flag", gate.path

    @workflow.step
    def argument() -> str:
        pass_gate(path, "argument")
        return "computed"

    event = workflow.wait_for_event(Flag, gate.path, flag)
    handle = gather.step(event, argument.step()).run_async(run_id)
    assert sorted(gate.wait_for(2)) == ["argument", "flag"]
    flag.touch()
    name = f"{__name__}.Flag.poll_for_event"
    assert workflow.get_output(run_id, name=name).result(PATIENCE_S) == "flag"
    assert handle.status() == "RUNNING"
    gate.open()
    assert handle.result(PATIENCE_S) == ["flag", "computed"]


LISTENING = """
    import asyncio
    import sys
    from weftline import workflow

    counter, gate, flag = sys.argv[1:]

    class Watched(workflow.EventListener):
        async def poll_for_event(self, source):
            note(counter, f"poll {source}")
            note(f"{gate}/arrived", "poll")
            while not Path(flag).exists():
                await asyncio.sleep(0.005)
            return f"event of {source}"

        async def event_checkpointed(self, event):
            note(counter, f"checkpointed {event}")
            note(f"{gate}/arrived", "checkpointed")
            while not Path(flag + " seen").exists():
                await asyncio.sleep(0.005)

    @workflow.step
    def receive(event):
        note(counter, "received")
        return event

    receive.step(workflow.wait_for_event(Watched, "the source")).run_async("listening")
    """

GO_ON = """
    from weftline import workflow

    print(workflow.resume("listening").result(), workflow.get_status("listening"))
    """


def test_crash_during_event_checkpointing(scripts: Scripts, gate: Gate) -> None:
    counter, flag = scripts.folder / "counter", scripts.folder / "flag"
    scripts.run(LISTENING, counter, gate.path, flag)
    gate.wait_for()
    kill_controller(scripts.home)
    going_on = scripts.start(GO_ON)
    assert gate.wait_for() == ["poll"]  # it had not been recorded: it is polled for again
    flag.touch()
    assert gate.wait_for() == ["checkpointed"]
    Path(f"{flag} seen").touch()
    assert scripts.end(going_on)[0] == "event of the source SUCCESSFUL\n"
    polls = ["poll the source"] * 2
    assert notes(counter) == [*polls, "checkpointed event of the source", "received"]


def test_crash_after_commit(scripts: Scripts, gate: Gate) -> None:
    counter, flag = scripts.folder / "counter", scripts.folder / "flag"
    flag.touch()
    scripts.run(LISTENING, counter, gate.path, flag)
    assert gate.wait_for(2) == ["poll", "checkpointed"]
    kill_controller(scripts.home)
    going_on = scripts.start(GO_ON)
    assert gate.wait_for() == ["checkpointed"]  # and no new poll
    Path(f"{flag} seen").touch()
    assert scripts.end(going_on)[0] == "event of the source SUCCESSFUL\n"
    told = ["checkpointed event of the source"] * 2
    assert notes(counter) == ["poll the source", *told, "received"]


@pytest.mark.usefixtures("home")
def test_event_as_workflow(run_id: str, gate: Gate, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    handle = workflow.wait_for_event(Flag, gate.path, flag).run_async(run_id)
    gate.wait_for()
    assert workflow.get_status(run_id) == "RUNNING"
    flag.touch()
    assert handle.result(PATIENCE_S) == "flag"
    assert workflow.get_status(run_id) == "SUCCESSFUL"


def test_types() -> None:
    class NoListener:
        async def poll_for_event(self) -> None: ...

    class Unfinished(workflow.EventListener): ...

    for wrong in (NoListener, Unfinished, "Flag", None, object(), Flag()):
        with pytest.raises(TypeError, match=r"EventListener|poll_for_event"):
            workflow.wait_for_event(wrong)


# -- what else is said of events and sleep ------------------------------------------------------


@pytest.mark.usefixtures("home")
def test_an_event_that_fails_fails_the_run_and_is_polled_for_again(
    run_id: str, tmp_path: Path
) -> None:
    class Broken(workflow.EventListener):
        async def poll_for_event(self, mended: Path) -> str:
            if not is_there(mended):
                raise ConnectionError("no source")
            return "it came"

    mended = tmp_path / "mended"
    with pytest.raises(ConnectionError, match="no source"):
        workflow.wait_for_event(Broken, mended).run(run_id)
    mended.touch()
    assert workflow.resume(run_id).result(PATIENCE_S) == "it came"


@pytest.mark.usefixtures("home")
def test_the_arguments_of_a_poll_may_be_steps(run_id: str, gate: Gate, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    flag.touch()

    @workflow.step
    def place() -> Path:
        return flag

    assert workflow.wait_for_event(Flag, gate.path, place.step()).run(run_id) == "flag"


@pytest.mark.usefixtures("home")
def test_what_waits_holds_no_worker(home: Path, run_id: str, gate: Gate, tmp_path: Path) -> None:
    """A chosen departure: in Ray every event that is awaited occupies a worker and a CPU."""
    flags = [tmp_path / f"flag {number}" for number in range(20)]  # more than there are CPUs
    events = [workflow.wait_for_event(Flag, gate.path, flag) for flag in flags]
    signals = [workflow.wait_for_signal("go") for _ in range(20)]
    waiting = gather.step(*events, *signals, workflow.sleep(0.01)).run_async(run_id)
    gate.wait_for(20)
    assert gather.step(1, 2).run_async().result(PATIENCE_S) == [1, 2]
    assert not waiting.done()
    for flag in flags:
        flag.touch()
    for number in range(20):
        workflow.signal(run_id, "go", number)
    expected = [flag.name for flag in flags] + list(range(20)) + [None]
    assert waiting.result(PATIENCE_S) == expected
    assert controller_of(home) is not None


@pytest.mark.parametrize("wrong", ["1", None, True, [1]])
def test_sleep_takes_a_number_of_seconds(wrong: Any) -> None:
    with pytest.raises(TypeError, match="number of seconds"):
        workflow.sleep(wrong)


@pytest.mark.parametrize("wrong", [-1, float("nan"), float("inf")])
def test_sleep_takes_a_time_to_come(wrong: float) -> None:
    with pytest.raises(ValueError, match="number of seconds"):
        workflow.sleep(wrong)
