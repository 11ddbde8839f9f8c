-- The books: what accounts paid in, what calls cost them, and what open calls hold.
--
-- Per account, at every commit: balance_micros is the sum of its entries, held_micros the sum of its holds.

ALTER TABLE accounts ADD COLUMN held_micros INTEGER NOT NULL DEFAULT 0;
ALTER TABLE accounts ADD COLUMN tokens_per_minute INTEGER;
ALTER TABLE accounts ADD COLUMN price_list TEXT NOT NULL DEFAULT ''; -- of [[price]]; empty: the prices for everyone

CREATE TABLE entries (
    id            INTEGER PRIMARY KEY,
    account_id    INTEGER NOT NULL REFERENCES accounts (id),
    kind          TEXT    NOT NULL CHECK (kind IN ('topup', 'charge')),
    amount_micros INTEGER NOT NULL,                -- what it adds to the balance: a charge is negative
    call_id       INTEGER UNIQUE,                  -- of a charge: no call is charged twice
    at_us         INTEGER NOT NULL,                -- microseconds since the epoch
    CHECK ((kind = 'charge') = (call_id IS NOT NULL))
) STRICT;

CREATE TRIGGER entries_are_not_changed BEFORE UPDATE ON entries
BEGIN SELECT raise(ABORT, 'entries are only ever added'); END;

CREATE TRIGGER entries_are_not_deleted BEFORE DELETE ON entries
BEGIN SELECT raise(ABORT, 'entries are only ever added'); END;

-- An open call: the row is there from before the upstream is touched until the call is settled.
CREATE TABLE holds (
    call_id         INTEGER PRIMARY KEY,           -- its last ten bits are the node whose process made it
    account_id      INTEGER NOT NULL REFERENCES accounts (id),
    amount_micros   INTEGER NOT NULL CHECK (amount_micros >= 0),
    request_id      TEXT    NOT NULL,
    front           TEXT    NOT NULL,
    method          TEXT    NOT NULL,
    model           TEXT,
    started_us      INTEGER NOT NULL,
    client_ip       TEXT    NOT NULL
) STRICT;

-- What callers named with an Idempotency-Key. A row without an answer: the call runs, or its answer was not kept.
CREATE TABLE idempotency (
    account_id   INTEGER NOT NULL REFERENCES accounts (id),
    key          TEXT    NOT NULL,
    fingerprint  BLOB    NOT NULL,                 -- of the request
    call_id      INTEGER NOT NULL,
    request_id   TEXT    NOT NULL,
    status       INTEGER,                          -- of the upstream's answer; NULL: there is none
    content_type TEXT,
    fields       TEXT,                             -- header lines of the upstream that clients see
    answer       BLOB,
    PRIMARY KEY (account_id, key)
) STRICT;

CREATE INDEX idempotency_by_call ON idempotency (call_id);

ALTER TABLE calls ADD COLUMN charge_micros INTEGER NOT NULL DEFAULT 0;
ALTER TABLE calls ADD COLUMN shortfall_micros INTEGER NOT NULL DEFAULT 0; -- used, but beyond hold and balance
-- free: nothing was held; exact: by the upstream's count; estimated: by ours; unknown: its process died
ALTER TABLE calls ADD COLUMN settled TEXT NOT NULL DEFAULT 'free';

INSERT INTO entries (account_id, kind, amount_micros, at_us)
SELECT id, 'topup', balance_micros, CAST(created_at * 1e6 AS INTEGER) FROM accounts WHERE balance_micros <> 0;
