"""One rule an event: what it changes in a run, when it is impossible, and what follows from it."""

from collections.abc import Callable
from heapq import heapify, heappush

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
from weftline.core.graph import Graph, decode_pages, problems_of
from weftline.core.names import Names
from weftline.core.progress import end, make_ready, pass_state_on, refill, succeed
from weftline.core.references import reference_problems
from weftline.core.scopes import close_scope, open_scope
from weftline.core.signals import Signals
from weftline.core.splits import ended_sources, look_at_split
from weftline.core.standing import Standing
from weftline.core.state import READY, RUNNING, SKIPPED, SUCCESSFUL, WAITING, StepState
from weftline.core.values import NOTHING, pack_caught
from weftline.core.volatile import lose_values
from weftline.errors import ImpossibleEvent

MAX_LOSSES = 4
"""Losses of one step in a row, under a living engine, after which the run is quarantined."""

MAX_ADOPTIONS = 10
"""Adoptions of a run without any other event after which it is quarantined."""


def _submitted(run: Standing, event: RunSubmitted, at: float, graph: Graph | None) -> None:
    if run.steps:
        raise ImpossibleEvent("a run is submitted once")
    run.submitted_at = at
    run.started_at = None if event.is_pending else at
    run.is_pending, run.is_actor = event.is_pending, event.is_actor
    run.group = event.group
    run.warnings += event.warnings
    opened = open_scope(run, None, _needed(graph))
    if run.is_actor:
        run.last_call = opened.first


def _begun(run: Standing, event: RunBegun, at: float, graph: Graph | None) -> None:
    if not (run.is_pending and run.is_open):
        raise ImpossibleEvent("a run begins once, and not after its end")
    run.is_pending, run.started_at = False, at
    refill(run)


def _adopted(run: Standing, event: RunAdopted, at: float, graph: Graph | None) -> None:
    run.adoptions += 1
    run.warnings += event.warnings
    for step in run.steps:
        if step.status is RUNNING and step.opened is None:
            if not isinstance(step.spec.action, Wait):
                step.status = READY
    if event.lost:
        lose_values(run, event.lost)
    refill(run)
    if run.adoptions >= MAX_ADOPTIONS and run.is_open:
        reason = f"it was adopted {run.adoptions} times without getting any further"
        run.following.append(Quarantined(reason=reason))


def _resumed(run: Standing, event: RunResumed, at: float, graph: Graph | None) -> None:
    if run.finished is RunStatus.SUCCESSFUL:
        raise ImpossibleEvent("a successful run is not resumed")
    was_canceled = run.finished is RunStatus.CANCELED
    run.finished = run.error = run.failed_step = run.held = run.ended_at = None
    run.cancel_requested = run.is_paused = False
    run.is_pending = event.is_pending
    run.started_at = at
    for number in run.failures.open:
        step = run.steps[number]
        # Not joined: something it reads was lost, and comes first.
        step.status = READY if step.joined else WAITING
        step.error, step.tries = None, 0
    run.failures.open.clear()
    for step in run.steps:
        if step.is_ended:
            continue
        step.losses = 0
        if step.status is WAITING and step.due_at is not None:
            step.status, step.due_at = READY, None
        elif step.status is RUNNING and step.opened is None:
            if was_canceled and not isinstance(step.spec.action, Wait):
                step.status = READY
    run.later = [(s.due_at, s.number) for s in run.steps if s.due_at is not None]
    heapify(run.later)
    refill(run)
    for number in run.splits:  # meanwhile enough may have ended
        look_at_split(run, run.steps[number])


def _started(run: Standing, event: StepStarted, at: float, graph: Graph | None) -> None:
    step = _open_step(run, event.step, event.attempt)
    step.status = RUNNING
    step.started_at = event.started_at or at
    _count_attempt(run, step, event.attempt)


def _succeeded(run: Standing, event: StepSucceeded, at: float, graph: Graph | None) -> None:
    step = _open_step(run, event.step, event.attempt)
    _count_attempt(run, step, event.attempt)
    step.started_at = event.started_at or step.started_at or at
    if event.is_volatile:
        run.volatile.add(step.number)
    if event.state is not UNSET:
        run.state = bytes(event.state)
    if run.is_actor:
        pass_state_on(run, step)
    succeed(run, step, bytes(event.value), at)


