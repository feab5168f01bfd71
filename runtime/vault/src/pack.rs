//! Which bytes go into which object (container section 7, packing): large files get objects of their own, small
//! ones are packed together in path order, and the last object of a run is padded to a Padmé length.

use crate::digest::Sha256;
use crate::draw::Draw;
use crate::entry::{Entry, EntryKind, Extent};
use crate::manifest::Row;
use crate::merkle;
use crate::object::{self, Kind};
use crate::reuse::Unchanged;
use crate::seal::{Place, Prepared, Room, Sealer, number, tree};
use crate::source::{SourceFile, io};
use crate::{Result, VaultError};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Object table and entries of a packed tree.
pub(crate) struct Packed {
    pub(crate) rows: Vec<Row>,
    /// In path order, directories included.
    pub(crate) entries: Vec<Entry>,
}

/// Reads files into objects.
struct Packer<'a> {
    unchanged: &'a Unchanged,
    /// Objects so far, those of earlier versions included.
    objects: usize,
    filler: Filler<'a>,
}

/// Fills one object, and has it sealed on another thread while the next is filled: reading, the file's hash and the hedge cost
/// about what encryption and the object's hash do.
pub(crate) struct Filler<'a> {
    capacity: usize,
    draw: Draw,
    filling: Vec<u8>,
    /// The place of what is filled.
    place: Place,
    room: &'a Room<'a>,
    full: SyncSender<Prepared>,
}

/// What the other thread made of the data objects.
pub(crate) struct Sealed {
    pub(crate) rows: Vec<Row>,
    /// Leaves by object number, for objects of more than one slice.
    leaves: BTreeMap<u32, Vec<[u8; 32]>>,
}

/// Packs and seals `files`; what did not change names the objects that it had.
pub(crate) fn pack(files: &[SourceFile], sealer: &mut Sealer<'_>, unchanged: &Unchanged) -> Result<Packed> {
    let rows = unchanged.rows().to_vec();
    let (sealed, entries) = while_sealing(sealer, rows, |filler| {
        let objects = unchanged.rows().len();
        let packer = Packer {
            unchanged,
            objects,
            filler,
        };
        packer.pack(files)
    })?;
    Ok(Packed {
        rows: sealed.rows,
        entries,
    })
}

/// Has `work` fill objects while another thread seals them behind `rows`; then the leaves of all are sealed.
pub(crate) fn while_sealing<'a, T>(
    sealer: &mut Sealer<'a>,
    rows: Vec<Row>,
    work: impl FnOnce(Filler<'a>) -> Result<T>,
) -> Result<(Sealed, T)> {
    let capacity = 1 << sealer.params.obj_log2;
    // Nothing waits between the threads: what waits is memory.
    let (full, prepared) = sync_channel(0);
    let filler = Filler {
        capacity,
        draw: sealer.draws(),
        filling: Vec::new(),
        place: None,
        room: sealer.room,
        full,
    };
    let (done, sealed) = std::thread::scope(|scope| {
        let sealing = scope.spawn(|| seal_all(sealer, rows, prepared));
        let done = work(filler);
        let sealed = sealing
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (done, sealed)
    });
    // When sealing failed, that is also why packing could not go on.
    let mut sealed = sealed?;
    let done = done?;
    sealed.seal_leaves(sealer, capacity)?;
    Ok((sealed, done))
}

/// Digest and length of an object's plaintext.
pub(crate) type Seen = ([u8; 32], u64);

/// Has `work` fill objects of this capacity of which nothing is kept but the digest and the length of each, in order.
pub(crate) fn while_looking<'a, T>(
    capacity: usize,
    room: &'a Room<'a>,
    work: impl FnOnce(Filler<'a>) -> Result<T>,
) -> Result<(Vec<Seen>, T)> {
    let (full, prepared) = sync_channel::<Prepared>(0);
    let filler = Filler {
        capacity,
        draw: Draw::Fresh,
        filling: Vec::new(),
        place: None,
        room,
        full,
    };
    std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let seen = prepared.into_iter().map(|object| (object.digest, object.len()));
            seen.collect()
        });
        let done = work(filler);
        let seen = looking
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((seen, done?))
    })
}

fn seal_all(sealer: &mut Sealer<'_>, rows: Vec<Row>, prepared: Receiver<Prepared>) -> Result<Sealed> {
    let mut sealed = Sealed {
        rows,
        leaves: BTreeMap::new(),
    };
    for next in prepared {
        let mut next = next;
        let place = next.place.take();
        let (row, object) = sealer.finish(Kind::Data, next)?;
        if object.bytes.len() > merkle::SLICE {
            let leaves = merkle::leaves(&object.bytes);
            sealed.leaves.insert(number(sealed.rows.len())?, leaves);
        }
        sealed.rows.push(row);
        sealer.hand_out(object, place)?;
    }
    Ok(sealed)
}

