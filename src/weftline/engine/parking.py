"""Unloads runs in which everything waits, and loads them again when something happens."""

import logging
from collections import deque
from itertools import islice

from msgspec import DecodeError

from weftline.core.run import Run
from weftline.engine.active import ActiveRun
from weftline.engine.dispatcher import Dispatcher
from weftline.engine.recovery import Recorded, read_run
from weftline.engine.runs import Runs
from weftline.engine.timers import Timers
from weftline.engine.writer import Writer
from weftline.errors import ImpossibleEvent, StorageError, WorkflowNotFoundError
from weftline.ports.clock import Clock
from weftline.ports.journal import Journal

PARK_AFTER_S = 1.0
"""A run in which everything waits is unloaded when nothing has happened in it for so long."""

CHECK_S = 5.0
"""How often parked runs are looked after."""

CHECKED_AT_ONCE = 10
"""So many parked runs are looked after each time."""

log = logging.getLogger("weftline.engine")


class Parking:
    """Keeps in memory only those of an engine's runs in which something may happen."""

    def __init__(
        self,
        engine_id: str,
        journal: Journal,
        clock: Clock,
        writer: Writer,
        dispatcher: Dispatcher,
        timers: Timers,
        runs: Runs,
    ) -> None:
        self._engine_id, self._journal, self._clock = engine_id, journal, clock
        self._writer, self._dispatcher = writer, dispatcher
        self._timers, self._runs = timers, runs
        self._quiet: deque[tuple[float, int, ActiveRun]] = deque()  # since when, and at which seq
        self._check_at = 0.0

    # -- unloading ------------------------------------------------------------------------------

    @property
    def next_look(self) -> float | None:
        """When (monotonic seconds) `park` may find a run; None: not before one is named."""
        return self._quiet[0][0] if self._quiet else None

    def look_later(self, active: ActiveRun) -> None:
        """See after a while whether the run can be parked."""
        if not active.is_looked_at:
            active.is_looked_at = True
            at = self._clock.monotonic() + PARK_AFTER_S
            self._quiet.append((at, active.last_seq, active))

    def park(self, now: float) -> None:
        """Unload runs in which everything waits and nothing has happened for a while."""
        while self._quiet and self._quiet[0][0] <= now:
            _, seq, active = self._quiet.popleft()
            active.is_looked_at = False
            if not active.is_loaded or not self._is_quiet(active):
                continue  # it is looked at again after its next commit
            if active.last_seq != seq:
                self.look_later(active)
                continue
            self._dispatcher.let_kept_go(active, active.kept)
            self._runs.park(active)

    def _is_quiet(self, active: ActiveRun) -> bool:
        """Whether nothing of the run is to be done before there is news."""
        run = active.run
        if not run.is_open or self._writer.has_unwritten(active):
            return False
        if not self._dispatcher.only_listens(active):
            return False
        if not run.may_start:
            return True  # what is held back is listed anew when it may begin
        is_listed = active.starved or run.ready or run.beginning
        return not (is_listed or any(active.is_to_begin(step) for step in run.steps))

    # -- loading --------------------------------------------------------------------------------

    def wake(self, active: ActiveRun) -> bool:
        """Load the run if it is parked; False when that cannot be done now. It may turn out that
        it is not driven here any more."""
        if active.is_loaded or self._runs.parked.get(active.run_id) is not active:
            return True
        try:
            recorded = read_run(self._journal, active.run_id, to_drive=True)
        except StorageError as error:
            log.warning("run %s cannot be read, trying again: %s", active.run_id, error)
            return False
        except (ImpossibleEvent, DecodeError) as error:
            self._runs.give_up(active, error)
            return True
        except WorkflowNotFoundError:
            recorded = None
        if recorded is None or recorded.record.epoch != active.epoch:
            self._runs.lose(active)
            return True
        self._runs.unpark(active, _to_drive(recorded))
        self._timers.set(active)
        self.look_later(active)
        return True

    def load(self, run_id: str) -> ActiveRun | None:
        """An own run, loaded if it was not; None when it is not driven here, nor could be.

        Raises: StorageError.
        """
        active = self._runs.find(run_id)
        if active is not None and not self.wake(active):
            raise StorageError(f"run {run_id!r} cannot be read")
        active = self._runs.find(run_id)
        if active is not None:
            return active
        try:
            recorded = read_run(self._journal, run_id, to_drive=True)
        except WorkflowNotFoundError:
            return None
        except (ImpossibleEvent, DecodeError) as error:
            log.error("run %s contradicts itself: %s", run_id, error)
            return None
        return self._load_ended(recorded)

    def _load_ended(self, recorded: Recorded) -> ActiveRun | None:
        """Drive a run that ended here, and that this engine still owns."""
        record, run = recorded.record, recorded.run
        # An open one is not driven here: it was let go of, and that is not written yet.
        is_own = record.engine == self._engine_id and not self._writer.is_released(record.run_id)
        if not is_own or run.is_open:
            return None
        run = _to_drive(recorded)
        active = ActiveRun(record.run_id, run, record.creation, record.epoch, record.last_seq)
        active.stored, active.is_owned = record.summary, True
        active.group, active.base_seq = run.group, record.summary.base_seq
        active.told_generation = run.generation
        self._runs.add(active)
        return active

    # -- looking after them ---------------------------------------------------------------------

    def check(self, now: float) -> None:
        """Find out which parked runs others own by now: nothing else tells an engine that was
        stopped for so long that it was taken for dead. A few at a time, since they are seldom."""
        if not self._runs.parked or now < self._check_at:
            return
        self._check_at = now + CHECK_S
        for run_id in list(islice(self._runs.parked, CHECKED_AT_ONCE)):
            # Behind the others.
            active = self._runs.parked[run_id] = self._runs.parked.pop(run_id)
            try:
                found = self._journal.read(run_id, active.last_seq)
            except StorageError:
                return
            if found is None or found[0].epoch != active.epoch:
                self._runs.lose(active)


def _to_drive(recorded: Recorded) -> Run:
    """The run as it is driven on: what was to begin has begun, and what is held back is listed
    anew when it may."""
    run = recorded.run
    run.ready.clear()
    run.beginning.clear()
    return run
