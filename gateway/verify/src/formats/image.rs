//! Pictures of cards: PNG, JPEG and WebP, walked piece by piece to their end, after which nothing may follow.
//!
//! By the PNG specification (section 5), ITU-T T.81 (annex B) and the WebP container specification. Pixels are not
//! decoded.

use crate::reader::{Parsed, Reader, fault, fault_with};

pub(crate) const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";
pub(crate) const JPEG: &[u8] = b"\xff\xd8\xff";

/// Chunks to `IEND`.
pub(crate) fn png(reader: &mut Reader<'_>) -> Parsed<()> {
    reader.skip(PNG.len() as u64)?;
    let mut first = true;
    loop {
        let length = u32::from_be_bytes(reader.array()?);
        let kind = reader.array::<4>()?;
        if !kind.iter().all(u8::is_ascii_alphabetic) || (first && &kind != b"IHDR") {
            return fault(format!("has a malformed chunk before byte {}", reader.position()));
        }
        first = false;
        reader.skip(u64::from(length) + 4)?;
        if &kind == b"IEND" {
            return nothing_follows(reader);
        }
    }
}

/// Segments to the end-of-image marker.
pub(crate) fn jpeg(reader: &mut Reader<'_>) -> Parsed<()> {
    reader.skip(2)?;
    let mut marker = next_marker(reader)?;
    loop {
        match marker {
            0xd9 => return nothing_follows(reader),
            0xd8 | 0x00 => {
                return fault(format!(
                    "has a malformed marker before byte {}",
                    reader.position()
                ));
            }
            // Markers without a segment.
            0x01 | 0xd0..=0xd7 => {}
            _ => {
                let length = u16::from_be_bytes(reader.array()?);
                let Some(rest) = length.checked_sub(2) else {
                    return fault(format!("has a malformed segment at byte {}", reader.position()));
                };
                reader.skip(u64::from(rest))?;
                if marker == 0xda {
                    entropy(reader)?;
                }
            }
        }
        marker = next_marker(reader)?;
    }
}

fn next_marker(reader: &mut Reader<'_>) -> Parsed<u8> {
    if reader.u8()? != 0xff {
        return fault(format!("has no marker at byte {}", reader.position() - 1));
    }
    loop {
        match reader.u8()? {
            0xff => {}
            marker => return Ok(marker),
        }
    }
}

/// Compressed pixels: to the next 0xff that is neither stuffed nor a restart.
fn entropy(reader: &mut Reader<'_>) -> Parsed<()> {
    loop {
        let at = reader.position();
        let chunk = reader.chunk()?;
        if chunk.is_empty() {
            return fault("is cut off in its picture");
        }
        let is_marker = |pair: &[u8]| matches!(pair, [0xff, second] if !matches!(second, 0x00 | 0xd0..=0xd7));
        if let Some(found) = chunk.windows(2).position(is_marker) {
            return reader.seek(at + found as u64);
        }
        if chunk.last() == Some(&0xff) {
            // Its other half is in the next chunk.
            let last = at + chunk.len() as u64 - 1;
            if reader.left() == 0 {
                return fault("is cut off in its picture");
            }
            if !matches!(reader.u8()?, 0x00 | 0xd0..=0xd7) {
                return reader.seek(last);
            }
            let after = last + 2;
            reader.seek(after)?;
        }
    }
}

/// `RIFF`, a size that is the file's, `WEBP`, chunks.
pub(crate) fn webp(reader: &mut Reader<'_>) -> Parsed<()> {
    reader.skip(4)?;
    let size = u64::from(reader.u32()?);
    if size + 8 != reader.end() {
        return fault(format!(
            "says that it has {} bytes and has {}",
            size + 8,
            reader.end()
        ));
    }
    reader.skip(4)?;
    while reader.left() > 0 {
        let kind = reader.array::<4>()?;
        if !kind
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || *byte == b' ')
        {
            return fault(format!("has a malformed chunk before byte {}", reader.position()));
        }
        let length = u64::from(reader.u32()?);
        reader.skip(length + length % 2)?;
    }
    Ok(())
}

fn nothing_follows(reader: &Reader<'_>) -> Parsed<()> {
    if reader.left() == 0 {
        return Ok(());
    }
    fault_with(
        format!("goes on for {} bytes after its end", reader.left()),
        "something was appended to the picture: save it again with a picture program",
    )
}
