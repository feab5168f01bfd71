//! An open dataset: manifest checked whole at the start, then files by path, range or stream. Every object is
//! fetched whole, verified, and only then decrypted; opened objects are kept for the next read ([`Reader::keep`]).
//!
//! Broker, command and tests read through this; it knows no names and decides no policy.

use crate::digest::sha256;
use crate::entry::{Entry, Extent};
use crate::fetch::{Wanted, fetch};
use crate::head::SignedHead;
use crate::keys::{DatasetId, ObjectKey};
use crate::manifest::{Meta, Root, Row, Table};
use crate::object::Kind;
use crate::open::open;
use crate::opened::OpenedObjects;
use crate::ring::{Keys, Ring, derive};
use crate::scope::SealedRoot;
use crate::seal::{SealedObject, seal_object};
use crate::storage::Storage;
use crate::{Result, RootRef, VaultError};
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Most plaintext in one piece of a stream, bytes.
const PIECE: u64 = 4 << 20;

/// An open dataset. Cheap to clone; clones share the opened objects.
#[derive(Clone)]
pub struct Reader {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) head: SignedHead,
    pub(crate) ring: Ring,
    pub(crate) root: Root,
    pub(crate) rows: Vec<Row>,
    pub(crate) entries: Arc<[Entry]>,
    /// Runs of each object that belong to files; all else must be zero.
    pub(crate) covered: BTreeMap<u32, Vec<Range<u64>>>,
    pub(crate) opened: OpenedObjects,
    /// Hashes of slices, where they were asked for. The one of a version lists a TiB.
    pub(crate) leaf_tables: OpenedObjects,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let head = &self.inner.head.head;
        f.debug_struct("Reader")
            .field("dataset", &head.dataset_id.to_string())
            .field("version", &head.version)
            .finish_non_exhaustive()
    }
}

impl Reader {
    /// Opens the version that `head` names: checks the head, fetches root and pages, and checks every rule of
    /// the manifest. Rollback and forks are [`crate::SeenHeads`]' to check.
    ///
    /// # Errors
    /// `E_HEAD_SIG`, `E_EPOCH`, `E_UNAVAILABLE`, the errors of sections 6 and 7; those of objects name the object.
    pub async fn open(storage: Arc<dyn Storage>, head: &SignedHead, keys: Keys) -> Result<Self> {
        Ok(Self {
            inner: Arc::new(open(storage, head, keys).await?),
        })
    }

    /// The head that this was opened with.
    pub fn head(&self) -> &SignedHead {
        &self.inner.head
    }

    /// What the dataset says of itself.
    pub fn meta(&self) -> &Meta {
        &self.inner.root.meta
    }

    /// All entries in path order.
    pub fn entries(&self) -> &[Entry] {
        &self.inner.entries
    }

    /// The same, to be kept longer than the reader and its keys.
    pub fn share_entries(&self) -> Arc<[Entry]> {
        Arc::clone(&self.inner.entries)
    }

    /// Number of files.
    pub fn files(&self) -> u64 {
        self.inner.root.files
    }

    /// Sum of the files' sizes, bytes.
    pub fn bytes(&self) -> u64 {
        self.inner.root.bytes
    }

    /// The entry of one path.
    pub fn entry(&self, path: &str) -> Option<&Entry> {
        let entries = self.entries();
        let found = entries.binary_search_by(|entry| entry.path.as_str().cmp(path));
        found.ok().and_then(|index| entries.get(index))
    }

    /// A whole file, its SHA-256 checked.
    ///
    /// # Errors
    /// `E_NOT_FOUND`, `E_TREE` when the content is not what the manifest says, and the errors of section 6.
    pub async fn read(&self, path: &str) -> Result<Bytes> {
        let entry = self.file(path)?;
        let bytes = self.read_range(path, 0, entry.size).await?;
        check_digest(entry, sha256(&[&bytes]))?;
        Ok(bytes)
    }

    /// At most `len` bytes from `offset`; fewer only at the end of the file.
    ///
    /// # Errors
    /// As [`Reader::read`], without the check of the whole file's hash.
    pub async fn read_range(&self, path: &str, offset: u64, len: u64) -> Result<Bytes> {
        self.read_at(self.file(path)?, offset, len).await
    }

    /// As [`Reader::read_range`], for an entry of this reader.
    ///
    /// # Errors
    /// The errors of section 6.
    pub async fn read_at(&self, entry: &Entry, offset: u64, len: u64) -> Result<Bytes> {
        let end = offset.saturating_add(len).min(entry.size);
        let runs = runs(entry, offset..end);
        if let [run] = runs.as_slice() {
            return self.inner.run(run).await;
        }
        let mut all = Vec::new();
        for run in &runs {
            all.extend_from_slice(&self.inner.run(run).await?);
        }
        Ok(all.into())
    }

