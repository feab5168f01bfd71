//! Looks for structures that have no business in a file: archives, pickles and programs after its end, before its
//! beginning or in its metadata.
//!
//! Every place outside tensor data is looked at; each candidate is confirmed by more of its structure than a magic
//! number, because pictures and tokenizers hold every short sequence by chance. Not found: what is encoded (base64,
//! compression) and what hides in the bytes of tensors, except a zip directory at the end of the file, which archive
//! readers find wherever it stands. A file that is tensors from its first byte on, as ONNX models have beside them, is
//! looked through all the same: it has no header of its own that would tell other readers what it is not.

use std::ops::Range;

use crate::error::Result;
use crate::formats::{pickle, zip};
use crate::inspect::TensorData;
use crate::reader::{Parsed, Reader, Stop, shown};
use crate::report::{Finding, Outcome};
use crate::scan::{Scan, Scanner};
use crate::source::{EntryKind, Source};

/// Of the list of signatures.
const VERSION: &str = "2";
/// Opcodes after which a stream is a pickle and no chance.
const WALK_MAX: usize = 2_000;
/// What candidates of one file may cost: each that is followed costs [`FOLLOWED`], its opcodes, and one for each
/// [`READ`] bytes that are read for it. More of them are no chance either. Long files may have more: chance makes one in 16 KiB.
const BUDGET: u64 = 5_000_000;
/// Bytes of a file for each more that its candidates may cost.
const BUDGET_STEP: u64 = 32;
const FOLLOWED: u64 = 100;
const READ: u64 = 32;
/// Modules that pickles of protocols 0 and 1, which have no magic, import to do harm.
const MODULES: [&[u8]; 12] = [
    b"cos\n",
    b"cnt\n",
    b"cposix\n",
    b"csubprocess\n",
    b"c__builtin__\n",
    b"cbuiltins\n",
    b"csys\n",
    b"crunpy\n",
    b"cimportlib\n",
    b"csocket\n",
    b"cshutil\n",
    b"cpty\n",
];

/// The built-in scanner for hidden structures.
#[derive(Debug, Clone, Copy, Default)]
pub struct Signatures;

impl Scanner for Signatures {
    fn name(&self) -> String {
        "alephlab-signatures".to_owned()
    }

    fn scan(&self, source: &dyn Source, tensor_data: &TensorData) -> Result<Scan> {
        let mut findings = Vec::new();
        for (number, entry) in source.entries().iter().enumerate() {
            if entry.kind != EntryKind::File {
                continue;
            }
            let opaque = tensor_data.get(&number).map_or(&[][..], Vec::as_slice);
            let hit = match first_hit(source, number, opaque) {
                Ok(hit) => hit,
                Err(Stop::Source(error)) => return Err(error),
                Err(Stop::Fault(fault)) => Some((entry.size, fault.why)),
            };
            findings.extend(hit.map(|(at, what)| {
                Finding {
                    file: entry.path.clone(),
                    why: format!("`{}` has {what} in it, at byte {at}", shown(&entry.path)),
                    what,
                    hint: "save the file again with the library of its format; nothing else may be inside it"
                        .to_owned(),
                }
            }));
        }
        let outcome = if findings.is_empty() {
            Outcome::Passed
        } else {
            Outcome::Failed
        };
        Ok(Scan {
            version: format!("{} signatures {VERSION}", crate::VERSION),
            outcome,
            findings,
        })
    }
}

/// The first hidden structure of a file, and where.
fn first_hit(source: &dyn Source, entry: usize, opaque: &[Range<u64>]) -> Parsed<Option<(u64, String)>> {
    let mut probe = Reader::new(source, entry);
    let is_zip = probe.peek(4)? == zip::LOCAL;
    let place = match () {
        () if opaque.iter().any(|range| range.start == 0) => Place::Tensors,
        () if probe.peek(4096)?.contains(&0) => Place::Binary,
        () => Place::Text,
    };
    let opaque = if place == Place::Tensors { &[] } else { opaque };
    if !is_zip && let Some(at) = zip::end_record(&mut probe)? {
        return Ok(Some((at, "the directory of a zip archive".to_owned())));
    }
    let mut search = Search {
        budget: BUDGET.saturating_add(probe.end() / BUDGET_STEP),
        probe,
        aside: Reader::new(source, entry),
        is_zip,
        place,
        before: b'\n',
    };
    for range in outside(opaque, search.probe.end()) {
        let hit = search.range(Reader::new(source, entry).within(&range))?;
        if hit.is_some() {
            return Ok(hit);
        }
    }
    Ok(None)
}

