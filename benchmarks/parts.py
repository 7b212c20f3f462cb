"""Parts of a benchmark, run one after the other on an idle machine, which give lines of a table.

What is measured runs as a shape: a function that returns its figures, called in a fresh process on
an empty home.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.answer import Figures
from benchmarks.machine import commit_seconds, fsync_seconds, others_cpus
from weftline.cli.processes import controller_of

IDLE_CPUS = 0.05
"""A machine counts as idle when all others together use less than this of one processor."""


class Row(NamedTuple):
    """One line of the table. `goal` is what was asked for, in the same unit; `met` is None where
    nothing was asked for."""

    shape: str
    measured: str
    goal: str
    met: bool | None

    @property
    def sign(self) -> str:
        return "" if self.met is None else "met" if self.met else "MISSED"


# -- shapes -------------------------------------------------------------------------------------


def measure(folder: Path, module: str, shape: str, *arguments: object, **variables: str) -> Figures:
    """Run one shape of a module in a process of its own, on an empty home."""
    with new_home(folder) as home:
        return measure_in(home, module, shape, *arguments, **variables)


def measure_in(
    home: Path, module: str, shape: str, *arguments: object, **variables: str
) -> Figures:
    """Run one shape in a process of its own, on this home."""
    out = home / "out.json"
    subprocess.run(
        command(module, shape, out, *arguments), env=environ(home) | variables, check=True
    )
    found: Figures = json.loads(out.read_text())
    return found


@contextmanager
def new_home(folder: Path) -> Iterator[Path]:
    """A folder for one home, whose controller is ended afterwards."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        try:
            yield Path(name)
        finally:
            end_controller(place(Path(name)))


def place(home: Path) -> Path:
    """Where in such a folder the home itself lies."""
    return home / "home"


def environ(home: Path) -> dict[str, str]:
    found = os.environ | {"WEFTLINE_HOME": str(place(home)), "WEFTLINE_NUM_CPUS": "2"}
    found.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed has been compiled
    return found


def command(module: str, shape: str, out: Path, *arguments: object) -> list[str]:
    return [sys.executable, "-m", module, shape, *map(str, arguments), "--out", str(out)]


def end_controller(home: Path) -> None:
    """End the controller that lives in the home, and wait until it has ended."""
    while (controller := controller_of(home)) is not None and controller.pid > 0:
        os.kill(controller.pid, signal.SIGTERM)
        time.sleep(0.02)


# -- parts --------------------------------------------------------------------------------------


class Given(argparse.Namespace):
    """What the command line says."""

    only: str
    json: Path | None
    patience: float
    peer_python: Path | None


Part = Callable[[Path, Given], list[Row]]


def parser_of(what: str, parts: Mapping[str, Part]) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument(
        "--only", default=",".join(parts), metavar="PART,...", help="of: %(default)s"
    )
    parser.add_argument("--json", type=Path, help="a file to write the table to")
    parser.add_argument(
        "--patience", type=float, default=120, metavar="SECONDS",
        help="how long to wait at most until the machine is idle, before each part",
    )  # fmt: skip
    return parser


def run_parts(parts: Mapping[str, Part], given: Given) -> None:
    """Measure, print each line as it is known and the table at the end, and keep it as JSON."""
    wanted = given.only.split(",")
    unknown = [name for name in wanted if name not in parts]
    if unknown:
        sys.exit(f"there is no part {', '.join(unknown)}; there are: {', '.join(parts)}")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(
        dir=os.environ.get("BENCH_TMP") or Path.cwd(), prefix=".bench-"
    ) as name:
        folder = Path(name)
        for part in wanted:
            used = wait_until_idle(given.patience)
            commit, fsync = commit_seconds(folder), fsync_seconds(folder)
            print(
                f"{part}: one durable commit {commit * 1e3:.3f} ms, fdatasync {fsync * 1e3:.3f} ms"
                + busy_note(used, "when it began")
            )
            for row in parts[part](folder, given):
                rows.append(row)
                print(f"{row.sign:<6} {row.shape:<52} {row.measured:<58} {row.goal}", flush=True)
            if note := busy_note(others_cpus(0.5), "when it ended"):
                print(f"{part}{note}", flush=True)
    print_table(rows)
    if given.json:
        given.json.write_text(json.dumps([row._asdict() for row in rows], indent=1))


def wait_until_idle(patience_s: float) -> float:
    """Wait until others use next to nothing of the machine; what they used last, in CPUs."""
    end = time.monotonic() + patience_s
    while (used := others_cpus(1.0)) >= IDLE_CPUS and time.monotonic() < end:
        pass
    return used


def busy_note(used: float, when: str) -> str:
    """What to say of figures that others may have disturbed."""
    if used < IDLE_CPUS:
        return ""
    return f"; others used {used:.2f} CPUs {when}, so its figures mean little"


def print_table(rows: list[Row]) -> None:
    print("\n| shape | measured | goal | |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row.shape} | {row.measured} | {row.goal} | {row.sign} |")
