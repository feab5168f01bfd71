-- As sqlite/0018_chain.sql.

CREATE TABLE settlement (
    id             BIGINT PRIMARY KEY CHECK (id = 1),
    chain          BIGINT NOT NULL CHECK (chain > 0),
    token          TEXT NOT NULL,
    address        TEXT NOT NULL,
    cursor_number  BIGINT NOT NULL CHECK (cursor_number >= 0),
    cursor_hash    TEXT NOT NULL CHECK (length(cursor_hash) = 66),
    stopped_code   TEXT,
    stopped_reason TEXT,
    stopped_at     BIGINT,
    compared_at    BIGINT,
    compared_block BIGINT,
    on_chain       BYTEA CHECK (length(on_chain) = 32),
    missing        BYTEA CHECK (length(missing) = 32),
    unbooked       BYTEA CHECK (length(unbooked) = 32),
    CHECK ((stopped_code IS NULL) = (stopped_at IS NULL)),
    CHECK ((stopped_code IS NULL) = (stopped_reason IS NULL))
);

CREATE TABLE chain_deposits (
    chain       BIGINT NOT NULL,
    hash        TEXT NOT NULL CHECK (length(hash) = 66),
    log         BIGINT NOT NULL CHECK (log >= 0),
    sender      TEXT NOT NULL,
    amount      BYTEA NOT NULL CHECK (length(amount) = 32 AND amount > decode(repeat('00', 32), 'hex')),
    account     TEXT,
    time        BIGINT NOT NULL,
    PRIMARY KEY (chain, hash, log)
);

CREATE INDEX deposits_of_nobody ON chain_deposits (sender) WHERE account IS NULL;

CREATE TABLE payout_batches (
    id       TEXT PRIMARY KEY CHECK (length(id) = 66),
    chain    BIGINT NOT NULL CHECK (chain > 0),
    contract TEXT NOT NULL,
    deadline BIGINT NOT NULL,
    stage    TEXT NOT NULL CHECK (stage IN ('planned', 'signed', 'sent', 'mined', 'paid', 'dropped')),
    waiting  TEXT,
    smaller  BIGINT NOT NULL DEFAULT 0 CHECK (smaller IN (0, 1)),
    created  BIGINT NOT NULL,
    ended    BIGINT,
    CHECK ((stage IN ('paid', 'dropped')) = (ended IS NOT NULL))
);

CREATE UNIQUE INDEX one_batch_is_open ON payout_batches ((ended IS NULL)) WHERE ended IS NULL;

CREATE TRIGGER batches_stay_ended BEFORE UPDATE ON payout_batches FOR EACH ROW
WHEN (OLD.ended IS NOT NULL)
EXECUTE FUNCTION refuse('a batch that has ended does not change');
CREATE TRIGGER batches_are_one_contracts BEFORE UPDATE ON payout_batches FOR EACH ROW
WHEN (NEW.id <> OLD.id OR NEW.chain <> OLD.chain OR NEW.contract <> OLD.contract OR NEW.deadline <> OLD.deadline)
EXECUTE FUNCTION refuse('what a batch is does not change');

CREATE TABLE payout_attempts (
    batch     TEXT NOT NULL REFERENCES payout_batches (id),
    place     BIGINT NOT NULL CHECK (place >= 0),
    sender    TEXT NOT NULL,
    nonce     BIGINT NOT NULL CHECK (nonce >= 0),
    fee_most  TEXT NOT NULL,
    fee_tip   TEXT NOT NULL,
    hash      TEXT NOT NULL UNIQUE CHECK (length(hash) = 66),
    raw       BYTEA NOT NULL,
    sent_at   BIGINT,
    cheap     BIGINT NOT NULL DEFAULT 0 CHECK (cheap IN (0, 1)),
    PRIMARY KEY (batch, place)
);

