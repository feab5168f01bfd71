-- Allocations: an account's right to a kernel on a host that is rented for it. One row goes through its stages; a step that
-- was cut off is done again from what stands here.

CREATE TABLE quotes (
    id           TEXT PRIMARY KEY,
    account      TEXT NOT NULL REFERENCES accounts (address),
    offer        TEXT NOT NULL CHECK (json_valid(offer)),
    -- Most that is charged, and for an hour: 32 bytes, big-endian.
    cap          BLOB NOT NULL CHECK (length(cap) = 32),
    idle_seconds INTEGER CHECK (idle_seconds > 0),
    expires      INTEGER NOT NULL,
    -- The allocation that it became.
    used         TEXT UNIQUE
) STRICT;

CREATE TABLE allocations (
    -- The kernel's id; whoever asks twice with the same one gets the same allocation.
    id       TEXT PRIMARY KEY REFERENCES kernels (id),
    account  TEXT NOT NULL REFERENCES accounts (address),
    provider TEXT NOT NULL,
    lease    TEXT NOT NULL UNIQUE REFERENCES leases (id),
    hold     TEXT NOT NULL UNIQUE REFERENCES holds (id),
    offer    TEXT NOT NULL CHECK (json_valid(offer)),
    -- How the kernel is started once the host is there.
    start    TEXT NOT NULL CHECK (json_valid(start)),
    -- What the provider needs to rent, find and end the host; written before anything happens outside.
    draft    TEXT CHECK (json_valid(draft)),
    stage    TEXT NOT NULL
        CHECK (stage IN ('held', 'renting', 'booting', 'joining', 'running', 'ending', 'ended')),
    detail   TEXT,
    -- Counts changes: who changes a row names the number that it has read.
    fence    INTEGER NOT NULL CHECK (fence >= 0),
    created  INTEGER NOT NULL,
    changed  INTEGER NOT NULL,
    CHECK (stage IN ('held', 'ending', 'ended') OR draft IS NOT NULL)
) STRICT;

CREATE INDEX allocations_by_stage ON allocations (stage);
CREATE INDEX allocations_by_account ON allocations (account, created);

CREATE TRIGGER allocations_follow_their_stages BEFORE UPDATE OF stage ON allocations
WHEN OLD.stage <> NEW.stage AND NOT (
       (OLD.stage = 'held'    AND NEW.stage IN ('renting', 'ending'))
    OR (OLD.stage = 'renting' AND NEW.stage IN ('booting', 'ending'))
    OR (OLD.stage = 'booting' AND NEW.stage IN ('joining', 'ending'))
    OR (OLD.stage = 'joining' AND NEW.stage IN ('running', 'ending'))
    OR (OLD.stage = 'running' AND NEW.stage = 'ending')
    OR (OLD.stage = 'ending'  AND NEW.stage = 'ended')
)
BEGIN SELECT RAISE(ABORT, 'an allocation cannot change its stage so'); END;

CREATE TRIGGER allocations_keep_their_draft BEFORE UPDATE OF draft ON allocations
WHEN OLD.draft IS NOT NULL AND NEW.draft IS NOT OLD.draft
BEGIN SELECT RAISE(ABORT, 'what was asked for is not changed afterwards'); END;

CREATE TRIGGER allocations_count_changes BEFORE UPDATE ON allocations
WHEN NEW.fence <= OLD.fence
BEGIN SELECT RAISE(ABORT, 'a change counts up'); END;

-- A host is given back before its lease is over.
CREATE TRIGGER leases_end_with_their_allocation BEFORE UPDATE OF state ON leases
WHEN NEW.state = 'ended' AND EXISTS (
    SELECT 1 FROM allocations a WHERE a.lease = NEW.id AND a.stage NOT IN ('ending', 'ended'))
BEGIN SELECT RAISE(ABORT, 'the allocation of this lease goes on'); END;

-- Nothing is charged for a host that is given back.
CREATE TRIGGER holds_stop_with_their_allocation BEFORE UPDATE OF charged ON holds
WHEN NEW.charged > OLD.charged AND EXISTS (
    SELECT 1 FROM allocations a WHERE a.hold = NEW.id AND a.stage = 'ended')
BEGIN SELECT RAISE(ABORT, 'the allocation of this hold has ended'); END;
