-- Times are nanoseconds since 1970 in UTC; ids are hyphenated UUIDs; structured values are JSON text.

CREATE TABLE meta (
    key   TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE tokens (
    id         TEXT   NOT NULL PRIMARY KEY,
    kind       TEXT   NOT NULL,
    name       TEXT   NOT NULL,
    -- BLAKE3 of the secret. The secret has 256 random bits, so nothing slower is needed.
    hash       BLOB   NOT NULL,
    created    BIGINT NOT NULL,
    expires    BIGINT,
    used_at    BIGINT,
    revoked_at BIGINT
);

CREATE TABLE agents (
    id                  TEXT   NOT NULL PRIMARY KEY,
    name                TEXT   NOT NULL,
    joined              BIGINT NOT NULL,
    serial              TEXT   NOT NULL,
    certificate_expires BIGINT NOT NULL,
    revoked_at          BIGINT
);
CREATE UNIQUE INDEX agents_name ON agents (name) WHERE revoked_at IS NULL;

CREATE TABLE servers (
    id             TEXT   NOT NULL PRIMARY KEY,
    name           TEXT   NOT NULL UNIQUE,
    agent          TEXT   NOT NULL REFERENCES agents (id),
    capture        TEXT   NOT NULL,
    journal_window TEXT   NOT NULL,
    launch         TEXT   NOT NULL,
    state          TEXT   NOT NULL,
    epoch          BIGINT NOT NULL,
    created        BIGINT NOT NULL,
    disks          TEXT   NOT NULL,
    run            TEXT,
    fault          TEXT,
    deleting       BIGINT NOT NULL DEFAULT 0
);

-- Runs and operations outlive the server they were for: they are its history.
CREATE TABLE runs (
    id      TEXT   NOT NULL PRIMARY KEY,
    server  TEXT   NOT NULL,
    state   TEXT   NOT NULL,
    started BIGINT NOT NULL,
    expires BIGINT,
    body    TEXT   NOT NULL
);
CREATE INDEX runs_state ON runs (state);

CREATE TABLE operations (
    id          TEXT   NOT NULL PRIMARY KEY,
    kind        TEXT   NOT NULL,
    server      TEXT   NOT NULL,
    server_name TEXT   NOT NULL,
    state       TEXT   NOT NULL,
    started     BIGINT NOT NULL,
    ended       BIGINT,
    actor       TEXT   NOT NULL,
    run         TEXT,
    error       TEXT,
    -- What was asked for; never changes.
    work        TEXT   NOT NULL,
    -- What earlier steps found out for later ones.
    memory      TEXT   NOT NULL,
    cancel      BIGINT NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX operations_one_running ON operations (server) WHERE state = 'running';
CREATE INDEX operations_started ON operations (started);

CREATE TABLE steps (
    operation TEXT   NOT NULL REFERENCES operations (id) ON DELETE CASCADE,
    position  BIGINT NOT NULL,
    name      TEXT   NOT NULL,
    state     TEXT   NOT NULL,
    detail    TEXT   NOT NULL,
    started   BIGINT,
    ended     BIGINT,
    percent   BIGINT,
    PRIMARY KEY (operation, position)
);

CREATE TABLE audit (
    seq     BIGINT NOT NULL PRIMARY KEY,
    time    BIGINT NOT NULL,
    actor   TEXT   NOT NULL,
    action  TEXT   NOT NULL,
    target  TEXT   NOT NULL,
    outcome TEXT   NOT NULL,
    detail  TEXT   NOT NULL,
    hash    BLOB   NOT NULL
);
