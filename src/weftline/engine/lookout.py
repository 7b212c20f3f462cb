"""Tells how runs end that others drive: looks at the journal whenever that has changed."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from weftline.core.events import RunStatus
from weftline.engine.active import Ended, Gone
from weftline.engine.recovery import RunReader
from weftline.errors import StepNotFoundError, WeftlineError, WorkflowNotResumableError
from weftline.ports.journal import RunRecord, WholeJournal

MIN_LOOK_S, MAX_LOOK_S = 0.005, 0.05
"""How often it is asked whether another thread or process has committed."""

LOOK_ANYWAY_S = 0.5
"""How often runs are looked at all the same: that an engine died is no commit."""

Listener = Callable[[Ended | Gone], None]


def find_end(reader: RunReader) -> Ended | None:
    """How the run, or the step that is sought, has ended as far as it was read."""
    found = reader.find_sought()
    if found is not None:
        return Ended.of_step(found[0], found[1].number)
    return Ended.find(reader.run, reader.seeks)


class _Watched(NamedTuple):
    reader: RunReader
    run_id: str
    name: str | None
    listener: Listener


class Lookout:
    """Watches any number of runs on one thread, which lives while there are any."""

    def __init__(self, journal: WholeJournal, status_of: Callable[[RunRecord], RunStatus]) -> None:
        self._journal, self._status_of = journal, status_of
        self._lock = threading.Lock()
        self._watched: list[_Watched] = []
        self._is_looking = self._is_closed = False

    def watch(self, run_id: str, name: str | None, listener: Listener) -> None:
        """Tell once how the run, or its step `name`, ends: at once if it has, else on the
        lookout's thread; `Gone` when nobody drives it."""
        reader = RunReader(self._journal, run_id, seeks=name)
        watched = _Watched(reader, run_id, name, listener)
        if self._tell(watched):
            return
        with self._lock:
            self._watched.append(watched)
            if self._is_looking:
                return
            self._is_looking = True
        threading.Thread(target=self._main, name="weftline-lookout", daemon=True).start()

    def close(self) -> None:
        """Tell nobody any more."""
        self._is_closed = True

    def _main(self) -> None:
        seen, looked_at, known, pause = -1, 0.0, 0, MIN_LOOK_S
        while not self._is_closed:
            with self._lock:
                watched = list(self._watched)
                if not watched:
                    self._is_looking = False
                    return
            count = seen
            with suppress(WeftlineError):  # then looking tells
                count = self._journal.change_count()
            now = time.monotonic()
            if count != seen or len(watched) > known or now - looked_at >= LOOK_ANYWAY_S:
                seen, looked_at, pause = count, now, MIN_LOOK_S
                known = len(watched) - self._look(watched)
            time.sleep(pause)
            pause = min(pause * 1.5, MAX_LOOK_S)

    def _look(self, watched: list[_Watched]) -> int:
        told = 0
        for each in watched:
            if self._tell(each):
                told += 1
                with self._lock:
                    self._watched.remove(each)
        return told

    def _tell(self, watched: _Watched) -> bool:
        """Tell how it has ended, or that it will not; whether there was something to tell."""
        news: Ended | Gone | None
        try:
            news = self._answer(watched)
        except WeftlineError as error:
            news = Gone(error)
        if news is not None:
            watched.listener(news)
        return news is not None

    def _answer(self, watched: _Watched) -> Ended | Gone | None:
        watched.reader.refresh()
        recorded = watched.reader.recorded()
        run, run_id, name = recorded.run, watched.run_id, watched.name
        ended = find_end(watched.reader)
        if ended is not None:
            return ended
        if not run.is_open:
            return Gone(StepNotFoundError(f"No such step_id {name} in workflow {run_id}", run_id))
        if self._status_of(recorded.record) is RunStatus.RESUMABLE:
            text = f"run {run_id!r} is RESUMABLE and has no result: resume it first"
            return Gone(WorkflowNotResumableError(text, run_id))
        return None
