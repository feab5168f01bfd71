//! Live progress: a bar that redraws itself in place, at most ten times a second, and stops when the cell is
//! interrupted.
//!
//! Not here: what is counted. Called by notebooks ([`progress`]), [`crate::train`] and [`crate::broker`].

use std::time::{Duration, Instant};

use crate::display::Bundle;
use crate::interrupt::check_interrupt;
use crate::live::{Live, escaped};

/// Shortest time between two redraws.
const REDRAW_EVERY: Duration = Duration::from_millis(100);
/// Characters of the bar in plain text.
const BAR_WIDTH: usize = 24;

/// Goes through `items` with a live bar: `for batch in progress(batches) { .. }`.
///
/// An interrupt of the cell stops the loop at the next item.
pub fn progress<I: IntoIterator>(items: I) -> Progress<I::IntoIter> {
    let items = items.into_iter();
    let total = match items.size_hint() {
        (low, Some(high)) if low == high => u64::try_from(high).ok(),
        _ => None,
    };
    Progress {
        items,
        bar: Bar::new("", total, ""),
    }
}

/// Iterator of [`progress`].
#[derive(Debug)]
pub struct Progress<I> {
    items: I,
    bar: Bar,
}

impl<I: Iterator> Iterator for Progress<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        check_interrupt();
        let item = self.items.next();
        match item {
            // An item that is handed out is not done yet; the one before it is.
            Some(_) => self.bar.started(),
            None => self.bar.finish(),
        }
        item
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.items.size_hint()
    }
}

/// A bar of one piece of work.
#[derive(Debug)]
pub struct Bar {
    view: View,
    begun: Instant,
    drawn: Option<Instant>,
    /// Whether an item was handed out that is not counted yet.
    open: bool,
    finished: bool,
    live: Live,
}

impl Bar {
    /// A bar that counts to `total`, or only counts where that is not known. Nothing is shown yet.
    pub fn new(label: impl Into<String>, total: Option<u64>, unit: impl Into<String>) -> Self {
        let view = View {
            label: label.into(),
            done: 0,
            total,
            unit: unit.into(),
            ..View::default()
        };
        Self {
            view,
            begun: Instant::now(),
            drawn: None,
            open: false,
            finished: false,
            live: Live::new(),
        }
    }

    /// Says how much is done, and redraws when it is time.
    pub fn set(&mut self, done: u64) {
        self.view.done = done;
        self.draw_when_due();
    }

    /// Adds words after the numbers, such as the current loss.
    pub fn note(&mut self, note: impl Into<String>) {
        self.view.note = note.into();
    }

    /// Begins another phase of the same work in the same place.
    pub(crate) fn phase(&mut self, label: &str, done: u64, total: Option<u64>, unit: &str) {
        if label != self.view.label {
            // The first drawing of a phase is never held back: phases are few.
            self.drawn = None;
        }
        let note = std::mem::take(&mut self.view.note);
        self.view = View {
            label: label.to_owned(),
            done,
            total,
            unit: unit.to_owned(),
            note,
            ..View::default()
        };
        self.draw_when_due();
    }

    /// Draws the bar a last time, with what is left to do gone from its words.
    pub fn finish(&mut self) {
        if self.open {
            self.open = false;
            self.view.done += 1;
        }
        self.end();
    }

    /// Says in place of the bar what is waited for.
    pub(crate) fn wait_for(&mut self, sentence: &str) {
        self.drawn = Some(Instant::now());
        self.live.show(sentence_bundle(sentence));
    }

    /// Replaces the bar by a sentence.
    pub(crate) fn finish_with(&mut self, sentence: &str) {
        self.finished = true;
        self.live.show(sentence_bundle(sentence));
    }

    fn started(&mut self) {
        if self.open {
            self.view.done += 1;
        }
        self.open = true;
        self.draw_when_due();
    }

    fn end(&mut self) {
        if !self.finished {
            self.finished = true;
            self.view.over = true;
            self.draw();
        }
    }

