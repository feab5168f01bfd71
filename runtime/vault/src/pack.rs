//! Which bytes go into which object (container section 7, packing): large files get objects of their own, small
//! ones are packed together in path order, and the last object of a run is padded to a Padmé length.

use crate::digest::Sha256;
use crate::entry::{Entry, EntryKind, Extent};
use crate::manifest::Row;
use crate::merkle;
use crate::object::Kind;
use crate::reuse::Unchanged;
use crate::seal::{Sealer, number, tree};
use crate::source::{SourceFile, io};
use crate::{Result, VaultError};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// Object table and entries of a packed tree.
pub(crate) struct Packed {
    pub(crate) rows: Vec<Row>,
    /// In path order, directories included.
    pub(crate) entries: Vec<Entry>,
}

/// Fills objects and seals each as soon as it is full.
pub(crate) struct Packer<'a, 'b> {
    sealer: &'a mut Sealer<'b>,
    unchanged: &'a Unchanged,
    capacity: usize,
    rows: Vec<Row>,
    /// Leaves by object number, for objects of more than one slice.
    leaves: BTreeMap<u32, Vec<[u8; 32]>>,
    filling: Vec<u8>,
}

impl<'a, 'b> Packer<'a, 'b> {
    pub(crate) fn new(sealer: &'a mut Sealer<'b>, unchanged: &'a Unchanged) -> Self {
        let capacity = 1 << sealer.params.obj_log2;
        let rows = unchanged.rows().to_vec();
        Self {
            sealer,
            unchanged,
            capacity,
            rows,
            leaves: BTreeMap::new(),
            filling: Vec::new(),
        }
    }

    pub(crate) fn pack(mut self, files: &[SourceFile]) -> Result<Packed> {
        let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
        for (path, directory) in tree(files)? {
            if directory {
                entries.insert(path.to_owned(), Entry::directory(path.to_owned()).settle());
            }
        }
        let mut sorted: Vec<_> = files.iter().collect();
        sorted.sort_by(|one, two| one.path.cmp(&two.path));
        let mut large = Vec::new();
        for file in sorted {
            if let Some(entry) = self.unchanged.entry(file) {
                entries.insert(file.path.clone(), entry);
            } else if file.is_directory() {
                entries.insert(file.path.clone(), describe(file, Vec::new(), 0, [0; 32]));
            } else if file.size()? >= self.capacity as u64 / 4 {
                large.push(file);
            } else {
                entries.insert(file.path.clone(), self.file(file)?);
            }
        }
        self.flush()?;
        for file in large {
            entries.insert(file.path.clone(), self.file(file)?);
            self.flush()?;
        }
        self.seal_leaves()?;
        Ok(Packed {
            rows: self.rows,
            entries: entries.into_values().collect(),
        })
    }

    /// Reads one file into objects.
    fn file(&mut self, file: &SourceFile) -> Result<Entry> {
        let expected = file.size()?;
        let mut reader = file.open()?;
        let mut hasher = Sha256::new();
        let mut extents = Vec::new();
        let mut size = 0;
        loop {
            if self.filling.len() == self.capacity {
                self.flush()?;
            }
            let offset = self.filling.len();
            let room = (self.capacity - offset) as u64;
            let read = reader.by_ref().take(room).read_to_end(&mut self.filling);
            let read = read.map_err(io("read", Path::new(&file.path)))? as u64;
            if read == 0 {
                break;
            }
            hasher.update(&self.filling[offset..]);
            extents.push(Extent {
                object: number(self.rows.len())?,
                offset: offset as u64,
                length: read,
            });
            size += read;
        }
        if size != expected {
            let source = std::io::Error::other("it changed while it was read");
            return Err(VaultError::Io {
                action: "seal",
                path: file.path.clone().into(),
                source,
            });
        }
        Ok(describe(file, extents, size, hasher.finalize()))
    }

    /// Seals what is being filled, padded when it is not full.
    fn flush(&mut self) -> Result<()> {
        if self.filling.is_empty() {
            return Ok(());
        }
        self.filling
            .resize(padme(self.filling.len()).min(self.capacity), 0);
        let (row, bytes) = self.sealer.seal(Kind::Data, &self.filling)?;
        self.filling.clear();
        if bytes.len() > merkle::SLICE {
            self.leaves
                .insert(number(self.rows.len())?, merkle::leaves(&bytes));
        }
        self.rows.push(row);
        Ok(())
    }

    /// Seals the leaves of this version's data objects, whole objects to a table, in order of their numbers.
    fn seal_leaves(&mut self) -> Result<()> {
        let mut table = Vec::new();
        let mut named = Vec::new();
        for (object, leaves) in std::mem::take(&mut self.leaves) {
            if !table.is_empty() && table.len() + 32 * leaves.len() > self.capacity {
                self.seal_leaf_table(&mut table, &mut named)?;
            }
            leaves.iter().for_each(|leaf| table.extend_from_slice(leaf));
            named.push(object);
        }
        self.seal_leaf_table(&mut table, &mut named)
    }

    fn seal_leaf_table(&mut self, table: &mut Vec<u8>, named: &mut Vec<u32>) -> Result<()> {
        if named.is_empty() {
            return Ok(());
        }
        let at = number(self.rows.len())?;
        let (row, _) = self.sealer.seal(Kind::Leaves, table)?;
        for object in named.drain(..) {
            self.rows[object as usize].leaves = Some(at);
        }
        self.rows.push(row);
        table.clear();
        Ok(())
    }
}

/// An entry for `file` as found.
pub(crate) fn describe(file: &SourceFile, extents: Vec<Extent>, size: u64, sha256: [u8; 32]) -> Entry {
    let mut entry = Entry::directory(file.path.clone());
    if !file.is_directory() {
        entry.kind = EntryKind::File;
        entry.mime = file.mime_or_guess();
    }
    entry.size = size;
    entry.sha256 = sha256;
    entry.extents = extents;
    entry.mtime = file.mtime;
    entry.executable = file.executable;
    entry.attributes = file.attributes.clone();
    entry.settle()
}

/// The Padmé length: at most 12 % more, so that a size tells little of the content.
fn padme(length: usize) -> usize {
    let Some(log) = length.checked_ilog2().filter(|log| *log > 0) else {
        return length;
    };
    let mask = (1 << (log - (log.ilog2() + 1))) - 1;
    (length + mask) & !mask
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pads_to_known_lengths() {
        for (length, padded) in [
            (0, 0),
            (1, 1),
            (2, 2),
            (9, 10),
            (100, 104),
            (1_000, 1_024),
            (1 << 25, 1 << 25),
        ] {
            assert_eq!(padme(length), padded, "{length}");
        }
    }

    proptest! {
        #[test]
        fn pads_little_and_never_beyond_the_next_power(length in 2_usize..1 << 26) {
            let padded = padme(length);
            prop_assert!(padded >= length && padded <= length.next_power_of_two());
            prop_assert!((padded - length) * 100 <= length * 12);
        }
    }
}
