"""The state machine of a run: what is true after a list of events, and what follows from it.

Pure: it takes events and a time, and answers what is ready, what is due and what the status is.
The engine appends an event to the journal and applies it here; a reader folds a journal from its
beginning. Both get the same run, because nothing else changes one.

A *scope* is the sub-graph a step returned; the run's own graph is scope 0. A failure climbs to the
innermost scope whose owner catches. All walks are loops over explicit lists: depth costs no stack.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from heapq import heapify, heappop, heappush

from msgspec import UNSET, Raw

from weftline.core.actions import Wait, WaitKind
from weftline.core.bearing import fail
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
    Graph,
    decode_pages,
    problems_of,
)
from weftline.core.names import Names
from weftline.core.progress import (
    end,
    make_ready,
    pass_state_on,
    refill,
    succeed,
)
from weftline.core.scopes import open_scope
from weftline.core.signals import Signals
from weftline.core.splits import ended_sources, look_at_split, split_of
from weftline.core.standing import Standing
from weftline.core.state import (
    CANCELED,
    READY,
    RUNNING,
    SKIPPED,
    SUCCESSFUL,
    WAITING,
    StepState,
)
from weftline.core.values import (
    NOTHING,
    Error,
    Packed,
    pack_caught,
)
from weftline.core.volatile import find_lost, lose_values, may_be_volatile
from weftline.errors import ImpossibleEvent

MAX_LOSSES = 4
"""Losses of one step in a row, under a living engine, after which the run is quarantined."""

MAX_ADOPTIONS = 10
"""Adoptions of a run without any other event after which it is quarantined."""


class Run(Standing):
    """A run as it stands after the events applied so far."""

    def settle(self) -> Event | None:
        """The next event that follows from those applied, or None. Record it, apply it, ask again.

        What follows belongs into the commit of its cause.
        """
        while self.following:
            event = self.following[0]
            if self._still_follows(event):
                return event
            self.following.popleft()
        if not self.is_open:
            return None
        if self.cancel_requested:
            return RunFinished(status=RunStatus.CANCELED)
        if self.signals.fresh and (match := self.signals.match(self._is_waiting)) is not None:
            return WaitEnded(step=match[0], value=Raw(match[1]))
        if self.is_actor or not self.steps:
            return None
        # What a wait for steps left, and nobody took up, is not waited for.
        if self.unfinished == 0 or (self.splits and self.scopes[0].delivered):
            return RunFinished(status=RunStatus.SUCCESSFUL)
        return None

    def _is_waiting(self, number: int) -> bool:
        return self.steps[number].status is RUNNING

    def due(self, now: float) -> Iterator[Event]:
        """Let the time be `now`: retries that are due become READY; gives the ends of waits.

        Each is to be recorded before the next is asked for: what the first leads to may be the end
        of others.
        """
        while self.is_open and self.later and self.later[0][0] <= now:
            due_at, number = heappop(self.later)
            step = self.steps[number]
            if step.due_at != due_at:
                continue
            if step.status is WAITING:
                step.due_at = None
                make_ready(self, step)
            elif step.status is RUNNING and isinstance(step.spec.action, Wait):
                yield self._end_of_patience(step, step.spec.action)

    def _end_of_patience(self, step: StepState, action: Wait) -> Event:
        """What follows when the time of a wait is up."""
        if action.kind is WaitKind.TIMER:
            return WaitEnded(step=step.number, value=Raw(NOTHING))
        if action.kind is WaitKind.STEPS:
            return split_of(self, step, action)
        text = f"step {step.name!r} got no signal {action.name!r} within {action.seconds:g} s"
        error = Error(type="weftline.errors.StepTimeoutError", text=text)
        return StepFailed(step=step.number, attempt=step.attempt + 1, error=error, is_timeout=True)

    def next_due(self) -> float | None:
        """The earliest time at which `due` may have news."""
        while self.later and self.steps[self.later[0][1]].due_at != self.later[0][0]:
            heappop(self.later)  # begun, ended or dropped since
        return self.later[0][0] if self.later and self.is_open else None

    def begin_wait(self, number: int, now: float) -> WaitBegun:
        """The event that begins the READY wait step `number`."""
        action = self.steps[number].spec.action
        assert isinstance(action, Wait)
        until = None if action.seconds is None else now + action.seconds
        return WaitBegun(step=number, until=until, name=action.name)

    def lay_down(self) -> ActorRested:
        """The event that leaves the steps of an actor at rest behind it."""
        signals = {name: list(map(Raw, values)) for name, values in self.signals.kept().items()}
        return ActorRested(
            first=self.laid_down + len(self.steps),
            names=self.name_counts(),
            submitted_at=self.submitted_at or 0.0,
            state=UNSET if self.state is None else Raw(self.state),
            value=UNSET if self.value is None else Raw(self.value),
            started_at=self.started_at,
            signals=signals,
        )

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

    def may_be_volatile(self, number: int) -> bool:
        """Whether the step's value need not survive a crash of the machine."""
        return self.has_volatile and may_be_volatile(self, number)

    def find_lost(self, is_there: Callable[[Packed], bool]) -> tuple[int, ...]:
        """Steps to be carried out again, since their volatile value is gone and still needed."""
        return find_lost(self, is_there)

    # -- one rule an event ----------------------------------------------------------------------

    def apply(self, event: Event, at: float, graph: Graph | None = None) -> None:
        """Take `event`, recorded at `at`, into the run; `graph` for events that bring one.

        Raises: ImpossibleEvent if it does not follow from the ones before it.
        """
        rule = _RULES[type(event)]
        # What did not follow any more when its turn came was not recorded; it must not wait here
        # until a resume makes it look as if it did.
        following = self.following
        while following and following[0] != event and not self._still_follows(following[0]):
            following.popleft()
        if following and following[0] == event:
            following.popleft()
        if type(event) is not RunAdopted:
            self.adoptions = 0
        rule(self, event, at, graph)

    def _still_follows(self, event: Event) -> bool:
        if isinstance(event, StepSkipped):
            return self.steps[event.step].status is WAITING
        if isinstance(event, ScopeClosed):
            return not self.steps[event.step].is_ended
        if isinstance(event, WaitEnded | StepFailed):
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
        opened = open_scope(self, None, _needed(graph))
        if self.is_actor:
            self.last_call = opened.first

    def _begun(self, event: RunBegun, at: float, graph: Graph | None) -> None:
        if not (self.is_pending and self.is_open):
            raise ImpossibleEvent("a run begins once, and not after its end")
        self.is_pending, self.started_at = False, at
        refill(self)

    def _adopted(self, event: RunAdopted, at: float, graph: Graph | None) -> None:
        self.adoptions += 1
        self.warnings += event.warnings
        for step in self.steps:
            if step.status is RUNNING and step.opened is None:
                if not isinstance(step.spec.action, Wait):
                    step.status = READY
        if event.lost:
            lose_values(self, event.lost)
        refill(self)
        if self.adoptions >= MAX_ADOPTIONS and self.is_open:
            reason = f"it was adopted {self.adoptions} times without getting any further"
            self.following.append(Quarantined(reason=reason))

    def _resumed(self, event: RunResumed, at: float, graph: Graph | None) -> None:
        if self.finished is RunStatus.SUCCESSFUL:
            raise ImpossibleEvent("a successful run is not resumed")
        was_canceled = self.finished is RunStatus.CANCELED
        self.finished = self.error = self.failed_step = self.held = self.ended_at = None
        self.cancel_requested = self.is_paused = False
        self.is_pending = event.is_pending
        self.started_at = at
        for number in self.failures.open:
            step = self.steps[number]
            # Not joined: something it reads was lost, and comes first.
            step.status = READY if step.joined else WAITING
            step.error, step.tries = None, 0
        self.failures.open.clear()
        for step in self.steps:
            if step.is_ended:
                continue
            step.losses = 0
            if step.status is WAITING and step.due_at is not None:
                step.status, step.due_at = READY, None
            elif step.status is RUNNING and step.opened is None:
                if was_canceled and not isinstance(step.spec.action, Wait):
                    step.status = READY
        self.later = [(s.due_at, s.number) for s in self.steps if s.due_at is not None]
        heapify(self.later)
        refill(self)
        for number in self.splits:  # meanwhile enough may have ended
            look_at_split(self, self.steps[number])

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
        if event.state is not UNSET:
            self.state = bytes(event.state)
        if self.is_actor:
            pass_state_on(self, step)
        succeed(self, step, bytes(event.value), at)

    def _failed(self, event: StepFailed, at: float, graph: Graph | None) -> None:
        step = self._open_step(event.step, event.attempt)
        self._count_attempt(step, event.attempt)
        step.started_at = event.started_at or step.started_at or at
        step.tries += 1
        step.losses = 0
        if event.retry_at is not None:
            step.status, step.due_at = WAITING, event.retry_at
            heappush(self.later, (event.retry_at, step.number))
            return
        if self.is_actor:
            pass_state_on(self, step)
        action = step.spec.action
        causes: list[StepState] = []
        if isinstance(action, Wait) and action.kind is WaitKind.SIGNAL:
            self.signals.leave(action.name or "", step.number)
        elif isinstance(action, Wait) and step.number in self.splits:
            causes = self.failures_among(ended_sources(self, step, action))
        fail(self, step, event.error, at, causes)

    def _lost(self, event: StepLost, at: float, graph: Graph | None) -> None:
        step = self._open_step(event.step, event.attempt)
        self._count_attempt(step, event.attempt)
        step.losses += 1
        make_ready(self, step)
        if step.losses >= MAX_LOSSES and self.is_open:
            reason = (
                f"step {step.name!r} ended its process {step.losses} times in a row"
                f" (last: {event.reason})"
            )
            self.following.append(Quarantined(reason=reason, step=step.number))

    def _skipped(self, event: StepSkipped, at: float, graph: Graph | None) -> None:
        step = self.get_step(event.step)
        if step.status is not WAITING:
            raise ImpossibleEvent(f"step {step.name!r} is {step.status} and cannot be skipped")
        end(self, step, SKIPPED, None, at)

    def _decided(self, event: ConditionDecided, at: float, graph: Graph | None) -> None:
        step = self.get_step(event.step)
        is_due = step.spec.when is not None and step.joined
        if step.status is not WAITING or step.condition is not None or not is_due:
            raise ImpossibleEvent(
                f"the condition of step {step.name!r} is decided once, in its time"
            )
        step.condition = event.holds
        if event.holds:
            make_ready(self, step)
        else:
            self.following.append(StepSkipped(step.number, "its condition does not hold"))

    def _extended(self, event: GraphExtended, at: float, graph: Graph | None) -> None:
        step = self._open_step(event.step, event.attempt)
        self._count_attempt(step, event.attempt)
        step.started_at = event.started_at or step.started_at or at
        step.status, step.returned_at = RUNNING, at
        step.losses = 0
        if event.state is not UNSET:
            self.state = bytes(event.state)
        if self.is_actor:
            pass_state_on(self, step)
        open_scope(self, step, _needed(graph))

    def _wait_begun(self, event: WaitBegun, at: float, graph: Graph | None) -> None:
        step = self._open_step(event.step, None)
        step.status, step.started_at, step.due_at = RUNNING, at, event.until
        if event.until is not None:
            heappush(self.later, (event.until, step.number))
        action = step.spec.action
        assert isinstance(action, Wait)
        if action.kind is WaitKind.SIGNAL:
            self.signals.wait(action.name or "", step.number)
        elif action.kind is WaitKind.STEPS:
            look_at_split(self, step)
        elif action.kind is WaitKind.VALUE:
            (value,) = self.inputs_of(step.number)
            self.following.append(WaitEnded(step=step.number, value=Raw(value)))

    def _wait_ended(self, event: WaitEnded, at: float, graph: Graph | None) -> None:
        step = self.get_step(event.step)
        is_waiting = step.status is RUNNING and isinstance(step.spec.action, Wait)
        if not is_waiting or self.finished is RunStatus.CANCELED:
            raise ImpossibleEvent(f"step {step.name!r} does not wait")
        action = step.spec.action
        if isinstance(action, Wait) and action.kind is WaitKind.SIGNAL:
            name = action.name or ""
            if not self.signals.take(name, step.number):
                raise ImpossibleEvent(f"no signal {name!r} has come for step {step.name!r}")
        step.due_at = None
        succeed(self, step, bytes(event.value), at)

    def _signaled(self, event: SignalReceived, at: float, graph: Graph | None) -> None:
        if self.finished is RunStatus.SUCCESSFUL:
            raise ImpossibleEvent("a successful run takes no signals")
        self.signals.keep(event.name, bytes(event.value))

    def _called(self, event: CallReceived, at: float, graph: Graph | None) -> None:
        if not self.is_actor:
            raise ImpossibleEvent("the run is no actor: it takes no calls")
        graph = Graph(steps=decode_pages([event.steps]), output=0)
        problems = problems_of(graph)
        if problems or any(
            not 0 <= n < len(self.steps) for step in graph.steps for n in step.outer()
        ):
            text = "; ".join(problems) or "it reads a step that the run does not have"
            raise ImpossibleEvent(f"a call that cannot be carried out: {text}")
        previous = None if self.last_call is None else self.steps[self.last_call]
        self.last_call = open_scope(self, None, graph, previous).first
        if event.call:
            self.calls[event.call] = self.last_call

    def _rested(self, event: ActorRested, at: float, graph: Graph | None) -> None:
        if self.steps and not self.is_at_rest:
            raise ImpossibleEvent("the actor has calls that have not ended")
        self.is_actor, self.submitted_at = True, event.submitted_at
        self.started_at = event.started_at
        self.laid_down = event.first
        self.state = None if event.state is UNSET else bytes(event.state)
        self.value = None if event.value is UNSET else bytes(event.value)
        self.succeeded = event.first
        self.naming = Names(event.names)
        self.signals = Signals({name: map(bytes, each) for name, each in event.signals.items()})
        # Everything else that names steps by their numbers.
        dropped = [step.number for step in self.steps if step.may_begin]
        for named in (self.later, self.calls, self.splits, self.failures):
            named.clear()
        self.volatile.clear()
        self.undecided.clear()
        self.unfinished = self.undelivered = 0
        self.steps, self.scopes, self.last_call = [], [], None
        refill(self)
        self.dropped += dropped

    def _scope_closed(self, event: ScopeClosed, at: float, graph: Graph | None) -> None:
        owner = self.get_step(event.step)
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
                if not step.is_ended and not self.is_ended_link(step):
                    if step.may_begin:
                        self.dropped.append(step.number)
                    step.status, step.ended_at, step.due_at = CANCELED, at, None
                    self.unfinished -= 1
                    if self.is_actor:
                        pass_state_on(self, step)
        still_open = [n for n in self.failures.open if not self.scopes[self.steps[n].scope].closed]
        self.unfinished -= len(self.failures.open) - len(still_open)
        self.failures.open = still_open
        end(self, owner, SUCCESSFUL, pack_caught(None, event.error), at)

    def _canceling(self, event: CancelRequested, at: float, graph: Graph | None) -> None:
        if self.finished is RunStatus.SUCCESSFUL:
            raise ImpossibleEvent("a successful run is not canceled")
        self.cancel_requested = True
        self.finished = self.held = None

    def _paused(self, event: PauseChanged, at: float, graph: Graph | None) -> None:
        self.is_paused = event.paused
        if not event.paused:
            refill(self)

    def _quarantined(self, event: Quarantined, at: float, graph: Graph | None) -> None:
        self.held = event.reason
        self.failed_step = event.step

    def _run_finished(self, event: RunFinished, at: float, graph: Graph | None) -> None:
        if not self.is_open:
            raise ImpossibleEvent(f"the run is {self.status} already")
        self.finished, self.error, self.ended_at = event.status, event.error, at
        self.failed_step = event.step
        is_left = event.status is RunStatus.CANCELED or bool(self.splits)
        if is_left and event.status is not RunStatus.FAILED:
            self.dropped += [step.number for step in self.steps if step.may_begin]
        if event.status is RunStatus.SUCCESSFUL:
            self.value = self.scopes[0].result or NOTHING

    # -- what the rules share -------------------------------------------------------------------

    def _open_step(self, number: int, attempt: int | None) -> StepState:
        step = self.get_step(number)
        is_over = self.finished in (RunStatus.CANCELED, RunStatus.SUCCESSFUL)
        if not step.may_begin or is_over:
            what = "returned steps" if step.opened is not None else f"is {step.status}"
            raise ImpossibleEvent(f"step {step.name!r} {what}: no attempt of it can do anything")
        if attempt is not None and attempt < step.attempt + (step.status is not RUNNING):
            raise ImpossibleEvent(f"attempt {attempt} of step {step.name!r} is not its latest")
        return step

    def _count_attempt(self, step: StepState, attempt: int) -> None:
        step.attempt = attempt
        step.due_at = None


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


def fold(
    events: Iterable[tuple[float, Event]], graphs: Mapping[str, Graph], run_id: str = ""
) -> Run:
    """The run as it stands after `events` (time and event, oldest first).

    Starting, resuming after a crash and drawing a page all call this. `graphs` holds the graphs
    that the events name.

    Raises: ImpossibleEvent if an event does not follow from the ones before it.
    """
    run = Run(run_id)
    for at, event in events:
        graph = graphs[event.graph] if isinstance(event, RunSubmitted | GraphExtended) else None
        run.apply(event, at, graph)
    return run
