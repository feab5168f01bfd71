//! The lines of a commit, read as they come: JSON, one value a line, of which `content` may be megabytes of base64.
//!
//! A line is kept without the text of `value.content`, which is decoded and passed on while it is received, so memory
//! does not grow with the files in a commit.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::RegistryError;

type Result<T, E = RegistryError> = std::result::Result<T, E>;

/// The longest line, not counting its content.
const LINE_MAX: usize = 256 << 10;

/// What the reader found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// More bytes of the content of the line that is being read.
    Content(Vec<u8>),
    /// A whole line, its content left out; whether it had any.
    Line {
        /// JSON.
        text: Vec<u8>,
        /// Whether `value.content` was there; it may have been empty.
        has_content: bool,
    },
}

/// Reads lines from pieces of any size.
#[derive(Default)]
pub(super) struct Lines {
    line: Vec<u8>,
    depth: usize,
    place: Place,
    /// Where the newest string of this line began, and whether a colon followed it.
    string: usize,
    is_key: bool,
    has_content: bool,
    base64: Base64,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Outside,
    /// In a string; whether the next byte is escaped.
    Text(bool),
    /// In the string that is the content.
    Content,
}

impl Lines {
    /// Takes bytes off `input` until something is found or none are left.
    pub(super) fn next(&mut self, input: &mut &[u8]) -> Result<Option<Found>> {
        while !input.is_empty() {
            if self.place == Place::Content {
                let length = input.iter().position(|byte| matches!(byte, b'"' | b'\\' | b'\n'));
                let (now, later) = input.split_at(length.unwrap_or(input.len()));
                *input = later;
                let bytes = self.base64.decode(now)?;
                if length.is_some() {
                    self.end_content(input[0])?;
                    *input = &input[1..];
                }
                if !bytes.is_empty() {
                    return Ok(Some(Found::Content(bytes)));
                }
                continue;
            }
            let byte = input[0];
            *input = &input[1..];
            if byte == b'\n' {
                if let Some(line) = self.end()? {
                    return Ok(Some(line));
                }
                continue;
            }
            self.take(byte)?;
        }
        Ok(None)
    }

    /// The line that had no line break after it.
    pub(super) fn end(&mut self) -> Result<Option<Found>> {
        if self.place != Place::Outside || self.depth != 0 {
            return Err(RegistryError::invalid("a line of the commit ends early"));
        }
        let text = std::mem::take(&mut self.line);
        let has_content = self.has_content;
        *self = Self::default();
        let is_empty = text.iter().all(u8::is_ascii_whitespace);
        Ok((!is_empty).then_some(Found::Line { text, has_content }))
    }

    fn take(&mut self, byte: u8) -> Result<()> {
        self.line.push(byte);
        if self.line.len() > LINE_MAX {
            return Err(RegistryError::TooLarge {
                what: "a line of the commit".to_owned(),
                most: format!("{LINE_MAX} bytes beside its content"),
            });
        }
        match self.place {
            Place::Text(true) => self.place = Place::Text(false),
            Place::Text(false) if byte == b'\\' => self.place = Place::Text(true),
            Place::Text(false) if byte == b'"' => self.place = Place::Outside,
            Place::Text(_) | Place::Content => {}
            Place::Outside => self.outside(byte),
        }
        Ok(())
    }

    fn outside(&mut self, byte: u8) {
        match byte {
            b'"' if self.is_key && self.depth == 2 && !self.has_content => {
                self.has_content = true;
                self.is_key = false;
                self.place = Place::Content;
            }
            b'"' => {
                self.string = self.line.len();
                self.is_key = false;
                self.place = Place::Text(false);
            }
            // The line ends in the string, its quote, blanks and the colon.
            b':' => self.is_key = self.line[self.string..].starts_with(b"content\""),
            b'{' | b'[' => {
                self.depth += 1;
                self.is_key = false;
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                self.is_key = false;
            }
            b' ' | b'\t' | b'\r' => {}
            _ => self.is_key = false,
        }
    }

    /// The content's string is over, or a byte came that no base64 has.
    fn end_content(&mut self, byte: u8) -> Result<()> {
        if byte != b'"' {
            return Err(bad_base64());
        }
        self.base64.end()?;
        self.place = Place::Outside;
        self.line.push(b'"');
        Ok(())
    }
}

