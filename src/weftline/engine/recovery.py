"""Reading a run back: its row, and the run that its events fold into.

Starting, resuming and looking at a run all come through here; there is no second way to recover.
"""

from copy import copy
from typing import NamedTuple

from weftline.core.events import ActorRested, Event, GraphExtended, RunSubmitted, decode_event
from weftline.core.graph import Graph, decode_pages
from weftline.core.run import Run
from weftline.core.state import StepState
from weftline.errors import StorageError, WorkflowNotFoundError
from weftline.ports.journal import FROM_BASE, Journal, RunRecord


class Recorded(NamedTuple):
    """A run as the journal has it. `graph` is the one it was submitted with."""

    record: RunRecord
    run: Run
    graph: Graph


def read_run(journal: Journal, run_id: str, *, to_drive: bool = False) -> Recorded:
    """The run as of now; `to_drive` leaves out what an actor has laid down behind it.

    Raises: WorkflowNotFoundError, StorageError.
    """
    reader = RunReader(journal, run_id, to_drive=to_drive)
    reader.refresh()
    return reader.recorded()


class RunReader:
    """Reads a run, and later only what has been added since.

    What an actor has laid down behind it is forgotten on the way, but for the step called `seeks`.
    """

    def __init__(
        self, journal: Journal, run_id: str, *, to_drive: bool = False, seeks: str | None = None
    ) -> None:
        self._journal, self._run_id, self.seeks = journal, run_id, seeks
        self._behind: tuple[Run, StepState] | None = None
        self.run = Run(run_id)
        self.record: RunRecord | None = None
        self.graph: Graph | None = None
        self._last_seq = FROM_BASE if to_drive else 0

    def refresh(self) -> list[tuple[float, Event]]:
        """Fold what is new, and return it. Raises: WorkflowNotFoundError, StorageError."""
        found = self._journal.read(self._run_id, self._last_seq)
        if found is None:
            raise WorkflowNotFoundError(f"No such workflow_id {self._run_id}", self._run_id)
        self.record, entries = found
        news: list[tuple[float, Event]] = []
        for entry in entries:
            event = decode_event(entry.body)
            graph = None
            if isinstance(event, RunSubmitted | GraphExtended):
                steps = decode_pages(self._journal.read_graph(event.graph))
                graph = Graph(steps=steps, output=event.output)
                self.graph = self.graph or graph
            if self.seeks is not None and isinstance(event, ActorRested):
                self._keep_sought()
            self.run.apply(event, entry.at, graph)
            self._last_seq = entry.seq
            news.append((entry.at, event))
        return news

    def find_sought(self) -> tuple[Run, StepState] | None:
        """The step called `seeks` and the run of which it is one; None when there is none (yet)."""
        if self._behind is not None or self.seeks is None:
            return self._behind
        step = self.run.find_step(self.seeks)
        return None if step is None else (self.run, step)

    def _keep_sought(self) -> None:
        found = self.find_sought()
        if found is not None and self._behind is None:
            self._behind = copy(found[0]), found[1]  # the run itself gets other steps

    def recorded(self) -> Recorded:
        """What was read. Raises: StorageError when the run has no first event."""
        if self.record is None or (self.graph is None and not self.run.laid_down):
            raise StorageError(f"the journal of run {self._run_id!r} has no beginning")
        return Recorded(self.record, self.run, self.graph or Graph(steps=[], output=0))
