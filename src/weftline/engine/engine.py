"""The engine: drives any number of runs, and writes what happens in all of them in one commit.

One thread calls `turn` again and again; other threads only put commands. A step is started when
everything it reads is durable, and never earlier. Several facts share a commit: one is made when
nothing else is at hand, or when the oldest unwritten fact is 5 ms old.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from enum import Enum, auto
from errno import ENOSPC
from heapq import heappop, heappush
from itertools import count, islice
from random import Random
from typing import NamedTuple

from msgspec import UNSET, DecodeError, Raw
from msgspec.structs import replace

from weftline.core.actions import PythonCall
from weftline.core.environment import Environment
from weftline.core.events import (
    Event,
    GraphExtended,
    PauseChanged,
    Quarantined,
    RunAdopted,
    RunBegun,
    RunResumed,
    RunStatus,
    StepFailed,
    StepLost,
    StepStarted,
    StepSucceeded,
    WaitBegun,
)
from weftline.core.graph import Graph, Join, Step, decode_pages, problems_of
from weftline.core.policy import Placement
from weftline.core.references import reference_problems
from weftline.core.run import Run
from weftline.core.state import StepState, StepStatus
from weftline.core.values import Error
from weftline.engine.active import (
    ActiveRun,
    Committed,
    Ended,
    Gone,
    Listener,
    Output,
    Part,
    Stalled,
    Submission,
)
from weftline.engine.committer import Committer, Outcome
from weftline.engine.inbox import news_for
from weftline.engine.recovery import Recorded, read_run
from weftline.engine.turns import Turns
from weftline.errors import (
    CommitUnknown,
    ImpossibleEvent,
    InvalidWorkflow,
    ResourcesUnavailable,
    StepMemoryError,
    StepNotFoundError,
    StepTimeoutError,
    StorageError,
    StorageFull,
    WeftlineError,
    WorkflowError,
    WorkflowNotFoundError,
    WorkflowQueueFull,
    WorkflowRunningError,
)
from weftline.ports import (
    INBOX_AT_ONCE,
    Attempt,
    Batch,
    Clock,
    Done,
    Executor,
    Extended,
    Failed,
    GivenBack,
    InboxEntry,
    Journal,
    Lane,
    Lost,
    Outgrown,
    Printed,
    Refused,
    Report,
    RunChange,
    RunRecord,
    Started,
    Starved,
    Succeeded,
    TimedOut,
)

MAX_BATCH_AGE_S = 0.005
RETRY_COMMIT_S = 0.25
RETRY_RELEASE_S = 1.0
RETRY_STARVED_S = 5.0
"""At most so long until a step is tried again whose result found no room."""

SLOW_COMMIT_S = 0.002
"""Commits that take longer than this are made beside the loop, if there is anything to do there."""

PARK_AFTER_S = 1.0
"""A run in which everything waits is unloaded when nothing has happened in it for so long."""

LOOK_S = 5.0
"""How often the inbox is looked at without having been told of news, which may get lost."""

CHECKED_AT_ONCE = 10
"""So many parked runs are looked after each time."""

ASK_FOR_TURN_S = 0.1
"""How often turns to run are asked for that another process may have given back."""

LAY_DOWN_STEPS = 256
"""So many steps of an actor at rest are laid down behind it."""

WINDOW = 4096
"""Ready steps that are taken into attempts at once; bounds what one turn can cost."""

PARKED = Run()
"""What a parked or forgotten run has in place of its own: nothing is of its generation."""
PARKED.generation = -1

log = logging.getLogger("weftline.engine")


class Fate(Enum):
    """What became of one run's part of a commit of unknown outcome."""

    WRITTEN = auto()
    UNWRITTEN = auto()
    REFUSED = auto()
    EITHER = auto()
    """It would be the same: nothing tells, and to write it once more does no harm."""


class InFlight(NamedTuple):
    """An attempt that an executor has."""

    active: ActiveRun
    step: int
    number: int
    lane: Lane


