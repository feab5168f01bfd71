//! What one kernel has said and its clients have not yet heard.
//!
//! One journal per kernel, in order of arrival; each client session has a place in it. A session that comes back within
//! ten minutes goes on where it was; when nobody is connected, output is kept for whoever comes next, a new session
//! included (a reloaded page has a new session id). The journal has a limit of bytes; beyond it the oldest go and
//! whoever missed them is told how many. Not here: sockets, and what messages mean.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use uuid::Uuid;

use crate::framing::KernelMessage;

/// While somebody listens: room for a burst of output that a client reads more slowly.
const LIMIT_CONNECTED: usize = 64 << 20;
/// While nobody does.
const LIMIT_AWAY: usize = 16 << 20;
/// How long an absent session keeps its place.
pub(crate) const ABSENCE: Duration = Duration::from_secs(600);
/// Sessions of one kernel; when full, the one absent longest goes.
const MAX_SESSIONS: usize = 256;

/// The journal and the sessions of one kernel.
pub(crate) struct Relay {
    inner: Mutex<Inner>,
    /// Counts changes, so that a writer can wait for the next.
    changed: watch::Sender<u64>,
}

/// A connection's hold on its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hold {
    pub(crate) session: String,
    /// The agent's name for the session.
    pub(crate) client: Uuid,
    generation: u64,
}

/// What a connection's writer does next.
#[derive(Debug)]
pub(crate) enum Step {
    /// Send this, then call [`Relay::delivered`].
    Deliver(u64, Arc<KernelMessage>),
    /// Say that so many messages are gone.
    Missed(u64),
    /// Nothing now.
    Wait,
    /// A newer connection has the session.
    Replaced,
    /// Close with this code and reason.
    Close(u16, &'static str),
}

#[derive(Default)]
struct Inner {
    journal: VecDeque<Entry>,
    /// Number of the journal's first entry.
    first: u64,
    bytes: usize,
    sessions: HashMap<String, Session>,
    /// Where the journal was when the last connection went.
    away_from: u64,
    closed: Option<(u16, &'static str)>,
}

struct Entry {
    to: Option<Uuid>,
    message: Arc<KernelMessage>,
    bytes: usize,
}

struct Session {
    client: Uuid,
    /// Connections so far.
    generation: u64,
    /// The connection that spoke last, or else came last; its place outlives it.
    speaker: Listener,
    /// More connections of the same session, which share it.
    others: Vec<Listener>,
    connected: bool,
    left: Instant,
}

/// One connection's place in the journal.
#[derive(Clone, Copy)]
struct Listener {
    generation: u64,
    place: u64,
    missed: u64,
    /// Its client has said something on it.
    has_spoken: bool,
}

impl Session {
    fn listeners(&self) -> impl Iterator<Item = &Listener> {
        std::iter::once(&self.speaker).chain(&self.others)
    }

    fn listeners_mut(&mut self) -> impl Iterator<Item = &mut Listener> {
        std::iter::once(&mut self.speaker).chain(&mut self.others)
    }

    fn is_here(&self) -> bool {
        self.connected || !self.others.is_empty()
    }
}

impl Relay {
    pub(crate) fn new() -> Self {
        Self {
            inner: Mutex::default(),
            changed: watch::Sender::new(0),
        }
    }

    /// Adds a message for one client, or for all.
    pub(crate) fn push(&self, to: Option<Uuid>, message: KernelMessage) {
        let mut inner = self.lock();
        if to.is_some_and(|to| !inner.sessions.values().any(|session| session.client == to)) {
            return;
        }
        let bytes = message.size();
        inner.bytes += bytes;
        inner.journal.push_back(Entry {
            to,
            message: Arc::new(message),
            bytes,
        });
        inner.trim();
        drop(inner);
        self.wake();
    }

