//! Kernels and the leases they run on. The schema decides which state may follow which.

use alephlab_api::kernel::KernelState;
use alephlab_api::time::unix_now;
use sqlx::Row as _;
use uuid::Uuid;

use super::{Connection, Row, Store, corrupt, seconds, unsigned};
use crate::error::Result;

/// How long the token of a kernel outside of the gateway's hosts works, seconds: nobody tells the gateway when such a
/// kernel ends. Longer than one runs without being started again, shorter than a lost token is forgotten.
const OUTSIDE_LIFE: u64 = 30 * 86_400;

/// A lease of an earlier run.
#[derive(Debug, Clone)]
pub(crate) struct StoredLease {
    pub(crate) id: Uuid,
    pub(crate) provider: String,
    pub(crate) token_sha256: [u8; 32],
    /// The agent's; none when no agent has come yet.
    pub(crate) host_key: Option<[u8; 32]>,
}

/// A kernel's row.
#[derive(Debug, Clone)]
pub(crate) struct StoredKernel {
    pub(crate) id: Uuid,
    pub(crate) account: String,
    pub(crate) name: String,
    pub(crate) outside: bool,
    pub(crate) state: KernelState,
    pub(crate) reason: Option<String>,
    pub(crate) started: u64,
    pub(crate) changed: u64,
    /// Newest number of the agent's whose state is in this row.
    pub(crate) heard: u64,
    /// Since when it can be used, unix seconds.
    pub(crate) usable: Option<u64>,
    /// Seconds without a cell after which it is stopped.
    pub(crate) idle_limit: Option<u64>,
}

