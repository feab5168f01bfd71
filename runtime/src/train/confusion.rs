//! Which classes are taken for which. Called by notebooks ([`confusion`]).

use candle_core::{DType, Device, ModuleT, Tensor};

use super::{Examples, predict};
use crate::display::{Bundle, Rich};
use crate::plot::{MatrixPlot, plot_matrix};
use crate::table::Table;
use crate::{Error, Result};

/// Classes that are counted: as many as a heat map shows.
const CLASSES_MAX: usize = 200;

/// How often each class was taken for each. Shown as a heat map with the mistakes in red.
#[derive(Debug, Clone, PartialEq)]
pub struct Confusion {
    /// Row by row: examples of a class by what they were taken for.
    counts: Vec<u64>,
    classes: usize,
    names: Vec<String>,
}

/// Which classes `network` takes the examples for.
///
/// # Errors
/// As [`Confusion::of`], and [`Error::Tensor`] from candle.
pub fn confusion(network: &dyn ModuleT, examples: &Examples) -> Result<Confusion> {
    let truths: Vec<u32> = examples.labels.to_dtype(DType::U32)?.to_vec1()?;
    Confusion::of(&truths, &predict(network, examples)?)
}

impl Confusion {
    /// Counts the classes that examples have, and those they were taken for.
    ///
    /// # Errors
    /// [`Error::Data`] when there are more of one than of the other, none, or more than 200 classes.
    pub fn of(truths: &[u32], guesses: &[u32]) -> Result<Self> {
        let classes = truths
            .iter()
            .chain(guesses)
            .max()
            .map_or(0, |most| *most as usize + 1);
        if truths.len() != guesses.len() || !(1..=CLASSES_MAX).contains(&classes) {
            return Err(Error::Data {
                reason: format!(
                    "{} classes and {} guesses of {classes} classes cannot be counted: as many of each, of 1 to {CLASSES_MAX} \
                     classes",
                    truths.len(),
                    guesses.len()
                ),
            });
        }
        let mut counts = vec![0; classes * classes];
        for (truth, guess) in truths.iter().zip(guesses) {
            counts[*truth as usize * classes + *guess as usize] += 1;
        }
        Ok(Self {
            counts,
            classes,
            names: vec![],
        })
    }

    /// What the classes are called, from the first on; their numbers without it.
    #[must_use]
    pub fn names<N: ToString>(mut self, names: &[N]) -> Self {
        self.names = names.iter().map(ToString::to_string).collect();
        // A class that nobody had and nobody was taken for has a name all the same.
        if self.names.len() > self.classes && self.names.len() <= CLASSES_MAX {
            let (old, new) = (self.classes, self.names.len());
            let mut counts = vec![0; new * new];
            for (at, count) in self.counts.iter().enumerate() {
                counts[at / old * new + at % old] = *count;
            }
            (self.counts, self.classes) = (counts, new);
        }
        self
    }

    /// How many examples of the class `truth` were taken for `guess`.
    pub fn count(&self, truth: usize, guess: usize) -> u64 {
        let is_known = truth < self.classes && guess < self.classes;
        if is_known {
            self.counts[truth * self.classes + guess]
        } else {
            0
        }
    }

    /// Share of examples that were taken for what they are, 0 to 1.
    pub fn accuracy(&self) -> f64 {
        let right: u64 = (0..self.classes).map(|class| self.count(class, class)).sum();
        right as f64 / self.counts.iter().sum::<u64>().max(1) as f64
    }

    /// A row for each class: its examples, how many of them were found (recall), how many of those that were taken for it are
    /// of it (precision), and the harmonic mean of both (F1). Shares are from 0 to 1, missing where there is nothing to share.
    pub fn table(&self) -> Table {
        let names: Vec<String> = (0..self.classes).map(|class| self.name(class)).collect();
        let mut values = Vec::with_capacity(self.classes * 4);
        for class in 0..self.classes {
            let of_class: u64 = (0..self.classes).map(|guess| self.count(class, guess)).sum();
            let taken_for: u64 = (0..self.classes).map(|truth| self.count(truth, class)).sum();
            let right = self.count(class, class) as f64;
            let share = |of: f64| if of > 0.0 { right / of } else { f64::NAN };
            let (of_class, taken_for) = (of_class as f64, taken_for as f64);
            values.extend([
                of_class,
                share(of_class),
                share(taken_for),
                share(f64::midpoint(of_class, taken_for)),
            ]);
        }
        Table::named(
            "class",
            &names,
            &["examples", "recall", "precision", "F1"],
            &values,
        )
    }

    /// The heat map: what examples are from top to bottom, what they were taken for from left to right.
    ///
    /// # Errors
    /// [`Error::Tensor`] from candle.
    pub fn plot(&self) -> Result<MatrixPlot> {
        let counts: Vec<f64> = self.counts.iter().map(|count| *count as f64).collect();
        let matrix = Tensor::from_vec(counts, (self.classes, self.classes), &Device::Cpu)?;
        let names: Vec<String> = (0..self.classes).map(|class| self.name(class)).collect();
        let plot = plot_matrix(&matrix)?
            .rows(&names)
            .columns(&names)
            .mark_off_diagonal();
        let title = format!("{:.2} % are right", self.accuracy() * 100.0);
        Ok(plot
            .title(title)
            .y_label("what it is")
            .x_label("what it was taken for"))
    }

    fn name(&self, class: usize) -> String {
        self.names
            .get(class)
            .cloned()
            .unwrap_or_else(|| class.to_string())
    }
}

impl Rich for Confusion {
    fn bundle(&self) -> Bundle {
        match self.plot() {
            Ok(plot) => plot.bundle(),
            Err(error) => Bundle::new().text(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_is_taken_for_what() {
        let confusion = Confusion::of(&[0, 0, 0, 1, 2, 2], &[0, 0, 1, 1, 0, 2]).unwrap();
        assert_eq!(
            [
                confusion.count(0, 1),
                confusion.count(2, 0),
                confusion.count(9, 0)
            ],
            [1, 1, 0]
        );
        assert!((confusion.accuracy() - 4.0 / 6.0).abs() < 1e-12);
        let table = confusion.table();
        assert_eq!(table.column("examples").unwrap(), [3.0, 1.0, 2.0]);
        assert_eq!(table.column("precision").unwrap(), [2.0 / 3.0, 0.5, 1.0]);
        assert!((table.column("F1").unwrap()[2] - 2.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn classes_without_examples_keep_their_places_and_names() {
        let confusion = Confusion::of(&[0, 1], &[1, 1]).unwrap().names(&["a", "b", "c"]);
        assert_eq!(
            [
                confusion.count(0, 1),
                confusion.count(1, 1),
                confusion.count(2, 2)
            ],
            [1, 1, 0]
        );
        let table = confusion.table();
        assert_eq!(table.words("class").unwrap(), ["a", "b", "c"]);
        assert!(
            table.column("recall").unwrap()[2].is_nan() && table.column("precision").unwrap()[0].is_nan()
        );
        let text = confusion.bundle().as_text().unwrap().to_owned();
        assert!(text.starts_with("50.00 % are right: 3 x 3"), "{text}");
    }

    #[test]
    fn refuses_what_cannot_be_counted() {
        assert!(Confusion::of(&[1], &[]).is_err());
        assert!(Confusion::of(&[], &[]).is_err());
        assert!(Confusion::of(&[200], &[0]).is_err());
    }
}
