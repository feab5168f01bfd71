-- As sqlite/0002_admission.sql.

ALTER TABLE accounts ADD COLUMN admitted BIGINT NOT NULL DEFAULT 0 CHECK (admitted IN (0, 1));

ALTER TABLE tokens RENAME TO tokens_before;

CREATE TABLE tokens (
    sha256  BYTEA PRIMARY KEY CHECK (length(sha256) = 32),
    account TEXT NOT NULL REFERENCES accounts (address),
    kind    TEXT NOT NULL CHECK (kind IN ('operator', 'account', 'browser', 'kernel')),
    kernel  TEXT REFERENCES kernels (id) ON DELETE CASCADE,
    parent  BYTEA REFERENCES tokens (sha256) ON DELETE CASCADE,
    created BIGINT NOT NULL,
    expires BIGINT,
    CHECK ((kind = 'kernel') = (kernel IS NOT NULL)),
    CHECK ((kind = 'browser') = (parent IS NOT NULL)),
    CHECK (kind NOT IN ('account', 'browser') OR expires IS NOT NULL)
);

CREATE INDEX tokens_by_kernel ON tokens (kernel);
CREATE INDEX tokens_by_parent ON tokens (parent);

INSERT INTO tokens (sha256, account, kind, kernel, created, expires)
SELECT t.sha256, t.account, t.kind, t.kernel, t.created, t.created + 2592000
FROM tokens_before t
JOIN accounts a ON a.address = t.account
LEFT JOIN kernels k ON k.id = t.kernel
WHERE (t.kind = 'account' AND a.operator = 0) OR (t.kind = 'kernel' AND k.origin = 'outside');

DROP TABLE tokens_before;
