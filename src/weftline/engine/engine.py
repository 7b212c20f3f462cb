"""The engine: drives any number of runs, and writes what happens in all of them in one commit.

One thread calls `turn` again and again; other threads only put commands. A step is started when
everything it reads is durable, and never earlier. Several facts share a commit: one is made when
nothing else is at hand, or when the oldest unwritten fact is 5 ms old.

What happens to a run comes from four sides: `Commands`, the `Inbox`, `Reports` of the executor, and
`Timers`. All of it goes through the `Recorder`, waits in the `Writer` for a commit, and then lets
the `Dispatcher` start what may begin. `Runs` are what is driven here; `Parking` unloads those in
which everything waits, and `Turns` hold back those that are too many.
"""

from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress

from weftline.core.environment import Environment
from weftline.core.events import RunBegun
from weftline.core.graph import Graph, Step
from weftline.engine.active import Committed, Gone, Listener, Stalled, Submission
from weftline.engine.commands import Commands
from weftline.engine.committer import Committer
from weftline.engine.dispatcher import Dispatcher
from weftline.engine.inbox import Inbox
from weftline.engine.parking import Parking
from weftline.engine.part import Part
from weftline.engine.recorder import Recorder
from weftline.engine.recovery import Recorded
from weftline.engine.reports import Reports
from weftline.engine.runs import Runs
from weftline.engine.timers import Timers
from weftline.engine.turns import Turns
from weftline.engine.writer import RETRY_COMMIT_S, Writer
from weftline.errors import ImpossibleEvent, WeftlineError, WorkflowRunningError
from weftline.ports.clock import Clock
from weftline.ports.executor import Executor
from weftline.ports.journal import Journal

ASK_FOR_TURN_S = 0.1
"""How often turns to run are asked for that another process may have given back."""

