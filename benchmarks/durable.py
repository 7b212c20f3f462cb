"""What durable runs reach, beside the machine's own limits of the same minute.

usage: python -m benchmarks.durable [--only chain,fan_out,...] [--json FILE] [--patience SECONDS]

Every shape runs in a fresh process on an empty home, on the disk of the current folder (or
BENCH_TMP), with SQLite at full durability and the children executor. Nothing else should run on
the machine meanwhile: each part waits until it is idle.
"""

import signal
import subprocess
import time
from pathlib import Path

from benchmarks.machine import commit_seconds
from benchmarks.parts import (
    Given,
    Part,
    Row,
    command,
    environ,
    measure,
    measure_in,
    new_home,
    parser_of,
    run_parts,
)

SHAPES = "benchmarks.shapes"


def chain(folder: Path, _: Given) -> list[Row]:
    commit = commit_seconds(folder) * 1e3
    found = measure(folder, SHAPES, "chain", 1000)
    goal = commit + 0.2
    text = f"p50 {found['p50_ms']:.2f} ms a step, p99 {found['p99_ms']:.2f}"
    text += f", {found['per_second']:,.0f} steps/s"
    what = f"p50 <= {goal:.2f} ms (commit {commit:.2f} + 0.2)"
    return [Row("chain of 1,000 steps", text, what, found["p50_ms"] <= goal)]


def fan_out(folder: Path, _: Given) -> list[Row]:
    plain = measure(folder, SHAPES, "fan_out", 10_000, "ints", 5)
    rich = measure(folder, SHAPES, "fan_out", 10_000, "pairs", 5)
    rows = []
    for name, found, goal in (
        ("fan-out of 10,000 and a sum", plain, 20_000),
        ("the same, a tuple and a dataclass each", rich, 12_000),
    ):
        text = f"{found['per_second']:,.0f} steps/s (worst {found['worst_per_second']:,.0f})"
        if found is rich:
            text += f", {rich['per_second'] / plain['per_second']:.0%} of plain"
        rows.append(Row(name, text, f">= {goal:,} steps/s", found["per_second"] >= goal))
    return rows


def large(folder: Path, _: Given) -> list[Row]:
    tenth = measure(folder, SHAPES, "fan_out", 10_000, "ints", 3)
    found = measure(folder, SHAPES, "fan_out", 100_000, "ints", 3)
    beside = measure(folder, SHAPES, "memory", 100_000)
    factor = found["seconds"] / tenth["seconds"]
    extra = f"{beside['engine_mb']:.0f} MB above {beside['composed_mb']:.0f} MB"
    return [
        Row("fan-out of 100,000", f"{found['seconds']:.2f} s", "<= 8 s", found["seconds"] <= 8),
        Row("100,000 against 10,000", f"{factor:.1f} times", "linear (<= 12)", factor <= 12),
        Row("engine beside the composition", extra, "<= 100 MB", beside["engine_mb"] <= 100),
    ]


def many(folder: Path, _: Given) -> list[Row]:
    rows = []
    for threads, name in ((0, "handed over at once"), (32, "32 threads calling .run()")):
        found = measure(folder, SHAPES, "many", 1000, threads)
        text = f"{found['per_second']:,.0f} workflows/s (worst {found['worst']:,.0f})"
        shape = f"1,000 workflows of 3 steps, {name}"
        rows.append(Row(shape, text, ">= 2,000 workflows/s", found["per_second"] >= 2000))
    return rows


def one_step(folder: Path, _: Given) -> list[Row]:
    commit = commit_seconds(folder) * 1e3
    found = measure(folder, SHAPES, "one_step", 500)
    goal = 2 * commit + 0.5
    text = f"p50 {found['p50_ms']:.2f} ms, p99 {found['p99_ms']:.2f} ms"
    what = f"p50 <= {goal:.2f} ms (2 x {commit:.2f} + 0.5)"
    return [Row("one-step run, warm", text, what, found["p50_ms"] <= goal)]


def killed(folder: Path, given: Given) -> list[Row]:
    """SIGKILL in the middle of a chain; the same command again."""
    firsts, again = [], 0
    for _ in range(3):
        with new_home(folder) as home:
            marks = home / "marks"
            start = command(SHAPES, "killed", home / "out.json", 1000, marks)
            process = subprocess.Popen(start, env=environ(home))
            while not marks.exists() or len(marks.read_text().split("\n")) < 500:
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
            process.wait()
            seen = {line.split()[0] for line in marks.read_text().splitlines()}
            last = max(map(int, seen))
            began = time.time()
            subprocess.run(start, env=environ(home), check=True)
            lines = [line.split() for line in marks.read_text().splitlines()]
            firsts.append(next(float(at) for n, at in lines if int(n) > last) - began)
            counts = [n for n, _ in lines]
            # The one step that ran when its process was killed may run again.
            again = max(again, len(counts) - len(set(counts)))
    text = f"{sorted(firsts)[1] * 1e3:.0f} ms (worst {max(firsts) * 1e3:.0f}); {again} ran twice"
    goal = "<= 350 ms; only the one in flight (at most 1)"
    met = sorted(firsts)[1] <= 0.35 and again <= 1
    return [Row("SIGKILL in the chain, to the first new step", text, goal, met)]


def cold(folder: Path, given: Given) -> list[Row]:
    found = []
    for _ in range(8):
        with new_home(folder) as home:
            found.append(measure_in(home, SHAPES, "cold", time.time()))
    del found[0]  # it may have had to compile modules
    middle = {key: sorted(one[key] for one in found)[3] for key in found[0]}
    assert not middle["has_numpy"]
    return [
        Row(
            "from weftline import workflow",
            f"{middle['import_ms']:.0f} ms",
            "<= 90 ms",
            middle["import_ms"] <= 90,
        ),
        Row(
            "first result, cold",
            f"{middle['seconds']:.2f} s",
            "<= 0.35 s",
            middle["seconds"] <= 0.35,
        ),
        Row("memory then (PSS)", f"{middle['pss_mb']:.0f} MB", "<= 60 MB", middle["pss_mb"] <= 60),
    ]


PARTS: dict[str, Part] = {
    "chain": chain,
    "fan_out": fan_out,
    "large": large,
    "many": many,
    "one_step": one_step,
    "killed": killed,
    "cold": cold,
}


def main() -> None:
    """Measure, print the table, and keep it as JSON when asked to."""
    parser = parser_of("What durable runs reach, beside the machine's own limits.", PARTS)
    run_parts(PARTS, parser.parse_args(namespace=Given()))


if __name__ == "__main__":
    main()
