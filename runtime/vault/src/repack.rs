//! Packing of a revision of a model: what is in the one before is named again, by file, by part of a file and by object;
//! safetensors files are cut at their tensors ([`crate::cuts`]); all else is packed as in a dataset.
//!
//! Two passes keep one object in memory: first what is small of all files, packed together, then what has objects
//! of its own. A file of which both are needed is read twice, and must be the same both times.

use crate::cuts::{self, Piece};
use crate::digest::Sha256;
use crate::entry::{Entry, Extent};
use crate::pack::{
    Filler, Packed, Seen, changed, describe, directories, sorted, while_looking, while_sealing,
};
use crate::seal::{Sealer, number};
use crate::source::{Source, SourceFile, io};
use crate::taken::Taken;
use crate::{Result, VaultError};
use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

/// Bytes read at a time that go into no object.
const READ: usize = 1 << 20;

struct Repacker<'a> {
    taken: &'a Taken,
    filler: Filler<'a>,
    /// Objects by the numbers that extents have until the rows are known.
    objects: Vec<Object>,
    /// Those of them that are old, by their old number.
    old: HashMap<u32, u32>,
    /// New ones by what is in them: equal ones are sealed once.
    new: HashMap<[u8; 32], u32>,
}

#[derive(Clone, Copy)]
enum Object {
    /// By its number in the revision before.
    Old(u32),
    /// By its order among those that are sealed now.
    New(u32),
}

/// A file and where its bytes go.
struct Draft<'f> {
    file: &'f SourceFile,
    size: u64,
    sha256: Option<[u8; 32]>,
    parts: Vec<Part>,
}

struct Part {
    offset: u64,
    length: u64,
    goes: Goes,
    extents: Vec<Extent>,
    /// What was packed, to be compared when the whole file is read.
    packed: Option<[u8; 32]>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Goes {
    /// It is in an old object.
    Nowhere,
    /// Together with what is small.
    Packed,
    /// Into an object of its own.
    Alone,
}

/// Packs and seals `files`; what is in the revision before names the objects that it has there.
pub(crate) fn repack(files: &[SourceFile], sealer: &mut Sealer<'_>, taken: &Taken) -> Result<Packed> {
    let (mut sealed, (mut entries, objects)) = while_sealing(sealer, Vec::new(), |filler| {
        Repacker::new(taken, filler).pack(files)
    })?;
    // Behind the new ones and their leaves.
    let mut numbers = Vec::with_capacity(objects.len());
    let mut old_rows: HashMap<u32, u32> = HashMap::new();
    for object in objects {
        numbers.push(match object {
            Object::New(new) => new,
            Object::Old(old) => match old_rows.get(&old) {
                Some(known) => *known,
                None => {
                    let row = taken.row(old).ok_or_else(|| missing(old))?;
                    let at = number(sealed.rows.len())?;
                    sealed.rows.push(row.clone());
                    old_rows.insert(old, at);
                    at
                }
            },
        });
    }
    for extent in entries.iter_mut().flat_map(|entry| &mut entry.extents) {
        let known = numbers.get(extent.object as usize);
        extent.object = *known.ok_or_else(|| missing(extent.object))?;
    }
    Ok(Packed {
        rows: sealed.rows,
        entries,
    })
}

/// Digest and length of each object that [`repack`] would seal of these files, were there nothing before them. Blocking.
pub(crate) fn look(files: &[SourceFile], obj_log2: u8) -> Result<Vec<Seen>> {
    let nothing = Taken::unknown();
    let looking = while_looking(1 << obj_log2, &|| Ok(None), |filler| {
        Repacker::new(&nothing, filler).pack(files)
    });
    Ok(looking?.0)
}

impl<'a> Repacker<'a> {
    fn new(taken: &'a Taken, filler: Filler<'a>) -> Self {
        Self {
            taken,
            filler,
            objects: Vec::new(),
            old: HashMap::new(),
            new: HashMap::new(),
        }
    }
}

impl Repacker<'_> {
    /// All entries in path order, directories included, and the objects that their extents number.
    fn pack(mut self, files: &[SourceFile]) -> Result<(Vec<Entry>, Vec<Object>)> {
        let mut entries = directories(files)?;
        let mut drafts = Vec::new();
        for file in sorted(files) {
            if file.is_directory() {
                entries.insert(file.path.clone(), describe(file, Vec::new(), 0, [0; 32]));
            } else {
                drafts.push(self.draft(file)?);
            }
        }
        for draft in &mut drafts {
            self.pack_small(draft)?;
        }
        self.flush()?;
        for mut draft in drafts {
            let sha256 = self.pack_large(&mut draft)?;
            let extents = draft.parts.into_iter().flat_map(|part| part.extents).collect();
            let entry = describe(draft.file, extents, draft.size, sha256);
            entries.insert(draft.file.path.clone(), entry);
        }
        Ok((entries.into_values().collect(), self.objects))
    }

