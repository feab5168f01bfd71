-- Schema 2 of the local node. Times are Unix seconds, sizes bytes, rates credits per second.

-- Messages that wait for a verdict; one hash may wait more than once, because anybody can send
-- a known hash with another signature.
CREATE TABLE IF NOT EXISTS pending (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    item_hash TEXT    NOT NULL,
    envelope  TEXT    NOT NULL,
    received  REAL    NOT NULL,
    attempts  INTEGER NOT NULL DEFAULT 0,
    due       REAL    NOT NULL
);
CREATE INDEX IF NOT EXISTS pending_by_due ON pending (due);
CREATE INDEX IF NOT EXISTS pending_by_hash ON pending (item_hash);

CREATE TABLE IF NOT EXISTS messages (
    item_hash    TEXT    PRIMARY KEY,
    status       TEXT    NOT NULL CHECK (status IN ('processed', 'rejected', 'forgotten')),
    received     REAL    NOT NULL,
    type         TEXT    NOT NULL,
    chain        TEXT    NOT NULL,
    sender       TEXT    NOT NULL COLLATE NOCASE,
    signature    TEXT    NOT NULL,
    item_type    TEXT    NOT NULL,
    item_content TEXT,
    time         REAL    NOT NULL,
    channel      TEXT,
    size         INTEGER NOT NULL,
    content      TEXT,
    owner        TEXT    COLLATE NOCASE,
    content_time REAL,
    content_type TEXT,
    content_key  TEXT,
    content_ref  TEXT,
    content_hash TEXT,
    payment      TEXT,
    tags         TEXT,
    error_code   INTEGER CHECK ((status = 'rejected') = (error_code IS NOT NULL)),
    details      TEXT,
    forgotten_by TEXT    CHECK ((status = 'forgotten') = (forgotten_by IS NOT NULL)),
    forgotten_at REAL
);
CREATE INDEX IF NOT EXISTS messages_by_time ON messages (status, time, item_hash);
CREATE INDEX IF NOT EXISTS messages_by_received ON messages (status, received);
CREATE INDEX IF NOT EXISTS messages_by_ref ON messages (content_ref);
CREATE INDEX IF NOT EXISTS messages_by_owner ON messages (owner, type, content_key, content_time);

CREATE TABLE IF NOT EXISTS files (
    hash       TEXT    PRIMARY KEY,
    size       INTEGER NOT NULL,
    -- Until when the file stays without a pin.
    keep_until REAL    NOT NULL
);

-- One row for each accepted STORE; forgotten ones stay, because they can still be priced.
CREATE TABLE IF NOT EXISTS pins (
    item_hash TEXT    PRIMARY KEY,
    owner     TEXT    NOT NULL COLLATE NOCASE,
    file_hash TEXT    NOT NULL,
    reference TEXT,
    size      INTEGER NOT NULL,
    created   REAL    NOT NULL,
    active    INTEGER NOT NULL DEFAULT 1 CHECK (active IN (0, 1))
);
CREATE INDEX IF NOT EXISTS pins_by_owner ON pins (owner, active);
CREATE INDEX IF NOT EXISTS pins_by_file ON pins (file_hash, active);
CREATE INDEX IF NOT EXISTS pins_by_reference ON pins (reference, active);

-- What costs credits, or has: one row for each accepted STORE and machine that is paid with them.
CREATE TABLE IF NOT EXISTS charges (
    item_hash TEXT    PRIMARY KEY,
    owner     TEXT    NOT NULL COLLATE NOCASE,
    since     REAL    NOT NULL,
    rate      REAL    NOT NULL,
    consumed  REAL    NOT NULL DEFAULT 0,
    active    INTEGER NOT NULL DEFAULT 1 CHECK (active IN (0, 1))
);
CREATE INDEX IF NOT EXISTS charges_by_owner ON charges (owner, active);

-- Which STORE messages a machine boots from or mounts: they stay while it does.
CREATE TABLE IF NOT EXISTS uses (
    machine TEXT NOT NULL,
    store   TEXT NOT NULL,
    PRIMARY KEY (store, machine)
) WITHOUT ROWID;

-- Credits that came by a transfer, and what is left of them.
CREATE TABLE IF NOT EXISTS credits (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    sender     TEXT    NOT NULL COLLATE NOCASE,
    address    TEXT    NOT NULL COLLATE NOCASE,
    amount     INTEGER NOT NULL,
    remaining  REAL    NOT NULL,
    expiration REAL,
    message    TEXT    NOT NULL,
    position   INTEGER NOT NULL,
    time       REAL    NOT NULL
);
CREATE INDEX IF NOT EXISTS credits_by_address ON credits (address);
CREATE INDEX IF NOT EXISTS credits_by_sender ON credits (sender);

-- What of its starting credits an address has spent.
CREATE TABLE IF NOT EXISTS purses (
    address TEXT PRIMARY KEY COLLATE NOCASE,
    spent   REAL NOT NULL
);

-- Until when everything has been charged.
CREATE TABLE IF NOT EXISTS meter (
    id      INTEGER PRIMARY KEY CHECK (id = 1),
    settled REAL    NOT NULL
);

-- Instances that are processed and kept down. What is forgotten leaves.
CREATE TABLE IF NOT EXISTS halted (
    item_hash TEXT PRIMARY KEY,
    why       TEXT NOT NULL CHECK (why IN ('stopped', 'erased', 'unpaid'))
);
