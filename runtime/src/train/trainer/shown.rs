//! What is seen of a training while it runs: a bar, and the curve under it. Called by the loop.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::super::History;
use crate::display::Rich;
use crate::live::Live;
use crate::progress::Bar;

/// Shortest time between two redraws of the bar.
const BAR_EVERY: Duration = Duration::from_millis(250);
/// Shortest time between two redraws of the curve: it is much larger than a bar.
const CURVE_EVERY: Duration = Duration::from_millis(500);

pub(super) struct Shown {
    bar: Bar,
    bar_drawn: Option<Instant>,
    curve: Live,
    curve_drawn: Option<Instant>,
    epochs: usize,
    is_quiet: bool,
}

impl Shown {
    pub(super) fn new(steps: Option<u64>, epochs: usize, is_quiet: bool) -> Self {
        Self {
            bar: Bar::new("training", steps, "steps"),
            bar_drawn: None,
            curve: Live::new(),
            curve_drawn: None,
            epochs,
            is_quiet,
        }
    }

    /// Redraws what is due.
    pub(super) fn update(&mut self, step: u64, history: &History) {
        if self.is_quiet {
            return;
        }
        let now = Instant::now();
        let due =
            |drawn: Option<Instant>, every| drawn.is_none_or(|drawn| now.duration_since(drawn) >= every);
        if due(self.bar_drawn, BAR_EVERY) {
            self.bar_drawn = Some(now);
            self.draw_bar(step, history);
        }
        if due(self.curve_drawn, CURVE_EVERY) {
            self.curve_drawn = Some(now);
            self.draw_curve(history);
        }
    }

    /// Draws everything a last time, and says what came of it.
    pub(super) fn finish(&mut self, step: u64, history: &History) {
        if self.is_quiet {
            return;
        }
        self.bar.note(outcome(history));
        self.bar.set(step);
        self.bar.finish();
        self.draw_curve(history);
    }

    fn draw_bar(&mut self, step: u64, history: &History) {
        let mut words = vec![format!(
            "epoch {} of {}",
            (history.train_loss.len() + 1).min(self.epochs),
            self.epochs
        )];
        words.extend(measured(history));
        self.bar.note(words.join(", "));
        self.bar.set(step);
    }

    fn draw_curve(&mut self, history: &History) {
        // A terminal's one live line is the bar's.
        if !crate::child::in_terminal() {
            self.curve.show(history.bundle());
        }
    }
}

/// The last loss, and one of what was measured: in a terminal it is all one line.
fn measured(history: &History) -> Vec<String> {
    let mut words = vec![];
    if let Some(loss) = history.train_loss.last().or(history.step_loss.last()) {
        words.push(format!("loss {loss:.4}"));
    }
    let metric = history.metrics.iter().next();
    if let Some(accuracy) = history.test_accuracy.last() {
        words.push(format!("{:.2} % right", accuracy * 100.0));
    } else if let Some((name, value)) = metric.and_then(|(name, values)| Some((name, values.last()?))) {
        words.push(format!("{name} {value:.4}"));
    } else if let Some(loss) = history.test_loss.last() {
        words.push(format!("held out {loss:.4}"));
    }
    words
}

/// What is left to say at the end.
fn outcome(history: &History) -> String {
    let mut words = measured(history);
    if let Some(why) = &history.stopped {
        words.push(format!(
            "ended in epoch {}: {why}",
            history.train_loss.len().max(1)
        ));
        if let Some(best) = history.best_epoch {
            let mut word = format!("best was epoch {}", best + 1);
            let measured = history.measured_epochs.iter().position(|epoch| *epoch == best);
            if let Some(accuracy) = measured.and_then(|at| history.test_accuracy.get(at)) {
                let _ = write!(word, " with {:.2} % right", accuracy * 100.0);
            }
            words.push(word);
        }
    }
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_says_what_was_measured_and_why_it_was_the_end() {
        let mut history = History {
            train_loss: vec![0.5; 7],
            test_accuracy: vec![0.975; 7],
            ..History::default()
        };
        assert_eq!(outcome(&history), "loss 0.5000, 97.50 % right");
        history.stopped = Some("it got no better in 3 measurements".to_owned());
        history.best_epoch = Some(3);
        history.measured_epochs = (0..7).collect();
        history.test_accuracy[3] = 0.98;
        assert_eq!(
            outcome(&history),
            "loss 0.5000, 97.50 % right, ended in epoch 7: it got no better in 3 measurements, best was epoch 4 with \
             98.00 % right"
        );
    }
}
