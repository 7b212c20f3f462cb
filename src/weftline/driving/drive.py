"""Driving runs from this process: an engine, on its own thread or turned by whoever waits, and what
a run that it drives tells."""

import contextlib
import sys
import threading
import time
import uuid
from collections.abc import Callable
from errno import ENOSPC
from queue import Empty, SimpleQueue

from weftline.engine.active import Ended, Gone, News, Output, Stalled
from weftline.engine.committer import Committer
from weftline.engine.engine import Engine
from weftline.engine.turns import Turns
from weftline.errors import StorageFull, WeftlineError
from weftline.ports.executor import Executor
from weftline.ports.journal import InboxKind, Journal, RunCatalogue

PATIENCE_STORAGE_S = 30.0
"""How long a driver waits for a home that cannot be written before it lets its run go."""


def new_engine(
    journal: Journal,
    executor: Executor,
    engine_id: str,
    turns: Turns,
    *,
    committer: Committer | None = None,
) -> Engine:
    """An engine, registered as alive."""
    engine = Engine(engine_id, journal, executor, time, committer=committer, turns=turns)
    journal.register(engine_id, engine.look)
    return engine


class EngineThread:
    """The process's engine, on a thread of its own for as long as the process lives."""

    def __init__(
        self, journal: Journal, new_executor: Callable[[str], Executor], turns: Turns
    ) -> None:
        self.engine_id = uuid.uuid4().hex
        self._journal = journal
        self._executor = new_executor(self.engine_id)
        self._committer = Committer(journal, self._executor.wake)
        self.engine = new_engine(
            journal, self._executor, self.engine_id, turns, committer=self._committer
        )
        self._thread = threading.Thread(target=self._main, name="weftline-engine", daemon=True)
        self._thread.start()

    def _main(self) -> None:
        try:
            self.engine.run_forever()
        finally:
            self._committer.close()
            self._executor.close()
            self._journal.release(self.engine_id)  # should it have failed, others may go on

    def pump(self) -> None:
        """Nothing: the thread turns by itself."""

    def release(self) -> None:
        """Nothing: the engine outlives its runs."""

    def close(self) -> None:
        with contextlib.suppress(WeftlineError):  # it failed before
            self.engine.stop()
        self._thread.join(10.0)
        self._journal.release(self.engine_id)


class EngineHere:
    """An engine for one run, turned by the thread that waits for it."""

    def __init__(self, journal: Journal, executor: Executor, turns: Turns) -> None:
        self.engine_id = uuid.uuid4().hex
        self._journal, self._executor = journal, executor
        self.engine = new_engine(journal, executor, self.engine_id, turns)

    def pump(self) -> None:
        self.engine.turn()

    def release(self) -> None:
        self._executor.close()
        self._journal.release(self.engine_id)


class Drive:
    """A run that is being driven from here: what happens in it, and its end."""

    def __init__(
        self, catalogue: RunCatalogue, run_id: str, host: EngineThread | EngineHere, quiet: bool
    ) -> None:
        self.run_id, self._catalogue, self._host = run_id, catalogue, host
        self.engine = host.engine
        self._mailbox: SimpleQueue[News] = SimpleQueue()
        self.listen: Callable[[News], None] = self._mailbox.put
        self.again: Callable[[], None] | None = None
        """Takes the run over once more, after it changed while that was tried."""
        self.is_quiet = quiet

    def news(self, timeout_s: float | None = None) -> News | None:
        """The next news of the run; None when there is none in time.

        Raises: StorageFull when the home could not be written for too long (the run is let go).
        """
        try:
            if isinstance(self._host, EngineHere):
                while self._mailbox.empty():
                    self._host.pump()
            news = self._mailbox.get(timeout=timeout_s)
        except Empty:
            return None
        if isinstance(news, Gone) and news.is_outdated and self.again is not None:
            self.again()
            return None
        if isinstance(news, Stalled):
            waited = time.monotonic() - news.since
            if waited >= PATIENCE_STORAGE_S:
                self.let_go()
                if not isinstance(news.error, StorageFull):
                    raise news.error
                text = (
                    f"{news.error.strerror or news.error}; run {self.run_id!r} was let go after"
                    f" {waited:.0f} s: free some space, then resume it"
                )
                raise StorageFull(ENOSPC, text) from news.error
        return news

    def wait(self) -> Ended:
        """Wait for the run's end, and print what its steps print meanwhile.

        Raises: WorkflowRunningError and others when the run is not driven from here after all;
        KeyboardInterrupt lets the run go, so that it is RESUMABLE.
        """
        try:
            while True:
                news = self.news()
                if isinstance(news, Ended):
                    return news
                if isinstance(news, Gone):
                    raise news.error
                if isinstance(news, Output):
                    print_output(news)
        except KeyboardInterrupt as interrupt:
            self.let_go()
            interrupt.add_note(
                f"Run {self.run_id!r} is RESUMABLE: workflow.resume({self.run_id!r}) goes on."
            )
            raise
        finally:
            self._host.release()

    def cancel(self) -> None:
        """End the run: running steps are killed, no further one starts."""
        self._catalogue.post(self.run_id, InboxKind.CANCEL, b"null")

    def let_go(self) -> None:
        """Stop driving the run; it is RESUMABLE when this returns."""
        done = threading.Event()
        self.engine.let_go(self.run_id, done.set)
        while not done.is_set():
            self._host.pump()
            done.wait(0.01 if isinstance(self._host, EngineHere) else 10.0)

    def close(self) -> None:
        """Give back what was opened to drive the run; `wait` does it by itself."""
        self._host.release()


class Answer:
    """Waits until an engine of this process has accepted a run or refused it."""

    def __init__(self, listener: Callable[[Ended | Gone], None]) -> None:
        self._listener = listener
        self._answers: SimpleQueue[WeftlineError | None] = SimpleQueue()
        self._is_accepted = False

    def accept(self) -> None:
        self._is_accepted = True
        self._answers.put(None)

    def listen(self, news: News) -> None:
        if isinstance(news, Gone) and not self._is_accepted:
            self._answers.put(news.error)
        elif isinstance(news, Ended | Gone):
            self._listener(news)

    def wait(self) -> WeftlineError | None:
        return self._answers.get()


def print_output(output: Output) -> None:
    """Lines of a step on the driver's own stdout or stderr, with the step's name."""
    stream = sys.stderr if output.stream == "stderr" else sys.stdout
    lines = output.text.splitlines()
    stream.write("".join(f"({output.step}) {line}\n" for line in lines))
    stream.flush()
