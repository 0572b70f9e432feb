-- The sandbox whose memory a build has: its envd's token is still in force there. A snapshot's is the one it was saved from,
-- a template's one that only its build knew.
ALTER TABLE builds ADD COLUMN memory_of TEXT;
UPDATE builds SET memory_of = saved_from WHERE memory IS NOT NULL;

PRAGMA user_version = 10;
