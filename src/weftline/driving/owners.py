"""Who drives a run: this process, another one, or nobody."""

from pathlib import Path

from weftline.core.events import RunStatus
from weftline.driving.engines import Engines
from weftline.engine.recovery import read_run
from weftline.errors import WorkflowRunningError
from weftline.ports.journal import RunRecord, WholeJournal
from weftline.workers.orphans import end_orphans

OPEN = (RunStatus.RUNNING, RunStatus.PAUSED, RunStatus.PENDING)
"""How runs stand that go on, if somebody drives them."""


class Owners:
    """Tells who drives a run, and sees that nobody does any more before another engine may."""

    def __init__(self, home: Path | None, journal: WholeJournal, engines: Engines) -> None:
        self._home, self._journal, self._engines = home, journal, engines
        self._without_orphans: set[str] = set()  # dead engines of which nothing is left

    def status_of(self, record: RunRecord) -> RunStatus:
        """The run's status now: an open run that nobody drives is RESUMABLE."""
        while True:
            status = record.summary.status
            if status not in OPEN:
                return status
            if record.engine is not None and self._is_driven(record.engine, record.run_id):
                return status
            # Its engine may have recorded its end, and let go of it, since the record was read.
            now = self._journal.find_run(record.run_id)
            if now is None or (now.epoch, now.last_seq) == (record.epoch, record.last_seq):
                return RunStatus.RESUMABLE
            record = now

    def _is_driven(self, engine: str, run_id: str) -> bool:
        if self._engines.is_shared(engine):
            return self._engines.drives(run_id) is not None
        return self._journal.is_alive(engine)

    def is_elsewhere(self, record: RunRecord) -> bool:
        """Whether it is a run that controllers drive, or will, and that this process does not."""
        if not record.creation.detached or self._engines.is_shared(record.engine):
            return False
        status = record.summary.status
        if status is RunStatus.RESUMABLE:  # let go of, or held: its journal tells which
            return read_run(self._journal, record.run_id, to_drive=True).run.held is None
        return status in OPEN

    def make_free(self, record: RunRecord) -> None:
        """See that nobody drives the run any more, and end what a dead engine left behind.

        Raises: WorkflowRunningError.
        """
        owner = record.engine
        if owner is None or self._engines.is_shared(owner):
            return
        if self._journal.is_alive(owner):
            # The owner of a failed run may still be finishing steps of it; it may be taken.
            if record.summary.status in OPEN:
                raise WorkflowRunningError(
                    f"run {record.run_id!r} is running in another process", record.run_id
                )
        elif self._home is not None and owner not in self._without_orphans:
            end_orphans(self._home, owner)
            self._without_orphans.add(owner)
