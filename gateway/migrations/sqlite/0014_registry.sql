-- The registry: what is said of models after their records, how often they are downloaded, and what a share answers at most.
-- All of it but downloads and shares follows from signed messages, in whatever order they come.

-- When the owner says that it was made, in seconds since 1970: of two records of one revision the earlier stays.
ALTER TABLE models ADD COLUMN made INTEGER NOT NULL DEFAULT 0;
UPDATE models SET made = json_extract(record, '$.created');

-- The tags of a model with the highest serial; of equal ones those of the smaller message.
CREATE TABLE model_tags (
    name    TEXT PRIMARY KEY,
    message TEXT NOT NULL CHECK (length(message) = 64),
    serial  INTEGER NOT NULL CHECK (serial >= 0),
    tags    TEXT NOT NULL CHECK (json_valid(tags))
) STRICT;

-- The latest withdrawal of a revision; of the whole model where the revision is empty.
CREATE TABLE model_withdrawals (
    name     TEXT NOT NULL,
    revision TEXT NOT NULL CHECK (length(revision) IN (0, 40)),
    made     INTEGER NOT NULL,
    PRIMARY KEY (name, revision)
) STRICT;

-- The latest that each verifier says of a revision.
CREATE TABLE model_evidence (
    name     TEXT NOT NULL,
    revision TEXT NOT NULL CHECK (length(revision) = 40),
    verifier TEXT NOT NULL,
    message  TEXT NOT NULL CHECK (length(message) = 64),
    evidence TEXT NOT NULL CHECK (json_valid(evidence)),
    made     INTEGER NOT NULL,
    PRIMARY KEY (name, revision, verifier)
) STRICT;

CREATE TABLE model_downloads (
    name      TEXT PRIMARY KEY,
    downloads INTEGER NOT NULL CHECK (downloads > 0)
) STRICT;

-- Who had a file on a day already: SHA-256 of the bearer or address, revision and file.
CREATE TABLE model_downloaders (
    day INTEGER NOT NULL,
    who BLOB NOT NULL CHECK (length(who) = 32),
    PRIMARY KEY (day, who)
) STRICT;

-- Messages of the network that were looked at.
CREATE TABLE registry_seen (
    message TEXT PRIMARY KEY CHECK (length(message) = 64),
    time    INTEGER NOT NULL
) STRICT;

CREATE INDEX registry_seen_by_time ON registry_seen (time);

ALTER TABLE shares ADD COLUMN max_downloads INTEGER CHECK (max_downloads >= 0);
ALTER TABLE shares ADD COLUMN max_bytes INTEGER CHECK (max_bytes >= 0);
ALTER TABLE shares ADD COLUMN per_minute INTEGER CHECK (per_minute >= 0);
ALTER TABLE shares ADD COLUMN downloads INTEGER NOT NULL DEFAULT 0 CHECK (downloads >= 0);
ALTER TABLE shares ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0 CHECK (bytes >= 0);
ALTER TABLE shares ADD COLUMN used INTEGER;
