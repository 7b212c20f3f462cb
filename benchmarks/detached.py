"""What detached runs, waits and large values reach, beside the machine's own limits and DBOS.

usage: python -m benchmarks.detached [--only many,cancel,...] [--peer-python PATH] [--json FILE]
           [--patience SECONDS]

Shapes run as those of `benchmarks.durable` do; where it says so the runs are driven by the home's
controller, which is started on demand. `--peer-python` names an interpreter that has DBOS, which is
then given the same shapes (`benchmarks/peer_dbos.py`) on the same disk, right after ours.
"""

import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.answer import Figures
from benchmarks.machine import (
    commit_seconds,
    cpu_seconds,
    descendants,
    peak_rss_mb,
    pss_mb,
    rss_mb,
    write_mb_per_s,
)
from benchmarks.parts import (
    Given,
    Part,
    Row,
    measure,
    measure_in,
    new_home,
    parser_of,
    place,
    run_parts,
)
from weftline.cli.processes import controller_of

DURABLE, SHAPES, WAITING = "benchmarks.shapes", "benchmarks.detached_shapes", "benchmarks.waiting"
PEER = Path(__file__).parent / "peer_dbos.py"
AS_IT_COMES, TUNED = "delete", "wal"

# -- beside DBOS --------------------------------------------------------------------------------


def peer(folder: Path, given: Given, shape: str, count: int, journal: str) -> float | None:
    """How much of the shape DBOS does in a second; None without an interpreter that has it."""
    if given.peer_python is None:
        return None
    with tempfile.TemporaryDirectory(dir=folder) as name:
        out = Path(name) / "out.json"
        command = [str(given.peer_python), str(PEER), shape, str(count), "--journal", journal]
        subprocess.run([*command, "--folder", name, "--out", str(out)], check=True)
        found: Figures = json.loads(out.read_text())
        return float(found["per_second"])


def beside(
    folder: Path,
    given: Given,
    ours: dict[str, float],
    unit: str,
    shapes: tuple[str, ...],
    count: int,
    times: float,
) -> list[Row]:
    """Lines that compare our figures with the best that DBOS reaches in any of its ways to write
    the shape."""
    rows = []
    for journal, what, goal in (
        (AS_IT_COMES, "DBOS as it comes", times),
        (TUNED, "DBOS in WAL", None),
    ):
        found = [peer(folder, given, shape, count, journal) for shape in shapes]
        best = max((rate for rate in found if rate is not None), default=None)
        if best is None:
            continue
        for name, rate in ours.items():
            text = f"{rate / best:.1f} times ({rate:,.0f} against {best:,.0f} {unit})"
            asked = "" if goal is None else f">= {goal:g} times"
            met = None if goal is None else rate >= goal * best
            rows.append(Row(f"{name}, beside {what}", text, asked, met))
    return rows


def chain(folder: Path, given: Given) -> list[Row]:
    ours = measure(folder, DURABLE, "chain", 1000)["per_second"]
    row = Row("chain of 1,000 steps", f"{ours:,.0f} steps/s", "", None)
    return [row, *beside(folder, given, {row.shape: ours}, "steps/s", ("chain",), 1000, 4)]


def fan_out(folder: Path, given: Given) -> list[Row]:
    ours = measure(folder, DURABLE, "fan_out", 10_000, "ints", 5)["per_second"]
    row = Row("fan-out of 10,000 and a sum", f"{ours:,.0f} steps/s", "", None)
    return [row, *beside(folder, given, {row.shape: ours}, "steps/s", ("fan_out",), 10_000, 50)]


def many(folder: Path, given: Given) -> list[Row]:
    rows, ours = [], {}
    for how, name, goal in (
        ("submit_many", "submit_many", 1500),
        ("run_async", "run_async each", 700),
    ):
        found = measure(folder, SHAPES, "many", 1000, how)
        rate = ours[f"the same, {name}"] = found["per_second"]
        text = f"{rate:,.0f} workflows/s (worst {found['worst']:,.0f})"
        shape = f"1,000 workflows of 3 steps, {name}"
        rows.append(Row(shape, text, f">= {goal:,} workflows/s", rate >= goal))
    ways = ("queued", "started")
    return rows + beside(folder, given, ours, "workflows/s", ways, 1000, 10)


# -- large values -------------------------------------------------------------------------------


def arrays(folder: Path, given: Given) -> list[Row]:
    count, size = 20, 50_000_000
    ratios, texts, peak = [], [], 0.0
    for seed in range(3):
        limit = write_mb_per_s(folder, size, count)
        found = measure(folder, SHAPES, "arrays", count, size, seed * 1000)
        ratios.append(found["mb_per_s"] / limit)
        texts.append((ratios[-1], found["mb_per_s"], limit))
        peak = max(peak, found["engine_mb"])
    ratio, ours, limit = sorted(texts)[1]
    text = f"{ours:,.0f} MB/s: {ratio:.0%} of {limit:,.0f} (worst of 3: {min(ratios):.0%})"
    name = "20 steps in a row, each a changed array of 50 MB"
    return [
        Row(name, text, ">= 50 % of write and fsync", ratio >= 0.5),
        Row("the engine's process then, at its peak", f"{peak:.0f} MB", "<= 120 MB", peak <= 120),
    ]


