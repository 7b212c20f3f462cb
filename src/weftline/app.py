"""Joins everything: one home, opened by this process, with its journal, objects and engine."""

import atexit
import contextlib
import json
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

import msgspec

from weftline.adapters.journal.memory import MemoryJournal
from weftline.adapters.journal.sqlite import SqliteJournal
from weftline.adapters.objects.local import LocalObjectStore
from weftline.adapters.objects.memory import MemoryObjectStore
from weftline.adapters.objects.sharing import note_home
from weftline.codecs.exceptions import decode_error
from weftline.codecs.values import decode
from weftline.config import Settings, load_settings
from weftline.control import Accepted, Declared, NewRun
from weftline.core.environment import Environment
from weftline.core.events import RunStatus, RunSubmitted, decode_event
from weftline.core.graph import Graph, Pages, decode_pages, differences
from weftline.core.run import Run
from weftline.core.state import StepState
from weftline.core.values import Error, Packed, objects_of
from weftline.core.workflow import Workflow
from weftline.driving import Answer, Drive, EngineHere, EngineThread
from weftline.engine.active import Ended, Gone, Submission
from weftline.engine.lookout import MAX_LOOK_S, MIN_LOOK_S, Lookout, find_end
from weftline.engine.outside import take_in
from weftline.engine.recovery import Recorded, RunReader, read_run
from weftline.engine.turns import Turns
from weftline.errors import (
    ControllerUnavailable,
    OtherPython,
    StepNotFoundError,
    WeftlineError,
    WorkflowCanceledError,
    WorkflowExecutionError,
    WorkflowNotFoundError,
    WorkflowNotResumableError,
    WorkflowRunningError,
)
from weftline.link.link import Link, Listener
from weftline.ports import ActorCall, Creation, InboxKind, ObjectStore, RunRecord, Signal
from weftline.version import PYTHON, __version__
from weftline.wire import MARKER
from weftline.workers.attempt import current
from weftline.workers.children import Children
from weftline.workers.inline import Inline
from weftline.workers.orphans import end_orphans
from weftline.workers.shares import Places
from weftline.workers.slots import Slots, find_slots
from weftline.workers.threads import Threads

PATIENCE_CANCEL_S = 10.0
"""How long `cancel` waits for the run's end."""

OPEN = (RunStatus.RUNNING, RunStatus.PAUSED, RunStatus.PENDING)
"""How runs stand that go on, if somebody drives them."""

RUNNING_PLACES = "running-workflows"
"""The file, in the home's folder `slots`, by which all processes know how many runs run."""


class Planned(NamedTuple):
    """A run to be started detached. `listener` is told once, if it is accepted, how it ends: on
    another thread, which it must not hold up."""

    run_id: str
    workflow: Workflow
    listener: Listener
    objects: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    is_actor: bool = False
    group: tuple[str, int] | None = None


