//! Publishing: seal the files of a cell under a fresh secret, have the owner's machine sign, upload, and hand the
//! wrapped secret over with head and record to be signed.
//!
//! Sealed objects wait on the disk (they are ciphertext), so that one question covers all of them and memory stays
//! bounded whatever the model's size.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use alephlab_api::Card;
use alephlab_api::broker::{PublishFile, Published};
use alephlab_api::keys::{Ask, KeyReply, StoreAsk};
use alephlab_api::model::{ModelRecord, RecordFile, is_name, is_path};
use alephlab_vault::message::{MAX_INLINE, post_size};
use alephlab_vault::storage::Storage;
use alephlab_vault::{
    Address, DEFAULT_OBJ_LOG2, DatasetId, EpochSecret, Meta, ReaderPublic, SealParams, Sealed, SealedTree,
    SignedMessage, SourceFile, UnsignedHead, VaultError, dataset_id, reader_key_of, seal_epoch_secret,
    seal_tree,
};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::ask::unfit;
use crate::report::Report;
use crate::{Broker, BrokerError, Result, now};

/// Uploads at a time; each holds one object in memory.
const PARALLEL: usize = 4;
/// Most files in one revision.
const FILES_MAX: usize = 10_000;
/// The card as a file.
const CARD_FILE: &str = "README.md";

/// What the owner's machine said to seal with.
struct Prepared {
    owner: Address,
    dataset_id: DatasetId,
    id_random: [u8; 16],
    version: u64,
    prev: [u8; 32],
    epoch: u32,
    reader_key: ReaderPublic,
    model_uuid: Uuid,
}

impl Prepared {
    /// The secret of the new epoch, for the owner's machine.
    fn wrap(&self, secret: &EpochSecret) -> Result<Sealed> {
        Ok(seal_epoch_secret(
            &self.reader_key,
            &self.dataset_id,
            self.epoch,
            secret,
        )?)
    }
}

/// Sealed objects on the disk. The folder goes when this is dropped.
struct Staged {
    folder: tempfile::TempDir,
    objects: Vec<StoreAsk>,
    tree: SealedTree,
}

impl Broker {
    pub(crate) async fn publish(
        &self,
        model: &str,
        card: Card,
        files: Vec<PublishFile>,
        report: &Report,
    ) -> Result<Published> {
        check(model, &files)?;
        report.progress("ask your machine", 0, 0, "");
        let prepared = self.prepare(model, report).await?;
        let secret = EpochSecret::generate()?;
        let sources = sources(&card, &files);
        let listed = list(&card, &files, report).await?;
        check_record(model, &card, &prepared, &listed)?;
        let staged = seal(sources, &card, &prepared, &secret, report).await?;
        if listed != list(&card, &files, report).await? {
            return Err(request(
                "a file changed while it was being published; publish it again",
            ));
        }
        self.upload(model, &prepared, &staged, report).await?;

        let head = unsigned_head(&prepared, &staged.tree, &secret);
        let revision = hex::encode(&head.hash()[..20]);
        let record = record(model, &card, &prepared, listed, revision.clone(), head.created);
        let (name, bytes) = (record.name.clone(), staged.tree.bytes);
        let ask = Ask::SignPublish {
            model: model.to_owned(),
            head: json(&head)?,
            secret: json(&prepared.wrap(&secret)?)?,
            record,
        };
        report.progress("sign", 0, 0, "");
        let KeyReply::Published {
            revision: signed,
            head,
            record,
            uuid,
        } = self.ask(ask, report).await?
        else {
            return Err(unfit("the request to sign"));
        };
        if signed != revision {
            return Err(BrokerError::Answer {
                reason: format!("revision {signed} was signed in place of {revision}"),
            });
        }
        tracing::info!(model = name, revision, bytes, "published");
        Ok(Published {
            name,
            uuid,
            revision,
            head,
            record,
            bytes,
        })
    }

