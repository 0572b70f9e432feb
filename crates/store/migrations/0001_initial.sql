-- Times are microseconds since 1970, UTC. JSON is kept as text. Ids are as on the wire.

CREATE TABLE teams (
    id         TEXT   NOT NULL PRIMARY KEY,
    name       TEXT   NOT NULL,
    slug       TEXT   NOT NULL UNIQUE,
    created_at BIGINT NOT NULL
);

CREATE TABLE api_keys (
    id                  TEXT   NOT NULL PRIMARY KEY,
    team_id             TEXT   NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    name                TEXT   NOT NULL,
    -- "$sha256$" and the hash of the key's bytes; the key itself is nowhere.
    hash                TEXT   NOT NULL UNIQUE,
    prefix              TEXT   NOT NULL,
    value_length        BIGINT NOT NULL,
    masked_value_prefix TEXT   NOT NULL,
    masked_value_suffix TEXT   NOT NULL,
    created_at          BIGINT NOT NULL,
    last_used           BIGINT
);
CREATE INDEX api_keys_by_team ON api_keys (team_id, created_at, id);

CREATE TABLE templates (
    id              TEXT    NOT NULL PRIMARY KEY,
    team_id         TEXT    NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    public          BOOLEAN NOT NULL,
    is_default      BOOLEAN NOT NULL,
    description     TEXT,
    created_at      BIGINT  NOT NULL,
    updated_at      BIGINT  NOT NULL,
    last_spawned_at BIGINT,
    spawn_count     BIGINT  NOT NULL,
    -- The id of a deleted template is never used again.
    deleted_at      BIGINT
);
CREATE INDEX templates_by_team ON templates (team_id, created_at, id);

CREATE TABLE template_aliases (
    -- The owner's slug; empty for what everybody may call by its bare name.
    namespace   TEXT   NOT NULL,
    alias       TEXT   NOT NULL,
    template_id TEXT   NOT NULL REFERENCES templates (id) ON DELETE CASCADE,
    created_at  BIGINT NOT NULL,
    PRIMARY KEY (namespace, alias)
);
CREATE INDEX template_aliases_by_template ON template_aliases (template_id, created_at);

CREATE TABLE builds (
    id              TEXT   NOT NULL PRIMARY KEY,
    template_id     TEXT   NOT NULL REFERENCES templates (id) ON DELETE CASCADE,
    status          TEXT   NOT NULL,
    vcpu_count      BIGINT NOT NULL,
    memory_mib      BIGINT NOT NULL,
    pids            BIGINT NOT NULL,
    disk_mib        BIGINT NOT NULL,
    layers          TEXT   NOT NULL,
    envd_version    TEXT   NOT NULL,
    default_user    TEXT   NOT NULL,
    default_workdir TEXT,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    finished_at     BIGINT
);
CREATE INDEX builds_by_template ON builds (template_id, created_at, id);

-- Only ever added to: the newest row of a tag whose build is ready is what the tag means.
CREATE TABLE template_tags (
    id          TEXT   NOT NULL PRIMARY KEY,
    template_id TEXT   NOT NULL REFERENCES templates (id) ON DELETE CASCADE,
    tag         TEXT   NOT NULL,
    build_id    TEXT   NOT NULL REFERENCES builds (id) ON DELETE CASCADE,
    created_at  BIGINT NOT NULL
);
CREATE INDEX template_tags_by_tag ON template_tags (template_id, tag, created_at);

