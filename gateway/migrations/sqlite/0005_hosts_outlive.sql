-- Hosts outlive a run of the gateway: what the next one needs to know its agents and its kernels again.

-- Leases that are active in an older database are over: their agents ended with the gateway.
ALTER TABLE leases ADD COLUMN token_sha256 BLOB CHECK (length(token_sha256) = 32);
-- Ed25519 public key that the agent made on the host; the token is good for one key only.
ALTER TABLE leases ADD COLUMN host_key BLOB CHECK (length(host_key) = 32);

CREATE TRIGGER leases_keep_their_key BEFORE UPDATE OF host_key ON leases
WHEN OLD.host_key IS NOT NULL AND NEW.host_key IS NOT OLD.host_key
BEGIN SELECT RAISE(ABORT, 'a lease has one key'); END;

-- Newest number of the agent's whose state is written here.
ALTER TABLE kernels ADD COLUMN heard INTEGER NOT NULL DEFAULT 0 CHECK (heard >= 0);
-- Since when it can be used, and so is paid for.
ALTER TABLE kernels ADD COLUMN usable INTEGER;
-- Seconds without a cell after which it is stopped, as its client asked.
ALTER TABLE kernels ADD COLUMN idle_limit INTEGER CHECK (idle_limit > 0);
