"""A run that this engine owns: its state, what is not written yet, and who listens."""

from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from msgspec import Struct

from weftline.core.environment import Environment
from weftline.core.events import Event, RunStatus, RunSubmitted, encode_event
from weftline.core.graph import Graph
from weftline.core.run import Run
from weftline.core.values import Error, Packed
from weftline.errors import WeftlineError
from weftline.ports import Creation, Entry, RunChange, Summary


class Ended(NamedTuple):
    """The run does not go on by itself: it has a result, an error, or is held."""

    status: RunStatus
    value: Packed | None
    error: Error | None
    step: str | None
    reason: str | None

    @classmethod
    def of(cls, run: Run) -> "Ended":
        """How the run stands at its end."""
        step = None if run.failed_step is None else run.steps[run.failed_step].name
        return cls(run.status, run.value, run.error, step, run.held)


class Committed(NamedTuple):
    """These events of the run are durable now."""

    events: list[tuple[float, Event]]


class Output(NamedTuple):
    """A step printed this text. `stream` is `stdout` or `stderr`."""

    step: str
    stream: str
    text: str


class Stalled(NamedTuple):
    """Nothing can be written since the given time (monotonic seconds); the engine keeps trying."""

    since: float
    error: WeftlineError


class Gone(NamedTuple):
    """This engine does not drive the run (any more), and why.

    `is_outdated`: it was to be taken over, and changed between being read and being taken.
    """

    error: WeftlineError
    is_outdated: bool = False


News = Ended | Committed | Output | Stalled | Gone
Listener = Callable[[News], None]
"""Called on the engine's thread: it must not block."""


class Submission(Struct, kw_only=True):
    """A new run. `graph_hash` and `pages` are its graph's; the pages can be iterated over again."""

    run_id: str
    creation: Creation
    graph: Graph
    graph_hash: str
    pages: Iterable[bytes]
    objects: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def first_event(self) -> RunSubmitted:
        return RunSubmitted(graph=self.graph_hash, output=self.graph.output, warnings=self.warnings)


class ActiveRun:
    """One owned run. Only the engine's thread touches it."""

    __slots__ = (
        "attempts",
        "creation",
        "entries",
        "environment",
        "epoch",
        "events",
        "forward",
        "graphs",
        "is_new",
        "is_owned",
        "is_queued",
        "last_seq",
        "listeners",
        "objects",
        "run",
        "run_id",
        "starved",
        "stored",
        "takes",
        "told_generation",
        "wants_events",
    )

    def __init__(self, run_id: str, run: Run, creation: Creation, epoch: int, seq: int) -> None:
        self.run_id, self.run, self.creation = run_id, run, creation
        self.environment: Environment = creation.environment
        self.epoch = epoch  # as stored
        self.last_seq = seq
        self.is_new = False
        self.is_owned = False  # as the journal has it
        self.takes = False
        self.stored = Summary(status=RunStatus.RUNNING, steps=0, succeeded=0)  # as last written
        self.is_queued = False  # in the engine's list of runs with something to write
        self.entries: list[Entry] = []
        self.graphs: list[tuple[str, Iterable[bytes]]] = []
        self.objects: list[str] = []
        self.attempts: dict[int, int] = {}  # step number -> key of the attempt under way
        self.starved: dict[int, float] = {}  # steps whose result finds no room, and since when
        self.listeners: list[Listener] = []
        self.forward = False
        self.wants_events = False
        self.events: list[tuple[float, Event]] = []
        self.told_generation = -1

    def append(self, event: Event, at: float) -> None:
        """Note an applied event as one to be written."""
        self.last_seq += 1
        kind = type(event).__name__
        self.entries.append(Entry(self.last_seq, at, kind, encode_event(event)))
        if self.wants_events:
            self.events.append((at, event))

    def summary(self) -> Summary:
        run = self.run
        return Summary(
            status=run.status,
            steps=len(run.steps),
            succeeded=run.succeeded,
            started_at=run.started_at,
            ended_at=run.ended_at,
            error=run.error,
            value=run.value,
        )

    def tell(self, news: News) -> None:
        for listener in self.listeners:
            listener(news)


class Part:
    """What a commit writes of one run, and what follows once it is written."""

    __slots__ = ("active", "change", "ending", "events", "generation", "graphs", "objects", "ready")

    def __init__(self, active: ActiveRun, change: RunChange) -> None:
        self.active, self.change = active, change
        self.graphs, self.objects, self.events = active.graphs, active.objects, active.events
        self.ready, self.generation = active.run.ready, active.run.generation
        self.ending = None if active.run.is_open else Ended.of(active.run)

    @classmethod
    def of(cls, active: ActiveRun, engine: str) -> "Part":
        """Take everything unwritten out of the run; facts that come later gather for the next."""
        change = RunChange(
            run_id=active.run_id,
            epoch=active.epoch,
            entries=active.entries,
            summary=active.summary(),
            creation=active.creation if active.is_new else None,
            takes=active.takes,
            engine=engine,
        )
        part = cls(active, change)
        active.entries, active.graphs, active.objects, active.events = [], [], [], []
        active.run.ready = deque()
        active.is_queued = active.is_new = active.takes = False
        return part

    def take_back(self) -> None:
        """The commit did not take place: everything is unwritten again."""
        active = self.active
        active.is_new |= self.change.creation is not None
        active.takes |= self.change.takes
        active.entries = [*self.change.entries, *active.entries]
        active.graphs = self.graphs + active.graphs
        active.objects = self.objects + active.objects
        active.events = self.events + active.events
        if self.generation == active.run.generation:
            active.run.ready.extendleft(reversed(self.ready))