    /// What [`Reader::read_at`] would give, when all of it is open already.
    pub fn read_open(&self, entry: &Entry, offset: u64, len: u64) -> Option<Bytes> {
        let end = offset.saturating_add(len).min(entry.size);
        let runs = runs(entry, offset..end);
        let open = |run: &Extent| Some(run.of(&self.inner.opened.ready(run.object)?));
        if let [run] = runs.as_slice() {
            return open(run);
        }
        let mut all = Vec::new();
        for run in &runs {
            all.extend_from_slice(&open(run)?);
        }
        Some(all.into())
    }

    /// Keeps up to `bytes` of opened objects for later reads, and one object at least. At first one is kept.
    pub fn keep(&self, bytes: u64) {
        self.inner.opened.keep(bytes);
    }

    /// The objects of `range` of a file that are neither open nor being fetched, in file order: what to fetch ahead with
    /// [`Reader::open_object`].
    pub fn missing(&self, entry: &Entry, range: Range<u64>) -> Vec<u32> {
        let mut missing = Vec::new();
        for run in runs(entry, range.start..range.end.min(entry.size)) {
            if missing.last() != Some(&run.object) && !self.inner.opened.is_known(run.object) {
                missing.push(run.object);
            }
        }
        missing
    }

    /// Opens one object, so that reads of it need not wait.
    ///
    /// # Errors
    /// `E_TREE` when there is no such object, and the errors of section 6.
    pub async fn open_object(&self, number: u32) -> Result<()> {
        self.inner.object(number).await.map(drop)
    }

    /// Most bytes of one object.
    pub fn object_bytes(&self) -> u64 {
        1 << self.inner.root.obj_log2
    }

    /// The bytes of `range`, cut at the file's end, in pieces of at most 4 MiB. Ends after the first error.
    ///
    /// # Errors
    /// `E_NOT_FOUND` at once; the errors of section 6 in the stream.
    pub fn stream(&self, path: &str, range: Range<u64>) -> Result<BoxStream<'static, Result<Bytes>>> {
        let entry = self.file(path)?;
        let pieces: Vec<_> = runs(entry, range.start..range.end.min(entry.size))
            .into_iter()
            .flat_map(pieces)
            .collect();
        let state = Some((self.inner.clone(), pieces.into_iter()));
        let stream = stream::unfold(state, |state| async {
            let (inner, mut pieces) = state?;
            let run = pieces.next()?;
            let piece = inner.run(&run).await;
            let next = piece.is_ok().then_some((inner, pieces));
            Some((piece, next))
        });
        Ok(stream.boxed())
    }

    pub(crate) fn file(&self, path: &str) -> Result<&Entry> {
        let entry = self.entry(path).filter(|entry| entry.is_file());
        entry.ok_or_else(|| VaultError::NotFound {
            path: path.chars().take(200).collect(),
        })
    }

    /// Names of the objects that hold files, and of those that hold the manifest.
    pub(crate) fn object_names(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let inner = &self.inner;
        let of_manifest = manifest_objects(&inner.root, &inner.rows);
        let (mut files, mut manifest) = (BTreeSet::new(), BTreeSet::new());
        for (number, row) in (0..).zip(&inner.rows) {
            let to = if of_manifest.contains_key(&number) {
                &mut manifest
            } else {
                &mut files
            };
            to.insert(row.item_hash.clone());
        }
        if let Table::Pages(pages) = &inner.root.table {
            manifest.extend(pages.iter().map(|row| row.item_hash.clone()));
        }
        manifest.insert(inner.head.head.root.item_hash.clone());
        (files, manifest)
    }

    pub(crate) fn obj_log2(&self) -> u8 {
        self.inner.root.obj_log2
    }

    pub(crate) fn ring(&self) -> &Ring {
        &self.inner.ring
    }

    pub(crate) fn rows(&self) -> &[Row] {
        &self.inner.rows
    }

    /// Keys of every object that this version names, the root apart.
    pub(crate) fn object_keys(&self) -> Result<BTreeMap<[u8; 16], ObjectKey>> {
        let inner = &self.inner;
        let table: &[Row] = match &inner.root.table {
            Table::Rows(_) => &[],
            Table::Pages(pages) => pages,
        };
        let known = manifest_objects(&inner.root, &inner.rows);
        let kind = |number| known.get(&number).copied().unwrap_or(Kind::Data);
        let rows = (0..).zip(&inner.rows).map(|(number, row)| (kind(number), row));
        let all = rows.chain(table.iter().map(|row| (Kind::Page, row)));
        let key = |(kind, row): (Kind, &Row)| {
            let key = inner
                .ring
                .object_key(&inner.root.dataset, kind, row.epoch, &row.object_id)?;
            Ok((row.object_id, key))
        };
        all.map(key).collect()
    }

    /// The root again, without older epochs' secrets, under a fresh object id.
    pub(crate) fn reseal_root(&self) -> Result<(SealedObject, SealedRoot)> {
        let inner = &self.inner;
        let epoch = inner.head.head.epoch;
        let dataset = inner.root.dataset;
        let secret = match &inner.ring {
            Ring::Epochs(secrets) => secrets.get(&epoch),
            Ring::Objects(_) => None,
        };
        let secret = secret.ok_or_else(|| VaultError::Epoch {
            reason: format!("no secret of epoch {epoch}"),
        })?;
        let plaintext = Zeroizing::new(inner.root.without_secrets().encode());
        let (row, object) = seal_object(dataset, epoch, secret, Kind::Root, &plaintext)?;
        let at = RootRef {
            item_hash: row.item_hash,
            length: row.ciphertext_len,
            sha256: row.sha256,
        };
        let key = derive(secret, &dataset, Kind::Root, epoch, &row.object_id);
        Ok((object, SealedRoot { at, key }))
    }
}

