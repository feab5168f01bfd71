//! What publishing a model and uploading a dataset have in common: what the owner's machine says to seal with, sealing onto the
//! disk, and uploading under signed STOREs.
//!
//! Sealed objects wait on the disk (they are ciphertext), so that one question covers all of them and memory stays
//! bounded whatever the size.

use std::path::PathBuf;
use std::sync::Arc;

use alephlab_api::keys::{Ask, KeyReply, StoreAsk, match_text};
use alephlab_vault::storage::Storage;
use alephlab_vault::{
    Address, DEFAULT_OBJ_LOG2, DatasetId, EpochSecret, Matched, Meta, ReaderKey, ReaderPublic, SealParams,
    Sealed, SealedObject, SealedTree, SignedMessage, SourceFile, Survey, UnsignedHead, VaultError,
    dataset_id, open_epoch_secret, reader_keys_of, seal_epoch_secret, seal_matched, seal_tree,
};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use uuid::Uuid;

use crate::ask::unfit;
use crate::report::Report;
use crate::{Broker, BrokerError, Result, now};

/// Uploads at a time; each holds one object in memory.
const PARALLEL: usize = 4;

/// What the owner's machine said to seal with.
pub(crate) struct Prepared {
    pub(crate) owner: Address,
    pub(crate) dataset_id: DatasetId,
    pub(crate) id_random: [u8; 16],
    pub(crate) version: u64,
    pub(crate) prev: [u8; 32],
    pub(crate) epoch: u32,
    pub(crate) reader_key: ReaderPublic,
    pub(crate) model_uuid: Uuid,
    /// Shows the owner's machine that later steps come from this kernel; none where that is too old to look objects up.
    pub(crate) ticket: Option<EpochSecret>,
    /// Whether the model is private: its record is sealed, too.
    pub(crate) private: bool,
}

impl Prepared {
    /// Shows that a step comes from whom the owner agreed to.
    pub(crate) fn proof(&self, text: &str) -> Result<String> {
        let ticket = self
            .ticket
            .as_ref()
            .ok_or_else(|| unfit("the request to upload"))?;
        Ok(ticket.proof(text))
    }

    /// The secret of the version's epoch, for the owner's machine.
    pub(crate) fn wrap(&self, secret: &EpochSecret, tree: &SealedTree) -> Result<Sealed> {
        Ok(seal_epoch_secret(
            &self.reader_key,
            &self.dataset_id,
            tree.epoch,
            secret,
        )?)
    }
}

/// Sealed objects on the disk. The folder goes when this is dropped.
pub(crate) struct Staged {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) objects: Vec<StoreAsk>,
    pub(crate) tree: SealedTree,
}

impl Broker {
    /// Asks what to seal with, and checks that it is this kernel's account that gets it.
    pub(crate) async fn prepare(&self, ask: Ask, report: &Report) -> Result<Prepared> {
        report.progress("ask your machine", 0, 0, "");
        let kernel_key = ReaderKey::generate()?;
        let KeyReply::Prepared {
            owner,
            dataset_id: id,
            id_random,
            version,
            prev,
            epoch,
            reader_key,
            model_uuid,
            ticket,
            private,
        } = self.ask_with(&kernel_key, Vec::new(), ask, report).await?
        else {
            return Err(unfit("the request to publish"));
        };
        let dataset: DatasetId = id.parse()?;
        let ticket = match ticket {
            Some(sealed) => {
                let malformed = |error: serde_json::Error| BrokerError::Answer {
                    reason: error.to_string(),
                };
                let sealed: Sealed = serde_json::from_value(sealed).map_err(malformed)?;
                Some(open_epoch_secret(&kernel_key, &dataset, epoch, &sealed)?)
            }
            None => None,
        };
        let prepared = Prepared {
            owner: owner.parse()?,
            dataset_id: dataset,
            id_random: bytes_of(&id_random, "the random id")?,
            version,
            prev: if prev.is_empty() {
                [0; 32]
            } else {
                bytes_of(&prev, "the hash of the head before")?
            },
            epoch,
            reader_key: ReaderPublic::from_hex(&reader_key)?,
            model_uuid,
            ticket,
            private,
        };
        // Sealing under somebody else's id would give them the secret.
        if !self.account.eq_ignore_ascii_case(&owner)
            || dataset_id(&prepared.owner, &prepared.id_random) != prepared.dataset_id
        {
            return Err(BrokerError::Answer {
                reason: "the id to seal under is not one of this kernel's account".to_owned(),
            });
        }
        // The answer came through the gateway, which could name a key of its own: the wallet's word counts.
        let registered = reader_keys_of(&*self.storage, &owner).await?;
        if !registered.contains(&prepared.reader_key) {
            return Err(BrokerError::Answer {
                reason: "the key to seal for is none that the account registered on Aleph".to_owned(),
            });
        }
        Ok(prepared)
    }

    /// Asks which objects of a model the revision before has already. Only the owner's machine reads what is asked, and only this
    /// process what is answered; the gateway between sees how long both are. Nothing where the owner's machine cannot look or it is
    /// too many: then the revision is sealed whole.
    pub(crate) async fn matched(
        &self,
        model: &str,
        sources: Arc<[SourceFile]>,
        prepared: &Prepared,
        report: &Report,
    ) -> Result<Option<Matched>> {
        if prepared.ticket.is_none() {
            return Ok(None);
        }
        report.progress("compare", 0, 0, "");
        let survey = match blocking(move || Ok(Survey::of(&sources, DEFAULT_OBJ_LOG2)?)).await {
            Err(BrokerError::Vault {
                source: VaultError::Limit { .. },
            }) => return Ok(None),
            survey => survey?,
        };
        let key = ReaderKey::generate()?;
        let at = (&prepared.dataset_id, prepared.epoch);
        let sealed = json(&survey.seal(&prepared.reader_key, at, &key.public())?)?;
        let ask = Ask::Match {
            model: model.to_owned(),
            proof: prepared.proof(&match_text(model, &sealed))?,
            survey: sealed,
        };
        let KeyReply::Matched { answer } = self.ask(ask, report).await? else {
            return Err(unfit("the question which objects there are"));
        };
        let answer: Sealed = serde_json::from_value(answer).map_err(|error| BrokerError::Answer {
            reason: error.to_string(),
        })?;
        let matched = survey.open(&key, at, &answer)?;
        tracing::info!(
            objects = survey.objects(),
            taken_over = matched.taken_over(),
            "compared"
        );
        Ok(Some(matched))
    }