class App:
    """Everything this process needs to run workflows in one home."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.journal: SqliteJournal | MemoryJournal
        self.objects: ObjectStore
        if settings.home is None or settings.objects is None:
            self.journal, self.objects = MemoryJournal(), MemoryObjectStore()
        else:
            self.journal = SqliteJournal(settings.home)
            self.objects = LocalObjectStore(settings.objects)
            with contextlib.suppress(OSError):  # one that cannot be written to holds nothing of us
                note_home(settings.objects, settings.home)
        self._slots: Slots = find_slots(
            settings.num_cpus, settings.num_gpus, settings.resources, os.environ
        )
        # What a step runs is no business of limits: it would wait for the run it is part of.
        self._is_step = MARKER in os.environ
        self._places: Places | None = None
        self._turns_lock = threading.Lock()
        self._max_running = None if self._is_step else settings.max_running_workflows
        self._max_pending = None if self._is_step else settings.max_pending_workflows
        self._lock = threading.Lock()
        self._shared: EngineThread | None = None
        self._link: Link | None = None
        self._lookout = Lookout(self.journal, self.status_of)
        self._without_orphans: set[str] = set()  # dead engines of which nothing is left
        self._pid = os.getpid()

    @property
    def is_ours(self) -> bool:
        """Whether this process opened it; a forked one opens its own."""
        return self._pid == os.getpid()

    # -- starting and continuing runs -----------------------------------------------------------

    def start(
        self,
        workflow: Workflow,
        *,
        run_id: str,
        objects: tuple[str, ...] = (),
        warned: tuple[str, ...] = (),
        follow: bool = False,
        quiet: bool = False,
    ) -> Drive:
        """Submit a new run and drive it from here.

        The drive raises WorkflowRunningError when the id is taken.
        """
        pages = Pages(workflow.graph.steps)
        submission = Submission(
            run_id=run_id,
            creation=Creation(
                workflow=workflow.name,
                created_at=time.time(),
                environment=environment_here(),
                metadata=workflow.metadata,
            ),
            graph=workflow.graph,
            graph_hash=pages.hash(),
            pages=pages,
            objects=objects,
            warnings=warned,
        )
        drive = Drive(self.journal, run_id, self._engine(), quiet)
        self._check(drive, drive.engine.refusal_of(workflow.graph))
        drive.engine.submit(submission, drive.listen, forward=not quiet, wants_events=follow)
        return drive

    @staticmethod
    def _check(drive: Drive, problem: WeftlineError | None) -> None:
        if problem is not None:
            drive.close()
            raise problem

    def proceed(
        self,
        run_id: str,
        *,
        written: Workflow | None = None,
        follow: bool = False,
        quiet: bool = False,
    ) -> Drive | Ended:
        """Let a recorded run go on from here; its end, when it has a result already.

        `written` is what the person asks to be run under this id: where it differs from what is
        recorded, they are warned, and what is recorded runs.

        Raises: WorkflowNotFoundError, WorkflowRunningError.
        """
        shared = self._shared
        if shared is not None and shared.engine.drives(run_id) is not None:
            if shared.engine.drives(run_id):
                raise WorkflowRunningError(f"run {run_id!r} is running in this process", run_id)
            drive = Drive(self.journal, run_id, shared, quiet)
            drive.again = lambda: self._proceed_again(drive, follow=follow)
            shared.engine.rejoin(run_id, drive.listen, forward=not quiet)
            return drive
        recorded = read_run(self.journal, run_id)
        is_over = recorded.run.finished is RunStatus.SUCCESSFUL
        if not is_over:
            self.make_free(recorded.record)
        if written is not None:
            self._warn_of_changes(recorded, written, stacklevel=5)
        if is_over:
            return Ended.of(recorded.run)
        for text in usable_environment(recorded.record.creation.environment)[1]:
            warnings.warn(text, stacklevel=4)
        drive = Drive(self.journal, run_id, self._engine(), quiet)
        left = [step.spec for step in recorded.run.steps if not step.is_ended]
        self._check(drive, drive.engine.lacking(left))
        drive.again = lambda: self._proceed_again(drive, follow=follow)
        self._take_over(drive, recorded, follow=follow)
        return drive

    def _take_over(self, drive: Drive, recorded: Recorded, *, follow: bool) -> None:
        environment, noted = usable_environment(recorded.record.creation.environment)
        drive.engine.adopt(
            recorded,
            drive.listen,
            environment=environment,
            warnings=noted,
            lost=recorded.run.find_lost(self.is_there),
            forward=not drive.is_quiet,
            wants_events=follow,
        )

    def _proceed_again(self, drive: Drive, *, follow: bool) -> None:
        """The run changed while it was taken over: its owner has just recorded what a step of it
        came to, and may have let go of it."""
        recorded = read_run(self.journal, drive.run_id)
        if recorded.run.finished is RunStatus.SUCCESSFUL:
            drive.listen(Ended.of(recorded.run))
        else:
            self.make_free(recorded.record)
            self._take_over(drive, recorded, follow=follow)

    def make_free(self, record: RunRecord) -> None:
        """See that nobody drives the run any more, and end what a dead engine left behind.

        Raises: WorkflowRunningError.
        """
        owner = record.engine
        if owner is None or (self._shared is not None and owner == self._shared.engine_id):
            return
        if self.journal.is_alive(owner):
            # The owner of a failed run may still be finishing steps of it; it may be taken.
            if record.summary.status in OPEN:
                raise WorkflowRunningError(
                    f"run {record.run_id!r} is running in another process", record.run_id
                )
        elif self.settings.home is not None and owner not in self._without_orphans:
            end_orphans(self.settings.home, owner)
            self._without_orphans.add(owner)

    def is_there(self, value: Packed) -> bool:
        """Whether the objects that a volatile value names have not been removed."""
        return all(map(self.objects.exists, objects_of(value)))

    @staticmethod
    def _warn_of_changes(recorded: Recorded, written: Workflow, *, stacklevel: int) -> None:
        changes = differences(recorded.graph, written.graph)
        if changes:
            warnings.warn(
                f"run {recorded.record.run_id!r} goes on as it was recorded, although the workflow"
                f" was changed since: {'; '.join(changes)}. Use another id to run it as it is now.",
                stacklevel=stacklevel,
            )

    # -- detached runs --------------------------------------------------------------------------

    def start_detached(self, planned: Sequence[Planned]) -> list[WeftlineError | None]:
        """Submit new runs, which go on whatever becomes of this process.

        Returns, for each, when it is durable: None, or why it was refused. A home in memory has no
        controller: there this process drives them.
        Raises: ControllerUnavailable.
        """
        self.journal.change_count()  # a home that cannot be used says so here
        now, environment = time.time(), environment_here()
        answers: list[WeftlineError | None] = [None] * len(planned)
        first: dict[str, int] = {}
        for at, each in enumerate(planned):
            if first.setdefault(each.run_id, at) != at:
                text = f"the workflow id {each.run_id!r} is given twice"
                answers[at] = WorkflowRunningError(text, each.run_id)
        wanted = list(first.values())
        link = self.link
        if link is None:
            for at in wanted:
                answers[at] = self._start_here(planned[at], now, environment)
            return answers
        runs = [_new_run(link.next_number(), planned[at], now, environment) for at in wanted]
        listeners = [self._or_else(planned[at]) for at in wanted]
        for at, answer in zip(wanted, link.submit(runs, listeners), strict=True):
            answers[at] = answer
        return answers

    def _or_else(self, planned: Planned) -> Listener:
        run_id, listener = planned.run_id, planned.listener
        return lambda news: self._tell(run_id, None, listener, news)

    def _tell(self, run_id: str, name: str | None, listener: Listener, news: Ended | Gone) -> None:
        """Pass on how a run ended; when the controller does not tell, the journal will."""
        if isinstance(news, Gone):
            self._lookout.watch(run_id, name, listener)
        else:
            listener(news)

    def _start_here(
        self, planned: Planned, now: float, environment: Environment
    ) -> WeftlineError | None:
        graph = planned.workflow.graph
        engine = self.open_engine().engine
        problem = engine.refusal_of(graph)
        if problem is not None:
            return problem
        pages = Pages(graph.steps)
        submission = Submission(
            run_id=planned.run_id,
            creation=Creation(
                workflow=planned.workflow.name,
                created_at=now,
                environment=environment,
                metadata=planned.workflow.metadata,
                detached=True,
            ),
            graph=graph,
            graph_hash=pages.hash(),
            pages=pages,
            objects=planned.objects,
            warnings=planned.warnings,
            is_actor=planned.is_actor,
            group=planned.group,
        )
        answer = Answer(self._or_else(planned))
        engine.submit(submission, answer.listen, on_accepted=answer.accept)
        return answer.wait()

    def resume(self, run_id: str, *, written: Workflow | None = None) -> None:
        """Let a run go on, detached, also one that failed, was canceled or is held back; returns
        when that is durable. One that has its result is left alone. `written` is as for `proceed`.

        Raises: WorkflowNotFoundError, WorkflowRunningError, ControllerUnavailable.
        """
        recorded = None if written is None else read_run(self.journal, run_id)
        problem = self.resume_many([run_id])[0]
        if problem is not None:
            raise problem
        if recorded is not None and written is not None:
            self._warn_of_changes(recorded, written, stacklevel=4)

    def resume_many(self, run_ids: Sequence[str]) -> list[WeftlineError | None]:
        """The same for several at once; for each None, or why it does not go on.

        Raises: ControllerUnavailable.
        """
        self.journal.change_count()
        own = {run_id: self._rejoin(run_id) for run_id in run_ids if self._is_finishing(run_id)}
        if own:
            others = [run_id for run_id in run_ids if run_id not in own]
            rest = iter(self.resume_many(others) if others else ())
            return [own[run_id] if run_id in own else next(rest) for run_id in run_ids]
        idle = {run_id for run_id in run_ids if self._is_left(run_id)}
        found = self._adopt(run_ids, is_resume=True)
        for at, run_id in enumerate(run_ids):
            # A controller that this has started takes up such runs by itself, and may have done so
            # before it was asked to.
            if isinstance(found[at], WorkflowRunningError) and run_id in idle:
                found[at] = None
        return found

    def _is_finishing(self, run_id: str) -> bool:
        """Whether it is a failed run of which steps still run here: they are not begun anew."""
        return self._shared is not None and self._shared.engine.drives(run_id) is False

    def _rejoin(self, run_id: str) -> WeftlineError | None:
        """Let such a run go on here; a controller does when this process ends."""
        answer = Answer(lambda news: None)
        engine = self.open_engine().engine
        engine.rejoin(run_id, answer.listen, detached=True, on_accepted=answer.accept)
        return answer.wait()

    def _is_left(self, run_id: str) -> bool:
        """Whether it is a run that controllers drive, and none does."""
        record = self.journal.find_run(run_id)
        if record is None or not record.creation.detached:
            return False
        return self.status_of(record) is RunStatus.RESUMABLE

    def _adopt(self, run_ids: Sequence[str], *, is_resume: bool) -> list[WeftlineError | None]:
        link = self.link
        if link is None:
            return [self._adopt_here(run_id, is_resume) for run_id in run_ids]
        found: list[WeftlineError | None] = []
        for answer in link.adopt(run_ids, is_resume=is_resume):
            if isinstance(answer, Accepted):
                for text in answer.warnings:
                    warnings.warn(text, stacklevel=4)
            found.append(None if isinstance(answer, Accepted) else answer)
        return found

    def _adopt_here(self, run_id: str, is_resume: bool) -> WeftlineError | None:
        engine = self.open_engine().engine
        try:
            recorded = read_run(self.journal, run_id, to_drive=True)
            run = recorded.run
            if run.finished is RunStatus.SUCCESSFUL or (run.is_at_rest and is_resume):
                return None
            if engine.drives(run_id):
                raise WorkflowRunningError(f"run {run_id!r} is running in this process", run_id)
            self.make_free(recorded.record)
        except WeftlineError as error:
            return error
        answer = Answer(lambda news: None)
        engine.adopt(
            recorded,
            answer.listen,
            lost=run.find_lost(self.is_there),
            detached=True,
            on_accepted=answer.accept,
        )
        return answer.wait()

    def watch(self, run_id: str, name: str | None, listener: Listener) -> None:
        """Tell the listener once how the run, or its step `name`, ends; at once, if it has.

        `Gone` when nobody drives the run. The listener is called on another thread, which it must
        not hold up.
        """
        record = self.journal.find_run(run_id)
        if record is not None and self.is_for_controller(record):
            link = self.link
            assert link is not None
            link.watch(run_id, name, lambda news: self._tell(run_id, name, listener, news))
        else:
            self._lookout.watch(run_id, name, listener)

    def is_for_controller(self, record: RunRecord) -> bool:
        """Whether a controller drives the run, or should: one that is held waits for a person."""
        if not record.creation.detached or self.link is None or self._is_ours(record.engine):
            return False
        status = record.summary.status
        if status is RunStatus.RESUMABLE:  # which of the two it is, its journal tells
            return self.read(record.run_id).run.held is None
        return status in OPEN

    def _is_ours(self, engine: str | None) -> bool:
        return self._shared is not None and self._shared.engine_id == engine

    # -- news for runs --------------------------------------------------------------------------

    def cancel(self, run_id: str, timeout_s: float = PATIENCE_CANCEL_S) -> None:
        """End the run: running steps are killed, no further one starts. Returns when it has ended,
        at most after `timeout_s`; one that has its result is left as it is.

        Raises: WorkflowNotFoundError.
        """
        record = self.get_run(run_id)
        if record.summary.status is RunStatus.CANCELED or self._is_over(record):
            return
        self.post(run_id, InboxKind.CANCEL, b"null")
        deadline = time.monotonic() + timeout_s
        pause = MIN_LOOK_S
        while self._may_be_canceled(run_id) and time.monotonic() < deadline:
            seen = self.journal.change_count()
            if not self._may_be_canceled(run_id):
                return
            until = min(deadline, time.monotonic() + MAX_LOOK_S)
            while self.journal.change_count() == seen and time.monotonic() < until:
                time.sleep(pause)

    def _may_be_canceled(self, run_id: str) -> bool:
        record = self.journal.find_run(run_id)
        if record is None or record.summary.status is RunStatus.CANCELED:
            return False
        return not self._is_over(record)

    def pause(self, run_id: str) -> None:
        """Start no further step of the run.

        Raises: WorkflowNotFoundError, WorkflowNotResumableError when it has ended.
        """
        record = self.get_run(run_id)
        status = record.summary.status
        if status in (RunStatus.FAILED, RunStatus.CANCELED) or self._is_over(record):
            text = f"run {run_id!r} is {status}: it has no step left that could be held back"
            raise WorkflowNotResumableError(text, run_id)
        self.post(run_id, InboxKind.PAUSE, b"null")

    def unpause(self, run_id: str) -> None:
        """Start steps of the run again. Raises: WorkflowNotFoundError."""
        self.post(run_id, InboxKind.CONTINUE, b"null")

    def signal(
        self,
        run_id: str,
        name: str,
        value: Packed,
        objects: tuple[str, ...] = (),
        key: str | None = None,
    ) -> bool:
        """Send a signal to the run; it is kept until a step waits for one of this name.

        Of several with the same `key` only the first counts, whatever became of the run since;
        whether this one does.
        Raises: WorkflowNotFoundError, WorkflowNotResumableError when the run has ended for good.
        """
        record = self.get_run(run_id)
        status = record.summary.status
        if status is RunStatus.CANCELED or self._is_over(record):
            if key is not None and self.journal.knows_key(run_id, key):
                return False
            text = f"run {run_id!r} is {status}: nothing in it waits for a signal any more"
            raise WorkflowNotResumableError(text, run_id)
        body = msgspec.json.encode(Signal(name, msgspec.Raw(value), objects))
        return self.post(run_id, InboxKind.SIGNAL, body, key)

    def _is_over(self, record: RunRecord) -> bool:
        """Whether the run has its result, and is no actor that only rests."""
        if record.summary.status is not RunStatus.SUCCESSFUL:
            return False
        run = read_run(self.journal, record.run_id, to_drive=True).run
        return run.finished is RunStatus.SUCCESSFUL

    def post(self, run_id: str, kind: InboxKind, body: bytes, key: str | None = None) -> bool:
        """Put news into the run's inbox, and see that somebody takes it in; whether it counts.

        Raises: WorkflowNotFoundError, ControllerUnavailable (the news is kept all the same).
        """
        counts = self.journal.post(run_id, kind, body, key)
        if counts is None:
            raise WorkflowNotFoundError(f"No such workflow_id {run_id}", run_id)
        self.wake_owner(run_id)
        return counts

    def call_actor(
        self, run_id: str, steps: bytes, call: str, objects: tuple[str, ...], listener: Listener
    ) -> None:
        """Record a call of an actor, and tell the listener how it ends.

        Raises: WorkflowNotFoundError, WorkflowNotResumableError when the actor was canceled.
        """
        record = self.get_run(run_id)
        if record.summary.status is RunStatus.CANCELED:
            raise WorkflowNotResumableError(
                f"actor {run_id!r} was canceled; resume it to call it again", run_id
            )
        body = msgspec.json.encode(ActorCall(steps, call, objects))
        if record.summary.status is RunStatus.FAILED:
            self.post(run_id, InboxKind.CALL, body)
            self.watch(run_id, call, listener)
            return
        # Watched first, so that an actor that is quick does not lay the call down unseen.
        tell = partial(self._tell, run_id, call, listener)
        link = self.link
        if link is None or self._is_ours(record.engine):
            self.open_engine().engine.watch(run_id, call, tell, is_expected=True)
        else:
            link.watch(run_id, call, tell, is_expected=True)
        self.post(run_id, InboxKind.CALL, body)

    def wake_owner(self, run_id: str) -> None:
        """See that what was posted for the run is taken in, if it has no living owner: by a
        controller where the run is one that controllers drive, and where it goes on by itself;
        else as far as that can be done from here.

        Raises: WorkflowNotFoundError, ControllerUnavailable.
        """
        record = self.get_run(run_id)
        if record.engine is not None and self.journal.is_alive(record.engine):
            return  # its bell has rung
        if record.creation.detached and read_run(self.journal, run_id, to_drive=True).run.is_open:
            problem = self._adopt([run_id], is_resume=False)[0]
            if problem is None:
                return
            record = self.get_run(run_id)
            if record.engine is not None and self.journal.is_alive(record.engine):
                return  # somebody was faster
        take_in(self.journal, run_id)

    # -- looking at runs ------------------------------------------------------------------------

    def get_run(self, run_id: str) -> RunRecord:
        """The run's row. Raises: WorkflowNotFoundError."""
        record = self.journal.find_run(run_id)
        if record is None:
            raise WorkflowNotFoundError(f"No such workflow_id {run_id}", run_id)
        return record

    def status_of(self, record: RunRecord) -> RunStatus:
        """The run's status now: an open run that nobody drives is RESUMABLE."""
        while True:
            status = record.summary.status
            if status not in OPEN:
                return status
            if record.engine is not None and self._is_driven(record.engine, record.run_id):
                return status
            # Its engine may have recorded its end, and let go of it, since the record was read.
            now = self.journal.find_run(record.run_id)
            if now is None or (now.epoch, now.last_seq) == (record.epoch, record.last_seq):
                return RunStatus.RESUMABLE
            record = now

    def _is_driven(self, engine: str, run_id: str) -> bool:
        shared = self._shared
        if shared is not None and shared.engine_id == engine:
            return shared.engine.drives(run_id) is not None
        return self.journal.is_alive(engine)

    def read(self, run_id: str) -> Recorded:
        """The run, folded from its journal. Raises: WorkflowNotFoundError."""
        return read_run(self.journal, run_id)

    def find_end(self, run_id: str, name: str | None) -> Ended | None:
        """How the run, or its step `name`, has ended; None as long as it has not.

        Raises: WorkflowNotFoundError.
        """
        reader = RunReader(self.journal, run_id, seeks=name)
        reader.refresh()
        return find_end(reader)

    def find_step(self, run_id: str, name: str) -> tuple[Run, StepState] | None:
        """The step of this name, as it stands, and the run of which it is one, also of an actor
        that has laid it down. Raises: WorkflowNotFoundError."""
        reader = RunReader(self.journal, run_id, seeks=name)
        reader.refresh()
        return reader.find_sought()

    def first_graph(self, run_id: str) -> Graph:
        """The graph that the run was submitted with. Raises: WorkflowNotFoundError."""
        entry = self.journal.first_event(run_id)
        event = None if entry is None else decode_event(entry.body)
        if not isinstance(event, RunSubmitted):
            raise WorkflowNotFoundError(f"No such workflow_id {run_id}", run_id)
        pages = self.journal.read_graph(event.graph)
        return Graph(steps=decode_pages(pages), output=event.output)

    def actor_state(self, run_id: str) -> Packed | None:
        """An actor's last state; None before its `__init__` has ended.

        Raises: WorkflowNotFoundError.
        """
        return read_run(self.journal, run_id, to_drive=True).run.state

    def delete(self, run_id: str) -> None:
        """Forget the run. Raises: WorkflowNotFoundError, WorkflowRunningError."""
        record = self.get_run(run_id)
        status = self.status_of(record)
        # Steps of a failed one may still run here, and are recorded when they end.
        is_ours = self._shared is not None and self._shared.engine.drives(run_id) is not None
        if status in OPEN or (status is RunStatus.FAILED and is_ours):
            raise WorkflowRunningError(
                f"run {run_id!r} is {status}: it cannot be deleted while it is driven", run_id
            )
        if not self.journal.delete_run(run_id, record.epoch):
            raise WorkflowRunningError(f"run {run_id!r} was just taken over or deleted", run_id)

    def wait_for(self, run_id: str, name: str | None, timeout_s: float | None) -> Any:
        """The value of the run, or of its step `name`, as soon as there is one; drives nothing.

        Raises: TimeoutError, the step's or run's own error, WorkflowNotFoundError,
        StepNotFoundError, WorkflowNotResumableError when it is RESUMABLE or CANCELED.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        if timeout_s is None or timeout_s > 0:
            record = self.get_run(run_id)
            if self.is_for_controller(record):
                ended = self._hear(run_id, name, timeout_s)
                if ended is not None:
                    return self.result_of(run_id, ended, name)
        reader = RunReader(self.journal, run_id)
        pause = MIN_LOOK_S
        while True:
            seen = self.journal.change_count()
            reader.refresh()
            recorded = reader.recorded()
            if self._has_answer(recorded, name):
                return self._answer(recorded, name)
            while self.journal.change_count() == seen:
                left = MAX_LOOK_S if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    raise _no_result(run_id, name, timeout_s)
                if self.status_of(recorded.record) is RunStatus.RESUMABLE:
                    break
                time.sleep(min(pause, left))
                pause = min(pause * 1.5, MAX_LOOK_S)

    def _hear(self, run_id: str, name: str | None, timeout_s: float | None) -> Ended | None:
        """How the run ends, as the controller tells; None when it does not.

        Raises: TimeoutError, ControllerUnavailable.
        """
        link, mailbox = self.link, SimpleQueue[Ended | Gone]()
        assert link is not None
        link.watch(run_id, name, mailbox.put)
        try:
            news = mailbox.get(timeout=timeout_s)
        except Empty:
            raise _no_result(run_id, name, timeout_s) from None
        if isinstance(news, Ended):
            return news
        if isinstance(news.error, ControllerUnavailable):
            raise news.error
        return None

    def _has_answer(self, recorded: Recorded, name: str | None) -> bool:
        run = recorded.run
        if not run.is_open or self.status_of(recorded.record) is RunStatus.RESUMABLE:
            return True
        step = run.find_step(name) if name is not None else None
        if step is None:
            return False
        return run.value_of(step.number) is not None or step.is_ended

    def _answer(self, recorded: Recorded, name: str | None) -> Any:
        run, run_id = recorded.run, recorded.record.run_id
        if name is None:
            if run.is_open:
                raise WorkflowNotResumableError(
                    f"run {run_id!r} is RESUMABLE and has no result: resume it first", run_id
                )
            return self.result_of(run_id, Ended.of(run))
        step = run.find_step(name)
        if step is None:
            raise StepNotFoundError(f"No such step_id {name} in workflow {run_id}", run_id)
        value = run.value_of(step.number)
        if value is not None:
            return decode(value, self.objects)
        error = run.error_of(step.number)
        if error is not None:
            raise self.exception_of(run_id, error, step.name)
        raise WorkflowExecutionError(
            f"step {name!r} of run {run_id!r} has no value: it is {run.status_of(step)} and the"
            f" run is {self.status_of(recorded.record)}",
            run_id,
        )

    # -- results and errors ---------------------------------------------------------------------

    def result_of(self, run_id: str, ended: Ended, name: str | None = None) -> Any:
        """The value that the run, or its step `name`, ended with. Raises: what it failed of."""
        if ended.status is RunStatus.SUCCESSFUL and (name is None or ended.value is not None):
            return None if ended.value is None else decode(ended.value, self.objects)
        if ended.status is RunStatus.CANCELED:
            raise WorkflowCanceledError(
                f"run {run_id!r} was canceled; resume it to let it go on", run_id
            )
        if name is not None and ended.error is None:
            raise WorkflowExecutionError(f"run {run_id!r}: {ended.reason}", run_id)
        if ended.error is None:
            raise WorkflowExecutionError(
                f"run {run_id!r} is held back: {ended.reason}. Mend the cause, then resume it with"
                f" workflow.resume({run_id!r})",
                run_id,
            )
        raise self.exception_of(run_id, ended.error, ended.step)

    def exception_of(self, run_id: str, error: Error, step: str | None) -> BaseException:
        """The user's own exception again, with a note; else a WorkflowExecutionError."""
        note = (
            f"Raised in step {step!r} of run {run_id!r}. What has finished is kept, and"
            f" workflow.resume({run_id!r}) tries the rest again, with the code as it was recorded:"
            " changed code needs another id."
        )
        found = decode_error(error, self.objects)
        if found is None:
            found = WorkflowExecutionError(
                f"step {step!r} of run {run_id!r} failed: {error.type}: {error.text}",
                run_id,
                error_type=error.type,
                error_text=error.text,
                traceback=error.traceback,
            )
        if error.traceback:
            found.add_note("In the step:\n" + error.traceback.rstrip())
        found.add_note(note)
        return found

    # -- engines --------------------------------------------------------------------------------

    def _engine(self) -> EngineThread | EngineHere:
        """What drives runs: one engine on its own thread for the whole process, or, with the
        inline executor, a fresh engine in the thread that calls."""
        executor = self.settings.executor
        # A step in a thread that runs a workflow does so itself: it has a slot already, and would
        # else wait for others that may all be waiting likewise.
        if executor == "inline" or (executor == "threads" and current() is not None):
            self.journal.change_count()
            return EngineHere(self.journal, self.new_inline(), self._new_turns())
        return self.open_engine()

    def open_engine(self) -> EngineThread:
        """The process's engine on its own thread, started if there is none."""
        with self._lock:
            if self._shared is None or self._shared.engine.has_failed:
                # A home that cannot be used says so now; the engine would try again for a while.
                self.journal.change_count()
                self._shared = EngineThread(self.journal, self.new_executor, self._new_turns())
            return self._shared

    def _new_turns(self) -> Turns:
        """Whose turn it is to run, as far as anything limits that."""
        most, home = self._max_running, self.settings.home
        with self._turns_lock:
            if most is not None and most >= 0:
                if self._places is None:
                    path = None if home is None else home / "slots" / RUNNING_PLACES
                    self._places = Places(most, path)
                self._places.have(most)
        share = self._places if most is not None and most >= 0 else None
        pending = self._max_pending
        return Turns(share, None if pending is None or pending < 0 else pending)

    def declare(self, declared: Declared, done: Callable[[], object]) -> None:
        """Let the process's engine have what a driver was told: never less than before, and its
        limits from now on. `done` is called on the engine's thread."""
        engine = self.open_engine().engine
        limits = (declared.max_running_workflows, declared.max_pending_workflows)
        before = (self._max_running, self._max_pending)
        now = tuple(b if each is None else each for each, b in zip(limits, before, strict=True))
        if now != before:
            self._max_running, self._max_pending = now
            engine.limit(self._new_turns())

        def grow() -> None:
            self._slots.grow(declared.num_cpus, declared.num_gpus, declared.resources)
            done()

        engine.call(grow)

    @property
    def link(self) -> Link | None:
        """To the controller of the home; None for one in memory, which has none."""
        home = self.settings.home
        if home is None or self._link is not None:
            return self._link
        with self._lock:
            if self._link is None:
                self._link = Link(
                    home,
                    self.journal,
                    declared=Declared() if self._is_step else self._declared(),
                    variables=self._variables_of_controller(),
                )
            return self._link

    def _declared(self) -> Declared:
        settings = self.settings
        return Declared(
            settings.num_cpus,
            settings.num_gpus,
            settings.resources,
            settings.max_running_workflows,
            settings.max_pending_workflows,
        )

    def new_inline(self) -> Inline:
        return Inline(objects=self.objects, slots=self._slots, home=self.settings.home)

    def new_executor(self, engine_id: str) -> Children | Threads:
        """What carries attempts out for the process's engine."""
        if self.settings.executor == "threads" or self.settings.home is None:
            return Threads(objects=self.objects, slots=self._slots, home=self.settings.home)
        return self.new_children(engine_id)

    def new_children(self, engine_id: str) -> Children:
        home, objects = self.settings.home, self.settings.objects
        assert home is not None
        assert objects is not None
        return Children(
            home=home,
            engine=engine_id,
            objects_factory="weftline.adapters.objects.local:LocalObjectStore",
            objects_root=str(objects),
            slots=self._slots,
            variables=self._variables(home, objects),
            version=__version__,
        )

    def _variables(self, home: Path, objects: Path) -> dict[str, str]:
        """What makes a workflow that a step runs find the same home and machine."""
        settings = self.settings
        found = {"WEFTLINE_DATABASE": str(home), "WEFTLINE_STORAGE": str(objects.parent)}
        if settings.num_cpus is not None:
            found["WEFTLINE_NUM_CPUS"] = str(settings.num_cpus)
        if settings.num_gpus is not None:
            found["WEFTLINE_NUM_GPUS"] = str(settings.num_gpus)
        if settings.resources:
            found["WEFTLINE_RESOURCES"] = json.dumps(settings.resources)
        return found

    def _variables_of_controller(self) -> dict[str, str]:
        """What a controller that is started from here is told."""
        settings = self.settings
        assert settings.home is not None
        assert settings.objects is not None
        found = self._variables(settings.home, settings.objects)
        found["WEFTLINE_CONTROLLER_IDLE_S"] = str(settings.controller_idle_s)
        for name in ("max_running_workflows", "max_pending_workflows"):
            limit = getattr(settings, name)
            if limit is not None:
                found[f"WEFTLINE_{name.upper()}"] = str(limit)
        return found

    def close_engine(self) -> None:
        """Let every run go and end all children; another engine may follow."""
        with self._lock:
            shared, self._shared = self._shared, None
        if shared is not None:
            shared.close()

    def close(self) -> None:
        """Let every run go and end all children; the App is not used afterwards."""
        if not self.is_ours:
            return
        if self._link is not None:
            self._link.close()
        self._lookout.close()
        self.close_engine()
        self.journal.close()


