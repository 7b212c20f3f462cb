"""The journal of a home: one SQLite database, written by any number of processes.

The home folder holds `weftline.db` (with its write-ahead log beside it), `writer.lock` and
`engines/`. Each thread reads through a connection of its own; commits wait for each other at
`writer.lock`. A forked child closes what it inherited and opens anew.
"""

import errno
import math
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote
from weakref import WeakSet

import msgspec

from weftline.adapters.journal import sql
from weftline.adapters.journal.locks import EngineLocks, WriterLock, writer_lock
from weftline.core.environment import Environment
from weftline.core.events import RunStatus
from weftline.core.values import Error
from weftline.errors import CommitUnknown, NewerHome, StorageError, StorageFull
from weftline.ports import Batch, Creation, Entry, RunChange, RunRecord, Summary

_MIGRATIONS = Path(__file__).with_name("migrations")
_BUSY_TIMEOUT_S = 30.0  # only programs that do not know writer.lock make anyone wait at all
_FORK_TIMEOUT_S = 5.0
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NAMES_GRAPH = frozenset({"RunSubmitted", "GraphExtended"})

_Column = str | bytes | float | int | None


class _GraphName(msgspec.Struct):
    """What is read of an event that names a graph."""

    graph: str


_encode = msgspec.json.Encoder().encode
_graph_name = msgspec.json.Decoder(_GraphName).decode
_error = msgspec.json.Decoder(Error).decode


class _Connection:
    """One thread's connection. Whoever uses it holds `lock`, so that a fork finds it at rest."""

    __slots__ = ("database", "lock", "thread")

    def __init__(self, database: sqlite3.Connection) -> None:
        self.database = database
        self.lock = threading.RLock()
        self.thread = threading.current_thread()


