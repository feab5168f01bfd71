//! Models as the registry names them: the card, the signed public record, the answer of the index.
//!
//! The bytes of a model are `alephlab-vault`'s business; here are only its names, sizes and hashes.

mod front_matter;
mod messages;
mod parameters;
mod private;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use front_matter::FrontMatter;
pub use messages::{
    MODEL_EVIDENCE_TYPE, MODEL_TAGS_TYPE, MODEL_WITHDRAWAL_TYPE, ModelEvidence, ModelTags, ModelWithdrawal,
    PUBLISHING_KEY_TYPE, PublishingKey, SealedTags,
};
pub use parameters::{WeightCount, weight_files};
pub use private::{private_name, private_uuid};

use crate::problem::Problem;

/// Type of the Aleph POST message whose content is a [`ModelRecord`].
pub const MODEL_RECORD_TYPE: &str = "alephlab-model";

/// Longest [`ModelRecord::keys`], in base64 characters: a record must fit into one message. About 60 bytes for each object
/// of 32 MiB, so some 50 GiB.
pub const KEYS_MAX: usize = 128 << 10;

/// Longest [`ModelRecord::sealed`], in base64 characters: what fits into one message, with the little that stands beside it.
pub const SEALED_MAX: usize = 184 << 10;

/// Tags of one revision, at most.
pub const TAGS_MAX: usize = 100;

/// Types of numbers in one revision, at most; safetensors knows some twenty.
const TENSOR_TYPES_MAX: usize = 32;

/// What a publisher says about a model; becomes its `README.md`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Card {
    /// Name for people.
    pub title: String,
    /// Free text in Markdown.
    pub description: String,
    /// SPDX identifier or the Hub's licence name.
    pub licence: String,
    /// Free words to find it by.
    pub tags: Vec<String>,
    /// The Hub's task name, such as `image-classification`.
    pub task: Option<String>,
    /// Name of the dataset it was trained on.
    pub dataset: Option<String>,
    /// Measured values by name, such as `accuracy`.
    pub metrics: BTreeMap<String, f64>,
    /// Library that loads it, such as `candle`.
    pub library: Option<String>,
    /// The model that it was made from, `owner/name`, where it was fine-tuned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_model: Option<String>,
    /// Nobody but its owner and whom they let in is to know of it. Asked when publishing from a notebook; in no record.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub private: bool,
}

impl Card {
    /// `README.md` with the Hub's YAML front matter, read back by stock clients.
    ///
    /// Strings stand in double quotes as JSON writes them, which YAML reads the same, so a card cannot break out of
    /// its field. The description follows the front matter unchanged.
    pub fn to_markdown(&self) -> String {
        let mut text = String::from("---\n");
        let mut field = |key: &str, value: &str| {
            if !value.is_empty() {
                let _ = writeln!(text, "{key}: {}", quoted(value));
            }
        };
        field("license", &self.licence);
        field("pipeline_tag", self.task.as_deref().unwrap_or_default());
        field("library_name", self.library.as_deref().unwrap_or_default());
        field("base_model", self.base_model.as_deref().unwrap_or_default());
        list(&mut text, "tags", self.tags.iter());
        list(&mut text, "datasets", self.dataset.iter());
        list(&mut text, "metrics", self.metrics.keys());
        self.model_index(&mut text);
        text.push_str("---\n\n");
        let _ = write!(
            text,
            "# {}\n\n{}\n",
            one_line(&self.title),
            self.description.trim_end()
        );
        text
    }

    /// The Hub reads results only when task, dataset and value are all named.
    fn model_index(&self, text: &mut String) {
        let (Some(task), Some(dataset)) = (&self.task, &self.dataset) else {
            return;
        };
        let finite: Vec<_> = self
            .metrics
            .iter()
            .filter(|(_, value)| value.is_finite())
            .collect();
        if finite.is_empty() || self.title.is_empty() {
            return;
        }
        let (task, dataset, title) = (quoted(task), quoted(dataset), quoted(&self.title));
        let _ = write!(
            text,
            "model-index:\n- name: {title}\n  results:\n  - task:\n      type: {task}\n    dataset:\n      \
             name: {dataset}\n      type: {dataset}\n    metrics:\n"
        );
        for (name, value) in finite {
            let _ = writeln!(text, "    - type: {}\n      value: {value}", quoted(name));
        }
    }
}

/// One file of a revision: its path, true size and SHA-256 in hex. Publishing says that these are public.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordFile {
    /// Relative path with `/`.
    pub path: String,
    /// Bytes of the plaintext.
    pub size: u64,
    /// SHA-256 of the plaintext, 64 hex digits.
    pub sha256: String,
}

