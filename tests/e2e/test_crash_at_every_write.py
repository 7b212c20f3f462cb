"""A process that dies at any one of its writes to the home leaves a home that goes on."""

import os
import subprocess
import sys
from collections import Counter
from itertools import count
from pathlib import Path

import pytest

from weftline.adapters.journal.sqlite import SqliteJournal
from weftline.core.events import StepSucceeded
from weftline.engine.recovery import RunReader

PROGRAM = '''
import os, sys

at, trace = int(sys.argv[1]), sys.argv[2]
writes = 0

def counted(function):
    """Dies instead of the write that is to be the last, and else right behind it."""
    def call(*args, **options):
        global writes
        for moment in range(2):
            if moment:
                result = function(*args, **options)
            writes += 1
            if writes == at:
                os._exit(9)
        return result
    return call

for name in ("fsync", "replace", "rename", "link"):
    setattr(os, name, counted(getattr(os, name)))

from weftline import workflow
from weftline.adapters.journal.sqlite import SqliteJournal

SqliteJournal.commit = counted(SqliteJournal.commit)
workflow.init(executor="inline")

def note():
    with open(trace, "a") as file:
        file.write(workflow.current().step + "\\n")

@workflow.step(name="make")
def make(size):
    note()
    return b"x" * size

@workflow.step(name="spread")
def spread(content):
    note()
    return join.step([measure.step(content) for _ in range(3)])

@workflow.step(name="measure")
def measure(content):
    note()
    return len(content)

@workflow.step(name="join")
def join(sizes):
    note()
    return sum(sizes)

print(spread.step(make.step(100_000)).run("torn"), writes)
'''


def run(folder: Path, at: int, home: Path, trace: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", str(folder / "program.py"), str(at), str(trace)],
        env=os.environ | {"WEFTLINE_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )


def finished(home: Path) -> set[str]:
    """Names of the steps whose success is recorded."""
    journal = SqliteJournal(home)
    try:
        if not (home / "weftline.db").exists() or journal.find_run("torn") is None:
            return set()
        reader = RunReader(journal, "torn")
        events = [event for _, event in reader.refresh()]
        done = [event.step for event in events if isinstance(event, StepSucceeded)]
        return {reader.run.steps[number].name for number in done}
    finally:
        journal.close()


@pytest.mark.timeout(600)  # a process a write, and another to go on
def test_a_crash_at_any_write_loses_and_repeats_nothing(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    for at in count(1):
        home, trace = tmp_path / f"home-{at}", tmp_path / f"trace-{at}"
        torn = run(tmp_path, at, home, trace)
        if torn.returncode == 0:  # it has no more writes than that
            break
        assert torn.returncode == 9, f"write {at}: {torn.stderr}"
        before = Counter(trace.read_text().split()) if trace.exists() else Counter[str]()
        known = finished(home)
        again = run(tmp_path, 0, home, trace)
        assert again.returncode == 0, f"write {at}: {again.stderr}"
        assert again.stdout.split()[0] == "300000", f"write {at}"
        after = Counter(trace.read_text().split())
        for name in known:
            assert after[name] == before[name], f"write {at}: {name} had finished and ran again"
        assert max(after.values()) <= 2, f"write {at}: {after}"
    assert at > 40, "the program hardly writes"
    assert torn.stdout.split()[0] == "300000"
