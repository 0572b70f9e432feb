-- Says in the file's header whose it is ("SBOX") and how new, for whoever looks at it before SQLite does.
-- A later migration raises `user_version` to its own number.
PRAGMA application_id = 1396854616;
PRAGMA user_version = 2;
