//! Publishing a revision of a model from the owner's machine, in two steps, because its public record names the head and
//! must be posted before it: a head alone is taken for a dataset's.
//!
//! [`seal_revision`] seals and uploads what is new and signs the head, and posts nothing. The caller makes the record and has
//! [`SealedRevision::publish`] post grants, record and head, in this order. With a journal each step can be repeated after a
//! crash: the same files give the same head, and what was signed to be posted is posted, never replaced.

use crate::announce::{check_next, messages};
use crate::dataset::{
    Plan, Progress, PutOutcome, newest, open_own, says_the_same, settled, stopped, unchanged, upload,
};
use crate::draw::Draw;
use crate::head::SignedHead;
use crate::journal::Journal;
use crate::keys::{Address, EpochSecret, dataset_id};
use crate::manifest::Meta;
use crate::message::SignedMessage;
use crate::reader::Reader;
use crate::readerkey::ReaderKey;
use crate::reuse::Unchanged;
use crate::seal::{DEFAULT_OBJ_LOG2, SealParams, SealedTree};
use crate::sharing::{grants_of, next_readers};
use crate::source::SourceFile;
use crate::storage::Storage;
use crate::taken::{HeadEpochs, Taken, head_epochs};
use crate::wallet::Wallet;
use crate::{Known, Result, VaultError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is to be published of a model.
pub struct PutRevision {
    /// All files of the revision; those that stay may be [`SourceFile::kept`].
    pub files: Vec<SourceFile>,
    /// What the manifest says of the model. A model's has no time: that tells it from a dataset's.
    pub meta: Meta,
    /// The revision before, from [`crate::find_head`].
    pub previous: Option<(SignedHead, String)>,
    /// Of a first revision: what the model's id is made of.
    pub id_random: [u8; 16],
    /// Of a first revision: log2 of an object's capacity in bytes, 20 to 26, when it is not to be [`DEFAULT_OBJ_LOG2`].
    pub obj_log2: Option<u8>,
    /// Whoever was granted the revision before is granted this one too; otherwise the owner alone.
    pub carry_grants: bool,
    /// Publish a revision also when nothing changed.
    pub always: bool,
    /// Take over no object of an earlier revision: whoever kept keys of those opens nothing of this one.
    pub anew: bool,
    /// File of this publishing, on the owner's machine: with it one that was cut goes on. It holds secrets.
    pub journal: Option<PathBuf>,
    /// Told the model's id before anything of it is stored.
    pub known: Option<Known>,
}

/// What [`seal_revision`] gave.
#[derive(Debug)]
pub enum Sealing {
    /// The revision before is exactly this; nothing is to be published.
    Unchanged(Box<PutOutcome>),
    /// All objects are stored; the record is to be made, and all is to be posted.
    Sealed(Box<SealedRevision>),
}

/// A revision that was signed in an earlier call and whose messages are now all posted.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Its head.
    pub head: SignedHead,
    /// Item hash of the head's POST.
    pub head_message: String,
    /// Grants, record and head, as they were posted.
    pub messages: Vec<SignedMessage>,
}

/// A revision whose objects are stored and whose head is signed. Nothing of it is posted.
pub struct SealedRevision {
    head: SignedHead,
    secret: EpochSecret,
    /// Grants and, last, the head.
    messages: Vec<SignedMessage>,
    tree: SealedTree,
    without_key: Vec<Address>,
    journal: Option<Journal>,
    /// An earlier revision that was signed and not known to be posted, and is now.
    pub finished: Option<Finished>,
}

impl std::fmt::Debug for SealedRevision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedRevision")
            .field("revision", &self.revision())
            .finish_non_exhaustive()
    }
}

