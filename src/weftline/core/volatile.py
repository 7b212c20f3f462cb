"""Values that need not survive a crash of the machine, and what is done when they are gone."""

from collections.abc import Callable

from weftline.core.actions import PythonCall, Wait, WaitKind
from weftline.core.progress import free
from weftline.core.standing import Standing
from weftline.core.state import READY, RUNNING, SUCCESSFUL, WAITING, StepState
from weftline.core.values import Packed
from weftline.errors import ImpossibleEvent


def may_be_volatile(run: Standing, number: int) -> bool:
    """Whether the step's value need not survive a crash: it was asked for, for the step or for
    one that returned it, and the value does not live on in that of another one: of a whole
    scope, or of a wait for steps. A method of an actor is not carried out twice."""
    step = run.steps[number]
    action = step.spec.action
    if number in run.scopes[step.scope].outputs or (
        isinstance(action, PythonCall) and action.is_writer
    ):
        return False
    if any(map(_hands_on, map(run.steps.__getitem__, step.dependents or ()))):
        return False
    while step.spec.policy.checkpoint is None:
        owner = run.scopes[step.scope].owner
        if owner is None:
            return False
        step = run.steps[owner]
    return not step.spec.policy.checkpoint


def find_lost(run: Standing, is_there: Callable[[Packed], bool]) -> tuple[int, ...]:
    """Steps to be carried out again, since their volatile value is gone and still needed."""
    lost: set[int] = set()
    looked_at = [n for n in run.volatile if _is_needed(run, n)]
    while looked_at:
        number = looked_at.pop()
        step = run.steps[number]
        if number in lost or step.value is None or is_there(step.value):
            continue
        lost.add(number)
        looked_at += [n for n in run.sources_of(step) if n in run.volatile]
    return tuple(sorted(lost))


def _is_needed(run: Standing, number: int) -> bool:
    open_failures = set(run.failures.open)  # a resume tries these afresh
    for reader in map(run.steps.__getitem__, run.steps[number].dependents or ()):
        if reader.opened is None and (not reader.is_ended or reader.number in open_failures):
            return True
    return False


def lose_values(run: Standing, lost: tuple[int, ...]) -> None:
    """What was read from these steps has to be made again."""
    for number in lost:
        step = run.steps[number]
        if step.status is not SUCCESSFUL or number not in run.volatile:
            raise ImpossibleEvent(f"step {step.name!r} has no value that could be lost")
        step.status, step.value, step.ended_at = WAITING, None, None
        step.joined = False
        run.volatile.discard(number)
        run.unfinished += 1
        run.succeeded -= 1
    for number in lost:
        step = run.steps[number]
        for reader in map(run.steps.__getitem__, step.dependents or ()):
            is_open = not reader.is_ended or reader.number in run.failures.open
            if is_open and reader.number not in lost:
                reader.waiting_on += 1
                if reader.status is not RUNNING:
                    reader.joined, reader.due_at = False, None
                    if reader.number in run.undecided:
                        run.undecided.remove(reader.number)
                if reader.status is READY:
                    reader.status = WAITING
        step.waiting_on = sum(not run.has_ended(n) for n in run.sources_of(step))
        if step.waiting_on == 0:
            free(run, step)


def _hands_on(reader: StepState) -> bool:
    """Whether the values that the step reads live on in its own."""
    action = reader.spec.action
    return isinstance(action, Wait) and action.kind in (WaitKind.STEPS, WaitKind.VALUE)
