"""How steps go on: what becomes READY, what ends, and who is told of it, once an edge."""

from collections import deque
from collections.abc import Iterable, Sequence

from weftline.core.actions import PythonCall
from weftline.core.climbing import catcher_of, climb
from weftline.core.events import StepSkipped
from weftline.core.graph import Join, OptionalInput
from weftline.core.splits import look_at_split
from weftline.core.standing import Standing
from weftline.core.state import FAILED, READY, SKIPPED, SUCCESSFUL, WAITING, StepState, StepStatus
from weftline.core.values import NOTHING, Packed, pack_caught, pack_list


def end(
    run: Standing, step: StepState, status: StepStatus, value: Packed | None, at: float
) -> None:
    """End the step, and every owner whose output that settles."""
    while True:
        step.status, step.value, step.ended_at = status, value, at
        step.losses = 0
        _count_ended(run, 1, step.dependents, status)
        scope = run.scopes[step.scope]
        is_pair = step.spec.policy.catch
        if isinstance(scope.output, list):
            if step.number not in scope.outputs:
                return
            scope.left -= 1
            if scope.left:
                return
            value = pack_list([run.value_of(n) or NOTHING for n in scope.output])
            status, is_pair = SUCCESSFUL, False
        elif scope.output != step.number:
            return
        head = run.scopes[scope.head]
        head.result, head.delivered = value, True
        if head.owner is None:
            run.undelivered -= 1
            if run.is_actor:
                run.value = value
            return
        _count_ended(run, head.chained, head.followers, status)
        step = run.steps[head.owner]
        # One flat pair: an output step that catches itself has made the pair already.
        if value is not None and step.spec.policy.catch and not is_pair:
            value = pack_caught(value, None)


def succeed(run: Standing, step: StepState, value: Packed, at: float) -> None:
    """End the step with this value, or the pair of it when its failures are caught."""
    end(run, step, SUCCESSFUL, pack_caught(value, None) if step.spec.policy.catch else value, at)


def _count_ended(
    run: Standing, count: int, dependents: Sequence[int] | None, status: StepStatus
) -> None:
    run.unfinished -= count
    if status is SUCCESSFUL:
        run.succeeded += count
    if dependents:
        count_down(run, dependents, status)


def count_down(run: Standing, dependents: Iterable[int], status: StepStatus) -> None:
    """Tell these steps, once an edge, that one which they wait for has ended so."""
    stuck: list[StepState] = []
    for number in dependents:
        step = run.steps[number]
        step.waiting_on -= 1
        if step.joined or step.status is not WAITING:
            if number in run.splits:
                look_at_split(run, step)
            continue
        join = step.spec.join
        if join is Join.ONE_SUCCEEDED:
            if status is SUCCESSFUL:
                free(run, step)
            elif step.waiting_on == 0:
                stuck.append(step)
            continue
        step.lacks |= status is not SUCCESSFUL
        if not step.waiting_on:
            inputs_ended(run, step)
    for step in stuck:
        _none_succeeded(run, step)


def _none_succeeded(run: Standing, step: StepState) -> None:
    """No input of a `one succeeded` join succeeded: the failures climb, or it is skipped, where
    that is too late to matter."""
    first = run.scopes[step.scope].first
    sources = {first + n for n in step.spec.upstream()}
    failed = [run.steps[n] for n in sorted(sources) if run.steps[n].status is FAILED]
    catcher = catcher_of(run, step)
    is_late = catcher is not None and catcher.is_ended
    error = run.error_of(failed[0].number) if failed else None
    if error is None or is_late:
        run.following.append(StepSkipped(step.number, "none of its inputs succeeded"))
    else:
        climb(run, failed[0], error, failed[0], failed)


def inputs_ended(run: Standing, step: StepState) -> None:
    """All inputs of the step have ended; without one that it needs, it is skipped."""
    is_needing = step.spec.join is Join.ALL_SUCCEEDED
    if is_needing and step.lacks and not _bears_absence(run, step):
        run.following.append(StepSkipped(step=step.number, reason="an input was skipped"))
    else:
        free(run, step)


def _bears_absence(run: Standing, step: StepState) -> bool:
    """Whether every ended input without a value has a default."""
    if any(run.value_of(n) is None for n in run.outer_of(step.spec)):
        return False
    first = run.scopes[step.scope].first
    with_default = {
        first + entry.step
        for entry in step.spec.inputs
        if isinstance(entry, OptionalInput) and entry.default is not None
    }
    return all(
        first + n in with_default
        for n in step.spec.upstream()
        if run.steps[first + n].status in (SKIPPED, FAILED)
    )


def free(run: Standing, step: StepState) -> None:
    """All that the step waited for has ended: READY, unless its condition is undecided."""
    step.joined = True
    if step.spec.when is not None and step.condition is None:
        run.undecided.append(step.number)
    else:
        make_ready(run, step)


def make_ready(run: Standing, step: StepState) -> None:
    """List the step among those that may be started, when it is its turn."""
    step.status = READY
    action = step.spec.action
    if type(action) is not PythonCall:
        run.beginning.append(step.number)
    elif not action.is_writer or run.writers.claim(step.number):
        run.ready.append(step.number)


def pass_state_on(run: Standing, step: StepState) -> None:
    """The step has done with the actor's state: the next one may have it."""
    following = run.writers.pass_on(step.number, lambda n: run.steps[n].status is READY)
    if following is not None:
        make_ready(run, run.steps[following])


def refill(run: Standing) -> None:
    """List anew what may be started."""
    run.generation += 1
    run.ready, run.beginning = deque(), deque()
    run.dropped.clear()
    run.writers.line_up_anew(lambda n: n < len(run.steps) and run.steps[n].may_begin)
    for step in run.steps:
        if step.status is READY:
            make_ready(run, step)
