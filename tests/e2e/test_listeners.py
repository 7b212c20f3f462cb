"""Children that listen: who they are, what they cost, how they end, what becomes of attempts."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.attempts import (
    Attempts,
    ends_of,
    environment_here,
    kinds,
    make_children,
    open_objects,
)
from tests.e2e.conftest import Gate, eventually, notes, pass_gate
from weftline.codecs.values import decode
from weftline.core.policy import DEFAULT_PLACEMENT, Placement
from weftline.ports.executor import Attempt, Done, GivenBack, Refused, Started, Succeeded
from weftline.workers import listeners as listeners_module
from weftline.workers.children import Children
from weftline.workers.listeners import DEATHS_IN_A_ROW, Listener
from weftline.workers.slots import Slots

Maker = Callable[..., Attempts]


@pytest.fixture
def attempts(tmp_path: Path) -> Iterator[Attempts]:
    children = make_children(tmp_path, Slots(1))
    yield Attempts(children, open_objects(tmp_path))
    children.close()


async def appears(path: str) -> int:
    """Wait for a file. Returns: the process in which it was waited for."""
    while not os.path.exists(path):  # noqa: ASYNC110, ASYNC240 - as users poll
        await asyncio.sleep(0.005)
    return os.getpid()


def listening(attempts: Attempts, function: Callable[..., Any], *args: Any, **more: Any) -> Attempt:
    """An attempt that the listener has begun to await."""
    attempt = attempts.make(function, *args, listens=True, **more)
    attempts.start(attempt)
    return attempt


def listeners(attempts: Attempts) -> list[Listener]:
    executor = attempts.executor
    assert isinstance(executor, Children)
    return [child for child in executor._pool.children if isinstance(child, Listener)]


def test_there_is_one_listener_for_an_environment_and_its_variables(
    attempts: Attempts, tmp_path: Path
) -> None:
    def in_it(placement: Placement = DEFAULT_PLACEMENT) -> Any:
        report = attempts.end_of(attempts.make(os.getpid, listens=True), placement)
        assert isinstance(report, Succeeded)
        return decode(report.value, attempts.objects)

    pid = in_it()
    assert in_it() == pid
    assert attempts.value_of(os.getpid) != pid
    variables = Placement(env_vars=(("OTHER", "1"),))
    other = in_it(variables)
    assert other != pid
    assert in_it(Placement(env_vars=(("OTHER", "1"),), num_cpus=8)) == other  # it occupies none
    attempts.environment = environment_here(cwd=str(tmp_path))
    assert in_it() not in (pid, other)
    assert len(listeners(attempts)) == 3


def test_listeners_take_no_place_of_others(attempts: Attempts, gate: Gate, tmp_path: Path) -> None:
    busy = attempts.make(pass_gate, gate.path)
    attempts.start(busy)
    gate.wait_for()
    path = tmp_path / "event"
    path.touch()
    assert isinstance(attempts.value_of_listening(appears, str(path)), int)
    executor: Any = attempts.executor
    assert executor._pool.room == 64 - 1
    gate.open()
    attempts.wait_for(lambda reports: busy.key in ends_of(reports))


def test_only_who_listens_has_asyncio(attempts: Attempts) -> None:
    def has_asyncio() -> bool:
        return "asyncio" in sys.modules

    assert attempts.value_of(has_asyncio) is False
    assert attempts.value_of_listening(has_asyncio) is True


def resident(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError


def test_a_thousand_that_wait_cost_little(attempts: Attempts) -> None:
    async def forever() -> None:
        await asyncio.sleep(3600)

    async def count() -> int:
        return len(asyncio.all_tasks())

    pid = attempts.value_of_listening(os.getpid)
    before = attempts.value_of_listening(count)
    size = resident(pid)
    call = attempts.call(forever, listens=True)
    attempts.start(*(attempts.make(call) for _ in range(1_000)))
    assert attempts.value_of_listening(count) == before + 1_000
    assert (resident(pid) - size) / 1_000 < 25_000


def test_what_a_poll_prints_is_in_the_log_of_the_listener(
    attempts: Attempts, tmp_path: Path
) -> None:
    report = attempts.end_of(attempts.make(lambda: print("found it"), listens=True, forward=True))
    assert isinstance(report, Succeeded)
    assert report.log is None
    assert (tmp_path / "logs" / f"{report.worker}.out").read_text() == "found it\n"


def test_an_idle_listener_ends(attempts: Attempts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners_module, "IDLE_S", 0.0)
    pid = attempts.value_of_listening(os.getpid)
    executor = attempts.executor
    eventually(lambda: not executor.wait(0.01) and not listeners(attempts), "it has ended")
    assert attempts.value_of_listening(os.getpid) != pid


# -- death --------------------------------------------------------------------------------------


def test_what_a_dead_listener_waited_for_is_given_back(attempts: Attempts, tmp_path: Path) -> None:
    path = tmp_path / "event"
    made = [listening(attempts, appears, str(path)) for _ in range(3)]
    pid = attempts.value_of_listening(os.getpid)
    os.kill(pid, signal.SIGKILL)
    reports = attempts.wait_for(lambda found: len(ends_of(found)) == 3)
    assert ends_of(reports) == {one.key: GivenBack(key=one.key) for one in made}
    path.touch()
    report = attempts.end_of(made[0])
    assert isinstance(report, Succeeded)
    assert decode(report.value, attempts.objects) != pid


def kill_self(path: str) -> None:
    with open(path, "a") as file:
        file.write("x\n")
    os.kill(os.getpid(), signal.SIGKILL)


def test_one_that_kills_every_listener_is_lost_after_some(
    attempts: Attempts, tmp_path: Path
) -> None:
    note = tmp_path / "note"
    attempt = attempts.make(kill_self, str(note), listens=True)
    reports = [each for each in attempts.drive(attempt)[attempt.key] if isinstance(each, Done)]
    assert kinds(reports) == ["GivenBack"] * (DEATHS_IN_A_ROW - 1) + ["Lost"]
    assert "SIGKILL" in getattr(reports[-1], "reason", "")
    assert len(notes(note)) == DEATHS_IN_A_ROW
    # It is counted anew, and the environment is not to blame.
    again = attempts.drive(attempt)[attempt.key]
    assert len([each for each in again if isinstance(each, GivenBack)]) == DEATHS_IN_A_ROW - 1
    assert attempts.value_of(lambda: "fine") == "fine"


def test_deaths_with_an_outcome_between_them_do_not_count(
    attempts: Attempts, tmp_path: Path
) -> None:
    for _ in range(2 * DEATHS_IN_A_ROW):
        attempt = attempts.make(kill_self, str(tmp_path / "note"), listens=True)
        attempts.start(attempt)
        reports = attempts.wait_for(ends_of)
        assert kinds([each for each in reports if isinstance(each, Done)]) == ["GivenBack"]
        assert attempts.value_of_listening(lambda: 1) == 1


def test_a_listener_that_hangs_is_ended(
    attempts: Attempts, gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners_module, "GRACE_S", 0.05)
    monkeypatch.setattr(listeners_module, "ANSWER_WITHIN_S", 0.2)

    async def hangs(path: str) -> None:
        pass_gate(path)  # and everything else with it

    patient = listening(attempts, appears, str(tmp_path / "event"))
    late = listening(attempts, appears, str(tmp_path / "event"), timeout_s=0.3)
    stuck = listening(attempts, hangs, gate.path, timeout_s=0.1)
    reports = attempts.wait_for(lambda found: len(ends_of(found)) == 3)
    found = {key: type(end).__name__ for key, end in ends_of(reports).items()}
    assert found[patient.key] == "GivenBack"
    assert found[stuck.key] == "TimedOut"
    assert found[late.key] in ("GivenBack", "TimedOut")
    assert attempts.value_of_listening(lambda: "goes on") == "goes on"


def test_one_that_answers_is_not_ended(
    attempts: Attempts, gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners_module, "GRACE_S", 0.05)

    async def hangs(path: str) -> int:
        pass_gate(path)
        return os.getpid()

    path = tmp_path / "event"
    patient = listening(attempts, appears, str(path))
    held = listening(attempts, hangs, gate.path)
    gate.wait_for()
    late = listening(attempts, appears, str(path), timeout_s=0.01)
    [listener] = listeners(attempts)
    attempts.wait_for(lambda _: listener.pinged_at < float("inf"))
    gate.open()
    reports = attempts.wait_for(lambda found: len(ends_of(found)) == 2)
    assert type(ends_of(reports)[late.key]).__name__ == "TimedOut"
    assert isinstance(ends_of(reports)[held.key], Succeeded)
    attempts.wait_for(lambda _: listener.pinged_at == float("inf"))
    path.touch()
    end = ends_of(attempts.wait_for(ends_of))[patient.key]
    assert isinstance(end, Succeeded)
    assert decode(end.value, attempts.objects) == listener.process.pid


def test_an_interpreter_that_is_gone_is_refused_to_who_listens(
    attempts: Attempts, tmp_path: Path
) -> None:
    attempts.environment = environment_here(python=str(tmp_path / "python"))
    attempt = attempts.make(lambda: 1, listens=True)
    reports = attempts.drive(attempt)
    assert kinds(reports[attempt.key]) == ["GivenBack"]
    assert isinstance(reports[0][0], Refused)


def test_closing_ends_listeners(attempts: Attempts, tmp_path: Path) -> None:
    listening(attempts, appears, str(tmp_path / "event"))
    attempts.wait_for(lambda reports: any(isinstance(each, Started) for each in reports))
    attempts.executor.close()
    assert os.listdir(tmp_path / "engines") == []
