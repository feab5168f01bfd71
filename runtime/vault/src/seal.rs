//! Sealing a tree: files into data objects, leaf tables, manifest pages and root, handed out one by one so that memory stays
//! bounded by two objects, or by what [`Room`] has places for. Blocking; callers run it on a thread of its
//! own, and data objects are sealed on another ([`crate::pack`]).

use crate::cbor::MAX_RECORD;
use crate::draw::{Draw, Drawn};
use crate::entry::{Entry, MAX_PAGE_ENTRIES, encode_page};
use crate::head::RootRef;
use crate::keys::{DatasetId, EpochSecret};
use crate::manifest::{Meta, PageRef, Root, Row, Table, encode_table_page, tree_hash};
use crate::object::{self, Kind};
use crate::pack::{Packed, pack};
use crate::repack::repack;
use crate::reuse::Unchanged;
use crate::ring::derive;
use crate::source::SourceFile;
use crate::taken::Taken;
use crate::{Result, VaultError, paths};
use bytes::Bytes;
use std::collections::BTreeMap;
use tokio::sync::OwnedSemaphorePermit;

/// Object capacity for new datasets: 2^25 = 32 MiB, because a STORE is billed as at least 25 MiB.
pub const DEFAULT_OBJ_LOG2: u8 = 25;

/// What is sealed, and under which names.
#[derive(Clone, Debug)]
pub struct SealParams {
    /// The dataset.
    pub dataset_id: DatasetId,
    /// Version, from 1.
    pub version: u64,
    /// Epoch of the secret, from 1.
    pub epoch: u32,
    /// log2 of an object's capacity in bytes: 20 to 26.
    pub obj_log2: u8,
    /// What the dataset says of itself.
    pub meta: Meta,
}

/// A finished object, ready to be stored.
#[derive(Clone, Debug)]
pub struct SealedObject {
    /// All bytes.
    pub bytes: Bytes,
    /// SHA-256 of the bytes.
    pub sha256: [u8; 32],
    /// What it holds.
    pub kind: Kind,
}

impl SealedObject {
    /// Its name in native storage: the SHA-256 in hex.
    pub fn item_hash(&self) -> String {
        hex::encode(self.sha256)
    }
}

/// What sealing a tree gave.
#[derive(Clone, Debug)]
pub struct SealedTree {
    /// Goes into the head.
    pub root: RootRef,
    /// Number of files.
    pub files: u64,
    /// Sum of the files' sizes, bytes.
    pub bytes: u64,
    /// Objects handed to the sink.
    pub objects: u64,
    /// Bytes of those objects.
    pub sealed_bytes: u64,
    /// Epoch of the manifest, and so of the head.
    pub epoch: u32,
}

/// Where sealed objects go.
pub(crate) type Sink<'a> = dyn FnMut(SealedObject, Place) -> Result<()> + Send + 'a;

/// What an object in memory holds until it is stored; nothing where memory is not counted.
pub(crate) type Place = Option<OwnedSemaphorePermit>;

/// Waits for a place, which is taken before an object is filled.
pub(crate) type Room<'a> = dyn Fn() -> Result<Place> + Sync + 'a;

/// Seals objects of one epoch and counts them.
pub(crate) struct Sealer<'a> {
    pub(crate) params: &'a SealParams,
    secret: &'a EpochSecret,
    draw: &'a Draw,
    pub(crate) room: &'a Room<'a>,
    sink: &'a mut Sink<'a>,
    objects: u64,
    sealed_bytes: u64,
    /// Of what is sealed next.
    epoch: u32,
    /// Secrets of the data objects, where each has an epoch of its own.
    apart: Option<BTreeMap<u32, EpochSecret>>,
}

