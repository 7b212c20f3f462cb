"""Compositions that wait: for time, for steps, for events and signals. None of them holds a worker
while it does."""

from collections.abc import Sequence
from typing import Any

from weftline.api.checks import checked_name, checked_seconds
from weftline.api.compositions import Step, Workflow
from weftline.authoring.events import (
    LISTENS,
    check_listener,
    checkpoint_of,
    is_checkpoint_wanted,
    poll_of,
)
from weftline.authoring.options import Options
from weftline.authoring.step import Composition, Waiting
from weftline.codecs.references import StepRef
from weftline.core.actions import Wait, WaitKind


def sleep(seconds: float) -> Workflow[None]:
    """A composition that takes so long. The end is recorded when it begins: a crash or a restart
    does not start it over. Raises: TypeError, ValueError."""
    duration = checked_seconds(seconds, "sleep")
    return Workflow(Waiting("sleep", Wait(WaitKind.TIMER, seconds=duration)), (), {})


def wait_for_signal(name: str, timeout: float | None = None) -> Workflow[Any]:
    """A composition whose value is the payload of the next signal of this name that the run gets
    with `signal`, also of one that came before it was waited for.

    Each signal is for one wait; waits of one name get them in order. After `timeout` seconds
    without one it fails with StepTimeoutError. Raises: TypeError, ValueError.
    """
    name = checked_name(name, "the name of a signal")
    seconds = None if timeout is None else checked_seconds(timeout, "timeout")
    action = Wait(WaitKind.SIGNAL, seconds=seconds, name=name)
    return Workflow(Waiting("wait_for_signal", action), (), {})


def wait_for_event(listener: Any, *args: Any, **kwargs: Any) -> Workflow[Any]:
    """A composition whose value is what `listener().poll_for_event(*args, **kwargs)` returns.

    Once that is recorded it is not polled for again, and `event_checkpointed`, if the listener
    defines it, is called (perhaps more than once). Source: Ray Workflow 1.12.
    Raises: TypeError for what is no class derived from EventListener.
    """
    check_listener(listener)
    poll: Workflow[Any] = Step(poll_of(listener), LISTENS).step(*args, **kwargs)
    if not is_checkpoint_wanted(listener):
        return poll
    checkpointed: Workflow[Any] = Step(checkpoint_of(listener), Options()).step(poll)
    return checkpointed


def wait(
    workflows: Sequence[Any], num_returns: int = 1, timeout: float | None = None
) -> Workflow[tuple[list[Any], list[Any]]]:
    """A composition whose value is `(values, left)`: the values of the first `num_returns` of the
    compositions that have ended, and references to the others, both in the order given.

    What was ready is recorded: all who read it see the same, also after a restart. The others go
    on; a reference may be given to other steps or to another wait. After `timeout` seconds there
    may be fewer. Source: Ray Workflow 1.12.
    Raises: TypeError for what is no list of compositions; ValueError.
    """
    if not isinstance(workflows, list | tuple):
        raise TypeError(f"workflow.wait takes a list, not {type(workflows).__name__}")
    for one in workflows:
        if not isinstance(one, Composition | StepRef):
            raise TypeError(
                f"workflow.wait takes compositions made with .step(), not {type(one).__name__}"
            )
    if len({one if isinstance(one, StepRef) else id(one) for one in workflows}) < len(workflows):
        raise ValueError("workflow.wait takes each composition once")
    is_count = isinstance(num_returns, int) and not isinstance(num_returns, bool)
    if not is_count or not 1 <= num_returns <= len(workflows):
        raise ValueError(f"num_returns={num_returns!r} must be from 1 to {len(workflows)}")
    seconds = None if timeout is None else checked_seconds(timeout, "timeout")
    action = Wait(WaitKind.STEPS, seconds=seconds, count=num_returns)
    return Workflow(Waiting("wait", action), tuple(workflows), {})
