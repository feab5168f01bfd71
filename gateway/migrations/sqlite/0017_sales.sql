-- What models cost, and orders: who bought which revision, and whose the price is. Value moves in the ledger; here is why.

-- What the owner of a model asks for it, by the newest signed message; of equal ones the smaller.
CREATE TABLE model_terms (
    name    TEXT PRIMARY KEY,
    message TEXT NOT NULL CHECK (length(message) = 64),
    terms   TEXT NOT NULL CHECK (json_valid(terms)),
    made    INTEGER NOT NULL
) STRICT;

CREATE TABLE orders (
    -- Drawn by the buyer: the same id is the same order.
    id       TEXT PRIMARY KEY,
    -- Accounts, as the ledger names them.
    buyer    TEXT NOT NULL,
    seller   TEXT NOT NULL,
    model    TEXT NOT NULL,
    revision TEXT NOT NULL CHECK (length(revision) = 40),
    price    BLOB NOT NULL CHECK (length(price) = 32 AND price > zeroblob(32)),
    way      TEXT NOT NULL CHECK (way IN ('keys', 'deposit')),
    -- The purchase with the buyer's signature, the gateway's word that it is paid, the message of the terms that it was sold by.
    signed   TEXT NOT NULL CHECK (json_valid(signed)),
    paid     TEXT NOT NULL CHECK (json_valid(paid)),
    terms    TEXT NOT NULL CHECK (length(terms) = 64),
    -- paid: the key has not gone out. released: it has. final: the seller can spend it. refunded: the buyer has it back.
    state    TEXT NOT NULL CHECK (state IN ('paid', 'released', 'final', 'refunded')),
    created  INTEGER NOT NULL,
    -- When it is settled without the buyer: a key that has not gone out by then is not paid for.
    settles  INTEGER NOT NULL CHECK (settles >= created),
    -- When the seller's machine said that it is about to release it: it cannot be taken back from then on.
    claimed  INTEGER,
    released INTEGER,
    ended    INTEGER,
    -- Messages by which the key went out.
    proof    TEXT NOT NULL CHECK (json_valid(proof)),
    CHECK (buyer <> seller),
    CHECK ((state IN ('released', 'final')) = (released IS NOT NULL)),
    CHECK ((state IN ('final', 'refunded')) = (ended IS NOT NULL))
) STRICT;

-- A revision is bought once; what was refunded can be bought again.
CREATE UNIQUE INDEX orders_once ON orders (buyer, revision, model) WHERE state <> 'refunded';
CREATE INDEX orders_by_buyer ON orders (buyer, created);
CREATE INDEX orders_by_seller ON orders (seller, created);
CREATE INDEX orders_to_settle ON orders (settles) WHERE state IN ('paid', 'released');

CREATE TRIGGER orders_begin_paid BEFORE INSERT ON orders
WHEN NEW.state <> 'paid'
BEGIN SELECT RAISE(ABORT, 'an order begins when it is paid'); END;

CREATE TRIGGER orders_go_on BEFORE UPDATE ON orders
WHEN NOT (OLD.state = 'paid' AND NEW.state IN ('paid', 'released', 'refunded') OR OLD.state = 'released' AND NEW.state = 'final')
BEGIN SELECT RAISE(ABORT, 'an order that was released is not given back, and one that has ended does not change'); END;

CREATE TRIGGER orders_stay_as_agreed BEFORE UPDATE ON orders
WHEN NEW.id <> OLD.id OR NEW.buyer <> OLD.buyer OR NEW.seller <> OLD.seller OR NEW.model <> OLD.model
  OR NEW.revision <> OLD.revision OR NEW.price <> OLD.price OR NEW.way <> OLD.way OR NEW.signed <> OLD.signed
  OR NEW.paid <> OLD.paid OR NEW.terms <> OLD.terms OR NEW.created <> OLD.created OR NEW.settles <> OLD.settles
  OR (OLD.claimed IS NOT NULL AND (NEW.claimed IS NULL OR NEW.claimed <> OLD.claimed))
  OR (OLD.released IS NOT NULL AND (NEW.released <> OLD.released OR NEW.proof <> OLD.proof))
BEGIN SELECT RAISE(ABORT, 'what was agreed does not change'); END;

CREATE TRIGGER orders_stay BEFORE DELETE ON orders
BEGIN SELECT RAISE(ABORT, 'an order stays'); END;

-- Who gets what of an order, fixed when it is paid.
CREATE TABLE order_parts (
    order_id TEXT NOT NULL REFERENCES orders (id),
    number   INTEGER NOT NULL CHECK (number >= 0),
    kind     TEXT NOT NULL CHECK (kind IN ('sale', 'royalty', 'fee')),
    -- As the ledger names them; of a fee the gateway.
    account  TEXT NOT NULL,
    -- As the buyer was shown it.
    address  TEXT NOT NULL,
    amount   BLOB NOT NULL CHECK (length(amount) = 32 AND amount > zeroblob(32)),
    -- Of a royalty the model that it is for; else the one that was sold.
    model    TEXT NOT NULL,
    PRIMARY KEY (order_id, number),
    CHECK ((kind = 'fee') = (account = 'gateway'))
) STRICT, WITHOUT ROWID;

CREATE INDEX order_parts_by_account ON order_parts (account, order_id);

CREATE TRIGGER order_parts_are_written_once BEFORE UPDATE ON order_parts
BEGIN SELECT RAISE(ABORT, 'a part does not change'); END;
CREATE TRIGGER order_parts_stay BEFORE DELETE ON order_parts
BEGIN SELECT RAISE(ABORT, 'a part stays'); END;

-- Keys of revisions that owners gave this gateway to sell, sealed for its own key: the one that it can open.
CREATE TABLE deposits (
    model    TEXT NOT NULL,
    revision TEXT NOT NULL CHECK (length(revision) = 40),
    sealed   TEXT NOT NULL CHECK (json_valid(sealed)),
    created  INTEGER NOT NULL,
    PRIMARY KEY (model, revision)
) STRICT;

-- What a buyer got of a deposited key: its owner cannot end it.
ALTER TABLE shares ADD COLUMN order_id TEXT REFERENCES orders (id);
