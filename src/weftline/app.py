"""Joins everything: one home, opened by this process, with its journal, objects and engine."""

import atexit
import contextlib
import os
import threading
import time
from typing import Any

import msgspec

from weftline.adapters.journal.memory import MemoryJournal
from weftline.adapters.journal.sqlite import SqliteJournal
from weftline.adapters.objects.local import LocalObjectStore
from weftline.adapters.objects.memory import MemoryObjectStore
from weftline.adapters.objects.sharing import note_home
from weftline.config import Settings, load_settings
from weftline.control import Declared
from weftline.core.events import RunStatus
from weftline.core.values import Packed
from weftline.driving.attached import Attached
from weftline.driving.controllers import Controller, Listener
from weftline.driving.detached import Detached
from weftline.driving.ends import Ends
from weftline.driving.engines import Engines
from weftline.driving.executors import Executors
from weftline.driving.limits import Limits
from weftline.driving.owners import Owners
from weftline.driving.records import Records
from weftline.driving.results import Results
from weftline.driving.variables import declared_by, variables_of_controller
from weftline.engine.lookout import MAX_LOOK_S, MIN_LOOK_S
from weftline.engine.outside import take_in
from weftline.engine.recovery import read_run
from weftline.errors import (
    WorkflowNotFoundError,
    WorkflowNotResumableError,
)
from weftline.link.link import Link
from weftline.ports import ActorCall, InboxKind, ObjectStore, Signal
from weftline.wire import MARKER

PATIENCE_CANCEL_S = 10.0
"""How long `cancel` waits for the run's end."""


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
        self.records = Records(self.journal, self.objects, self.engines, self.owners)
        self.ends = Ends(self.journal, self.engines, self.owners, self.find_controller)
        self.results = Results(self.journal, self.objects, self.owners, self.records, self.ends)
        self.attached = Attached(self.journal, self.engines, self.owners, self.records)
        self.detached = Detached(
            self.journal, self.engines, self.owners, self.records, self.ends, self.find_controller
        )
        self._lock = threading.Lock()
        self._link: Link | None = None
        self._pid = os.getpid()

    @property
    def is_ours(self) -> bool:
        """Whether this process opened it; a forked one opens its own."""
        return self._pid == os.getpid()

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
            problem = self.detached.carry_on(run_id)
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
