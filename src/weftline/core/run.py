"""The state machine of a run: what is true after a list of events, and what follows from it.

Pure: it takes events and a time, and answers what is ready, what is due and what the status is.
The engine appends an event to the journal and applies it here; a reader folds a journal from its
beginning. Both get the same run, because nothing else changes one.

A *scope* is the sub-graph a step returned; the run's own graph is scope 0. A failure climbs to the
innermost scope whose owner catches. All walks are loops over explicit lists: depth costs no stack.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from heapq import heapify, heappop, heappush

from msgspec import Raw

from weftline.core.actions import PythonCall, Wait, WaitKind
from weftline.core.events import (
    ActorRested,
    CallReceived,
    CancelRequested,
    ConditionDecided,
    Event,
    GraphExtended,
    PauseChanged,
    Quarantined,
    RunAdopted,
    RunBegun,
    RunFinished,
    RunResumed,
    RunStatus,
    RunSubmitted,
    ScopeClosed,
    SignalReceived,
    StepFailed,
    StepLost,
    StepSkipped,
    StepStarted,
    StepSucceeded,
    WaitBegun,
    WaitEnded,
)
from weftline.core.graph import (
    GivenInput,
    Graph,
    Join,
    OptionalInput,
    OuterInput,
    Step,
    decode_pages,
)
from weftline.core.names import Names, with_suffix
from weftline.core.policy import DEFAULT_POLICY
from weftline.core.values import Error, Packed, pack_caught, pack_inline, pack_list, pack_split
from weftline.errors import ImpossibleEvent

MAX_LOSSES = 4
"""Losses of one step in a row, under a living engine, after which the run is quarantined."""

MAX_ADOPTIONS = 10
"""Adoptions of a run without any other event after which it is quarantined."""

NOTHING: Packed = pack_inline("json", b"null")


class StepStatus(StrEnum):
    """Where a step stands."""

    WAITING = "WAITING"
    READY = "READY"
    RUNNING = "RUNNING"
    SUCCESSFUL = "SUCCESSFUL"
    FAILED = "FAILED"
    CANCELED = "CANCELED"
    SKIPPED = "SKIPPED"


WAITING, READY, RUNNING = StepStatus.WAITING, StepStatus.READY, StepStatus.RUNNING
SUCCESSFUL, FAILED = StepStatus.SUCCESSFUL, StepStatus.FAILED
CANCELED, SKIPPED = StepStatus.CANCELED, StepStatus.SKIPPED


class StepState:
    """One step as it stands. Read it freely; only `Run.apply` writes it."""

    __slots__ = (
        "attempt",
        "condition",
        "dependents",
        "due_at",
        "ended_at",
        "error",
        "joined",
        "lacks",
        "losses",
        "number",
        "opened",
        "returned_at",
        "scope",
        "spec",
        "started_at",
        "status",
        "suffix",
        "tries",
        "value",
        "waiting_on",
    )

    def __init__(self, number: int, suffix: int, spec: Step, scope: int) -> None:
        self.number, self.suffix, self.spec, self.scope = number, suffix, spec, scope
        self.status = WAITING
        self.waiting_on = 0  # edges from steps that have not ended
        self.dependents: list[int] | None = None  # one entry an edge
        self.joined = False  # waits for its inputs no more
        self.lacks = False  # an input ended without a value
        self.condition: bool | None = None
        self.attempt = 0  # the latest attempt known to have begun
        self.tries = 0  # attempts that counted, since the last resume
        self.losses = 0  # in a row
        self.value: Packed | None = None
        self.error: Error | None = None
        self.due_at: float | None = None  # the next try, or the end of a timer
        self.started_at: float | None = None
        self.ended_at: float | None = None
        self.opened: int | None = None  # the scope this step returned
        self.returned_at: float | None = None  # and when it did

    @property
    def name(self) -> str:
        """The step's own name within the run."""
        return with_suffix(self.spec.name, self.suffix)

    @property
    def is_ended(self) -> bool:
        """Whether nothing more happens to the step (a failed one may be resumed)."""
        return self.status not in (WAITING, READY, RUNNING)

    @property
    def may_begin(self) -> bool:
        """Whether an attempt of it may be started or settled."""
        if self.status is RUNNING:
            return self.opened is None
        # That the time of a retry has come is no event: in a journal the next attempt of a step
        # stands right behind the failed one.
        return self.status is READY or (self.status is WAITING and self.due_at is not None)


class Scope:
    """A sub-graph and the step that owns it (None for the run's own graph)."""

    __slots__ = (
        "catching",
        "chained",
        "closed",
        "count",
        "delivered",
        "first",
        "followers",
        "head",
        "inner",
        "left",
        "output",
        "outputs",
        "owner",
        "result",
    )

    def __init__(self, owner: int | None, first: int, graph: Graph) -> None:
        self.owner, self.first, self.count = owner, first, len(graph.steps)
        self.output: int | list[int] = (
            [first + n for n in graph.output]
            if isinstance(graph.output, list)
            else first + graph.output
        )
        self.outputs = frozenset(self.output if isinstance(self.output, list) else [self.output])
        self.left = len(self.outputs)
        self.catching = -1  # innermost scope, this one included, whose owner catches
        # A step that is its scope's output and returns steps hands its own place on: the new scope
        # delivers straight to the owner of the first one (its head), so that a chain of tail calls
        # stays flat however long it grows.
        self.head = -1
        self.chained = 0  # steps between this head's owner and the current output
        self.followers: list[int] | None = None  # dependents of those steps
        self.result: Packed | None = None
        self.delivered = False  # whether the output has ended; for heads
        self.inner: list[int] | None = None  # scopes opened by steps of this one
        self.closed = False


