"""Whose turn it is to have an actor's state: of one actor, one writer is carried out at a time."""

from collections import deque
from collections.abc import Callable


class Writers:
    """The step that has the state, or gets it next, and the READY ones behind it."""

    def __init__(self) -> None:
        self._holder: int | None = None
        self._queue: deque[int] = deque()

    def claim(self, number: int) -> bool:
        """Whether the step may have the state now; if not, it stands in the queue."""
        if self._holder not in (None, number):
            self._queue.append(number)
            return False
        self._holder = number
        return True

    def pass_on(self, number: int, is_ready: Callable[[int], bool]) -> int | None:
        """The step has done with the state: which one has it now, if that changed."""
        if self._holder != number:
            return None
        self._holder = None
        while self._queue:
            following = self._queue.popleft()
            if is_ready(following):
                self._holder = following
                return following
        return None

    def line_up_anew(self, may_hold: Callable[[int], bool]) -> None:
        """Forget the queue, and who has the state unless it may go on with it."""
        self._queue.clear()
        if self._holder is not None and not may_hold(self._holder):
            self._holder = None
