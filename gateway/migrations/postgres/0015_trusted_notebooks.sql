-- As sqlite/0015_trusted_notebooks.sql.

CREATE TABLE trusted_notebooks (
    account TEXT NOT NULL REFERENCES accounts (id),
    sha256  BYTEA NOT NULL CHECK (length(sha256) = 32),
    made    BIGINT NOT NULL,
    PRIMARY KEY (account, sha256)
);

CREATE INDEX trusted_notebooks_by_age ON trusted_notebooks (account, made);
