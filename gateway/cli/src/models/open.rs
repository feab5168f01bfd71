//! Opening a revision with what this account has: its own grant, one that the owner made, the keys in a public record, or
//! the token of a share. Opened revisions are kept for a while, few of them, each with one object in memory.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use alephlab_api::Card;
use alephlab_api::client::ClientError;
use alephlab_api::market::ModelTerms;
use alephlab_api::model::{ModelRecord, RecordFile, Visibility, private_uuid};
use alephlab_api::money::{Amount, Asset};
use alephlab_api::time::unix_now;
use alephlab_gateway::reading;
use alephlab_vault::{
    HEAD_POST_TYPE, Keys, ObjectKeys, Reader, SignedHead, VaultError, find_grant, find_release,
};
use uuid::Uuid;

use super::{Model, RECENT, Registry, Revision, refuse, vault};
use crate::error::Result;
use crate::shares;

/// Revisions that are kept open; each may hold one decrypted object, 32 MiB.
const OPEN_MAX: usize = 6;
/// How long one is kept after it was used last. A share counts an opening each time that it is opened.
const IDLE: Duration = Duration::from_secs(600);
/// How long a refusal stands before it is looked for a grant again.
const REFUSED: Duration = Duration::from_secs(3);
/// How long a release that the gateway has seen is waited for here, and how often it is looked for.
const SEEN: Duration = Duration::from_secs(20);
const SEEN_LOOK: Duration = Duration::from_millis(500);
const WHAT: &str = "the model was not opened";

/// Why this account may read a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entitled {
    /// It has published it.
    Owner,
    /// Its owner has granted it to this account.
    Granted,
    /// It has bought it.
    Bought,
    /// Anyone may.
    Public,
    /// This account keeps the token of a share.
    Share,
}

impl Entitled {
    /// For people and JSON.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Owner => "own",
            Self::Granted => "granted",
            Self::Bought => "bought",
            Self::Public => "public",
            Self::Share => "share",
        }
    }
}

/// An open revision.
pub(crate) struct Opened {
    /// `owner/name`.
    pub(crate) model: String,
    /// 40 hex digits.
    pub(crate) revision: String,
    /// What its publisher says, where that is known.
    pub(crate) card: Card,
    /// Paths, sizes and hashes: those of the signed record, which are those of the sealed manifest.
    pub(crate) files: Vec<RecordFile>,
    /// When it was made, unix seconds.
    pub(crate) created: u64,
    /// Why it opens.
    pub(crate) by: Entitled,
    /// Whether only who may open it is to know of it.
    pub(crate) is_private: bool,
    /// Reads and verifies.
    pub(crate) reader: Reader,
}

/// What is open, and what was refused a moment ago.
#[derive(Default)]
pub(super) struct Readers(Mutex<Vec<Kept>>);

struct Kept {
    /// A commit, or the UUID of a share.
    key: String,
    used: Instant,
    /// None where this account may not read it.
    opened: Option<Arc<Opened>>,
}

impl Readers {
    fn get(&self, key: &str) -> Option<Option<Arc<Opened>>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|one| {
            let most = if one.opened.is_some() { IDLE } else { REFUSED };
            one.used.elapsed() < most
        });
        let found = kept.iter_mut().find(|one| one.key == key)?;
        // A share is asked for again after a while, however much it is used: its owner may have ended it.
        if found
            .opened
            .as_ref()
            .is_some_and(|opened| opened.by != Entitled::Share)
        {
            found.used = Instant::now();
        }
        Some(found.opened.clone())
    }

    /// What was refused a moment ago is looked at anew.
    fn forget_refusal(&self, key: &str) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|one| one.key != key || one.opened.is_some());
    }

    fn keep(&self, key: &str, opened: Option<Arc<Opened>>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|one| one.key != key);
        if kept.len() >= OPEN_MAX {
            let oldest = kept.iter().enumerate().min_by_key(|(_, one)| one.used);
            if let Some(at) = oldest.map(|(at, _)| at) {
                kept.remove(at);
            }
        }
        kept.push(Kept {
            key: key.to_owned(),
            used: Instant::now(),
            opened,
        });
    }
}

