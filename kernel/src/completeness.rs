//! Is this cell finished? Answers `is_complete_request`, so that a console knows whether Enter runs it.
//!
//! A pass over tokens finds open brackets, strings and comments, and brackets that close nothing; then the
//! parser that evcxr uses says whether the rest is Rust. Pure, needs no evaluator.

use ra_ap_syntax::{Edition, SourceFile, SyntaxKind, SyntaxNode, TextSize};

/// Answer to `is_complete_request`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Completeness {
    /// Can run.
    Complete,
    /// More is to come; the next line starts with this many spaces.
    Incomplete {
        /// Spaces.
        indent: usize,
    },
    /// Can never become a cell.
    Invalid,
}

/// Spaces per open bracket.
const INDENT: usize = 4;
const BEFORE: &str = "fn cell() {\n";
const AFTER: &str = "\n}";

/// Looks at a cell's text.
pub(crate) fn completeness(code: &str) -> Completeness {
    let rust: String = code
        .lines()
        .map(|line| if is_command(line) { "\n" } else { line }.to_owned() + "\n")
        .collect();
    let rust = rust.trim_end();
    let text = format!("{BEFORE}{rust}{AFTER}");
    let parse = SourceFile::parse(&text, Edition::Edition2024);
    match brackets(&parse.syntax_node(), text.len() - AFTER.len()) {
        Brackets::Open(depth) => {
            return Completeness::Incomplete {
                indent: depth * INDENT,
            };
        }
        Brackets::Wrong => return Completeness::Invalid,
        Brackets::Balanced => {}
    }
    let end = text.len() - AFTER.len();
    let errors = parse.errors();
    if errors.is_empty() {
        return Completeness::Complete;
    }
    // An error where the text ends means that something should follow: `let x =`.
    let at_end = errors.iter().all(|error| error.range().start() >= text_size(end));
    let waits = at_end && !matches!(rust.chars().last(), Some(';' | '}') | None);
    if waits {
        Completeness::Incomplete { indent: 0 }
    } else {
        Completeness::Invalid
    }
}

enum Brackets {
    Balanced,
    /// How many are open; 0 for a string or comment that is not ended.
    Open(usize),
    Wrong,
}

fn brackets(root: &SyntaxNode, end: usize) -> Brackets {
    let mut open = Vec::new();
    for token in root
        .descendants_with_tokens()
        .filter_map(|element| element.into_token())
    {
        let range = token.text_range();
        if range.start() < text_size(BEFORE.len()) {
            continue;
        }
        if is_unended(token.kind(), token.text()) {
            return Brackets::Open(0);
        }
        if range.start() >= text_size(end) {
            break;
        }
        let closes = match token.kind() {
            SyntaxKind::L_CURLY | SyntaxKind::L_PAREN | SyntaxKind::L_BRACK => {
                open.push(token.kind());
                continue;
            }
            SyntaxKind::R_CURLY => SyntaxKind::L_CURLY,
            SyntaxKind::R_PAREN => SyntaxKind::L_PAREN,
            SyntaxKind::R_BRACK => SyntaxKind::L_BRACK,
            _ => continue,
        };
        if open.pop() != Some(closes) {
            return Brackets::Wrong;
        }
    }
    if open.is_empty() {
        Brackets::Balanced
    } else {
        Brackets::Open(open.len())
    }
}

/// A string or comment that runs to the end of the text.
fn is_unended(kind: SyntaxKind, text: &str) -> bool {
    match kind {
        SyntaxKind::STRING | SyntaxKind::BYTE_STRING | SyntaxKind::C_STRING => {
            text.ends_with(AFTER) && !text[..text.len() - AFTER.len()].is_empty() && !ends_string(text)
        }
        SyntaxKind::COMMENT => text.starts_with("/*") && !text.ends_with("*/"),
        _ => false,
    }
}

/// Whether a string token has its closing quote: raw ones end with `"` and as many `#` as they began with.
fn ends_string(text: &str) -> bool {
    let body = text.trim_start_matches(['b', 'c', 'r']);
    let hashes = body.len() - body.trim_start_matches('#').len();
    let closing = format!("\"{}", "#".repeat(hashes));
    body.len() > hashes + 1 && body.ends_with(&closing)
}

/// evcxr's commands (`:dep …`) and shell lines (`!ls`) are not Rust.
fn is_command(line: &str) -> bool {
    let line = line.trim_start();
    (line.starts_with(':') && !line.starts_with("::")) || (line.starts_with('!') && !line.starts_with("!="))
}

fn text_size(offset: usize) -> TextSize {
    TextSize::try_from(offset).unwrap_or(TextSize::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn incomplete(indent: usize) -> Completeness {
        Completeness::Incomplete { indent }
    }

    #[test]
    fn whole_cells_are_complete() {
        for code in [
            "",
            "1 + 1",
            "let x = 5;",
            "fn f() -> i32 { 1 }",
            "println!(\"{}\", \"}\")",
            "// {",
            "let s = r#\"a\"b\"#;",
            ":dep rand = \"0.9\"",
            ":vars\nlet x = 1;",
            "!ls -l",
            "struct S;\nimpl S {}\nS",
            "let c = '{';",
            "/* { */ 1",
            "use std::fmt;",
            "for i in 0..3 { print!(\"{i}\") }",
            "\"a\nb\"",
        ] {
            assert_eq!(completeness(code), Completeness::Complete, "{code:?}");
        }
    }

    #[test]
    fn open_brackets_strings_and_comments_are_incomplete() {
        assert_eq!(completeness("fn f() {"), incomplete(4));
        assert_eq!(completeness("f(vec![\n"), incomplete(8));
        assert_eq!(completeness("let s = \"abc"), incomplete(0));
        assert_eq!(completeness("let s = r#\"abc\""), incomplete(0));
        assert_eq!(completeness("/* still"), incomplete(0));
        assert_eq!(completeness("let x ="), incomplete(0));
        assert_eq!(completeness("1 +"), incomplete(0));
    }

    #[test]
    fn what_more_text_cannot_mend_is_invalid() {
        for code in ["}", "fn f() }", "let x = (1];", "let let x = 1;", "fn 1() {}"] {
            assert_eq!(completeness(code), Completeness::Invalid, "{code:?}");
        }
    }
}
