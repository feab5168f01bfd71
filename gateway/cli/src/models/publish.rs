//! Publishing a revision from this machine: sealed, uploaded, its record signed and posted, the gateway told. The vault's
//! journal lets one that was cut go on; the books have what was published.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use alephlab_api::Card;
use alephlab_api::model::{
    KEYS_MAX, MODEL_RECORD_TYPE, ModelRecord, RecordFile, Visibility, WeightCount, is_name, private_uuid,
    weight_files,
};
use alephlab_api::time::unix_now;
use alephlab_gateway::reading;
use alephlab_vault::message::{SignedMessage, sign_post, sign_store};
use alephlab_vault::{
    DatasetId, Keys, Meta, Progress, PutRevision, Reader, SealedRevision, Sealing, Source, SourceFile,
    find_head, narrow, register_reader_key, seal_revision,
};
use bytes::Bytes;
use uuid::Uuid;

use super::index::Model;
use super::ledger::book_of;
use super::open::Opened;
use super::private::Secret;
use super::pull::{hash, stopped};
use super::{Registry, refuse, vault};
use crate::error::{CliError, Result};

const WHAT: &str = "the model was not published";

/// Where the bytes of one file of a revision to be come from.
#[derive(Clone)]
pub(crate) enum Origin {
    /// A file of this machine.
    File(PathBuf),
    /// Memory.
    Bytes(Bytes),
    /// The revision before, where it has this path.
    Kept(String),
    /// A revision of another model, where it has this path.
    Sealed(Arc<Opened>, String),
}

/// A revision to be.
#[derive(Clone, Default)]
pub(crate) struct New {
    /// Plain name.
    pub(crate) name: String,
    /// All of its files by path.
    pub(crate) files: Vec<(String, Origin)>,
    /// The same with sizes and hashes, sorted, where those are known already.
    pub(crate) known: Option<Vec<RecordFile>>,
    /// What is said about it; what was said before where nothing is.
    pub(crate) card: Option<Card>,
    /// Who may open it; as before where nothing is said, and sealed at first.
    pub(crate) visibility: Option<Visibility>,
    /// Takes over no object of an earlier revision: whoever could open those opens nothing of this one.
    pub(crate) anew: bool,
}

/// A revision that is published.
pub(crate) struct Published {
    /// What was signed.
    pub(crate) record: Arc<ModelRecord>,
    /// Item hash of the record's message.
    pub(crate) message: String,
    /// The newest revision was exactly this already: nothing was published.
    pub(crate) unchanged: bool,
    /// Bytes that were uploaded.
    pub(crate) uploaded: u64,
    /// Why no gateway was told of it; it is published all the same.
    pub(crate) untold: Option<CliError>,
}

/// Is told bytes done and in all, and what is done.
pub(crate) type Shown<'a> = &'a (dyn Fn(u64, u64, &str) + Send + Sync);

impl Registry {
    /// Publishes the next revision of an own model, or its first.
    ///
    /// # Errors
    /// When it cannot be sealed, stored or signed. What was stored until then is not stored again by the next call with the
    /// same files; what was signed is posted by it.
    pub(crate) async fn publish(&self, new: New, shown: Shown<'_>) -> Result<Published> {
        check(&new)?;
        let mut model = self.own_model(&new.name).await?;
        // Also where another machine has made it private: what this one has signed in the clear is not shown then.
        let stays_private = new.visibility.is_none() && model.stays_private();
        let wanted = stays_private.then_some(Visibility::Private).or(new.visibility);
        if self.settle(&new.name, wanted).await? {
            model = self.own_model(&new.name).await?;
        }
        let new = new.fit(&model, &self.account.address())?;
        if let Some(published) = self.unchanged(&new, &model, shown).await? {
            return Ok(published);
        }
        register_reader_key(&*self.storage, self.account.wallet(), self.account.reader())
            .await
            .map_err(vault(WHAT))?;
        let visibility = self.visibility(&new, &model)?;
        let entry = self.entry(&new.name, &model).await?;
        let id: DatasetId = entry.dataset_id.parse().map_err(vault(WHAT))?;
        let previous = find_head(&*self.storage, &self.account.address(), &id).await;
        let previous = previous.map_err(vault(WHAT))?;
        let follows = previous.as_ref().map(|(head, _)| head.revision());
        let put = PutRevision {
            files: sources(&self.kept_from(&new.files, &model, follows.as_deref()).await?),
            // A model has no time and no title: its record says what it is.
            meta: Meta::default(),
            previous,
            id_random: id_random(&entry.id_random)?,
            obj_log2: None,
            carry_grants: true,
            always: true,
            anew: new.anew,
            journal: Some(self.account.model_journal(&new.name)?),
            known: None,
        };
        let told = |step: Progress| shown(step.done, step.total, step.phase);
        let (wallet, key) = (self.account.wallet(), self.account.reader());
        let sealing = seal_revision(self.storage.clone(), wallet, key, put, &told).await;
        let sealed = match sealing.map_err(vault(WHAT))? {
            Sealing::Sealed(sealed) => sealed,
            Sealing::Unchanged(_) => {
                return Err(refuse(
                    "unchanged",
                    format!("{} was published from somewhere else meanwhile", new.name),
                    "publish again",
                ));
            }
        };
        let record = self
            .record(&new, &model, (entry.uuid, visibility), &sealed)
            .await?;
        let is_private = record.visibility == Visibility::Private;
        let key = Secret::of(sealed.head(), sealed.secret());
        let posted = match is_private {
            true => key.cover(&record)?,
            false => record.clone(),
        };
        let content = serde_json::to_value(&posted)
            .map_err(|error| refuse("keys_json", error.to_string(), "report this"))?;
        let message = sign_post(wallet, MODEL_RECORD_TYPE, content, None).map_err(vault(WHAT))?;
        let uploaded = sealed.sealed_bytes();
        self.announce(&new.name, *sealed, (&message, is_private), &told)
            .await?;
        let message = message.item_hash();
        let mut untold = self.tell(&message).await;
        if is_private {
            untold = self.hide(&new.name).await?.or(untold);
            self.carry_tags(&new.name, &record, &key).await?;
        }
        Ok(Published {
            record: Arc::new(record),
            message,
            unchanged: false,
            uploaded,
            untold,
        })
    }

