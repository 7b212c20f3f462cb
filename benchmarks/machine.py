"""The machine's own limits, probed in the same run as what is measured against them."""

import os
import sqlite3
import statistics
import time
from pathlib import Path


def commit_seconds(folder: Path, count: int = 300) -> float:
    """Median seconds of one durable single-row commit: SQLite, WAL, synchronous=FULL."""
    path = folder / "probe.db"
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("CREATE TABLE log (run TEXT, seq INTEGER, body BLOB, PRIMARY KEY (run, seq))")
    taken = []
    for seq in range(count):
        start = time.perf_counter()
        database.execute("INSERT INTO log VALUES ('run', ?, ?)", (seq, b"x" * 100))
        taken.append(time.perf_counter() - start)
    database.close()
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return statistics.median(taken)


def fsync_seconds(folder: Path, count: int = 300) -> float:
    """Median seconds of appending 200 bytes to a file and making them durable."""
    path = folder / "probe.log"
    taken = []
    with open(path, "wb", buffering=0) as file:
        for _ in range(count):
            start = time.perf_counter()
            file.write(b"x" * 200)
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - start)
    path.unlink()
    return statistics.median(taken)


def other_load() -> float:
    """Load of the machine in the last minute: figures taken beside other work mean little."""
    return os.getloadavg()[0]


def pss_mb(pid: int) -> float:
    """Proportional memory of a process and all below it, in MB."""
    return sum(_pss_kb(one) for one in [pid, *descendants(pid)]) / 1024


def descendants(pid: int) -> list[int]:
    """Processes below `pid`."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    found: list[int] = []
    todo = [pid]
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += children
    return found


def rss_mb() -> float:
    """Resident memory of this process now, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def peak_rss_mb() -> float:
    """The most resident memory this process had since `reset_peak`, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError("the kernel does not tell the peak of resident memory")


def reset_peak() -> None:
    """Start a new measurement of the peak."""
    Path("/proc/self/clear_refs").write_text("5")


def _pss_kb(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