/// What data objects are packed from beside the files: what earlier versions have of them.
#[derive(Clone, Copy)]
pub(crate) enum Packing<'a> {
    /// A dataset: all of a version in one epoch, files taken over by their objects.
    Dataset(&'a Unchanged),
    /// A revision of a model: each data object in an epoch of its own ([`crate::taken`]).
    Revision(&'a Taken),
}

impl Packing<'_> {
    fn pack(self, files: &[SourceFile], sealer: &mut Sealer<'_>) -> Result<Packed> {
        match self {
            Self::Dataset(unchanged) => pack(files, sealer, unchanged),
            Self::Revision(taken) => repack(files, sealer, taken),
        }
    }

    /// Key 6 of the new root: the secrets of older epochs that these rows are of.
    fn older_secrets(self, epoch: u32, rows: &[Row]) -> BTreeMap<u32, EpochSecret> {
        let known = match self {
            Self::Dataset(unchanged) => unchanged.secrets(),
            Self::Revision(taken) => taken.secrets(),
        };
        let epochs = rows.iter().map(|row| row.epoch).filter(|old| *old != epoch);
        let known = epochs.filter_map(|old| Some((old, known.get(&old)?.duplicate())));
        known.collect()
    }
}

/// What is to become an object, and under which id and salt.
pub(crate) struct Prepared {
    plaintext: Vec<u8>,
    pub(crate) digest: [u8; 32],
    pub(crate) drawn: Drawn,
    pub(crate) place: Place,
}

impl Prepared {
    /// Draws for the next object.
    pub(crate) fn draw(draw: &Draw, plaintext: Vec<u8>) -> Result<Self> {
        // Any collision-resistant hash hedges the salt: the tree's is the fastest that there is here (ADR 12).
        let digest = crate::merkle::root(&crate::merkle::leaves(&plaintext));
        let drawn = draw.draw(&digest)?;
        Ok(Self {
            plaintext,
            digest,
            drawn,
            place: None,
        })
    }

    /// Bytes of it.
    pub(crate) fn len(&self) -> u64 {
        self.plaintext.len() as u64
    }

    fn seal(
        self,
        dataset: DatasetId,
        epoch: u32,
        secret: &EpochSecret,
        kind: Kind,
    ) -> Result<(Row, SealedObject)> {
        let Drawn { object_id, noise } = self.drawn;
        let plaintext_len = self.plaintext.len() as u64;
        let key = derive(secret, &dataset, kind, epoch, &object_id);
        let salting = (&noise, &self.digest);
        let bytes = object::seal(&dataset, kind, epoch, &object_id, &key, self.plaintext, salting)?;
        let sha256 = crate::digest::sha256(&[&bytes]);
        let row = Row {
            object_id,
            epoch,
            plaintext_len,
            ciphertext_len: bytes.len() as u64,
            sha256,
            item_hash: hex::encode(sha256),
            leaves: None,
        };
        let bytes = bytes.into();
        Ok((row, SealedObject { bytes, sha256, kind }))
    }
}

impl Sealer<'_> {
    /// Seals one object, hands it out and returns its row.
    pub(crate) fn seal(&mut self, kind: Kind, plaintext: Vec<u8>) -> Result<Row> {
        let place = (self.room)()?;
        let prepared = Prepared::draw(self.draw, plaintext)?;
        let (row, object) = self.finish(kind, prepared)?;
        self.hand_out(object, place)?;
        Ok(row)
    }

    /// Seals what was prepared.
    pub(crate) fn finish(&mut self, kind: Kind, prepared: Prepared) -> Result<(Row, SealedObject)> {
        let (dataset, epoch) = (self.params.dataset_id, self.epoch);
        let Some(apart) = self.apart.as_mut().filter(|_| kind == Kind::Data) else {
            return prepared.seal(dataset, epoch, self.secret, kind);
        };
        self.epoch = epoch.checked_add(1).ok_or(VaultError::Limit {
            what: "the number of epochs".into(),
            limit: u32::MAX.into(),
        })?;
        let secret = self.draw.secret(&prepared.drawn)?;
        let sealed = prepared.seal(dataset, epoch, &secret, kind);
        apart.insert(epoch, secret);
        sealed
    }

    /// Counts it, and gives it to the sink.
    pub(crate) fn hand_out(&mut self, object: SealedObject, place: Place) -> Result<()> {
        self.objects += 1;
        self.sealed_bytes += object.bytes.len() as u64;
        (self.sink)(object, place)
    }

    /// Where ids and salts come from.
    pub(crate) fn draws(&self) -> Draw {
        self.draw.clone()
    }
}

