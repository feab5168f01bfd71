-- Files of public revisions by their hash: which public model has this file. Of others nothing is here.
CREATE TABLE model_files (
    sha256   TEXT NOT NULL CHECK (length(sha256) = 64),
    made     INTEGER NOT NULL,
    name     TEXT NOT NULL,
    revision TEXT NOT NULL,
    path     TEXT NOT NULL,
    size     INTEGER NOT NULL CHECK (size >= 0),
    PRIMARY KEY (sha256, made, name, revision, path),
    FOREIGN KEY (name, revision) REFERENCES models (name, revision)
) STRICT;

CREATE INDEX model_files_by_revision ON model_files (name, revision);

INSERT INTO model_files (sha256, made, name, revision, path, size)
SELECT json_extract(file.value, '$.sha256'), models.made, models.name, models.revision, json_extract(file.value, '$.path'),
       json_extract(file.value, '$.size')
FROM models, json_each(models.record, '$.files') AS file
WHERE json_extract(models.record, '$.visibility') = 'public';
