-- The ledger: double entry, amounts as 32 bytes, big-endian, in base units (SQLite's integers end at 9.2 ALEPH).
-- Entries and their legs are written once; what an account has is kept beside them and audited against them.

CREATE TABLE ledger_accounts (
    id      INTEGER PRIMARY KEY,
    -- An address, or 'gateway'.
    owner   TEXT NOT NULL,
    asset   TEXT NOT NULL CHECK (asset IN ('credit', 'aleph')),
    -- 'wallet' is what somebody has; 'issued' is the other side of what the operator gave, and may owe any amount;
    -- 'revenue' is what the gateway took for compute.
    kind    TEXT NOT NULL CHECK (kind IN ('wallet', 'issued', 'revenue')),
    debits  BLOB NOT NULL CHECK (length(debits) = 32),
    credits BLOB NOT NULL CHECK (length(credits) = 32),
    -- Of what is not debited yet, what holds have set aside.
    held    BLOB NOT NULL CHECK (length(held) = 32),
    UNIQUE (owner, asset, kind),
    CHECK ((kind = 'wallet') = (owner <> 'gateway')),
    CHECK (kind = 'issued' OR debits <= credits),
    CHECK (kind = 'wallet' OR held = zeroblob(32))
) STRICT;

CREATE TABLE holds (
    id      TEXT PRIMARY KEY,
    -- Given by who asks: the same key is the same hold.
    key     TEXT NOT NULL UNIQUE,
    account INTEGER NOT NULL REFERENCES ledger_accounts (id),
    -- Most that is charged.
    amount  BLOB NOT NULL CHECK (length(amount) = 32),
    -- For an hour; fixed when the hold is made.
    price   BLOB NOT NULL CHECK (length(price) = 32),
    -- Charged so far, and for how many seconds.
    charged BLOB NOT NULL CHECK (length(charged) = 32),
    seconds INTEGER NOT NULL CHECK (seconds >= 0),
    memo    TEXT NOT NULL,
    state   TEXT NOT NULL CHECK (state IN ('open', 'ended')),
    created INTEGER NOT NULL,
    ended   INTEGER,
    CHECK (charged <= amount),
    CHECK ((state = 'ended') = (ended IS NOT NULL))
) STRICT;

CREATE INDEX holds_by_state ON holds (state);

CREATE TRIGGER holds_stay_ended BEFORE UPDATE ON holds
WHEN OLD.state = 'ended'
BEGIN SELECT RAISE(ABORT, 'a hold that has ended does not change'); END;

CREATE TRIGGER holds_only_grow BEFORE UPDATE ON holds
WHEN NEW.charged < OLD.charged OR NEW.seconds < OLD.seconds OR NEW.amount <> OLD.amount OR NEW.price <> OLD.price
BEGIN SELECT RAISE(ABORT, 'what was charged stays charged, at the price that was said'); END;

CREATE TABLE entries (
    seq   INTEGER PRIMARY KEY AUTOINCREMENT,
    id    TEXT NOT NULL UNIQUE,
    -- What makes it one entry however often it is asked for.
    key   TEXT NOT NULL UNIQUE,
    kind  TEXT NOT NULL CHECK (kind IN ('credit', 'charge')),
    asset TEXT NOT NULL CHECK (asset IN ('credit', 'aleph')),
    hold  TEXT REFERENCES holds (id),
    memo  TEXT NOT NULL,
    time  INTEGER NOT NULL,
    CHECK ((kind = 'charge') = (hold IS NOT NULL))
) STRICT;

-- Two legs of one amount: what leaves one account comes into the other.
CREATE TABLE legs (
    entry   INTEGER NOT NULL REFERENCES entries (seq),
    side    TEXT NOT NULL CHECK (side IN ('debit', 'credit')),
    account INTEGER NOT NULL REFERENCES ledger_accounts (id),
    amount  BLOB NOT NULL CHECK (length(amount) = 32 AND amount > zeroblob(32)),
    PRIMARY KEY (entry, side)
) STRICT, WITHOUT ROWID;

CREATE INDEX legs_by_account ON legs (account, entry);

CREATE TRIGGER entries_are_written_once BEFORE UPDATE ON entries
BEGIN SELECT RAISE(ABORT, 'an entry does not change'); END;
CREATE TRIGGER entries_stay BEFORE DELETE ON entries
BEGIN SELECT RAISE(ABORT, 'an entry stays'); END;
CREATE TRIGGER legs_are_written_once BEFORE UPDATE ON legs
BEGIN SELECT RAISE(ABORT, 'a leg does not change'); END;
CREATE TRIGGER legs_stay BEFORE DELETE ON legs
BEGIN SELECT RAISE(ABORT, 'a leg stays'); END;
