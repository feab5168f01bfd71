//! Shell: requests about code. Executions go to the queue of their shell ([`crate::execute::Executor`]); the rest is answered at
//! once, also while a cell runs.

use std::sync::Arc;

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
            "execute_request" => self.core.execute(request, self.replies.clone()),
            "complete_request" | "inspect_request" => {
                // May wait for the analyzer; nobody else may wait for that.
                let (core, replies) = (Arc::clone(&self.core), self.replies.clone());
                tokio::spawn(async move { core.analyse(&request, &replies).await });
            }
            "comm_open" | "comm_msg" | "comm_close" => self.core.hear_comm(request),
            _ => self.core.answer(&request, &self.replies).await,
        }
    }
}
