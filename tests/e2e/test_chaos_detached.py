"""SIGKILL of drivers, controllers, listeners and children at random moments, alone and together:
runs that were accepted end, and nothing recorded is lost or done twice."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from tests.e2e.test_chaos import children_of
from weftline.app import App
from weftline.config import load_settings
from weftline.core.events import (
    Event,
    RunStatus,
    SignalReceived,
    StepSucceeded,
    WaitBegun,
    WaitEnded,
)
from weftline.engine.recovery import RunReader
from weftline.filelocks import find_holder

DRIVER = """
import asyncio, os, sys, time
from weftline import workflow

TRACE, FLAG = sys.argv[1], sys.argv[2]

def trace(name):
    fd = os.open(TRACE, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, (f"{name} {os.getpid()}\\n").encode())
    os.close(fd)

@workflow.step
def grow(n, pause, *after):
    trace(workflow.current().step)
    time.sleep(pause)
    return n + 1

@workflow.step
def join(parts):
    trace(workflow.current().step)
    return sum(parts)

@workflow.step
def spread(n):
    trace(workflow.current().step)
    named = [grow.options(name=f"part-{i}") for i in range(12)]
    return join.step([one.step(n + i, 0.002 * (i % 3)) for i, one in enumerate(named)])

@workflow.step
def put_together(*values):
    trace(workflow.current().step)
    return list(values)

class Flag(workflow.EventListener):
    async def poll_for_event(self, path):
        trace("poll")
        while not os.path.exists(path):
            await asyncio.sleep(0.005)
        trace("polled")
        return "it came"

    async def event_checkpointed(self, event):
        trace("checkpointed")

@workflow.virtual_actor
class Counter:
    def __init__(self):
        self.value = 0

    def add(self, amount):
        self.value += amount
        time.sleep(0.002)
        return self.value

def start(composition, run_id):
    try:
        composition.run_async(run_id)
    except workflow.WorkflowRunningError:
        pass

first = grow.step(1, 0.0)
for i in range(8):
    first = grow.step(first, 0.001)
start(put_together.options(name="whole").step([spread.step(first) for _ in range(2)]), "graph")
start(grow.options(name="awake").step(10, 0.0, workflow.sleep(0.7)), "sleeper")
start(put_together.step(workflow.wait_for_event(Flag, FLAG)), "listener")
start(put_together.step(*[workflow.wait_for_signal("news") for _ in range(3)]), "signaled")
counter = Counter.get_or_create("counter")
for i in range(10):
    counter.add.run_async(1)
print("all accepted", flush=True)
for run_id in ("graph", "sleeper", "listener", "signaled"):
    workflow.RunHandle(run_id).result()  # waits also while there is no controller
