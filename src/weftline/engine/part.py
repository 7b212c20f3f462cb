"""One run's part of a commit: what it writes, and what follows once that is durable."""

from collections import deque

from weftline.engine.active import ActiveRun, Ended
from weftline.ports.journal import RunChange


class Part:
    """Everything that was unwritten of a run when a commit began."""

    __slots__ = (
        "active",
        "change",
        "ending",
        "events",
        "generation",
        "graphs",
        "objects",
        "ready",
        "step_endings",
    )

    def __init__(self, active: ActiveRun, change: RunChange) -> None:
        self.active, self.change = active, change
        self.graphs, self.objects, self.events = active.graphs, active.objects, active.events
        self.ready, self.generation = active.run.ready, active.run.generation
        run = active.run
        self.ending = None if run.is_open and not run.is_at_rest else Ended.of(run)
        self.step_endings: list[tuple[str, Ended]] = []
        for name in active.step_listeners:
            step = run.find_step(name)
            ended = None if step is None else Ended.of_step(run, step.number)
            if ended is not None:
                self.step_endings.append((name, ended))

    @classmethod
    def of(cls, active: ActiveRun, engine: str) -> "Part":
        """Take everything unwritten out of the run; facts that come later gather for the next."""
        change = RunChange(
            run_id=active.run_id,
            epoch=active.epoch,
            entries=active.entries,
            summary=active.summary(),
            creation=active.creation if active.is_new else None,
            takes=active.takes,
            engine=engine,
            detached=active.detaches,
            taken=active.taken,
        )
        part = cls(active, change)
        active.entries, active.graphs, active.objects, active.events = [], [], [], []
        active.taken = []
        active.run.ready = deque()
        active.is_queued = active.is_new = active.takes = active.detaches = False
        return part

    def take_back(self) -> None:
        """The commit did not take place: everything is unwritten again."""
        active = self.active
        active.is_new |= self.change.creation is not None
        active.takes |= self.change.takes
        active.detaches |= self.change.detached
        active.taken = [*self.change.taken, *active.taken]
        active.entries = [*self.change.entries, *active.entries]
        active.graphs = self.graphs + active.graphs
        active.objects = self.objects + active.objects
        active.events = self.events + active.events
        if self.generation == active.run.generation:
            active.run.ready.extendleft(reversed(self.ready))
