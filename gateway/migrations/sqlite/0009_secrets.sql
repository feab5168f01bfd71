-- Secrets that an account's notebooks read by name. Each is sealed (AES-256-GCM) under the gateway's key file, which is not
-- in this database; account, name and version are bound to it, so that a row cannot pass for another one.
CREATE TABLE secrets (
    account   TEXT NOT NULL REFERENCES accounts (address),
    name      TEXT NOT NULL CHECK (length(name) BETWEEN 1 AND 64),
    -- Counts how often it was set.
    version   INTEGER NOT NULL CHECK (version >= 1),
    -- Tells which key file sealed it.
    key_id    BLOB NOT NULL CHECK (length(key_id) = 8),
    nonce     BLOB NOT NULL CHECK (length(nonce) = 12),
    sealed    BLOB NOT NULL,
    created   INTEGER NOT NULL,
    changed   INTEGER NOT NULL,
    last_read INTEGER,
    PRIMARY KEY (account, name)
) STRICT;