/// Seals one object under a fresh id.
pub(crate) fn seal_object(
    dataset: DatasetId,
    epoch: u32,
    secret: &EpochSecret,
    kind: Kind,
    plaintext: &[u8],
) -> Result<(Row, SealedObject)> {
    Prepared::draw(&Draw::Fresh, plaintext.to_vec())?.seal(dataset, epoch, secret, kind)
}

/// Seals `files` as a whole new tree. `sink` gets each object once, the root last.
///
/// # Errors
/// `E_PATH` and `E_LIMIT` before anything is sealed; `E_IO` when a file can not be read or changes meanwhile;
/// whatever `sink` returns.
pub fn seal_tree(
    files: &[SourceFile],
    params: &SealParams,
    secret: &EpochSecret,
    sink: &mut (dyn FnMut(SealedObject) -> Result<()> + Send),
) -> Result<SealedTree> {
    seal_next(files, params, secret, &Unchanged::default(), sink)
}

/// [`seal_tree`] that names objects of an earlier version again for files that did not change.
///
/// # Errors
/// As [`seal_tree`].
pub fn seal_next(
    files: &[SourceFile],
    params: &SealParams,
    secret: &EpochSecret,
    unchanged: &Unchanged,
    sink: &mut (dyn FnMut(SealedObject) -> Result<()> + Send),
) -> Result<SealedTree> {
    let mut relay = |object, _| sink(object);
    seal_with(
        files,
        params,
        secret,
        Packing::Dataset(unchanged),
        &Draw::Fresh,
        (&|| Ok(None), &mut relay),
    )
}

/// [`seal_next`] with ids and salts of one's own, and with no more objects in memory than `room` has places for.
pub(crate) fn seal_with(
    files: &[SourceFile],
    params: &SealParams,
    secret: &EpochSecret,
    packing: Packing<'_>,
    draw: &Draw,
    (room, sink): (&Room<'_>, &mut Sink<'_>),
) -> Result<SealedTree> {
    check(files, params)?;
    let mut relay = |object, place| sink(object, place);
    let mut sealer = Sealer {
        params,
        secret,
        draw,
        room,
        sink: &mut relay,
        objects: 0,
        sealed_bytes: 0,
        epoch: params.epoch,
        apart: matches!(packing, Packing::Revision(_)).then(BTreeMap::new),
    };
    let packed = packing.pack(files, &mut sealer)?;
    let (mut rows, entries) = (packed.rows, packed.entries);
    let pages = seal_pages(&mut sealer, &entries, &mut rows)?;
    let files = entries.iter().filter(|entry| entry.is_file()).count() as u64;
    let bytes = entries.iter().map(|entry| entry.size).sum();
    let tree = tree_hash(&rows);
    let mut older = packing.older_secrets(sealer.epoch, &rows);
    older.extend(sealer.apart.take().into_iter().flatten());
    let table = seal_table(&mut sealer, rows)?;
    let root = Root {
        dataset: params.dataset_id,
        version: params.version,
        obj_log2: params.obj_log2,
        table,
        pages,
        older,
        files,
        directories: entries.len() as u64 - files,
        bytes,
        meta: params.meta.clone(),
        tree,
    };
    let root = seal_root(&mut sealer, &root)?;
    Ok(SealedTree {
        root,
        files,
        bytes,
        objects: sealer.objects,
        sealed_bytes: sealer.sealed_bytes,
        epoch: sealer.epoch,
    })
}

fn seal_root(sealer: &mut Sealer<'_>, root: &Root) -> Result<RootRef> {
    let plaintext = root.encode();
    let limit = page_capacity(root.obj_log2);
    if plaintext.len() > limit {
        return Err(VaultError::Limit {
            what: "the manifest root in bytes".into(),
            limit: limit as u64,
        });
    }
    let row = sealer.seal(Kind::Root, plaintext)?;
    Ok(RootRef {
        item_hash: row.item_hash,
        length: row.ciphertext_len,
        sha256: row.sha256,
    })
}

