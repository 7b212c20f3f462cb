"""What a failure comes to: a value, something that all its readers do without, or the end."""

from collections.abc import Sequence

from weftline.core.climbing import bearing_readers, catcher_of, climb, does_without
from weftline.core.graph import Join
from weftline.core.progress import count_down, end
from weftline.core.standing import Standing
from weftline.core.state import FAILED, SUCCESSFUL, StepState
from weftline.core.values import Error, pack_caught


def fail(
    run: Standing, step: StepState, error: Error, at: float, causes: Sequence[StepState] = ()
) -> None:
    """The step has failed for good; its failure becomes a value, is borne, or climbs. `causes`
    are failures that were borne so far, and are what it failed of."""
    step.error = error
    if step.spec.policy.catch:
        end(run, step, SUCCESSFUL, pack_caught(None, error), at)
        return
    if causes:
        run.failures.note_causes(step.number, [each.number for each in causes])
    readers = [run.steps[n] for n in step.dependents or ()]
    is_output = step.number in run.scopes[step.scope].outputs
    step.status = FAILED  # as whoever does without it must see it
    if readers and not is_output and all(does_without(reader, step) for reader in readers):
        end(run, step, FAILED, None, at)
        return
    catcher = catcher_of(run, step)
    is_late = catcher is not None and catcher.is_ended
    origin = step
    if run.splits:
        doomed, needing = _foresee(run, step)
        if needing is None:
            _bear(run, step, doomed, at)
            return
        origin = needing if is_late else step
    elif is_late:
        end(run, step, FAILED, None, at)  # its scope has delivered: too late to matter
        return
    step.ended_at = at
    run.failures.open.append(step.number)
    climb(run, origin, error, step, causes)


def _foresee(run: Standing, first: StepState) -> tuple[list[int], StepState | None]:
    """What gets no value when this step has none: itself, what reads it, whose output it is,
    and so on, as far as the waits for some of many steps, which do without. The second is a
    step that cannot, if there is one."""
    doomed = {first.number: None}
    left = [first]
    while left:
        step = left.pop()
        scope = run.scopes[step.scope]
        readers = run.readers_of(step.number)
        catcher = catcher_of(run, step)
        is_late = catcher is not None and catcher.is_ended
        following: list[StepState] = []
        if step.number in scope.outputs:
            owner = run.scopes[scope.head].owner
            if owner is None or (run.steps[owner].spec.policy.catch and not is_late):
                return list(doomed), step
            following.append(run.steps[owner])
        elif not readers and not is_late:
            return list(doomed), step
        for reader in map(run.steps.__getitem__, readers):
            if reader.is_ended or does_without(reader, step):
                continue
            if reader.spec.join is not Join.ALL_SUCCEEDED and not is_late:
                return list(doomed), reader  # it bears a failure, not what lies behind one
            following.append(reader)
        for each in following:
            if not each.is_ended and each.number not in doomed:
                doomed[each.number] = None
                left.append(each)
    return list(doomed), None


def _bear(run: Standing, failed: StepState, doomed: list[int], at: float) -> None:
    """What this failure prevents is needed by nobody: it is of no consequence so far."""
    failed.status, failed.ended_at, failed.losses = FAILED, at, 0
    run.unfinished -= 1
    _doom(run, doomed, failed)


def _doom(run: Standing, doomed: list[int], failed: StepState) -> None:
    """These steps get no value because of the failure; who does without knows it now."""
    fresh = run.failures.bear(failed.number, doomed)
    readers = [reader for number in fresh for reader in bearing_readers(run, number)]
    count_down(run, readers, FAILED)


def go_without(run: Standing, step: StepState, causes: list[StepState]) -> None:
    """The step reads what failures, of no consequence so far, have left without a value."""
    doomed, needing = _foresee(run, step)
    if needing is None:
        for failed in causes:
            _doom(run, doomed, failed)
        return
    error = causes[0].error
    assert error is not None
    catcher = catcher_of(run, step)
    is_late = catcher is not None and catcher.is_ended
    climb(run, needing if is_late else step, error, causes[0], causes)
