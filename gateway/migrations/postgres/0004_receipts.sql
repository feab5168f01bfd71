-- As sqlite/0004_receipts.sql.

CREATE TABLE receipts (
    payer    TEXT NOT NULL,
    sequence BIGINT NOT NULL CHECK (sequence >= 1),
    hold     TEXT NOT NULL UNIQUE REFERENCES holds (id),
    hash     BYTEA NOT NULL CHECK (length(hash) = 32),
    -- Text, not jsonb: its bytes are what was signed.
    signed   TEXT NOT NULL CHECK (signed::json IS NOT NULL),
    PRIMARY KEY (payer, sequence)
);

CREATE TRIGGER receipts_are_written_once BEFORE UPDATE ON receipts FOR EACH ROW
EXECUTE FUNCTION refuse('a receipt does not change');
CREATE TRIGGER receipts_stay BEFORE DELETE ON receipts FOR EACH ROW
EXECUTE FUNCTION refuse('a receipt stays');
CREATE TRIGGER receipts_stay_all BEFORE TRUNCATE ON receipts
EXECUTE FUNCTION refuse('a receipt stays');
