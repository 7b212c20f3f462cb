"""When runs have to be looked at again because time has passed."""

from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import count

from weftline.engine.active import ActiveRun


class Timers:
    """The earliest time at which something is due in each run (seconds since 1970)."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, ActiveRun]] = []
        self._ticket = count()  # breaks ties, so that runs are never compared

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[ActiveRun]:
        return (active for _, _, active in self._heap)

    @property
    def next_due(self) -> float | None:
        """When `pop` may have the next run; None: never."""
        return self._heap[0][0] if self._heap else None

    def set(self, active: ActiveRun) -> None:
        """Look at the run when its next wait or retry is due."""
        due = active.run.next_due()
        if due is not None and (active.timer is None or due < active.timer):
            self.set_at(active, due)

    def set_at(self, active: ActiveRun, due: float) -> None:
        """Look at the run at this time."""
        active.timer = due
        heappush(self._heap, (due, next(self._ticket), active))

    def pop(self, now: float) -> ActiveRun | None:
        """A run that is to be looked at by now; it may be driven here no more."""
        if not self._heap or self._heap[0][0] > now:
            return None
        due, _, active = heappop(self._heap)
        if active.timer == due:
            active.timer = None
        return active
