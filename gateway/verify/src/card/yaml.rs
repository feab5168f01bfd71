//! YAML of front matter as a small tree, from the events of `saphyr-parser`.
//!
//! Bounded in depth and number; aliases are refused, because a few lines of them unfold to gigabytes, and keys that
//! come twice, because readers differ in which they take. Scalars keep their text, whatever type they look like.

use saphyr_parser::{Event, Parser, ScalarStyle};

const DEPTH_MAX: usize = 32;
const NODES_MAX: usize = 50_000;

/// A value.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Yaml {
    /// Text, and whether a reader of YAML 1.1 or 1.2 would take it for another type.
    Scalar(String, bool),
    List(Vec<Yaml>),
    Map(Vec<(String, Yaml)>),
}

impl Yaml {
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Map(fields) => fields
                .iter()
                .find(|(name, _)| name == key)
                .map(|(_, value)| value),
            _ => None,
        }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Scalar(text, false) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn list(&self) -> Option<&[Self]> {
        match self {
            Self::List(values) => Some(values),
            _ => None,
        }
    }

    /// A text, or a list of texts.
    pub(crate) fn texts(&self) -> Option<Vec<&str>> {
        match self {
            Self::List(values) => values.iter().map(Self::text).collect(),
            _ => self.text().map(|text| vec![text]),
        }
    }
}

/// A collection that is not yet finished.
enum Open {
    List(Vec<Yaml>),
    Map(Vec<(String, Yaml)>, Option<String>),
}

/// Reads one document.
///
/// # Errors
/// A sentence about what is wrong.
pub(crate) fn parse(text: &str) -> Result<Yaml, String> {
    let mut open: Vec<Open> = Vec::new();
    let mut root = None;
    let mut nodes = 0;
    for event in Parser::new_from_str(text) {
        let (event, _) = event.map_err(|error| error.to_string())?;
        nodes += 1;
        if nodes > NODES_MAX || open.len() > DEPTH_MAX {
            return Err(format!(
                "it has more than {NODES_MAX} values, or is nested more than {DEPTH_MAX} deep"
            ));
        }
        let value = match event {
            Event::Scalar(text, style, _, tag) => {
                if tag.is_some() {
                    return Err("it has a tag, and cards need none".to_owned());
                }
                let is_other = style == ScalarStyle::Plain && is_other_type(&text);
                Yaml::Scalar(text.into_owned(), is_other)
            }
            Event::SequenceStart(..) => {
                open.push(Open::List(Vec::new()));
                continue;
            }
            Event::MappingStart(..) => {
                open.push(Open::Map(Vec::new(), None));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::List(values)) => Yaml::List(values),
                Some(Open::Map(fields, None)) => Yaml::Map(fields),
                _ => return Err("a key has no value".to_owned()),
            },
            Event::Alias(_) => {
                return Err(
                    "it has an alias, which cards need not and readers may unfold without end".to_owned(),
                );
            }
            Event::DocumentStart(_) if root.is_some() => {
                return Err("it has more than one document".to_owned());
            }
            _ => continue,
        };
        match open.last_mut() {
            Some(parent) => parent.add(value)?,
            None => root = Some(value),
        }
    }
    root.ok_or_else(|| "it is empty".to_owned())
}

impl Open {
    fn add(&mut self, value: Yaml) -> Result<(), String> {
        match self {
            Self::List(values) => values.push(value),
            Self::Map(fields, key) => match (key.take(), value) {
                (Some(key), value) => fields.push((key, value)),
                (None, Yaml::Scalar(name, _)) => {
                    if fields.iter().any(|(held, _)| *held == name) {
                        return Err(format!("the key `{name}` comes twice"));
                    }
                    *key = Some(name);
                }
                (None, _) => return Err("a key is no text".to_owned()),
            },
        }
        Ok(())
    }
}

/// Null, truths and numbers of YAML 1.1 and 1.2, as far as cards meet them.
fn is_other_type(text: &str) -> bool {
    let word = text.to_ascii_lowercase();
    matches!(
        word.as_str(),
        "" | "~" | "null" | "true" | "false" | "yes" | "no" | "on" | "off"
    ) || text.parse::<f64>().is_ok()
}
