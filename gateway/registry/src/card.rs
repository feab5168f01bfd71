//! A model's card as its `README.md` has it: the front matter, as far as a registry looks at it, and the text.
//!
//! Not a YAML parser: flat keys with one value or a list, in the spellings that cards use. Everything else in it is left
//! alone, and goes to clients as it came, in the file itself.

use std::collections::BTreeMap;

use alephlab_api::Card;
use alephlab_api::model::FrontMatter;

/// What is wrong with a card.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    /// It cannot be read at all.
    pub(crate) errors: Vec<String>,
    /// It can, but something in it is not understood here.
    pub(crate) warnings: Vec<String>,
}

/// The longest `README.md` that is looked into.
pub const README_MAX: u64 = 1 << 20;
/// The longest text of a card, bytes: the card stands in the signed record, which is one message of Aleph.
const TEXT_MAX: usize = 48 << 10;
/// What follows a text that is longer.
pub const CUT: &str = "\n\nThe rest of this card stands in its `README.md`.";

/// What a `README.md` says: in its front matter, its title and its text.
pub fn read(text: &str) -> Card {
    let (front, body) = match FrontMatter::of(text) {
        FrontMatter::Whole(front, body) => (front, body),
        FrontMatter::Absent | FrontMatter::Open => ("", text),
    };
    let fields = fields(front);
    let one = |key: &str| fields.get(key).and_then(|values| values.first()).cloned();
    let title = body.lines().find_map(|line| line.strip_prefix("# "));
    Card {
        title: title.unwrap_or_default().trim().to_owned(),
        description: description(body),
        licence: one("license").unwrap_or_default(),
        tags: fields.get("tags").cloned().unwrap_or_default(),
        task: one("pipeline_tag"),
        dataset: one("datasets"),
        library: one("library_name"),
        base_model: one("base_model"),
        ..Card::default()
    }
}

/// The text below the title, as far as a record holds it.
fn description(body: &str) -> String {
    let body = body.trim();
    let text = match body.strip_prefix("# ") {
        Some(titled) => titled.split_once('\n').map_or("", |(_, text)| text.trim()),
        None => body,
    };
    cut(text, TEXT_MAX)
}

/// A card's text of at most `max` bytes, and where the rest is said after it; as it is where it is no longer.
pub fn cut(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let text = text.strip_suffix(CUT).unwrap_or(text);
    let room = &text[..text.floor_char_boundary(max)];
    // Whole paragraphs or lines, where that costs little.
    let near = |end: &usize| *end >= room.len() / 4 * 3;
    let end = room.rfind("\n\n").filter(near);
    let end = end.or_else(|| room.rfind('\n').filter(near));
    let kept = room[..end.unwrap_or(room.len())].trim_end();
    // An open fence would make code of what is said next.
    let close = open_fence(kept).map_or_else(String::new, |fence| format!("\n{fence}"));
    format!("{kept}{close}{CUT}")
}

/// The fence of a code block that has begun and has no end.
fn open_fence(text: &str) -> Option<&str> {
    let mut open: Option<&str> = None;
    for line in text.lines() {
        let line = line.trim();
        let Some(mark) = line.chars().next().filter(|mark| "`~".contains(*mark)) else {
            continue;
        };
        let (fence, rest) = line.split_at(line.len() - line.trim_start_matches(mark).len());
        open = match open {
            None if fence.len() >= 3 && !(mark == '`' && rest.contains('`')) => Some(fence),
            Some(begun) if begun.starts_with(mark) && fence.len() >= begun.len() && rest.is_empty() => None,
            still => still,
        };
    }
    open
}

/// Looks for what would make a card unreadable.
pub(crate) fn check(text: &str) -> Faults {
    let mut faults = Faults::default();
    let front = match FrontMatter::of(text) {
        FrontMatter::Whole(front, _) => front,
        FrontMatter::Open => {
            let error = "the metadata at the top has no end: close it with `---`";
            faults.errors.push(error.to_owned());
            return faults;
        }
        FrontMatter::Absent => {
            let warning = "empty or missing yaml metadata in repo card";
            faults.warnings.push(warning.to_owned());
            return faults;
        }
    };
    for (number, line) in front.lines().enumerate() {
        // The fence is the first line.
        let number = number + 2;
        if line.starts_with('\t') {
            faults
                .errors
                .push(format!("line {number} of the metadata is indented by a tab"));
        }
        let plain = line.is_empty() || line.starts_with([' ', '\t', '#', '-', ']', '}']);
        if !plain && pair(line).is_none() {
            faults
                .warnings
                .push(format!("line {number} of the metadata is not `key: value`"));
        }
    }
    faults
}

