"""News for runs, whoever drives them: cancel, pause, signals, and calls of actors."""

import time
from collections.abc import Collection

import msgspec

from weftline.core.events import RunStatus
from weftline.core.values import Packed
from weftline.driving.controllers import Listener
from weftline.driving.detached import Detached
from weftline.driving.ends import Ends
from weftline.driving.records import Records
from weftline.engine.lookout import MAX_LOOK_S, MIN_LOOK_S
from weftline.engine.outside import take_in
from weftline.engine.recovery import read_run
from weftline.errors import WorkflowNotFoundError, WorkflowNotResumableError
from weftline.ports.journal import ActorCall, InboxKind, Posted, Signal, WholeJournal

ENDED = (RunStatus.SUCCESSFUL, RunStatus.CANCELED)
"""How runs stand in which nothing waits for a signal any more, but for actors that rest."""

PATIENCE_CANCEL_S = 10.0
"""How long `cancel` waits for the run's end."""


class Steering:
    """Puts news into the inboxes of runs, and sees that somebody takes it in."""

    def __init__(
        self,
        journal: WholeJournal,
        records: Records,
        ends: Ends,
        detached: Detached,
    ) -> None:
        self._journal, self._records = journal, records
        self._ends, self._detached = ends, detached

    def cancel(self, run_id: str, timeout_s: float = PATIENCE_CANCEL_S) -> None:
        """End the run: running steps are killed, no further one starts. Returns when it has ended,
        at most after `timeout_s`; one that has its result is left as it is.

        Raises: WorkflowNotFoundError.
        """
        record = self._records.get_run(run_id)
        if record.summary.status is RunStatus.CANCELED or self._records.is_over(record):
            return
        self._post(run_id, InboxKind.CANCEL, b"null")
        deadline = time.monotonic() + timeout_s
        pause = MIN_LOOK_S
        while self._may_be_canceled(run_id) and time.monotonic() < deadline:
            seen = self._journal.change_count()
            if not self._may_be_canceled(run_id):
                return
            until = min(deadline, time.monotonic() + MAX_LOOK_S)
            while self._journal.change_count() == seen and time.monotonic() < until:
                time.sleep(pause)

    def _may_be_canceled(self, run_id: str) -> bool:
        record = self._journal.find_run(run_id)
        if record is None or record.summary.status is RunStatus.CANCELED:
            return False
        return not self._records.is_over(record)

    def pause(self, run_id: str) -> None:
        """Start no further step of the run.

        Raises: WorkflowNotFoundError, WorkflowNotResumableError when it has ended.
        """
        record = self._records.get_run(run_id)
        status = record.summary.status
        if status in (RunStatus.FAILED, RunStatus.CANCELED) or self._records.is_over(record):
            text = f"run {run_id!r} is {status}: it has no step left that could be held back"
            raise WorkflowNotResumableError(text, run_id)
        self._post(run_id, InboxKind.PAUSE, b"null")

    def unpause(self, run_id: str) -> None:
        """Start steps of the run again. Raises: WorkflowNotFoundError."""
        self._post(run_id, InboxKind.CONTINUE, b"null")

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
        body = msgspec.json.encode(Signal(name, msgspec.Raw(value), objects))
        # One transaction for nearly all of them; what has ended is looked at more closely.
        posted = self._post(run_id, InboxKind.SIGNAL, body, key, unless=ENDED)
        if posted.status not in ENDED:
            return posted.counts
        record = self._records.get_run(run_id)
        status = record.summary.status
        if status is RunStatus.CANCELED or self._records.is_over(record):
            if key is not None and self._journal.knows_key(run_id, key):
                return False
            text = f"run {run_id!r} is {status}: nothing in it waits for a signal any more"
            raise WorkflowNotResumableError(text, run_id)
        return self._post(run_id, InboxKind.SIGNAL, body, key).counts

    def _post(
        self,
        run_id: str,
        kind: InboxKind,
        body: bytes,
        key: str | None = None,
        *,
        unless: Collection[RunStatus] = (),
    ) -> Posted:
        """Put news into the run's inbox, unless its status is one of `unless`, and see that
        somebody takes it in.

        Raises: WorkflowNotFoundError, ControllerUnavailable (the news is kept all the same).
        """
        posted = self._journal.post(run_id, kind, body, key, unless=unless)
        if posted is None:
            raise WorkflowNotFoundError(f"No such workflow_id {run_id}", run_id)
        if posted.status not in unless and not self._is_alive(posted.engine):
            self._wake_owner(run_id)
        return posted

    def call_actor(
        self, run_id: str, steps: bytes, call: str, objects: tuple[str, ...], listener: Listener
    ) -> None:
        """Record a call of an actor, and tell the listener how it ends.

        Raises: WorkflowNotFoundError, WorkflowNotResumableError when the actor was canceled.
        """
        record = self._records.get_run(run_id)
        if record.summary.status is RunStatus.CANCELED:
            raise WorkflowNotResumableError(
                f"actor {run_id!r} was canceled; resume it to call it again", run_id
            )
        body = msgspec.json.encode(ActorCall(steps, call, objects))
        if record.summary.status is RunStatus.FAILED:
            self._post(run_id, InboxKind.CALL, body)
            self._ends.watch(run_id, call, listener)
            return
        # Watched first, so that an actor that is quick does not lay the call down unseen.
        self._ends.expect(record, call, listener)
        self._post(run_id, InboxKind.CALL, body)

    def _wake_owner(self, run_id: str) -> None:
        """See that what was posted for a run without a living owner is taken in: by a
        controller where the run is one that controllers drive, and where it goes on by itself;
        else as far as that can be done from here.

        Raises: WorkflowNotFoundError, ControllerUnavailable.
        """
        record = self._records.get_run(run_id)
        if record.creation.detached and read_run(self._journal, run_id, to_drive=True).run.is_open:
            problem = self._detached.carry_on(run_id)
            if problem is None:
                return
            if self._is_alive(self._records.get_run(run_id).engine):
                return  # somebody was faster
        take_in(self._journal, run_id)

    def _is_alive(self, engine: str | None) -> bool:
        """Whether it is an engine that lives, whose bell has rung."""
        return engine is not None and self._journal.is_alive(engine)