/// The public record of one revision, signed by being the content of the owner's Aleph POST message
/// of type [`MODEL_RECORD_TYPE`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelRecord {
    /// Address of the owner, EIP-55.
    pub owner: String,
    /// `owner/name`.
    pub name: String,
    /// Identity of the model across revisions.
    pub uuid: Uuid,
    /// Revision: first 20 bytes, in hex, of the SHA-256 of the head's CBOR.
    pub commit: String,
    /// The revision before this one.
    #[serde(default)]
    pub parent: Option<String>,
    /// Names of this revision.
    #[serde(default)]
    pub tags: Vec<String>,
    /// What the publisher says about it.
    pub card: Card,
    /// `free` is the only price today.
    pub price: String,
    /// Who may open it.
    #[serde(default, skip_serializing_if = "Visibility::is_default")]
    pub visibility: Visibility,
    /// Of a public revision: the vault's `ObjectKeys` of exactly this revision, base64. Anyone can open it with them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<String>,
    /// Of a private revision: the whole record, sealed for whoever holds the revision's key, base64. Beside it stand neither
    /// name nor card, files, tags and parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<String>,
    /// Every file of the revision, sorted by path.
    pub files: Vec<RecordFile>,
    /// Numbers in its weights, by the type that safetensors names, as their headers say. Of a sealed revision this is its owner's word.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, u64>,
    /// Item hash of the POST message that carries the signed head. Empty until the owner's machine signed it.
    #[serde(default)]
    pub head: String,
    /// Seconds since 1970.
    pub created: u64,
}

/// Where a public revision has some content: an answer of `GET /v1/files/{sha256}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicFile {
    /// `owner/name`.
    pub model: String,
    /// 40 hex digits.
    pub revision: String,
    /// Path in it.
    pub path: String,
    /// Bytes.
    pub size: u64,
}

/// Who may open a revision, and who knows of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Visibility {
    /// Whom its owner grants it to, shares it with or sells it to. Stock clients are told that it is gated.
    #[default]
    Sealed,
    /// Anyone: the keys stand in the record.
    Public,
    /// As sealed, and the record is sealed, too: only who may open it knows what it is.
    Private,
}

impl Visibility {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The word in records, addresses and commands.
    pub fn word(self) -> &'static str {
        match self {
            Self::Sealed => "sealed",
            Self::Public => "public",
            Self::Private => "private",
        }
    }

    /// What follows from making a model this, which was `before`: for the person who did it.
    pub fn consequence(self, before: Self) -> &'static str {
        match (before, self) {
            (Self::Private, Self::Public) => {
                "its name, card, and paths, sizes and hashes of its files are public now, and so are the keys of this revision: \
                 anyone can read it, and neither can be taken back; earlier revisions stay private"
            }
            (Self::Private, Self::Sealed) => {
                "its name, card, and paths, sizes and hashes of its files are public now, which cannot be taken back; the files \
                 stay sealed, and earlier revisions private"
            }
            (_, Self::Private) => {
                "from this revision on only who may open it knows of it; earlier ones are withdrawn from gateways, but what was \
                 published of them stays on the network, and cannot be taken back"
            }
            (_, Self::Public) => {
                "the keys of this revision are public now: anyone can read it, and that cannot be taken back"
            }
            (_, Self::Sealed) => {
                "from this revision on its owner lets people in; what was public before can be kept by anyone"
            }
        }
    }
}

impl ModelRecord {
    /// Numbers in its weights, where that is said.
    pub fn parameters_total(&self) -> Option<u64> {
        let total = self
            .parameters
            .values()
            .fold(0_u64, |sum, count| sum.saturating_add(*count));
        (!self.parameters.is_empty()).then_some(total)
    }

    /// Checks the form of a record that came from outside: names, hashes, paths, sizes; of a private one, that it shows none.
    ///
    /// # Errors
    /// A `model_record` problem that names the field.
    pub fn check(&self) -> Result<(), Problem> {
        if !is_hex(&self.commit, 40) || self.parent.as_deref().is_some_and(|parent| !is_hex(parent, 40)) {
            return bad("a revision is not 40 hex digits");
        }
        if !is_hex(&self.head, 64) {
            return bad("its head is not an item hash");
        }
        if self.price != "free" {
            return bad("its price is not `free`");
        }
        if (self.visibility == Visibility::Public) != self.keys.is_some() {
            return bad("a public revision has its keys beside it, and no other has");
        }
        if (self.visibility == Visibility::Private) != self.sealed.is_some() {
            return bad("a private revision has its sealed record beside it, and no other has");
        }
        if self.keys.as_ref().is_some_and(|keys| keys.len() > KEYS_MAX)
            || self
                .sealed
                .as_ref()
                .is_some_and(|sealed| sealed.len() > SEALED_MAX)
        {
            return bad("what stands beside it is too long for a record");
        }
        match &self.sealed {
            Some(sealed) if *self == self.covered(sealed.clone()) => Ok(()),
            Some(_) => bad("a private revision shows neither name nor card, files, tags and parent"),
            None => self.check_said(),
        }
    }

