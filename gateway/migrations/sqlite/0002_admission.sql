-- Who may sign in is set at each start, and a token ends with what gave it.

ALTER TABLE accounts ADD COLUMN admitted INTEGER NOT NULL DEFAULT 0 CHECK (admitted IN (0, 1));

ALTER TABLE tokens RENAME TO tokens_before;

CREATE TABLE tokens (
    sha256  BLOB PRIMARY KEY CHECK (length(sha256) = 32),
    account TEXT NOT NULL REFERENCES accounts (address),
    -- 'operator' comes from the configuration, 'account' from signing in with a wallet.
    kind    TEXT NOT NULL CHECK (kind IN ('operator', 'account', 'browser', 'kernel')),
    kernel  TEXT REFERENCES kernels (id) ON DELETE CASCADE,
    -- What a browser signed in with.
    parent  BLOB REFERENCES tokens (sha256) ON DELETE CASCADE,
    created INTEGER NOT NULL,
    expires INTEGER,
    CHECK ((kind = 'kernel') = (kernel IS NOT NULL)),
    CHECK ((kind = 'browser') = (parent IS NOT NULL)),
    CHECK (kind NOT IN ('account', 'browser') OR expires IS NOT NULL)
) STRICT;

CREATE INDEX tokens_by_kernel ON tokens (kernel);
CREATE INDEX tokens_by_parent ON tokens (parent);

-- Not taken over: tokens of operators, because those of earlier configurations cannot be told from the others; those of
-- browsers, whose parent is not known; those of kernels on a lease, which are over with the last run.
INSERT INTO tokens (sha256, account, kind, kernel, created, expires)
SELECT t.sha256, t.account, t.kind, t.kernel, t.created, t.created + 2592000
FROM tokens_before t
JOIN accounts a ON a.address = t.account
LEFT JOIN kernels k ON k.id = t.kernel
WHERE (t.kind = 'account' AND a.operator = 0) OR (t.kind = 'kernel' AND k.origin = 'outside');

DROP TABLE tokens_before;
