"""Every statement the journal gives to SQLite, each with its sentence.

The tables are in `migrations/`. Statements are whole and constant, so that each is compiled once
for every connection.
"""

from weftline.ports.journal import INBOX_AT_ONCE

BEGIN_WRITE = "BEGIN IMMEDIATE"
"""Start a transaction that writes, waiting for nobody later on."""

BEGIN_READ = "BEGIN"
"""Start a transaction whose reads all see the same moment."""

COMMIT = "COMMIT"
"""End the transaction; what it wrote is durable when this returns."""

ROLLBACK = "ROLLBACK"
"""End the transaction as if it had not been."""

SCHEMA_VERSION = "PRAGMA user_version"
"""The number of the newest migration that was applied."""

CHANGES_BY_OTHERS = "PRAGMA data_version"
"""A number that grows when another connection has committed."""


def settings(max_pages: int | None) -> str:
    """Set up a new connection: durable commits, a write-ahead log that is folded in at 8 MB and
    not kept beyond 64 MB, and at most `max_pages` pages of 4 KiB in the database."""
    cap = "" if max_pages is None else f"PRAGMA max_page_count = {max_pages:d};"
    return (
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 2000;"
        f"PRAGMA journal_size_limit = {64 * 1024 * 1024}; {cap}"
    )


START_DATABASE = "PRAGMA synchronous = OFF; PRAGMA journal_mode = WAL;"
"""Set up a database that nobody uses yet and whose maker makes the file durable."""


def migration(version: int, script: str) -> str:
    """Apply one numbered script whole, or not at all."""
    return f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {version:d};\nCOMMIT;"


# -- writing ------------------------------------------------------------------------------------

CREATE_RUN = """
INSERT INTO runs (
    run_id, workflow, created_at, environment, metadata, detached, parent, epoch, engine, last_seq,
    status, steps, succeeded, started_at, ended_at, wake_at, error, value, base_seq
) VALUES (?, ?, ?, ?, ?, ?, ?, 1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (run_id) DO NOTHING
"""
"""Add a run, unless its id is taken."""

_SUMMARY = """
    status = ?, steps = ?, succeeded = ?, started_at = ?, ended_at = ?, wake_at = ?, error = ?,
    value = ?, base_seq = ?
"""

EXTEND_RUN = f"""
UPDATE runs SET {_SUMMARY}, last_seq = ? WHERE run_id = ? AND epoch = ? AND last_seq = ?
"""
"""Note what new events made of a run, unless its epoch or its last event is another."""

TAKE_RUN = f"""
UPDATE runs
SET {_SUMMARY}, last_seq = ?, epoch = epoch + 1, engine = ?, detached = max(detached, ?)
WHERE run_id = ? AND epoch = ? AND last_seq = ?
"""
"""The same, and give the run to another owner in a new epoch."""

LAST_SEQ = "SELECT last_seq FROM runs WHERE run_id = ?"
"""Where a run's journal ends, for a change that adds no event."""

ADD_EVENT = "INSERT INTO events (run_id, seq, at, kind, body) VALUES (?, ?, ?, ?, ?)"
"""Append one event."""

HAS_GRAPH = "SELECT 1 FROM graphs WHERE hash = ? LIMIT 1"
"""Whether a graph is stored."""

ADD_GRAPH_PAGE = "INSERT INTO graphs (hash, page, steps) VALUES (?, ?, ?)"
"""Store one page of a graph."""

NAME_GRAPH = "INSERT OR IGNORE INTO run_graphs (hash, run_id) VALUES (?, ?)"
"""Note that a run names a graph."""

HOLD_OBJECT = "INSERT OR IGNORE INTO run_objects (run_id, hash) VALUES (?, ?)"
"""Note that a run holds an object."""

ADD_ENVIRONMENT = "INSERT OR IGNORE INTO environments (hash, body) VALUES (?, ?)"
"""Store an environment, unless it is there."""

POST = """
INSERT INTO inbox (run_id, kind, body, key)
SELECT ?1, ?2, ?3, ?4 WHERE EXISTS (
  SELECT 1 FROM runs WHERE run_id = ?1 AND NOT instr(?5, ' ' || status || ' ')
)
ON CONFLICT (run_id, key) DO NOTHING
"""
"""Put news into a run's inbox, unless there is no such run, its status is among those given (each
between spaces), or the key was used."""

