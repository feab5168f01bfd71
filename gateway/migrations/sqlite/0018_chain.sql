-- What comes from the chain and goes to it: deposits, withdrawals, the batches that pay them, and conversions. Every amount here is
-- an entry of the ledger too, written in the same transaction. Amounts are 32 bytes, big-endian, in base units.

-- One row: how far deposits were read at which place, whether withdrawals are stopped, and what the last comparison found.
CREATE TABLE settlement (
    id             INTEGER PRIMARY KEY CHECK (id = 1),
    chain          INTEGER NOT NULL CHECK (chain > 0),
    token          TEXT NOT NULL,
    -- Where deposits are taken.
    address        TEXT NOT NULL,
    cursor_number  INTEGER NOT NULL CHECK (cursor_number >= 0),
    cursor_hash    TEXT NOT NULL CHECK (length(cursor_hash) = 66),
    -- Why nothing is paid out until the operator says so.
    stopped_code   TEXT,
    stopped_reason TEXT,
    stopped_at     INTEGER,
    -- When tokens and books were compared last, at which block, and what was found there.
    compared_at    INTEGER,
    compared_block INTEGER,
    on_chain       BLOB CHECK (length(on_chain) = 32),
    missing        BLOB CHECK (length(missing) = 32),
    unbooked       BLOB CHECK (length(unbooked) = 32),
    CHECK ((stopped_code IS NULL) = (stopped_at IS NULL)),
    CHECK ((stopped_code IS NULL) = (stopped_reason IS NULL))
) STRICT;

-- Transfers to the deposit address in final blocks; nobody's until an account has the address that they came from.
CREATE TABLE chain_deposits (
    chain       INTEGER NOT NULL,
    hash        TEXT NOT NULL CHECK (length(hash) = 66),
    log         INTEGER NOT NULL CHECK (log >= 0),
    sender      TEXT NOT NULL,
    amount      BLOB NOT NULL CHECK (length(amount) = 32 AND amount > zeroblob(32)),
    account     TEXT,
    time        INTEGER NOT NULL,
    PRIMARY KEY (chain, hash, log)
) STRICT;

CREATE INDEX deposits_of_nobody ON chain_deposits (sender) WHERE account IS NULL;

CREATE TABLE payout_batches (
    -- Its name on the chain.
    id       TEXT PRIMARY KEY CHECK (length(id) = 66),
    -- The one contract that may pay it.
    chain    INTEGER NOT NULL CHECK (chain > 0),
    contract TEXT NOT NULL,
    -- Last second of a block that may have it.
    deadline INTEGER NOT NULL,
    stage    TEXT NOT NULL CHECK (stage IN ('planned', 'signed', 'sent', 'mined', 'paid', 'dropped')),
    -- What it waits for, in words.
    waiting  TEXT,
    -- It took too much gas or was mined without paying: what is planned again of it goes into halves.
    smaller  INTEGER NOT NULL DEFAULT 0 CHECK (smaller IN (0, 1)),
    created  INTEGER NOT NULL,
    ended    INTEGER,
    CHECK ((stage IN ('paid', 'dropped')) = (ended IS NOT NULL))
) STRICT;

-- One is open at a time: two would bid for one number of the payout key's transactions.
CREATE UNIQUE INDEX one_batch_is_open ON payout_batches ((ended IS NULL)) WHERE ended IS NULL;

CREATE TRIGGER batches_stay_ended BEFORE UPDATE ON payout_batches
WHEN OLD.ended IS NOT NULL
BEGIN SELECT RAISE(ABORT, 'a batch that has ended does not change'); END;
CREATE TRIGGER batches_are_one_contracts BEFORE UPDATE ON payout_batches
WHEN NEW.id <> OLD.id OR NEW.chain <> OLD.chain OR NEW.contract <> OLD.contract OR NEW.deadline <> OLD.deadline
BEGIN SELECT RAISE(ABORT, 'what a batch is does not change'); END;

-- Transactions that were signed for a batch, written before they are sent.
CREATE TABLE payout_attempts (
    batch     TEXT NOT NULL REFERENCES payout_batches (id),
    place     INTEGER NOT NULL CHECK (place >= 0),
    sender    TEXT NOT NULL,
    nonce     INTEGER NOT NULL CHECK (nonce >= 0),
    -- Wei for one gas, as decimal digits: they may be wider than 64 bits.
    fee_most  TEXT NOT NULL,
    fee_tip   TEXT NOT NULL,
    hash      TEXT NOT NULL UNIQUE CHECK (length(hash) = 66),
    raw       BLOB NOT NULL,
    sent_at   INTEGER,
    cheap     INTEGER NOT NULL DEFAULT 0 CHECK (cheap IN (0, 1)),
    PRIMARY KEY (batch, place)
) STRICT;