impl Inner {
    /// Bytes of one run.
    async fn run(&self, run: &Extent) -> Result<Bytes> {
        Ok(run.of(&self.object(run.object).await?))
    }

    pub(crate) async fn object(&self, number: u32) -> Result<Bytes> {
        match self.opened.ready(number) {
            Some(object) => Ok(object),
            None => self.opened.get(number, self.fetch(number, Kind::Data)).await,
        }
    }

    pub(crate) async fn fetch(&self, number: u32, kind: Kind) -> Result<Vec<u8>> {
        let row = self.rows.get(number as usize);
        let row = row.ok_or_else(|| VaultError::Tree {
            what: format!("object {number} is not in the table"),
        })?;
        let dataset: DatasetId = self.root.dataset;
        let key = self.ring.object_key(&dataset, kind, row.epoch, &row.object_id)?;
        let bytes = fetch(&*self.storage, Wanted::row(row, kind), dataset, move |_| Ok(key)).await?;
        if kind == Kind::Data {
            self.check_padding(number, row, &bytes)?;
        }
        Ok(bytes)
    }

    fn check_padding(&self, number: u32, row: &Row, bytes: &[u8]) -> Result<()> {
        let mut at = 0;
        let covered = self.covered.get(&number).map_or(&[][..], Vec::as_slice);
        let end = std::iter::once(row.plaintext_len..row.plaintext_len);
        for run in covered.iter().cloned().chain(end) {
            let gap = usize::try_from(at).ok().zip(usize::try_from(run.start).ok());
            let clean = gap
                .and_then(|(from, to)| bytes.get(from..to))
                .is_some_and(|gap| gap.iter().all(|byte| *byte == 0));
            if !clean {
                let reason = "there are bytes in its padding".to_owned();
                return Err(VaultError::Extent {
                    path: row.item_hash.clone(),
                    reason,
                });
            }
            at = run.end;
        }
        Ok(())
    }
}

/// Pages and leaf tables by object number, as the manifest uses them; all other objects are data.
pub(crate) fn manifest_objects(root: &Root, rows: &[Row]) -> BTreeMap<u32, Kind> {
    let leaves = rows
        .iter()
        .filter_map(|row| row.leaves)
        .map(|object| (object, Kind::Leaves));
    leaves
        .chain(root.pages.iter().map(|page| (page.object, Kind::Page)))
        .collect()
}

pub(crate) fn check_digest(entry: &Entry, found: [u8; 32]) -> Result<()> {
    if found == entry.sha256 {
        return Ok(());
    }
    Err(VaultError::Tree {
        what: format!("the content of {:?} has another SHA-256", entry.path),
    })
}

impl Extent {
    /// The bytes of it in its object. It was checked against the object's length when the manifest was opened.
    pub(crate) fn of(&self, object: &Bytes) -> Bytes {
        let start = usize::try_from(self.offset).unwrap_or(usize::MAX);
        let end = usize::try_from(self.offset + self.length).unwrap_or(usize::MAX);
        object.slice(start..end)
    }
}

/// The parts of objects that make up `range` of a file.
pub(crate) fn runs(entry: &Entry, range: Range<u64>) -> Vec<Extent> {
    let mut found = Vec::new();
    let mut at = 0;
    for extent in &entry.extents {
        let end = at + extent.length;
        let (from, to) = (range.start.max(at), range.end.min(end));
        if from < to {
            found.push(Extent {
                object: extent.object,
                offset: extent.offset + (from - at),
                length: to - from,
            });
        }
        at = end;
    }
    found
}

/// A whole file in pieces of at most 4 MiB.
pub(crate) fn whole(entry: &Entry) -> Vec<Extent> {
    runs(entry, 0..entry.size).into_iter().flat_map(pieces).collect()
}

/// One run in pieces that may be in flight.
pub(crate) fn pieces(run: Extent) -> impl Iterator<Item = Extent> {
    (0..run.length.div_ceil(PIECE)).map(move |index| {
        let from = index * PIECE;
        Extent {
            object: run.object,
            offset: run.offset + from,
            length: PIECE.min(run.length - from),
        }
    })
}
