-- As sqlite/0005_hosts_outlive.sql.

ALTER TABLE leases ADD COLUMN token_sha256 BYTEA CHECK (length(token_sha256) = 32);
ALTER TABLE leases ADD COLUMN host_key BYTEA CHECK (length(host_key) = 32);

CREATE TRIGGER leases_keep_their_key BEFORE UPDATE OF host_key ON leases FOR EACH ROW
WHEN (OLD.host_key IS NOT NULL AND NEW.host_key IS DISTINCT FROM OLD.host_key)
EXECUTE FUNCTION refuse('a lease has one key');

ALTER TABLE kernels ADD COLUMN heard BIGINT NOT NULL DEFAULT 0 CHECK (heard >= 0);
ALTER TABLE kernels ADD COLUMN usable BIGINT;
ALTER TABLE kernels ADD COLUMN idle_limit BIGINT CHECK (idle_limit > 0);
