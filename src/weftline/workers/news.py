"""What reaches the thread of an engine from other threads of its process."""

from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")


class News(Generic[T]):
    """Things that any thread puts and one takes, who may also be woken for nothing."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[T | None] = SimpleQueue()
        self._is_woken = False

    def put(self, thing: T) -> None:
        self._queue.put(thing)

    def wake(self) -> None:
        if not self._is_woken:
            self._is_woken = True
            self._queue.put(None)

    def take(self, timeout_s: float | None) -> tuple[list[T], bool]:
        """What has come, oldest first, and whether somebody has called `wake`.

        Waits for it until `timeout_s` has passed (None: for as long as it takes).
        """
        found: list[T] = []
        is_woken = False
        try:
            thing = self._queue.get(timeout_s != 0.0, timeout_s)
            while True:
                if thing is None:
                    # Said before the queue is looked at again, so that no later wake is missed.
                    self._is_woken, is_woken = False, True
                else:
                    found.append(thing)
                thing = self._queue.get_nowait()
        except Empty:
            return found, is_woken