class Engine:
    """Owns runs, drives them to their end, and tells their listeners."""

    def __init__(
        self,
        engine_id: str,
        journal: Journal,
        executor: Executor,
        clock: Clock,
        *,
        committer: Committer | None = None,
        turns: Turns | None = None,
        seed: int | None = None,
    ) -> None:
        self.engine_id = engine_id
        self.lay_down_steps = LAY_DOWN_STEPS
        self._turns = turns or Turns()
        self._ask_for_turn_at = 0.0
        self._committer = committer
        self._committing: tuple[list[Part], float] | None = None
        self._releases: dict[str, RunChange] = {}
        self._next_release = 0.0
        self._doubtful: list[Part] | None = None  # of a commit that may have taken place
        self._commit_s = 0.0  # how long commits take, as a moving average
        self._journal, self._executor, self._clock = journal, executor, clock
        self._random = Random(seed)
        self._runs: dict[str, ActiveRun] = {}
        self._parked: dict[str, ActiveRun] = {}
        self._quiet: deque[tuple[float, int, ActiveRun]] = deque()  # since when, and at which seq
        self._postponed: list[Report] = []  # on parked runs that could not be loaded
        self._look_at = clock.monotonic() + LOOK_S
        self._has_more_news = self._has_driven = False
        self._check_at = 0.0
        self._in_flight: dict[int, InFlight] = {}
        self._last_key = 0
        self._lanes: dict[Lane, deque[tuple[ActiveRun, int, int]]] = {}
        self._unwritten: list[ActiveRun] = []
        self._oldest_unwritten = 0.0
        self._stalled_since: float | None = None
        self._next_try = 0.0
        self._timers: list[tuple[float, int, ActiveRun]] = []
        self._ticket = count()  # breaks ties in heaps, so that runs are never compared
        self._aside: list[tuple[float, int, tuple[ActiveRun, int, int]]] = []
        self._commands: deque[Callable[[], object]] = deque()
        self._is_stopping = False
        self._broken: WeftlineError | None = None

    # -- what other threads may call ------------------------------------------------------------

    def submit(
        self,
        submission: Submission,
        listener: Listener,
        *,
        forward: bool = False,
        wants_events: bool = False,
        on_accepted: Callable[[], object] | None = None,
    ) -> None:
        """Record the run and drive it. `on_accepted` is called, on the engine's thread, when it is
        durable; the listener gets `Gone` with WorkflowRunningError when its id is taken."""

        def command() -> None:
            run_id = submission.run_id
            active = ActiveRun(run_id, Run(run_id), submission.creation, epoch=1, seq=0)
            active.forward, active.wants_events = forward, wants_events
            active.on_accepted = on_accepted
            self._submit(active, submission, listener)

        self._put(command)

    def adopt(
        self,
        recorded: Recorded,
        listener: Listener,
        *,
        environment: Environment | None = None,
        warnings: tuple[str, ...] = (),
        lost: tuple[int, ...] = (),
        detached: bool = False,
        forward: bool = False,
        wants_events: bool = False,
        on_accepted: Callable[[], object] | None = None,
    ) -> None:
        """Drive a run from where its journal ends, also a failed, canceled or held one.

        `environment` replaces the recorded one where that is gone; `lost` are steps whose volatile
        value is; with `detached` it is one that controllers drive from now on. The listener gets
        `Gone` with WorkflowRunningError when the run changed since it was read.
        """
        adopted = RunAdopted(engine=self.engine_id, warnings=warnings, lost=lost)

        def command() -> None:
            record = recorded.record
            run_id, creation = record.run_id, record.creation
            active = ActiveRun(run_id, recorded.run, creation, record.epoch, record.last_seq)
            active.environment = environment or active.environment
            active.detaches, active.on_accepted = detached, on_accepted
            active.forward, active.wants_events = forward, wants_events
            self._adopt(active, record, listener, adopted)

        self._put(command)

    def rejoin(
        self,
        run_id: str,
        listener: Listener,
        *,
        detached: bool = False,
        forward: bool = False,
        on_accepted: Callable[[], object] | None = None,
    ) -> None:
        """Let an own run go on that failed while steps of it are still running here."""
        self._put(lambda: self._rejoin(run_id, listener, detached, forward, on_accepted))

    def look(self) -> None:
        """There may be news in the inbox. Nobody is told when nothing is driven here any more."""
        self._look_at = 0.0
        self._executor.wake()

    def watch(
        self, run_id: str, name: str | None, listener: Listener, *, is_expected: bool = False
    ) -> None:
        """Tell how the run, or its step or call `name`, ends: with `Ended`, at once if it has.

        `Gone` when the run is not driven here, or stops being so, and when the actor may have laid
        the call down behind it, unless it `is_expected`: not made yet.
        """
        self._put(lambda: self._watch(run_id, name, listener, is_expected))

    def limit(self, turns: Turns) -> None:
        """Hold runs back as these turns say, from now on."""
        self._put(lambda: self._limit(turns))

    def call(self, command: Callable[[], object]) -> None:
        """Have this done on the engine's thread, between turns; it must not block."""
        self._put(command)

    def let_go(self, run_id: str, done: Callable[[], object]) -> None:
        """Stop driving a run; it is RESUMABLE when `done` is called, on the engine's thread."""

        def command() -> None:
            self._let_go(run_id, None)
            done()

        self._put(command)

    def drives(self, run_id: str) -> bool | None:
        """Whether the run goes on here; False when only steps of a failed one still run."""
        if run_id in self._parked:
            return True
        active = self._runs.get(run_id)
        return None if active is None else active.run.is_open

    @property
    def open_runs(self) -> int:
        """How many runs are driven here and have not ended; an actor at rest has."""
        active = sum(a.run.is_open and not a.run.is_at_rest for a in list(self._runs.values()))
        parked = list(self._parked.values())
        return active + sum(a.stored.status is not RunStatus.SUCCESSFUL for a in parked)

    @property
    def has_failed(self) -> bool:
        """Whether the loop itself failed: nothing is driven here any more."""
        return self._broken is not None

    def stop(self) -> None:
        """Let every run go and end; `run_forever` returns soon after."""
        self._put(self._stop)

    def _put(self, command: Callable[[], object]) -> None:
        self._commands.append(command)
        if self._broken is not None:  # nobody will take it, unless it was the last to be taken
            raise self._broken
        self._executor.wake()

    # -- the loop -------------------------------------------------------------------------------

    def run_forever(self) -> None:
        """Turn until `stop`. Should the loop itself fail, nobody is left waiting."""
        try:
            while not self._is_stopping:
                self.turn()
        except BaseException as error:
            self._broken = WeftlineError(f"the engine failed: {type(error).__name__}: {error}")
            while self._commands:  # their runs are to be told as well
                with suppress(Exception):
                    self._commands.popleft()()
            for active in [*self._runs.values(), *self._parked.values()]:
                active.tell(Gone(self._broken))
            self._runs.clear()
            self._parked.clear()
            raise

    def turn(self) -> None:
        """Wait for news, take it in, start what may start, and write when it is time to."""
        reports = self._executor.wait(self._patience())
        if self._postponed:
            reports, self._postponed = [*self._postponed, *reports], []
        for report in reports:
            self._take(report)
        busy = bool(reports)
        if self._committing is not None:
            self._end_commit(wait=False)
        while self._commands:
            busy = True
            self._commands.popleft()()
        if self._timers:
            self._fire_timers()
        now = self._clock.monotonic()
        if self._look_at <= now:
            self._read_inbox()
        if self._parked and self._check_at <= now:
            self._check_parked(now)
        if self._quiet and self._quiet[0][0] <= now:
            self._park_quiet(now)
        if self._turns.pending and self._ask_for_turn_at <= now:
            self._begin_pending()
        while self._aside and self._aside[0][0] <= now:
            active, number, generation = heappop(self._aside)[2]
            if generation == active.run.generation:
                self._queue_again(active, number)
            elif active.run is not PARKED:
                self._rest(active)
        if self._releases and now >= self._next_release:
            self._write_releases()
        if self._doubtful is not None:
            self._resolve_doubt()
        if self._stalled_since is not None and not self._unwritten and self._doubtful is None:
            self._stalled_since = None  # whose facts could not be written was let go
        if self._stalled_since is not None:
            if self._clock.monotonic() < self._next_try or self._doubtful is not None:
                return
        elif self._lanes:
            self._dispatch()
        if self._unwritten and self._committing is None and self._is_time_to_write(busy):
            self._commit()
            if self._lanes and self._stalled_since is None:
                self._dispatch()

    def _is_time_to_write(self, busy: bool) -> bool:
        """Whether nothing else is at hand, or the oldest unwritten fact has waited for long."""
        if not busy or (not self._in_flight and not self._commands):
            return True
        return self._clock.monotonic() - self._oldest_unwritten >= MAX_BATCH_AGE_S

    def _patience(self) -> float | None:
        """How long the executor may wait for news (seconds; None: until there is some)."""
        if self._stalled_since is not None:
            return max(0.0, self._next_try - self._clock.monotonic())
        if self._commands or (self._unwritten and self._committing is None):
            return 0.0
        now = self._clock.monotonic()
        waits = [self._look_at - now] if self._has_driven else []
        if self._aside:
            waits.append(self._aside[0][0] - now)
        if self._releases:
            waits.append(self._next_release - now)
        if self._timers:
            waits.append(self._timers[0][0] - self._clock.time())
        if self._quiet:
            waits.append(self._quiet[0][0] - now)
        if self._turns.pending:
            waits.append(self._ask_for_turn_at - now)
        if self._postponed:
            waits.append(RETRY_COMMIT_S)
        return max(0.0, min(waits)) if waits else None

    # -- news -----------------------------------------------------------------------------------

    def _take(self, report: Report) -> None:
        if isinstance(report, Refused):
            self._refuse_environment(report)
            return
        is_done = isinstance(report, Done)
        flight = (
            self._in_flight.pop(report.key, None) if is_done else self._in_flight.get(report.key)
        )
        if flight is None:  # of an attempt that was given up; whatever it did is void
            return
        active = flight.active
        if self._is_parked(active) and not self._unpark(active):
            self._in_flight[report.key] = flight
            self._postponed.append(report)
            return
        if self._runs.get(active.run_id) is not active:
            return  # it could not be gone on with
        if is_done:
            active.attempts.pop(flight.step, None)
            if active.starved and not isinstance(report, Starved | GivenBack):
                active.starved.pop(flight.step, None)
        try:
            if isinstance(report, Succeeded):
                if report.objects:
                    active.objects += report.objects
                event: Event = StepSucceeded(
                    flight.step,
                    flight.number,
                    Raw(report.value),
                    report.started_at,
                    report.worker,
                    report.preview,
                    report.log,
                    report.picture,
                    UNSET if report.state is None else Raw(report.state),
                    report.is_volatile,
                )
                self._record(active, event)
            elif isinstance(report, Starved):
                self._set_aside(flight, report)
            elif isinstance(report, GivenBack):
                self._queue_again(active, flight.step)
            elif isinstance(report, Printed):
                name = active.run.steps[flight.step].name
                active.tell(Output(name, report.stream, report.text))
            elif isinstance(report, Started):
                at = report.at
                event = StepStarted(flight.step, flight.number, report.worker, at, report.log)
                self._record(active, event)
            elif isinstance(report, Extended):
                self._extend(flight, report)
            elif isinstance(report, Failed):
                active.objects += report.objects
                self._fail(flight, report, report.error, report.retryable)
            elif isinstance(report, TimedOut):
                step = active.run.steps[flight.step]
                text = f"step {step.name!r} ran longer than its timeout_s={report.after_s:g}"
                self._fail(flight, report, error_of(StepTimeoutError(text)), True, timeout=True)
            elif isinstance(report, Outgrown):
                step = active.run.steps[flight.step]
                text = (
                    f"step {step.name!r} had {report.resident} bytes of memory, more than its"
                    f" memory={report.limit}"
                )
                self._fail(flight, report, error_of(StepMemoryError(text)), True)
            elif isinstance(report, Lost):
                event = StepLost(
                    flight.step,
                    flight.number,
                    report.reason,
                    report.started_at,
                    report.worker,
                    report.log,
                )
                self._record(active, event)
        except ImpossibleEvent as error:
            self._give_up(active, error)

    def _set_aside(self, flight: InFlight, report: Starved) -> None:
        """Start the step again in a while: there is no room for its result. Tell who listens."""
        active, now = flight.active, self._clock.monotonic()
        since = active.starved.setdefault(flight.step, now)
        if since == now:
            log.warning("run %s: %s", active.run_id, report.reason)
        due = now + max(RETRY_COMMIT_S, min((now - since) / 2, RETRY_STARVED_S))
        entry = (active, flight.step, active.run.generation)
        heappush(self._aside, (due, next(self._ticket), entry))
        active.tell(Stalled(since, StorageFull(ENOSPC, report.reason)))

    def _extend(self, flight: InFlight, report: Extended) -> None:
        active = flight.active
        try:
            graph = Graph(steps=decode_pages(report.pages), output=report.output)
            problem = self.refusal_of(graph, active.run, flight.step)
        except DecodeError as error:
            problem = InvalidWorkflow(f"the steps that it returned cannot be read: {error}")
        if problem is not None:
            if report.stays:
                self._executor.kill({report.key})
            self._fail(flight, report, error_of(problem), False)
            return
        active.graphs.append((report.graph, report.pages))
        active.objects += report.objects
        event = GraphExtended(
            flight.step,
            flight.number,
            report.graph,
            report.output,
            report.started_at,
            report.worker,
            report.log,
            UNSET if report.state is None else Raw(report.state),
        )
        if report.stays:
            output = graph.output
            action = graph.steps[output].action if isinstance(output, int) else None
            if isinstance(output, int) and isinstance(action, PythonCall) and not action.listens:
                active.kept[len(active.run.steps) + output] = report.key
            else:  # what it waits for will never be carried out by a process
                self._executor.kill({report.key})
        self._record(active, event, graph)

    def _fail(
        self,
        flight: InFlight,
        done: Done,
        error: Error,
        retryable: bool,
        *,
        timeout: bool = False,
    ) -> None:
        now = self._clock.time()
        active = flight.active
        retry_at = active.run.judge_failure(
            flight.step, retryable=retryable, now=now, luck=self._random.random()
        )
        event = StepFailed(
            step=flight.step,
            attempt=flight.number,
            error=error,
            retry_at=retry_at,
            is_timeout=timeout,
            started_at=done.started_at,
            worker=done.worker,
            log=done.log,
        )
        self._record(active, event)
        if retry_at is not None:
            self._set_timer(active)

    def refusal_of(
        self, graph: Graph, run: Run | None = None, owner: int | None = None
    ) -> WeftlineError | None:
        """Why this engine cannot run the graph, or None; in `run`, `owner` returns it."""
        found = problems_of(graph) + reference_problems(graph, run, owner)
        for step in graph.steps:
            if step.when is not None:
                text = "has a condition, which this engine does not carry out"
                found.append(f"step {step.name!r} {text}")
        if found:
            return InvalidWorkflow("the workflow cannot run: " + "; ".join(found[:20]))
        return self.lacking(graph.steps)

    def lacking(self, steps: Iterable[Step]) -> WeftlineError | None:
        """What the steps ask for and this machine never has, or None."""
        asked: dict[Placement, str] = {}
        for step in steps:
            if type(step.action) is PythonCall:
                asked.setdefault(step.placement, step.name)
        reasons = [
            f"step {name!r} {reason}"
            for placement, name in asked.items()
            if (reason := self._executor.check(placement)) is not None
        ]
        return ResourcesUnavailable("; ".join(reasons)) if reasons else None

    def _refuse_environment(self, report: Refused) -> None:
        for active in list(self._runs.values()):
            if active.environment == report.environment and active.run.is_open:
                self._record(active, Quarantined(reason=report.reason))

    # -- recording ------------------------------------------------------------------------------

    def _record(self, active: ActiveRun, event: Event, graph: Graph | None = None) -> None:
        """Apply the event and what follows from it, and note them as to be written."""
        now = self._clock.time()
        run = active.run
        run.apply(event, now, graph)
        active.append(event, now)
        while (follows := run.settle() or self._next_wait(run)) is not None:
            run.apply(follows, now)
            active.append(follows, now)
            if type(follows) is WaitBegun:
                self._set_timer(active)
        if isinstance(event, RunBegun | RunResumed | PauseChanged):
            self._list_handed_back(active)
        if run.dropped:
            self._drop(active)
        if active.kept:
            self._let_kept_go(active, [n for n in active.kept if run.steps[n].is_ended])
        self._note_unwritten(active)

    def _list_handed_back(self, active: ActiveRun) -> None:
        """Recorded as running, but handed back by its executor while nothing could be started:
        such steps are to be started again."""
        run = active.run
        if run.may_start:
            for step in run.steps:
                if step.status is StepStatus.RUNNING and self._is_to_begin(active, step):
                    run.ready.append(step.number)

    def _next_wait(self, run: Run) -> Event | None:
        """The beginning of a wait that is READY; it is recorded with what made it so."""
        if not run.beginning or not run.may_start:
            return None
        while run.beginning:
            number = run.beginning.popleft()
            if run.steps[number].status is StepStatus.READY:
                return run.begin_wait(number, self._clock.time())
        return None

    def _has_unwritten(self, active: ActiveRun) -> bool:
        if active.is_queued:
            return True
        parts = self._committing[0] if self._committing is not None else self._doubtful
        return parts is not None and any(part.active is active for part in parts)

    def _note_unwritten(self, active: ActiveRun) -> None:
        if not active.is_queued:
            active.is_queued = True
            if not self._unwritten:
                self._oldest_unwritten = self._clock.monotonic()
            self._unwritten.append(active)

    def _drop(self, active: ActiveRun) -> None:
        """Kill the attempts of steps that are of no use any more."""
        keys = {active.attempts.pop(n) for n in active.run.dropped if n in active.attempts}
        if active.kept:
            self._let_kept_go(active, active.run.dropped)
        active.run.dropped.clear()
        self._kill(keys)

    def _let_kept_go(self, active: ActiveRun, steps: Iterable[int]) -> None:
        """Processes that wait to carry out these steps wait no more."""
        keys = {active.kept.pop(number) for number in list(steps) if number in active.kept}
        if keys:
            self._executor.kill(keys)

    def _kill(self, keys: set[int]) -> None:
        under_way = {key for key in keys if self._in_flight.pop(key, None) is not None}
        if under_way:
            self._executor.kill(under_way)

    def _commit(self) -> None:
        """Write everything that is unwritten: here and now, or, where that takes long and there
        is something else to do meanwhile, on the committer's thread."""
        parts = [Part.of(active, self.engine_id) for active in self._unwritten]
        self._unwritten = []
        batch = Batch(
            changes=[part.change for part in parts],
            graphs=[graph for part in parts for graph in part.graphs],
            objects=[(part.active.run_id, name) for part in parts for name in part.objects],
        )
        start = self._clock.monotonic()
        if self._committer is not None and self._commit_s > SLOW_COMMIT_S and self._in_flight:
            self._committing = (parts, start)
            self._committer.begin(batch)
            return
        try:
            outcome: Outcome = self._journal.commit(batch)
        except StorageError as error:
            outcome = error
        self._committed(parts, outcome, start)

    def _end_commit(self, *, wait: bool) -> None:
        """Take in what the commit on the committer's thread came to, if it has ended."""
        if self._committer is None or self._committing is None:
            return
        outcome = self._committer.outcome(wait=wait)
        if outcome is not None:
            (parts, start), self._committing = self._committing, None
            self._committed(parts, outcome, start)

    def _committed(self, parts: list[Part], outcome: Outcome, start: float) -> None:
        self._commit_s += (self._clock.monotonic() - start - self._commit_s) / 4
        if isinstance(outcome, CommitUnknown):
            self._doubtful = parts
            self._stall(outcome)
            self._next_try = self._clock.monotonic()
            self._resolve_doubt()
        elif isinstance(outcome, StorageError):
            self._unwrite(parts)
            self._stall(outcome)
        elif isinstance(outcome, Exception):
            raise outcome
        else:
            self._accept(parts, outcome)

    def _accept(self, parts: list[Part], refused: set[str]) -> None:
        self._stalled_since = None
        for part in parts:
            active = part.active
            if self._runs.get(active.run_id) is not active:
                continue  # given up meanwhile
            if active.run_id in refused:
                self._lose(part)
            else:
                self._written(part)

    def _unwrite(self, parts: list[Part]) -> None:
        for part in parts:
            if self._runs.get(part.active.run_id) is part.active:
                part.take_back()
                self._note_unwritten(part.active)

    def _resolve_doubt(self) -> None:
        """Find out what became of a commit of unknown outcome, before anything else is written."""
        parts = self._doubtful
        if parts is None or self._clock.monotonic() < self._next_try:
            return
        try:
            fates = [self._fate(part.change) for part in parts]
        except StorageError as error:
            self._stall(error)
            return
        self._doubtful = None
        # A batch is written as a whole, or not at all.
        if Fate.UNWRITTEN in fates or (Fate.EITHER in fates and Fate.WRITTEN not in fates):
            self._unwrite(parts)
        else:
            changes = zip(parts, fates, strict=True)
            self._accept(parts, {p.change.run_id for p, fate in changes if fate is Fate.REFUSED})

    def _fate(self, change: RunChange) -> "Fate":
        """What became of a change, as the journal tells."""
        last_seq = change.entries[-1].seq if change.entries else 0
        found = self._journal.read(change.run_id, last_seq)
        if found is None:
            return Fate.UNWRITTEN if change.creation else Fate.REFUSED
        record = found[0]
        is_ours = record.engine == self.engine_id
        if change.creation:
            is_it = is_ours and record.creation == change.creation
            return Fate.WRITTEN if is_it else Fate.REFUSED
        if change.takes and record.epoch == change.epoch:
            is_next = record.last_seq == change.entries[0].seq - 1
            return Fate.UNWRITTEN if is_next else Fate.REFUSED
        if record.epoch != change.epoch + change.takes or not is_ours:
            return Fate.REFUSED
        if not change.entries:
            return Fate.EITHER
        return Fate.WRITTEN if record.last_seq >= last_seq else Fate.UNWRITTEN

    def _written(self, part: Part) -> None:
        active = part.active
        active.epoch += part.change.takes
        active.stored = part.change.summary
        active.is_owned = True
        if part.change.takes or self._has_more_news:
            self._look_at = 0.0  # there may be news from before, which are this engine's only now
        if active.on_accepted is not None:
            active.on_accepted()
            active.on_accepted = None
        if active.wants_events:
            active.tell(Committed(part.events))
        for name, ended in part.step_endings:
            active.tell_step(name, ended)
        run = active.run
        if active.step_listeners and not self._has_unwritten(active):
            self._tell_late(active)
        if part.ready and part.generation == run.generation:
            self._queue_ready(active, part.ready)
        if part.ending is not None and part.generation == run.generation:
            self._tell_ending(active, part.ending)
        may_lay_down = run.is_at_rest and run.may_start and not active.step_listeners
        if may_lay_down and len(run.steps) >= self.lay_down_steps:
            # So that a call costs the same for ever.
            self._record(active, run.lay_down())
        if run.is_open:
            self._look_later(active)

    def _tell_late(self, active: ActiveRun) -> None:
        """Tell those who began to watch a step while its end was being written."""
        for name in list(active.step_listeners):
            ended = Ended.find(active.run, name)
            if ended is not None:
                active.tell_step(name, ended)

    def _tell_ending(self, active: ActiveRun, ending: Ended) -> None:
        run = active.run
        active.tell(ending)
        active.listeners.clear()
        if not run.is_open:
            active.told_generation = run.generation
            self._tell_of_unknown(active)
            self._let_kept_go(active, active.kept)
        if not run.is_open or run.is_at_rest:
            self._give_up_turn(active)
        self._rest(active)

    def _tell_of_unknown(self, active: ActiveRun) -> None:
        """Nobody waits for ever for steps that a run which is over never had."""
        for name in list(active.step_listeners):
            if active.run.find_step(name) is None:
                ended = Ended.find(active.run, name)
                active.tell_step(name, ended or Gone(never_had(active.run_id, name)))

    def _give_up_turn(self, active: ActiveRun) -> None:
        """The run needs its turn no more, nor waits for one; another one may have it."""
        if self._turns.give_back(active):
            self._ask_for_turn_at = 0.0

    def _rest(self, active: ActiveRun) -> None:
        """Forget a run that does not go on, once nothing of it runs or is to be written."""
        run = active.run
        is_told = active.told_generation == run.generation
        if is_told and not (run.is_open or active.attempts or self._has_unwritten(active)):
            self._forget(active)
            # Who still watches asks for a step that the run does not have.
            active.tell(Gone(WorkflowError(f"run {active.run_id!r} has ended", active.run_id)))

    def _stall(self, error: StorageError) -> None:
        """Nothing can be written: start nothing, keep what is known, try again, and tell."""
        now = self._clock.monotonic()
        if self._stalled_since is None:
            self._stalled_since = now
            log.warning("nothing can be written, trying again: %s", error)
        self._next_try = now + RETRY_COMMIT_S
        for active in self._runs.values():
            active.tell(Stalled(self._stalled_since, error))

    def _lose(self, part: Part) -> None:
        """The run was refused: its id is taken, or somebody else owns it now."""
        active = part.active
        error = taken_over(active.run_id)
        if part.change.creation is not None:
            text = f"the workflow id {active.run_id!r} is in use already"
            error = WorkflowRunningError(text, active.run_id)
        self._forget(active)
        active.tell(Gone(error, is_outdated=part.change.takes))

    def _forget(self, active: ActiveRun) -> None:
        if self._runs.get(active.run_id) is active:
            del self._runs[active.run_id]
        if self._parked.get(active.run_id) is active:
            del self._parked[active.run_id]
        self._give_up_turn(active)
        self._let_kept_go(active, active.kept)
        if active.is_queued:  # what it did since the last commit is done again by its next owner
            active.is_queued = False
            self._unwritten.remove(active)
        keys = set(active.attempts.values())
        active.attempts.clear()
        self._kill(keys)
        active.run = PARKED  # voids what of it still stands in a lane or a timer

    def _give_up(self, active: ActiveRun, error: Exception) -> None:
        """A run whose state contradicts itself harms no other one: stop driving it, and say so."""
        log.error("run %s contradicts itself: %s", active.run_id, error, exc_info=error)
        self._let_go(active.run_id, WorkflowError(f"run {active.run_id!r}: {error}"))

    # -- starting steps -------------------------------------------------------------------------

    def _queue_ready(self, active: ActiveRun, ready: Iterable[int]) -> None:
        if not active.run.may_start:
            self._let_kept_go(active, active.kept)
            return  # READY they stay: a resume lists them anew
        for number in ready:
            if number in active.kept:
                if not self._waits_for_commit(active, active.run.steps[number]):
                    self._start_beside(active, number)
            elif number not in active.attempts:
                self._queue(active, number)

    def _start_beside(self, active: ActiveRun, number: int) -> None:
        """Give the step to the process that waits for it."""
        key = active.kept[number]
        lane = self._lane_of(active, number)
        attempt = self._attempt(active, number)
        attempt.beside = key
        del active.kept[number]
        self._in_flight[attempt.key] = InFlight(active, number, attempt.number, lane)
        self._executor.start(lane, [attempt])

    def _queue(self, active: ActiveRun, number: int, *, first: bool = False) -> None:
        lane = self._lane_of(active, number)
        queue = self._lanes.get(lane)
        if queue is None:
            queue = self._lanes[lane] = deque()
        entry = (active, number, active.run.generation)
        if first:
            queue.appendleft(entry)
        else:
            queue.append(entry)

    def _lane_of(self, active: ActiveRun, number: int) -> Lane:
        spec = active.run.steps[number].spec
        action = spec.action
        assert isinstance(action, PythonCall)
        return Lane(active.environment, action.function.hash, spec.placement, action.listens)

    def _queue_again(self, active: ActiveRun, number: int) -> None:
        """Start a step that came back; not before a resume that allows it is durable."""
        if not active.run.may_start:
            self._rest(active)
            self._look_later(active)  # no commit will make anybody look
        elif self._has_unwritten(active):
            active.run.ready.appendleft(number)
            self._note_unwritten(active)
        else:
            self._queue(active, number, first=True)

    def _dispatch(self) -> None:
        for lane, queue in list(self._lanes.items()):
            room = min(self._executor.room(lane), WINDOW)
            attempts: list[Attempt] = []
            if room > 0:
                while queue and len(attempts) < room:
                    active, number, generation = queue.popleft()
                    run = active.run
                    if generation != run.generation:
                        continue  # void: given up, resumed or parked meanwhile
                    step = run.steps[number]
                    if not (run.may_start and step.may_begin):
                        continue  # it is held back, or its scope was closed meanwhile
                    if step.status is StepStatus.WAITING or number in active.attempts:
                        continue  # it was listed twice, and has begun or failed since
                    if self._waits_for_commit(active, step):
                        continue
                    attempt = self._attempt(active, number)
                    self._in_flight[attempt.key] = InFlight(active, number, attempt.number, lane)
                    attempts.append(attempt)
                if attempts:
                    self._executor.start(lane, attempts)
            if not queue:
                del self._lanes[lane]
            elif attempts:  # to the end, so that lanes take turns
                self._lanes[lane] = self._lanes.pop(lane)

    def _waits_for_commit(self, active: ActiveRun, step: StepState) -> bool:
        """One that begins with the first success may do so beside steps that end just now: what it
        reads of them must be durable first."""
        if step.spec.join is not Join.ONE_SUCCEEDED or not self._has_unwritten(active):
            return False
        active.run.ready.append(step.number)
        self._note_unwritten(active)
        return True

    def _attempt(self, active: ActiveRun, number: int) -> Attempt:
        run = active.run
        step = run.steps[number]
        action = step.spec.action
        assert isinstance(action, PythonCall)
        self._last_key = key = self._last_key + 1
        active.attempts[number] = key
        return Attempt(
            key=key,
            run_id=active.run_id,
            step=step.name,
            number=step.attempt + 1,
            call=action,
            inputs=run.inputs_of(number) if step.spec.inputs else [],
            timeout_s=step.spec.policy.timeout_s,
            forward=active.forward,
            state=run.state if action.is_writer else None,
            is_volatile=run.may_be_volatile(number),
        )

    # -- time -----------------------------------------------------------------------------------

    def _set_timer(self, active: ActiveRun) -> None:
        due = active.run.next_due()
        if due is not None and (active.timer is None or due < active.timer):
            active.timer = due
            heappush(self._timers, (due, next(self._ticket), active))

    def _fire_timers(self) -> None:
        now = self._clock.time()
        while self._timers and self._timers[0][0] <= now:
            due, _, active = heappop(self._timers)
            if active.timer == due:
                active.timer = None
            if self._is_parked(active) and not self._unpark(active):
                active.timer = now + RETRY_COMMIT_S
                heappush(self._timers, (active.timer, next(self._ticket), active))
                break
            if self._runs.get(active.run_id) is not active:
                continue
            run = active.run
            try:
                for event in run.due(now):
                    self._record(active, event)
            except ImpossibleEvent as error:
                self._give_up(active, error)
                continue
            if run.ready and self._has_unwritten(active):
                self._note_unwritten(active)  # others in the list must wait until that is durable
            elif run.ready:
                ready, run.ready = run.ready, deque()
                self._queue_ready(active, ready)
            self._set_timer(active)

    # -- parking --------------------------------------------------------------------------------

    def _park_quiet(self, now: float) -> None:
        """Unload runs in which everything waits and nothing has happened for a while."""
        while self._quiet and self._quiet[0][0] <= now:
            _, seq, active = self._quiet.popleft()
            active.is_looked_at = False
            if self._runs.get(active.run_id) is not active or not active.run.is_open:
                continue
            if not self._is_quiet(active):
                continue  # it is looked at again after its next commit
            if active.last_seq != seq:
                self._look_later(active)
                continue
            self._let_kept_go(active, active.kept)
            del self._runs[active.run_id]
            self._parked[active.run_id] = active
            active.run = PARKED

    def _look_later(self, active: ActiveRun) -> None:
        """See after a while whether the run can be parked."""
        if not active.is_looked_at:
            active.is_looked_at = True
            at = self._clock.monotonic() + PARK_AFTER_S
            self._quiet.append((at, active.last_seq, active))

    def _is_quiet(self, active: ActiveRun) -> bool:
        """Whether nothing of the run is to be done before there is news."""
        run = active.run
        if not run.is_open or self._has_unwritten(active):
            return False
        if not all(self._in_flight[n].lane.listens for n in active.attempts.values()):
            return False
        if not run.may_start:
            return True  # what is held back is listed anew when it may begin
        is_listed = active.starved or run.ready or run.beginning
        return not (is_listed or any(self._is_to_begin(active, step) for step in run.steps))

    def _is_to_begin(self, active: ActiveRun, step: StepState) -> bool:
        """Whether the step is READY, or was handed back by its executor, and nobody has it."""
        is_begun = step.status is StepStatus.RUNNING and step.may_begin
        if not is_begun and step.status is not StepStatus.READY:
            return False
        return isinstance(step.spec.action, PythonCall) and step.number not in active.attempts

    def _check_parked(self, now: float) -> None:
        """Find out which parked runs others own by now: nothing else tells an engine that was
        stopped for so long that it was taken for dead. A few at a time, since they are seldom."""
        self._check_at = now + LOOK_S
        for run_id in list(islice(self._parked, CHECKED_AT_ONCE)):
            active = self._parked[run_id] = self._parked.pop(run_id)  # behind the others
            try:
                found = self._journal.read(run_id, active.last_seq)
            except StorageError:
                return
            if found is None or found[0].epoch != active.epoch:
                self._forget(active)
                active.tell(Gone(taken_over(run_id)))

    def _is_parked(self, active: ActiveRun) -> bool:
        return self._parked.get(active.run_id) is active

    def _unpark(self, active: ActiveRun) -> bool:
        """Load the run again, or give it up; False when neither can be done now."""
        try:
            recorded = read_run(self._journal, active.run_id, to_drive=True)
        except StorageError as error:
            log.warning("run %s cannot be read, trying again: %s", active.run_id, error)
            return False
        except (ImpossibleEvent, DecodeError) as error:
            self._give_up(active, error)
            return True
        except WorkflowNotFoundError:
            recorded = None
        del self._parked[active.run_id]
        self._runs[active.run_id] = active
        if recorded is None or recorded.record.epoch != active.epoch:
            self._forget(active)
            active.tell(Gone(taken_over(active.run_id)))
            return True
        active.run = recorded.run
        # What was to begin has begun; what is held back is listed anew when it may.
        active.run.ready.clear()
        active.run.beginning.clear()
        self._set_timer(active)
        self._look_later(active)
        return True

    def _load(self, run_id: str) -> ActiveRun | None:
        """An own run, loaded if it was not. Raises: StorageError."""
        active = self._parked.get(run_id)
        if active is not None and not self._unpark(active):
            raise StorageError(f"run {run_id!r} cannot be read")
        active = self._runs.get(run_id)
        if active is not None:
            return active
        try:
            recorded = read_run(self._journal, run_id, to_drive=True)
        except WorkflowNotFoundError:
            return None
        except (ImpossibleEvent, DecodeError) as error:
            log.error("run %s contradicts itself: %s", run_id, error)
            return None
        record = recorded.record
        # An open one is not driven here: it was let go of, and that is not written yet.
        if record.engine != self.engine_id or run_id in self._releases or recorded.run.is_open:
            return None
        active = ActiveRun(run_id, recorded.run, record.creation, record.epoch, record.last_seq)
        active.stored, active.is_owned = record.summary, True
        active.group = recorded.run.group
        active.base_seq = record.summary.base_seq
        active.told_generation = recorded.run.generation
        recorded.run.ready.clear()
        recorded.run.beginning.clear()
        self._runs[run_id] = active
        return active

    # -- the inbox ------------------------------------------------------------------------------

    def _read_inbox(self) -> None:
        """Take in what was posted for runs of this engine."""
        self._look_at = self._clock.monotonic() + LOOK_S
        if not self._is_stopping:
            try:
                entries = self._journal.read_inbox(self.engine_id)
                self._has_more_news = len(entries) >= INBOX_AT_ONCE  # behind these
                for entry in entries:
                    active = self._load(entry.run_id)
                    if active is not None and entry.number > active.inbox_read:
                        self._take_in(active, entry)
            except StorageError as error:
                log.warning("the inbox cannot be read, trying again: %s", error)
                self._look_at = self._clock.monotonic() + RETRY_COMMIT_S

    def _take_in(self, active: ActiveRun, entry: InboxEntry) -> None:
        """Record what an entry of the inbox says, in the commit that removes it."""
        active.inbox_read = entry.number
        active.taken.append(entry.number)
        try:
            news = news_for(active.run, entry)
            active.objects += news.objects
            if news.event is not None:
                self._record(active, news.event)
        except (DecodeError, ValueError) as error:
            log.error("run %s: news that cannot be read: %s", active.run_id, error)
        except ImpossibleEvent as error:
            log.warning("run %s: news that came too late: %s", active.run_id, error)
        self._note_unwritten(active)

    def _watch(self, run_id: str, name: str | None, listener: Listener, is_expected: bool) -> None:
        try:
            active = self._runs.get(run_id)
            if active is None and run_id in self._parked:
                active = self._load(run_id)
        except StorageError as error:
            listener(Gone(error))
            return
        if active is None:
            listener(Gone(WorkflowError(f"run {run_id!r} is not driven here", run_id)))
            return
        run = active.run
        if name is not None and run.find_step(name) is None:
            self._read_inbox()  # it may be a call that is on its way
        ended = Ended.find(run, name)
        is_behind = name is not None and run.laid_down > 0 and run.find_step(name) is None
        if is_behind and not is_expected:
            listener(Gone(WorkflowError(f"{name!r} may lie behind actor {run_id!r}", run_id)))
        elif ended is not None and not self._has_unwritten(active):
            listener(ended)
        elif name is None:
            active.listeners.append(listener)
        elif ended is None and not run.is_open:
            listener(Gone(never_had(run_id, name)))
        else:
            active.step_listeners.setdefault(name, []).append(listener)

    # -- limits ---------------------------------------------------------------------------------

    def _limit(self, turns: Turns) -> None:
        turns.pending = self._turns.pending
        for active in [*self._runs.values(), *self._parked.values()]:
            if active.turn is not None:
                self._turns.give_back(active)
                turns.take_anyway(active)
        self._turns = turns
        self._ask_for_turn_at = 0.0

    def _begin_pending(self) -> None:
        """Let runs begin whose turn has come."""
        self._ask_for_turn_at = self._clock.monotonic() + ASK_FOR_TURN_S
        while (active := self._turns.next()) is not None:
            if self._is_parked(active) and not self._unpark(active):
                self._turns.give_back(active)
                self._turns.pending.appendleft(active)
                return
            if active.run.is_pending and active.run.is_open and active.turn is not None:
                self._record(active, RunBegun())
            else:  # it has come to its end meanwhile
                self._turns.give_back(active)

    # -- commands -------------------------------------------------------------------------------

    def _submit(self, active: ActiveRun, submission: Submission, listener: Listener) -> None:
        run_id = submission.run_id
        if self.drives(run_id) is not None and not self._is_deleted(run_id):
            listener(Gone(WorkflowRunningError(f"run {run_id!r} is running", run_id)))
            return
        active.group = submission.group
        is_pending = not self._turns.take(active)
        if is_pending and self._turns.is_full:
            text = (
                f"run {run_id!r} was not accepted: as many workflows run and wait as"
                " max_running_workflows and max_pending_workflows allow; try again later"
            )
            listener(Gone(WorkflowQueueFull(text, run_id)))
            return
        active.is_new = True
        active.listeners.append(listener)
        active.graphs.append((submission.graph_hash, submission.pages))
        active.objects += submission.objects
        self._runs[run_id] = active
        self._has_driven = True
        self._record(active, submission.first_event(is_pending=is_pending), submission.graph)
        if is_pending:
            self._turns.pending.append(active)

    def _is_deleted(self, run_id: str) -> bool:
        """Whether an actor at rest was deleted: nobody tells its owner, which forgets it here."""
        active = self._runs.get(run_id) or self._parked[run_id]
        try:
            if self._has_unwritten(active) or self._journal.read(run_id, active.last_seq):
                return False
        except StorageError:
            return False
        self._forget(active)
        return True

    def _adopt(
        self, active: ActiveRun, record: RunRecord, listener: Listener, adopted: RunAdopted
    ) -> None:
        run_id, run = active.run_id, active.run
        if self.drives(run_id) is not None:
            listener(Gone(WorkflowRunningError(f"run {run_id!r} is running", run_id)))
            return
        active.takes = True
        active.stored, active.base_seq = record.summary, record.summary.base_seq
        active.group = run.group
        active.listeners.append(listener)
        self._runs[run_id] = active
        self._has_driven = True
        was_open = run.is_open
        self._record(active, adopted)
        if not was_open and run.finished is not RunStatus.SUCCESSFUL:
            self._take_in_older(active, record)
            # An actor that has nothing to do needs no turn to do so.
            is_pending = run.unfinished > 0 and not self._turns.take(active)
            self._record(active, RunResumed(is_pending=is_pending))
        elif run.is_open and not run.is_pending and not run.is_at_rest:
            self._turns.take_anyway(active)
        if run.is_pending:
            self._turns.pending.append(active)
            self._ask_for_turn_at = 0.0
        self._set_timer(active)

    def _take_in_older(self, active: ActiveRun, record: RunRecord) -> None:
        """Take in what was posted for a run before it is resumed: a cancel among it is none of what
        goes on from here. Where this engine was not its owner, nothing can have been left."""
        if record.engine != self.engine_id:
            return
        with suppress(StorageError):  # then the commit of the resume does not succeed either
            for entry in self._journal.read_inbox(self.engine_id):
                if entry.run_id == active.run_id:
                    self._take_in(active, entry)

    def _rejoin(
        self,
        run_id: str,
        listener: Listener,
        detached: bool,
        forward: bool,
        on_accepted: Callable[[], object] | None,
    ) -> None:
        active = self._runs.get(run_id)
        is_over = active is None or active.run.finished is RunStatus.SUCCESSFUL
        if active is None or is_over or active.run.is_open:
            text = f"run {run_id!r} " + ("has just ended" if is_over else "is running")
            # Who asks may read it anew, and take it, if this engine has let go of it meanwhile.
            listener(Gone(WorkflowRunningError(text, run_id), is_outdated=is_over))
            return
        active.listeners.append(listener)
        active.forward, active.on_accepted = forward, on_accepted
        active.takes, active.detaches = True, detached
        self._turns.take_anyway(active)
        self._record(active, RunResumed())
        self._set_timer(active)

    def _let_go(self, run_id: str, error: WeftlineError | None) -> None:
        # What became of the last commit decides what there is to be released.
        self._end_commit(wait=True)
        if self._doubtful is not None:
            self._next_try = self._clock.monotonic()
            self._resolve_doubt()
        in_doubt = {part.active.run_id for part in self._doubtful or ()}
        active = self._runs.get(run_id) or self._parked.get(run_id)
        if active is None:
            return
        self._forget(active)
        if error is None:
            active.tell_steps(Gone(WorkflowError(f"run {run_id!r} was let go", run_id)))
        else:
            active.tell(Gone(error))
        if not active.is_owned or run_id in in_doubt:
            return
        summary = active.stored
        if summary.status in (RunStatus.RUNNING, RunStatus.PAUSED, RunStatus.PENDING):
            summary = replace(summary, status=RunStatus.RESUMABLE)
        release = RunChange(
            run_id=run_id, epoch=active.epoch, entries=[], summary=summary, takes=True
        )
        self._releases[run_id] = release
        if not self._is_stopping:
            self._write_releases()

    def _write_releases(self) -> None:
        """Tell that runs have no owner any more; tried again while nothing can be written. When
        this process ends its lock tells the same."""
        if self._releases and self._doubtful is None:
            try:
                self._journal.commit(Batch(changes=list(self._releases.values())))
                self._releases.clear()
            except StorageError as problem:
                log.warning(
                    "%d runs are not marked as let go yet: %s", len(self._releases), problem
                )
                self._next_release = self._clock.monotonic() + RETRY_RELEASE_S

    def _stop(self) -> None:
        self._is_stopping = True
        for run_id in [*self._runs, *self._parked]:
            stopped = WorkflowError(f"run {run_id!r} was let go: the engine is stopping", run_id)
            self._let_go(run_id, stopped)
        self._write_releases()


def taken_over(run_id: str) -> WorkflowRunningError:
    """Why this engine does not drive a run any more."""
    return WorkflowRunningError(f"run {run_id!r} was taken over by another process", run_id)


def never_had(run_id: str, name: str) -> WorkflowError:
    """Why nothing can be told of a step that the run had not when it ended."""
    return StepNotFoundError(f"No such step_id {name} in workflow {run_id}", run_id)


def error_of(error: WeftlineError) -> Error:
    """An own error as it is recorded; the engine pickles nothing, so drivers know it by name."""
    return Error(type=f"{type(error).__module__}.{type(error).__name__}", text=str(error))
