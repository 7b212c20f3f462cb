"""Runs that are driven from here: for as long as this process lives."""

import time
import warnings

from weftline.core.events import RunStatus
from weftline.core.workflow import Workflow
from weftline.driving.drive import Drive
from weftline.driving.engines import Engines
from weftline.driving.environment import environment_here, usable_environment
from weftline.driving.owners import Owners
from weftline.driving.planned import Planned, ignore, submission_of, warn_of_changes
from weftline.driving.records import Records
from weftline.engine.active import Ended
from weftline.engine.recovery import Recorded
from weftline.errors import WeftlineError, WorkflowRunningError
from weftline.ports.journal import WholeJournal


class Attached:
    """Starts runs, and lets recorded ones go on, in an engine of this process."""

    def __init__(
        self, journal: WholeJournal, engines: Engines, owners: Owners, records: Records
    ) -> None:
        self._journal, self._engines = journal, engines
        self._owners, self._records = owners, records

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
        planned = Planned(run_id, workflow, ignore, objects, warned)
        submission = submission_of(planned, time.time(), environment_here())
        drive = Drive(self._journal, run_id, self._engines.open_for_caller(), quiet)
        _check(drive, drive.engine.refusal_of(workflow.graph))
        drive.engine.submit(submission, drive.listen, forward=not quiet, wants_events=follow)
        return drive

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
        shared = self._engines.shared
        if shared is not None and shared.engine.drives(run_id) is not None:
            if shared.engine.drives(run_id):
                raise WorkflowRunningError(f"run {run_id!r} is running in this process", run_id)
            drive = Drive(self._journal, run_id, shared, quiet)
            drive.again = lambda: self._proceed_again(drive, follow=follow)
            shared.engine.rejoin(run_id, drive.listen, forward=not quiet)
            return drive
        recorded = self._records.read(run_id)
        is_over = recorded.run.finished is RunStatus.SUCCESSFUL
        if not is_over:
            self._owners.make_free(recorded.record)
        if written is not None:
            warn_of_changes(recorded, written, stacklevel=5)
        if is_over:
            return Ended.of(recorded.run)
        for text in usable_environment(recorded.record.creation.environment)[1]:
            warnings.warn(text, stacklevel=4)
        drive = Drive(self._journal, run_id, self._engines.open_for_caller(), quiet)
        left = [step.spec for step in recorded.run.steps if not step.is_ended]
        _check(drive, drive.engine.lacking(left))
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
            lost=self._records.find_lost(recorded.run),
            forward=not drive.is_quiet,
            wants_events=follow,
        )

    def _proceed_again(self, drive: Drive, *, follow: bool) -> None:
        """The run changed while it was taken over: its owner has just recorded what a step of it
        came to, and may have let go of it."""
        recorded = self._records.read(drive.run_id)
        if recorded.run.finished is RunStatus.SUCCESSFUL:
            drive.listen(Ended.of(recorded.run))
        else:
            self._owners.make_free(recorded.record)
            self._take_over(drive, recorded, follow=follow)


def _check(drive: Drive, problem: WeftlineError | None) -> None:
    if problem is not None:
        drive.close()
        raise problem
