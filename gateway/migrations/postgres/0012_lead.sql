-- As sqlite/0012_lead.sql.

CREATE TABLE lead (
    only_row BIGINT NOT NULL PRIMARY KEY CHECK (only_row = 1),
    number   BIGINT NOT NULL
);
INSERT INTO lead (only_row, number) VALUES (1, 0);
