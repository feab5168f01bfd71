//! What a revision of a model takes over from the one before, and why the key of one revision opens no other.
//!
//! A grant gives the secret of a head's epoch, and with it the manifest, whose root hands out the secrets of older epochs that
//! are still needed (container section 7, key 6). Versions of a dataset share an epoch as long as its readers stay the same, and
//! a reader of one may read all of its epoch. Of a model each revision is granted, shared and sold by itself. Were its objects
//! sealed in the epoch of its head, the next revision could take none of them over without handing out that epoch's secret,
//! which opens the old manifest and everything in it.
//!
//! So each data object of a revision has an epoch to itself, with a secret that opens it alone, and the manifest comes in an
//! epoch after them, which is the head's. The root of the next revision carries the secrets of exactly the objects that it
//! takes over. Nothing else of an earlier revision opens with them: its manifest is under the secret of its head, which no
//! later root carries, and its other objects under secrets of their own. An object is taken over only if all that it holds is
//! in the new revision too. It costs the root some 40 bytes for each object; scope 2 (shares, delegations) is object keys
//! and a root without secrets, as ever.
//!
//! Not taken over, and sealed anew, is what is in the epoch of a head. That is known from the chain of heads; where that is not
//! complete, nothing is taken over. Beside a kernel ([`crate::matching`]) the owner's machine says which objects there are.
//!
//! Which objects hold what is now to be sealed: files by the hash that the manifest says, under whatever name, and
//! objects by their id. The manifest has hashes of ciphertext only, so an id is what section 8 keeps in a local index: a keyed
//! hash of the plaintext, under a key that the owner's machine alone has. The first epoch of the put goes into it too, so that
//! the same content, sealed again in a later revision, is not seen to be the same.

use crate::entry::Entry;
use crate::find::heads_of;
use crate::head::SignedHead;
use crate::keys::{Address, DatasetId, EpochSecret, hmac512};
use crate::manifest::Row;
use crate::reader::Reader;
use crate::reuse::{alike, is_all};
use crate::ring::Ring;
use crate::source::SourceFile;
use crate::storage::Storage;
use crate::{Result, VaultError};
use hmac::Mac;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use zeroize::Zeroizing;

/// Epochs of heads, if all of the chain are known.
pub(crate) type HeadEpochs = Option<BTreeSet<u32>>;

/// What a revision finds of the one before.
pub(crate) struct Taken {
    /// Old rows that may be taken over, by object number.
    rows: BTreeMap<u32, Row>,
    /// The same by object id.
    by_id: HashMap<[u8; 16], u32>,
    /// Of those, the ones all of whose files are still there.
    whole_objects: BTreeSet<u32>,
    /// The old entries of files that stay, by their path now.
    files: HashMap<String, Entry>,
    secrets: BTreeMap<u32, EpochSecret>,
    /// First epochs of the puts that the rows are from.
    bases: BTreeSet<u32>,
    /// First epoch of this put.
    base: u32,
    ids: Ids,
    whole: bool,
    /// Whose dataset it is of, and which.
    of: Option<(Address, DatasetId)>,
}

/// Which objects hold what, and what new ones are called.
enum Ids {
    /// On the owner's machine: by its key DK.
    Keyed(Zeroizing<[u8; 32]>),
    /// Beside a kernel: as the owner's machine told it, by digest; the row of an old object, or the id of a new one.
    Told(HashMap<[u8; 32], Told>),
    /// Nothing is sealed: the objects are only looked at.
    Unknown,
}

/// What the owner's machine tells of an object.
#[derive(Clone, Copy)]
pub(crate) enum Told {
    /// There is one, by its number among the rows.
    Old(u32),
    /// There is none, and this is to be its id.
    New([u8; 16]),
}

impl Taken {
    /// Of a first revision: nothing. The key is the owner's DK.
    pub(crate) fn nothing(key: Zeroizing<[u8; 32]>) -> Self {
        Self::with(Ids::Keyed(key))
    }

    /// For looking alone.
    pub(crate) fn unknown() -> Self {
        Self::with(Ids::Unknown)
    }

    /// As the owner's machine told it: rows with the secrets of their epochs, and by digest which of them it is.
    pub(crate) fn told(
        rows: BTreeMap<u32, (Row, EpochSecret)>,
        told: HashMap<[u8; 32], Told>,
        base: u32,
    ) -> Self {
        let mut taken = Self::with(Ids::Told(told));
        taken.base = base;
        for (number, (row, secret)) in rows {
            taken.secrets.insert(row.epoch, secret);
            taken.rows.insert(number, row);
        }
        taken
    }

