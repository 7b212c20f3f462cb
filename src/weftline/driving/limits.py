"""How many workflows may run and wait, as far as anything limits that."""

import threading
from pathlib import Path

from weftline.engine.turns import Turns
from weftline.workers.shares import Places

RUNNING_PLACES = "running-workflows"
"""The file, in the home's folder `slots`, by which all processes know how many runs run."""


class Limits:
    """The limits that this process was told last. None, and a negative one, limit nothing."""

    def __init__(self, home: Path | None, max_running: int | None, max_pending: int | None) -> None:
        self._path = None if home is None else home / "slots" / RUNNING_PLACES
        self._max_running, self._max_pending = max_running, max_pending
        self._lock = threading.Lock()
        self._places: Places | None = None

    def change(self, max_running: int | None, max_pending: int | None) -> bool:
        """Have these hold from now on, but for None, which says nothing; whether that changed
        anything."""
        before = (self._max_running, self._max_pending)
        if max_running is not None:
            self._max_running = max_running
        if max_pending is not None:
            self._max_pending = max_pending
        return (self._max_running, self._max_pending) != before

    def new_turns(self) -> Turns:
        """Whose turn it is to run, for one engine."""
        most, pending = self._max_running, self._max_pending
        share = None if most is None or most < 0 else self._have(most)
        return Turns(share, None if pending is None or pending < 0 else pending)

    def _have(self, most: int) -> Places:
        with self._lock:
            if self._places is None:
                self._places = Places(most, self._path)
            self._places.have(most)
            return self._places
