-- As sqlite/0019_receipts.sql.

DROP TRIGGER receipts_are_written_once ON receipts;
DROP TRIGGER receipts_stay ON receipts;
DROP TRIGGER receipts_stay_all ON receipts;
ALTER TABLE receipts RENAME TO receipts_before;
ALTER INDEX receipts_pkey RENAME TO receipts_before_pkey;

CREATE TABLE receipts (
    place    BIGINT PRIMARY KEY CHECK (place >= 0),
    id       TEXT NOT NULL UNIQUE,
    payer    TEXT NOT NULL,
    sequence BIGINT NOT NULL CHECK (sequence >= 1),
    about    TEXT NOT NULL UNIQUE,
    hash     BYTEA NOT NULL CHECK (length(hash) = 32),
    -- Text, not jsonb: its bytes are what was signed.
    signed   TEXT NOT NULL CHECK (signed::json IS NOT NULL),
    UNIQUE (payer, sequence)
);

INSERT INTO receipts (place, id, payer, sequence, about, hash, signed)
SELECT ROW_NUMBER() OVER (ORDER BY (signed::json ->> 'entry')::bigint, payer, sequence) - 1,
       signed::json ->> 'id', payer, sequence, 'hold:' || hold, hash, signed
FROM receipts_before;
DROP TABLE receipts_before;

CREATE TRIGGER receipts_are_written_once BEFORE UPDATE ON receipts FOR EACH ROW
EXECUTE FUNCTION refuse('a receipt does not change');
CREATE TRIGGER receipts_stay BEFORE DELETE ON receipts FOR EACH ROW
EXECUTE FUNCTION refuse('a receipt stays');
CREATE TRIGGER receipts_stay_all BEFORE TRUNCATE ON receipts
EXECUTE FUNCTION refuse('a receipt stays');

CREATE TABLE receipt_nodes (
    level BIGINT NOT NULL CHECK (level > 0 AND level % 8 = 0),
    at    BIGINT NOT NULL CHECK (at >= 0),
    hash  BYTEA NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (level, at)
);

CREATE TABLE receipt_heads (
    size     BIGINT PRIMARY KEY CHECK (size >= 1),
    message  TEXT NOT NULL UNIQUE,
    envelope TEXT NOT NULL CHECK (envelope::json IS NOT NULL),
    state    TEXT NOT NULL CHECK (state IN ('signed', 'posted'))
);

CREATE UNIQUE INDEX receipt_heads_signed ON receipt_heads (state) WHERE state = 'signed';

CREATE TRIGGER receipt_heads_stay_posted BEFORE UPDATE ON receipt_heads FOR EACH ROW
WHEN (OLD.state = 'posted' OR NEW.size <> OLD.size OR NEW.message <> OLD.message OR NEW.envelope <> OLD.envelope)
EXECUTE FUNCTION refuse('what was posted stays as it is');
CREATE TRIGGER receipt_heads_stay BEFORE DELETE ON receipt_heads FOR EACH ROW
WHEN (OLD.state = 'posted')
EXECUTE FUNCTION refuse('what was posted stays');
CREATE TRIGGER receipt_heads_stay_all BEFORE TRUNCATE ON receipt_heads
EXECUTE FUNCTION refuse('what was posted stays');
