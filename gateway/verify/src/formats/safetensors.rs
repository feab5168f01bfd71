//! The safetensors format: eight bytes of length, a JSON header, then the tensors without holes.
//!
//! Rules from the format's own README ("Format") and what the `safetensors` crate's `Metadata::validate` refuses, with
//! the header's bound of the Hub's client, which is the stricter one: 25 MB.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::hash::BuildHasher;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use crate::formats::json;
use crate::reader::{Parsed, Reader, fault, fault_with, shown};

/// Longest header that the Hub's client reads.
pub(crate) const HEADER_MAX: u64 = 25_000_000;

/// What the header says, and was found to be so.
pub(crate) struct Safetensors {
    /// Names of tensors.
    pub(crate) names: Vec<String>,
    /// Where the bytes of tensors are.
    pub(crate) data: Range<u64>,
    /// Its metadata have a key that names code.
    pub(crate) names_code: bool,
}

/// Whether a file may be one, from its first nine bytes or more. Its length is judged by [`check`].
pub(crate) fn looks_like(head: &[u8]) -> bool {
    let Some(Ok(length)) = head.get(..8).map(<[u8; 8]>::try_from) else {
        return false;
    };
    let length = u64::from_le_bytes(length);
    head.get(8) == Some(&b'{') && length >= 2 && head.iter().take(8).any(|byte| *byte < 0x20)
}

/// Reads the header and checks all of it against the file's size.
pub(crate) fn check(reader: &mut Reader<'_>) -> Parsed<Safetensors> {
    let length = reader.u64()?;
    if length > HEADER_MAX {
        return fault(format!(
            "has a header of {length} bytes, more than the {HEADER_MAX} that clients read"
        ));
    }
    let header = reader.bytes(length, HEADER_MAX)?;
    let start = reader.position();
    let header: Header = match serde_json::from_slice(&header) {
        Ok(header) => header,
        Err(error) => {
            return fault(format!(
                "has a header that is not valid: {}",
                shown(&error.to_string())
            ));
        }
    };
    placed(header, start, reader.end())
}

fn placed(header: Header, start: u64, end: u64) -> Parsed<Safetensors> {
    let mut tensors = header.tensors;
    tensors.sort_by_key(|(_, place)| (place.from, place.to));
    let mut at = 0;
    for (name, place) in &tensors {
        let (from, to) = (place.from, place.to);
        let name = shown(name);
        if from > to {
            return fault(format!(
                "has a tensor `{name}` that ends at {to}, before it begins at {from}"
            ));
        }
        if from > at {
            return fault(format!(
                "has a hole of {} bytes before the tensor `{name}`",
                from - at
            ));
        }
        if from < at {
            return fault(format!("has a tensor `{name}` that overlaps the one before it"));
        }
        let Some(bytes) = place.bytes else {
            return fault(format!(
                "has a tensor `{name}` whose type and shape give no whole number of bytes"
            ));
        };
        if bytes != to - from {
            return fault(format!(
                "has a tensor `{name}` of {} bytes where its type and shape need {bytes}",
                to - from
            ));
        }
        at = to;
    }
    match start.checked_add(at) {
        Some(stop) if stop == end => Ok(Safetensors {
            names: tensors.into_iter().map(|(name, _)| name).collect(),
            data: start..end,
            names_code: header.names_code,
        }),
        Some(stop) if stop < end => fault_with(
            format!("goes on for {} bytes after its last tensor", end - stop),
            "something was appended to it: save it again",
        ),
        _ => fault("is cut off: its tensors end after the file does"),
    }
}

/// In the header's order; a name that comes twice is an error.
struct Header {
    tensors: Vec<(String, Place)>,
    names_code: bool,
}

/// What is kept of a tensor: a header can describe half a million of them.
struct Place {
    from: u64,
    to: u64,
    /// What type and shape need; none when they give no whole number.
    bytes: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Info {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl Info {
    fn bytes(&self) -> Option<u64> {
        let bits = bits(&self.dtype)?;
        let elements = self
            .shape
            .iter()
            .try_fold(1u64, |all, size| all.checked_mul(*size))?;
        let bits = elements.checked_mul(bits)?;
        (bits % 8 == 0).then_some(bits / 8)
    }
}

/// Bits of one element, as the crate's `Dtype::bitsize`.
fn bits(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ" => 8,
        "I16" | "U16" | "F16" | "BF16" => 16,
        "I32" | "U32" | "F32" => 32,
        "I64" | "U64" | "F64" | "C64" => 64,
        _ => return None,
    })
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut tensors = Vec::new();
        let mut names = Names::default();
        let mut names_code = false;
        while let Some(name) = map.next_key::<String>()? {
            names.once(&name)?;
            if name == "__metadata__" {
                names_code = map.next_value::<Metadata>()?.names_code;
                continue;
            }
            let info: Info = map.next_value()?;
            let (from, to) = info.data_offsets;
            let bytes = info.bytes();
            tensors.push((name, Place { from, to, bytes }));
        }
        Ok(Header { tensors, names_code })
    }
}

/// Names that came, as hashes under a key that no file can know.
#[derive(Default)]
struct Names {
    hasher: RandomState,
    seen: HashSet<u64>,
}

impl Names {
    fn once<E: serde::de::Error>(&mut self, name: &str) -> Result<(), E> {
        if self.seen.insert(self.hasher.hash_one(name)) {
            return Ok(());
        }
        Err(E::custom(format!("the name `{}` comes twice", shown(name))))
    }
}

/// Texts by name, each name once.
struct Metadata {
    names_code: bool,
}

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;
        impl<'de> Visitor<'de> for Texts {
            type Value = Metadata;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("texts in `__metadata__`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Metadata, A::Error> {
                let mut names = Names::default();
                let mut names_code = false;
                while let Some(key) = map.next_key::<String>()? {
                    names.once(&key)?;
                    let value = map.next_value::<String>()?;
                    names_code |= json::names_code(&key) || json::names_code(&value);
                }
                Ok(Metadata { names_code })
            }
        }
        deserializer.deserialize_map(Texts)
    }
}

/// Which file has which tensors, by an `*.index.json`.
#[derive(Deserialize)]
pub(crate) struct Index {
    /// File by tensor.
    pub(crate) weight_map: BTreeMap<String, String>,
}
