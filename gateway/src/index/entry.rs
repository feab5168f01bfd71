//! One model as lists and cards show it.

use alephlab_api::model::{ModelRecord, RecordFile, Visibility};
use alephlab_api::money::Amount;
use uuid::Uuid;

/// A model at its newest revision.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// `owner/name`.
    pub(crate) name: String,
    pub(crate) uuid: Uuid,
    /// 40 hex digits.
    pub(crate) revision: String,
    /// Name for people; empty where its publisher gave none.
    pub(crate) title: String,
    /// The first sentence or line of its description, at most 160 characters.
    pub(crate) sentence: String,
    pub(crate) visibility: Visibility,
    pub(crate) task: Option<String>,
    pub(crate) library: Option<String>,
    /// SPDX identifier or the Hub's name, in lower case; empty for none.
    pub(crate) licence: String,
    pub(crate) dataset: Option<String>,
    pub(crate) base_model: Option<String>,
    /// Free words of the card.
    pub(crate) tags: Vec<String>,
    pub(crate) format: Format,
    /// Bytes of all files.
    pub(crate) bytes: u64,
    /// Numbers in its tensors, where its record says so.
    pub(crate) parameters: Option<u64>,
    /// Of the first revision, seconds since 1970.
    pub(crate) created: u64,
    /// Of this revision, seconds since 1970.
    pub(crate) modified: u64,
    pub(crate) downloads: u64,
    /// For this revision, where it is sold.
    pub(crate) price: Option<Amount>,
    /// What counting verifiers say of this revision.
    pub(crate) badge: Badge,
    /// Whether a counting verifier repeated its evaluation.
    pub(crate) reproduced: bool,
    /// What text is searched in, in lower case.
    pub(crate) haystack: String,
}

/// What is known of a revision's checks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) enum Badge {
    /// Nobody whose word counts here has looked.
    #[default]
    Unchecked,
    /// All blocking checks passed, at this time in seconds since 1970.
    Verified(u64),
    /// A blocking check failed, at this time.
    Refused(u64),
}

/// What the weights are in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Format {
    Safetensors,
    Gguf,
    Onnx,
    #[default]
    Other,
}

/// How much memory the files take at least, as a facet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Size {
    /// Below 100 MB.
    Small,
    /// Below 2 GB.
    Medium,
    /// Below 16 GB.
    Large,
    Huge,
}

/// What a revision costs, as a facet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Cost {
    /// Public: anyone can open it.
    Free,
    /// Below 10 ALEPH.
    Little,
    /// Below 100.
    Some,
    /// Below 1,000.
    Much,
    Most,
}

impl Cost {
    /// In millionths of an ALEPH.
    pub(super) fn of(micros: u64) -> Self {
        match micros {
            0 => Self::Free,
            1..10_000_000 => Self::Little,
            10_000_000..100_000_000 => Self::Some,
            100_000_000..1_000_000_000 => Self::Much,
            _ => Self::Most,
        }
    }

    /// The word in addresses.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Little => "below-10",
            Self::Some => "10-100",
            Self::Much => "100-1000",
            Self::Most => "over-1000",
        }
    }
}

/// How many numbers the weights are, as a facet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Scale {
    /// Below 100 million.
    Tiny,
    /// Below a billion.
    Some,
    /// Below 10 billion.
    Many,
    Most,
}

impl Scale {
    pub(crate) fn of(parameters: u64) -> Self {
        match parameters {
            0..100_000_000 => Self::Tiny,
            100_000_000..1_000_000_000 => Self::Some,
            1_000_000_000..10_000_000_000 => Self::Many,
            _ => Self::Most,
        }
    }

    /// The word in addresses.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Tiny => "below-100m",
            Self::Some => "100m-1b",
            Self::Many => "1b-10b",
            Self::Most => "over-10b",
        }
    }
}

