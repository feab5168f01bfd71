-- What JupyterLab keeps of an account: settings as the person wrote them, and workspaces (which tabs are open).
CREATE TABLE lab_documents (
    account  TEXT NOT NULL REFERENCES accounts (address),
    kind     TEXT NOT NULL CHECK (kind IN ('settings', 'workspace')),
    id       TEXT NOT NULL,
    body     TEXT NOT NULL,
    created  INTEGER NOT NULL,
    modified INTEGER NOT NULL,
    PRIMARY KEY (account, kind, id)
) STRICT, WITHOUT ROWID;
