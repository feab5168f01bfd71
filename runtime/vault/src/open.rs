//! Opening a manifest: head, keys, root, object table, pages, and every rule that binds them (container
//! sections 6, 7 and 9). Gives the reader its state or an error, nothing between.

use crate::entry::{Entry, decode_page};
use crate::fetch::{Wanted, fetch};
use crate::head::SignedHead;
use crate::keys::EpochSecret;
use crate::manifest::{PageRef, Root, Row, Table, decode_table_page, tree_hash};
use crate::object::Kind;
use crate::opened::OpenedObjects;
use crate::reader::{Inner, manifest_objects};
use crate::ring::{Keys, Ring, derive};
use crate::scope::ObjectKeys;
use crate::seen::now;
use crate::storage::Storage;
use crate::{Result, RootRef, VaultError, paths};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Manifest objects fetched at a time.
const PARALLEL: usize = 4;

pub(crate) async fn open(storage: Arc<dyn Storage>, head: &SignedHead, keys: Keys) -> Result<Inner> {
    head.verify()?;
    head.check_fresh(now())?;
    let (mut root, mut ring) = open_root(&*storage, head, keys).await?;
    check_root(&root, head)?;
    if let Ring::Epochs(secrets) = &mut ring {
        // What the root says of its own epoch is not asked for: that secret was checked against the head.
        for (epoch, secret) in std::mem::take(&mut root.older) {
            secrets.entry(epoch).or_insert(secret);
        }
    }
    let rows = open_table(&*storage, &root, &ring, head).await?;
    let entries = open_pages(&*storage, &root, &ring, &rows).await?;
    check_entries(&root, &rows, &entries)?;
    let covered = covered(&entries);
    let head = head.clone();
    Ok(Inner {
        storage,
        head,
        ring,
        root,
        rows,
        entries: entries.into(),
        covered,
        opened: OpenedObjects::new(),
        leaf_tables: OpenedObjects::new(),
    })
}

async fn open_root(storage: &dyn Storage, head: &SignedHead, keys: Keys) -> Result<(Root, Ring)> {
    let dataset = head.head.dataset_id;
    let epoch = head.head.epoch;
    match keys {
        Keys::Epoch(secret) => {
            if secret.commitment(&dataset, epoch) != head.head.epoch_commitment {
                return Err(VaultError::Epoch {
                    reason: "the head commits to another secret".into(),
                });
            }
            let copy = secret.duplicate();
            let key = move |frame: &crate::object::Frame| {
                Ok(derive(&copy, &dataset, Kind::Root, epoch, &frame.object_id))
            };
            let bytes = Zeroizing::new(fetch(storage, wanted(&head.head.root, epoch)?, dataset, key).await?);
            Ok((
                Root::decode(&bytes)?,
                Ring::Epochs(BTreeMap::from([(epoch, secret)])),
            ))
        }
        Keys::Objects(keys) => {
            check_scope(&keys, head)?;
            let key = keys.root.key.duplicate();
            let bytes = fetch(storage, wanted(&keys.root.at, epoch)?, dataset, move |_| Ok(key)).await?;
            let root = Root::decode(&Zeroizing::new(bytes))?;
            if !root.older.is_empty() {
                return Err(VaultError::Epoch {
                    reason: "a shared root must not carry other epochs' secrets".into(),
                });
            }
            Ok((root, Ring::Objects(keys)))
        }
    }
}

fn wanted(at: &RootRef, epoch: u32) -> Result<Wanted> {
    let plain = !at.item_hash.is_empty() && at.item_hash.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if plain && at.item_hash.len() <= 128 {
        return Ok(Wanted::root(at, epoch));
    }
    Err(VaultError::Malformed {
        what: "the manifest root's item hash",
        reason: "it is no hash".into(),
    })
}

fn check_scope(keys: &ObjectKeys, head: &SignedHead) -> Result<()> {
    let same = keys.dataset_id == head.head.dataset_id && keys.epoch == head.head.epoch;
    if same && keys.head_hash == head.hash() {
        return Ok(());
    }
    Err(VaultError::Epoch {
        reason: "the object keys belong to another version".into(),
    })
}

fn check_root(root: &Root, head: &SignedHead) -> Result<()> {
    if root.dataset != head.head.dataset_id || root.version != head.head.version {
        return Err(VaultError::Tree {
            what: "the root belongs to another version than the head".into(),
        });
    }
    if root
        .older
        .keys()
        .any(|epoch| *epoch == 0 || *epoch >= head.head.epoch)
    {
        return Err(VaultError::Epoch {
            reason: "the root names an epoch that is not older".into(),
        });
    }
    Ok(())
}

