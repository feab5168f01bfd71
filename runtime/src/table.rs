//! Tables of numbers: reads and writes CSV files, splits rows, makes tensors.
//!
//! Numbers only: no text columns, no missing values, no quoting rules beyond quotes around one value.
//! Called by notebooks through the prelude.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::display::{Bundle, Rich};
use crate::live::escaped;
use crate::plot::short;
use crate::train::{Examples, SeededRandom};
use crate::{Error, Result};

/// Rows and columns that are shown of a table.
const ROWS_SHOWN_MAX: usize = 8;
const COLUMNS_SHOWN_MAX: usize = 14;

/// Rows and columns of numbers. Cloning one is cheap.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    columns: Arc<[String]>,
    /// Row by row.
    values: Arc<[f64]>,
}

/// The two parts of a table.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    /// Rows to learn from.
    pub train: Table,
    /// Rows held out, to measure with.
    pub test: Table,
}

/// Reads a CSV file of numbers. The first line names the columns when it holds anything but numbers;
/// otherwise they are called `c0`, `c1`, and so on.
///
/// # Errors
/// [`Error::File`] when the file cannot be read, [`Error::Csv`] with the line that is not understood.
pub fn read_csv(path: impl AsRef<Path>) -> Result<Table> {
    let path = path.as_ref();
    let text = std::fs::read_to_string(path).map_err(|source| Error::file("read", path, source))?;
    parse(&text).map_err(|(line, reason)| Error::Csv {
        path: path.to_owned(),
        line,
        reason,
    })
}

impl Table {
    /// From values row by row, as many in each row as there are columns.
    pub(crate) fn of(columns: &[&str], values: Vec<f64>) -> Self {
        Self {
            columns: columns.iter().map(|&name| name.to_owned()).collect(),
            values: values.into(),
        }
    }

    /// Names of the columns.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.values.len() / self.columns.len().max(1)
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// One row.
    ///
    /// # Errors
    /// [`Error::Data`] when there are not so many.
    pub fn row(&self, index: usize) -> Result<&[f64]> {
        let width = self.columns.len();
        self.values
            .get(index * width..(index + 1) * width)
            .ok_or_else(|| Error::Data {
                reason: format!("there is no row {index}, the table has {}", self.len()),
            })
    }

    /// The rows with these numbers, in this order.
    ///
    /// # Errors
    /// [`Error::Data`] when there are not so many.
    pub fn rows(&self, indices: &[usize]) -> Result<Self> {
        let mut values = Vec::with_capacity(indices.len() * self.columns.len());
        for &index in indices {
            values.extend_from_slice(self.row(index)?);
        }
        Ok(Self {
            columns: self.columns.clone(),
            values: values.into(),
        })
    }

    /// The first `count` rows, or all where there are fewer.
    pub fn head(&self, count: usize) -> Self {
        let end = (count * self.columns.len()).min(self.values.len());
        Self {
            columns: self.columns.clone(),
            values: self.values[..end].into(),
        }
    }

    /// Shuffles the rows by `seed` and holds out the `test` part of them, a number between 0 and 1.
    ///
    /// # Errors
    /// [`Error::Data`] when a part would be empty.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a number of rows times a fraction, checked to lie inside the table"
    )]
    pub fn split(&self, test: f64, seed: u64) -> Result<Split> {
        let rows = self.len();
        let held_out = (rows as f64 * test).round();
        if !(held_out >= 1.0 && held_out < rows as f64) {
            return Err(Error::Data {
                reason: format!(
                    "holding out {test} of {rows} rows leaves nothing to learn from or to test with"
                ),
            });
        }
        let order = SeededRandom::new(seed).permutation(rows);
        let (test, train) = order.split_at(held_out as usize);
        Ok(Split {
            train: self.rows(train)?,
            test: self.rows(test)?,
        })
    }

    /// The table as an `f32` tensor of shape (rows, columns).
    ///
    /// # Errors
    /// [`Error::Tensor`] from candle.
    pub fn tensor(&self, device: &Device) -> Result<Tensor> {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "f32 is what networks calculate with"
        )]
        let values: Vec<f32> = self.values.iter().map(|&value| value as f32).collect();
        Ok(Tensor::from_vec(
            values,
            (self.len(), self.columns.len()),
            device,
        )?)
    }

    /// Inputs and labels to learn from: the column named `label` holds classes (0, 1, 2, and so on), all
    /// others are inputs.
    ///
    /// # Errors
    /// [`Error::Data`] when there is no such column or a label is not a class, [`Error::Tensor`] from candle.
    pub fn examples(&self, label: &str, device: &Device) -> Result<Examples> {
        let width = self.columns.len();
        let Some(position) = self.columns.iter().position(|column| column == label) else {
            let known = self.columns.join(", ");
            return Err(Error::Data {
                reason: format!("there is no column {label}; there are {known}"),
            });
        };
        let mut inputs = Vec::with_capacity(self.values.len());
        let mut labels = Vec::with_capacity(self.len());
        for (row, values) in self.values.chunks_exact(width).enumerate() {
            labels.push(class(values[position]).ok_or_else(|| Error::Data {
                reason: format!(
                    "the label {} of row {row} is not a class (0, 1, 2, ...)",
                    values[position]
                ),
            })?);
            let others = values
                .iter()
                .enumerate()
                .filter(|(column, _)| *column != position);
            #[expect(
                clippy::cast_possible_truncation,
                reason = "f32 is what networks calculate with"
            )]
            inputs.extend(others.map(|(_, &value)| value as f32));
        }
        let inputs = Tensor::from_vec(inputs, (labels.len(), width - 1), device)?;
        let labels = Tensor::new(labels, device)?;
        Examples::new(inputs, labels)
    }

    /// Writes a CSV file with a line of column names. A file of that name is replaced as a whole.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn write_csv(&self, path: impl AsRef<Path>) -> Result<()> {
        crate::files::write_whole(path.as_ref(), self.to_csv().as_bytes())
    }

    /// The text that [`Table::write_csv`] writes.
    pub fn to_csv(&self) -> String {
        let mut text = self.columns.join(",");
        text.push('\n');
        for row in self.values.chunks_exact(self.columns.len().max(1)) {
            for (column, value) in row.iter().enumerate() {
                let comma = if column == 0 { "" } else { "," };
                // Writing to a string does not fail.
                let _ = write!(text, "{comma}{value}");
            }
            text.push('\n');
        }
        text
    }
}

