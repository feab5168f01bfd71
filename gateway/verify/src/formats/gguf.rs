//! The GGUF format, versions 2 and 3, little-endian; by `docs/gguf.md` of ggml and its `gguf.cpp`.
//!
//! Counts and lengths come from the file, so each is compared with what is left of it before anything is kept.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::ops::Range;

use crate::formats::template;
use crate::reader::{Parsed, Reader, fault, fault_with, shown};

/// More tensors than any known model has; 24 bytes are kept of each.
const TENSORS_MAX: u64 = 100_000;
const KEYS_MAX: u64 = 100_000;
const NAME_MAX: u64 = 512;
const KEY_MAX: u64 = 65_535;
const TEXT_MAX: u64 = 1024 * 1024;
const ARRAYS_MAX: usize = 4;
const ALIGNMENT: u64 = 32;
const ALIGNMENT_MAX: u32 = 65_536;

/// What a well-formed file has.
pub(crate) struct Gguf {
    /// Where the bytes of tensors are.
    pub(crate) data: Range<u64>,
    /// Its chat template reaches for Python's insides.
    pub(crate) template: Option<&'static str>,
}

/// Reads everything but the tensors' bytes.
pub(crate) fn check(reader: &mut Reader<'_>) -> Parsed<Gguf> {
    reader.skip(4)?;
    let version = reader.u32()?;
    if !matches!(version, 2 | 3) {
        return match version.swap_bytes() {
            2 | 3 => fault_with(
                "is a big-endian GGUF file",
                "convert it to little-endian, which all readers take",
            ),
            _ => fault_with(
                format!("has GGUF version {version}"),
                "convert it again: versions 2 and 3 are read",
            ),
        };
    }
    let (tensors, keys) = (reader.u64()?, reader.u64()?);
    if tensors > TENSORS_MAX || keys > KEYS_MAX {
        return fault(format!(
            "announces {tensors} tensors and {keys} keys, more than any model has"
        ));
    }
    let mut found = Keys {
        hasher: RandomState::new(),
        seen: HashSet::new(),
        alignment: ALIGNMENT,
        template: None,
    };
    for _ in 0..keys {
        found.entry(reader)?;
    }
    let mut ranges = Vec::new();
    found.seen.clear();
    for _ in 0..tensors {
        let range = found.tensor(reader)?;
        ranges.push(range);
    }
    let data = placed(ranges, found.alignment, reader)?;
    Ok(Gguf {
        data,
        template: found.template,
    })
}

struct Keys {
    // Names are kept as hashes under a key that no file can know.
    hasher: RandomState,
    seen: HashSet<u64>,
    alignment: u64,
    template: Option<&'static str>,
}

impl Keys {
    fn once(&mut self, name: &str) -> Parsed<()> {
        if self.seen.insert(self.hasher.hash_one(name)) {
            Ok(())
        } else {
            fault(format!("has the name `{}` twice", shown(name)))
        }
    }

    fn entry(&mut self, reader: &mut Reader<'_>) -> Parsed<()> {
        let key = text(reader, KEY_MAX)?;
        self.once(&key)?;
        let kind = reader.u32()?;
        match (key.as_str(), kind) {
            ("general.alignment", 4) => {
                let alignment = reader.u32()?;
                if !alignment.is_power_of_two() || !(8..=ALIGNMENT_MAX).contains(&alignment) {
                    return fault(format!("has an alignment of {alignment}"));
                }
                self.alignment = u64::from(alignment);
                Ok(())
            }
            ("general.alignment", _) => fault("has an alignment that is no 32-bit number"),
            (_, 8) if key.starts_with("tokenizer.chat_template") => {
                let text = text(reader, TEXT_MAX)?;
                self.template = self.template.or(template::climbs(&text));
                Ok(())
            }
            _ => value(kind, reader, 0),
        }
    }

    /// One tensor's description; where its bytes are, from the start of the data.
    fn tensor(&mut self, reader: &mut Reader<'_>) -> Parsed<Range<u64>> {
        let name = text(reader, NAME_MAX)?;
        self.once(&name)?;
        let dimensions = reader.u32()?;
        if dimensions > 4 {
            return fault(format!(
                "has a tensor `{}` of {dimensions} dimensions",
                shown(&name)
            ));
        }
        let mut elements = Some(1u64);
        let mut row = 1;
        for dimension in 0..dimensions {
            let size = reader.u64()?;
            row = if dimension == 0 { size } else { row };
            elements = elements.and_then(|all| all.checked_mul(size));
        }
        let kind = reader.u32()?;
        let from = reader.u64()?;
        let Some((block, bytes)) = block(kind) else {
            return fault(format!(
                "has a tensor `{}` of the unknown type {kind}",
                shown(&name)
            ));
        };
        let size = elements
            .filter(|_| row % block == 0)
            .and_then(|elements| (elements / block).checked_mul(bytes));
        match size.and_then(|size| from.checked_add(size)) {
            Some(to) if from % self.alignment == 0 => Ok(from..to),
            Some(_) => fault(format!("has a tensor `{}` that is not aligned", shown(&name))),
            None => fault(format!(
                "has a tensor `{}` whose type and shape give no size",
                shown(&name)
            )),
        }
    }
}