impl Format {
    /// By the names of the files; what is in them is the verifier's business.
    pub(crate) fn of(files: &[RecordFile]) -> Self {
        let any = |end: &str| files.iter().any(|file| file.path.ends_with(end));
        if any(".safetensors") {
            Self::Safetensors
        } else if any(".gguf") {
            Self::Gguf
        } else if any(".onnx") {
            Self::Onnx
        } else {
            Self::Other
        }
    }

    /// The word in addresses and on pages.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::Gguf => "gguf",
            Self::Onnx => "onnx",
            Self::Other => "other",
        }
    }
}

impl Size {
    pub(crate) fn of(bytes: u64) -> Self {
        match bytes {
            0..100_000_000 => Self::Small,
            100_000_000..2_000_000_000 => Self::Medium,
            2_000_000_000..16_000_000_000 => Self::Large,
            _ => Self::Huge,
        }
    }

    /// The word in addresses.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Medium => "medium",
            Self::Large => "large",
            Self::Huge => "huge",
        }
    }
}

impl Entry {
    /// Of the newest revision of a model that began at `created`. Downloads and badge are put in by who knows them.
    pub(crate) fn of(record: &ModelRecord, created: u64) -> Self {
        let card = &record.card;
        let mut haystack =
            format!("{}\n{}\n{}", record.name, card.title, card.tags.join("\n")).to_lowercase();
        for word in [&card.task, &card.dataset, &card.base_model, &card.library] {
            haystack.push('\n');
            haystack.push_str(&word.as_deref().unwrap_or_default().to_lowercase());
        }
        Self {
            name: record.name.clone(),
            uuid: record.uuid,
            revision: record.commit.clone(),
            title: card.title.clone(),
            sentence: sentence(&card.description),
            visibility: record.visibility,
            task: card.task.clone(),
            library: card.library.clone(),
            licence: card.licence.to_lowercase(),
            dataset: card.dataset.clone(),
            base_model: card.base_model.clone(),
            tags: card.tags.clone(),
            format: Format::of(&record.files),
            bytes: record
                .files
                .iter()
                .fold(0, |sum, file| file.size.saturating_add(sum)),
            parameters: record.parameters_total(),
            created,
            modified: record.created,
            downloads: 0,
            price: None,
            badge: Badge::Unchecked,
            reproduced: false,
            haystack,
        }
    }

    /// The owner's address.
    pub(crate) fn owner(&self) -> &str {
        self.name.split_once('/').map_or("", |(owner, _)| owner)
    }

    /// The name without its owner.
    pub(crate) fn short(&self) -> &str {
        self.name.split_once('/').map_or(&*self.name, |(_, name)| name)
    }
}

/// The first sentence of a text in Markdown that is no heading, cut at a word.
pub(crate) fn sentence(text: &str) -> String {
    const MAX: usize = 160;
    let line = text
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with(['#', '|', '`', '<', '!', '-', '*', '=']));
    let line = line.unwrap_or_default();
    let line = line.split_inclusive(". ").next().unwrap_or_default().trim_end();
    if line.chars().count() <= MAX {
        return line.to_owned();
    }
    let cut: String = line.chars().take(MAX - 1).collect();
    let cut = cut.rsplit_once(' ').map_or(&*cut, |(front, _)| front);
    format!("{}…", cut.trim_end_matches([',', ';', ':']))
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Entry {
        /// A model of this name and nothing else.
        pub(crate) fn of_test(name: &str) -> Self {
            let record = ModelRecord {
                owner: name.split('/').next().unwrap().to_owned(),
                name: name.to_owned(),
                commit: "a".repeat(40),
                price: "free".to_owned(),
                visibility: Visibility::Public,
                head: "b".repeat(64),
                created: 1,
                ..ModelRecord::default()
            };
            Self::of(&record, 1)
        }
    }

    #[test]
    fn a_sentence_is_the_first_that_is_no_heading() {
        assert_eq!(
            sentence("# Digits\n\nReads digits. Was trained.\n"),
            "Reads digits."
        );
        assert_eq!(sentence("| a |\n\n"), "");
        let long = sentence(&"word ".repeat(60));
        assert!(long.ends_with("word…") && long.chars().count() <= 160, "{long}");
    }
}
