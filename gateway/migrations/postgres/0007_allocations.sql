-- As sqlite/0007_allocations.sql.

CREATE TABLE quotes (
    id           TEXT PRIMARY KEY,
    account      TEXT NOT NULL REFERENCES accounts (address),
    offer        TEXT NOT NULL CHECK (offer::json IS NOT NULL),
    cap          BYTEA NOT NULL CHECK (length(cap) = 32),
    idle_seconds BIGINT CHECK (idle_seconds > 0),
    expires      BIGINT NOT NULL,
    used         TEXT UNIQUE
);

CREATE TABLE allocations (
    id       TEXT PRIMARY KEY REFERENCES kernels (id),
    account  TEXT NOT NULL REFERENCES accounts (address),
    provider TEXT NOT NULL,
    lease    TEXT NOT NULL UNIQUE REFERENCES leases (id),
    hold     TEXT NOT NULL UNIQUE REFERENCES holds (id),
    offer    TEXT NOT NULL CHECK (offer::json IS NOT NULL),
    start    TEXT NOT NULL CHECK (start::json IS NOT NULL),
    -- May be missing; a text that is no JSON cannot be cast.
    draft    TEXT CHECK ((draft::json IS NULL) = (draft IS NULL)),
    stage    TEXT NOT NULL
        CHECK (stage IN ('held', 'renting', 'booting', 'joining', 'running', 'ending', 'ended')),
    detail   TEXT,
    fence    BIGINT NOT NULL CHECK (fence >= 0),
    created  BIGINT NOT NULL,
    changed  BIGINT NOT NULL,
    CHECK (stage IN ('held', 'ending', 'ended') OR draft IS NOT NULL)
);

CREATE INDEX allocations_by_stage ON allocations (stage);
CREATE INDEX allocations_by_account ON allocations (account, created);

CREATE TRIGGER allocations_follow_their_stages BEFORE UPDATE OF stage ON allocations FOR EACH ROW
WHEN (OLD.stage <> NEW.stage AND NOT (
       (OLD.stage = 'held'    AND NEW.stage IN ('renting', 'ending'))
    OR (OLD.stage = 'renting' AND NEW.stage IN ('booting', 'ending'))
    OR (OLD.stage = 'booting' AND NEW.stage IN ('joining', 'ending'))
    OR (OLD.stage = 'joining' AND NEW.stage IN ('running', 'ending'))
    OR (OLD.stage = 'running' AND NEW.stage = 'ending')
    OR (OLD.stage = 'ending'  AND NEW.stage = 'ended')
))
EXECUTE FUNCTION refuse('an allocation cannot change its stage so');

CREATE TRIGGER allocations_keep_their_draft BEFORE UPDATE OF draft ON allocations FOR EACH ROW
WHEN (OLD.draft IS NOT NULL AND NEW.draft IS DISTINCT FROM OLD.draft)
EXECUTE FUNCTION refuse('what was asked for is not changed afterwards');

CREATE TRIGGER allocations_count_changes BEFORE UPDATE ON allocations FOR EACH ROW
WHEN (NEW.fence <= OLD.fence)
EXECUTE FUNCTION refuse('a change counts up');

-- What a trigger looks up in another table stands in its function: a condition here sees its own row only.
CREATE FUNCTION refuse_while_the_allocation_goes_on() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM allocations a WHERE a.lease = NEW.id AND a.stage NOT IN ('ending', 'ended')) THEN
        RAISE EXCEPTION 'the allocation of this lease goes on';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER leases_end_with_their_allocation BEFORE UPDATE OF state ON leases FOR EACH ROW
WHEN (NEW.state = 'ended')
EXECUTE FUNCTION refuse_while_the_allocation_goes_on();

CREATE FUNCTION refuse_once_the_allocation_has_ended() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM allocations a WHERE a.hold = NEW.id AND a.stage = 'ended') THEN
        RAISE EXCEPTION 'the allocation of this hold has ended';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER holds_stop_with_their_allocation BEFORE UPDATE OF charged ON holds FOR EACH ROW
WHEN (NEW.charged > OLD.charged)
EXECUTE FUNCTION refuse_once_the_allocation_has_ended();
