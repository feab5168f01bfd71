-- The ledger's purses and kinds of entries for models that are sold, and for ALEPH that comes and goes. Both tables are made anew with
-- the same rows, since SQLite changes no constraint; what refers to them is checked at the end.

PRAGMA defer_foreign_keys = ON;

CREATE TABLE accounts_before AS SELECT * FROM ledger_accounts;
DROP TABLE ledger_accounts;

CREATE TABLE ledger_accounts (
    id      INTEGER PRIMARY KEY,
    -- An address, an account's id, or 'gateway'.
    owner   TEXT NOT NULL,
    asset   TEXT NOT NULL CHECK (asset IN ('credit', 'aleph')),
    -- Of accounts: 'wallet' is what somebody has, 'pending' what was earned and can still be given back.
    -- Of the gateway: 'issued' is the other side of what the operator gave; 'revenue' what it took for compute; 'pending' and 'fee' its
    -- share of sales; 'custody' the other side of what it has outside, on the chain or at Aleph; 'payouts' what is on its way there;
    -- 'suspense' what came from nobody who is known; 'exchange' what was taken and given for the other asset.
    kind    TEXT NOT NULL CHECK (kind IN ('wallet', 'pending', 'issued', 'revenue', 'fee', 'custody', 'payouts', 'suspense', 'exchange')),
    debits  BLOB NOT NULL CHECK (length(debits) = 32),
    credits BLOB NOT NULL CHECK (length(credits) = 32),
    -- Of what is not debited yet, what holds have set aside.
    held    BLOB NOT NULL CHECK (length(held) = 32),
    UNIQUE (owner, asset, kind),
    CHECK (kind = 'pending' OR (kind = 'wallet') = (owner <> 'gateway')),
    -- Other sides of what is elsewhere may owe any amount.
    CHECK (kind IN ('issued', 'custody', 'exchange') OR debits <= credits),
    CHECK (kind = 'wallet' OR held = zeroblob(32))
) STRICT;

INSERT INTO ledger_accounts (id, owner, asset, kind, debits, credits, held)
SELECT id, owner, asset, kind, debits, credits, held FROM accounts_before;
DROP TABLE accounts_before;

CREATE TABLE entries_before AS SELECT * FROM entries;
DROP TABLE entries;

CREATE TABLE entries (
    seq   INTEGER PRIMARY KEY AUTOINCREMENT,
    id    TEXT NOT NULL UNIQUE,
    -- What makes it one entry however often it is asked for.
    key   TEXT NOT NULL UNIQUE,
    kind  TEXT NOT NULL CHECK (kind IN ('credit', 'charge', 'deposit', 'sale', 'royalty', 'fee', 'use', 'refund', 'release',
                                        'convert', 'withdraw', 'settle', 'return')),
    asset TEXT NOT NULL CHECK (asset IN ('credit', 'aleph')),
    hold  TEXT REFERENCES holds (id),
    memo  TEXT NOT NULL,
    time  INTEGER NOT NULL,
    CHECK (hold IS NOT NULL OR kind NOT IN ('charge', 'use')),
    CHECK (hold IS NULL OR kind IN ('charge', 'use', 'royalty', 'fee'))
) STRICT;

INSERT INTO entries (seq, id, key, kind, asset, hold, memo, time)
SELECT seq, id, key, kind, asset, hold, memo, time FROM entries_before;
DROP TABLE entries_before;

CREATE INDEX entries_by_hold ON entries (hold, seq) WHERE hold IS NOT NULL;

CREATE TRIGGER entries_are_written_once BEFORE UPDATE ON entries
BEGIN SELECT RAISE(ABORT, 'an entry does not change'); END;
CREATE TRIGGER entries_stay BEFORE DELETE ON entries
BEGIN SELECT RAISE(ABORT, 'an entry stays'); END;
