-- Memory of sandboxes on disk.

-- Of a paused sandbox whose memory is not in its guest any more; absent when it is there, or gone.
ALTER TABLE sandboxes ADD COLUMN memory TEXT;
-- Of the sandbox that a snapshot was saved from; absent when its files alone were.
ALTER TABLE builds ADD COLUMN memory TEXT;

-- When it was made: what is young may be on its way into a record.
CREATE TABLE young_memory (
    id TEXT PRIMARY KEY,
    created_at BIGINT NOT NULL
);

PRAGMA user_version = 9;
