-- What deliveries of webhooks are signed with, sealed like secrets. Those of before stand in `secret`, in the clear, until the
-- server has sealed them at its next start; from then on `secret` is empty.
ALTER TABLE webhooks ADD COLUMN sealed BLOB;

PRAGMA user_version = 13;