/// What of `0..size` is in none of the ranges.
pub(super) fn outside(ranges: &[Range<u64>], size: u64) -> Vec<Range<u64>> {
    let mut sorted = ranges.to_vec();
    sorted.sort_by_key(|range| range.start);
    let mut rest = Vec::new();
    let mut at = 0;
    for range in sorted {
        if range.start > at {
            rest.push(at..range.start.min(size));
        }
        at = at.max(range.end);
    }
    if at < size {
        rest.push(at..size);
    }
    rest
}

/// Where candidates are, which says what of them is chance.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Text,
    Binary,
    Tensors,
}

struct Search<'a> {
    probe: Reader<'a>,
    /// For what a candidate points to, so that the probe keeps what it holds.
    aside: Reader<'a>,
    budget: u64,
    is_zip: bool,
    place: Place,
    /// The byte before the candidate.
    before: u8,
}

impl Search<'_> {
    fn range(&mut self, mut reader: Reader<'_>) -> Parsed<Option<(u64, String)>> {
        let mut last = b'\n';
        while reader.left() > 0 {
            let start = reader.position();
            let chunk = reader.chunk()?;
            for (index, byte) in chunk.iter().enumerate() {
                // At the chunk's end the second byte is unknown, and the probe decides.
                let second = chunk.get(index + 1).copied();
                if !may_begin(*byte, second) {
                    continue;
                }
                let at = start + index as u64;
                self.before = match index.checked_sub(1) {
                    Some(before) => chunk.get(before).copied().unwrap_or_default(),
                    None => last,
                };
                if let Some(what) = self.confirmed(at)? {
                    return Ok(Some((at, what.to_owned())));
                }
                if self.budget == 0 {
                    return Ok(Some((
                        at,
                        "more that looks like programs than is followed".to_owned(),
                    )));
                }
            }
            last = chunk.last().copied().unwrap_or_default();
        }
        Ok(None)
    }

    /// What is at a place, if more than its first bytes says so. A file's own beginning is V3's business.
    fn confirmed(&mut self, at: u64) -> Parsed<Option<&'static str>> {
        if at == 0 {
            return Ok(None);
        }
        self.probe.seek(at)?;
        let head = self.probe.peek(600)?.to_vec();
        let is_plain = [
            (b"\x89HDF\r\n\x1a\n".as_slice(), "an HDF5 file"),
            (b"\0asm\x01\0\0\0", "a WebAssembly module"),
            (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
            (b"Rar!\x1a\x07", "a RAR archive"),
            (b"\xfd7zXZ\0\0", "an xz archive"),
        ];
        if let Some((_, what)) = is_plain.iter().find(|(magic, _)| head.starts_with(magic)) {
            return Ok(Some(what));
        }
        match head.as_slice() {
            [0x7f, b'E', b'L', b'F', 1 | 2, 1 | 2, 1, ..] => return Ok(Some("an ELF program or library")),
            [0xca, 0xfe, 0xba, 0xbe, 0, 0, 0, 45..=90, ..] => return Ok(Some("a Java class")),
            _ if is_mach_o(&head) => return Ok(Some("a Mach-O program or library")),
            _ if head.starts_with(zip::LOCAL) && !self.is_zip && is_zip_entry(&head) => {
                return Ok(Some("a zip archive"));
            }
            _ if head.starts_with(b"MZ") => return self.pe(at, &head),
            [0x80, 2..=5, ..] => {}
            // In text the word "cos" is no module, unless it stands where a pickle has it.
            _ if (self.place != Place::Text || self.before == b'\n')
                && MODULES.iter().any(|module| head.starts_with(module)) => {}
            _ => return Ok(None),
        }
        self.pickle(at)
    }

    fn pickle(&mut self, at: u64) -> Parsed<Option<&'static str>> {
        self.probe.seek(at)?;
        let before = self.probe.fetched();
        let walk = pickle::walk(&mut self.probe, WALK_MAX)?;
        let read = (self.probe.fetched() - before) / READ;
        self.cost(FOLLOWED + walk.opcodes as u64 + read);
        let is_one = match self.place {
            Place::Tensors => walk.is_named_pickle(),
            Place::Text if !walk.has_protocol => walk.reduces,
            Place::Text | Place::Binary => {
                walk.is_embedded_pickle() && (walk.has_protocol || walk.calls || walk.exhausted)
            }
        };
        Ok(is_one.then_some("a Python pickle"))
    }

    fn cost(&mut self, cost: u64) {
        self.budget = self.budget.saturating_sub(cost);
    }

    fn pe(&mut self, at: u64, head: &[u8]) -> Parsed<Option<&'static str>> {
        let field = head.get(0x3c..0x40).and_then(|bytes| bytes.try_into().ok());
        let Some(offset) = field
            .map(u32::from_le_bytes)
            .filter(|offset| (0x40..0x10_0000).contains(offset))
        else {
            return Ok(None);
        };
        let place = at + u64::from(offset);
        if place.saturating_add(4) > self.aside.end() {
            return Ok(None);
        }
        self.cost(FOLLOWED);
        self.aside.seek(place)?;
        Ok((self.aside.peek(4)? == b"PE\0\0").then_some("a Windows program or library"))
    }
}

