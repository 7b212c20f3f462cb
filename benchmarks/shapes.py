"""The shapes that are measured; each runs in a process of its own and prints one JSON object."""

import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from benchmarks.answer import Figures, answer
from benchmarks.machine import peak_rss_mb, pss_mb, reset_peak, rss_mb


@dataclass
class Pair:
    """What a step of the `objects` shape returns, beside a tuple."""

    left: int
    right: float


def add_one(x: int) -> int:
    return x + 1


def total(values: list[int]) -> int:
    return sum(values)


def pair(x: int) -> tuple[int, Pair]:
    return x, Pair(x, x / 2)


def total_of_pairs(values: list[tuple[int, Pair]]) -> float:
    return sum(first + second.right for first, second in values)


def mark(x: int, path: str) -> int:
    with open(path, "a") as file:
        file.write(f"{x} {time.time()}\n")
    return x + 1


def chain(count: int) -> Figures:
    """Steps one after the other; the time of one is from its predecessor's end to its own."""
    from weftline import workflow
    from weftline.app import home
    from weftline.core.events import StepSucceeded, decode_event

    step = workflow.step(add_one)
    step.step(0).run()  # the child is warm

    def once(run_id: str) -> tuple[float, list[float]]:
        last = step.step(0)
        for _ in range(count - 1):
            last = step.step(last)
        start = time.perf_counter()
        assert last.run(run_id) == count
        taken = time.perf_counter() - start
        found = home().journal.read(run_id)
        assert found is not None
        ends = [e.at for e in found[1] if isinstance(decode_event(e.body), StepSucceeded)]
        return taken, [b - a for a, b in pairwise(ends)]

    runs = [once(f"chain-{n}") for n in range(3)]
    taken = sorted(run[0] for run in runs)[1]
    steps = [one for run in runs for one in run[1]]
    return {
        "per_second": count / taken,
        "p50_ms": statistics.median(steps) * 1e3,
        "p99_ms": statistics.quantiles(steps, n=100)[98] * 1e3,
    }


def fan_out(count: int, shape: str = "ints", repeats: int = 3) -> Figures:
    """Many steps and one that takes all their results; composing them counts, too."""
    from weftline import workflow

    each, gather = (add_one, total) if shape == "ints" else (pair, total_of_pairs)
    step, last = workflow.step(each), workflow.step(gather)
    last.step([step.step(n) for n in range(4)]).run()

    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        last.step([step.step(n) for n in range(count)]).run()
        taken.append(time.perf_counter() - start)
    return {
        "per_second": count / statistics.median(taken),
        "seconds": statistics.median(taken),
        "worst_per_second": count / max(taken),
    }


def memory(count: int) -> Figures:
    """What the engine takes beside the composition while it runs a fan-out."""
    from weftline import workflow

    step, last = workflow.step(add_one), workflow.step(total)
    composed = last.step([step.step(n) for n in range(count)])
    before = rss_mb()
    reset_peak()
    start = time.perf_counter()
    composed.run()
    taken = time.perf_counter() - start
    return {"composed_mb": before, "engine_mb": peak_rss_mb() - before, "seconds": taken}


def many(count: int, threads: int) -> Figures:
    """Runs of three steps in a row, all driven by this process; `threads` callers of `.run()`,
    or, with 0, all handed to the engine at once."""
    from weftline import workflow
    from weftline.api.checks import new_id
    from weftline.app import home
    from weftline.authoring.step import to_workflow
    from weftline.driving.drive import Drive

    step = workflow.step(add_one)

    def compose(n: int) -> Any:
        return step.step(step.step(step.step(n)))

    compose(0).run()

    def through_engine() -> None:
        app = home()
        drives: list[Drive] = []
        for n in range(count):
            written, objects, _ = to_workflow(compose(n), app.objects, None)
            drives.append(app.attached.start(written, run_id=new_id(), objects=objects, quiet=True))
        for n, drive in enumerate(drives):
            assert app.results.result_of(drive.run_id, drive.wait()) == n + 3

    def through_threads() -> None:
        with ThreadPoolExecutor(threads) as pool:
            found = list(pool.map(lambda n: compose(n).run(quiet=True), range(count)))
        assert found == [n + 3 for n in range(count)]

    taken = []
    for _ in range(3):
        start = time.perf_counter()
        through_threads() if threads else through_engine()
        taken.append(time.perf_counter() - start)
    return {"per_second": count / statistics.median(taken), "worst": count / max(taken)}


def one_step(count: int) -> Figures:
    """From `.run()` of a one-step workflow to its result, warm."""
    from weftline import workflow

    step = workflow.step(add_one)
    for n in range(20):
        step.step(n).run()
    taken = []
    for n in range(count):
        start = time.perf_counter()
        step.step(n).run()
        taken.append(time.perf_counter() - start)
    return {
        "p50_ms": statistics.median(taken) * 1e3,
        "p99_ms": statistics.quantiles(taken, n=100)[98] * 1e3,
    }


def killed(count: int, path: str) -> Figures:
    """The chain that is killed and started again; each step leaves a line in `path`."""
    from weftline import workflow

    step = workflow.step(mark)
    last = step.step(0, path)
    for _ in range(count - 1):
        last = step.step(last, path)
    return {"value": last.run("killed")}


def cold(began: float) -> Figures:
    """A first workflow in an empty home: seconds since the process was started, and memory."""
    start = time.perf_counter()
    from weftline import workflow

    imported = time.perf_counter() - start
    workflow.step(add_one).step(1).run()
    taken = time.time() - began
    return {
        "import_ms": imported * 1e3,
        "seconds": taken,
        "pss_mb": pss_mb(os.getpid()),
        "has_numpy": "numpy" in sys.modules,
    }


SHAPES: dict[str, Callable[..., Figures]] = {
    "chain": lambda a: chain(int(a[0])),
    "fan_out": lambda a: fan_out(int(a[0]), a[1], int(a[2])),
    "memory": lambda a: memory(int(a[0])),
    "many": lambda a: many(int(a[0]), int(a[1])),
    "one_step": lambda a: one_step(int(a[0])),
    "killed": lambda a: killed(int(a[0]), a[1]),
    "cold": lambda a: cold(float(a[0])),
}


if __name__ == "__main__":
    answer(SHAPES)
