-- Terminals that are open on a host, so that a gateway that is started again knows whose they are.
CREATE TABLE terminals (
    id      TEXT NOT NULL PRIMARY KEY,
    lease   TEXT NOT NULL REFERENCES leases (id),
    account TEXT NOT NULL REFERENCES accounts (address),
    name    TEXT NOT NULL,
    UNIQUE (account, name)
) STRICT;