    async fn prepare(&self, model: &str, report: &Report) -> Result<Prepared> {
        let reply = self
            .ask(
                Ask::Prepare {
                    model: model.to_owned(),
                },
                report,
            )
            .await?;
        let KeyReply::Prepared {
            owner,
            dataset_id: id,
            id_random,
            version,
            prev,
            epoch,
            reader_key,
            model_uuid,
        } = reply
        else {
            return Err(unfit("the request to publish"));
        };
        let prepared = Prepared {
            owner: owner.parse()?,
            dataset_id: id.parse()?,
            id_random: bytes_of(&id_random, "the model's random id")?,
            version,
            prev: if prev.is_empty() {
                [0; 32]
            } else {
                bytes_of(&prev, "the hash of the head before")?
            },
            epoch,
            reader_key: ReaderPublic::from_hex(&reader_key)?,
            model_uuid,
        };
        // Sealing under somebody else's id would give them the secret.
        if !self.account.eq_ignore_ascii_case(&owner)
            || dataset_id(&prepared.owner, &prepared.id_random) != prepared.dataset_id
        {
            return Err(BrokerError::Answer {
                reason: "the model's id is not one of this kernel's account".to_owned(),
            });
        }
        // The answer came through the gateway, which could name a key of its own: the wallet's word counts.
        if reader_key_of(&*self.storage, &owner).await?.as_ref() != Some(&prepared.reader_key) {
            return Err(BrokerError::Answer {
                reason: "the key to seal for is not the one that the account registered on Aleph".to_owned(),
            });
        }
        Ok(prepared)
    }

