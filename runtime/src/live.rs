//! One output that replaces itself, and the pieces that rich displays are made of.
//!
//! Not here: how an output reaches the kernel ([`crate::display`] and the link know). Called by
//! [`crate::progress`], [`crate::train`] and everything with a rich display.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::child;
use crate::display::{Bundle, show, update};

/// An output that is shown once and then replaced in place.
///
/// A terminal cannot replace an output, but its last line can be written over: there the first line of the text is.
#[derive(Debug)]
pub(crate) struct Live {
    id: String,
    shown: u64,
    /// A line of a terminal is being written over.
    line_is_open: bool,
}

impl Live {
    /// An output that is not shown yet.
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        // The process id keeps outputs of a restarted child apart from those of the one before.
        let id = format!(
            "alephlab-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        Self {
            id,
            shown: 0,
            line_is_open: false,
        }
    }

    /// Shows `data`, in place of what this output showed before.
    pub(crate) fn show(&mut self, data: Bundle) {
        if child::in_terminal() {
            let text = data.as_text().unwrap_or_default();
            let line = text.lines().next().unwrap_or_default();
            // Back to the start of the line, and what stood there is gone.
            let _ = write!(std::io::stdout(), "\r\u{1b}[2K{line}");
            let _ = std::io::stdout().flush();
            self.line_is_open = true;
        } else if self.shown == 0 {
            show(data, Some(&self.id));
        } else {
            update(data, &self.id);
        }
        self.shown += 1;
    }

    /// How often something was shown.
    #[cfg(test)]
    pub(crate) fn shown(&self) -> u64 {
        self.shown
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if self.line_is_open {
            let _ = writeln!(std::io::stdout());
        }
    }
}

/// Text that may stand inside HTML or in a quoted attribute.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// A two-column HTML table of names and values.
pub(crate) fn facts_html(title: &str, facts: &[(&str, String)]) -> String {
    let rows: String = facts
        .iter()
        .map(|(name, value)| {
            let cell = "style=\"text-align:left;vertical-align:top\"";
            format!(
                "<tr><th {cell}>{}</th><td {cell}>{}</td></tr>",
                escaped(name),
                escaped(value)
            )
        })
        .collect();
    format!(
        "<table><caption style=\"text-align:left;font-weight:600\">{}</caption>{rows}</table>",
        escaped(title)
    )
}

/// The same as aligned lines.
pub(crate) fn facts_text(title: &str, facts: &[(&str, String)]) -> String {
    let width = facts
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or(0);
    facts.iter().fold(title.to_owned(), |text, (name, value)| {
        format!("{text}\n  {name:width$}  {value}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_aligned_and_escaped() {
        let facts = [("files", "2".to_owned()), ("licence", "<CC BY>".to_owned())];
        assert_eq!(
            facts_text("Digits", &facts),
            "Digits\n  files    2\n  licence  <CC BY>"
        );
        let html = facts_html("Digits", &facts);
        assert!(html.contains("&lt;CC BY&gt;") && !html.contains("<CC"), "{html}");
    }

    #[test]
    fn two_outputs_have_two_names() {
        assert_ne!(Live::new().id, Live::new().id);
    }
}
