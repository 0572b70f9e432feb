-- Files that outlive sandboxes. Which sandboxes have one is in the rows of the sandboxes.

CREATE TABLE volumes (
    id         TEXT   NOT NULL PRIMARY KEY,
    team_id    TEXT   NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    name       TEXT   NOT NULL,
    size_mib   BIGINT NOT NULL,
    -- 'making' before there are files, 'ready', 'removed' until there are none. Callers see those that are ready.
    state      TEXT   NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX volumes_by_name ON volumes (team_id, name) WHERE state <> 'removed';
CREATE INDEX volumes_unfinished ON volumes (id) WHERE state <> 'ready';

PRAGMA user_version = 5;
