//! Tables of real data made ready for a network: what is missing filled in, numbers brought to one scale, words to columns of
//! 0 and 1. Called by notebooks.

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::{Table, class};
use crate::train::Examples;
use crate::{Error, Result};

/// How rows become inputs of a network. Learned from the rows to learn from, and from no others: what is held out is then
/// treated as if it came later.
///
/// A column of numbers becomes one input: a missing value is replaced by the median, then the mean is taken away and the
/// deviation divided by. A column of words becomes an input for each word, 1 where it stands and 0 elsewhere; where it is
/// missing, or the word is a new one, all are 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Preparation {
    label: String,
    /// The classes' names, where the label is a word.
    classes: Option<Vec<String>>,
    columns: Vec<(String, Kind)>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Kind {
    Number { median: f64, mean: f64, deviation: f64 },
    Words(Vec<String>),
}

impl Preparation {
    /// Learned from these rows. `label` is the column with what is to be learned, all others are inputs.
    ///
    /// # Errors
    /// [`Error::Data`] when there is no such column, no row or no other column, or one in which every value is missing.
    pub fn of(rows: &Table, label: &str) -> Result<Self> {
        let at = rows.position(label)?;
        let mut columns = Vec::new();
        for (column, name) in rows.columns().iter().enumerate() {
            if column == at {
                continue;
            }
            let values: Vec<f64> = rows.column(name)?;
            let known: Vec<f64> = values.iter().copied().filter(|value| !value.is_nan()).collect();
            if known.is_empty() {
                return Err(Error::Data {
                    reason: format!(
                        "no row has a value in column {name}: leave it out with `.without(&[{name:?}])`"
                    ),
                });
            }
            let kind = match rows.words_at(column) {
                Some(words) => Kind::Words(words.to_vec()),
                None => Kind::of_numbers(&known, values.len()),
            };
            columns.push((name.clone(), kind));
        }
        if columns.is_empty() {
            return Err(Error::Data {
                reason: format!("beside {label} there is no column to learn from"),
            });
        }
        Ok(Self {
            label: label.to_owned(),
            classes: rows.words_at(at).map(<[String]>::to_vec),
            columns,
        })
    }

    /// Names of the inputs, in their order: `mass`, `island=Dream`.
    pub fn inputs(&self) -> Vec<String> {
        let names = self.columns.iter().flat_map(|(name, kind)| match kind {
            Kind::Number { .. } => vec![name.clone()],
            Kind::Words(words) => words.iter().map(|word| format!("{name}={word}")).collect(),
        });
        names.collect()
    }

    /// Names of the classes, in their order; none where the label is a number.
    pub fn classes(&self) -> &[String] {
        self.classes.as_deref().unwrap_or_default()
    }

    /// Inputs of these rows, `f32` of shape (rows, inputs). Columns are found by their names; others are passed over.
    ///
    /// # Errors
    /// [`Error::Data`] when a column is missing or holds words in place of numbers, [`Error::Tensor`] from candle.
    pub fn tensor(&self, rows: &Table, device: &Device) -> Result<Tensor> {
        let mut columns: Vec<Vec<f32>> = Vec::new();
        for (name, kind) in &self.columns {
            let at = rows.position(name)?;
            let values = rows.column(name)?;
            match (kind, rows.words_at(at)) {
                (Kind::Number { .. }, None) => {
                    columns.push(values.iter().map(|&value| kind.number(value)).collect());
                }
                (Kind::Words(words), _) => {
                    let is =
                        |word: &String, value: f64| f32::from(u8::from(rows.word(at, value) == Some(word)));
                    columns.extend(
                        words
                            .iter()
                            .map(|word| values.iter().map(|&value| is(word, value)).collect()),
                    );
                }
                (Kind::Number { .. }, Some(_)) => {
                    return Err(Error::Data {
                        reason: format!("column {name} holds words, and held numbers when this was prepared"),
                    });
                }
            }
        }
        let width = columns.len();
        let values = (0..rows.len()).flat_map(|row| columns.iter().map(move |column| column[row]));
        let values: Vec<f32> = values.collect();
        Ok(Tensor::from_vec(values, (rows.len(), width), device)?)
    }

    /// Inputs and labels of these rows: classes (`u32`) by their words, or from whole numbers.
    ///
    /// # Errors
    /// As [`Preparation::tensor`], and [`Error::Data`] when a row has no label or one that was not known.
    pub fn examples(&self, rows: &Table, device: &Device) -> Result<Examples> {
        let at = rows.position(&self.label)?;
        let mut labels = Vec::with_capacity(rows.len());
        for (row, value) in rows.column(&self.label)?.into_iter().enumerate() {
            let known = match (&self.classes, rows.word(at, value)) {
                (Some(classes), Some(word)) => classes.iter().position(|known| known == word),
                (None, None) => class(value).map(|class| class as usize),
                _ => None,
            };
            let label = known.and_then(|class| u32::try_from(class).ok());
            labels.push(label.ok_or_else(|| Error::Data {
                reason: format!("row {row} has no {} that is a class", self.label),
            })?);
        }
        Examples::new(self.tensor(rows, device)?, Tensor::new(labels, device)?)
    }

