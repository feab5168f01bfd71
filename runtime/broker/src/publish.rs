//! Publishing a model: ask the owner's machine which objects the revision before has, seal the rest of a cell's files under fresh
//! secrets, have the owner's machine sign, upload, and hand the wrapped secret over with head and record to be signed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use alephlab_api::Card;
use alephlab_api::broker::{PublishFile, Published};
use alephlab_api::keys::{Ask, KeyReply};
use alephlab_api::model::{
    ModelRecord, RecordFile, SEALED_MAX, Visibility, WeightCount, is_name, is_path, private_uuid,
    weight_files,
};
use alephlab_vault::message::{MAX_INLINE, post_size};
use alephlab_vault::{DatasetId, EpochSecret, Meta, SourceFile, seal_beside};
use sha2::{Digest, Sha256};

use crate::ask::unfit;
use crate::reach::Reach;
use crate::report::Report;
use crate::sealing::{Prepared, blocking, json, seal, unsigned_head};
use crate::{Broker, BrokerError, Result, now};

/// Most files in one revision.
const FILES_MAX: usize = 10_000;
/// The card as a file.
const CARD_FILE: &str = "README.md";

impl Broker {
    pub(crate) async fn publish(
        &self,
        model: &str,
        mut card: Card,
        files: Vec<PublishFile>,
        report: &Report,
    ) -> Result<Published> {
        check(model, &files, &self.reach)?;
        let asked_private = std::mem::take(&mut card.private);
        let ask = Ask::Prepare {
            model: model.to_owned(),
        };
        let mut prepared = self.prepare(ask, report).await?;
        // What is private once stays so, whatever the next cell says: a record in the clear cannot be taken back.
        prepared.private |= asked_private;
        let secret = EpochSecret::generate()?;
        let sources = sources(&card, &files);
        let sources: Arc<[SourceFile]> = sources.into_iter().map(|file| self.reach.bound(file)).collect();
        let listed = self.list(&card, &files, report).await?;
        check_record(model, &card, (&prepared, &secret), &listed)?;
        let matched = self
            .matched(model, Arc::clone(&sources), &prepared, report)
            .await?;
        let sealing = seal(sources, meta(&card), &prepared, (&secret, matched), report);
        let staged = sealing.await?;
        if listed != self.list(&card, &files, report).await? {
            return Err(request(
                "a file changed while it was being published; publish it again",
            ));
        }
        let ask = Ask::SignStores {
            model: model.to_owned(),
            objects: staged.objects.clone(),
        };
        self.store(ask, &prepared, &staged, report).await?;

        let head = unsigned_head(&prepared, &staged.tree, &secret);
        let revision = hex::encode(&head.hash()[..20]);
        let parameters = self.parameters(&files, &listed).await?;
        let record = ModelRecord {
            parameters,
            ..record(model, &card, &prepared, listed, revision.clone(), head.created)
        };
        let (name, bytes) = (record.name.clone(), staged.tree.bytes);
        let record = covered(record, (&prepared.dataset_id, staged.tree.epoch), &secret)?;
        let ask = Ask::SignPublish {
            model: model.to_owned(),
            head: json(&head)?,
            secret: json(&prepared.wrap(&secret, &staged.tree)?)?,
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

    /// Numbers in the weights by type, as their headers say.
    async fn parameters(
        &self,
        files: &[PublishFile],
        listed: &[RecordFile],
    ) -> Result<BTreeMap<String, u64>> {
        let weights = weight_files(listed);
        let size_of = |file: &PublishFile| {
            let found = weights.iter().find(|one| one.path == file.name)?;
            Some((file.path.to_path_buf(), found.size))
        };
        let weights: Vec<(PathBuf, u64)> = files.iter().filter_map(size_of).collect();
        let reach = self.reach.clone();
        blocking(move || {
            let mut count = WeightCount::default();
            for (path, size) in weights {
                let file = reach.open(&path).map_err(BrokerError::io("open", &path))?;
                if !count.add(&mut std::io::BufReader::new(file), size) {
                    return Ok(BTreeMap::new());
                }
            }
            Ok(count.end())
        })
        .await
    }

    /// Path, size and SHA-256 of each file, sorted by path: what the public record says.
    async fn list(&self, card: &Card, files: &[PublishFile], report: &Report) -> Result<Vec<RecordFile>> {
        let card = card.to_markdown();
        let mut listed = vec![RecordFile {
            path: CARD_FILE.to_owned(),
            size: card.len() as u64,
            sha256: hex::encode(Sha256::digest(card.as_bytes())),
        }];
        for (number, file) in files.iter().enumerate() {
            report.progress("read", number as u64, files.len() as u64, "files");
            let (name, path, reach) = (file.name.clone(), file.path.clone(), self.reach.clone());
            listed.push(blocking(move || hashed(name, &path, &reach)).await?);
        }
        listed.sort_by(|one, two| one.path.cmp(&two.path));
        Ok(listed)
    }
}

/// Refuses what cannot be published before anything is asked or sealed.
fn check(model: &str, files: &[PublishFile], reach: &Reach) -> Result<()> {
    if !is_name(model) || private_uuid(model).is_some() {
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
        let no_file = || request(format!("{} is not a file", file.path.display()));
        if !file.path.is_absolute() {
            return Err(no_file());
        }
        // First: of what lies elsewhere a cell is not told either whether it is there.
        reach.check(&file.path)?;
        if !std::fs::symlink_metadata(&file.path).is_ok_and(|data| data.is_file()) {
            return Err(no_file());
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

fn hashed(name: String, path: &Path, reach: &Reach) -> Result<RecordFile> {
    let mut file = reach.open(path).map_err(BrokerError::io("open", path))?;
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

/// Without a time: that tells a model from a dataset, where its record is not known.
fn meta(card: &Card) -> Meta {
    Meta {
        title: Some(card.title.clone()).filter(|title| !title.is_empty()),
        licence: Some(card.licence.clone()).filter(|licence| !licence.is_empty()),
        ..Meta::default()
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
        visibility: match prepared.private {
            true => Visibility::Private,
            false => Visibility::Sealed,
        },
        keys: None,
        sealed: None,
        files,
        parameters: BTreeMap::new(),
        head: String::new(),
        created,
    }
}

/// The record as it goes through the gateway: of a private revision all that it says is sealed.
fn covered(record: ModelRecord, at: (&DatasetId, u32), secret: &EpochSecret) -> Result<ModelRecord> {
    if record.visibility != Visibility::Private {
        return Ok(record);
    }
    let text = json(&record)?.to_string();
    Ok(record.covered(seal_beside(secret, at, &record.about(), &text)?))
}

/// Refuses a revision whose record no node would take: it is posted last, after everything is uploaded and paid for.
fn check_record(
    model: &str,
    card: &Card,
    (prepared, secret): (&Prepared, &EpochSecret),
    listed: &[RecordFile],
) -> Result<()> {
    // As long as the signed one will be.
    let (commit, head) = ("0".repeat(40), "0".repeat(64));
    let parameters = ["BF16", "F32"].map(|name| (name.to_owned(), u64::MAX));
    let record = ModelRecord {
        head,
        parameters: parameters.into(),
        ..record(model, card, prepared, listed.to_vec(), commit, now())
    };
    let covered = covered(record, (&prepared.dataset_id, prepared.epoch), secret)?;
    let sealed = covered.sealed.as_ref().map_or(0, String::len) as u64;
    // What is sealed has a limit of its own, by which the owner's machine goes when it signs.
    let limits = [(post_size(&covered)?, MAX_INLINE), (sealed, SEALED_MAX as u64)];
    match limits.into_iter().find(|(bytes, limit)| bytes > limit) {
        None => Ok(()),
        Some((bytes, limit)) => Err(BrokerError::RecordSize {
            files: listed.len(),
            bytes,
            limit,
        }),
    }
}

fn request(reason: impl Into<String>) -> BrokerError {
    BrokerError::Request {
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use alephlab_vault::Bounds;

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
        let all = Reach::default();
        check("digits", &[file("a", &good)], &all).unwrap();
        let refused = |model: &str, files: &[PublishFile]| check(model, files, &all).unwrap_err().to_string();
        assert!(refused("a/b", &[file("a", &good)]).contains("`a/b`"));
        assert!(refused("digits", &[]).contains("not 0"));
        assert!(refused("digits", &[file("../a", &good)]).contains("`../a`"));
        assert!(refused("digits", &[file("readme.md", &good)]).contains("`readme.md`"));
        assert!(refused("digits", &[file("a", &good), file("a", &good)]).contains("twice"));
        assert!(refused("digits", &[file("a", folder.path())]).contains("is not a file"));
        assert!(refused("digits", &[file("a", &link)]).contains("is not a file"));
        assert!(refused("digits", &[file("a", Path::new("a"))]).contains("is not a file"));
        // Elsewhere it is not told whether it is there.
        let elsewhere = tempfile::tempdir().unwrap();
        let reach = Reach::within(Bounds {
            shown: vec![elsewhere.path().to_owned()],
            ..Bounds::default()
        });
        for path in [&good, &folder.path().join("nothing")] {
            let error = check("digits", &[file("a", path)], &reach)
                .unwrap_err()
                .to_string();
            assert!(error.contains("sandbox"), "{error}");
        }
    }

    #[test]
    fn a_private_record_that_is_let_through_is_one_that_can_be_signed() {
        let prepared = Prepared {
            owner: "0x1111111111111111111111111111111111111111".parse().unwrap(),
            dataset_id: "00".repeat(32).parse().unwrap(),
            id_random: [0; 16],
            version: 1,
            prev: [0; 32],
            epoch: 1,
            reader_key: alephlab_vault::ReaderKey::generate().unwrap().public(),
            model_uuid: uuid::Uuid::nil(),
            ticket: None,
            private: true,
        };
        let secret = EpochSecret::generate().unwrap();
        let mut refused = 0;
        for files in (600..1300).step_by(10) {
            let listed = |number: usize| RecordFile {
                path: format!("weights/{number:08}"),
                size: 1,
                sha256: "0".repeat(64),
            };
            let listed: Vec<RecordFile> = (0..files).map(listed).collect();
            let card = Card::default();
            match check_record("digits", &card, (&prepared, &secret), &listed) {
                Ok(()) => {
                    let commit = "0".repeat(40);
                    let record = ModelRecord {
                        head: "0".repeat(64),
                        ..record("digits", &card, &prepared, listed, commit, 1)
                    };
                    covered(record, (&prepared.dataset_id, 1), &secret)
                        .unwrap()
                        .check()
                        .unwrap();
                }
                Err(error) => {
                    assert_eq!(error.code(), "broker_record_size");
                    refused += 1;
                }
            }
        }
        assert!((1..70).contains(&refused), "{refused}");
    }

    #[test]
    fn the_record_says_size_and_hash_of_every_file_and_of_the_card() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, "abc").unwrap();
        let listed = hashed("x".to_owned(), &path, &Reach::default()).unwrap();
        assert_eq!(listed.size, 3);
        assert_eq!(
            listed.sha256,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(sources(&Card::default(), &[file("x", &path)]).len(), 2);
    }
}
