"""A whole world in one thread: engines, executors, a journal, a clock and people, all from a seed.

The engines are the real ones. Everything around them is made here: time passes only when nothing
happens at once, commits are slow, fail, or have an unknown outcome, processes die, outcomes are
lost or told twice, whole engines crash or sleep and come back when somebody else owns their runs,
and people submit, cancel, resume and let go of runs at bad moments. What must hold whatever
happens is checked at each of these moments (`Audit`); a breach raises `Broken`, with the seed.

After the troubles comes peace: every run is resumed until it has its result, which must be that
of its program.
"""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from heapq import heappop, heappush
from random import Random
from typing import Any

import msgspec
from msgspec import Raw

from tests.graphs import packed, picture, step
from tests.programs import TOO_MUCH, ActorProgram, Author, Node, Program, signal_value
from tests.simulation.audit import Audit, Broken, Shadow, summary_of
from tests.simulation.audit import News as NewsPosted
from weftline.adapters.journal.memory import MemoryJournal
from weftline.core.environment import Environment
from weftline.core.events import GraphExtended, RunStatus, RunSubmitted, decode_event
from weftline.core.graph import Graph, decode_pages, encode_pages
from weftline.core.policy import Placement
from weftline.core.run import Run
from weftline.core.values import Inline, unpack
from weftline.engine.active import Committed, Ended, Gone, News, Output, Stalled, Submission
from weftline.engine.committer import Committer, Outcome
from weftline.engine.engine import Engine
from weftline.engine.recovery import read_run
from weftline.engine.turns import Turns
from weftline.errors import (
    CommitUnknown,
    StorageError,
    StorageFull,
    WorkflowError,
    WorkflowQueueFull,
    WorkflowRunningError,
)
from weftline.ports.executor import (
    Attempt,
    Extended,
    Failed,
    GivenBack,
    Lane,
    Lost,
    Outgrown,
    Printed,
    Refused,
    Report,
    Started,
    Starved,
    Succeeded,
    TimedOut,
)
from weftline.ports.journal import (
    ActorCall,
    Batch,
    Creation,
    Entry,
    InboxEntry,
    InboxKind,
    RunChange,
    RunRecord,
    Signal,
)

BEGINNING = 1_700_000_000.0
CHAOS_S = 12.0
"""How long the troubles last."""

STUCK_S = 60.0
"""A run that goes on by itself, in peace, has news within this time."""

ENVIRONMENTS = [
    Environment(python=f"/python{n}", sys_path=("/code",), cwd="/project") for n in range(2)
]


class Crash(BaseException):
    """The process of an engine dies here and now."""


class Asleep(BaseException):
    """An engine waits for news, for at most so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


@dataclass(frozen=True)
class Troubles:
    """How likely each trouble is, each time it could happen; 0 in a world at peace."""

    slow_commit: float = 0.05
    very_slow_commit: float = 0.004
    commit_full: float = 0.004
    commit_unknown: float = 0.02
    commit_crash: float = 0.006
    start_crash: float = 0.003
    read_fails: float = 0.02
    lost: float = 0.03
    lost_outcome: float = 0.02
    starved: float = 0.02
    given_back: float = 0.03
    duplicate: float = 0.04
    printed: float = 0.02
    refused: float = 0.001
    given_back_late: float = 0.02
    slow_step: float = 0.1
    lost_ring: float = 0.2
    post_fails: float = 0.03


PEACE = Troubles(**dict.fromkeys(Troubles.__dataclass_fields__, 0.0))


# -- the journal --------------------------------------------------------------------------------


class SimJournal:
    """One engine's access to the store that all engines share."""

    def __init__(self, world: "World", engine_id: str) -> None:
        self._world, self.engine_id = world, engine_id
        self.clock = SimClock(world)

    def commit(self, batch: Batch) -> set[str]:
        world = self._world
        self.clock.lag += world.commit_time()
        return self.write(batch)

    def write(self, batch: Batch) -> set[str]:
        """The commit itself, without the time that it takes."""
        world = self._world
        troubles, random = world.troubles, world.random
        world.commits += 1
        if world.crash_at is not None and world.commits == world.crash_at[0]:
            if world.crash_at[1] == "before":
                raise Crash
            self._apply(batch)
            raise Crash
        if random.random() < troubles.commit_full:
            world.full_until = world.now + random.choice([0.1, 0.3, 2.0])
        if world.now < world.full_until:
            world.count("commit refused: storage full")
            raise StorageFull("no space is left")
        luck = random.random()
        if luck < troubles.commit_crash:
            if random.random() < 0.5:
                self._apply(batch)
                world.count("crash after a commit")
            else:
                world.count("crash before a commit")
            raise Crash
        if luck < troubles.commit_crash + troubles.commit_unknown:
            if random.random() < 0.5:
                world.out_until = world.now + random.choice([0.1, 0.6])
            if random.random() < 0.5:
                self._apply(batch)
                world.count("commit unknown: written")
            else:
                world.count("commit unknown: not written")
            raise CommitUnknown("the connection was lost")
        return self._apply(batch)

    def _apply(self, batch: Batch) -> set[str]:
        world = self._world
        refused = world.store.commit(batch)
        world.note("commit", self.engine_id, [(c.run_id, len(c.entries)) for c in batch.changes])
        for change in batch.changes:
            if change.run_id in refused:
                world.count("change refused")
            else:
                world.audit.committed(change, self.engine_id)
        if len(batch.changes) > 1:
            world.count("commit of several runs")
        return refused

    def read(self, run_id: str, after_seq: int = 0) -> tuple[RunRecord, list[Entry]] | None:
        world = self._world
        if world.now < world.out_until or world.chance("read_fails"):
            world.count("read fails")
            raise StorageError("the database does not answer")
        return world.store.read(run_id, after_seq)

    def read_graph(self, graph_hash: str) -> list[bytes]:
        return self._world.store.read_graph(graph_hash)

    def read_inbox(self, engine: str) -> list[InboxEntry]:
        world = self._world
        if world.now < world.out_until or world.chance("read_fails"):
            world.count("the inbox cannot be read")
            raise StorageError("the database does not answer")
        return world.store.read_inbox(engine)

    def register(self, engine: str, on_news: Callable[[], None] | None = None) -> None:
        pass

    def release(self, engine: str) -> None:
        pass

    def is_alive(self, engine: str) -> bool:
        return self._world.is_alive(engine)