/// Tensors follow each other with less than one alignment between them, inside the file.
fn placed(mut ranges: Vec<Range<u64>>, alignment: u64, reader: &mut Reader<'_>) -> Parsed<Range<u64>> {
    let end = reader.end();
    let Some(start) = reader
        .position()
        .checked_next_multiple_of(alignment)
        .filter(|start| *start <= end || ranges.is_empty())
    else {
        return fault("is cut off before its tensors");
    };
    let start = start.min(end);
    ranges.sort_by_key(|range| (range.start, range.end));
    let mut at = 0;
    for range in &ranges {
        if range.start < at {
            return fault("has tensors that overlap");
        }
        if range.start - at >= alignment {
            return fault(format!(
                "has a hole of {} bytes between tensors",
                range.start - at
            ));
        }
        padding(start.saturating_add(at), range.start - at, reader)?;
        at = range.end;
    }
    let Some(stop) = start.checked_add(at).filter(|stop| *stop <= end) else {
        return fault("is cut off: its tensors end after the file does");
    };
    if end - stop >= alignment {
        return fault_with(
            format!("goes on for {} bytes after its last tensor", end - stop),
            "something was appended to it: convert it again",
        );
    }
    padding(stop, end - stop, reader)?;
    Ok(start..stop)
}

fn padding(from: u64, count: u64, reader: &mut Reader<'_>) -> Parsed<()> {
    reader.seek(from)?;
    let bytes = reader.bytes(count, u64::from(ALIGNMENT_MAX))?;
    if bytes.iter().any(|byte| *byte != 0) {
        return fault(format!(
            "has bytes between its tensors, at {from}, that are not zero"
        ));
    }
    Ok(())
}

fn text(reader: &mut Reader<'_>, limit: u64) -> Parsed<String> {
    let length = reader.u64()?;
    let bytes = reader.bytes(length, limit)?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(_) => fault(format!(
            "has a name at byte {} that is not UTF-8",
            reader.position()
        )),
    }
}

/// Skips one value.
fn value(kind: u32, reader: &mut Reader<'_>, depth: usize) -> Parsed<()> {
    match (kind, width(kind)) {
        (7, _) => match reader.u8()? {
            0 | 1 => Ok(()),
            other => fault(format!("has a truth value of {other}")),
        },
        (_, Some(width)) => reader.skip(width),
        (8, _) => {
            let length = reader.u64()?;
            if length > TEXT_MAX {
                return fault(format!("has a text of {length} bytes, more than {TEXT_MAX}"));
            }
            reader.skip(length)
        }
        (9, _) => array(reader, depth),
        _ => fault(format!("has a value of the unknown type {kind}")),
    }
}

fn array(reader: &mut Reader<'_>, depth: usize) -> Parsed<()> {
    if depth >= ARRAYS_MAX {
        return fault("has arrays within arrays, too deep");
    }
    let (kind, count) = (reader.u32()?, reader.u64()?);
    if let Some(width) = width(kind) {
        return match count.checked_mul(width) {
            Some(bytes) => reader.skip(bytes),
            None => fault(format!("has an array of {count} values")),
        };
    }
    // Each text or array takes eight bytes at the least, so this bounds the loop before it starts.
    if count > reader.left() / 8 {
        return fault(format!(
            "has an array of {count} values, more than fit into the file"
        ));
    }
    for _ in 0..count {
        value(kind, reader, depth + 1)?;
    }
    Ok(())
}

fn width(kind: u32) -> Option<u64> {
    Some(match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        10..=12 => 8,
        _ => return None,
    })
}

/// Elements and bytes of a block, as ggml's `type_traits`; types that never stand in files are left out.
fn block(kind: u32) -> Option<(u64, u64)> {
    Some(match kind {
        0 | 26 => (1, 4),
        1 | 25 | 30 => (1, 2),
        24 => (1, 1),
        27 | 28 => (1, 8),
        2 | 20 => (32, 18),
        3 => (32, 20),
        6 => (32, 22),
        7 => (32, 24),
        8 => (32, 34),
        10 => (256, 84),
        11 | 21 => (256, 110),
        12 => (256, 144),
        13 => (256, 176),
        14 => (256, 210),
        16 | 35 => (256, 66),
        17 => (256, 74),
        18 => (256, 98),
        19 => (256, 50),
        22 => (256, 82),
        23 => (256, 136),
        29 => (256, 56),
        34 => (256, 54),
        39 => (32, 17),
        40 => (64, 36),
        41 => (128, 18),
        _ => return None,
    })
}
