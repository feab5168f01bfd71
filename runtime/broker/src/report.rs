//! What a request says while it works: progress, at most ten times a second, and what is waited for.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use alephlab_api::broker::Event;
use tokio::sync::mpsc;

/// Shortest time between two progress events of one phase.
const EVERY: Duration = Duration::from_millis(100);

/// Sends the events of one request.
pub(crate) struct Report {
    id: u64,
    events: mpsc::Sender<Event>,
    last: Mutex<Option<(String, Instant)>>,
}

impl Report {
    pub(crate) fn new(id: u64, events: mpsc::Sender<Event>) -> Self {
        Self {
            id,
            events,
            last: Mutex::new(None),
        }
    }

    /// Tells how far a phase is. Held back when it is too soon, and dropped when the cell does not read: the next
    /// one says more anyway.
    pub(crate) fn progress(&self, phase: &str, done: u64, total: u64, unit: &str) {
        if !self.due(phase, done == total && total > 0) {
            return;
        }
        let (phase, unit) = (phase.to_owned(), unit.to_owned());
        let _ = self.events.try_send(Event::Progress {
            id: self.id,
            phase,
            done,
            total,
            unit,
        });
    }

    /// Tells that somebody has to act.
    pub(crate) async fn waiting(&self, message: &str) {
        let _ = self
            .events
            .send(Event::Waiting {
                id: self.id,
                message: message.to_owned(),
            })
            .await;
    }

    fn due(&self, phase: &str, is_end: bool) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let soon = last
            .as_ref()
            .is_some_and(|(known, at)| known == phase && now.duration_since(*at) < EVERY);
        if soon && !is_end {
            return false;
        }
        *last = Some((phase.to_owned(), now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begins_and_ends_of_phases_are_told_and_the_rest_is_thinned_out() {
        let (events, mut told) = mpsc::channel(64);
        let report = Report::new(7, events);
        let begun = Instant::now();
        for done in 0..=10_000 {
            report.progress("fetch", done, 10_000, "bytes");
        }
        report.progress("check", 0, 2, "files");
        let between = begun.elapsed().as_millis() / EVERY.as_millis();
        let mut phases = Vec::new();
        while let Ok(Event::Progress { phase, done, .. }) = told.try_recv() {
            phases.push((phase, done));
        }
        assert_eq!(phases.first().unwrap(), &("fetch".to_owned(), 0));
        assert_eq!(phases[phases.len() - 2], ("fetch".to_owned(), 10_000));
        assert_eq!(phases.last().unwrap(), &("check".to_owned(), 0));
        assert!(phases.len() as u128 <= 3 + between, "{}", phases.len());
    }
}
