"""What must be true of every commit and of every start of an attempt, whatever happens.

The audit reads each commit along, as the store has it, and keeps a shadow of every run, folded from
the stored texts alone. A breach raises `Broken`.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from tests.graphs import recount
from tests.programs import ActorProgram, Node, Program
from weftline.adapters.journal.memory import MemoryJournal
from weftline.core.actions import Wait, WaitKind
from weftline.core.events import (
    CallReceived,
    Event,
    GraphExtended,
    RunAdopted,
    RunResumed,
    RunSubmitted,
    ScopeClosed,
    SignalReceived,
    StepFailed,
    StepLost,
    StepSucceeded,
    WaitBegun,
    WaitEnded,
    decode_event,
)
from weftline.core.graph import Graph, decode_pages
from weftline.core.run import Run
from weftline.core.state import StepState, StepStatus
from weftline.core.values import Inline, Packed, unpack
from weftline.errors import ImpossibleEvent
from weftline.ports.executor import Attempt
from weftline.ports.journal import Entry, InboxKind, RunChange, Summary


class Broken(AssertionError):
    """Something happened that must never happen."""


class Around(Protocol):
    """What the audit knows of the world around it."""

    now: float
    latest_time: float
    programs: dict[str, Program | ActorProgram]

    def count(self, what: str) -> None: ...


@dataclass
class News:
    """An entry of an inbox, from its post until it is taken in."""

    run_id: str
    kind: InboxKind
    name: str  # of the signal, or of the call
    is_taken: bool = False


@dataclass
class Shadow:
    """A run as its journal tells at this moment, folded from the stored texts."""

    run_id: str
    program: Program | ActorProgram
    run: Run
    last_seq: int = 0
    base_seq: int = 0
    epoch: int = 0
    owner: str | None = None
    writers: dict[int, str] = field(default_factory=dict)  # epoch -> who wrote in it
    values: dict[str, Packed] = field(default_factory=dict)
    fails: Counter[str] = field(default_factory=Counter)
    losses: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    deadlines: dict[int, float] = field(default_factory=dict)  # of waits that have begun
    calls: list[str] = field(default_factory=list)  # names of an actor's calls, in their order
    signals: Counter[str] = field(default_factory=Counter)
    gone: set[Packed] = field(default_factory=set)  # values that did not survive a crash
    news_at: float = 0.0
    is_torn: bool = False  # what follows from its last cause is not written

    def node(self, name: str) -> Node:
        return self.program.node_of(name)

    @property
    def is_done(self) -> bool:
        """Whether nothing more is to be expected of it."""
        return self.run.is_at_rest or str(self.run.finished) == "SUCCESSFUL"


def summary_of(run: Run, base_seq: int = 0) -> Summary:
    """What lists of runs are to show of it."""
    return Summary(
        status=run.status,
        steps=run.laid_down + len(run.steps),
        succeeded=run.succeeded,
        started_at=run.started_at,
        ended_at=run.ended_at,
        wake_at=run.next_due(),
        error=run.error,
        value=run.value,
        base_seq=base_seq,
    )


def effects(run: Run) -> list[str]:
    """The names that an actor's methods have added to its state, in order."""
    if run.state is None:
        return []
    value = unpack(run.state)
    assert isinstance(value, Inline)
    found: list[str] = msgspec.json.decode(value.data)
    return found


