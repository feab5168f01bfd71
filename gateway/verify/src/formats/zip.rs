//! Zip archives, by PKWARE's APPNOTE: what is in them, and whether they are NumPy's `.npz`.
//!
//! The directory and the local headers must agree and lie one after the other: readers that trust the one or the other
//! would else see different files. Little is inflated, and never more than the entry says.

use std::collections::HashSet;
use std::ops::Range;

use flate2::{Decompress, FlushDecompress, Status};

use crate::formats::npy;
use crate::reader::{Parsed, Reader, fault, fault_with, shown};

const ENTRIES_MAX: u64 = 10_000;
/// The directory, kept while the entries are looked at.
const DIRECTORY_MAX: u64 = 2 * 1024 * 1024;
/// The end record with the longest comment.
const TAIL: u64 = 22 + 65_535;
/// Inflated bytes of one archive: beyond that, checking takes too long.
const INFLATED_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// Above this size, an entry that grows by more than [`RATIO_MAX`] is a bomb.
const RATIO_FROM: u64 = 16 * 1024 * 1024;
const RATIO_MAX: u64 = 200;
pub(crate) const LOCAL: &[u8] = b"PK\x03\x04";
const CENTRAL: &[u8] = b"PK\x01\x02";
const END: &[u8] = b"PK\x05\x06";

/// The flag for sizes and checksum behind the bytes.
const DESCRIPTOR: u16 = 8;
/// More end records than this at the end of a file are no chance.
const ENDS_MAX: usize = 16;

/// One file in an archive.
pub(crate) struct Member {
    pub(crate) name: String,
    flags: u16,
    method: u16,
    crc: u32,
    packed: u64,
    size: u64,
    local: u64,
}

/// Where the end record is, if a reader that looks for it from the end of the file would take it for one.
pub(crate) fn end_record(reader: &mut Reader<'_>) -> Parsed<Option<u64>> {
    let tail = reader.end().min(TAIL);
    let start = reader.end() - tail;
    reader.seek(start)?;
    let bytes = reader.bytes(tail, TAIL)?;
    let mut from = bytes.len();
    let mut ends = 0;
    while let Some(at) = bytes
        .get(..from)
        .and_then(|part| part.windows(4).rposition(|window| window == END))
    {
        from = at + 3;
        let place = start + at as u64;
        ends += 1;
        if ends > ENDS_MAX {
            return Ok(Some(place));
        }
        let number = |offset: usize| {
            let field = bytes.get(at + offset..at + offset + 4)?;
            Some(u64::from(u32::from_le_bytes(field.try_into().ok()?)))
        };
        let (Some(size), Some(offset)) = (number(12), number(16)) else {
            continue;
        };
        // Readers go by the size, the offset, or the zip64 locator before the record.
        let by_size = place.checked_sub(size).filter(|_| size > 0);
        let is_zip64 = at
            .checked_sub(20)
            .is_some_and(|before| bytes.get(before..before + 4) == Some(b"PK\x06\x07"));
        for directory in [by_size, Some(offset)].into_iter().flatten() {
            if directory < place && starts_with(reader, directory, CENTRAL)? {
                return Ok(Some(place));
            }
        }
        if is_zip64 {
            return Ok(Some(place));
        }
    }
    Ok(None)
}

fn starts_with(reader: &mut Reader<'_>, at: u64, magic: &[u8]) -> Parsed<bool> {
    reader.seek(at)?;
    Ok(reader.peek(magic.len())? == magic)
}

/// Reads the directory of an archive that ends with its end record.
pub(crate) fn members(reader: &mut Reader<'_>) -> Parsed<Vec<Member>> {
    let Some(end) = end_record(reader)? else {
        return fault("is a zip archive without a directory");
    };
    reader.seek(end + 10)?;
    let (mut count, mut size, mut start) = (
        u64::from(reader.u16()?),
        u64::from(reader.u32()?),
        u64::from(reader.u32()?),
    );
    let comment = u64::from(reader.u16()?);
    if reader.left() != comment || comment != 0 {
        return fault("goes on after its end, or has a comment");
    }
    let mut stop = end;
    // Readers take the zip64 record wherever there is a locator, needed or not.
    let has_locator = end >= 20 && starts_with(reader, end - 20, b"PK\x06\x07")?;
    if has_locator || count == 0xffff || size == 0xffff_ffff || start == 0xffff_ffff {
        (count, size, start, stop) = zip64(end, reader)?;
    }
    if count > ENTRIES_MAX || size > DIRECTORY_MAX {
        return fault(format!("has {count} files, more than are checked"));
    }
    if start.checked_add(size) != Some(stop) {
        return fault("has bytes between its directory and its end");
    }
    reader.seek(start)?;
    let mut members = Vec::new();
    for _ in 0..count {
        members.push(member(reader)?);
    }
    if reader.position() != stop {
        return fault("has a directory of another length than it says");
    }
    let mut names = HashSet::new();
    if let Some(twice) = members.iter().find(|member| !names.insert(member.name.as_str())) {
        return fault(format!("has the file `{}` twice", shown(&twice.name)));
    }
    Ok(members)
}

