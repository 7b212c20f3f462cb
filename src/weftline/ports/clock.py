"""What time it is."""

from typing import Protocol


class Clock(Protocol):
    """What tells the time; the standard library's `time` module is one."""

    def time(self) -> float:
        """Seconds since 1970, for what is recorded."""
        ...

    def monotonic(self) -> float:
        """Seconds that never jump, for durations."""
        ...