class Audit:
    """Reads every commit along, and every start of an attempt."""

    def __init__(self, world: Around, store: MemoryJournal) -> None:
        self._world, self._store = world, store
        self.shadows: dict[str, Shadow] = {}
        self.seen: Counter[str] = Counter()
        self.news: dict[int, News] = {}

    def check(self, holds: bool, what: str) -> None:
        if not holds:
            raise Broken(what)

    # -- commits ------------------------------------------------------------------------------

    def committed(self, change: RunChange, engine: str, *, is_torn: bool = False) -> None:
        """`engine` had this change accepted by the journal. `is_torn`: the last cause in it may be
        without what follows from it."""
        shadow = self._shadow_of(change, engine)
        news = self._taken_in(change)
        if not change.entries:
            self.check(not news, f"{news} led to nothing")
            return
        writer = shadow.writers.setdefault(shadow.epoch, engine)
        self.check(writer == engine, f"{writer} and {engine} wrote in epoch {shadow.epoch}")
        shadow.news_at = self._world.now
        told: list[tuple[InboxKind, str]] = []
        for entry in change.entries:
            event = self._recorded(shadow, entry)
            if isinstance(event, SignalReceived):
                told.append((InboxKind.SIGNAL, event.name))
            elif isinstance(event, CallReceived):
                told.append((InboxKind.CALL, event.call))
        # What comes with the news that end a run, and behind them, is too late.
        expected = news[: len(told)] if str(shadow.run.finished) == "SUCCESSFUL" else news
        self.check(is_torn or told == expected, f"it took in {news} and recorded {told}")
        self._judge_order(shadow, [entry.kind for entry in change.entries])
        shadow.is_torn = is_torn
        run = shadow.run
        follows = None if is_torn else run.settle()
        self.check(follows is None, f"{follows} was not written with its cause")
        late = [n for n in run.beginning if run.steps[n].status is StepStatus.READY]
        self.check(is_torn or not (late and run.may_start), f"waits {late} were not begun")
        self._compare(change.summary, summary_of(run, shadow.base_seq), run)
        self.check(run.unfinished == recount(run), "the counter of open steps is wrong")
        if shadow.program.is_actor:
            self._judge_effects(shadow)

    def _shadow_of(self, change: RunChange, engine: str) -> Shadow:
        shadow = self.shadows.get(change.run_id)
        if change.creation is not None:
            self.check(shadow is None, f"{change.run_id} was created twice")
            program = self._world.programs[change.run_id]
            shadow = Shadow(change.run_id, program, Run(change.run_id))
            self.shadows[change.run_id] = shadow
            shadow.epoch, shadow.owner = 1, engine
            return shadow
        assert shadow is not None
        self.check(change.epoch == shadow.epoch, "a late writer was let in")
        if change.takes:
            shadow.epoch, shadow.owner = shadow.epoch + 1, change.engine
        else:
            self.check(shadow.owner == engine, f"{engine} wrote what is {shadow.owner}'s")
        return shadow

    def _taken_in(self, change: RunChange) -> list[tuple[InboxKind, str]]:
        """Signals and calls that the change takes in for the first time, in order."""
        found: list[tuple[InboxKind, str]] = []
        run = self.shadows[change.run_id].run
        is_over = str(run.finished) == "SUCCESSFUL"
        for number in change.taken:
            entry = self.news[number]
            self.check(entry.run_id == change.run_id, f"{number} was for {entry.run_id}")
            if entry.is_taken:
                self._world.count("news taken in once more, to no effect")
                continue
            entry.is_taken = True
            self._world.count(f"news taken in: {entry.kind}")
            if entry.kind in (InboxKind.SIGNAL, InboxKind.CALL) and not is_over:
                found.append((entry.kind, entry.name))
        return found

    def _judge_order(self, shadow: Shadow, kinds: list[str]) -> None:
        for at in range(len(kinds) - 2):
            is_undone = kinds[at : at + 3] == ["RunAdopted", "Quarantined", "RunResumed"]
            self.check(not is_undone, "a quarantine was lifted as soon as it began")
        if kinds[:2] == ["RunAdopted", "RunFinished"] and not shadow.is_torn:
            raise Broken("an adoption ended a run that was open")

    def _compare(self, told: Summary, found: Summary, run: Run) -> None:
        """The row says what the journal does. (That the time of a retry has come is no event, so
        one of the two may wait for one already that the other does not wait for any more.)"""
        wakes = {None, *(step.due_at for step in run.steps)}
        self.check(told.wake_at in wakes, f"nothing happens at {told.wake_at}")
        if told.wake_at != found.wake_at:
            early = found.wake_at if told.wake_at is None else min(told.wake_at, found.wake_at or 0)
            self.check((early or 0) <= self._world.latest_time, f"it wakes at {told.wake_at}")
        told = msgspec.structs.replace(told, wake_at=None)
        found.wake_at = None
        self.check(told == found, f"the summary {told} is not what the journal tells: {found}")

    def _recorded(self, shadow: Shadow, entry: Entry) -> Event:
        self.check(entry.seq == shadow.last_seq + 1, f"seq {entry.seq} after {shadow.last_seq}")
        shadow.last_seq = entry.seq
        event = decode_event(entry.body)
        self.check(type(event).__name__ == entry.kind, f"{entry.kind} is not what it says")
        self.seen[entry.kind] += 1
        graph: Graph | None = None
        if isinstance(event, RunSubmitted | GraphExtended):
            steps = decode_pages(self._store.read_graph(event.graph))
            graph = Graph(steps=steps, output=event.output)
        run = shadow.run
        if isinstance(event, StepSucceeded | GraphExtended | ScopeClosed):
            name = run.steps[event.step].name
            self.check(name not in shadow.values, f"{name} was finished twice")
        self._judge_waits(shadow, event, entry.at)
        try:
            run.apply(event, entry.at, graph)
        except ImpossibleEvent as error:
            raise Broken(f"{event} is impossible: {error}") from error
        self._note(shadow, event, entry)
        return event

    def _judge_waits(self, shadow: Shadow, event: Event, at: float) -> None:
        """A wait begins once, and its deadline is kept, whoever drives the run."""
        if isinstance(event, RunResumed | CallReceived) or type(event).__name__ == "ActorRested":
            shadow.deadlines.clear()  # what failed begins afresh, and numbers may be used anew
        elif isinstance(event, WaitBegun):
            self.check(event.step not in shadow.deadlines, "a wait begins twice")
            shadow.deadlines[event.step] = event.until or 0.0
        elif isinstance(event, WaitEnded):
            step = shadow.run.steps[event.step]
            action = step.spec.action
            if isinstance(action, Wait) and action.kind is WaitKind.TIMER:
                early = (step.due_at or 0.0) - at
                self.check(early <= 0, f"{step.name} ended {early} s early")
                until = shadow.deadlines.get(event.step, step.due_at)
                self.check(step.due_at == until, f"{step.name} has another deadline")

    def _note(self, shadow: Shadow, event: Event, entry: Entry) -> None:
        run = shadow.run
        if isinstance(event, RunAdopted):
            for number in event.lost:
                shadow.values.pop(run.steps[number].name, None)
                self._world.count("value lost")
        elif isinstance(event, CallReceived):
            shadow.calls.append(event.call)
        elif isinstance(event, SignalReceived):
            shadow.signals[event.name] += 1
        elif entry.kind == "ActorRested":
            shadow.base_seq = entry.seq
        if not isinstance(
            event, StepSucceeded | StepFailed | StepLost | GraphExtended | ScopeClosed
        ):
            return
        state = run.steps[event.step]
        value = run.value_of(event.step)
        if state.status is StepStatus.SUCCESSFUL and value is not None:
            shadow.values[state.name] = value
            shadow.gone.discard(value)
        if isinstance(event, StepLost):
            shadow.losses[state.name] += 1
        elif isinstance(event, StepFailed):
            shadow.fails[state.name] += 1
        if isinstance(event, StepSucceeded | StepFailed | GraphExtended):
            shadow.outcomes[state.name] += 1

    # -- actors -------------------------------------------------------------------------------

    def _judge_effects(self, shadow: Shadow) -> None:
        """The calls of an actor have their effects in their order, each once and whole."""
        found = effects(shadow.run)
        self.check(len(set(found)) == len(found), f"{found}: something was done twice")
        order = ["__init__", *(call.partition(":")[0] for call in shadow.calls)]
        places = [order.index(name.partition(":")[0]) for name in found]
        self.check(places == sorted(places), f"{found}: not in the order of the calls")
        if shadow.run.is_at_rest:
            counts = Counter(places)
            for place, call in enumerate(["__init__", *shadow.calls]):
                size = ActorProgram.size(call.partition(":")[2])
                self.check(counts[place] == size, f"{found}: {call} is not whole")

    # -- attempts -----------------------------------------------------------------------------

    def started(self, attempt: Attempt, engine: str) -> None:
        """An engine handed this attempt to its executor."""
        shadow = self.shadows.get(attempt.run_id)
        if shadow is None:
            raise Broken(f"{attempt.step} of {attempt.run_id} starts before the run is durable")
        if shadow.owner != engine:
            self._world.count("start by an engine that does not own the run any more")
            return
        state = self._state(shadow, attempt.step)
        run = shadow.run
        self.check(state.may_begin, f"{attempt.step} is {state.status} and starts")
        if state.status is StepStatus.WAITING:
            assert state.due_at is not None
            early = state.due_at - self._world.latest_time
            self.check(early <= 0, f"the retry of {attempt.step} starts {early} s early")
        self.check(run.may_start, f"{attempt.step} starts in a run that is {run.status}")
        self.check(attempt.inputs == run.inputs_of(state.number), "an input is not durable")
        self.check(attempt.number > state.attempt, f"attempt {attempt.number} is not a new one")
        gone = [n for n in run.sources_of(state) if run.steps[n].value in shadow.gone]
        self.check(not gone, f"{attempt.step} reads what was lost")
        is_writer = attempt.call.is_writer
        self.check(not is_writer or attempt.state == run.state, "a state is not durable")

    def begun(self, attempt: Attempt, engine: str) -> None:
        """The function is really called now."""
        shadow = self.shadows[attempt.run_id]
        if shadow.owner == engine:
            state = self._state(shadow, attempt.step)
            self.check(not state.is_ended, f"{attempt.step} has ended and runs again")
            is_canceled = shadow.run.cancel_requested
            self.check(not is_canceled, f"{attempt.step} begins in a canceled run")

    def _state(self, shadow: Shadow, name: str) -> StepState:
        state = shadow.run.find_step(name)
        if state is None:
            raise Broken(f"{name} starts before it is durable")
        return state

    def values_are_kept(self, shadow: Shadow) -> None:
        for name, value in shadow.values.items():
            state = shadow.run.find_step(name)
            if state is not None:  # else an actor has laid it down
                kept = shadow.run.value_of(state.number)
                self.check(kept == value, f"the value of {name} changed")
