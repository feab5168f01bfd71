-- As sqlite/0009_secrets.sql.

CREATE TABLE secrets (
    account   TEXT NOT NULL REFERENCES accounts (address),
    -- In the order of bytes, as SQLite has it, whatever the server's language.
    name      TEXT COLLATE "C" NOT NULL CHECK (length(name) BETWEEN 1 AND 64),
    version   BIGINT NOT NULL CHECK (version >= 1),
    key_id    BYTEA NOT NULL CHECK (length(key_id) = 8),
    nonce     BYTEA NOT NULL CHECK (length(nonce) = 12),
    sealed    BYTEA NOT NULL,
    created   BIGINT NOT NULL,
    changed   BIGINT NOT NULL,
    last_read BIGINT,
    PRIMARY KEY (account, name)
);
