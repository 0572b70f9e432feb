-- Secrets of teams. What is sealed cannot be read with this file alone.

CREATE TABLE secrets (
    id         TEXT    NOT NULL PRIMARY KEY,
    team_id    TEXT    NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    name       TEXT    NOT NULL,
    -- Counts up with each value. Only the last one is kept.
    version    BIGINT  NOT NULL,
    sealed     BLOB    NOT NULL,
    metadata   TEXT    NOT NULL,
    created_at BIGINT  NOT NULL,
    updated_at BIGINT  NOT NULL,
    UNIQUE (team_id, name)
);
CREATE INDEX secrets_by_team ON secrets (team_id, created_at, id);

PRAGMA user_version = 11;