# -- runs of a controller -----------------------------------------------------------------------


def result(folder: Path, given: Given) -> list[Row]:
    commit = commit_seconds(folder) * 1e3
    found = measure(folder, SHAPES, "result", 500)
    goal = 2 * commit + 1.2
    text = f"p50 {found['p50_ms']:.2f} ms, p99 {found['p99_ms']:.2f}"
    text += f" (accepted after {found['accepted_ms']:.2f})"
    what = f"p50 <= {goal:.2f} ms (2 x {commit:.2f} + 1.2)"
    return [Row("run_async to result, one step, warm", text, what, found["p50_ms"] <= goal)]


def first(folder: Path, given: Given) -> list[Row]:
    found = []
    for _ in range(8):
        with new_home(folder) as home:
            found.append(measure_in(home, SHAPES, "first", time.time()))
    del found[0]  # it may have had to compile modules
    middle, worst = _middle(found, "seconds"), max(one["seconds"] for one in found)
    text = f"{middle:.2f} s (worst of 7: {worst:.2f})"
    text += f"; {_middle(found, 'since_start'):.2f} s since the process began"
    return [Row("first run_async, no controller alive", text, "<= 0.5 s", middle <= 0.5)]


def waiting(folder: Path, given: Given) -> list[Row]:
    own = measure(folder, WAITING, "own_clock", 1000)
    text = f"{own['seconds']:.2f} s, of which signalling took {own['signaled']:.2f}"
    real = measure(folder, WAITING, "controller", 1000)
    again = f"{real['seconds']:.2f} s, of which signalling took {real['signaled']:.2f}"
    memory = f"{real['rss_mb']:.0f} MB (peak until then {real['peak_mb']:.0f};"
    memory += f" children {' + '.join(f'{mb:.0f}' for mb in real['children_mb'])})"
    name = "1,000 runs wait for an event"
    return [
        Row(f"{name} for an hour, to all ended", text, "<= 3 s", own["seconds"] <= 3),
        Row(f"{name}, driven by the controller", again, "<= 3 s", real["seconds"] <= 3),
        Row("the controller while they wait", memory, "<= 120 MB", real["rss_mb"] <= 120),
        Row("its CPU while they wait", f"{real['cpu_percent']:.1f} % of one", "", None),
    ]


def cancel(folder: Path, given: Given) -> list[Row]:
    found = []
    for _ in range(5):
        with new_home(folder) as home:
            marks = home / "marks"
            marks.mkdir()
            found.append(measure_in(home, SHAPES, "cancel", 1000, marks))
    assert all(one["started"] == 2 for one in found)
    middle, worst = _middle(found, "dead"), max(one["dead"] for one in found)
    text = f"{middle:.3f} s (worst of 5: {worst:.3f}); returned after"
    text += f" {_middle(found, 'returned'):.3f}"
    name = "cancel, 1,000 queued and 2 running"
    return [Row(name, text, "<= 0.3 s to the end of processes", middle <= 0.3)]


def idle(folder: Path, given: Given) -> list[Row]:
    seconds = 30.0
    with new_home(folder) as home:
        measure_in(home, SHAPES, "first", time.time())
        controller = controller_of(place(home))
        assert controller is not None
        time.sleep(3.0)
        used = cpu_seconds(controller.pid)
        time.sleep(seconds)
        percent = (cpu_seconds(controller.pid) - used) / seconds * 100
        resident, peak = rss_mb(controller.pid), peak_rss_mb(controller.pid)
        below = descendants(controller.pid)
        children = " + ".join(f"{rss_mb(pid):.0f}" for pid in below) or "no"
        memory = f"{resident:.0f} MB (peak {peak:.0f}; children {children}; PSS of all"
        memory += f" {pss_mb(controller.pid):.0f})"
    return [
        Row("idle controller", f"{percent:.2f} % of one CPU", "<= 0.5 %", percent <= 0.5),
        Row("idle controller, resident", memory, "<= 60 MB", resident <= 60),
    ]


def threads(folder: Path, given: Given) -> list[Row]:
    found = measure(folder, SHAPES, "threads", 10_000, WEFTLINE_EXECUTOR="threads")
    text = f"{found['per_second']:,.0f} steps/s (worst {found['worst_per_second']:,.0f})"
    met = found["per_second"] >= 20_000
    return [Row("fan-out of 10,000, threads executor", text, ">= 20,000 steps/s", met)]


def _middle(found: list[Figures], name: str) -> float:
    return float(statistics.median(one[name] for one in found))


PARTS: dict[str, Part] = {
    "chain": chain,
    "fan_out": fan_out,
    "many": many,
    "arrays": arrays,
    "result": result,
    "first": first,
    "waiting": waiting,
    "cancel": cancel,
    "idle": idle,
    "threads": threads,
}


def main() -> None:
    """Measure, print the table, and keep it as JSON when asked to."""
    parser = parser_of("What detached runs, waits and large values reach.", PARTS)
    parser.add_argument(
        "--peer-python", type=Path, metavar="PATH",
        help="an interpreter that has DBOS, to run the same shapes there",
    )  # fmt: skip
    run_parts(PARTS, parser.parse_args(namespace=Given()))


if __name__ == "__main__":
    main()