    fn with(ids: Ids) -> Self {
        Self {
            rows: BTreeMap::new(),
            by_id: HashMap::new(),
            whole_objects: BTreeSet::new(),
            files: HashMap::new(),
            secrets: BTreeMap::new(),
            bases: BTreeSet::new(),
            base: 1,
            ids,
            whole: false,
            of: None,
        }
    }

    /// Compares `files` with an open revision, reading each file that has the size of one in it. Blocking.
    ///
    /// # Errors
    /// `E_IO` when a file can not be read, `E_EPOCH` for a reader of scope 2 and after the last epoch.
    pub(crate) fn find(
        reader: &Reader,
        heads: &HeadEpochs,
        files: &[SourceFile],
        key: Zeroizing<[u8; 32]>,
    ) -> Result<Self> {
        let mut taken = Self::rows_of(reader, heads, key)?;
        let mut equal = 0;
        let mut stay: BTreeSet<&str> = BTreeSet::new();
        let old: HashMap<(u64, [u8; 32]), &Entry> = reader
            .entries()
            .iter()
            .rev()
            .filter(|entry| entry.is_file())
            .map(|entry| ((entry.size, entry.sha256), entry))
            .collect();
        let sizes: BTreeSet<u64> = old.keys().map(|(size, _)| *size).collect();
        for file in files.iter().filter(|file| !file.is_directory()) {
            let size = file.size()?;
            if !sizes.contains(&size) {
                continue;
            }
            let Some(mut entry) = old.get(&(size, file.digest()?)).copied() else {
                continue;
            };
            if let Some(same) = reader.entry(&file.path)
                && same.is_file()
                && (same.size, same.sha256) == (entry.size, entry.sha256)
            {
                entry = same;
                equal += usize::from(alike(same, file));
            }
            stay.insert(&entry.path);
            taken.files.insert(file.path.clone(), entry.clone());
        }
        for entry in reader.entries().iter().filter(|entry| entry.is_file()) {
            if !stay.contains(entry.path.as_str()) {
                for extent in &entry.extents {
                    taken.whole_objects.remove(&extent.object);
                }
            }
        }
        taken.whole = is_all(reader, files, equal)?;
        Ok(taken)
    }

    /// What may be taken over of an open revision, by objects alone.
    ///
    /// # Errors
    /// `E_EPOCH` for a reader of scope 2 and after the last epoch.
    pub(crate) fn rows_of(reader: &Reader, heads: &HeadEpochs, key: Zeroizing<[u8; 32]>) -> Result<Self> {
        let refuse = |reason: &str| VaultError::Epoch {
            reason: reason.to_owned(),
        };
        let Ring::Epochs(secrets) = reader.ring() else {
            return Err(refuse("a share can not be continued"));
        };
        let mut taken = Self::nothing(key);
        let head = &reader.head().head;
        taken.of = Some((head.owner, head.dataset_id));
        let epoch = reader.head().head.epoch;
        taken.base = epoch
            .checked_add(1)
            .ok_or_else(|| refuse("there is no later epoch"))?;
        if let Some(heads) = heads {
            taken.take_rows(reader, heads, secrets);
        }
        Ok(taken)
    }

    /// Rows whose epoch is that of one data object and of no head.
    fn take_rows(&mut self, reader: &Reader, heads: &BTreeSet<u32>, secrets: &BTreeMap<u32, EpochSecret>) {
        let mut uses: HashMap<u32, u32> = HashMap::new();
        for row in reader.rows() {
            *uses.entry(row.epoch).or_default() += 1;
        }
        let of_files = reader.entries().iter().flat_map(|entry| &entry.extents);
        let of_files: BTreeSet<u32> = of_files.map(|extent| extent.object).collect();
        for number in of_files {
            let Some(row) = reader.rows().get(number as usize) else {
                continue;
            };
            let is_alone = uses.get(&row.epoch) == Some(&1) && !heads.contains(&row.epoch);
            let Some(secret) = secrets.get(&row.epoch).filter(|_| is_alone) else {
                continue;
            };
            let before = heads.range(..row.epoch).next_back();
            self.bases.insert(before.map_or(1, |head| head + 1));
            self.secrets.insert(row.epoch, secret.duplicate());
            self.by_id.insert(row.object_id, number);
            self.whole_objects.insert(number);
            let mut row = row.clone();
            // The leaf table stays with the revision that it was sealed for.
            row.leaves = None;
            self.rows.insert(number, row);
        }
    }

