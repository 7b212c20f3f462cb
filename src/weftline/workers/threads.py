"""Carries attempts out in threads of this process: quick to start, but nothing is kept apart.

All attempts of a lane wait in one queue, from which the threads that have its slots take them, so
none waits behind a long one while another thread is free. What becomes of short ones is told
together.
"""

import time
from itertools import count
from pathlib import Path
from secrets import token_hex
from statistics import median

from weftline.core.policy import Placement
from weftline.ports.clock import Clock
from weftline.ports.executor import (
    Attempt,
    Done,
    GivenBack,
    Lane,
    Refused,
    Report,
    Started,
    TimedOut,
)
from weftline.ports.objects import ObjectStore
from weftline.workers.lanes import MAX_AHEAD, Pace
from weftline.workers.memory import problem_here
from weftline.workers.news import News
from weftline.workers.polls import Polls
from weftline.workers.slots import Slots
from weftline.workers.thread import Group, Running, Worker

MAX_THREADS = 256

STARTED_AFTER_S = 0.1
LOOK_S = 0.02
"""How soon it is looked what a thread does that says nothing."""
ASK_AGAIN_S = 0.1
"""How often GPUs and resources are looked for that another process may have."""
REFUSALS_IN_A_ROW = 3
"""So often a lane may find no room before others make way for it."""

_CLOSE_WITHIN_S = 1.0
_MANY = 10_000
_NEVER = float("inf")