    /// A connection takes the session. An older one of the same session is replaced, or shares it: `jupyter_server`'s
    /// gateway client leaves a connection open that it has given up, and that may come in after the one it uses.
    pub(crate) fn attach(&self, session: &str, shares: bool) -> Hold {
        let mut inner = self.lock();
        let alone = !inner.sessions.values().any(Session::is_here);
        let start = if alone {
            inner.away_from.max(inner.first)
        } else {
            inner.end()
        };
        let entry = inner
            .sessions
            .entry(session.to_owned())
            .or_insert_with(|| Session {
                client: Uuid::new_v4(),
                generation: 0,
                speaker: Listener {
                    generation: 0,
                    place: start,
                    missed: 0,
                    has_spoken: false,
                },
                others: Vec::new(),
                connected: false,
                left: Instant::now(),
            });
        entry.generation += 1;
        let newcomer = Listener {
            generation: entry.generation,
            has_spoken: false,
            ..entry.speaker
        };
        if shares && entry.connected {
            let spare = if entry.speaker.has_spoken {
                newcomer
            } else {
                std::mem::replace(&mut entry.speaker, newcomer)
            };
            entry.others.push(spare);
        } else {
            entry.speaker = newcomer;
            entry.others.retain(|_| shares);
        }
        entry.connected = true;
        let hold = Hold {
            session: session.to_owned(),
            client: entry.client,
            generation: entry.generation,
        };
        drop(inner);
        self.wake();
        hold
    }

    /// This connection is the one that its client uses.
    pub(crate) fn spoke(&self, hold: &Hold) {
        let mut inner = self.lock();
        let Some(session) = inner.sessions.get_mut(&hold.session) else {
            return;
        };
        let mut others = session.others.iter();
        if let Some(at) = others.position(|one| one.generation == hold.generation) {
            let before = std::mem::replace(&mut session.speaker, session.others.swap_remove(at));
            if session.connected {
                session.others.push(before);
            }
            session.connected = true;
        }
        if session.speaker.generation == hold.generation {
            session.speaker.has_spoken = true;
        }
    }

    /// Nobody uses this connection of a shared session: another one spoke, or the one that did has gone.
    pub(crate) fn is_spare(&self, hold: &Hold) -> bool {
        let inner = self.lock();
        let session = inner.sessions.get(&hold.session);
        session.is_some_and(|one| {
            one.speaker.generation != hold.generation && (!one.connected || one.speaker.has_spoken)
        })
    }

    /// A connection ended. Its session keeps its place for a while.
    pub(crate) fn detach(&self, hold: &Hold) {
        let mut inner = self.lock();
        let Some(session) = inner.sessions.get_mut(&hold.session) else {
            return;
        };
        let shared = session.others.len();
        session.others.retain(|one| one.generation != hold.generation);
        if session.connected && session.speaker.generation == hold.generation {
            session.connected = false;
        } else if session.others.len() == shared {
            // It was replaced long ago.
            return;
        }
        if !session.is_here() {
            session.left = Instant::now();
        }
        inner.note_absence();
    }

    /// A session that will not come back: one without a name of its own.
    pub(crate) fn forget(&self, hold: &Hold) {
        let mut inner = self.lock();
        if inner.held(hold).is_some() {
            inner.sessions.remove(&hold.session);
            inner.note_absence();
        }
    }

    /// What this connection does next.
    pub(crate) fn next(&self, hold: &Hold) -> Step {
        let mut inner = self.lock();
        let (end, closed) = (inner.end(), inner.closed);
        let Some(listener) = inner.held(hold) else {
            return Step::Replaced;
        };
        if listener.missed > 0 {
            return Step::Missed(std::mem::take(&mut listener.missed));
        }
        let place = listener.place;
        if let Some((number, message)) = inner.find(hold.client, place) {
            return Step::Deliver(number, message);
        }
        if let Some(listener) = inner.held(hold) {
            listener.place = end;
        }
        inner.trim();
        closed.map_or(Step::Wait, |(code, reason)| Step::Close(code, reason))
    }

    /// The message after `number` for this connection, to write several before a flush.
    pub(crate) fn after(&self, hold: &Hold, number: u64) -> Option<(u64, Arc<KernelMessage>)> {
        let mut inner = self.lock();
        inner.held(hold).filter(|listener| listener.missed == 0)?;
        inner.find(hold.client, number + 1)
    }

    /// The message at `number` was written to this connection.
    pub(crate) fn delivered(&self, hold: &Hold, number: u64) {
        let mut inner = self.lock();
        if let Some(listener) = inner.held(hold) {
            listener.place = listener.place.max(number + 1);
            inner.trim();
        }
    }

