//! How a table is shown: its first rows, and the columns at both ends.

use super::Table;
use crate::display::{Bundle, Rich};
use crate::live::escaped;
use crate::plot::short;

/// Rows and columns that are shown of a table.
pub(super) const ROWS_SHOWN_MAX: usize = 8;
const COLUMNS_SHOWN_MAX: usize = 14;
/// Rows of a short table, all of which are shown.
const SHORT_ROWS: usize = 24;
/// What stands for a value that is missing.
const MISSING: &str = "NA";

impl Rich for Table {
    fn bundle(&self) -> Bundle {
        let title = format!("{} rows, {} columns", self.len(), self.columns().len());
        // `None` stands for the columns that are left out in the middle.
        let count = self.columns().len();
        let shown: Vec<Option<usize>> = if count <= COLUMNS_SHOWN_MAX {
            (0..count).map(Some).collect()
        } else {
            let (front, back) = (COLUMNS_SHOWN_MAX - 2, count - 1);
            (0..front).map(Some).chain([None, Some(back)]).collect()
        };
        let cell =
            |at: &Option<usize>, text: &dyn Fn(usize) -> String| at.map_or_else(|| "..".to_owned(), text);
        let names = shown
            .iter()
            .map(|at| cell(at, &|at| self.columns()[at].clone()))
            .collect();
        let rows = if self.len() <= SHORT_ROWS {
            SHORT_ROWS
        } else {
            ROWS_SHOWN_MAX
        };
        let mut lines: Vec<Vec<String>> = vec![names];
        for row in self.rows_of_values().take(rows) {
            let shown = shown.iter();
            lines.push(
                shown
                    .map(|at| cell(at, &|at| self.shown_value(at, row[at])))
                    .collect(),
            );
        }
        if self.len() > rows {
            lines.push(vec!["..".to_owned(); shown.len()]);
        }
        let is_word: Vec<bool> = shown
            .iter()
            .map(|at| at.is_some_and(|at| self.has_words(at)))
            .collect();
        Bundle::new()
            .text(format!("{title}\n{}", lines_text(&lines, &is_word)))
            .html(lines_html(&title, &lines, &is_word))
    }
}

impl Table {
    fn shown_value(&self, column: usize, value: f64) -> String {
        match self.word(column, value) {
            Some(word) => word.to_owned(),
            None if value.is_nan() => MISSING.to_owned(),
            None => short(value),
        }
    }
}

fn lines_text(lines: &[Vec<String>], is_word: &[bool]) -> String {
    let width = |at: usize| {
        lines
            .iter()
            .map(|line| line[at].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..is_word.len()).map(width).collect();
    let padded = |line: &Vec<String>| {
        let cells = line.iter().zip(&widths).zip(is_word);
        let cells = cells.map(|((cell, &width), &is_word)| {
            if is_word {
                format!("{cell:<width$}")
            } else {
                format!("{cell:>width$}")
            }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(padded).collect::<Vec<_>>().join("\n")
}

fn lines_html(title: &str, lines: &[Vec<String>], is_word: &[bool]) -> String {
    let row = |(number, line): (usize, &Vec<String>)| {
        let tag = if number == 0 { "th" } else { "td" };
        let cells = line.iter().zip(is_word).map(|(cell, &is_word)| {
            let style = if is_word { " style=\"text-align:left\"" } else { "" };
            format!("<{tag}{style}>{}</{tag}>", escaped(cell))
        });
        format!("<tr>{}</tr>", cells.collect::<String>())
    };
    let rows: String = lines.iter().enumerate().map(row).collect();
    format!("<table><caption style=\"text-align:left\">{title}</caption>{rows}</table>")
}
