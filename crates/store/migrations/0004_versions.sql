-- Every build is a version of its template. Builds of before are counted in the order they were asked for.

ALTER TABLE builds ADD COLUMN semantic_version TEXT;
UPDATE builds SET semantic_version = '1.' || (version - 1) || '.0';
CREATE UNIQUE INDEX builds_by_semantic_version ON builds (template_id, semantic_version)
    WHERE semantic_version IS NOT NULL;

PRAGMA user_version = 4;
