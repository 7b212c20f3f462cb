"""Runs as they are recorded: looks at them, and forgets them."""

from weftline.core.events import RunStatus, RunSubmitted, decode_event
from weftline.core.graph import Graph, decode_pages
from weftline.core.run import Run
from weftline.core.state import StepState
from weftline.core.values import Packed, objects_of
from weftline.driving.engines import Engines
from weftline.driving.owners import OPEN, Owners
from weftline.engine.recovery import Recorded, RunReader, read_run
from weftline.errors import WorkflowNotFoundError, WorkflowRunningError
from weftline.ports.journal import RunRecord, WholeJournal
from weftline.ports.objects import ObjectStore


class Records:
    """The runs of a home, whoever drives them. Nothing here lets one go on."""

    def __init__(
        self, journal: WholeJournal, objects: ObjectStore, engines: Engines, owners: Owners
    ) -> None:
        self._journal, self._objects = journal, objects
        self._engines, self._owners = engines, owners

    def get_run(self, run_id: str) -> RunRecord:
        """The run's row. Raises: WorkflowNotFoundError."""
        record = self._journal.find_run(run_id)
        if record is None:
            raise WorkflowNotFoundError(f"No such workflow_id {run_id}", run_id)
        return record

    def read(self, run_id: str) -> Recorded:
        """The run, folded from its journal. Raises: WorkflowNotFoundError."""
        return read_run(self._journal, run_id)

    def is_over(self, record: RunRecord) -> bool:
        """Whether the run has its result, and is no actor that only rests."""
        if record.summary.status is not RunStatus.SUCCESSFUL:
            return False
        run = read_run(self._journal, record.run_id, to_drive=True).run
        return run.finished is RunStatus.SUCCESSFUL

    def find_lost(self, run: Run) -> tuple[int, ...]:
        """The steps that must be carried out again, since volatile values are gone that are still
        needed."""
        return run.find_lost(lambda value: all(map(self._objects.exists, objects_of(value))))

    def find_step(self, run_id: str, name: str) -> tuple[Run, StepState] | None:
        """The step of this name, as it stands, and the run of which it is one, also of an actor
        that has laid it down. Raises: WorkflowNotFoundError."""
        reader = RunReader(self._journal, run_id, seeks=name)
        reader.refresh()
        return reader.find_sought()

    def first_graph(self, run_id: str) -> Graph:
        """The graph that the run was submitted with. Raises: WorkflowNotFoundError."""
        entry = self._journal.first_event(run_id)
        event = None if entry is None else decode_event(entry.body)
        if not isinstance(event, RunSubmitted):
            raise WorkflowNotFoundError(f"No such workflow_id {run_id}", run_id)
        pages = self._journal.read_graph(event.graph)
        return Graph(steps=decode_pages(pages), output=event.output)

    def actor_state(self, run_id: str) -> Packed | None:
        """An actor's last state; None before its `__init__` has ended.

        Raises: WorkflowNotFoundError.
        """
        return read_run(self._journal, run_id, to_drive=True).run.state

    def delete(self, run_id: str) -> None:
        """Forget the run. Raises: WorkflowNotFoundError, WorkflowRunningError."""
        record = self.get_run(run_id)
        status = self._owners.status_of(record)
        # Steps of a failed one may still run here, and are recorded when they end.
        is_ours = self._engines.drives(run_id) is not None
        if status in OPEN or (status is RunStatus.FAILED and is_ours):
            raise WorkflowRunningError(
                f"run {run_id!r} is {status}: it cannot be deleted while it is driven", run_id
            )
        if not self._journal.delete_run(run_id, record.epoch):
            raise WorkflowRunningError(f"run {run_id!r} was just taken over or deleted", run_id)
