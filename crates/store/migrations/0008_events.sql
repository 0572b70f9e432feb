-- What has happened to sandboxes, who is to be told, and how far that is.

CREATE TABLE events (
    -- The order in which they were recorded. Never used again: who follows remembers where he is.
    seq          INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    id           TEXT    NOT NULL UNIQUE,
    team_id      TEXT    NOT NULL,
    kind         TEXT    NOT NULL,
    at           BIGINT  NOT NULL,
    -- No foreign keys: an event outlives what it tells of.
    sandbox_id   TEXT    NOT NULL,
    execution_id TEXT    NOT NULL,
    template_id  TEXT    NOT NULL,
    build_id     TEXT    NOT NULL,
    data         TEXT
);
CREATE INDEX events_by_team ON events (team_id, seq);
CREATE INDEX events_by_sandbox ON events (team_id, sandbox_id, seq);
CREATE INDEX events_by_time ON events (at);

CREATE TABLE webhooks (
    id         TEXT    NOT NULL PRIMARY KEY,
    team_id    TEXT    NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    name       TEXT    NOT NULL,
    url        TEXT    NOT NULL,
    enabled    BOOLEAN NOT NULL,
    -- A list of kinds.
    events     TEXT    NOT NULL,
    -- What deliveries are signed with. It is needed as it is.
    secret     TEXT    NOT NULL,
    created_at BIGINT  NOT NULL
);
CREATE INDEX webhooks_by_team ON webhooks (team_id, created_at, id);

CREATE TABLE webhook_deliveries (
    seq         INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    id          TEXT    NOT NULL UNIQUE,
    webhook_id  TEXT    NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    event_seq   INTEGER NOT NULL REFERENCES events (seq) ON DELETE CASCADE,
    -- waiting, delivered or failed.
    state       TEXT    NOT NULL,
    tries       BIGINT  NOT NULL,
    created_at  BIGINT  NOT NULL,
    -- When the next try is due; absent exactly when there will be none.
    next_try_at BIGINT,
    last_try_at BIGINT,
    -- What the receiver answered last, or why there was no answer.
    last_status BIGINT,
    last_error  TEXT
);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (webhook_id, next_try_at, seq) WHERE state = 'waiting';
CREATE INDEX webhook_deliveries_by_webhook ON webhook_deliveries (webhook_id, seq);
CREATE INDEX webhook_deliveries_by_event ON webhook_deliveries (event_seq);
CREATE INDEX webhook_deliveries_by_time ON webhook_deliveries (created_at);

PRAGMA user_version = 8;
