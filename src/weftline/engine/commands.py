"""What is asked of an engine from outside, carried out on its thread."""

from collections.abc import Callable

from weftline.core.environment import Environment
from weftline.core.events import RunAdopted, RunResumed, RunStatus
from weftline.core.run import Run
from weftline.engine.active import ActiveRun, Ended, Gone, Listener, Submission, never_had
from weftline.engine.inbox import Inbox
from weftline.engine.parking import Parking
from weftline.engine.recorder import Recorder
from weftline.engine.recovery import Recorded
from weftline.engine.runs import Runs
from weftline.engine.timers import Timers
from weftline.engine.turns import Turns
from weftline.engine.writer import Writer
from weftline.errors import StorageError, WorkflowError, WorkflowQueueFull, WorkflowRunningError
from weftline.ports.journal import Journal

Accepted = Callable[[], object]


class Commands:
    """Begins to drive runs, and to watch them. `Engine` says what each command promises."""

    def __init__(
        self,
        engine_id: str,
        journal: Journal,
        writer: Writer,
        timers: Timers,
        recorder: Recorder,
        turns: Turns,
        runs: Runs,
        parking: Parking,
        inbox: Inbox,
    ) -> None:
        self._engine_id, self._journal, self._writer = engine_id, journal, writer
        self._timers, self._recorder, self._turns = timers, recorder, turns
        self._runs, self._parking, self._inbox = runs, parking, inbox

    def submit(
        self,
        submission: Submission,
        listener: Listener,
        *,
        forward: bool,
        wants_events: bool,
        on_accepted: Accepted | None,
    ) -> None:
        run_id = submission.run_id
        if self._runs.drives(run_id) is not None and not self._is_deleted(run_id):
            listener(Gone(WorkflowRunningError(f"run {run_id!r} is running", run_id)))
            return
        active = ActiveRun(run_id, Run(run_id), submission.creation, epoch=1, seq=0)
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
        active.forward, active.wants_events = forward, wants_events
        active.on_accepted = on_accepted
        active.listeners.append(listener)
        active.graphs.append((submission.graph_hash, submission.pages))
        active.objects += submission.objects
        self._runs.add(active)
        event = submission.first_event(is_pending=is_pending)
        self._recorder.record(active, event, submission.graph)
        if is_pending:
            self._turns.pending.append(active)

    def _is_deleted(self, run_id: str) -> bool:
        """Whether an actor at rest was deleted: nobody tells its owner, which forgets it here."""
        active = self._runs.find(run_id)
        assert active is not None
        try:
            if self._writer.has_unwritten(active) or self._journal.read(run_id, active.last_seq):
                return False
        except StorageError:
            return False
        self._runs.forget(active)
        return True

    def adopt(
        self,
        recorded: Recorded,
        listener: Listener,
        *,
        environment: Environment | None,
        warnings: tuple[str, ...],
        lost: tuple[int, ...],
        detached: bool,
        forward: bool,
        wants_events: bool,
        on_accepted: Accepted | None,
    ) -> None:
        record, run = recorded.record, recorded.run
        run_id = record.run_id
        if self._runs.drives(run_id) is not None:
            listener(Gone(WorkflowRunningError(f"run {run_id!r} is running", run_id)))
            return
        active = ActiveRun(run_id, run, record.creation, record.epoch, record.last_seq)
        active.environment = environment or active.environment
        active.detaches, active.on_accepted = detached, on_accepted
        active.forward, active.wants_events = forward, wants_events
        active.takes = True
        active.stored, active.base_seq = record.summary, record.summary.base_seq
        active.group = run.group
        active.listeners.append(listener)
        self._runs.add(active)
        was_open = run.is_open
        event = RunAdopted(engine=self._engine_id, warnings=warnings, lost=lost)
        self._recorder.record(active, event)
        if not was_open and run.finished is not RunStatus.SUCCESSFUL:
            self._inbox.read_older(active, record)
            # An actor that has nothing to do needs no turn to do so.
            is_pending = run.unfinished > 0 and not self._turns.take(active)
            self._recorder.record(active, RunResumed(is_pending=is_pending))
        elif run.is_open and not run.is_pending and not run.is_at_rest:
            self._turns.take_anyway(active)
        if run.is_pending:
            self._turns.pending.append(active)
            self._turns.ask_at = 0.0
        self._timers.set(active)

    def rejoin(
        self,
        run_id: str,
        listener: Listener,
        *,
        detached: bool,
        forward: bool,
        on_accepted: Accepted | None,
    ) -> None:
        active = self._runs.find(run_id)
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
        self._recorder.record(active, RunResumed())
        self._timers.set(active)

    def watch(
        self, run_id: str, name: str | None, listener: Listener, *, is_expected: bool
    ) -> None:
        try:
            active = self._runs.find(run_id)
            if active is not None:
                active = self._parking.load(run_id)
        except StorageError as error:
            listener(Gone(error))
            return
        if active is None:
            listener(Gone(WorkflowError(f"run {run_id!r} is not driven here", run_id)))
            return
        run = active.run
        if name is not None and run.find_step(name) is None:
            self._inbox.read()  # it may be a call that is on its way
        if (refused := self._inbox.find_refused(run_id, name)) is not None:
            listener(refused)
            return
        ended = Ended.find(run, name)
        is_behind = name is not None and run.laid_down > 0 and run.find_step(name) is None
        if is_behind and not is_expected:
            listener(Gone(WorkflowError(f"{name!r} may lie behind actor {run_id!r}", run_id)))
        elif ended is not None and not self._writer.has_unwritten(active):
            listener(ended)
        elif name is None:
            active.listeners.append(listener)
        elif ended is None and not run.is_open:
            listener(Gone(never_had(run_id, name)))
        else:
            active.step_listeners.setdefault(name, []).append(listener)
