"""A run that this engine owns: its state, what is not written yet, and who listens."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from msgspec import Struct

from weftline.core.actions import PythonCall
from weftline.core.environment import Environment
from weftline.core.events import ActorRested, Event, RunStatus, RunSubmitted, encode_event
from weftline.core.graph import Graph
from weftline.core.run import Run
from weftline.core.state import StepState, StepStatus
from weftline.core.values import NOTHING, Error, Packed
from weftline.errors import StepNotFoundError, WeftlineError, WorkflowError
from weftline.ports.journal import Creation, Entry, Summary

FIRST_METHOD = "__init__"
"""The name of an actor's first step; no other one is called so."""


class Ended(NamedTuple):
    """The run does not go on by itself: it has a result, an error, or is held.

    `step` is the one that failed; None with an error: it was refused, and no step was carried out.
    """

    status: RunStatus
    value: Packed | None
    error: Error | None
    step: str | None
    reason: str | None

    @classmethod
    def of(cls, run: Run) -> "Ended":
        """How the run stands at its end; an actor at rest has the value of its last call."""
        step = None if run.failed_step is None else run.steps[run.failed_step].name
        return cls(run.status, run.value, run.error, step, run.held)

    @classmethod
    def find(cls, run: Run, name: str | None) -> "Ended | None":
        """How the run, or its step `name`, has ended; None as long as it has not."""
        if name is None:
            return cls.of(run) if run.is_at_rest or not run.is_open else None
        step = run.find_step(name)
        if step is not None:
            return cls.of_step(run, step.number)
        if run.laid_down and name == FIRST_METHOD:  # else there would be nothing behind
            return cls(RunStatus.SUCCESSFUL, NOTHING, None, name, None)
        if run.is_actor and not run.is_open:  # a call that waits until the actor goes on
            reason = f"it has not begun, and the actor is {run.status}"
            return cls(run.status, None, run.error, cls.of(run).step, run.held or reason)
        return None

    @classmethod
    def of_step(cls, run: Run, number: int) -> "Ended | None":
        """How one step has ended; None as long as it may still get a value."""
        step = run.steps[number]
        value = run.value_of(number)
        if value is not None:
            return cls(RunStatus.SUCCESSFUL, value, None, step.name, None)
        error = run.error_of(number)
        if error is not None:
            return cls(RunStatus.FAILED, None, error, step.name, None)
        if run.is_open and not step.is_ended:
            return None
        reason = f"step {step.name!r} has no value: it is {run.status_of(step)}"
        if not run.is_open and run.error is not None:
            return cls(run.status, None, run.error, Ended.of(run).step, reason)
        return cls(run.status, None, error, step.name, reason)


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
    is_actor: bool = False
    group: tuple[str, int] | None = None

    def first_event(self, *, is_pending: bool) -> RunSubmitted:
        return RunSubmitted(
            graph=self.graph_hash,
            output=self.graph.output,
            warnings=self.warnings,
            is_pending=is_pending,
            is_actor=self.is_actor,
            group=self.group,
        )


UNLOADED = Run()
"""What a run that is parked, or driven here no more, has in place of its own: nothing is of its
generation, which voids what of the run still stands in a queue."""
UNLOADED.generation = -1


