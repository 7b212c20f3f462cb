"""Waiting for some of many steps: when enough of them have ended, and what the wait found."""

from msgspec import Raw

from weftline.core.actions import Wait, WaitKind
from weftline.core.events import Event, StepFailed, WaitEnded
from weftline.core.standing import Standing
from weftline.core.state import RUNNING, StepState
from weftline.core.values import NOTHING, pack_split


def look_at_split(run: Standing, step: StepState) -> None:
    """End a wait for steps if it has begun and enough of them have ended."""
    action = step.spec.action
    assert isinstance(action, Wait)
    # Edges are counted, sources may be read twice: this is what costs nothing to know.
    if step.status is not RUNNING or (
        run.splits[step.number] - step.waiting_on < action.count and step.waiting_on
    ):
        return
    sources = set(run.sources_of(step))
    if sum(map(run.has_ended, sources)) >= min(action.count, len(sources)):
        run.following.append(split_of(run, step, action))


def ended_sources(run: Standing, step: StepState, action: Wait) -> list[int]:
    """The first steps that have ended of those that it waits for, as many as it asks for."""
    sources = dict.fromkeys(run.sources_of(step))
    return [n for n in sources if run.has_ended(n)][: action.count]


def split_of(run: Standing, step: StepState, action: Wait) -> Event:
    """What a wait for steps found ended; its failure when one of those has failed."""
    ready = ended_sources(run, step, action)
    if causes := run.failures_among(ready):
        error = causes[0].error
        assert error is not None
        return StepFailed(step=step.number, attempt=step.attempt + 1, error=error)
    is_ready = set(ready)
    left = [run.laid_down + n for n in dict.fromkeys(run.sources_of(step)) if n not in is_ready]
    values = [run.value_of(n) or NOTHING for n in ready]
    return WaitEnded(step=step.number, value=Raw(pack_split(values, run.run_id, left)))


def waits_for_steps(step: StepState) -> bool:
    """Whether the step is a wait for some of its inputs."""
    action = step.spec.action
    return type(action) is Wait and action.kind is WaitKind.STEPS
