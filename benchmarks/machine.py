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


def write_mb_per_s(folder: Path, size: int, count: int) -> float:
    """How fast `count` new files of `size` bytes are written and made durable (fsync), one after
    the other."""
    content = os.urandom(size)
    paths = [folder / f"probe-{n}.bin" for n in range(count)]
    start = time.perf_counter()
    for path in paths:
        with open(path, "wb", buffering=0) as file:
            file.write(content)
            os.fsync(file.fileno())
    taken = time.perf_counter() - start
    for path in paths:
        path.unlink()
    return size * count / 1e6 / taken


def others_cpus(seconds: float) -> float:
    """How many processors all other processes kept busy during this time, which it takes."""
    busy, start = _busy_seconds(), time.monotonic()
    time.sleep(seconds)
    return (_busy_seconds() - busy) / (time.monotonic() - start)


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used so far, with that of its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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


def rss_mb(pid: int | str = "self") -> float:
    """Resident memory of a process now, in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def peak_rss_mb(pid: int | str = "self") -> float:
    """The most resident memory a process had since it began, or since `reset_peak`, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError("the kernel does not tell the peak of resident memory")


def reset_peak() -> None:
    """Start a new measurement of this process's peak."""
    Path("/proc/self/clear_refs").write_text("5")


def _pss_kb(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))


def _busy_seconds() -> float:
    """What all processors have spent on anything but idling or waiting for a disk."""
    names = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    user, nice, system, _idle, _waiting, irq, softirq, steal = map(int, names)
    ticks = user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK")
