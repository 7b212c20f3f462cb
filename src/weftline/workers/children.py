"""Carries attempts out in child processes, which stay warm, and die with this one.

Attempts of functions known to be short are sent ahead, many in a frame, since one at a time costs a
turn of the engine for each. A child gives back what would have to wait behind a long one.
"""

import math
import os
import select
import time
from collections.abc import Iterable, Mapping
from heapq import heappop, heappush
from pathlib import Path

import msgspec

from weftline.core.environment import Environment
from weftline.core.events import LogRange
from weftline.core.policy import Placement
from weftline.core.values import Error
from weftline.ports import (
    Attempt,
    Failed,
    GivenBack,
    Lane,
    Lost,
    Printed,
    Refused,
    Report,
    Started,
    TimedOut,
)
from weftline.version import __version__
from weftline.wire import (
    MARKER,
    MAX_FRAME_BYTES,
    Hello,
    NotBegun,
    Outcome,
    Outcomes,
    Ready,
    Running,
    Work,
    frame,
)
from weftline.workers.launch import Process
from weftline.workers.logs import PART_BYTES, STREAMS, LogFolder, Logs
from weftline.workers.outcomes import call_of, report_of
from weftline.workers.slots import Ask, Grant, Slots

MAX_CHILDREN = 64
MAX_AHEAD = 64
AHEAD_S = 0.004
"""How much work a child is sent at once, by the function's average."""

REFUSALS_IN_A_ROW = 3
"""So often a kind of attempts may find no room before others make way for it."""

ASK_AGAIN_S = 0.1
"""How often GPUs and resources are looked for that another process may have."""

STARTED_AFTER_S = 0.1
LOOK_S = 0.1
"""How often a long attempt's output is looked for when it is wanted as it comes."""
SLOW_LOOK_S = 1.0
"""How often otherwise, so that its log gets a name when it holds something."""
MAX_BYTES_PER_LOOK = 8 * PART_BYTES

SURPLUS_AFTER_S = 10.0
"""After so long an idle child ends when there are more than a few."""

READY_WITHIN_S = 60.0
EXIT_WITHIN_S = 5.0
CLOSE_WITHIN_S = 1.0
DEATHS_IN_A_ROW = 3
"""So many children of an environment may die without a sign of life before it is refused."""

_NEVER = math.inf
_READ_BYTES = 1 << 18
_MANY_LANES = 10_000
_CANNOT_RUN = (FileNotFoundError, NotADirectoryError, PermissionError)
_EXEC_FORMAT = 8


class _Pace:
    """How long a function takes, all in all; by a moving average that forgets slowness sooner."""

    __slots__ = ("average_s",)

    def __init__(self) -> None:
        self.average_s = 0.0

    def learn(self, took_s: float) -> None:
        average = self.average_s
        if not average:
            self.average_s = took_s
        else:
            self.average_s += (took_s - average) * (0.5 if took_s < average else 0.25)

    def depth(self) -> int:
        """How many attempts a child may have at once; one while nothing is known."""
        average = self.average_s
        if average * MAX_AHEAD <= AHEAD_S:
            return MAX_AHEAD if average else 1
        return max(1, int(AHEAD_S / average))


class _Group:
    """Attempts that the same children can carry out one after the other."""

    def __init__(self, environment: Environment, placement: Placement, ask: Ask) -> None:
        self.environment, self.ask = environment, ask
        self.variables = placement.env_vars
        self.busy: list[_Child] = []


class _Kind:
    """A lane as it is looked up: its group and its function's pace."""

    __slots__ = ("group", "pace", "refusals")

    def __init__(self, group: _Group, pace: _Pace) -> None:
        self.group, self.pace = group, pace
        self.refusals = 0
        """How often there was no room since it was last given some."""


_Pool = tuple[Environment, tuple[tuple[str, str], ...], tuple[str, ...]]
"""What is settled when a child starts: environment, variables, ids of GPUs."""


