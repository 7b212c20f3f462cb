"""SIGKILL of drivers and children at random moments: nothing recorded is lost or done twice."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from weftline.adapters.journal.sqlite import SqliteJournal
from weftline.core.events import RunStatus, StepSucceeded
from weftline.engine.recovery import RunReader

DRIVER = """
import os, sys, time
from weftline import workflow

TRACE = sys.argv[1]

def trace(name):
    fd = os.open(TRACE, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, (name + "\\n").encode())
    os.close(fd)

@workflow.step
def begin(n):
    trace(workflow.current().step)
    return n

@workflow.step
def grow(n, pause):
    trace(workflow.current().step)
    time.sleep(pause)
    return n + 1

@workflow.step
def spread(n):
    trace(workflow.current().step)
    parts = [grow.options(name=f"part-{i}").step(n + i, 0.002 * (i % 3)) for i in range(20)]
    return join.step(parts)

@workflow.step
def join(parts):
    trace(workflow.current().step)
    return sum(parts)

@workflow.step
def link(n, left):
    trace(workflow.current().step)
    return n if left == 0 else link.step(n + 1, left - 1)

first = grow.step(begin.step(1), 0.0)
for i in range(10):
    first = grow.step(first, 0.001)
spreads = [spread.step(first) for _ in range(3)]
last = link.step(join.options(name="end").step(spreads), 15)
print(last.run("chaos"))
"""

EXPECTED = sum(sum(12 + i + 1 for i in range(20)) for _ in range(3)) + 15
STEPS = 1 + 11 + 3 * (1 + 20 + 1) + 1 + 16


def children_of(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            if int(stat.rpartition(")")[2].split()[1]) == pid:
                found.append(int(entry.name))
    return sorted(found)


def traced(trace: Path) -> Counter[str]:
    return Counter(trace.read_text().split()) if trace.exists() else Counter()


def succeeded(home: Path) -> set[str]:
    """Names of the steps whose end is recorded."""
    journal = SqliteJournal(home)
    try:
        if journal.find_run("chaos") is None:
            return set()
        reader = RunReader(journal, "chaos")
        events = reader.refresh()
        names = [reader.run.steps[e.step].name for _, e in events if isinstance(e, StepSucceeded)]
        assert len(names) == len(set(names)), "a result was recorded twice"
        return set(names)
    finally:
        journal.close()


def one_round(seed: int, folder: Path) -> None:
    chance = random.Random(seed)
    home, trace, script = folder / "home", folder / "trace", folder / "driver.py"
    script.write_text(DRIVER)
    environ = os.environ | {"WEFTLINE_HOME": str(home), "WEFTLINE_NUM_CPUS": "2"}
    kills = 0
    for _ in range(40):
        before, known = traced(trace), succeeded(home)
        with subprocess.Popen(
            [sys.executable, str(script), str(trace)],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as driver:
            # The moment is a number of steps that have begun, so that a seed replays.
            moment = sum(before.values()) + chance.randrange(0, 25)
            aim = chance.choice(["driver", "child", "child", "both"])
            while driver.poll() is None and sum(traced(trace).values()) < moment:
                time.sleep(0.001)
            if driver.poll() is None and kills < 12:
                kills += 1
                victims = children_of(driver.pid) if aim != "driver" else []
                if aim == "child":
                    victims = victims[:1]
                if aim != "child":
                    victims.append(driver.pid)
                for victim in victims:
                    try:
                        os.kill(victim, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
            out, errors = driver.communicate(timeout=60)
        after = traced(trace)
        for name in known:
            assert after[name] == before[name], f"seed {seed}: {name} had finished and ran again"
        if driver.returncode == 0:
            assert int(out) == EXPECTED, f"seed {seed}"
            break
        assert driver.returncode == -signal.SIGKILL, f"seed {seed}: {errors}"
    else:
        pytest.fail(f"seed {seed}: it never ended")
    journal = SqliteJournal(home)
    record = journal.find_run("chaos")
    journal.close()
    assert record is not None
    assert record.summary.status is RunStatus.SUCCESSFUL
    counts = traced(trace)
    assert len(counts) == STEPS
    # An attempt that was cut off ran again; nothing else did: two children, so two a kill.
    assert sum(counts.values()) - STEPS <= 2 * kills * 8, f"seed {seed}: {counts.most_common(5)}"


@pytest.mark.parametrize("seed", range(10))
def test_kills_at_random_moments_lose_and_repeat_nothing(seed: int, tmp_path: Path) -> None:
    one_round(seed, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1000, 1200))
def test_kills_at_random_moments_for_long(seed: int, tmp_path: Path) -> None:
    one_round(seed, tmp_path)
