"""The journal of a home: one SQLite database, written by any number of processes."""

import math
import sqlite3
from collections.abc import Callable, Collection, Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from weftline.adapters.journal.bells import Bell, ring
from weftline.adapters.journal.database import (
    HomeDatabase,
    end_transaction,
    unusable_home,
)
from weftline.adapters.journal.locks import EngineLocks
from weftline.adapters.journal.sql import (
    ADD_ENVIRONMENT,
    ADD_EVENT,
    ADD_GRAPH_PAGE,
    BEGIN_READ,
    BEGIN_WRITE,
    CHANGES_BY_OTHERS,
    COMMIT,
    CREATE_RUN,
    DELETE_EVENTS,
    DELETE_INBOX,
    DELETE_OBJECTS,
    DELETE_RUN,
    DELETE_UNNAMED_GRAPH,
    EXTEND_RUN,
    FIND_RUN,
    FIRST_EVENT,
    GRAPH_EVENTS,
    HAS_GRAPH,
    HOLD_OBJECT,
    IS_UNTAKEN,
    KNOWS_KEY,
    LAST_SEQ,
    LIST_INBOX,
    LIST_RUNS,
    LIST_RUNS_OF_STATUS,
    LIST_UNREAD,
    NAME_GRAPH,
    OWNER,
    POST,
    READ_ENVIRONMENT,
    READ_EVENTS,
    READ_GRAPH,
    READ_INBOX,
    ROLLBACK,
    TAKE_ENTRY,
    TAKE_KEYED_ENTRY,
    TAKE_RUN,
    UNNAME_GRAPH,
)
from weftline.core.environment import Environment
from weftline.core.events import RunStatus
from weftline.core.values import Error
from weftline.errors import CommitUnknown, StorageError
from weftline.folders import make_private
from weftline.ports.journal import (
    FROM_BASE,
    Batch,
    Creation,
    Entry,
    InboxEntry,
    InboxKind,
    Posted,
    RunChange,
    RunRecord,
    Summary,
)

_NAMES_GRAPH = frozenset({"RunSubmitted", "GraphExtended"})

_Column = str | bytes | float | int | None


class _GraphName(msgspec.Struct):
    """What is read of an event that names a graph."""

    graph: str


_encode = msgspec.json.Encoder().encode
_graph_name = msgspec.json.Decoder(_GraphName).decode
_error = msgspec.json.Decoder(Error).decode


