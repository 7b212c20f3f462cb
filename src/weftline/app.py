"""Joins everything: one home, opened by this process, with its journal, objects and engine."""

import atexit
import contextlib
import os
import threading
import time
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from weftline.adapters.journal.memory import MemoryJournal
from weftline.adapters.journal.sqlite import SqliteJournal
from weftline.adapters.objects.local import LocalObjectStore
from weftline.adapters.objects.memory import MemoryObjectStore
from weftline.adapters.objects.sharing import note_home
from weftline.config import Settings, load_settings
from weftline.control import Accepted, Declared, NewRun
from weftline.core.environment import Environment
from weftline.core.events import RunStatus
from weftline.core.graph import Pages, differences
from weftline.core.values import Packed, objects_of
from weftline.core.workflow import Workflow
from weftline.driving.controllers import Controller, Listener
from weftline.driving.drive import Answer, Drive
from weftline.driving.ends import Ends
from weftline.driving.engines import Engines
from weftline.driving.environment import environment_here, usable_environment
from weftline.driving.executors import Executors
from weftline.driving.limits import Limits
from weftline.driving.owners import Owners
from weftline.driving.records import Records
from weftline.driving.results import Results
from weftline.driving.variables import declared_by, variables_of_controller
from weftline.engine.active import Ended, Submission
from weftline.engine.lookout import MAX_LOOK_S, MIN_LOOK_S
from weftline.engine.outside import take_in
from weftline.engine.recovery import Recorded, read_run
from weftline.errors import (
    WeftlineError,
    WorkflowNotFoundError,
    WorkflowNotResumableError,
    WorkflowRunningError,
)
from weftline.link.link import Link
from weftline.ports import ActorCall, Creation, InboxKind, ObjectStore, Signal
from weftline.wire import MARKER