class SimCommitter(Committer):
    """Makes commits beside the engine: they end when their time has come."""

    def __init__(self, world: "World", journal: SimJournal, wake: Callable[[], None]) -> None:
        self._world, self._sim_journal, self._sim_wake = world, journal, wake
        self._batch: Batch | None = None
        self._outcome: Outcome | None = None
        self.is_dead = False
        self.on_crash: Callable[[], None] = lambda: None

    def begin(self, batch: Batch) -> None:
        self._batch = batch
        self._world.count("commit beside the loop")
        self._world.after(self._sim_journal.clock.lag + self._world.commit_time(), self._end)

    def _end(self) -> None:
        if self._batch is None:
            return
        if self.is_dead:
            # The engine is gone; what was on its way to the disk may still arrive there.
            if self._world.random.random() < 0.5:
                self._sim_journal._apply(self._batch)
                self._world.count("commit of a dead engine arrives")
            self._batch = None
            return
        try:
            self._carry_out()
        except Crash:
            self.on_crash()
            return
        self._sim_wake()

    def _carry_out(self) -> None:
        assert self._batch is not None
        batch, self._batch = self._batch, None
        try:
            self._outcome = self._sim_journal.write(batch)
        except StorageError as error:
            self._outcome = error

    def outcome(self, *, wait: bool) -> Outcome | None:
        if wait and self._batch is not None:
            self._sim_journal.clock.lag += 0.01
            self._carry_out()
        outcome, self._outcome = self._outcome, None
        return outcome

    def close(self) -> None:
        pass


