-- An account is no longer the same as an address: who signs in at an OpenID provider has an account before it has an
-- address, and may link one. Until now each account's id was its address, and for those it stays so.

-- What refers to accounts is checked when all is done: the table is made anew, because its check of the id cannot be changed.
PRAGMA defer_foreign_keys = ON;

-- Those that refer to it follow.
ALTER TABLE accounts RENAME COLUMN address TO id;

CREATE TABLE accounts_before AS SELECT id, operator, admitted, created FROM accounts;

DROP TABLE accounts;

CREATE TABLE accounts (
    -- An address, or `acct_` and 32 hex digits where somebody signed in without one; never changed.
    id       TEXT PRIMARY KEY CHECK (
        (length(id) = 42 AND substr(id, 1, 2) = '0x') OR (length(id) = 37 AND substr(id, 1, 5) = 'acct_')),
    -- The one that it has proven, and no other account has.
    address  TEXT UNIQUE CHECK (length(address) = 42 AND substr(address, 1, 2) = '0x'),
    -- Whom the settings of this start name as the operator, and whom they admit.
    operator INTEGER NOT NULL CHECK (operator IN (0, 1)),
    admitted INTEGER NOT NULL CHECK (admitted IN (0, 1)),
    -- What an operator made of it, for good.
    role     TEXT NOT NULL CHECK (role IN ('user', 'operator')),
    created  INTEGER NOT NULL,
    CHECK (substr(id, 1, 2) <> '0x' OR (address IS NOT NULL AND address = id))
) STRICT;

INSERT INTO accounts (id, address, operator, admitted, role, created)
SELECT id, id, operator, admitted, 'user', created FROM accounts_before;

DROP TABLE accounts_before;

-- Who signs in at an OpenID provider: what the provider promises never to give to somebody else, not a mail address.
CREATE TABLE identities (
    issuer   TEXT NOT NULL CHECK (length(issuer) BETWEEN 1 AND 1000),
    subject  TEXT NOT NULL CHECK (length(subject) BETWEEN 1 AND 255),
    account  TEXT NOT NULL UNIQUE REFERENCES accounts (id),
    -- What the provider calls this person: shown, and nothing is found by it.
    label    TEXT NOT NULL,
    -- What an operator said: whoever waits or is dismissed opens nothing.
    standing TEXT NOT NULL CHECK (standing IN ('waiting', 'admitted', 'dismissed')),
    PRIMARY KEY (issuer, subject)
) STRICT;

-- Sign-ins that are on their way through a provider. Taking one deletes it, so none is used twice.
CREATE TABLE oidc_attempts (
    state    BLOB PRIMARY KEY CHECK (length(state) = 32),
    -- Hash of the cookie of the browser that began it.
    browser  BLOB NOT NULL CHECK (length(browser) = 32),
    nonce    TEXT NOT NULL,
    -- The secret of PKCE.
    verifier TEXT NOT NULL,
    next     TEXT NOT NULL,
    expires  INTEGER NOT NULL
) STRICT;

-- The account that an address is to be linked to by signing this text; none where it signs in.
ALTER TABLE challenges ADD COLUMN account TEXT;
