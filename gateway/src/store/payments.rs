//! What payers signed to be paid on the chain (x402): each authorization once, each revision once, and how far it is.

use alephlab_api::money::Amount;
use alephlab_api::time::unix_now;
use alephlab_settlement::B256;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Row as _;
use uuid::Uuid;

use super::{Row, Store, corrupt, seconds, unsigned};
use crate::error::Result;

const SEEN: &str =
    "INSERT INTO authorizations_seen (payer, nonce, created) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
const STANDING: &str =
    "SELECT id FROM chain_payments WHERE payer = $1 AND model = $2 AND revision = $3 AND state <> 'failed'";

/// One payment for one revision.
pub(crate) struct StoredPayment<T> {
    /// Of the order that it pays.
    pub(crate) id: Uuid,
    /// Address.
    pub(crate) payer: String,
    pub(crate) model: String,
    pub(crate) revision: String,
    pub(crate) payment: T,
    /// At which the authorization was new.
    pub(crate) block: u64,
    pub(crate) state: PaymentState,
}

/// How far one is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PaymentState {
    Open,
    /// By this transaction.
    Bought(String),
    Failed(String),
}

/// What became of an authorization that came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is to be sent.
    New,
    /// Another one pays or has paid for this: it only shows who asks.
    Known(Uuid),
    /// It came before.
    Again,
}

impl Store {
    /// Takes an authorization in, and the payment that it is for where none stands. The payer has an account from then on, to which its
    /// deposit is booked.
    pub(crate) async fn take_payment<T: Serialize + Sync>(
        &self,
        nonce: B256,
        new: &StoredPayment<T>,
    ) -> Result<Taken> {
        let mut transaction = self.begin().await?;
        let now = seconds(unix_now());
        let seen = sqlx::query(SEEN)
            .bind(&new.payer)
            .bind(nonce.to_string())
            .bind(now)
            .execute(&mut *transaction)
            .await?;
        if seen.rows_affected() != 1 {
            return Ok(Taken::Again);
        }
        let known: Option<String> = sqlx::query_scalar(STANDING)
            .bind(&new.payer)
            .bind(&new.model)
            .bind(&new.revision)
            .fetch_optional(&mut *transaction)
            .await?;
        if let Some(known) = known {
            transaction.commit().await?;
            return Ok(Taken::Known(id(&known)?));
        }
        sqlx::query(
            "INSERT INTO accounts (id, address, operator, admitted, role, created) VALUES ($1, $1, 0, 0, 'user', $2)
             ON CONFLICT (address) DO NOTHING",
        )
        .bind(&new.payer)
        .bind(now)
        .execute(&mut *transaction)
        .await?;
        sqlx::query(
            "INSERT INTO chain_payments (id, payer, model, revision, payment, block, state, created)
             VALUES ($1, $2, $3, $4, $5, $6, 'open', $7)",
        )
        .bind(new.id.to_string())
        .bind(&new.payer)
        .bind(&new.model)
        .bind(&new.revision)
        .bind(serde_json::to_string(&new.payment).map_err(|_| corrupt("a payment"))?)
        .bind(seconds(new.block))
        .bind(now)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(Taken::New)
    }

    /// The one that stands for a revision, open or bought.
    pub(crate) async fn standing_payment(
        &self,
        payer: &str,
        model: &str,
        revision: &str,
    ) -> Result<Option<Uuid>> {
        let known: Option<String> = sqlx::query_scalar(STANDING)
            .bind(payer)
            .bind(model)
            .bind(revision)
            .fetch_optional(&self.read)
            .await?;
        known.as_deref().map(id).transpose()
    }

    /// Takes note of an authorization that only shows who asks; false when it came before.
    pub(crate) async fn see_authorization(&self, payer: &str, nonce: B256) -> Result<bool> {
        let seen = sqlx::query(SEEN)
            .bind(payer)
            .bind(nonce.to_string())
            .bind(seconds(unix_now()))
            .execute(&self.write)
            .await?;
        Ok(seen.rows_affected() == 1)
    }

    /// The account that has an address.
    pub(crate) async fn account_at(&self, address: &str) -> Result<Option<String>> {
        let account = sqlx::query_scalar("SELECT id FROM accounts WHERE address = $1")
            .bind(address)
            .fetch_optional(&self.read)
            .await?;
        Ok(account)
    }

    /// One.
    pub(crate) async fn payment<T: DeserializeOwned>(&self, id: Uuid) -> Result<Option<StoredPayment<T>>> {
        let row = sqlx::query("SELECT * FROM chain_payments WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(&self.read)
            .await?;
        row.as_ref().map(read).transpose()
    }

    /// Those that have not ended, oldest first.
    pub(crate) async fn open_payments<T: DeserializeOwned>(&self) -> Result<Vec<StoredPayment<T>>> {
        let rows = sqlx::query("SELECT * FROM chain_payments WHERE ended IS NULL ORDER BY created, id")
            .fetch_all(&self.read)
            .await?;
        rows.iter().map(read).collect()
    }

    /// Takes note how one ended. One that has ended stays so.
    pub(crate) async fn end_payment(&self, id: Uuid, state: &PaymentState) -> Result<()> {
        let (word, hash, reason) = match state {
            PaymentState::Open => return Ok(()),
            PaymentState::Bought(hash) => ("bought", Some(hash), None),
            PaymentState::Failed(reason) => ("failed", None, Some(reason)),
        };
        sqlx::query(
            "UPDATE chain_payments SET state = $1, hash = $2, reason = $3, ended = $4 WHERE id = $5 AND ended IS NULL",
        )
        .bind(word)
        .bind(hash)
        .bind(reason)
        .bind(seconds(unix_now()))
        .bind(id.to_string())
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// Whether the tokens that a transaction moved from an address are booked.
    pub(crate) async fn is_deposited(
        &self,
        chain: u64,
        transaction: B256,
        (from, amount): (&str, Amount),
    ) -> Result<bool> {
        let row = sqlx::query(
            "SELECT hash FROM chain_deposits WHERE chain = $1 AND hash = $2 AND sender = $3 AND amount = $4
             AND account IS NOT NULL",
        )
        .bind(seconds(chain))
        .bind(transaction.to_string())
        .bind(from)
        .bind(&amount.to_bytes()[..])
        .fetch_optional(&self.read)
        .await?;
        Ok(row.is_some())
    }
}

fn read<T: DeserializeOwned>(row: &Row) -> Result<StoredPayment<T>> {
    let (state, hash, reason): (String, Option<String>, Option<String>) = (
        row.try_get("state")?,
        row.try_get("hash")?,
        row.try_get("reason")?,
    );
    let state = match (state.as_str(), hash, reason) {
        ("open", _, _) => PaymentState::Open,
        ("bought", Some(hash), _) => PaymentState::Bought(hash),
        ("failed", _, Some(reason)) => PaymentState::Failed(reason),
        _ => return Err(corrupt("a payment")),
    };
    Ok(StoredPayment {
        id: id(row.try_get("id")?)?,
        payer: row.try_get("payer")?,
        model: row.try_get("model")?,
        revision: row.try_get("revision")?,
        payment: serde_json::from_str(row.try_get("payment")?).map_err(|_| corrupt("a payment"))?,
        block: unsigned(row.try_get("block")?),
        state,
    })
}

fn id(text: &str) -> Result<Uuid> {
    text.parse().map_err(|_| corrupt("a payment"))
}
