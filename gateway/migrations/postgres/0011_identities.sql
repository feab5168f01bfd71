-- As sqlite/0011_identities.sql.

ALTER TABLE accounts RENAME COLUMN address TO id;
ALTER TABLE accounts DROP CONSTRAINT accounts_address_check;
ALTER TABLE accounts ADD CONSTRAINT accounts_id_check CHECK (
    (length(id) = 42 AND substr(id, 1, 2) = '0x') OR (length(id) = 37 AND substr(id, 1, 5) = 'acct_'));

ALTER TABLE accounts ADD COLUMN address TEXT UNIQUE CHECK (length(address) = 42 AND substr(address, 1, 2) = '0x');
UPDATE accounts SET address = id;
ALTER TABLE accounts ADD CONSTRAINT accounts_own_address_check
    CHECK (substr(id, 1, 2) <> '0x' OR (address IS NOT NULL AND address = id));
ALTER TABLE accounts ADD COLUMN role TEXT NOT NULL DEFAULT 'user' CHECK (role IN ('user', 'operator'));
ALTER TABLE accounts ALTER COLUMN role DROP DEFAULT;
ALTER TABLE accounts ALTER COLUMN admitted DROP DEFAULT;

CREATE TABLE identities (
    issuer   TEXT NOT NULL CHECK (length(issuer) BETWEEN 1 AND 1000),
    subject  TEXT NOT NULL CHECK (length(subject) BETWEEN 1 AND 255),
    account  TEXT NOT NULL UNIQUE REFERENCES accounts (id),
    label    TEXT NOT NULL,
    standing TEXT NOT NULL CHECK (standing IN ('waiting', 'admitted', 'dismissed')),
    PRIMARY KEY (issuer, subject)
);

CREATE TABLE oidc_attempts (
    state    BYTEA PRIMARY KEY CHECK (length(state) = 32),
    browser  BYTEA NOT NULL CHECK (length(browser) = 32),
    nonce    TEXT NOT NULL,
    verifier TEXT NOT NULL,
    next     TEXT NOT NULL,
    expires  BIGINT NOT NULL
);

ALTER TABLE challenges ADD COLUMN account TEXT;