class SqliteJournal:
    """The events of all runs of one home. May be used by any thread.

    `max_pages` caps the database at so many pages of 4 KiB; beyond, commits raise StorageFull.
    With `is_read_only` it is not changed in any way, and commits raise StorageError.
    """

    def __init__(
        self, home: Path, *, max_pages: int | None = None, is_read_only: bool = False
    ) -> None:
        self._database = HomeDatabase(home, max_pages, is_read_only=is_read_only)
        self._engines = EngineLocks(self._database.home / "engines")
        self._registered: set[str] = set()
        self._bells: dict[str, Bell] = {}
        self._environments: dict[str, Environment] = {}
        self._hashes: dict[Environment, str] = {}
        self._own_changes = 0

    # -- Journal ----------------------------------------------------------------------------

    def commit(self, batch: Batch) -> set[str]:
        with self._database.writing() as database:
            return self._commit(database, batch)

    def read(self, run_id: str, after_seq: int = 0) -> tuple[RunRecord, list[Entry]] | None:
        with self._database.reading() as database:
            database.execute(BEGIN_READ)
            try:
                row = database.execute(FIND_RUN, (run_id,)).fetchone()
                if row is None:
                    return None
                after = row[18] - 1 if after_seq == FROM_BASE else after_seq
                rows = database.execute(READ_EVENTS, (run_id, after))
                return self._record(database, row), list(map(Entry._make, rows))
            finally:
                end_transaction(database, COMMIT)

    def read_graph(self, graph_hash: str) -> list[bytes]:
        with self._database.reading() as database:
            pages = [page for (page,) in database.execute(READ_GRAPH, (graph_hash,))]
        if not pages:
            raise StorageError(f"{self._database.path} has no graph {graph_hash}")
        return pages

    def read_inbox(self, engine: str) -> list[InboxEntry]:
        with self._database.reading() as database:
            return list(map(InboxEntry._make, database.execute(READ_INBOX, (engine,))))

    def register(self, engine: str, on_news: Callable[[], None] | None = None) -> None:
        try:
            make_private(self._database.home)
            self._engines.register(engine)
            self._registered.add(engine)  # from here on it is to be released
            if on_news is not None:
                self._bells[engine] = Bell(self._database.home / "engines", engine, on_news)
        except OSError as error:
            raise unusable_home(self._database.home, error) from error

    def release(self, engine: str) -> None:
        bell = self._bells.pop(engine, None)
        if bell is not None:
            bell.close()
        self._engines.release(engine)
        self._registered.discard(engine)

    def is_alive(self, engine: str) -> bool:
        try:
            return self._engines.is_alive(engine)
        except OSError as error:
            raise unusable_home(self._database.home, error) from error

    # -- RunCatalogue -----------------------------------------------------------------------

    def find_run(self, run_id: str) -> RunRecord | None:
        with self._database.reading() as database:
            database.execute(BEGIN_READ)
            try:
                row = database.execute(FIND_RUN, (run_id,)).fetchone()
                return None if row is None else self._record(database, row)
            finally:
                end_transaction(database, COMMIT)

    def first_event(self, run_id: str) -> Entry | None:
        with self._database.reading() as database:
            row = database.execute(FIRST_EVENT, (run_id,)).fetchone()
            return None if row is None else Entry._make(row)

    def list_runs(
        self,
        *,
        statuses: Iterable[RunStatus] | None = None,
        workflow: str | None = None,
        detached: bool | None = None,
        limit: int | None = None,
        before: float | None = None,
    ) -> list[RunRecord]:
        wanted: dict[str, _Column] = {
            "workflow": workflow,
            "detached": detached,
            "limit": -1 if limit is None else limit,
            "before": math.inf if before is None else before,
        }
        with self._database.reading() as database:
            if statuses is None:
                rows = database.execute(LIST_RUNS, wanted).fetchall()
                return [self._record(database, row) for row in rows]
            rows = []
            database.execute(BEGIN_READ)
            try:
                # Each status is one walk along an index that is in this order already.
                for status in set(statuses):
                    wanted["status"] = status.value
                    rows += database.execute(LIST_RUNS_OF_STATUS, wanted)
                rows.sort(key=_age, reverse=True)
                return [self._record(database, row) for row in rows[:limit]]
            finally:
                end_transaction(database, COMMIT)

    def delete_run(self, run_id: str, epoch: int) -> bool:
        with self._database.writing() as database:
            try:
                database.execute(BEGIN_WRITE)
                if not forget_run(database, run_id, epoch):
                    return False
                database.execute(COMMIT)
            finally:
                end_transaction(database, ROLLBACK)
            self._own_changes += 1
        return True

    def post(
        self,
        run_id: str,
        kind: InboxKind,
        body: bytes,
        key: str | None = None,
        *,
        unless: Collection[RunStatus] = (),
    ) -> Posted | None:
        values = (run_id, kind.value, body, key, f" {' '.join(unless)} ")
        with self._database.writing() as database:
            try:
                database.execute(BEGIN_WRITE)
                posted = database.execute(POST, values).rowcount == 1
                row = database.execute(OWNER, (run_id,)).fetchone()
                if posted:
                    database.execute(COMMIT)
                    self._own_changes += 1
            finally:
                end_transaction(database, ROLLBACK)
        if row is None:
            return None
        status, engine = row
        if posted and engine is not None:
            ring(self._database.home / "engines", engine)
        return Posted(posted, RunStatus(status), engine)

    def knows_key(self, run_id: str, key: str) -> bool:
        with self._database.reading() as database:
            return database.execute(KNOWS_KEY, (run_id, key)).fetchone() is not None

    def list_inbox(self, run_id: str) -> list[InboxEntry]:
        with self._database.reading() as database:
            return list(map(InboxEntry._make, database.execute(LIST_INBOX, (run_id,))))

    def list_unread(self) -> list[str]:
        with self._database.reading() as database:
            return [run_id for (run_id,) in database.execute(LIST_UNREAD)]

    def change_count(self) -> int:
        with self._database.reading() as database:
            row = database.execute(CHANGES_BY_OTHERS).fetchone()
        return int(row[0]) + self._own_changes

    def close(self) -> None:
        for engine in list(self._registered):
            self.release(engine)
        self._database.close()

    # -- commit, step by step ---------------------------------------------------------------

    def _commit(self, database: sqlite3.Connection, batch: Batch) -> set[str]:
        refused: set[str] = set()
        accepted: list[RunChange] = []
        # Stored with every run that names it: one that no run named may have been removed.
        environments: dict[str, Environment] = {}
        events: list[tuple[str, int, float, str, bytes]] = []
        graphs: list[tuple[str, str]] = []
        taken: list[tuple[int]] = []
        cursor = database.cursor()
        is_committing = False
        try:
            cursor.execute(BEGIN_WRITE)
            for change in batch.changes:
                if change.creation is None:
                    is_accepted = _extend(cursor, change)
                else:
                    environment = self._environment_hash(change.creation.environment)
                    environments[environment] = change.creation.environment
                    is_accepted = _create(cursor, change, change.creation, environment)
                run_id = change.run_id
                if not is_accepted:
                    refused.add(run_id)
                    continue
                accepted.append(change)
                entries = change.entries
                events += [(run_id, *entry) for entry in entries]
                taken += [(number,) for number in change.taken]
                graphs += [
                    (_graph_name(entry.body).graph, run_id)
                    for entry in entries
                    if entry.kind in _NAMES_GRAPH
                ]
            cursor.executemany(ADD_EVENT, events)
            for graph, pages in batch.graphs:
                if cursor.execute(HAS_GRAPH, (graph,)).fetchone() is None:
                    numbered = ((graph, number, page) for number, page in enumerate(pages))
                    cursor.executemany(ADD_GRAPH_PAGE, numbered)
            if graphs:
                cursor.executemany(NAME_GRAPH, graphs)
            if taken:
                cursor.executemany(TAKE_ENTRY, taken)
                cursor.executemany(TAKE_KEYED_ENTRY, taken)
            if batch.objects:
                held = [(run_id, name) for run_id, name in batch.objects if run_id not in refused]
                cursor.executemany(HOLD_OBJECT, held)
            for name, each in environments.items():
                cursor.execute(ADD_ENVIRONMENT, (name, _encode(each)))
            is_committing = True
            cursor.execute(COMMIT)
        except BaseException as error:
            end_transaction(database, ROLLBACK)
            if not isinstance(error, sqlite3.Error):
                raise
            if not is_committing or not self._took_place(database, accepted, error):
                raise
        self._own_changes += 1
        return refused

    def _took_place(
        self, database: sqlite3.Connection, accepted: list[RunChange], cause: sqlite3.Error
    ) -> bool:
        """Whether a commit that raised was carried out all the same.

        Nobody else has written since: the writer lock is still held.
        """
        try:
            for change in {change.run_id: change for change in accepted}.values():
                row = database.execute(FIND_RUN, (change.run_id,)).fetchone()
                if row is None:
                    return False
                epoch = 1 if change.creation else change.epoch + change.takes
                last_seq = change.entries[-1].seq if change.entries else row[9]
                if (row[7], row[9], *row[10:19]) != (epoch, last_seq, *_columns(change.summary)):
                    return False
                for number in change.taken:
                    if database.execute(IS_UNTAKEN, (number,)).fetchone() is not None:
                        return False
        except sqlite3.Error:
            raise CommitUnknown(
                f"{self._database.path}: {cause}; whether the last commit took place is not known"
            ) from cause
        return bool(accepted)

    def _environment_hash(self, environment: Environment) -> str:
        """The name under which the environment is stored."""
        name = self._hashes.get(environment)
        if name is None:
            name = self._hashes[environment] = sha256(_encode(environment)).hexdigest()
        return name

    # -- reading rows -----------------------------------------------------------------------

    def _record(self, database: sqlite3.Connection, row: tuple[Any, ...]) -> RunRecord:
        (run_id, workflow, created_at, environment, metadata, detached, parent) = row[:7]
        (epoch, engine, last_seq, status, steps, succeeded) = row[7:13]
        (started_at, ended_at, wake_at, error, value, base_seq, _) = row[13:]
        return RunRecord(
            run_id=run_id,
            creation=Creation(
                workflow=workflow,
                created_at=created_at,
                environment=self._environment(database, environment),
                metadata=msgspec.json.decode(metadata),
                detached=bool(detached),
                parent=parent,
            ),
            summary=Summary(
                status=RunStatus(status),
                steps=steps,
                succeeded=succeeded,
                started_at=started_at,
                ended_at=ended_at,
                wake_at=wake_at,
                error=None if error is None else _error(error),
                value=value,
                base_seq=base_seq,
            ),
            epoch=epoch,
            engine=engine,
            last_seq=last_seq,
        )

    def _environment(self, database: sqlite3.Connection, name: str) -> Environment:
        found = self._environments.get(name)
        if found is None:
            row = database.execute(READ_ENVIRONMENT, (name,)).fetchone()
            found = msgspec.json.decode(row[0], type=Environment)
            self._environments[name] = found
        return found


