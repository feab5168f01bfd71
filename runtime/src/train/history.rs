//! What was measured in a training, and how it is shown, kept and read back.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::display::{Bundle, Rich};
use crate::plot::{LinePlot, beside};
use crate::{Error, Result, files};

/// What was measured in each epoch and step of a training; shown as a curve.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// What the training was called, for comparisons.
    pub name: String,
    /// Mean loss over the examples of each epoch.
    #[serde(with = "numbers")]
    pub train_loss: Vec<f64>,
    /// Loss on the examples held out, after each epoch in which they were looked at.
    #[serde(with = "numbers")]
    pub test_loss: Vec<f64>,
    /// Share of the examples held out that is classified rightly, measured with `test_loss`; empty where no accuracy
    /// is measured.
    #[serde(with = "numbers")]
    pub test_accuracy: Vec<f64>,
    /// What else was measured on the examples held out, by name, with `test_loss`.
    #[serde(with = "named")]
    pub metrics: BTreeMap<String, Vec<f64>>,
    /// Epochs, from 0, after which the examples held out were looked at.
    pub measured_epochs: Vec<usize>,
    /// Loss of each step.
    #[serde(with = "numbers")]
    pub step_loss: Vec<f64>,
    /// Learning rate of each step.
    #[serde(with = "numbers")]
    pub learning_rate: Vec<f64>,
    /// Length of all gradients together in each step, before it was cut; empty unless gradients are cut by it.
    #[serde(with = "numbers")]
    pub gradient_norm: Vec<f64>,
    /// Epoch, from 0, whose weights were the best on the examples held out.
    pub best_epoch: Option<usize>,
    /// Why it ended before its last epoch, if it did.
    pub stopped: Option<String>,
    /// What happened on the way, such as going on from a checkpoint.
    pub notes: Vec<String>,
    /// How long it took, in seconds, without the time between being killed and taken up again.
    pub seconds: f64,
    /// What the training was set to, in words.
    pub settings: BTreeMap<String, String>,
}

impl History {
    /// The losses of the epochs as a chart.
    pub fn plot(&self) -> LinePlot {
        let plot = LinePlot::default()
            .title("Loss")
            .x_label("epoch")
            .line("training", &self.train_loss);
        if self.test_loss.is_empty() && !self.train_loss.is_empty() {
            return plot;
        }
        plot.line("held out", &self.by_epoch(&self.test_loss))
    }

    /// The accuracy, or else the first of the other metrics, as a chart; none where nothing but the loss was measured.
    pub fn plot_metric(&self) -> Option<LinePlot> {
        let accuracy = ("accuracy", &self.test_accuracy);
        let others = self.metrics.iter().map(|(name, values)| (name.as_str(), values));
        let (name, values) = std::iter::once(accuracy)
            .chain(others)
            .find(|(_, values)| !values.is_empty())?;
        let plot = LinePlot::default().title(capitalised(name)).x_label("epoch");
        Some(plot.line("held out", &self.by_epoch(values)))
    }

    /// The losses of the steps as a chart.
    pub fn plot_steps(&self) -> LinePlot {
        LinePlot::default()
            .title("Loss")
            .x_label("step")
            .line("training", &self.step_loss)
    }

    /// The last measured accuracy, 0 to 1.
    pub fn accuracy(&self) -> f64 {
        self.test_accuracy.last().copied().unwrap_or(0.0)
    }

    /// The values of a metric by its name, one for each of `measured_epochs`.
    pub fn metric(&self, name: &str) -> Option<&[f64]> {
        match name {
            "accuracy" if !self.test_accuracy.is_empty() => Some(&self.test_accuracy),
            name => self.metrics.get(name).map(Vec::as_slice),
        }
    }

