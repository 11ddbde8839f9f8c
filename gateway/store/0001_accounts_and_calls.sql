-- Accounts, the call log, and the counts of calls that quotas are read from.

CREATE TABLE accounts (
    id              INTEGER PRIMARY KEY,
    name            TEXT    NOT NULL,
    key             TEXT    NOT NULL,
    secret_digest   BLOB    NOT NULL,
    pepper_id       TEXT    NOT NULL,              -- which pepper keyed the digest
    stopped         INTEGER NOT NULL DEFAULT 0,
    expires_at      REAL,                          -- seconds since the epoch
    methods         TEXT,                          -- JSON array of globs; NULL: every method
    stopped_methods TEXT    NOT NULL DEFAULT '[]',
    allow_from      TEXT    NOT NULL DEFAULT '[]', -- JSON array of networks; empty: from anywhere
    concurrency     INTEGER,
    per_minute      INTEGER,
    per_day         INTEGER,
    total           INTEGER,
    balance_micros  INTEGER NOT NULL DEFAULT 0,
    created_at      REAL    NOT NULL,
    deleted_at      REAL,                          -- a deleted account stays as a tombstone: calls refer to it
    revision        INTEGER NOT NULL               -- rises with every change of any account
) STRICT;

CREATE UNIQUE INDEX accounts_by_name ON accounts (name) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX accounts_by_key ON accounts (key) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX accounts_by_revision ON accounts (revision);

CREATE TABLE calls (
    id            INTEGER PRIMARY KEY,             -- last_id: rises with time
    request_id    TEXT    NOT NULL,
    account_id    INTEGER NOT NULL REFERENCES accounts (id),
    front         TEXT    NOT NULL,
    method        TEXT    NOT NULL,
    model         TEXT,
    outcome       TEXT    NOT NULL,                -- four digits
    status        INTEGER NOT NULL,
    streamed      INTEGER NOT NULL,
    cut           INTEGER NOT NULL,
    started_us    INTEGER NOT NULL,                -- microseconds since the epoch
    duration_us   INTEGER NOT NULL,
    first_byte_us INTEGER,
    sent_bytes    INTEGER NOT NULL,
    cache         TEXT    NOT NULL,
    client_ip     TEXT    NOT NULL
) STRICT;

CREATE INDEX calls_by_account ON calls (account_id, id);

CREATE TABLE call_counts (
    account_id INTEGER NOT NULL REFERENCES accounts (id),
    day        TEXT    NOT NULL,                   -- in the operator's time zone
    succeeded  INTEGER NOT NULL,
    empty      INTEGER NOT NULL,
    failed     INTEGER NOT NULL,
    PRIMARY KEY (account_id, day)
) STRICT, WITHOUT ROWID;