    fn draw_when_due(&mut self) {
        let now = Instant::now();
        if !self.finished && due(self.drawn, now) {
            self.drawn = Some(now);
            self.draw();
        }
    }

    fn draw(&mut self) {
        self.view.elapsed = self.begun.elapsed();
        self.live
            .show(Bundle::new().text(self.view.text()).html(self.view.html()));
    }
}

impl Drop for Bar {
    /// A loop that is left early shows how far it came; during a panic nothing may be sent.
    fn drop(&mut self) {
        if self.drawn.is_some() && !std::thread::panicking() {
            self.end();
        }
    }
}

fn sentence_bundle(sentence: &str) -> Bundle {
    Bundle::new()
        .text(sentence)
        .html(format!("<div>{}</div>", escaped(sentence)))
}

fn due(drawn: Option<Instant>, now: Instant) -> bool {
    drawn.is_none_or(|drawn| now.duration_since(drawn) >= REDRAW_EVERY)
}

/// What a bar looks like at one moment.
#[derive(Debug, Clone, Default)]
struct View {
    label: String,
    done: u64,
    total: Option<u64>,
    unit: String,
    note: String,
    elapsed: Duration,
    over: bool,
}

impl View {
    fn text(&self) -> String {
        let label = if self.label.is_empty() {
            String::new()
        } else {
            format!("{}  ", self.label)
        };
        match self.share() {
            Some(share) => format!("{label}{}  {}", drawn_bar(share), self.numbers()),
            None => format!("{label}{}", self.numbers()),
        }
    }

    fn html(&self) -> String {
        let value = match (self.share(), self.over) {
            (Some(share), _) => format!(" max=\"1\" value=\"{share:.4}\""),
            (None, true) => " max=\"1\" value=\"1\"".to_owned(),
            // Without a value browsers show that something moves.
            (None, false) => String::new(),
        };
        let label = match self.label.as_str() {
            "" => String::new(),
            label => format!("<span style=\"min-width:9em\">{}</span>", escaped(label)),
        };
        format!(
            "<div style=\"display:flex;align-items:center;gap:12px;font-variant-numeric:tabular-nums\">{label}\
             <progress{value} style=\"flex:0 1 16em;accent-color:#1b4fbf\"></progress><span>{}</span></div>",
            escaped(&self.numbers())
        )
    }

    fn share(&self) -> Option<f64> {
        let total = self.total.filter(|&total| total > 0)?;
        Some((self.done as f64 / total as f64).min(1.0))
    }

    /// `43 %, 18 of 42 epochs, 3.1 s, 4 s left, loss 0.12`
    fn numbers(&self) -> String {
        let mut parts = Vec::new();
        if let Some(share) = self.share() {
            parts.push(format!("{:.0} %", share * 100.0));
        }
        if self.done > 0 || self.share().is_some() {
            parts.push(counted(
                self.done,
                self.total.filter(|&total| total > 0),
                &self.unit,
            ));
        }
        parts.push(spent(self.elapsed));
        if let (Some(share), false) = (self.share(), self.over)
            && share > 0.0
            && self.elapsed >= Duration::from_secs(1)
        {
            parts.push(format!(
                "{} left",
                spent(self.elapsed.mul_f64((1.0 - share) / share))
            ));
        }
        if !self.note.is_empty() {
            parts.push(self.note.clone());
        }
        parts.join(", ")
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 24")]
fn drawn_bar(share: f64) -> String {
    let full = (share * BAR_WIDTH as f64).round() as usize;
    format!("{}{}", "█".repeat(full), "░".repeat(BAR_WIDTH - full))
}

fn counted(done: u64, total: Option<u64>, unit: &str) -> String {
    let counts_bytes = unit == "bytes";
    let number = |value: u64| {
        if counts_bytes {
            bytes(value)
        } else {
            value.to_string()
        }
    };
    let unit = if counts_bytes || unit.is_empty() {
        String::new()
    } else {
        format!(" {unit}")
    };
    match total {
        Some(total) => format!("{} of {}{unit}", number(done), number(total)),
        None => format!("{}{unit}", number(done)),
    }
}

/// So many files, in words.
pub(crate) fn counted_files(count: u64) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} file{plural}")
}