# -- this process's home ------------------------------------------------------------------------

_lock = threading.Lock()
_app: App | None = None
_PLACES = ("storage", "database")


def open_home(**given: Any) -> bool:
    """Choose this process's home and settings (as `config.load_settings` takes them); whether it
    was not chosen before.

    Raises: InvalidSettings; RuntimeError when something else was chosen before.
    """
    global _app
    settings = load_settings(given)
    with _lock:
        if _app is None or not _app.is_ours:
            _app = App(settings)
            return True
        now = _app.settings
    if (settings.home, settings.objects) != (now.home, now.objects):
        raise RuntimeError(
            f"workflows of this process are kept in {now.home or 'memory'} already; another home"
            f" ({settings.home or 'memory'}) needs another process"
        )
    changed = [
        name
        for name, value in given.items()
        if value is not None
        and name not in _PLACES
        and getattr(settings, name) != getattr(now, name)
    ]
    if changed:
        raise RuntimeError(
            f"workflow.init() was called before, and {', '.join(changed)} cannot change afterwards"
        )
    return False


def home() -> App:
    """This process's home; the first call opens the default one."""
    global _app
    app = _app
    if app is None or not app.is_ours:
        with _lock:
            if _app is None or not _app.is_ours:
                _app = App(load_settings({}))
            app = _app
    return app


