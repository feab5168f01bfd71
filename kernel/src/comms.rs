//! Comms: channels between clients and the code of cells, for widgets (Jupyter, "Custom messages").
//!
//! Keeps which are open, and hands what clients send to the child, also while a cell runs. What the code sends comes
//! over the link ([`crate::evaluator`]) and is published with [`crate::cell::Cell::comm`]. Not here: what is said.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use alephlab_link::{CommEvent, CommKind, ToldEvent};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::wire::Parent;

/// Messages of clients that may wait for the code. A client that waits for the idle of one before it sends the next
/// never has so many; of one that does not, more are dropped.
const WAITING: usize = 1024;

/// Comms of one kernel.
#[derive(Debug, Default)]
pub struct Comms {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Target by comm.
    open: BTreeMap<String, String>,
    /// To the code, where it listens.
    code: Option<mpsc::Sender<ToldEvent>>,
    /// What the code has not yet said to have heard.
    told: BTreeMap<u64, Told>,
    /// Counts what was told.
    number: u64,
    /// Counts who has listened.
    listener: u64,
}

impl State {
    fn note(&mut self, event: &CommEvent) {
        match &event.kind {
            CommKind::Open { target_name } => {
                drop(self.open.insert(event.comm_id.clone(), target_name.clone()));
            }
            CommKind::Message => {}
            CommKind::Close => drop(self.open.remove(&event.comm_id)),
        }
    }
}

/// What a client said.
#[derive(Debug)]
struct Told {
    /// What answers to it carry.
    parent: Parent,
    /// Dropped when it was heard.
    _heard: oneshot::Sender<()>,
}

impl Comms {
    /// The code listens from now on: the number of this listener, and what it is told.
    pub(crate) fn listen(&self) -> (u64, mpsc::Receiver<ToldEvent>) {
        let (send, receive) = mpsc::channel(WAITING);
        let mut state = self.lock();
        state.code = Some(send);
        state.told.clear();
        state.listener += 1;
        (state.listener, receive)
    }

    /// Notes what the code sent.
    pub(crate) fn note(&self, event: &CommEvent) {
        self.lock().note(event);
    }

    /// Hands what a client sent to the code. The receiver ends when it was heard, or never will be; nothing is returned
    /// when nobody listens.
    pub(crate) fn forward(&self, event: CommEvent, parent: &Parent) -> Option<oneshot::Receiver<()>> {
        let (told, heard) = oneshot::channel();
        // One lock for all of it: the code may end at any time.
        let mut state = self.lock();
        let code = state.code.clone()?;
        state.note(&event);
        state.number += 1;
        let number = state.number;
        match code.try_send(ToldEvent { number, event }) {
            Ok(()) => {
                let parent = parent.clone();
                state.told.insert(number, Told { parent, _heard: told });
                Some(heard)
            }
            Err(mpsc::error::TrySendError::Full(_)) => {
                tracing::warn!("a message on a comm is dropped: {WAITING} wait already");
                Some(heard)
            }
            Err(mpsc::error::TrySendError::Closed(_)) => None,
        }
    }

    /// The code has heard what it was told under this number.
    pub(crate) fn heard(&self, number: u64) {
        self.lock().told.remove(&number);
    }

    /// What the answers to something carry that the code was told.
    pub(crate) fn parent_of(&self, number: u64) -> Option<Parent> {
        self.lock().told.get(&number).map(|told| told.parent.clone())
    }

    /// The code that listened with this number hears no more, though it may live on: nobody waits for it.
    pub(crate) fn deaf(&self, listener: u64) {
        let mut state = self.lock();
        if state.listener == listener {
            state.code = None;
            state.told.clear();
        }
    }

    /// The code has ended: which comms end with it.
    pub(crate) fn end(&self) -> Vec<String> {
        let mut state = self.lock();
        state.code = None;
        state.told.clear();
        std::mem::take(&mut state.open).into_keys().collect()
    }

    /// The `comms` field of `comm_info_reply`.
    pub(crate) fn list(&self, target: Option<&str>) -> Value {
        let state = self.lock();
        let wanted = state
            .open
            .iter()
            .filter(|(_, name)| target.is_none_or(|target| target == name.as_str()));
        wanted
            .map(|(id, name)| (id.clone(), json!({ "target_name": name })))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Type and content of the message that says an event.
pub(crate) fn message(event: &CommEvent) -> (&'static str, Value) {
    let CommEvent { comm_id, data, .. } = event;
    let said = json!({ "comm_id": comm_id, "data": data });
    match &event.kind {
        CommKind::Open { target_name } => (
            "comm_open",
            json!({ "comm_id": comm_id, "target_name": target_name, "data": data }),
        ),
        CommKind::Message => ("comm_msg", said),
        CommKind::Close => ("comm_close", said),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(comm_id: &str) -> CommEvent {
        CommEvent::open(comm_id, "jupyter.widget", json!({}))
    }

    #[test]
    fn what_is_open_is_listed_by_target_and_ends_with_the_code() {
        let comms = Comms::default();
        comms.note(&open("a"));
        comms.note(&open("b"));
        comms.note(&CommEvent::close("a"));
        assert_eq!(
            comms.list(None),
            json!({ "b": { "target_name": "jupyter.widget" } })
        );
        assert_eq!(comms.list(Some("other")), json!({}));
        assert_eq!(comms.end(), ["b"]);
        assert_eq!(comms.list(None), json!({}));
    }

    #[test]
    fn a_client_is_heard_only_while_the_code_listens() {
        let comms = Comms::default();
        let parent = Parent::of(&json!({ "msg_id": "m" }));
        assert!(comms.forward(open("a"), &parent).is_none());
        let (listener, mut told) = comms.listen();
        let mut heard = comms.forward(open("a"), &parent).unwrap();
        let event = told.try_recv().unwrap();
        assert_eq!(event.event, open("a"));
        assert_eq!(comms.parent_of(event.number), Some(parent.clone()));
        assert_eq!(heard.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        comms.heard(event.number);
        assert_eq!(heard.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert_eq!(comms.parent_of(event.number), None);
        let mut heard = comms.forward(open("a"), &parent).unwrap();
        comms.deaf(listener);
        assert_eq!(heard.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        drop(told);
        assert!(comms.forward(open("b"), &parent).is_none());
    }

    #[test]
    fn who_waits_to_be_heard_waits_no_longer_than_the_code_lives_or_has_room() {
        let comms = Comms::default();
        let (_, _told) = comms.listen();
        let mut all: Vec<_> = (0..=WAITING)
            .map(|_| comms.forward(open("a"), &Parent::none()).unwrap())
            .collect();
        let is_over =
            |one: &mut oneshot::Receiver<()>| one.try_recv() != Err(oneshot::error::TryRecvError::Empty);
        assert_eq!(
            all.iter_mut()
                .filter_map(|one| is_over(one).then_some(()))
                .count(),
            1
        );
        comms.end();
        assert!(all.iter_mut().all(is_over));
    }
}
