-- Which points outlive the journal; an old row gets the default.
ALTER TABLE servers ADD COLUMN retention TEXT NOT NULL DEFAULT '{}';

-- Directories and files that are backed up together.
CREATE TABLE backup_sets (
    name    TEXT   NOT NULL PRIMARY KEY,
    created BIGINT NOT NULL,
    body    TEXT   NOT NULL
);