/// Posts what an earlier call has signed to be posted, if there is such; may be repeated. To be called before anything else
/// is done with the model. The journal stays until the next revision is begun, so that its caller can write down first what
/// was published.
///
/// # Errors
/// `E_STOPPED` when another process publishes this model; those of storage; `E_IO`.
pub async fn finish_revision(storage: &dyn Storage, journal: &Path) -> Result<Option<Finished>> {
    if !journal.exists() {
        return Ok(None);
    }
    let journal = Journal::open(journal)?;
    let Some((signed, _)) = journal.signed() else {
        return Ok(None);
    };
    let owner = signed.head.owner.to_string();
    let found = crate::find_head(storage, &owner, &signed.head.dataset_id).await?;
    let posted = newest(storage, Some(&journal), found).await?;
    Ok(finished(&journal, posted.as_ref()))
}

/// What is to become of messages that were signed and may not be posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// Nothing of them is on the network: they can be forgotten.
    Nothing,
    /// Others are, and that which is meant is not.
    Others,
    /// That which is meant is there: it can only be gone on from.
    Meant,
}

impl Begun {
    /// Looks for them on the network.
    ///
    /// # Errors
    /// Those of storage.
    pub async fn of(
        storage: &dyn Storage,
        messages: &[SignedMessage],
        is_meant: &(dyn Fn(&SignedMessage) -> bool + Sync),
    ) -> Result<Self> {
        let mut begun = Self::Nothing;
        for message in messages {
            // Also what a node has and has not looked at yet: it comes by itself.
            if storage.knows(&message.item_hash()).await? {
                if is_meant(message) {
                    return Ok(Self::Meant);
                }
                begun = Self::Others;
            }
        }
        Ok(begun)
    }
}

/// Forgets what an earlier call has signed to be posted, where a message of it `is_meant` and nothing of it is on the network yet.
/// None where nothing is meant.
///
/// # Errors
/// As [`finish_revision`].
pub async fn forget_revision(
    storage: &dyn Storage,
    journal: &Path,
    is_meant: &(dyn Fn(&SignedMessage) -> bool + Sync),
) -> Result<Option<Begun>> {
    if !journal.exists() {
        return Ok(None);
    }
    let journal = Journal::open(journal)?;
    let signed = journal.signed();
    let Some((_, messages)) = signed.filter(|(_, messages)| messages.iter().any(is_meant)) else {
        return Ok(None);
    };
    let begun = Begun::of(storage, &messages, is_meant).await?;
    if begun == Begun::Nothing {
        journal.finish()?;
    }
    Ok(Some(begun))
}

fn finished(journal: &Journal, posted: Option<&(SignedHead, String)>) -> Option<Finished> {
    let (head, messages) = journal.signed()?;
    let (_, head_message) = posted.filter(|(found, _)| found.hash() == head.hash())?;
    Some(Finished {
        head,
        head_message: head_message.clone(),
        messages,
    })
}

