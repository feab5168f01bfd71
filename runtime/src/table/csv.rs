//! CSV: text to tables and back. Called by the table.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;

use super::{Table, Words};
use crate::interrupt::check_interrupt;

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
    if let Some(name) = twice(&columns) {
        return Err((first_line, format!("two columns are called {name:?}")));
    }
    let lines: Vec<(usize, &str)> = lines.collect();
    let Numbers {
        mut values,
        with_words,
        endless,
    } = numbers(&lines, columns.len())?;
    let refused = endless.into_iter().zip(&with_words);
    if let Some((line, reason)) = refused.filter(|(_, has)| !**has).find_map(|(refused, _)| refused) {
        return Err((line, reason));
    }
    let words = words(&lines, &with_words, &mut values);
    Ok(Table::with_words(columns, words, values))
}

const OPEN: &str = "a quote is opened and not closed";

/// A name that stands twice.
fn twice(columns: &[String]) -> Option<&String> {
    let mut seen = BTreeSet::new();
    columns.iter().find(|name| !seen.insert(*name))
}

/// What the first look at the lines finds.
struct Numbers {
    /// Row by row, NaN where a value is missing or a word.
    values: Vec<f64>,
    /// Which columns have words.
    with_words: Vec<bool>,
    /// Of each column the first line with `inf` or the like, and what is wrong with it: among words it is one.
    endless: Vec<Option<(usize, String)>>,
}

fn numbers(lines: &[(usize, &str)], width: usize) -> Result<Numbers, (usize, String)> {
    let mut values = Vec::with_capacity(lines.len() * width);
    let mut with_words = vec![false; width];
    let mut endless = vec![None; width];
    for &(number, line) in lines {
        check_interrupt();
        let fields = fields(line).ok_or_else(|| (number, OPEN.to_owned()))?;
        if fields.len() != width {
            let found = fields.len();
            return Err((
                number,
                format!("it has {found} values, the first line has {width}"),
            ));
        }
        for (column, field) in fields.iter().enumerate() {
            values.push(match field.parse::<f64>() {
                Ok(value) if value.is_finite() => value,
                _ if is_missing(field) => f64::NAN,
                Ok(_) => {
                    let reason = || format!("{field:?} in column {} is no finite number", column + 1);
                    endless[column].get_or_insert_with(|| (number, reason()));
                    f64::NAN
                }
                Err(_) => {
                    with_words[column] = true;
                    f64::NAN
                }
            });
        }
    }
    Ok(Numbers {
        values,
        with_words,
        endless,
    })
}

/// The sorted words of each column that has some; its values become their places there.
fn words(lines: &[(usize, &str)], with_words: &[bool], values: &mut [f64]) -> Vec<Words> {
    let width = with_words.len();
    if !with_words.contains(&true) {
        return vec![None; width];
    }
    // Each word once, with a number in the order in which they come.
    let mut seen: Vec<HashMap<Cow<'_, str>, usize>> = vec![HashMap::new(); width];
    for ((_, line), row) in lines.iter().zip(values.chunks_exact_mut(width)) {
        check_interrupt();
        let fields = fields(line).unwrap_or_default().into_iter().zip(with_words);
        for (column, (field, _)) in fields.enumerate().filter(|(_, (_, has))| **has) {
            row[column] = if is_missing(&field) {
                f64::NAN
            } else {
                let next = seen[column].len();
                *seen[column].entry(field).or_insert(next) as f64
            };
        }
    }
    let sorted = seen.into_iter().enumerate().map(|(column, seen)| {
        with_words[column].then(|| sort(seen, values.iter_mut().skip(column).step_by(width)))
    });
    sorted.collect()
}

/// The words in their order; values that were numbers of these words become their places.
fn sort<'a>(seen: HashMap<Cow<'_, str>, usize>, values: impl Iterator<Item = &'a mut f64>) -> Arc<[String]> {
    let sorted: BTreeMap<Cow<'_, str>, usize> = seen.into_iter().collect();
    let mut places = vec![f64::NAN; sorted.len()];
    for (place, number) in sorted.values().enumerate() {
        places[*number] = place as f64;
    }
    for value in values.filter(|value| !value.is_nan()) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it was a usize"
        )]
        let number = *value as usize;
        *value = places[number];
    }
    sorted.into_keys().map(Cow::into_owned).collect()
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

/// The table as CSV with a line of names; a missing value is an empty field, or `NA` where that would be an empty line.
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
                None if value.is_nan() && row.len() == 1 => text.push_str(MISSING[0]),
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
    fn a_missing_value_of_the_only_column_is_a_row() {
        for text in ["mass\n1\nNA\n3\n", "kind\na\nNA\nb\n"] {
            let table = parse(text).unwrap();
            assert_eq!(table.len(), 3);
            assert_eq!(parse(&written(&table)).unwrap(), table);
        }
    }

    #[test]
    fn words_may_look_like_numbers_that_are_not_finite() {
        let table = parse("name,mass\nInf,1\nNan,2\nb,3\n007,4\n").unwrap();
        assert_eq!(table.words("name").unwrap(), ["007", "Inf", "Nan", "b"]);
        assert_eq!(table.column("name").unwrap(), [1.0, 2.0, 3.0, 0.0]);
        assert_eq!(
            parse("name,mass\na,1\nb,Infinity\nc,inf\n").unwrap_err(),
            (3, "\"Infinity\" in column 2 is no finite number".to_owned())
        );
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
        assert_eq!(
            wrong("a,b,a\n1,2,3\n"),
            (1, "two columns are called \"a\"".to_owned())
        );
    }
}