fn check(files: &[SourceFile], params: &SealParams) -> Result<()> {
    if !(20..=26).contains(&params.obj_log2) {
        return Err(VaultError::Limit {
            what: "obj_log2 (20 to 26)".into(),
            limit: 26,
        });
    }
    if params.version == 0 || params.epoch == 0 {
        return Err(VaultError::Epoch {
            reason: "version and epoch count from 1".into(),
        });
    }
    params.meta.check()?;
    paths::check_tree(&tree(files)?)?;
    let long = |text: &String| text.len() > crate::cbor::MAX_STRING;
    for file in files {
        let mut notes = file
            .attributes
            .iter()
            .flat_map(|(name, value)| [name, value])
            .chain(&file.mime);
        if notes.any(long) {
            let what = format!("an attribute of {:?} in bytes", file.path);
            return Err(VaultError::Limit {
                what,
                limit: crate::cbor::MAX_STRING as u64,
            });
        }
    }
    Ok(())
}

/// All paths with their parents, and whether they are directories.
pub(crate) fn tree(files: &[SourceFile]) -> Result<BTreeMap<&str, bool>> {
    let mut tree = BTreeMap::new();
    for file in files {
        let mut parent = file.path.as_str();
        while let Some((above, _)) = parent.rsplit_once('/') {
            parent = above;
            tree.entry(parent).or_insert(true);
        }
    }
    for file in files {
        let before = tree.insert(&file.path, file.is_directory());
        if before.is_some_and(|directory| !directory || !file.is_directory()) {
            let reason = "it is there twice".to_owned();
            return Err(VaultError::Path {
                path: file.path.clone(),
                reason,
            });
        }
    }
    Ok(tree)
}

/// Most bytes in one page or root.
fn page_capacity(obj_log2: u8) -> usize {
    (1_usize << obj_log2).min(MAX_RECORD)
}

fn seal_pages(sealer: &mut Sealer<'_>, entries: &[Entry], rows: &mut Vec<Row>) -> Result<Vec<PageRef>> {
    let capacity = page_capacity(sealer.params.obj_log2);
    let mut pages = Vec::new();
    let mut rest = entries;
    while !rest.is_empty() {
        let count = fitting(rest, capacity);
        let (page, after) = rest.split_at(count);
        let plaintext = encode_page(page);
        let (Some(first), Some(last)) = (page.first(), page.last()) else {
            break;
        };
        if plaintext.len() > capacity {
            let what = format!("the manifest entry of {:?} in bytes", first.path);
            return Err(VaultError::Limit {
                what,
                limit: capacity as u64,
            });
        }
        let row = sealer.seal(Kind::Page, plaintext)?;
        pages.push(PageRef {
            first: first.path.clone(),
            last: last.path.clone(),
            object: number(rows.len())?,
            entries: page.len() as u64,
        });
        rows.push(row);
        rest = after;
    }
    Ok(pages)
}

/// How many of `entries` go into one page; at least one.
fn fitting(entries: &[Entry], capacity: usize) -> usize {
    let mut bytes = 16;
    let fits = |entry: &&Entry| {
        bytes += encode_page(std::slice::from_ref(*entry)).len();
        bytes <= capacity
    };
    entries
        .iter()
        .take(MAX_PAGE_ENTRIES)
        .take_while(fits)
        .count()
        .max(1)
}

/// The table inline, or as pages when it would fill more than three quarters of the root.
fn seal_table(sealer: &mut Sealer<'_>, rows: Vec<Row>) -> Result<Table> {
    let capacity = page_capacity(sealer.params.obj_log2);
    let row_bytes = encode_table_page(&rows[..rows.len().min(1)]).len();
    let per_page = (capacity / 4 * 3 / row_bytes.max(1)).max(1);
    if rows.len() <= per_page {
        return Ok(Table::Rows(rows));
    }
    let mut pages = Vec::new();
    for part in rows.chunks(per_page) {
        pages.push(sealer.seal(Kind::Page, encode_table_page(part))?);
    }
    Ok(Table::Pages(pages))
}

/// An object number from a table's length.
pub(crate) fn number(index: usize) -> Result<u32> {
    u32::try_from(index).map_err(|_| VaultError::Limit {
        what: "the number of objects".into(),
        limit: u32::MAX.into(),
    })
}
