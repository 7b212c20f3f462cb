"""Records events: the one way in which anything happens in a run that is driven here."""

from weftline.core.events import Event, WaitBegun
from weftline.core.graph import Graph
from weftline.core.run import Run
from weftline.core.state import StepStatus
from weftline.engine.active import ActiveRun
from weftline.engine.dispatcher import Dispatcher
from weftline.engine.timers import Timers
from weftline.engine.writer import Writer
from weftline.ports.clock import Clock


class Recorder:
    """Applies events with all that follows from them, and has them written."""

    def __init__(
        self, clock: Clock, writer: Writer, dispatcher: Dispatcher, timers: Timers
    ) -> None:
        self._clock, self._writer = clock, writer
        self._dispatcher, self._timers = dispatcher, timers

    def record(self, active: ActiveRun, event: Event, graph: Graph | None = None) -> None:
        """Apply the event and what follows from it, and note them as to be written.

        Raises: ImpossibleEvent when it does not follow from those before it.
        """
        now = self._clock.time()
        run = active.run
        generation = run.generation
        run.apply(event, now, graph)
        active.append(event, now)
        while follows := run.settle() or (run.beginning and self._next_wait(run, now)):
            run.apply(follows, now)
            active.append(follows, now)
            if type(follows) is WaitBegun:
                self._timers.set(active)
        if run.generation != generation:
            active.list_handed_back()
        if run.dropped:
            self._dispatcher.drop(active)
        if active.kept:
            ended = [number for number in active.kept if run.steps[number].is_ended]
            self._dispatcher.let_kept_go(active, ended)
        self._writer.unwritten += 1
        if not active.is_queued:
            self._writer.note(active)

    def _next_wait(self, run: Run, now: float) -> Event | None:
        """The beginning of a wait that is READY; it is recorded with what made it so."""
        while run.beginning and run.may_start:
            number = run.beginning.popleft()
            if run.steps[number].status is StepStatus.READY:
                return run.begin_wait(number, now)
        return None