    /// An own model by the newest messages.
    async fn own_model(&self, name: &str) -> Result<Model> {
        let models = self.index.fresh(&self.account.address()).await?;
        Ok(models.get(name).cloned().unwrap_or_default())
    }

    /// The files with those that are kept being of the newest revision that stands, also where the one before is another, which
    /// was withdrawn: the vault keeps what the one before has.
    async fn kept_from(
        &self,
        files: &[(String, Origin)],
        model: &Model,
        before: Option<&str>,
    ) -> Result<Vec<(String, Origin)>> {
        let newest = model.newest().map(|newest| &newest.record);
        let is_kept = |(_, origin): &(String, Origin)| matches!(origin, Origin::Kept(_));
        let Some(newest) = newest.filter(|newest| Some(newest.commit.as_str()) != before) else {
            return Ok(files.to_vec());
        };
        if !files.iter().any(is_kept) {
            return Ok(files.to_vec());
        }
        let opened = self.open_or_refuse(newest).await?;
        let of = |(path, origin): &(String, Origin)| match origin {
            Origin::Kept(from) => (path.clone(), Origin::Sealed(Arc::clone(&opened), from.clone())),
            other => (path.clone(), other.clone()),
        };
        Ok(files.iter().map(of).collect())
    }

    /// The newest revision, if it is what is to be published.
    async fn unchanged(&self, new: &New, model: &Model, shown: Shown<'_>) -> Result<Option<Published>> {
        let Some(newest) = model.newest().filter(|_| !new.anew) else {
            return Ok(None);
        };
        let record = &newest.record;
        let says_another = new.card.as_ref().is_some_and(|card| *card != record.card)
            || new
                .visibility
                .is_some_and(|visibility| visibility != record.visibility);
        if says_another || !same_files(new, &record.files, shown).await? {
            return Ok(None);
        }
        let mut untold = self.tell(&newest.message).await;
        if record.visibility == Visibility::Private {
            // It was to be done when the revision was published, and perhaps was not.
            untold = self.hide(&new.name).await?.or(untold);
            if let Some(secret) = self.index.secret(&record.commit) {
                self.carry_tags(&new.name, record, &secret).await?;
            }
        }
        Ok(Some(Published {
            record: Arc::clone(record),
            message: newest.message.clone(),
            unchanged: true,
            uploaded: 0,
            untold,
        }))
    }

    /// Who may open the next revision where nothing is said: who could open the last; what was private stays so, also where all of
    /// it is withdrawn.
    pub(crate) async fn next_visibility(&self, name: &str) -> Result<Visibility> {
        let model = self.own_model(name).await?;
        self.visibility(
            &New {
                name: name.to_owned(),
                ..New::default()
            },
            &model,
        )
    }

