//! Key requests on their way: from a kernel's broker to the owner's machines and back.
//!
//! Opaque and in memory only: what is asked and answered is neither read, written nor logged. The first answer counts.
//! A call lives five minutes.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use alephlab_api::keys::KernelInfo;
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use crate::error::{GatewayError, Result};

/// How long the owner has to answer.
const PATIENCE: Duration = Duration::from_secs(300);
/// Calls of one account that may wait.
const MAX_PENDING: usize = 64;
/// Machines of one account.
const MAX_MACHINES: usize = 16;
/// Calls that may wait for one machine's socket.
const MACHINE_QUEUE: usize = MAX_PENDING;

/// What is waiting, and who can answer.
pub(crate) struct KeyCalls {
    inner: Mutex<Inner>,
    patience: Duration,
}

#[derive(Default)]
struct Inner {
    calls: HashMap<Uuid, Call>,
    machines: HashMap<String, Vec<Machine>>,
}

struct Call {
    account: String,
    text: String,
    asked_by: Uuid,
    asked_at: Instant,
    answer: watch::Sender<Option<Value>>,
}

struct Machine {
    id: Uuid,
    queue: mpsc::Sender<String>,
}

#[derive(Serialize)]
struct OutgoingCall<'a> {
    id: Uuid,
    kernel: &'a KernelInfo,
    request: &'a Value,
}

impl Default for KeyCalls {
    fn default() -> Self {
        Self {
            inner: Mutex::default(),
            patience: PATIENCE,
        }
    }
}

/// What a waiting broker gets.
pub(crate) enum Outcome {
    /// The machine's reply.
    Answered(Value),
    /// Nothing yet: ask again.
    Pending,
}

impl KeyCalls {
    /// Takes a call of `kernel` and tells it to the account's machines.
    pub(crate) fn ask(&self, account: &str, kernel: &KernelInfo, request: &Value) -> Result<Uuid> {
        let id = Uuid::new_v4();
        let call = OutgoingCall { id, kernel, request };
        let text = serde_json::to_string(&call)
            .map_err(|_| GatewayError::bad_request("keys_request", "the key request cannot be passed on"))?;
        let mut inner = self.lock();
        inner.forget_old();
        if inner
            .calls
            .values()
            .filter(|call| call.account == account)
            .count()
            >= MAX_PENDING
        {
            let message = "too many key requests of this account wait for an answer";
            return Err(GatewayError::refused(
                StatusCode::TOO_MANY_REQUESTS,
                "keys_busy",
                message,
            ));
        }
        for machine in inner.machines.get(account).into_iter().flatten() {
            // A machine whose queue is full gets the call when it connects again.
            let _ = machine.queue.try_send(text.clone());
        }
        let call = Call {
            account: account.to_owned(),
            text,
            asked_by: kernel.id,
            asked_at: Instant::now(),
            answer: watch::Sender::new(None),
        };
        inner.calls.insert(id, call);
        Ok(id)
    }

    /// Waits for the answer to a call of this kernel, at most `patience`.
    pub(crate) async fn wait(&self, kernel: Uuid, id: Uuid, patience: Duration) -> Result<Outcome> {
        let (mut answer, left) = {
            let mut inner = self.lock();
            inner.forget_old();
            let call = inner.calls.get(&id).filter(|call| call.asked_by == kernel);
            let call =
                call.ok_or_else(|| GatewayError::not_found("keys_unknown", "there is no such key request"))?;
            (
                call.answer.subscribe(),
                self.patience.saturating_sub(call.asked_at.elapsed()),
            )
        };
        let answered = tokio::time::timeout(patience.min(left), answer.wait_for(Option::is_some)).await;
        match answered {
            Ok(Ok(reply)) => Ok(Outcome::Answered(reply.clone().unwrap_or_default())),
            Ok(Err(_)) => Err(GatewayError::not_found(
                "keys_unknown",
                "there is no such key request",
            )),
            Err(_) if patience < left => Ok(Outcome::Pending),
            Err(_) => Err(self.given_up(id)),
        }
    }

    /// Takes a machine's answer; only the first of its own account's machines counts.
    pub(crate) fn answer(&self, account: &str, id: Uuid, reply: Value) {
        let inner = self.lock();
        let Some(call) = inner.calls.get(&id).filter(|call| call.account == account) else {
            return;
        };
        call.answer.send_if_modified(|answer| {
            let first = answer.is_none();
            if first {
                *answer = Some(reply);
            }
            first
        });
    }