PATIENCE_CANCEL_S = 10.0
"""How long `cancel` waits for the run's end."""


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
        # What a step runs is no business of limits: it would wait for the run it is part of.
        self._is_step = MARKER in os.environ
        limits = (
            Limits(settings.home, None, None)
            if self._is_step
            else Limits(
                settings.home, settings.max_running_workflows, settings.max_pending_workflows
            )
        )
        self.executors = Executors(settings, self.objects)
        self.engines = Engines(settings, self.journal, self.executors, limits)
        self.owners = Owners(settings.home, self.journal, self.engines)
        self.records = Records(self.journal, self.engines, self.owners)
        self.ends = Ends(self.journal, self.engines, self.owners, self.find_controller)
        self.results = Results(self.journal, self.objects, self.owners, self.records, self.ends)
        self._lock = threading.Lock()
        self._link: Link | None = None
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
        drive = Drive(self.journal, run_id, self.engines.open_for_caller(), quiet)
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
        shared = self.engines.shared
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
            self.owners.make_free(recorded.record)
        if written is not None:
            self._warn_of_changes(recorded, written, stacklevel=5)
        if is_over:
            return Ended.of(recorded.run)
        for text in usable_environment(recorded.record.creation.environment)[1]:
            warnings.warn(text, stacklevel=4)
        drive = Drive(self.journal, run_id, self.engines.open_for_caller(), quiet)
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
            self.owners.make_free(recorded.record)
            self._take_over(drive, recorded, follow=follow)

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
        listeners = [
            self.ends.or_else(planned[at].run_id, None, planned[at].listener) for at in wanted
        ]
        for at, answer in zip(wanted, link.submit(runs, listeners), strict=True):
            answers[at] = answer
        return answers

    def _start_here(
        self, planned: Planned, now: float, environment: Environment
    ) -> WeftlineError | None:
        graph = planned.workflow.graph
        engine = self.engines.open().engine
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
        answer = Answer(self.ends.or_else(planned.run_id, None, planned.listener))
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
        return self.engines.drives(run_id) is False

    def _rejoin(self, run_id: str) -> WeftlineError | None:
        """Let such a run go on here; a controller does when this process ends."""
        answer = Answer(lambda news: None)
        engine = self.engines.open().engine
        engine.rejoin(run_id, answer.listen, detached=True, on_accepted=answer.accept)
        return answer.wait()

    def _is_left(self, run_id: str) -> bool:
        """Whether it is a run that controllers drive, and none does."""
        record = self.journal.find_run(run_id)
        if record is None or not record.creation.detached:
            return False
        return self.owners.status_of(record) is RunStatus.RESUMABLE

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
        engine = self.engines.open().engine
        try:
            recorded = read_run(self.journal, run_id, to_drive=True)
            run = recorded.run
            if run.finished is RunStatus.SUCCESSFUL or (run.is_at_rest and is_resume):
                return None
            if engine.drives(run_id):
                raise WorkflowRunningError(f"run {run_id!r} is running in this process", run_id)
            self.owners.make_free(recorded.record)
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

    # -- news for runs --------------------------------------------------------------------------

    def cancel(self, run_id: str, timeout_s: float = PATIENCE_CANCEL_S) -> None:
        """End the run: running steps are killed, no further one starts. Returns when it has ended,
        at most after `timeout_s`; one that has its result is left as it is.

        Raises: WorkflowNotFoundError.
        """
        record = self.records.get_run(run_id)
        if record.summary.status is RunStatus.CANCELED or self.records.is_over(record):
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
        return not self.records.is_over(record)

    def pause(self, run_id: str) -> None:
        """Start no further step of the run.

        Raises: WorkflowNotFoundError, WorkflowNotResumableError when it has ended.
        """
        record = self.records.get_run(run_id)
        status = record.summary.status
        if status in (RunStatus.FAILED, RunStatus.CANCELED) or self.records.is_over(record):
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
        record = self.records.get_run(run_id)
        status = record.summary.status
        if status is RunStatus.CANCELED or self.records.is_over(record):
            if key is not None and self.journal.knows_key(run_id, key):
                return False
            text = f"run {run_id!r} is {status}: nothing in it waits for a signal any more"
            raise WorkflowNotResumableError(text, run_id)
        body = msgspec.json.encode(Signal(name, msgspec.Raw(value), objects))
        return self.post(run_id, InboxKind.SIGNAL, body, key)

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
        record = self.records.get_run(run_id)
        if record.summary.status is RunStatus.CANCELED:
            raise WorkflowNotResumableError(
                f"actor {run_id!r} was canceled; resume it to call it again", run_id
            )
        body = msgspec.json.encode(ActorCall(steps, call, objects))
        if record.summary.status is RunStatus.FAILED:
            self.post(run_id, InboxKind.CALL, body)
            self.ends.watch(run_id, call, listener)
            return
        # Watched first, so that an actor that is quick does not lay the call down unseen.
        self.ends.expect(record, call, listener)
        self.post(run_id, InboxKind.CALL, body)

    def wake_owner(self, run_id: str) -> None:
        """See that what was posted for the run is taken in, if it has no living owner: by a
        controller where the run is one that controllers drive, and where it goes on by itself;
        else as far as that can be done from here.

        Raises: WorkflowNotFoundError, ControllerUnavailable.
        """
        record = self.records.get_run(run_id)
        if self.owners.is_owned(record):
            return  # its bell has rung
        if record.creation.detached and read_run(self.journal, run_id, to_drive=True).run.is_open:
            problem = self._adopt([run_id], is_resume=False)[0]
            if problem is None:
                return
            record = self.records.get_run(run_id)
            if self.owners.is_owned(record):
                return  # somebody was faster
        take_in(self.journal, run_id)

    # -- the controller and the end -------------------------------------------------------------

    def find_controller(self) -> Controller | None:
        """The controller of the home; None for one in memory, which has none."""
        return self.link

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
                    declared=Declared() if self._is_step else declared_by(self.settings),
                    variables=variables_of_controller(self.settings),
                )
            return self._link

    def close(self) -> None:
        """Let every run go and end all children; the App is not used afterwards."""
        if not self.is_ours:
            return
        if self._link is not None:
            self._link.close()
        self.ends.close()
        self.engines.close()
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
