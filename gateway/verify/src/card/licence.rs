//! Licences by their ids: SPDX's (list 3.27.0, in `spdx.txt`) and those that the Hub adds, and which allow selling.
//!
//! The table of what forbids selling names licences whose text excludes commercial use. It is no legal advice.

const SPDX: &str = include_str!("spdx.txt");

/// Ids of the Hub that SPDX does not have.
const HUB: [&str; 42] = [
    "apple-amlr",
    "apple-ascl",
    "bigcode-openrail-m",
    "bigscience-bloom-rail-1.0",
    "bigscience-openrail-m",
    "bsd",
    "cc",
    "cdla-permissive-1.0",
    "cdla-permissive-2.0",
    "cdla-sharing-1.0",
    "creativeml-openrail-m",
    "deepfloyd-if-license",
    "etalab-2.0",
    "fair-noncommercial-research-license",
    "gemma",
    "gfdl",
    "gpl",
    "agpl-3.0",
    "gpl-2.0",
    "gpl-3.0",
    "grok2-community",
    "h-research",
    "intel-research",
    "lgpl",
    "lgpl-2.1",
    "lgpl-3.0",
    "lgpl-lr",
    "llama2",
    "llama3",
    "llama3.1",
    "llama3.2",
    "llama3.3",
    "llama4",
    "odc-by",
    "open-mdw",
    "openmdw-1.0",
    "openrail",
    "openrail++",
    "other",
    "pddl",
    "unknown",
    "wtfpl",
];

/// Whole ids, or beginnings that end in `-`, of licences that exclude commercial use.
const NONCOMMERCIAL: [&str; 8] = [
    "cc-by-nc-",
    "polyform-noncommercial-",
    "apple-amlr",
    "deepfloyd-if-license",
    "fair-noncommercial-research-license",
    "h-research",
    "intel-research",
    "aladdin",
];

/// Whether a licence allows selling what is under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Selling {
    /// Nothing in it forbids commercial use.
    Allowed,
    /// It excludes commercial use.
    Forbidden,
    /// Its text is not known here.
    Unknown,
}

/// Whether every id of an SPDX expression, or the one id, is known. Case does not matter.
pub(crate) fn is_known(text: &str) -> bool {
    let mut ids = ids(text).peekable();
    ids.peek().is_some()
        && ids.all(|id| HUB.contains(&id.as_str()) || SPDX.lines().any(|line| line.eq_ignore_ascii_case(&id)))
}

/// What the licence says to selling; of several, the strictest.
pub(crate) fn selling(text: &str) -> Selling {
    let mut worst = Selling::Allowed;
    for id in ids(text) {
        if NONCOMMERCIAL
            .iter()
            .any(|known| id == *known || (known.ends_with('-') && id.starts_with(known)))
        {
            return Selling::Forbidden;
        }
        if matches!(id.as_str(), "other" | "unknown") {
            worst = Selling::Unknown;
        }
    }
    worst
}

fn ids(text: &str) -> impl Iterator<Item = String> {
    text.split([' ', '(', ')'])
        .filter(|word| !matches!(*word, "" | "OR" | "AND" | "WITH" | "or" | "and" | "with"))
        // `GPL-2.0+` is old SPDX for "or later"; the Hub's `openrail++` is a name.
        .map(|word| word.to_lowercase())
        .map(|word| {
            if word.ends_with("++") {
                word
            } else {
                word.trim_end_matches('+').to_owned()
            }
        })
        .take(64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_ids_of_spdx_and_hub_and_what_may_be_sold() {
        for known in [
            "mit",
            "Apache-2.0",
            "MIT OR Apache-2.0",
            "GPL-2.0-only WITH Classpath-exception-2.0",
            "gemma",
            "openrail++",
        ] {
            assert!(is_known(known), "{known}");
            assert_eq!(selling(known), Selling::Allowed, "{known}");
        }
        for unknown in ["", "mine", "mit-ish", "MIT OR mine"] {
            assert!(!is_known(unknown), "{unknown}");
        }
        assert_eq!(selling("cc-by-nc-4.0"), Selling::Forbidden);
        assert_eq!(selling("MIT AND CC-BY-NC-SA-4.0"), Selling::Forbidden);
        assert_eq!(selling("other"), Selling::Unknown);
    }
}
