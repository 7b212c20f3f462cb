"""Upkeep of the database of a home, beside the engines that write to it."""

import os
import sqlite3
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from weftline.adapters.journal.database import HomeDatabase, end_transaction
from weftline.adapters.journal.names import LOG_MARK, begins_actor, logs_in, objects_in
from weftline.adapters.journal.sql import (
    BEGIN_READ,
    BEGIN_WRITE,
    COMMIT,
    COMPACT,
    DELETE_UNNAMED_ENVIRONMENT,
    DELETE_UNNAMED_GRAPH,
    FOLD_LOG,
    IS_HELD,
    IS_HELD_BY_UNFINISHED,
    LIST_ENDED,
    LIST_ENVIRONMENTS,
    LIST_GRAPHS,
    LIST_HELD,
    LIST_LOGGED,
    LIST_NAMED_ENVIRONMENTS,
    LIST_NAMED_GRAPHS,
    LIST_NEWS,
    PAGES,
    ROLLBACK,
    patience,
)
from weftline.adapters.journal.sqlite import forget_run
from weftline.core.events import RunStatus
from weftline.ports.objects import Removed, StoredFile
from weftline.ports.upkeep import EndedRun, Held, Space, Unnamed

_PATIENCE_MS, _LITTLE_PATIENCE_MS = 30_000, 100

_Sizes = dict[str, int]


class SqliteUpkeep:
    """The upkeep of one home's journal; also gives back what the database does not use."""

    def __init__(self, home: Path) -> None:
        self._database = HomeDatabase(home)
        # Objects that news have named since the last look at all. Their numbers only grow, and what
        # is taken in is held by its run from the same commit on.
        self._news: set[str] = set()
        self._last_news = 0

    # -- runs -------------------------------------------------------------------------------

    def ended_runs(self, statuses: Iterable[RunStatus], before: float) -> list[EndedRun]:
        found = []
        with self._database.reading() as database:
            for status in set(statuses):
                for *row, first in database.execute(LIST_ENDED, (status.value, before)):
                    if not begins_actor(first):
                        run_id, epoch, _, ended_at, size = row
                        found.append(EndedRun(run_id, epoch, status, ended_at, size))
        return sorted(found, key=lambda run: run.ended_at)

    def delete_runs(self, runs: Sequence[EndedRun]) -> Removed:
        with self._database.writing() as database:
            try:
                database.execute(BEGIN_WRITE)
                gone = [run for run in runs if forget_run(database, run.run_id, run.epoch)]
                database.execute(COMMIT)
            finally:
                end_transaction(database, ROLLBACK)
        return Removed(len(gone), sum(run.size_bytes for run in gone))

    # -- objects ----------------------------------------------------------------------------

    def held_objects(self, without: Container[str] = ()) -> Held:
        by_any, by_unfinished = set[str](), set[str]()
        with self._database.reading() as database:
            try:
                database.execute(BEGIN_READ)
                self._news, self._last_news = set(), 0
                for run_id, names in self._read_news(database):
                    if run_id not in without:
                        by_unfinished.update(names)
                by_any |= by_unfinished
                for run_id, name, has_ended in database.execute(LIST_HELD):
                    if run_id not in without:
                        by_any.add(name)
                        if not has_ended:
                            by_unfinished.add(name)
            finally:
                end_transaction(database, COMMIT)
        return Held(by_any, by_unfinished)

    @contextmanager
    def unheld(self, files: Sequence[StoredFile]) -> Iterator[list[StoredFile]]:
        # Whoever commits waits for this lock, so no transaction is needed.
        with self._database.writing() as database:
            self._read_news(database)
            yield [each for each in files if not self._is_held(database, each)]

    def _read_news(self, database: sqlite3.Connection) -> list[tuple[str, tuple[str, ...]]]:
        """Take note of news that came since; which runs they are for, and what they name."""
        found = []
        for number, run_id, news in database.execute(LIST_NEWS, (self._last_news,)):
            names = objects_in(news)
            self._news.update(names)
            self._last_news = max(self._last_news, number)
            found.append((run_id, names))
        return found

    def _is_held(self, database: sqlite3.Connection, found: StoredFile) -> bool:
        if found.name in self._news:
            return True
        question = IS_HELD_BY_UNFINISHED if found.is_volatile else IS_HELD
        return database.execute(question, (found.name,)).fetchone() is not None

    # -- what runs name ---------------------------------------------------------------------

    def unnamed(self, without: Container[str] = ()) -> Unnamed:
        graphs, environments = self._unnamed(without)
        return Unnamed(
            Removed(len(graphs), sum(graphs.values())),
            Removed(len(environments), sum(environments.values())),
        )

    def drop_unnamed(self) -> Unnamed:
        found = self._unnamed(())
        if not any(found):
            return Unnamed(Removed(0, 0), Removed(0, 0))
        with self._database.writing() as database:
            try:
                database.execute(BEGIN_WRITE)
                removed = [
                    _drop(database, statement, sizes)
                    for statement, sizes in zip(
                        (DELETE_UNNAMED_GRAPH, DELETE_UNNAMED_ENVIRONMENT), found, strict=True
                    )
                ]
                database.execute(COMMIT)
            finally:
                end_transaction(database, ROLLBACK)
        return Unnamed(*removed)

    def _unnamed(self, without: Container[str]) -> tuple[_Sizes, _Sizes]:
        """Graphs and environments that no run names, with their sizes."""
        with self._database.reading() as database:
            try:
                database.execute(BEGIN_READ)
                graphs = _left(database, LIST_GRAPHS, LIST_NAMED_GRAPHS, without)
                return graphs, _left(database, LIST_ENVIRONMENTS, LIST_NAMED_ENVIRONMENTS, without)
            finally:
                end_transaction(database, COMMIT)

    def named_logs(self, without: Container[str] = ()) -> set[str]:
        found = set[str]()
        with self._database.reading() as database:
            for run_id, event in database.execute(LIST_LOGGED, (LOG_MARK,)):
                if run_id not in without:
                    found.update(logs_in(event))
        return found

    # -- room on the disk -------------------------------------------------------------------

    def space(self) -> Space:
        with self._database.reading() as database:
            page, pages, free = database.execute(PAGES).fetchone()
        try:
            log = os.stat(f"{self._database.path}-wal").st_size
        except FileNotFoundError:
            log = 0
        return Space(page * pages, page * free, log)

    def fold_log(self) -> None:
        with self._database.writing() as database:
            _fold_log(database)

    def compact(self) -> None:
        with self._database.writing() as database:
            database.execute(COMPACT)
            _fold_log(database)

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()


def _left(database: sqlite3.Connection, stored: str, named: str, without: Container[str]) -> _Sizes:
    """What is stored and not named, with its size."""
    sizes: _Sizes = dict(database.execute(stored))
    for name, run_id in database.execute(named):
        if run_id not in without:
            sizes.pop(name, None)
    return sizes


def _drop(database: sqlite3.Connection, statement: str, sizes: _Sizes) -> Removed:
    """Delete what is still unnamed."""
    gone = [name for name in sizes if database.execute(statement, (name,)).rowcount]
    return Removed(len(gone), sum(sizes[name] for name in gone))


def _fold_log(database: sqlite3.Connection) -> None:
    # Writers wait meanwhile, so it is left to another time where a reader is in the way.
    database.execute(patience(_LITTLE_PATIENCE_MS))
    try:
        database.execute(FOLD_LOG).fetchall()
    finally:
        database.execute(patience(_PATIENCE_MS))
