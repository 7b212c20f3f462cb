"""DBOS on the shapes that are measured beside it; run as a file, by an interpreter that has DBOS.

usage: PYTHON benchmarks/peer_dbos.py chain|fan_out|queued|started COUNT --journal delete|wal
           --folder FOLDER --out FILE

Each shape is written in the way of DBOS that was the fastest one here: steps of a chain are plain
functions, a fan-out gathers asynchronous steps of one workflow, and many workflows are put on a
queue without limits (`queued`) or started one by one (`started`). It keeps its state in SQLite,
which writes each commit through to the disk (`synchronous=FULL`, the default that DBOS leaves as
it is). DBOS also leaves the rollback journal as it is (`delete`); with `wal` the database was
switched before, so that both sides write as little for a commit as SQLite can.
"""

# mypy: disable-error-code="untyped-decorator,no-any-return"
import argparse
import asyncio
import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from dbos import DBOS

QUEUE = "benchmark"


@DBOS.step()
def add_one(x: int) -> int:
    return x + 1


@DBOS.step()
async def add_one_beside(x: int) -> int:
    return x + 1


@DBOS.step()
async def total(values: list[int]) -> int:
    return sum(values)


@DBOS.workflow()
def chain_of(count: int) -> int:
    x = 0
    for _ in range(count):
        x = add_one(x)
    return x


@DBOS.workflow()
async def fan_out_of(count: int) -> int:
    values = await asyncio.gather(*[add_one_beside(n) for n in range(count)])
    return await total(list(values))


@DBOS.workflow()
def three(x: int) -> int:
    return add_one(add_one(add_one(x)))


def chain(count: int) -> float:
    start = time.perf_counter()
    assert chain_of(count) == count
    return time.perf_counter() - start


def fan_out(count: int) -> float:
    async def once() -> float:
        start = time.perf_counter()
        assert await fan_out_of(count) == count * (count + 1) // 2
        return time.perf_counter() - start

    return asyncio.run(once())


def queued(count: int) -> float:
    DBOS.register_queue(QUEUE)
    start = time.perf_counter()
    handles = [DBOS.enqueue_workflow(QUEUE, three, n) for n in range(count)]
    assert [handle.get_result() for handle in handles] == [n + 3 for n in range(count)]
    return time.perf_counter() - start


def started(count: int) -> float:
    start = time.perf_counter()
    handles = [DBOS.start_workflow(three, n) for n in range(count)]
    assert [handle.get_result() for handle in handles] == [n + 3 for n in range(count)]
    return time.perf_counter() - start


SHAPES: dict[str, Callable[[int], float]] = {
    "chain": chain,
    "fan_out": fan_out,
    "queued": queued,
    "started": started,
}


def launch(folder: Path, journal: str) -> None:
    """DBOS on a database of its own in the folder."""
    path = folder / "dbos.sqlite"
    database = sqlite3.connect(path)
    assert database.execute(f"PRAGMA journal_mode = {journal}").fetchone()[0] == journal
    assert database.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL, also for DBOS
    database.close()
    DBOS(
        config={
            "name": "benchmark",
            "system_database_url": f"sqlite:///{path}",
            "log_level": "ERROR",
            "application_version": "1",
        }
    )
    DBOS.launch()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("count", type=int)
    parser.add_argument("--journal", choices=("delete", "wal"), required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    launch(given.folder, given.journal)
    SHAPES[given.shape](2)  # whatever is done only once is done
    taken = SHAPES[given.shape](given.count)
    given.out.write_text(json.dumps({"seconds": taken, "per_second": given.count / taken}))
    DBOS.destroy()
