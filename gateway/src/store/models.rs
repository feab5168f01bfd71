//! Models: records from Aleph that were verified, the heads they name, and what is said of them afterwards.
//!
//! Every rule here gives the same rows for the same messages in whatever order they come: of two records of one revision the
//! earlier stays, of tags the highest serial, of withdrawals and of one verifier's evidence the latest; where those are equal,
//! that of the smaller message. What follows from the rows is [`crate::models`]' business.

use alephlab_api::model::{
    IndexedEvidence, IndexedModel, ModelEvidence, ModelRecord, ModelTags, ModelWithdrawal, PublicFile,
    Visibility, private_uuid,
};
use alephlab_api::time::unix_now;
use alephlab_vault::SignedHead;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::{Any, Row as _, Transaction};

use super::{Row, Store, StoredTerms, corrupt, seconds, unsigned};
use crate::error::Result;

/// Of `models`: that it is offered, so that nothing of it was withdrawn.
const OFFERED: &str = "NOT EXISTS (SELECT 1 FROM model_withdrawals w WHERE w.name = models.name
     AND (w.revision = models.revision OR (w.revision = '' AND w.made >= models.made)))";

/// Places of one content that are told.
const PUBLIC_MAX: usize = 20;
/// Places of one content that are looked at: a licence is in nearly every model, and anybody may ask for it.
const PUBLIC_LOOKED: usize = 200;
/// The most private revisions of one owner that are looked at.
const PRIVATE_MAX: usize = 10_000;