    /// Changes to wait for.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Connections now.
    pub(crate) fn connections(&self) -> u64 {
        let connected = self.lock().sessions.values().filter(|one| one.is_here()).count();
        u64::try_from(connected).unwrap_or(u64::MAX)
    }

    /// Ends all connections once they have heard what there is.
    pub(crate) fn close(&self, code: u16, reason: &'static str) {
        self.lock().closed.get_or_insert((code, reason));
        self.wake();
    }

    /// Forgets sessions that stayed away for `absence`; returns the agent's names for them.
    pub(crate) fn expire(&self, absence: Duration) -> Vec<Uuid> {
        let mut inner = self.lock();
        let mut gone = Vec::new();
        inner.sessions.retain(|_, session| {
            let keep = session.is_here() || session.left.elapsed() < absence;
            if !keep {
                gone.push(session.client);
            }
            keep
        });
        while inner.sessions.len() > MAX_SESSIONS {
            let absent = inner.sessions.iter().filter(|(_, session)| !session.is_here());
            let Some(oldest) = absent
                .min_by_key(|(_, session)| session.left)
                .map(|(name, _)| name.clone())
            else {
                break;
            };
            gone.extend(inner.sessions.remove(&oldest).map(|session| session.client));
        }
        inner.trim();
        gone
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }
}

impl Inner {
    fn end(&self) -> u64 {
        self.first + u64::try_from(self.journal.len()).unwrap_or(0)
    }