class SimClock:
    """An engine's clock: the world's, and what this engine spent since its turn began."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.lag = 0.0

    def time(self) -> float:
        return self._world.wall(self.lag)

    def monotonic(self) -> float:
        return 1000.0 + self._world.now + self.lag


# -- where attempts happen ----------------------------------------------------------------------


@dataclass
class Work:
    """An attempt that an executor has."""

    attempt: Attempt
    lane: Lane


class SimExecutor:
    """Carries attempts out in virtual time, by the behaviour of their nodes and by chance."""

    def __init__(self, world: "World", engine_id: str, clock: SimClock, slots: int) -> None:
        self._world, self._engine_id, self._clock, self._slots = world, engine_id, clock, slots
        self._waiting: deque[Work] = deque()
        self._running: dict[int, Work] = {}
        self.listening: dict[int, Work] = {}
        self.staying: set[int] = set()  # keys of attempts whose process waits for another one
        self._reports: list[Report] = []
        self._is_woken = False
        self.is_dead = False
        self.poke: Callable[[], None] = lambda: None

    # -- the port -----------------------------------------------------------------------------

    def check(self, placement: Placement) -> str | None:
        return "asks for too much" if placement.num_cpus > 100 else None

    def room(self, lane: Lane) -> int:
        if lane.listens:
            return 1000
        return 2 * self._slots - len(self._waiting) - len(self._running)

    def start(self, lane: Lane, attempts: list[Attempt]) -> None:
        world = self._world
        is_beside = any(attempt.beside is not None for attempt in attempts)
        is_room = is_beside or 0 < len(attempts) <= self.room(lane)
        world.audit.check(is_room, "more attempts than there is room")
        for attempt in attempts:
            world.audit.started(attempt, self._engine_id)
            for work in [*self._waiting, *self._running.values(), *self.listening.values()]:
                there = work.attempt.run_id, work.attempt.step
                is_twice = there == (attempt.run_id, attempt.step)
                world.audit.check(not is_twice, f"{attempt.step} runs twice at once")
            if attempt.beside is not None:
                world.audit.check(attempt.beside in self.staying, "no process waits for it")
                self.staying.remove(attempt.beside)
                world.count("step in place")
                self._waiting.appendleft(Work(attempt, lane))
            elif lane.listens:
                self.listening[attempt.key] = Work(attempt, lane)
                self._begin(self.listening[attempt.key], self._clock.lag)
            else:
                self._waiting.append(Work(attempt, lane))
        world.note("start", self._engine_id, [(a.run_id, a.step, a.number) for a in attempts])
        if world.chance("start_crash"):
            world.count("crash while attempts are started")
            raise Crash
        if world.chance("refused"):
            self._refuse(lane)
        self._begin_next(self._clock.lag)

    def wait(self, timeout_s: float | None) -> list[Report]:
        if self._reports:
            count = len(self._reports)
            if count > 1 and self._world.random.random() < 0.3:
                count = self._world.random.randint(1, count)
            reports, self._reports = self._reports[:count], self._reports[count:]
            return reports
        if self._is_woken:
            self._is_woken = False
            return []
        if timeout_s is None or timeout_s > 0:
            # Its next turn is when it would wake up.
            raise Asleep(float("inf") if timeout_s is None else timeout_s)
        return []

    def wake(self) -> None:
        self._is_woken = True
        self.poke()

    def kill(self, keys: set[int]) -> None:
        self._reports = [r for r in self._reports if isinstance(r, Refused) or r.key not in keys]
        self._waiting = deque(w for w in self._waiting if w.attempt.key not in keys)
        for key in sorted(keys):
            if key in self.staying:
                self.staying.remove(key)
                self._world.count("process that waited let go")
            if self._running.pop(key, None) is not None:
                self._world.count("running attempt killed")
            if self.listening.pop(key, None) is not None:
                self._world.count("listening attempt killed")
        if self._waiting and self._world.chance("given_back", 5):
            work = self._waiting.pop()
            self._world.count("given back after a kill")
            self._report(GivenBack(key=work.attempt.key))
        self._begin_next(self._clock.lag)

    def close(self) -> None:
        self.is_dead = True

    # -- what happens -------------------------------------------------------------------------

    def _report(self, report: Report) -> None:
        if self.is_dead:
            self._world.count("report to nobody")
            return
        self._reports.append(report)
        self.poke()

    def _refuse(self, lane: Lane) -> None:
        for work in [w for w in self._waiting if w.lane.environment == lane.environment]:
            self._waiting.remove(work)
            self._report(GivenBack(key=work.attempt.key))
        self._world.count("environment refused")
        self._report(Refused(environment=lane.environment, reason="its interpreter is gone"))

    def _begin_next(self, lag: float) -> None:
        while self._waiting and len(self._running) < self._slots:
            work = self._waiting.popleft()
            self._running[work.attempt.key] = work
            self._begin(work, lag)

    def _begin(self, work: Work, lag: float) -> None:
        world, random, attempt = self._world, self._world.random, work.attempt
        shadow = world.audit.shadows[attempt.run_id]
        node = shadow.node(attempt.step)
        world.audit.begun(attempt, self._engine_id)
        length = random.choice([0.001, 0.003, 0.02, 0.2])
        if world.chance("slow_step") or work.lane.listens:
            length = 2.5 * random.random()
        begun_at = world.wall(lag)

        def after(delay_s: float, tell: Callable[[], Report]) -> None:
            def happen() -> None:
                going_on = self.listening if work.lane.listens else self._running
                if attempt.key not in going_on or self.is_dead:
                    if self.is_dead:
                        world.count("outcome for a dead engine")
                    return
                report = tell()
                if not isinstance(report, Started | Printed):
                    del going_on[attempt.key]
                    world.note("done", self._engine_id, attempt.run_id, attempt.step)
                self._report(report)
                if world.chance("duplicate"):
                    world.count("report told twice")
                    world.after(random.choice([0.0, 0.05]), lambda: self._report(report))
                self._begin_next(0.0)

            world.after(lag + delay_s, happen)

        key = attempt.key
        told: dict[str, Any] = {"key": key, "started_at": begun_at, "worker": "w"}
        is_executed = True
        if shadow.losses[attempt.step] < node.losses or world.chance("lost"):
            world.count("process died")
            reason, length = "killed by signal 9", length * random.random()
            is_executed = False
        elif world.chance("lost_outcome"):
            world.count("outcome lost")
            reason, length = "its outcome never came", length + 0.5
        else:
            reason = None
        if reason is not None:
            after(length, lambda: Lost(reason=reason, **told))
        elif world.chance("given_back"):
            world.count("given back")
            is_executed = False
            after(length / 2, lambda: GivenBack(key=key))
        elif world.chance("given_back_late"):
            world.count("given back after it was started")
            length, is_executed = 0.1 + length, False
            after(length, lambda: GivenBack(key=key))
        else:
            is_failing = shadow.fails[attempt.step] < node.fails
            if is_failing and node.mode == "timeout":
                assert attempt.timeout_s is not None
                length = attempt.timeout_s
            after(length, lambda: self._outcome(attempt, node, is_failing, told))
        if length > 0.1:
            after(0.1, lambda: Started(key=key, at=begun_at, worker="w"))
        if world.chance("printed"):
            after(length / 3, lambda: Printed(key, "stdout", "some text\n"))
        if is_executed:
            world.executed[attempt.run_id, attempt.step] += 1

    def _outcome(
        self, attempt: Attempt, node: Node, is_failing: bool, told: dict[str, Any]
    ) -> Report:
        world = self._world
        if is_failing and node.mode == "timeout":
            world.count("timed out")
            assert attempt.timeout_s is not None
            return TimedOut(after_s=attempt.timeout_s, **told)
        if is_failing and node.mode == "outgrown":
            world.count("outgrown")
            return Outgrown(limit=1000, resident=2000, **told)
        if is_failing and node.mode == "greedy":
            world.count("returned a step that asks for too much")
            return self._extended(Graph(steps=[step("greedy", placement=TOO_MUCH)], output=0), told)
        if is_failing:
            world.count("failed")
            return Failed(error=node.error, retryable=node.is_matching, **told)
        if world.chance("starved"):
            world.count("no room for a result")
            return Starved(reason="there is no room for the result", **told)
        if attempt.call.is_writer:
            return self._called(attempt, told)
        outcome = node.outcome(attempt.inputs)
        if isinstance(outcome, Graph):
            return self._extended(outcome, told, stays=world.random.random() < 0.3)
        is_volatile = attempt.is_volatile and world.random.random() < 0.8
        return Succeeded(value=outcome, is_volatile=is_volatile, **told)

    def _called(self, attempt: Attempt, told: dict[str, Any]) -> Report:
        """A method of an actor ends: it has added its name to the state."""
        before = None if attempt.state is None else unpack(attempt.state)
        names = msgspec.json.decode(before.data) if isinstance(before, Inline) else []
        told["state"] = packed([*names, attempt.step])
        returned = ActorProgram.returned(attempt.step)
        if returned is not None:
            return self._extended(returned, told)
        return Succeeded(value=packed(attempt.step), **told)

    def _extended(self, graph: Graph, told: dict[str, Any], *, stays: bool = False) -> Report:
        key, pages = encode_pages(graph.steps)
        if stays:
            self.staying.add(told["key"])
        return Extended(graph=key, pages=pages, output=graph.output, stays=stays, **told)


# -- engines ------------------------------------------------------------------------------------


class SimEngine:
    """A real engine with its own clock, journal access and executor; it may crash or sleep."""

    def __init__(self, world: "World", engine_id: str, slots: int, has_committer: bool) -> None:
        self._world, self.engine_id = world, engine_id
        self.journal = SimJournal(world, engine_id)
        self.clock = self.journal.clock
        self.executor = SimExecutor(world, engine_id, self.clock, slots)
        self.executor.poke = self.poke
        self.committer: SimCommitter | None = None
        if has_committer:
            self.committer = SimCommitter(world, self.journal, self.executor.wake)
            self.committer.on_crash = self.crash
        self.engine = Engine(
            engine_id,
            self.journal,
            self.executor,
            self.clock,
            committer=self.committer,
            turns=Turns(SimShare(world, self), world.most_pending),
            seed=world.random.randrange(1 << 30),
        )
        self.engine.lay_down_steps = 6
        self.seats: set[int] = set()
        self._parked: set[str] = set()
        self.is_dead = False
        self.is_lost = False  # asleep for so long that others take it for dead
        self.asleep_until = 0.0
        self.free_at = 0.0  # when its last turn ends
        self._turn_at = float("inf")

    def poke(self) -> None:
        """It has news: its next turn is now, or as soon as it is free."""
        self.turn_at(self._world.now)

    def turn_at(self, at: float) -> None:
        at = max(at, self.free_at, self.asleep_until)
        if not self.is_dead and at < self._turn_at:
            self._turn_at = at
            self._world.at(at, self._turn)

    def _turn(self) -> None:
        world = self._world
        if self.is_dead or world.now < self._turn_at:
            return  # another turn was scheduled in between
        self._turn_at = float("inf")
        if world.now < self.asleep_until:
            self.turn_at(self.asleep_until)
            return
        self.clock.lag = 0.0
        # A microsecond at least: no real clock stands still while a loop turns.
        pause = 1e-6
        try:
            self.engine.turn()
        except Asleep as asleep:
            pause = max(asleep.seconds, 1e-6)
            self._check_rest()
        except Crash:
            self.crash()
            return
        except Broken:
            raise
        except Exception as error:
            raise Broken(f"the loop of {self.engine_id} failed: {error!r}") from error
        self._look_at_parked()
        self.free_at = world.now + self.clock.lag
        self.clock.lag = 0.0
        self.turn_at(self.free_at + pause)

    def _look_at_parked(self) -> None:
        parked = set(self.engine.runs.parked)
        for _ in parked - self._parked:
            self._world.count("run parked")
        for run_id in self._parked - parked:
            self._world.count(
                "run came back" if self.engine.runs.find(run_id) else "parked run gone"
            )
        self._parked = parked

    def _check_rest(self) -> None:
        """It sleeps only when there is nothing that it could do."""
        engine = self.engine
        if engine.writer.may_start:
            for lane in engine.dispatcher.lanes:
                if self.executor.room(lane) > 0:
                    raise Broken(f"{self.engine_id} sleeps although it could start steps")
            if engine.writer.has_to_write:
                raise Broken(f"{self.engine_id} sleeps on what is not written")

    def crash(self) -> None:
        self.is_dead = self.executor.is_dead = True
        self._world.seats |= self.seats
        self.seats.clear()
        if self.committer is not None:
            self.committer.is_dead = True
        self._world.crashed(self)

    def sleep(self, seconds: float, *, is_lost: bool) -> None:
        """Do nothing for a while; with `is_lost` it counts as dead meanwhile."""
        self.asleep_until = self._world.now + seconds
        self.is_lost = is_lost
        self._world.after(seconds, self._wake_up)

    def _wake_up(self) -> None:
        if not self.is_dead and self._world.now >= self.asleep_until:
            self.is_lost = False
            self.poke()

    def is_in_step(self, run_id: str, shadow: Shadow) -> bool:
        """Whether its state of the run is that of the journal; False while it has more to write."""
        active = self.engine.runs.find(run_id)
        if active is None or not active.is_loaded:
            return False
        if active.epoch != shadow.epoch or active.last_seq != shadow.last_seq:
            return False
        return not (active.entries or active.takes)


class SimShare:
    """An engine's access to the turns of the home; what a dead engine held is free."""

    def __init__(self, world: "World", engine: SimEngine) -> None:
        self._world, self._engine = world, engine

    def take(self) -> object | None:
        seats = self._world.seats
        if not seats:
            return None
        seat = min(seats)
        seats.remove(seat)
        self._engine.seats.add(seat)
        return seat

    def give_back(self, taken: object) -> None:
        assert isinstance(taken, int)
        self._world.audit.check(taken in self._engine.seats, "a turn is given back twice")
        self._engine.seats.remove(taken)
        self._world.seats.add(taken)


