//! CSV: text to tables and back. Called by the table.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use super::{Table, Words};

/// Fields that stand for a value that is not known, beside empty ones.
const MISSING: [&str; 5] = ["NA", "N/A", "NaN", "nan", "null"];

/// The table, or the number of the line (from 1) and what is wrong with it.
pub(super) fn parse(text: &str) -> Result<Table, (usize, String)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = (1..)
        .zip(text.lines())
        .filter(|(_, line)| !line.trim().is_empty())
        .peekable();
    let Some(&(first_line, first)) = lines.peek() else {
        return Err((1, "the file is empty".to_owned()));
    };
    let first = fields(first).ok_or_else(|| (first_line, OPEN.to_owned()))?;
    let columns: Vec<String> = if first.iter().all(|field| field.parse::<f64>().is_ok()) {
        (0..first.len()).map(|column| format!("c{column}")).collect()
    } else {
        lines.next();
        first.into_iter().map(Cow::into_owned).collect()
    };
    let lines: Vec<(usize, &str)> = lines.collect();
    let (mut values, with_words) = numbers(&lines, columns.len())?;
    let mut words: Vec<Words> = vec![None; columns.len()];
    for (column, known) in words.iter_mut().enumerate() {
        if with_words[column] {
            *known = Some(take_words(&lines, column, columns.len(), &mut values));
        }
    }
    Ok(Table::with_words(columns, words, values))
}

const OPEN: &str = "a quote is opened and not closed";

/// Values row by row, NaN where one is missing or a word, and which columns have words.
fn numbers(lines: &[(usize, &str)], width: usize) -> Result<(Vec<f64>, Vec<bool>), (usize, String)> {
    let mut values = Vec::with_capacity(lines.len() * width);
    let mut with_words = vec![false; width];
    for &(number, line) in lines {
        let before = values.len();
        for field in fields(line).ok_or_else(|| (number, OPEN.to_owned()))? {
            let column = values.len() - before;
            let value = match field.parse::<f64>() {
                Ok(value) if value.is_finite() => value,
                _ if is_missing(&field) => f64::NAN,
                Ok(_) => {
                    return Err((
                        number,
                        format!("{field:?} in column {} is no finite number", column + 1),
                    ));
                }
                Err(_) => {
                    if let Some(has) = with_words.get_mut(column) {
                        *has = true;
                    }
                    f64::NAN
                }
            };
            values.push(value);
        }
        let found = values.len() - before;
        if found != width {
            return Err((
                number,
                format!("it has {found} values, the first line has {width}"),
            ));
        }
    }
    Ok((values, with_words))
}

/// Makes a column one of words: its values become their places in the sorted list, which is the answer.
fn take_words(lines: &[(usize, &str)], column: usize, width: usize, values: &mut [f64]) -> Arc<[String]> {
    let found: Vec<Option<String>> = lines
        .iter()
        .map(|(_, line)| {
            let field = fields(line)?.into_iter().nth(column)?;
            (!is_missing(&field)).then(|| field.into_owned())
        })
        .collect();
    let sorted: BTreeSet<&String> = found.iter().flatten().collect();
    let words: Arc<[String]> = sorted.into_iter().cloned().collect();
    for (row, word) in found.iter().enumerate() {
        let place = word.as_ref().and_then(|word| words.binary_search(word).ok());
        values[row * width + column] = place.map_or(f64::NAN, |place| place as f64);
    }
    words
}

fn is_missing(field: &str) -> bool {
    field.is_empty() || MISSING.contains(&field)
}

/// The fields of a line; none when a quote is not closed. Within quotes a comma is one, and two quotes are one.
fn fields(line: &str) -> Option<Vec<Cow<'_, str>>> {
    if !line.contains('"') {
        return Some(line.split(',').map(|field| Cow::Borrowed(field.trim())).collect());
    }
    let mut all = Vec::new();
    let mut rest = line;
    loop {
        let start = rest.trim_start();
        let after = if let Some(quoted) = start.strip_prefix('"') {
            let (field, after) = unquoted(quoted)?;
            all.push(Cow::Owned(field));
            after.trim_start()
        } else {
            let end = start.find(',').unwrap_or(start.len());
            all.push(Cow::Borrowed(start[..end].trim()));
            &start[end..]
        };
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None if after.is_empty() => return Some(all),
            // Something behind the closing quote: it is no CSV.
            None => return None,
        }
    }
}

/// What stands before the closing quote, and what behind it.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let end = rest.find('"')?;
        field.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(next) => {
                field.push('"');
                rest = next;
            }
            None => return Some((field, rest)),
        }
    }
}

/// The table as CSV with a line of names; a missing value is an empty field.
pub(super) fn written(table: &Table) -> String {
    let names: Vec<String> = table.columns().iter().map(|name| quoted(name)).collect();
    let mut text = names.join(",");
    text.push('\n');
    for row in table.rows_of_values() {
        for (column, value) in row.iter().enumerate() {
            if column > 0 {
                text.push(',');
            }
            match table.word(column, *value) {
                Some(word) => text.push_str(&quoted(word)),
                None if value.is_nan() => {}
                // Writing to a string does not fail.
                None => drop(write!(text, "{value}")),
            }
        }
        text.push('\n');
    }
    text
}

fn quoted(field: &str) -> String {
    if field.contains([',', '"']) || field.trim() != field {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_files_with_and_without_a_line_of_names() {
        let bare = parse("1,2\r\n\r\n3,-4.5e1\r\n").unwrap();
        assert_eq!(bare.columns(), ["c0", "c1"]);
        assert_eq!((bare.len(), bare.row(1).unwrap()), (2, &[3.0, -45.0][..]));
        let named = parse("\u{feff}\"width\", label\n1,2\n").unwrap();
        assert_eq!(named.columns(), ["width", "label"]);
        assert_eq!(named.len(), 1);
        assert_eq!(parse(&written(&named)).unwrap(), named);
    }

    #[test]
    fn reads_words_quotes_and_what_is_missing() {
        let table = parse("kind,mass,note\nb,1,\"x, \"\"y\"\"\"\na,NA,\n,3,z\n").unwrap();
        assert_eq!(table.words("kind").unwrap(), ["a", "b"]);
        assert_eq!(table.words("note").unwrap(), ["x, \"y\"", "z"]);
        assert_eq!(table.column("kind").unwrap()[..2], [1.0, 0.0]);
        assert!(table.row(2).unwrap()[0].is_nan() && table.row(1).unwrap()[1].is_nan());
        assert_eq!(parse(&written(&table)).unwrap(), table);
    }

    #[test]
    fn names_the_line_that_is_not_understood() {
        let wrong = |text: &str| parse(text).unwrap_err();
        assert_eq!(
            wrong("1,2\n3\n"),
            (2, "it has 1 values, the first line has 2".to_owned())
        );
        assert_eq!(wrong("a,b\n\n1,2,x\n").0, 3);
        assert_eq!(
            wrong("1,2\n1,inf\n"),
            (2, "\"inf\" in column 2 is no finite number".to_owned())
        );
        assert_eq!(wrong("a,b\n1,\"x\n"), (2, OPEN.to_owned()));
        assert_eq!(wrong("a,b\n1,\"x\"y\n"), (2, OPEN.to_owned()));
        assert_eq!(wrong(" \n").1, "the file is empty");
    }
}
