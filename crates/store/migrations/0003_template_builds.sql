-- What a build hands on, why it failed, what it said, and the layers that later builds find again.

ALTER TABLE builds ADD COLUMN env TEXT NOT NULL DEFAULT '{}';
-- JSON; what runs in every sandbox from its beginning.
ALTER TABLE builds ADD COLUMN start_command TEXT;
ALTER TABLE builds ADD COLUMN reason TEXT;
ALTER TABLE builds ADD COLUMN reason_step TEXT;
-- Counted for each template from 1.
ALTER TABLE builds ADD COLUMN version BIGINT NOT NULL DEFAULT 0;
-- Content of its own layers, without those it goes on from.
ALTER TABLE builds ADD COLUMN size_bytes BIGINT NOT NULL DEFAULT 0;
UPDATE builds SET version = (
    SELECT COUNT(*) FROM builds o
    WHERE o.template_id = builds.template_id AND (o.created_at, o.id) <= (builds.created_at, builds.id)
);
CREATE UNIQUE INDEX builds_by_version ON builds (template_id, version);
CREATE INDEX builds_in_progress ON builds (status, created_at) WHERE status IN ('waiting', 'building');
CREATE INDEX template_tags_by_build ON template_tags (build_id);

CREATE TABLE build_logs (
    build_id TEXT   NOT NULL REFERENCES builds (id) ON DELETE CASCADE,
    -- From 0, without gaps: what clients count.
    position BIGINT NOT NULL,
    at       BIGINT NOT NULL,
    level    BIGINT NOT NULL,
    step     TEXT,
    message  TEXT   NOT NULL,
    PRIMARY KEY (build_id, position)
) WITHOUT ROWID;

CREATE TABLE layer_cache (
    team_id    TEXT   NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    key        TEXT   NOT NULL,
    -- Absent when the step has changed no file.
    layer      TEXT,
    context    TEXT   NOT NULL,
    size_bytes BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (team_id, key)
) WITHOUT ROWID;

PRAGMA user_version = 3;
