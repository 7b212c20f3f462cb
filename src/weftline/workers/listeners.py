"""Attempts that wait for something outside: one child for each environment awaits them all."""

import time
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from math import inf
from pathlib import Path

from weftline.ports.executor import Attempt, GivenBack, Lane, Lost, Report, Started, TimedOut
from weftline.wire import Cancel, NotBegun, Outcome, Ping, frame
from weftline.workers.launch import Process
from weftline.workers.outcomes import report_of
from weftline.workers.pool import Child, Pool, Sort

ROOM = 1 << 16
"""So many attempts are welcome in one listener."""

GRACE_S = 1.0
"""So long after a limit has passed the listener may still tell so by itself."""
ANSWER_WITHIN_S = 30.0
"""A listener that says nothing for so long, although limits have passed, is stuck, and ended."""
IDLE_S = 10.0
"""After so long a listener ends that has nothing to wait for."""

SOON_S = 5.0
DEATHS_IN_A_ROW = 4
"""So many times in a row a listener may die within `SOON_S`, having told nothing, before what it
waits for counts as lost with it."""


class Listener(Child):
    """A child that awaits all its attempts at once."""

    listens = True

    def __init__(self, process: Process, name: str, sort: Sort, lock_path: Path) -> None:
        super().__init__(process, name, sort, lock_path)
        self.limits_pass: list[tuple[float, int]] = []
        """When attempts run out of time, as a heap; there may be some that have ended."""
        self.pinged_at = inf
        """When it was asked for a sign of life; infinite while nothing is asked."""
        self.ready_at = inf


class Listeners:
    """The listeners of one engine. `begin` starts one, `check_within` has it looked at."""

    def __init__(
        self,
        pool: Pool,
        begin: Callable[[Sort], Listener | None],
        send: Callable[[Child, list[Attempt]], None],
        check_within: Callable[[Child, float], None],
    ) -> None:
        self._pool, self._begin = pool, begin
        self._send, self._check_within = send, check_within
        self._listeners: dict[Sort, Listener] = {}
        self._deaths: dict[Sort, int] = {}

    def room(self, lane: Lane) -> int:
        listener = self._find(lane)
        return ROOM if listener is None else max(0, ROOM - len(listener.outstanding))

    def start(self, lane: Lane, attempts: list[Attempt]) -> list[Report]:
        """Have them awaited by the lane's listener, which is started if there is none."""
        listener = self._find(lane) or self._begin(_sort_of(lane))
        if listener is None:
            return [GivenBack(key=each.key) for each in attempts]
        self._listeners[listener.sort] = listener
        now = time.monotonic()
        for each in attempts:
            listener.outstanding[each.key] = each
            if each.timeout_s is not None:
                heappush(listener.limits_pass, (now + each.timeout_s, each.key))
        if listener.limits_pass:
            self._check_within(listener, max(0.0, listener.limits_pass[0][0] + GRACE_S - now))
        at, name = time.time(), listener.name
        reports: list[Report] = [Started(each.key, at, name) for each in attempts]
        self._send(listener, attempts)
        return reports

    def _find(self, lane: Lane) -> Listener | None:
        listener = self._listeners.get(_sort_of(lane))
        return None if listener is None or listener.is_ending else listener

    # -- hearing of them ------------------------------------------------------------------------

    def welcome(self, listener: Listener) -> None:
        listener.ready_at = time.monotonic()

    def settle(self, listener: Listener, outcomes: list[Outcome | NotBegun]) -> list[Report]:
        """Take note of what became of attempts."""
        self._deaths.pop(listener.sort, None)
        listener.logs.publish()
        reports = [
            report_of(outcome, listener.name)
            for outcome in outcomes
            if not isinstance(outcome, NotBegun)
            and listener.outstanding.pop(outcome.key, None) is not None
        ]
        self._rest(listener)
        return reports

    def note_answer(self, listener: Listener) -> None:
        listener.pinged_at = inf
        # What ran out of time while it was held up is told just after the answer.
        self._check_within(listener, GRACE_S)

    def cancel(self, listener: Listener, keys: set[int]) -> None:
        """Give these of its attempts up; nothing more is told of them."""
        for key in keys:
            del listener.outstanding[key]
        self._pool.send(listener, frame(Cancel(list(keys))))
        self._rest(listener)

    def _rest(self, listener: Listener) -> None:
        limits, left = listener.limits_pass, listener.outstanding
        if len(limits) > 2 * len(left) + 100:
            listener.limits_pass = [each for each in limits if each[1] in left]
            heapify(listener.limits_pass)
        if not left:
            listener.since = time.monotonic()
            self._check_within(listener, IDLE_S)

    # -- looking after them ---------------------------------------------------------------------

    def check(self, listener: Listener, now: float) -> float:
        """See that it is not stuck. Returns: seconds until the next look."""
        listener.logs.publish()
        if not listener.outstanding:
            idle_s = now - listener.since
            if idle_s >= IDLE_S:
                self._pool.retire(listener)
            return max(0.0, IDLE_S - idle_s)
        limits = listener.limits_pass
        while limits and limits[0][1] not in listener.outstanding:
            heappop(limits)
        if not limits or now < limits[0][0] + GRACE_S:
            listener.pinged_at = inf
            return limits[0][0] + GRACE_S - now if limits else inf
        if listener.pinged_at == inf:
            listener.pinged_at = now
            self._pool.send(listener, frame(Ping()))
        elif now - listener.pinged_at >= ANSWER_WITHIN_S:
            listener.is_stuck = True
            self._pool.kill(listener)
        return max(0.0, listener.pinged_at + ANSWER_WITHIN_S - now)

    def bury(self, listener: Listener, reason: str, *, was_ending: bool) -> list[Report]:
        """It has died. What it waited for is given back: nobody knows whose fault it was."""
        if self._listeners.get(listener.sort) is listener:
            del self._listeners[listener.sort]
        attempts = listener.outstanding
        reports: list[Report]
        if listener.is_stuck:
            now = time.monotonic()
            late = {key for at, key in listener.limits_pass if at <= now}
            reports = [_end(each, each.key in late, listener.name) for each in attempts.values()]
        elif not was_ending and self._is_hopeless(listener):
            reports = [Lost(key=key, worker=listener.name, reason=reason) for key in attempts]
        else:
            reports = [GivenBack(key=key) for key in attempts]
        attempts.clear()
        return reports

    def _is_hopeless(self, listener: Listener) -> bool:
        """Whether it died as others did before it, without having been good for anything."""
        sort = listener.sort
        if listener.has_spoken or time.monotonic() - listener.ready_at >= SOON_S:
            self._deaths.pop(sort, None)
            return False
        deaths = self._deaths[sort] = self._deaths.get(sort, 0) + (listener.ready_at < inf)
        if deaths < DEATHS_IN_A_ROW:
            return False
        del self._deaths[sort]
        return True


def _sort_of(lane: Lane) -> Sort:
    return lane.environment, lane.placement.env_vars, ()


def _end(attempt: Attempt, is_late: bool, worker: str) -> Report:
    if is_late and attempt.timeout_s is not None:
        return TimedOut(key=attempt.key, worker=worker, after_s=attempt.timeout_s)
    return GivenBack(key=attempt.key)
