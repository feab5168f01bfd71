-- What payers were told of what they paid; a chain for each of them.

CREATE TABLE receipts (
    payer    TEXT NOT NULL,
    sequence INTEGER NOT NULL CHECK (sequence >= 1),
    hold     TEXT NOT NULL UNIQUE REFERENCES holds (id),
    -- What is signed, and what the next one names as the one before.
    hash     BLOB NOT NULL CHECK (length(hash) = 32),
    signed   TEXT NOT NULL CHECK (json_valid(signed)),
    PRIMARY KEY (payer, sequence)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER receipts_are_written_once BEFORE UPDATE ON receipts
BEGIN SELECT RAISE(ABORT, 'a receipt does not change'); END;
CREATE TRIGGER receipts_stay BEFORE DELETE ON receipts
BEGIN SELECT RAISE(ABORT, 'a receipt stays'); END;
