"""Carries attempts out in child processes, which stay warm, and die with this one: hears what they
say and when they end. What they are given, and when they are looked at, is decided elsewhere.
"""

import math
import os
import select
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from weftline.core.policy import Placement
from weftline.ports.executor import (
    Attempt,
    Extended,
    GivenBack,
    Lane,
    Lost,
    Outgrown,
    Refused,
    Report,
    TimedOut,
)
from weftline.version import __version__
from weftline.wire import (
    NotBegun,
    Outcome,
    Outcomes,
    Ready,
)
from weftline.workers.dispatch import STARTED_AFTER_S, Dispatch, first_look_s
from weftline.workers.environments import Environments
from weftline.workers.lanes import Lanes
from weftline.workers.listeners import Listener, Listeners
from weftline.workers.memory import Sessions
from weftline.workers.outcomes import report_of
from weftline.workers.oversight import HANG_UP_WITHIN_S, Oversight
from weftline.workers.pool import Child, Pool
from weftline.workers.printing import Printing
from weftline.workers.slots import Slots
from weftline.workers.timetable import NEVER, Timetable

_READ_BYTES = 1 << 18


class Children:
    """Warm child interpreters, by environment. Used by one thread, but for `wake`.

    That thread has to live as long as attempts are carried out: children are told by the system
    when it ends, and end too. `objects_factory` names what makes the object store of the folder
    `objects_root` in a child, as `module:name`; `variables` are added to a child's environment.
    """

    def __init__(
        self,
        *,
        home: Path,
        engine: str,
        objects_factory: str,
        objects_root: str,
        slots: Slots,
        variables: Mapping[str, str] | None = None,
        version: str = __version__,
    ) -> None:
        self._alarm = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._slots, self._version = slots, version
        slots.share_in(home / "slots")
        few = max(4, 2 * math.ceil(slots.num_cpus))
        self._pool = Pool(home, engine, (objects_factory, objects_root), variables or {}, few)
        self._pool.epoll.register(self._alarm, select.EPOLLIN)
        self._lanes, sessions = Lanes(slots), Sessions()
        self._reports: list[Report] = []
        self._timetable = Timetable()
        self._environments = Environments(self._pool, self._timetable, self._reports)
        self._dispatch = Dispatch(
            slots,
            self._pool,
            self._lanes,
            self._environments,
            sessions,
            self._timetable,
            self._reports,
            self.wake,
        )
        self._listeners = Listeners(
            self._pool,
            self._environments.begin_listener,
            self._dispatch.send_frame,
            self._timetable.look_within,
        )
        self._printing = Printing(self._reports)
        self._oversight = Oversight(
            self._pool, self._listeners, self._printing, sessions, self._reports, self._hear
        )
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._is_asleep = self._is_woken = self._is_closed = False

    # -- taking attempts on ---------------------------------------------------------------------

    def check(self, placement: Placement) -> str | None:
        return self._slots.check(placement)

    def room(self, lane: Lane) -> int:
        if lane.listens:
            return self._listeners.room(lane)
        return self._dispatch.room(lane)

    def start(self, lane: Lane, attempts: list[Attempt]) -> None:
        if lane.listens:
            at = len(self._reports)
            self._reports[at:at] = self._listeners.start(lane, attempts)
            return
        self._dispatch.start(lane, attempts)

    # -- hearing of them ------------------------------------------------------------------------

    def wait(self, timeout_s: float | None) -> list[Report]:
        self._dispatch.begin_turn()
        for fd, mask in self._poll(timeout_s):
            child = self._pool.listening_at(fd)
            if child is None:
                continue
            if fd == child.process.pidfd:
                self._bury(child)
                continue
            if mask & select.EPOLLOUT:
                child.process.send_more()
                if not child.process.has_unsent:
                    self._pool.epoll.modify(fd, select.EPOLLIN)
            if mask & ~select.EPOLLOUT:
                self._hear(child)
        now = time.monotonic()
        while (child := self._timetable.find_due(now)) is not None:
            delay_s = self._oversight.look_at(child, now)
            if delay_s != NEVER:
                self._timetable.look_within(child, delay_s)
        reports = self._reports[:]
        self._reports.clear()
        return reports

    def _poll(self, timeout_s: float | None) -> list[tuple[int, int]]:
        if self._reports:
            timeout_s = 0.0
        elif (at := min(self._dispatch.ask_again_at, self._timetable.next_at)) != NEVER:
            until = max(0.0, at - time.monotonic())
            timeout_s = until if timeout_s is None else min(timeout_s, until)
            self._dispatch.ask_again_at = NEVER
        if timeout_s == 0.0 or self._is_woken:
            self._is_woken = False
            return self._pool.epoll.poll(0)
        # Whoever wakes us first says so, then looks whether we sleep; here it is the other way
        # round, so one of the two always sees the other.
        self._is_asleep = True
        events = self._pool.epoll.poll(0 if self._is_woken else timeout_s)
        self._is_asleep = self._is_woken = False
        for fd, _ in events:
            if fd == self._alarm:
                os.eventfd_read(fd)
        return events

    def wake(self) -> None:
        self._is_woken = True
        if self._is_asleep:
            os.eventfd_write(self._alarm, 1)

    def _hear(self, child: Child) -> None:
        self._read(child)
        process = child.process
        if process.is_ended and self._pool.stop_listening(child, process.socket.fileno()):
            if process.pidfd < 0:
                self._bury(child)
            else:  # it is about to end; or a step closed our connection
                child.hung_up_at = time.monotonic()
                self._timetable.look_within(child, HANG_UP_WITHIN_S)

    def _read(self, child: Child) -> bool:
        """Take in what a child says; whether there was anything to read."""
        try:
            messages = child.process.receive(self._buffer)
            for message in messages or ():
                if isinstance(message, Outcomes):
                    self._settle(child, message.outcomes)
                elif isinstance(message, Ready):
                    self._welcome(child, message)
                elif isinstance(child, Listener):
                    self._listeners.note_answer(child)
        except msgspec.DecodeError:
            child.reason = "it sent what cannot be read: a step has written into its connection"
            child.process.is_ended = True
            child.process.kill()
            return False
        return messages is not None

    def _welcome(self, child: Child, ready: Ready) -> None:
        if child.is_ending:
            return
        child.is_ready = True
        if isinstance(child, Listener):
            self._listeners.welcome(child)
        self._timetable.look_within(child, first_look_s(child.outstanding.values()))
        if ready.version != self._version:
            self._environments.refuse(
                child.environment,
                f"the interpreter {child.environment.python} has Weftline {ready.version}, but"
                f" this engine is Weftline {self._version}: install that version there (pip"
                f" install weftline=={self._version}), or run with the interpreter that has it",
            )

    def _settle(self, child: Child, outcomes: list[Outcome | NotBegun]) -> None:
        """Take note of what became of attempts."""
        outstanding, worker = child.outstanding, child.name
        reports, pace_of = self._reports, self._lanes.pace_of
        if not child.has_spoken:
            child.has_spoken = True
            self._environments.note_life(child.environment)
        if isinstance(child, Listener):
            reports += self._listeners.settle(child, outcomes)
            return
        for outcome in outcomes:
            attempt = outstanding.pop(outcome.key, None)
            if attempt is None:  # it was killed, or given up, meanwhile
                continue
            if isinstance(outcome, NotBegun):
                child.is_stuck = True
                reports.append(GivenBack(key=outcome.key))
                continue
            if outcome.log is not None:
                self._printing.note_output(child, attempt, outcome.log)
            if outcome.took_s:
                pace_of(attempt.call.function.hash).learn(outcome.took_s)
            report = report_of(outcome, worker, may_stay=not child.is_ending)
            if isinstance(report, Extended) and report.stays:
                self._dispatch.keep(child, report.key)
            reports.append(report)
        if not outstanding:
            self._dispatch.rest(child)
            return
        if child.is_stuck:
            running = next(iter(outstanding.values()))
            pace_of(running.call.function.hash).learn_that_long()
        if child.check_at == NEVER:
            self._timetable.look_within(child, STARTED_AFTER_S)

    # -- ends -----------------------------------------------------------------------------------

    def kill(self, keys: set[int]) -> None:
        if self._reports:
            self._reports[:] = [
                each for each in self._reports if isinstance(each, Refused) or each.key not in keys
            ]
        self._dispatch.let_keepers_go(keys)
        for child in self._pool.children:
            hit = child.outstanding.keys() & keys
            if hit and isinstance(child, Listener):
                self._listeners.cancel(child, hit)
            elif hit:
                for key in hit:
                    del child.outstanding[key]
                self._pool.kill(child)

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        for child in self._pool.children:
            self._dispatch.release(child)
        self._pool.close()

    def __del__(self) -> None:
        # Not earlier: another thread may be in `wake` while this one closes.
        os.close(self._alarm)

    def _bury(self, child: Child) -> None:
        """A child has died: find out what became of its attempts, and clear up."""
        process, was_ending = child.process, child.is_ending
        child.is_ending = True
        how = process.reap()
        while self._read(child):
            pass
        reason = child.reason or how
        had_attempts = bool(child.outstanding) and not child.listens
        has_lost = self._report_losses(child, reason, was_ending)
        says_nothing = not child.is_ready or (had_attempts and not has_lost)
        if says_nothing and not was_ending and not child.has_spoken:
            said = process.logs.tail()
            self._environments.note_death(
                child.environment,
                f"children started with the interpreter {child.environment.python} end before they"
                f" can carry anything out: {reason}" + (f", saying: {said}" if said else ""),
            )
        self._dispatch.forget(child)
        self._pool.remove(child)

    def _report_losses(self, child: Child, reason: str, was_ending: bool) -> bool:
        """Report on the attempts of a dead child; whether one was lost."""
        if isinstance(child, Listener):
            self._reports += self._listeners.bury(child, reason, was_ending=was_ending)
            return False
        running = child.process.running()
        has_lost = False
        for key, attempt in child.outstanding.items():
            is_expired = attempt is child.expired
            is_running = running is not None and running.key == key
            if not is_expired and (was_ending or not is_running):
                self._reports.append(GivenBack(key=key))
                continue
            at, log = 0.0, None
            if running is not None and is_running:
                at = running.started_at
                starts = running.out_start, running.err_start
                log = child.logs.range_of(starts, child.logs.sizes())
            if log is not None:
                self._printing.note_output(child, attempt, log)
            end: Report
            if is_expired and child.resident:
                end = Outgrown(
                    key=key,
                    started_at=at,
                    worker=child.name,
                    log=log,
                    limit=child.limits[key],
                    resident=child.resident,
                )
            elif is_expired:
                limit = attempt.timeout_s or 0.0
                end = TimedOut(key=key, started_at=at, worker=child.name, log=log, after_s=limit)
            else:
                has_lost = True
                end = Lost(key=key, started_at=at, worker=child.name, log=log, reason=reason)
            self._reports.append(end)
        child.outstanding.clear()
        return has_lost
