-- Receipts of every kind, as one log of all payers whose roots are posted on Aleph. The table is made anew with the same rows: their
-- order in the log is that of the ledger.

DROP TRIGGER receipts_are_written_once;
DROP TRIGGER receipts_stay;
ALTER TABLE receipts RENAME TO receipts_before;

CREATE TABLE receipts (
    -- In the log, from 0 and without a gap.
    place    INTEGER PRIMARY KEY CHECK (place >= 0),
    id       TEXT NOT NULL UNIQUE,
    payer    TEXT NOT NULL,
    sequence INTEGER NOT NULL CHECK (sequence >= 1),
    -- What has one receipt: 'hold:' and its id, for others in the same way.
    about    TEXT NOT NULL UNIQUE,
    -- What is signed, what the next one names as the one before, and what the leaf of the log is of.
    hash     BLOB NOT NULL CHECK (length(hash) = 32),
    signed   TEXT NOT NULL CHECK (json_valid(signed)),
    UNIQUE (payer, sequence)
) STRICT;

INSERT INTO receipts (place, id, payer, sequence, about, hash, signed)
SELECT ROW_NUMBER() OVER (ORDER BY json_extract(signed, '$.entry'), payer, sequence) - 1,
       json_extract(signed, '$.id'), payer, sequence, 'hold:' || hold, hash, signed
FROM receipts_before;
DROP TABLE receipts_before;

CREATE TRIGGER receipts_are_written_once BEFORE UPDATE ON receipts
BEGIN SELECT RAISE(ABORT, 'a receipt does not change'); END;
CREATE TRIGGER receipts_stay BEFORE DELETE ON receipts
BEGIN SELECT RAISE(ABORT, 'a receipt stays'); END;

-- Roots of 256, 65,536 and more leaves each, of the levels 8, 16 and so on: what lies between is made from them when it is asked for.
CREATE TABLE receipt_nodes (
    level INTEGER NOT NULL CHECK (level > 0 AND level % 8 = 0),
    at    INTEGER NOT NULL CHECK (at >= 0),
    hash  BLOB NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (level, at)
) STRICT, WITHOUT ROWID;

-- Roots that stand on Aleph; of the newest it may be unknown whether it arrived.
CREATE TABLE receipt_heads (
    size     INTEGER PRIMARY KEY CHECK (size >= 1),
    -- Item hash of the POST, and the POST as it was signed.
    message  TEXT NOT NULL UNIQUE,
    envelope TEXT NOT NULL CHECK (json_valid(envelope)),
    state    TEXT NOT NULL CHECK (state IN ('signed', 'posted'))
) STRICT;

CREATE UNIQUE INDEX receipt_heads_signed ON receipt_heads (state) WHERE state = 'signed';

CREATE TRIGGER receipt_heads_stay_posted BEFORE UPDATE ON receipt_heads
WHEN OLD.state = 'posted' OR NEW.size <> OLD.size OR NEW.message <> OLD.message OR NEW.envelope <> OLD.envelope
BEGIN SELECT RAISE(ABORT, 'what was posted stays as it is'); END;
CREATE TRIGGER receipt_heads_stay BEFORE DELETE ON receipt_heads
WHEN OLD.state = 'posted'
BEGIN SELECT RAISE(ABORT, 'what was posted stays'); END;