    /// As the text of a JSON file, to be saved beside the model.
    pub fn to_json(&self) -> String {
        // Finite numbers, words and lists of them: nothing that JSON has not.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// What [`Preparation::to_json`] wrote.
    ///
    /// # Errors
    /// [`Error::Data`] when it is none.
    pub fn from_json(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|source| Error::Data {
            reason: format!("this is not how rows are prepared: {source}"),
        })
    }
}

impl Kind {
    /// From the values that are known, of `rows` rows.
    fn of_numbers(known: &[f64], rows: usize) -> Self {
        let mut sorted = known.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            sorted[middle]
        };
        // Of what the network will see: with those filled in.
        let filled = (rows - known.len()) as f64;
        let mean = (known.iter().sum::<f64>() + filled * median) / rows as f64;
        let squares = known.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
        let deviation = ((squares + filled * (median - mean).powi(2)) / rows as f64).sqrt();
        Self::Number {
            median,
            mean,
            // A column of one value says nothing, and becomes 0.
            deviation: if deviation > 0.0 { deviation } else { 1.0 },
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "f32 is what networks calculate with"
    )]
    fn number(&self, value: f64) -> f32 {
        match self {
            Self::Number {
                median,
                mean,
                deviation,
            } => {
                let value = if value.is_nan() { *median } else { value };
                ((value - mean) / deviation) as f32
            }
            Self::Words(_) => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::csv::parse;
    use super::*;

    fn birds() -> Table {
        parse("kind,mass,island\nb,1,North\na,NA,South\nb,3,\na,8,North\n").unwrap()
    }

    #[test]
    fn fills_scales_and_splits_words() {
        let preparation = Preparation::of(&birds(), "kind").unwrap();
        assert_eq!(preparation.inputs(), ["mass", "island=North", "island=South"]);
        assert_eq!(preparation.classes(), ["a", "b"]);
        let examples = preparation.examples(&birds(), &Device::Cpu).unwrap();
        assert_eq!(examples.labels.to_vec1::<u32>().unwrap(), [1, 0, 1, 0]);
        let rows = examples.inputs.to_vec2::<f32>().unwrap();
        // 1, 3 (the median), 3, 8: mean 3.75.
        let sum: f32 = rows.iter().map(|row| row[0]).sum();
        let squares: f32 = rows.iter().map(|row| row[0] * row[0]).sum();
        assert!(sum.abs() < 1e-6 && (squares - 4.0).abs() < 1e-5, "{rows:?}");
        assert_eq!(rows[1][0], rows[2][0]);
        assert_eq!(
            rows.iter().map(|row| [row[1], row[2]]).collect::<Vec<_>>(),
            [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [1.0, 0.0]]
        );
        assert_eq!(
            Preparation::from_json(&preparation.to_json()).unwrap(),
            preparation
        );
    }

    #[test]
    fn finds_columns_and_classes_by_name_in_other_rows() {
        let preparation = Preparation::of(&birds(), "kind").unwrap();
        // Other words in another order: numbers of words differ from those that were prepared.
        let later = parse("island,extra,kind,mass\nEast,1,b,NA\nSouth,2,b,3\n").unwrap();
        let examples = preparation.examples(&later, &Device::Cpu).unwrap();
        assert_eq!(examples.labels.to_vec1::<u32>().unwrap(), [1, 1]);
        let rows = examples.inputs.to_vec2::<f32>().unwrap();
        assert_eq!((rows[0][1], rows[0][2], rows[1][2]), (0.0, 0.0, 1.0));
        let strange = parse("island,kind,mass\nNorth,c,1\n").unwrap();
        let error = preparation
            .examples(&strange, &Device::Cpu)
            .unwrap_err()
            .to_string();
        assert!(error.contains("row 0 has no kind"), "{error}");
        let without = parse("island,mass\nNorth,1\n").unwrap();
        assert!(preparation.tensor(&without, &Device::Cpu).is_ok());
        let words = parse("island,mass\nNorth,heavy\n").unwrap();
        let error = preparation.tensor(&words, &Device::Cpu).unwrap_err().to_string();
        assert!(error.contains("mass holds words"), "{error}");
    }

    #[test]
    fn refuses_what_teaches_nothing() {
        let empty = parse("kind,mass\na,NA\nb,\n").unwrap();
        let error = Preparation::of(&empty, "kind").unwrap_err().to_string();
        assert!(error.contains("no row has a value in column mass"), "{error}");
        assert!(Preparation::of(&birds(), "name").is_err());
        let alone = parse("kind\na\nb\n").unwrap();
        assert!(Preparation::of(&alone, "kind").is_err());
        let same = parse("kind,mass\na,2\nb,2\n").unwrap();
        let tensor = Preparation::of(&same, "kind").unwrap();
        let tensor = tensor.tensor(&same, &Device::Cpu).unwrap();
        assert_eq!(tensor.to_vec2::<f32>().unwrap(), [[0.0], [0.0]]);
    }
}
