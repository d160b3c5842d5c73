-- How servers are replicated and watched; an old row gets the defaults, which are what it had.
ALTER TABLE servers ADD COLUMN replication TEXT NOT NULL DEFAULT '{}';
ALTER TABLE servers ADD COLUMN watch TEXT NOT NULL DEFAULT '{}';
-- What the data side knew better than this store, until a person has looked.
ALTER TABLE servers ADD COLUMN stale TEXT;

-- Servers that get one barrier at one moment.
CREATE TABLE groups (
    name          TEXT   NOT NULL PRIMARY KEY,
    every_seconds BIGINT NOT NULL,
    hold_ms       BIGINT NOT NULL,
    created       BIGINT NOT NULL,
    -- Number of the next point; never used twice.
    next_point    BIGINT NOT NULL DEFAULT 1,
    -- Why the last attempt made no point.
    trouble       TEXT
);

-- A member cannot be deleted.
CREATE TABLE group_members (
    group_name TEXT   NOT NULL REFERENCES groups (name) ON DELETE CASCADE,
    position   BIGINT NOT NULL,
    server     TEXT   NOT NULL REFERENCES servers (id),
    PRIMARY KEY (group_name, position),
    UNIQUE (group_name, server)
);
CREATE INDEX group_members_server ON group_members (server);

CREATE TABLE group_points (
    group_name TEXT   NOT NULL REFERENCES groups (name) ON DELETE CASCADE,
    number     BIGINT NOT NULL,
    time       BIGINT NOT NULL,
    held_us    BIGINT NOT NULL,
    -- Each member's own point.
    members    TEXT   NOT NULL,
    PRIMARY KEY (group_name, number)
);
