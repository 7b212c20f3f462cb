"""Events from outside that a workflow waits for: a user's listener as steps."""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

from weftline.authoring.options import Options
from weftline.authoring.step import default_name
from weftline.core.policy import Placement


class EventListener:
    """Waits for an event; derive from it, without arguments for `__init__`.

    A listener is made afresh for each of its calls, and may be made in any process.
    Source: Ray Workflow 1.12.
    """

    async def poll_for_event(self, *args: Any, **kwargs: Any) -> Any:
        """The event, once it has come. Called again after a crash, as long as what it returned
        was not recorded."""
        raise TypeError(f"{type(self).__qualname__} does not define poll_for_event")

    async def event_checkpointed(self, event: Any) -> None:
        """The event is recorded and will not be polled for again; a source may now forget it. May
        be called more than once."""


LISTENS = Options(placement=Placement(num_cpus=0), listens=True)
"""How a poll is carried out: beside all others, and without a worker."""


def check_listener(listener: Any) -> None:
    """Raises: TypeError for what is no class derived from `EventListener`."""
    if not (isinstance(listener, type) and issubclass(listener, EventListener)):
        raise TypeError(
            f"wait_for_event takes a class derived from workflow.EventListener, not {listener!r}"
        )
    if listener.poll_for_event is EventListener.poll_for_event:
        raise TypeError(f"the listener {listener.__qualname__} does not define poll_for_event")


def is_checkpoint_wanted(listener: type[EventListener]) -> bool:
    """Whether the listener wants to know that its event is recorded."""
    return listener.event_checkpointed is not EventListener.event_checkpointed


@cache
def poll_of(listener: Any) -> Callable[..., Any]:
    """A function that waits for the listener's event; always the same one for a class."""

    def poll(*args: Any, **kwargs: Any) -> Any:
        return listener().poll_for_event(*args, **kwargs)

    return _named(poll, listener, ".poll_for_event")


@cache
def checkpoint_of(listener: Any) -> Callable[..., Any]:
    """A function that tells the listener that its event is recorded, and returns the event."""

    async def checkpoint(event: Any) -> Any:
        told = listener().event_checkpointed(event)
        if inspect.isawaitable(told):
            await told
        return event

    return _named(checkpoint, listener, "")


def _named(function: Callable[..., Any], listener: type, ending: str) -> Callable[..., Any]:
    function.__module__ = listener.__module__
    function.__qualname__ = (
        f"{default_name(listener).removeprefix(listener.__module__ + '.')}{ending}"
    )
    return function
