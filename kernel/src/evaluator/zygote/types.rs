//! Types of variables, as the compiler spells them.
//!
//! A cell stores a variable with `alephlab_cell::put("x", x)`, which returns `Stored<T>`. The compiler's MIR dump of
//! the cell declares that result with whole, visible paths, which is what the next cell writes to take the variable
//! out. So types are known without rust-analyzer, and before the cell has run. Pure.

use std::collections::{BTreeMap, BTreeSet};

/// Type by variable, of everything that a cell stores.
pub(super) fn stored(mir: &str) -> BTreeMap<String, String> {
    let mut types = BTreeMap::new();
    let mut declared: BTreeMap<&str, &str> = BTreeMap::new();
    for line in mir.lines() {
        let text = line.trim_start();
        if line.starts_with("fn ") {
            // Numbers of locals start anew.
            declared.clear();
        } else if let Some(declaration) = text.strip_prefix("let ") {
            let declaration = declaration.trim_start_matches("mut ");
            if let Some((local, kind)) = declaration.split_once(": ")
                && let Some((_, inner)) = kind.split_once("alephlab_cell::Stored<")
                && let Some(inner) = inner.strip_suffix(">;")
            {
                declared.insert(local, inner);
            }
        } else if let Some((local, call)) = text.split_once(" = ")
            && let Some(kind) = declared.get(local)
            && let Some((_, arguments)) = call.split_once(">(const \"")
            && let Some((name, _)) = arguments.split_once('"')
        {
            types.insert(unescape(name), (*kind).to_owned());
        }
    }
    types
}

/// `\u{e4}` as the character.
fn unescape(name: &str) -> String {
    let mut parts = name.split("\\u{");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (digits, rest) = part.split_once('}').unwrap_or(("", part));
        out.extend(u32::from_str_radix(digits, 16).ok().and_then(char::from_u32));
        out.push_str(rest);
    }
    out
}

/// Why a type has no name that the next cell could write; nothing when it has one.
pub(super) fn why_unnameable(kind: &str) -> Option<&'static str> {
    if kind.contains("{closure@") || kind.contains("{async closure") {
        return Some("it is or holds a closure");
    }
    if kind.contains("{async ") || kind.contains("{coroutine") {
        return Some("it is a future of an async block");
    }
    if kind.contains("impl ") {
        return Some("it is known only by a trait (`impl Trait`)");
    }
    if kind.contains("} {") || kind.contains(") {") || kind.ends_with('}') || kind.contains("::{") {
        return Some("it is a function's own type, or one that is local to the cell");
    }
    None
}

/// The crates that a type names.
pub(super) fn crates(kind: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut start = None;
    let bytes = kind.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        let in_word = byte.is_ascii_alphanumeric() || *byte == b'_' || !byte.is_ascii();
        match (start, in_word) {
            (None, true) => start = Some(at),
            (Some(from), false) => {
                let leads = from < 2 || &bytes[from - 2..from] != b"::";
                if leads && kind[at..].starts_with("::") && !kind[at..].starts_with("::<") {
                    found.insert(kind[from..at].to_owned());
                }
                start = None;
            }
            _ => {}
        }
    }
    found
}

/// A type as a person reads it: without the names of our crates and the folders of std.
pub(super) fn short(kind: &str) -> String {
    let mut out = String::new();
    let mut word = String::new();
    let mut chars = kind.chars().peekable();
    while let Some(c) = chars.next() {
        if c.is_alphanumeric() || c == '_' {
            word.push(c);
        } else if c == ':' && chars.peek() == Some(&':') && !word.is_empty() {
            chars.next();
            // `::<`, and a path that goes on: only its last word is kept.
            word.clear();
        } else {
            out.push_str(&std::mem::take(&mut word));
            out.push(c);
        }
    }
    out.push_str(&word);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_found_by_the_names_that_are_stored() {
        let mir = "fn other() -> () {\n    let _16: alephlab_cell::Stored<u8>;\n}\n\
            fn alephlab_cell_entry::{closure#0}(_1: x) -> y {\n    let mut _0: z;\n    \
            let _16: alephlab_cell::Stored<std::collections::HashMap<std::string::String, &str>>;\n    \
            let _18: alephlab_cell::Stored<[u8; 3]>;\n    bb1: {\n        \
            _16 = put::<HashMap<String, &str>>(const \"map\", move _17) -> [return: bb12, unwind: bb29];\n        \
            _18 = alephlab_cell::put::<[u8; 3]>(const \"\\u{e4}\", copy _9) -> [return: bb3];\n";
        let types = stored(mir);
        assert_eq!(
            types["map"],
            "std::collections::HashMap<std::string::String, &str>"
        );
        assert_eq!(types["ä"], "[u8; 3]");
        assert_eq!(types.len(), 2);
    }

    #[test]
    fn types_without_a_name_are_told() {
        for kind in [
            "std::iter::Map<std::ops::Range<i32>, {closure@cell.rs:13:23: 13:26}>",
            "impl std::iter::Iterator<Item = i32>",
            "fn(i32) -> i32 {it_1::f}",
            "alephlab_cell_entry::{closure#0}::Q",
            "{async block@cell.rs:1:2: 3:4}",
        ] {
            assert!(why_unnameable(kind).is_some(), "{kind}");
        }
        for kind in [
            "fn(i32) -> i32",
            "std::boxed::Box<dyn for<'a> std::ops::Fn(&'a i32) -> i32 + std::marker::Send>",
            "[u8; 3]",
        ] {
            assert_eq!(why_unnameable(kind), None, "{kind}");
        }
    }

    #[test]
    fn crates_and_short_names_are_read_from_paths() {
        let kind = "std::collections::HashMap<it_12ab::P, (&str, alephlab::candle_core::Tensor)>";
        let all: Vec<String> = crates(kind).into_iter().collect();
        assert_eq!(all, ["alephlab", "it_12ab", "std"]);
        assert_eq!(short(kind), "HashMap<P, (&str, Tensor)>");
        assert_eq!(
            short("std::boxed::Box<dyn for<'a> std::ops::Fn(&'a i32) -> i32>"),
            "Box<dyn for<'a> Fn(&'a i32) -> i32>"
        );
    }
}
