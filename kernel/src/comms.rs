//! Comms: channels between clients and the code of cells, for widgets (Jupyter, "Custom messages").
//!
//! Keeps which are open, and hands what clients send to the child, also while a cell runs. What the code sends comes
//! over the link ([`crate::evaluator`]) and is published with [`crate::cell::Cell::comm`]. Not here: what is said.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use alephlab_link::CommEvent;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Messages of clients that may wait for the code. More are dropped: their idle is said when they are handed over, not
/// when they are heard, so a client does not wait for slow code.
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
    code: Option<mpsc::Sender<CommEvent>>,
}

impl Comms {
    /// The code listens from now on.
    pub(crate) fn listen(&self) -> mpsc::Receiver<CommEvent> {
        let (send, receive) = mpsc::channel(WAITING);
        self.lock().code = Some(send);
        receive
    }

    /// Notes what the code sent.
    pub(crate) fn note(&self, event: &CommEvent) {
        let mut state = self.lock();
        match event {
            CommEvent::Open {
                comm_id, target_name, ..
            } => drop(state.open.insert(comm_id.clone(), target_name.clone())),
            CommEvent::Message { .. } => {}
            CommEvent::Close { comm_id, .. } => drop(state.open.remove(comm_id)),
        }
    }

    /// Hands what a client sent to the code; false when nobody listens.
    pub(crate) fn forward(&self, event: CommEvent) -> bool {
        let Some(code) = self.lock().code.clone() else {
            return false;
        };
        self.note(&event);
        match code.try_send(event) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                tracing::warn!("a message on a comm is dropped: {WAITING} wait already");
                true
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }

    /// The code has ended: which comms end with it.
    pub(crate) fn end(&self) -> Vec<String> {
        let mut state = self.lock();
        state.code = None;
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
pub(crate) fn message(event: &CommEvent) -> (&'static str, Value, Value) {
    match event {
        CommEvent::Open {
            comm_id,
            target_name,
            data,
            metadata,
        } => (
            "comm_open",
            json!({ "comm_id": comm_id, "target_name": target_name, "data": data }),
            Value::Object(metadata.clone()),
        ),
        CommEvent::Message { comm_id, data } => {
            ("comm_msg", json!({ "comm_id": comm_id, "data": data }), json!({}))
        }
        CommEvent::Close { comm_id, data } => (
            "comm_close",
            json!({ "comm_id": comm_id, "data": data }),
            json!({}),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(comm_id: &str) -> CommEvent {
        CommEvent::Open {
            comm_id: comm_id.into(),
            target_name: "jupyter.widget".into(),
            data: json!({}),
            metadata: alephlab_link::MimeBundle::new(),
        }
    }

    #[test]
    fn what_is_open_is_listed_by_target_and_ends_with_the_code() {
        let comms = Comms::default();
        comms.note(&open("a"));
        comms.note(&open("b"));
        comms.note(&CommEvent::Close {
            comm_id: "a".into(),
            data: json!({}),
        });
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
        assert!(!comms.forward(open("a")));
        let mut heard = comms.listen();
        assert!(comms.forward(open("a")));
        assert_eq!(heard.try_recv().unwrap(), open("a"));
        drop(heard);
        assert!(!comms.forward(open("b")));
    }
}
