"""Children that are kept for a step which one of their attempts returned."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.attempts import Attempts, make_children, open_objects
from tests.e2e.conftest import Gate, eventually, pass_gate
from weftline.codecs.values import decode
from weftline.core.actions import Action, PythonCall, Wait, WaitKind
from weftline.core.graph import Graph, Step
from weftline.core.policy import DEFAULT_PLACEMENT, Placement, Policy
from weftline.core.values import Object
from weftline.ports.executor import Attempt, Done, Extended, Lost, Outgrown, Succeeded
from weftline.workers.children import Children
from weftline.workers.inline import Inline
from weftline.workers.slots import Slots
from weftline.workers.threads import Threads

CALL = PythonCall(Object("0" * 64, "pickle", 1), b"")


@pytest.fixture
def attempts(tmp_path: Path) -> Iterator[Attempts]:
    children = make_children(tmp_path, Slots(1))
    yield Attempts(children, open_objects(tmp_path))
    children.close()


class Returned:
    """A composition, as `weftline.workers` knows one."""

    def __init__(self, steps: list[Step], output: int | list[int] = 0) -> None:
        self.graph = Graph(steps=steps, output=output)

    def __weftline_graph__(self, objects: Any, run_id: str) -> tuple[Graph, tuple[str, ...]]:
        return self.graph, ()


def a_step(action: Action = CALL, *, inplace: bool = True, **more: Any) -> Step:
    return Step(name="next", action=action, policy=Policy(inplace=inplace), **more)


def keep() -> Returned:
    return Returned([a_step()])


def extended(attempts: Attempts, function: Callable[..., Any] = keep) -> Extended:
    report = attempts.end_of(attempts.make(function))
    assert isinstance(report, Extended), report
    return report


def pid_of(attempts: Attempts, attempt: Attempt, placement: Placement = DEFAULT_PLACEMENT) -> Any:
    report = attempts.end_of(attempt, placement)
    assert isinstance(report, Succeeded), report
    return decode(report.value, attempts.objects)


def test_a_child_is_kept_for_the_step_that_its_attempt_returned(attempts: Attempts) -> None:
    pid = attempts.value_of(os.getpid)
    end = extended(attempts)
    assert end.stays
    executor = attempts.executor
    other = attempts.make(os.getpid)
    assert executor.room(attempts.lane(other)) == 0
    # Whatever it asks for, it is carried out there.
    beside = attempts.make(os.getpid, beside=end.key)
    placement = Placement(num_cpus=4, env_vars=(("X", "1"),))
    attempts.start(beside, placement=placement)
    reports = attempts.wait_for(lambda found: any(isinstance(one, Done) for one in found))
    assert isinstance(reports[-1], Succeeded)
    assert decode(reports[-1].value, attempts.objects) == pid
    assert executor.room(attempts.lane(other)) >= 1
    assert pid_of(attempts, other) == pid


def test_one_that_is_carried_out_beside_may_return_the_next(attempts: Attempts) -> None:
    pid, end = attempts.value_of(os.getpid), extended(attempts)
    for _ in range(5):
        attempts.start(attempts.make(keep, beside=end.key))
        reports = attempts.wait_for(lambda found: any(isinstance(one, Done) for one in found))
        assert isinstance(reports[-1], Extended)
        assert reports[-1].stays
        end = reports[-1]
    attempts.start(attempts.make(os.getpid, beside=end.key))
    reports = attempts.wait_for(lambda found: any(isinstance(one, Done) for one in found))
    assert isinstance(reports[-1], Succeeded)
    assert decode(reports[-1].value, attempts.objects) == pid


def test_killing_the_key_lets_the_child_go_unharmed(attempts: Attempts) -> None:
    pid, end = attempts.value_of(os.getpid), extended(attempts)
    attempts.executor.kill({end.key, 4711})
    assert attempts.value_of(os.getpid) == pid
    # It is kept no more: an attempt that says so is one as any other.
    assert pid_of(attempts, attempts.make(os.getpid, beside=end.key)) == pid


def test_a_kept_child_that_dies_leaves_its_place(attempts: Attempts) -> None:
    pid, end = attempts.value_of(os.getpid), extended(attempts)
    os.kill(pid, signal.SIGKILL)
    other = attempts.make(os.getpid, beside=end.key)
    executor = attempts.executor
    eventually(
        lambda: not executor.wait(0.01) and executor.room(attempts.lane(other)) == 1, "it is gone"
    )
    assert pid_of(attempts, other) != pid


def test_killing_what_is_carried_out_beside_ends_the_child(attempts: Attempts, gate: Gate) -> None:
    end = extended(attempts)
    beside = attempts.make(pass_gate, gate.path, beside=end.key)
    attempts.start(beside)
    gate.wait_for()
    attempts.executor.kill({beside.key})
    assert attempts.value_of(lambda: "next") == "next"


def test_one_beside_that_dies_is_lost(attempts: Attempts) -> None:
    end = extended(attempts)
    attempts.start(attempts.make(lambda: os._exit(3), beside=end.key))
    reports = attempts.wait_for(lambda found: any(isinstance(one, Done) for one in found))
    assert isinstance(reports[-1], Lost)
    assert attempts.value_of(lambda: "next") == "next"


def test_one_beside_has_its_own_limit_of_memory(attempts: Attempts, gate: Gate) -> None:
    def grow(path: str) -> None:
        content = bytearray(b"x") * 200_000_000
        pass_gate(path)
        del content

    end = extended(attempts)
    beside = attempts.make(grow, gate.path, beside=end.key)
    attempts.start(beside, placement=Placement(memory=100_000_000))
    reports = attempts.wait_for(lambda found: any(isinstance(one, Done) for one in found))
    assert isinstance(reports[-1], Outgrown)
    assert reports[-1].limit == 100_000_000


def test_many_that_were_sent_ahead_may_all_be_kept_for(attempts: Attempts) -> None:
    pid = attempts.value_of(os.getpid)
    first = attempts.make(keep)
    attempts.executor.kill({extended(attempts).key})
    made = [attempts.make(first.call) for _ in range(20)]
    executor: Any = attempts.executor
    kind = executor._lanes.kind_of(attempts.lane(first))
    [child] = executor._dispatch._occupy(kind.group, (1, 0))
    executor._dispatch._send(child, made)
    attempts.wait_for(lambda found: sum(isinstance(one, Extended) for one in found) == 20)
    assert executor.room(attempts.lane(first)) == 0
    beside = [attempts.make(os.getpid, beside=one.key) for one in made[:10]]
    for one in beside:
        attempts.start(one)
    reports = attempts.wait_for(
        lambda found: sum(isinstance(one, Succeeded) for one in found) == len(beside)
    )
    values = {decode(one.value, attempts.objects) for one in reports if isinstance(one, Succeeded)}
    assert values == {pid}
    assert executor.room(attempts.lane(first)) == 0
    executor.kill({one.key for one in made[10:]})
    assert attempts.value_of(os.getpid) == pid


@pytest.mark.parametrize(
    ("steps", "output"),
    [
        ([a_step(inplace=False)], 0),
        ([a_step(inputs=(1,)), a_step()], 0),
        ([a_step(needs=(1,)), a_step()], 0),
        ([a_step()], [0]),
        ([a_step(PythonCall(CALL.function, b"", listens=True))], 0),
        ([a_step(Wait(WaitKind.TIMER, 1.0))], 0),
    ],
    ids=["not asked for", "input", "order", "list", "listens", "wait"],
)
def test_no_child_is_kept_where_there_is_nothing_to_go_on_with(
    attempts: Attempts, steps: list[Step], output: Any
) -> None:
    end = extended(attempts, lambda: Returned(steps, output))
    assert not end.stays
    assert attempts.value_of(lambda: "free") == "free"


@pytest.mark.parametrize("kind", [Inline, Threads])
def test_nothing_needs_to_be_kept_within_one_process(tmp_path: Path, kind: Any) -> None:
    objects = open_objects(tmp_path)
    executor = kind(objects=objects, slots=Slots(1))
    attempts = Attempts(executor, objects)
    end = extended(attempts)
    assert not end.stays
    attempt = attempts.make(os.getpid, beside=end.key)
    assert pid_of(attempts, attempt) == os.getpid()
    executor.close()


def test_closing_ends_kept_children(attempts: Attempts, tmp_path: Path) -> None:
    assert extended(attempts).stays
    assert isinstance(attempts.executor, Children)
    attempts.executor.close()
    assert os.listdir(tmp_path / "engines") == []
