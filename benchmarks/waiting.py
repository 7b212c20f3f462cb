"""A thousand runs that wait for an hour, half of them for a signal and half for an event, and then
all go on: with a clock of one's own that jumps the hour, and with a real controller.
"""

import asyncio
import os
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import wait as wait_for_futures
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from benchmarks.answer import Figures, answer
from benchmarks.machine import cpu_seconds, descendants, peak_rss_mb, rss_mb
from weftline import workflow
from weftline.app import App, home
from weftline.authoring.step import to_workflow
from weftline.cli.processes import controller_of
from weftline.core.graph import Pages
from weftline.driving.environment import environment_here
from weftline.engine.active import Ended, News, Submission
from weftline.engine.committer import Committer
from weftline.engine.engine import Engine
from weftline.ports.journal import Creation

HOUR_S = 3600.0
SETTLE_S = 4.0
"""Until runs in which nothing happens are parked, and what they needed at first is given back."""


class Gate(workflow.EventListener):
    """Waits until the gate at a socket opens, and returns what it says."""

    async def poll_for_event(self, path: str) -> str:
        reader, writer = await asyncio.open_unix_connection(path)
        said = (await reader.readline()).decode().strip()
        writer.close()
        return said


def told(news: str) -> str:
    return f"it said {news}"


class GateKeeper:
    """The other side of `Gate`, on a thread of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writers: list[asyncio.StreamWriter] = []
        self._loop = asyncio.new_event_loop()
        self._is_listening = threading.Event()
        threading.Thread(target=self._main, daemon=True).start()
        self._is_listening.wait()

    def _main(self) -> None:
        async def take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._writers.append(writer)

        start = asyncio.start_unix_server(take, str(self._path), backlog=1000)
        self._server = self._loop.run_until_complete(start)
        self._is_listening.set()
        self._loop.run_forever()

    def wait_for(self, count: int) -> None:
        """Wait until so many are at the gate."""
        while len(self._writers) < count:
            time.sleep(0.01)

    def open(self) -> None:
        """Let all go on."""

        def tell() -> None:
            for writer in self._writers:
                writer.write(b"open\n")

        self._loop.call_soon_threadsafe(tell)


def compose(count: int, path: Path) -> list[Any]:
    """Runs that wait for twice as long as they will have to, and have one step left then."""
    step = workflow.step(told)
    signals = [
        step.step(workflow.wait_for_signal("go", timeout=2 * HOUR_S)) for _ in range(count // 2)
    ]
    return signals + [
        step.step(workflow.wait_for_event(Gate, str(path))) for _ in range(count - len(signals))
    ]


def warm() -> None:
    """A run before, so that starting the first child is not what is measured."""
    assert workflow.step(told).step("so").run_async().result() == "it said so"


# -- with a clock of one's own ------------------------------------------------------------------


class JumpingClock:
    """The machine's clock, with time to jump over."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def time(self) -> float:
        return time.time() + self.ahead_s

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead_s


@contextmanager
def own_engine(app: App, clock: JumpingClock) -> Iterator[Engine]:
    """An engine of this process with this clock, and children."""
    engine_id = uuid.uuid4().hex
    executor = app.executors.new_children(engine_id)
    committer = Committer(app.journal, executor.wake)
    engine = Engine(engine_id, app.journal, executor, clock, committer=committer)
    app.journal.register(engine_id, engine.look)
    thread = threading.Thread(target=engine.run_forever)
    thread.start()
    try:
        yield engine
    finally:
        engine.stop()
        thread.join()
        committer.close()
        executor.close()
        app.journal.release(engine_id)


def own_clock(count: int) -> Figures:
    """Seconds from the first signal until all runs have ended, after an hour has passed."""
    app, clock, news = home(), JumpingClock(), SimpleQueue[tuple[str, News]]()
    with tempfile.TemporaryDirectory() as name, own_engine(app, clock) as engine:
        keeper = GateKeeper(Path(name) / "gate")
        run_ids = [f"waits-{n}" for n in range(count)]
        is_accepted = SimpleQueue[str]()
        for run_id, composed in zip(run_ids, compose(count, Path(name) / "gate"), strict=True):
            written, objects, _ = to_workflow(composed, app.objects, None)
            pages = Pages(written.graph.steps)
            submission = Submission(
                run_id=run_id,
                creation=Creation(
                    workflow=written.name,
                    created_at=clock.time(),
                    environment=environment_here(),
                    metadata=written.metadata,
                ),
                graph=written.graph,
                graph_hash=pages.hash(),
                pages=pages,
                objects=objects,
            )

            def listen(said: News, run_id: str = run_id) -> None:
                news.put((run_id, said))

            def accept(run_id: str = run_id) -> None:
                is_accepted.put(run_id)

            engine.submit(submission, listen, on_accepted=accept)
        for _ in run_ids:
            is_accepted.get()
        keeper.wait_for(count - count // 2)
        time.sleep(SETTLE_S)

        used = cpu_seconds(os.getpid())
        clock.ahead_s += HOUR_S
        engine.look()  # as if it had slept for so long
        time.sleep(1.0)
        used = cpu_seconds(os.getpid()) - used
        assert news.empty()
        assert engine.open_runs == count

        start = time.perf_counter()
        for run_id in run_ids[: count // 2]:
            assert workflow.signal(run_id, "go", "open")
        signaled = time.perf_counter() - start
        keeper.open()
        for _ in run_ids:
            run_id, said = news.get()
            assert isinstance(said, Ended), (run_id, said)
            assert app.results.result_of(run_id, said) == "it said open"
        return {"seconds": time.perf_counter() - start, "signaled": signaled, "hour_cpu_s": used}


# -- with a real controller ---------------------------------------------------------------------


def controller(count: int) -> Figures:
    """What the controller has while runs wait, and how long they need to their ends then."""
    warm()
    found = controller_of(home().settings.home or Path())
    assert found is not None
    with tempfile.TemporaryDirectory() as name:
        keeper = GateKeeper(Path(name) / "gate")
        handles = workflow.submit_many(compose(count, Path(name) / "gate"))
        keeper.wait_for(count - count // 2)
        time.sleep(SETTLE_S)
        figures: Figures = {
            "rss_mb": rss_mb(found.pid),
            "peak_mb": peak_rss_mb(found.pid),
            "children_mb": [round(rss_mb(pid), 1) for pid in descendants(found.pid)],
        }
        used = cpu_seconds(found.pid)
        time.sleep(10.0)
        figures["cpu_percent"] = (cpu_seconds(found.pid) - used) * 10.0
        start = time.perf_counter()
        for handle in handles[: count // 2]:
            workflow.signal(handle.workflow_id, "go", "open")
        figures["signaled"] = time.perf_counter() - start
        keeper.open()
        wait_for_futures(handles)
        figures["seconds"] = time.perf_counter() - start
        assert {handle.result() for handle in handles} == {"it said open"}
        return figures


if __name__ == "__main__":
    answer(
        {
            "own_clock": lambda a: own_clock(int(a[0])),
            "controller": lambda a: controller(int(a[0])),
        }
    )