"""

RUNS = ("graph", "sleeper", "listener", "signaled")
GRAPH = [sum(10 + i + 1 for i in range(12))] * 2


class World:
    """One home, what happens in it, and who is killed."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed, self.folder = seed, folder
        self.chance = random.Random(seed)
        self.home, self.trace, self.flag = folder / "home", folder / "trace", folder / "flag"
        self.script = folder / "driver.py"
        self.script.write_text(DRIVER)
        self.environ = os.environ | {
            "WEFTLINE_HOME": str(self.home),
            "WEFTLINE_NUM_CPUS": "2",
            "WEFTLINE_CONTROLLER_IDLE_S": "5",
        }
        self.app = App(load_settings({"storage": str(self.home)}, environ={}))
        self.drivers: list[subprocess.Popen[str]] = []
        self.posted = 0

    def drive(self) -> subprocess.Popen[str]:
        driver = subprocess.Popen(
            [sys.executable, str(self.script), str(self.trace), str(self.flag)],
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.drivers.append(driver)
        return driver

    def controller(self) -> int | None:
        return find_holder(self.home / "controller.lock")

    def traced(self) -> list[tuple[str, int]]:
        if not self.trace.exists():
            return []
        lines = [line.split() for line in self.trace.read_text().splitlines()]
        return [(name, int(pid)) for name, pid in lines]

    def counts(self) -> Counter[str]:
        return Counter(name for name, _ in self.traced())

    def kill_somebody(self) -> None:
        """One of those who are alive, or several together."""
        controller = self.controller()
        children = children_of(controller) if controller else []
        listeners = [pid for name, pid in self.traced() if name == "poll" and pid in children]
        aim = self.chance.choice(["driver", "controller", "controller", "listener", "child", "all"])
        victims: list[int] = []
        if aim in ("driver", "all"):
            victims += [each.pid for each in self.drivers if each.poll() is None]
        if aim in ("controller", "all") and controller:
            victims.append(controller)
        if aim == "listener":
            victims += listeners[-1:]
        if aim == "child" and children:
            victims.append(self.chance.choice(children))
        if aim == "all":
            victims += children
        for victim in victims:
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def post(self) -> None:
        """The next signal, as somebody does who is not sure whether it was sent."""
        if self.posted < 3 and self.app.journal.find_run("signaled") is not None:
            self.posted += 1
            value = msgspec.json.encode(["inline", "json", self.posted])
            for _ in range(2):
                self.app.steering.signal("signaled", "news", value, (), f"news {self.posted}")

    def events(self, run_id: str) -> list[tuple[float, Event]]:
        reader = RunReader(self.app.journal, run_id)
        return reader.refresh()

    def recorded(self, run_id: str) -> set[str]:
        """Names of the steps whose end is recorded, each once."""
        if self.app.journal.find_run(run_id) is None:
            return set()
        reader = RunReader(self.app.journal, run_id)
        events = reader.refresh()
        ended = [reader.run.steps[e.step].name for _, e in events if isinstance(e, StepSucceeded)]
        assert len(ended) == len(set(ended)), f"seed {self.seed}: a result was recorded twice"
        return set(ended)

    def statuses(self) -> dict[str, RunStatus | None]:
        found = {run_id: self.app.journal.find_run(run_id) for run_id in (*RUNS, "counter")}
        return {run_id: each.summary.status if each else None for run_id, each in found.items()}

    def finish(self) -> None:
        """Let whoever is there come to an end, with a controller that a person starts."""
        self.flag.touch()
        while self.posted < 3:
            self.post()
        done = subprocess.run(
            [sys.executable, "-m", "weftline.cli.main", "controller", "--until-idle", "0"],
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode in (0, 1), done.stderr

    def close(self) -> None:
        for driver in self.drivers:
            if driver.poll() is None:
                driver.kill()
            driver.communicate()
        pid = self.controller()
        if pid:
            os.kill(pid, signal.SIGTERM)
        self.app.close()


def one_round(seed: int, folder: Path) -> None:
    world = World(seed, folder)
    try:
        live(world)
    finally:
        world.close()


def live(world: World) -> None:
    chance, seed = world.chance, world.seed
    accepted = False
    deadline = time.monotonic() + 90
    kills, most = 0, chance.randrange(3, 9)
    driver = world.drive()
    while not all(status is RunStatus.SUCCESSFUL for status in world.statuses().values()):
        assert time.monotonic() < deadline, f"seed {seed}: {world.statuses()}"
        known, before = {run_id: world.recorded(run_id) for run_id in RUNS}, world.counts()
        # The moment is a number of steps that have begun, so that a seed replays roughly.
        moment, until = sum(before.values()) + chance.randrange(0, 12), time.monotonic() + 0.4
        while sum(world.counts().values()) < moment and time.monotonic() < until:
            time.sleep(0.001)
        if kills < most:
            kills += 1
            world.kill_somebody()
        if chance.random() < 0.5:
            world.post()
        if chance.random() < 0.3 or kills >= most:
            world.flag.touch()
        while kills >= most and world.posted < 3 and world.statuses()["signaled"] is not None:
            world.post()
        after = world.counts()
        for name in known["graph"]:
            assert after[name] == before[name], f"seed {seed}: {name} had finished and ran again"
        if any(name.endswith("poll_for_event") for name in known["listener"]):
            assert after["poll"] == before["poll"], f"seed {seed}: polled for a recorded event"
        if driver.poll() is not None:
            out, errors = driver.communicate()
            accepted |= "all accepted" in out
            is_killed = driver.returncode == -signal.SIGKILL
            assert driver.returncode == 0 or is_killed, f"seed {seed}: {errors}"
            if not accepted:
                driver = world.drive()  # it could not even start everything
            elif world.controller() is None:
                world.finish()
    check(world)


def check(world: World) -> None:
    seed, app = world.seed, world.app

    def value(run_id: str) -> object:
        return app.results.wait_for(run_id, None, 10.0)

    assert value("graph") == [GRAPH]
    assert value("sleeper") == 11
    assert value("listener") == ["it came"]
    assert value("signaled") == [1, 2, 3]
    # The deadline of a sleep is recorded once, and kept over every restart.
    begun = [e for _, e in world.events("sleeper") if isinstance(e, WaitBegun)]
    ended = [at for at, e in world.events("sleeper") if isinstance(e, WaitEnded)]
    assert len(begun) == len(ended) == 1
    assert begun[0].until is not None
    assert ended[0] >= begun[0].until, f"seed {seed}"
    signals = [e for _, e in world.events("signaled") if isinstance(e, SignalReceived)]
    assert len(signals) == 3, f"seed {seed}: a signal was lost or counted twice"
    assert world.counts()["checkpointed"] >= 1
    # Each accepted call of the actor took place exactly once, in order.
    calls = [e for _, e in world.events("counter") if type(e).__name__ == "CallReceived"]
    state = app.records.actor_state("counter")
    assert state is not None
    assert msgspec.json.decode(state)[2] == {"value": len(calls)}, f"seed {seed}"


@pytest.mark.parametrize("seed", range(10))
def test_kills_of_everybody_at_random_moments_lose_and_repeat_nothing(
    seed: int, tmp_path: Path
) -> None:
    one_round(seed, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1000, 1200))
def test_kills_of_everybody_for_long(seed: int, tmp_path: Path) -> None:
    one_round(seed, tmp_path)
