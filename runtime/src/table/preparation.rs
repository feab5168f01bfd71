//! Tables of real data made ready for a network: what is missing filled in, numbers brought to one scale, words to columns of
//! 0 and 1. Called by notebooks.

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use super::{Table, class};
use crate::train::Examples;
use crate::{Error, Result};

/// Words of a column: each is an input, and a column of names or numbers of things would be as many as there are rows.
const WORDS_MAX: usize = 1000;

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
    /// [`Error::Data`] when there is no such column, no row or no other column, one in which every value is missing, or one of
    /// more than 1000 words.
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
                Some(words) => Kind::of_words(name, words)?,
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
        let width: usize = self.columns.iter().map(|(_, kind)| kind.inputs()).sum();
        let mut inputs = vec![0.0; rows.len() * width];
        let mut first = 0;
        for (name, kind) in &self.columns {
            let at = rows.position(name)?;
            let of_rows = inputs.chunks_exact_mut(width).zip(rows.column(name)?);
            match (kind, rows.words_at(at)) {
                (Kind::Number { .. }, None) => {
                    of_rows.for_each(|(row, value)| row[first] = kind.number(value))
                }
                (Kind::Words(words), known) => {
                    // Where each of the table's words is among those that were prepared.
                    let known = known.unwrap_or_default().iter();
                    let places: Vec<Option<usize>> = known
                        .map(|word| words.iter().position(|one| one == word))
                        .collect();
                    for (row, value) in of_rows {
                        if let Some(place) = class(value).and_then(|word| *places.get(word as usize)?) {
                            row[first + place] = 1.0;
                        }
                    }
                }
                (Kind::Number { .. }, Some(_)) => {
                    return Err(Error::Data {
                        reason: format!("column {name} holds words, and held numbers when this was prepared"),
                    });
                }
            }
            first += kind.inputs();
        }
        Ok(Tensor::from_vec(inputs, (rows.len(), width), device)?)
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

    /// Inputs of these rows, and the number of each that is to be told: `f32` of shape (rows, 1), as a network's output, for a
    /// loss such as [`crate::train::losses::mse`].
    ///
    /// # Errors
    /// As [`Preparation::tensor`], and [`Error::Data`] when the label is a word, or missing in a row.
    pub fn targets(&self, rows: &Table, device: &Device) -> Result<Examples> {
        let at = rows.position(&self.label)?;
        let refused = |reason: String| Err(Error::Data { reason });
        if self.classes.is_some() || rows.has_words(at) {
            return refused(format!(
                "{} is a word: take `examples`, which makes classes",
                self.label
            ));
        }
        let values = rows.column(&self.label)?;
        if let Some(row) = values.iter().position(|value| value.is_nan()) {
            return refused(format!("row {row} has no {}", self.label));
        }
        let count = values.len();
        let targets = Tensor::from_vec(values, (count, 1), device)?.to_dtype(DType::F32)?;
        Examples::new(self.tensor(rows, device)?, targets)
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
    fn of_words(name: &str, words: &[String]) -> Result<Self> {
        let count = words.len();
        if count > WORDS_MAX {
            return Err(Error::Data {
                reason: format!(
                    "column {name} has {count} different words, and each would be an input of its own ({WORDS_MAX} at most): \
                     leave it out with `.without(&[{name:?}])`"
                ),
            });
        }
        Ok(Self::Words(words.to_vec()))
    }

    /// How many inputs it becomes.
    fn inputs(&self) -> usize {
        match self {
            Self::Number { .. } => 1,
            Self::Words(words) => words.len(),
        }
    }

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
        // A column of one value says nothing, and becomes 0. Its deviation is not asked: by rounding it might be no 0, and
        // another value in later rows be made huge by it.
        if sorted.first() == sorted.last() {
            return Self::Number {
                median,
                mean: sorted[0],
                deviation: 1.0,
            };
        }
        // Of what the network will see: with those filled in.
        let filled = (rows - known.len()) as f64;
        let mean = (known.iter().sum::<f64>() + filled * median) / rows as f64;
        let squares = known.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
        let deviation = ((squares + filled * (median - mean).powi(2)) / rows as f64).sqrt();
        Self::Number {
            median,
            mean,
            // Of values so near each other that their squares are 0.
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
    use std::fmt::Write as _;

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
        // Whose mean is not the value, by rounding.
        let same = parse("kind,mass\na,0.1\nb,0.1\nb,0.1\n").unwrap();
        let later = parse("kind,mass\na,0.2\n").unwrap();
        let tensor = Preparation::of(&same, "kind").unwrap();
        let tensor = tensor.tensor(&later, &Device::Cpu).unwrap();
        assert_eq!(tensor.to_vec2::<f32>().unwrap(), [[0.1]]);
        let mut names = "kind,name\n".to_owned();
        for row in 0..=WORDS_MAX {
            let _ = writeln!(names, "{},n{row}", row % 2);
        }
        let error = Preparation::of(&parse(&names).unwrap(), "kind")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("1001 different words") && error.contains(".without(&[\"name\"])"),
            "{error}"
        );
    }

    #[test]
    fn a_quantity_is_told_by_numbers() {
        let preparation = Preparation::of(&birds(), "mass").unwrap();
        let known = parse("kind,mass,island\nb,1.5,North\na,-2,South\n").unwrap();
        let examples = preparation.targets(&known, &Device::Cpu).unwrap();
        assert_eq!(examples.labels.to_vec2::<f32>().unwrap(), [[1.5], [-2.0]]);
        assert_eq!(examples.inputs.dims(), [2, 4]);
        let error = preparation
            .targets(&birds(), &Device::Cpu)
            .unwrap_err()
            .to_string();
        assert!(error.contains("row 1 has no mass"), "{error}");
        let of_words = Preparation::of(&birds(), "kind").unwrap();
        assert!(of_words.targets(&birds(), &Device::Cpu).is_err());
    }
}
