"""Looks into the database of a home for what must not be, and changes nothing of it.

SQLite may leave two files beside it that hold nothing, `-wal` and `-shm`; whoever writes next takes
them away.
"""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from weftline.adapters.journal.database import HomeDatabase, newest_schema
from weftline.adapters.journal.sql import (
    INTEGRITY_CHECK,
    LIST_GAPS,
    LIST_MISSING_GRAPHS,
    LIST_OBJECTS,
    LIST_OWNERLESS,
    QUICK_CHECK,
    SCHEMA_VERSION,
)


class Gap(NamedTuple):
    """A run whose `events` events, numbered from `first` to `last`, are not all it should have."""

    run_id: str
    last_seq: int
    events: int
    first: int
    last: int


class HeldObject(NamedTuple):
    """An object that `runs` runs hold, `run_id` among them."""

    name: str
    run_id: str
    runs: int


class Inspection:
    """The database of one home, beside whoever writes to it.

    Raises (all calls): StorageError, when it cannot be read as far as that.
    """

    def __init__(self, home: Path) -> None:
        self._database = HomeDatabase(home, is_read_only=True)

    def schema(self) -> tuple[int, int]:
        """The number of the database's schema, and of the newest that this release knows."""
        with self._database.reading() as database:
            return int(database.execute(SCHEMA_VERSION).fetchone()[0]), newest_schema()

    def damage(self, *, full: bool) -> list[str]:
        """What is wrong with the file itself, in SQLite's words; with `full` indexes are compared
        with their tables."""
        statement = INTEGRITY_CHECK if full else QUICK_CHECK
        with self._database.reading() as database:
            try:
                found = [str(row[0]) for row in database.execute(statement)]
            except sqlite3.DatabaseError as error:  # so damaged that the check itself fails
                return [str(error)]
        return [] if found == ["ok"] else found

    def gaps(self, limit: int | None) -> list[Gap]:
        """Of the newest `limit` runs (None: all), those that lack events."""
        with self._database.reading() as database:
            rows = database.execute(LIST_GAPS, (-1 if limit is None else limit,))
            return [Gap._make(row) for row in rows]

    def ownerless_events(self) -> list[str]:
        """Ids of runs of which there are events only."""
        with self._database.reading() as database:
            return [str(row[0]) for row in database.execute(LIST_OWNERLESS)]

    def missing_graphs(self) -> list[tuple[str, str]]:
        """Run and graph, where the graph is not there."""
        with self._database.reading() as database:
            return [(str(run), str(graph)) for run, graph in database.execute(LIST_MISSING_GRAPHS)]

    def held_objects(self) -> Iterator[HeldObject]:
        """Every object that a run holds."""
        with self._database.reading() as database:
            rows = database.execute(LIST_OBJECTS).fetchall()
        return map(HeldObject._make, rows)

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()
