//! Tells the user on stderr what is happening and how long it takes: bars on a terminal, plain lines elsewhere.
//!
//! Standard output is never written here: it belongs to results. Used by `quickstart`, `up` and `run`.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Plain output shows progress of one phase at most this often.
const PLAIN_EVERY: Duration = Duration::from_secs(5);
/// A longer text would wrap and garble a bar.
const TEXT_CHARS_MAX: usize = 160;

/// Shows phases and remembers how long each took.
#[derive(Clone)]
pub(crate) struct Reporter {
    inner: Arc<Inner>,
}

struct Inner {
    started: Instant,
    bars: Option<MultiProgress>,
    seconds: Mutex<BTreeMap<&'static str, f64>>,
}

impl Reporter {
    /// Starts the clock; bars are used when stderr is a terminal.
    pub(crate) fn new() -> Self {
        let bars = std::io::stderr().is_terminal().then(MultiProgress::new);
        Self {
            inner: Arc::new(Inner {
                started: Instant::now(),
                bars,
                seconds: Mutex::default(),
            }),
        }
    }

    /// Begins a phase.
    pub(crate) fn phase(&self, name: &'static str, text: &str) -> Phase {
        let bar = self.inner.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new_spinner());
            bar.set_style(spinner_style());
            bar.set_prefix(name);
            bar.set_message(printable(text));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            self.line(&format!("{name}: {text}"));
        }
        let now = Instant::now();
        Phase {
            reporter: self.clone(),
            name,
            started: now,
            shown: Mutex::new(now),
            bar,
        }
    }

    /// One line with the time since the start.
    pub(crate) fn line(&self, text: &str) {
        let line = format!("[{:>4} s] {text}", self.inner.started.elapsed().as_secs());
        self.write(&line);
    }

    /// One line as it is: addresses, summaries.
    pub(crate) fn write(&self, line: &str) {
        match &self.inner.bars {
            // A closed terminal must not stop the work.
            Some(bars) => drop(bars.println(line)),
            None => drop(writeln!(std::io::stderr(), "{line}")),
        }
    }

    /// Seconds of each finished phase, to a hundredth.
    pub(crate) fn seconds(&self) -> BTreeMap<&'static str, f64> {
        self.inner
            .seconds
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn record(&self, name: &'static str, elapsed: Duration) {
        let seconds = (elapsed.as_secs_f64() * 100.0).round() / 100.0;
        *self
            .inner
            .seconds
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(name)
            .or_default() += seconds;
    }
}

/// A piece of work that is under way. Dropped without `finish`, it leaves no line: the error tells.
pub(crate) struct Phase {
    reporter: Reporter,
    name: &'static str,
    started: Instant,
    shown: Mutex<Instant>,
    bar: Option<ProgressBar>,
}

impl Phase {
    /// Says how far it is; `total` 0 means unknown.
    pub(crate) fn progress(&self, done: u64, total: u64, text: &str) {
        if let Some(bar) = &self.bar {
            if total > 0 && bar.length() != Some(total) {
                bar.set_style(bar_style());
                bar.set_length(total);
            }
            bar.set_position(done);
            bar.set_message(printable(text));
            return;
        }
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.elapsed() < PLAIN_EVERY {
            return;
        }
        *shown = Instant::now();
        let text = printable(text);
        match total {
            0 => self.reporter.line(&format!("{}: {text}", self.name)),
            total => self
                .reporter
                .line(&format!("{}: {done}/{total} {text}", self.name)),
        }
    }

    /// A line that stays, such as a cell's output.
    pub(crate) fn say(&self, text: &str) {
        self.reporter.line(&format!("{}: {}", self.name, printable(text)));
    }

    /// Ends it and says what came of it.
    pub(crate) fn finish(self, result: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let elapsed = self.started.elapsed();
        self.reporter.record(self.name, elapsed);
        self.reporter.line(&format!(
            "{}: {} ({:.1} s)",
            self.name,
            printable(result),
            elapsed.as_secs_f64()
        ));
    }
}

impl Drop for Phase {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Text from outside without control characters, which could rewrite the terminal, and not longer than a line.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(TEXT_CHARS_MAX)
        .collect::<String>()
        .trim_end()
        .to_owned()
}

fn spinner_style() -> ProgressStyle {
    style("{spinner} {prefix}: {msg} ({elapsed})")
}

fn bar_style() -> ProgressStyle {
    style("{spinner} {prefix} [{bar:30}] {pos}/{len} {msg} ({elapsed})")
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\rc\n"), "a [2Jb c");
    }

    #[test]
    fn finished_phases_are_timed_and_summed() {
        let reporter = Reporter::new();
        reporter.phase("kernel", "starting").finish("ready");
        reporter.phase("kernel", "starting").finish("ready");
        assert_eq!(reporter.seconds().keys().collect::<Vec<_>>(), [&"kernel"]);
    }
}
