"""Attempts that wait for something outside, awaited beside each other on a thread of this process.

The thread exists, and asyncio is imported, once there is such an attempt.
"""

from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from time import time
from typing import Any

from weftline.core.values import Error
from weftline.ports.executor import Attempt, Done, Failed, Lane, Printed, Refused, Report, Started
from weftline.ports.objects import ObjectStore
from weftline.wire import Outcome
from weftline.workers.outcomes import call_of, report_of
from weftline.workers.output import Capture, Hold, LogBook

ROOM = 1 << 16
_CLOSE_WITHIN_S = 1.0

_left: list[Any] = []
"""Loops of calls that never came to their end: to drop them would make their coroutines go on."""


class Polls:
    """Awaits attempts; `report` gets what happens to them, on whichever thread that is known.

    What they print goes, all together, into the log called `worker` in `home`.
    """

    def __init__(
        self,
        objects: ObjectStore,
        report: Callable[[Report], object],
        worker: str,
        home: Path | None,
    ) -> None:
        self._objects, self._report, self._worker = objects, report, worker
        self._book = LogBook(home, worker)
        self._keys: set[int] = set()
        """Of the attempts that have neither ended nor been given up; the engine's thread's."""
        self._captures: dict[int, Capture] = {}
        self._commands: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._loop: Any = None
        self._listening: Any = None
        self._thread: Thread | None = None
        self._is_closed = False

    # -- for the engine's thread ----------------------------------------------------------------

    def room(self) -> int:
        return max(0, ROOM - len(self._keys))

    def start(self, lane: Lane, attempts: list[Attempt]) -> None:
        for attempt in attempts:
            self._keys.add(attempt.key)
            if lane.placement.env_vars:
                self._report(_refusal(attempt))
            else:
                self._report(Started(attempt.key, time(), self._worker))
                self._command(partial(self._begin, attempt))

    def kill(self, keys: set[int]) -> None:
        """Give these up, if they are here; what is reported on them from now on is void."""
        if hit := self._keys & keys:
            self._keys -= hit
            self._command(partial(self._cancel, hit))

    def is_void(self, report: Report) -> bool:
        """Whether a report, which it made and has now arrived, is of an attempt given up."""
        if isinstance(report, Refused) or report.key not in self._keys:
            return True
        if isinstance(report, Done):
            self._keys.remove(report.key)
        return False

    def close(self) -> None:
        """Give all up, and wait a moment for what they still have to do."""
        if self._thread is not None and not self._is_closed:
            self._command(self._stop)
            self._is_closed = True
            self._thread.join(2 * _CLOSE_WITHIN_S)

    def _command(self, command: Callable[[], object]) -> None:
        if self._is_closed:
            return
        self._commands.put(command)
        if self._thread is None:
            self._thread = Thread(target=self._main, name="weftline-polls", daemon=True)
            self._thread.start()
        elif self._loop is not None:  # else its first look at the commands is still to come
            self._loop.call_soon_threadsafe(self._obey)

    # -- on its own thread ----------------------------------------------------------------------

    def _main(self) -> None:
        import asyncio

        from weftline.workers.listening import Listening

        loop = asyncio.new_event_loop()
        self._listening = Listening(loop, self._objects, self._tell)
        self._loop = loop
        loop.call_soon(self._obey)
        hold = Hold()
        try:
            loop.run_forever()
            if left := self._listening.leave():
                loop.run_until_complete(asyncio.wait(left, timeout=_CLOSE_WITHIN_S))
        finally:
            hold.release()
            self._book.close()
        if self._listening.leave():
            _left.append(loop)
        else:
            loop.close()

    def _obey(self) -> None:
        try:
            while True:
                self._commands.get_nowait()()
        except Empty:
            return

    def _stop(self) -> None:
        self._loop.stop()

    def _begin(self, attempt: Attempt) -> None:
        tell = partial(self._print, attempt.key) if attempt.forward else None
        capture = self._captures[attempt.key] = Capture(self._book, tell)
        context = copy_context()
        context.run(capture.enter)
        call = call_of(attempt, attempt.timeout_s)
        self._listening.take(attempt.call.function, call, context)

    def _cancel(self, keys: set[int]) -> None:
        for key in keys:
            self._captures.pop(key, None)
        self._listening.cancel(keys)

    def _tell(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            capture = self._captures.pop(outcome.key, None)
            if capture is not None:
                capture.end()
                self._report(report_of(outcome, self._worker))

    def _print(self, key: int, stream: str, text: str) -> None:
        self._report(Printed(key, stream, text))


def _refusal(attempt: Attempt) -> Failed:
    text = (
        f"step {attempt.step!r} waits for something outside and asks for variables of its own"
        " (runtime_env), which it cannot have beside others in this process: run it with"
        " executor='children'"
    )
    error = Error("weftline.errors.ResourcesUnavailable", text)
    return Failed(key=attempt.key, error=error, retryable=False)
