"""When children are to be looked at again."""

import math
import time
from heapq import heappop, heappush
from itertools import count

from weftline.workers.pool import Child

NEVER = math.inf


class Timetable:
    """Children by the time of their next look. Each has one; an earlier one takes its place."""

    def __init__(self) -> None:
        self._looks: list[tuple[float, int, Child]] = []
        self._numbers = count()

    @property
    def next_at(self) -> float:
        """When there is something to do; it may have been put off since."""
        return self._looks[0][0] if self._looks else NEVER

    def look_within(self, child: Child, delay_s: float) -> None:
        """See to it that the child is looked at after `delay_s` at the latest."""
        at = time.monotonic() + delay_s
        if at < child.check_at:
            child.check_at = at
            heappush(self._looks, (at, next(self._numbers), child))

    def find_due(self, now: float) -> Child | None:
        """One that is to be looked at now; it is not on the table any more."""
        while self._looks and self._looks[0][0] <= now:
            at, _, child = heappop(self._looks)
            if at == child.check_at:
                child.check_at = NEVER
                return child
        return None
