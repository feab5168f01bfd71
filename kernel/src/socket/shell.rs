//! Shell: requests about code. Executions, completions and inspections go to the queue of
//! [`crate::execute::Executor`]; the rest is answered here at once, also while a cell runs.

use std::sync::Arc;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Replies, Requests};
use crate::kernel::Core;
use crate::wire::Request;

/// The shell channel.
pub(crate) struct Shell {
    core: Arc<Core>,
    requests: Requests,
    replies: Replies,
}

impl Shell {
    pub(crate) fn new(core: Arc<Core>, requests: Requests, replies: Replies) -> Self {
        Self {
            core,
            requests,
            replies,
        }
    }

    /// Serves requests until `cancel`.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        let mut first = true;
        loop {
            let request = tokio::select! {
                () = cancel.cancelled() => return,
                request = self.requests.next() => request,
            };
            if std::mem::take(&mut first) {
                self.core.announce().await;
            }
            self.handle(request).await;
        }
    }

    async fn handle(&self, request: Request) {
        match request.msg_type.as_str() {
            "execute_request" | "complete_request" | "inspect_request" => {
                self.core.executor.queue(request, self.replies.clone());
            }
            "comm_open" => {
                self.core.busy(&request);
                // No comm targets here: the client must hear that its comm is closed.
                let open: crate::request::CommOpen =
                    serde_json::from_value(request.content.clone()).unwrap_or_default();
                let content = json!({ "comm_id": open.comm_id, "data": {} });
                self.core
                    .publisher
                    .publish("comm_close", &request.parent, &content);
                self.core.idle(&request);
            }
            _ => self.core.answer(&request, &self.replies).await,
        }
    }
}