class _Child:
    """A child and what it has to do."""

    def __init__(self, process: Process, name: str, pool: _Pool, lock_path: Path) -> None:
        self.process, self.name, self.pool, self.lock_path = process, name, pool, lock_path
        self.born = time.monotonic()
        self.idle_since = self.born
        self.group: _Group | None = None
        self.grant: Grant | None = None
        self.outstanding: dict[int, Attempt] = {}
        self.is_ready = False
        self.has_spoken = False
        """Whether it ever told what became of an attempt."""
        self.is_watched = False
        """Whether it looks after the attempts it has, so that more may be sent behind them."""
        self.is_stuck = False
        """Whether it gave attempts back, and still carries out what they would have waited for."""
        self.is_ending = False
        """Whether it was told to end: nothing that happens to it is anybody's fault."""
        self.expired: Attempt | None = None
        self.reason: str | None = None
        """Why it had to be ended, if not because of what it was told."""
        self.check_at = _NEVER
        self.told = 0
        """The key of the attempt last reported as started."""
        self.printed: tuple[int, list[int]] = (0, [0, 0])
        """How far the output of an attempt was passed on: its key, and offsets by stream."""

    @property
    def logs(self) -> Logs:
        return self.process.logs


class Children:
    """Warm child interpreters, by environment. Used by one thread, but for `wake`.

    That thread has to live as long as attempts are carried out: children are told by the system
    when it ends, and end too. `factory` names what makes the object store of the folder
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
        self._home, self._engine, self._slots, self._version = home, engine, slots, version
        self._factory, self._objects_root = objects_factory, objects_root
        self._variables = dict(variables or {})
        self._engines = home / "engines"
        self._engines.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._logs = LogFolder(home / "logs")
        slots.share_in(home / "slots")
        self._few = max(4, 2 * math.ceil(slots.num_cpus))
        self._kinds: dict[Lane, _Kind] = {}
        self._groups: dict[tuple[Environment, Placement], _Group] = {}
        self._paces: dict[str, _Pace] = {}
        self._children: list[_Child] = []
        self._by_fd: dict[int, _Child] = {}
        self._idle: dict[_Pool, list[_Child]] = {}
        self._idle_count = 0
        self._last_number = 0
        self._deaths: dict[Environment, int] = {}
        self._reports: list[Report] = []
        self._checks: list[tuple[float, int, _Child]] = []
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._turn = 0
        self._hungry: _Kind | None = None
        self._hungry_turn = 0
        self._ask_again_at = _NEVER
        self._epoll = select.epoll()
        self._epoll.register(self._alarm, select.EPOLLIN)
        self._is_asleep = self._is_woken = self._is_closed = False

    # -- taking attempts on ---------------------------------------------------------------------

    def check(self, placement: Placement) -> str | None:
        return self._slots.check(placement)

    def room(self, lane: Lane) -> int:
        kind = self._kinds.get(lane) or self._open_lane(lane)
        depth, free = kind.pace.depth(), self._free(kind.group)
        if self._hungry is not None and self._must_make_way(kind):
            if free and self._free(self._hungry.group):
                self._is_woken = True  # ask again, also if the other one does not
                free = 0
            total = free * depth
        else:
            total = free * depth
            for child in self._takers(kind, depth):
                total += depth - len(child.outstanding)
        if not total:
            self._note_refusal(kind)
        return total

    def start(self, lane: Lane, attempts: list[Attempt]) -> None:
        kind = self._kinds.get(lane) or self._open_lane(lane)
        depth = kind.pace.depth()
        kind.refusals = 0
        if self._hungry is kind:
            self._hungry = None
        reported = len(self._reports)
        takers = self._takers(kind, depth)
        takers.sort(key=lambda child: -len(child.outstanding))
        warm, fresh = self._wanted(kind.group, depth, len(attempts), len(takers))
        for _ in range(warm + fresh):
            child = self._occupy(kind.group)
            if child is None:
                break
            takers.append(child)
        # Level them: the ones that have most come first and get least.
        at, held, count = 0, sum(len(child.outstanding) for child in takers), len(takers)
        for child in takers:
            has = len(child.outstanding)
            level = min(depth, -(-(len(attempts) - at + held) // count))
            if level > has:
                self._send(child, attempts[at : at + level - has])
                at += level - has
            held -= has
            count -= 1
        # What could not be started is told before why, if the environment was refused.
        self._reports[reported:reported] = [GivenBack(key=each.key) for each in attempts[at:]]

    def _open_lane(self, lane: Lane) -> _Kind:
        if len(self._kinds) > _MANY_LANES:
            self._kinds.clear()
            self._groups.clear()
            self._paces.clear()
        group = self._groups.get((lane.environment, lane.placement))
        if group is None:
            ask = self._slots.ask(lane.placement)
            group = _Group(lane.environment, lane.placement, ask)
            self._groups[lane.environment, lane.placement] = group
        pace = self._pace_of(lane.function)
        kind = self._kinds[lane] = _Kind(group, pace)
        return kind

    def _pace_of(self, function: str) -> _Pace:
        pace = self._paces.get(function)
        if pace is None:
            pace = self._paces[function] = _Pace()
        return pace

    def _free(self, group: _Group) -> int:
        """How many more children could be given attempts of this group."""
        count = self._slots.count(group.ask)
        return count and min(count, MAX_CHILDREN - len(self._children) + self._idle_count)

    def _takers(self, kind: _Kind, depth: int) -> list[_Child]:
        """Busy children that would take more of these attempts behind what they have."""
        if depth == 1 or (self._hungry is not None and self._must_make_way(kind)):
            return []
        half = depth >> 1
        return [
            child
            for child in kind.group.busy
            if child.is_watched and not child.is_stuck and len(child.outstanding) <= half
        ]

    def _note_refusal(self, kind: _Kind) -> None:
        kind.refusals += 1
        if not self._slots.count_beside_cpus(kind.group.ask):
            # Another process may have it, and nobody will tell when it gives it back.
            self._ask_again_at = min(self._ask_again_at, time.monotonic() + ASK_AGAIN_S)
        elif kind.refusals >= REFUSALS_IN_A_ROW and self._hungry in (None, kind):
            self._hungry, self._hungry_turn = kind, self._turn

    def _must_make_way(self, kind: _Kind) -> bool:
        """Whether attempts of another kind have waited for a CPU for long. Then no child is kept
        busy by refilling it, and none that those could have goes to this kind."""
        if self._hungry_turn < self._turn - 1:  # it asks no more
            self._hungry = None
        return self._hungry is not None and self._hungry is not kind

    def _wanted(self, group: _Group, depth: int, count: int, takers: int) -> tuple[int, int]:
        """How many idle children, and how many new ones, are to share `count` attempts."""
        free = self._free(group)
        warm = min(free, count, self._count_idle(group))
        # A new one costs more than a few short attempts do.
        fresh = max(0, min(free - warm, -(-count // depth) - takers - warm))
        return warm, fresh

    def _count_idle(self, group: _Group) -> int:
        if not group.ask.gpus:
            return len(self._idle.get((group.environment, group.variables, ()), ()))
        key = group.environment, group.variables
        return sum(len(idle) for pool, idle in self._idle.items() if pool[:2] == key and pool[2])

    def _occupy(self, group: _Group) -> _Child | None:
        """A child for attempts of this group, idle or new; None when there can be none."""
        grant = self._slots.take(group.ask)
        if grant is None:
            return None
        pool = group.environment, group.variables, grant.devices
        idle = self._idle.get(pool)
        child = idle[-1] if idle else self._spawn(pool)
        if child is None:
            self._slots.release(grant)
            return None
        self._forget_idle(child)
        child.grant, child.group = grant, group
        group.busy.append(child)
        return child

    def _send(self, child: _Child, attempts: list[Attempt]) -> None:
        outstanding = child.outstanding
        if outstanding or len(attempts) > 1:
            child.is_watched = True
        for attempt in attempts:
            outstanding[attempt.key] = attempt
        self._send_frame(child, attempts)
        self._check_within(child, self._first_look_s(attempts))

    def _send_frame(self, child: _Child, attempts: list[Attempt]) -> None:
        calls = [call_of(attempt) for attempt in attempts]
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
        self._post(child, content)

    def _post(self, child: _Child, content: bytearray) -> None:
        process = child.process
        process.send(content)
        if process.has_unsent and not process.is_ended:
            self._epoll.modify(process.socket, select.EPOLLIN | select.EPOLLOUT)

    def _fail_to_send(self, child: _Child, attempt: Attempt) -> None:
        del child.outstanding[attempt.key]
        text = (
            f"the inputs of step {attempt.step!r} take more than {MAX_FRAME_BYTES} bytes to tell;"
            " return fewer values, or larger ones, which are passed on by reference"
        )
        error = Error("weftline.errors.WeftlineError", text)
        self._reports.append(Failed(key=attempt.key, error=error, retryable=False))
        if not child.outstanding:
            self._set_idle(child)

    # -- hearing of them ------------------------------------------------------------------------

    def wait(self, timeout_s: float | None) -> list[Report]:
        self._turn += 1
        for fd, mask in self._poll(timeout_s):
            child = self._by_fd.get(fd)
            if child is None:
                continue
            if fd == child.process.pidfd:
                self._bury(child)
                continue
            if mask & select.EPOLLOUT:
                child.process.send_more()
                if not child.process.has_unsent:
                    self._epoll.modify(fd, select.EPOLLIN)
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
            return self._epoll.poll(0)
        # Whoever wakes us first says so, then looks whether we sleep; here it is the other way
        # round, so one of the two always sees the other.
        self._is_asleep = True
        events = self._epoll.poll(0 if self._is_woken else timeout_s)
        self._is_asleep = self._is_woken = False
        for fd, _ in events:
            if fd == self._alarm:
                os.eventfd_read(fd)
        return events

    def wake(self) -> None:
        self._is_woken = True
        if self._is_asleep:
            os.eventfd_write(self._alarm, 1)

    def _hear(self, child: _Child) -> None:
        self._read(child)
        process = child.process
        fd = process.socket.fileno()
        if process.is_ended and fd in self._by_fd:
            del self._by_fd[fd]
            self._epoll.unregister(process.socket)
            if process.pidfd < 0:
                self._bury(child)
            else:  # it is about to end; or a step closed our channel
                self._check_within(child, CLOSE_WITHIN_S)

    def _read(self, child: _Child) -> bool:
        """Take in what a child says; whether there was anything to read."""
        try:
            messages = child.process.receive(self._buffer)
            for message in messages or ():
                if isinstance(message, Outcomes):
                    self._settle(child, message.outcomes)
                else:
                    self._welcome(child, message)
        except msgspec.DecodeError:
            child.reason = "it sent what cannot be read: a step has written into its connection"
            child.process.is_ended = True
            child.process.kill()
            return False
        return messages is not None

    def _welcome(self, child: _Child, ready: Ready) -> None:
        child.is_ready = True
        self._check_within(child, self._first_look_s(child.outstanding.values()))
        if ready.version != self._version:
            python = child.pool[0].python
            self._refuse(
                child.pool[0],
                f"the interpreter {python} has Weftline {ready.version}, but this engine is"
                f" Weftline {self._version}: install that version there (pip install"
                f" weftline=={self._version}), or run with the interpreter that has it",
            )

    def _settle(self, child: _Child, outcomes: list[Outcome | NotBegun]) -> None:
        """Take note of what became of attempts."""
        outstanding, worker = child.outstanding, child.name
        reports, paces = self._reports, self._paces
        if not child.has_spoken:
            child.has_spoken = True
            self._deaths.pop(child.pool[0], None)
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
            if outcome.took_s and (pace := paces.get(attempt.call.function.hash)) is not None:
                pace.learn(outcome.took_s)
            reports.append(report_of(outcome, worker))
        if not outstanding:
            if child.grant is not None:
                self._set_idle(child)
        else:
            if child.is_stuck:
                self._learn_of_stuck(next(iter(outstanding.values())))
            if child.check_at == _NEVER:
                self._check_within(child, STARTED_AFTER_S)

    def _learn_of_stuck(self, attempt: Attempt) -> None:
        pace = self._pace_of(attempt.call.function.hash)
        pace.average_s = max(pace.average_s, 2 * AHEAD_S)

    def _set_idle(self, child: _Child) -> None:
        self._release(child)
        child.is_watched = child.is_stuck = False
        if not child.is_ending:
            child.idle_since = time.monotonic()
            self._idle.setdefault(child.pool, []).append(child)
            self._idle_count += 1
            if self._idle_count > self._few:
                self._check_within(child, SURPLUS_AFTER_S)

    def _release(self, child: _Child) -> None:
        if child.grant is not None and child.group is not None:
            self._slots.release(child.grant)
            child.group.busy.remove(child)
            child.grant = child.group = None

    # -- output ---------------------------------------------------------------------------------

    def _note_output(self, child: _Child, attempt: Attempt, log: LogRange) -> None:
        """An attempt has ended and had printed something."""
        if not child.logs.are_named:
            child.logs.publish()
        if attempt.forward:
            starts, ends = [log.out_start, log.err_start], (log.out_end, log.err_end)
            self._print(child, attempt.key, starts, ends, is_over=True)

    def _print(
        self, child: _Child, key: int, starts: list[int], ends: tuple[int, int], *, is_over: bool
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

    def _log_so_far(self, child: _Child, running: Running) -> LogRange:
        out, err = child.logs.sizes()
        return LogRange(child.name, running.out_start, out, running.err_start, err)

    # -- time -----------------------------------------------------------------------------------

    def _check_within(self, child: _Child, delay_s: float) -> None:
        """See to it that the child is looked at after `delay_s` at the latest."""
        at = time.monotonic() + delay_s
        if at < child.check_at:
            child.check_at = at
            heappush(self._checks, (at, id(child), child))

    def _make_checks(self) -> None:
        now = time.monotonic()
        while self._checks and self._checks[0][0] <= now:
            at, _, child = heappop(self._checks)
            if at == child.check_at:
                child.check_at = _NEVER
                delay_s = self._check(child, now)
                if delay_s != _NEVER:
                    self._check_within(child, delay_s)

    @staticmethod
    def _first_look_s(attempts: Iterable[Attempt]) -> float:
        """How long none of these attempts, not begun yet, has anything to be looked for."""
        limits = [each.timeout_s for each in attempts if each.timeout_s is not None]
        return min([STARTED_AFTER_S, *limits])

    def _check(self, child: _Child, now: float) -> float:
        """Look at what a child is doing. Returns: seconds until the next look."""
        if child.is_ending:
            if now - child.idle_since >= EXIT_WITHIN_S:
                child.process.kill()
            return EXIT_WITHIN_S
        if child.process.is_ended:
            child.reason = child.reason or "a step closed the connection of its process"
            child.process.kill()
            return _NEVER
        if not child.is_ready:
            if now - child.born >= READY_WITHIN_S:
                child.reason = f"its interpreter was not ready after {READY_WITHIN_S:g} s"
                child.process.kill()
            return READY_WITHIN_S
        if child.grant is None:
            idle_s = now - child.idle_since
            if self._idle_count > self._few and idle_s >= SURPLUS_AFTER_S:
                self._retire(child)
                return EXIT_WITHIN_S
            return SURPLUS_AFTER_S - idle_s if idle_s < SURPLUS_AFTER_S else _NEVER
        running = child.process.running()
        attempt = child.outstanding.get(running.key) if running is not None else None
        again_s = STARTED_AFTER_S
        if running is not None and attempt is not None:
            limit = attempt.timeout_s
            age_s = now - running.begun
            if limit is not None and age_s >= limit:
                self._expire(child, attempt)
                return _NEVER if child.is_ending else STARTED_AFTER_S
            again_s = self._look_at(child, attempt, running, age_s)
            if limit is not None:
                again_s = min(again_s, limit - age_s)
        for other in child.outstanding.values():
            if other is not attempt and other.timeout_s is not None:
                again_s = min(again_s, other.timeout_s)
        return again_s

    def _look_at(self, child: _Child, attempt: Attempt, running: Running, age_s: float) -> float:
        """Tell what is to be told of an attempt while it runs. Returns: seconds until the next."""
        if age_s < STARTED_AFTER_S:
            return STARTED_AFTER_S - age_s
        logs = child.logs
        if not logs.are_named:
            logs.publish()
        if child.told != attempt.key:
            child.told = attempt.key
            log = self._log_so_far(child, running)
            self._reports.append(Started(attempt.key, running.started_at, child.name, log))
        if attempt.forward:
            starts = [running.out_start, running.err_start]
            self._print(child, attempt.key, starts, logs.sizes(), is_over=False)
            return LOOK_S
        return _NEVER if logs.are_named else SLOW_LOOK_S

    def _expire(self, child: _Child, attempt: Attempt) -> None:
        # It may have ended just in time, and said so.
        self._hear(child)
        if attempt.key in child.outstanding and child in self._children:
            child.expired = attempt
            self._kill(child)

    # -- starting and ending children -----------------------------------------------------------

    def _spawn(self, pool: _Pool) -> _Child | None:
        environment, variables, devices = pool
        self._make_place(pool)
        self._last_number += 1
        number = self._last_number
        name = f"{self._engine}.{number}"
        env = {
            **os.environ,
            **self._variables,
            "WEFTLINE_HOME": str(self._home),
            **dict(variables),
            MARKER: f"{self._engine}/{number}",
        }
        if devices:
            env["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
        paths = dict(variables).get("PYTHONPATH", "").split(os.pathsep)
        sys_path = [*filter(None, paths), *environment.sys_path]
        try:
            logs = self._logs.open(name)
        except OSError as error:
            self._note_death(environment, f"no log can be opened for a child: {error}")
            return None
        try:
            process = Process(environment.python, sys_path, env, logs)
        except OSError as error:
            logs.close()
            self._note_failed_start(environment, error)
            return None
        lock_path = self._engines / f"{self._engine}.child-{number}"
        child = _Child(process, name, pool, lock_path)
        self._children.append(child)
        self._by_fd[process.socket.fileno()] = child
        self._epoll.register(process.socket, select.EPOLLIN)
        if process.pidfd >= 0:
            self._by_fd[process.pidfd] = child
            self._epoll.register(process.pidfd, select.EPOLLIN)
        hello = Hello(
            environment.cwd,
            str(self._home),
            self._factory,
            self._objects_root,
            name,
            str(lock_path),
        )
        self._post(child, frame(hello))
        return child

    def _note_failed_start(self, environment: Environment, error: OSError) -> None:
        reason = f"the interpreter {environment.python} cannot be started: {error.strerror}"
        if isinstance(error, _CANNOT_RUN) or error.errno == _EXEC_FORMAT:
            self._refuse(environment, f"{reason}; give the run's environment an interpreter again")
        else:
            self._note_death(environment, reason)

    def _note_death(self, environment: Environment, reason: str) -> None:
        """A child ended without a sign of life, or could not begin."""
        count = self._deaths[environment] = self._deaths.get(environment, 0) + 1
        if count >= DEATHS_IN_A_ROW:
            self._refuse(environment, reason)

    def _refuse(self, environment: Environment, reason: str) -> None:
        self._deaths.pop(environment, None)
        for child in self._children:
            if child.pool[0] == environment and not child.has_spoken:
                self._give_back(child)
                self._kill(child)
        self._reports.append(Refused(environment=environment, reason=reason))

    def _make_place(self, pool: _Pool) -> None:
        """End idle children of other kinds: too many, or on GPUs that a new one is to have."""
        others = [child for key, idle in self._idle.items() if key != pool for child in idle]
        others.sort(key=lambda child: child.idle_since)
        devices = set(pool[2])
        lasting = sum(not child.is_ending for child in self._children)
        for child in others:
            if lasting >= self._few or not devices.isdisjoint(child.pool[2]):
                self._retire(child)
                lasting -= 1
        while len(self._children) >= MAX_CHILDREN:
            dying = next(child for child in self._children if child.grant is None)
            if not dying.is_ending:
                self._retire(dying)
            dying.process.kill()
            self._bury(dying)

    def _retire(self, child: _Child) -> None:
        """Let an idle child end by itself."""
        self._forget_idle(child)
        child.is_ending = True
        child.idle_since = time.monotonic()
        child.process.hang_up()
        self._check_within(child, EXIT_WITHIN_S)

    def kill(self, keys: set[int]) -> None:
        if self._reports:
            self._reports = [
                each for each in self._reports if isinstance(each, Refused) or each.key not in keys
            ]
        for child in self._children:
            hit = child.outstanding.keys() & keys
            if hit:
                for key in hit:
                    del child.outstanding[key]
                self._kill(child)

    def _kill(self, child: _Child) -> None:
        """End a child at once; what it had to do is taken care of when it is dead."""
        self._forget_idle(child)
        child.is_ending = True
        child.process.kill()

    def _forget_idle(self, child: _Child) -> None:
        idle = self._idle.get(child.pool, [])
        if child in idle:
            idle.remove(child)
            self._idle_count -= 1
            if not idle:
                del self._idle[child.pool]

    def _give_back(self, child: _Child) -> None:
        self._reports += [GivenBack(key=key) for key in child.outstanding]
        child.outstanding.clear()

    def _bury(self, child: _Child) -> None:
        """A child has died: find out what became of its attempts, and clear up."""
        if child not in self._children:
            return
        process, was_ending = child.process, child.is_ending
        self._forget_idle(child)
        child.is_ending = True
        reason = process.reap()
        reason = child.reason or reason
        while self._read(child):
            pass
        had_attempts = bool(child.outstanding)
        lost = self._report_losses(child, reason, was_ending)
        self._release(child)
        self._remove(child)
        if not was_ending and (not child.is_ready or (had_attempts and not lost)):
            if not child.has_spoken:
                self._note_death(child.pool[0], _unusable(child, reason, process.logs.tail()))
        process.close()

    def _report_losses(self, child: _Child, reason: str, was_ending: bool) -> bool:
        """Report on the attempts of a dead child; whether one was lost."""
        expired, running = child.expired, child.process.running()
        lost = False
        for key, attempt in child.outstanding.items():
            is_running = running is not None and running.key == key
            if attempt is not expired and (was_ending or not is_running):
                self._reports.append(GivenBack(key=key))
                continue
            started_at, log = 0.0, None
            if running is not None and is_running:
                started_at = running.started_at
                starts = running.out_start, running.err_start
                log = child.logs.range_of(starts, child.logs.sizes())
            if log is not None:
                self._note_output(child, attempt, log)
            if attempt is expired:
                self._reports.append(
                    TimedOut(
                        key=key,
                        started_at=started_at,
                        worker=child.name,
                        log=log,
                        after_s=attempt.timeout_s or 0.0,
                    )
                )
            else:
                lost = True
                self._reports.append(
                    Lost(key=key, started_at=started_at, worker=child.name, log=log, reason=reason)
                )
        child.outstanding.clear()
        return lost

    def _remove(self, child: _Child) -> None:
        """Forget a dead child."""
        process = child.process
        self._children.remove(child)
        child.check_at = _NEVER
        for fd in (process.socket.fileno(), process.pidfd):
            if fd in self._by_fd:
                del self._by_fd[fd]
                self._epoll.unregister(fd)
        child.lock_path.unlink(missing_ok=True)

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        for child in self._children:
            if child.is_ready and not child.outstanding:
                child.process.hang_up()
            else:
                child.process.kill()
        deadline = time.monotonic() + CLOSE_WITHIN_S
        for child in self._children[:]:
            child.process.has_died(max(0.0, deadline - time.monotonic()))
            child.process.reap()
            self._release(child)
            self._remove(child)
            child.process.close()
        self._epoll.close()

    def __del__(self) -> None:
        # Not earlier: another thread may be in `wake` while this one closes.
        os.close(self._alarm)


def _unusable(child: _Child, reason: str, said: str) -> str:
    return (
        f"children started with the interpreter {child.pool[0].python} end before they can carry"
        f" anything out: {reason}" + (f", saying: {said}" if said else "")
    )
