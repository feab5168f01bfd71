-- Accounts, their tokens, kernels on leases, sessions, and the index of models and shares.
-- Times are whole seconds since 1970 unless a name says otherwise. No key that opens content is here.

CREATE TABLE accounts (
    address  TEXT PRIMARY KEY CHECK (length(address) = 42 AND substr(address, 1, 2) = '0x'),
    operator INTEGER NOT NULL CHECK (operator IN (0, 1)),
    created  INTEGER NOT NULL
) STRICT;

-- Texts that wait for a wallet's signature. Taking one deletes it, so none is used twice.
CREATE TABLE challenges (
    nonce   TEXT PRIMARY KEY,
    address TEXT NOT NULL,
    message TEXT NOT NULL,
    expires INTEGER NOT NULL
) STRICT;

CREATE TABLE leases (
    id       TEXT PRIMARY KEY,
    provider TEXT NOT NULL,
    state    TEXT NOT NULL CHECK (state IN ('active', 'ended')),
    reason   TEXT,
    started  INTEGER NOT NULL,
    ended    INTEGER,
    CHECK ((state = 'ended') = (ended IS NOT NULL))
) STRICT;

CREATE TRIGGER leases_stay_ended BEFORE UPDATE OF state ON leases
WHEN OLD.state = 'ended' AND NEW.state <> 'ended'
BEGIN SELECT RAISE(ABORT, 'an ended lease cannot become active'); END;

CREATE TABLE kernels (
    id      TEXT PRIMARY KEY,
    account TEXT NOT NULL REFERENCES accounts (address),
    name    TEXT NOT NULL,
    -- 'outside': started by `alephlab kernel start`; only its key requests pass here.
    origin  TEXT NOT NULL CHECK (origin IN ('gateway', 'outside')),
    lease   TEXT REFERENCES leases (id),
    -- Idle stands for idle and busy: what changes with each cell is not written.
    state   TEXT NOT NULL
        CHECK (state IN ('starting', 'idle', 'restarting', 'stopping', 'stopped', 'dead')),
    reason  TEXT,
    started INTEGER NOT NULL,
    changed INTEGER NOT NULL,
    CHECK ((origin = 'gateway') = (lease IS NOT NULL))
) STRICT;

CREATE INDEX kernels_by_lease ON kernels (lease, state);
CREATE INDEX kernels_by_account ON kernels (account, state);

CREATE TRIGGER kernels_follow_their_states BEFORE UPDATE OF state ON kernels
WHEN OLD.state <> NEW.state AND NOT (
       (OLD.state = 'starting'   AND NEW.state IN ('idle', 'restarting', 'stopping', 'dead'))
    OR (OLD.state = 'idle'       AND NEW.state IN ('restarting', 'stopping', 'dead'))
    OR (OLD.state = 'restarting' AND NEW.state IN ('starting', 'idle', 'stopping', 'dead'))
    OR (OLD.state = 'stopping'   AND NEW.state IN ('stopped', 'dead'))
    OR (OLD.state = 'dead'       AND NEW.state IN ('restarting', 'stopping', 'stopped'))
)
BEGIN SELECT RAISE(ABORT, 'a kernel cannot change its state so'); END;

CREATE TABLE tokens (
    sha256  BLOB PRIMARY KEY CHECK (length(sha256) = 32),
    account TEXT NOT NULL REFERENCES accounts (address),
    kind    TEXT NOT NULL CHECK (kind IN ('account', 'browser', 'kernel')),
    kernel  TEXT REFERENCES kernels (id) ON DELETE CASCADE,
    created INTEGER NOT NULL,
    expires INTEGER,
    CHECK ((kind = 'kernel') = (kernel IS NOT NULL)),
    CHECK (kind <> 'browser' OR expires IS NOT NULL)
) STRICT;

CREATE TABLE sessions (
    id      TEXT PRIMARY KEY,
    account TEXT NOT NULL REFERENCES accounts (address),
    kernel  TEXT NOT NULL REFERENCES kernels (id),
    path    TEXT NOT NULL,
    name    TEXT NOT NULL,
    kind    TEXT NOT NULL
) STRICT;

CREATE TABLE models (
    -- Item hash of the record's message on Aleph.
    message  TEXT PRIMARY KEY CHECK (length(message) = 64),
    owner    TEXT NOT NULL,
    name     TEXT NOT NULL,
    uuid     TEXT NOT NULL,
    revision TEXT NOT NULL CHECK (length(revision) = 40),
    record   TEXT NOT NULL CHECK (json_valid(record)),
    head     TEXT NOT NULL CHECK (json_valid(head)),
    created  INTEGER NOT NULL,
    UNIQUE (name, revision)
) STRICT;

CREATE INDEX models_by_owner ON models (owner, created);

CREATE TABLE shares (
    uuid        TEXT PRIMARY KEY,
    account     TEXT NOT NULL REFERENCES accounts (address),
    model       TEXT NOT NULL,
    revision    TEXT NOT NULL,
    auth_sha256 BLOB NOT NULL UNIQUE CHECK (length(auth_sha256) = 32),
    sealed      BLOB NOT NULL,
    expires     INTEGER,
    created     INTEGER NOT NULL,
    FOREIGN KEY (model, revision) REFERENCES models (name, revision)
) STRICT;