impl Registry {
    /// Opens a revision; none when this account may not read it.
    ///
    /// # Errors
    /// When it may and the bytes cannot be had, or are not what was signed.
    pub(crate) async fn open(&self, record: &ModelRecord) -> Result<Option<Arc<Opened>>> {
        if let Some(known) = self.readers.get(&record.commit) {
            return Ok(known);
        }
        let opened = self.opened(record).await?.map(Arc::new);
        self.readers.keep(&record.commit, opened.clone());
        Ok(opened)
    }

    /// Opens a revision that this account must be able to read.
    ///
    /// # Errors
    /// As [`Registry::open`], and when it may not.
    pub(crate) async fn open_or_refuse(&self, record: &ModelRecord) -> Result<Arc<Opened>> {
        let opened = self.open(record).await?;
        if let Some(opened) = opened {
            return Ok(opened);
        }
        if let Some(price) = self.price_of(record).await {
            return Err(refuse(
                "not_bought",
                format!("{} costs {}", record.name, price.of(Asset::Aleph)),
                &format!("buy it: alephlab model buy {}@{}", record.name, record.commit),
            ));
        }
        Err(refuse(
            "model_sealed",
            format!(
                "{} at {} is sealed, and not granted to {}",
                record.name,
                record.commit,
                self.account.address()
            ),
            "ask its owner for a grant or a share",
        ))
    }

    /// Opens a revision whose key was released to this account a moment ago, once this machine's node shows it.
    ///
    /// # Errors
    /// As [`Registry::open`]; when it does not for a while, one that names the order.
    pub(crate) async fn open_released(&self, record: &ModelRecord, order: Uuid) -> Result<Arc<Opened>> {
        let started = Instant::now();
        loop {
            // It was asked for before it was bought.
            self.readers.forget_refusal(&record.commit);
            if let Some(opened) = self.open(record).await? {
                return Ok(opened);
            }
            if started.elapsed() > SEEN {
                return Err(refuse(
                    "release_unseen",
                    format!(
                        "the order {order} is paid and its key has gone out, but it does not open here yet"
                    ),
                    "run the same command again in a moment; if it still does not open, the key was made for another machine of \
                     this account: ask the seller for a grant, and name the order",
                ));
            }
            tokio::time::sleep(SEEN_LOOK).await;
        }
    }

    /// What its owner asks for a revision that is not this account's, where this gateway sells it.
    pub(crate) async fn price_of(&self, record: &ModelRecord) -> Option<Amount> {
        let (owner, name) = record.name.split_once('/')?;
        let models = self.index.recent(owner, RECENT).await.ok()?;
        let terms = models.get(name)?.asks()?;
        let price = terms.price?;
        let is_sold = record.visibility == Visibility::Sealed && record.uuid == terms.uuid;
        (is_sold && self.is_here(terms).await).then_some(price)
    }

    /// Whether these terms name the gateway that this machine asks.
    async fn is_here(&self, terms: &ModelTerms) -> bool {
        let Ok(gateway) = self.gateway() else {
            return false;
        };
        let signer = self
            .signer
            .get_or_try_init(async || Ok::<_, ClientError>(gateway.market().await?.gateway));
        signer.await.is_ok_and(|signer| *signer == terms.gateway)
    }

    /// A withdrawn revision that this account has bought: it stays its own. None else.
    pub(crate) async fn bought(&self, model: &Model, commit: &str) -> Result<Option<Revision>> {
        let Some(revision) = model.withdrawn_at(commit) else {
            return Ok(None);
        };
        let head = self.head(&revision.record).await?;
        let (buyer, key) = (self.account.wallet().owner(), self.account.reader());
        let released = find_release(&*self.storage, &head, buyer, key).await;
        let keys = released.map_err(vault("the model was not found"))?;
        Ok(keys.map(|_| revision.clone()))
    }

