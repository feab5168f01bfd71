//! Protocol Buffers' wire format, walked over ranges of a file without keeping messages; and SentencePiece models.
//!
//! By the encoding guide of Protocol Buffers. Groups (wire types 3 and 4) are refused: none of our formats has them.

use std::ops::Range;

use crate::reader::{Parsed, Reader, fault};

/// Fields read of one file, over all its messages.
pub(crate) const FIELDS_MAX: u64 = 20_000_000;

/// One field: its number and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Varint(u64),
    Fixed,
    /// A text, bytes or a message: where they are.
    Bytes(Range<u64>),
}

/// The next field of the message that ends at `end`, and the reader after it.
pub(crate) fn field(reader: &mut Reader<'_>, end: u64) -> Parsed<Option<(u64, Value)>> {
    if reader.position() >= end {
        return Ok(None);
    }
    let tag = varint(reader)?;
    let number = tag >> 3;
    let value = match tag & 7 {
        0 => Value::Varint(varint(reader)?),
        1 => {
            reader.skip(8)?;
            Value::Fixed
        }
        5 => {
            reader.skip(4)?;
            Value::Fixed
        }
        2 => {
            let length = varint(reader)?;
            let start = reader.position();
            let Some(stop) = start.checked_add(length).filter(|stop| *stop <= end) else {
                return fault(format!(
                    "has a part of {length} bytes at byte {start}, which does not fit"
                ));
            };
            reader.skip(length)?;
            Value::Bytes(start..stop)
        }
        other => {
            return fault(format!(
                "has a field of the unknown wire type {other} at byte {}",
                reader.position()
            ));
        }
    };
    if reader.position() > end || number == 0 || number > 536_870_911 {
        return fault(format!("has a malformed field before byte {}", reader.position()));
    }
    Ok(Some((number, value)))
}

pub(crate) fn varint(reader: &mut Reader<'_>) -> Parsed<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = reader.u8()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    fault("has a number of more than ten bytes")
}

/// The text of a field, bounded; what is not UTF-8 is replaced, since it is only compared and shown.
pub(crate) fn text(reader: &mut Reader<'_>, range: &Range<u64>) -> Parsed<String> {
    const TEXT_MAX: u64 = 4096;
    let back = reader.position();
    reader.seek(range.start)?;
    let bytes = reader.bytes(range.end - range.start, TEXT_MAX)?;
    reader.seek(back)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether a file is a SentencePiece model: `sentencepiece_model.proto`, whose first field is a piece with a text.
pub(crate) fn looks_like_sentencepiece(head: &[u8]) -> bool {
    // Field 1 of ModelProto with a length of one byte, then field 1 of SentencePiece.
    matches!(head, [0x0a, 2..=127, 0x0a, ..])
}

/// Checks a SentencePiece model: its top-level fields and all pieces.
pub(crate) fn sentencepiece(reader: &mut Reader<'_>) -> Parsed<()> {
    let end = reader.end();
    let mut pieces = 0u64;
    let mut fields = 0u64;
    while let Some((number, value)) = field(reader, end)? {
        fields += 1;
        match (number, value) {
            (1, Value::Bytes(range)) => {
                pieces += 1;
                piece(reader, &range)?;
            }
            // Trainer, normalizer, self-test and denormalizer; 200 and up are extensions.
            (2..=5, Value::Bytes(_)) | (200.., _) => {}
            _ => {
                return fault(format!(
                    "has a field {number} that a SentencePiece model does not have"
                ));
            }
        }
        if fields > FIELDS_MAX {
            return fault("has more fields than are checked");
        }
    }
    if pieces == 0 {
        fault("has no pieces")
    } else {
        Ok(())
    }
}

fn piece(reader: &mut Reader<'_>, range: &Range<u64>) -> Parsed<()> {
    let back = reader.position();
    reader.seek(range.start)?;
    while let Some((number, value)) = field(reader, range.end)? {
        match (number, value) {
            (1, Value::Bytes(text)) if text.end - text.start <= 65_536 => {}
            (2, Value::Fixed) | (3, Value::Varint(_)) | (200.., _) => {}
            _ => return fault(format!("has a piece with an unknown field {number}")),
        }
    }
    reader.seek(back)
}