    /// A machine of the account connects: it gets what waits, then what comes.
    pub(crate) fn connect(&self, account: &str) -> Result<(Uuid, mpsc::Receiver<String>)> {
        let (queue, receiver) = mpsc::channel(MACHINE_QUEUE);
        let id = Uuid::new_v4();
        let mut inner = self.lock();
        inner.forget_old();
        if inner
            .machines
            .get(account)
            .is_some_and(|machines| machines.len() >= MAX_MACHINES)
        {
            let message = format!("{MAX_MACHINES} machines of this account are connected already");
            return Err(GatewayError::refused(
                StatusCode::TOO_MANY_REQUESTS,
                "keys_machines",
                message,
            ));
        }
        let mut waiting: Vec<_> = inner
            .calls
            .values()
            .filter(|call| call.account == account)
            .collect();
        waiting.sort_by_key(|call| call.asked_at);
        for call in waiting.into_iter().filter(|call| call.answer.borrow().is_none()) {
            let _ = queue.try_send(call.text.clone());
        }
        inner
            .machines
            .entry(account.to_owned())
            .or_default()
            .push(Machine { id, queue });
        Ok((id, receiver))
    }

    /// A machine went away.
    pub(crate) fn disconnect(&self, account: &str, id: Uuid) {
        let mut inner = self.lock();
        if let Some(machines) = inner.machines.get_mut(account) {
            machines.retain(|machine| machine.id != id);
            if machines.is_empty() {
                inner.machines.remove(account);
            }
        }
    }

    /// Machines connected for an account.
    pub(crate) fn machines(&self, account: &str) -> usize {
        self.lock().machines.get(account).map_or(0, Vec::len)
    }

    /// Calls that wait, for `/metrics`.
    pub(crate) fn pending(&self) -> usize {
        self.lock()
            .calls
            .values()
            .filter(|call| call.answer.borrow().is_none())
            .count()
    }

    fn given_up(&self, id: Uuid) -> GatewayError {
        let mut inner = self.lock();
        let account = inner
            .calls
            .remove(&id)
            .map(|call| call.account)
            .unwrap_or_default();
        let (code, message) = if inner.machines.contains_key(&account) {
            ("keys_unanswered", "the owner did not answer within five minutes")
        } else {
            (
                "keys_offline",
                "no machine of the owner was connected for five minutes",
            )
        };
        GatewayError::refused(StatusCode::GATEWAY_TIMEOUT, code, message)
            .with_hint("start on your machine: alephlab keys")
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Answers nobody fetched, and calls nobody waits for, go a minute after their time.
    fn forget_old(&mut self) {
        self.calls
            .retain(|_, call| call.asked_at.elapsed() < PATIENCE + Duration::from_secs(60));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel() -> KernelInfo {
        KernelInfo {
            id: Uuid::new_v4(),
            host: "h".into(),
            trust: "t".into(),
            started: "now".into(),
        }
    }

    async fn reply(calls: &KeyCalls, kernel: &KernelInfo, id: Uuid) -> Value {
        match calls.wait(kernel.id, id, Duration::from_secs(5)).await.unwrap() {
            Outcome::Answered(reply) => reply,
            Outcome::Pending => panic!("no answer"),
        }
    }

    #[tokio::test]
    async fn first_answer_of_the_own_account_counts() {
        let (calls, kernel) = (KeyCalls::default(), kernel());
        let id = calls.ask("ada", &kernel, &Value::from("open")).unwrap();
        calls.answer("eve", id, Value::from("eve's"));
        calls.answer("ada", id, Value::from("first"));
        calls.answer("ada", id, Value::from("second"));
        assert_eq!(reply(&calls, &kernel, id).await, "first");
        assert_eq!(
            reply(&calls, &kernel, id).await,
            "first",
            "asking again gives the same"
        );
        assert!(
            calls.wait(Uuid::new_v4(), id, Duration::ZERO).await.is_err(),
            "another kernel gets nothing"
        );
    }

    #[tokio::test]
    async fn a_machine_that_connects_later_gets_what_waits() {
        let (calls, kernel) = (KeyCalls::default(), kernel());
        let id = calls.ask("ada", &kernel, &Value::from("open")).unwrap();
        let (_, mut eve) = calls.connect("eve").unwrap();
        let (machine, mut ada) = calls.connect("ada").unwrap();
        assert!(ada.recv().await.unwrap().contains(&id.to_string()));
        assert!(eve.try_recv().is_err());
        calls.disconnect("ada", machine);
        assert_eq!(calls.machines("ada"), 0);
    }

    #[tokio::test]
    async fn says_at_the_end_whether_anybody_was_there() {
        for (connected, code) in [(false, "keys_offline"), (true, "keys_unanswered")] {
            let (calls, kernel) = (
                KeyCalls {
                    patience: Duration::from_millis(50),
                    ..KeyCalls::default()
                },
                kernel(),
            );
            let machine = connected.then(|| calls.connect("ada").unwrap());
            let id = calls.ask("ada", &kernel, &Value::Null).unwrap();
            let early = calls.wait(kernel.id, id, Duration::ZERO).await.unwrap();
            assert!(matches!(early, Outcome::Pending));
            let late = calls.wait(kernel.id, id, PATIENCE).await.err().unwrap();
            assert_eq!(late.code(), code);
            drop(machine);
        }
    }
}