    fn visibility(&self, new: &New, model: &Model) -> Result<Visibility> {
        if let Some(visibility) = new.visibility {
            return Ok(visibility);
        }
        let books = self.books.models()?;
        let book = books
            .get(&new.name)
            .and_then(|entry| Some((entry.uuid, entry.revisions.last()?)));
        // The books may be behind what another machine has made of the model since.
        let is_new = |commit: &str| model.ever().all(|one| one.record.commit != commit);
        if model.stays_private() || book.is_some_and(|(_, last)| last.private && is_new(&last.revision)) {
            return Ok(Visibility::Private);
        }
        let known = model.uuid().or(book.map(|(uuid, _)| uuid));
        self.index.check_clear(&new.name, known)?;
        let before = model.newest().map(|newest| newest.record.visibility);
        Ok(before.unwrap_or_default())
    }

    /// What is said of a sealed revision; in public, unless it is private.
    async fn record(
        &self,
        new: &New,
        model: &Model,
        (uuid, visibility): (Uuid, Visibility),
        sealed: &SealedRevision,
    ) -> Result<ModelRecord> {
        let before = model.newest().map(|newest| &newest.record);
        let keys = Keys::Epoch(sealed.secret().duplicate());
        let reader = Reader::open(self.storage.clone(), sealed.head(), keys).await;
        let reader = reader.map_err(vault(WHAT))?;
        let public = match visibility {
            Visibility::Public => Some(self.public_keys(&reader, &sealed.head_message()).await?),
            Visibility::Sealed | Visibility::Private => None,
        };
        let files = reading::files(&reader);
        if new.known.as_ref().is_some_and(|known| *known != files) {
            return Err(refuse(
                "files_changed",
                format!("the files of {} changed while they were sealed", new.name),
                "publish again",
            ));
        }
        let parameters = parameters(new, &files, &reader).await?;
        let owner = self.account.address();
        let card = new.card.clone().or(before.map(|before| before.card.clone()));
        let record = ModelRecord {
            name: format!("{owner}/{}", new.name),
            owner,
            uuid,
            commit: sealed.revision(),
            parent: before.map(|before| before.commit.clone()),
            tags: Vec::new(),
            card: card.unwrap_or_default(),
            price: "free".to_owned(),
            visibility,
            keys: public,
            sealed: None,
            files,
            parameters,
            head: sealed.head_message(),
            // What was made until then is withdrawn, and this is not meant.
            created: unix_now().max(model.withdrawn_until.saturating_add(1)),
        };
        // A private one is checked when it is sealed.
        if visibility != Visibility::Private {
            record.check().map_err(|problem| CliError::Refused { problem })?;
        }
        Ok(record)
    }

    /// Keys of exactly this revision, for anyone. The manifest root that they open is stored.
    async fn public_keys(&self, reader: &Reader, head_message: &str) -> Result<String> {
        let (keys, root) = narrow(reader, head_message).map_err(vault(WHAT))?;
        let text = keys.to_public();
        if text.len() > KEYS_MAX {
            return Err(refuse(
                "too_many_objects",
                "the keys of this revision are too many for a public record",
                "publish it sealed and share it, or publish its parts as models of their own",
            ));
        }
        let (hash, size) = (root.item_hash(), root.bytes.len() as u64);
        let store = sign_store(self.account.wallet(), &hash, size).map_err(vault(WHAT))?;
        self.storage.put(root.bytes, &store).await.map_err(vault(WHAT))?;
        Ok(text)
    }