    async fn upload(&self, model: &str, prepared: &Prepared, staged: &Staged, report: &Report) -> Result<()> {
        report.progress("sign objects", 0, 0, "");
        let ask = Ask::SignStores {
            model: model.to_owned(),
            objects: staged.objects.clone(),
        };
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

/// Refuses what cannot be published before anything is asked or sealed.
fn check(model: &str, files: &[PublishFile]) -> Result<()> {
    if !is_name(model) {
        return Err(request(format!("`{model}` cannot be the name of a model")));
    }
    if files.is_empty() || files.len() > FILES_MAX {
        return Err(request(format!(
            "a revision has 1 to {FILES_MAX} files, not {}",
            files.len()
        )));
    }
    let mut names = BTreeSet::new();
    for file in files {
        if !is_path(&file.name) || file.name.eq_ignore_ascii_case(CARD_FILE) {
            return Err(request(format!(
                "`{}` cannot be the name of a file of a model",
                file.name
            )));
        }
        if !names.insert(&file.name) {
            return Err(request(format!("`{}` is there twice", file.name)));
        }
        let is_file = std::fs::symlink_metadata(&file.path).is_ok_and(|data| data.is_file());
        if !file.path.is_absolute() || !is_file {
            return Err(request(format!("{} is not a file", file.path.display())));
        }
    }
    Ok(())
}

fn sources(card: &Card, files: &[PublishFile]) -> Vec<SourceFile> {
    let mut sources: Vec<SourceFile> = files
        .iter()
        .map(|file| SourceFile::file(&file.name, &file.path))
        .collect();
    sources.push(SourceFile::bytes(CARD_FILE, card.to_markdown().into_bytes()));
    sources
}

/// Path, size and SHA-256 of each file, sorted by path: what the public record says.
async fn list(card: &Card, files: &[PublishFile], report: &Report) -> Result<Vec<RecordFile>> {
    let card = card.to_markdown();
    let mut listed = vec![RecordFile {
        path: CARD_FILE.to_owned(),
        size: card.len() as u64,
        sha256: hex::encode(Sha256::digest(card.as_bytes())),
    }];
    for (number, file) in files.iter().enumerate() {
        report.progress("read", number as u64, files.len() as u64, "files");
        let (name, path) = (file.name.clone(), file.path.clone());
        listed.push(blocking(move || hashed(name, &path)).await?);
    }
    listed.sort_by(|one, two| one.path.cmp(&two.path));
    Ok(listed)
}

fn hashed(name: String, path: &Path) -> Result<RecordFile> {
    let mut file = std::fs::File::open(path).map_err(BrokerError::io("open", path))?;
    let mut hash = Hashing {
        hash: Sha256::new(),
        size: 0,
    };
    std::io::copy(&mut file, &mut hash).map_err(BrokerError::io("read", path))?;
    Ok(RecordFile {
        path: name,
        size: hash.size,
        sha256: hex::encode(hash.hash.finalize()),
    })
}

struct Hashing {
    hash: Sha256,
    size: u64,
}

impl std::io::Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Seals everything into a fresh folder of the disk.
async fn seal(
    sources: Vec<SourceFile>,
    card: &Card,
    prepared: &Prepared,
    secret: &EpochSecret,
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
        meta: Meta {
            title: Some(card.title.clone()).filter(|title| !title.is_empty()),
            description: None,
            licence: Some(card.licence.clone()).filter(|licence| !licence.is_empty()),
            created: Some(now()),
        },
    };
    let (secret, place) = (secret.duplicate(), folder.path().to_owned());
    report.progress("seal", 0, 0, "");
    let (objects, tree) = blocking(move || {
        let mut objects = Vec::new();
        let tree = seal_tree(&sources, &params, &secret, &mut |object| {
            let item_hash = object.item_hash();
            write(place.join(&item_hash), &object.bytes)?;
            objects.push(StoreAsk {
                item_hash,
                size: object.bytes.len() as u64,
            });
            Ok(())
        })?;
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

fn unsigned_head(prepared: &Prepared, tree: &SealedTree, secret: &EpochSecret) -> UnsignedHead {
    UnsignedHead {
        dataset_id: prepared.dataset_id,
        owner: prepared.owner,
        version: prepared.version,
        prev: prepared.prev,
        epoch: prepared.epoch,
        epoch_commitment: secret.commitment(&prepared.dataset_id, prepared.epoch),
        root: tree.root.clone(),
        writers: Vec::new(),
        created: now(),
        not_after: None,
        id_random: prepared.id_random,
    }
}

fn record(
    model: &str,
    card: &Card,
    prepared: &Prepared,
    files: Vec<RecordFile>,
    commit: String,
    created: u64,
) -> ModelRecord {
    let owner = prepared.owner.to_string();
    ModelRecord {
        name: format!("{owner}/{model}"),
        owner,
        uuid: prepared.model_uuid,
        commit,
        parent: (prepared.version > 1).then(|| hex::encode(&prepared.prev[..20])),
        tags: Vec::new(),
        card: card.clone(),
        price: "free".to_owned(),
        files,
        head: String::new(),
        created,
    }
}

/// Refuses a revision whose record no node would take: it is posted last, after everything is uploaded and paid for.
fn check_record(model: &str, card: &Card, prepared: &Prepared, listed: &[RecordFile]) -> Result<()> {
    // As long as the signed one will be.
    let (commit, head) = ("0".repeat(40), "0".repeat(64));
    let record = ModelRecord {
        head,
        ..record(model, card, prepared, listed.to_vec(), commit, now())
    };
    let bytes = post_size(&record)?;
    if bytes <= MAX_INLINE {
        return Ok(());
    }
    Err(BrokerError::RecordSize {
        files: listed.len(),
        bytes,
        limit: MAX_INLINE,
    })
}

/// Runs work that blocks on a thread for that.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let stopped = |error: tokio::task::JoinError| VaultError::Stopped {
        reason: error.to_string(),
    };
    tokio::task::spawn_blocking(work).await.map_err(stopped)?
}

fn json(value: &impl serde::Serialize) -> Result<serde_json::Value> {
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

fn request(reason: impl Into<String>) -> BrokerError {
    BrokerError::Request {
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, path: &Path) -> PublishFile {
        PublishFile {
            name: name.to_owned(),
            path: path.to_owned(),
        }
    }

    #[test]
    fn refuses_what_cannot_be_published_and_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let good = folder.path().join("a");
        std::fs::write(&good, "1").unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&good, &link).unwrap();
        check("digits", &[file("a", &good)]).unwrap();
        let refused = |model: &str, files: &[PublishFile]| check(model, files).unwrap_err().to_string();
        assert!(refused("a/b", &[file("a", &good)]).contains("`a/b`"));
        assert!(refused("digits", &[]).contains("not 0"));
        assert!(refused("digits", &[file("../a", &good)]).contains("`../a`"));
        assert!(refused("digits", &[file("readme.md", &good)]).contains("`readme.md`"));
        assert!(refused("digits", &[file("a", &good), file("a", &good)]).contains("twice"));
        assert!(refused("digits", &[file("a", folder.path())]).contains("is not a file"));
        assert!(refused("digits", &[file("a", &link)]).contains("is not a file"));
        assert!(refused("digits", &[file("a", Path::new("a"))]).contains("is not a file"));
    }

    #[test]
    fn the_record_says_size_and_hash_of_every_file_and_of_the_card() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, "abc").unwrap();
        let listed = hashed("x".to_owned(), &path).unwrap();
        assert_eq!(listed.size, 3);
        assert_eq!(
            listed.sha256,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(sources(&Card::default(), &[file("x", &path)]).len(), 2);
    }
}
