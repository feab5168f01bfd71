-- As sqlite/0021_payments.sql.

CREATE TABLE chain_payments (
    id        TEXT PRIMARY KEY CHECK (length(id) = 36),
    payer     TEXT NOT NULL,
    model     TEXT NOT NULL,
    revision  TEXT NOT NULL,
    payment   TEXT NOT NULL,
    block     BIGINT NOT NULL CHECK (block >= 0),
    state     TEXT NOT NULL CHECK (state IN ('open', 'bought', 'failed')),
    hash      TEXT UNIQUE CHECK (length(hash) = 66),
    reason    TEXT,
    created   BIGINT NOT NULL,
    ended     BIGINT,
    CHECK ((state = 'open') = (ended IS NULL)),
    CHECK ((state = 'failed') = (reason IS NOT NULL)),
    CHECK (state <> 'bought' OR hash IS NOT NULL)
);

CREATE UNIQUE INDEX one_payment_stands ON chain_payments (payer, model, revision) WHERE state <> 'failed';
CREATE INDEX payments_open ON chain_payments (created) WHERE ended IS NULL;

CREATE TRIGGER payments_stay_ended BEFORE UPDATE ON chain_payments FOR EACH ROW
WHEN (OLD.ended IS NOT NULL)
EXECUTE FUNCTION refuse('a payment that has ended does not change');
CREATE TRIGGER payments_stay_what_was_signed BEFORE UPDATE ON chain_payments FOR EACH ROW
WHEN (NEW.id <> OLD.id OR NEW.payer <> OLD.payer OR NEW.model <> OLD.model OR NEW.revision <> OLD.revision
  OR NEW.payment <> OLD.payment OR NEW.block <> OLD.block)
EXECUTE FUNCTION refuse('what a payment is does not change');
CREATE TABLE authorizations_seen (
    payer   TEXT NOT NULL,
    nonce   TEXT NOT NULL CHECK (length(nonce) = 66),
    created BIGINT NOT NULL,
    PRIMARY KEY (payer, nonce)
);
