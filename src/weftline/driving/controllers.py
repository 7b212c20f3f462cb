"""What a driver needs of the controller of its home."""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from weftline.control import Accepted, NewRun
from weftline.engine.active import Ended, Gone
from weftline.errors import WeftlineError

Listener = Callable[[Ended | Gone], None]
"""Called once, on another thread, which it must not hold up."""


class Controller(Protocol):
    """The controller of the home, whichever that is; one is started when there is something to
    say."""

    def next_number(self) -> int:
        """A number for a message."""
        ...

    def submit(
        self, runs: Sequence[NewRun], listeners: Sequence[Listener]
    ) -> list[WeftlineError | None]:
        """Have new runs driven; returns when each is durable (None) or refused (why).

        Each listener of a durable one is told once how it ends, or that nobody tells.
        Raises: ControllerUnavailable.
        """
        ...

    def adopt(self, run_ids: Iterable[str], *, is_resume: bool) -> list[Accepted | WeftlineError]:
        """Have recorded runs driven; for each what the controller says.

        Raises: ControllerUnavailable.
        """
        ...

    def watch(
        self, run_id: str, name: str | None, listener: Listener, *, is_expected: bool = False
    ) -> None:
        """Tell the listener once how the run, or its step or call, ends; `Gone` when the
        controller does not drive it, or cannot be reached. Never waits. `is_expected`: the call
        is made after this."""
        ...


FindController = Callable[[], Controller | None]
"""Gives the controller of the home; None for a home in memory, which has none."""
