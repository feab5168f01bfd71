-- Notebooks that were saved with outputs of cells that their reader ran: opened again, their outputs are shown whole. By the hash
-- of the file as it was written, so that whatever else changes it ends the trust.
CREATE TABLE trusted_notebooks (
    account TEXT NOT NULL REFERENCES accounts (id),
    sha256  BLOB NOT NULL CHECK (length(sha256) = 32),
    made    INTEGER NOT NULL,
    PRIMARY KEY (account, sha256)
) STRICT;

CREATE INDEX trusted_notebooks_by_age ON trusted_notebooks (account, made);
