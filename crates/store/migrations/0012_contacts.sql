-- What sandboxes have said to the network, and what became of it. Bounded for each sandbox; nobody is promised any of it.

CREATE TABLE contacts (
    -- The order in which they were written down. Never used again: who follows remembers where he is.
    seq        INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    -- No foreign keys: it outlives the sandbox, like the log.
    sandbox_id TEXT    NOT NULL,
    team_id    TEXT    NOT NULL,
    at         BIGINT  NOT NULL,
    -- dns, tls or http.
    kind       TEXT    NOT NULL,
    target     TEXT    NOT NULL,
    -- Where a connection went, with the port.
    address    TEXT,
    allowed    BOOLEAN NOT NULL,
    rule       TEXT    NOT NULL,
    detail     TEXT    NOT NULL,
    -- Bytes out of the sandbox and into it.
    sent       BIGINT,
    received   BIGINT,
    -- So many before this one were not written down.
    skipped    BIGINT  NOT NULL
);
CREATE INDEX contacts_by_sandbox ON contacts (sandbox_id, seq);
CREATE INDEX contacts_by_time ON contacts (at);

PRAGMA user_version = 12;