    /// Posts grants, record and head, and writes the revision down.
    async fn announce(
        &self,
        name: &str,
        sealed: SealedRevision,
        (record, is_private): (&SignedMessage, bool),
        told: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<()> {
        // Kernels publish the same models by way of the books: one of both at a time.
        let lock = self.books.lock_publish().await?;
        self.stays_next(name, &sealed)?;
        let posted = sealed
            .publish(&*self.storage, std::slice::from_ref(record), told)
            .await;
        posted.map_err(vault(WHAT))?;
        let revision = book_of(
            sealed.head(),
            &sealed.head_message(),
            &record.item_hash(),
            is_private,
        );
        self.write_down(&lock, name, revision)?;
        self.index.forget(&self.account.address());
        sealed.done().map_err(vault(WHAT))
    }

    /// Tells the gateway of a record; what it says against that, if it does.
    pub(super) async fn tell(&self, message: &str) -> Option<CliError> {
        match self.gateway() {
            Ok(gateway) => gateway.add_model(message).await.err().map(CliError::from),
            Err(error) => Some(error),
        }
    }
}

/// Numbers in the weights by type; none where a header cannot be read, which is other checks' business.
async fn parameters(new: &New, files: &[RecordFile], reader: &Reader) -> Result<BTreeMap<String, u64>> {
    let mut count = WeightCount::default();
    for file in weight_files(files) {
        let origin = new.files.iter().find(|(path, _)| *path == file.path);
        let counted = match origin.map(|(_, origin)| origin) {
            Some(Origin::File(place)) => {
                let opened =
                    std::fs::File::open(place).map_err(|source| CliError::file("read", place, source))?;
                count
                    .add(&mut std::io::BufReader::new(opened), file.size)
                    .then_some(count)
            }
            Some(Origin::Bytes(bytes)) => count.add(&mut &bytes[..], file.size).then_some(count),
            Some(Origin::Kept(_) | Origin::Sealed(..)) | None => {
                reading::counted(reader, file, count).await.map_err(vault(WHAT))?
            }
        };
        match counted {
            Some(more) => count = more,
            None => return Ok(BTreeMap::new()),
        }
    }
    Ok(count.end())
}

fn check(new: &New) -> Result<()> {
    let usage = |message: String, hint: &str| CliError::Usage {
        message,
        hint: hint.to_owned(),
    };
    if !is_name(&new.name) || private_uuid(&new.name).is_some() {
        return Err(usage(
            format!("{:?} cannot be the name of a model", new.name),
            "use at most 96 letters, digits, dots, hyphens and underscores",
        ));
    }
    if new.files.is_empty() {
        return Err(usage(
            "a revision needs files, and there are none".to_owned(),
            "name a folder with files, or files",
        ));
    }
    Ok(())
}

fn id_random(text: &str) -> Result<[u8; 16]> {
    let bytes = hex::decode(text).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| {
        refuse(
            "books_malformed",
            "the books of models have an id that is none",
            "restore accounts/NAME/models.json",
        )
    })
}

/// What the vault seals.
fn sources(files: &[(String, Origin)]) -> Vec<SourceFile> {
    let source = |(path, origin): &(String, Origin)| match origin {
        Origin::File(place) => SourceFile::file(path, place),
        Origin::Bytes(bytes) => SourceFile::bytes(path, bytes.clone()),
        Origin::Kept(from) => SourceFile::kept_as(path, from),
        Origin::Sealed(opened, from) => SourceFile {
            source: Source::Sealed {
                reader: opened.reader.clone(),
                path: from.clone(),
            },
            ..SourceFile::bytes(path, Bytes::new())
        },
    };
    let mut sources: Vec<SourceFile> = files.iter().map(source).collect();
    sources.sort_by(|one, two| one.path.cmp(&two.path));
    sources
}

/// Whether the files to be published are exactly those. Reads files only where their names and sizes are the same.
async fn same_files(new: &New, before: &[RecordFile], shown: Shown<'_>) -> Result<bool> {
    if let Some(known) = &new.known {
        return Ok(known == before);
    }
    let before: BTreeMap<String, RecordFile> = before
        .iter()
        .map(|file| (file.path.clone(), file.clone()))
        .collect();
    if before.len() != new.files.len() {
        return Ok(false);
    }
    let total: u64 = before.values().map(|file| file.size).sum();
    shown(0, total, "compare");
    let files = new.files.clone();
    let compared = tokio::task::spawn_blocking(move || {
        let size_of = |origin: &Origin, old: &RecordFile| match origin {
            Origin::File(place) => std::fs::metadata(place)
                .map(|meta| meta.len())
                .unwrap_or(u64::MAX),
            Origin::Bytes(bytes) => bytes.len() as u64,
            Origin::Kept(_) | Origin::Sealed(..) => old.size,
        };
        let alike = |(path, origin): &(String, Origin)| {
            before
                .get(path)
                .is_some_and(|old| size_of(origin, old) == old.size)
        };
        if !files.iter().all(alike) {
            return Ok(false);
        }
        for (path, origin) in &files {
            let Some(old) = before.get(path) else {
                return Ok(false);
            };
            let is_same = match origin {
                Origin::File(place) => hex::encode(sha2::Digest::finalize(hash(place)?.1)) == old.sha256,
                Origin::Bytes(bytes) => {
                    hex::encode(<sha2::Sha256 as sha2::Digest>::digest(bytes)) == old.sha256
                }
                Origin::Kept(from) => before.get(from).is_some_and(|from| from.sha256 == old.sha256),
                Origin::Sealed(opened, from) => {
                    let entry = opened.reader.entry(from);
                    entry.is_some_and(|entry| hex::encode(entry.sha256) == old.sha256)
                }
            };
            if !is_same {
                return Ok(false);
            }
        }
        Ok(true)
    });
    compared.await.map_err(|error| stopped(&error))?
}