/// Count, size, start and end of the directory from a zip64 end record.
fn zip64(end: u64, reader: &mut Reader<'_>) -> Parsed<(u64, u64, u64, u64)> {
    let Some(locator) = end.checked_sub(20) else {
        return fault("is cut off before its zip64 locator");
    };
    reader.seek(locator)?;
    if reader.take(4)? != b"PK\x06\x07" {
        return fault("has no zip64 locator where one must be");
    }
    reader.skip(4)?;
    let record = reader.u64()?;
    reader.seek(record)?;
    if reader.take(4)? != b"PK\x06\x06" || record.checked_add(56) != Some(locator) {
        return fault("has no zip64 record where one must be");
    }
    reader.skip(28)?;
    Ok((reader.u64()?, reader.u64()?, reader.u64()?, record))
}

fn member(reader: &mut Reader<'_>) -> Parsed<Member> {
    if reader.take(4)? != CENTRAL {
        return fault(format!("has a malformed directory at byte {}", reader.position()));
    }
    reader.skip(4)?;
    let (flags, method) = (reader.u16()?, reader.u16()?);
    reader.skip(4)?;
    let crc = reader.u32()?;
    let (mut packed, mut size) = (u64::from(reader.u32()?), u64::from(reader.u32()?));
    let (name, extra, comment) = (reader.u16()?, reader.u16()?, reader.u16()?);
    reader.skip(8)?;
    let mut local = u64::from(reader.u32()?);
    let name = String::from_utf8_lossy(reader.take(usize::from(name))?).into_owned();
    let extra = reader.take(usize::from(extra))?.to_vec();
    widen(&extra, [&mut size, &mut packed, &mut local]);
    reader.skip(u64::from(comment))?;
    if flags & 1 != 0 {
        return fault(format!("has an encrypted file `{}`", shown(&name)));
    }
    Ok(Member {
        name,
        flags,
        method,
        crc,
        packed,
        size,
        local,
    })
}

/// Replaces numbers that did not fit by those of the zip64 extra field (APPNOTE 4.5.3), in its order.
fn widen(mut extra: &[u8], numbers: [&mut u64; 3]) {
    while let Some(([a, b, c, d], rest)) = extra.split_first_chunk::<4>() {
        let length = usize::from(u16::from_le_bytes([*c, *d])).min(rest.len());
        let (mut field, after) = rest.split_at(length);
        if u16::from_le_bytes([*a, *b]) == 1 {
            for number in numbers {
                if let (0xffff_ffff, Some((bytes, more))) = (*number, field.split_first_chunk::<8>()) {
                    *number = u64::from_le_bytes(*bytes);
                    field = more;
                }
            }
            return;
        }
        extra = after;
    }
}

/// What a `.npz` has.
#[derive(Default)]
pub(crate) struct Npz {
    /// Names of arrays that hold pickled Python objects.
    pub(crate) objects: Vec<String>,
    /// Where the bytes of arrays are; what is between them are headers of entries.
    pub(crate) data: Vec<Range<u64>>,
}

/// Checks each entry: the local headers one after the other, NumPy's header, the array's length.
pub(crate) fn npz(mut members: Vec<Member>, reader: &mut Reader<'_>) -> Parsed<Npz> {
    let mut found = Npz::default();
    let mut inflated = 0u64;
    members.sort_by_key(|member| member.local);
    let mut at = 0;
    for member in &members {
        if member.local != at {
            return fault(format!(
                "has hidden or shared bytes before its file `{}`",
                shown(&member.name)
            ));
        }
        let data = local(member, reader)?;
        inflated = inflated.saturating_add(member.size);
        let is_bomb = member.size > RATIO_FROM && member.size / RATIO_MAX > member.packed;
        if is_bomb || inflated > INFLATED_MAX {
            return fault_with(
                format!(
                    "unpacks `{}` from {} to {} bytes",
                    shown(&member.name),
                    member.packed,
                    member.size
                ),
                "save it with `numpy.savez`, uncompressed, or in smaller files",
            );
        }
        let array = match member.method {
            0 => stored(member, &data, reader)?,
            8 => deflated(member, &data, reader)?,
            other => {
                return fault(format!(
                    "has a file `{}` packed by method {other}",
                    shown(&member.name)
                ));
            }
        };
        if array.has_objects {
            found.objects.push(shown(&member.name));
        }
        reader.seek(data.end)?;
        at = descriptor(member, reader)?;
        found.data.push(data);
    }
    Ok(found)
}

