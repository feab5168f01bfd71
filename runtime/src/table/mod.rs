//! Tables: reads and writes CSV files ([`csv`]), splits rows, makes tensors, and makes real data ready for a network
//! ([`Preparation`]).
//!
//! A column holds numbers, or words, of which each row keeps a number. A value may be missing. Not here: dates, joins,
//! groups, and what else a data frame can do. Called by notebooks through the prelude.

mod csv;
mod preparation;
mod shown;

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::train::{Examples, SeededRandom};
use crate::{Error, Result};

pub use preparation::Preparation;

/// The words of a column, sorted, where it holds words.
type Words = Option<Arc<[String]>>;

/// Rows and columns of numbers and words. Cloning one is cheap.
#[derive(Debug, Clone)]
pub struct Table {
    columns: Arc<[String]>,
    /// A list for each column.
    words: Arc<[Words]>,
    /// Row by row: numbers, places in the list of words, NaN for what is missing.
    values: Arc<[f64]>,
}

/// Equal where all names, words and values are; what is missing equals what is missing.
impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        let is_same = |(one, other): (&f64, &f64)| one == other || (one.is_nan() && other.is_nan());
        self.columns == other.columns
            && self.words == other.words
            && self.values.len() == other.values.len()
            && self.values.iter().zip(&*other.values).all(is_same)
    }
}

/// The two parts of a table.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    /// Rows to learn from.
    pub train: Table,
    /// Rows held out, to measure with.
    pub test: Table,
}

/// Reads a CSV file. The first line names the columns when it holds anything but numbers; otherwise they are called `c0`,
/// `c1`, and so on. A column with anything but numbers in it is one of words. Empty fields, `NA`, `N/A`, `NaN` and `null` are
/// missing values.
///
/// # Errors
/// [`Error::File`] when the file cannot be read, [`Error::Csv`] with the line that is not understood.
pub fn read_csv(path: impl AsRef<Path>) -> Result<Table> {
    let path = path.as_ref();
    let text = std::fs::read_to_string(path).map_err(|source| Error::file("read", path, source))?;
    csv::parse(&text).map_err(|(line, reason)| Error::Csv {
        path: path.to_owned(),
        line,
        reason,
    })
}

impl Table {
    /// From values row by row, as many in each row as there are columns.
    pub(crate) fn of(columns: &[&str], values: Vec<f64>) -> Self {
        let columns: Vec<String> = columns.iter().map(|&name| name.to_owned()).collect();
        let words = vec![None; columns.len()];
        Self::with_words(columns, words, values)
    }

    /// A column of words, one for each row, and columns of numbers, row by row.
    pub(crate) fn named(what: &str, names: &[String], columns: &[&str], values: &[f64]) -> Self {
        let mut words = names.to_vec();
        words.sort();
        words.dedup();
        let place = |name: &String| words.binary_search(name).map_or(f64::NAN, |place| place as f64);
        let rows = names.iter().zip(values.chunks_exact(columns.len().max(1)));
        let values = rows.flat_map(|(name, row)| std::iter::once(place(name)).chain(row.iter().copied()));
        let (values, words): (Vec<f64>, Words) = (values.collect(), Some(words.into()));
        let titles = std::iter::once(&what).chain(columns);
        Self::with_words(
            titles.map(|&title| title.to_owned()).collect(),
            std::iter::once(words)
                .chain(columns.iter().map(|_| None))
                .collect(),
            values,
        )
    }

    fn with_words(columns: Vec<String>, words: Vec<Words>, values: Vec<f64>) -> Self {
        Self {
            columns: columns.into(),
            words: words.into(),
            values: values.into(),
        }
    }