CREATE TABLE withdrawals (
    id       TEXT PRIMARY KEY CHECK (length(id) = 36),
    account  TEXT NOT NULL,
    address  TEXT NOT NULL,
    amount   BYTEA NOT NULL CHECK (length(amount) = 32 AND amount > decode(repeat('00', 32), 'hex')),
    state    TEXT NOT NULL CHECK (state IN ('asked', 'batched', 'paid', 'returned')),
    batch    TEXT REFERENCES payout_batches (id),
    tries    BIGINT NOT NULL DEFAULT 0 CHECK (tries >= 0),
    not_before BIGINT NOT NULL,
    together BIGINT NOT NULL CHECK (together > 0),
    reason   TEXT,
    asked    BIGINT NOT NULL,
    ended    BIGINT,
    CHECK ((state IN ('paid', 'returned')) = (ended IS NOT NULL)),
    CHECK (state NOT IN ('batched', 'paid') OR batch IS NOT NULL)
);

CREATE INDEX withdrawals_by_account ON withdrawals (account, asked);
CREATE INDEX withdrawals_by_state ON withdrawals (state, not_before);
CREATE UNIQUE INDEX one_withdrawal_is_open ON withdrawals (account) WHERE ended IS NULL;

CREATE TRIGGER withdrawals_stay_ended BEFORE UPDATE ON withdrawals FOR EACH ROW
WHEN (OLD.ended IS NOT NULL)
EXECUTE FUNCTION refuse('a withdrawal that has ended does not change');
CREATE TRIGGER withdrawals_stay_what_was_asked BEFORE UPDATE ON withdrawals FOR EACH ROW
WHEN (NEW.id <> OLD.id OR NEW.account <> OLD.account OR NEW.address <> OLD.address OR NEW.amount <> OLD.amount)
EXECUTE FUNCTION refuse('what a withdrawal is does not change');

CREATE TABLE payouts (
    batch      TEXT NOT NULL REFERENCES payout_batches (id),
    place      BIGINT NOT NULL CHECK (place >= 0),
    withdrawal TEXT NOT NULL REFERENCES withdrawals (id),
    paid       BIGINT CHECK (paid IN (0, 1)),
    PRIMARY KEY (batch, place),
    UNIQUE (batch, withdrawal)
);

CREATE TABLE conversions (
    id        TEXT PRIMARY KEY CHECK (length(id) = 36),
    account   TEXT NOT NULL,
    target    TEXT NOT NULL CHECK (target IN ('compute', 'network')),
    aleph     BYTEA NOT NULL CHECK (length(aleph) = 32 AND aleph > decode(repeat('00', 32), 'hex')),
    credits   BYTEA NOT NULL CHECK (length(credits) = 32 AND credits > decode(repeat('00', 32), 'hex')),
    rate      BYTEA NOT NULL CHECK (length(rate) = 32),
    rate_time BIGINT NOT NULL,
    state     TEXT NOT NULL CHECK (state IN ('done', 'asked', 'posted', 'seen', 'returned')),
    address   TEXT,
    message   TEXT,
    hash      TEXT CHECK (length(hash) = 64),
    reason    TEXT,
    asked     BIGINT NOT NULL,
    ended     BIGINT,
    CHECK ((target = 'compute') = (state = 'done')),
    CHECK ((target = 'network') = (address IS NOT NULL)),
    CHECK ((message IS NULL) = (hash IS NULL)),
    CHECK (state NOT IN ('posted', 'seen') OR message IS NOT NULL),
    CHECK ((state IN ('done', 'seen', 'returned')) = (ended IS NOT NULL))
);

CREATE INDEX conversions_by_account ON conversions (account, asked);
CREATE INDEX conversions_open ON conversions (asked) WHERE ended IS NULL;

CREATE TRIGGER conversions_stay_ended BEFORE UPDATE ON conversions FOR EACH ROW
WHEN (OLD.ended IS NOT NULL)
EXECUTE FUNCTION refuse('a conversion that has ended does not change');
CREATE TRIGGER conversions_have_one_message BEFORE UPDATE ON conversions FOR EACH ROW
WHEN (OLD.message IS NOT NULL AND (NEW.message IS NULL OR NEW.message <> OLD.message))
EXECUTE FUNCTION refuse('a conversion has one message');
