"""`weft runs logs --follow`: every line as it comes, once, until the run goes on no more."""

import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Queue

import pytest

from tests.e2e.commands import Weft
from tests.e2e.conftest import PATIENCE_S, Gate, eventually

CHATTY = """
import sys
from weftline import workflow

@workflow.step(name="chat")
def chat(k):
    for n in range(300):
        print(f"{k}:{n}")
        print(f"{k}:{n}", file=sys.stderr)
    return k

@workflow.step(name="all")
def all_of(values): return len(values)

def main(): return all_of.step([chat.step(k) for k in range(40)])
"""


@pytest.fixture
def weft(tmp_path: Path) -> Iterator[Weft]:
    made = Weft(tmp_path)
    yield made
    made.close()


class Follower:
    """`weft runs logs ID --follow`, read line by line."""

    def __init__(self, weft: Weft, *words: str) -> None:
        self.process = weft.start("runs", "logs", "--follow", *words)
        self.lines: list[str] = []
        self._queue: Queue[str] = Queue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._queue.put(line)

    def read(self, count: int) -> list[str]:
        """The next lines; waits for them."""
        new = [self._queue.get(timeout=PATIENCE_S).rstrip("\n") for _ in range(count)]
        self.lines += new
        return new

    def end(self, status: int = 0) -> str:
        """All lines go to `lines`; what it says on stderr."""
        assert self.process.wait(PATIENCE_S) == status
        self._thread.join(PATIENCE_S)
        self.lines += [self._queue.get().rstrip("\n") for _ in range(self._queue.qsize())]
        assert self.process.stderr is not None
        return self.process.stderr.read()


def started(weft: Weft, *words: str) -> "subprocess.Popen[str]":
    """A run called `r` that is being driven."""
    process = weft.start("run", *words, "--id", "r", "-q")
    eventually(lambda: weft.end_any("runs", "show", "r") == 0, "the run is recorded")
    return process


def test_lines_come_while_the_step_runs_and_it_ends_with_the_run(weft: Weft, gate: Gate) -> None:
    process = started(weft, "flow.py:slow", "-p", f"gate={gate.path}")
    gate.wait_for(2)
    follower = Follower(weft, "r")
    assert sorted(follower.read(2)) == ["wait_here | waiting", "wait_here_1 | waiting"]
    gate.open(2)
    weft.end(process)
    assert follower.end() == ""
    assert sorted(follower.lines) == sorted(weft("runs", "logs", "r")[0].splitlines())


def test_no_line_is_lost_or_doubled_in_a_run_that_prints_much(weft: Weft) -> None:
    weft.write("chatty.py", CHATTY)
    process = started(weft, "chatty.py")
    follower = Follower(weft, "r")
    weft.end(process)
    assert follower.end() == ""
    out, _ = weft("runs", "logs", "r")
    assert len(follower.lines) == 40 * 300 * 2
    assert sorted(follower.lines) == sorted(out.splitlines())


def test_what_was_printed_before_is_printed_and_a_run_that_is_over_ends_it(weft: Weft) -> None:
    weft("run", "flow.py", "--id", "good", "-q")
    whole = weft("runs", "logs", "good")
    assert weft("runs", "logs", "good", "-f") == whole
    out, _ = weft("runs", "logs", "good", "-f", "--step", "load", "--step", "train_1")
    assert out.splitlines() == ["load | loading 4", "train_1 | training 1", "train_1 ! warm 1"]
    out, _ = weft("runs", "logs", "good", "-f", "--stream", "err", "--json")
    documents = [json.loads(line) for line in out.splitlines()]
    assert {each["stream"] for each in documents} == {"err"}
    assert sorted(each["text"] for each in documents) == ["warm 0", "warm 1", "warm 2"]


def test_ctrl_c_ends_it_quietly_and_leaves_the_run_alone(weft: Weft, gate: Gate) -> None:
    process = started(weft, "flow.py:slow", "-p", f"gate={gate.path}")
    gate.wait_for(2)
    follower = Follower(weft, "r", "--step", "wait_here")
    assert follower.read(1) == ["wait_here | waiting"]
    follower.process.send_signal(signal.SIGINT)
    assert follower.end(130).strip() == ""
    assert follower.lines == ["wait_here | waiting"]
    gate.open(2)
    weft.end(process)


def test_a_run_that_loses_its_driver_ends_it(weft: Weft, gate: Gate) -> None:
    process = started(weft, "flow.py:slow", "-p", f"gate={gate.path}")
    gate.wait_for(2)
    follower = Follower(weft, "r")
    assert len(follower.read(2)) == 2
    process.kill()
    process.wait()
    assert follower.end() == ""
    assert len(follower.lines) == 2
    # What a dead process left is printed as it was, and nothing is waited for.
    again = weft("runs", "logs", "r", "-f")[0].splitlines()
    assert sorted(again) == sorted(follower.lines)


def test_a_run_that_goes_on_elsewhere_is_followed_on(weft: Weft, gate: Gate) -> None:
    first = started(weft, "flow.py:slow", "-p", f"gate={gate.path}")
    gate.wait_for(2)
    recorded = "both starts are recorded, with what was printed"
    eventually(lambda: len(weft("runs", "logs", "r")[0].splitlines()) == 2, recorded)
    first.kill()
    first.wait()
    second = weft.start("runs", "resume", "r", "-q")
    gate.wait_for(2)
    follower = Follower(weft, "r")
    lines = follower.read(4)
    assert sorted(lines) == sorted(
        f"{name}{number} | waiting"
        for name in ("wait_here", "wait_here_1")
        for number in ("", " #2")
    )
    gate.open(2)
    weft.end(second)
    assert follower.end() == ""
    assert len(follower.lines) == 4
