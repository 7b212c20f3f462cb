"""Ray Workflow's behaviour, row by row: actors that use others, and methods that return steps.

Each test is named after its row in Ray's own suite (`test_virtual_actor_2.py` there). A chosen
departure: a call begins when the whole call before it has ended, with the steps it returned.
What was `test_wf_in_actor_chain` here in 1.7 stands in `test_ray_virtual_actor_3.py`.
"""

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import PATIENCE_S, Gate, note, notes, pass_gate
from weftline import workflow

pytestmark = pytest.mark.usefixtures("home")


@workflow.virtual_actor
class Counter:
    def __init__(self, value: int) -> None:
        self.value = value

    def add(self, amount: int) -> int:
        self.value += amount
        return self.value

    @workflow.virtual_actor.readonly
    def get(self) -> int:
        return self.value


@workflow.virtual_actor
class Remote:
    """Drives a counter by its id."""

    def __init__(self, counter: str, value: int) -> None:
        self.counter = counter
        Counter.get_or_create(counter, value).ready().result()

    def add(self, amount: int) -> int:
        found: int = workflow.get_actor(self.counter).add.run(amount)
        return found

    @workflow.virtual_actor.readonly
    def get(self) -> int:
        found: int = workflow.get_actor(self.counter).get.run()
        return found


@workflow.step
def identity(value: Any) -> Any:
    return value


@workflow.step
def total(values: list[int]) -> int:
    return sum(values)


def test_indirect_actor_writer(run_id: str) -> None:
    remote = Remote.get_or_create(f"{run_id} remote", f"{run_id} counter", 1)
    remote.ready().result(PATIENCE_S)
    counter = workflow.get_actor(f"{run_id} counter")
    assert remote.get.run() == counter.get.run() == 1
    assert remote.add.run(9) == 10
    assert counter.add.run(10) == 20
    assert remote.get.run() == 20
    handles = [remote.add.run_async(1) for _ in range(10)]
    assert [handle.result(PATIENCE_S) for handle in handles] == list(range(21, 31))


def test_wf_in_actor(run_id: str, gate: Gate, tmp_path: Path) -> None:
    path, mended = gate.path, tmp_path / "mended"

    @workflow.step(name="session")
    def session(state: str) -> str:
        pass_gate(path, state)
        if not mended.exists():
            raise ValueError("broken session")
        return f"session of {state}"

    @workflow.virtual_actor
    class Session:
        def __init__(self) -> None:
            self.state = "init"

        def start(self) -> Any:
            self.state = "started"
            return session.step(self.state)

        def close(self) -> str:
            self.state = "closed"
            return self.state

        @workflow.virtual_actor.readonly
        def get(self) -> str:
            return self.state

    actor = Session.get_or_create(run_id)
    started, closed = actor.start.run_async(), actor.close.run_async()
    assert gate.wait_for() == ["started"]
    assert actor.get.run() == "started"  # as soon as the method has returned
    assert workflow.get_status(run_id) == "RUNNING"
    assert not started.done()
    gate.open()
    for handle in (started, closed):
        with pytest.raises(ValueError, match="broken session"):
            handle.result(PATIENCE_S)
    assert workflow.get_status(run_id) == "FAILED"
    assert actor.get.run() == "started"
    mended.touch()
    resumed = workflow.resume(run_id)
    gate.open()
    assert resumed.result(PATIENCE_S) == "closed"
    assert workflow.get_output(run_id, name="start").result() == "session of started"
    assert actor.get.run() == "closed"


@workflow.virtual_actor
class Joiner:
    def __init__(self) -> None:
        self.calls: list[int] = []

    def one(self, number: int) -> int:
        self.calls.append(number)
        return number

    def five(self) -> Any:
        return total.step([identity.step(number) for number in range(5)])

    def five_of_its_own(self) -> Any:
        return total.step([self.one.step(number) for number in range(5)])  # type: ignore[attr-defined]

    def down(self, left: int) -> Any:
        self.calls.append(left)
        if left == 0:
            return len(self.calls)
        return self.down.step(left - 1)  # type: ignore[attr-defined]

    @workflow.virtual_actor.readonly
    def get(self) -> list[int]:
        return self.calls


