-- Counts the gateways that have had this database, so that one which was cut off and comes back sees that another had it.
CREATE TABLE lead (
    only_row INTEGER NOT NULL PRIMARY KEY CHECK (only_row = 1),
    number   INTEGER NOT NULL
) STRICT;
INSERT INTO lead (only_row, number) VALUES (1, 0);