/// Seals what is new of a revision, uploads it and signs its head. Posts nothing of it; an earlier revision that was signed to
/// be posted is posted first.
///
/// # Errors
/// Those of sealing and storage; `E_GRANT_OPEN` when the revision before is not this wallet's and reader key's;
/// `E_NOT_FOUND` for a file that is kept and was not there.
pub async fn seal_revision(
    storage: Arc<dyn Storage>,
    wallet: &Wallet,
    reader_key: &ReaderKey,
    put: PutRevision,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Sealing> {
    let journal = put.journal.as_deref().map(Journal::open).transpose()?;
    let previous = newest(&*storage, journal.as_ref(), put.previous).await?;
    let finished = journal
        .as_ref()
        .and_then(|journal| finished(journal, previous.as_ref()));
    let known = put.known;
    let asked = Asked {
        meta: put.meta,
        id_random: put.id_random,
        obj_log2: put.obj_log2.unwrap_or(DEFAULT_OBJ_LOG2),
        carry_grants: put.carry_grants,
    };
    let (files, total, mut plan, without_key) = match previous {
        None => asked.first(&*storage, wallet, reader_key, put.files).await?,
        Some((head, message)) => {
            let (reader, _) = open_own(&storage, reader_key, &head).await?;
            let (files, total) = settled(put.files, Some(&reader))?;
            progress(step("compare", 0, total, "bytes"));
            // Without the chain of heads nothing is taken over.
            let heads = match put.anew {
                true => None,
                false => head_epochs(&*storage, &head).await?,
            };
            let (files, taken) = compare(&reader, heads, files, reader_key).await?;
            let is_same = taken.is_whole() && says_the_same(&asked.meta, reader.meta());
            if is_same && !put.always {
                journal.as_ref().map_or(Ok(()), Journal::finish)?;
                return Ok(Sealing::Unchanged(Box::new(unchanged(&reader, message))));
            }
            let (plan, without) = asked.next(&*storage, wallet, reader_key, &reader, taken).await?;
            (files, total, plan, without)
        }
    };
    let id = plan.params.dataset_id;
    plan.go_on(wallet, journal.as_ref())?;
    if plan.params.dataset_id != id {
        return Err(VaultError::Stopped {
            reason: "the journal is that of another model".into(),
        });
    }
    known.as_ref().map_or(Ok(()), |known| known(&id))?;
    let (plan, tree) = upload(
        &*storage,
        wallet,
        files,
        plan,
        (total, journal.as_ref()),
        progress,
    )
    .await?;
    let (head, messages) = sign(&*storage, wallet, (&plan, &tree), journal.as_ref()).await?;
    Ok(Sealing::Sealed(Box::new(SealedRevision {
        head,
        secret: plan.secret,
        messages,
        tree,
        without_key,
        journal,
        finished,
    })))
}

/// What is asked of a revision, its files apart.
struct Asked {
    meta: Meta,
    id_random: [u8; 16],
    obj_log2: u8,
    carry_grants: bool,
}

impl Asked {
    /// Files, the sum of their sizes, the plan, and who could not be granted it.
    async fn first(
        self,
        storage: &dyn Storage,
        wallet: &Wallet,
        reader_key: &ReaderKey,
        files: Vec<SourceFile>,
    ) -> Result<(Vec<SourceFile>, u64, Plan, Vec<Address>)> {
        let (files, total) = settled(files, None)?;
        let owner = wallet.owner();
        let (readers, without) = next_readers(storage, owner, reader_key, &[], 0, None).await?;
        let mut plan = Plan::first(wallet, readers, self.meta)?;
        plan.id_random = self.id_random;
        plan.params.dataset_id = dataset_id(&owner, &self.id_random);
        plan.params.obj_log2 = self.obj_log2;
        plan.taken = Some(Taken::nothing(reader_key.dedup_key(&plan.params.dataset_id)));
        Ok((files, total, plan, without))
    }

    /// The plan after `reader`'s revision, and who could not be granted it.
    async fn next(
        self,
        storage: &dyn Storage,
        wallet: &Wallet,
        reader_key: &ReaderKey,
        reader: &Reader,
        taken: Taken,
    ) -> Result<(Plan, Vec<Address>)> {
        let before = reader.head();
        let (grants, epoch) = match self.carry_grants {
            true => (grants_of(storage, before).await?, before.head.epoch),
            false => (Vec::new(), 0),
        };
        let (readers, without) =
            next_readers(storage, wallet.owner(), reader_key, &grants, epoch, None).await?;
        let plan = Plan {
            params: SealParams {
                dataset_id: before.head.dataset_id,
                version: before.head.version + 1,
                epoch: taken.base(),
                obj_log2: reader.obj_log2(),
                meta: self.meta,
            },
            secret: EpochSecret::generate()?,
            unchanged: Unchanged::default(),
            taken: Some(taken),
            readers,
            draw: Draw::Fresh,
            prev: before.hash(),
            id_random: before.head.id_random,
        };
        Ok((plan, without))
    }
}

impl SealedRevision {
    /// The signed head, which no node has yet.
    pub fn head(&self) -> &SignedHead {
        &self.head
    }

    /// The revision's name, 40 hex digits.
    pub fn revision(&self) -> String {
        self.head.revision()
    }

    /// Item hash that the head's POST will have: what the record names.
    pub fn head_message(&self) -> String {
        self.messages
            .last()
            .map(SignedMessage::item_hash)
            .unwrap_or_default()
    }

    /// The secret of the head's epoch, with which the revision opens: for the keys of a public one, and for grants.
    pub fn secret(&self) -> &EpochSecret {
        &self.secret
    }

    /// Bytes that were sealed, and so stored, for this revision.
    pub fn sealed_bytes(&self) -> u64 {
        self.tree.sealed_bytes
    }

    /// Posts the grants, then `records`, and last the head. After a failure it may be called again; another process goes on
    /// with [`finish_revision`].
    ///
    /// # Errors
    /// `E_STOPPED` when another head took this place meanwhile, `E_IO`, those of storage.
    pub async fn publish(
        &self,
        storage: &dyn Storage,
        records: &[SignedMessage],
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<PutOutcome> {
        let signed = self.journal.as_ref().and_then(Journal::signed);
        let messages = match signed {
            Some((_, messages)) => messages,
            None => {
                check_next(storage, &self.head).await?;
                let (head, grants) = self.messages.split_last().ok_or_else(|| VaultError::Stopped {
                    reason: "there is no head".into(),
                })?;
                let mut all = grants.to_vec();
                all.extend_from_slice(records);
                all.push(head.clone());
                // From here on it is these messages, whoever goes on.
                self.journal
                    .as_ref()
                    .map_or(Ok(()), |journal| journal.last(&all))?;
                all
            }
        };
        let total = messages.len() as u64;
        progress(step("sign", 0, total, "messages"));
        for (message, done) in messages.iter().zip(1..) {
            storage.publish(message).await?;
            progress(step("sign", done, total, "messages"));
        }
        Ok(self.outcome())
    }

    /// Removes the journal: the caller has written down what was published.
    ///
    /// # Errors
    /// `E_IO`.
    pub fn done(self) -> Result<()> {
        self.journal.as_ref().map_or(Ok(()), Journal::finish)
    }

    fn outcome(&self) -> PutOutcome {
        PutOutcome {
            dataset_id: self.head.head.dataset_id,
            version: self.head.head.version,
            head_message: self.head_message(),
            head_hash: self.head.hash(),
            head: self.head.clone(),
            files: self.tree.files,
            bytes: self.tree.bytes,
            uploaded: self.tree.sealed_bytes,
            unchanged: false,
            without_key: self.without_key.clone(),
        }
    }
}

async fn compare(
    reader: &Reader,
    heads: HeadEpochs,
    files: Vec<SourceFile>,
    key: &ReaderKey,
) -> Result<(Vec<SourceFile>, Taken)> {
    let (reader, key) = (reader.clone(), key.dedup_key(&reader.head().head.dataset_id));
    let compared = tokio::task::spawn_blocking(move || {
        let taken = Taken::find(&reader, &heads, &files, key)?;
        Ok((files, taken))
    });
    compared.await.map_err(stopped)?
}

/// Grants and head: those of an earlier run when it sealed the same, or new ones.
async fn sign(
    storage: &dyn Storage,
    wallet: &Wallet,
    (plan, tree): (&Plan, &SealedTree),
    journal: Option<&Journal>,
) -> Result<(SignedHead, Vec<SignedMessage>)> {
    let earlier = journal.and_then(Journal::sealed);
    let is_this = |(head, _): &(SignedHead, Vec<SignedMessage>)| {
        let params = &plan.params;
        (head.head.dataset_id, head.head.version, head.head.prev)
            == (params.dataset_id, params.version, plan.prev)
            && head.head.root == tree.root
    };
    if let Some(earlier) = earlier.filter(is_this) {
        return Ok(earlier);
    }
    let head = plan.head(wallet, tree)?;
    check_next(storage, &head).await?;
    let messages = messages(wallet, &head, &plan.secret, &plan.readers)?;
    journal.map_or(Ok(()), |journal| journal.seal(&messages))?;
    Ok((head, messages))
}

fn step(phase: &'static str, done: u64, total: u64, unit: &'static str) -> Progress {
    Progress {
        phase,
        done,
        total,
        unit,
    }
}