    /// Has the STOREs of what was sealed signed by `ask`, and uploads it.
    pub(crate) async fn store(
        &self,
        ask: Ask,
        prepared: &Prepared,
        staged: &Staged,
        report: &Report,
    ) -> Result<()> {
        report.progress("sign objects", 0, 0, "");
        let KeyReply::Stores { messages } = self.ask(ask, report).await? else {
            return Err(unfit("the request to sign objects"));
        };
        if messages.len() != staged.objects.len() {
            return Err(unfit("the request to sign objects"));
        }
        let total = staged.tree.sealed_bytes;
        let owner = prepared.owner.to_string();
        // Owned futures in a list: one that borrowed from here could not be sent to another thread.
        let uploads: Vec<_> = staged
            .objects
            .iter()
            .zip(messages)
            .map(|(object, message)| {
                let path = staged.folder.path().join(&object.item_hash);
                put(self.storage.clone(), object.clone(), message, owner.clone(), path)
            })
            .collect();
        report.progress("upload", 0, total, "bytes");
        let mut sizes = stream::iter(uploads).buffer_unordered(PARALLEL);
        let mut done = 0;
        while let Some(size) = sizes.try_next().await? {
            done += size;
            report.progress("upload", done, total, "bytes");
        }
        Ok(())
    }
}

/// Uploads one object under its signed STORE; answers its size.
async fn put(
    storage: Arc<dyn Storage>,
    object: StoreAsk,
    message: serde_json::Value,
    owner: String,
    path: PathBuf,
) -> Result<u64> {
    let store = SignedMessage::from_value(message)?;
    if !store.sender().eq_ignore_ascii_case(&owner) || store.stored_file()? != object.item_hash {
        return Err(unfit("the request to sign objects"));
    }
    let bytes = tokio::fs::read(&path)
        .await
        .map_err(BrokerError::io("read", &path))?;
    storage.put(Bytes::from(bytes), &store).await?;
    Ok(object.size)
}

/// Seals everything into a fresh folder of the disk; of a model what its revision before does not have.
pub(crate) async fn seal(
    sources: Arc<[SourceFile]>,
    meta: Meta,
    prepared: &Prepared,
    (secret, matched): (&EpochSecret, Option<Matched>),
    report: &Report,
) -> Result<Staged> {
    let temp = std::env::temp_dir();
    let folder = tempfile::Builder::new().prefix("alephlab-sealed-").tempdir();
    let folder = folder.map_err(BrokerError::io("make a folder in", &temp))?;
    let params = SealParams {
        dataset_id: prepared.dataset_id,
        version: prepared.version,
        epoch: prepared.epoch,
        obj_log2: DEFAULT_OBJ_LOG2,
        meta,
    };
    let (secret, place) = (secret.duplicate(), folder.path().to_owned());
    report.progress("seal", 0, 0, "");
    let (objects, tree) = blocking(move || {
        let mut objects = Vec::new();
        let mut keep = |object: SealedObject| {
            let item_hash = object.item_hash();
            write(place.join(&item_hash), &object.bytes)?;
            objects.push(StoreAsk {
                item_hash,
                size: object.bytes.len() as u64,
            });
            Ok(())
        };
        let tree = match matched {
            Some(matched) => seal_matched(&sources, &params, &secret, &matched, &mut keep),
            None => seal_tree(&sources, &params, &secret, &mut keep),
        }?;
        Ok((objects, tree))
    })
    .await?;
    Ok(Staged {
        folder,
        objects,
        tree,
    })
}

fn write(path: PathBuf, bytes: &[u8]) -> std::result::Result<(), VaultError> {
    std::fs::write(&path, bytes).map_err(|source| VaultError::Io {
        action: "write",
        path,
        source,
    })
}

pub(crate) fn unsigned_head(prepared: &Prepared, tree: &SealedTree, secret: &EpochSecret) -> UnsignedHead {
    UnsignedHead {
        dataset_id: prepared.dataset_id,
        owner: prepared.owner,
        version: prepared.version,
        prev: prepared.prev,
        epoch: tree.epoch,
        epoch_commitment: secret.commitment(&prepared.dataset_id, tree.epoch),
        root: tree.root.clone(),
        writers: Vec::new(),
        created: now(),
        not_after: None,
        id_random: prepared.id_random,
    }
}

/// Runs work that blocks on a thread for that.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let stopped = |error: tokio::task::JoinError| VaultError::Stopped {
        reason: error.to_string(),
    };
    tokio::task::spawn_blocking(work).await.map_err(stopped)?
}

pub(crate) fn json(value: &impl serde::Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(value).map_err(|error| BrokerError::Answer {
        reason: error.to_string(),
    })
}

fn bytes_of<const N: usize>(text: &str, what: &str) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| BrokerError::Answer {
        reason: format!("{what} is not {N} bytes in hex"),
    })?;
    Ok(bytes)
}