impl Rich for Table {
    fn bundle(&self) -> Bundle {
        let title = format!("{} rows, {} columns", self.len(), self.columns.len());
        // `None` stands for the columns that are left out in the middle.
        let count = self.columns.len();
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
            .map(|at| cell(at, &|at| self.columns[at].clone()))
            .collect();
        let mut lines: Vec<Vec<String>> = vec![names];
        for row in self.values.chunks_exact(count.max(1)).take(ROWS_SHOWN_MAX) {
            lines.push(shown.iter().map(|at| cell(at, &|at| short(row[at]))).collect());
        }
        if self.len() > ROWS_SHOWN_MAX {
            lines.push(vec!["..".to_owned(); shown.len()]);
        }
        Bundle::new()
            .text(format!("{title}\n{}", lines_text(&lines)))
            .html(lines_html(&title, &lines))
    }
}

fn lines_text(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |at: usize| {
        lines
            .iter()
            .map(|line| line[at].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let padded = |line: &Vec<String>| {
        let cells = line
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:>width$}"));
        cells.collect::<Vec<_>>().join("  ")
    };
    lines.iter().map(padded).collect::<Vec<_>>().join("\n")
}

fn lines_html(title: &str, lines: &[Vec<String>]) -> String {
    let row = |(number, line): (usize, &Vec<String>)| {
        let tag = if number == 0 { "th" } else { "td" };
        let cells: String = line
            .iter()
            .map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell)))
            .collect();
        format!("<tr>{cells}</tr>")
    };
    let rows: String = lines.iter().enumerate().map(row).collect();
    format!("<table><caption style=\"text-align:left\">{title}</caption>{rows}</table>")
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked to be a small whole number"
)]
fn class(value: f64) -> Option<u32> {
    (value >= 0.0 && value <= f64::from(u32::MAX) && value.fract() == 0.0).then_some(value as u32)
}

/// The table, or the number of the line (from 1) and what is wrong with it.
fn parse(text: &str) -> std::result::Result<Table, (usize, String)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = (1..)
        .zip(text.lines())
        .filter(|(_, line)| !line.trim().is_empty())
        .peekable();
    let Some(&(_, first)) = lines.peek() else {
        return Err((1, "the file is empty".to_owned()));
    };
    let first: Vec<&str> = first.split(',').map(unquoted).collect();
    let columns: Vec<String> = if first.iter().all(|field| field.parse::<f64>().is_ok()) {
        (0..first.len()).map(|column| format!("c{column}")).collect()
    } else {
        lines.next();
        first.iter().map(|&name| name.to_owned()).collect()
    };
    let mut values = Vec::new();
    for (number, line) in lines {
        let before = values.len();
        for (column, field) in line.split(',').map(unquoted).enumerate() {
            match field.parse::<f64>() {
                Ok(value) if value.is_finite() => values.push(value),
                _ if field.is_empty() => return Err((number, format!("column {} is empty", column + 1))),
                _ => {
                    return Err((
                        number,
                        format!("{field:?} in column {} is not a number", column + 1),
                    ));
                }
            }
        }
        let width = values.len() - before;
        if width != columns.len() {
            return Err((
                number,
                format!("it has {width} values, the first line has {}", columns.len()),
            ));
        }
    }
    Ok(Table {
        columns: columns.into(),
        values: values.into(),
    })
}

