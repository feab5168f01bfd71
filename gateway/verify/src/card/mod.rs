//! V7: the card is `README.md` with YAML front matter in the Hub's keys, its licence is known, and allows selling.
//!
//! Keys are those of the Hub's model card metadata. This is no legal advice, and does not ask whether names exist.

mod licence;
mod yaml;

use alephlab_api::model::FrontMatter;

use crate::error::Result;
use crate::reader::{Parsed, Reader, Stop, fault_with, shown};
use crate::report::Finding;
use crate::source::{EntryKind, Source};

use yaml::Yaml;

/// Longest front matter: that of cards with many results has some hundred kilobytes.
const FRONT_MAX: u64 = 512 * 1024;
const CARD: &str = "README.md";

/// Everything that is wrong with the card.
pub(crate) fn check(source: &dyn Source, selling: bool) -> Result<Vec<Finding>> {
    let mut notes = Notes(Vec::new());
    let entry = source
        .entries()
        .iter()
        .position(|entry| entry.path == CARD && entry.kind == EntryKind::File);
    let Some(entry) = entry else {
        notes.add(
            "`README.md` is missing, so there is no card",
            "write a README.md with the Hub's front matter",
        );
        return Ok(notes.0);
    };
    match front_matter(&mut Reader::new(source, entry)) {
        Ok(front) => match yaml::parse(&front) {
            Ok(card) => keys(&card, selling, &mut notes),
            Err(why) => notes.add(
                format!(
                    "`README.md` is a card whose front matter is not valid YAML: {}",
                    shown(&why)
                ),
                "put texts with colons or quotes into double quotes",
            ),
        },
        Err(Stop::Source(error)) => return Err(error),
        Err(Stop::Fault(fault)) => notes.add(format!("`README.md` is a card that {}", fault.why), fault.hint),
    }
    Ok(notes.0)
}

struct Notes(Vec<Finding>);

impl Notes {
    fn add(&mut self, why: impl Into<String>, hint: &str) {
        self.0.push(Finding {
            file: CARD.to_owned(),
            what: "a card".to_owned(),
            why: why.into(),
            hint: hint.to_owned(),
        });
    }
}

/// What stands between the first two lines of three dashes.
fn front_matter(reader: &mut Reader<'_>) -> Parsed<String> {
    const HINT: &str = "begin README.md with a line `---`, the keys, and another line `---`";
    let length = reader.left().min(FRONT_MAX);
    let bytes = reader.bytes(length, FRONT_MAX)?;
    let text = String::from_utf8_lossy(&bytes).replace("\r\n", "\n");
    match FrontMatter::of(&text) {
        FrontMatter::Whole(front, _) => Ok(front.to_owned()),
        FrontMatter::Absent => fault_with("has no front matter", HINT),
        FrontMatter::Open => fault_with(
            format!("has front matter without an end within {FRONT_MAX} bytes"),
            HINT,
        ),
    }
}

fn keys(card: &Yaml, selling: bool, notes: &mut Notes) {
    let Yaml::Map(_) = card else {
        notes.add(
            "`README.md` is a card whose front matter is no mapping of keys",
            "write `key: value` lines",
        );
        return;
    };
    licence(card, selling, notes);
    for key in ["base_model", "datasets", "tags", "language", "metrics"] {
        let Some(value) = card.get(key) else { continue };
        let Some(values) = value.texts() else {
            wrong(notes, key, "is neither a text nor a list of texts");
            continue;
        };
        for value in values {
            let is_good = match key {
                "base_model" => value
                    .split_once('/')
                    .is_some_and(|(owner, name)| is_part(owner) && is_part(name)),
                "datasets" => value.split('/').count() <= 2 && value.split('/').all(is_part),
                // YAML 1.1 reads the code of Norwegian as a falsehood.
                "language" => is_language(value),
                _ => !value.is_empty() && value.chars().count() <= 200,
            };
            if !is_good {
                wrong(notes, key, &format!("has `{}`, which is none", shown(value)));
            }
        }
    }
    for key in [
        "pipeline_tag",
        "library_name",
        "base_model_relation",
        "license_name",
        "license_link",
    ] {
        let is_wrong = card
            .get(key)
            .is_some_and(|value| value.text().is_none_or(str::is_empty));
        if is_wrong {
            wrong(notes, key, "is no text");
        }
    }
    let task = card.get("pipeline_tag").and_then(Yaml::text).unwrap_or_default();
    if !task
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    {
        wrong(
            notes,
            "pipeline_tag",
            &format!("has `{}`, which is none", shown(task)),
        );
    }
    if let Some(index) = card.get("model-index") {
        results(index, notes);
    }
}

