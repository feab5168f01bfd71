-- As sqlite/0001_start.sql. What SQLite has by itself is a column here: rowid, in the order of writing.

-- What triggers below refuse with; the sentence is their argument.
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%', TG_ARGV[0];
END $$;

CREATE TABLE accounts (
    address  TEXT PRIMARY KEY CHECK (length(address) = 42 AND substr(address, 1, 2) = '0x'),
    operator BIGINT NOT NULL CHECK (operator IN (0, 1)),
    created  BIGINT NOT NULL
);

CREATE TABLE challenges (
    nonce   TEXT PRIMARY KEY,
    address TEXT NOT NULL,
    message TEXT NOT NULL,
    expires BIGINT NOT NULL,
    rowid   BIGINT GENERATED ALWAYS AS IDENTITY UNIQUE
);

CREATE TABLE leases (
    id       TEXT PRIMARY KEY,
    provider TEXT NOT NULL,
    state    TEXT NOT NULL CHECK (state IN ('active', 'ended')),
    reason   TEXT,
    started  BIGINT NOT NULL,
    ended    BIGINT,
    CHECK ((state = 'ended') = (ended IS NOT NULL))
);

CREATE TRIGGER leases_stay_ended BEFORE UPDATE OF state ON leases FOR EACH ROW
WHEN (OLD.state = 'ended' AND NEW.state <> 'ended')
EXECUTE FUNCTION refuse('an ended lease cannot become active');

CREATE TABLE kernels (
    id      TEXT PRIMARY KEY,
    account TEXT NOT NULL REFERENCES accounts (address),
    name    TEXT NOT NULL,
    origin  TEXT NOT NULL CHECK (origin IN ('gateway', 'outside')),
    lease   TEXT REFERENCES leases (id),
    state   TEXT NOT NULL
        CHECK (state IN ('starting', 'idle', 'restarting', 'stopping', 'stopped', 'dead')),
    reason  TEXT,
    started BIGINT NOT NULL,
    changed BIGINT NOT NULL,
    CHECK ((origin = 'gateway') = (lease IS NOT NULL))
);

CREATE INDEX kernels_by_lease ON kernels (lease, state);
CREATE INDEX kernels_by_account ON kernels (account, state);

CREATE TRIGGER kernels_follow_their_states BEFORE UPDATE OF state ON kernels FOR EACH ROW
WHEN (OLD.state <> NEW.state AND NOT (
       (OLD.state = 'starting'   AND NEW.state IN ('idle', 'restarting', 'stopping', 'dead'))
    OR (OLD.state = 'idle'       AND NEW.state IN ('restarting', 'stopping', 'dead'))
    OR (OLD.state = 'restarting' AND NEW.state IN ('starting', 'idle', 'stopping', 'dead'))
    OR (OLD.state = 'stopping'   AND NEW.state IN ('stopped', 'dead'))
    OR (OLD.state = 'dead'       AND NEW.state IN ('restarting', 'stopping', 'stopped'))
))
EXECUTE FUNCTION refuse('a kernel cannot change its state so');

CREATE TABLE tokens (
    sha256  BYTEA PRIMARY KEY CHECK (length(sha256) = 32),
    account TEXT NOT NULL REFERENCES accounts (address),
    kind    TEXT NOT NULL CHECK (kind IN ('account', 'browser', 'kernel')),
    kernel  TEXT REFERENCES kernels (id) ON DELETE CASCADE,
    created BIGINT NOT NULL,
    expires BIGINT,
    CHECK ((kind = 'kernel') = (kernel IS NOT NULL)),
    CHECK (kind <> 'browser' OR expires IS NOT NULL)
);

CREATE TABLE sessions (
    id      TEXT PRIMARY KEY,
    account TEXT NOT NULL REFERENCES accounts (address),
    kernel  TEXT NOT NULL REFERENCES kernels (id),
    path    TEXT NOT NULL,
    name    TEXT NOT NULL,
    kind    TEXT NOT NULL,
    rowid   BIGINT GENERATED ALWAYS AS IDENTITY
);

CREATE TABLE models (
    message  TEXT PRIMARY KEY CHECK (length(message) = 64),
    owner    TEXT NOT NULL,
    name     TEXT NOT NULL,
    uuid     TEXT NOT NULL,
    revision TEXT NOT NULL CHECK (length(revision) = 40),
    -- A text that is no JSON cannot be cast, and so is refused. Text, so that it stays as it was signed.
    record   TEXT NOT NULL CHECK (record::json IS NOT NULL),
    head     TEXT NOT NULL CHECK (head::json IS NOT NULL),
    created  BIGINT NOT NULL,
    rowid    BIGINT GENERATED ALWAYS AS IDENTITY,
    UNIQUE (name, revision)
);

CREATE INDEX models_by_owner ON models (owner, created);

CREATE TABLE shares (
    uuid        TEXT PRIMARY KEY,
    account     TEXT NOT NULL REFERENCES accounts (address),
    model       TEXT NOT NULL,
    revision    TEXT NOT NULL,
    auth_sha256 BYTEA NOT NULL UNIQUE CHECK (length(auth_sha256) = 32),
    sealed      BYTEA NOT NULL,
    expires     BIGINT,
    created     BIGINT NOT NULL,
    rowid       BIGINT GENERATED ALWAYS AS IDENTITY,
    FOREIGN KEY (model, revision) REFERENCES models (name, revision)
);