class SqliteJournal:
    """The events of all runs of one home. May be used by any thread.

    `max_pages` caps the database at so many pages of 4 KiB; beyond, commits raise StorageFull.
    """

    def __init__(self, home: Path, *, max_pages: int | None = None) -> None:
        self.home = Path(os.path.realpath(home))
        self._path = self.home / "weftline.db"
        self._max_pages = max_pages
        self._engines = EngineLocks(self.home / "engines")
        self._registered: set[str] = set()
        self._environments: dict[str, Environment] = {}
        self._hashes: dict[Environment, str] = {}  # of environments that are stored for sure
        self._own_changes = 0
        self._is_closed = False
        self._is_lost = False
        self._start()
        _journals.add(self)

    def _start(self) -> None:
        """Have nothing open: at first, and in a forked child."""
        self._lock = threading.RLock()  # while connections are opened and closed
        self._local = threading.local()
        self._connections: list[_Connection] = []
        self._writer: WriterLock | None = None
        self._file_id: tuple[int, int] | None = None

    # -- Journal ----------------------------------------------------------------------------

    def commit(self, batch: Batch) -> set[str]:
        with self._writing() as database:
            return self._commit(database, batch)

    def read(self, run_id: str, after_seq: int = 0) -> tuple[RunRecord, list[Entry]] | None:
        with self._reading() as database:
            database.execute(sql.BEGIN_READ)
            try:
                row = database.execute(sql.FIND_RUN, (run_id,)).fetchone()
                if row is None:
                    return None
                rows = database.execute(sql.READ_EVENTS, (run_id, after_seq))
                return self._record(database, row), list(map(Entry._make, rows))
            finally:
                _end(database, sql.COMMIT)

    def read_graph(self, graph_hash: str) -> list[bytes]:
        with self._reading() as database:
            pages = [page for (page,) in database.execute(sql.READ_GRAPH, (graph_hash,))]
        if not pages:
            raise StorageError(f"{self._path} has no graph {graph_hash}")
        return pages

    def register(self, engine: str) -> None:
        try:
            make_home(self.home)
            self._engines.register(engine)
        except OSError as error:
            raise _unusable(self.home, error) from error
        self._registered.add(engine)

    def release(self, engine: str) -> None:
        self._engines.release(engine)
        self._registered.discard(engine)

    def is_alive(self, engine: str) -> bool:
        try:
            return self._engines.is_alive(engine)
        except OSError as error:
            raise _unusable(self.home, error) from error

    # -- RunCatalogue -----------------------------------------------------------------------

    def find_run(self, run_id: str) -> RunRecord | None:
        with self._reading() as database:
            row = database.execute(sql.FIND_RUN, (run_id,)).fetchone()
            return None if row is None else self._record(database, row)

    def list_runs(
        self,
        *,
        statuses: Iterable[RunStatus] | None = None,
        workflow: str | None = None,
        limit: int | None = None,
        before: float | None = None,
    ) -> list[RunRecord]:
        wanted: dict[str, _Column] = {
            "workflow": workflow,
            "limit": -1 if limit is None else limit,
            "before": math.inf if before is None else before,
        }
        with self._reading() as database:
            if statuses is None:
                rows = database.execute(sql.LIST_RUNS, wanted).fetchall()
                return [self._record(database, row) for row in rows]
            rows = []
            database.execute(sql.BEGIN_READ)
            try:
                # Each status is one walk along an index that is in this order already.
                for status in set(statuses):
                    wanted["status"] = status.value
                    rows += database.execute(sql.LIST_RUNS_OF_STATUS, wanted)
                rows.sort(key=_age, reverse=True)
                return [self._record(database, row) for row in rows[:limit]]
            finally:
                _end(database, sql.COMMIT)

    def delete_run(self, run_id: str, epoch: int) -> bool:
        with self._writing() as database:
            try:
                database.execute(sql.BEGIN_WRITE)
                if database.execute(sql.DELETE_RUN, (run_id, epoch)).rowcount == 0:
                    return False
                bodies = database.execute(sql.GRAPH_EVENTS, (run_id,)).fetchall()
                graphs = {_graph_name(body).graph for (body,) in bodies}
                database.execute(sql.DELETE_EVENTS, (run_id,))
                database.execute(sql.DELETE_OBJECTS, (run_id,))
                database.executemany(sql.UNNAME_GRAPH, [(graph, run_id) for graph in graphs])
                database.executemany(sql.DELETE_UNNAMED_GRAPH, [(graph,) for graph in graphs])
                database.execute(sql.COMMIT)
            finally:
                _end(database, sql.ROLLBACK)
            self._own_changes += 1
        return True

    def change_count(self) -> int:
        with self._reading() as database:
            row = database.execute(sql.CHANGES_BY_OTHERS).fetchone()
        return int(row[0]) + self._own_changes

    def close(self) -> None:
        for engine in list(self._registered):
            self.release(engine)
        with self._lock:
            self._is_closed = True
            self._local = threading.local()
            writer, self._writer = self._writer, None
            if writer is None:
                return
            # The last connection of all folds the log into the database, which is writing.
            with writer:
                while self._connections:
                    connection = self._connections.pop()
                    with connection.lock:
                        connection.database.close()
            writer.close()

    # -- commit, step by step ---------------------------------------------------------------

    def _commit(self, database: sqlite3.Connection, batch: Batch) -> set[str]:
        refused: set[str] = set()
        accepted: list[RunChange] = []
        new_environments: dict[Environment, str] = {}
        events: list[tuple[str, int, float, str, bytes]] = []
        graphs: list[tuple[str, str]] = []
        cursor = database.cursor()
        is_committing = False
        try:
            cursor.execute(sql.BEGIN_WRITE)
            for change in batch.changes:
                if change.creation is None:
                    is_accepted = _extend(cursor, change)
                else:
                    environment = self._environment_hash(change.creation, new_environments)
                    is_accepted = _create(cursor, change, change.creation, environment)
                run_id = change.run_id
                if not is_accepted:
                    refused.add(run_id)
                    continue
                accepted.append(change)
                entries = change.entries
                events += [(run_id, *entry) for entry in entries]
                graphs += [
                    (_graph_name(entry.body).graph, run_id)
                    for entry in entries
                    if entry.kind in _NAMES_GRAPH
                ]
            cursor.executemany(sql.ADD_EVENT, events)
            for graph, pages in batch.graphs:
                if cursor.execute(sql.HAS_GRAPH, (graph,)).fetchone() is None:
                    numbered = [(graph, number, page) for number, page in enumerate(pages)]
                    cursor.executemany(sql.ADD_GRAPH_PAGE, numbered)
            if graphs:
                cursor.executemany(sql.NAME_GRAPH, graphs)
            if batch.objects:
                held = [(run_id, name) for run_id, name in batch.objects if run_id not in refused]
                cursor.executemany(sql.HOLD_OBJECT, held)
            for new, name in new_environments.items():
                cursor.execute(sql.ADD_ENVIRONMENT, (name, _encode(new)))
            is_committing = True
            cursor.execute(sql.COMMIT)
        except BaseException as error:
            _end(database, sql.ROLLBACK)
            if not isinstance(error, sqlite3.Error):
                raise
            if not is_committing or not self._took_place(database, accepted, error):
                raise
        self._hashes |= new_environments
        self._own_changes += 1
        return refused

    def _took_place(
        self, database: sqlite3.Connection, accepted: list[RunChange], cause: sqlite3.Error
    ) -> bool:
        """Whether a commit that raised was carried out all the same.

        Nobody else has written since: the writer lock is still held.
        """
        try:
            for change in reversed(accepted):
                before = 0 if change.creation else change.epoch
                epoch = before + (change.creation is not None or change.takes)
                if epoch == before and not change.entries:
                    continue  # leaves no trace that tells
                row = database.execute(sql.READ_POSITION, (change.run_id,)).fetchone()
                if row is None:
                    return False
                last_seq = change.entries[-1].seq if change.entries else row[1]
                return bool(row == (epoch, last_seq))
        except sqlite3.Error:
            pass
        raise CommitUnknown(
            f"{self._path}: {cause}; whether the last commit took place is not known"
        ) from cause

    def _environment_hash(
        self, creation: Creation, new_environments: dict[Environment, str]
    ) -> str:
        """The name under which a run's environment is stored, or will be by this commit."""
        environment = creation.environment
        name = self._hashes.get(environment) or new_environments.get(environment)
        if name is None:
            name = sha256(_encode(environment)).hexdigest()
            new_environments[environment] = name
        return name

    # -- reading rows -----------------------------------------------------------------------

    def _record(self, database: sqlite3.Connection, row: tuple[Any, ...]) -> RunRecord:
        (run_id, workflow, created_at, environment, metadata, detached, parent) = row[:7]
        (epoch, engine, last_seq, status, steps, succeeded) = row[7:13]
        (started_at, ended_at, wake_at, error, value, _) = row[13:]
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
            ),
            epoch=epoch,
            engine=engine,
            last_seq=last_seq,
        )

    def _environment(self, database: sqlite3.Connection, name: str) -> Environment:
        found = self._environments.get(name)
        if found is None:
            row = database.execute(sql.READ_ENVIRONMENT, (name,)).fetchone()
            found = msgspec.json.decode(row[0], type=Environment)
            self._environments[name] = found
        return found

    # -- connections ------------------------------------------------------------------------

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection()
        try:
            with connection.lock:
                yield connection.database
        except sqlite3.Error as error:
            raise self._translated(error) from error

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection()
        writer = self._writer
        if writer is None:
            raise self._closed()
        try:
            with writer, connection.lock:
                self._check_file()
                yield connection.database
        except sqlite3.Error as error:
            raise self._translated(error) from error

    def _connection(self) -> _Connection:
        """This thread's connection."""
        try:
            connection: _Connection = self._local.connection
        except AttributeError:
            with self._lock:
                connection = self._local.connection = self._open()
        return connection

    def _open(self) -> _Connection:
        if self._is_closed:
            raise self._closed()
        if self._is_lost:
            raise StorageError(
                f"this process was forked while {self._path} was being used and cannot open it; "
                "start processes by spawn instead"
            )
        try:
            if self._writer is None:
                make_home(self.home)
                self._writer = writer_lock(self.home / "writer.lock")
            if not self._path.exists():
                with self._writer:
                    if not self._path.exists():
                        self._create()
            connection = _Connection(_connect(self._path))
            try:
                connection.database.executescript(sql.settings(self._max_pages))
                if _version(connection.database) != _migrations()[-1][0]:
                    with self._writer:
                        self._migrate(connection.database)
                self._check_file()
            except BaseException:
                connection.database.close()
                raise
        except sqlite3.Error as error:
            raise self._translated(error) from error
        except OSError as error:
            raise _unusable(self.home, error) from error
        # Not before the new one is open: the last connection to be closed has work to do.
        for other in [each for each in self._connections if not each.thread.is_alive()]:
            self._connections.remove(other)
            other.database.close()
        self._connections.append(connection)
        return connection

    def _create(self) -> None:
        """Make an empty database, which appears when it is complete and durable."""
        unnamed = self.home / "weftline.db.new"
        for left in self.home.glob(f"{unnamed.name}*"):
            left.unlink()
        unnamed.touch(0o600)
        database = _connect(unnamed)
        try:
            database.executescript(sql.START_DATABASE)
            self._migrate(database)
        finally:
            database.close()
        _flush(unnamed)
        os.rename(unnamed, self._path)
        _flush(self.home)

    def _migrate(self, database: sqlite3.Connection) -> None:
        """Apply the migrations that are missing. The writer lock is held.

        Raises: NewerHome if there are some that this release does not know.
        """
        found, known = _version(database), _migrations()[-1][0]
        if found > known:
            raise NewerHome(
                f"{self._path} was written by a newer Weftline (schema {found}; this release "
                f"knows up to {known}): upgrade weftline to use it"
            )
        for version, path in _migrations():
            if version > found:
                try:
                    database.executescript(sql.migration(version, path.read_text("utf-8")))
                finally:
                    _end(database, sql.ROLLBACK)

    def _check_file(self) -> None:
        """A database that was deleted would take commits, and they would be lost."""
        try:
            status = os.stat(self._path)
        except OSError as error:
            raise self._replaced() from error
        file_id = (status.st_dev, status.st_ino)
        if self._file_id is None:
            self._file_id = file_id
        elif file_id != self._file_id:
            raise self._replaced()

    def _leave_parent(self, at_rest: list[threading.RLock]) -> None:
        """Have nothing open in a child that was just forked.

        SQLite counts its locks in memory, which the child inherited, but the locks themselves it
        did not. Closed at once, while the parent has the database open, a connection takes nothing
        but that memory with it. One that was in use cannot even be closed.
        """
        self._is_lost |= self._lock not in at_rest
        for connection in self._connections:
            if connection.lock in at_rest and not connection.database.in_transaction:
                connection.database.close()
            else:
                _abandoned.append(connection)
                self._is_lost = True
        self._registered.clear()
        self._start()

    # -- errors -----------------------------------------------------------------------------

    def _closed(self) -> StorageError:
        return StorageError(f"the journal in {self.home} was closed; open it again to use it")

    def _replaced(self) -> StorageError:
        return StorageError(
            f"{self._path} was removed or replaced while it was in use; what was in it cannot be "
            "written any more: end this process and start again"
        )

    def _translated(self, error: sqlite3.Error) -> StorageError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if self._is_closed:
            return self._closed()
        if code == sqlite3.SQLITE_FULL or (
            code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) and self._is_full()
        ):
            return _full(self.home)
        match code:
            case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
                advice = "it is damaged: restore it from a backup, or move it away to start afresh"
            case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
                advice = "check that its folder exists and may be written to"
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                advice = "another program keeps it locked: find and end it"
            case sqlite3.SQLITE_IOERR:
                advice = "the disk does not work as it should: look into the system's log"
            case _:
                advice = "this is a defect of Weftline or of its database: please report it"
        return StorageError(f"{self._path}: {error}; {advice}")

    def _is_full(self) -> bool:
        """Whether more cannot be written to the home, which SQLite does not always tell apart."""
        probe = self.home / f".room-{os.getpid()}"
        content = bytes(64 * 1024)
        try:
            sizes = [each.stat().st_size for each in self.home.glob("weftline.db*")]
            file = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                # At the end of the largest file, since a limit may be one on the size of files.
                is_short = os.pwrite(file, content, max(sizes, default=0)) < len(content)
                os.fsync(file)
            finally:
                os.close(file)
                probe.unlink()
        except OSError as error:
            return error.errno in _NO_ROOM
        return is_short


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
    return cursor.execute(sql.CREATE_RUN, values).rowcount == 1


