"""Gives attempts to children: how many, to which, and who has to make way.

Attempts of functions known to be short are sent ahead, many in a frame, since one at a time costs a
turn of the engine for each. A child gives back what would have to wait behind a long one.
"""

import time
from collections.abc import Callable, Iterable

from weftline.core.values import Error
from weftline.ports.executor import Attempt, Failed, GivenBack, Lane, Report
from weftline.wire import MAX_FRAME_BYTES, Work, frame
from weftline.workers.environments import EXIT_WITHIN_S, Environments
from weftline.workers.lanes import Kind, Lanes
from weftline.workers.memory import Sessions
from weftline.workers.outcomes import call_of
from weftline.workers.pool import SURPLUS_AFTER_S, Child, Group, Pool, Sort
from weftline.workers.slots import Slots
from weftline.workers.timetable import NEVER, Timetable

REFUSALS_IN_A_ROW = 3
"""So often a kind of attempts may find no room before others make way for it."""

ASK_AGAIN_S = 0.1
"""How often GPUs and resources are looked for that another process may have."""

STARTED_AFTER_S = 0.1
"""So long an attempt may take without anybody looking at it."""
MEMORY_LOOK_S = 0.05
"""How often it is looked how much memory an attempt has that may not have any amount."""


class Dispatch:
    """Occupies children with attempts. `wake` has the engine ask for room again."""

    def __init__(
        self,
        slots: Slots,
        pool: Pool,
        lanes: Lanes,
        environments: Environments,
        sessions: Sessions,
        timetable: Timetable,
        reports: list[Report],
        wake: Callable[[], None],
    ) -> None:
        self._slots, self._pool, self._lanes = slots, pool, lanes
        self._environments, self._sessions = environments, sessions
        self._timetable, self._reports, self._wake = timetable, reports, wake
        self._keepers: dict[int, Child] = {}  # by the attempts whose next step they wait for
        self._turn = 0
        self._hungry: Kind | None = None
        self._hungry_turn = 0
        self.ask_again_at = NEVER
        """When there may be room that nobody tells of."""

    def begin_turn(self) -> None:
        """The engine has asked for room, as often as it wanted to."""
        self._turn += 1

    def room(self, lane: Lane) -> int:
        """How many attempts of the lane are welcome."""
        kind = self._lanes.kind_of(lane)
        depth, free = kind.depth(), self._free(kind.group)
        total = free * depth
        if self._must_make_way(kind):
            assert self._hungry is not None
            if free and self._free(self._hungry.group):
                self._wake()  # ask again, also if the other one does not
                total = 0
        else:
            for child in kind.takers(depth):
                total += depth - len(child.outstanding)
        if not total:
            self._note_refusal(kind)
        return total

    def start(self, lane: Lane, attempts: list[Attempt]) -> None:
        """Give them to children, or back."""
        if self._keepers:
            attempts = [each for each in attempts if not self._start_beside(lane, each)]
            if not attempts:
                return
        kind = self._lanes.kind_of(lane)
        depth = kind.depth()
        reported = len(self._reports)
        takers = [] if self._must_make_way(kind) else kind.takers(depth)
        takers.sort(key=lambda child: -len(child.outstanding))
        takers += self._occupy(kind.group, self._wanted(kind.group, depth, len(attempts), takers))
        kind.refusals = 0
        if self._hungry is kind:
            self._hungry = None
        # Level them: the ones that have most come first and get least.
        at, held, takers_left = 0, sum(len(each.outstanding) for each in takers), len(takers)
        for child in takers:
            has = len(child.outstanding)
            level = min(depth, -(-(len(attempts) - at + held) // takers_left))
            if level > has:
                self._send(child, attempts[at : at + level - has], kind.group.memory)
                at += level - has
            held -= has
            takers_left -= 1
        # What could not be started is told before why, if the environment was refused.
        self._reports[reported:reported] = [GivenBack(key=each.key) for each in attempts[at:]]

    def _start_beside(self, lane: Lane, attempt: Attempt) -> bool:
        """Send it to the child that was kept for it; False when there is none (any more)."""
        child = None if attempt.beside is None else self._keepers.pop(attempt.beside, None)
        if child is None or attempt.beside is None:
            return False
        child.kept.discard(attempt.beside)
        self._send(child, [attempt], lane.placement.memory)
        return True

    def _free(self, group: Group) -> int:
        """How many more children could be given attempts of this group."""
        found = self._slots.count(group.ask)
        return found and min(found, self._pool.room)

    def _note_refusal(self, kind: Kind) -> None:
        kind.refusals += 1
        if not self._slots.count_beside_cpus(kind.group.ask):
            # Another process may have it, and nobody will tell when it gives it back.
            self.ask_again_at = min(self.ask_again_at, time.monotonic() + ASK_AGAIN_S)
        elif kind.refusals >= REFUSALS_IN_A_ROW and self._hungry in (None, kind):
            self._hungry, self._hungry_turn = kind, self._turn

    def _must_make_way(self, kind: Kind) -> bool:
        """Whether attempts of another kind have waited for a CPU for long. Then no child is kept
        busy by refilling it, and none that those could have goes to this kind."""
        if self._hungry is not None and self._hungry_turn < self._turn - 1:  # it asks no more
            self._hungry = None
        return self._hungry is not None and self._hungry is not kind

    def _wanted(
        self, group: Group, depth: int, attempts: int, takers: list[Child]
    ) -> tuple[int, int]:
        """How many idle children, and how many new ones, are to share these attempts."""
        free = self._free(group)
        sort = group.environment, group.variables, ()
        pool = self._pool
        idle = pool.count_idle_on_gpus(sort) if group.ask.gpus else pool.count_idle(sort)
        warm = min(free, attempts, idle)
        # A new one costs more than a few short attempts do.
        fresh = max(0, min(free - warm, -(-attempts // depth) - len(takers) - warm))
        return warm, fresh

    def _occupy(self, group: Group, wanted: tuple[int, int]) -> list[Child]:
        """Children for attempts of this group; fewer than wanted when some cannot be started."""
        found: list[Child] = []
        for _ in range(sum(wanted)):
            grant = self._slots.take(group.ask)
            if grant is None:
                break
            sort = group.environment, group.variables, grant.devices
            child = self._find_idle(sort, group.memory) or self._environments.begin(sort)
            if child is None:
                self._slots.release(grant)
                break
            self._pool.remove_idle(child)
            child.grant, child.group = grant, group
            group.busy.append(child)
            found.append(child)
        return found

    def _find_idle(self, sort: Sort, memory: int) -> Child | None:
        """An idle child; where memory is limited one that does not have half of it already."""
        while (child := self._pool.find_idle(sort)) is not None:
            if not memory or sum(self._sessions.resident(child.process.pid).values()) <= memory / 2:
                break
            self._pool.retire(child)
            self._timetable.look_within(child, EXIT_WITHIN_S)
        return child

    def _send(self, child: Child, attempts: list[Attempt], memory: int = 0) -> None:
        if child.outstanding or len(attempts) > 1:
            child.is_watched = True
        for attempt in attempts:
            child.outstanding[attempt.key] = attempt
            if memory:
                child.limits[attempt.key] = memory
        self.send_frame(child, attempts)
        look_s = first_look_s(attempts)
        self._timetable.look_within(child, min(look_s, MEMORY_LOOK_S) if memory else look_s)

    def send_frame(self, child: Child, attempts: list[Attempt]) -> None:
        """Tell a child to carry out attempts, in as many frames as that takes."""
        calls = [call_of(each, each.timeout_s if child.listens else None) for each in attempts]
        try:
            content = frame(Work(attempts[0].call.function, calls, child.is_watched))
        except OverflowError:
            if len(attempts) > 1:
                half = len(attempts) // 2
                self.send_frame(child, attempts[:half])
                self.send_frame(child, attempts[half:])
            else:
                self._fail_to_send(child, attempts[0])
            return
        self._pool.send(child, content)

    def _fail_to_send(self, child: Child, attempt: Attempt) -> None:
        del child.outstanding[attempt.key]
        text = (
            f"the inputs of step {attempt.step!r} take more than {MAX_FRAME_BYTES} bytes to tell;"
            " return fewer values, or larger ones, which are passed on by reference"
        )
        error = Error("weftline.errors.WeftlineError", text)
        self._reports.append(Failed(key=attempt.key, error=error, retryable=False))
        if not child.outstanding:
            self.rest(child)

    def rest(self, child: Child) -> None:
        """It has nothing to do: it is idle, unless it is kept for a certain attempt."""
        child.limits.clear()
        if child.grant is None or child.kept:
            return
        self.release(child)
        child.is_watched = child.is_stuck = False
        if not child.is_ending:
            self._pool.add_idle(child)
            if self._pool.idle_count > self._pool.few:
                self._timetable.look_within(child, SURPLUS_AFTER_S)

    def release(self, child: Child) -> None:
        """Give back what it occupies."""
        if child.grant is not None and child.group is not None:
            self._slots.release(child.grant)
            child.group.busy.remove(child)
            child.grant = child.group = None

    def keep(self, child: Child, key: int) -> None:
        """Leave the child, with its slot, to the step that an attempt has returned."""
        child.kept.add(key)
        self._keepers[key] = child

    def let_keepers_go(self, keys: set[int]) -> None:
        """Nothing comes after these attempts."""
        for key in keys & self._keepers.keys():
            keeper = self._keepers.pop(key)
            keeper.kept.discard(key)
            if not keeper.outstanding:
                self.rest(keeper)

    def forget(self, child: Child) -> None:
        """It has died: nobody waits for it, and what it occupied is free."""
        for key in child.kept:
            del self._keepers[key]
        child.kept.clear()
        self.release(child)


def first_look_s(attempts: Iterable[Attempt]) -> float:
    """How long there is nothing to look for in attempts that have not begun."""
    limits = [each.timeout_s for each in attempts if each.timeout_s is not None]
    return min([STARTED_AFTER_S, *limits])
