//! YAML files: whether one has tags that make loaders build objects, or keys that name code.
//!
//! The events are `saphyr-parser`'s. Readers of YAML 1.1, such as PyYAML, see lines where YAML 1.2 has none, so what
//! they read differently is refused, and the words of Python's tags are looked for in the text as well.

use saphyr_parser::{Event, Parser, Tag};

use crate::formats::json::CODE_KEYS;
use crate::reader::{Parsed, Reader, fault, fault_with, shown};

/// Longest file; it is held in memory.
const SIZE_MAX: u64 = 4 * 1024 * 1024;
/// Types of YAML's core schema. All others are the reader's, who may build anything of them.
const CORE: [&str; 7] = ["str", "int", "float", "bool", "null", "seq", "map"];

/// What makes a loader run code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loads {
    Nothing,
    /// By a tag.
    Tags,
    /// By a key.
    Keys,
}

/// Checks a whole file, whose text was checked before.
pub(crate) fn check(reader: &mut Reader<'_>) -> Parsed<Loads> {
    let size = reader.left();
    let bytes = reader.bytes(size, SIZE_MAX)?;
    let Ok(text) = String::from_utf8(bytes) else {
        return fault("is not UTF-8");
    };
    if text.contains(['\u{85}', '\u{2028}', '\u{2029}']) {
        return fault_with(
            "has a line break that readers of YAML take differently",
            "use plain line breaks, and escapes in double quotes for the others",
        );
    }
    let is_directive = |line: &str| line.trim_start_matches('\u{feff}').starts_with("%TAG");
    let has_word = ["!!python", "yaml.org,2002:python"]
        .iter()
        .any(|word| text.contains(word));
    if has_word || text.split(['\n', '\r']).any(is_directive) {
        return Ok(Loads::Tags);
    }
    let mut loads = Loads::Nothing;
    for event in Parser::new_from_str(&text) {
        match event {
            Ok((Event::Scalar(_, _, _, Some(tag)), _))
            | Ok((Event::SequenceStart(_, Some(tag)) | Event::MappingStart(_, Some(tag)), _))
                if !is_core(&tag) =>
            {
                return Ok(Loads::Tags);
            }
            Ok((Event::Scalar(word, ..), _)) if CODE_KEYS.contains(&word.as_ref()) => loads = Loads::Keys,
            Ok(_) => {}
            Err(error) => return fault(format!("is not valid YAML: {}", shown(&error.to_string()))),
        }
    }
    Ok(loads)
}

fn is_core(tag: &Tag) -> bool {
    tag.handle == "tag:yaml.org,2002:" && CORE.contains(&tag.suffix.as_str())
}