TAKE_ENTRY = "DELETE FROM inbox WHERE number = ? AND key IS NULL"
"""Forget an entry that its run has taken in."""

TAKE_KEYED_ENTRY = "UPDATE inbox SET body = NULL WHERE number = ?"
"""Note that an entry was taken in, and keep its key, so that it counts only once."""

# -- deleting -----------------------------------------------------------------------------------

DELETE_RUN = "DELETE FROM runs WHERE run_id = ? AND epoch = ?"
"""Remove a run's row, unless its epoch is another."""

DELETE_EVENTS = "DELETE FROM events WHERE run_id = ?"
"""Remove all events of a run."""

DELETE_INBOX = "DELETE FROM inbox WHERE run_id = ?"
"""Remove all news for a run."""

DELETE_OBJECTS = "DELETE FROM run_objects WHERE run_id = ?"
"""A run holds no object any more."""

GRAPH_EVENTS = """
SELECT body FROM events WHERE run_id = ? AND kind IN ('RunSubmitted', 'GraphExtended')
"""
"""The events of a run that name graphs."""

UNNAME_GRAPH = "DELETE FROM run_graphs WHERE hash = ? AND run_id = ?"
"""A run does not name this graph any more."""

DELETE_UNNAMED_GRAPH = """
DELETE FROM graphs WHERE hash = ?1 AND NOT EXISTS (SELECT 1 FROM run_graphs WHERE hash = ?1)
"""
"""Remove a graph that no run names."""

DELETE_UNNAMED_ENVIRONMENT = """
DELETE FROM environments
WHERE hash = ?1 AND NOT EXISTS (SELECT 1 FROM runs WHERE environment = ?1)
"""
"""Remove an environment that no run names."""

# -- tidying up ---------------------------------------------------------------------------------

LIST_ENDED = """
SELECT
    run_id, epoch, status, ended_at,
    (SELECT COALESCE(SUM(length(body)), 0) FROM events WHERE events.run_id = runs.run_id),
    (SELECT body FROM events WHERE events.run_id = runs.run_id AND seq = 1)
FROM runs WHERE status = ? AND ended_at < ?
"""
"""Runs of one status that ended before a time, with the size of their events, and the first."""

LIST_HELD = """
SELECT run_id, hash, status IN ('SUCCESSFUL', 'FAILED', 'CANCELED') AND base_seq = 0
FROM run_objects JOIN runs USING (run_id)
"""
"""Which run holds which object, and whether it has ended; an actor, which has laid something down,
has not."""

IS_HELD = "SELECT 1 FROM run_objects WHERE hash = ? LIMIT 1"
"""Whether any run holds an object."""

IS_HELD_BY_UNFINISHED = """
SELECT 1 FROM run_objects JOIN runs USING (run_id)
WHERE hash = ? AND (status NOT IN ('SUCCESSFUL', 'FAILED', 'CANCELED') OR base_seq > 0) LIMIT 1
"""
"""Whether a run holds an object that has not ended."""

LIST_NEWS = """
SELECT number, run_id, body FROM inbox
WHERE body IS NOT NULL AND number > ? AND kind IN ('signal', 'call')
"""
"""News that may name objects and that no run has taken in."""

LIST_GRAPHS = "SELECT hash, SUM(length(steps)) FROM graphs GROUP BY hash"
"""Each graph, with its size."""

LIST_NAMED_GRAPHS = "SELECT hash, run_id FROM run_graphs"
"""Which graph is named by which run."""

LIST_ENVIRONMENTS = "SELECT hash, length(body) FROM environments"
"""Each environment, with its size."""

LIST_NAMED_ENVIRONMENTS = "SELECT environment, run_id FROM runs"
"""Which environment is named by which run."""

LIST_LOGGED = "SELECT run_id, body FROM events WHERE instr(body, ?)"
"""Events that hold these bytes."""

PAGES = """
SELECT page_size, page_count, freelist_count
FROM pragma_page_size, pragma_page_count, pragma_freelist_count
"""
"""The size of a page in bytes, how many pages there are, and how many of them are free."""

FOLD_LOG = "PRAGMA wal_checkpoint(TRUNCATE)"
"""Bring the write-ahead log into the database and empty it; waits for readers."""

COMPACT = "VACUUM"
"""Write the database anew without its free pages."""


def patience(milliseconds: int) -> str:
    """From now on, wait so long for others who use the database."""
    return f"PRAGMA busy_timeout = {milliseconds:d}"


