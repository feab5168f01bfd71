//! JSON of any length in little memory: a grammar check byte by byte (RFC 8259), and a look for what makes loaders run code.
//!
//! Nesting and the length of a text are bounded, which `serde_json` alone does not do for a stream.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::error::VerifyError;
use crate::formats::template;
use crate::reader::{Parsed, Reader, fault, fault_with};

/// Deepest nesting; `serde_json`'s own bound.
const DEPTH_MAX: usize = 127;
/// Longest text in a file: it is held in memory when it is looked at.
const TEXT_MAX: usize = 2 * 1024 * 1024;

/// What the outermost value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Root {
    Object,
    Array,
    Other,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    Value,
    ValueOrEnd,
    Key,
    KeyOrEnd,
    Colon,
    CommaOrEnd,
    Nothing,
}

/// Checks one file that is one JSON value.
pub(crate) fn check(reader: &mut Reader<'_>) -> Parsed<Root> {
    let mut checker = Checker {
        open: Vec::new(),
        expect: Expect::Value,
        root: Root::Other,
    };
    skip_bom(reader)?;
    while let Some(byte) = next(reader)? {
        checker.byte(byte, reader)?;
    }
    if checker.expect == Expect::Nothing {
        Ok(checker.root)
    } else {
        fault("is cut off: its JSON ends in the middle")
    }
}

/// Checks a file with one JSON value on each line.
pub(crate) fn check_lines(reader: &mut Reader<'_>) -> Parsed<()> {
    let mut checker = Checker {
        open: Vec::new(),
        expect: Expect::Value,
        root: Root::Other,
    };
    while let Some(byte) = next(reader)? {
        if byte == b'\n' && checker.expect == Expect::Nothing {
            checker.expect = Expect::Value;
        } else {
            checker.byte(byte, reader)?;
        }
    }
    if checker.open.is_empty() && matches!(checker.expect, Expect::Nothing | Expect::Value) {
        Ok(())
    } else {
        fault("is cut off: its last line of JSON ends in the middle")
    }
}

fn skip_bom(reader: &mut Reader<'_>) -> Parsed<()> {
    if reader.peek(3)? == b"\xef\xbb\xbf" {
        return fault_with(
            "begins with a byte order mark, which JSON does not have",
            "save it as UTF-8 without a byte order mark",
        );
    }
    Ok(())
}

fn next(reader: &mut Reader<'_>) -> Parsed<Option<u8>> {
    if reader.left() == 0 {
        Ok(None)
    } else {
        reader.u8().map(Some)
    }
}

struct Checker {
    open: Vec<u8>,
    expect: Expect,
    root: Root,
}

