"""Starts children, and tells of environments in which none can be used."""

from errno import ENOEXEC

from weftline.core.environment import Environment
from weftline.ports.executor import GivenBack, Refused, Report
from weftline.workers.listeners import Listener
from weftline.workers.pool import Child, Pool, Sort
from weftline.workers.timetable import Timetable

EXIT_WITHIN_S = 5.0
DEATHS_IN_A_ROW = 3
"""So many children of an environment may die without a sign of life before it is refused."""

_CANNOT_RUN = (FileNotFoundError, NotADirectoryError, PermissionError)


class Environments:
    """What is known of environments by the children that were started in them."""

    def __init__(self, pool: Pool, timetable: Timetable, reports: list[Report]) -> None:
        self._pool, self._timetable, self._reports = pool, timetable, reports
        self._deaths: dict[Environment, int] = {}

    def begin(self, sort: Sort) -> Child | None:
        """A new child; None when it cannot be started."""
        try:
            child = self._pool.start(sort)
        except OSError as error:
            self._note_failure(sort[0], error)
            return None
        for other in self._pool.children:
            if other.is_ending:  # it may have made way just now, and may not come to its end
                self._timetable.look_within(other, EXIT_WITHIN_S)
        return child

    def begin_listener(self, sort: Sort) -> Listener | None:
        """A new listener; None when it cannot be started."""
        try:
            return self._pool.start_beside(sort, Listener)
        except OSError as error:
            self._note_failure(sort[0], error)
            return None

    def _note_failure(self, environment: Environment, error: OSError) -> None:
        """A child could not be started."""
        reason = f"a child with the interpreter {environment.python} cannot be started: {error}"
        if isinstance(error, _CANNOT_RUN) or error.errno == ENOEXEC:
            self.refuse(environment, reason)
        else:
            self.note_death(environment, reason)

    def note_death(self, environment: Environment, reason: str) -> None:
        """A child ended without a sign of life, or could not begin."""
        deaths = self._deaths[environment] = self._deaths.get(environment, 0) + 1
        if deaths >= DEATHS_IN_A_ROW:
            self.refuse(environment, reason)

    def refuse(self, environment: Environment, reason: str) -> None:
        """Give back what children have that never did anything, and say why."""
        self._deaths.pop(environment, None)
        for child in self._pool.children:
            if child.environment == environment and not child.has_spoken:
                self._reports += [GivenBack(key=key) for key in child.outstanding]
                child.outstanding.clear()
                self._pool.kill(child)
        self._reports.append(Refused(environment=environment, reason=reason))

    def note_life(self, environment: Environment) -> None:
        """A child has carried something out."""
        self._deaths.pop(environment, None)
