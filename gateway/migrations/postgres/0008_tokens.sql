-- As sqlite/0008_tokens.sql.

ALTER TABLE tokens RENAME TO tokens_before;

CREATE TABLE tokens (
    sha256  BYTEA PRIMARY KEY CHECK (length(sha256) = 32),
    account TEXT NOT NULL REFERENCES accounts (address),
    kind    TEXT NOT NULL CHECK (kind IN ('operator', 'account', 'access', 'browser', 'kernel')),
    scope   TEXT CHECK (scope IN ('read', 'run', 'admin')),
    kernel  TEXT REFERENCES kernels (id) ON DELETE CASCADE,
    parent  BYTEA REFERENCES tokens (sha256) ON DELETE CASCADE,
    id      TEXT UNIQUE,
    -- In the order of bytes, as SQLite has it, whatever the server's language.
    name    TEXT COLLATE "C",
    created BIGINT NOT NULL,
    expires BIGINT,
    used    BIGINT,
    CHECK ((kind = 'kernel') = (kernel IS NOT NULL)),
    CHECK ((kind = 'kernel') = (scope IS NULL)),
    CHECK (kind <> 'browser' OR parent IS NOT NULL),
    CHECK (parent IS NULL OR kind IN ('browser', 'access')),
    CHECK ((kind = 'access') = (id IS NOT NULL)),
    CHECK (kind <> 'access' OR name IS NOT NULL),
    CHECK (kind NOT IN ('account', 'access', 'browser') OR expires IS NOT NULL)
);

INSERT INTO tokens (sha256, account, kind, scope, kernel, parent, created, expires)
SELECT sha256, account, kind, CASE kind WHEN 'kernel' THEN NULL ELSE 'admin' END, kernel, parent, created, expires
FROM tokens_before;

DROP TABLE tokens_before;

CREATE INDEX tokens_by_kernel ON tokens (kernel);
CREATE INDEX tokens_by_parent ON tokens (parent);
CREATE INDEX tokens_by_account ON tokens (account);
CREATE UNIQUE INDEX tokens_by_name ON tokens (account, name) WHERE kind = 'access';

CREATE TABLE audit (
    seq     BIGINT PRIMARY KEY CHECK (seq >= 1),
    time    BIGINT NOT NULL,
    account TEXT NOT NULL,
    action  TEXT NOT NULL,
    subject TEXT NOT NULL,
    result  TEXT NOT NULL CHECK (result IN ('done', 'refused')),
    hash    BYTEA NOT NULL CHECK (length(hash) = 32)
);
