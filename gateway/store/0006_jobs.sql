-- Image jobs: what was asked, how far it is, and what came of it. The call that submitted a job ends with the job: its
-- hold is the job's, whatever becomes of the process that took the call, and its row of the log is written at the end.

CREATE TABLE jobs (
    id                 INTEGER PRIMARY KEY,        -- imgid, 16 digits: the microsecond of its submission, or one soon after
    call_id            INTEGER NOT NULL UNIQUE,    -- of the call that submitted it
    account_id         INTEGER NOT NULL REFERENCES accounts (id),
    status             TEXT    NOT NULL DEFAULT 'NOT_START'
                       CHECK (status IN ('NOT_START', 'SUBMITTED', 'IN_PROGRESS', 'SUCCESS', 'FAILURE')),
    progress           INTEGER NOT NULL DEFAULT 0, -- percent
    prompt             TEXT    NOT NULL,           -- as the caller wrote it
    arguments          TEXT    NOT NULL,           -- for the backend, JSON
    node               INTEGER,                    -- whose process works on it; NULL: nobody's
    sent_ms            INTEGER,                    -- since when the backend may have it; NULL: it certainly has not
    backend            TEXT    NOT NULL DEFAULT '',
    backend_id         TEXT,                       -- the backend's own id; NULL: it gave none
    submitted_ms       INTEGER NOT NULL,           -- milliseconds since the epoch
    started_ms         INTEGER,
    finished_ms        INTEGER,                    -- NULL: it is open
    images             TEXT    NOT NULL DEFAULT '[]', -- JSON: addresses, and "file:NAME" for what is kept here
    fail_reason        TEXT    NOT NULL DEFAULT '',
    notify             TEXT,                       -- an address that is still to be told of the end
    per_call_micros    INTEGER NOT NULL,           -- the price, as it was at the submission
    per_image_micros   INTEGER NOT NULL,
    extra_micros       INTEGER NOT NULL,           -- of translating the prompt, where that is charged
    translation_micros INTEGER NOT NULL            -- what that cost, charged or not
) STRICT;

CREATE INDEX jobs_by_account ON jobs (account_id, id);
CREATE INDEX jobs_that_are_open ON jobs (account_id, id, node) WHERE finished_ms IS NULL;
CREATE INDEX jobs_by_end ON jobs (finished_ms) WHERE finished_ms IS NOT NULL;
CREATE INDEX jobs_to_tell ON jobs (id) WHERE notify IS NOT NULL;
