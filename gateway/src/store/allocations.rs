//! Allocations and quotes. The schema decides which stage may follow which; a change names the count of changes that it has
//! read, so that of two that act on the same row one is refused.

use alephlab_api::money::Amount;
use alephlab_api::offer::{Offer, Stage};
use alephlab_api::time::unix_now;
use serde_json::Value;
use sqlx::Row as _;
use uuid::Uuid;

use super::kernels::{NewKernelRow, end_kernels, end_lease, insert};
use super::{Connection, Row, Store, corrupt, seconds, unsigned};
use crate::error::Result;
use crate::receipts::ReceiptKey;

/// A quote's row.
#[derive(Debug, Clone)]
pub(crate) struct StoredQuote {
    pub(crate) id: Uuid,
    pub(crate) account: String,
    pub(crate) offer: Offer,
    pub(crate) cap: Amount,
    pub(crate) idle_seconds: Option<u64>,
    pub(crate) expires: u64,
    pub(crate) used: Option<Uuid>,
}

/// What an allocation begins with: its lease, its kernel and itself are written in one step.
pub(crate) struct NewAllocation<'a> {
    /// The kernel's, and its own.
    pub(crate) id: Uuid,
    pub(crate) account: &'a str,
    pub(crate) kernelspec: &'a str,
    pub(crate) idle_limit: Option<u64>,
    pub(crate) kernel_token_sha256: &'a [u8; 32],
    pub(crate) lease: Uuid,
    pub(crate) lease_token_sha256: &'a [u8; 32],
    pub(crate) hold: Uuid,
    pub(crate) offer: &'a Offer,
    /// How its kernel is started.
    pub(crate) start: &'a Value,
    /// The quote that it was started by.
    pub(crate) quote: Option<Uuid>,
}

/// An allocation's row.
#[derive(Debug, Clone)]
pub(crate) struct Allocation {
    pub(crate) id: Uuid,
    pub(crate) provider: String,
    pub(crate) lease: Uuid,
    pub(crate) hold: Uuid,
    pub(crate) offer: Offer,
    pub(crate) start: Value,
    pub(crate) draft: Option<Value>,
    pub(crate) stage: Stage,
    pub(crate) detail: Option<String>,
    pub(crate) created: u64,
    pub(crate) changed: u64,
    pub(crate) fence: i64,
}

impl Store {
    /// What providers wrote down of everything that is rented, or is about to be.
    pub(crate) async fn open_drafts(&self) -> Result<Vec<Value>> {
        let rows = sqlx::query("SELECT draft FROM allocations WHERE stage <> 'ended' AND draft IS NOT NULL")
            .fetch_all(&self.read)
            .await?;
        rows.iter().map(|row| json(row.try_get("draft")?)).collect()
    }