def test_wf_in_actor_seq_2(run_id: str) -> None:
    actor = Joiner.get_or_create(run_id)
    assert actor.five.run() == 10
    assert actor.get.run() == []
    # Each of them has the state for itself, and finds what those before it left.
    assert actor.five_of_its_own.run() == 10
    assert sorted(actor.get.run()) == list(range(5))


def test_wf_in_actor_seq_3(run_id: str) -> None:
    actor = Joiner.get_or_create(run_id)
    handles = [actor.down.run_async(9), actor.down.run_async(9)]
    assert [handle.result(PATIENCE_S) for handle in handles] == [10, 20]
    assert actor.get.run() == [*range(9, -1, -1)] * 2  # one call after the other


# -- what else is said of methods that return steps ---------------------------------------------


def test_a_call_begins_when_the_whole_one_before_has_ended(
    run_id: str, gate: Gate, tmp_path: Path
) -> None:
    path, counter = gate.path, tmp_path / "counter"

    @workflow.step
    def long(value: str) -> str:
        note(counter, f"{value} began")
        pass_gate(path)
        note(counter, f"{value} ended")
        return value

    @workflow.virtual_actor
    class Worker:
        def __init__(self) -> None: ...

        def work(self, value: str) -> Any:
            return long.step(value)

        def check(self) -> list[str]:
            return notes(counter)

    actor = Worker.get_or_create(run_id)
    handles = [actor.work.run_async("first"), actor.work.run_async("second")]
    last = actor.check.run_async()
    gate.open(2)
    assert [handle.result(PATIENCE_S) for handle in handles] == ["first", "second"]
    expected = ["first began", "first ended", "second began", "second ended"]
    assert last.result(PATIENCE_S) == expected


def test_methods_call_each_other_as_plain_ones(run_id: str) -> None:
    class Base:
        def __init__(self) -> None:
            self.value = 1

        def double(self) -> int:
            self.value *= 2
            return self.value

    @workflow.virtual_actor
    class Derived(Base):
        def double(self) -> int:
            return super().double() + self.helper()

        @staticmethod
        def helper() -> int:
            return 100

        def twice(self) -> tuple[int, int]:
            return self.double(), self.double()

    actor = Derived.get_or_create(run_id)
    assert actor.twice.run() == (102, 104)


def test_a_method_waits_for_news(run_id: str) -> None:
    @workflow.virtual_actor
    class Door:
        def __init__(self) -> None:
            self.opened_by: list[str] = []

        def wait(self) -> Any:
            return self.open.step(workflow.wait_for_signal("knock"))  # type: ignore[attr-defined]

        def open(self, who: str) -> list[str]:
            self.opened_by.append(who)
            return self.opened_by

    door = Door.get_or_create(run_id)
    workflow.signal(run_id, "knock", "anna")  # one may come before it is waited for
    assert door.wait.run() == ["anna"]
    handle = door.wait.run_async()
    workflow.signal(run_id, "knock", "ben")
    assert handle.result(PATIENCE_S) == ["anna", "ben"]


def test_catching_of_what_a_method_returns(run_id: str) -> None:
    @workflow.step
    def broken() -> None:
        raise ValueError("broken")

    @workflow.virtual_actor
    class Careful:
        def __init__(self) -> None:
            self.tried = 0

        def attempt(self) -> Any:
            self.tried += 1
            return broken.step()

        @workflow.virtual_actor.readonly
        def get(self) -> int:
            return self.tried

    actor = Careful.get_or_create(run_id)
    value, error = actor.attempt.options(catch_exceptions=True).run()
    assert value is None
    assert isinstance(error, ValueError)
    assert workflow.get_status(run_id) == "SUCCESSFUL"
    assert actor.get.run() == 1


def test_two_callers_at_once(run_id: str) -> None:
    actor = Counter.get_or_create(run_id, 0)

    @workflow.step
    def call(actor_id: str, amounts: list[int]) -> list[int]:
        actor = workflow.get_actor(actor_id)
        handles = [actor.add.run_async(amount) for amount in amounts]
        return [handle.result() for handle in handles]

    @workflow.step
    def both(*found: Any) -> Any:
        return found

    found = both.step(call.step(run_id, [1] * 10), call.step(run_id, [1] * 10)).run()
    assert sorted(found[0] + found[1]) == list(range(1, 21))
    assert actor.get.run() == 20
    assert found[0] == sorted(found[0])
