//! The index of models: records from Aleph that were verified, and the heads they name.

use alephlab_api::model::{IndexedModel, ModelRecord};
use alephlab_api::time::unix_now;
use alephlab_vault::SignedHead;
use sqlx::Row as _;

use super::{Row, Store, corrupt, seconds};
use crate::error::Result;

/// A revision's row.
#[derive(Debug, Clone)]
pub(crate) struct StoredModel {
    pub(crate) message: String,
    pub(crate) record: ModelRecord,
    pub(crate) head: SignedHead,
}

impl StoredModel {
    /// What the index tells of it.
    pub(crate) fn indexed(self) -> IndexedModel {
        IndexedModel {
            record: self.record,
            message: self.message,
        }
    }
}

impl Store {
    /// Adds a revision. The first record of a revision stays: revisions are immutable.
    pub(crate) async fn add_model(&self, model: &StoredModel) -> Result<()> {
        let json = |value: serde_json::Result<String>| value.map_err(|_| corrupt("a model"));
        let record = &model.record;
        sqlx::query(
            "INSERT INTO models (message, owner, name, uuid, revision, record, head, created)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING",
        )
        .bind(&model.message)
        .bind(&record.owner)
        .bind(&record.name)
        .bind(record.uuid.to_string())
        .bind(&record.commit)
        .bind(json(serde_json::to_string(record))?)
        .bind(json(serde_json::to_string(&model.head))?)
        .bind(seconds(unix_now()))
        .execute(&self.write)
        .await?;
        Ok(())
    }

    pub(crate) async fn model(&self, name: &str, revision: &str) -> Result<Option<StoredModel>> {
        let row = sqlx::query("SELECT message, record, head FROM models WHERE name = $1 AND revision = $2")
            .bind(name)
            .bind(revision)
            .fetch_optional(&self.read)
            .await?;
        row.as_ref().map(read).transpose()
    }

    /// An account's revisions, newest first.
    pub(crate) async fn models(&self, owner: &str) -> Result<Vec<StoredModel>> {
        let rows = sqlx::query(
            "SELECT message, record, head FROM models WHERE owner = $1 ORDER BY created DESC, rowid DESC LIMIT 500",
        )
        .bind(owner)
        .fetch_all(&self.read)
        .await?;
        rows.iter().map(read).collect()
    }
}

fn read(row: &Row) -> Result<StoredModel> {
    Ok(StoredModel {
        message: row.try_get("message")?,
        record: serde_json::from_str(row.try_get("record")?).map_err(|_| corrupt("a model's record"))?,
        head: serde_json::from_str(row.try_get("head")?).map_err(|_| corrupt("a model's head"))?,
    })
}
