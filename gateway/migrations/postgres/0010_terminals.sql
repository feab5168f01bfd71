-- As sqlite/0010_terminals.sql.

CREATE TABLE terminals (
    id      TEXT NOT NULL PRIMARY KEY,
    lease   TEXT NOT NULL REFERENCES leases (id),
    account TEXT NOT NULL REFERENCES accounts (address),
    name    TEXT NOT NULL,
    UNIQUE (account, name)
);
