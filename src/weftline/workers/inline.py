"""Carries attempts out in the thread that waits for them: no process, nothing in parallel."""

import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from weftline.core.policy import Placement
from weftline.ports import Attempt, Clock, Lane, ObjectStore, Report, TimedOut
from weftline.workers.attempt import carry_out
from weftline.workers.outcomes import call_of, report_of
from weftline.workers.slots import Slots

ROOM = 16
WORKER = "inline"


class Inline:
    """One attempt at a time, within `wait`.

    What steps print goes where the process prints. A time limit interrupts nothing: a step that
    took longer counts as timed out when it ends. Resources are checked, not kept. A
    KeyboardInterrupt on the main thread comes out of `wait`: it is meant for the process.
    """

    def __init__(self, *, objects: ObjectStore, slots: Slots, clock: Clock = time) -> None:
        self._objects, self._slots, self._clock = objects, slots, clock
        self._waiting: deque[tuple[Attempt, Placement]] = deque()
        self._woken = threading.Event()

    def check(self, placement: Placement) -> str | None:
        return self._slots.check(placement)

    def room(self, lane: Lane) -> int:
        return max(0, ROOM - len(self._waiting))

    def start(self, lane: Lane, attempts: list[Attempt]) -> None:
        self._waiting.extend([(attempt, lane.placement) for attempt in attempts])

    def wait(self, timeout_s: float | None) -> list[Report]:
        if not self._waiting:
            self._woken.wait(timeout_s)
        if self._woken.is_set():
            self._woken.clear()
            return []
        if not self._waiting:
            return []
        attempt, placement = self._waiting.popleft()
        with _variables(placement):
            return [self._carry_out(attempt)]

    def wake(self) -> None:
        self._woken.set()

    def kill(self, keys: set[int]) -> None:
        self._waiting = deque([each for each in self._waiting if each[0].key not in keys])

    def close(self) -> None:
        self._waiting.clear()

    def _carry_out(self, attempt: Attempt) -> Report:
        function, call = attempt.call.function, call_of(attempt)
        is_main = threading.current_thread() is threading.main_thread()
        interrupts = (KeyboardInterrupt,) if is_main else ()
        started_at, begun = self._clock.time(), self._clock.monotonic()
        outcome = carry_out(function, call, started_at, self._objects, interrupts=interrupts)
        limit = attempt.timeout_s
        if limit is not None and self._clock.monotonic() - begun > limit:
            return TimedOut(key=attempt.key, started_at=started_at, worker=WORKER, after_s=limit)
        return report_of(outcome, WORKER)


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
