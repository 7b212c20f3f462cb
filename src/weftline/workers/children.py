"""Carries attempts out in child processes, which stay warm, and die with this one.

Attempts of functions known to be short are sent ahead, many in a frame, since one at a time costs a
turn of the engine for each. A child gives back what would have to wait behind a long one.
"""

import math
import os
import select
import time
from collections.abc import Iterable, Mapping
from errno import ENOEXEC
from heapq import heappop, heappush
from itertools import count
from pathlib import Path

import msgspec

from weftline.core.environment import Environment
from weftline.core.events import LogRange
from weftline.core.policy import Placement
from weftline.core.values import Error
from weftline.ports import (
    Attempt,
    Extended,
    Failed,
    GivenBack,
    Lane,
    Lost,
    Outgrown,
    Printed,
    Refused,
    Report,
    Started,
    TimedOut,
)
from weftline.version import __version__
from weftline.wire import (
    MAX_FRAME_BYTES,
    NotBegun,
    Outcome,
    Outcomes,
    Ready,
    Running,
    Work,
    frame,
)
from weftline.workers.lanes import Kind, Lanes
from weftline.workers.listeners import Listener, Listeners
from weftline.workers.logs import PART_BYTES, STREAMS
from weftline.workers.memory import Sessions
from weftline.workers.outcomes import call_of, report_of
from weftline.workers.pool import SURPLUS_AFTER_S, Child, Group, Pool, Sort
from weftline.workers.slots import Slots

REFUSALS_IN_A_ROW = 3
"""So often a kind of attempts may find no room before others make way for it."""

ASK_AGAIN_S = 0.1
"""How often GPUs and resources are looked for that another process may have."""

STARTED_AFTER_S = 0.1
MEMORY_LOOK_S = 0.05
"""How often it is looked how much memory an attempt has that may not have any amount."""
LOOK_S = 0.1
"""How often a long attempt's output is looked for when it is wanted as it comes."""
SLOW_LOOK_S = 1.0
"""How often otherwise, so that its log gets a name when it holds something."""
MAX_BYTES_PER_LOOK = 8 * PART_BYTES

READY_WITHIN_S = 60.0
EXIT_WITHIN_S = 5.0
HANG_UP_WITHIN_S = 1.0
DEATHS_IN_A_ROW = 3
"""So many children of an environment may die without a sign of life before it is refused."""