impl Checker {
    fn byte(&mut self, byte: u8, reader: &mut Reader<'_>) -> Parsed<()> {
        let bad = |reader: &Reader<'_>| {
            fault_with(
                format!(
                    "is not valid JSON at byte {}",
                    reader.position().saturating_sub(1)
                ),
                "write it with a JSON library; NaN, Infinity, comments and trailing commas are not JSON",
            )
        };
        match (byte, self.expect) {
            (b' ' | b'\t' | b'\n' | b'\r', _) => return Ok(()),
            (b'}', Expect::KeyOrEnd | Expect::CommaOrEnd) if self.open.last() == Some(&b'{') => self.close(),
            (b']', Expect::ValueOrEnd | Expect::CommaOrEnd) if self.open.last() == Some(&b'[') => {
                self.close()
            }
            (b',', Expect::CommaOrEnd) => {
                self.expect = if self.open.last() == Some(&b'{') {
                    Expect::Key
                } else {
                    Expect::Value
                };
            }
            (b':', Expect::Colon) => self.expect = Expect::Value,
            (b'"', Expect::Key | Expect::KeyOrEnd) => {
                text(reader)?;
                self.expect = Expect::Colon;
            }
            (_, Expect::Value | Expect::ValueOrEnd) => return self.value(byte, reader),
            _ => return bad(reader),
        }
        Ok(())
    }

    fn value(&mut self, byte: u8, reader: &mut Reader<'_>) -> Parsed<()> {
        if self.open.is_empty() {
            self.root = match byte {
                b'{' => Root::Object,
                b'[' => Root::Array,
                _ => Root::Other,
            };
        }
        match byte {
            b'{' | b'[' => {
                if self.open.len() >= DEPTH_MAX {
                    return fault(format!("is JSON nested more than {DEPTH_MAX} deep"));
                }
                self.open.push(byte);
                self.expect = if byte == b'{' {
                    Expect::KeyOrEnd
                } else {
                    Expect::ValueOrEnd
                };
                return Ok(());
            }
            b'"' => text(reader)?,
            b't' => word(reader, b"rue")?,
            b'f' => word(reader, b"alse")?,
            b'n' => word(reader, b"ull")?,
            b'-' | b'0'..=b'9' => number(byte, reader)?,
            _ => {
                return fault_with(
                    format!(
                        "is not valid JSON at byte {}",
                        reader.position().saturating_sub(1)
                    ),
                    "write it with a JSON library; NaN, Infinity, comments and trailing commas are not JSON",
                );
            }
        }
        self.after_value();
        Ok(())
    }

    fn close(&mut self) {
        self.open.pop();
        self.after_value();
    }

    fn after_value(&mut self) {
        self.expect = if self.open.is_empty() {
            Expect::Nothing
        } else {
            Expect::CommaOrEnd
        };
    }
}

fn word(reader: &mut Reader<'_>, rest: &[u8]) -> Parsed<()> {
    if reader.peek(rest.len())? != rest {
        return fault(format!(
            "has an unknown word in its JSON at byte {}",
            reader.position()
        ));
    }
    reader.skip(rest.len() as u64)
}

/// `-? (0|[1-9][0-9]*) (. [0-9]+)? ([eE] [+-]? [0-9]+)?`, of a bounded length.
fn number(first: u8, reader: &mut Reader<'_>) -> Parsed<()> {
    const DIGITS: usize = 1024;
    let is_part = |byte: &&u8| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E');
    let ahead = reader.peek(DIGITS)?;
    let length = ahead.iter().take_while(is_part).count();
    let mut text = vec![first];
    text.extend_from_slice(ahead.get(..length).unwrap_or_default());
    // The grammar is serde_json's; its own number type would round, a raw check does not.
    let is_number = length < DIGITS && serde_json::from_slice::<serde::de::IgnoredAny>(&text).is_ok();
    if !is_number {
        return fault(format!(
            "has a malformed number in its JSON at byte {}",
            reader.position()
        ));
    }
    reader.skip(length as u64)
}

/// After the opening quote: to the closing one. UTF-8 is checked by the caller's check of the whole file.
fn text(reader: &mut Reader<'_>) -> Parsed<()> {
    let start = reader.position();
    loop {
        if reader.position() - start > TEXT_MAX as u64 {
            return fault(format!("has a text of more than {TEXT_MAX} bytes in its JSON"));
        }
        match next(reader)? {
            Some(b'"') => return Ok(()),
            Some(b'\\') => escape(reader)?,
            Some(0x20..) => {}
            _ => return fault(format!("has an unfinished text in its JSON at byte {start}")),
        }
    }
}

fn escape(reader: &mut Reader<'_>) -> Parsed<()> {
    match next(reader)? {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(()),
        Some(b'u') if reader.peek(4)?.len() == 4 && reader.peek(4)?.iter().all(u8::is_ascii_hexdigit) => {
            reader.skip(4)
        }
        _ => fault(format!(
            "has a malformed escape in its JSON at byte {}",
            reader.position()
        )),
    }
}