    /// Whether nothing changed at all, so that a new revision would say the same as the old one.
    pub(crate) fn is_whole(&self) -> bool {
        self.whole
    }

    /// Whether what this manifest says of its files was made by who seals: an earlier version of the same dataset. Any other may
    /// name hashes that are not those of its bytes.
    pub(crate) fn is_of(&self, reader: &Reader) -> bool {
        let head = &reader.head().head;
        self.of == Some((head.owner, head.dataset_id))
    }

    /// First epoch of the put.
    pub(crate) fn base(&self) -> u32 {
        self.base
    }

    /// The old entry of a file that stays.
    pub(crate) fn file(&self, path: &str) -> Option<&Entry> {
        self.files.get(path)
    }

    /// Whether all that an old object holds is still there, so that files may name it again.
    pub(crate) fn is_whole_object(&self, number: u32) -> bool {
        self.whole_objects.contains(&number)
    }

    /// All old rows that may be taken over, by their number.
    pub(crate) fn rows(&self) -> &BTreeMap<u32, Row> {
        &self.rows
    }

    /// The old row of an object that may be taken over.
    pub(crate) fn row(&self, number: u32) -> Option<&Row> {
        self.rows.get(&number)
    }

    /// The old object that holds exactly this.
    pub(crate) fn object(&self, digest: &[u8; 32], length: u64) -> Option<u32> {
        let found = match &self.ids {
            Ids::Keyed(key) => {
                let ids = self.bases.iter().map(|base| id_of(key, *base, digest));
                let mut found = ids.filter_map(|id| self.by_id.get(&id).copied());
                found.find(|number| self.is_long(*number, length))
            }
            Ids::Told(told) => match told.get(digest) {
                Some(Told::Old(number)) => Some(*number),
                Some(Told::New(_)) | None => None,
            },
            Ids::Unknown => None,
        };
        found.filter(|number| self.is_long(*number, length))
    }

    fn is_long(&self, number: u32, length: u64) -> bool {
        self.rows
            .get(&number)
            .is_some_and(|row| row.plaintext_len == length)
    }

    /// The id of a new object with this digest.
    ///
    /// # Errors
    /// `E_STOPPED` for one that the owner's machine was not asked about: what is sealed is not what was looked at.
    pub(crate) fn id(&self, digest: &[u8; 32]) -> Result<[u8; 16]> {
        match &self.ids {
            Ids::Keyed(key) => Ok(id_of(key, self.base, digest)),
            Ids::Told(told) => match told.get(digest) {
                Some(Told::New(id)) => Ok(*id),
                Some(Told::Old(_)) | None => Err(VaultError::Stopped {
                    reason: "a file changed while it was sealed".into(),
                }),
            },
            Ids::Unknown => Ok([0; 16]),
        }
    }

    pub(crate) fn secrets(&self) -> &BTreeMap<u32, EpochSecret> {
        &self.secrets
    }
}

fn id_of(key: &[u8; 32], base: u32, digest: &[u8; 32]) -> [u8; 16] {
    let mut mac = hmac512(key);
    mac.update(b"alephlab/dedup/v1/object\0");
    mac.update(&base.to_be_bytes());
    mac.update(digest);
    let mut id = [0; 16];
    id.copy_from_slice(&mac.finalize().into_bytes()[..16]);
    id
}

/// Epochs of this head and of all before it.
///
/// # Errors
/// `E_UNAVAILABLE`.
pub(crate) async fn head_epochs(storage: &dyn Storage, newest: &SignedHead) -> Result<HeadEpochs> {
    let heads = heads_of(storage, &newest.head.owner.to_string(), &newest.head.dataset_id).await?;
    let heads: HashMap<[u8; 32], SignedHead> =
        heads.into_iter().map(|(head, _)| (head.hash(), head)).collect();
    let mut epochs = BTreeSet::from([newest.head.epoch]);
    let mut at = newest;
    while at.head.version > 1 {
        let Some(before) = heads.get(&at.head.prev) else {
            return Ok(None);
        };
        // Versions go down, so that this ends.
        if before.head.version + 1 != at.head.version {
            return Ok(None);
        }
        epochs.insert(before.head.epoch);
        at = before;
    }
    Ok(Some(epochs))
}
