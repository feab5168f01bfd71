//! Outputs that no page has saved, put into the notebooks that they belong to.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::{Kernels, Live};
use crate::contents::Place;
use crate::recorder::Recorded;

/// How long a page may be away at a cell's end before it counts as gone: a connection that comes back brings all of it.
pub(super) const GONE_AFTER: Duration = Duration::from_secs(5);

impl Kernels {
    /// A cell ended while its page was away.
    pub(super) fn write_missed_soon(self: &Arc<Self>, live: &Arc<Live>) {
        let (kernels, live) = (Arc::clone(self), Arc::clone(live));
        tokio::spawn(async move {
            tokio::time::sleep(GONE_AFTER).await;
            kernels.write_missed(&live, GONE_AFTER).await;
        });
    }

    /// Writes what this kernel's cells put out whose page is away for so long into its notebook. A cell that was changed
    /// since, or a notebook that is not here, keeps what it has.
    pub(crate) async fn write_missed(&self, live: &Live, away: Duration) {
        let _one = live.writing.lock().await;
        let missed = live.recorder.missed(|session| !live.relay.is_gone(session, away));
        if missed.is_empty() {
            return;
        }
        let Some(path) = self.notebook_of(&live.account, live.id).await else {
            return;
        };
        let keys: Vec<_> = missed.iter().map(Recorded::key).collect();
        let (contents, account) = (self.contents.clone(), live.account.clone());
        let written = tokio::task::spawn_blocking(move || {
            let place = Place::parse(&path)?;
            contents.of(&account)?.put_outputs(&place, &missed)
        });
        match written.await {
            Ok(Ok(())) => live.recorder.written(&keys),
            // It was moved, or is no notebook now, or there is no room: tried again later.
            Ok(Err(error)) => tracing::debug!(kernel = %live.id, %error, "outputs were not written down"),
            Err(error) => tracing::error!(kernel = %live.id, %error, "outputs were not written down"),
        }
    }

    /// The same for all kernels that serve this document: whoever opens it sees what its cells put out until now.
    pub(crate) async fn write_missed_of(&self, account: &str, path: &str) {
        for live in self.serving(account, path).await {
            self.write_missed(&live, Duration::ZERO).await;
        }
    }

    /// Kernels whose followed cells belong to this document.
    pub(crate) async fn serving(&self, account: &str, path: &str) -> Vec<Arc<Live>> {
        let mut serving = Vec::new();
        for live in self.of(account) {
            if !live.recorder.is_empty() && self.notebook_of(account, live.id).await.as_deref() == Some(path)
            {
                serving.push(live);
            }
        }
        serving
    }

    /// The notebook that a kernel's session serves.
    pub(crate) async fn notebook_of(&self, account: &str, kernel: Uuid) -> Option<String> {
        let sessions = self.store.sessions(account).await.ok()?;
        let session = sessions
            .into_iter()
            .find(|session| session.kernel == kernel && session.kind == "notebook")?;
        Some(session.path)
    }
}
