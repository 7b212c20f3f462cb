"""The runs that an engine drives, and how it stops driving one."""

import logging
from collections.abc import Iterator

from weftline.core.events import RunStatus
from weftline.core.run import Run
from weftline.engine.active import UNLOADED, ActiveRun, Ended, Gone, News
from weftline.engine.dispatcher import Dispatcher
from weftline.engine.turns import Turns
from weftline.engine.writer import Writer
from weftline.errors import WeftlineError, WorkflowError, WorkflowRunningError

log = logging.getLogger("weftline.engine")


class Runs:
    """Each is in memory or parked. Only `drives` and `open_count` may be asked by other threads;
    so a run stays in the one table until it is forgotten, parked or not."""

    def __init__(self, writer: Writer, dispatcher: Dispatcher, turns: Turns) -> None:
        self._writer, self._dispatcher, self._turns = writer, dispatcher, turns
        self._driven: dict[str, ActiveRun] = {}
        self.parked: dict[str, ActiveRun] = {}
        """Those of them that are not in memory."""
        self.has_driven = False
        """Whether there has ever been one."""

    def __iter__(self) -> Iterator[ActiveRun]:
        yield from list(self._driven.values())

    def add(self, active: ActiveRun) -> None:
        """Drive the run from now on."""
        self._driven[active.run_id] = active
        self.has_driven = True

    def park(self, active: ActiveRun) -> None:
        """Keep the run in memory no longer."""
        self.parked[active.run_id] = active
        active.unload()

    def unpark(self, active: ActiveRun, run: Run) -> None:
        """Have the run in memory again."""
        active.run = run
        del self.parked[active.run_id]

    def clear(self) -> None:
        """Drive none any more, whatever becomes of them."""
        self._driven.clear()
        self.parked.clear()

    def find(self, run_id: str) -> ActiveRun | None:
        """The run, parked or not, if it is driven here."""
        return self._driven.get(run_id)

    def drives(self, run_id: str) -> bool | None:
        """Whether the run goes on here; False when only steps of a failed one still run."""
        active = self._driven.get(run_id)
        run = UNLOADED if active is None else active.run
        if run is UNLOADED:  # parked, or forgotten since it was found
            return True if run_id in self._driven else None
        return run.is_open

    @property
    def open_count(self) -> int:
        """How many runs are driven here and have not ended; an actor at rest has."""
        count = 0
        for active in self:
            run = active.run
            if run is UNLOADED:
                count += active.stored.status is not RunStatus.SUCCESSFUL
            else:
                count += run.is_open and not run.is_at_rest
        return count

    def tell(self, news: News) -> None:
        """Tell whoever listens to any of them, as long as it is in memory."""
        for active in self:
            if active.is_loaded:
                active.tell(news)

    # -- ends -----------------------------------------------------------------------------------

    def tell_ending(self, active: ActiveRun, ending: Ended) -> None:
        """Tell that the run has come to its end, for now or for good, which is durable."""
        run = active.run
        active.tell(ending)
        active.listeners.clear()
        if not run.is_open:
            active.told_generation = run.generation
            active.tell_of_unknown()
            self._dispatcher.let_kept_go(active, active.kept)
        if not run.is_open or run.is_at_rest:
            self._turns.give_back(active)
        self.rest(active)

    def rest(self, active: ActiveRun) -> None:
        """Forget a run that does not go on, once nothing of it runs or is to be written."""
        run = active.run
        is_told = active.told_generation == run.generation
        if is_told and not (run.is_open or active.attempts or self._writer.has_unwritten(active)):
            self.forget(active)
            # Who still watches asks for a step that the run does not have.
            active.tell(Gone(WorkflowError(f"run {active.run_id!r} has ended", active.run_id)))

    # -- going away -----------------------------------------------------------------------------

    def forget(self, active: ActiveRun) -> None:
        """Keep nothing of the run, and have nothing done for it any more."""
        if self._driven.get(active.run_id) is active:
            del self._driven[active.run_id]
            self.parked.pop(active.run_id, None)
        self._turns.give_back(active)
        self._dispatcher.forget(active)
        self._writer.forget(active)
        active.unload()

    def lose(
        self, active: ActiveRun, error: WeftlineError | None = None, *, is_outdated: bool = False
    ) -> None:
        """The run is not this engine's: somebody else drives it, where nothing else is said."""
        self.forget(active)
        active.tell(Gone(error or taken_over(active.run_id), is_outdated))

    def give_up(self, active: ActiveRun, error: Exception) -> None:
        """A run whose state contradicts itself harms no other one: stop driving it, and say so."""
        log.error("run %s contradicts itself: %s", active.run_id, error, exc_info=error)
        self.let_go(active.run_id, WorkflowError(f"run {active.run_id!r}: {error}"))

    def let_go(self, run_id: str, error: WeftlineError | None) -> None:
        """Stop driving the run; others may from now on. With an error everybody who listens is
        told, else only who waits for steps."""
        if self._leave(run_id, error):
            self._writer.write_releases()

    def let_all_go(self) -> None:
        """Stop driving any run: the engine is stopping."""
        for active in self:
            text = f"run {active.run_id!r} was let go: the engine is stopping"
            self._leave(active.run_id, WorkflowError(text, active.run_id))
        self._writer.write_releases()

    def _leave(self, run_id: str, error: WeftlineError | None) -> bool:
        """Whether it is to be written that the run has no owner any more."""
        # What became of the last commit decides what there is to be released.
        self._writer.settle()
        is_in_doubt = self._writer.is_in_doubt(run_id)
        active = self.find(run_id)
        if active is None:
            return False
        self.forget(active)
        if error is None:
            active.tell_steps(Gone(WorkflowError(f"run {run_id!r} was let go", run_id)))
        else:
            active.tell(Gone(error))
        if not active.is_owned or is_in_doubt:
            return False
        self._writer.release(active)
        return True


def taken_over(run_id: str) -> WorkflowRunningError:
    """Why this engine does not drive a run any more."""
    return WorkflowRunningError(f"run {run_id!r} was taken over by another process", run_id)
