"""The command `weft` for tests: real processes and terminals, and a home for each test."""

import errno
import fcntl
import inspect
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

import weftline
from tests.e2e.conftest import PATIENCE_S, note, notes, pass_gate
from tests.graphs import Book
from weftline.adapters.journal.sqlite import SqliteJournal
from weftline.core.environment import Environment
from weftline.core.events import GraphExtended, RunSubmitted, encode_event
from weftline.core.graph import encode_pages
from weftline.ports.journal import Batch, Creation, Entry, RunChange, Summary

WEFT = [sys.executable, "-W", "error", "-m", "weftline.cli.main"]
FLOW = f"""
import os, sys
from dataclasses import dataclass
from pathlib import Path
from weftline import workflow

{inspect.getsource(note)}
{inspect.getsource(pass_gate)}

@dataclass
class Score:
    value: float
    name: str

@workflow.step(name="load")
def load(n):
    note("ran", "load")
    print("loading", n)
    return list(range(n))

@workflow.step(name="train")
def train(data, k):
    note("ran", "train")
    print(f"training {{k}}")
    print(f"warm {{k}}", file=sys.stderr)
    return sum(data) * k

@workflow.step(name="best")
def best(scores):
    note("ran", "best")
    return {{"best": max(scores), "of": len(scores)}}

def main(n: int = 4, fan: int = 3):
    data = load.step(n)
    return best.step([train.step(data, k) for k in range(fan)])

@workflow.step(name="check")
def check(data):
    note("ran", "check")
    if not os.path.exists("mended"):
        raise ValueError(f"only {{len(data)}} rows")
    return "good"

def checked(n: int = 2):
    return check.step(load.step(n))

@workflow.step(name="wait_here")
def wait_here(gate, text):
    print("waiting")
    pass_gate(gate, text)
    note("ran", text)
    return text

@workflow.step(name="pair")
def pair(a, b):
    return [a, b]

def slow(gate: str):
    return pair.step(wait_here.step(gate, "one"), wait_here.step(gate, "two"))

@workflow.step(name="score")
def score():
    return Score(0.5, "svc")

scored = score.step()
"""


class Weft:
    """A folder with a flow in it, and a home of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("flow.py", FLOW)
        ours = ("WEFTLINE_", "PYTHON", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
        self.environ = {n: v for n, v in os.environ.items() if not n.startswith(ours)} | {
            "WEFTLINE_HOME": str(folder / "home"),
            "WEFTLINE_NUM_CPUS": "2",
            "WEFTLINE_CONTROLLER_IDLE_S": "5",
            "PYTHONPATH": str(Path(weftline.__file__).parents[1]),
            "TERM": "xterm-256color",
        }
        self._started: list[subprocess.Popen[str]] = []

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(textwrap.dedent(text))

    def start(self, *words: str, **variables: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [*WEFT, *words],
            cwd=self.folder,
            env=self.environ | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def __call__(self, *words: str, status: int = 0, **variables: str) -> tuple[str, str]:
        """What the command prints on stdout and stderr; it must end with this status."""
        return self.end(self.start(*words, **variables), status)

    @staticmethod
    def end(process: "subprocess.Popen[str]", status: int = 0) -> tuple[str, str]:
        out, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == status, f"{process.returncode}\n{out}\n{err}"
        assert "Traceback (most recent call last)" not in err or "failed in step" in err
        assert "\x1b" not in out + err
        return out, err

    def end_any(self, *words: str) -> int:
        """The status with which the command ends, whatever it is."""
        process = self.start(*words)
        process.communicate(timeout=PATIENCE_S)
        return process.returncode

    def json(self, *words: str, status: int = 0) -> Any:
        return json.loads(self(*words, "--json", status=status)[0])

    def ran(self) -> list[str]:
        """What has been carried out so far."""
        return sorted(notes(self.folder / "ran"))

    def status(self, run_id: str) -> str:
        return str(self.json("runs", "show", run_id)["status"])

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.wait()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()


class Terminal:
    """A command on a terminal of its own, which is read and typed into as a person would."""

    def __init__(self, weft: Weft, *words: str, height: int = 24, width: int = 100) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        # The new session's leader takes the terminal, so that Ctrl-C reaches it.
        begin = (
            "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
            " os.execv(sys.argv[1], sys.argv[1:])"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", begin, *WEFT, *words],
            cwd=weft.folder,
            env=weft.environ,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.raw = b""
        self._read_to = 0

    def read_until(self, text: str) -> str:
        """What came since the last call until this text was there, without control codes."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            seen = readable(self.raw[self._read_to :])
            if text in seen:
                self._read_to = len(self.raw)
                return seen
            if time.monotonic() > deadline or not self._read():
                raise AssertionError(f"{text!r} is not in {readable(self.raw)!r}")

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def end(self, status: int) -> str:
        """Everything up to its end, which must have this status."""
        while self._read():
            pass
        assert self._process.wait(PATIENCE_S) == status, readable(self.raw)
        seen = readable(self.raw[self._read_to :])
        self._read_to = len(self.raw)
        return seen

    def _read(self) -> bool:
        if not select.select([self._master], [], [], PATIENCE_S)[0]:
            return False
        try:
            part = os.read(self._master, 65536)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return False
        self.raw += part
        return bool(part)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._master)


def readable(raw: bytes) -> str:
    text = raw.decode("utf-8", "ignore")
    return re.sub(r"\x1b\[[0-?]*[ -/]*[@-~]", "", text).replace("\r\n", "\n")


def record(
    home: Path,
    run_id: str,
    book: Book,
    *,
    engine: str | None = None,
    objects: Sequence[str] = (),
    **summary: Any,
) -> None:
    """Write a run that only a test has lived through into the journal of a home; `summary` is what
    its row tells otherwise."""
    run, graphs = book.run, dict[str, tuple[str, Sequence[bytes]]]()
    for name, each in book.graphs.items():
        graphs[name] = encode_pages(each.steps)
    entries = []
    for seq, (at, event) in enumerate(book.events, 1):
        if isinstance(event, RunSubmitted | GraphExtended):
            event = msgspec.structs.replace(event, graph=graphs[event.graph][0])
        entries.append(Entry(seq, at, type(event).__name__, encode_event(event)))
    told = Summary(
        status=run.status,
        steps=len(run.steps),
        succeeded=run.succeeded,
        started_at=run.started_at,
        ended_at=run.ended_at,
        error=run.error,
        value=run.value,
    )
    here = Environment(python=sys.executable, sys_path=tuple(sys.path), cwd=os.getcwd())
    creation = Creation(workflow="made", created_at=book.now, environment=here, metadata={})
    change = RunChange(
        run_id=run_id,
        epoch=1,
        entries=entries,
        summary=msgspec.structs.replace(told, **summary),
        creation=creation,
        engine=engine,
    )
    journal = SqliteJournal(home)
    held = [(run_id, name) for name in objects]
    batch = Batch(changes=[change], graphs=list(graphs.values()), objects=held)
    assert journal.commit(batch) == set()
    journal.close()