impl Store {
    pub(crate) async fn begin_lease(
        &self,
        lease: Uuid,
        provider: &str,
        token_sha256: &[u8; 32],
    ) -> Result<()> {
        sqlx::query(
            "INSERT INTO leases (id, provider, state, started, token_sha256) VALUES ($1, $2, 'active', $3, $4)",
        )
        .bind(lease.to_string())
        .bind(provider)
        .bind(seconds(unix_now()))
        .bind(token_sha256.as_slice())
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// Writes down the agent's key, once: a second one is refused by the schema.
    pub(crate) async fn set_host_key(&self, lease: Uuid, key: &[u8; 32]) -> Result<()> {
        sqlx::query("UPDATE leases SET host_key = $1 WHERE id = $2 AND state = 'active'")
            .bind(key.as_slice())
            .bind(lease.to_string())
            .execute(&self.write)
            .await?;
        Ok(())
    }

    /// Leases that an earlier run left active, newest first, but for those of allocations.
    pub(crate) async fn active_leases(&self) -> Result<Vec<StoredLease>> {
        let rows = sqlx::query(
            "SELECT * FROM leases WHERE state = 'active' AND id NOT IN (SELECT lease FROM allocations)
             ORDER BY started DESC, id",
        )
        .fetch_all(&self.read)
        .await?;
        rows.iter().map(read_lease).collect()
    }

    pub(crate) async fn lease(&self, id: Uuid) -> Result<Option<StoredLease>> {
        let row = sqlx::query("SELECT * FROM leases WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(&self.read)
            .await?;
        row.as_ref().map(read_lease).transpose()
    }

    /// Kernels of a lease that were not stopped, oldest first.
    pub(crate) async fn kernels_of(&self, lease: Uuid) -> Result<Vec<StoredKernel>> {
        let rows =
            sqlx::query("SELECT * FROM kernels WHERE lease = $1 AND state <> 'stopped' ORDER BY started, id")
                .bind(lease.to_string())
                .fetch_all(&self.read)
                .await?;
        rows.iter().map(read).collect()
    }

    /// Ends a lease, and with it every kernel that ran on it and their tokens.
    pub(crate) async fn end_lease(&self, lease: Uuid, reason: &str) -> Result<()> {
        let mut transaction = self.begin().await?;
        end_lease(&mut transaction, lease, reason).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Sessions of an earlier run, but for those on leases that go on.
    pub(crate) async fn end_sessions_before(&self) -> Result<()> {
        sqlx::query(
            "DELETE FROM sessions WHERE kernel NOT IN (
                 SELECT k.id FROM kernels k JOIN leases l ON l.id = k.lease
                 WHERE l.state = 'active' AND k.state <> 'stopped')",
        )
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// Adds a kernel and its token. Without a lease it runs outside of the gateway's hosts.
    pub(crate) async fn add_kernel(
        &self,
        (id, account): (Uuid, &str),
        name: &str,
        lease: Option<Uuid>,
        token_sha256: &[u8; 32],
        idle_limit: Option<u64>,
    ) -> Result<()> {
        let mut transaction = self.begin().await?;
        let new = NewKernelRow {
            id,
            account,
            name,
            lease,
            token_sha256,
            idle_limit,
        };
        insert(&mut transaction, &new).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Moves a kernel on; `heard` is the agent's number of that, if it comes from there. A stopped kernel loses its token
    /// and sessions in the same step.
    pub(crate) async fn set_kernel_state(
        &self,
        id: Uuid,
        state: KernelState,
        reason: Option<&str>,
        heard: Option<u64>,
    ) -> Result<()> {
        let state = if state == KernelState::Busy {
            KernelState::Idle
        } else {
            state
        };
        let mut transaction = self.begin().await?;
        let now = seconds(unix_now());
        let usable = (state == KernelState::Idle).then_some(now);
        sqlx::query(
            "UPDATE kernels SET state = $1, reason = $2, changed = $3,
                 heard = CASE WHEN heard < $4 THEN $4 ELSE heard END, usable = coalesce(usable, $5)
             WHERE id = $6",
        )
        .bind(state.name())
        .bind(reason)
        .bind(now)
        .bind(seconds(heard.unwrap_or(0)))
        .bind(usable)
        .bind(id.to_string())
        .execute(&mut *transaction)
        .await?;
        if state == KernelState::Stopped {
            for statement in [
                "DELETE FROM tokens WHERE kernel = $1",
                "DELETE FROM sessions WHERE kernel = $1",
            ] {
                sqlx::query(statement)
                    .bind(id.to_string())
                    .execute(&mut *transaction)
                    .await?;
            }
        }
        transaction.commit().await?;
        Ok(())
    }

    pub(crate) async fn kernel(&self, id: Uuid) -> Result<Option<StoredKernel>> {
        let row = sqlx::query("SELECT * FROM kernels WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(&self.read)
            .await?;
        row.as_ref().map(read).transpose()
    }
}

/// A kernel that is to be written down with its token. Without a lease it runs outside of the gateway's hosts.
pub(super) struct NewKernelRow<'a> {
    pub(super) id: Uuid,
    pub(super) account: &'a str,
    pub(super) name: &'a str,
    pub(super) lease: Option<Uuid>,
    pub(super) token_sha256: &'a [u8; 32],
    pub(super) idle_limit: Option<u64>,
}

/// Writes it down as a part of something larger.
pub(super) async fn insert(transaction: &mut Connection, new: &NewKernelRow<'_>) -> Result<()> {
    let now = seconds(unix_now());
    let (origin, state) = if new.lease.is_some() {
        ("gateway", "starting")
    } else {
        ("outside", "idle")
    };
    sqlx::query(
        "INSERT INTO kernels (id, account, name, origin, lease, state, started, changed, idle_limit)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(new.id.to_string())
    .bind(new.account)
    .bind(new.name)
    .bind(origin)
    .bind(new.lease.map(|lease| lease.to_string()))
    .bind(state)
    .bind(now)
    .bind(now)
    .bind(new.idle_limit.map(seconds))
    .execute(&mut *transaction)
    .await?;
    sqlx::query(
        "INSERT INTO tokens (sha256, account, kind, kernel, created, expires)
         VALUES ($1, $2, 'kernel', $3, $4, $5)",
    )
    .bind(new.token_sha256.as_slice())
    .bind(new.account)
    .bind(new.id.to_string())
    .bind(now)
    .bind(new.lease.is_none().then(|| seconds(unix_now() + OUTSIDE_LIFE)))
    .execute(&mut *transaction)
    .await?;
    Ok(())
}

/// Ends a lease as a part of something larger.
pub(super) async fn end_lease(transaction: &mut Connection, lease: Uuid, reason: &str) -> Result<()> {
    sqlx::query(
        "UPDATE leases SET state = 'ended', ended = $1, reason = $2 WHERE id = $3 AND state = 'active'",
    )
    .bind(seconds(unix_now()))
    .bind(reason)
    .bind(lease.to_string())
    .execute(&mut *transaction)
    .await?;
    end_kernels(transaction, lease, reason).await
}

/// Every kernel of a lease is dead, and its token opens nothing.
pub(super) async fn end_kernels(transaction: &mut Connection, lease: Uuid, reason: &str) -> Result<()> {
    sqlx::query(
        "UPDATE kernels SET state = 'dead', reason = $1, changed = $2
         WHERE lease = $3 AND state NOT IN ('stopped', 'dead')",
    )
    .bind(reason)
    .bind(seconds(unix_now()))
    .bind(lease.to_string())
    .execute(&mut *transaction)
    .await?;
    sqlx::query("DELETE FROM tokens WHERE kernel IN (SELECT id FROM kernels WHERE lease = $1)")
        .bind(lease.to_string())
        .execute(&mut *transaction)
        .await?;
    Ok(())
}

fn read_lease(row: &Row) -> Result<StoredLease> {
    let bytes = |raw: &[u8]| <[u8; 32]>::try_from(raw).map_err(|_| corrupt("a lease's key"));
    let token = row.try_get::<Option<&[u8]>, _>("token_sha256")?;
    let host_key = row.try_get::<Option<&[u8]>, _>("host_key")?;
    Ok(StoredLease {
        id: row
            .try_get::<&str, _>("id")?
            .parse()
            .map_err(|_| corrupt("a lease's id"))?,
        provider: row.try_get("provider")?,
        // None in a database from before: then no token opens it.
        token_sha256: token.map(bytes).transpose()?.unwrap_or_default(),
        host_key: host_key.map(bytes).transpose()?,
    })
}

fn read(row: &Row) -> Result<StoredKernel> {
    let state = KernelState::parse(row.try_get("state")?).ok_or_else(|| corrupt("a kernel's state"))?;
    Ok(StoredKernel {
        id: row
            .try_get::<&str, _>("id")?
            .parse()
            .map_err(|_| corrupt("a kernel's id"))?,
        account: row.try_get("account")?,
        name: row.try_get("name")?,
        outside: row.try_get::<&str, _>("origin")? == "outside",
        state,
        reason: row.try_get("reason")?,
        started: unsigned(row.try_get("started")?),
        changed: unsigned(row.try_get("changed")?),
        heard: unsigned(row.try_get("heard")?),
        usable: row.try_get::<Option<i64>, _>("usable")?.map(unsigned),
        idle_limit: row.try_get::<Option<i64>, _>("idle_limit")?.map(unsigned),
    })
}
