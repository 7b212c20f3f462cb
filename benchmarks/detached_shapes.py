"""The shapes of `benchmarks.detached`: runs that a controller drives, and large values."""

import os
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.answer import Figures, answer
from benchmarks.machine import peak_rss_mb, reset_peak
from benchmarks.shapes import add_one, fan_out


def new_array(seed: int, count: int) -> Any:
    import numpy

    return numpy.arange(count, dtype=numpy.float64) + seed


def changed(array: Any) -> Any:
    return array + 1.0


def first_of(array: Any) -> float:
    return float(array[0])


def load_numpy(n: int) -> int:
    import numpy

    time.sleep(0.02)  # so that every child gets one
    return n + numpy.int64(1).item()


def hold(n: int, folder: str) -> int:
    Path(folder, f"pid-{n}").write_text(str(os.getpid()))
    while True:
        time.sleep(60)


def total(values: list[int]) -> int:
    return sum(values)


def compose_three(n: int) -> Any:
    """Three steps in a row."""
    from weftline import workflow

    step = workflow.step(add_one)
    return step.step(step.step(step.step(n)))


# -- large values -------------------------------------------------------------------------------


def arrays(count: int, size: int, seed: int) -> Figures:
    """`count` steps in a row, each returning a changed array of `size` bytes; seconds in all, and
    the most memory that the process of the engine ever had."""
    from weftline import workflow

    make, change = workflow.step(new_array), workflow.step(changed)
    first, warm = workflow.step(first_of), workflow.step(load_numpy)
    workflow.step(total).step([warm.step(n) for n in range(8)]).run()

    last = make.step(seed, size // 8)
    for _ in range(count - 1):
        last = change.step(last)
    reset_peak()
    start = time.perf_counter()
    assert first.step(last).run() == seed + count - 1
    taken = time.perf_counter() - start
    return {"mb_per_s": size * count / 1e6 / taken, "engine_mb": peak_rss_mb()}


# -- runs of a controller -----------------------------------------------------------------------


def many(count: int, how: str) -> Figures:
    """Runs of three steps in a row, from composing the first to the last result."""
    from weftline import workflow

    compose_three(0).run_async().result()

    def once() -> float:
        start = time.perf_counter()
        if how == "submit_many":
            handles = workflow.submit_many([compose_three(n) for n in range(count)])
        else:
            handles = [compose_three(n).run_async() for n in range(count)]
        assert [handle.result() for handle in handles] == [n + 3 for n in range(count)]
        return time.perf_counter() - start

    taken = [once() for _ in range(3)]
    return {"per_second": count / statistics.median(taken), "worst": count / max(taken)}


def result(count: int) -> Figures:
    """From `run_async` of a one-step workflow to its result, one after the other, warm."""
    from weftline import workflow

    step = workflow.step(add_one)
    for n in range(50):
        step.step(n).run_async().result()
    accepted, taken = [], []
    for n in range(count):
        start = time.perf_counter()
        handle = step.step(n).run_async()
        accepted.append(time.perf_counter() - start)
        assert handle.result() == n + 1
        taken.append(time.perf_counter() - start)
    return {
        "p50_ms": statistics.median(taken) * 1e3,
        "p99_ms": statistics.quantiles(taken, n=100)[98] * 1e3,
        "accepted_ms": statistics.median(accepted) * 1e3,
    }


def first(began: float) -> Figures:
    """The first `run_async` of a process, to its result; seconds from there, and since the process
    was started. It leaves its controller alone."""
    from weftline import workflow

    composed = workflow.step(add_one).step(1)
    start = time.perf_counter()
    assert composed.run_async().result() == 2
    return {"seconds": time.perf_counter() - start, "since_start": time.time() - began}


def cancel(count: int, folder: str) -> Figures:
    """Cancel of a run with two steps running and `count` queued: seconds until it returned, and
    until what ran is dead."""
    from weftline import workflow

    step, last = workflow.step(hold), workflow.step(total)
    composed = last.step([step.step(n, folder) for n in range(count + 2)])
    handle = composed.run_async()
    while len(pids := _pids(folder)) < 2:
        time.sleep(0.005)
    start = time.perf_counter()
    assert handle.cancel()
    returned = time.perf_counter() - start
    assert handle.status() == "CANCELED"
    while any(_is_running(pid) for pid in pids):
        time.sleep(0.001)
    return {
        "returned": returned,
        "dead": time.perf_counter() - start,
        "started": len(_pids(folder)),
    }


def _pids(folder: str) -> list[int]:
    texts = [path.read_text() for path in Path(folder).glob("pid-*")]
    return [int(text) for text in texts if text]


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


if __name__ == "__main__":
    answer(
        {
            "arrays": lambda a: arrays(int(a[0]), int(a[1]), int(a[2])),
            "many": lambda a: many(int(a[0]), a[1]),
            "result": lambda a: result(int(a[0])),
            "first": lambda a: first(float(a[0])),
            "cancel": lambda a: cancel(int(a[0]), a[1]),
            "threads": lambda a: fan_out(int(a[0]), "ints", 5),
        }
    )
