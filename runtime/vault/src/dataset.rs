//! Publishing and finding datasets: seal, upload, grant to oneself, post the head; and the way back. Runs on the
//! owner's or reader's machine, where the keys are.

use crate::announce::{check_next, messages};
use crate::draw::Draw;
use crate::encoding::hex_array;
use crate::find::{find_grant, find_head};
use crate::head::{SignedHead, UnsignedHead};
use crate::journal::Journal;
use crate::keys::{Address, DatasetId, EpochSecret, dataset_id, new_id_random};
use crate::manifest::Meta;
use crate::message::{SignedMessage, sign_store};
use crate::reader::Reader;
use crate::readerkey::ReaderKey;
use crate::reuse::Unchanged;
use crate::ring::Keys;
use crate::seal::{DEFAULT_OBJ_LOG2, Packing, SealParams, SealedObject, SealedTree, seal_with};
use crate::seen::now;
use crate::sharing::{Recipient, Revoke, grants_of, is_spent, next_readers};
use crate::source::SourceFile;
use crate::storage::Storage;
use crate::taken::Taken;
use crate::wallet::Wallet;
use crate::{Result, VaultError};
use futures_util::StreamExt;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use zeroize::Zeroizing;

/// Uploads at a time. Each has an object of 32 MiB in memory twice: the SDK copies it.
const PARALLEL: usize = 1;

/// Objects in memory, the SDK's copies aside: while one is uploaded, the next is filled and sealed. With the copy it is
/// some 100 MB of the 150 that an upload may use.
const IN_MEMORY: usize = PARALLEL + 1;

/// How far a [`put_dataset`] is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// `compare`, `upload` or `sign`.
    pub phase: &'static str,
    /// Units done.
    pub done: u64,
    /// Units in all, as far as known.
    pub total: u64,
    /// `bytes` or `messages`.
    pub unit: &'static str,
}

/// What was published.
#[derive(Clone, Debug)]
pub struct PutOutcome {
    /// The dataset.
    pub dataset_id: DatasetId,
    /// Its current version.
    pub version: u64,
    /// Item hash of the head's POST message.
    pub head_message: String,
    /// SHA-256 of the head.
    pub head_hash: [u8; 32],
    /// The head itself.
    pub head: SignedHead,
    /// Files in it.
    pub files: u64,
    /// Sum of their sizes, bytes.
    pub bytes: u64,
    /// Bytes uploaded.
    pub uploaded: u64,
    /// True when the previous version already was exactly this, so that nothing was published.
    pub unchanged: bool,
    /// Accounts that could read the version before and have registered no key any more: a new secret could not be wrapped
    /// for them.
    pub without_key: Vec<Address>,
}

