"""Thousands of troubled lives of real engines, each from a seed; a failing one can be replayed.

`pytest tests/simulation/test_simulation.py --seed 123` lives that seed alone and shows all of it.
"""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.simulation.audit import Broken
from tests.simulation.world import PEACE, Life, World, live, replay
from weftline.core.actions import Wait
from weftline.core.events import AnyEvent
from weftline.core.state import StepStatus

SEEDS, BLOCK = 2_000, 100
SOAK_SEEDS, SOAK_BLOCK = 200_000, 2_000

# What the engine does not carry out yet, so that no life shows it.
LATER = {"StepSkipped", "ConditionDecided"}

TROUBLES = {
    "accident: call", "accident: cancel", "accident: clock", "accident: continue",
    "accident: crash", "accident: full", "accident: let go", "accident: lost sleep",
    "accident: noise", "accident: pause", "accident: power cut", "accident: resume",
    "accident: sleep", "accident: stop", "adoption", "adoption from a living owner",
    "change refused", "commit beside the loop", "commit is slow", "commit of a dead engine arrives",
    "commit of several runs", "commit refused: storage full", "commit takes a second",
    "commit unknown: not written", "commit unknown: written", "crash after a commit",
    "crash before a commit", "crash while attempts are started", "engine crashed",
    "environment refused", "failed", "given back", "given back after a kill",
    "given back after it was started", "gone: refused", "gone: stopped", "gone: too many wait",
    "let go", "listening attempt killed", "news taken in once more, to no effect",
    "news taken in: call", "news taken in: cancel", "news taken in: continue",
    "news taken in: pause", "news taken in: signal", "no room for a result",
    "outcome for a dead engine", "outcome lost", "outgrown", "parked run gone", "post failed",
    "posted with a key that was used", "process died", "process that waited let go", "read fails",
    "rejoin", "report to nobody", "report told twice", "returned a step that asks for too much",
    "ring lost", "run came back", "run ended: CANCELED", "run ended: FAILED",
    "run ended: RESUMABLE", "run ended: SUCCESSFUL", "run parked", "running attempt killed",
    "start by an engine that does not own the run any more", "state compared", "step in place",
    "submitted twice", "the inbox cannot be read", "timed out", "told of a call: Ended",
    "told of a call: Gone", "told of a call: its value", "told: Committed", "told: Output",
    "told: Stalled", "value lost",
}  # fmt: skip


class Lives:
    """What happened in all lives so far."""

    def __init__(self) -> None:
        self.seeds = 0
        self.troubles: Counter[str] = Counter()
        self.events: Counter[str] = Counter()

    def live(self, seeds: range) -> None:
        broken: list[str] = []
        for seed in seeds:
            try:
                world = live(seed)
            except Broken as error:
                broken.append(str(error))
                if len(broken) == 3:
                    break
                continue
            self.seeds += 1
            self.troubles.update(world.counts)
            self.events.update(world.audit.seen)
        assert not broken, "\n\n".join(broken)


@pytest.fixture(scope="module")
def lives() -> Lives:
    return Lives()


@pytest.fixture(autouse=True)
def asked_for_one(seed: int | None, request: pytest.FixtureRequest) -> None:
    if seed is not None and request.node.name != "test_the_seed_that_was_asked_for":
        pytest.skip("one seed was asked for")


def test_the_seed_that_was_asked_for(seed: int | None, capsys: pytest.CaptureFixture[str]) -> None:
    if seed is None:
        pytest.skip("--seed was not given")
    life = Life(seed)
    life.world.trace = []
    try:
        life.live()
    finally:
        with capsys.disabled():
            print(f"\nseed {seed}:", *life.world.trace, *told(life.world), sep="\n")


def told(world: World) -> Iterator[str]:
    """The journals of a world."""
    for run_id in world.audit.shadows:
        found = world.store.read(run_id)
        assert found is not None
        yield f"{run_id}:"
        for entry in found[1]:
            yield f"  {entry.seq:4} {entry.at:.6f} {entry.body.decode()}"


@pytest.mark.parametrize("first", range(0, SEEDS, BLOCK))
def test_nothing_that_happens_breaks_what_must_hold(first: int, lives: Lives) -> None:
    lives.live(range(first, first + BLOCK))


def test_all_troubles_and_all_events_did_happen(lives: Lives) -> None:
    if lives.seeds < SEEDS:
        pytest.skip("not all seeds were lived")
    assert set(lives.troubles) >= TROUBLES
    assert set(lives.troubles) - TROUBLES == set()
    assert set(lives.events) == {event.__name__ for event in AnyEvent.__args__} - LATER


@pytest.mark.soak
@pytest.mark.timeout(14_400)
@pytest.mark.parametrize("first", range(0, SOAK_SEEDS, SOAK_BLOCK))
def test_nothing_breaks_in_two_hundred_thousand_lives(first: int) -> None:
    Lives().live(range(SEEDS + first, SEEDS + first + SOAK_BLOCK))


def test_a_seed_is_lived_in_exactly_the_same_way_again() -> None:
    for seed in range(40):
        assert live(seed).fingerprint() == live(seed).fingerprint()
    assert len({live(seed).fingerprint() for seed in range(40)}) == 40


FINGERPRINTS = """
from tests.simulation.world import live
print(*[live(seed).fingerprint() for seed in range(20)])
"""


def test_a_seed_is_lived_in_the_same_way_in_another_process() -> None:
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), *sys.path])
    told = {
        subprocess.run(
            [sys.executable, "-c", FINGERPRINTS],
            env=os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": path},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert told == {" ".join(live(seed).fingerprint() for seed in range(20)) + "\n"}


def test_a_broken_life_tells_how_to_replay_it() -> None:
    assert replay(17) == "pytest tests/simulation/test_simulation.py --seed 17"


def test_at_peace_every_call_of_a_function_is_recorded_and_none_is_repeated() -> None:
    for seed in range(50):
        world = World(seed, PEACE)
        engine = world.open_engine()
        planned = Life(seed).planned
        for run_id, program in planned:
            for node in program.nodes.values():
                node.losses = 0
            world.submit(run_id, program, engine)
            for name in program.signals:
                world.at(1.0 + world.random.random(), partial(world.send, run_id, name))
        world.run_until(60.0)
        for run_id, _ in planned:
            shadow = world.audit.shadows[run_id]
            assert not shadow.run.is_open
            for each in shadow.run.steps:
                is_canceled = shadow.run.status_of(each) is StepStatus.CANCELED
                # What was canceled may have been killed, and a wait calls no function.
                if not (is_canceled or isinstance(each.spec.action, Wait)):
                    assert world.executed[run_id, each.name] == shadow.outcomes[each.name]
        assert world.audit.seen["RunAdopted"] == world.audit.seen["StepLost"] == 0
