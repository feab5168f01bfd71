//! What one kernel has said and its clients have not yet heard.
//!
//! One journal per kernel, in order of arrival; each client session has a place in it. A session that comes back within
//! ten minutes goes on where it was; when nobody is connected, output is kept for whoever comes next, a new session
//! included (a reloaded page has a new session id). The journal has a limit of bytes; beyond it the agent is given no more
//! room and keeps what comes ([`note`]), unless somebody waits for it who has heard the rest: then the oldest go and whoever
//! missed them is told how many. Not here: sockets, and what messages mean.

mod note;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use uuid::Uuid;

use crate::framing::KernelMessage;

/// While somebody listens: room for a burst of output that a client reads more slowly.
const LIMIT_CONNECTED: usize = 64 << 20;
/// While nobody does.
const LIMIT_AWAY: usize = 16 << 20;
/// More than the limit, where the agent can be told to wait: what it may have sent before it was told, twice.
const SLACK: usize = 8 << 20;
/// How long an absent session keeps its place.
pub(crate) const ABSENCE: Duration = Duration::from_secs(600);
/// How often the journal is trimmed while one message is delivered to all sessions.
const TRIMS: usize = 16;
/// Sessions of one kernel; when full, the one absent longest goes.
const MAX_SESSIONS: usize = 256;

/// The journal and the sessions of one kernel.
pub(crate) struct Relay {
    inner: Mutex<Inner>,
    /// Counts changes, so that a writer can wait for the next.
    changed: watch::Sender<u64>,
    /// The agent's note is no longer true.
    noted: AtomicBool,
    /// How long clients wait for what an earlier run of the gateway knew.
    patience_until: tokio::time::Instant,
    /// Who writes notes.
    notes: Arc<Notify>,
}

/// What the number of a frame tells.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It is the next one.
    Next,
    /// It came before.
    Known,
    /// So many before it are lost, and so many of them nobody has heard.
    After { lost: u64, unheard: u64 },
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

struct Inner {
    journal: VecDeque<Entry>,
    /// Number of the journal's first entry.
    first: u64,
    bytes: usize,
    sessions: HashMap<String, Session>,
    /// Deliveries since it was trimmed.
    delivered: usize,
    /// How far the last connection had heard when it went.
    away_from: u64,
    /// Newest number of the agent's.
    accepted: u64,
    /// The same when there was room the last time: what the agent was told.
    taken: u64,
    /// What a session that is new need not hear, as the agent counts: an earlier run of the gateway has told it.
    told_before: u64,
    /// All sessions have heard up to this number of the agent's, as an earlier run of the gateway has noted.
    heard: u64,
    /// It is known what sessions an earlier run of the gateway had.
    is_restored: bool,
    /// The agent's newest number when that became known, and up to which its frames have done what they do.
    newest: u64,
    settled: u64,
    closed: Option<(u16, &'static str)>,
}

struct Entry {
    /// The agent's; none for the gateway's own.
    number: Option<u64>,
    to: Option<Uuid>,
    message: Arc<KernelMessage>,
    bytes: usize,
}

struct Session {
    client: Uuid,
    /// What it need not hear, as the agent counts: an earlier run of the gateway has told it.
    told_before: u64,
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
    /// Of a kernel that starts; `notes` is told when the agent should have another note.
    pub(crate) fn new(notes: Arc<Notify>) -> Self {
        Self {
            inner: Mutex::new(Inner {
                journal: VecDeque::new(),
                first: 0,
                bytes: 0,
                sessions: HashMap::new(),
                delivered: 0,
                away_from: 0,
                accepted: 0,
                taken: 0,
                told_before: 0,
                heard: 0,
                is_restored: true,
                newest: 0,
                settled: 0,
                closed: None,
            }),
            patience_until: tokio::time::Instant::now() + note::PATIENCE,
            changed: watch::Sender::new(0),
            noted: AtomicBool::new(false),
            notes,
        }
    }

    /// Whether the frame with this number is the next one of the agent.
    pub(crate) fn expects(&self, number: u64) -> Arrival {
        let inner = self.lock();
        match number.checked_sub(inner.accepted.saturating_add(1)) {
            None => Arrival::Known,
            Some(0) => Arrival::Next,
            Some(lost) => Arrival::After {
                lost,
                unheard: (number - 1).saturating_sub(inner.accepted.max(inner.heard)),
            },
        }
    }

    /// The agent's newest number that is known of: what it is asked now it answers after that.
    pub(crate) fn newest(&self) -> u64 {
        let inner = self.lock();
        inner.accepted.max(inner.newest)
    }

    /// Whether everybody has heard what the agent sent under this number.
    pub(crate) fn is_heard(&self, number: u64) -> bool {
        number <= self.lock().heard
    }

    /// The frame with this number is taken: the agent need not send it again.
    pub(crate) fn accept(&self, number: u64) {
        let mut inner = self.lock();
        inner.accepted = inner.accepted.max(number);
        drop(inner);
        self.mark();
    }

    /// It has done what it does.
    pub(crate) fn settle(&self, number: u64) {
        let mut inner = self.lock();
        let before = std::mem::replace(&mut inner.settled, number);
        let is_caught_up = before < inner.newest && inner.newest <= number;
        drop(inner);
        if is_caught_up {
            self.wake();
        }
    }

    /// Adds a sentence of the gateway's own, for one client or for all.
    pub(crate) fn push(&self, to: Option<Uuid>, message: KernelMessage) {
        self.add(None, to, message);
    }

