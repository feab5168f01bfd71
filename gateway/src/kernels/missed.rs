//! Outputs that no page has heard, put into the notebooks that they belong to.

use uuid::Uuid;

use super::{Kernels, Live};
use crate::contents::Place;

impl Kernels {
    /// Writes what this kernel's cells put out while the page that ran them was away into its notebook. A cell that was
    /// changed since, or a notebook that is not here, keeps what it has.
    pub(crate) async fn write_missed(&self, live: &Live) {
        let missed = live.recorder.missed(|session| live.relay.is_here(session));
        if missed.is_empty() {
            return;
        }
        let Some(path) = self.notebook_of(&live.account, live.id).await else {
            return;
        };
        let (contents, account) = (self.contents.clone(), live.account.clone());
        let written = tokio::task::spawn_blocking(move || {
            let place = Place::parse(&path)?;
            contents.of(&account)?.put_outputs(&place, &missed)
        });
        match written.await {
            Ok(Ok(())) => {}
            // It was moved or deleted, or is no notebook any more; whoever did that knows.
            Ok(Err(error)) => tracing::debug!(kernel = %live.id, %error, "outputs were not written down"),
            Err(error) => tracing::error!(kernel = %live.id, %error, "outputs were not written down"),
        }
    }

    /// The same for all kernels that serve this document: whoever opens it sees what its cells put out until now.
    pub(crate) async fn write_missed_of(&self, account: &str, path: &str) {
        for live in self.of(account) {
            if !live.recorder.is_empty() && self.notebook_of(account, live.id).await.as_deref() == Some(path)
            {
                self.write_missed(&live).await;
            }
        }
    }

    /// A page saved this document, with the outputs that it has.
    pub(crate) async fn notebook_saved(&self, account: &str, path: &str) {
        for live in self.of(account) {
            if !live.recorder.is_empty() && self.notebook_of(account, live.id).await.as_deref() == Some(path)
            {
                live.recorder.saved();
            }
        }
    }

    async fn notebook_of(&self, account: &str, kernel: Uuid) -> Option<String> {
        let sessions = self.store.sessions(account).await.ok()?;
        let session = sessions
            .into_iter()
            .find(|session| session.kernel == kernel && session.kind == "notebook")?;
        Some(session.path)
    }
}
