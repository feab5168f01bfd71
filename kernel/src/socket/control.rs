//! Control: requests that must not wait for a cell. Never waits for the evaluator or for a client of iopub.

use std::sync::Arc;

use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Replies, Requests};
use crate::kernel::Core;
use crate::wire::Request;

/// The control channel.
pub(crate) struct Control {
    core: Arc<Core>,
    requests: Requests,
    replies: Replies,
}

impl Control {
    pub(crate) fn new(core: Arc<Core>, requests: Requests, replies: Replies) -> Self {
        Self {
            core,
            requests,
            replies,
        }
    }

    /// Serves requests until `cancel`.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        // One after the other, and nothing else waits for the debugger.
        let (to_debugger, mut asked) = mpsc::unbounded_channel::<Request>();
        let (core, replies) = (Arc::clone(&self.core), self.replies.clone());
        tokio::spawn(async move {
            while let Some(request) = asked.recv().await {
                core.debug(&request, &replies).await;
            }
        });
        loop {
            let request = tokio::select! {
                () = cancel.cancelled() => return,
                request = self.requests.next() => request,
            };
            match request.msg_type.as_str() {
                "interrupt_request" => {
                    self.core.busy(&request);
                    self.core.interrupt().await;
                    self.replies.reply(&request, &json!({ "status": "ok" })).await;
                    self.core.idle(&request);
                }
                "debug_request" => drop(to_debugger.send(request)),
                _ => self.core.answer(&request, &self.replies).await,
            }
        }
    }
}
