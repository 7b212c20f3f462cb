"""Signals from outside, and the steps that wait for them: each is for one wait, in order."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping

from weftline.core.values import Packed


class Signals:
    """What has come and is kept, and which steps wait, by the name of the signal."""

    def __init__(self, kept: Mapping[str, Iterable[Packed]] | None = None) -> None:
        self._kept = {name: deque(values) for name, values in (kept or {}).items()}
        self._waiting: dict[str, deque[int]] = {}  # steps, in the order in which they began
        self.fresh: dict[str, None] = {}
        """Names for which there may be both a value and a step, in order."""

    def keep(self, name: str, value: Packed) -> None:
        """Keep what has come until a step takes it."""
        self._kept.setdefault(name, deque()).append(value)
        self.fresh[name] = None

    def wait(self, name: str, number: int) -> None:
        """Let the step wait."""
        self._waiting.setdefault(name, deque()).append(number)
        self.fresh[name] = None

    def leave(self, name: str, number: int) -> None:
        """The step waits no more."""
        self._waiting[name].remove(number)

    def take(self, name: str, number: int) -> bool:
        """Let the step have the first value that is kept; False if there is none."""
        values = self._kept.get(name)
        if not values:
            return False
        self._waiting[name].remove(number)
        values.popleft()
        if not values:
            del self._kept[name]
        return True

    def match(self, is_waiting: Callable[[int], bool]) -> tuple[int, Packed] | None:
        """The step whose signal has come, of those that are waiting, and its value; None: none."""
        for name in list(self.fresh):
            values = self._kept.get(name)
            waiting = filter(is_waiting, self._waiting.get(name, ()))
            number = next(waiting, None) if values else None
            if values and number is not None:
                return number, values[0]
            del self.fresh[name]
        return None

    def kept(self) -> dict[str, list[Packed]]:
        """What nobody has waited for yet."""
        return {name: list(values) for name, values in self._kept.items()}
