"""Carries attempts out in the thread that waits for them: no process, nothing in parallel."""

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

from weftline.core.policy import Placement
from weftline.ports.clock import Clock
from weftline.ports.executor import Attempt, Lane, Printed, Report
from weftline.ports.objects import ObjectStore
from weftline.wire import Expired, Outcome
from weftline.workers.attempt import carry_out
from weftline.workers.memory import problem_here
from weftline.workers.news import News
from weftline.workers.outcomes import call_of, report_of
from weftline.workers.output import Capture, Hold, LogBook
from weftline.workers.polls import Polls
from weftline.workers.slots import Slots

ROOM = 16


class Inline:
    """One attempt at a time, within `wait`; those that listen are awaited on a thread beside it.

    What steps print is caught as far as Python writes it, told when they end, and kept in the logs
    of `home`, if there is one. A time limit interrupts nothing: a step that took longer counts as
    timed out when it ends. Resources are checked, not kept. A KeyboardInterrupt on the main thread
    comes out of `wait`: it is meant for the process.
    """

    def __init__(
        self, *, objects: ObjectStore, slots: Slots, clock: Clock = time, home: Path | None = None
    ) -> None:
        self._objects, self._slots, self._clock = objects, slots, clock
        self._waiting: deque[tuple[Attempt, Placement]] = deque()
        self._news: News[Report] = News()
        self._worker = f"inline-{token_hex(6)}"
        self._book = LogBook(home, self._worker)
        self._polls = Polls(objects, self._news.put, f"{self._worker}.polls", home)

    def check(self, placement: Placement) -> str | None:
        return problem_here(placement) or self._slots.check(placement)

    def room(self, lane: Lane) -> int:
        return self._polls.room() if lane.listens else max(0, ROOM - len(self._waiting))

    def start(self, lane: Lane, attempts: list[Attempt]) -> None:
        if lane.listens:
            self._polls.start(lane, attempts)
        else:
            self._waiting.extend([(attempt, lane.placement) for attempt in attempts])

    def wait(self, timeout_s: float | None) -> list[Report]:
        found, is_woken = self._news.take(0.0 if self._waiting else timeout_s)
        reports = [report for report in found if not self._polls.is_void(report)]
        # What is known already is told first: an interrupt of the attempt would lose it.
        if reports or is_woken or not self._waiting:
            return reports
        attempt, placement = self._waiting.popleft()
        with _variables(placement):
            return self._carry_out(attempt)

    def wake(self) -> None:
        self._news.wake()

    def kill(self, keys: set[int]) -> None:
        self._waiting = deque([each for each in self._waiting if each[0].key not in keys])
        self._polls.kill(keys)

    def close(self) -> None:
        self._waiting.clear()
        self._polls.close()
        self._book.close()

    def _carry_out(self, attempt: Attempt) -> list[Report]:
        printed: list[Report] = []

        def tell(stream: str, text: str) -> None:
            printed.append(Printed(attempt.key, stream, text))

        capture = Capture(self._book, tell if attempt.forward else None)
        started_at, begun = self._clock.time(), self._clock.monotonic()
        outcome = self._captured(attempt, started_at, capture)
        limit = attempt.timeout_s
        if limit is not None and self._clock.monotonic() - begun > limit:
            outcome = Expired(attempt.key, started_at, 0.0, outcome.log, limit)
        return [*printed, report_of(outcome, self._worker)]

    def _captured(self, attempt: Attempt, started_at: float, capture: Capture) -> Outcome:
        function, call = attempt.call.function, call_of(attempt)
        is_main = threading.current_thread() is threading.main_thread()
        interrupts = (KeyboardInterrupt,) if is_main else ()
        hold = Hold()
        streams, token = (sys.stdout, sys.stderr), capture.enter()
        try:
            outcome = carry_out(function, call, started_at, self._objects, interrupts=interrupts)
        finally:
            capture.leave(token)
            sys.stdout, sys.stderr = streams  # a step may have put something else in their place
            hold.release()
            log = capture.end()
        outcome.log = log
        return outcome


@contextmanager
def _variables(placement: Placement) -> Iterator[None]:
    """The placement's variables in the environment of this process, for a while."""
    before = {name: os.environ.get(name) for name, _ in placement.env_vars}
    os.environ.update(placement.env_vars)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
