"""One thread that carries out attempts, as the engine's thread sees it, and as it is inside."""

from collections import deque
from collections.abc import Container
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import NamedTuple

from weftline.ports.clock import Clock
from weftline.ports.executor import Attempt, Printed, Report
from weftline.ports.objects import ObjectStore
from weftline.workers.attempt import carry_out
from weftline.workers.lanes import Pace
from weftline.workers.news import News
from weftline.workers.outcomes import call_of, report_of
from weftline.workers.output import Capture, Hold, LogBook
from weftline.workers.slots import Ask, Grant

MAX_UNTOLD = 64
MAX_UNTOLD_AGE_S = 0.002
SHORT_S = 0.001
"""Functions that take less on average may begin while ends of others are untold."""


class Group:
    """The attempts of one lane, and the threads that take from them."""

    def __init__(self, ask: Ask, pace: Pace) -> None:
        self.ask, self.pace = ask, pace
        self.todo: deque[Attempt] = deque()
        """Those that nobody has begun; threads take from the left."""
        self.count = 0
        """Attempts that have neither ended nor been given up."""
        self.workers: list[Worker] = []
        self.refusals = 0
        """How often there was no room since it was last given some."""

    def capacity(self, free: int) -> int:
        """How many attempts are welcome in all, when so many threads may join."""
        able = free + sum(not worker.is_stuck for worker in self.workers)
        return able * self.pace.depth()


class Running(NamedTuple):
    """What a thread is doing. `begun` is on the monotonic clock."""

    attempt: Attempt
    started_at: float
    begun: float
    capture: Capture


class Told(NamedTuple):
    """What a thread has to report; `took_s` of an attempt that has ended."""

    report: Report
    took_s: float = 0.0


class Worker:
    """A thread, of which the rest is used by the engine's thread but for `_main`.

    It carries out attempts of the group that it is given, as far as they are in `wanted`, until
    there are none left. Then it `is_idle`. It puts itself into `news` when it has something in
    `told`, or is idle.
    """

    def __init__(
        self,
        name: str,
        wanted: Container[int],
        news: "News[Worker | Report]",
        objects: ObjectStore,
        clock: Clock,
        home: Path | None,
    ) -> None:
        self.name, self._wanted, self._news = name, wanted, news
        self._objects, self._clock = objects, clock
        self._book = LogBook(home, name)
        self._hold: Hold | None = None
        self._inbox: SimpleQueue[Group | None] = SimpleQueue()
        self.told: deque[Told] = deque()
        """In order; whoever takes from the left has to report it."""
        self.running: Running | None = None
        self.is_idle = True
        self.group: Group | None = None
        self.grant: Grant | None = None
        self.is_stuck = False
        """Whether it still carries out an attempt that was given up."""
        self.started_key = 0
        """The attempt last reported as started."""
        # A thread that cannot be ended must not keep its process from ending.
        self._thread = Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    def give(self, group: Group) -> None:
        """Let it take from the group's attempts."""
        self.is_idle = False
        self._inbox.put(group)

    def leave(self) -> None:
        """Let it end as soon as it is idle."""
        self._inbox.put(None)

    def let_streams_go(self) -> None:
        """Catch nothing more of what it prints."""
        if self._hold is not None:
            self._hold.release()

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    # -- the thread -----------------------------------------------------------------------------

    def _main(self) -> None:
        while (group := self._inbox.get()) is not None:
            self._hold = Hold()
            try:
                self._carry_out_all(group)
            finally:
                self._hold.release()
                self.is_idle = True
                self._news.put(self)
        self._book.close()

    def _carry_out_all(self, group: Group) -> None:
        told, todo, monotonic = self.told, group.todo, self._clock.monotonic
        untold_since = monotonic()
        while True:
            try:
                attempt = todo.popleft()
            except IndexError:
                return
            if attempt.key not in self._wanted:
                continue
            average_s = group.pace.average_s
            if told and (average_s > SHORT_S or not average_s):
                self._news.put(self)
            ended = self._carry_out(attempt)
            if len(told) == 1:
                untold_since = ended
            elif len(told) >= MAX_UNTOLD or ended - untold_since >= MAX_UNTOLD_AGE_S:
                self._news.put(self)
                untold_since = ended

    def _carry_out(self, attempt: Attempt) -> float:
        """Returns: when it ended."""
        clock, key = self._clock, attempt.key
        tell = partial(self._print, key) if attempt.forward else None
        capture = Capture(self._book, tell)
        started_at, begun = clock.time(), clock.monotonic()
        self.running = Running(attempt, started_at, begun, capture)
        token = capture.enter()
        outcome = carry_out(
            attempt.call.function, call_of(attempt), started_at, self._objects, has_company=True
        )
        capture.leave(token)
        outcome.log = capture.end()
        ended = clock.monotonic()
        # In this order: what is seen as running has not been told of.
        self.running = None
        self.told.append(Told(report_of(outcome, self.name), ended - begun))
        return ended

    def _print(self, key: int, stream: str, text: str) -> None:
        self.told.append(Told(Printed(key, stream, text)))