CREATE TABLE sandboxes (
    id                          TEXT    NOT NULL PRIMARY KEY,
    team_id                     TEXT    NOT NULL REFERENCES teams (id),
    -- No foreign keys on template and build: the record must outlive both.
    template_id                 TEXT    NOT NULL,
    build_id                    TEXT    NOT NULL,
    execution_id                TEXT    NOT NULL,
    alias                       TEXT,
    metadata                    TEXT,
    started_at                  BIGINT  NOT NULL,
    end_at                      BIGINT  NOT NULL,
    on_timeout                  TEXT    NOT NULL,
    auto_pause_memory           BOOLEAN NOT NULL,
    auto_resume                 BOOLEAN NOT NULL,
    auto_resume_timeout_seconds BIGINT  NOT NULL,
    vcpu_count                  BIGINT  NOT NULL,
    memory_mib                  BIGINT  NOT NULL,
    pids                        BIGINT  NOT NULL,
    disk_mib                    BIGINT  NOT NULL,
    envd_version                TEXT    NOT NULL,
    allow_internet_access       BOOLEAN,
    network                     TEXT,
    allow_public_traffic        BOOLEAN NOT NULL,
    mask_request_host           TEXT,
    https_ports                 TEXT    NOT NULL,
    volume_mounts               TEXT    NOT NULL,
    state                       TEXT    NOT NULL
);
-- One index for each way that a list is walked; each ends in the keyset of the pages.
CREATE INDEX sandboxes_by_start ON sandboxes (team_id, started_at DESC, id);
CREATE INDEX sandboxes_by_state ON sandboxes (team_id, state, started_at DESC, id);
CREATE INDEX sandboxes_by_template ON sandboxes (team_id, template_id, started_at DESC, id);

-- The pairs of `sandboxes.metadata` once more, so that a filter is a walk over an index.
-- `team_id` and `started_at` are copies; whoever changes the sandbox's start changes them too.
CREATE TABLE sandbox_metadata (
    sandbox_id TEXT   NOT NULL REFERENCES sandboxes (id) ON DELETE CASCADE,
    key        TEXT   NOT NULL,
    value      TEXT   NOT NULL,
    team_id    TEXT   NOT NULL,
    started_at BIGINT NOT NULL,
    PRIMARY KEY (sandbox_id, key)
);
CREATE INDEX sandbox_metadata_by_pair ON sandbox_metadata (team_id, key, value, started_at DESC, sandbox_id);

CREATE TABLE metrics (
    sandbox_id   TEXT             NOT NULL,
    at           BIGINT           NOT NULL,
    team_id      TEXT             NOT NULL,
    -- How long it is kept: 0 for an hour, 1 for a day, 2 for a week.
    grade        BIGINT           NOT NULL,
    cpu_count    BIGINT           NOT NULL,
    cpu_used_pct DOUBLE PRECISION NOT NULL,
    mem_used     BIGINT           NOT NULL,
    mem_total    BIGINT           NOT NULL,
    mem_cache    BIGINT           NOT NULL,
    disk_used    BIGINT           NOT NULL,
    disk_total   BIGINT           NOT NULL,
    PRIMARY KEY (sandbox_id, at)
) WITHOUT ROWID;
CREATE INDEX metrics_by_grade ON metrics (grade, at);

CREATE TABLE logs (
    -- Keeps entries of the same microsecond in the order they were made.
    seq        INTEGER NOT NULL PRIMARY KEY,
    sandbox_id TEXT    NOT NULL,
    team_id    TEXT    NOT NULL,
    at         BIGINT  NOT NULL,
    level      BIGINT  NOT NULL,
    message    TEXT    NOT NULL,
    fields     TEXT    NOT NULL
);
CREATE INDEX logs_by_sandbox ON logs (sandbox_id, at, seq);
CREATE INDEX logs_by_time ON logs (at);

CREATE TABLE idempotency (
    team_id     TEXT   NOT NULL,
    key         TEXT   NOT NULL,
    fingerprint TEXT   NOT NULL,
    -- The run of the server that works on it.
    boot        TEXT   NOT NULL,
    created_at  BIGINT NOT NULL,
    -- Both absent while it is being worked on.
    status      BIGINT,
    body        TEXT,
    PRIMARY KEY (team_id, key)
);
CREATE INDEX idempotency_by_time ON idempotency (created_at);