# -- the world ----------------------------------------------------------------------------------


class World:
    """Everything that happens, from one seed."""

    def __init__(self, seed: int, troubles: Troubles | None = None) -> None:
        self.seed, self.random = seed, Random(seed)
        self.troubles = Troubles() if troubles is None else troubles
        self.now = 0.0
        self.skew = 0.0  # what somebody set the wall clock wrong by
        self.latest_time = BEGINNING
        self.full_until = self.out_until = 0.0
        self.peace_since = 0.0
        self.commits = 0
        self.crash_at: tuple[int, str] | None = None  # the commit of this number; before, after
        self.base_commit_s = 0.0003
        self.store = MemoryJournal()
        self.audit = Audit(self, self.store)
        self.seats: set[int] = set(range(1000))
        self.most_pending: int | None = None
        self.programs: dict[str, Program | ActorProgram] = {}
        self.engines: list[SimEngine] = []
        self.executed: Counter[tuple[str, str]] = Counter()
        self.counts: Counter[str] = Counter()
        self.heard: dict[str, list[News]] = {}
        self.trace: list[str] | None = None
        self.on_end: Callable[[str, SimEngine], None] = lambda run_id, engine: None
        self._digest = blake2b(digest_size=16)
        self._happenings: list[tuple[float, int, Callable[[], object]]] = []
        self._count = 0

    # -- time and chance ----------------------------------------------------------------------

    def at(self, time: float, happening: Callable[[], object]) -> None:
        self._count += 1
        heappush(self._happenings, (time, self._count, happening))

    def after(self, seconds: float, happening: Callable[[], object]) -> None:
        self.at(self.now + seconds, happening)

    def wall(self, lag: float = 0.0) -> float:
        time = BEGINNING + self.now + self.skew + lag
        self.latest_time = max(self.latest_time, time)
        return time

    def happen(self, end: float) -> bool:
        """Let the next thing happen, unless it is later than `end`."""
        if not self._happenings or self._happenings[0][0] > end:
            self.now = end
            return False
        self.now, _, happening = heappop(self._happenings)
        happening()
        return True

    def run_until(self, end: float) -> None:
        """Let everything happen that happens before `end`."""
        for _ in range(200_000):
            if not self.happen(end):
                return
        raise Broken(f"too much happens before {end}: something goes round in circles")

    def chance(self, trouble: str, times: float = 1.0) -> bool:
        likely: float = getattr(self.troubles, trouble) * times
        return likely > 0.0 and self.random.random() < likely

    def commit_time(self) -> float:
        if self.chance("very_slow_commit"):
            self.count("commit takes a second")
            return 1.0
        if self.chance("slow_commit"):
            self.count("commit is slow")
            return self.base_commit_s + 0.05 * self.random.random()
        return self.base_commit_s

    # -- telling ------------------------------------------------------------------------------

    def count(self, what: str) -> None:
        self.counts[what] += 1

    def note(self, *what: object) -> None:
        line = f"{self.now:.6f} {what}"
        self._digest.update(line.encode())
        if self.trace is not None:
            self.trace.append(line)

    def fingerprint(self) -> str:
        """Differs between two worlds in which not exactly the same happened."""
        return self._digest.hexdigest()

    # -- engines ------------------------------------------------------------------------------

    def open_engine(self, *, slots: int | None = None, committer: bool | None = None) -> SimEngine:
        random = self.random
        slots = slots or random.randint(1, 4)
        committer = random.random() < 0.5 if committer is None else committer
        engine = SimEngine(self, f"e{len(self.engines) + 1}", slots, committer)
        self.engines.append(engine)
        self.note("open", engine.engine_id)
        return engine

    def living(self) -> list[SimEngine]:
        return [engine for engine in self.engines if not engine.is_dead]

    def is_alive(self, engine_id: str) -> bool:
        return any(e.engine_id == engine_id and not e.is_lost for e in self.living())

    def crashed(self, engine: SimEngine) -> None:
        self.note("crash", engine.engine_id)
        self.count("engine crashed")

    # -- people -------------------------------------------------------------------------------

    def submit(
        self,
        run_id: str,
        program: Program | ActorProgram,
        engine: SimEngine,
        *,
        group: tuple[str, int] | None = None,
    ) -> None:
        """Ask `engine` for a new run; a second one of the same id must be refused."""
        self.programs.setdefault(run_id, program)
        program = self.programs[run_id]
        key, pages = encode_pages(program.graph.steps)
        environment = ENVIRONMENTS[len(run_id) % len(ENVIRONMENTS)]
        submission = Submission(
            run_id=run_id,
            creation=Creation(
                workflow="w", created_at=self.wall(), environment=environment, metadata={}
            ),
            graph=program.graph,
            graph_hash=key,
            pages=pages,
            is_actor=program.is_actor,
            group=group,
        )
        wants_events = self.random.random() < 0.5
        self.note("submit", run_id, engine.engine_id)
        engine.engine.submit(
            submission, self._listener(run_id, engine), forward=True, wants_events=wants_events
        )

    def proceed(self, run_id: str, engine: SimEngine) -> bool:
        """What `run` and `resume` do with a recorded run; whether it may go on now."""
        if engine.is_dead or self.now < engine.asleep_until:
            return False
        drives = engine.engine.drives(run_id)
        if drives:
            return False
        listener = self._listener(run_id, engine)
        if drives is False:
            self.note("rejoin", run_id, engine.engine_id)
            self.count("rejoin")
            engine.engine.rejoin(run_id, listener)
            return True
        try:
            recorded = read_run(engine.journal, run_id, to_drive=True)
        except (StorageError, WorkflowError):
            return False
        if recorded.run.finished is RunStatus.SUCCESSFUL:
            return False
        owner = recorded.record.engine
        if owner is not None and owner != engine.engine_id and self.is_alive(owner):
            if recorded.record.summary.status not in (RunStatus.FAILED, RunStatus.CANCELED):
                return False
            self.count("adoption from a living owner")
        gone = self.audit.shadows[run_id].gone
        lost = recorded.run.find_lost(lambda value: value not in gone)
        self.note("adopt", run_id, engine.engine_id, lost)
        self.count("adoption")
        engine.engine.adopt(recorded, listener, lost=lost)
        return True

    def post(
        self,
        run_id: str,
        kind: InboxKind,
        body: bytes = b"null",
        *,
        name: str = "",
        key: str | None = None,
    ) -> bool:
        """Put news into a run's inbox; its owner, if it has one, may be told. Whether that could
        be done; then it is there."""
        if self.chance("post_fails"):
            self.count("post failed")
            return False
        posted = self.store.post(run_id, kind, body, key)
        if posted is None:
            return False
        if posted.counts:
            self.audit.news[self.store._posted] = NewsPosted(run_id, kind, name)
            self.note("post", run_id, kind, name)
        else:
            self.count("posted with a key that was used")
        if self.chance("lost_ring"):
            self.count("ring lost")
            return True
        found = self.store.find_run(run_id)
        for engine in self.engines:
            if found is not None and engine.engine_id == found.engine:
                engine.engine.look()
        return True

    def send(self, run_id: str, name: str, key: str | None = None) -> bool:
        """A signal of this name."""
        body = msgspec.json.encode(Signal(name, Raw(signal_value(name))))
        return self.post(run_id, InboxKind.SIGNAL, body, name=name, key=key)

    def call(self, run_id: str, number: int, kind: str) -> bool:
        """A call of a method of an actor."""
        steps = ActorProgram.call(number, kind)
        (page,) = encode_pages(steps)[1]
        name = steps[0].name
        body = msgspec.json.encode(ActorCall(page, name))
        return self.post(run_id, InboxKind.CALL, body, name=name, key=name)

    def watch(self, run_id: str, call: str, engine: SimEngine) -> None:
        """Wait for the result of a call, on the engine that drives the actor."""

        def hear(news: News) -> None:
            if not isinstance(news, Ended) or news.status is not RunStatus.SUCCESSFUL:
                self.count(f"told of a call: {type(news).__name__}")
                return
            self.count("told of a call: its value")
            value = unpack(news.value or b"")
            assert isinstance(value, Inline)
            told = msgspec.json.decode(value.data)
            is_own = isinstance(told, int) or str(told).startswith(call.partition(":")[0])
            self.audit.check(is_own, f"{call} came to {told}")

        engine.engine.watch(run_id, call, hear, is_expected=True)

    def cut_power(self) -> None:
        """All engines die at once, and some values that need not survive do not."""
        for engine in self.living():
            engine.crash()
        for shadow in self.audit.shadows.values():
            for number in sorted(shadow.run.volatile):
                value = shadow.run.steps[number].value
                if value is not None and self.random.random() < 0.7:
                    shadow.gone.add(value)

    def restore(
        self, run_id: str, program: Program, change: RunChange, graphs: dict[str, list[bytes]]
    ) -> None:
        """Put a run into the store as another engine left it."""
        self.programs[run_id] = program
        run = Run(run_id)
        for entry in change.entries:
            event = decode_event(entry.body)
            graph = None
            if isinstance(event, RunSubmitted | GraphExtended):
                steps = decode_pages(graphs[event.graph])
                graph = Graph(steps=steps, output=event.output)
            run.apply(event, entry.at, graph)
        change.summary = summary_of(run)
        self.store.commit(Batch(changes=[change], graphs=list(graphs.items())))
        self.audit.committed(change, "nobody", is_torn=True)

    def _listener(self, run_id: str, engine: SimEngine) -> Callable[[News], None]:
        def hear(news: News) -> None:
            if isinstance(news, Committed | Output | Stalled):
                self.count(f"told: {type(news).__name__}")
                return
            self.note("hear", run_id, engine.engine_id, str(news))
            self.heard.setdefault(run_id, []).append(news)
            if isinstance(news, Ended):
                self._ended(run_id, news, engine.engine_id)
                self.on_end(run_id, engine)
            elif isinstance(news, Gone):
                self._gone(run_id, news, engine.engine_id)

        return hear

    def _ended(self, run_id: str, news: Ended, engine: str) -> None:
        shadow = self.audit.shadows[run_id]
        self.count(f"run ended: {news.status}")
        run = shadow.run
        if shadow.owner != engine or run.is_actor:
            return  # it slept after its commit and somebody went on meanwhile, or a call came
        step = None if run.failed_step is None else run.steps[run.failed_step].name
        told = (news.status, news.value, news.error, news.step, news.reason)
        recorded = (run.status, run.value, run.error, step, run.held)
        self.audit.check(told == recorded, f"told {told}, recorded {recorded}")

    def _gone(self, run_id: str, news: Gone, engine: str) -> None:
        if isinstance(news.error, WorkflowQueueFull):
            self.count("gone: too many wait")
        elif isinstance(news.error, WorkflowRunningError):
            self.count("gone: refused")
            if "taken over" in str(news.error):
                owner = self.audit.shadows[run_id].owner
                self.audit.check(owner != engine, f"{engine} drops {run_id}, which it owns")
        elif type(news.error) is WorkflowError and "the engine is stopping" in str(news.error):
            self.count("gone: stopped")
        else:
            raise Broken(f"{run_id} was given up: {news.error}")

    # -- peace --------------------------------------------------------------------------------

    def make_peace(self) -> None:
        """No trouble happens from now on, and there is an engine that is awake."""
        self.troubles, self.peace_since = PEACE, self.now
        self.crash_at = None
        self.full_until = self.out_until = self.now
        for engine in self.living():
            engine.asleep_until = self.now
            engine.is_lost = False
            engine.poke()
        if not self.living():
            self.open_engine()
        self.note("peace")

    def finish(self) -> None:
        """Resume every run until it has its result; check all that can be checked at the end."""
        self.make_peace()
        for _ in range(200):
            self.run_until(self.now + 5.0)
            self._look_around()
            left = [shadow for shadow in self.audit.shadows.values() if self._has_to_go_on(shadow)]
            if not left:
                break
            for shadow in left:
                self._help(shadow)
        else:
            raise Broken(f"no end: {[(s.run_id, s.run.status) for s in left]}")
        self.run_until(self.now + 5.0)
        for shadow in self.audit.shadows.values():
            self._final(shadow)
        for engine in self.living():
            self._final_engine(engine)

    def _final_engine(self, engine: SimEngine) -> None:
        """Nothing is left of runs that are over: no turn, no process, no memory."""
        check, inside = self.audit.check, engine.engine
        holding = [active for active in inside.runs if active.turn is not None]
        # Of one that was taken over while this engine slept it hears when it is news.
        own = [a for a in holding if self.audit.shadows[a.run_id].owner == engine.engine_id]
        check(not own and len(engine.seats) <= len(holding), "a turn was leaked")
        check(not inside.turns.pending, "a run waits for its turn for ever")
        check(not engine.executor.staying, "a process waits for nothing")
        mine = [a for a in inside.runs if self.audit.shadows[a.run_id].owner == engine.engine_id]
        left = [
            active.run_id for active in mine if active.stored.status is not RunStatus.SUCCESSFUL
        ]
        check(not left, f"{left} is kept in memory")
        dispatcher = inside.dispatcher
        is_left = dispatcher.in_flight or dispatcher.lanes or inside.writer.next_look
        check(not is_left, "something is left")

    def _has_to_go_on(self, shadow: Shadow) -> bool:
        calls = any(each.kind == "call" for each in self.store.list_inbox(shadow.run_id))
        return calls or not shadow.is_done

    def _look_around(self) -> None:
        """Every run has ended, goes on, or says why it does not."""
        for shadow in self.audit.shadows.values():
            self.audit.values_are_kept(shadow)
            for engine in self.living():
                if engine.engine_id == shadow.owner and engine.is_in_step(shadow.run_id, shadow):
                    active = engine.engine.runs.find(shadow.run_id)
                    assert active is not None
                    mine = active.run
                    self.audit.check(
                        picture(mine) == picture(shadow.run),
                        f"{shadow.run_id} is not what its journal folds into",
                    )
                    self.count("state compared")

    def _help(self, shadow: Shadow) -> None:
        if shadow.run.is_paused and shadow.run.is_open:
            self.post(shadow.run_id, InboxKind.CONTINUE)
        self.send_missing(shadow)
        owner = next((e for e in self.living() if e.engine_id == shadow.owner), None)
        if owner is not None and owner.engine.drives(shadow.run_id):
            is_waiting = shadow.run.status is RunStatus.PENDING  # others may take their time
            last = max(shadow.news_at, self.peace_since)
            stuck = not is_waiting and self.now - last > STUCK_S
            self.audit.check(not stuck, f"{shadow.run_id} is stuck: {self._describe(shadow)}")
            return
        if not self.living():
            self.open_engine()
        self.proceed(shadow.run_id, owner or self.random.choice(self.living()))

    def send_missing(self, shadow: Shadow) -> None:
        """All signals that the run may wait for are sent, as often as it may."""
        on_their_way = Counter(
            each.name
            for each in self.audit.news.values()
            if each.run_id == shadow.run_id and not each.is_taken
        )
        for name, count in Counter(shadow.program.signals).items():
            for _ in range(count - shadow.signals[name] - on_their_way[name]):
                self.send(shadow.run_id, name)

    def _describe(self, shadow: Shadow) -> str:
        run = shadow.run
        return f"{run.status} {[(s.name, str(run.status_of(s)), s.due_at) for s in run.steps]}"

    def _final(self, shadow: Shadow) -> None:
        check, run = self.audit.check, shadow.run
        check(run.unfinished == 0 or bool(run.splits), "a finished run has open steps")
        if isinstance(shadow.program, ActorProgram):
            self._final_actor(shadow)
            return
        if shadow.news_at > self.peace_since:
            heard = [news.status for news in self.heard[shadow.run_id] if isinstance(news, Ended)]
            check(RunStatus.SUCCESSFUL in heard, f"nobody was told that {shadow.run_id} has ended")
        check(run.value == shadow.program.result(), f"{shadow.run_id} has another result")
        self._final_row(shadow)

    def _final_actor(self, shadow: Shadow) -> None:
        posted = [
            each.name
            for each in self.audit.news.values()
            if each.run_id == shadow.run_id and each.kind is InboxKind.CALL
        ]
        self.audit.check(shadow.calls == posted, f"calls {posted} came to {shadow.calls}")
        self._final_row(shadow)

    def _final_row(self, shadow: Shadow) -> None:
        check, run = self.audit.check, shadow.run
        record = self.store.find_run(shadow.run_id)
        assert record is not None
        check(record.summary.status is RunStatus.SUCCESSFUL, f"its row says {record.summary}")
        check(record.last_seq == shadow.last_seq, "its row has another last seq")
        read = read_run(self.store, shadow.run_id).run
        check(picture(read) == picture(run), "it is not what its journal folds into")


