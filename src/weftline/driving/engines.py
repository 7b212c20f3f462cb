"""The engines of this process: the one on its own thread, and those that a caller turns itself."""

import threading
from collections.abc import Callable

from weftline.config import Settings
from weftline.control import Declared
from weftline.driving.drive import EngineHere, EngineThread
from weftline.driving.executors import Executors
from weftline.driving.limits import Limits
from weftline.ports.journal import WholeJournal
from weftline.workers.attempt import current


class Engines:
    """Opens what drives runs from here. May be used by any thread."""

    def __init__(
        self, settings: Settings, journal: WholeJournal, executors: Executors, limits: Limits
    ) -> None:
        self._executor, self._journal = settings.executor, journal
        self._executors, self._limits = executors, limits
        self._lock = threading.Lock()
        self._shared: EngineThread | None = None

    @property
    def shared(self) -> EngineThread | None:
        """The process's engine, if there is one."""
        return self._shared

    def is_shared(self, engine_id: str | None) -> bool:
        """Whether it is the process's engine."""
        shared = self._shared
        return shared is not None and shared.engine_id == engine_id

    def drives(self, run_id: str) -> bool | None:
        """Whether the process's engine drives the run: False when it only finishes steps of it,
        after it failed; None when it does not know it."""
        shared = self._shared
        return None if shared is None else shared.engine.drives(run_id)

    def open(self) -> EngineThread:
        """The process's engine on its own thread, started if there is none."""
        with self._lock:
            if self._shared is None or self._shared.engine.has_failed:
                # A home that cannot be used says so now; the engine would try again for a while.
                self._journal.change_count()
                self._shared = EngineThread(
                    self._journal, self._executors.new_for_engine, self._limits.new_turns()
                )
            return self._shared

    def open_for_caller(self) -> EngineThread | EngineHere:
        """What drives the runs that somebody here waits for: the process's engine, or, with the
        inline executor, a fresh engine in the thread that calls."""
        # A step in a thread that runs a workflow does so itself: it has a slot already, and would
        # else wait for others that may all be waiting likewise.
        in_thread = self._executor == "threads" and current() is not None
        if self._executor == "inline" or in_thread:
            self._journal.change_count()
            return EngineHere(self._journal, self._executors.new_inline(), self._limits.new_turns())
        return self.open()

    def declare(self, declared: Declared, done: Callable[[], object]) -> None:
        """Let the process's engine have what a driver was told: never less than before, and its
        limits from now on. `done` is called on the engine's thread."""
        engine = self.open().engine
        if self._limits.change(declared.max_running_workflows, declared.max_pending_workflows):
            engine.limit(self._limits.new_turns())

        def grow() -> None:
            slots = self._executors.slots
            slots.grow(declared.num_cpus, declared.num_gpus, declared.resources)
            done()

        engine.call(grow)

    def close(self) -> None:
        """Let every run go and end all children; another engine may follow."""
        with self._lock:
            shared, self._shared = self._shared, None
        if shared is not None:
            shared.close()
