-- Access tokens that an account makes for its programs: named, with a scope, ended one by one. Every token has a scope now.

ALTER TABLE tokens RENAME TO tokens_before;

CREATE TABLE tokens (
    sha256  BLOB PRIMARY KEY CHECK (length(sha256) = 32),
    account TEXT NOT NULL REFERENCES accounts (address),
    -- 'operator' comes from the configuration, 'account' from signing in with a wallet; 'access' was made by the account.
    kind    TEXT NOT NULL CHECK (kind IN ('operator', 'account', 'access', 'browser', 'kernel')),
    -- A browser has that of the token that it signed in with; a kernel's token opens key requests only.
    scope   TEXT CHECK (scope IN ('read', 'run', 'admin')),
    kernel  TEXT REFERENCES kernels (id) ON DELETE CASCADE,
    -- What a browser signed in with, or the access token that this one was made with: it ends with that.
    parent  BLOB REFERENCES tokens (sha256) ON DELETE CASCADE,
    -- What an access token is revoked by.
    id      TEXT UNIQUE,
    -- An access token's, as the account wrote it; what a signed-in browser says that it is.
    name    TEXT,
    created INTEGER NOT NULL,
    expires INTEGER,
    -- The day of its last use, as the second that it began with.
    used    INTEGER,
    CHECK ((kind = 'kernel') = (kernel IS NOT NULL)),
    CHECK ((kind = 'kernel') = (scope IS NULL)),
    CHECK (kind <> 'browser' OR parent IS NOT NULL),
    CHECK (parent IS NULL OR kind IN ('browser', 'access')),
    CHECK ((kind = 'access') = (id IS NOT NULL)),
    CHECK (kind <> 'access' OR name IS NOT NULL),
    CHECK (kind NOT IN ('account', 'access', 'browser') OR expires IS NOT NULL)
) STRICT;

INSERT INTO tokens (sha256, account, kind, scope, kernel, parent, created, expires)
SELECT sha256, account, kind, CASE kind WHEN 'kernel' THEN NULL ELSE 'admin' END, kernel, parent, created, expires
FROM tokens_before;

DROP TABLE tokens_before;

CREATE INDEX tokens_by_kernel ON tokens (kernel);
CREATE INDEX tokens_by_parent ON tokens (parent);
CREATE INDEX tokens_by_account ON tokens (account);
CREATE UNIQUE INDEX tokens_by_name ON tokens (account, name) WHERE kind = 'access';

-- Who did what with accounts, when, and how it went; never what was in it. Each line's hash covers the one before.
CREATE TABLE audit (
    seq     INTEGER PRIMARY KEY CHECK (seq >= 1),
    time    INTEGER NOT NULL,
    account TEXT NOT NULL,
    action  TEXT NOT NULL,
    subject TEXT NOT NULL,
    result  TEXT NOT NULL CHECK (result IN ('done', 'refused')),
    hash    BLOB NOT NULL CHECK (length(hash) = 32)
) STRICT;
