"""What durable runs reach, beside the machine's own limits of the same minute.

usage: python -m benchmarks.durable [--only chain,fan_out,...] [--json FILE]

Every shape runs in a fresh process on an empty home, on the disk of the current folder (or
BENCH_TMP), with SQLite at full durability and the children executor. Nothing else should run on
the machine meanwhile; the load is printed.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.machine import commit_seconds, fsync_seconds, other_load


class Row(NamedTuple):
    """One line of the table. `goal` is what was asked for, in the same unit."""

    shape: str
    measured: str
    goal: str
    met: bool


def measure(folder: Path, shape: str, *arguments: object) -> dict[str, Any]:
    """Run one shape in a process of its own, on an empty home."""
    with tempfile.TemporaryDirectory(dir=folder) as home:
        out = Path(home) / "out.json"
        subprocess.run(command(shape, out, *arguments), env=environ(home), check=True)
        found: dict[str, Any] = json.loads(out.read_text())
        return found


def command(shape: str, out: Path, *arguments: object) -> list[str]:
    return [
        sys.executable, "-m", "benchmarks.shapes", shape, *map(str, arguments), "--out", str(out),
    ]  # fmt: skip


def environ(home: str) -> dict[str, str]:
    return os.environ | {"WEFTLINE_HOME": str(Path(home) / "home"), "WEFTLINE_NUM_CPUS": "2"}


def chain(folder: Path) -> list[Row]:
    commit = commit_seconds(folder) * 1e3
    found = measure(folder, "chain", 1000)
    goal = commit + 0.2
    text = f"p50 {found['p50_ms']:.2f} ms a step, p99 {found['p99_ms']:.2f}"
    text += f", {found['per_second']:,.0f} steps/s"
    what = f"p50 <= {goal:.2f} ms (commit {commit:.2f} + 0.2)"
    return [Row("chain of 1,000 steps", text, what, found["p50_ms"] <= goal)]


def fan_out(folder: Path) -> list[Row]:
    plain = measure(folder, "fan_out", 10_000, "ints", 5)
    rich = measure(folder, "fan_out", 10_000, "pairs", 5)
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


def large(folder: Path) -> list[Row]:
    tenth = measure(folder, "fan_out", 10_000, "ints", 3)
    found = measure(folder, "fan_out", 100_000, "ints", 3)
    beside = measure(folder, "memory", 100_000)
    factor = found["seconds"] / tenth["seconds"]
    extra = f"{beside['engine_mb']:.0f} MB above {beside['composed_mb']:.0f} MB"
    return [
        Row("fan-out of 100,000", f"{found['seconds']:.2f} s", "<= 8 s", found["seconds"] <= 8),
        Row("100,000 against 10,000", f"{factor:.1f} times", "linear (<= 12)", factor <= 12),
        Row("engine beside the composition", extra, "<= 100 MB", beside["engine_mb"] <= 100),
    ]


def many(folder: Path) -> list[Row]:
    rows = []
    for threads, name in ((0, "handed over at once"), (32, "32 threads calling .run()")):
        found = measure(folder, "many", 1000, threads)
        text = f"{found['per_second']:,.0f} workflows/s (worst {found['worst']:,.0f})"
        shape = f"1,000 workflows of 3 steps, {name}"
        rows.append(Row(shape, text, ">= 2,000 workflows/s", found["per_second"] >= 2000))
    return rows


def one_step(folder: Path) -> list[Row]:
    commit = commit_seconds(folder) * 1e3
    found = measure(folder, "one_step", 500)
    goal = 2 * commit + 0.5
    text = f"p50 {found['p50_ms']:.2f} ms, p99 {found['p99_ms']:.2f} ms"
    what = f"p50 <= {goal:.2f} ms (2 x {commit:.2f} + 0.5)"
    return [Row("one-step run, warm", text, what, found["p50_ms"] <= goal)]


def killed(folder: Path) -> list[Row]:
    """SIGKILL in the middle of a chain; the same command again."""
    firsts, again = [], 0
    for _ in range(3):
        with tempfile.TemporaryDirectory(dir=folder) as home:
            marks = Path(home) / "marks"
            start = command("killed", Path(home) / "out.json", 1000, marks)
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


def cold(folder: Path) -> list[Row]:
    found = []
    for _ in range(7):
        with tempfile.TemporaryDirectory(dir=folder) as home:
            out = Path(home) / "out.json"
            subprocess.run(command("cold", out, time.time()), env=environ(home), check=True)
            found.append(json.loads(out.read_text()))
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


PARTS: dict[str, Callable[[Path], list[Row]]] = {
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
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    place = os.environ.get("BENCH_TMP") or Path.cwd()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=place, prefix=".bench-") as name:
        folder = Path(name)
        print(f"load {other_load():.2f}; one durable commit {commit_seconds(folder) * 1e3:.3f} ms,"
              f" fdatasync {fsync_seconds(folder) * 1e3:.3f} ms")  # fmt: skip
        for part in given.only.split(","):
            for row in PARTS[part](folder):
                rows.append(row)
                sign = "met   " if row.met else "MISSED"
                print(f"{sign} {row.shape:<46} {row.measured:<58} {row.goal}", flush=True)
    if given.json:
        given.json.write_text(json.dumps([row._asdict() for row in rows], indent=1))


if __name__ == "__main__":
    main()