fn fields(front: &str) -> BTreeMap<String, Vec<String>> {
    let mut fields: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut key = None;
    for line in front.lines().map(str::trim_end) {
        if let Some(item) = line.trim_start().strip_prefix("- ") {
            // An item that is a table of its own has no plain value.
            if let Some(values) = key.as_ref().and_then(|key| fields.get_mut(key))
                && pair(item).is_none()
            {
                values.extend(scalar(item));
            }
        } else if line.starts_with(|c: char| c.is_ascii_alphabetic())
            && let Some((name, value)) = pair(line)
        {
            let values = match value.strip_prefix('[').and_then(|list| list.strip_suffix(']')) {
                Some(list) => list.split(',').filter_map(scalar).collect(),
                None => scalar(value).into_iter().collect(),
            };
            fields.insert(name.to_owned(), values);
            key = Some(name.to_owned());
        }
    }
    fields
}

/// `key: value`, or `key:`.
fn pair(line: &str) -> Option<(&str, &str)> {
    if line.starts_with(['"', '\'']) {
        return None;
    }
    let (key, value) = line.split_once(':')?;
    (value.is_empty() || value.starts_with(' ')).then(|| (key.trim(), value.trim()))
}

/// A value without quotes and comment.
fn scalar(text: &str) -> Option<String> {
    let text = text.trim();
    if text.starts_with('"') {
        return serde_json::from_str(text).ok();
    }
    if let Some(quoted) = text.strip_prefix('\'') {
        return Some(quoted.strip_suffix('\'')?.replace("''", "'"));
    }
    let plain = text.split(" #").next().unwrap_or_default().trim();
    let is_nothing = plain.is_empty() || matches!(plain, "null" | "~" | "|" | ">");
    (!is_nothing).then(|| plain.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_spellings_that_cards_use() {
        let card = read(
            "---\nlicense: mit # ours\ntags:\n- a\n  - 'it''s'\npipeline_tag: \"text-generation\"\ndatasets: [x, y]\n\
             model-index:\n- name: z\n  results: []\n---\n\n# A title\ntext\n",
        );
        assert_eq!((card.licence.as_str(), card.title.as_str()), ("mit", "A title"));
        assert_eq!(card.tags, ["a", "it's"]);
        assert_eq!(card.description, "text");
        assert_eq!(card.task.as_deref(), Some("text-generation"));
        assert_eq!(card.dataset.as_deref(), Some("x"));
    }

    #[test]
    fn reads_what_our_own_cards_write() {
        let card = Card {
            title: "Digits".into(),
            description: "Reads digits.\n\n# Not its title\n\n- a".into(),
            licence: "apache-2.0".into(),
            tags: vec!["tiny: yes".into(), "b".into()],
            library: Some("candle".into()),
            ..Card::default()
        };
        assert_eq!(read(&card.to_markdown()), card);
    }

    #[test]
    fn a_long_text_ends_with_a_whole_paragraph_and_says_where_the_rest_is() {
        assert_eq!(
            read("no title\n\nand no metadata").description,
            "no title\n\nand no metadata"
        );
        let paragraph = "\u{e9}".repeat(1_000);
        let long = vec![paragraph.as_str(); 40].join("\n\n");
        let text = read(&format!("# Long\n\n{long}")).description;
        assert!(text.len() <= TEXT_MAX + CUT.len() && text.ends_with(CUT));
        assert!(
            text.strip_suffix(CUT)
                .unwrap()
                .ends_with(&format!("\n\n{paragraph}"))
        );
    }

    #[test]
    fn a_cut_leaves_no_code_open_and_takes_no_more_than_it_must() {
        let code = format!("a\n\n```rust\n{}", "let a = `1`;\n\n".repeat(100));
        let text = cut(&code, 500);
        assert!(
            text.ends_with(&format!("\n```{CUT}")) && text.len() > 450,
            "{text}"
        );
        let closed = format!("~~~~\n```\n~~~~\n{}", "x ".repeat(500));
        assert!(!cut(&closed, 500).contains("~~~~\n\nThe rest"));
        let table = format!("One line.\n\n{}", "| a | b |\n".repeat(100));
        assert!(cut(&table, 500).len() > 450);
        // Again to less room.
        assert_eq!(cut(&text, 300).matches(CUT).count(), 1);
        assert_eq!(cut("short", 5), "short");
    }

    #[test]
    fn only_what_is_unreadable_stops_an_upload() {
        assert_eq!(check("---\nlicense: mit\nx: [\n]\n---\n"), Faults::default());
        assert_eq!(check("# no metadata").errors.len(), 0);
        assert_eq!(check("# no metadata").warnings.len(), 1);
        assert_eq!(check("---\nlicense: mit\n").errors.len(), 1);
        assert_eq!(check("---\n\tlicense: mit\n---").errors.len(), 1);
        assert_eq!(check("---\nlicense mit\n---").warnings.len(), 1);
    }
}
