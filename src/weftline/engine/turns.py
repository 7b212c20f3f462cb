"""Limits on running workflows: whose turn it is, and who waits for one."""

from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import Any, Protocol

from weftline.engine.active import ActiveRun


class Share(Protocol):
    """Something of which there is a certain number, for all processes of a home."""

    def take(self) -> Any:
        """One of them; None when there is none left."""
        ...

    def give_back(self, taken: Any) -> None: ...


class Turns:
    """Hands out turns to run: of the home's, and of those of a group of runs.

    `max_pending` is how many runs may wait for a turn; None: any number.
    """

    def __init__(self, share: Share | None = None, max_pending: int | None = None) -> None:
        self.share, self.max_pending = share, max_pending
        self.pending: deque[ActiveRun] = deque()
        self.ask_at = 0.0
        """When (monotonic seconds) to ask `next` again."""
        self._of_group: dict[str, int] = {}  # how many of a group run

    @property
    def is_full(self) -> bool:
        """Whether no other run may wait for its turn."""
        return self.max_pending is not None and len(self.pending) >= self.max_pending

    def is_due(self, now: float) -> bool:
        """Whether to ask by now (monotonic seconds) who has its turn: others may have given one
        back."""
        return bool(self.pending) and self.ask_at <= now

    def change(self, limits: "Turns", running: Iterable[ActiveRun]) -> None:
        """Hand out what these limits allow, from now on; who runs already counts there."""
        self.share, self.max_pending = limits.share, limits.max_pending
        for active in running:
            if active.turn is not None:
                self.give_back(active)
                self.take_anyway(active)
        self.ask_at = 0.0

    def take(self, active: ActiveRun) -> bool:
        """Give the run its turn if there is one for it."""
        if active.turn is not None:
            return True
        if self._is_held_by_group(active):
            return False
        taken: object = None
        if self.share is not None:
            taken = self.share.take()
            if taken is None:
                return False
        self._note(active, taken)
        return True

    def take_anyway(self, active: ActiveRun) -> None:
        """Count a run that runs already, also beyond the limits."""
        if active.turn is None:
            taken = None if self.share is None else self.share.take()
            self._note(active, taken)

    def give_back(self, active: ActiveRun) -> None:
        """The run needs its turn no more, nor waits for one; another one may have it."""
        turn, active.turn = active.turn, None
        if turn is None:
            self.forget(active)
            return
        group, give_back = turn
        if group is not None:
            self._of_group[group] -= 1
            if not self._of_group[group]:
                del self._of_group[group]
        if give_back is not None:
            give_back()
        self.ask_at = 0.0

    def next(self) -> ActiveRun | None:
        """The oldest waiting run that has its turn now; it is given it."""
        for active in self.pending:
            if self._is_held_by_group(active):
                continue
            if not self.take(active):
                return None  # the home has none left, for nobody
            self.pending.remove(active)
            return active
        return None

    def forget(self, active: ActiveRun) -> None:
        """The run waits for no turn."""
        if active in self.pending:
            self.pending.remove(active)

    def _is_held_by_group(self, active: ActiveRun) -> bool:
        group = active.group
        return group is not None and self._of_group.get(group[0], 0) >= group[1]

    def _note(self, active: ActiveRun, taken: object) -> None:
        group = active.group
        give_back = None
        if self.share is not None and taken is not None:
            give_back = partial(self.share.give_back, taken)
        active.turn = (None if group is None else group[0], give_back)
        if group is not None:
            self._of_group[group[0]] = self._of_group.get(group[0], 0) + 1
