"""Where a failure goes that is not borne: up to a step that catches it, or that fails of it and is
borne, or else the run has failed."""

from collections.abc import Iterable, Sequence

from weftline.core.events import RunFinished, RunStatus, ScopeClosed
from weftline.core.graph import Join
from weftline.core.splits import waits_for_steps
from weftline.core.standing import Standing
from weftline.core.state import FAILED, READY, RUNNING, WAITING, Closed, StepState
from weftline.core.values import Error


def closer_of(run: Standing, step: StepState) -> StepState | None:
    """The step whose scope is closed when this one fails: it catches, or its readers bear that it
    fails. None: the run fails."""
    scope = run.scopes[step.scope]
    if not run.has_joins:
        owner = None if scope.catching < 0 else run.scopes[scope.catching].owner
        return None if owner is None else run.steps[owner]
    while (number := run.scopes[scope.head].owner) is not None:
        above = run.steps[number]
        if above.spec.policy.catch or is_borne(run, above):
            return above
        scope = run.scopes[above.scope]
    return None


def is_borne(run: Standing, step: StepState) -> bool:
    """Whether nobody needs the step, and a join would go on without it."""
    if step.number in run.scopes[step.scope].outputs:
        return False
    readers = [run.steps[n] for n in run.readers_of(step.number)]
    return any(map(_is_join, readers)) and all(
        _is_join(reader) or waits_for_steps(reader) for reader in readers
    )


def climb(
    run: Standing,
    origin: StepState,
    error: Error,
    failed: StepState,
    causes: Sequence[StepState] = (),
) -> None:
    """The failure reaches whoever catches or bears what `origin` is part of; else it is the run's,
    and a resume tries its causes afresh."""
    closer = closer_of(run, origin)
    number = run.failures.origin_of(causes[0].number if causes else failed.number)
    if closer is None:
        reopen(run, causes)
        finished = RunFinished(status=RunStatus.FAILED, error=error, step=number)
        run.following.append(finished)
    else:
        run.following.append(ScopeClosed(step=closer.number, error=error, failed=number))


def reopen(run: Standing, failed: Iterable[StepState]) -> None:
    """Nobody bears these failures after all: they are open again, for a resume to try
    afresh, and what they failed of as well."""
    opening = list(failed)
    while opening:
        each = opening.pop(0)
        if each.status is not FAILED or each.number in run.failures.open:
            continue
        causes = [run.steps[n] for n in run.failures.take_causes(each.number)]
        for number in run.failures.lift(each.number):
            for reader in bearing_readers(run, number):
                run.steps[reader].waiting_on += 1
        run.unfinished += 1
        closed = run.closed.pop(each.number, None)
        if closed is None:
            run.failures.open.append(each.number)
        else:  # not the step itself is tried again, but what it returned goes on
            causes = _reopen_scopes(run, each, closed)
        opening += causes


def _reopen_scopes(run: Standing, owner: StepState, closed: Closed) -> list[StepState]:
    """What the step returned is open again as it was; gives the failures that this was closed
    for, and that are borne elsewhere."""
    owner.status, owner.error, owner.ended_at = RUNNING, None, None
    for number in closed.scopes:
        run.scopes[number].closed = False
    causes: list[StepState] = []
    for number in closed.failed:
        run.failures.open.append(number)
        causes += [run.steps[n] for n in run.failures.take_causes(number)]
    run.unfinished += len(closed.failed) + len(closed.dropped)
    for step in [run.steps[n] for n in closed.dropped]:
        step.ended_at = None
        if step.opened is not None:
            step.status = RUNNING
        else:
            is_free = step.joined and (step.spec.when is None or step.condition is not None)
            step.status = READY if is_free else WAITING
            if step.joined and not is_free and step.number not in run.undecided:
                run.undecided.append(step.number)
    run.reopened += closed.dropped
    for step in [run.steps[n] for n in closed.dropped]:
        none_succeeded = step.spec.join is Join.ONE_SUCCEEDED and step.waiting_on == 0
        if not step.joined and (none_succeeded or not _is_join(step)):
            causes += run.failures_among(run.sources_of(step))
    return causes


def bearing_readers(run: Standing, number: int) -> list[int]:
    """Steps that read the step, and for which it may be of no consequence that it has no value."""
    step = run.steps[number]
    return [n for n in run.readers_of(number) if does_without(run.steps[n], step)]


def does_without(reader: StepState, source: StepState) -> bool:
    """Whether it may be of no consequence to the reader that the source has no value."""
    return (source.status is FAILED and _is_join(reader)) or waits_for_steps(reader)


def _is_join(reader: StepState) -> bool:
    """Whether it goes on although one that it reads has failed."""
    return reader.spec.join is not Join.ALL_SUCCEEDED