@atexit.register
def close_home() -> None:
    """Let go of the home: runs that are still open are RESUMABLE, children end."""
    global _app
    with _lock:
        app, _app = _app, None
    if app is not None:
        app.close()


# -- what goes in and comes out -----------------------------------------------------------------


def _new_run(number: int, planned: Planned, now: float, environment: Environment) -> NewRun:
    """What the controller is told of a run."""
    workflow = planned.workflow
    return NewRun(
        number=number,
        run_id=planned.run_id,
        workflow=workflow.name,
        created_at=now,
        environment=environment,
        metadata=msgspec.json.encode(workflow.metadata),
        pages=list(Pages(workflow.graph.steps)),
        output=workflow.graph.output,
        objects=planned.objects,
        warnings=planned.warnings,
        is_actor=planned.is_actor,
        group=planned.group,
    )


def _no_result(run_id: str, name: str | None, timeout_s: float | None) -> TimeoutError:
    what = f"step {name!r} of run {run_id!r}" if name else f"run {run_id!r}"
    return TimeoutError(f"{what} has no result after {timeout_s or 0:g} s")


def environment_here() -> Environment:
    """This process, as the environment that children of its runs are started in."""
    cwd = os.getcwd()
    sys_path = tuple(entry or cwd for entry in sys.path)
    return Environment(python=sys.executable, sys_path=sys_path, cwd=cwd, version=PYTHON)


def usable_environment(recorded: Environment) -> tuple[Environment, tuple[str, ...]]:
    """The recorded environment, or this process's own where it is gone, and what to say.

    Raises: OtherPython when the code of the run would not run in this process's own.
    """
    here = environment_here()
    if not Path(recorded.python).exists():
        if recorded.version not in ("", here.version):
            raise OtherPython(
                f"the run's interpreter {recorded.python} is gone, and its code runs in Python"
                f" {recorded.version} alone: resume it with such a Python that has Weftline, not"
                f" with {here.python}, which is Python {here.version}"
            )
        text = f"the run's interpreter {recorded.python} is gone; {here.python} is used instead"
        return here, (text,)
    if not Path(recorded.cwd).is_dir():
        text = f"the run's folder {recorded.cwd} is gone; {here.cwd} is used instead"
        # Packages of one interpreter are of no use to another one.
        is_same = recorded.python == here.python
        left = tuple(entry for entry in recorded.sys_path if os.path.exists(entry))
        sys_path = here.sys_path if is_same else left
        return msgspec.structs.replace(recorded, sys_path=sys_path, cwd=here.cwd), (text,)
    return recorded, ()