/// A number of bytes in words, in powers of 1000.
pub(crate) fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 999.5 {
            return if unit == "B" {
                format!("{count} B")
            } else {
                format!("{value:.1} {unit}")
            };
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

/// A time in words.
pub(crate) fn spent(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds >= 3600 {
        format!("{} h {} min", seconds / 3600, seconds / 60 % 60)
    } else if seconds >= 60 {
        format!("{} min {} s", seconds / 60, seconds % 60)
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(done: u64, total: Option<u64>, unit: &str, seconds: f64) -> View {
        let elapsed = Duration::from_secs_f64(seconds);
        View {
            label: "training".into(),
            done,
            total,
            unit: unit.into(),
            elapsed,
            ..View::default()
        }
    }

    #[test]
    fn says_share_count_time_and_rest() {
        assert_eq!(
            view(21, Some(42), "epochs", 3.0).text(),
            "training  ████████████░░░░░░░░░░░░  50 %, 21 of 42 epochs, 3.0 s, 3.0 s left"
        );
        assert_eq!(view(7, None, "", 0.5).text(), "training  7, 0.5 s");
        assert_eq!(view(0, None, "", 0.5).text(), "training  0.5 s");
        let over = View {
            over: true,
            note: "loss 0.1".into(),
            ..view(2_000_000, Some(2_000_000), "bytes", 61.0)
        };
        assert!(
            over.text()
                .ends_with("100 %, 2.0 MB of 2.0 MB, 1 min 1 s, loss 0.1"),
            "{}",
            over.text()
        );
    }

    #[test]
    fn draws_html_that_cannot_be_broken_by_a_label() {
        let html = View {
            label: "<b>&".into(),
            ..view(1, Some(4), "x", 0.0)
        }
        .html();
        assert!(
            html.contains("&lt;b&gt;&amp;") && html.contains("value=\"0.2500\""),
            "{html}"
        );
        assert!(!view(1, None, "x", 0.0).html().contains("value"));
    }

    #[test]
    fn redraws_at_most_ten_times_a_second() {
        let start = Instant::now();
        assert!(due(None, start));
        assert!(!due(Some(start), start + Duration::from_millis(99)));
        assert!(due(Some(start), start + REDRAW_EVERY));
        let mut bar = Bar::new("x", Some(1_000_000), "");
        for done in 0..100_000 {
            bar.set(done);
        }
        let drawn_for = start.elapsed().as_millis() / REDRAW_EVERY.as_millis();
        assert!(
            u128::from(bar.live.shown()) <= drawn_for + 1,
            "{} redraws",
            bar.live.shown()
        );
    }

    #[test]
    fn counts_the_items_it_has_handed_out() {
        let mut items = progress([1, 2, 3]);
        assert_eq!(items.size_hint(), (3, Some(3)));
        assert_eq!(items.next(), Some(1));
        assert_eq!(items.bar.view.done, 0);
        assert_eq!(items.by_ref().collect::<Vec<_>>(), [2, 3]);
        assert_eq!((items.bar.view.done, items.bar.view.total), (3, Some(3)));
        assert_eq!(items.next(), None);
        assert_eq!(items.bar.view.done, 3);
    }

    #[test]
    fn says_bytes_and_times_in_words() {
        assert_eq!(
            [0, 999, 1_000, 264_712, 999_949, 3_000_000_000]
                .map(bytes)
                .join(" "),
            "0 B 999 B 1.0 kB 264.7 kB 1.0 MB 3.0 GB"
        );
        assert_eq!(spent(Duration::from_secs(3_725)), "1 h 2 min");
    }
}
