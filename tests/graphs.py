"""Small graphs, and a journal beside its run: what tests of the state machine are written with."""

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Raw

from weftline.core.actions import Action, PythonCall, Wait, WaitKind
from weftline.core.events import (
    CallReceived,
    ConditionDecided,
    Event,
    GraphExtended,
    RunStatus,
    RunSubmitted,
    SignalReceived,
    StepFailed,
    StepLost,
    StepStarted,
    StepSucceeded,
    WaitEnded,
    decode_event,
    encode_event,
)
from weftline.core.graph import Graph, Input, Join, Step, encode_pages
from weftline.core.policy import DEFAULT_PLACEMENT, Placement, Policy
from weftline.core.run import Run, fold
from weftline.core.state import StepState, StepStatus
from weftline.core.values import Error, Object, Packed, pack_inline

CALL = PythonCall(function=Object("f" * 64, "code", 1), arguments=b"")
LISTEN = PythonCall(function=Object("d" * 64, "code", 1), arguments=b"", listens=True)
WRITE = PythonCall(function=Object("e" * 64, "code", 1), arguments=b"", is_writer=True)


def step(
    name: str,
    *inputs: Input,
    needs: Iterable[int] = (),
    when: str | None = None,
    join: Join = Join.ALL_SUCCEEDED,
    action: Action = CALL,
    placement: Placement = DEFAULT_PLACEMENT,
    **policy: Any,
) -> Step:
    """A step that reads the steps at these positions; other options are its policy's."""
    return Step(
        name=name,
        action=action,
        inputs=inputs,
        needs=tuple(needs),
        when=when,
        join=join,
        placement=placement,
        policy=Policy(**policy),
    )


def method(name: str, *inputs: Input, **options: Any) -> Step:
    """A step that gets the state of its actor and gives a new one."""
    return step(name, *inputs, action=WRITE, **options)


def signal(name: str, *inputs: Input, of: str = "news", seconds: float | None = None) -> Step:
    """A step that waits for a signal."""
    return step(name, *inputs, action=Wait(WaitKind.SIGNAL, name=of, seconds=seconds))


def some(
    name: str, *inputs: Input, count: int = 1, seconds: float | None = None, **options: Any
) -> Step:
    """A step that waits for so many of its inputs."""
    wait = Wait(WaitKind.STEPS, count=count, seconds=seconds)
    return step(name, *inputs, action=wait, **options)


def timer(name: str, seconds: float, *inputs: Input, **options: Any) -> Step:
    """A step that waits."""
    return step(name, *inputs, action=Wait(WaitKind.TIMER, seconds=seconds), **options)


def graph(*steps: Step, output: int | list[int] = 0) -> Graph:
    return Graph(steps=list(steps), output=output)


def packed(value: object) -> Packed:
    """The value as a child would hand it over."""
    return pack_inline("json", msgspec.json.encode(value))


def error(text: str = "it broke") -> Error:
    return Error(type="builtins.ValueError", text=text)


class Book:
    """A run and its journal: each event is recorded together with what follows from it."""

    def __init__(
        self, first: Graph, submitted: RunSubmitted | None = None, *, run_id: str = "r"
    ) -> None:
        self.run = Run(run_id)
        self.now = 100.0
        self.events: list[tuple[float, Event]] = []
        self.followed: set[int] = set()  # numbers of the events that followed from another
        self.graphs: dict[str, Graph] = {"g0": first}
        self.record(submitted or RunSubmitted(graph="g0", output=first.output), first)

    def record(self, event: Event, graph: Graph | None = None) -> list[Event]:
        """Apply the event; returns what followed from it."""
        self.now += 1.0
        self._apply(event, graph)
        followed: list[Event] = []
        while (follows := self.run.settle()) is not None:
            self.followed.add(len(self.events))
            self._apply(follows, None)
            followed.append(follows)
        return followed

    def _apply(self, event: Event, graph: Graph | None) -> None:
        self.run.apply(event, self.now, graph)
        self.events.append((self.now, event))

    def state(self) -> RunStatus:
        return self.run.status

    # -- the steps by name ----------------------------------------------------------------------

    def __getitem__(self, name: str) -> StepState:
        found = self.run.find_step(name)
        assert found is not None, name
        return found

    def status(self, name: str) -> StepStatus:
        return self.run.status_of(self[name])

    def statuses(self) -> dict[str, StepStatus]:
        return {step.name: self.run.status_of(step) for step in self.run.steps}

    def value(self, name: str) -> Packed | None:
        return self.run.value_of(self[name].number)

    def ready(self) -> list[str]:
        """Names of the steps that are READY, in the order in which they became so."""
        listed = [self.run.steps[n] for n in self.run.ready]
        return [step.name for step in listed if step.status is StepStatus.READY]

    def _next(self, name: str) -> tuple[int, int]:
        state = self[name]
        is_running = state.status is StepStatus.RUNNING
        return state.number, state.attempt if is_running else state.attempt + 1

    def start(self, name: str) -> list[Event]:
        return self.record(StepStarted(*self._next(name)))

    def succeed(self, name: str, value: object = None) -> list[Event]:
        return self.record(StepSucceeded(*self._next(name), Raw(packed(value or name))))

    def fail(self, name: str, text: str = "it broke", retry_at: float | None = None) -> list[Event]:
        return self.record(StepFailed(*self._next(name), error(text), retry_at))

    def lose(self, name: str, reason: str = "killed") -> list[Event]:
        return self.record(StepLost(*self._next(name), reason))

    def extend(self, name: str, returned: Graph) -> list[Event]:
        key = f"g{len(self.graphs)}"
        self.graphs[key] = returned
        event = GraphExtended(*self._next(name), key, returned.output)
        return self.record(event, returned)

    def decide(self, name: str, holds: bool) -> list[Event]:
        return self.record(ConditionDecided(self[name].number, holds))

    def begin_wait(self, name: str) -> list[Event]:
        return self.record(self.run.begin_wait(self[name].number, self.now))

    def end_wait(self, name: str, value: object = None) -> list[Event]:
        """The wait ends: by its signal, where it is one for a signal."""
        state, given = self[name], Raw(packed(value))
        action = state.spec.action
        if isinstance(action, Wait) and action.kind is WaitKind.SIGNAL:
            return self.record(SignalReceived(action.name or "", given))
        return self.record(WaitEnded(state.number, given))

    def reread(self, count: int | None = None) -> Run:
        """The run that the journal folds into after `count` events, through their stored form."""
        stored = [(at, decode_event(encode_event(event))) for at, event in self.events[:count]]
        return fold(stored, self.graphs, self.run.run_id)


