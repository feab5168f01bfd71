//! What the agent keeps of a relay: how far it came, and which session has heard how much. With it another run of the gateway
//! goes on where this one was. It comes back from a host, so nothing in it is trusted beyond that kernel's own output.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use uuid::Uuid;

use super::{Inner, Listener, MAX_SESSIONS, Relay, Session};

/// How long after a start clients wait for the agent to give the note back before they are served without it.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How long sessions of an earlier run may take to come back before they count as away: JupyterLab waits longer after each
/// attempt, and finds a file that it has open changed if its outputs are written meanwhile.
const RETURN: Duration = Duration::from_secs(60);

/// The note's content. Numbers are the agent's.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Note {
    /// A cell runs.
    busy: bool,
    /// What sessions that are new need not hear.
    told: u64,
    sessions: Vec<Noted>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Noted {
    session: String,
    client: Uuid,
    told: u64,
}

/// For the agent: what was taken, what is to be kept, and the note itself.
pub(crate) struct ForAgent {
    pub(crate) taken: u64,
    pub(crate) keep: u64,
    pub(crate) note: serde_json::Value,
}

impl Relay {
    /// Of a kernel that an earlier run of the gateway started: its agent tells the rest.
    pub(crate) fn of_earlier_run(notes: Arc<Notify>) -> Self {
        let relay = Self::new(notes);
        relay.lock().is_restored = false;
        relay
    }

    /// Waits until sessions of an earlier run are known, but not for ever.
    pub(crate) async fn restored(&self) {
        self.wait_until(|relay| relay.lock().is_restored).await;
    }

    /// Everything that the agent had when it came back has come, too.
    pub(crate) fn is_caught_up(&self) -> bool {
        let inner = self.lock();
        inner.is_restored && inner.settled >= inner.newest
    }

    /// Waits for that, but not for ever: where nobody listens, much of it may stay with the agent.
    pub(crate) async fn caught_up(&self) {
        self.wait_until(Self::is_caught_up).await;
    }

    async fn wait_until(&self, is_so: impl Fn(&Self) -> bool) {
        let mut changes = self.changes();
        let so = changes.wait_for(|_| is_so(self));
        let _ = tokio::time::timeout_at(self.patience_until, so).await;
    }

    /// Takes what the agent kept, once; none when there is nothing to take. What came after `since` is heard again, the
    /// newest of all is `newest`. Gives whether a cell ran.
    pub(crate) fn restore(&self, note: &serde_json::Value, since: Option<u64>, newest: u64) -> Option<bool> {
        let mut inner = self.lock();
        if inner.is_restored {
            return None;
        }
        let note = Note::deserialize(note).unwrap_or_default();
        let told = note.sessions.iter().map(|session| session.told);
        inner.heard = told.chain([note.told]).min().unwrap_or(0);
        inner.newest = newest;
        // What the agent has lost since is then seen by the numbers.
        inner.accepted = since.map_or(inner.heard, |since| since.min(inner.heard));
        inner.settled = inner.accepted;
        inner.taken = inner.accepted;
        inner.told_before = note.told;
        inner.is_restored = true;
        for noted in note.sessions.into_iter().take(MAX_SESSIONS) {
            inner.come_back(noted);
        }
        let busy = note.busy;
        drop(inner);
        self.wake();
        Some(busy)
    }

    /// Newest number that there is no need to send.
    pub(crate) fn accepted(&self) -> u64 {
        self.lock().accepted
    }

    /// The note as it is now, if it is another than the last; what came after `since` is needed for other ends, and `busy`
    /// says whether a cell runs. `since` is asked last: what begins meanwhile begins after what is given up here.
    pub(crate) fn take_note(
        &self,
        since: impl FnOnce() -> Option<u64>,
        busy: impl FnOnce() -> bool,
    ) -> Option<ForAgent> {
        if !self.noted.swap(false, Ordering::AcqRel) {
            return None;
        }
        let mut inner = self.lock();
        if !inner.is_restored {
            return None;
        }
        if inner.bytes <= inner.limit() {
            inner.taken = inner.accepted;
        }
        let numbered = inner.journal.iter().find_map(|entry| entry.number);
        let keep = numbered.unwrap_or(inner.accepted.saturating_add(1));
        let (taken, note) = (inner.taken, inner.note(busy()));
        drop(inner);
        Some(ForAgent {
            taken,
            keep: since().map_or(keep, |since| keep.min(since.saturating_add(1))),
            note: serde_json::to_value(note).unwrap_or_default(),
        })
    }

    /// The agent's note is to be written again.
    pub(crate) fn mark(&self) {
        self.noted.store(true, Ordering::Release);
        self.notes.notify_one();
    }
}

impl Inner {
    fn come_back(&mut self, noted: Noted) {
        let Noted {
            session,
            client,
            told,
        } = noted;
        let place = self.first;
        let absent = || Session {
            client,
            told_before: told,
            generation: 0,
            speaker: Listener {
                generation: 0,
                place,
                missed: 0,
                has_spoken: false,
            },
            others: Vec::new(),
            connected: false,
            left: Instant::now() + RETURN,
        };
        // One that lost patience is here under another name for the agent.
        self.sessions.entry(session).or_insert_with(absent).told_before = told;
    }

    fn note(&self, busy: bool) -> Note {
        let told = |session: &Session| {
            let places = session.listeners().map(|listener| listener.place);
            self.told(places.min().unwrap_or(0)).max(session.told_before)
        };
        // Where there are more, those that only listen are not known to the next run.
        let all = self.sessions.len() <= MAX_SESSIONS;
        let sessions = self.sessions.iter();
        let sessions = sessions.filter(|(_, session)| all || session.speaker.has_spoken);
        let sessions = sessions.take(MAX_SESSIONS).map(|(name, session)| Noted {
            session: name.clone(),
            client: session.client,
            told: told(session),
        });
        let here = self.sessions.values().filter(|session| session.is_here());
        let away = || self.told(self.away_from).max(self.told_before);
        Note {
            busy,
            told: here.map(told).max().unwrap_or_else(away),
            sessions: sessions.collect(),
        }
    }

    /// The agent's number up to which everything lies before `place`.
    fn told(&self, place: u64) -> u64 {
        let skip = usize::try_from(place.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let next = self.journal.iter().skip(skip).find_map(|entry| entry.number);
        next.map_or(self.accepted, |number| number - 1)
    }
}
