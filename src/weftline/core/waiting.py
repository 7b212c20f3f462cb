"""What a run waits for, and why: the answer to "does anything happen here at all?"."""

from enum import StrEnum

from msgspec import Struct

from weftline.core.actions import PythonCall, Wait, WaitKind
from weftline.core.events import RunStatus
from weftline.core.policy import Placement
from weftline.core.run import Run
from weftline.core.state import StepState, StepStatus


class WaitingFor(StrEnum):
    """What must come before it goes on."""

    TIMER = "timer"
    SIGNAL = "signal"
    EVENT = "event"
    STEPS = "steps"
    RESOURCES = "resources"
    RETRY = "retry"
    LIMIT = "limit"
    CONTINUE = "continue"
    RESUME = "resume"
    CONTROLLER = "controller"


class Waiting(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Steps that wait for the same thing; no steps: the run as a whole does.

    `until` is when it goes on at the latest, `since` when the first of them began to wait (both in
    seconds since 1970, None: not known). `name` is that of a signal. With STEPS, `count` inputs
    have to end. `asks` is what is to be free (RESOURCES). `reason` says why the run is held.
    """

    kind: WaitingFor
    steps: tuple[str, ...] = ()
    since: float | None = None
    until: float | None = None
    name: str | None = None
    count: int | None = None
    asks: Placement | None = None
    reason: str | None = None


def waits_of(
    run: Run, now: float, status: RunStatus | None = None, *, is_detached: bool = False
) -> list[Waiting]:
    """All that the run waits for, in the order of its steps; nothing once it is over.

    `status` is what readers make of the run's own (RESUMABLE when nobody drives it). What runs is
    not waiting, nor is a step whose inputs are still being made.
    """
    status = run.status if status is None else status
    if status is RunStatus.RESUMABLE:
        goes_on = is_detached and run.held is None
        kind = WaitingFor.CONTROLLER if goes_on else WaitingFor.RESUME
        return [Waiting(kind=kind, reason=run.held)]
    if status is RunStatus.PENDING:
        return [Waiting(kind=WaitingFor.LIMIT, since=run.submitted_at)]
    if not run.is_open or run.cancel_requested:
        return []
    found: dict[Waiting, tuple[list[str], list[float]]] = {}
    if status is RunStatus.PAUSED:
        found[Waiting(kind=WaitingFor.CONTINUE)] = [], []
    for step in run.steps:
        waiting = _wait_of(step, status, now)
        if waiting is not None:
            names, begun = found.setdefault(waiting, ([], []))
            names.append(step.name)
            if step.started_at is not None and step.status is not StepStatus.READY:
                begun.append(step.started_at)
    return [_joined(waiting, *members) for waiting, members in found.items()]


def _wait_of(step: StepState, status: RunStatus, now: float) -> Waiting | None:
    """What this step waits for: equal ones are told as one."""
    state = step.status
    if state is StepStatus.WAITING and step.due_at is not None:
        if step.due_at > now:
            return Waiting(kind=WaitingFor.RETRY, until=step.due_at)
        state = StepStatus.READY
    if state is StepStatus.READY and status is RunStatus.PAUSED:
        return Waiting(kind=WaitingFor.CONTINUE)
    if state is StepStatus.READY or (state is StepStatus.RUNNING and step.opened is None):
        return _wait_of_action(step, is_ready=state is StepStatus.READY)
    return None


def _wait_of_action(step: StepState, *, is_ready: bool) -> Waiting | None:
    action = step.spec.action
    if isinstance(action, Wait):
        match action.kind:
            case WaitKind.TIMER:
                return Waiting(kind=WaitingFor.TIMER, until=step.due_at)
            case WaitKind.SIGNAL:
                return Waiting(kind=WaitingFor.SIGNAL, name=action.name, until=step.due_at)
            case WaitKind.STEPS:
                return Waiting(kind=WaitingFor.STEPS, count=action.count, until=step.due_at)
    if isinstance(action, PythonCall) and action.listens:
        return Waiting(kind=WaitingFor.EVENT)
    return Waiting(kind=WaitingFor.RESOURCES, asks=step.spec.placement) if is_ready else None


def _joined(waiting: Waiting, names: list[str], begun: list[float]) -> Waiting:
    return Waiting(
        kind=waiting.kind,
        steps=tuple(names),
        since=min(begun, default=None),
        until=waiting.until,
        name=waiting.name,
        count=waiting.count,
        asks=waiting.asks,
        reason=waiting.reason,
    )