    /// Writes it as JSON.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        files::write_whole(path.as_ref(), self.to_json()?.as_bytes())
    }

    /// Reads what [`History::save`] wrote. Values that were no numbers come back as NaN.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be read, [`Error::Data`] when it is no history.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|source| Error::file("read", path, source))?;
        serde_json::from_str(&text).map_err(|source| Error::Data {
            reason: format!("{} is not the history of a training: {source}", path.display()),
        })
    }

    pub(super) fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|source| Error::Data {
            reason: format!("the history cannot be written: {source}"),
        })
    }

    /// Values that were measured in some epochs, at their epochs.
    pub(super) fn by_epoch(&self, values: &[f64]) -> Vec<f64> {
        if self.measured_epochs.len() != values.len() {
            return values.to_vec();
        }
        let epochs = self.measured_epochs.last().map_or(0, |last| last + 1);
        let mut all = vec![f64::NAN; epochs];
        for (&epoch, &value) in self.measured_epochs.iter().zip(values) {
            if let Some(place) = all.get_mut(epoch) {
                *place = value;
            }
        }
        all
    }
}

impl Rich for History {
    fn bundle(&self) -> Bundle {
        if self.train_loss.len() < 2 && !self.step_loss.is_empty() {
            return self.plot_steps().bundle();
        }
        match self.plot_metric() {
            Some(metric) => beside(&[self.plot(), metric]),
            None => self.plot().bundle(),
        }
    }
}

fn capitalised(name: &str) -> String {
    let mut letters = name.chars();
    letters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// JSON has no NaN: such values are written as null.
mod numbers {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(values: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
        values.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
        let values = Vec::<Option<f64>>::deserialize(deserializer)?;
        Ok(values
            .into_iter()
            .map(|value| value.unwrap_or(f64::NAN))
            .collect())
    }
}

/// As [`numbers`], by name.
mod named {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        all: &BTreeMap<String, Vec<f64>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        all.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<String, Vec<f64>>, D::Error> {
        let all = BTreeMap::<String, Vec<Option<f64>>>::deserialize(deserializer)?;
        let numbers = |values: Vec<Option<f64>>| {
            values
                .into_iter()
                .map(|value| value.unwrap_or(f64::NAN))
                .collect()
        };
        Ok(all
            .into_iter()
            .map(|(name, values)| (name, numbers(values)))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.json");
        let history = History {
            name: "a".to_owned(),
            train_loss: vec![0.1 + 0.2, 1e-300],
            test_loss: vec![1.0 / 3.0],
            metrics: BTreeMap::from([("f1".to_owned(), vec![0.5])]),
            measured_epochs: vec![1],
            best_epoch: Some(1),
            settings: BTreeMap::from([("seed".to_owned(), "2".to_owned())]),
            ..History::default()
        };
        history.save(&path).unwrap();
        assert_eq!(History::load(&path).unwrap(), history);
        let wild = History {
            step_loss: vec![f64::NAN, f64::INFINITY, 1.0],
            ..History::default()
        };
        wild.save(&path).unwrap();
        let back = History::load(&path).unwrap().step_loss;
        assert!(back[0].is_nan() && back[1].is_nan() && back[2] == 1.0);
        std::fs::write(&path, "{\"name\":\"x\"}").unwrap();
        let error = History::load(&path).unwrap_err().to_string();
        assert!(error.contains("is not the history of a training"), "{error}");
    }

    #[test]
    fn the_metric_stands_beside_the_loss() {
        let mut history = History {
            train_loss: vec![2.0, 1.0],
            test_loss: vec![2.5, 1.5],
            metrics: BTreeMap::from([("f1".to_owned(), vec![0.25, 0.5])]),
            measured_epochs: vec![0, 1],
            ..History::default()
        };
        let text = |history: &History| history.bundle().as_text().unwrap().to_owned();
        assert!(text(&history).contains("\nF1\nheld out"), "{}", text(&history));
        history.test_accuracy = vec![0.1, 0.9];
        assert!(
            text(&history).contains("\nAccuracy\nheld out"),
            "{}",
            text(&history)
        );
        assert_eq!(History::default().plot_metric(), None);
    }

    #[test]
    fn values_of_some_epochs_stand_at_their_epochs() {
        let history = History {
            test_loss: vec![3.0, 2.0],
            measured_epochs: vec![1, 3],
            ..History::default()
        };
        let all = history.by_epoch(&history.test_loss);
        assert!(all[0].is_nan() && all[1] == 3.0 && all[2].is_nan() && all[3] == 2.0);
    }
}
