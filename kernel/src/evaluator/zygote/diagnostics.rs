//! What the compiler says, as Jupyter's three fields: with lines and columns of the cell, and nothing of ours.

use std::fmt::Write;

use serde::Deserialize;

use super::source::{CellText, Place, Source};
use super::types;
use crate::evaluator::CellError;
use crate::evaluator::link::errors::{BLUE, BOLD, CYAN, PLAIN, RED};

/// Lines of one help that are shown.
const HELP_LINES: usize = 5;
/// Errors that are shown; more help nobody.
const MAX_SHOWN: usize = 20;

/// One message of rustc's JSON.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Diagnostic {
    pub(super) message: String,
    pub(super) code: Option<Code>,
    pub(super) level: String,
    #[serde(default)]
    pub(super) spans: Vec<Span>,
    #[serde(default)]
    pub(super) children: Vec<Diagnostic>,
}

/// `E0308`, or the name of a lint.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Code {
    pub(super) code: String,
}

/// A place in a file.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Span {
    pub(super) file_name: String,
    pub(super) byte_start: usize,
    pub(super) byte_end: usize,
    pub(super) is_primary: bool,
    pub(super) label: Option<String>,
    pub(super) suggested_replacement: Option<String>,
    pub(super) expansion: Option<Box<Expansion>>,
}

/// The macro call that a place lies in.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Expansion {
    pub(super) span: Span,
}

/// The errors in what the compiler printed, and whether it printed something else: then it crashed.
pub(super) fn read(output: &str) -> (Vec<Diagnostic>, String) {
    let mut errors = Vec::new();
    let mut other = String::new();
    for line in output.lines() {
        match serde_json::from_str::<Diagnostic>(line) {
            Ok(one) if one.level == "error" || one.level.starts_with("error:") => {
                if !one.message.starts_with("aborting due to") {
                    errors.push(one);
                }
            }
            Ok(_) => {}
            Err(_) => {
                other.push_str(line);
                other.push('\n');
            }
        }
    }
    (errors, other)
}

impl Diagnostic {
    pub(super) fn code(&self) -> &str {
        self.code.as_ref().map_or("", |code| code.code.as_str())
    }

    /// Where it is: in a cell, in text of ours, or elsewhere.
    pub(super) fn place(&self, source: &Source) -> Option<Place> {
        let primary = self.spans.iter().filter(|span| span.is_primary);
        primary
            .chain(&self.spans)
            .find_map(|span| located(span, source).map(|(place, _)| place))
    }

    /// Names in back-ticks in the message.
    pub(super) fn quoted(&self) -> impl Iterator<Item = &str> {
        self.message.split('`').skip(1).step_by(2)
    }
}

/// The part of a cell that a span covers, through the macro calls that it lies in.
fn located(span: &Span, source: &Source) -> Option<(Place, usize)> {
    let mut span = span;
    loop {
        let ours = span.file_name.ends_with("cell.rs") || span.file_name.ends_with("items.rs");
        let place = if ours { source.place(span.byte_start) } else { None };
        if let Some(place) = place {
            return Some((place, span.byte_end - span.byte_start));
        }
        span = &span.expansion.as_ref()?.span;
    }
}

/// What surrounds the errors of a cell.
pub(super) struct Context<'a> {
    pub(super) source: &'a Source,
    pub(super) cell: &'a CellText,
    /// Says something that rustc cannot know, for an error.
    pub(super) hint: &'a dyn Fn(&Diagnostic) -> Option<String>,
}

/// The cell's error. `errors` is not empty.
pub(super) fn compile_error(errors: &[Diagnostic], context: &Context) -> CellError {
    let errors: Vec<Diagnostic> = errors.iter().map(unknown_type).collect();
    let errors = &errors[..];
    // Where the person's text has an error, those of ours only follow from it.
    let in_cell = |error: &&Diagnostic| {
        let mut primary = error.spans.iter().filter(|span| span.is_primary);
        primary.any(|span| located(span, context.source).is_some())
    };
    let theirs: Vec<Diagnostic> = errors.iter().filter(in_cell).cloned().collect();
    let errors = if theirs.is_empty() { errors } else { &theirs };
    let mut value = errors
        .first()
        .map_or_else(|| "the cell does not compile".to_owned(), headline);
    if errors.len() > 1 {
        let _ = write!(value, " (and {} more)", errors.len() - 1);
    }
    let mut traceback: Vec<String> = errors
        .iter()
        .take(MAX_SHOWN)
        .map(|error| render(error, context))
        .collect();
    if errors.len() > MAX_SHOWN {
        traceback.push(format!("… and {} more errors", errors.len() - MAX_SHOWN));
    }
    CellError {
        name: "CompileError".to_owned(),
        value,
        traceback,
    }
}