LAY_DOWN_STEPS = 256
"""So many steps of an actor at rest are laid down behind it."""


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
        self._executor, self._clock = executor, clock
        # Each part knows those before it; what follows a commit is put together here.
        self.writer = Writer(
            engine_id,
            journal,
            clock,
            committer,
            on_written=self._written,
            on_refused=self._refused,
            on_stalled=self._stalled,
        )
        self.dispatcher = Dispatcher(executor, clock, self.writer)
        self.timers = Timers()
        self.recorder = Recorder(clock, self.writer, self.dispatcher, self.timers)
        self.turns = turns or Turns()
        self.runs = Runs(self.writer, self.dispatcher, self.turns)
        self.parking = Parking(
            engine_id, journal, clock, self.writer, self.dispatcher, self.timers, self.runs
        )
        self.reports = Reports(
            clock, self.dispatcher, self.timers, self.recorder, self.runs, self.parking, seed
        )
        self.inbox = Inbox(
            engine_id,
            journal,
            clock,
            self.writer,
            self.dispatcher,
            self.recorder,
            self.parking,
        )
        self._commands = Commands(
            engine_id,
            journal,
            self.writer,
            self.timers,
            self.recorder,
            self.turns,
            self.runs,
            self.parking,
            self.inbox,
        )
        self._asked: deque[Callable[[], object]] = deque()
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
        self._put(
            lambda: self._commands.submit(
                submission,
                listener,
                forward=forward,
                wants_events=wants_events,
                on_accepted=on_accepted,
            )
        )

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
        self._put(
            lambda: self._commands.adopt(
                recorded,
                listener,
                environment=environment,
                warnings=warnings,
                lost=lost,
                detached=detached,
                forward=forward,
                wants_events=wants_events,
                on_accepted=on_accepted,
            )
        )

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
        self._put(
            lambda: self._commands.rejoin(
                run_id, listener, detached=detached, forward=forward, on_accepted=on_accepted
            )
        )

    def look(self) -> None:
        """There may be news in the inbox. Nobody is told when nothing is driven here any more."""
        self.inbox.look_soon()
        self._executor.wake()

    def watch(
        self, run_id: str, name: str | None, listener: Listener, *, is_expected: bool = False
    ) -> None:
        """Tell how the run, or its step or call `name`, ends: with `Ended`, at once if it has.

        `Gone` when the run is not driven here, or stops being so, and when the actor may have laid
        the call down behind it, unless it `is_expected`: not made yet.
        """
        self._put(lambda: self._commands.watch(run_id, name, listener, is_expected=is_expected))

    def limit(self, turns: Turns) -> None:
        """Hold runs back as these turns say, from now on."""
        self._put(lambda: self.turns.change(turns, self.runs))

    def call(self, command: Callable[[], object]) -> None:
        """Have this done on the engine's thread, between turns; it must not block."""
        self._put(command)

    def refusal_of(self, graph: Graph) -> WeftlineError | None:
        """Why this engine cannot run the graph, or None."""
        return self.dispatcher.refusal_of(graph)

    def lacking(self, steps: Iterable[Step]) -> WeftlineError | None:
        """What the steps ask for and this machine never has, or None."""
        return self.dispatcher.lacking(steps)

    def let_go(self, run_id: str, done: Callable[[], object]) -> None:
        """Stop driving a run; it is RESUMABLE when `done` is called, on the engine's thread."""

        def command() -> None:
            self.runs.let_go(run_id, None)
            done()

        self._put(command)

    def drives(self, run_id: str) -> bool | None:
        """Whether the run goes on here; False when only steps of a failed one still run."""
        return self.runs.drives(run_id)

    @property
    def open_runs(self) -> int:
        """How many runs are driven here and have not ended; an actor at rest has."""
        return self.runs.open_count

    @property
    def has_failed(self) -> bool:
        """Whether the loop itself failed: nothing is driven here any more."""
        return self._broken is not None

    def stop(self) -> None:
        """Let every run go and end; `run_forever` returns soon after."""
        self._put(self._stop)

    def _put(self, command: Callable[[], object]) -> None:
        self._asked.append(command)
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
            while self._asked:  # their runs are to be told as well
                with suppress(Exception):
                    self._asked.popleft()()
            for active in self.runs:
                active.tell(Gone(self._broken))
            self.runs.clear()
            raise
        finally:
            self.dispatcher.clear()

    def turn(self) -> None:
        """Wait for news, take it in, start what may start, and write when it is time to."""
        reports = self._executor.wait(self._patience())
        busy = bool(reports) or self.reports.are_postponed
        self.reports.take(reports)
        self.writer.look()
        while self._asked:
            busy = True
            self._asked.popleft()()
        if self.timers:
            self._fire_timers()
        now = self._clock.monotonic()
        if self._has_inbox and self.inbox.next_look <= now:
            self.inbox.read()
        self.parking.check(now)
        self.parking.park(now)
        if self.turns.is_due(now):
            self._begin_pending(now)
        self.reports.come_back(now)
        self.writer.go_on()
        if self.writer.may_start:
            self.dispatcher.dispatch()
        if self.writer.is_due(may_wait=busy and bool(self.dispatcher.in_flight or self._asked)):
            self.writer.commit(may_be_beside=bool(self.dispatcher.in_flight))
            if self.writer.may_start:
                self.dispatcher.dispatch()

    @property
    def _has_inbox(self) -> bool:
        """Whether there can be news for runs that are driven here."""
        return self.runs.has_driven and not self._is_stopping

    def _patience(self) -> float | None:
        """How long the executor may wait for news (seconds; None: until there is some)."""
        now, next_write = self._clock.monotonic(), self.writer.next_look
        if self.writer.is_stalled and next_write is not None:
            return max(0.0, next_write - now)
        if self._asked or self.writer.has_to_write:
            return 0.0
        waits = [self.inbox.next_look - now] if self._has_inbox else []
        next_step = self.dispatcher.next_look
        if next_step is not None:
            waits.append(next_step - now)
        if next_write is not None:
            waits.append(next_write - now)
        next_due = self.timers.next_due
        if next_due is not None:
            waits.append(next_due - self._clock.time())
        next_park = self.parking.next_look
        if next_park is not None:
            waits.append(next_park - now)
        if self.turns.pending:
            waits.append(self.turns.ask_at - now)
        if self.reports.are_postponed:
            waits.append(RETRY_COMMIT_S)
        return max(0.0, min(waits)) if waits else None

    # -- what follows a commit ------------------------------------------------------------------

    def _written(self, part: Part) -> None:
        active = part.active
        active.epoch += part.change.takes
        active.stored = part.change.summary
        active.is_owned = True
        if part.change.takes or self.inbox.has_more:
            # There may be news from before, which are this engine's only now.
            self.inbox.look_soon()
        if active.on_accepted is not None:
            active.on_accepted()
            active.on_accepted = None
        if active.wants_events:
            active.tell(Committed(part.events))
        for name, ended in part.step_endings:
            active.tell_step(name, ended)
        run = active.run
        if active.step_listeners and not self.writer.has_unwritten(active):
            active.tell_late()
        if part.ready and part.generation == run.generation:
            self.dispatcher.start(active, part.ready)
        if part.ending is not None and part.generation == run.generation:
            self.runs.tell_ending(active, part.ending)
        may_lay_down = run.is_at_rest and run.may_start and not active.step_listeners
        if may_lay_down and len(run.steps) >= self.lay_down_steps:
            # So that a call costs the same for ever.
            self.recorder.record(active, run.lay_down())
        if run.is_open:
            self.parking.look_later(active)

    def _refused(self, part: Part) -> None:
        """The run's id is taken, or somebody else owns it now."""
        if part.change.creation is not None:
            run_id = part.active.run_id
            text = f"the workflow id {run_id!r} is in use already"
            self.runs.lose(part.active, WorkflowRunningError(text, run_id))
        else:
            self.runs.lose(part.active, is_outdated=part.change.takes)

    def _stalled(self, stalled: Stalled) -> None:
        self.runs.tell(stalled)

    # -- time -----------------------------------------------------------------------------------

    def _fire_timers(self) -> None:
        now = self._clock.time()
        while (active := self.timers.pop(now)) is not None:
            if not self.parking.wake(active):
                self.timers.set_at(active, now + RETRY_COMMIT_S)
                break
            if not active.is_loaded:
                continue
            run = active.run
            try:
                for event in run.due(now):
                    self.recorder.record(active, event)
            except ImpossibleEvent as error:
                self.runs.give_up(active, error)
                continue
            if run.ready and self.writer.has_unwritten(active):
                self.writer.note(active)  # others in the list must wait until that is durable
            elif run.ready:
                ready, run.ready = run.ready, deque()
                self.dispatcher.start(active, ready)
            self.timers.set(active)

    def _begin_pending(self, now: float) -> None:
        """Let runs begin whose turn has come."""
        while (active := self.turns.next()) is not None:
            if not self.parking.wake(active):
                self.turns.give_back(active)
                self.turns.pending.appendleft(active)
                break
            if active.run.is_pending and active.run.is_open and active.turn is not None:
                self.recorder.record(active, RunBegun())
            else:  # it has come to its end meanwhile
                self.turns.give_back(active)
        self.turns.ask_at = now + ASK_FOR_TURN_S

    def _stop(self) -> None:
        self._is_stopping = True
        self.runs.let_all_go()
