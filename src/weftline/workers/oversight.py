"""Sees by the clock that children do well: limits, and what is to be told of long attempts."""

from collections.abc import Callable

from weftline.core.events import LogRange
from weftline.ports.executor import Attempt, Report, Started
from weftline.wire import Running
from weftline.workers.dispatch import MEMORY_LOOK_S, STARTED_AFTER_S
from weftline.workers.environments import EXIT_WITHIN_S
from weftline.workers.listeners import Listener, Listeners
from weftline.workers.memory import Sessions
from weftline.workers.pool import SURPLUS_AFTER_S, Child, Pool
from weftline.workers.printing import Printing
from weftline.workers.timetable import NEVER

LOOK_S = 0.1
"""How often a long attempt's output is looked for when it is wanted as it comes."""
SLOW_LOOK_S = 1.0
"""How often otherwise, so that its log gets a name when it holds something."""

READY_WITHIN_S = 60.0

HANG_UP_WITHIN_S = 1.0
"""At most so long after its connection a process ends by itself."""


class Oversight:
    """Looks at children. `hear` takes in what one has said and was not taken in yet."""

    def __init__(
        self,
        pool: Pool,
        listeners: Listeners,
        printing: Printing,
        sessions: Sessions,
        reports: list[Report],
        hear: Callable[[Child], None],
    ) -> None:
        self._pool, self._listeners, self._printing = pool, listeners, printing
        self._sessions, self._reports, self._hear = sessions, reports, hear

    def look_at(self, child: Child, now: float) -> float:
        """See that a child is doing well. Returns: seconds until the next look."""
        if child.is_ending:
            if now - child.since >= EXIT_WITHIN_S:
                child.process.kill()
            return EXIT_WITHIN_S
        if child.process.is_ended:
            left_s = child.hung_up_at + HANG_UP_WITHIN_S - now
            if left_s > 0:
                return left_s
            child.reason = child.reason or "a step closed the connection of its process"
            child.process.kill()
            return NEVER
        if not child.is_ready:
            if now - child.since >= READY_WITHIN_S:
                child.reason = f"its interpreter was not ready after {READY_WITHIN_S:g} s"
                child.process.kill()
            return READY_WITHIN_S
        if isinstance(child, Listener):
            return self._listeners.check(child, now)
        if child.grant is None:
            return self._check_idle(child, now - child.since)
        return self._check_attempts(child, now)

    def _check_idle(self, child: Child, idle_s: float) -> float:
        if self._pool.idle_count <= self._pool.few:
            return NEVER
        if idle_s < SURPLUS_AFTER_S:
            return SURPLUS_AFTER_S - idle_s
        self._pool.retire(child)
        return EXIT_WITHIN_S

    def _check_attempts(self, child: Child, now: float) -> float:
        running = child.process.running()
        attempt = child.outstanding.get(running.key) if running is not None else None
        again_s = STARTED_AFTER_S
        if running is not None and attempt is not None:
            limit = attempt.timeout_s
            age_s = now - running.begun
            if limit is not None and age_s >= limit:
                self._expire(child, attempt)
                return EXIT_WITHIN_S if child.is_ending else STARTED_AFTER_S
            again_s = self._tell(child, attempt, running, age_s)
            if limit is not None:
                again_s = min(again_s, limit - age_s)
            if attempt.key in child.limits:
                again_s = min(again_s, self._look_at_memory(child, attempt))
        for other in child.outstanding.values():
            if other is not attempt:
                has_limit = other.key in child.limits
                within_s = MEMORY_LOOK_S if has_limit else other.timeout_s or again_s
                again_s = min(again_s, within_s)
        return again_s

    def _look_at_memory(self, child: Child, attempt: Attempt) -> float:
        """See that it has not outgrown its limit. Returns: seconds until the next look."""
        session = child.process.pid
        resident = self._sessions.excess(session, child.limits[attempt.key])
        if not resident:
            return MEMORY_LOOK_S
        self._expire(child, attempt)
        if attempt is child.expired:
            child.resident = resident
            self._sessions.kill(session)
        return EXIT_WITHIN_S if child.is_ending else STARTED_AFTER_S

    def _tell(self, child: Child, attempt: Attempt, running: Running, age_s: float) -> float:
        """Tell what is to be told of an attempt while it runs. Returns: seconds until the next."""
        if age_s < STARTED_AFTER_S:
            return STARTED_AFTER_S - age_s
        logs = child.logs
        if not logs.are_named:
            logs.publish()
        out, err = logs.sizes()
        if child.told != attempt.key:
            child.told = attempt.key
            log = LogRange(child.name, running.out_start, out, running.err_start, err)
            self._reports.append(Started(attempt.key, running.started_at, child.name, log))
        if attempt.forward:
            starts = [running.out_start, running.err_start]
            self._printing.pass_on(child, attempt.key, starts, (out, err), is_over=False)
            return LOOK_S
        return NEVER if logs.are_named else SLOW_LOOK_S

    def _expire(self, child: Child, attempt: Attempt) -> None:
        # It may have ended just in time, and said so.
        self._hear(child)
        if attempt.key in child.outstanding:
            child.expired = attempt
            self._pool.kill(child)