class ActiveRun:
    """One owned run. Only the engine's thread touches it."""

    __slots__ = (
        "attempts",
        "base_seq",
        "creation",
        "detaches",
        "entries",
        "environment",
        "epoch",
        "events",
        "forward",
        "graphs",
        "group",
        "inbox_read",
        "is_looked_at",
        "is_new",
        "is_owned",
        "is_queued",
        "kept",
        "last_seq",
        "listeners",
        "objects",
        "on_accepted",
        "run",
        "run_id",
        "starved",
        "step_listeners",
        "stored",
        "taken",
        "takes",
        "timer",
        "told_generation",
        "turn",
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
        self.detaches = False
        self.base_seq = 0
        self.stored = Summary(status=RunStatus.RUNNING, steps=0, succeeded=0)  # as last written
        self.is_queued = False  # in the writer's list of runs with something to write
        self.entries: list[Entry] = []
        self.graphs: list[tuple[str, Iterable[bytes]]] = []
        self.objects: list[str] = []
        self.attempts: dict[int, int] = {}  # step number -> key of the attempt under way
        self.starved: dict[int, float] = {}  # steps whose result finds no room, and since when
        self.kept: dict[int, int] = {}  # step -> key of the attempt whose process waits for it
        self.taken: list[int] = []  # inbox entries taken in since the last commit
        self.inbox_read = 0  # the number of the last one
        self.group: tuple[str, int] | None = None  # as in RunSubmitted
        # To run, where that is limited: of which group, and what gives it back.
        self.turn: tuple[str | None, Callable[[], object] | None] | None = None
        self.timer: float | None = None  # the earliest time at which the engine looks at its waits
        self.listeners: list[Listener] = []
        self.step_listeners: dict[str, list[Listener]] = {}
        self.on_accepted: Callable[[], object] | None = None
        """Called once the run is durable and this engine's."""
        self.is_looked_at = False  # soon, whether it can be parked
        self.forward = False
        self.wants_events = False
        self.events: list[tuple[float, Event]] = []
        self.told_generation = -1

    @property
    def is_loaded(self) -> bool:
        """Whether the run is driven here, and in memory."""
        return self.run is not UNLOADED

    def unload(self) -> None:
        """Keep nothing of the run in memory."""
        self.run = UNLOADED

    def is_to_begin(self, step: StepState) -> bool:
        """Whether the step is READY, or was handed back by its executor, and nobody has it."""
        is_begun = step.status is StepStatus.RUNNING and step.may_begin
        if not is_begun and step.status is not StepStatus.READY:
            return False
        return isinstance(step.spec.action, PythonCall) and step.number not in self.attempts

    def list_handed_back(self) -> None:
        """List as ready what is recorded as running, but was handed back by its executor while
        nothing could be started."""
        if self.run.may_start:
            for step in self.run.steps:
                if step.status is StepStatus.RUNNING and self.is_to_begin(step):
                    self.run.ready.append(step.number)

    def append(self, event: Event, at: float) -> None:
        """Note an applied event as one to be written."""
        self.last_seq += 1
        kind = type(event)
        self.entries.append(Entry(self.last_seq, at, kind.__name__, encode_event(event)))
        if self.wants_events:
            self.events.append((at, event))
        if kind is ActorRested:
            self.base_seq = self.last_seq

    def summary(self) -> Summary:
        run = self.run
        return Summary(
            status=run.status,
            steps=run.laid_down + len(run.steps),
            succeeded=run.succeeded,
            started_at=run.started_at,
            ended_at=run.ended_at,
            wake_at=run.next_due(),
            error=run.error,
            value=run.value,
            base_seq=self.base_seq,
        )

    def tell(self, news: News) -> None:
        """Tell whoever listens; that the run is gone also to those who wait for steps."""
        for listener in self.listeners:
            listener(news)
        if isinstance(news, Gone):
            self.tell_steps(news)

    def tell_step(self, name: str, news: News) -> None:
        """Tell those who wait for the end of this step, for good."""
        for listener in self.step_listeners.pop(name, ()):
            listener(news)

    def tell_late(self) -> None:
        """Tell those who began to watch a step while its end was being written."""
        for name in list(self.step_listeners):
            ended = Ended.find(self.run, name)
            if ended is not None:
                self.tell_step(name, ended)

    def tell_of_unknown(self) -> None:
        """Nobody waits for ever for steps that a run which is over never had."""
        for name in list(self.step_listeners):
            if self.run.find_step(name) is None:
                ended = Ended.find(self.run, name)
                self.tell_step(name, ended or Gone(never_had(self.run_id, name)))

    def tell_steps(self, news: News) -> None:
        """Tell those who wait for the ends of steps, for good."""
        for name in list(self.step_listeners):
            self.tell_step(name, news)


def never_had(run_id: str, name: str) -> WorkflowError:
    """Why nothing can be told of a step that the run had not when it ended."""
    return StepNotFoundError(f"No such step_id {name} in workflow {run_id}", run_id)


def error_of(error: WeftlineError) -> Error:
    """An own error as it is recorded; the engine pickles nothing, so drivers know it by name."""
    return Error(type=f"{type(error).__module__}.{type(error).__name__}", text=str(error))