class Threads:
    """Attempts in threads of this process, as many as there are slots. Used by one thread, but for
    `wake`.

    A thread cannot be ended: an attempt that was killed, or has run out of time, is told of no
    more, and keeps its slot until it really ends. What steps print is caught as far as Python
    writes it, and kept in the logs of `home`, if there is one.
    """

    def __init__(
        self, *, objects: ObjectStore, slots: Slots, clock: Clock = time, home: Path | None = None
    ) -> None:
        self._objects, self._slots, self._clock, self._home = objects, slots, clock, home
        if home is not None:
            slots.share_in(home / "slots")
        self._name = f"threads-{token_hex(6)}"
        self._numbers = count(1)
        self._news: News[Worker | Report] = News()
        self._polls = Polls(objects, self._news.put, f"{self._name}.polls", home)
        self._groups: dict[Lane, Group] = {}
        self._paces: dict[str, Pace] = {}
        self._wanted: dict[int, Group] = {}  # by the attempts that are reported on
        self._idle: list[Worker] = []
        self._busy: list[Worker] = []
        self._few = max(4, int(2 * slots.num_cpus))
        self._reports: list[Report] = []
        self._look_at = self._ask_again_at = _NEVER
        self._turn = 0
        self._hungry: Group | None = None
        self._hungry_turn = 0

    # -- taking attempts on ---------------------------------------------------------------------

    def check(self, placement: Placement) -> str | None:
        if placement.env_vars:
            return (
                "asks for variables of its own (runtime_env), which threads of one process cannot"
                " have: leave them out, or run it with executor='children'"
            )
        return problem_here(placement) or self._slots.check(placement)

    def room(self, lane: Lane) -> int:
        if lane.listens:
            return self._polls.room()
        group = self._group_of(lane)
        free = self._free(group)
        total = 0
        if not self._must_make_way(group):
            total = max(0, group.capacity(free) - group.count)
        elif free and self._hungry is not None and self._free(self._hungry):
            self._news.wake()  # ask again, also if the other one does not
        if not total:
            self._note_refusal(group)
        return total

    def start(self, lane: Lane, attempts: list[Attempt]) -> None:
        if lane.listens:
            self._polls.start(lane, attempts)
            return
        group = self._group_of(lane)
        group.refusals = 0
        if self._hungry is group:
            self._hungry = None
        room = max(0, group.capacity(self._free(group)) - group.count)
        self._reports += [GivenBack(key=each.key) for each in attempts[room:]]
        del attempts[room:]
        for attempt in attempts:
            self._wanted[attempt.key] = group
        group.count += len(attempts)
        group.todo.extend(attempts)
        self._occupy(group)
        limits = [each.timeout_s for each in attempts if each.timeout_s is not None]
        self._look_within(min([LOOK_S, *limits]))

    def _group_of(self, lane: Lane) -> Group:
        return self._groups.get(lane) or self._open(lane)

    def _open(self, lane: Lane) -> Group:
        if len(self._groups) >= _MANY or len(self._paces) >= _MANY:
            self._paces.clear()
            used = {id(worker.group) for worker in self._busy}
            self._groups = {
                lane: group for lane, group in self._groups.items() if id(group) in used
            }
        pace = self._paces.setdefault(lane.function, Pace())
        group = self._groups[lane] = Group(self._slots.ask(lane.placement), pace)
        return group

    def _free(self, group: Group) -> int:
        """How many more threads could be given attempts of this group."""
        found = self._slots.count(group.ask)
        return found and min(found, MAX_THREADS - len(self._busy))

    def _note_refusal(self, group: Group) -> None:
        group.refusals += 1
        if not self._slots.count_beside_cpus(group.ask):
            # Another process may have it, and nobody will tell when it gives it back.
            self._ask_again_at = min(self._ask_again_at, self._clock.monotonic() + ASK_AGAIN_S)
        elif group.refusals >= REFUSALS_IN_A_ROW and self._hungry in (None, group):
            self._hungry, self._hungry_turn = group, self._turn

    def _must_make_way(self, group: Group) -> bool:
        """Whether attempts of another lane have waited for a CPU for long."""
        if self._hungry is not None and self._hungry_turn < self._turn - 1:  # it asks no more
            self._hungry = None
        return self._hungry is not None and self._hungry is not group

    def _occupy(self, group: Group) -> None:
        """Have threads take from the group, as many as are good for it."""
        depth = group.pace.depth()
        # Those that take no time at all are quicker done by few: one thread works at a time.
        wanted = -(-group.count // depth) if depth == MAX_AHEAD else group.count
        able = sum(not worker.is_stuck for worker in group.workers)
        for _ in range(min(wanted - able, self._free(group))):
            grant = self._slots.take(group.ask)
            if grant is None:
                return
            worker = self._idle.pop() if self._idle else self._new_worker()
            worker.group, worker.grant = group, grant
            group.workers.append(worker)
            self._busy.append(worker)
            worker.give(group)

    def _new_worker(self) -> Worker:
        name = f"{self._name}.{next(self._numbers)}"
        return Worker(name, self._wanted, self._news, self._objects, self._clock, self._home)

    # -- hearing of them ------------------------------------------------------------------------

    def wait(self, timeout_s: float | None) -> list[Report]:
        self._turn += 1
        for thing in self._news.take(self._patience(timeout_s))[0]:
            if isinstance(thing, Worker):
                self._hear(thing)
            elif not self._polls.is_void(thing):
                self._reports.append(thing)
        if self._look_at != _NEVER and self._clock.monotonic() >= self._look_at:
            self._look()
        reports, self._reports = self._reports, []
        return reports

    def _patience(self, timeout_s: float | None) -> float | None:
        if self._reports:
            return 0.0
        at = min(self._look_at, self._ask_again_at)
        self._ask_again_at = _NEVER
        if at == _NEVER:
            return timeout_s
        until = max(0.0, at - self._clock.monotonic())
        return until if timeout_s is None else min(timeout_s, until)

    def wake(self) -> None:
        self._news.wake()

    def _hear(self, worker: Worker) -> None:
        is_idle = worker.is_idle  # before what it told last is taken
        group = worker.group
        if group is None:
            return
        self._take_in(worker, group)
        if is_idle:
            worker.is_stuck = False
            if group.todo:
                worker.give(group)
            else:
                self._release(worker)

    def _take_in(self, worker: Worker, group: Group) -> None:
        """Report what a thread has told."""
        told, wanted, reports = worker.told, self._wanted, self._reports
        times = []
        while told:
            report, took_s = told.popleft()
            if isinstance(report, Refused):
                continue
            if isinstance(report, Done):
                times.append(took_s)
                worker.is_stuck = False
                if wanted.pop(report.key, None) is None:
                    continue
                group.count -= 1
            elif report.key not in wanted:
                continue
            reports.append(report)
        if times:
            # One of many may have taken long only because another thread had its turn meanwhile.
            group.pace.learn(median(times) if len(times) > 1 else times[0])

    def _release(self, worker: Worker) -> None:
        if worker.group is not None and worker.grant is not None:
            self._slots.release(worker.grant)
            worker.group.workers.remove(worker)
            self._busy.remove(worker)
        worker.group = worker.grant = None
        if len(self._idle) < self._few:
            self._idle.append(worker)
        else:
            worker.leave()

    # -- time -----------------------------------------------------------------------------------

    def _look_within(self, delay_s: float) -> None:
        self._look_at = min(self._look_at, self._clock.monotonic() + delay_s)

    def _look(self) -> None:
        """See what threads are doing that have said nothing for a while."""
        now, self._look_at = self._clock.monotonic(), _NEVER
        for worker in self._busy[:]:
            if worker.group is not None:
                self._look_within(self._look_at_one(worker, worker.group, now))

    def _look_at_one(self, worker: Worker, group: Group, now: float) -> float:
        """Returns: seconds until the next look."""
        running = worker.running
        self._take_in(worker, group)
        limits = [each.timeout_s for each in list(group.todo) if each.timeout_s is not None]
        if running is None:
            return min([STARTED_AFTER_S, *limits])
        attempt, age_s = running.attempt, now - running.begun
        # Later there is only something to see if others wait, or want to see what it prints.
        is_dull = worker.started_key == attempt.key and not (attempt.forward or group.todo)
        again_s = min([_NEVER if is_dull else STARTED_AFTER_S, *limits])
        if attempt.key not in self._wanted:
            worker.is_stuck = worker.running is running
            return again_s
        if age_s >= LOOK_S and group.todo:  # those were thought to be short
            group.pace.learn_that_long()
            self._occupy(group)
        limit = attempt.timeout_s
        if limit is not None and age_s >= limit:
            self._expire(worker, running, limit)
            return again_s
        if age_s < STARTED_AFTER_S:
            again_s = min(again_s, STARTED_AFTER_S - age_s)
        elif worker.started_key != attempt.key:
            worker.started_key = attempt.key
            log = running.capture.so_far()
            self._reports.append(Started(attempt.key, running.started_at, worker.name, log))
        return again_s if limit is None else min(again_s, limit - age_s)

    def _expire(self, worker: Worker, running: Running, after_s: float) -> None:
        key = running.attempt.key
        self._forget(key)
        worker.is_stuck = worker.running is running
        self._reports.append(
            TimedOut(
                key=key,
                started_at=running.started_at,
                worker=worker.name,
                log=running.capture.so_far(),
                after_s=after_s,
            )
        )

    # -- ends -----------------------------------------------------------------------------------

    def kill(self, keys: set[int]) -> None:
        self._reports = [
            each for each in self._reports if isinstance(each, Refused) or each.key not in keys
        ]
        self._polls.kill(keys)
        groups = {id(group): group for key in keys if (group := self._forget(key)) is not None}
        for group in groups.values():
            self._clear_queue(group)
            for worker in group.workers:
                running = worker.running
                if running is not None and running.attempt.key in keys:
                    worker.is_stuck = worker.running is running

    def _forget(self, key: int) -> Group | None:
        """Report nothing more on the attempt. Returns: the group that it was in."""
        group = self._wanted.pop(key, None)
        if group is not None:
            group.count -= 1
        return group

    def _clear_queue(self, group: Group) -> None:
        """Take out of the queue what is not wanted any more; threads may take from it meanwhile."""
        left: list[Attempt] = []
        while True:
            try:
                attempt = group.todo.popleft()
            except IndexError:
                break
            if attempt.key in self._wanted:
                left.append(attempt)
        # A thread that found nothing in between is heard of as idle, and is then given them.
        group.todo.extend(left)

    def close(self) -> None:
        self._wanted.clear()
        self._reports.clear()
        self._polls.close()
        deadline = time.monotonic() + _CLOSE_WITHIN_S
        for worker in [*self._idle, *self._busy]:
            worker.leave()
        for worker in self._idle:
            worker.join(max(0.0, deadline - time.monotonic()))
        for worker in self._busy:
            worker.let_streams_go()
            if worker.grant is not None:
                self._slots.release(worker.grant)
        self._idle, self._busy = [], []