/// Base64 that comes in pieces.
#[derive(Default)]
struct Base64 {
    rest: Vec<u8>,
    is_over: bool,
}

impl Base64 {
    fn decode(&mut self, text: &[u8]) -> Result<Vec<u8>> {
        if self.is_over && !text.is_empty() {
            return Err(bad_base64());
        }
        self.rest.extend_from_slice(text);
        let whole = self.rest.len() / 4 * 4;
        let bytes = STANDARD.decode(&self.rest[..whole]).map_err(|_| bad_base64())?;
        self.is_over = whole > 0 && self.rest[whole - 1] == b'=';
        self.rest.drain(..whole);
        Ok(bytes)
    }

    fn end(&mut self) -> Result<()> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(bad_base64())
        }
    }
}

fn bad_base64() -> RegistryError {
    RegistryError::invalid("the content of a file is not base64")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn read(text: &[u8], pieces: usize) -> Result<Vec<(Value, Option<Vec<u8>>)>> {
        let (mut lines, mut found, mut content) = (Lines::default(), Vec::new(), Vec::new());
        let mut one = |event, content: &mut Vec<u8>| match event {
            Found::Content(bytes) => content.extend(bytes),
            Found::Line { text, has_content } => {
                let bytes = std::mem::take(content);
                let line = serde_json::from_slice(&text).unwrap_or(Value::Null);
                found.push((line, has_content.then_some(bytes)));
            }
        };
        for mut piece in text.chunks(pieces.max(1)) {
            while let Some(event) = lines.next(&mut piece)? {
                one(event, &mut content);
            }
        }
        if let Some(event) = lines.end()? {
            one(event, &mut content);
        }
        Ok(found)
    }

    #[test]
    fn passes_content_on_wherever_it_stands_in_its_line() {
        let text = br#"{"key": "header", "value": {"summary": "\"content\": \\", "description": ""}}

{"key":"file","value":{"content" : "aGVsbG8=","path":"a","encoding":"base64"}}
{"key":"file","value":{"path":"content","encoding":"base64","content":""}}
{"key":"deletedFile","value":{"path":"b","deep":{"content":"!"}}}"#;
        for pieces in 1..80 {
            let found = read(text, pieces).unwrap();
            assert_eq!(found.len(), 4);
            assert_eq!(found[0].0["value"]["summary"], "\"content\": \\");
            assert_eq!(found[1].1.as_deref(), Some(&b"hello"[..]));
            assert_eq!(found[1].0["value"]["path"], "a");
            assert_eq!(found[2].1.as_deref(), Some(&b""[..]));
            assert_eq!(found[3].1, None);
        }
    }

    #[test]
    fn refuses_what_is_no_base64_and_what_ends_early() {
        let file = |content: &str| format!("{{\"key\":\"file\",\"value\":{{\"content\":\"{content}\"}}}}\n");
        for content in ["a", "aGk", "aGk=aGk=", "aG\\u006b", "aG k", "aGk=x", "\u{e4}"] {
            for pieces in [1, 3, 100] {
                assert!(read(file(content).as_bytes(), pieces).is_err(), "{content}");
            }
        }
        assert!(read(b"{\"key\":\"file\",\"value\":{\"content\":\"aGk=", 7).is_err());
        let long = format!("{{\"key\":\"{}\"}}", "x".repeat(LINE_MAX));
        assert_eq!(read(long.as_bytes(), 1000).unwrap_err().code(), "TooLarge");
    }

    proptest! {
        #[test]
        fn reads_what_serde_writes_in_any_pieces(
            path in ".{0,20}", content in proptest::collection::vec(any::<u8>(), 0..200), pieces in 1_usize..50,
        ) {
            let line = json!({ "key": "file", "value": { "content": STANDARD.encode(&content), "path": path } });
            let found = read(format!("{line}\n{line}").as_bytes(), pieces).unwrap();
            prop_assert_eq!(found.len(), 2);
            for (line, bytes) in found {
                prop_assert_eq!(line["value"]["path"].as_str(), Some(path.as_str()));
                prop_assert_eq!(bytes.as_ref(), Some(&content));
            }
        }

        #[test]
        fn survives_anything(text in proptest::collection::vec(any::<u8>(), 0..300), pieces in 1_usize..50) {
            let _ = read(&text, pieces);
        }
    }
}