# -- checking -----------------------------------------------------------------------------------

QUICK_CHECK = "PRAGMA quick_check"
"""Look through all pages of the database: `ok`, or what is wrong, a line each."""

INTEGRITY_CHECK = "PRAGMA integrity_check"
"""The same, and compare each index with its table."""

LIST_GAPS = """
SELECT runs.run_id, last_seq, COUNT(seq), COALESCE(MIN(seq), 0), COALESCE(MAX(seq), 0)
FROM (SELECT run_id, last_seq FROM runs ORDER BY created_at DESC, number DESC LIMIT ?) AS runs
LEFT JOIN events ON events.run_id = runs.run_id
GROUP BY runs.run_id
HAVING MAX(seq) IS NOT last_seq OR COUNT(seq) != MAX(seq) - MIN(seq) + 1 OR MIN(seq) != 1
"""
"""Of the newest runs, those whose events are not numbered from 1 to the last one."""

LIST_MISSING_GRAPHS = """
SELECT run_id, hash FROM run_graphs
WHERE NOT EXISTS (SELECT 1 FROM graphs WHERE graphs.hash = run_graphs.hash)
"""
"""Graphs that runs name and that are not there."""

LIST_OBJECTS = "SELECT hash, MIN(run_id), COUNT(*) FROM run_objects GROUP BY hash"
"""Each object that is held, with one of the runs that hold it, and how many there are."""

LIST_OWNERLESS = """
SELECT run_id, 'events' FROM events GROUP BY run_id
HAVING NOT EXISTS (SELECT 1 FROM runs WHERE runs.run_id = events.run_id)
"""
"""Runs of which there are events and no row."""

# -- reading ------------------------------------------------------------------------------------

_RUN = """
SELECT
    run_id, workflow, created_at, environment, metadata, detached, parent, epoch, engine, last_seq,
    status, steps, succeeded, started_at, ended_at, wake_at, error, value, base_seq, number
FROM runs
"""

OWNER = "SELECT status, engine FROM runs WHERE run_id = ?"
"""How a run stands, and who drives it."""

READ_INBOX = f"""
SELECT inbox.number, run_id, kind, body FROM inbox JOIN runs USING (run_id)
WHERE body IS NOT NULL AND runs.engine = ?
ORDER BY inbox.number LIMIT {INBOX_AT_ONCE}
"""
"""What the runs of an engine have not taken in."""

IS_UNTAKEN = "SELECT 1 FROM inbox WHERE number = ? AND body IS NOT NULL"
"""Whether an entry lies in the inbox."""

LIST_INBOX = """
SELECT number, run_id, kind, body FROM inbox WHERE run_id = ? AND body IS NOT NULL ORDER BY number
"""
"""What a run has not taken in."""

KNOWS_KEY = "SELECT 1 FROM inbox WHERE run_id = ? AND key = ?"
"""Whether there was news with this key."""

LIST_UNREAD = """
SELECT DISTINCT run_id FROM inbox JOIN runs USING (run_id) WHERE body IS NOT NULL AND detached
"""
"""Detached runs that have not taken everything in."""

FIND_RUN = f"{_RUN} WHERE run_id = ?"
"""One run."""

LIST_RUNS = f"""{_RUN}
WHERE created_at < :before AND (:workflow IS NULL OR workflow = :workflow)
    AND (:detached IS NULL OR detached = :detached)
ORDER BY created_at DESC, number DESC LIMIT :limit
"""
"""The newest runs."""

LIST_RUNS_OF_STATUS = f"""{_RUN}
WHERE status = :status AND created_at < :before AND (:workflow IS NULL OR workflow = :workflow)
    AND (:detached IS NULL OR detached = :detached)
ORDER BY created_at DESC, number DESC LIMIT :limit
"""
"""The newest runs of one status."""

READ_EVENTS = "SELECT seq, at, kind, body FROM events WHERE run_id = ? AND seq > ? ORDER BY seq"
"""The events of a run behind one of them, oldest first."""

FIRST_EVENT = "SELECT seq, at, kind, body FROM events WHERE run_id = ? AND seq = 1"
"""The event that a run began with."""

READ_GRAPH = "SELECT steps FROM graphs WHERE hash = ? ORDER BY page"
"""The pages of a graph, in order."""

READ_ENVIRONMENT = "SELECT body FROM environments WHERE hash = ?"
"""One environment."""