    async fn opened(&self, record: &ModelRecord) -> Result<Option<Opened>> {
        let head = self.head(record).await?;
        let is_own = head.head.owner == self.account.wallet().owner();
        let (keys, by) = match &record.keys {
            Some(keys) if record.visibility == Visibility::Public && !is_own => (
                Keys::Objects(ObjectKeys::from_public(keys).map_err(vault(WHAT))?),
                Entitled::Public,
            ),
            _ => match find_grant(&*self.storage, &head, self.account.reader()).await {
                Ok(secret) if is_own => (Keys::Epoch(secret), Entitled::Owner),
                Ok(secret) => (Keys::Epoch(secret), Entitled::Granted),
                Err(VaultError::GrantOpen { .. }) => {
                    let (buyer, key) = (self.account.wallet().owner(), self.account.reader());
                    let released = find_release(&*self.storage, &head, buyer, key).await;
                    match released.map_err(vault(WHAT))? {
                        Some(keys) => (Keys::Objects(keys), Entitled::Bought),
                        None => return Ok(None),
                    }
                }
                Err(error) => return Err(vault(WHAT)(error)),
            },
        };
        let reader = reading::open(self.storage.clone(), head, keys).await;
        let reader = reader.map_err(vault(WHAT))?;
        same_files(record, &reader)?;
        Ok(Some(Opened {
            model: record.name.clone(),
            revision: record.commit.clone(),
            card: record.card.clone(),
            files: record.files.clone(),
            created: record.created,
            by,
            is_private: record.visibility == Visibility::Private,
            reader,
        }))
    }

    /// The signed head that a record names, checked against it.
    pub(crate) async fn head(&self, record: &ModelRecord) -> Result<SignedHead> {
        head_of(&*self.storage, record).await
    }

    /// Opens a share whose token this account keeps.
    pub(crate) async fn open_share(&self, share: Uuid) -> Result<Arc<Opened>> {
        let key = share.to_string();
        if let Some(Some(known)) = self.readers.get(&key) {
            return Ok(known);
        }
        let given = shares::open(
            &self.books,
            self.gateway()?,
            self.account.name(),
            share,
            unix_now(),
        )
        .await?;
        let created = given.opened.head.head.created;
        let revision = given.opened.head.revision();
        let keys = Keys::Objects(given.opened.keys);
        let reader = reading::open(self.storage.clone(), given.opened.head, keys).await;
        let reader = reader.map_err(vault(WHAT))?;
        let card = match given.card {
            Some(card) => card,
            None => reading::card(&reader).await.map_err(vault(WHAT))?,
        };
        let opened = Arc::new(Opened {
            is_private: private_uuid(&given.model).is_some(),
            model: given.model,
            revision,
            card,
            files: reading::files(&reader),
            created,
            by: Entitled::Share,
            reader,
        });
        self.readers.keep(&key, Some(Arc::clone(&opened)));
        Ok(opened)
    }
}

/// The signed head that a record names, checked against it.
pub(super) async fn head_of(
    storage: &dyn alephlab_vault::storage::Storage,
    record: &ModelRecord,
) -> Result<SignedHead> {
    let post = storage.post(&record.head).await.map_err(vault(WHAT))?;
    let missing = || {
        let message = format!(
            "the Aleph node does not have the head of {} at {}",
            record.name, record.commit
        );
        refuse(
            "head_missing",
            message,
            "check aleph.url, or try again in a moment",
        )
    };
    let post = post.ok_or_else(missing)?;
    let head = SignedHead::from_post(&post.content).map_err(vault(WHAT))?;
    head.verify().map_err(vault(WHAT))?;
    let fits = post.post_type == HEAD_POST_TYPE
        && head.revision() == record.commit
        && head.head.owner.to_string().eq_ignore_ascii_case(&record.owner);
    match fits {
        true => Ok(head),
        false => Err(refuse(
            "head_mismatch",
            format!(
                "the head that the record of {} names is of another revision",
                record.name
            ),
            "tell its owner",
        )),
    }
}

/// The record names what anybody may know of the files; the sealed manifest must say the same.
fn same_files(record: &ModelRecord, reader: &Reader) -> Result<()> {
    let same = |file: &RecordFile| {
        let entry = reader.entry(&file.path).filter(|entry| entry.is_file());
        entry.is_some_and(|entry| entry.size == file.size && hex::encode(entry.sha256) == file.sha256)
    };
    if reader.files() == record.files.len() as u64 && record.files.iter().all(same) {
        return Ok(());
    }
    Err(refuse(
        "record_mismatch",
        format!(
            "the record of {} at {} names other files than were sealed",
            record.name, record.commit
        ),
        "tell its owner",
    ))
}