    /// The form of what the record says of the model.
    fn check_said(&self) -> Result<(), Problem> {
        if !is_owned(&self.owner, &self.name) {
            return bad("its name is not the owner's address, a slash and a plain name");
        }
        if private_uuid(&self.name).is_some() {
            return bad("its name is one that stands for a private model");
        }
        if self.card.private {
            return bad("its card asks for what only a publish can be asked");
        }
        let is_type = |name: &String| {
            name.len() <= 16
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        if self.parameters.len() > TENSOR_TYPES_MAX || !self.parameters.keys().all(is_type) {
            return bad(
                "it counts numbers of types that there are none of: write weights by the format's own types, such as F32",
            );
        }
        if self.tags.len() > TAGS_MAX || !self.tags.iter().all(|tag| is_tag(tag)) {
            return bad("it has a tag that cannot be one, or too many");
        }
        for file in &self.files {
            if !is_path(&file.path) || !is_hex(&file.sha256, 64) {
                return bad("a file has an unsafe path or no SHA-256");
            }
        }
        let mut paths: Vec<_> = self.files.iter().map(|file| file.path.as_str()).collect();
        paths.sort_unstable();
        if paths.windows(2).any(|pair| pair[0] == pair[1]) {
            return bad("two files have one path");
        }
        Ok(())
    }
}

fn bad(what: &str) -> Result<(), Problem> {
    Err(Problem::new(
        "model_record",
        format!("the model record is refused: {what}"),
    ))
}

/// `POST /v1/models`: where a signed message of the registry is: a record, tags, a withdrawal or evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewModel {
    /// Item hash of the message.
    pub record: String,
}

/// `GET /v1/models/{owner}/{name}`: all that the index knows of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelPage {
    /// Its revisions, newest first; withdrawn ones are not among them.
    pub revisions: Vec<IndexedModel>,
    /// Its tags; none of them names a revision that is not there.
    pub tags: BTreeMap<String, String>,
    /// The serial of those tags, zero for none: the next must be larger.
    pub tags_serial: u64,
    /// What verifiers found, newest first.
    pub evidence: Vec<IndexedEvidence>,
    /// Downloads of its files, counted once for each day, file and bearer.
    pub downloads: u64,
    /// What its owner asks for its sealed revisions.
    #[cfg(feature = "money")]
    #[serde(default)]
    pub terms: Option<crate::market::IndexedTerms>,
}

/// `POST` and `GET /v1/registry/rebuild`: how far a gateway is with reading all messages of models from Aleph.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryRebuild {
    /// Where it is.
    pub state: RebuildState,
    /// Messages that were looked at.
    pub read: u64,
    /// Those that held, and count.
    pub taken: u64,
    /// Those that did not.
    pub refused: u64,
    /// Those that name what the network did not have at that time.
    pub unavailable: u64,
    /// Seconds since 1970.
    #[serde(default)]
    pub started: Option<u64>,
    /// Seconds since 1970.
    #[serde(default)]
    pub ended: Option<u64>,
    /// Why it failed.
    #[serde(default)]
    pub reason: Option<String>,
}

/// Where a rebuild is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RebuildState {
    /// None was asked for since the gateway was started.
    #[default]
    Idle,
    /// Messages are read.
    Running,
    /// All were.
    Done,
    /// The network did not tell all.
    Failed,
}

/// Evidence as the gateway's index knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IndexedEvidence {
    /// What was signed.
    pub evidence: ModelEvidence,
    /// Item hash of its message.
    pub message: String,
    /// Whether this gateway takes this verifier's word for a badge.
    pub counts: bool,
}

/// One revision as the gateway's index knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IndexedModel {
    /// The verified record.
    pub record: ModelRecord,
    /// Item hash of the record's message.
    pub message: String,
}

/// Whether `name` is `owner`, a slash and a plain name.
pub fn is_owned(owner: &str, name: &str) -> bool {
    name.split_once('/')
        .is_some_and(|(of, name)| of == owner && is_name(name))
}