fn may_begin(first: u8, second: Option<u8>) -> bool {
    let Some(second) = second else { return true };
    matches!(
        (first, second),
        (0x7f, b'E')
            | (b'M', b'Z')
            | (b'P', b'K')
            | (0x89, b'H')
            | (0, b'a')
            | (b'7', b'z')
            | (b'R', b'a')
            | (0xfd, b'7')
    ) || matches!(
        (first, second),
        (0xca, 0xfe) | (0xfe, 0xed) | (0xce | 0xcf, 0xfa) | (0x80, 2..=5) | (b'c', b'a'..=b'z' | b'_')
    )
}

/// Magic, a known processor and a known type of file (`mach-o/loader.h`).
fn is_mach_o(head: &[u8]) -> bool {
    let number = |at: usize| {
        head.get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok())
            .map_or(0, u32::from_le_bytes)
    };
    let (cpu, kind) = match number(0) {
        0xfeed_face | 0xfeed_facf => (number(4), number(12)),
        0xcefa_edfe | 0xcffa_edfe => (number(4).swap_bytes(), number(12).swap_bytes()),
        _ => return false,
    };
    matches!(cpu & 0x00ff_ffff, 7 | 12 | 18) && (1..=12).contains(&kind)
}

/// A local header with a version, a method and a printable name (APPNOTE 4.3.7).
fn is_zip_entry(head: &[u8]) -> bool {
    let number = |at: usize| {
        head.get(at..at + 2)
            .and_then(|bytes| bytes.try_into().ok())
            .map_or(u16::MAX, u16::from_le_bytes)
    };
    let (version, method, length) = (number(4) & 0xff, number(8), usize::from(number(26)));
    let name = head.get(30..30 + length.min(512)).unwrap_or_default();
    version <= 63
        && matches!(method, 0 | 8 | 9 | 12 | 14 | 93 | 95)
        && !name.is_empty()
        && name.iter().all(|byte| *byte >= 0x20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(
        clippy::single_range_in_vec_init,
        reason = "lists of ranges are what is looked at"
    )]
    fn looks_at_all_that_is_no_tensor() {
        assert_eq!(outside(&[], 9), vec![0..9]);
        assert_eq!(outside(&[6..8, 2..4, 3..5], 9), [0..2, 5..6, 8..9]);
        assert_eq!(outside(&[0..u64::MAX], 9), []);
    }
}