fn wrong(notes: &mut Notes, key: &str, what: &str) {
    let hint = match key {
        "base_model" => "write `owner/name`",
        "datasets" => "write `owner/name` or a plain name, one for each dataset",
        "language" => {
            "write codes such as `en`, in quotes where YAML would read another type, such as `\"no\"`"
        }
        "pipeline_tag" => "write the Hub's name of the task, such as `text-classification`",
        _ => "see the Hub's documentation of model cards",
    };
    notes.add(format!("`README.md` is a card whose key `{key}` {what}"), hint);
}

/// The Hub reads results only in this shape: a list of models, each with a name and a list of results.
fn results(index: &Yaml, notes: &mut Notes) {
    let is_model = |model: &Yaml| {
        let has_results = model.get("results").and_then(Yaml::list).is_some_and(|results| {
            results.iter().all(|result| {
                let has_metrics = result.get("metrics").and_then(Yaml::list).is_some();
                has_metrics && result.get("task").is_some() && result.get("dataset").is_some()
            })
        });
        model.get("name").and_then(Yaml::text).is_some() && has_results
    };
    if !index.list().is_some_and(|models| models.iter().all(is_model)) {
        let what = "is no list of models with a name and results, each with task, dataset and metrics";
        wrong(notes, "model-index", what);
    }
}

fn licence(card: &Yaml, selling: bool, notes: &mut Notes) {
    let Some(ids) = card
        .get("license")
        .and_then(Yaml::texts)
        .filter(|ids| !ids.is_empty())
    else {
        notes.add(
            "`README.md` is a card without a licence",
            "write `license:` and an SPDX id such as `apache-2.0`",
        );
        return;
    };
    for id in ids {
        let shown = shown(id);
        if !licence::is_known(id) {
            notes.add(
                format!("`README.md` is a card with the unknown licence `{shown}`"),
                "write an SPDX id or one of the Hub's, or `other` with `license_name` and `license_link`",
            );
            continue;
        }
        if id == "other" && (card.get("license_name").is_none() || card.get("license_link").is_none()) {
            notes.add(
                "`README.md` is a card with the licence `other`, of which name and link are missing",
                "write `license_name` and `license_link`",
            );
        }
        match licence::selling(id) {
            licence::Selling::Forbidden if selling => notes.add(
                format!("`README.md` is a card with the licence `{shown}`, which does not allow selling"),
                "offer it free of charge, or under a licence that allows commercial use",
            ),
            licence::Selling::Unknown if selling => notes.add(
                format!("`README.md` is a card with the licence `{shown}`, of which it is not known whether it allows selling"),
                "offer it free of charge, or name a licence that is known",
            ),
            _ => {}
        }
    }
}

fn is_part(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !text.is_empty() && text.len() <= 96 && text.bytes().all(plain) && !matches!(text, "." | "..")
}

/// ISO 639 codes, with the script or region that some cards add, and the Hub's own words.
fn is_language(text: &str) -> bool {
    let mut parts = text.split(['-', '_']);
    let code = parts.next().unwrap_or_default();
    let is_code = matches!(code.len(), 2 | 3) && code.bytes().all(|byte| byte.is_ascii_lowercase());
    let is_rest = parts
        .all(|part| (2..=8).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    (is_code && is_rest) || matches!(text, "multilingual" | "code")
}