/// Seals `files`, uploads the objects, posts the owner's own grant and the head. With `previous` (from
/// [`find_head`]) it makes the next version, taking over objects of files that did not change; a tree that says
/// exactly the same publishes nothing. The head is posted last, so that a broken run leaves the old version.
///
/// # Errors
/// Those of sealing and storage; `E_GRANT_OPEN` when `previous` is not this wallet's and reader key's.
pub async fn put_dataset(
    storage: Arc<dyn Storage>,
    wallet: &Wallet,
    reader_key: &ReaderKey,
    files: Vec<SourceFile>,
    meta: Meta,
    previous: Option<(SignedHead, String)>,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<PutOutcome> {
    let put = Put {
        files,
        meta,
        previous,
        journal: None,
        known: None,
    };
    put_resumable(storage, wallet, reader_key, put, progress).await
}

/// Is told a dataset's id.
pub type Known = Box<dyn Fn(&DatasetId) -> Result<()> + Send + Sync>;

/// What is to be put, and where its journal is kept.
pub struct Put {
    /// All files of the version; those that stay may be [`SourceFile::kept`].
    pub files: Vec<SourceFile>,
    /// What the dataset says of itself.
    pub meta: Meta,
    /// The version before, from [`find_head`].
    pub previous: Option<(SignedHead, String)>,
    /// File of this upload, on the owner's machine: with it one that was cut goes on. It holds secrets.
    pub journal: Option<PathBuf>,
    /// Told the dataset's id before anything of it is stored: who writes it down finds an upload that was cut.
    pub known: Option<Known>,
}

/// As [`put_dataset`]; with a journal, what an earlier call has stored is not stored again, and a head that it signed is
/// posted before another one is made.
///
/// # Errors
/// As [`put_dataset`]; `E_IO` for the journal.
pub async fn put_resumable(
    storage: Arc<dyn Storage>,
    wallet: &Wallet,
    reader_key: &ReaderKey,
    put: Put,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<PutOutcome> {
    let journal = put.journal.as_deref().map(Journal::open).transpose()?;
    let (files, meta) = (put.files, put.meta);
    let previous = newest(&*storage, journal.as_ref(), put.previous).await?;
    let mut keyless = Vec::new();
    let (files, total, mut plan) = match previous {
        None => {
            let (files, total) = settled(files, None)?;
            // The owner's other machines too, as far as they have registered a key.
            let (readers, _) = next_readers(&*storage, wallet.owner(), reader_key, &[], 0, None).await?;
            (files, total, Plan::first(wallet, readers, meta)?)
        }
        Some((head, message)) => {
            let reader = open_own(&storage, reader_key, &head).await?;
            let (files, total) = settled(files, Some(&reader.0))?;
            progress(Progress {
                phase: "compare",
                done: 0,
                total,
                unit: "bytes",
            });
            let (files, mut plan) = Plan::next(&reader.0, reader.1, files, meta).await?;
            let (grants, epoch) = (grants_of(&*storage, &head).await?, head.head.epoch);
            let is_spent = is_spent(&grants, epoch, now());
            if is_spent {
                let owner = wallet.owner();
                let (readers, without) =
                    next_readers(&*storage, owner, reader_key, &grants, epoch, None).await?;
                keyless = without;
                plan.rotate(readers)?;
            }
            if !is_spent && plan.unchanged.is_whole() && says_the_same(&plan.params.meta, reader.0.meta()) {
                journal.as_ref().map_or(Ok(()), Journal::finish)?;
                return Ok(unchanged(&reader.0, message));
            }
            (files, total, plan)
        }
    };
    plan.go_on(wallet, journal.as_ref())?;
    put.known
        .as_ref()
        .map_or(Ok(()), |known| known(&plan.params.dataset_id))?;
    let mut outcome =
        publish_version(&storage, wallet, files, plan, (total, journal.as_ref()), progress).await?;
    outcome.without_key = keyless;
    journal.as_ref().map_or(Ok(()), Journal::finish)?;
    Ok(outcome)
}

/// The files with those of them known that stay, and the sum of all their sizes.
pub(crate) fn settled(files: Vec<SourceFile>, previous: Option<&Reader>) -> Result<(Vec<SourceFile>, u64)> {
    let files = files.into_iter().map(|file| file.settle(previous));
    let files = files.collect::<Result<Vec<_>>>()?;
    let total = files.iter().map(SourceFile::size).sum::<Result<u64>>()?;
    Ok((files, total))
}

/// The version that the next one follows, asked for again now that nobody else of this machine publishes; and what an
/// earlier run has signed and perhaps not posted is posted first.
pub(crate) async fn newest(
    storage: &dyn Storage,
    journal: Option<&Journal>,
    mut previous: Option<(SignedHead, String)>,
) -> Result<Option<(SignedHead, String)>> {
    if let Some((head, _)) = &previous {
        let found = find_head(storage, &head.head.owner.to_string(), &head.head.dataset_id).await?;
        let is_newer = |(found, _): &(SignedHead, String)| found.head.version >= head.head.version;
        previous = found.filter(is_newer).or(previous);
    }
    match journal {
        Some(journal) => post_signed(storage, journal, previous).await,
        None => Ok(previous),
    }
}

/// Posts what an earlier run has signed and perhaps not posted, unless another head has taken its place.
async fn post_signed(
    storage: &dyn Storage,
    journal: &Journal,
    previous: Option<(SignedHead, String)>,
) -> Result<Option<(SignedHead, String)>> {
    let Some((head, messages)) = journal.signed() else {
        return Ok(previous);
    };
    let is_next = previous
        .as_ref()
        .is_none_or(|(found, _)| found.head.version < head.head.version);
    let is_found = previous
        .as_ref()
        .is_some_and(|(found, _)| found.hash() == head.hash());
    let message = messages.last().map(SignedMessage::item_hash);
    if let (Some(message), true) = (message, is_next || is_found) {
        for signed in &messages {
            storage.publish(signed).await?;
        }
        return Ok(Some((head, message)));
    }
    Ok(previous)
}

/// Seals and uploads a version, then posts its grants and, last, its head.
pub(crate) async fn publish_version(
    storage: &Arc<dyn Storage>,
    wallet: &Wallet,
    files: Vec<SourceFile>,
    plan: Plan,
    (total, journal): (u64, Option<&Journal>),
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<PutOutcome> {
    let (plan, tree) = upload(&**storage, wallet, files, plan, (total, journal), progress).await?;
    let (head, head_message) = announce(&**storage, wallet, (&plan, &tree), journal, progress).await?;
    Ok(PutOutcome {
        dataset_id: head.head.dataset_id,
        version: head.head.version,
        head_message,
        head_hash: head.hash(),
        head,
        files: tree.files,
        bytes: tree.bytes,
        uploaded: tree.sealed_bytes,
        unchanged: false,
        without_key: Vec::new(),
    })
}

pub(crate) async fn open_own(
    storage: &Arc<dyn Storage>,
    key: &ReaderKey,
    head: &SignedHead,
) -> Result<(Reader, EpochSecret)> {
    head.verify()?;
    let secret = find_grant(&**storage, head, key).await?;
    let reader = Reader::open(storage.clone(), head, Keys::Epoch(secret.duplicate())).await?;
    Ok((reader, secret))
}

pub(crate) fn unchanged(reader: &Reader, head_message: String) -> PutOutcome {
    let head = reader.head().clone();
    PutOutcome {
        dataset_id: head.head.dataset_id,
        version: head.head.version,
        head_message,
        head_hash: head.hash(),
        head,
        files: reader.files(),
        bytes: reader.bytes(),
        uploaded: 0,
        unchanged: true,
        without_key: Vec::new(),
    }
}

/// The time apart.
pub(crate) fn says_the_same(one: &Meta, two: &Meta) -> bool {
    (&one.title, &one.description, &one.licence) == (&two.title, &two.description, &two.licence)
}

/// What a put seals, and under which keys.
pub(crate) struct Plan {
    pub(crate) params: SealParams,
    pub(crate) secret: EpochSecret,
    pub(crate) unchanged: Unchanged,
    /// What a revision of a model takes over; a dataset has none.
    pub(crate) taken: Option<Taken>,
    /// Whom a new epoch's secret is wrapped for; nobody when the epoch goes on.
    pub(crate) readers: Vec<Recipient>,
    pub(crate) draw: Draw,
    pub(crate) prev: [u8; 32],
    pub(crate) id_random: [u8; 16],
}

impl Plan {
    pub(crate) fn first(wallet: &Wallet, readers: Vec<Recipient>, meta: Meta) -> Result<Self> {
        let id_random = new_id_random()?;
        let dataset_id = dataset_id(&wallet.owner(), &id_random);
        Ok(Self {
            params: SealParams {
                dataset_id,
                version: 1,
                epoch: 1,
                obj_log2: DEFAULT_OBJ_LOG2,
                meta,
            },
            secret: EpochSecret::generate()?,
            unchanged: Unchanged::default(),
            taken: None,
            readers,
            draw: Draw::Fresh,
            prev: [0; 32],
            id_random,
        })
    }

    /// The version after `reader`'s, in the same epoch until [`Plan::rotate`].
    async fn next(
        reader: &Reader,
        secret: EpochSecret,
        files: Vec<SourceFile>,
        meta: Meta,
    ) -> Result<(Vec<SourceFile>, Self)> {
        let open = reader.clone();
        let compared = tokio::task::spawn_blocking(move || {
            let unchanged = Unchanged::find(&open, &files)?;
            Ok((files, unchanged))
        });
        let (files, unchanged) = compared.await.map_err(stopped)??;
        let before = reader.head();
        let params = SealParams {
            dataset_id: before.head.dataset_id,
            version: before.head.version + 1,
            epoch: before.head.epoch,
            obj_log2: reader.obj_log2(),
            meta,
        };
        let plan = Self {
            params,
            secret,
            unchanged,
            taken: None,
            readers: Vec::new(),
            draw: Draw::Fresh,
            prev: before.hash(),
            id_random: before.head.id_random,
        };
        Ok((files, plan))
    }

    /// The same files as the version after `reader`'s, in a new epoch whose secret only `readers` get.
    pub(crate) fn rotated(reader: &Reader, readers: Vec<Recipient>, how: Revoke) -> Result<Self> {
        let before = reader.head();
        let unchanged = match how {
            Revoke::Lazy => Unchanged::all(reader)?,
            Revoke::Eager => Unchanged::default(),
        };
        Ok(Self {
            params: SealParams {
                dataset_id: before.head.dataset_id,
                version: before.head.version + 1,
                epoch: before.head.epoch + 1,
                obj_log2: reader.obj_log2(),
                meta: reader.meta().clone(),
            },
            secret: EpochSecret::generate()?,
            unchanged,
            taken: None,
            readers,
            draw: Draw::Fresh,
            prev: before.hash(),
            id_random: before.head.id_random,
        })
    }

    /// In a new epoch, whose secret only `readers` get.
    fn rotate(&mut self, readers: Vec<Recipient>) -> Result<()> {
        self.params.epoch += 1;
        self.secret = EpochSecret::generate()?;
        self.readers = readers;
        Ok(())
    }

    /// Goes on with what an upload of this version was begun with, or begins it.
    pub(crate) fn go_on(&mut self, wallet: &Wallet, journal: Option<&Journal>) -> Result<()> {
        let Some(journal) = journal else { return Ok(()) };
        let (version, epoch) = (self.params.version, self.params.epoch);
        let is_new = !self.readers.is_empty();
        let secret = is_new.then_some(&self.secret);
        let begun = journal.begin(version, self.prev, self.id_random, (epoch, secret))?;
        self.draw = Draw::seeded(Zeroizing::new(begun.seed));
        if let Some(created) = &mut self.params.meta.created {
            *created = begun.created;
        }
        if version == 1 {
            self.id_random = begun.id_random;
            self.params.dataset_id = dataset_id(&wallet.owner(), &begun.id_random);
        }
        if let Some(secret) = &begun.secret {
            self.secret = EpochSecret::from_bytes(hex_array("a secret of the journal", secret)?);
        }
        Ok(())
    }

    pub(crate) fn head(&self, wallet: &Wallet, tree: &SealedTree) -> Result<SignedHead> {
        let params = &self.params;
        let head = UnsignedHead {
            dataset_id: params.dataset_id,
            owner: wallet.owner(),
            version: params.version,
            prev: self.prev,
            epoch: tree.epoch,
            epoch_commitment: self.secret.commitment(&params.dataset_id, tree.epoch),
            root: tree.root.clone(),
            writers: Vec::new(),
            created: now(),
            not_after: None,
            id_random: self.id_random,
        };
        head.sign(wallet)
    }
}

/// Seals on a thread of its own and uploads what is ready, a few objects at a time.
pub(crate) async fn upload(
    storage: &dyn Storage,
    wallet: &Wallet,
    files: Vec<SourceFile>,
    plan: Plan,
    (total, journal): (u64, Option<&Journal>),
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<(Plan, SealedTree)> {
    let (send, receive) = mpsc::channel(PARALLEL);
    let (places, runtime) = (Arc::new(Semaphore::new(IN_MEMORY)), Handle::current());
    let sealing = tokio::task::spawn_blocking(move || {
        let ended = || VaultError::Stopped {
            reason: "the upload ended".into(),
        };
        let room = || {
            let place = runtime.block_on(Arc::clone(&places).acquire_owned());
            place.map(Some).map_err(|_| ended())
        };
        let mut sink = |object: SealedObject, place| send.blocking_send((object, place)).map_err(|_| ended());
        let Plan {
            params,
            secret,
            unchanged,
            taken,
            draw,
            ..
        } = &plan;
        let packing = taken
            .as_ref()
            .map_or(Packing::Dataset(unchanged), Packing::Revision);
        let tree = seal_with(&files, params, secret, packing, draw, (&room, &mut sink))?;
        Ok((plan, tree))
    });
    let objects = futures_util::stream::unfold(receive, |mut receive| async {
        receive.recv().await.map(|object| (object, receive))
    });
    let mut uploads = std::pin::pin!(
        objects
            .map(|(object, place)| async move {
                let size = put(storage, wallet, object, journal).await;
                drop(place);
                size
            })
            .buffer_unordered(PARALLEL)
    );
    let mut done = 0;
    progress(Progress {
        phase: "upload",
        done,
        total,
        unit: "bytes",
    });
    while let Some(bytes) = uploads.next().await {
        done += bytes?;
        // Padding and manifest make it slightly more than the files.
        progress(Progress {
            phase: "upload",
            done: done.min(total),
            total,
            unit: "bytes",
        });
    }
    sealing.await.map_err(stopped)?
}

/// Posts the grants of a new epoch, and then the head; returns it with its message's hash.
async fn announce(
    storage: &dyn Storage,
    wallet: &Wallet,
    (plan, tree): (&Plan, &SealedTree),
    journal: Option<&Journal>,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<(SignedHead, String)> {
    let total = plan.readers.len() as u64 + 1;
    let told = |done| {
        progress(Progress {
            phase: "sign",
            done,
            total,
            unit: "messages",
        })
    };
    told(0);
    let head = plan.head(wallet, tree)?;
    check_next(storage, &head).await?;
    let messages = messages(wallet, &head, &plan.secret, &plan.readers)?;
    let message = messages.last().map(SignedMessage::item_hash).unwrap_or_default();
    // Before the first is posted: the next run posts these again, and signs no second head for this version.
    journal.map_or(Ok(()), |journal| journal.last(&messages))?;
    for (signed, done) in messages.iter().zip(1..) {
        storage.publish(signed).await?;
        told(done);
    }
    Ok((head, message))
}

async fn put(
    storage: &dyn Storage,
    wallet: &Wallet,
    object: SealedObject,
    journal: Option<&Journal>,
) -> Result<u64> {
    let (size, hash) = (object.bytes.len() as u64, object.item_hash());
    let sign = || sign_store(wallet, &hash, size);
    let (store, is_known) = match journal {
        Some(journal) => journal.store(&hash, sign)?,
        None => (sign()?, false),
    };
    if is_known && storage.has(&store).await? {
        return Ok(size);
    }
    storage.put(object.bytes, &store).await?;
    Ok(size)
}

// By value because `map_err` gives it so.
#[allow(clippy::needless_pass_by_value, reason = "the signature that map_err wants")]
pub(crate) fn stopped(error: tokio::task::JoinError) -> VaultError {
    VaultError::Stopped {
        reason: error.to_string(),
    }
}