    fn draft<'f>(&mut self, file: &'f SourceFile) -> Result<Draft<'f>> {
        let (size, taken) = (file.size()?, self.taken);
        let known = taken.file(&file.path);
        let is_taken = |extent: &Extent| taken.is_whole_object(extent.object);
        let parts = match known {
            Some(old) if old.extents.iter().any(is_taken) => self.old_parts(old)?,
            _ => {
                let pieces = pieces(file, size, self.filler.capacity())?;
                let mut offset = 0;
                let part = |piece: Piece| {
                    let goes = if piece.packed { Goes::Packed } else { Goes::Alone };
                    let part = Part::new(offset, piece.length, goes);
                    offset += piece.length;
                    part
                };
                pieces.into_iter().map(part).collect()
            }
        };
        Ok(Draft {
            file,
            size,
            sha256: known.map(|old| old.sha256),
            parts,
        })
    }

    /// Of a file that stays: what is in objects that stay too is named again, the rest is sealed anew.
    fn old_parts(&mut self, old: &Entry) -> Result<Vec<Part>> {
        let (mut parts, mut offset) = (Vec::with_capacity(old.extents.len()), 0);
        for extent in &old.extents {
            let is_small = extent.length < self.filler.capacity() / 4;
            let mut part = Part::new(
                offset,
                extent.length,
                match (self.taken.is_whole_object(extent.object), is_small) {
                    (true, _) => Goes::Nowhere,
                    (false, true) => Goes::Packed,
                    (false, false) => Goes::Alone,
                },
            );
            if part.goes == Goes::Nowhere {
                part.extents.push(Extent {
                    object: self.old_object(extent.object)?,
                    ..*extent
                });
            }
            offset += extent.length;
            parts.push(part);
        }
        Ok(parts)
    }

    fn old_object(&mut self, old: u32) -> Result<u32> {
        if let Some(known) = self.old.get(&old) {
            return Ok(*known);
        }
        let at = number(self.objects.len())?;
        self.objects.push(Object::Old(old));
        self.old.insert(old, at);
        Ok(at)
    }

    fn pack_small(&mut self, draft: &mut Draft<'_>) -> Result<()> {
        for part in draft.parts.iter_mut().filter(|part| part.goes == Goes::Packed) {
            let mut from = draft.file.open_at(part.offset)?;
            let mut hasher = Sha256::new();
            self.fill(draft.file, part, &mut from, &mut [&mut hasher])?;
            part.packed = Some(hasher.finalize());
        }
        Ok(())
    }

    /// Fills what has objects of its own; returns the whole file's hash.
    fn pack_large(&mut self, draft: &mut Draft<'_>) -> Result<[u8; 32]> {
        let file = draft.file;
        let is_named = draft.parts.iter().all(|part| part.goes == Goes::Nowhere);
        let is_own = matches!(&file.source, Source::Sealed { reader, .. } if self.taken.is_of(reader));
        if let Some(known) = draft.sha256.filter(|_| is_named || is_own) {
            for part in draft.parts.iter_mut().filter(|part| part.goes == Goes::Alone) {
                let mut from = file.open_at(part.offset)?;
                self.fill(file, part, &mut from, &mut [])?;
                self.flush()?;
            }
            return Ok(known);
        }
        let mut from = file.open()?;
        let mut whole = Sha256::new();
        for part in &mut draft.parts {
            if part.goes == Goes::Alone {
                self.fill(file, part, &mut from, &mut [&mut whole])?;
                self.flush()?;
                continue;
            }
            let mut again = Sha256::new();
            read(file, &mut from, part.length, |bytes| {
                whole.update(bytes);
                again.update(bytes);
            })?;
            let again = again.finalize();
            if part.packed.is_some_and(|packed| packed != again) {
                return Err(changed(file));
            }
        }
        let rest = from.read(&mut [0]).map_err(io("read", Path::new(&file.path)))?;
        let whole = whole.finalize();
        if rest > 0 || draft.sha256.is_some_and(|known| known != whole) {
            return Err(changed(file));
        }
        Ok(whole)
    }

    /// Reads one part into objects.
    fn fill(
        &mut self,
        file: &SourceFile,
        part: &mut Part,
        from: &mut dyn Read,
        hashers: &mut [&mut Sha256],
    ) -> Result<()> {
        let mut left = part.length;
        while left > 0 {
            if self.filler.is_full() {
                self.flush()?;
            }
            let object = number(self.objects.len())?;
            let (offset, read) = self.filler.fill(&file.path, from, left)?;
            let length = read.len() as u64;
            if length == 0 {
                return Err(changed(file));
            }
            hashers.iter_mut().for_each(|hasher| hasher.update(read));
            part.extents.push(Extent {
                object,
                offset,
                length,
            });
            left -= length;
        }
        part.extents.shrink_to_fit();
        Ok(())
    }

    /// Has sealed what is being filled, unless there is such an object.
    fn flush(&mut self) -> Result<()> {
        let Some(mut prepared) = self.filler.finish()? else {
            return Ok(());
        };
        let digest = prepared.digest;
        let object = match (self.taken.object(&digest, prepared.len()), self.new.get(&digest)) {
            (Some(old), _) => Object::Old(old),
            (None, Some(new)) => Object::New(*new),
            (None, None) => {
                let new = number(self.new.len())?;
                prepared.drawn.object_id = self.taken.id(&digest)?;
                self.filler.send(prepared)?;
                self.new.insert(digest, new);
                Object::New(new)
            }
        };
        self.objects.push(object);
        Ok(())
    }
}