class Run:
    """A run as it stands after the events applied so far."""

    def __init__(self, run_id: str = "") -> None:
        self.run_id = run_id
        self.steps: list[StepState] = []
        self.scopes: list[Scope] = []
        self.ready: deque[int] = deque()
        """Steps that became READY and that nobody has taken from here yet."""
        self.beginning: deque[int] = deque()
        """READY waits, which begin as soon as the run may start anything (`begin_wait`)."""
        self.undecided: deque[int] = deque()
        """Steps that wait only for their condition to be decided."""
        self.dropped: list[int] = []
        """Steps whose attempt, if one is under way, is of no use any more."""
        self.finished: RunStatus | None = None
        self.error: Error | None = None
        self.failed_step: int | None = None
        self.held: str | None = None
        self.is_paused = self.is_pending = False
        self.cancel_requested = False
        self.is_actor = False
        self.group: tuple[str, int] | None = None
        self.state: Packed | None = None
        """An actor's last state."""
        self.laid_down = 0
        """Steps of an actor that lie behind: they are in the journal, and here no more."""
        self.volatile: set[int] = set()
        """Steps whose value need not survive a crash of the machine."""
        self.value: Packed | None = None
        self.unfinished = 0
        self.succeeded = 0
        self.adoptions = 0
        self.generation = 0
        """Counts adoptions and resumes: what was taken from `ready` before is void after one."""
        self.submitted_at: float | None = None
        self.started_at: float | None = None
        self.ended_at: float | None = None
        self.warnings: list[str] = []
        self._open_failures: list[int] = []
        self._names = Names()
        self._due: deque[Event] = deque()
        self._later: list[tuple[float, int]] = []
        self._signals: dict[str, deque[Packed]] = {}  # that nobody has waited for yet
        self._waiting_for: dict[str, deque[int]] = {}  # steps, by the name of their signal
        self._matched: set[str] = set()  # names for which there may be both
        self._has_splits = self._has_volatile = False
        self._writer: int | None = None  # the actor's step that has the state, or gets it next
        self._writers: deque[int] = deque()  # READY ones behind it
        self._last_call: int | None = None
        self._calls: dict[str, int] = {}  # steps, by what their callers know them as

    # -- questions ------------------------------------------------------------------------------

    @property
    def status(self) -> RunStatus:
        """The run's status, as far as its journal tells."""
        if self.finished is not None:
            return self.finished
        if self.held is not None:
            return RunStatus.RESUMABLE
        if self.is_pending:
            return RunStatus.PENDING
        if self.is_at_rest:
            return RunStatus.SUCCESSFUL
        return RunStatus.PAUSED if self.is_paused else RunStatus.RUNNING

    @property
    def is_open(self) -> bool:
        """Whether the run goes on by itself."""
        return self.finished is None and self.held is None

    @property
    def is_at_rest(self) -> bool:
        """Whether it is an actor that has nothing to do: open, and yet there is a result."""
        return self.is_actor and self.unfinished == 0 and self.is_open

    @property
    def may_start(self) -> bool:
        """Whether steps may be started now."""
        is_held_back = self.is_paused or self.is_pending or self.cancel_requested
        return self.is_open and not is_held_back

    def status_of(self, step: StepState) -> StepStatus:
        """The step's status as people see it: what a canceled run left open is canceled."""
        if self._is_ended_link(step):
            return SKIPPED if self.value_of(step.number) is None else SUCCESSFUL
        is_left = self.finished in (RunStatus.CANCELED, RunStatus.SUCCESSFUL)
        if is_left and not step.is_ended:
            return CANCELED
        return step.status

    def _is_ended_link(self, step: StepState) -> bool:
        """Whether the step is a link of a chain of tail calls that has ended, and it with it."""
        if step.status is not RUNNING or step.opened is None:
            return False
        return self.scopes[self.scopes[step.opened].head].delivered

    @property
    def names(self) -> list[str]:
        """The names of all steps, in order."""
        return [step.name for step in self.steps]

    def find_step(self, name: str) -> StepState | None:
        """The step of this name, or of this call of an actor, if the run has one (yet)."""
        number = self._names.find(name)
        if number is None:
            number = self._calls.get(name)
        return None if number is None else self.steps[number]

    def name_counts(self) -> dict[str, int]:
        """How many steps have asked for each name, those that lie behind included."""
        return self._names.counts()

    def value_of(self, number: int) -> Packed | None:
        """The step's value, or None while (or because) there is none."""
        step = self.steps[number]
        if step.value is None and step.opened is not None:
            return self.scopes[self.scopes[step.opened].head].result
        return step.value

    def error_of(self, number: int) -> Error | None:
        """Why the step has no value: its own failure, or that of a step it returned.

        None while its sub-graph may still succeed.
        """
        step = self.steps[number]
        if step.error is not None or step.opened is None or self.finished is not RunStatus.FAILED:
            return step.error
        if self.failed_step is None:
            return None
        scope = self.scopes[self.steps[self.failed_step].scope]
        while scope.owner is not None:
            if scope.owner == number:
                return self.error
            scope = self.scopes[self.steps[scope.owner].scope]
        return None

    def inputs_of(self, number: int) -> list[Packed]:
        """The values for the step's holes, in order; an absent one arrives as null."""
        step = self.steps[number]
        first = self.scopes[step.scope].first
        values: list[Packed] = []
        for entry in step.spec.inputs:
            if type(entry) is int:
                values.append(self.value_of(first + entry) or NOTHING)
            elif type(entry) is list:
                values.append(pack_list([self.value_of(first + n) or NOTHING for n in entry]))
            elif isinstance(entry, OptionalInput):
                value = self.value_of(first + entry.step)
                if value is None and entry.default is not None:
                    value = entry.default
                values.append(value or NOTHING)
            elif isinstance(entry, OuterInput):
                values.append(self.value_of(entry.number) or NOTHING)
            elif isinstance(entry, GivenInput):
                values.append(entry.value)
        return values

    def may_be_volatile(self, number: int) -> bool:
        """Whether the step's value need not survive a crash: it was asked for, for the step or for
        one that returned it, and the value is not the one of a whole scope."""
        if not self._has_volatile:
            return False
        step = self.steps[number]
        if number in self.scopes[step.scope].outputs:
            return False
        while step.spec.policy.checkpoint is None:
            owner = self.scopes[step.scope].owner
            if owner is None:
                return False
            step = self.steps[owner]
        return not step.spec.policy.checkpoint

    def find_lost(self, is_there: Callable[[Packed], bool]) -> tuple[int, ...]:
        """Steps to be carried out again, since their volatile value is gone and still needed."""
        lost: set[int] = set()
        looked_at = [n for n in self.volatile if self._is_needed(n)]
        while looked_at:
            number = looked_at.pop()
            step = self.steps[number]
            if number in lost or step.value is None or is_there(step.value):
                continue
            lost.add(number)
            looked_at += [n for n in self._sources_of(step) if n in self.volatile]
        return tuple(sorted(lost))

    def _is_needed(self, number: int) -> bool:
        readers = map(self.steps.__getitem__, self.steps[number].dependents or ())
        return any(not reader.is_ended and reader.opened is None for reader in readers)

    def _sources_of(self, step: StepState) -> list[int]:
        """Numbers of the steps that it reads or waits for, as often as it does, in order."""
        first = self.scopes[step.scope].first
        found = [first + n for n in step.spec.upstream()]
        return found + step.spec.outer()

    def settle(self) -> Event | None:
        """The next event that follows from those applied, or None. Record it, apply it, ask again.

        What follows belongs into the commit of its cause.
        """
        while self._due:
            event = self._due[0]
            if self._still_follows(event):
                return event
            self._due.popleft()
        if not self.is_open:
            return None
        if self.cancel_requested:
            return RunFinished(status=RunStatus.CANCELED)
        if self._matched and (answer := self._answer_of_signal()) is not None:
            return answer
        if self.is_actor or not self.steps:
            return None
        # What a wait for steps left, and nobody took up, is not waited for.
        if self.unfinished == 0 or (self._has_splits and self.scopes[0].delivered):
            return RunFinished(status=RunStatus.SUCCESSFUL)
        return None

    def _answer_of_signal(self) -> Event | None:
        """The end of a wait whose signal has come."""
        for name in list(self._matched):
            steps, values = self._waiting_for.get(name, ()), self._signals.get(name)
            waiting = [n for n in steps if self.steps[n].status is RUNNING]
            if waiting and values:
                return WaitEnded(step=waiting[0], value=Raw(values[0]))
            self._matched.discard(name)
        return None

    def due(self, now: float) -> list[Event]:
        """Let the time be `now`: retries that are due become READY; returns the ends of timers."""
        ended: list[Event] = []
        if not self.is_open:
            return ended
        while self._later and self._later[0][0] <= now:
            due_at, number = heappop(self._later)
            step = self.steps[number]
            if step.due_at != due_at:
                continue
            if step.status is WAITING:
                step.due_at = None
                self._make_ready(step)
            elif step.status is RUNNING and isinstance(step.spec.action, Wait):
                event = self._end_of_patience(step, step.spec.action)
                if event is not None:
                    ended.append(event)
        return ended

    def _end_of_patience(self, step: StepState, action: Wait) -> Event | None:
        """What follows when the time of a wait is up."""
        if action.kind is WaitKind.TIMER:
            return WaitEnded(step=step.number, value=Raw(NOTHING))
        if action.kind is WaitKind.STEPS:
            return self._split(step, action) or self._due.pop()
        text = f"step {step.name!r} got no signal {action.name!r} within {action.seconds:g} s"
        error = Error(type="weftline.errors.StepTimeoutError", text=text)
        return StepFailed(step=step.number, attempt=step.attempt + 1, error=error, is_timeout=True)

    def next_due(self) -> float | None:
        """The earliest time at which `due` may have news."""
        return self._later[0][0] if self._later and self.is_open else None

    def begin_wait(self, number: int, now: float) -> WaitBegun:
        """The event that begins the READY wait step `number`."""
        action = self.steps[number].spec.action
        assert isinstance(action, Wait)
        until = None if action.seconds is None else now + action.seconds
        return WaitBegun(step=number, until=until, name=action.name)

    def judge_failure(
        self, number: int, *, retryable: bool, now: float, luck: float
    ) -> float | None:
        """When the step is to be tried again after the try that just failed; None: not again."""
        step = self.steps[number]
        policy = step.spec.policy
        tried = step.tries + 1
        # Nothing starts in a run that is over, but what it was left with must not depend on when.
        if self.cancel_requested or tried >= policy.tries:
            return None
        if policy.retry_selected and not retryable:
            return None
        return now + policy.delay_s(tried, luck)

    # -- one rule an event ----------------------------------------------------------------------

    def apply(self, event: Event, at: float, graph: Graph | None = None) -> None:
        """Take `event`, recorded at `at`, into the run; `graph` for events that bring one.

        Raises: ImpossibleEvent if it does not follow from the ones before it.
        """
        rule = _RULES[type(event)]
        # What did not follow any more when its turn came was not recorded; it must not wait here
        # until a resume makes it look as if it did.
        while self._due and self._due[0] != event and not self._still_follows(self._due[0]):
            self._due.popleft()
        if self._due and self._due[0] == event:
            self._due.popleft()
        if type(event) is not RunAdopted:
            self.adoptions = 0
        rule(self, event, at, graph)

    def _still_follows(self, event: Event) -> bool:
        if isinstance(event, StepSkipped):
            return self.steps[event.step].status is WAITING
        if isinstance(event, ScopeClosed):
            return not self.steps[event.step].is_ended
        if isinstance(event, WaitEnded):
            return self.is_open and self.steps[event.step].status is RUNNING
        return self.is_open

    def _submitted(self, event: RunSubmitted, at: float, graph: Graph | None) -> None:
        if self.steps:
            raise ImpossibleEvent("a run is submitted once")
        self.submitted_at = at
        self.started_at = None if event.is_pending else at
        self.is_pending, self.is_actor = event.is_pending, event.is_actor
        self.group = event.group
        self.warnings += event.warnings
        opened = self._open_scope(None, _needed(graph))
        if self.is_actor:
            self._last_call = opened.first

    def _begun(self, event: RunBegun, at: float, graph: Graph | None) -> None:
        if not self.is_pending:
            raise ImpossibleEvent("a run begins once")
        self.is_pending, self.started_at = False, at
        self._refill()

    def _adopted(self, event: RunAdopted, at: float, graph: Graph | None) -> None:
        self.adoptions += 1
        self.warnings += event.warnings
        for step in self.steps:
            if step.status is RUNNING and step.opened is None:
                if not isinstance(step.spec.action, Wait):
                    step.status = READY
        if event.lost:
            self._lose_values(event.lost)
        self._refill()
        if self.adoptions >= MAX_ADOPTIONS and self.is_open:
            reason = f"it was adopted {self.adoptions} times without getting any further"
            self._due.append(Quarantined(reason=reason))

    def _resumed(self, event: RunResumed, at: float, graph: Graph | None) -> None:
        if self.finished is RunStatus.SUCCESSFUL:
            raise ImpossibleEvent("a successful run is not resumed")
        was_canceled = self.finished is RunStatus.CANCELED
        self.finished = self.error = self.failed_step = self.held = self.ended_at = None
        self.cancel_requested = self.is_paused = False
        self.is_pending = event.is_pending
        self.started_at = at
        for number in self._open_failures:
            step = self.steps[number]
            step.status, step.error, step.tries = READY, None, 0
        self._open_failures.clear()
        for step in self.steps:
            if step.is_ended:
                continue
            step.losses = 0
            if step.status is WAITING and step.due_at is not None:
                step.status, step.due_at = READY, None
            elif step.status is RUNNING and step.opened is None:
                if was_canceled and not isinstance(step.spec.action, Wait):
                    step.status = READY
        self._later = [(s.due_at, s.number) for s in self.steps if s.due_at is not None]
        heapify(self._later)
        self._refill()

    def _started(self, event: StepStarted, at: float, graph: Graph | None) -> None:
        step = self._open_step(event.step, event.attempt)
        step.status = RUNNING
        step.started_at = event.started_at or at
        self._count_attempt(step, event.attempt)

    def _succeeded(self, event: StepSucceeded, at: float, graph: Graph | None) -> None:
        step = self._open_step(event.step, event.attempt)
        self._count_attempt(step, event.attempt)
        step.started_at = event.started_at or step.started_at or at
        if event.is_volatile:
            self.volatile.add(step.number)
        if event.state is not None:
            self.state = bytes(event.state)
        if self.is_actor:
            self._pass_state_on(step)
        self._succeed(step, bytes(event.value), at)

    def _failed(self, event: StepFailed, at: float, graph: Graph | None) -> None:
        step = self._open_step(event.step, event.attempt)
        self._count_attempt(step, event.attempt)
        step.started_at = event.started_at or step.started_at or at
        step.tries += 1
        step.losses = 0
        if event.retry_at is not None:
            step.status, step.due_at = WAITING, event.retry_at
            heappush(self._later, (event.retry_at, step.number))
            return
        if self.is_actor:
            self._pass_state_on(step)
        self._fail(step, event.error, at)

    def _lost(self, event: StepLost, at: float, graph: Graph | None) -> None:
        step = self._open_step(event.step, event.attempt)
        self._count_attempt(step, event.attempt)
        step.losses += 1
        self._make_ready(step)
        if step.losses >= MAX_LOSSES and self.is_open:
            reason = (
                f"step {step.name!r} ended its process {step.losses} times in a row"
                f" (last: {event.reason})"
            )
            self._due.append(Quarantined(reason=reason, step=step.number))

    def _skipped(self, event: StepSkipped, at: float, graph: Graph | None) -> None:
        step = self._step(event.step)
        if step.status is not WAITING:
            raise ImpossibleEvent(f"step {step.name!r} is {step.status} and cannot be skipped")
        self._end(step, SKIPPED, None, at)

    def _decided(self, event: ConditionDecided, at: float, graph: Graph | None) -> None:
        step = self._step(event.step)
        is_due = step.spec.when is not None and step.joined
        if step.status is not WAITING or step.condition is not None or not is_due:
            raise ImpossibleEvent(
                f"the condition of step {step.name!r} is decided once, in its time"
            )
        step.condition = event.holds
        if event.holds:
            self._make_ready(step)
        else:
            self._due.append(StepSkipped(step=step.number, reason="its condition does not hold"))

    def _extended(self, event: GraphExtended, at: float, graph: Graph | None) -> None:
        step = self._open_step(event.step, event.attempt)
        self._count_attempt(step, event.attempt)
        step.started_at = event.started_at or step.started_at or at
        step.status, step.returned_at = RUNNING, at
        step.losses = 0
        if event.state is not None:
            self.state = bytes(event.state)
        if self.is_actor:
            self._pass_state_on(step)
        self._open_scope(step, _needed(graph))

    def _wait_begun(self, event: WaitBegun, at: float, graph: Graph | None) -> None:
        step = self._open_step(event.step, None)
        step.status, step.started_at, step.due_at = RUNNING, at, event.until
        if event.until is not None:
            heappush(self._later, (event.until, step.number))
        action = step.spec.action
        assert isinstance(action, Wait)
        if action.kind is WaitKind.SIGNAL:
            name = action.name or ""
            waiting = self._waiting_for.setdefault(name, deque())
            if step.number not in waiting:  # after a resume it begins once more
                waiting.append(step.number)
            self._matched.add(name)
        elif action.kind is WaitKind.STEPS:
            self._look_at_split(step, action)
        elif action.kind is WaitKind.VALUE:
            [value] = self.inputs_of(step.number)
            self._due.append(WaitEnded(step=step.number, value=Raw(value)))

    def _wait_ended(self, event: WaitEnded, at: float, graph: Graph | None) -> None:
        step = self._step(event.step)
        is_waiting = step.status is RUNNING and isinstance(step.spec.action, Wait)
        if not is_waiting or self.finished is RunStatus.CANCELED:
            raise ImpossibleEvent(f"step {step.name!r} does not wait")
        step.due_at = None
        action = step.spec.action
        if isinstance(action, Wait) and action.kind is WaitKind.SIGNAL:
            name = action.name or ""
            self._waiting_for[name].remove(step.number)
            self._signals[name].popleft()
        self._succeed(step, bytes(event.value), at)

    def _signaled(self, event: SignalReceived, at: float, graph: Graph | None) -> None:
        self._signals.setdefault(event.name, deque()).append(bytes(event.value))
        self._matched.add(event.name)

    def _called(self, event: CallReceived, at: float, graph: Graph | None) -> None:
        if not self.is_actor:
            raise ImpossibleEvent("the run is no actor: it takes no calls")
        previous = None if self._last_call is None else self.steps[self._last_call]
        graph = Graph(steps=decode_pages([event.steps]), output=0)
        self._last_call = self._open_scope(None, graph, previous).first
        if event.call:
            self._calls[event.call] = self._last_call

    def _rested(self, event: ActorRested, at: float, graph: Graph | None) -> None:
        if self.steps and not self.is_at_rest:
            raise ImpossibleEvent("the actor has calls that have not ended")
        self.is_actor, self.submitted_at = True, event.submitted_at
        self.started_at = self.started_at or event.submitted_at
        self.laid_down = event.first
        self.state = None if event.state is None else bytes(event.state)
        self.value = None if event.value is None else bytes(event.value)
        self.steps, self.scopes, self._last_call = [], [], None
        self.succeeded = event.first
        self._names = Names(event.names)
        self._later.clear()
        self.volatile.clear()
        self._calls.clear()
        self._refill()

    def _scope_closed(self, event: ScopeClosed, at: float, graph: Graph | None) -> None:
        owner = self._step(event.step)
        if owner.opened is None or owner.is_ended:
            raise ImpossibleEvent(f"step {owner.name!r} has no open scope")
        open_scopes = [owner.opened]
        while open_scopes:
            scope = self.scopes[open_scopes.pop()]
            if scope.closed:
                continue
            scope.closed = True
            open_scopes += scope.inner or ()
            for step in self.steps[scope.first : scope.first + scope.count]:
                if not step.is_ended and not self._is_ended_link(step):
                    if step.may_begin:
                        self.dropped.append(step.number)
                    step.status, step.ended_at = CANCELED, at
                    self.unfinished -= 1
                    if self.is_actor:
                        self._pass_state_on(step)
        still_open = [n for n in self._open_failures if not self.scopes[self.steps[n].scope].closed]
        self.unfinished -= len(self._open_failures) - len(still_open)
        self._open_failures = still_open
        self._end(owner, SUCCESSFUL, pack_caught(None, event.error), at)

    def _canceling(self, event: CancelRequested, at: float, graph: Graph | None) -> None:
        if self.finished is RunStatus.SUCCESSFUL:
            raise ImpossibleEvent("a successful run is not canceled")
        self.cancel_requested = True
        self.finished = self.held = None

    def _paused(self, event: PauseChanged, at: float, graph: Graph | None) -> None:
        self.is_paused = event.paused
        if not event.paused:
            self._refill()

    def _quarantined(self, event: Quarantined, at: float, graph: Graph | None) -> None:
        self.held = event.reason
        self.failed_step = event.step

    def _run_finished(self, event: RunFinished, at: float, graph: Graph | None) -> None:
        if not self.is_open:
            raise ImpossibleEvent(f"the run is {self.status} already")
        self.finished, self.error, self.ended_at = event.status, event.error, at
        self.failed_step = event.step
        is_left = event.status is RunStatus.CANCELED or self._has_splits
        if is_left and event.status is not RunStatus.FAILED:
            self.dropped += [step.number for step in self.steps if step.may_begin]
        if event.status is RunStatus.SUCCESSFUL:
            self.value = self.scopes[0].result or NOTHING

    # -- what the rules share -------------------------------------------------------------------

    def _step(self, number: int) -> StepState:
        if not 0 <= number < len(self.steps):
            raise ImpossibleEvent(f"the run has no step number {number}")
        return self.steps[number]

    def _open_step(self, number: int, attempt: int | None) -> StepState:
        step = self._step(number)
        if not step.may_begin or self.finished is RunStatus.CANCELED:
            what = "returned steps" if step.opened is not None else f"is {step.status}"
            raise ImpossibleEvent(f"step {step.name!r} {what}: no attempt of it can do anything")
        if attempt is not None and attempt < step.attempt + (step.status is not RUNNING):
            raise ImpossibleEvent(f"attempt {attempt} of step {step.name!r} is not its latest")
        return step

    def _count_attempt(self, step: StepState, attempt: int) -> None:
        step.attempt = attempt
        step.due_at = None

    def _make_ready(self, step: StepState) -> None:
        step.status = READY
        action = step.spec.action
        if type(action) is not PythonCall:
            self.beginning.append(step.number)
        elif action.is_writer and self._writer not in (None, step.number):
            self._writers.append(step.number)
        else:
            if action.is_writer:
                self._writer = step.number
            self.ready.append(step.number)

    def _refill(self) -> None:
        """List anew what may be started."""
        self.generation += 1
        self.ready, self.beginning = deque(), deque()
        self.dropped.clear()
        self._writers.clear()
        is_kept = self._writer is not None and self._writer < len(self.steps)
        if not is_kept or self.steps[self._writer or 0].is_ended:
            self._writer = None
        for step in self.steps:
            if step.status is READY:
                self._make_ready(step)

    def _pass_state_on(self, step: StepState) -> None:
        """The step has done with the actor's state: the next one may have it."""
        if self._writer != step.number:
            return
        self._writer = None
        while self._writers:
            following = self.steps[self._writers.popleft()]
            if following.status is READY:
                self._make_ready(following)
                return

    def _lose_values(self, lost: tuple[int, ...]) -> None:
        """What was read from these steps has to be made again."""
        for number in lost:
            step = self.steps[number]
            if step.status is not SUCCESSFUL or number not in self.volatile:
                raise ImpossibleEvent(f"step {step.name!r} has no value that could be lost")
            step.status, step.value, step.ended_at = WAITING, None, None
            step.joined = False
            self.volatile.discard(number)
            self.unfinished += 1
            self.succeeded -= 1
        for number in lost:
            step = self.steps[number]
            for reader in map(self.steps.__getitem__, step.dependents or ()):
                if not reader.is_ended and reader.number not in lost:
                    reader.waiting_on += 1
                    if reader.status in (READY, WAITING):
                        reader.status, reader.joined, reader.due_at = WAITING, False, None
            step.waiting_on = sum(not self._has_ended(n) for n in self._sources_of(step))
            if step.waiting_on == 0:
                self._free(step)

    def _has_ended(self, number: int) -> bool:
        step = self.steps[number]
        if step.status is FAILED:
            return number not in self._open_failures
        return step.is_ended or self._is_ended_link(step)

    def _free(self, step: StepState) -> None:
        """All that the step waited for has ended: READY, unless its condition is undecided."""
        step.joined = True
        if step.spec.when is not None and step.condition is None:
            self.undecided.append(step.number)
        else:
            self._make_ready(step)

    def _open_scope(
        self, owner: StepState | None, graph: Graph, after: StepState | None = None
    ) -> Scope:
        """Take in a sub-graph; its steps begin when `after`, if given, has ended."""
        first, number = len(self.steps), len(self.scopes)
        scope = Scope(None if owner is None else owner.number, first, graph)
        scope.head = number
        if owner is not None:
            owner.opened = number
            around = self.scopes[owner.scope]
            if around.inner is None:
                around.inner = []
            around.inner.append(number)
            scope.catching = number if owner.spec.policy.catch else around.catching
            is_tail = owner.number == around.output and around.owner is not None
            if is_tail and not owner.spec.policy.catch and not isinstance(scope.output, list):
                scope.head = around.head
                head = self.scopes[scope.head]
                head.chained += 1
                if owner.dependents:
                    head.followers = head.followers or []
                    head.followers += owner.dependents
                    owner.dependents = None
        self.scopes.append(scope)
        self.unfinished += len(graph.steps)
        steps = self.steps
        for position, spec in enumerate(graph.steps, first):
            steps.append(StepState(position, self._names.add(spec.name, position), spec, number))
            if spec.policy is not DEFAULT_POLICY and spec.policy.checkpoint is False:
                self._has_volatile = True
        for step in steps[first:]:
            spec = step.spec
            for source in spec.upstream():
                upstream = steps[first + source]
                if upstream.dependents is None:
                    upstream.dependents = [step.number]
                else:
                    upstream.dependents.append(step.number)
                step.waiting_on += 1
            if spec.inputs and (outer := spec.outer()):
                self._read_outer(step, outer)
            if after is not None:
                self._read_outer(step, [after.number])
            if type(spec.action) is Wait and spec.action.kind is WaitKind.STEPS:
                self._has_splits = True
                self._free(step)  # it is the wait itself that waits for them
            elif step.waiting_on == 0:
                self._free(step)
        return scope

    def _read_outer(self, step: StepState, sources: list[int]) -> None:
        """Let the step wait for steps that the run had before it."""
        for number in sources:
            source = self._step(number)
            is_borne = source.status is FAILED and number not in self._open_failures
            if self._has_ended(number) and not is_borne:
                continue
            opened = None if source.opened is None else self.scopes[source.opened]
            if opened is not None and self.scopes[opened.head] is not opened:
                head = self.scopes[opened.head]  # its value comes from the end of its chain
                head.followers = [*(head.followers or ()), step.number]
            else:
                source.dependents = [*(source.dependents or ()), step.number]
            if is_borne and not _bears_failures(step):
                # It was of no consequence as long as nobody read it.
                self._reopen([source])
                assert source.error is not None
                self._climb(step, source.error, source)
            elif not is_borne:
                step.waiting_on += 1

    # -- waiting for some of many steps ---------------------------------------------------------

    def _look_at_split(self, step: StepState, action: Wait) -> None:
        """End a wait for steps if it has begun and enough of them have ended."""
        sources = set(self._sources_of(step))
        has_enough = sum(map(self._has_ended, sources)) >= min(action.count, len(sources))
        if has_enough and step.status is RUNNING:
            event = self._split(step, action)
            if event is not None:
                self._due.append(event)

    def _split(self, step: StepState, action: Wait) -> Event | None:
        """Which steps a wait found ended; None when one of them failed, which then is told."""
        sources = list(dict.fromkeys(self._sources_of(step)))
        ready = [n for n in sources if self._has_ended(n)][: action.count]
        failed = [self.steps[n] for n in ready if self.steps[n].status is FAILED]
        if failed:
            self._reopen(failed)
            assert failed[0].error is not None
            self._climb(step, failed[0].error, failed[0])
            return None
        left = [n for n in sources if n not in set(ready)]
        values = [self.value_of(n) or NOTHING for n in ready]
        return WaitEnded(step=step.number, value=Raw(pack_split(values, self.run_id, left)))

    def _reopen(self, sources: Iterable[StepState]) -> None:
        """Nobody bears these failures after all: they are open again, for a resume to try
        afresh."""
        for source in sources:
            if source.number in self._open_failures:
                continue
            self._open_failures.append(source.number)
            self.unfinished += 1
            for number in source.dependents or ():
                self.steps[number].waiting_on += 1

    def _end(self, step: StepState, status: StepStatus, value: Packed | None, at: float) -> None:
        """End the step, and every owner whose output that settles."""
        while True:
            step.status, step.value, step.ended_at = status, value, at
            step.losses = 0
            self._count_ended(1, step.dependents, status)
            scope = self.scopes[step.scope]
            is_pair = step.spec.policy.catch
            if isinstance(scope.output, list):
                if step.number not in scope.outputs:
                    return
                scope.left -= 1
                if scope.left:
                    return
                value = pack_list([self.value_of(n) or NOTHING for n in scope.output])
                status, is_pair = SUCCESSFUL, False
            elif scope.output != step.number:
                return
            head = self.scopes[scope.head]
            head.result, head.delivered = value, True
            if head.owner is None:
                if self.is_actor:
                    self.value = value
                return
            self._count_ended(head.chained, head.followers, status)
            step = self.steps[head.owner]
            # One flat pair: an output step that catches itself has made the pair already.
            if value is not None and step.spec.policy.catch and not is_pair:
                value = pack_caught(value, None)

    def _count_ended(self, count: int, dependents: list[int] | None, status: StepStatus) -> None:
        self.unfinished -= count
        if status is SUCCESSFUL:
            self.succeeded += count
        if dependents:
            self._count_down(dependents, status)

    def _succeed(self, step: StepState, value: Packed, at: float) -> None:
        self._end(
            step, SUCCESSFUL, pack_caught(value, None) if step.spec.policy.catch else value, at
        )

    def _fail(self, step: StepState, error: Error, at: float) -> None:
        """The step has failed for good; its failure becomes a value, is borne, or climbs."""
        step.error = error
        if step.spec.policy.catch:
            self._end(step, SUCCESSFUL, pack_caught(None, error), at)
            return
        readers = [self.steps[n] for n in step.dependents or ()]
        is_output = step.number in self.scopes[step.scope].outputs
        if readers and not is_output and all(map(_bears_failures, readers)):
            self._end(step, FAILED, None, at)
            return
        catching = self._catcher(step)
        origin = step
        if catching is not None and catching.is_ended:
            # Its scope has delivered. Whoever reads it all the same was left it by a wait; if
            # nobody does, it failed too late to matter.
            others = [
                each
                for each in readers
                if not (each.is_ended or _bears_failures(each))
                and self._catcher(each) is not catching
            ]
            if not others:
                self._end(step, FAILED, None, at)
                return
            origin = others[0]
        step.status, step.ended_at = FAILED, at
        self._open_failures.append(step.number)
        self._climb(origin, error, step)

    def _catcher(self, step: StepState) -> StepState | None:
        """The step that catches what this one fails of; None: it fails the run."""
        catching = self.scopes[step.scope].catching
        owner = None if catching < 0 else self.scopes[catching].owner
        return None if owner is None else self.steps[owner]

    def _climb(self, origin: StepState, error: Error, failed: StepState) -> None:
        """The failure reaches whoever catches what `origin` is part of; else it is the run's."""
        catcher = self._catcher(origin)
        if catcher is None:
            finished = RunFinished(status=RunStatus.FAILED, error=error, step=failed.number)
            self._due.append(finished)
        else:
            closed = ScopeClosed(step=catcher.number, error=error, failed=failed.number)
            self._due.append(closed)

    def _count_down(self, dependents: Iterable[int], status: StepStatus) -> None:
        stuck: list[StepState] = []
        for number in dependents:
            step = self.steps[number]
            step.waiting_on -= 1
            if step.joined or step.status is not WAITING:
                action = step.spec.action
                if type(action) is Wait and action.kind is WaitKind.STEPS:
                    self._look_at_split(step, action)
                continue
            join = step.spec.join
            if join is Join.ONE_SUCCEEDED:
                if status is SUCCESSFUL:
                    self._free(step)
                elif step.waiting_on == 0:
                    stuck.append(step)
                continue
            step.lacks |= status is not SUCCESSFUL
            if step.waiting_on:
                continue
            if join is Join.ALL_SUCCEEDED and step.lacks and not self._bears_absence(step):
                self._due.append(StepSkipped(step=number, reason="an input was skipped"))
            else:
                self._free(step)
        for step in stuck:
            self._none_succeeded(step)

    def _bears_absence(self, step: StepState) -> bool:
        """Whether every ended input without a value has a default."""
        first = self.scopes[step.scope].first
        with_default = {
            first + entry.step
            for entry in step.spec.inputs
            if isinstance(entry, OptionalInput) and entry.default is not None
        }
        return all(
            first + n in with_default
            for n in step.spec.upstream()
            if self.steps[first + n].status in (SKIPPED, FAILED)
        )

    def _none_succeeded(self, step: StepState) -> None:
        """No input of a `one succeeded` join succeeded: the failures climb, or it is skipped."""
        first = self.scopes[step.scope].first
        sources = {first + n for n in step.spec.upstream()}
        failed = [self.steps[n] for n in sorted(sources) if self.steps[n].status is FAILED]
        if not failed:
            self._due.append(StepSkipped(step=step.number, reason="none of its inputs succeeded"))
            return
        self._reopen(failed)
        assert failed[0].error is not None
        self._climb(failed[0], failed[0].error, failed[0])


