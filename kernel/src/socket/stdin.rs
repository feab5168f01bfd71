//! Stdin: asks the client that sent the running cell for a line, and only that client.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{Replies, Requests};
use crate::wire::{Parent, Request, Session};

/// Questions that may wait; a cell asks one at a time.
const QUESTIONS: usize = 8;
/// A client's stdin connects beside its shell, so a question can be ready before its way is.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// zeromq does not say when a peer arrives, so it is asked again.
const CONNECT_PAUSE: Duration = Duration::from_millis(20);

/// The stdin channel.
pub(crate) struct Stdin {
    requests: Requests,
    replies: Replies,
    session: Arc<Session>,
    questions: mpsc::Receiver<Question>,
}

/// Asks questions on the stdin channel.
#[derive(Clone)]
pub(crate) struct Questions {
    send: mpsc::Sender<Question>,
}

struct Question {
    identities: Vec<Bytes>,
    parent: Parent,
    prompt: String,
    password: bool,
    answer: oneshot::Sender<Option<String>>,
}

struct Pending {
    identities: Vec<Bytes>,
    msg_id: String,
    answer: oneshot::Sender<Option<String>>,
}

impl Questions {
    /// Asks one client and waits for its answer. `None` when it is not connected. Dropping the future forgets
    /// the question: an answer that still comes is ignored.
    pub(crate) async fn ask(
        &self,
        identities: &[Bytes],
        parent: &Parent,
        prompt: &str,
        password: bool,
    ) -> Option<String> {
        let (answer, answered) = oneshot::channel();
        let question = Question {
            identities: identities.to_vec(),
            parent: parent.clone(),
            prompt: prompt.to_owned(),
            password,
            answer,
        };
        self.send.send(question).await.ok()?;
        answered.await.ok().flatten()
    }
}

impl Stdin {
    pub(crate) fn new(requests: Requests, replies: Replies, session: Arc<Session>) -> (Self, Questions) {
        let (send, questions) = mpsc::channel(QUESTIONS);
        (
            Self {
                requests,
                replies,
                session,
                questions,
            },
            Questions { send },
        )
    }

    /// Serves questions until `cancel`.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        let mut pending: Vec<Pending> = Vec::new();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                Some(question) = self.questions.recv() => {
                    // Of cells that have ended: nobody waits.
                    pending.retain(|waiting| !waiting.answer.is_closed());
                    pending.extend(self.ask(question).await);
                }
                reply = self.requests.next() => settle(&mut pending, &reply),
            }
        }
    }

    async fn ask(&self, question: Question) -> Option<Pending> {
        let Question {
            identities,
            parent,
            prompt,
            password,
            answer,
        } = question;
        let content = json!({ "prompt": prompt, "password": password });
        let deadline = Instant::now() + CONNECT_LIMIT;
        loop {
            let parts = self
                .session
                .encode("input_request", &parent, &json!({}), &content);
            let msg_id = parts.msg_id.clone();
            if self.replies.send(&identities, parts).await {
                return Some(Pending {
                    identities,
                    msg_id,
                    answer,
                });
            }
            // The cell was interrupted: nobody wants the answer any more, so nobody may be asked.
            if answer.is_closed() || Instant::now() > deadline {
                // Dropping `answer` tells the cell that nobody is there to ask.
                return None;
            }
            tokio::time::sleep(CONNECT_PAUSE).await;
        }
    }
}

/// Hands an answer to the question that it is for; the newest of that client's, where it does not say.
fn settle(pending: &mut Vec<Pending>, reply: &Request) {
    if reply.msg_type != "input_reply" {
        return;
    }
    let is_answered = |waiting: &Pending| {
        // Clients may leave the parent out; one that names another question is late.
        let parent = reply.parent_msg_id.as_ref();
        waiting.identities == reply.identities && parent.is_none_or(|parent| *parent == waiting.msg_id)
    };
    let Some(at) = pending.iter().rposition(is_answered) else {
        return;
    };
    let value = reply
        .content
        .get("value")
        .and_then(|value| value.as_str())
        .map(str::to_owned);
    let _ = pending.remove(at).answer.send(value);
}
