//! What owners ask for their models: the newest signed terms of each.

use alephlab_api::market::ModelTerms;
use sqlx::Row as _;

use crate::error::Result;
use crate::store::{Row, Store, corrupt, seconds};

/// The terms of a model that count.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StoredTerms {
    pub(crate) message: String,
    pub(crate) terms: ModelTerms,
}

impl Store {
    /// Sets a model's terms, unless those that are there count more.
    pub(crate) async fn add_terms(&self, stored: &StoredTerms) -> Result<()> {
        let terms = &stored.terms;
        sqlx::query(
            "INSERT INTO model_terms (name, message, terms, made) VALUES ($1, $2, $3, $4)
             ON CONFLICT (name) DO UPDATE
             SET message = excluded.message, terms = excluded.terms, made = excluded.made
             WHERE excluded.made > model_terms.made
                OR (excluded.made = model_terms.made AND excluded.message < model_terms.message)",
        )
        .bind(&terms.name)
        .bind(&stored.message)
        .bind(super::rows::written(terms)?)
        .bind(seconds(terms.created))
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// A model's terms.
    pub(crate) async fn terms(&self, name: &str) -> Result<Option<StoredTerms>> {
        let row = sqlx::query("SELECT message, terms FROM model_terms WHERE name = $1")
            .bind(name)
            .fetch_optional(&self.read)
            .await?;
        row.as_ref().map(read).transpose()
    }

    /// Those of every model.
    pub(crate) async fn all_terms(&self) -> Result<Vec<StoredTerms>> {
        let rows = sqlx::query("SELECT message, terms FROM model_terms")
            .fetch_all(&self.read)
            .await?;
        rows.iter().map(read).collect()
    }
}

fn read(row: &Row) -> Result<StoredTerms> {
    Ok(StoredTerms {
        message: row.try_get("message")?,
        terms: serde_json::from_str(row.try_get("terms")?).map_err(|_| corrupt("the terms of a model"))?,
    })
}
