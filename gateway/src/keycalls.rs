//! Key requests on their way: from a kernel's broker to the owner's machines and back.
//!
//! In memory only: what is asked and answered is neither written nor logged, and of it only the code of a refusal is
//! read. The first answer counts; but a machine that only says that it does not know the name counts when every
//! connected machine said so, or when time is up. A call waits five minutes; its answer can be had for another.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use alephlab_api::keys::{KernelInfo, KeyWake, NOT_KNOWN_HERE};
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
/// How long an answer is kept for a broker whose connection broke.
const KEEP: Duration = Duration::from_secs(60);
/// Answers of one account that are kept; the oldest goes.
const MAX_ANSWERED: usize = 16;
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
    /// What machines are sent; empty once it is answered.
    text: String,
    asked_by: Uuid,
    asked_at: Instant,
    answered_at: Option<Instant>,
    answer: watch::Sender<Option<Value>>,
    /// The first refusal of a machine that does not know what is asked about.
    unknown: Option<Value>,
    /// Connected machines that refused so.
    unknown_to: Vec<Uuid>,
}

impl Call {
    fn new(account: &str, text: String, asked_by: Uuid) -> Self {
        Self {
            account: account.to_owned(),
            text,
            asked_by,
            asked_at: Instant::now(),
            answered_at: None,
            answer: watch::Sender::new(None),
            unknown: None,
            unknown_to: Vec::new(),
        }
    }

    fn waits(&self) -> bool {
        self.answered_at.is_none()
    }

    /// Takes the answer that counts.
    fn settle(&mut self, reply: Value) {
        self.text = String::new();
        self.answered_at = Some(Instant::now());
        self.answer.send_replace(Some(reply));
    }

    /// Takes "not known" for the answer if none of these machines may still know better.
    fn settle_unknown(&mut self, machines: &[Machine]) {
        let none_left = machines
            .iter()
            .all(|machine| self.unknown_to.contains(&machine.id));
        if none_left && let Some(refusal) = self.unknown.take() {
            self.settle(refusal);
        }
    }
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
            .filter(|call| call.account == account && call.waits())
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
        inner.calls.insert(id, Call::new(account, text, kernel.id));
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
            Err(_) => self.given_up(id),
        }
    }

    /// Takes the answer of a connected machine of this account.
    pub(crate) fn answer(&self, account: &str, machine: Uuid, id: Uuid, reply: Value) {
        let mut inner = self.lock();
        let Inner { calls, machines } = &mut *inner;
        let Some(call) = calls
            .get_mut(&id)
            .filter(|call| call.account == account && call.waits())
        else {
            return;
        };
        if is_not_known(&reply) {
            call.unknown_to.push(machine);
            call.unknown.get_or_insert(reply);
            call.settle_unknown(machines.get(account).map_or(&[], Vec::as_slice));
        } else {
            call.settle(reply);
        }
        inner.forget_answers(account);
    }

    /// Tells the account's machines something that they ask for again when they connect, so none of it is kept.
    pub(crate) fn tell(&self, account: &str, wake: KeyWake) {
        let Ok(text) = serde_json::to_string(&wake) else {
            return;
        };
        for machine in self.lock().machines.get(account).into_iter().flatten() {
            let _ = machine.queue.try_send(text.clone());
        }
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
            .filter(|call| call.account == account && call.waits())
            .collect();
        waiting.sort_by_key(|call| call.asked_at);
        for call in waiting {
            let _ = queue.try_send(call.text.clone());
        }
        inner
            .machines
            .entry(account.to_owned())
            .or_default()
            .push(Machine { id, queue });
        Ok((id, receiver))
    }

    /// A machine went away: it is not waited for any more.
    pub(crate) fn disconnect(&self, account: &str, id: Uuid) {
        let mut inner = self.lock();
        let Inner { calls, machines } = &mut *inner;
        let left = machines.entry(account.to_owned()).or_default();
        left.retain(|machine| machine.id != id);
        for call in calls
            .values_mut()
            .filter(|call| call.account == account && call.waits())
        {
            call.unknown_to.retain(|machine| *machine != id);
            call.settle_unknown(left);
        }
        if left.is_empty() {
            machines.remove(account);
        }
        inner.forget_answers(account);
    }

    /// Machines connected for an account.
    pub(crate) fn machines(&self, account: &str) -> usize {
        self.lock().machines.get(account).map_or(0, Vec::len)
    }

    /// Calls that wait, for `/metrics`.
    pub(crate) fn pending(&self) -> usize {
        self.lock().calls.values().filter(|call| call.waits()).count()
    }

    /// Time is up: what a machine that did not know said counts now, else nothing was said.
    fn given_up(&self, id: Uuid) -> Result<Outcome> {
        let mut inner = self.lock();
        let call = inner.calls.remove(&id);
        let (account, unknown) = call.map(|call| (call.account, call.unknown)).unwrap_or_default();
        if let Some(refusal) = unknown {
            return Ok(Outcome::Answered(refusal));
        }
        let (code, message) = if inner.machines.contains_key(&account) {
            ("keys_unanswered", "the owner did not answer within five minutes")
        } else {
            (
                "keys_offline",
                "no machine of the owner was connected for five minutes",
            )
        };
        let refusal = GatewayError::refused(StatusCode::GATEWAY_TIMEOUT, code, message);
        Err(refusal.with_hint("start on your machine: alephlab keys"))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Calls nobody waits for go a minute after their time, answers a minute after they came.
    fn forget_old(&mut self) {
        self.calls.retain(|_, call| match call.answered_at {
            Some(answered) => answered.elapsed() < KEEP,
            None => call.asked_at.elapsed() < PATIENCE + KEEP,
        });
    }

    /// Keeps the newest answers of an account only: they do not count as waiting, and one can be large.
    fn forget_answers(&mut self, account: &str) {
        let answered = self.calls.iter().filter(|(_, call)| call.account == account);
        let mut answered: Vec<_> = answered
            .filter_map(|(id, call)| Some((call.answered_at?, *id)))
            .collect();
        answered.sort_unstable();
        let over = answered.len().saturating_sub(MAX_ANSWERED);
        for (_, id) in &answered[..over] {
            // Whoever waits for it now has it: a closed channel still gives its last value.
            self.calls.remove(id);
        }
    }
}