def _bears_failures(reader: StepState) -> bool:
    """Whether the failure of an input may be of no consequence to the step."""
    action = reader.spec.action
    waits_for_steps = type(action) is Wait and action.kind is WaitKind.STEPS
    return waits_for_steps or reader.spec.join is not Join.ALL_SUCCEEDED


def _needed(graph: Graph | None) -> Graph:
    if graph is None:
        raise ImpossibleEvent("the event names a graph that is not there")
    return graph


_RULES: dict[type[Event], Callable[..., None]] = {
    RunSubmitted: Run._submitted,
    RunBegun: Run._begun,
    RunAdopted: Run._adopted,
    RunResumed: Run._resumed,
    StepStarted: Run._started,
    StepSucceeded: Run._succeeded,
    StepFailed: Run._failed,
    StepLost: Run._lost,
    StepSkipped: Run._skipped,
    ConditionDecided: Run._decided,
    GraphExtended: Run._extended,
    WaitBegun: Run._wait_begun,
    WaitEnded: Run._wait_ended,
    SignalReceived: Run._signaled,
    CallReceived: Run._called,
    ActorRested: Run._rested,
    ScopeClosed: Run._scope_closed,
    CancelRequested: Run._canceling,
    PauseChanged: Run._paused,
    Quarantined: Run._quarantined,
    RunFinished: Run._run_finished,
}


def fold(events: Iterable[tuple[float, Event]], graphs: Mapping[str, Graph]) -> Run:
    """The run as it stands after `events` (time and event, oldest first).

    Starting, resuming after a crash and drawing a page all call this. `graphs` holds the graphs
    that the events name.

    Raises: ImpossibleEvent if an event does not follow from the ones before it.
    """
    run = Run()
    for at, event in events:
        graph = graphs[event.graph] if isinstance(event, RunSubmitted | GraphExtended) else None
        run.apply(event, at, graph)
    return run
