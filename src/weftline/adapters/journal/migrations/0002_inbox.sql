-- News for runs from outside.

-- What the owner of a run has not taken in; what was, when it has a key, stays without its body.
CREATE TABLE inbox (
    number INTEGER PRIMARY KEY AUTOINCREMENT,  -- in order of arrival
    run_id TEXT NOT NULL,
    kind   TEXT NOT NULL,
    body   BLOB,                               -- JSON
    key    TEXT,                               -- of several with the same one, the first counts
    UNIQUE (run_id, key)
);
CREATE INDEX inbox_untaken ON inbox (number) WHERE body IS NOT NULL;

-- The seq at which a reader may begin, for runs that lay down what is behind them.
ALTER TABLE runs ADD COLUMN base_seq INTEGER NOT NULL DEFAULT 0;