fn headline(error: &Diagnostic) -> String {
    let message = clean(&error.message);
    match error.code.as_ref() {
        Some(code) if code.code.starts_with('E') => format!("[{}] {message}", code.code),
        _ => message,
    }
}

/// As rustc prints it, with lines and columns of the cell.
fn render(error: &Diagnostic, context: &Context) -> String {
    let number = error.code.as_ref().filter(|code| code.code.starts_with('E'));
    let number = number.map(|code| format!("[{}]", code.code)).unwrap_or_default();
    let mut out = format!(
        "{RED}error{number}{PLAIN}{BOLD}: {}{PLAIN}\n",
        clean(&error.message)
    );
    spans(&error.spans, context, &mut out);
    for child in &error.children {
        children(child, context, &mut out);
    }
    if let Some(hint) = (context.hint)(error) {
        let _ = writeln!(out, "{CYAN}     = hint{PLAIN}: {hint}");
    }
    out.trim_end().to_owned()
}

fn spans(all: &[Span], context: &Context, out: &mut String) {
    let mut shown: Vec<(Place, usize, &Span)> = all
        .iter()
        .filter_map(|span| located(span, context.source).map(|(place, length)| (place, length, span)))
        .collect();
    // The place that the error is about first.
    shown.sort_by_key(|(_, _, span)| !span.is_primary);
    for (index, (place, length, span)) in shown.iter().enumerate() {
        if index == 0 {
            let _ = writeln!(out, "{BLUE} --> {PLAIN}{}", place.describe(context.cell));
        }
        let (line, column) = place.line_and_column();
        let text = place.line();
        let before = text
            .chars()
            .take(column - 1)
            .map(|c| if c == '\t' { '\t' } else { ' ' });
        let indent: String = before.collect();
        let covered = place
            .cell
            .code
            .get(place.offset..place.offset + length)
            .unwrap_or_default();
        let width = covered.lines().next().unwrap_or_default().chars().count().max(1);
        let (colour, mark) = if span.is_primary { (RED, "^") } else { (BLUE, "-") };
        let label = clean(span.label.as_deref().unwrap_or_default());
        let _ = writeln!(out, "{BLUE}{line:>4} |{PLAIN} {text}");
        let _ = writeln!(
            out,
            "{BLUE}     |{PLAIN} {indent}{colour}{} {label}{PLAIN}",
            mark.repeat(width)
        );
    }
}

/// The start of a message: lists of all types that implement something are for nobody.
fn few_lines(message: &str) -> String {
    let count = message.lines().count();
    if count <= HELP_LINES {
        return message.to_owned();
    }
    let kept: Vec<&str> = message.lines().take(HELP_LINES - 1).collect();
    format!("{}\n  … and {} more", kept.join("\n"), count - HELP_LINES + 1)
}

fn children(child: &Diagnostic, context: &Context, out: &mut String) {
    // What rustc would change in text of ours does not help.
    let foreign = !child.spans.is_empty() && child.place(context.source).is_none();
    let about_ours = child.message.contains("alephlab_cell") || child.message.contains("extern crate");
    if foreign || about_ours {
        return;
    }
    let message = few_lines(&clean(&child.message)).replace('\n', "\n       ");
    let replacement = child
        .spans
        .iter()
        .find_map(|span| span.suggested_replacement.as_deref());
    let shown = replacement
        .map(str::trim)
        .filter(|text| !text.is_empty() && !text.contains("alephlab_cell"));
    let shown = shown
        .map(|text| format!(": `{}`", clean(text)))
        .unwrap_or_default();
    let _ = writeln!(out, "{CYAN}     = {}{PLAIN}: {message}{shown}", child.level);
}