/// The local header; where the entry's bytes are.
fn local(member: &Member, reader: &mut Reader<'_>) -> Parsed<Range<u64>> {
    reader.seek(member.local)?;
    let disagrees = || {
        fault(format!(
            "has a file `{}` of which directory and header differ",
            shown(&member.name)
        ))
    };
    if reader.take(4)? != LOCAL {
        return disagrees();
    }
    reader.skip(2)?;
    let (flags, method) = (reader.u16()?, reader.u16()?);
    reader.skip(4)?;
    let crc = reader.u32()?;
    let (mut packed, mut size) = (u64::from(reader.u32()?), u64::from(reader.u32()?));
    let (name, extra) = (reader.u16()?, reader.u16()?);
    let same_name = reader.take(usize::from(name))? == member.name.as_bytes();
    let extra = reader.take(usize::from(extra))?.to_vec();
    widen(&extra, [&mut size, &mut packed, &mut 0]);
    // With a data descriptor, sizes and checksum come after the bytes; a header may leave them out or say them twice.
    let later = flags & DESCRIPTOR != 0;
    let same = |local: u64, central: u64| local == central || (later && local == 0);
    let same_sizes = same(packed, member.packed) && same(size, member.size);
    let same_crc = same(u64::from(crc), u64::from(member.crc));
    if flags != member.flags || method != member.method || !same_name || !same_sizes || !same_crc {
        return disagrees();
    }
    let start = reader.position();
    match start
        .checked_add(member.packed)
        .filter(|end| *end <= reader.end())
    {
        Some(end) => Ok(start..end),
        None => fault(format!("is cut off in its file `{}`", shown(&member.name))),
    }
}

/// Where the next header is: after a data descriptor, if there is one (APPNOTE 4.3.9).
fn descriptor(member: &Member, reader: &mut Reader<'_>) -> Parsed<u64> {
    let at = reader.position();
    reader.seek(member.local + 6)?;
    let has_descriptor = reader.u16()? & DESCRIPTOR != 0;
    if !has_descriptor {
        return Ok(at);
    }
    reader.seek(at)?;
    let signed = if reader.peek(4)? == b"PK\x07\x08" { 4 } else { 0 };
    for width in [8, 16] {
        let end = at + signed + 4 + width;
        if end + 4 <= reader.end() {
            reader.seek(end)?;
            if matches!(reader.peek(4)?, b"PK\x03\x04" | b"PK\x01\x02") {
                return Ok(end);
            }
        }
    }
    fault(format!(
        "has a malformed end of its file `{}`",
        shown(&member.name)
    ))
}

fn stored(member: &Member, data: &Range<u64>, reader: &mut Reader<'_>) -> Parsed<npy::Npy> {
    reader.seek(data.start)?;
    if reader.peek(npy::MAGIC.len())? != npy::MAGIC {
        return not_an_array(member);
    }
    let array = npy::header(reader)?;
    let rest = data.end.checked_sub(reader.position());
    let is_whole = member.packed == member.size && (rest == Some(array.bytes) || array.has_objects);
    if is_whole { Ok(array) } else { wrong_length(member) }
}

/// Inflates an entry to its end, keeping only what may be NumPy's header.
fn deflated(member: &Member, data: &Range<u64>, reader: &mut Reader<'_>) -> Parsed<npy::Npy> {
    const HEAD: usize = 16 * 1024;
    reader.seek(data.start)?;
    let mut inflater = Decompress::new(false);
    let mut head = Vec::new();
    let mut out = vec![0; HEAD];
    loop {
        let left = usize::try_from(data.end - reader.position()).unwrap_or(usize::MAX);
        let input = reader.peek(left.min(HEAD))?;
        let (read, written) = (inflater.total_in(), inflater.total_out());
        let Ok(status) = inflater.decompress(input, &mut out, FlushDecompress::None) else {
            return fault(format!("has a damaged file `{}`", shown(&member.name)));
        };
        let (read, written) = (inflater.total_in() - read, inflater.total_out() - written);
        let fresh = usize::try_from(written)
            .ok()
            .and_then(|count| out.get(..count))
            .unwrap_or_default();
        head.extend_from_slice(
            fresh
                .get(..fresh.len().min(HEAD - head.len()))
                .unwrap_or_default(),
        );
        reader.skip(read)?;
        if inflater.total_out() > member.size {
            return wrong_length(member);
        }
        if status == Status::StreamEnd {
            break;
        }
        if read == 0 && written == 0 {
            return fault(format!("is cut off in its file `{}`", shown(&member.name)));
        }
    }
    if !head.starts_with(npy::MAGIC) {
        return not_an_array(member);
    }
    let Some((length, array)) = npy::header_of(&head) else {
        return not_an_array(member);
    };
    let array = array?;
    let is_whole = reader.position() == data.end
        && inflater.total_out() == member.size
        && (array.has_objects || (length as u64).checked_add(array.bytes) == Some(member.size));
    if is_whole { Ok(array) } else { wrong_length(member) }
}

fn not_an_array<T>(member: &Member) -> Parsed<T> {
    fault(format!(
        "has a file `{}` that is no NumPy array",
        shown(&member.name)
    ))
}

fn wrong_length<T>(member: &Member) -> Parsed<T> {
    fault(format!(
        "has a file `{}` of another length than its headers say",
        shown(&member.name)
    ))
}