# -- troubled lives -----------------------------------------------------------------------------


class Life:
    """The story of one seed: runs, and people and accidents around them."""

    def __init__(self, seed: int) -> None:
        self.world = World(seed)
        world, random = self.world, self.world.random
        self._random = random
        world.base_commit_s = random.choice([0.0003, 0.0003, 0.004])
        self.planned: list[tuple[str, Program]] = []
        self.actors: list[str] = []
        self._calls: Counter[str] = Counter()
        if random.random() < 0.4:
            world.seats = set(range(random.randint(1, 3)))
            world.most_pending = random.choice([None, None, 0, 2])
        self._group = random.choice([None, None, ("g", random.randint(1, 2))])
        self._storm = random.random() < 0.02
        self._most_engines = random.randint(1, 3)
        for _ in range(random.randint(1, self._most_engines)):
            world.open_engine()
        for n in range(random.randint(1, 6)):
            author = Author(random, for_engine=True, max_nodes=random.randint(3, 24))
            run_id, program = f"r{'x' * (n % 2)}{n}", author.program()
            self.planned.append((run_id, program))
            world.at(4.0 * random.random(), self._submit(run_id, program))
            for number, name in enumerate(program.signals):
                if random.random() < 0.8:
                    send = partial(self._send, run_id, name, f"k{number}")
                    world.at(10.0 * random.random(), send)
        for n in range(random.choice([0, 0, 1, 2])):
            self.actors.append(f"actor{n}")
            world.at(3.0 * random.random(), self._submit(self.actors[-1], ActorProgram()))
            for _ in range(random.randint(1, 6)):
                world.at(10.0 * random.random(), partial(self._call, self.actors[-1]))
        for _ in range(random.randint(2, 24)):
            world.at(CHAOS_S * random.random(), self._accident)
        world.at(1.0, self._tick)
        world.on_end = self._ended

    def live(self) -> World:
        """Raises: Broken."""
        world = self.world
        world.run_until(CHAOS_S)
        world.finish()
        return world

    def _submit(self, run_id: str, program: Program | ActorProgram) -> Callable[[], None]:
        group = None if program.is_actor else self._group

        def happen() -> None:
            engine = self._some_engine()
            self.world.submit(run_id, program, engine, group=group)
            if self._random.random() < 0.15:
                self.world.count("submitted twice")
                self.world.submit(run_id, program, self._some_engine(), group=group)

        return happen

    def _send(self, run_id: str, name: str, key: str) -> None:
        """Whoever sends a signal does so until it is accepted, and sometimes once more."""
        if not self.world.send(run_id, name, key) or self._random.random() < 0.1:
            if self.world.now < CHAOS_S:
                self.world.after(0.5, partial(self._send, run_id, name, key))

    def _call(self, run_id: str) -> None:
        world, random = self.world, self._random
        number = self._calls[run_id] + 1
        kind = random.choice(["plain", "plain", "all", "chain", "read"])
        if not world.call(run_id, number, kind):
            return
        self._calls[run_id] = number
        shadow = world.audit.shadows.get(run_id)
        engine = next((e for e in world.living() if shadow and e.engine_id == shadow.owner), None)
        if engine is not None and random.random() < 0.5:
            world.watch(run_id, f"c{number}:{kind}", engine)

    def _some_engine(self) -> SimEngine:
        living = self.world.living()
        if not living or (len(living) < self._most_engines and self._random.random() < 0.2):
            return self.world.open_engine()
        return self._random.choice(living)

    def _some_run(self) -> str | None:
        shadows = self.world.audit.shadows
        return self._random.choice(list(shadows)) if shadows else None

    def _ended(self, run_id: str, engine: SimEngine) -> None:
        """Who waits for a run may start it again as soon as it has failed."""
        world, random = self.world, self._random
        if world.now < CHAOS_S and random.random() < 0.5:
            world.after(0.02 * random.random(), partial(world.proceed, run_id, engine))
            if random.random() < 0.3:
                world.full_until = world.now + 0.5 * random.random()

    def _accident(self) -> None:
        world, random = self.world, self._random
        kind = random.choice(
            ["crash", "crash", "sleep", "lost sleep", "lost sleep", "cancel", "cancel", "let go",
             "stop", "clock", "full", "resume", "resume", "pause", "pause", "continue", "noise",
             "power cut", "call"]
        )  # fmt: skip
        engine, run_id = self._some_engine(), self._some_run()
        world.note("accident", kind, engine.engine_id, run_id)
        world.count(f"accident: {kind}")
        if kind == "crash":
            engine.crash()
        elif kind in ("sleep", "lost sleep"):
            engine.sleep(4.0 * random.random(), is_lost=kind == "lost sleep")
        elif kind == "stop":
            engine.engine.stop()
            world.after(0.5, engine.crash)
        elif kind == "clock":
            world.skew += random.choice([-2.0, -0.01, 0.01, 2.0])
        elif kind == "full":
            world.full_until = world.now + 3.0 * random.random()
        elif kind == "power cut":
            world.cut_power()
        elif run_id is None:
            return
        elif kind in ("cancel", "pause", "continue"):
            world.post(run_id, InboxKind(kind))
        elif kind == "noise":
            world.send(run_id, "nobody waits for this")
        elif kind == "call":
            if run_id in self.actors:
                self._call(run_id)
        elif kind == "let go":
            engine.engine.let_go(run_id, lambda: world.count("let go"))
        else:
            world.proceed(run_id, engine)

    def _tick(self) -> None:
        """Somebody looks after the runs now and then."""
        world, random = self.world, self._random
        if world.now >= CHAOS_S - 1.0:
            return
        for shadow in list(world.audit.shadows.values()):
            is_open = shadow.run.is_open
            if random.random() < (0.7 if is_open else 0.4):
                world.proceed(shadow.run_id, self._some_engine())
        world.after(0.2 if self._storm else 1.0, self._tick)
        if self._storm:
            # Whoever adopts a run dies at once, again and again.
            for engine in world.living():
                world.after(0.05, engine.crash)


def live(seed: int) -> World:
    """The world of this seed, after it has ended well. Raises: Broken."""
    life = Life(seed)
    try:
        return life.live()
    except Exception as error:
        raise Broken(f"seed {seed}: {error}\nreplay: {replay(seed)}") from error


def replay(seed: int) -> str:
    """The command that lives this seed again."""
    return f"pytest tests/simulation/test_simulation.py --seed {seed}"
