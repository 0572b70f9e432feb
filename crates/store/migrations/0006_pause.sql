-- What there is of a paused sandbox. All of it is absent while it runs.

ALTER TABLE sandboxes ADD COLUMN pause_mode TEXT;
ALTER TABLE sandboxes ADD COLUMN guest_unresponsive BOOLEAN;
-- Whether its files are in its layers.
ALTER TABLE sandboxes ADD COLUMN files_saved BOOLEAN;
-- What a guest of it is to be made from, without its token.
ALTER TABLE sandboxes ADD COLUMN spec TEXT;

-- Layers that pauses have made. A row goes when its layer has gone.
CREATE TABLE saved_layers (
    digest     TEXT   NOT NULL PRIMARY KEY,
    created_at BIGINT NOT NULL
);

PRAGMA user_version = 6;