impl Packer<'_> {
    /// All entries in path order, directories included.
    fn pack(mut self, files: &[SourceFile]) -> Result<Vec<Entry>> {
        let mut entries = directories(files)?;
        let mut large = Vec::new();
        for file in sorted(files) {
            if let Some(entry) = self.unchanged.entry(file) {
                entries.insert(file.path.clone(), entry);
            } else if file.is_directory() {
                entries.insert(file.path.clone(), describe(file, Vec::new(), 0, [0; 32]));
            } else if file.size()? >= self.filler.capacity() / 4 {
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
        Ok(entries.into_values().collect())
    }

    /// Reads one file into objects.
    fn file(&mut self, file: &SourceFile) -> Result<Entry> {
        let expected = file.size()?;
        let mut reader = file.open()?;
        let mut hasher = Sha256::new();
        let mut extents = Vec::new();
        let mut size = 0;
        loop {
            if self.filler.is_full() {
                self.flush()?;
            }
            let (offset, read) = self.filler.fill(&file.path, &mut reader, u64::MAX)?;
            if read.is_empty() {
                break;
            }
            hasher.update(read);
            let length = read.len() as u64;
            extents.push(Extent {
                object: number(self.objects)?,
                offset,
                length,
            });
            size += length;
        }
        if size != expected {
            return Err(changed(file));
        }
        // Nearly always one, where a list that grows has room for four.
        extents.shrink_to_fit();
        Ok(describe(file, extents, size, hasher.finalize()))
    }

    fn flush(&mut self) -> Result<()> {
        if let Some(prepared) = self.filler.finish()? {
            self.filler.send(prepared)?;
            self.objects += 1;
        }
        Ok(())
    }
}

impl Filler<'_> {
    /// Most bytes of an object.
    pub(crate) fn capacity(&self) -> u64 {
        self.capacity as u64
    }

    pub(crate) fn is_full(&self) -> bool {
        self.filling.len() == self.capacity
    }

    /// Reads as much as there is room for, and no more than `most`; returns where it stands in the object, and itself.
    pub(crate) fn fill(&mut self, path: &str, from: &mut dyn Read, most: u64) -> Result<(u64, &[u8])> {
        if self.filling.capacity() == 0 {
            self.place = (self.room)()?;
            // Long enough for the object that it becomes: a buffer that grows is copied.
            self.filling.reserve_exact(sealed_capacity(self.capacity));
        }
        let offset = self.filling.len();
        let room = (self.capacity - offset) as u64;
        let read = from.take(room.min(most)).read_to_end(&mut self.filling);
        read.map_err(io("read", Path::new(path)))?;
        Ok((offset as u64, &self.filling[offset..]))
    }

    /// Takes what is being filled, padded when it is not full, to be sealed.
    pub(crate) fn finish(&mut self) -> Result<Option<Prepared>> {
        if self.filling.is_empty() {
            return Ok(None);
        }
        let mut plaintext = std::mem::take(&mut self.filling);
        plaintext.resize(padme(plaintext.len()).min(self.capacity), 0);
        let mut prepared = Prepared::draw(&self.draw, plaintext)?;
        prepared.place = self.place.take();
        Ok(Some(prepared))
    }

    /// Has it sealed.
    pub(crate) fn send(&self, prepared: Prepared) -> Result<()> {
        self.full.send(prepared).map_err(|_| VaultError::Stopped {
            reason: "objects are not sealed any more".into(),
        })
    }
}

/// The folders that these files are in.
pub(crate) fn directories(files: &[SourceFile]) -> Result<BTreeMap<String, Entry>> {
    let all = tree(files)?.into_iter().filter(|(_, directory)| *directory);
    let entry = |(path, _): (&str, bool)| (path.to_owned(), Entry::directory(path.to_owned()).settle());
    Ok(all.map(entry).collect())
}

/// Files in path order.
pub(crate) fn sorted(files: &[SourceFile]) -> Vec<&SourceFile> {
    let mut sorted: Vec<_> = files.iter().collect();
    sorted.sort_by(|one, two| one.path.cmp(&two.path));
    sorted
}

pub(crate) fn changed(file: &SourceFile) -> VaultError {
    VaultError::Io {
        action: "seal",
        path: file.path.clone().into(),
        source: std::io::Error::other("it changed while it was read"),
    }
}

impl Sealed {
    /// Seals the leaves of this version's data objects, whole objects to a table, in order of their numbers.
    fn seal_leaves(&mut self, sealer: &mut Sealer<'_>, capacity: usize) -> Result<()> {
        let mut table = Vec::new();
        let mut named = Vec::new();
        for (object, leaves) in std::mem::take(&mut self.leaves) {
            if !table.is_empty() && table.len() + 32 * leaves.len() > capacity {
                self.seal_leaf_table(sealer, std::mem::take(&mut table), &mut named)?;
            }
            leaves.iter().for_each(|leaf| table.extend_from_slice(leaf));
            named.push(object);
        }
        self.seal_leaf_table(sealer, table, &mut named)
    }

    fn seal_leaf_table(
        &mut self,
        sealer: &mut Sealer<'_>,
        table: Vec<u8>,
        named: &mut Vec<u32>,
    ) -> Result<()> {
        if named.is_empty() {
            return Ok(());
        }
        let at = number(self.rows.len())?;
        let row = sealer.seal(Kind::Leaves, table)?;
        for object in named.drain(..) {
            self.rows[object as usize].leaves = Some(at);
        }
        self.rows.push(row);
        Ok(())
    }
}

/// Bytes of an object of so many bytes of plaintext.
fn sealed_capacity(plaintext: usize) -> usize {
    usize::try_from(object::ciphertext_len(plaintext as u64)).unwrap_or(plaintext)
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
pub(crate) fn padme(length: usize) -> usize {
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