def forget_run(database: sqlite3.Connection, run_id: str, epoch: int) -> bool:
    """Delete all of the run, unless its epoch changed, in the transaction that is open; whether it
    was there to be deleted."""
    if database.execute(DELETE_RUN, (run_id, epoch)).rowcount == 0:
        return False
    bodies = database.execute(GRAPH_EVENTS, (run_id,)).fetchall()
    graphs = {_graph_name(body).graph for (body,) in bodies}
    database.execute(DELETE_EVENTS, (run_id,))
    database.execute(DELETE_OBJECTS, (run_id,))
    database.execute(DELETE_INBOX, (run_id,))
    database.executemany(UNNAME_GRAPH, [(graph, run_id) for graph in graphs])
    database.executemany(DELETE_UNNAMED_GRAPH, [(graph,) for graph in graphs])
    return True


# -- one change -----------------------------------------------------------------------------


def _create(
    cursor: sqlite3.Cursor, change: RunChange, creation: Creation, environment: str
) -> bool:
    """Add the run's row; whether it was accepted."""
    entries = change.entries
    if entries and entries[0].seq != 1:
        return False
    values = (
        change.run_id,
        creation.workflow,
        creation.created_at,
        environment,
        _encode(creation.metadata),
        creation.detached,
        creation.parent,
        change.engine,
        entries[-1].seq if entries else 0,
        *_columns(change.summary),
    )
    return cursor.execute(CREATE_RUN, values).rowcount == 1


