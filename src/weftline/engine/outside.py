"""Applies news to a run that nobody drives, and lets go of it in the same commit."""

import logging
import time

from msgspec import DecodeError
from msgspec.structs import replace

from weftline.core.events import RunStatus
from weftline.engine.active import ActiveRun
from weftline.engine.inbox import news_for
from weftline.engine.recovery import read_run
from weftline.errors import ImpossibleEvent, WorkflowRunningError
from weftline.ports.clock import Clock
from weftline.ports.journal import Batch, InboxEntry, InboxKind, RunChange, WholeJournal

_KINDS = (InboxKind.CANCEL, InboxKind.PAUSE, InboxKind.CONTINUE)
"""What counts without anybody going on with the run; other news wait for who does."""

_TRIES = 50

log = logging.getLogger("weftline.engine")


def take_in(journal: WholeJournal, run_id: str, clock: Clock = time) -> None:
    """Record what the inbox of a run that nobody drives says about cancelling and pausing.

    Does nothing when there is nothing of that, or an engine owns the run by now: that one does it.

    Raises: WorkflowNotFoundError, StorageError, WorkflowRunningError when others keep changing
    the run.
    """
    for _ in range(_TRIES):
        recorded = read_run(journal, run_id, to_drive=True)
        record = recorded.record
        entries = [each for each in journal.list_inbox(run_id) if each.kind in _KINDS]
        if not entries or (record.engine is not None and journal.is_alive(record.engine)):
            return
        active = ActiveRun(run_id, recorded.run, record.creation, record.epoch, record.last_seq)
        active.base_seq = record.summary.base_seq
        for entry in entries:
            _apply(active, entry, clock)
        summary = active.summary()
        if summary.status in (RunStatus.RUNNING, RunStatus.PAUSED):
            summary = replace(summary, status=RunStatus.RESUMABLE)
        change = RunChange(
            run_id=run_id,
            epoch=record.epoch,
            entries=active.entries,
            summary=summary,
            takes=True,
            engine=None,
            taken=[each.number for each in entries],
        )
        if not journal.commit(Batch(changes=[change])):
            return
    text = f"run {run_id!r} is being changed by others all the time; try again"
    raise WorkflowRunningError(text, run_id)


def _apply(active: ActiveRun, entry: InboxEntry, clock: Clock) -> None:
    run, now = active.run, clock.time()
    try:
        event = news_for(run, entry).event
        while event is not None:
            run.apply(event, now)
            active.append(event, now)
            event = run.settle()
    except (DecodeError, ValueError) as error:
        log.error("run %s: news that cannot be read: %s", active.run_id, error)
    except ImpossibleEvent as error:
        log.warning("run %s: news that came too late: %s", active.run_id, error)