_NEVER = math.inf
_READ_BYTES = 1 << 18
_CANNOT_RUN = (FileNotFoundError, NotADirectoryError, PermissionError)


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
        self._lanes = Lanes(slots)
        self._listeners = Listeners(
            self._pool, self._begin_listener, self._send_frame, self._check_within
        )
        self._sessions = Sessions()
        self._keepers: dict[int, Child] = {}  # by the attempts whose next step they wait for
        self._reports: list[Report] = []
        self._deaths: dict[Environment, int] = {}
        self._checks: list[tuple[float, int, Child]] = []
        self._check_numbers = count()
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._turn = 0
        self._hungry: Kind | None = None
        self._hungry_turn = 0
        self._ask_again_at = _NEVER
        self._is_asleep = self._is_woken = self._is_closed = False

    # -- taking attempts on ---------------------------------------------------------------------

    def check(self, placement: Placement) -> str | None:
        return self._slots.check(placement)

    def room(self, lane: Lane) -> int:
        if lane.listens:
            return self._listeners.room(lane)
        kind = self._lanes.kind_of(lane)
        depth, free = kind.depth(), self._free(kind.group)
        total = free * depth
        if self._must_make_way(kind):
            assert self._hungry is not None
            if free and self._free(self._hungry.group):
                self._is_woken = True  # ask again, also if the other one does not
                total = 0
        else:
            for child in kind.takers(depth):
                total += depth - len(child.outstanding)
        if not total:
            self._note_refusal(kind)
        return total

    def start(self, lane: Lane, attempts: list[Attempt]) -> None:
        if lane.listens:
            at = len(self._reports)
            self._reports[at:at] = self._listeners.start(lane, attempts)
            return
        if self._keepers:
            attempts = [each for each in attempts if not self._start_beside(lane, each)]
            if not attempts:
                return
        kind = self._lanes.kind_of(lane)
        depth = kind.depth()
        reported = len(self._reports)
        takers = [] if self._must_make_way(kind) else kind.takers(depth)
        takers.sort(key=lambda child: -len(child.outstanding))
        takers += self._occupy(kind.group, self._wanted(kind.group, depth, len(attempts), takers))
        kind.refusals = 0
        if self._hungry is kind:
            self._hungry = None
        # Level them: the ones that have most come first and get least.
        at, held, takers_left = 0, sum(len(each.outstanding) for each in takers), len(takers)
        for child in takers:
            has = len(child.outstanding)
            level = min(depth, -(-(len(attempts) - at + held) // takers_left))
            if level > has:
                self._send(child, attempts[at : at + level - has], kind.group.memory)
                at += level - has
            held -= has
            takers_left -= 1
        # What could not be started is told before why, if the environment was refused.
        self._reports[reported:reported] = [GivenBack(key=each.key) for each in attempts[at:]]

    def _start_beside(self, lane: Lane, attempt: Attempt) -> bool:
        """Send it to the child that was kept for it; False when there is none (any more)."""
        child = None if attempt.beside is None else self._keepers.pop(attempt.beside, None)
        if child is None or attempt.beside is None:
            return False
        child.kept.discard(attempt.beside)
        self._send(child, [attempt], lane.placement.memory)
        return True

    def _free(self, group: Group) -> int:
        """How many more children could be given attempts of this group."""
        found = self._slots.count(group.ask)
        return found and min(found, self._pool.room)

    def _note_refusal(self, kind: Kind) -> None:
        kind.refusals += 1
        if not self._slots.count_beside_cpus(kind.group.ask):
            # Another process may have it, and nobody will tell when it gives it back.
            self._ask_again_at = min(self._ask_again_at, time.monotonic() + ASK_AGAIN_S)
        elif kind.refusals >= REFUSALS_IN_A_ROW and self._hungry in (None, kind):
            self._hungry, self._hungry_turn = kind, self._turn

    def _must_make_way(self, kind: Kind) -> bool:
        """Whether attempts of another kind have waited for a CPU for long. Then no child is kept
        busy by refilling it, and none that those could have goes to this kind."""
        if self._hungry is not None and self._hungry_turn < self._turn - 1:  # it asks no more
            self._hungry = None
        return self._hungry is not None and self._hungry is not kind

    def _wanted(
        self, group: Group, depth: int, attempts: int, takers: list[Child]
    ) -> tuple[int, int]:
        """How many idle children, and how many new ones, are to share these attempts."""
        free = self._free(group)
        sort = group.environment, group.variables, ()
        pool = self._pool
        idle = pool.count_idle_on_gpus(sort) if group.ask.gpus else pool.count_idle(sort)
        warm = min(free, attempts, idle)
        # A new one costs more than a few short attempts do.
        fresh = max(0, min(free - warm, -(-attempts // depth) - len(takers) - warm))
        return warm, fresh

    def _occupy(self, group: Group, wanted: tuple[int, int]) -> list[Child]:
        """Children for attempts of this group; fewer than wanted when some cannot be started."""
        found: list[Child] = []
        for _ in range(sum(wanted)):
            grant = self._slots.take(group.ask)
            if grant is None:
                break
            sort = group.environment, group.variables, grant.devices
            child = self._find_idle(sort, group.memory) or self._begin(sort)
            if child is None:
                self._slots.release(grant)
                break
            self._pool.remove_idle(child)
            child.grant, child.group = grant, group
            group.busy.append(child)
            found.append(child)
        return found

    def _find_idle(self, sort: Sort, memory: int) -> Child | None:
        """An idle child; where memory is limited one that does not have half of it already."""
        while (child := self._pool.find_idle(sort)) is not None:
            if not memory or sum(self._sessions.resident(child.process.pid).values()) <= memory / 2:
                break
            self._pool.retire(child)
            self._check_within(child, EXIT_WITHIN_S)
        return child

    def _send(self, child: Child, attempts: list[Attempt], memory: int = 0) -> None:
        if child.outstanding or len(attempts) > 1:
            child.is_watched = True
        for attempt in attempts:
            child.outstanding[attempt.key] = attempt
            if memory:
                child.limits[attempt.key] = memory
        self._send_frame(child, attempts)
        first_look_s = _first_look_s(attempts)
        self._check_within(child, min(first_look_s, MEMORY_LOOK_S) if memory else first_look_s)

    def _send_frame(self, child: Child, attempts: list[Attempt]) -> None:
        calls = [call_of(each, each.timeout_s if child.listens else None) for each in attempts]
        try:
            content = frame(Work(attempts[0].call.function, calls, child.is_watched))
        except OverflowError:
            if len(attempts) > 1:
                half = len(attempts) // 2
                self._send_frame(child, attempts[:half])
                self._send_frame(child, attempts[half:])
            else:
                self._fail_to_send(child, attempts[0])
            return
        self._pool.send(child, content)

    def _fail_to_send(self, child: Child, attempt: Attempt) -> None:
        del child.outstanding[attempt.key]
        text = (
            f"the inputs of step {attempt.step!r} take more than {MAX_FRAME_BYTES} bytes to tell;"
            " return fewer values, or larger ones, which are passed on by reference"
        )
        error = Error("weftline.errors.WeftlineError", text)
        self._reports.append(Failed(key=attempt.key, error=error, retryable=False))
        if not child.outstanding:
            self._rest(child)

    # -- hearing of them ------------------------------------------------------------------------

    def wait(self, timeout_s: float | None) -> list[Report]:
        self._turn += 1
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
        if self._checks and self._checks[0][0] <= time.monotonic():
            self._make_checks()
        reports, self._reports = self._reports, []
        return reports

    def _poll(self, timeout_s: float | None) -> list[tuple[int, int]]:
        if self._reports:
            timeout_s = 0.0
        elif self._checks or self._ask_again_at != _NEVER:
            at = min(self._ask_again_at, self._checks[0][0] if self._checks else _NEVER)
            until = max(0.0, at - time.monotonic())
            timeout_s = until if timeout_s is None else min(timeout_s, until)
            self._ask_again_at = _NEVER
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
                self._check_within(child, HANG_UP_WITHIN_S)

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
        self._check_within(child, _first_look_s(child.outstanding.values()))
        if ready.version != self._version:
            self._refuse(
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
            self._deaths.pop(child.environment, None)
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
                self._note_output(child, attempt, outcome.log)
            if outcome.took_s:
                pace_of(attempt.call.function.hash).learn(outcome.took_s)
            report = report_of(outcome, worker, may_stay=not child.is_ending)
            if isinstance(report, Extended) and report.stays:
                child.kept.add(report.key)
                self._keepers[report.key] = child
            reports.append(report)
        if not outstanding:
            self._rest(child)
            return
        if child.is_stuck:
            running = next(iter(outstanding.values()))
            pace_of(running.call.function.hash).learn_that_long()
        if child.check_at == _NEVER:
            self._check_within(child, STARTED_AFTER_S)

    def _rest(self, child: Child) -> None:
        """It has nothing to do: it is idle, unless it is kept for a certain attempt."""
        child.limits.clear()
        if child.grant is None or child.kept:
            return
        self._release(child)
        child.is_watched = child.is_stuck = False
        if not child.is_ending:
            self._pool.add_idle(child)
            if self._pool.idle_count > self._pool.few:
                self._check_within(child, SURPLUS_AFTER_S)

    def _release(self, child: Child) -> None:
        if child.grant is not None and child.group is not None:
            self._slots.release(child.grant)
            child.group.busy.remove(child)
            child.grant = child.group = None

    # -- output ---------------------------------------------------------------------------------

    def _note_output(self, child: Child, attempt: Attempt, log: LogRange) -> None:
        """An attempt has ended and had printed something."""
        if not child.logs.are_named:
            child.logs.publish()
        if attempt.forward:
            starts, ends = [log.out_start, log.err_start], (log.out_end, log.err_end)
            self._print(child, attempt.key, starts, ends, is_over=True)

    def _print(
        self, child: Child, key: int, starts: list[int], ends: tuple[int, int], *, is_over: bool
    ) -> None:
        """Pass on what an attempt printed and was not passed on yet."""
        if child.printed[0] != key:
            child.printed = key, starts
        offsets = child.printed[1]
        for stream, name in enumerate(STREAMS):
            end = ends[stream]
            if not is_over:
                end = min(end, offsets[stream] + MAX_BYTES_PER_LOOK)
            for text, offset in child.logs.lines(stream, offsets[stream], end, rest=is_over):
                self._reports.append(Printed(key, name, text))
                offsets[stream] = offset

    # -- time -----------------------------------------------------------------------------------

    def _check_within(self, child: Child, delay_s: float) -> None:
        """See to it that the child is looked at after `delay_s` at the latest."""
        at = time.monotonic() + delay_s
        if at < child.check_at:
            child.check_at = at
            heappush(self._checks, (at, next(self._check_numbers), child))

    def _make_checks(self) -> None:
        now = time.monotonic()
        while self._checks and self._checks[0][0] <= now:
            at, _, child = heappop(self._checks)
            if at == child.check_at:
                child.check_at = _NEVER
                delay_s = self._check(child, now)
                if delay_s != _NEVER:
                    self._check_within(child, delay_s)

    def _check(self, child: Child, now: float) -> float:
        """See that a child is doing well. Returns: seconds until the next look."""
        if child.is_ending:
            if now - child.since >= EXIT_WITHIN_S:
                child.process.kill()
            return EXIT_WITHIN_S
        if child.process.is_ended:
            child.reason = child.reason or "a step closed the connection of its process"
            child.process.kill()
            return _NEVER
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
            return _NEVER
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
            again_s = self._look_at(child, attempt, running, age_s)
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

    def _look_at(self, child: Child, attempt: Attempt, running: Running, age_s: float) -> float:
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
            self._print(child, attempt.key, starts, (out, err), is_over=False)
            return LOOK_S
        return _NEVER if logs.are_named else SLOW_LOOK_S

    def _expire(self, child: Child, attempt: Attempt) -> None:
        # It may have ended just in time, and said so.
        self._hear(child)
        if attempt.key in child.outstanding:
            child.expired = attempt
            self._pool.kill(child)

    # -- ends -----------------------------------------------------------------------------------

    def kill(self, keys: set[int]) -> None:
        if self._reports:
            self._reports = [
                each for each in self._reports if isinstance(each, Refused) or each.key not in keys
            ]
        for key in keys & self._keepers.keys():
            keeper = self._keepers.pop(key)
            keeper.kept.discard(key)
            if not keeper.outstanding:
                self._rest(keeper)
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
            self._release(child)
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
            self._note_death(
                child.environment,
                f"children started with the interpreter {child.environment.python} end before they"
                f" can carry anything out: {reason}" + (f", saying: {said}" if said else ""),
            )
        for key in child.kept:
            del self._keepers[key]
        child.kept.clear()
        self._release(child)
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
                self._note_output(child, attempt, log)
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

    # -- environments that cannot be used -------------------------------------------------------

    def _begin(self, sort: Sort) -> Child | None:
        """A new child; None when it cannot be started."""
        try:
            child = self._pool.start(sort)
        except OSError as error:
            self._note_failure(sort[0], error)
            return None
        for other in self._pool.children:
            if other.is_ending:  # it may have made way just now, and may not come to its end
                self._check_within(other, EXIT_WITHIN_S)
        return child

    def _begin_listener(self, sort: Sort) -> Listener | None:
        """A new listener; None when it cannot be started."""
        try:
            return self._pool.start_beside(sort, Listener)
        except OSError as error:
            self._note_failure(sort[0], error)
            return None

    def _note_failure(self, environment: Environment, error: OSError) -> None:
        """A child could not be started."""
        reason = f"a child with the interpreter {environment.python} cannot be started: {error}"
        if isinstance(error, _CANNOT_RUN) or error.errno == ENOEXEC:
            self._refuse(environment, reason)
        else:
            self._note_death(environment, reason)

    def _note_death(self, environment: Environment, reason: str) -> None:
        """A child ended without a sign of life, or could not begin."""
        deaths = self._deaths[environment] = self._deaths.get(environment, 0) + 1
        if deaths >= DEATHS_IN_A_ROW:
            self._refuse(environment, reason)

    def _refuse(self, environment: Environment, reason: str) -> None:
        """Give back what children have that never did anything, and say why."""
        self._deaths.pop(environment, None)
        for child in self._pool.children:
            if child.environment == environment and not child.has_spoken:
                self._reports += [GivenBack(key=key) for key in child.outstanding]
                child.outstanding.clear()
                self._pool.kill(child)
        self._reports.append(Refused(environment=environment, reason=reason))


def _first_look_s(attempts: Iterable[Attempt]) -> float:
    """How long there is nothing to look for in attempts that have not begun."""
    limits = [each.timeout_s for each in attempts if each.timeout_s is not None]
    return min([STARTED_AFTER_S, *limits])