/// What a loader of the file would do beyond reading it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Loads {
    /// Keys that name Python code to fetch and run.
    pub(crate) code: Vec<&'static str>,
    /// A chat template reaches for Python's insides.
    pub(crate) template: Option<&'static str>,
}

/// Keys that transformers, diffusers and Hydra follow to Python code, in this repo or in another.
pub(crate) const CODE_KEYS: [&str; 4] = ["auto_map", "custom_pipelines", "custom_pipeline", "_target_"];
/// The key by which peft imports a module; of the libraries that bring models it is no harm.
const LIBRARY_KEY: &str = "parent_library";
const LIBRARIES: [&str; 5] = [
    "transformers",
    "diffusers",
    "peft",
    "timm",
    "sentence_transformers",
];

/// Whether a text that stands in another format, such as a header, is or has a key that names code.
pub(crate) fn names_code(text: &str) -> bool {
    let quoted = |key: &&str| {
        ['"', '\'']
            .iter()
            .any(|quote| text.contains(&format!("{quote}{key}{quote}")))
    };
    CODE_KEYS.contains(&text) || CODE_KEYS.iter().any(quoted)
}

/// Looks through a file that [`check`] accepted. Keys are compared after escapes are resolved.
///
/// What this parser refuses and the grammar allows, other readers read on from: numbers beyond every float, and halves
/// of surrogate pairs.
pub(crate) fn loads(reader: Reader<'_>) -> Parsed<Loads> {
    let mut found = Loads::default();
    let path = reader.path();
    let mut deserializer = serde_json::Deserializer::from_reader(reader);
    let walk = Walk {
        found: &mut found,
        place: Place::Plain,
    };
    if let Err(error) = walk.deserialize(&mut deserializer) {
        if error.is_io() {
            let file = path.to_owned();
            let source = error.into();
            return Err(VerifyError::Read { file, source }.into());
        }
        return fault_with(
            format!(
                "has a number or an escape that readers read differently, at line {}",
                error.line()
            ),
            "write numbers that a 64-bit float holds, and whole characters",
        );
    }
    found.code.sort_unstable();
    found.code.dedup();
    Ok(found)
}

/// Where a value stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Plain,
    /// Below a key for templates.
    Template,
    /// The value of this key, which names code. A number there is a word of some vocabulary.
    Code(&'static str),
    /// The value of [`LIBRARY_KEY`].
    Library,
}

impl Place {
    fn of(self, key: &str) -> Self {
        match CODE_KEYS.into_iter().find(|name| *name == key) {
            Some(name) => Self::Code(name),
            None if key == LIBRARY_KEY => Self::Library,
            None if self == Self::Template || key == "chat_template" => Self::Template,
            None => Self::Plain,
        }
    }

    /// Of what is in a collection that stands here.
    fn within(self) -> Self {
        if self == Self::Template { self } else { Self::Plain }
    }
}

struct Walk<'a> {
    found: &'a mut Loads,
    place: Place,
}

impl Walk<'_> {
    /// Notes the key of a value that is no number.
    fn note(&mut self) {
        if let Place::Code(key) = self.place {
            self.found.code.push(key);
        }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        self.note();
        while let Some(key) = map.next_key::<String>()? {
            map.next_value_seed(Walk {
                found: &mut *self.found,
                place: self.place.within().of(&key),
            })?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        self.note();
        let place = self.place.within();
        while seq
            .next_element_seed(Walk {
                found: &mut *self.found,
                place,
            })?
            .is_some()
        {}
        Ok(())
    }

    fn visit_str<E>(mut self, text: &str) -> Result<(), E> {
        self.note();
        match self.place {
            Place::Template => self.found.template = self.found.template.or(template::climbs(text)),
            Place::Library => {
                let library = text.split('.').next().unwrap_or_default();
                if !LIBRARIES.contains(&library) {
                    self.found.code.push(LIBRARY_KEY);
                }
            }
            Place::Plain | Place::Code(_) => {}
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}