    pub(crate) async fn add_quote(&self, quote: &StoredQuote) -> Result<()> {
        let mut transaction = self.begin().await?;
        // Those that nobody used are worth nothing when they are over.
        sqlx::query("DELETE FROM quotes WHERE used IS NULL AND expires < $1")
            .bind(seconds(unix_now()))
            .execute(&mut *transaction)
            .await?;
        sqlx::query(
            "INSERT INTO quotes (id, account, offer, cap, idle_seconds, expires) VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(quote.id.to_string())
        .bind(&quote.account)
        .bind(text(&quote.offer)?)
        .bind(&quote.cap.to_bytes()[..])
        .bind(quote.idle_seconds.map(seconds))
        .bind(seconds(quote.expires))
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    pub(crate) async fn quote(&self, id: Uuid) -> Result<Option<StoredQuote>> {
        let row = sqlx::query("SELECT * FROM quotes WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(&self.read)
            .await?;
        row.as_ref().map(read_quote).transpose()
    }

    /// Writes an allocation down with its lease and its kernel. A quote that was used already makes it fail.
    pub(crate) async fn begin_allocation(&self, new: &NewAllocation<'_>) -> Result<Allocation> {
        let now = seconds(unix_now());
        let mut transaction = self.begin().await?;
        sqlx::query(
            "INSERT INTO leases (id, provider, state, started, token_sha256) VALUES ($1, $2, 'active', $3, $4)",
        )
        .bind(new.lease.to_string())
        .bind(&new.offer.provider)
        .bind(now)
        .bind(new.lease_token_sha256.as_slice())
        .execute(&mut *transaction)
        .await?;
        let kernel = NewKernelRow {
            id: new.id,
            account: new.account,
            name: new.kernelspec,
            lease: Some(new.lease),
            token_sha256: new.kernel_token_sha256,
            idle_limit: new.idle_limit,
        };
        insert(&mut transaction, &kernel).await?;
        sqlx::query(
            "INSERT INTO allocations
                 (id, account, provider, lease, hold, offer, start, stage, fence, created, changed)
             VALUES ($1, $2, $3, $4, $5, $6, $7, 'held', 0, $8, $8)",
        )
        .bind(new.id.to_string())
        .bind(new.account)
        .bind(&new.offer.provider)
        .bind(new.lease.to_string())
        .bind(new.hold.to_string())
        .bind(text(new.offer)?)
        .bind(new.start.to_string())
        .bind(now)
        .execute(&mut *transaction)
        .await?;
        if let Some(quote) = new.quote {
            let used = sqlx::query("UPDATE quotes SET used = $1 WHERE id = $2 AND used IS NULL")
                .bind(new.id.to_string())
                .bind(quote.to_string())
                .execute(&mut *transaction)
                .await?;
            if used.rows_affected() != 1 {
                return Err(corrupt("a quote that is used twice"));
            }
        }
        let begun = one(&mut transaction, new.id).await?;
        transaction.commit().await?;
        Ok(begun)
    }

    pub(crate) async fn allocation(&self, id: Uuid) -> Result<Option<Allocation>> {
        let row = sqlx::query("SELECT * FROM allocations WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(&self.read)
            .await?;
        row.as_ref().map(read).transpose()
    }

    /// Those that have not ended, oldest first.
    pub(crate) async fn open_allocations(&self) -> Result<Vec<Allocation>> {
        let rows = sqlx::query("SELECT * FROM allocations WHERE stage <> 'ended' ORDER BY created, id")
            .fetch_all(&self.read)
            .await?;
        rows.iter().map(read).collect()
    }

    /// An account's, newest first.
    pub(crate) async fn allocations_of(&self, account: &str, limit: u32) -> Result<Vec<Allocation>> {
        let rows =
            sqlx::query("SELECT * FROM allocations WHERE account = $1 ORDER BY created DESC, id LIMIT $2")
                .bind(account)
                .bind(i64::from(limit))
                .fetch_all(&self.read)
                .await?;
        rows.iter().map(read).collect()
    }

    /// Moves an allocation on; none when somebody else has changed it since it was read. One that is given back has no
    /// kernel any more, in the same step.
    pub(crate) async fn advance(
        &self,
        allocation: &Allocation,
        stage: Stage,
        detail: Option<&str>,
        draft: Option<&Value>,
    ) -> Result<Option<Allocation>> {
        let mut transaction = self.begin().await?;
        if !set_stage(&mut transaction, allocation, stage, detail, draft).await? {
            return Ok(None);
        }
        if stage == Stage::Ending {
            end_kernels(
                &mut transaction,
                allocation.lease,
                detail.unwrap_or("it was given back"),
            )
            .await?;
        }
        let moved = one(&mut transaction, allocation.id).await?;
        transaction.commit().await?;
        Ok(Some(moved))
    }

    /// The host is given back: the lease is over, and so is what was set aside, with its receipt.
    pub(crate) async fn end_allocation(
        &self,
        allocation: &Allocation,
        receipts: &ReceiptKey,
    ) -> Result<Option<Allocation>> {
        let mut transaction = self.begin().await?;
        // Before the stage: nothing is charged of one that has ended.
        super::ledger::end_hold(&mut transaction, allocation.hold, 0, receipts).await?;
        let detail = allocation.detail.as_deref();
        if !set_stage(&mut transaction, allocation, Stage::Ended, detail, None).await? {
            return Ok(None);
        }
        end_lease(
            &mut transaction,
            allocation.lease,
            detail.unwrap_or("it was given back"),
        )
        .await?;
        let ended = one(&mut transaction, allocation.id).await?;
        transaction.commit().await?;
        Ok(Some(ended))
    }
}

async fn set_stage(
    transaction: &mut Connection,
    allocation: &Allocation,
    stage: Stage,
    detail: Option<&str>,
    draft: Option<&Value>,
) -> Result<bool> {
    let changed = sqlx::query(
        "UPDATE allocations
         SET stage = $1, detail = $2, draft = coalesce(draft, $3), changed = $4, fence = fence + 1,
             start = CASE WHEN $1 = 'ended' THEN '{}' ELSE start END
         WHERE id = $5 AND fence = $6",
    )
    .bind(stage.name())
    .bind(detail)
    .bind(draft.map(Value::to_string))
    .bind(seconds(unix_now()))
    .bind(allocation.id.to_string())
    .bind(allocation.fence)
    .execute(transaction)
    .await?;
    Ok(changed.rows_affected() == 1)
}

async fn one(transaction: &mut Connection, id: Uuid) -> Result<Allocation> {
    let row = sqlx::query("SELECT * FROM allocations WHERE id = $1")
        .bind(id.to_string())
        .fetch_one(transaction)
        .await?;
    read(&row)
}

fn text(offer: &Offer) -> Result<String> {
    serde_json::to_string(offer).map_err(|_| corrupt("an offer"))
}

fn id(row: &Row, column: &str) -> Result<Uuid> {
    let text: &str = row.try_get(column)?;
    text.parse().map_err(|_| corrupt("an allocation's id"))
}

fn json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|_| corrupt("an allocation"))
}

fn read_quote(row: &Row) -> Result<StoredQuote> {
    let cap: &[u8] = row.try_get("cap")?;
    let used: Option<&str> = row.try_get("used")?;
    let used = used.map(str::parse).transpose();
    Ok(StoredQuote {
        id: id(row, "id")?,
        account: row.try_get("account")?,
        offer: json(row.try_get("offer")?)?,
        cap: Amount::from_bytes(cap.try_into().map_err(|_| corrupt("a quote's cap"))?),
        idle_seconds: row.try_get::<Option<i64>, _>("idle_seconds")?.map(unsigned),
        expires: unsigned(row.try_get("expires")?),
        used: used.map_err(|_| corrupt("a quote's allocation"))?,
    })
}

fn read(row: &Row) -> Result<Allocation> {
    let draft: Option<&str> = row.try_get("draft")?;
    Ok(Allocation {
        id: id(row, "id")?,
        provider: row.try_get("provider")?,
        lease: id(row, "lease")?,
        hold: id(row, "hold")?,
        offer: json(row.try_get("offer")?)?,
        start: json(row.try_get("start")?)?,
        draft: draft.map(json).transpose()?,
        stage: Stage::parse(row.try_get("stage")?).ok_or_else(|| corrupt("an allocation's stage"))?,
        detail: row.try_get("detail")?,
        created: unsigned(row.try_get("created")?),
        changed: unsigned(row.try_get("changed")?),
        fence: row.try_get("fence")?,
    })
}
