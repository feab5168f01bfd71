-- What was paid on the chain by what a payer signed (x402, EIP-3009).

-- One is open or has bought for each payer and revision: who asks twice at once pays once.
CREATE TABLE chain_payments (
    -- Of the order that it pays.
    id        TEXT PRIMARY KEY CHECK (length(id) = 36),
    -- Address of who signed.
    payer     TEXT NOT NULL,
    model     TEXT NOT NULL,
    revision  TEXT NOT NULL,
    -- The authorization with its signature, the order that it is to become, and the buyer's token, sealed; all as JSON.
    payment   TEXT NOT NULL,
    -- Block of the chain at which the authorization was new.
    block     INTEGER NOT NULL CHECK (block >= 0),
    state     TEXT NOT NULL CHECK (state IN ('open', 'bought', 'failed')),
    -- The transaction that moved the tokens.
    hash      TEXT UNIQUE CHECK (length(hash) = 66),
    -- Why it failed.
    reason    TEXT,
    created   INTEGER NOT NULL,
    ended     INTEGER,
    CHECK ((state = 'open') = (ended IS NULL)),
    CHECK ((state = 'failed') = (reason IS NOT NULL)),
    CHECK (state <> 'bought' OR hash IS NOT NULL)
) STRICT;

CREATE UNIQUE INDEX one_payment_stands ON chain_payments (payer, model, revision) WHERE state <> 'failed';
CREATE INDEX payments_open ON chain_payments (created) WHERE ended IS NULL;

CREATE TRIGGER payments_stay_ended BEFORE UPDATE ON chain_payments
WHEN OLD.ended IS NOT NULL
BEGIN SELECT RAISE(ABORT, 'a payment that has ended does not change'); END;
CREATE TRIGGER payments_stay_what_was_signed BEFORE UPDATE ON chain_payments
WHEN NEW.id <> OLD.id OR NEW.payer <> OLD.payer OR NEW.model <> OLD.model OR NEW.revision <> OLD.revision
  OR NEW.payment <> OLD.payment OR NEW.block <> OLD.block
BEGIN SELECT RAISE(ABORT, 'what a payment is does not change'); END;

-- Authorizations that came, those too that were not sent: each opens something once, because everybody can read on the chain what was sent.
CREATE TABLE authorizations_seen (
    payer   TEXT NOT NULL,
    nonce   TEXT NOT NULL CHECK (length(nonce) = 66),
    created INTEGER NOT NULL,
    PRIMARY KEY (payer, nonce)
) STRICT;