def _extend(cursor: sqlite3.Cursor, change: RunChange) -> bool:
    """Bring the run's row up to date; whether the change was accepted."""
    entries = change.entries
    if entries:
        before, last_seq = entries[0].seq - 1, entries[-1].seq
    else:
        row = cursor.execute(LAST_SEQ, (change.run_id,)).fetchone()
        before = last_seq = row[0] if row else 0
    guard = (change.run_id, change.epoch, before)
    if change.takes:
        values = (*_columns(change.summary), last_seq, change.engine, change.detached, *guard)
        return cursor.execute(TAKE_RUN, values).rowcount == 1
    return cursor.execute(EXTEND_RUN, (*_columns(change.summary), last_seq, *guard)).rowcount == 1


def _columns(summary: Summary) -> tuple[_Column, ...]:
    return (
        # The text itself: SQLite's module is slow with a subclass of it.
        summary.status.value,
        summary.steps,
        summary.succeeded,
        summary.started_at,
        summary.ended_at,
        summary.wake_at,
        None if summary.error is None else _encode(summary.error),
        summary.value,
        summary.base_seq,
    )


def _age(row: tuple[Any, ...]) -> tuple[float, int]:
    """Sorts rows of runs: by time, and in order of submission where that is the same."""
    return row[2], row[-1]
