-- Charges leave the pins, because machines cost credits too, and the credits of an address get a purse.
-- Runs after schema.sql has made the new tables.
INSERT INTO charges (item_hash, owner, since, rate, consumed, active)
    SELECT item_hash, owner, created, rate, consumed, active FROM pins WHERE rate > 0;
INSERT INTO purses (address, spent)
    SELECT MIN(owner), SUM(consumed) FROM pins GROUP BY owner;
ALTER TABLE pins DROP COLUMN rate;
ALTER TABLE pins DROP COLUMN consumed;
