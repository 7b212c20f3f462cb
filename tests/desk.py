"""An engine with everything around it in the test's hand: clock, journal, executor, committer."""

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Raw

from tests.graphs import error, graph, packed
from weftline.adapters.journal.memory import MemoryJournal
from weftline.core.environment import Environment
from weftline.core.events import Event, decode_event
from weftline.core.graph import Graph, Step, encode_pages
from weftline.core.policy import Placement
from weftline.core.run import Run
from weftline.core.state import StepStatus
from weftline.engine.active import Ended, Gone, News, Submission
from weftline.engine.committer import Committer, Outcome
from weftline.engine.engine import Engine
from weftline.engine.recovery import read_run
from weftline.engine.turns import Turns
from weftline.errors import CommitUnknown, StorageError, StorageFull, WeftlineError
from weftline.ports.executor import (
    Attempt,
    Extended,
    Failed,
    GivenBack,
    Lane,
    Lost,
    Printed,
    Refused,
    Report,
    Started,
    Starved,
    Succeeded,
)
from weftline.ports.journal import (
    ActorCall,
    Batch,
    Creation,
    Entry,
    InboxEntry,
    InboxKind,
    RunRecord,
    Signal,
)

HERE = Environment(python="/python", sys_path=(), cwd="/project")


class HandClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