def _failed(run: Standing, event: StepFailed, at: float, graph: Graph | None) -> None:
    step = _open_step(run, event.step, event.attempt)
    _count_attempt(run, step, event.attempt)
    step.started_at = event.started_at or step.started_at or at
    step.tries += 1
    step.losses = 0
    if event.retry_at is not None:
        step.status, step.due_at = WAITING, event.retry_at
        heappush(run.later, (event.retry_at, step.number))
        return
    if run.is_actor:
        pass_state_on(run, step)
    action = step.spec.action
    causes: list[StepState] = []
    if isinstance(action, Wait) and action.kind is WaitKind.SIGNAL:
        run.signals.leave(action.name or "", step.number)
    elif isinstance(action, Wait) and step.number in run.splits:
        causes = run.failures_among(ended_sources(run, step, action))
    fail(run, step, event.error, at, causes)


def _lost(run: Standing, event: StepLost, at: float, graph: Graph | None) -> None:
    step = _open_step(run, event.step, event.attempt)
    _count_attempt(run, step, event.attempt)
    step.losses += 1
    make_ready(run, step)
    if step.losses >= MAX_LOSSES and run.is_open:
        reason = (
            f"step {step.name!r} ended its process {step.losses} times in a row"
            f" (last: {event.reason})"
        )
        run.following.append(Quarantined(reason=reason, step=step.number))


def _skipped(run: Standing, event: StepSkipped, at: float, graph: Graph | None) -> None:
    step = run.get_step(event.step)
    if step.status is not WAITING:
        raise ImpossibleEvent(f"step {step.name!r} is {step.status} and cannot be skipped")
    end(run, step, SKIPPED, None, at)


def _decided(run: Standing, event: ConditionDecided, at: float, graph: Graph | None) -> None:
    step = run.get_step(event.step)
    is_due = step.spec.when is not None and step.joined
    if step.status is not WAITING or step.condition is not None or not is_due:
        raise ImpossibleEvent(f"the condition of step {step.name!r} is decided once, in its time")
    step.condition = event.holds
    if event.holds:
        make_ready(run, step)
    else:
        run.following.append(StepSkipped(step.number, "its condition does not hold"))


def _extended(run: Standing, event: GraphExtended, at: float, graph: Graph | None) -> None:
    step = _open_step(run, event.step, event.attempt)
    _count_attempt(run, step, event.attempt)
    step.started_at = event.started_at or step.started_at or at
    step.status, step.returned_at = RUNNING, at
    step.losses = 0
    if event.state is not UNSET:
        run.state = bytes(event.state)
    if run.is_actor:
        pass_state_on(run, step)
    open_scope(run, step, _needed(graph))


def _wait_begun(run: Standing, event: WaitBegun, at: float, graph: Graph | None) -> None:
    step = _open_step(run, event.step, None)
    step.status, step.started_at, step.due_at = RUNNING, at, event.until
    if event.until is not None:
        heappush(run.later, (event.until, step.number))
    action = step.spec.action
    assert isinstance(action, Wait)
    if action.kind is WaitKind.SIGNAL:
        run.signals.wait(action.name or "", step.number)
    elif action.kind is WaitKind.STEPS:
        look_at_split(run, step)
    elif action.kind is WaitKind.VALUE:
        (value,) = run.inputs_of(step.number)
        run.following.append(WaitEnded(step=step.number, value=Raw(value)))


def _wait_ended(run: Standing, event: WaitEnded, at: float, graph: Graph | None) -> None:
    step = run.get_step(event.step)
    is_waiting = step.status is RUNNING and isinstance(step.spec.action, Wait)
    if not is_waiting or run.finished is RunStatus.CANCELED:
        raise ImpossibleEvent(f"step {step.name!r} does not wait")
    action = step.spec.action
    if isinstance(action, Wait) and action.kind is WaitKind.SIGNAL:
        name = action.name or ""
        if not run.signals.take(name, step.number):
            raise ImpossibleEvent(f"no signal {name!r} has come for step {step.name!r}")
    step.due_at = None
    succeed(run, step, bytes(event.value), at)


def _signaled(run: Standing, event: SignalReceived, at: float, graph: Graph | None) -> None:
    if run.finished is RunStatus.SUCCESSFUL:
        raise ImpossibleEvent("a successful run takes no signals")
    run.signals.keep(event.name, bytes(event.value))


def _called(run: Standing, event: CallReceived, at: float, graph: Graph | None) -> None:
    if not run.is_actor:
        raise ImpossibleEvent("the run is no actor: it takes no calls")
    graph = Graph(steps=decode_pages([event.steps]), output=0)
    if problems := problems_of(graph) or reference_problems(graph, run):
        raise ImpossibleEvent(f"a call that cannot be carried out: {'; '.join(problems)}")
    previous = None if run.last_call is None else run.steps[run.last_call]
    run.last_call = open_scope(run, None, graph, previous).first
    if event.call:
        run.calls[event.call] = run.last_call


