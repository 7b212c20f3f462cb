"""One thread that makes commits while the engine goes on, for homes whose disk is slow."""

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

from weftline.ports.journal import Batch, Journal

Outcome = set[str] | Exception
"""What a commit came to: the runs that were refused, or why nothing is known to be written."""


class Committer:
    """Carries out one commit at a time on its own thread. Used by one thread, the engine's."""

    def __init__(self, journal: Journal, wake: Callable[[], None]) -> None:
        self._journal, self._wake = journal, wake
        self._batches: SimpleQueue[Batch | None] = SimpleQueue()
        self._outcomes: SimpleQueue[Outcome] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def begin(self, batch: Batch) -> None:
        """Start a commit; the engine is woken when it has ended."""
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._main, name="weftline-committer", daemon=True
            )
            self._thread.start()
        self._batches.put(batch)

    def outcome(self, *, wait: bool) -> Outcome | None:
        """What the commit under way came to; None while it has not ended, unless told to wait."""
        try:
            return self._outcomes.get(block=wait)
        except Empty:
            return None

    def close(self) -> None:
        """End the thread, after the commit it is making."""
        if self._thread is not None:
            self._batches.put(None)
            self._thread.join()

    def _main(self) -> None:
        while (batch := self._batches.get()) is not None:
            outcome: Outcome
            try:
                outcome = self._journal.commit(batch)
            except Exception as error:
                outcome = error
            self._outcomes.put(outcome)
            self._wake()
