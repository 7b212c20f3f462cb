-- Runs, their events, and what the events name.

-- One row a run: what was said at its submission, its owner, and its summary.
CREATE TABLE runs (
    number      INTEGER PRIMARY KEY,  -- in order of submission
    run_id      TEXT    NOT NULL UNIQUE,
    workflow    TEXT    NOT NULL,
    created_at  REAL    NOT NULL,  -- all times in seconds since 1970
    environment TEXT    NOT NULL,  -- environments.hash
    metadata    BLOB    NOT NULL,  -- JSON
    detached    INTEGER NOT NULL,
    parent      TEXT,
    epoch       INTEGER NOT NULL,
    engine      TEXT,
    last_seq    INTEGER NOT NULL,
    status      TEXT    NOT NULL,
    steps       INTEGER NOT NULL,
    succeeded   INTEGER NOT NULL,
    started_at  REAL,
    ended_at    REAL,
    wake_at     REAL,
    error       BLOB,              -- JSON
    value       BLOB               -- JSON
);
CREATE INDEX runs_by_time ON runs (created_at);
CREATE INDEX runs_by_status ON runs (status, created_at);

-- What happened, in order.
CREATE TABLE events (
    run_id TEXT    NOT NULL,
    seq    INTEGER NOT NULL,
    at     REAL    NOT NULL,
    kind   TEXT    NOT NULL,
    body   BLOB    NOT NULL,       -- JSON
    PRIMARY KEY (run_id, seq)
) WITHOUT ROWID;

-- The steps of graphs, by the hash of their content.
CREATE TABLE graphs (
    hash  TEXT    NOT NULL,
    page  INTEGER NOT NULL,
    steps BLOB    NOT NULL,        -- MessagePack
    PRIMARY KEY (hash, page)
);

-- Which run names which graph, so that a deleted run takes along what only it named.
CREATE TABLE run_graphs (
    hash   TEXT NOT NULL,
    run_id TEXT NOT NULL,
    PRIMARY KEY (hash, run_id)
) WITHOUT ROWID;

-- Which run holds which object of the object store.
CREATE TABLE run_objects (
    run_id TEXT NOT NULL,
    hash   TEXT NOT NULL,
    PRIMARY KEY (run_id, hash)
) WITHOUT ROWID;

-- Where the code of runs runs, by the hash of the body.
CREATE TABLE environments (
    hash TEXT NOT NULL PRIMARY KEY,
    body BLOB NOT NULL             -- JSON
) WITHOUT ROWID;
