"""The database file of a home: how it is made, opened, shared by threads and left by forks.

The home folder holds `weftline.db` (with its write-ahead log beside it) and `writer.lock`. Each
thread has a connection of its own; writers wait for each other at `writer.lock`. A forked child
closes what it inherited and opens anew.
"""

import errno
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from urllib.parse import quote
from weakref import WeakSet

from weftline.adapters.journal.locks import WriterLock, writer_lock
from weftline.adapters.journal.sql import (
    ROLLBACK,
    SCHEMA_VERSION,
    START_DATABASE,
    migration,
    settings,
)
from weftline.errors import NewerHome, StorageError, StorageFull
from weftline.folders import flush, make_private

_MIGRATIONS = Path(__file__).with_name("migrations")
_BUSY_TIMEOUT_S = 30.0  # only programs that do not know writer.lock make anyone wait at all
_FORK_TIMEOUT_S = 5.0
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class _Connection:
    """One thread's connection. Whoever uses it holds `lock`, so that a fork finds it at rest."""

    __slots__ = ("database", "lock", "thread")

    def __init__(self, database: sqlite3.Connection) -> None:
        self.database = database
        self.lock = threading.RLock()
        self.thread = threading.current_thread()


class HomeDatabase:
    """The database of one home, made when it is first used. May be used by any thread.

    `max_pages` caps it at so many pages of 4 KiB. With `is_read_only` nothing is made, brought up
    to date or otherwise changed, also by closing it. Errors of SQLite come out of `reading` and
    `writing` as StorageFull and StorageError, with the file's name and what to do.
    """

    def __init__(
        self, home: Path, max_pages: int | None = None, *, is_read_only: bool = False
    ) -> None:
        self.home = Path(os.path.realpath(home))
        self.path = self.home / "weftline.db"
        self._max_pages, self._is_read_only = max_pages, is_read_only
        self._is_closed = False
        self._is_lost = False
        self._start()
        _databases.add(self)

    def _start(self) -> None:
        """Have nothing open: at first, and in a forked child."""
        self._lock = threading.RLock()  # while connections are opened and closed
        self._local = threading.local()
        self._connections: list[_Connection] = []
        self._writer: WriterLock | None = None
        self._file_id: tuple[int, int] | None = None

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """This thread's connection, for reading."""
        connection = self._connection()
        try:
            with connection.lock:
                yield connection.database
        except sqlite3.Error as error:
            raise self._translated(error) from error

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """The same, while nobody else writes."""
        if self._is_read_only:
            raise StorageError(f"{self.path} was opened for reading only")
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

    def close(self) -> None:
        """Close the connections of all threads; nothing is opened afterwards."""
        with self._lock:
            self._is_closed = True
            self._local = threading.local()
            writer = self._writer
            self._writer = None
            # The last connection of all folds the log into the database, which is writing.
            with writer or nullcontext():
                while self._connections:
                    connection = self._connections.pop()
                    with connection.lock:
                        connection.database.close()
            if writer is not None:
                writer.close()

    # -- opening ----------------------------------------------------------------------------

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
                f"this process was forked while {self.path} was being used and cannot open it; "
                "start processes by spawn instead"
            )
        try:
            if self._is_read_only:
                connection = _Connection(_connect(self.path, "ro"))
            else:
                connection = self._open_for_writing()
        except sqlite3.Error as error:
            raise self._translated(error) from error
        except OSError as error:
            raise unusable_home(self.home, error) from error
        # Not before the new one is open: the last connection to be closed has work to do.
        for other in [each for each in self._connections if not each.thread.is_alive()]:
            self._connections.remove(other)
            other.database.close()
        self._connections.append(connection)
        return connection

    def _open_for_writing(self) -> _Connection:
        writer = self._writer
        if writer is None:
            make_private(self.home)
            writer = self._writer = writer_lock(self.home / "writer.lock")
        if not self.path.exists():
            with writer:
                if not self.path.exists():
                    self._create()
        connection = _Connection(_connect(self.path))
        try:
            connection.database.executescript(settings(self._max_pages))
            if _version(connection.database) != newest_schema():
                with writer:
                    self._migrate(connection.database)
            self._check_file()
        except BaseException:
            connection.database.close()
            raise
        return connection

    def _create(self) -> None:
        """Make an empty database, which appears when it is complete and durable."""
        unnamed = self.home / "weftline.db.new"
        for left in self.home.glob(f"{unnamed.name}*"):
            left.unlink()
        unnamed.touch(0o600)
        database = _connect(unnamed)
        try:
            database.executescript(START_DATABASE)
            self._migrate(database)
        finally:
            database.close()
        flush(unnamed)
        os.rename(unnamed, self.path)
        flush(self.home)

    def _migrate(self, database: sqlite3.Connection) -> None:
        """Apply the migrations that are missing. The writer lock is held.

        Raises: NewerHome if there are some that this release does not know.
        """
        found, known = _version(database), newest_schema()
        if found > known:
            raise NewerHome(
                f"{self.path} was written by a newer Weftline (schema {found}; this release "
                f"knows up to {known}): upgrade weftline to use it"
            )
        for version, path in _migrations():
            if version > found:
                try:
                    database.executescript(migration(version, path.read_text("utf-8")))
                finally:
                    end_transaction(database, ROLLBACK)

    def _check_file(self) -> None:
        """A database that was deleted would take commits, and they would be lost."""
        try:
            status = os.stat(self.path)
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
        self._start()

    # -- errors -----------------------------------------------------------------------------

    def _closed(self) -> StorageError:
        return StorageError(f"the journal in {self.home} was closed; open it again to use it")

    def _replaced(self) -> StorageError:
        return StorageError(
            f"{self.path} was removed or replaced while it was in use; what was in it cannot be "
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
        return StorageError(f"{self.path}: {error}; {advice}")

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


# -- files ----------------------------------------------------------------------------------


def _connect(path: Path, mode: str = "rw") -> sqlite3.Connection:
    """A connection to a file that is there already, committing only when told to."""
    return sqlite3.connect(
        f"file:{quote(os.fsencode(path))}?mode={mode}",
        uri=True,
        timeout=_BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,  # `close` closes those of all threads
    )


def _version(database: sqlite3.Connection) -> int:
    return int(database.execute(SCHEMA_VERSION).fetchone()[0])


def newest_schema() -> int:
    """The number of the newest migration that this release knows."""
    return _migrations()[-1][0]


@cache
def _migrations() -> list[tuple[int, Path]]:
    """All numbered scripts, in order."""
    return [(int(path.name[:4]), path) for path in sorted(_MIGRATIONS.glob("[0-9]*.sql"))]


def end_transaction(database: sqlite3.Connection, statement: str) -> None:
    """End the transaction, if there is one. An error on the way here is told, not one of this."""
    if database.in_transaction:
        try:
            database.execute(statement)
        except sqlite3.Error:
            pass


def _full(home: Path) -> StorageFull:
    return StorageFull(
        f"no space is left for {home}; nothing half-written remains: free some, then resume"
    )


def unusable_home(home: Path, error: OSError) -> StorageError:
    """What `error`, met at the home itself, is for those who use it."""
    if error.errno in _NO_ROOM:
        return _full(home)
    return StorageError(
        f"the home {home} cannot be used: {error.strerror}; name a folder that may be written to"
    )


# -- forks ----------------------------------------------------------------------------------

_databases: WeakSet[HomeDatabase] = WeakSet()
_at_rest: dict[int, list[threading.RLock]] = {}  # what a forking thread keeps still, by its id
_abandoned: list[_Connection] = []  # in a forked child: never to be touched, hence kept


def _before_fork() -> None:
    """Let nobody be inside SQLite while the process is copied, or its locks stay locked there."""
    held: list[threading.RLock] = []
    _at_rest[threading.get_ident()] = held
    for database in list(_databases):
        if database._lock.acquire(timeout=_FORK_TIMEOUT_S):
            held.append(database._lock)
            for connection in database._connections:
                if connection.lock.acquire(timeout=_FORK_TIMEOUT_S):
                    held.append(connection.lock)


def _after_fork_in_parent() -> None:
    for lock in _at_rest.pop(threading.get_ident(), []):
        lock.release()


def _after_fork_in_child() -> None:
    held = _at_rest.pop(threading.get_ident(), [])
    _at_rest.clear()
    for database in list(_databases):
        database._leave_parent(held)


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
