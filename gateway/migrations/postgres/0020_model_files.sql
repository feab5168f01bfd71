-- Files of public revisions by their hash: which public model has this file. Of others nothing is here.
CREATE TABLE model_files (
    sha256   TEXT NOT NULL CHECK (length(sha256) = 64),
    made     BIGINT NOT NULL,
    name     TEXT NOT NULL,
    revision TEXT NOT NULL,
    path     TEXT NOT NULL,
    size     BIGINT NOT NULL CHECK (size >= 0),
    PRIMARY KEY (sha256, made, name, revision, path),
    FOREIGN KEY (name, revision) REFERENCES models (name, revision)
);

CREATE INDEX model_files_by_revision ON model_files (name, revision);

INSERT INTO model_files (sha256, made, name, revision, path, size)
SELECT file ->> 'sha256', models.made, models.name, models.revision, file ->> 'path', (file ->> 'size')::BIGINT
FROM models, json_array_elements(models.record::json -> 'files') AS file
WHERE models.record::json ->> 'visibility' = 'public';
