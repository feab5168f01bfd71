//! Tables that were drawn with characters, as HTML.
//!
//! Data frames print themselves so: polars by its `Debug`, arrow's batches by `pretty_format_batches`, and whatever uses
//! a crate that draws tables. The text stays what it is; beside it stands the same table for clients that can draw one.
//! None of those crates is needed here, and their versions do not matter. What is not clearly a table is left alone.

use std::fmt::{Display, Write};

use crate::display::Bundle;
use crate::live::escaped;

/// Longest text that is looked at.
const MAX_BYTES: usize = 1024 * 1024;
/// What lines between rows are made of.
const BORDER: &str = "┌─┬┐├┼┤└┴┘╞═╪╡╒╤╕╘╧╛╭╮╰╯│┆|+-= ╌╎";
/// What stands between the cells of a row.
const SEPARATORS: [char; 4] = ['│', '┆', '|', '╎'];

/// A text that may be a drawn table, shown as a table where it is one: `as_table(pretty_format_batches(&[batch])?)`.
pub fn as_table(text: impl Display) -> Bundle {
    with_table(text.to_string())
}

/// The text, and the table that it draws.
pub(super) fn with_table(text: String) -> Bundle {
    let table = html(&text);
    let bundle = Bundle::new().text(text);
    match table {
        Some(table) => bundle.html(table),
        None => bundle,
    }
}

/// The only table of a text, with what stands above and below it.
fn html(text: &str) -> Option<String> {
    if text.len() > MAX_BYTES || !text.contains(SEPARATORS) {
        return None;
    }
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let first = lines.iter().position(|line| is_border(line))?;
    let last = lines.iter().rposition(|line| is_border(line))?;
    let mut sections: Vec<Vec<Vec<&str>>> = Vec::new();
    for line in lines.get(first..last)? {
        if is_border(line) {
            sections.push(Vec::new());
        } else {
            sections.last_mut()?.push(cells(line)?);
        }
    }
    let columns = sections.iter().flatten().map(Vec::len).max()?;
    if sections.iter().flatten().any(|row| row.len() != columns) {
        return None;
    }
    let mut out = String::new();
    paragraph(lines.get(..first)?, &mut out);
    out.push_str("<table>");
    draw(sections, &mut out);
    out.push_str("</table>");
    paragraph(lines.get(last + 1..)?, &mut out);
    Some(out)
}

/// The first of several sections is the header. Of more than two each is a row, whose cells may have several lines.
fn draw(sections: Vec<Vec<Vec<&str>>>, out: &mut String) {
    let mut sections: Vec<_> = sections.into_iter().filter(|rows| !rows.is_empty()).collect();
    if sections.len() > 1 {
        out.push_str("<thead>");
        // polars draws a line between a column's name and its type.
        let mut header = sections.remove(0);
        header
            .iter_mut()
            .flatten()
            .for_each(|cell| *cell = cell.trim_matches('-'));
        row("th", &joined(&header), out);
        out.push_str("</thead>");
    }
    out.push_str("<tbody>");
    let each_is_a_row = sections.len() > 1;
    for section in sections {
        if each_is_a_row {
            row("td", &joined(&section), out);
        } else {
            section.iter().for_each(|cells| {
                let cells: Vec<String> = cells.iter().map(|cell| escaped(cell)).collect();
                row("td", &cells, out);
            });
        }
    }
    out.push_str("</tbody>");
}

/// Cells of several lines, column by column.
fn joined(lines: &[Vec<&str>]) -> Vec<String> {
    let columns = lines.first().map_or(0, Vec::len);
    let column = |at: usize| {
        let cells = lines.iter().filter_map(move |line| line.get(at).copied());
        let cells: Vec<String> = cells.filter(|cell| !cell.is_empty()).map(escaped).collect();
        cells.join("<br>")
    };
    (0..columns).map(column).collect()
}

fn row(tag: &str, cells: &[String], out: &mut String) {
    out.push_str("<tr>");
    for cell in cells {
        let _ = write!(out, "<{tag}>{cell}</{tag}>");
    }
    out.push_str("</tr>");
}

fn paragraph(lines: &[&str], out: &mut String) {
    let text = lines.join("\n");
    if !text.trim().is_empty() {
        let _ = write!(
            out,
            "<p style=\"white-space:pre-wrap\">{}</p>",
            escaped(text.trim())
        );
    }
}

fn is_border(line: &str) -> bool {
    let has_line = line.contains("──") || line.contains("══") || line.contains("--") || line.contains("==");
    let begins = line.starts_with(['┌', '├', '└', '╞', '╒', '╘', '╭', '╰', '+', '|', '│', '╡']);
    has_line && begins && line.chars().all(|c| BORDER.contains(c)) && !is_dashes(line)
}

/// A row whose cells are only dashes, as polars has between names and types.
fn is_dashes(line: &str) -> bool {
    line.starts_with(['│', '|']) && !line.starts_with("|-") && !line.starts_with("│─")
}

fn cells(line: &str) -> Option<Vec<&str>> {
    let inside = line.strip_prefix(SEPARATORS)?.strip_suffix(SEPARATORS)?;
    Some(inside.split(SEPARATORS).map(str::trim).collect())
}

#[cfg(test)]
mod tests {
    use super::html;

    #[test]
    fn a_frame_of_polars_is_a_table_with_names_and_types() {
        let text = "shape: (2, 2)\n┌─────┬──────┐\n│ a   ┆ b    │\n│ --- ┆ ---  │\n│ i64 ┆ str  │\n╞═════╪══════╡\n\
            │ 1   ┆ x<y  │\n│ 2   ┆ null │\n└─────┴──────┘";
        assert_eq!(
            html(text).unwrap(),
            "<p style=\"white-space:pre-wrap\">shape: (2, 2)</p><table><thead><tr><th>a<br>i64</th><th>b<br>str</th></tr>\
             </thead><tbody><tr><td>1</td><td>x&lt;y</td></tr><tr><td>2</td><td>null</td></tr></tbody></table>"
        );
    }

    #[test]
    fn batches_of_arrow_and_tables_with_lines_between_rows_are_tables() {
        let plain = "+---+----+\n| a | b  |\n+---+----+\n| 1 | -3 |\n| 2 |    |\n+---+----+";
        let expected = "<table><thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td>1</td><td>-3</td></tr>\
            <tr><td>2</td><td></td></tr></tbody></table>";
        assert_eq!(html(plain).unwrap(), expected);
        let lines = "+---+----+\n| a | b  |\n+===+====+\n| 1 | -3 |\n|---+----|\n| 2 |    |\n+---+----+";
        assert_eq!(html(lines).unwrap(), expected);
        let wrapped =
            "+---+----+\n| a | b  |\n+===+====+\n| 1 | x  |\n|   | y  |\n+---+----+\n| 2 | z  |\n+---+----+";
        assert!(html(wrapped).unwrap().contains("<td>1</td><td>x<br>y</td>"));
    }

    #[test]
    fn what_is_no_table_is_left_alone() {
        for text in [
            "",
            "a | b",
            "+---+\nno row\n+---+",
            "+---+---+\n| a | b |\n+---+---+\n| a | b | c |\n+---+---+",
            "Point { x: 1 }",
            "----\n| a |\n----",
            "+---+",
        ] {
            assert_eq!(html(text), None, "{text}");
        }
    }
}
