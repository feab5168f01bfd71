//! Plain text: UTF-8 without control characters, checked to its end.

use crate::reader::{Parsed, Reader, fault, fault_with};

/// Whether the beginning of a file is text. `cut` says that it may end within a character.
pub(crate) fn looks_like(head: &[u8], cut: bool) -> bool {
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) if cut && error.error_len().is_none() => {
            std::str::from_utf8(head.get(..error.valid_up_to()).unwrap_or_default()).unwrap_or_default()
        }
        Err(_) => return false,
    };
    !text.bytes().any(is_control)
}

fn is_control(byte: u8) -> bool {
    matches!(byte, 0..=0x08 | 0x0b | 0x0e..=0x1f | 0x7f)
}

/// Checks a whole file.
pub(crate) fn check(reader: &mut Reader<'_>) -> Parsed<()> {
    loop {
        let at = reader.position();
        let chunk = reader.chunk()?;
        if chunk.is_empty() {
            return Ok(());
        }
        let (valid, is_cut) = match std::str::from_utf8(chunk) {
            Ok(_) => (chunk.len(), false),
            Err(error) => (error.valid_up_to(), error.error_len().is_none()),
        };
        let count = chunk.len();
        let control = chunk
            .get(..valid)
            .unwrap_or_default()
            .iter()
            .position(|byte| is_control(*byte));
        if let Some(place) = control {
            return fault_with(
                format!("has a control character at byte {}", at + place as u64),
                "save it as plain text",
            );
        }
        if valid < count {
            // A character that the chunk cut is read again with what follows it.
            let whole = at + valid as u64;
            if !is_cut || valid == 0 || whole + 4 < at + count as u64 || reader.left() == 0 {
                return fault(format!("is not UTF-8 at byte {whole}"));
            }
            reader.seek(whole)?;
        }
    }
}