/// Whose private models, or which.
#[derive(Debug, Clone, Copy)]
pub(crate) enum PrivateOf<'a> {
    Owner(&'a str),
    /// `owner/UUID`.
    Name(&'a str),
}

/// A revision's row.
#[derive(Debug, Clone)]
pub(crate) struct StoredModel {
    pub(crate) message: String,
    pub(crate) record: ModelRecord,
    pub(crate) head: SignedHead,
}

/// The tags of a model that count.
#[derive(Debug, Clone)]
pub(crate) struct StoredTags {
    pub(crate) message: String,
    pub(crate) tags: ModelTags,
}

/// All that is known under one name, withdrawn or not.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    pub(crate) records: Vec<IndexedModel>,
    pub(crate) tags: Option<ModelTags>,
    pub(crate) withdrawals: Vec<ModelWithdrawal>,
    /// Nobody's counts until it is known whose does.
    pub(crate) evidence: Vec<IndexedEvidence>,
    pub(crate) downloads: u64,
    pub(crate) terms: Option<StoredTerms>,
    /// Revisions whose keys this gateway was given to sell.
    pub(crate) deposited: Vec<String>,
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
    /// Adds a revision, unless an earlier record of it is there.
    pub(crate) async fn add_model(&self, model: &StoredModel) -> Result<()> {
        let record = &model.record;
        let mut transaction = self.begin().await?;
        let there = sqlx::query("SELECT message, made FROM models WHERE name = $1 AND revision = $2")
            .bind(&record.name)
            .bind(&record.commit)
            .fetch_optional(&mut *transaction)
            .await?;
        let statement = match there {
            None => {
                "INSERT INTO models (message, uuid, record, head, created, made, owner, name, revision)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
            }
            Some(row) => {
                let stays = (unsigned(row.try_get("made")?), row.try_get("message")?);
                if stays <= (record.created, model.message.as_str()) {
                    return Ok(());
                }
                "UPDATE models SET message = $1, uuid = $2, record = $3, head = $4, created = $5, made = $6, owner = $7
                 WHERE name = $8 AND revision = $9"
            }
        };
        sqlx::query(statement)
            .bind(&model.message)
            .bind(record.uuid.to_string())
            .bind(written(record)?)
            .bind(written(&model.head)?)
            .bind(seconds(unix_now()))
            .bind(seconds(record.created))
            .bind(&record.owner)
            .bind(&record.name)
            .bind(&record.commit)
            .execute(&mut *transaction)
            .await?;
        list_files(&mut transaction, record).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Files of public revisions that are offered with this content, the oldest first.
    pub(crate) async fn public_files(&self, sha256: &str) -> Result<Vec<PublicFile>> {
        let statement = format!(
            "SELECT f.name, f.revision, f.path, f.size
             FROM (SELECT name, revision, path, size, made FROM model_files WHERE sha256 = $1
                   ORDER BY made, name, revision, path LIMIT {PUBLIC_LOOKED}) f
             JOIN models ON models.name = f.name AND models.revision = f.revision
             WHERE {OFFERED}
             ORDER BY f.made, f.name, f.revision, f.path LIMIT {PUBLIC_MAX}"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(statement))
            .bind(sha256)
            .fetch_all(&self.read)
            .await?;
        let read = |row: &Row| {
            Ok(PublicFile {
                model: row.try_get("name")?,
                revision: row.try_get("revision")?,
                path: row.try_get("path")?,
                size: unsigned(row.try_get("size")?),
            })
        };
        rows.iter().map(read).collect()
    }

    /// Sets a model's tags, unless those that are there count more.
    pub(crate) async fn add_tags(&self, stored: &StoredTags) -> Result<()> {
        let tags = &stored.tags;
        sqlx::query(
            "INSERT INTO model_tags (name, message, serial, tags) VALUES ($1, $2, $3, $4)
             ON CONFLICT (name) DO UPDATE
             SET message = excluded.message, serial = excluded.serial, tags = excluded.tags
             WHERE excluded.serial > model_tags.serial
                OR (excluded.serial = model_tags.serial AND excluded.message < model_tags.message)",
        )
        .bind(&tags.name)
        .bind(&stored.message)
        .bind(seconds(tags.serial))
        .bind(written(tags)?)
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// Withdraws a revision, or all that were made until then.
    pub(crate) async fn add_withdrawal(&self, withdrawal: &ModelWithdrawal) -> Result<()> {
        sqlx::query(
            "INSERT INTO model_withdrawals (name, revision, made) VALUES ($1, $2, $3)
             ON CONFLICT (name, revision) DO UPDATE SET made = excluded.made
             WHERE excluded.made > model_withdrawals.made",
        )
        .bind(&withdrawal.name)
        .bind(withdrawal.commit.as_deref().unwrap_or_default())
        .bind(seconds(withdrawal.created))
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// Keeps what a verifier says, unless it has said something later.
    pub(crate) async fn add_evidence(&self, message: &str, evidence: &ModelEvidence) -> Result<()> {
        sqlx::query(
            "INSERT INTO model_evidence (name, revision, verifier, message, evidence, made)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (name, revision, verifier) DO UPDATE
             SET message = excluded.message, evidence = excluded.evidence, made = excluded.made
             WHERE excluded.made > model_evidence.made
                OR (excluded.made = model_evidence.made AND excluded.message < model_evidence.message)",
        )
        .bind(&evidence.name)
        .bind(&evidence.commit)
        .bind(&evidence.verifier)
        .bind(message)
        .bind(written(evidence)?)
        .bind(seconds(evidence.created))
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// A revision that is offered.
    pub(crate) async fn model(&self, name: &str, revision: &str) -> Result<Option<StoredModel>> {
        let statement = format!(
            "SELECT message, record, head FROM models WHERE name = $1 AND revision = $2 AND {OFFERED}"
        );
        let row = sqlx::query(sqlx::AssertSqlSafe(statement))
            .bind(name)
            .bind(revision)
            .fetch_optional(&self.read)
            .await?;
        row.as_ref().map(read).transpose()
    }

    /// A revision, whether it is still offered or was withdrawn.
    pub(crate) async fn model_ever(&self, name: &str, revision: &str) -> Result<Option<StoredModel>> {
        let row = sqlx::query("SELECT message, record, head FROM models WHERE name = $1 AND revision = $2")
            .bind(name)
            .bind(revision)
            .fetch_optional(&self.read)
            .await?;
        row.as_ref().map(read).transpose()
    }

    /// An account's revisions that are offered, newest first.
    pub(crate) async fn models(&self, owner: &str) -> Result<Vec<IndexedModel>> {
        let statement = format!(
            "SELECT message, record FROM models WHERE owner = $1 AND {OFFERED}
             ORDER BY made DESC, name, revision LIMIT 500"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(statement))
            .bind(owner)
            .fetch_all(&self.read)
            .await?;
        rows.iter().map(read_record).collect()
    }

    /// Private revisions that are offered, newest first: all of an owner, or those of what stands for one name. Without what is
    /// sealed in them, which no gateway needs to look at.
    pub(crate) async fn private_models(&self, of: PrivateOf<'_>) -> Result<Vec<IndexedModel>> {
        let (is_meant, value) = match of {
            // No other name looks like a UUID. The index by owner leaves little to compare.
            PrivateOf::Owner(owner) => (
                "owner = $1 AND name LIKE '%/________-____-____-____-____________'",
                owner,
            ),
            PrivateOf::Name(name) => ("name = $1", name),
        };
        let statement = format!(
            "SELECT message, owner, name, uuid, revision, made FROM models WHERE {is_meant} AND {OFFERED}
             ORDER BY made DESC, revision LIMIT {PRIVATE_MAX}"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(statement))
            .bind(value)
            .fetch_all(&self.read)
            .await?;
        let rows = rows.iter().map(read_private);
        rows.filter(|row| {
            row.as_ref()
                .map_or(true, |one| private_uuid(&one.record.name).is_some())
        })
        .collect()
    }

    /// All that is known under a name.
    pub(crate) async fn history(&self, name: &str) -> Result<History> {
        let rows = |statement| sqlx::query(statement).bind(name).fetch_all(&self.read);
        let records = rows("SELECT message, record FROM models WHERE name = $1").await?;
        let tags = rows("SELECT tags FROM model_tags WHERE name = $1").await?;
        let withdrawals = rows("SELECT name, revision, made FROM model_withdrawals WHERE name = $1").await?;
        let evidence = rows("SELECT message, evidence FROM model_evidence WHERE name = $1").await?;
        let downloads = rows("SELECT downloads FROM model_downloads WHERE name = $1").await?;
        Ok(History {
            records: records.iter().map(read_record).collect::<Result<_>>()?,
            tags: match tags.first() {
                Some(row) => Some(parsed(row, "tags")?),
                None => None,
            },
            withdrawals: withdrawals.iter().map(read_withdrawal).collect::<Result<_>>()?,
            evidence: evidence.iter().map(read_evidence).collect::<Result<_>>()?,
            downloads: match downloads.first() {
                Some(row) => unsigned(row.try_get("downloads")?),
                None => 0,
            },
            terms: self.terms(name).await?,
            deposited: self.deposited(name).await?,
        })
    }

    /// The records after this name and revision, by those, at most `most`: all of them, part by part.
    pub(crate) async fn records_after(
        &self,
        (name, revision): (&str, &str),
        most: i64,
    ) -> Result<Vec<IndexedModel>> {
        let rows = sqlx::query(
            "SELECT message, record FROM models WHERE name > $1 OR (name = $1 AND revision > $2)
             ORDER BY name, revision LIMIT $3",
        )
        .bind(name)
        .bind(revision)
        .bind(most)
        .fetch_all(&self.read)
        .await?;
        rows.iter().map(read_record).collect()
    }

    /// Every withdrawal.
    pub(crate) async fn withdrawals(&self) -> Result<Vec<ModelWithdrawal>> {
        let rows = sqlx::query("SELECT name, revision, made FROM model_withdrawals")
            .fetch_all(&self.read)
            .await?;
        rows.iter().map(read_withdrawal).collect()
    }

    /// Everything that this verifier says.
    pub(crate) async fn evidence_of(&self, verifier: &str) -> Result<Vec<IndexedEvidence>> {
        let rows = sqlx::query("SELECT message, evidence FROM model_evidence WHERE verifier = $1")
            .bind(verifier)
            .fetch_all(&self.read)
            .await?;
        rows.iter().map(read_evidence).collect()
    }

    /// Downloads by name.
    pub(crate) async fn downloads(&self) -> Result<Vec<(String, u64)>> {
        let rows = sqlx::query("SELECT name, downloads FROM model_downloads")
            .fetch_all(&self.read)
            .await?;
        let pair = |row: &Row| Ok((row.try_get("name")?, unsigned(row.try_get("downloads")?)));
        rows.iter().map(pair).collect()
    }

    /// Counts a download of a model, once a day for each `who`. Answers whether it counted.
    pub(crate) async fn count_download(&self, name: &str, who: &[u8; 32], day: u64) -> Result<bool> {
        let mut transaction = self.begin().await?;
        // Of days that are over nothing is asked any more.
        sqlx::query("DELETE FROM model_downloaders WHERE day < $1")
            .bind(seconds(day))
            .execute(&mut *transaction)
            .await?;
        let new =
            sqlx::query("INSERT INTO model_downloaders (day, who) VALUES ($1, $2) ON CONFLICT DO NOTHING")
                .bind(seconds(day))
                .bind(who.as_slice())
                .execute(&mut *transaction)
                .await?;
        let counts = new.rows_affected() == 1;
        if counts {
            sqlx::query(
                "INSERT INTO model_downloads (name, downloads) VALUES ($1, 1)
                 ON CONFLICT (name) DO UPDATE SET downloads = model_downloads.downloads + 1",
            )
            .bind(name)
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(counts)
    }

    /// Whether a message of the network was looked at before.
    pub(crate) async fn was_seen(&self, message: &str) -> Result<bool> {
        let row = sqlx::query("SELECT 1 FROM registry_seen WHERE message = $1")
            .bind(message)
            .fetch_optional(&self.read)
            .await?;
        Ok(row.is_some())
    }

    /// Notes that a message of this time was looked at.
    pub(crate) async fn seen(&self, message: &str, time: u64) -> Result<()> {
        sqlx::query("INSERT INTO registry_seen (message, time) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(message)
            .bind(seconds(time))
            .execute(&self.write)
            .await?;
        Ok(())
    }

    /// The time of the newest message that was looked at.
    pub(crate) async fn last_seen(&self) -> Result<Option<u64>> {
        let row = sqlx::query("SELECT max(time) AS time FROM registry_seen")
            .fetch_one(&self.read)
            .await?;
        Ok(row.try_get::<Option<i64>, _>("time")?.map(unsigned))
    }
}

/// Puts down what files a public revision has, in place of what an other record of it said.
async fn list_files(transaction: &mut Transaction<'_, Any>, record: &ModelRecord) -> Result<()> {
    sqlx::query("DELETE FROM model_files WHERE name = $1 AND revision = $2")
        .bind(&record.name)
        .bind(&record.commit)
        .execute(&mut **transaction)
        .await?;
    if record.visibility != Visibility::Public {
        return Ok(());
    }
    for file in &record.files {
        sqlx::query(
            "INSERT INTO model_files (sha256, made, name, revision, path, size) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT DO NOTHING",
        )
        .bind(&file.sha256)
        .bind(seconds(record.created))
        .bind(&record.name)
        .bind(&record.commit)
        .bind(&file.path)
        .bind(seconds(file.size))
        .execute(&mut **transaction)
        .await?;
    }
    Ok(())
}

fn written(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|_| corrupt("a model"))
}

fn parsed<T: DeserializeOwned>(row: &Row, column: &'static str) -> Result<T> {
    serde_json::from_str(row.try_get(column)?).map_err(|_| corrupt("a model"))
}

fn read(row: &Row) -> Result<StoredModel> {
    Ok(StoredModel {
        message: row.try_get("message")?,
        record: parsed(row, "record")?,
        head: parsed(row, "head")?,
    })
}

fn read_record(row: &Row) -> Result<IndexedModel> {
    Ok(IndexedModel {
        message: row.try_get("message")?,
        record: parsed(row, "record")?,
    })
}

/// What stands of a private revision in the clear.
fn read_private(row: &Row) -> Result<IndexedModel> {
    let uuid: String = row.try_get("uuid")?;
    Ok(IndexedModel {
        message: row.try_get("message")?,
        record: ModelRecord {
            owner: row.try_get("owner")?,
            name: row.try_get("name")?,
            uuid: uuid.parse().map_err(|_| corrupt("a model"))?,
            commit: row.try_get("revision")?,
            created: unsigned(row.try_get("made")?),
            visibility: Visibility::Private,
            price: "free".to_owned(),
            ..ModelRecord::default()
        },
    })
}

fn read_evidence(row: &Row) -> Result<IndexedEvidence> {
    Ok(IndexedEvidence {
        message: row.try_get("message")?,
        evidence: parsed(row, "evidence")?,
        counts: false,
    })
}

fn read_withdrawal(row: &Row) -> Result<ModelWithdrawal> {
    let (name, revision): (String, String) = (row.try_get("name")?, row.try_get("revision")?);
    Ok(ModelWithdrawal {
        owner: name.split('/').next().unwrap_or_default().to_owned(),
        name,
        commit: Some(revision).filter(|revision| !revision.is_empty()),
        created: unsigned(row.try_get("made")?),
    })
}
