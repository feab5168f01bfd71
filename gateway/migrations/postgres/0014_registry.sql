-- As sqlite/0014_registry.sql.

ALTER TABLE models ADD COLUMN made BIGINT NOT NULL DEFAULT 0;
UPDATE models SET made = (record::json ->> 'created')::bigint;

CREATE TABLE model_tags (
    name    TEXT PRIMARY KEY,
    message TEXT NOT NULL CHECK (length(message) = 64),
    serial  BIGINT NOT NULL CHECK (serial >= 0),
    tags    TEXT NOT NULL CHECK (tags::json IS NOT NULL)
);

CREATE TABLE model_withdrawals (
    name     TEXT NOT NULL,
    revision TEXT NOT NULL CHECK (length(revision) IN (0, 40)),
    made     BIGINT NOT NULL,
    PRIMARY KEY (name, revision)
);

CREATE TABLE model_evidence (
    name     TEXT NOT NULL,
    revision TEXT NOT NULL CHECK (length(revision) = 40),
    verifier TEXT NOT NULL,
    message  TEXT NOT NULL CHECK (length(message) = 64),
    evidence TEXT NOT NULL CHECK (evidence::json IS NOT NULL),
    made     BIGINT NOT NULL,
    PRIMARY KEY (name, revision, verifier)
);

CREATE TABLE model_downloads (
    name      TEXT PRIMARY KEY,
    downloads BIGINT NOT NULL CHECK (downloads > 0)
);

CREATE TABLE model_downloaders (
    day BIGINT NOT NULL,
    who BYTEA NOT NULL CHECK (length(who) = 32),
    PRIMARY KEY (day, who)
);

CREATE TABLE registry_seen (
    message TEXT PRIMARY KEY CHECK (length(message) = 64),
    time    BIGINT NOT NULL
);

CREATE INDEX registry_seen_by_time ON registry_seen (time);

ALTER TABLE shares ADD COLUMN max_downloads BIGINT CHECK (max_downloads >= 0);
ALTER TABLE shares ADD COLUMN max_bytes BIGINT CHECK (max_bytes >= 0);
ALTER TABLE shares ADD COLUMN per_minute BIGINT CHECK (per_minute >= 0);
ALTER TABLE shares ADD COLUMN downloads BIGINT NOT NULL DEFAULT 0 CHECK (downloads >= 0);
ALTER TABLE shares ADD COLUMN bytes BIGINT NOT NULL DEFAULT 0 CHECK (bytes >= 0);
ALTER TABLE shares ADD COLUMN used BIGINT;