def _extend(cursor: sqlite3.Cursor, change: RunChange) -> bool:
    """Bring the run's row up to date; whether the change was accepted."""
    entries = change.entries
    if entries:
        before, last_seq = entries[0].seq - 1, entries[-1].seq
    else:
        row = cursor.execute(sql.LAST_SEQ, (change.run_id,)).fetchone()
        before = last_seq = row[0] if row else 0
    guard = (change.run_id, change.epoch, before)
    if change.takes:
        values = (*_columns(change.summary), last_seq, change.engine, *guard)
        return cursor.execute(sql.TAKE_RUN, values).rowcount == 1
    return (
        cursor.execute(sql.EXTEND_RUN, (*_columns(change.summary), last_seq, *guard)).rowcount == 1
    )


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
    )


def _age(row: tuple[Any, ...]) -> tuple[float, int]:
    """Sorts rows of runs: by time, and in order of submission where that is the same."""
    return row[2], row[-1]


# -- files ----------------------------------------------------------------------------------


def make_home(home: Path) -> None:
    """Make the folder, for its owner alone, unless it is there."""
    if not home.is_dir():
        os.makedirs(home, 0o700, exist_ok=True)
        _flush(home.parent)


def _connect(path: Path) -> sqlite3.Connection:
    """A connection to a file that is there already, committing only when told to."""
    return sqlite3.connect(
        f"file:{quote(os.fsencode(path))}?mode=rw",
        uri=True,
        timeout=_BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,  # `close` closes those of all threads
    )