async fn open_table(storage: &dyn Storage, root: &Root, ring: &Ring, head: &SignedHead) -> Result<Vec<Row>> {
    let epoch = head.head.epoch;
    let rows = match &root.table {
        Table::Rows(rows) => rows.clone(),
        Table::Pages(pages) => {
            let mut rows = Vec::new();
            for page in pages {
                page.check(epoch, root.obj_log2)?;
                rows.extend(decode_table_page(&open_object(storage, root, ring, page).await?)?);
            }
            rows
        }
    };
    let mut ids = HashSet::with_capacity(rows.len());
    for row in &rows {
        row.check(epoch, root.obj_log2)?;
        if !ids.insert(row.object_id) {
            return Err(VaultError::Tree {
                what: format!("object {} is listed twice", row.item_hash),
            });
        }
        if row.leaves.is_some_and(|at| at as usize >= rows.len()) {
            return Err(VaultError::Tree {
                what: format!("object {} names leaves that do not exist", row.item_hash),
            });
        }
    }
    if tree_hash(&rows) != root.tree {
        return Err(VaultError::Tree {
            what: "the object table does not have the hash that the root says".into(),
        });
    }
    Ok(rows)
}

async fn open_pages(storage: &dyn Storage, root: &Root, ring: &Ring, rows: &[Row]) -> Result<Vec<Entry>> {
    // In a list: a stream that makes them from a closure over these borrows could not move between threads.
    let fetches: Vec<_> = root
        .pages
        .iter()
        .map(|page| open_page(storage, root, ring, rows, page))
        .collect();
    let pages: Vec<Vec<Entry>> = stream::iter(fetches).buffered(PARALLEL).try_collect().await?;
    let entries: Vec<Entry> = pages.into_iter().flatten().collect();
    if entries.is_sorted_by(|one, two| one.path < two.path) {
        return Ok(entries);
    }
    Err(VaultError::Tree {
        what: "the entries are not in path order, or one is there twice".into(),
    })
}

async fn open_page(
    storage: &dyn Storage,
    root: &Root,
    ring: &Ring,
    rows: &[Row],
    page: &PageRef,
) -> Result<Vec<Entry>> {
    let row = rows.get(page.object as usize);
    let row = row.ok_or_else(|| VaultError::Tree {
        what: "a page is not in the object table".into(),
    })?;
    let entries = decode_page(&open_object(storage, root, ring, row).await?)?;
    let ends = entries
        .first()
        .zip(entries.last())
        .map(|(first, last)| (first.path.as_str(), last.path.as_str()));
    if entries.len() as u64 == page.entries && ends == Some((&page.first, &page.last)) {
        return Ok(entries);
    }
    Err(VaultError::Tree {
        what: format!("page {} does not hold what the root says", row.item_hash),
    })
}

/// A page, of entries or of the table.
async fn open_object(storage: &dyn Storage, root: &Root, ring: &Ring, row: &Row) -> Result<Vec<u8>> {
    let key = ring.object_key(&root.dataset, Kind::Page, row.epoch, &row.object_id)?;
    fetch(storage, Wanted::row(row, Kind::Page), root.dataset, move |_| {
        Ok(key)
    })
    .await
}

fn check_entries(root: &Root, rows: &[Row], entries: &[Entry]) -> Result<()> {
    let tree: BTreeMap<_, _> = entries
        .iter()
        .map(|entry| (entry.path.as_str(), !entry.is_file()))
        .collect();
    paths::check_tree(&tree)?;
    let manifest = manifest_objects(root, rows);
    let mut sums = (0_u64, 0_u64, 0_u64);
    for entry in entries {
        entry.check_extents(rows, |object| !manifest.contains_key(&object))?;
        if entry.is_file() {
            let bytes = sums.2.checked_add(entry.size);
            sums = (
                sums.0 + 1,
                sums.1,
                bytes.ok_or_else(|| VaultError::Tree {
                    what: "the sizes overflow".into(),
                })?,
            );
        } else {
            sums.1 += 1;
        }
    }
    if sums == (root.files, root.directories, root.bytes) {
        return Ok(());
    }
    Err(VaultError::Tree {
        what: "the number or size of the files is not what the root says".into(),
    })
}

/// Merged runs of file bytes in each object.
fn covered(entries: &[Entry]) -> BTreeMap<u32, Vec<Range<u64>>> {
    let mut all: BTreeMap<u32, Vec<Range<u64>>> = BTreeMap::new();
    for extent in entries.iter().flat_map(|entry| &entry.extents) {
        all.entry(extent.object)
            .or_default()
            .push(extent.offset..extent.offset + extent.length);
    }
    for runs in all.values_mut() {
        runs.sort_by_key(|run| run.start);
        let mut merged: Vec<Range<u64>> = Vec::with_capacity(runs.len());
        for run in runs.drain(..) {
            match merged.last_mut() {
                Some(last) if run.start <= last.end => last.end = last.end.max(run.end),
                _ => merged.push(run),
            }
        }
        *runs = merged;
    }
    all
}

/// The root as it may be handed on.
impl Root {
    pub(crate) fn without_secrets(&self) -> Self {
        Self {
            dataset: self.dataset,
            version: self.version,
            obj_log2: self.obj_log2,
            table: self.table.clone(),
            pages: self.pages.clone(),
            older: BTreeMap::<u32, EpochSecret>::new(),
            files: self.files,
            directories: self.directories,
            bytes: self.bytes,
            meta: self.meta.clone(),
            tree: self.tree,
        }
    }
}