/// Without the names of our crates.
pub(super) fn clean(message: &str) -> String {
    let mut out = String::new();
    let mut rest = message;
    while let Some(at) = rest.find(super::items::CRATE_PREFIX) {
        let digits = &rest[at + super::items::CRATE_PREFIX.len()..];
        let end = digits
            .find(|c: char| !c.is_ascii_hexdigit())
            .unwrap_or(digits.len());
        let after = &digits[end..];
        let is_word_start = !rest[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        if is_word_start && end > 0 && after.starts_with("::") {
            out.push_str(&rest[..at]);
            rest = &after[2..];
        } else {
            let kept = at + super::items::CRATE_PREFIX.len();
            out.push_str(&rest[..kept]);
            rest = &rest[kept..];
        }
    }
    out.push_str(rest);
    out
}

/// `{closure@FILE:LINE}` without the file, which is ours.
pub(super) fn without_places(kind: &str) -> String {
    let mut out = String::new();
    let mut parts = kind.split('@');
    out.push_str(parts.next().unwrap_or_default());
    for part in parts {
        out.push_str(part.find('}').map_or("", |end| &part[end..]));
    }
    out
}

/// A value of which not all of the type is known could be several of the types that are shown, and rustc says so about our
/// text. What is meant is what it would have said without us.
fn unknown_type(error: &Diagnostic) -> Diagnostic {
    let mut labels = error.spans.iter().filter_map(|span| span.label.as_deref());
    if error.code() != "E0034" || !labels.any(|label| label.contains("evcxr_display")) {
        return error.clone();
    }
    let help = Diagnostic {
        message: "say it: `let x: Vec<i32> = …`, or `None::<i32>`".to_owned(),
        code: None,
        level: "help".to_owned(),
        spans: Vec::new(),
        children: Vec::new(),
    };
    Diagnostic {
        message: "type annotations needed: the type of the cell's value is not known".to_owned(),
        code: Some(Code {
            code: "E0282".to_owned(),
        }),
        level: error.level.clone(),
        spans: Vec::new(),
        children: vec![help],
    }
}

/// The type inside `Shown<'_, T>`, which generated code puts around the value.
fn of_value(kind: &str) -> &str {
    let rest = kind.strip_prefix("alephlab_cell::").unwrap_or(kind);
    let inside = rest
        .strip_prefix("Shown<")
        .or_else(|| rest.strip_prefix("Rare<"))
        .and_then(|rest| rest.strip_suffix('>'));
    match inside {
        Some(inside) if inside.starts_with('\'') => {
            inside.split_once(", ").map_or(inside, |(_, value)| value)
        }
        Some(inside) => inside,
        None => kind,
    }
}

/// A value that cannot be shown, said in a person's words.
pub(super) fn not_displayed(error: &Diagnostic) -> Option<String> {
    let by_name = error.message.contains("evcxr_display");
    let about = error.code() == "E0599" && (by_name || error.message.ends_with("doesn't implement `Debug`"));
    let kind = error
        .quoted()
        .nth(usize::from(by_name))
        .map(|kind| types::short(of_value(kind)));
    about.then(|| {
        format!(
            "the value of type `{}` cannot be shown: put #[derive(Debug)] on its type, or end the cell with `;`",
            kind.unwrap_or_default()
        )
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::evaluator::zygote::source::Origin;

    #[test]
    fn an_error_is_shown_at_its_place_in_the_cell_without_what_is_ours() {
        let code = "let a = 1;\nlet b: i32 = \"text\";";
        let cell = Arc::new(CellText {
            number: 2,
            shown: 2,
            code: code.to_owned(),
        });
        let mut source = Source::default();
        source.push("fn ours() {\n");
        let origin = Origin {
            cell: Arc::clone(&cell),
            range: 0..code.len(),
        };
        source.paste(&origin, &[]);
        let at = source.text.find("\"text\"").unwrap();
        let json = serde_json::json!({"message": "mismatched types", "code": {"code": "E0308"}, "level": "error",
            "spans": [{"file_name": "/x/cell.rs", "byte_start": at, "byte_end": at + 6, "is_primary": true,
                "label": "expected `i32`, found `it_0123456789ab::P`", "suggested_replacement": null, "expansion": null}],
            "children": []});
        let (errors, other) = read(&format!("{json}\n"));
        assert_eq!(other, "");
        let context = Context {
            source: &source,
            cell: &cell,
            hint: &|_| Some("do this".to_owned()),
        };
        let error = compile_error(&errors, &context);
        assert_eq!(error.value, "[E0308] mismatched types");
        let text = &error.traceback[0];
        for part in [
            "cell:2:14",
            "let b: i32 = \"text\";",
            "^^^^^^",
            "found `P`",
            "do this",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn a_help_of_many_lines_is_cut() {
        assert_eq!(few_lines("a\nb"), "a\nb");
        assert_eq!(few_lines("1\n2\n3\n4\n5\n6\n7"), "1\n2\n3\n4\n  … and 3 more");
    }

    #[test]
    fn the_type_of_a_value_is_told_without_what_is_around_it() {
        assert_eq!(of_value("Shown<'_, Vec<(A, B)>>"), "Vec<(A, B)>");
        assert_eq!(of_value("alephlab_cell::Rare<'_, S>"), "S");
        assert_eq!(of_value("Map<A, B>"), "Map<A, B>");
    }

    #[test]
    fn places_of_ours_are_taken_out_of_types() {
        let kind = "Map<{closure@/x/cell.rs:1:2: 3:4}, {async block@/x/cell.rs:1:2: 3:4}>";
        assert_eq!(without_places(kind), "Map<{closure}, {async block}>");
    }

    #[test]
    fn names_of_our_crates_are_taken_out_of_messages() {
        assert_eq!(
            clean("`it_0123456789ab::m::P` and it_self::x"),
            "`m::P` and it_self::x"
        );
    }
}
