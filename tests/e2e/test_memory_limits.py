"""Steps that may not have any amount of memory: they are ended with all that they started."""

import os
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.attempts import Attempts, make_children, open_objects
from tests.e2e.conftest import Gate, eventually, pass_gate
from weftline.core.policy import Placement
from weftline.ports.executor import Outgrown, Started, Succeeded, TimedOut
from weftline.workers.memory import Sessions
from weftline.workers.slots import Slots

MB = 1_000_000
LIMITED = Placement(memory=200 * MB)


@pytest.fixture
def attempts(tmp_path: Path) -> Iterator[Attempts]:
    children = make_children(tmp_path, Slots(1))
    yield Attempts(children, open_objects(tmp_path))
    children.close()


def is_alive(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


def grow(gate: str) -> None:
    content = bytearray(os.urandom(1)) * (300 * MB)
    pass_gate(gate)
    del content


def grow_in_a_fork(gate: str, own_group: bool) -> None:
    """A process that ignores requests to end grows, while the step waits for it."""
    pid = os.fork()
    if pid == 0:
        if own_group:
            os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        arrived = os.open(os.path.join(gate, "arrived"), os.O_RDWR)
        os.write(arrived, f"{os.getpid()} {os.getppid()}\n".encode())
        content = b"x" * (300 * MB)
        signal.pause()
        os._exit(len(content) % 2)
    os.waitpid(pid, 0)


def test_a_step_that_outgrows_its_limit_is_ended(attempts: Attempts, gate: Gate) -> None:
    report = attempts.end_of(attempts.make(grow, gate.path), LIMITED)
    assert isinstance(report, Outgrown), report
    assert report.limit == 200 * MB
    assert report.resident > 200 * MB
    assert report.started_at > 1e9
    assert report.worker
    assert attempts.value_of(lambda: "goes on") == "goes on"


@pytest.mark.parametrize("own_group", [False, True])
def test_what_it_forked_counts_and_is_ended_too(
    attempts: Attempts, gate: Gate, own_group: bool
) -> None:
    report = attempts.end_of(attempts.make(grow_in_a_fork, gate.path, own_group), LIMITED)
    assert isinstance(report, Outgrown), report
    [pids] = gate.wait_for()
    for pid in pids.split():
        eventually(lambda pid=pid: not is_alive(int(pid)), "it is gone")  # type: ignore[misc]


def fork_stubborn(gate: str) -> None:
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        arrived = os.open(os.path.join(gate, "arrived"), os.O_RDWR)
        os.write(arrived, f"{os.getpid()}\n".encode())
        while True:
            signal.pause()
    os.waitpid(pid, 0)


def test_a_fork_that_ignores_requests_to_end_ends_with_its_step(
    attempts: Attempts, gate: Gate
) -> None:
    report = attempts.end_of(attempts.make(fork_stubborn, gate.path, timeout_s=0.5))
    assert isinstance(report, TimedOut), report
    killed = attempts.make(fork_stubborn, gate.path)
    attempts.start(killed)
    pids = gate.wait_for(2)
    attempts.executor.kill({killed.key})
    for pid in pids:
        eventually(lambda pid=pid: not is_alive(int(pid)), "the fork is gone")  # type: ignore[misc]


def test_a_step_within_its_limit_is_left_alone(
    attempts: Attempts, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []

    class Counting(Sessions):
        def excess(self, session: int, limit: int) -> int:
            looks.append(limit)
            return super().excess(session, limit)

    executor: Any = attempts.executor
    monkeypatch.setattr(executor._oversight, "_sessions", Counting())
    attempt = attempts.make(pass_gate, gate.path)
    attempts.start(attempt, placement=LIMITED)
    attempts.wait_for(lambda reports: reports and len(looks) > 3)
    gate.open()
    report = attempts.wait_for(lambda reports: any(isinstance(one, Succeeded) for one in reports))
    assert report
    assert set(looks) == {200 * MB}
    # Without a limit nothing is looked at.
    looks.clear()
    attempts.start(attempts.make(pass_gate, gate.path))
    attempts.wait_for(lambda reports: any(isinstance(one, Started) for one in reports))
    gate.open()
    attempts.wait_for(lambda reports: any(isinstance(one, Succeeded) for one in reports))
    assert not looks


def test_what_an_earlier_step_left_in_a_child_does_not_count(attempts: Attempts) -> None:
    def hoard() -> int:
        sys.modules["hoard"] = bytearray(os.urandom(1)) * (150 * MB)  # type: ignore[assignment]
        return os.getpid()

    pid = attempts.value_of(hoard)
    assert attempts.value_of(os.getpid, placement=LIMITED) != pid
    again = [attempts.value_of(os.getpid, placement=LIMITED) for _ in range(3)]
    assert len(set(again)) == 1
    executor = attempts.executor
    eventually(lambda: not executor.wait(0.0) and not is_alive(pid), "it made way")


def test_attempts_with_a_limit_are_not_sent_ahead(attempts: Attempts) -> None:
    made = [attempts.make(lambda: 1)]
    made += [attempts.make(made[0].call) for _ in range(50)]
    attempts.drive(*made)
    lane, limited = attempts.lane(made[0]), attempts.lane(made[0], LIMITED)
    assert attempts.executor.room(lane) > 1
    assert attempts.executor.room(limited) == 1
    reports = attempts.drive(*made, placement=LIMITED)
    assert all(isinstance(reports[one.key][-1], Succeeded) for one in made)


# -- sessions -----------------------------------------------------------------------------------

SHARING = """
    import os, sys
    content = bytearray(os.urandom(1)) * 100_000_000
    for _ in range(3):
        if os.fork() == 0:
            os.write(1, b".")
            sys.stdin.read()
            os._exit(0)
    os.write(1, b".")
    sys.stdin.read()
    """


def test_memory_that_forks_share_counts_once() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SHARING)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(4) == b"...."
        sessions = Sessions()
        sizes = sessions.resident(process.pid)
        assert len(sizes) == 4
        assert sum(sizes.values()) > 250 * MB
        assert sessions.excess(process.pid, 250 * MB) == 0
        assert 100 * MB < sessions.excess(process.pid, 100 * MB) < 250 * MB
        assert sessions.resident(process.pid).keys() == sizes.keys()
        ended = [os.pidfd_open(pid) for pid in sizes]
        sessions.kill(process.pid)
        for fd in ended:
            assert select.select([fd], [], [], 60.0)[0]
            os.close(fd)
        process.communicate()
        assert sessions.excess(process.pid, 0) == 0
