-- As sqlite/0003_ledger.sql. Amounts are the same 32 bytes: BYTEA is compared byte by byte, so they compare as numbers.

CREATE TABLE ledger_accounts (
    id      BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    owner   TEXT NOT NULL,
    asset   TEXT NOT NULL CHECK (asset IN ('credit', 'aleph')),
    kind    TEXT NOT NULL CHECK (kind IN ('wallet', 'issued', 'revenue')),
    debits  BYTEA NOT NULL CHECK (length(debits) = 32),
    credits BYTEA NOT NULL CHECK (length(credits) = 32),
    held    BYTEA NOT NULL CHECK (length(held) = 32),
    UNIQUE (owner, asset, kind),
    CHECK ((kind = 'wallet') = (owner <> 'gateway')),
    CHECK (kind = 'issued' OR debits <= credits),
    CHECK (kind = 'wallet' OR held = decode(repeat('00', 32), 'hex'))
);

CREATE TABLE holds (
    id      TEXT PRIMARY KEY,
    key     TEXT NOT NULL UNIQUE,
    account BIGINT NOT NULL REFERENCES ledger_accounts (id),
    amount  BYTEA NOT NULL CHECK (length(amount) = 32),
    price   BYTEA NOT NULL CHECK (length(price) = 32),
    charged BYTEA NOT NULL CHECK (length(charged) = 32),
    seconds BIGINT NOT NULL CHECK (seconds >= 0),
    memo    TEXT NOT NULL,
    state   TEXT NOT NULL CHECK (state IN ('open', 'ended')),
    created BIGINT NOT NULL,
    ended   BIGINT,
    CHECK (charged <= amount),
    CHECK ((state = 'ended') = (ended IS NOT NULL))
);

CREATE INDEX holds_by_state ON holds (state);

CREATE TRIGGER holds_stay_ended BEFORE UPDATE ON holds FOR EACH ROW
WHEN (OLD.state = 'ended')
EXECUTE FUNCTION refuse('a hold that has ended does not change');

CREATE TRIGGER holds_only_grow BEFORE UPDATE ON holds FOR EACH ROW
WHEN (NEW.charged < OLD.charged OR NEW.seconds < OLD.seconds OR NEW.amount <> OLD.amount OR NEW.price <> OLD.price)
EXECUTE FUNCTION refuse('what was charged stays charged, at the price that was said');

CREATE TABLE entries (
    seq   BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id    TEXT NOT NULL UNIQUE,
    key   TEXT NOT NULL UNIQUE,
    kind  TEXT NOT NULL CHECK (kind IN ('credit', 'charge')),
    asset TEXT NOT NULL CHECK (asset IN ('credit', 'aleph')),
    hold  TEXT REFERENCES holds (id),
    memo  TEXT NOT NULL,
    time  BIGINT NOT NULL,
    CHECK ((kind = 'charge') = (hold IS NOT NULL))
);

CREATE TABLE legs (
    entry   BIGINT NOT NULL REFERENCES entries (seq),
    side    TEXT NOT NULL CHECK (side IN ('debit', 'credit')),
    account BIGINT NOT NULL REFERENCES ledger_accounts (id),
    amount  BYTEA NOT NULL CHECK (length(amount) = 32 AND amount > decode(repeat('00', 32), 'hex')),
    PRIMARY KEY (entry, side)
);

CREATE INDEX legs_by_account ON legs (account, entry);

CREATE TRIGGER entries_are_written_once BEFORE UPDATE ON entries FOR EACH ROW
EXECUTE FUNCTION refuse('an entry does not change');
CREATE TRIGGER entries_stay BEFORE DELETE ON entries FOR EACH ROW
EXECUTE FUNCTION refuse('an entry stays');
CREATE TRIGGER legs_are_written_once BEFORE UPDATE ON legs FOR EACH ROW
EXECUTE FUNCTION refuse('a leg does not change');
CREATE TRIGGER legs_stay BEFORE DELETE ON legs FOR EACH ROW
EXECUTE FUNCTION refuse('a leg stays');
-- What empties a table in one go asks no trigger of its rows.
CREATE TRIGGER entries_stay_all BEFORE TRUNCATE ON entries
EXECUTE FUNCTION refuse('an entry stays');
CREATE TRIGGER legs_stay_all BEFORE TRUNCATE ON legs
EXECUTE FUNCTION refuse('a leg stays');