    /// The first message from `place` on that is for this client.
    fn find(&self, client: Uuid, place: u64) -> Option<(u64, Arc<KernelMessage>)> {
        let skip = usize::try_from(place.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let numbers = place.max(self.first)..;
        let mut entries = numbers.zip(self.journal.iter().skip(skip));
        let (number, entry) = entries.find(|(_, entry)| entry.to.is_none_or(|to| to == client))?;
        Some((number, Arc::clone(&entry.message)))
    }

    fn held(&mut self, hold: &Hold) -> Option<&mut Listener> {
        let mut listeners = self.sessions.get_mut(&hold.session)?.listeners_mut();
        listeners.find(|listener| listener.generation == hold.generation)
    }

    fn note_absence(&mut self) {
        if !self.sessions.values().any(Session::is_here) {
            self.away_from = self.end();
            self.trim();
        }
    }

    /// Drops what everybody has heard, and what is over the limit.
    fn trim(&mut self) {
        let connected = self.sessions.values().any(Session::is_here);
        let limit = if connected { LIMIT_CONNECTED } else { LIMIT_AWAY };
        let needed = self
            .sessions
            .values()
            .flat_map(Session::listeners)
            .map(|listener| listener.place)
            .min()
            .unwrap_or(u64::MAX);
        let needed = if connected {
            needed
        } else {
            needed.min(self.away_from)
        };
        while self.first < needed || self.bytes > limit {
            let Some(entry) = self.journal.pop_front() else {
                break;
            };
            self.bytes -= entry.bytes;
            for session in self.sessions.values_mut() {
                let missed = u64::from(entry.to.is_none_or(|to| to == session.client));
                let behind = session.listeners_mut().filter(|one| one.place == self.first);
                behind.for_each(|listener| {
                    listener.place += 1;
                    listener.missed += missed;
                });
            }
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> KernelMessage {
        KernelMessage::sentence(text)
    }

    fn heard(relay: &Relay, hold: &Hold) -> Vec<String> {
        let mut heard = Vec::new();
        loop {
            match relay.next(hold) {
                Step::Deliver(number, message) => {
                    let content: serde_json::Value = serde_json::from_slice(&message.parts()[3]).unwrap();
                    heard.push(content["text"].as_str().unwrap().trim().to_owned());
                    relay.delivered(hold, number);
                }
                Step::Missed(count) => heard.push(format!("missed {count}")),
                _ => return heard,
            }
        }
    }

    #[test]
    fn goes_on_where_a_session_was() {
        let relay = Relay::new();
        let one = relay.attach("s", false);
        relay.push(None, text("1"));
        assert_eq!(heard(&relay, &one), ["1"]);
        relay.push(None, text("2"));
        relay.detach(&one);
        relay.push(None, text("3"));
        relay.push(Some(one.client), text("reply"));
        let two = relay.attach("s", false);
        assert_eq!(two.client, one.client);
        assert_eq!(heard(&relay, &two), ["2", "3", "reply"]);
    }

    #[test]
    fn a_new_session_hears_what_nobody_heard() {
        let relay = Relay::new();
        relay.push(None, text("0"));
        let one = relay.attach("s", false);
        assert_eq!(heard(&relay, &one), ["0"]);
        relay.detach(&one);
        relay.push(None, text("1"));
        relay.push(Some(one.client), text("not yours"));
        assert_eq!(heard(&relay, &relay.attach("t", false)), ["1"]);
        assert_eq!(heard(&relay, &relay.attach("u", false)), [""; 0]);
    }

    #[test]
    fn a_duplicate_session_replaces_without_loss() {
        let relay = Relay::new();
        let one = relay.attach("s", false);
        relay.push(None, text("1"));
        let Step::Deliver(..) = relay.next(&one) else {
            panic!("a message waits")
        };
        let two = relay.attach("s", false);
        assert!(matches!(relay.next(&one), Step::Replaced));
        relay.delivered(&one, 0);
        relay.detach(&one);
        assert_eq!(relay.connections(), 1);
        assert_eq!(heard(&relay, &two), ["1"]);
    }

    #[test]
    fn connections_that_share_a_session_all_hear_it_and_the_one_that_spoke_has_its_place() {
        let relay = Relay::new();
        let used = relay.attach("s", true);
        let given_up = relay.attach("s", true);
        relay.spoke(&used);
        relay.push(Some(used.client), text("reply"));
        assert_eq!(heard(&relay, &used), ["reply"]);
        assert_eq!(heard(&relay, &given_up), ["reply"]);
        relay.detach(&used);
        relay.push(None, text("later"));
        assert_eq!(heard(&relay, &given_up), ["later"]);
        assert_eq!(relay.connections(), 1);
        let again = relay.attach("s", true);
        assert_eq!(
            heard(&relay, &again),
            ["later"],
            "what the used one had not heard"
        );
        relay.detach(&given_up);
        relay.detach(&again);
        assert_eq!(relay.connections(), 0);
        relay.push(None, text("away"));
        let alone = relay.attach("s", false);
        assert_eq!(heard(&relay, &alone), ["away"]);
        assert!(matches!(relay.next(&again), Step::Replaced));
    }

    #[test]
    fn tells_how_many_were_missed_and_stays_within_its_limit() {
        let relay = Relay::new();
        let slow = relay.attach("s", false);
        let megabyte = "x".repeat(1 << 20);
        for _ in 0..70 {
            relay.push(None, text(&megabyte));
        }
        assert!(relay.lock().bytes <= LIMIT_CONNECTED);
        let heard = heard(&relay, &slow);
        let missed: usize = heard[0].strip_prefix("missed ").unwrap().parse().unwrap();
        assert_eq!(missed + heard.len() - 1, 70);
        assert_eq!(relay.lock().bytes, 0, "what all have heard is dropped");
    }

    #[test]
    fn closes_only_after_what_was_said() {
        let relay = Relay::new();
        let hold = relay.attach("s", false);
        relay.push(None, text("last"));
        relay.close(1000, "stopped");
        assert_eq!(heard(&relay, &hold), ["last"]);
        assert!(matches!(relay.next(&hold), Step::Close(1000, _)));
    }

    #[test]
    fn expires_sessions_that_are_away_and_no_others() {
        let relay = Relay::new();
        let (here, away) = (relay.attach("here", false), relay.attach("away", false));
        relay.detach(&away);
        assert!(relay.expire(ABSENCE).is_empty());
        assert_eq!(relay.expire(Duration::ZERO), [away.client]);
        relay.push(Some(away.client), text("1"));
        relay.push(Some(here.client), text("2"));
        assert_eq!(heard(&relay, &here), ["2"]);
    }

    #[test]
    fn keeps_nothing_for_sessions_that_are_forgotten() {
        let relay = Relay::new();
        let hold = relay.attach("s", false);
        relay.forget(&hold);
        relay.push(Some(hold.client), text("1"));
        assert_eq!(relay.lock().journal.len(), 0);
    }
}