CREATE TABLE withdrawals (
    -- Chosen by who asks: the same id is one withdrawal.
    id       TEXT PRIMARY KEY CHECK (length(id) = 36),
    account  TEXT NOT NULL,
    -- The account's own.
    address  TEXT NOT NULL,
    amount   BLOB NOT NULL CHECK (length(amount) = 32 AND amount > zeroblob(32)),
    state    TEXT NOT NULL CHECK (state IN ('asked', 'batched', 'paid', 'returned')),
    -- The one that it is in, or was in last.
    batch    TEXT REFERENCES payout_batches (id),
    -- How often it was not paid, not before when it is tried again, and with at most how many others.
    tries    INTEGER NOT NULL DEFAULT 0 CHECK (tries >= 0),
    not_before INTEGER NOT NULL,
    together INTEGER NOT NULL CHECK (together > 0),
    reason   TEXT,
    asked    INTEGER NOT NULL,
    ended    INTEGER,
    CHECK ((state IN ('paid', 'returned')) = (ended IS NOT NULL)),
    CHECK (state NOT IN ('batched', 'paid') OR batch IS NOT NULL)
) STRICT;

CREATE INDEX withdrawals_by_account ON withdrawals (account, asked);
CREATE INDEX withdrawals_by_state ON withdrawals (state, not_before);
-- So no batch names an account twice, and who cannot be paid waits alone.
CREATE UNIQUE INDEX one_withdrawal_is_open ON withdrawals (account) WHERE ended IS NULL;

CREATE TRIGGER withdrawals_stay_ended BEFORE UPDATE ON withdrawals
WHEN OLD.ended IS NOT NULL
BEGIN SELECT RAISE(ABORT, 'a withdrawal that has ended does not change'); END;
CREATE TRIGGER withdrawals_stay_what_was_asked BEFORE UPDATE ON withdrawals
WHEN NEW.id <> OLD.id OR NEW.account <> OLD.account OR NEW.address <> OLD.address OR NEW.amount <> OLD.amount
BEGIN SELECT RAISE(ABORT, 'what a withdrawal is does not change'); END;

-- Who is in a batch, in the order in which the chain names them.
CREATE TABLE payouts (
    batch      TEXT NOT NULL REFERENCES payout_batches (id),
    place      INTEGER NOT NULL CHECK (place >= 0),
    withdrawal TEXT NOT NULL REFERENCES withdrawals (id),
    -- Whether the token moved it; unknown until the batch is paid.
    paid       INTEGER CHECK (paid IN (0, 1)),
    PRIMARY KEY (batch, place),
    UNIQUE (batch, withdrawal)
) STRICT;

-- ALEPH that became credits: of the account here, or of its address on Aleph.
CREATE TABLE conversions (
    id        TEXT PRIMARY KEY CHECK (length(id) = 36),
    account   TEXT NOT NULL,
    target    TEXT NOT NULL CHECK (target IN ('compute', 'network')),
    aleph     BLOB NOT NULL CHECK (length(aleph) = 32 AND aleph > zeroblob(32)),
    credits   BLOB NOT NULL CHECK (length(credits) = 32 AND credits > zeroblob(32)),
    -- Credits for one ALEPH, and since when that was so.
    rate      BLOB NOT NULL CHECK (length(rate) = 32),
    rate_time INTEGER NOT NULL,
    state     TEXT NOT NULL CHECK (state IN ('done', 'asked', 'posted', 'seen', 'returned')),
    -- Of 'network': to whom, and the signed message, written before it is posted.
    address   TEXT,
    message   TEXT,
    hash      TEXT CHECK (length(hash) = 64),
    reason    TEXT,
    asked     INTEGER NOT NULL,
    ended     INTEGER,
    CHECK ((target = 'compute') = (state = 'done')),
    CHECK ((target = 'network') = (address IS NOT NULL)),
    CHECK ((message IS NULL) = (hash IS NULL)),
    CHECK (state NOT IN ('posted', 'seen') OR message IS NOT NULL),
    CHECK ((state IN ('done', 'seen', 'returned')) = (ended IS NOT NULL))
) STRICT;

CREATE INDEX conversions_by_account ON conversions (account, asked);
CREATE INDEX conversions_open ON conversions (asked) WHERE ended IS NULL;

CREATE TRIGGER conversions_stay_ended BEFORE UPDATE ON conversions
WHEN OLD.ended IS NOT NULL
BEGIN SELECT RAISE(ABORT, 'a conversion that has ended does not change'); END;
-- Another message would be carried out beside the first.
CREATE TRIGGER conversions_have_one_message BEFORE UPDATE ON conversions
WHEN OLD.message IS NOT NULL AND (NEW.message IS NULL OR NEW.message <> OLD.message)
BEGIN SELECT RAISE(ABORT, 'a conversion has one message'); END;