    fn of_values(&self, values: Vec<f64>) -> Self {
        Self {
            columns: self.columns.clone(),
            words: self.words.clone(),
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
        Ok(self.of_values(values))
    }

    /// The first `count` rows, or all where there are fewer.
    pub fn head(&self, count: usize) -> Self {
        let end = (count * self.columns.len()).min(self.values.len());
        self.of_values(self.values[..end].to_vec())
    }

    /// The values of a column, a row each: NaN where one is missing; of a column of words, their places in
    /// [`Table::words`].
    ///
    /// # Errors
    /// [`Error::Data`] when there is no such column.
    pub fn column(&self, name: &str) -> Result<Vec<f64>> {
        let at = self.position(name)?;
        Ok(self.rows_of_values().map(|row| row[at]).collect())
    }

    /// The words of a column, each once and sorted; none where it holds numbers.
    ///
    /// # Errors
    /// [`Error::Data`] when there is no such column.
    pub fn words(&self, name: &str) -> Result<&[String]> {
        Ok(self.words_at(self.position(name)?).unwrap_or_default())
    }

    /// The rows whose value in this column of words is `word`.
    ///
    /// # Errors
    /// [`Error::Data`] when there is no such column.
    pub fn rows_with(&self, name: &str, word: &str) -> Result<Self> {
        let at = self.position(name)?;
        let rows = self
            .rows_of_values()
            .filter(|row| self.word(at, row[at]) == Some(word));
        Ok(self.of_values(rows.flatten().copied().collect()))
    }

    /// The table without these columns.
    ///
    /// # Errors
    /// [`Error::Data`] when there is no such column.
    pub fn without(&self, names: &[&str]) -> Result<Self> {
        for name in names {
            self.position(name)?;
        }
        let kept = |at: &usize| !names.contains(&self.columns[*at].as_str());
        let kept: Vec<usize> = (0..self.columns.len()).filter(kept).collect();
        let values = self
            .rows_of_values()
            .flat_map(|row| kept.iter().map(|&at| row[at]));
        Ok(Self::with_words(
            kept.iter().map(|&at| self.columns[at].clone()).collect(),
            kept.iter().map(|&at| self.words[at].clone()).collect(),
            values.collect(),
        ))
    }

    /// A row for each column: what it holds, how many values are missing, and the mean, least and greatest of its numbers.
    pub fn summary(&self) -> Self {
        let names: Arc<[String]> = {
            let mut sorted = self.columns.to_vec();
            sorted.sort();
            sorted.dedup();
            sorted.into()
        };
        let holds: Arc<[String]> = ["numbers", "words"].map(str::to_owned).into();
        let mut values = Vec::with_capacity(self.columns.len() * 7);
        for (at, name) in self.columns.iter().enumerate() {
            let known: Vec<f64> = self
                .rows_of_values()
                .map(|row| row[at])
                .filter(|value| !value.is_nan())
                .collect();
            let mut different = known.clone();
            different.sort_by(f64::total_cmp);
            different.dedup();
            let has_words = self.has_words(at);
            let of_numbers = |value: Option<f64>| value.filter(|_| !has_words).unwrap_or(f64::NAN);
            let mean = known.iter().sum::<f64>() / known.len() as f64;
            values.extend([
                names.binary_search(name).map_or(f64::NAN, |place| place as f64),
                f64::from(u8::from(has_words)),
                (self.len() - known.len()) as f64,
                different.len() as f64,
                of_numbers(Some(mean)),
                of_numbers(different.first().copied()),
                of_numbers(different.last().copied()),
            ]);
        }
        let titles = [
            "column",
            "holds",
            "missing",
            "different",
            "mean",
            "least",
            "greatest",
        ];
        let mut words: Vec<Words> = vec![None; titles.len()];
        words[0] = Some(names);
        words[1] = Some(holds);
        Self::with_words(titles.map(str::to_owned).to_vec(), words, values)
    }

    /// Shuffles the rows by `seed` and deals them into `count` parts: as many splits, in each of which another part is held
    /// out, so that every row is once.
    ///
    /// # Errors
    /// [`Error::Data`] when there are fewer rows than parts, or fewer than two parts.
    pub fn folds(&self, count: usize, seed: u64) -> Result<Vec<Split>> {
        let rows = self.len();
        if count < 2 || count > rows {
            return Err(Error::Data {
                reason: format!(
                    "{rows} rows cannot be dealt into {count} parts: take 2 or more, at most a row each"
                ),
            });
        }
        let order = SeededRandom::new(seed).permutation(rows);
        let split = |held_out: usize| -> Result<Split> {
            let part = |is_held_out: bool| {
                let places = (0..rows).filter(|place| (place % count == held_out) == is_held_out);
                self.rows(&places.map(|place| order[place]).collect::<Vec<_>>())
            };
            Ok(Split {
                train: part(false)?,
                test: part(true)?,
            })
        };
        (0..count).map(split).collect()
    }

    fn position(&self, name: &str) -> Result<usize> {
        let known = || self.columns.join(", ");
        let position = self.columns.iter().position(|column| column == name);
        position.ok_or_else(|| Error::Data {
            reason: format!("there is no column {name}; there are {}", known()),
        })
    }

    fn words_at(&self, column: usize) -> Option<&[String]> {
        self.words.get(column)?.as_deref()
    }

    fn has_words(&self, column: usize) -> bool {
        self.words_at(column).is_some()
    }

    /// The word that this value of a column stands for.
    fn word(&self, column: usize, value: f64) -> Option<&str> {
        let words = self.words_at(column)?;
        let place = class(value)? as usize;
        words.get(place).map(String::as_str)
    }

    fn rows_of_values(&self) -> impl Iterator<Item = &[f64]> {
        self.values.chunks_exact(self.columns.len().max(1))
    }

    /// Refuses values that are no numbers, but for the column `except`.
    fn ensure_numbers(&self, except: Option<usize>) -> Result<()> {
        let columns = || (0..self.columns.len()).filter(|at| Some(*at) != except);
        if let Some(at) = columns().find(|at| self.has_words(*at)) {
            let words = self.words_at(at).unwrap_or_default();
            let word = words.iter().find(|word| word.parse::<f64>().is_err());
            return Err(Error::Data {
                reason: format!(
                    "column {} holds words such as {:?}; `Preparation::of` makes numbers of them, `.without` leaves columns out",
                    self.columns[at],
                    word.map(String::as_str).unwrap_or_default()
                ),
            });
        }
        for (row, values) in self.rows_of_values().enumerate() {
            if let Some(at) = columns().find(|at| values[*at].is_nan()) {
                return Err(Error::Data {
                    reason: format!(
                        "row {row} has no value in column {}; `Preparation::of` fills in what is missing",
                        self.columns[at]
                    ),
                });
            }
        }
        Ok(())
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
    /// [`Error::Data`] when a column holds words or a value is missing: see [`Preparation`]. [`Error::Tensor`] from candle.
    pub fn tensor(&self, device: &Device) -> Result<Tensor> {
        self.ensure_numbers(None)?;
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

    /// Inputs and labels to learn from: the column named `label` holds classes (0, 1, 2, and so on, or words, whose places
    /// in [`Table::words`] are the classes), all others are inputs.
    ///
    /// # Errors
    /// [`Error::Data`] when there is no such column, a label is not a class, or another column holds words or lacks a value:
    /// see [`Preparation`]. [`Error::Tensor`] from candle.
    pub fn examples(&self, label: &str, device: &Device) -> Result<Examples> {
        let width = self.columns.len();
        let position = self.position(label)?;
        self.ensure_numbers(Some(position))?;
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
        csv::written(self)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked to be a small whole number"
)]
fn class(value: f64) -> Option<u32> {
    (value >= 0.0 && value <= f64::from(u32::MAX) && value.fract() == 0.0).then_some(value as u32)
}

#[cfg(test)]
mod tests {
    use super::csv::parse;
    use super::shown::ROWS_SHOWN_MAX;
    use super::*;
    use crate::display::Rich;

    fn numbers(rows: usize) -> Table {
        let text: String = (0..rows).map(|row| format!("{row},{}\n", row % 3)).collect();
        parse(&text).unwrap()
    }

    #[test]
    fn says_which_file_cannot_be_read() {
        let error = read_csv("/nowhere/digits.csv").unwrap_err();
        assert!(error.to_string().contains("/nowhere/digits.csv"), "{error}");
    }

    #[test]
    fn words_and_missing_values_are_shown_and_refused_as_numbers() {
        let table = parse("kind,mass\nowl,1\nelk,NA\n").unwrap();
        let text = table.bundle().as_text().unwrap().to_owned();
        assert_eq!(text, "2 rows, 2 columns\nkind  mass\nowl      1\nelk     NA");
        let error = table.tensor(&Device::Cpu).unwrap_err().to_string();
        assert!(
            error.contains("column kind holds words such as \"elk\""),
            "{error}"
        );
        let error = table.examples("kind", &Device::Cpu).unwrap_err().to_string();
        assert!(error.contains("row 1 has no value in column mass"), "{error}");
        let owls = table.rows_with("kind", "owl").unwrap();
        let examples = owls.examples("kind", &Device::Cpu).unwrap();
        assert_eq!(examples.labels.to_vec1::<u32>().unwrap(), [1]);
        assert_eq!(table.without(&["kind"]).unwrap().columns(), ["mass"]);
        assert!(table.without(&["name"]).is_err());
    }

    #[test]
    fn is_summed_up_column_by_column() {
        let table = parse("mass,kind,year\n1,b,2007\nNA,a,2007\n3,b,\n").unwrap();
        let summary = table.summary();
        assert_eq!(
            summary.bundle().as_text().unwrap().lines().nth(2).unwrap(),
            "mass    numbers        1          2     2      1         3"
        );
        assert_eq!(summary.column("missing").unwrap(), [1.0, 0.0, 1.0]);
        assert!(summary.column("mean").unwrap()[1].is_nan());
        assert!(summary.column("least").unwrap()[1].is_nan());
    }

    #[test]
    fn folds_hold_out_every_row_once() {
        let table = numbers(10);
        let folds = table.folds(3, 4).unwrap();
        let sizes = folds.iter().map(|fold| (fold.train.len(), fold.test.len()));
        assert_eq!(sizes.collect::<Vec<_>>(), [(6, 4), (7, 3), (7, 3)]);
        let held_out = folds.iter().flat_map(|fold| fold.test.column("c0").unwrap());
        let mut held_out: Vec<f64> = held_out.collect();
        held_out.sort_by(f64::total_cmp);
        assert_eq!(held_out, (0..10).map(f64::from).collect::<Vec<_>>());
        for count in [0, 1, 11] {
            assert!(table.folds(count, 4).is_err());
        }
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
