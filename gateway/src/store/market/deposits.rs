//! Keys that owners deposited, sealed; and the shares that buyers get of them.

use alephlab_api::market::OrderState;
use alephlab_vault::Release;
use sqlx::Row as _;
use uuid::Uuid;

use super::rows::{locked, written};
use super::{StoredOrder, ended};
use crate::error::Result;
use crate::store::{Store, StoredShare, corrupt, seconds};

impl Store {
    /// Keeps the sealed key of a revision, in place of one that is there.
    pub(crate) async fn put_deposit(&self, model: &str, sealed: &Release, now: u64) -> Result<()> {
        sqlx::query(
            "INSERT INTO deposits (model, revision, sealed, created) VALUES ($1, $2, $3, $4)
             ON CONFLICT (model, revision) DO UPDATE SET sealed = excluded.sealed, created = excluded.created",
        )
        .bind(model)
        .bind(sealed.revision())
        .bind(written(sealed)?)
        .bind(seconds(now))
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// The sealed key of a revision.
    pub(crate) async fn deposit(&self, model: &str, revision: &str) -> Result<Option<Release>> {
        let row = sqlx::query("SELECT sealed FROM deposits WHERE model = $1 AND revision = $2")
            .bind(model)
            .bind(revision)
            .fetch_optional(&self.read)
            .await?;
        let sealed =
            row.map(|row| serde_json::from_str(row.try_get("sealed")?).map_err(|_| corrupt("a deposit")));
        sealed.transpose()
    }

    /// Forgets all keys of a model.
    pub(crate) async fn remove_deposits(&self, model: &str) -> Result<()> {
        sqlx::query("DELETE FROM deposits WHERE model = $1")
            .bind(model)
            .execute(&self.write)
            .await?;
        Ok(())
    }

    /// Gives a buyer the share of an order: the key went out by it. For one that has a share already the new token takes the place
    /// of the one before, and its UUID stays.
    ///
    /// # Errors
    /// 404 `order_unknown`, 409 `order_ended` when it was refunded.
    pub(crate) async fn deliver_order(
        &self,
        id: Uuid,
        share: &StoredShare,
        now: u64,
    ) -> Result<(StoredOrder, bool)> {
        let mut transaction = self.begin().await?;
        let order = locked(&mut transaction, id).await?;
        match order.state {
            OrderState::Refunded => return Err(ended(order.state)),
            // Another answer gave one: what is sealed for this UUID is not sealed for that.
            OrderState::Released | OrderState::Final if order.proof != [share.uuid.to_string()] => {
                return Ok((order, false));
            }
            OrderState::Released | OrderState::Final => {
                sqlx::query(
                    "UPDATE shares SET auth_sha256 = $1, sealed = $2 WHERE uuid = $3 AND order_id = $4",
                )
                .bind(share.auth_sha256.as_slice())
                .bind(share.sealed.as_slice())
                .bind(share.uuid.to_string())
                .bind(id.to_string())
                .execute(&mut *transaction)
                .await?;
            }
            OrderState::Paid => {
                sqlx::query(
                    "INSERT INTO shares (uuid, account, model, revision, auth_sha256, sealed, created, order_id)
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
                )
                .bind(share.uuid.to_string())
                .bind(&order.seller)
                .bind(&share.model)
                .bind(&share.revision)
                .bind(share.auth_sha256.as_slice())
                .bind(share.sealed.as_slice())
                .bind(seconds(share.created))
                .bind(id.to_string())
                .execute(&mut *transaction)
                .await?;
                sqlx::query("UPDATE orders SET state = 'released', released = $1, proof = $2 WHERE id = $3")
                    .bind(seconds(now))
                    .bind(written(&[share.uuid.to_string()])?)
                    .bind(id.to_string())
                    .execute(&mut *transaction)
                    .await?;
            }
        }
        let order = locked(&mut transaction, id).await?;
        transaction.commit().await?;
        Ok((order, true))
    }
}
