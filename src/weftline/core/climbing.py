"""Where a failure goes that is not borne: to whoever catches it, or else the run has failed."""

from collections.abc import Iterable, Sequence

from weftline.core.events import RunFinished, RunStatus, ScopeClosed
from weftline.core.graph import Join
from weftline.core.splits import waits_for_steps
from weftline.core.standing import Standing
from weftline.core.state import FAILED, StepState
from weftline.core.values import Error


def catcher_of(run: Standing, step: StepState) -> StepState | None:
    """The step that catches what this one fails of; None: it fails the run."""
    catching = run.scopes[step.scope].catching
    owner = None if catching < 0 else run.scopes[catching].owner
    return None if owner is None else run.steps[owner]


def climb(
    run: Standing,
    origin: StepState,
    error: Error,
    failed: StepState,
    causes: Sequence[StepState] = (),
) -> None:
    """The failure reaches whoever catches what `origin` is part of; else it is the run's, and
    a resume tries its causes afresh."""
    catcher = catcher_of(run, origin)
    number = run.failures.origin_of(causes[0].number if causes else failed.number)
    if catcher is None:
        reopen(run, causes)
        finished = RunFinished(status=RunStatus.FAILED, error=error, step=number)
        run.following.append(finished)
    else:
        run.following.append(ScopeClosed(step=catcher.number, error=error, failed=number))


def reopen(run: Standing, failed: Iterable[StepState]) -> None:
    """Nobody bears these failures after all: they are open again, for a resume to try
    afresh, and what they failed of as well."""
    opening = list(failed)
    while opening:
        each = opening.pop(0)
        if each.number in run.failures.open:
            continue
        opening += [run.steps[n] for n in run.failures.take_causes(each.number)]
        run.unfinished += 1
        for number in run.failures.reopen(each.number):
            for reader in bearing_readers(run, number):
                run.steps[reader].waiting_on += 1


def bearing_readers(run: Standing, number: int) -> list[int]:
    """Steps that read the step, and for which it may be of no consequence that it has no value."""
    step = run.steps[number]
    return [n for n in run.readers_of(number) if does_without(run.steps[n], step)]


def does_without(reader: StepState, source: StepState) -> bool:
    """Whether it may be of no consequence to the reader that the source has no value."""
    is_borne = source.status is FAILED and reader.spec.join is not Join.ALL_SUCCEEDED
    return is_borne or waits_for_steps(reader)