/// Whether a reply only says that this machine does not know what is asked about.
fn is_not_known(reply: &Value) -> bool {
    let code = reply
        .pointer("/problem/code")
        .and_then(Value::as_str)
        .unwrap_or_default();
    reply["reply"] == "refused" && NOT_KNOWN_HERE.contains(&code)
}

#[cfg(test)]
mod tests {
    use alephlab_api::Problem;
    use alephlab_api::keys::KeyReply;

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
        let machine = Uuid::new_v4();
        calls.answer("eve", machine, id, Value::from("eve's"));
        calls.answer("ada", machine, id, Value::from("first"));
        calls.answer("ada", machine, id, Value::from("second"));
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

    fn refusal(code: &str) -> Value {
        let problem = Problem::new(code, "no");
        serde_json::to_value(KeyReply::Refused { problem }).unwrap()
    }

    async fn waits(calls: &KeyCalls, kernel: &KernelInfo, id: Uuid) -> bool {
        let outcome = calls.wait(kernel.id, id, Duration::ZERO).await.unwrap();
        matches!(outcome, Outcome::Pending)
    }

    #[tokio::test]
    async fn a_machine_that_does_not_know_the_name_does_not_beat_one_that_does() {
        for code in NOT_KNOWN_HERE {
            let (calls, kernel) = (KeyCalls::default(), kernel());
            let (one, two) = (calls.connect("ada").unwrap(), calls.connect("ada").unwrap());
            let id = calls.ask("ada", &kernel, &Value::from("open")).unwrap();
            calls.answer("ada", one.0, id, refusal(code));
            assert!(waits(&calls, &kernel, id).await);
            calls.answer("ada", two.0, id, Value::from("yes"));
            assert_eq!(reply(&calls, &kernel, id).await, "yes");
        }
    }

    #[tokio::test]
    async fn a_no_of_the_owner_counts_at_once() {
        let (calls, kernel) = (KeyCalls::default(), kernel());
        let (one, _two) = (calls.connect("ada").unwrap(), calls.connect("ada").unwrap());
        let id = calls.ask("ada", &kernel, &Value::from("open")).unwrap();
        calls.answer("ada", one.0, id, refusal("keys_refused"));
        assert_eq!(reply(&calls, &kernel, id).await, refusal("keys_refused"));
    }

    #[tokio::test]
    async fn what_no_machine_knows_is_refused_when_all_said_so_or_went() {
        for goes in [false, true] {
            let (calls, kernel) = (KeyCalls::default(), kernel());
            let (one, two) = (calls.connect("ada").unwrap(), calls.connect("ada").unwrap());
            let id = calls.ask("ada", &kernel, &Value::from("open")).unwrap();
            calls.answer("ada", one.0, id, refusal("unknown_name"));
            calls.answer("ada", one.0, id, refusal("unknown_name"));
            assert!(waits(&calls, &kernel, id).await, "one machine may still know it");
            if goes {
                calls.disconnect("ada", two.0);
            } else {
                calls.answer("ada", two.0, id, refusal("unknown_name"));
            }
            assert_eq!(reply(&calls, &kernel, id).await, refusal("unknown_name"));
        }
    }

    #[tokio::test]
    async fn what_one_machine_does_not_know_and_none_else_answers_is_refused_in_the_end() {
        let patience = Duration::from_millis(50);
        let calls = KeyCalls {
            patience,
            ..KeyCalls::default()
        };
        let (one, _two) = (calls.connect("ada").unwrap(), calls.connect("ada").unwrap());
        let kernel = kernel();
        let id = calls.ask("ada", &kernel, &Value::from("open")).unwrap();
        calls.answer("ada", one.0, id, refusal("unknown_name"));
        assert_eq!(reply(&calls, &kernel, id).await, refusal("unknown_name"));
    }

    #[tokio::test]
    async fn answered_calls_do_not_count_as_waiting_and_few_are_kept() {
        let (calls, kernel) = (KeyCalls::default(), kernel());
        let (machine, _receiver) = calls.connect("ada").unwrap();
        for _ in 0..MAX_PENDING * 2 {
            let id = calls.ask("ada", &kernel, &Value::from("open")).unwrap();
            calls.answer("ada", machine, id, Value::from("yes"));
            assert_eq!(reply(&calls, &kernel, id).await, "yes");
        }
        assert_eq!((calls.pending(), calls.lock().calls.len()), (0, MAX_ANSWERED));
        for _ in 0..MAX_PENDING {
            calls.ask("ada", &kernel, &Value::from("open")).unwrap();
        }
        let busy = calls.ask("ada", &kernel, &Value::from("open")).unwrap_err();
        assert_eq!(busy.code(), "keys_busy");
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
