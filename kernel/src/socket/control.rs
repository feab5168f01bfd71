//! Control: requests that must not wait for a cell. Never waits for the evaluator or for a client of iopub.

use std::sync::Arc;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Replies, Requests};
use crate::kernel::Core;

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
        loop {
            let request = tokio::select! {
                () = cancel.cancelled() => return,
                request = self.requests.next() => request,
            };
            if request.msg_type == "interrupt_request" {
                self.core.busy(&request);
                self.core.executor.interrupt();
                self.replies.reply(&request, &json!({ "status": "ok" })).await;
                self.core.idle(&request);
            } else {
                self.core.answer(&request, &self.replies).await;
            }
        }
    }
}