fn unquoted(field: &str) -> &str {
    let field = field.trim();
    field
        .strip_prefix('"')
        .and_then(|inner| inner.strip_suffix('"'))
        .unwrap_or(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(rows: usize) -> Table {
        let text: String = (0..rows).map(|row| format!("{row},{}\n", row % 3)).collect();
        parse(&text).unwrap()
    }

    #[test]
    fn reads_files_with_and_without_a_line_of_names() {
        let bare = parse("1,2\r\n\r\n3,-4.5e1\r\n").unwrap();
        assert_eq!(bare.columns(), ["c0", "c1"]);
        assert_eq!((bare.len(), bare.row(1).unwrap()), (2, &[3.0, -45.0][..]));
        let named = parse("\u{feff}\"width\", label\n1,2\n").unwrap();
        assert_eq!(named.columns(), ["width", "label"]);
        assert_eq!(named.len(), 1);
        assert_eq!(parse(&named.to_csv()).unwrap(), named);
    }

    #[test]
    fn names_the_line_that_is_not_understood() {
        let wrong = |text: &str| parse(text).unwrap_err();
        assert_eq!(
            wrong("1,2\n3\n"),
            (2, "it has 1 values, the first line has 2".to_owned())
        );
        assert_eq!(
            wrong("a,b\n\n1,x\n"),
            (3, "\"x\" in column 2 is not a number".to_owned())
        );
        assert_eq!(wrong("1,2\n1,\n"), (2, "column 2 is empty".to_owned()));
        assert_eq!(wrong("a,b\n1,NaN\n").0, 2);
        assert_eq!(wrong(" \n").1, "the file is empty");
        let error = read_csv("/nowhere/digits.csv").unwrap_err();
        assert!(error.to_string().contains("/nowhere/digits.csv"), "{error}");
    }

    #[test]
    fn splits_the_same_way_for_the_same_seed_and_loses_no_row() {
        let table = numbers(100);
        let split = table.split(0.2, 7).unwrap();
        assert_eq!((split.train.len(), split.test.len()), (80, 20));
        assert_eq!(split, table.split(0.2, 7).unwrap());
        assert_ne!(split, table.split(0.2, 8).unwrap());
        let all = split
            .train
            .values
            .chunks(2)
            .chain(split.test.values.chunks(2))
            .map(|row| row[0]);
        let mut all: Vec<f64> = all.collect();
        all.sort_by(f64::total_cmp);
        assert_eq!(all, (0..100).map(f64::from).collect::<Vec<_>>());
    }

    #[test]
    fn refuses_a_split_with_an_empty_part() {
        for test in [0.0, 1.0, -1.0, 2.0, f64::NAN] {
            assert!(numbers(10).split(test, 1).is_err(), "{test}");
        }
        assert!(numbers(1).split(0.5, 1).is_err());
    }

    #[test]
    fn takes_the_label_column_out_of_the_inputs() {
        let table = parse("a,digit,b\n1,7,2\n3,9,4\n").unwrap();
        let examples = table.examples("digit", &Device::Cpu).unwrap();
        assert_eq!(
            examples.inputs.to_vec2::<f32>().unwrap(),
            [[1.0, 2.0], [3.0, 4.0]]
        );
        assert_eq!(examples.labels.to_vec1::<u32>().unwrap(), [7, 9]);
        let missing = table.examples("label", &Device::Cpu).unwrap_err().to_string();
        assert!(
            missing.contains("no column label; there are a, digit, b"),
            "{missing}"
        );
        let fraction = parse("a,l\n1,0.5\n")
            .unwrap()
            .examples("l", &Device::Cpu)
            .unwrap_err();
        assert!(fraction.to_string().contains("0.5 of row 0"), "{fraction}");
    }

    #[test]
    fn is_shown_with_its_first_rows_and_columns() {
        let text = numbers(2).bundle().as_text().unwrap().to_owned();
        assert_eq!(text, "2 rows, 2 columns\nc0  c1\n 0   0\n 1   1");
        let wide = (0..65)
            .map(|value| value.to_string())
            .collect::<Vec<_>>()
            .join(",");
        let wide = parse(&format!("{wide}\n").repeat(30)).unwrap().bundle();
        let text = wide.as_text().unwrap();
        assert_eq!(text.lines().count(), 1 + 1 + ROWS_SHOWN_MAX + 1);
        assert!(text.contains("c11  ..  c64"), "{text}");
    }

    #[test]
    fn says_which_row_is_missing() {
        assert!(numbers(2).row(2).unwrap_err().to_string().contains("no row 2"));
        assert_eq!(numbers(9).head(2).len(), 2);
        assert_eq!(numbers(1).head(2).len(), 1);
    }
}