class WatchedJournal(MemoryJournal):
    """Keeps every batch; the next commits may be told how to go wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[Batch] = []
        self.troubles: list[str] = []
        self.is_full = False
        self.is_silent = False

    def commit(self, batch: Batch) -> set[str]:
        trouble = self.troubles.pop(0) if self.troubles else ""
        if self.is_full or trouble == "full":
            raise StorageFull("no space is left")
        if trouble == "unknown, not written":
            raise CommitUnknown("the connection was lost")
        self.batches.append(batch)
        refused = super().commit(batch)
        if trouble == "unknown, written":
            raise CommitUnknown("the connection was lost")
        return refused

    def read(self, run_id: str, after_seq: int = 0) -> tuple[RunRecord, list[Entry]] | None:
        if self.is_silent:
            raise StorageError("the database does not answer")
        return super().read(run_id, after_seq)

    def read_inbox(self, engine: str) -> list[InboxEntry]:
        if self.is_silent:
            raise StorageError("the database does not answer")
        return super().read_inbox(engine)

    def written(self) -> list[list[tuple[str, list[str]]]]:
        """Batch by batch, the runs in it and the kinds of their events."""
        return [
            [(change.run_id, [entry.kind for entry in change.entries]) for change in batch.changes]
            for batch in self.batches
        ]

    def kinds(self, run_id: str) -> list[str]:
        return [type(event).__name__ for event in self.events(run_id)]

    def events(self, run_id: str) -> list[Event]:
        found = super().read(run_id)
        assert found is not None
        return [decode_event(entry.body) for entry in found[1]]

    def row(self, run_id: str) -> RunRecord:
        found = self.find_run(run_id)
        assert found is not None
        return found


class Asleep(Exception):
    """The engine would wait for news now."""


class HandExecutor:
    """Reports what the test tells it to, and nothing by itself."""

    def __init__(self) -> None:
        self.slots = 100
        self.held: dict[int, Attempt] = {}
        self.lanes: list[Lane] = []
        self.order: list[str] = []
        self.killed: list[str] = []
        self.kept: set[int] = set()  # keys of attempts whose process waits for another one
        self.news: list[Report] = []
        self.waited: list[float | None] = []
        self.is_woken = False

    def check(self, placement: Placement) -> str | None:
        return "asks for too many CPUs" if placement.num_cpus > 100 else None

    def room(self, lane: Lane) -> int:
        return self.slots - len(self.held)

    def start(self, lane: Lane, attempts: list[Attempt]) -> None:
        self.lanes.append(lane)
        if attempts[0].beside is not None:  # it has its process already
            self.kept.remove(attempts[0].beside)
        else:
            assert len(attempts) <= self.room(lane)
        for attempt in attempts:
            self.held[attempt.key] = attempt
            self.order.append(attempt.step)

    def wait(self, timeout_s: float | None) -> list[Report]:
        self.waited.append(timeout_s)
        if not self.news and not self.is_woken and timeout_s != 0.0:
            raise Asleep
        self.is_woken = False
        news, self.news = self.news, []
        return news

    def wake(self) -> None:
        self.is_woken = True

    def kill(self, keys: set[int]) -> None:
        self.kept -= keys
        self.killed += sorted(self.held.pop(key).step for key in keys if key in self.held)

    def close(self) -> None:
        pass


class HandCommitter(Committer):
    """Makes the commit when the test says so."""

    def __init__(self, journal: WatchedJournal, wake: Callable[[], None]) -> None:
        self.journal, self.wake = journal, wake
        self.batch: Batch | None = None
        self.result: Outcome | None = None

    def begin(self, batch: Batch) -> None:
        assert self.batch is None
        self.batch = batch

    def finish(self) -> None:
        assert self.batch is not None
        batch, self.batch = self.batch, None
        try:
            self.result = self.journal.commit(batch)
        except StorageError as problem:
            self.result = problem
        self.wake()

    def outcome(self, *, wait: bool) -> Outcome | None:
        if wait and self.batch is not None:
            self.finish()
        result, self.result = self.result, None
        return result

    def close(self) -> None:
        pass


class Desk:
    """An engine and everything around it."""

    def __init__(
        self,
        journal: WatchedJournal | None = None,
        name: str = "e1",
        *,
        turns: Turns | None = None,
    ) -> None:
        self.journal = journal or WatchedJournal()
        self.executor, self.clock = HandExecutor(), HandClock()
        self.committer = HandCommitter(self.journal, self.executor.wake)
        self.engine = Engine(
            name,
            self.journal,
            self.executor,
            self.clock,
            committer=self.committer,
            turns=turns,
            seed=1,
        )
        self.news: dict[str, list[News]] = {}

    def hear(self, run_id: str) -> Callable[[News], None]:
        return self.news.setdefault(run_id, []).append

    def submit(self, run_id: str, *steps: Step, turn: bool = True, **options: Any) -> None:
        self.submit_graph(run_id, graph(*steps), **options)
        if turn:
            self.turn()

    def submit_graph(self, run_id: str, first: Graph, **options: Any) -> None:
        key, pages = encode_pages(first.steps)
        environment = options.pop("environment", HERE)
        creation = Creation(
            workflow="w", created_at=self.clock.now, environment=environment, metadata={}
        )
        submission = Submission(
            run_id=run_id,
            creation=creation,
            graph=first,
            graph_hash=key,
            pages=pages,
            is_actor=options.pop("is_actor", False),
            group=options.pop("group", None),
        )
        self.engine.submit(submission, self.hear(run_id), **options)

    def adopt(self, run_id: str, **options: Any) -> None:
        recorded = read_run(self.journal, run_id, to_drive=True)
        self.engine.adopt(recorded, self.hear(run_id), **options)
        self.turn()

    def watch(
        self,
        run_id: str,
        name: str | None = None,
        ear: str = "watch",
        *,
        is_expected: bool = False,
    ) -> None:
        self.engine.watch(run_id, name, self.hear(ear), is_expected=is_expected)
        self.turn()

    def post(self, run_id: str, kind: InboxKind, body: bytes = b"null") -> None:
        """Put news into a run's inbox, and tell the engine."""
        self.journal.post(run_id, kind, body)
        self.engine.look()

    def send(self, run_id: str, value: object, name: str = "news", *objects: str) -> None:
        """A signal for a run."""
        body = msgspec.json.encode(Signal(name, Raw(packed(value)), objects))
        self.post(run_id, InboxKind.SIGNAL, body)

    def call(
        self, run_id: str, *steps: Step, call: str = "", objects: tuple[str, ...] = ()
    ) -> None:
        """A call of a method of an actor."""
        (page,) = encode_pages(steps)[1]
        body = msgspec.json.encode(ActorCall(page, call, objects))
        self.post(run_id, InboxKind.CALL, body)

    def is_loaded(self, run_id: str) -> bool:
        """Whether the run is in memory; driven here it is in any case."""
        assert self.engine.drives(run_id)
        return run_id not in self.engine.runs.parked

    def run_of(self, run_id: str) -> Run:
        """The run as the engine has it in memory."""
        active = self.engine.runs.find(run_id)
        assert active is not None
        assert active.is_loaded
        return active.run

    def turn(self) -> None:
        """Turn until the engine would sleep: all that is at hand is taken in and built upon."""
        for _ in range(50):
            try:
                self.engine.turn()
            except Asleep:
                return
        raise AssertionError("the engine goes round in circles")

    def wait(self, seconds: float) -> None:
        """Let so much time pass; the engine turns whenever it wants to be woken."""
        end = self.clock.now + seconds
        self.turn()
        while self.clock.now < end:
            patience = self.executor.waited[-1]
            left = end - self.clock.now
            self.clock.now = (
                end if patience is None or patience >= left else self.clock.now + patience
            )
            self.turn()

    def attempt(self, name: str) -> Attempt:
        (found,) = [each for each in self.executor.held.values() if each.step == name]
        return found

    def under_way(self) -> list[str]:
        return [attempt.step for attempt in self.executor.held.values()]

    def report(self, *reports: Report) -> None:
        for each in reports:
            if not isinstance(each, Started | Printed | Refused):
                self.executor.held.pop(each.key, None)
        self.executor.news += reports

    def succeed(
        self,
        *names: str,
        turn: bool = True,
        value: object = None,
        state: object = None,
        is_volatile: bool = False,
    ) -> None:
        for name in names:
            done = packed(name if value is None else value)
            left = None if state is None else packed(state)
            key = self.attempt(name).key
            self.report(Succeeded(key=key, value=done, state=left, is_volatile=is_volatile))
        if turn:
            self.turn()

    def fail(self, name: str, *, turn: bool = True, retryable: bool = True) -> None:
        attempt = self.attempt(name)
        self.report(Failed(key=attempt.key, error=error(name), retryable=retryable))
        if turn:
            self.turn()

    def extend(
        self,
        name: str,
        *steps: Step,
        turn: bool = True,
        stays: bool = False,
        state: object = None,
        output: int | list[int] = 0,
    ) -> None:
        graph_key, pages = encode_pages(steps)
        key = self.attempt(name).key
        left = None if state is None else packed(state)
        if stays:
            self.executor.kept.add(key)
        self.report(
            Extended(key=key, graph=graph_key, pages=pages, output=output, stays=stays, state=left)
        )
        if turn:
            self.turn()

    def lose(self, name: str) -> None:
        self.report(Lost(key=self.attempt(name).key, reason="killed"))
        self.turn()

    def starve(self, name: str) -> None:
        self.report(Starved(key=self.attempt(name).key, reason="there is no room"))
        self.turn()

    def give_back(self, name: str, *, turn: bool = True) -> None:
        self.report(GivenBack(key=self.attempt(name).key))
        if turn:
            self.turn()

    def ended(self, run_id: str) -> list[Ended]:
        return [each for each in self.news[run_id] if isinstance(each, Ended)]

    def gone(self, run_id: str) -> list[WeftlineError]:
        return [each.error for each in self.news[run_id] if isinstance(each, Gone)]

    def status(self, run_id: str, name: str) -> StepStatus:
        run = read_run(self.journal, run_id).run
        found = run.find_step(name)
        assert found is not None
        return run.status_of(found)

    def slow_commits(self) -> None:
        """From now on commits are made beside the loop."""
        self.engine.writer.commit_s = 1.0