/// Whether `tag` may name a revision: a plain word that is no branch, no revision and no path.
pub fn is_tag(tag: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !tag.is_empty()
        && tag.len() <= 64
        && tag.chars().all(plain)
        && !tag.starts_with(['.', '-'])
        && tag != "main"
        && !is_hex(&tag.to_ascii_lowercase(), 40)
}

/// Whether `name` may stand after an owner in `owner/name`: the Hub's rule for repo names.
pub fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !name.is_empty()
        && name.len() <= 96
        && name.chars().all(plain)
        && !name.contains("--")
        && !name.contains("..")
        && !name.starts_with(['-', '.'])
        && !name.ends_with(['-', '.'])
        && !name.ends_with(".git")
}

/// Whether `path` is a relative path of plain parts, none of which git would refuse on some system.
pub fn is_path(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= 1024
        && !path.contains(|c: char| c == '\\' || c.is_control())
        && path
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != ".." && !part.eq_ignore_ascii_case(".git"))
}

/// Whether a text is that many lower-case hex digits: then it is safe as a file's name, too.
pub fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn list<'a>(text: &mut String, key: &str, values: impl Iterator<Item = &'a String>) {
    let mut values = values.peekable();
    if values.peek().is_none() {
        return;
    }
    let _ = writeln!(text, "{key}:");
    for value in values {
        let _ = writeln!(text, "- {}", quoted(value));
    }
}

fn quoted(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}

fn one_line(value: &str) -> String {
    value.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn record() -> ModelRecord {
        ModelRecord {
            owner: "0xAb".into(),
            name: "0xAb/digits".into(),
            commit: "a".repeat(40),
            price: "free".into(),
            files: vec![RecordFile {
                path: "model.safetensors".into(),
                size: 3,
                sha256: "0".repeat(64),
            }],
            head: "b".repeat(64),
            created: 1,
            ..ModelRecord::default()
        }
    }

    #[test]
    fn card_cannot_break_out_of_its_front_matter() {
        let card = Card {
            title: "A\n---\nB".into(),
            licence: "mit\"\n---\nx: 1".into(),
            task: Some("image-classification".into()),
            dataset: Some("digits".into()),
            base_model: Some("0xAb/digits\"\n---\ny: 1".into()),
            metrics: BTreeMap::from([("accuracy".to_owned(), 0.9833), ("nan".to_owned(), f64::NAN)]),
            ..Card::default()
        };
        let text = card.to_markdown();
        let front = text.split("\n---\n").next().unwrap();
        assert!(front.contains("license: \"mit\\\"\\n---\\nx: 1\""), "{text}");
        assert!(
            front.contains("base_model: \"0xAb/digits\\\"\\n---\\ny: 1\""),
            "{text}"
        );
        assert!(
            front.contains("value: 0.9833") && !front.contains("NaN"),
            "{text}"
        );
        assert!(text.ends_with("# A --- B\n\n\n"), "{text}");
    }

    #[test]
    fn accepts_a_whole_record_and_refuses_each_fault() {
        record().check().unwrap();
        let faults: [fn(&mut ModelRecord); 10] = [
            |r| r.visibility = Visibility::Public,
            |r| r.keys = Some("00".into()),
            |r| r.tags = vec!["main".into()],
            |r| r.name = "digits".into(),
            |r| r.name = "0xAc/digits".into(),
            |r| r.commit = "A".repeat(40),
            |r| r.head = String::new(),
            |r| r.price = "1".into(),
            |r| r.files[0].path = "../x".into(),
            |r| r.files.push(r.files[0].clone()),
        ];
        for (n, fault) in faults.into_iter().enumerate() {
            let mut bad = record();
            fault(&mut bad);
            assert_eq!(bad.check().unwrap_err().code, "model_record", "fault {n}");
        }
    }

    #[test]
    fn tags_are_plain_words_that_name_revisions() {
        for tag in ["v1", "v1.2-rc_3", "final"] {
            assert!(is_tag(tag), "{tag}");
        }
        for tag in [
            "",
            "main",
            ".x",
            "-x",
            "a/b",
            "a b",
            "é",
            &"a".repeat(40),
            &"x".repeat(65),
        ] {
            assert!(!is_tag(tag), "{tag}");
        }
    }

    #[test]
    fn a_sealed_record_is_written_as_before_there_were_public_ones() {
        let text = serde_json::to_string(&record()).unwrap();
        assert!(!text.contains("visibility") && !text.contains("keys"), "{text}");
    }
}
