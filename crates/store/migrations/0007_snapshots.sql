-- A snapshot is a build that was saved from a sandbox instead of being made by steps.

-- The sandbox that it was saved from. No foreign key: snapshots outlive their sandboxes.
ALTER TABLE builds ADD COLUMN saved_from TEXT;
CREATE INDEX builds_saved_from ON builds (template_id, saved_from) WHERE saved_from IS NOT NULL;
-- Made by a snapshot: it is listed among the snapshots only.
ALTER TABLE templates ADD COLUMN is_snapshot BOOLEAN NOT NULL DEFAULT FALSE;

-- The sandbox that this one is a fork of. It may be gone.
ALTER TABLE sandboxes ADD COLUMN forked_from TEXT;

-- Days after which what is paused, and snapshots, are let go; for ever when absent.
ALTER TABLE teams ADD COLUMN keep_paused_days BIGINT;
ALTER TABLE teams ADD COLUMN keep_snapshot_days BIGINT;

PRAGMA user_version = 7;
