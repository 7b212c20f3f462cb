"""What is known of the attempts of a lane: how long they take, and who could have more of them."""

from weftline.core.environment import Environment
from weftline.core.policy import Placement
from weftline.ports.executor import Lane
from weftline.workers.pool import Child, Group
from weftline.workers.slots import Slots

MAX_AHEAD = 64
AHEAD_S = 0.004
"""How much work a child is sent at once, by the function's average."""

_MANY = 10_000


class Pace:
    """How long a function takes, all in all: a moving average that forgets slowness sooner."""

    __slots__ = ("average_s",)

    def __init__(self) -> None:
        self.average_s = 0.0

    def learn(self, took_s: float) -> None:
        average = self.average_s
        if not average:
            self.average_s = took_s
        else:
            self.average_s += (took_s - average) * (0.5 if took_s < average else 0.25)

    def learn_that_long(self) -> None:
        """It takes too long for anything to be sent behind it."""
        self.average_s = max(self.average_s, 2 * AHEAD_S)

    def depth(self) -> int:
        """How many attempts a child may have at once; one while nothing is known."""
        average = self.average_s
        if average * MAX_AHEAD <= AHEAD_S:
            return MAX_AHEAD if average else 1
        return max(1, int(AHEAD_S / average))


class Kind:
    """What a lane stands for: its group, and its function's pace."""

    __slots__ = ("group", "pace", "refusals")

    def __init__(self, group: Group, pace: Pace) -> None:
        self.group, self.pace = group, pace
        self.refusals = 0
        """How often there was no room since it was last given some."""

    def depth(self) -> int:
        """How many attempts a child may have at once; with a limit of memory always one, so that
        it is clear whose the memory is."""
        return 1 if self.group.memory else self.pace.depth()

    def takers(self, depth: int) -> list[Child]:
        """Busy children that would take more of these attempts behind what they have."""
        if depth == 1:
            return []
        half = depth >> 1
        return [
            child
            for child in self.group.busy
            if child.is_watched and len(child.outstanding) <= half and not child.is_closed
        ]


class Lanes:
    """Finds the kind of a lane, and the pace of a function, in less than a microsecond."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._kinds: dict[Lane, Kind] = {}
        self._groups: dict[tuple[Environment, Placement], Group] = {}
        self._paces: dict[str, Pace] = {}

    def kind_of(self, lane: Lane) -> Kind:
        return self._kinds.get(lane) or self._open(lane)

    def pace_of(self, function: str) -> Pace:
        pace = self._paces.get(function)
        if pace is None:
            pace = self._paces[function] = Pace()
        return pace

    def _open(self, lane: Lane) -> Kind:
        if len(self._kinds) >= _MANY or len(self._paces) >= _MANY:
            self._kinds.clear()
            self._groups.clear()
            self._paces.clear()
        key = lane.environment, lane.placement
        group = self._groups.get(key)
        if group is None:
            ask = self._slots.ask(lane.placement)
            group = self._groups[key] = Group(lane.environment, lane.placement, ask)
        kind = self._kinds[lane] = Kind(group, self.pace_of(lane.function))
        return kind
