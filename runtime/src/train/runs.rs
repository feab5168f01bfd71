//! Several trainings side by side. Called by notebooks ([`runs`], [`compare`]); the trainer adds to [`runs`].

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::History;
use crate::display::{Bundle, Rich};
use crate::live::escaped;
use crate::plot::{LinePlot, short};

/// Trainings of this kernel that are remembered, the newest: each keeps a few numbers for every step.
const RUNS_MAX: usize = 64;

static RUNS: Mutex<Vec<History>> = Mutex::new(Vec::new());

/// Trainings to compare; shown as one chart and a table.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Runs {
    /// In the order they ended.
    pub histories: Vec<History>,
}

/// The trainings that ended in this kernel, the newest 64.
pub fn runs() -> Runs {
    let known = RUNS.lock().unwrap_or_else(PoisonError::into_inner);
    Runs {
        histories: known.clone(),
    }
}

/// These trainings side by side.
pub fn compare(histories: &[&History]) -> Runs {
    Runs {
        histories: histories.iter().map(|history| (*history).clone()).collect(),
    }
}

/// Remembers a training for [`runs`].
pub(super) fn remember(history: &History) {
    let mut known = RUNS.lock().unwrap_or_else(PoisonError::into_inner);
    if known.len() >= RUNS_MAX {
        known.remove(0);
    }
    known.push(history.clone());
}

impl Runs {
    /// The file beside checkpoints that a training's history is in, for [`History::load`].
    pub const FILE: &str = "history.json";

    /// The losses on the examples held out, or of the training where none are, in one chart.
    pub fn plot(&self) -> LinePlot {
        let has_test = self.histories.iter().all(|history| !history.test_loss.is_empty());
        let title = if has_test { "Loss, held out" } else { "Loss" };
        let plot = LinePlot::default().title(title).x_label("epoch");
        self.histories
            .iter()
            .enumerate()
            .fold(plot, |plot, (number, history)| {
                let values = if has_test {
                    history.by_epoch(&history.test_loss)
                } else {
                    history.train_loss.clone()
                };
                plot.line(label(number, history), &values)
            })
    }

    /// A row for each training: its last values, and those settings that differ.
    fn table(&self) -> Vec<Vec<String>> {
        let settings: BTreeSet<&String> = self
            .histories
            .iter()
            .flat_map(|one| one.settings.keys())
            .collect();
        let differs = |name: &&&String| {
            let mut values = self.histories.iter().map(|one| one.settings.get(**name));
            let first = values.next();
            values.any(|value| Some(value) != first)
        };
        let settings: Vec<&String> = settings.iter().filter(differs).copied().collect();
        let metrics: BTreeSet<&String> = self.histories.iter().flat_map(|one| one.metrics.keys()).collect();
        let has_accuracy = self.histories.iter().any(|one| !one.test_accuracy.is_empty());
        let mut head: Vec<String> = ["run", "epochs done", "steps", "seconds", "loss", "held out"]
            .map(str::to_owned)
            .to_vec();
        head.extend(has_accuracy.then(|| "accuracy".to_owned()));
        head.extend(metrics.iter().map(|name| (*name).clone()));
        head.extend(settings.iter().map(|name| (*name).clone()));
        let row = |(number, one): (usize, &History)| {
            let mut cells = vec![
                label(number, one),
                one.train_loss.len().to_string(),
                one.step_loss.len().to_string(),
                short(one.seconds),
                last(&one.train_loss),
                last(&one.test_loss),
            ];
            cells.extend(has_accuracy.then(|| last(&one.test_accuracy)));
            let metric = |name: &&String| {
                one.metrics
                    .get(*name)
                    .map_or_else(String::new, |values| last(values))
            };
            cells.extend(metrics.iter().map(metric));
            cells.extend(
                settings
                    .iter()
                    .map(|name| one.settings.get(*name).cloned().unwrap_or_default()),
            );
            cells
        };
        let rows = self.histories.iter().enumerate().map(row);
        std::iter::once(head).chain(rows).collect()
    }
}

impl Rich for Runs {
    fn bundle(&self) -> Bundle {
        let (table, plot) = (self.table(), self.plot());
        let text = format!("{}\n{}", plot.text(), text_of(&table));
        // As a picture: it follows the page's theme, and pages that take drawings out of HTML keep it. One that cannot be made is no
        // reason to show no table.
        let chart = plot.svg().map_or_else(
            |_| String::new(),
            |svg| {
                let (data, about) = (STANDARD.encode(svg), escaped(&plot.text()));
                format!("<img alt=\"{about}\" src=\"data:image/svg+xml;base64,{data}\">")
            },
        );
        let html = format!("<div>{chart}{}</div>", html_of(&table));
        Bundle::new().text(text).html(html)
    }
}

fn label(number: usize, history: &History) -> String {
    if history.name.is_empty() {
        format!("run {}", number + 1)
    } else {
        history.name.clone()
    }
}

fn last(values: &[f64]) -> String {
    values.last().map_or_else(String::new, |value| short(*value))
}

fn text_of(table: &[Vec<String>]) -> String {
    let columns = table.first().map_or(0, Vec::len);
    let width = |at: usize| table.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    table.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn html_of(table: &[Vec<String>]) -> String {
    let row = |(number, row): (usize, &Vec<String>)| {
        let tag = if number == 0 { "th" } else { "td" };
        let cell = |cell: &String| format!("<{tag} style=\"text-align:left\">{}</{tag}>", escaped(cell));
        format!("<tr>{}</tr>", row.iter().map(cell).collect::<String>())
    };
    format!(
        "<table>{}</table>",
        table.iter().enumerate().map(row).collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn run(name: &str, rate: &str) -> History {
        let settings = [("learning rate", rate), ("seed", "1")];
        History {
            name: name.to_owned(),
            train_loss: vec![2.0, 1.0],
            test_loss: vec![2.5],
            measured_epochs: vec![1],
            settings: settings.map(|(a, b)| (a.to_owned(), b.to_owned())).into(),
            metrics: BTreeMap::from([("f1".to_owned(), vec![0.25])]),
            ..History::default()
        }
    }

    #[test]
    fn shows_a_line_and_a_row_for_each_and_the_settings_that_differ() {
        let (one, two) = (run("<one>", "0.1"), run("", "0.2"));
        let bundle = compare(&[&one, &two]).bundle();
        let text = bundle.as_text().unwrap();
        assert!(text.contains("<one>") && text.contains("run 2"), "{text}");
        assert!(text.contains("learning rate") && text.contains("f1"), "{text}");
        assert!(!text.contains("seed"), "{text}");
        assert!(!html_of(&compare(&[&one]).table()).contains("<one>"));
        assert!(Runs::default().bundle().as_text().is_some());
    }

    #[test]
    fn remembers_the_newest() {
        for number in 0..RUNS_MAX + 3 {
            remember(&run(&format!("remembered {number}"), "1"));
        }
        let known = runs().histories;
        assert_eq!(known.len(), RUNS_MAX);
        assert!(!known.iter().any(|one| one.name == "remembered 0"));
    }
}