def _version(database: sqlite3.Connection) -> int:
    return int(database.execute(sql.SCHEMA_VERSION).fetchone()[0])


@cache
def _migrations() -> list[tuple[int, Path]]:
    """All numbered scripts, in order."""
    return [(int(path.name[:4]), path) for path in sorted(_MIGRATIONS.glob("[0-9]*.sql"))]


def _end(database: sqlite3.Connection, statement: str) -> None:
    """End the transaction, if there is one. An error on the way here is told, not one of this."""
    if database.in_transaction:
        try:
            database.execute(statement)
        except sqlite3.Error:
            pass


def _flush(path: Path) -> None:
    """Make a file's content, or the names in a folder, survive a power cut."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _full(home: Path) -> StorageFull:
    return StorageFull(
        f"no space is left for {home}; nothing half-written remains: free some, then resume"
    )


def _unusable(home: Path, error: OSError) -> StorageError:
    if error.errno in _NO_ROOM:
        return _full(home)
    return StorageError(
        f"the home {home} cannot be used: {error.strerror}; name a folder that may be written to"
    )


# -- forks ----------------------------------------------------------------------------------

_journals: WeakSet[SqliteJournal] = WeakSet()
_at_rest: dict[int, list[threading.RLock]] = {}  # what a forking thread keeps still, by its id
_abandoned: list[_Connection] = []  # in a forked child: never to be touched, hence kept


def _before_fork() -> None:
    """Let nobody be inside SQLite while the process is copied, or its locks stay locked there."""
    held: list[threading.RLock] = []
    _at_rest[threading.get_ident()] = held
    for journal in list(_journals):
        if journal._lock.acquire(timeout=_FORK_TIMEOUT_S):
            held.append(journal._lock)
            for connection in journal._connections:
                if connection.lock.acquire(timeout=_FORK_TIMEOUT_S):
                    held.append(connection.lock)


def _after_fork_in_parent() -> None:
    for lock in _at_rest.pop(threading.get_ident(), []):
        lock.release()


def _after_fork_in_child() -> None:
    held = _at_rest.pop(threading.get_ident(), [])
    _at_rest.clear()
    for journal in list(_journals):
        journal._leave_parent(held)


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
