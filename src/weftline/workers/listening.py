"""Functions that wait for something outside: all of them are awaited in one event loop.

This file imports asyncio, so it is imported only where something listens.
"""

import asyncio
import os
from collections.abc import Callable, Iterable
from contextvars import Context, copy_context
from time import monotonic, time

from weftline.core.values import Object
from weftline.ports.objects import ObjectStore
from weftline.wire import Call, Expired, Outcome
from weftline.workers.attempt import listen


class _Waiting:
    """A call that is being awaited; `limit` ends it."""

    __slots__ = ("limit", "started_at", "task")

    def __init__(self, started_at: float) -> None:
        self.started_at = started_at
        self.task: asyncio.Task[None] | None = None
        self.limit: asyncio.TimerHandle | None = None


class Listening:
    """Awaits calls side by side. Used on the thread of `loop` alone.

    `tell` gets what came of them, as soon as the loop has a moment. A call that was canceled, or
    ran out of time, is told of no more, whatever it still does.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        objects: ObjectStore,
        tell: Callable[[list[Outcome]], object],
    ) -> None:
        self._loop, self._objects, self._tell = loop, objects, tell
        self._pid = os.getpid()
        self._waiting: dict[int, _Waiting] = {}
        self._untold: list[Outcome] = []
        # Of tasks the loop itself keeps weak references only.
        self._given_up: set[asyncio.Task[None]] = set()

    def take(self, function: Object, call: Call, context: Context | None = None) -> None:
        """Begin to await what `function` gives, in `context`, if that is given."""
        waiting = self._waiting[call.key] = _Waiting(time())
        if call.timeout_s is not None:
            waiting.limit = self._loop.call_later(
                call.timeout_s, self._expire, call.key, call.timeout_s
            )
        waiting.task = self._loop.create_task(
            self._await(function, call, waiting), context=context or copy_context()
        )

    def cancel(self, keys: Iterable[int]) -> None:
        """Give these up; others are not touched."""
        for key in keys:
            waiting = self._waiting.pop(key, None)
            if waiting is not None:
                self._give_up(waiting)

    def leave(self) -> set[asyncio.Task[None]]:
        """Give all up. Returns: the tasks that have not come to their end."""
        self.cancel(list(self._waiting))
        return self._given_up

    async def _await(self, function: Object, call: Call, waiting: _Waiting) -> None:
        begun = monotonic()
        outcome = await listen(function, call, waiting.started_at, self._objects)
        if os.getpid() != self._pid:  # the call forked, and this is the fork coming back
            os._exit(0)
        if self._waiting.get(call.key) is not waiting:
            return
        del self._waiting[call.key]
        if waiting.limit is not None:
            waiting.limit.cancel()
        outcome.took_s = monotonic() - begun
        self._note(outcome)

    def _expire(self, key: int, after_s: float) -> None:
        waiting = self._waiting.pop(key)
        self._give_up(waiting)
        self._note(Expired(key, waiting.started_at, after_s, None, after_s))

    def _give_up(self, waiting: _Waiting) -> None:
        if waiting.limit is not None:
            waiting.limit.cancel()
        task = waiting.task
        if task is not None:
            self._given_up.add(task)
            task.add_done_callback(self._given_up.discard)
            task.cancel()

    def _note(self, outcome: Outcome) -> None:
        if not self._untold:
            self._loop.call_soon(self._tell_all)
        self._untold.append(outcome)

    def _tell_all(self) -> None:
        outcomes, self._untold = self._untold, []
        self._tell(outcomes)
