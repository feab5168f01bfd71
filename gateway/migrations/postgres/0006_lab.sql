-- As sqlite/0006_lab.sql.

CREATE TABLE lab_documents (
    account  TEXT NOT NULL REFERENCES accounts (address),
    kind     TEXT NOT NULL CHECK (kind IN ('settings', 'workspace')),
    -- In the order of bytes, as SQLite has it, whatever the server's language.
    id       TEXT COLLATE "C" NOT NULL,
    body     TEXT NOT NULL,
    created  BIGINT NOT NULL,
    modified BIGINT NOT NULL,
    PRIMARY KEY (account, kind, id)
);