def _rested(run: Standing, event: ActorRested, at: float, graph: Graph | None) -> None:
    if run.steps and not run.is_at_rest:
        raise ImpossibleEvent("the actor has calls that have not ended")
    run.is_actor, run.submitted_at = True, event.submitted_at
    run.started_at = event.started_at
    run.laid_down = event.first
    run.state = None if event.state is UNSET else bytes(event.state)
    run.value = None if event.value is UNSET else bytes(event.value)
    run.succeeded = event.first
    run.naming = Names(event.names)
    run.signals = Signals({name: map(bytes, each) for name, each in event.signals.items()})
    # Everything else that names steps by their numbers.
    dropped = [step.number for step in run.steps if step.may_begin]
    for named in (run.later, run.calls, run.splits, run.failures):
        named.clear()
    run.volatile.clear()
    run.undecided.clear()
    run.unfinished = run.undelivered = 0
    run.steps, run.scopes, run.last_call = [], [], None
    refill(run)
    run.dropped += dropped


def _scope_closed(run: Standing, event: ScopeClosed, at: float, graph: Graph | None) -> None:
    owner = run.get_step(event.step)
    if owner.opened is None or owner.is_ended:
        raise ImpossibleEvent(f"step {owner.name!r} has no open scope")
    close_scope(run, owner.opened, at)
    end(run, owner, SUCCESSFUL, pack_caught(None, event.error), at)


def _canceling(run: Standing, event: CancelRequested, at: float, graph: Graph | None) -> None:
    if run.finished is RunStatus.SUCCESSFUL:
        raise ImpossibleEvent("a successful run is not canceled")
    run.cancel_requested = True
    run.finished = run.held = None


def _paused(run: Standing, event: PauseChanged, at: float, graph: Graph | None) -> None:
    run.is_paused = event.paused
    if not event.paused:
        refill(run)


def _quarantined(run: Standing, event: Quarantined, at: float, graph: Graph | None) -> None:
    run.held = event.reason
    run.failed_step = event.step


def _run_finished(run: Standing, event: RunFinished, at: float, graph: Graph | None) -> None:
    if not run.is_open:
        raise ImpossibleEvent(f"the run is {run.status} already")
    run.finished, run.error, run.ended_at = event.status, event.error, at
    run.failed_step = event.step
    is_left = event.status is RunStatus.CANCELED or bool(run.splits)
    if is_left and event.status is not RunStatus.FAILED:
        run.dropped += [step.number for step in run.steps if step.may_begin]
    if event.status is RunStatus.SUCCESSFUL:
        run.value = run.scopes[0].result or NOTHING


def _open_step(run: Standing, number: int, attempt: int | None) -> StepState:
    step = run.get_step(number)
    is_over = run.finished in (RunStatus.CANCELED, RunStatus.SUCCESSFUL)
    if not step.may_begin or is_over:
        what = "returned steps" if step.opened is not None else f"is {step.status}"
        raise ImpossibleEvent(f"step {step.name!r} {what}: no attempt of it can do anything")
    if attempt is not None and attempt < step.attempt + (step.status is not RUNNING):
        raise ImpossibleEvent(f"attempt {attempt} of step {step.name!r} is not its latest")
    return step


def _count_attempt(run: Standing, step: StepState, attempt: int) -> None:
    step.attempt = attempt
    step.due_at = None


def _needed(graph: Graph | None) -> Graph:
    if graph is None:
        raise ImpossibleEvent("the event names a graph that is not there")
    return graph


RULES: dict[type[Event], Callable[..., None]] = {
    RunSubmitted: _submitted,
    RunBegun: _begun,
    RunAdopted: _adopted,
    RunResumed: _resumed,
    StepStarted: _started,
    StepSucceeded: _succeeded,
    StepFailed: _failed,
    StepLost: _lost,
    StepSkipped: _skipped,
    ConditionDecided: _decided,
    GraphExtended: _extended,
    WaitBegun: _wait_begun,
    WaitEnded: _wait_ended,
    SignalReceived: _signaled,
    CallReceived: _called,
    ActorRested: _rested,
    ScopeClosed: _scope_closed,
    CancelRequested: _canceling,
    PauseChanged: _paused,
    Quarantined: _quarantined,
    RunFinished: _run_finished,
}
"""What each event changes; called with the run, the event, its time and the graph it brings."""