class ActorBook(Book):
    """An actor and its journal; its first step is called `__init__`."""

    def __init__(self, **options: Any) -> None:
        first = graph(method("__init__", **options))
        super().__init__(first, RunSubmitted(graph="g0", output=0, is_actor=True))

    def call(self, name: str, *others: Step, call: str = "", **options: Any) -> list[Event]:
        """Call a method; `others` are steps that it reads, which count from 1."""
        return self.call_step(method(name, **options), *others, call=call)

    def call_step(self, *steps: Step, call: str = "") -> list[Event]:
        (page,) = encode_pages(steps)[1]
        return self.record(CallReceived(page, call))

    def change(self, name: str, state: object, value: object = None) -> list[Event]:
        """The method ends, and leaves this state."""
        done = Raw(packed(name if value is None else value))
        return self.record(StepSucceeded(*self._next(name), done, state=Raw(packed(state))))

    def extend_and_change(self, name: str, state: object, returned: Graph) -> list[Event]:
        """The method returns steps, and leaves this state."""
        key = f"g{len(self.graphs)}"
        self.graphs[key] = returned
        number, attempt = self._next(name)
        left = Raw(packed(state))
        event = GraphExtended(number, attempt, key, returned.output, state=left)
        return self.record(event, returned)

    def rest(self) -> list[Event]:
        """Lay down what is behind, as the engine does."""
        return self.record(self.run.lay_down())


def picture(run: Run) -> dict[str, Any]:
    """All that can be asked of a run and that its journal alone decides, to be compared."""
    return {
        "run": (
            run.status, run.finished, run.held, run.error, run.failed_step, run.value,
            run.is_paused, run.cancel_requested, run.unfinished, run.succeeded,
            run.submitted_at, run.started_at, run.ended_at, run.warnings, run.names,
            run.is_pending, run.is_actor, run.group, run.state, run.laid_down, run.volatile,
            run.name_counts(), run.is_at_rest, run.signals.kept(),
        ),
        "steps": [
            (
                step.name, _as_recorded(run, step), run.value_of(step.number),
                run.error_of(step.number), step.attempt, step.tries, step.losses,
                step.started_at, step.ended_at, step.opened, step.condition, step.waiting_on,
            )
            for step in run.steps
        ],
        "scopes": [(scope.owner, scope.first, scope.count, scope.closed) for scope in run.scopes],
    }  # fmt: skip


def _as_recorded(run: Run, step: StepState) -> tuple[StepStatus, StepStatus]:
    # Whether the time of a retry has come is not in the journal.
    if step.status is StepStatus.WAITING and step.due_at is not None:
        is_canceled = run.finished in (RunStatus.CANCELED, RunStatus.SUCCESSFUL)
        return StepStatus.READY, StepStatus.CANCELED if is_canceled else StepStatus.READY
    return step.status, run.status_of(step)


def recount(run: Run) -> int:
    """How many steps keep the run from its end, counted one by one."""
    open_failures = set(run.failures.open)
    return sum(
        1
        for step in run.steps
        if step.number in open_failures
        or run.status_of(step) in (StepStatus.WAITING, StepStatus.READY, StepStatus.RUNNING)
        or (run.status_of(step) is StepStatus.CANCELED and not step.is_ended)
    )