    /// Adds what the agent sent under this number.
    pub(crate) fn push_numbered(&self, number: u64, to: Option<Uuid>, message: KernelMessage) {
        self.add(Some(number), to, message);
    }

    fn add(&self, number: Option<u64>, to: Option<Uuid>, message: KernelMessage) {
        let mut inner = self.lock();
        if to.is_some_and(|to| !inner.sessions.values().any(|session| session.client == to)) {
            return;
        }
        let bytes = message.size();
        inner.bytes += bytes;
        inner.journal.push_back(Entry {
            number,
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
        let told_before = if alone { inner.told_before } else { 0 };
        let entry = inner
            .sessions
            .entry(session.to_owned())
            .or_insert_with(|| Session {
                client: Uuid::new_v4(),
                told_before,
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
        // Only a connection that is replaced has to hear of this one.
        let replaces = !shares && (entry.connected || !entry.others.is_empty());
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
        match replaces {
            true => self.wake(),
            false => self.mark(),
        }
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
        let leaving = session.listeners().find(|one| one.generation == hold.generation);
        let place = leaving.map_or(0, |listener| listener.place);
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
        inner.note_absence(place);
        drop(inner);
        self.mark();
    }

    /// A session that will not come back: one without a name of its own.
    pub(crate) fn forget(&self, hold: &Hold) {
        let mut inner = self.lock();
        if let Some(place) = inner.held(hold).map(|listener| listener.place) {
            inner.sessions.remove(&hold.session);
            inner.note_absence(place);
        }
        drop(inner);
        self.mark();
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
        if let Some((number, message)) = inner.find(hold, place) {
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
        inner.find(hold, number + 1)
    }

    /// The message at `number` was written to this connection.
    pub(crate) fn delivered(&self, hold: &Hold, number: u64) {
        let mut inner = self.lock();
        if let Some(listener) = inner.held(hold) {
            listener.place = listener.place.max(number + 1);
            // Looking at all sessions for each of them would be too much where they are thousands.
            inner.delivered += 1;
            if inner.delivered * TRIMS >= inner.sessions.len() {
                inner.trim();
            }
        }
        drop(inner);
        self.mark();
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

    /// Whether a session is connected now.
    pub(crate) fn is_here(&self, session: &str) -> bool {
        self.lock().sessions.get(session).is_some_and(Session::is_here)
    }

    /// Whether a session is away for so long, or is not known at all.
    pub(crate) fn is_gone(&self, session: &str, away: Duration) -> bool {
        let inner = self.lock();
        let session = inner.sessions.get(session);
        session.is_none_or(|session| !session.is_here() && session.left.elapsed() >= away)
    }

    /// Whether a session is connected and has heard everything that came.
    pub(crate) fn has_heard_all(&self, session: &str) -> bool {
        let inner = self.lock();
        inner.sessions.get(session).is_some_and(|session| {
            let place = session.speaker.place;
            session.is_here()
                && inner
                    .find_for(session.client, session.told_before, place)
                    .is_none()
        })
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
        drop(inner);
        self.mark();
        gone
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
        self.mark();
    }
}

impl Inner {
    fn end(&self) -> u64 {
        self.first + u64::try_from(self.journal.len()).unwrap_or(0)
    }

    /// The first message from `place` on that is for this session.
    fn find(&self, hold: &Hold, place: u64) -> Option<(u64, Arc<KernelMessage>)> {
        let session = self.sessions.get(&hold.session);
        self.find_for(hold.client, session.map_or(0, |one| one.told_before), place)
    }

    fn find_for(&self, client: Uuid, told_before: u64, place: u64) -> Option<(u64, Arc<KernelMessage>)> {
        let skip = usize::try_from(place.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let numbers = place.max(self.first)..;
        let mut entries = numbers.zip(self.journal.iter().skip(skip));
        let (number, entry) = entries.find(|(_, entry)| {
            entry.to.is_none_or(|to| to == client) && entry.number.is_none_or(|number| number > told_before)
        })?;
        Some((number, Arc::clone(&entry.message)))
    }

    fn held(&mut self, hold: &Hold) -> Option<&mut Listener> {
        let mut listeners = self.sessions.get_mut(&hold.session)?.listeners_mut();
        listeners.find(|listener| listener.generation == hold.generation)
    }

    /// A connection went that had heard everything before `place`.
    fn note_absence(&mut self, place: u64) {
        if !self.sessions.values().any(Session::is_here) {
            self.away_from = place;
            self.trim();
        }
    }

    /// Bytes that it may have before the agent is told to wait.
    fn limit(&self) -> usize {
        if self.sessions.values().any(Session::is_here) {
            LIMIT_CONNECTED
        } else {
            LIMIT_AWAY
        }
    }

    /// Somebody here waits for what comes next, having heard most of what there is: others must not hold that up.
    fn is_waited_for(&self) -> bool {
        let half = self.first + u64::try_from(self.journal.len() / 2).unwrap_or(0);
        let here = self.sessions.values().filter(|session| session.is_here());
        here.flat_map(Session::listeners)
            .any(|listener| listener.place > half)
    }

    /// Drops what everybody has heard, and what is over the limit.
    fn trim(&mut self) {
        self.delivered = 0;
        let connected = self.sessions.values().any(Session::is_here);
        // Not `limit`: what there was room for while somebody listened stays when the connection is lost.
        let mut limit = LIMIT_CONNECTED;
        if self.bytes > limit && !self.is_waited_for() {
            limit += SLACK;
        }
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
mod tests;