impl Part {
    fn new(offset: u64, length: u64, goes: Goes) -> Self {
        Self {
            offset,
            length,
            goes,
            extents: Vec::new(),
            packed: None,
        }
    }
}

/// How a file that is sealed now is divided.
fn pieces(file: &SourceFile, size: u64, capacity: u64) -> Result<Vec<Piece>> {
    if size < capacity / 4 {
        let piece = Piece {
            length: size,
            packed: true,
        };
        return Ok(Vec::from_iter((size > 0).then_some(piece)));
    }
    if let Some((header, tensors)) = tensors(file, size)? {
        return Ok(cuts::cut(header, &tensors, capacity));
    }
    let piece = |at| Piece {
        length: capacity.min(size - at * capacity),
        packed: false,
    };
    Ok((0..size.div_ceil(capacity)).map(piece).collect())
}

/// Bytes before the tensors and sizes of these, of a file that is one of safetensors.
fn tensors(file: &SourceFile, size: u64) -> Result<Option<(u64, Vec<u64>)>> {
    let mut from = file.open()?;
    let mut head = Vec::new();
    let mut append = |bytes: &[u8]| head.extend_from_slice(bytes);
    read(file, &mut from, 8, &mut append)?;
    let first = head.first_chunk().copied().unwrap_or_default();
    let Some(length) = cuts::header_length(first, size) else {
        return Ok(None);
    };
    head.clear();
    read(file, &mut from, length, |bytes| head.extend_from_slice(bytes))?;
    let found = cuts::tensors(&head, size - 8 - length);
    Ok(found.map(|tensors| (8 + length, tensors)))
}

/// Reads exactly so many bytes.
fn read(file: &SourceFile, from: &mut dyn Read, length: u64, mut take: impl FnMut(&[u8])) -> Result<()> {
    let mut piece = vec![0; READ.min(usize::try_from(length).unwrap_or(READ))];
    let mut left = length;
    while left > 0 {
        let most = piece.len().min(usize::try_from(left).unwrap_or(READ));
        let count = from
            .read(&mut piece[..most])
            .map_err(io("read", Path::new(&file.path)))?;
        if count == 0 {
            return Err(changed(file));
        }
        take(&piece[..count]);
        left -= count as u64;
    }
    Ok(())
}

fn missing(object: u32) -> VaultError {
    VaultError::Tree {
        what: format!("object {object} is not in the table"),
    }
}
