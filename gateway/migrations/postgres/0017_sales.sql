-- As sqlite/0017_sales.sql.

CREATE TABLE model_terms (
    name    TEXT PRIMARY KEY,
    message TEXT NOT NULL CHECK (length(message) = 64),
    terms   TEXT NOT NULL CHECK (terms::json IS NOT NULL),
    made    BIGINT NOT NULL
);

CREATE TABLE orders (
    id       TEXT PRIMARY KEY,
    buyer    TEXT NOT NULL,
    seller   TEXT NOT NULL,
    model    TEXT NOT NULL,
    revision TEXT NOT NULL CHECK (length(revision) = 40),
    price    BYTEA NOT NULL CHECK (length(price) = 32 AND price > decode(repeat('00', 32), 'hex')),
    way      TEXT NOT NULL CHECK (way IN ('keys', 'deposit')),
    signed   TEXT NOT NULL CHECK (signed::json IS NOT NULL),
    paid     TEXT NOT NULL CHECK (paid::json IS NOT NULL),
    terms    TEXT NOT NULL CHECK (length(terms) = 64),
    state    TEXT NOT NULL CHECK (state IN ('paid', 'released', 'final', 'refunded')),
    created  BIGINT NOT NULL,
    settles  BIGINT NOT NULL CHECK (settles >= created),
    claimed  BIGINT,
    released BIGINT,
    ended    BIGINT,
    proof    TEXT NOT NULL CHECK (proof::json IS NOT NULL),
    CHECK (buyer <> seller),
    CHECK ((state IN ('released', 'final')) = (released IS NOT NULL)),
    CHECK ((state IN ('final', 'refunded')) = (ended IS NOT NULL))
);

CREATE UNIQUE INDEX orders_once ON orders (buyer, revision, model) WHERE state <> 'refunded';
CREATE INDEX orders_by_buyer ON orders (buyer, created);
CREATE INDEX orders_by_seller ON orders (seller, created);
CREATE INDEX orders_to_settle ON orders (settles) WHERE state IN ('paid', 'released');

CREATE TRIGGER orders_begin_paid BEFORE INSERT ON orders FOR EACH ROW
WHEN (NEW.state <> 'paid')
EXECUTE FUNCTION refuse('an order begins when it is paid');

CREATE TRIGGER orders_go_on BEFORE UPDATE ON orders FOR EACH ROW
WHEN (NOT (OLD.state = 'paid' AND NEW.state IN ('paid', 'released', 'refunded') OR OLD.state = 'released' AND NEW.state = 'final'))
EXECUTE FUNCTION refuse('an order that was released is not given back, and one that has ended does not change');

CREATE TRIGGER orders_stay_as_agreed BEFORE UPDATE ON orders FOR EACH ROW
WHEN (NEW.id <> OLD.id OR NEW.buyer <> OLD.buyer OR NEW.seller <> OLD.seller OR NEW.model <> OLD.model
  OR NEW.revision <> OLD.revision OR NEW.price <> OLD.price OR NEW.way <> OLD.way OR NEW.signed <> OLD.signed
  OR NEW.paid <> OLD.paid OR NEW.terms <> OLD.terms OR NEW.created <> OLD.created OR NEW.settles <> OLD.settles
  OR (OLD.claimed IS NOT NULL AND (NEW.claimed IS NULL OR NEW.claimed <> OLD.claimed))
  OR (OLD.released IS NOT NULL AND (NEW.released <> OLD.released OR NEW.proof <> OLD.proof)))
EXECUTE FUNCTION refuse('what was agreed does not change');

CREATE TRIGGER orders_stay BEFORE DELETE ON orders FOR EACH ROW
EXECUTE FUNCTION refuse('an order stays');

CREATE TABLE order_parts (
    order_id TEXT NOT NULL REFERENCES orders (id),
    number   BIGINT NOT NULL CHECK (number >= 0),
    kind     TEXT NOT NULL CHECK (kind IN ('sale', 'royalty', 'fee')),
    account  TEXT NOT NULL,
    address  TEXT NOT NULL,
    amount   BYTEA NOT NULL CHECK (length(amount) = 32 AND amount > decode(repeat('00', 32), 'hex')),
    model    TEXT NOT NULL,
    PRIMARY KEY (order_id, number),
    CHECK ((kind = 'fee') = (account = 'gateway'))
);

CREATE INDEX order_parts_by_account ON order_parts (account, order_id);

CREATE TRIGGER order_parts_are_written_once BEFORE UPDATE ON order_parts FOR EACH ROW
EXECUTE FUNCTION refuse('a part does not change');
CREATE TRIGGER order_parts_stay BEFORE DELETE ON order_parts FOR EACH ROW
EXECUTE FUNCTION refuse('a part stays');
-- What empties a table in one go asks no trigger of its rows.
CREATE TRIGGER orders_stay_all BEFORE TRUNCATE ON orders
EXECUTE FUNCTION refuse('an order stays');
CREATE TRIGGER order_parts_stay_all BEFORE TRUNCATE ON order_parts
EXECUTE FUNCTION refuse('a part stays');

CREATE TABLE deposits (
    model    TEXT NOT NULL,
    revision TEXT NOT NULL CHECK (length(revision) = 40),
    sealed   TEXT NOT NULL CHECK (sealed::json IS NOT NULL),
    created  BIGINT NOT NULL,
    PRIMARY KEY (model, revision)
);

ALTER TABLE shares ADD COLUMN order_id TEXT REFERENCES orders (id);
