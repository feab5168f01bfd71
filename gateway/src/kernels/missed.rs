//! Outputs that no page has saved, put into the notebooks that they belong to.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use alephlab_api::agent::ToAgent;
use uuid::Uuid;

use super::{Kernels, Live};
use crate::contents::{Place, Rewritten};
use crate::error::Result;
use crate::recorder::Recorded;

/// How long a page may be away at a cell's end before it counts as gone: a connection that comes back brings all of it.
pub(super) const GONE_AFTER: Duration = Duration::from_secs(5);

impl Live {
    /// Tells the agent which cells are followed now, for another run of the gateway.
    ///
    /// # Errors
    /// When the agent is gone; it is told the next time.
    pub(super) async fn tell_followed(&self) -> Result<()> {
        let _one = self.following.lock().await;
        // Whatever comes after this has another to tell it.
        self.is_told_soon.store(false, Ordering::Release);
        while let Some((cell, note)) = self.recorder.next_change() {
            let order = ToAgent::Follow {
                kernel_id: self.id,
                cell,
                note,
            };
            self.lease.send::<&[u8]>(&order, &[]).await?;
            self.recorder.told();
        }
        Ok(())
    }

    /// The same when nothing waits for it: a host that does not take its orders holds up nobody.
    pub(super) fn tell_followed_soon(self: &Arc<Self>) {
        if self.recorder.next_change().is_none() || self.is_told_soon.swap(true, Ordering::AcqRel) {
            return;
        }
        let live = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = live.tell_followed().await {
                tracing::debug!(kernel = %live.id, %error, "its agent was not told which cells are followed");
            }
            // What the agent need not keep any more.
            live.relay.mark();
        });
    }

    /// These cells, as [`Recorder::over`](crate::recorder::Recorder::over) gave them, are in the file that a page saved.
    pub(crate) fn saved(self: &Arc<Self>, over: Vec<u64>) {
        self.recorder.saved(over);
        self.tell_followed_soon();
    }
}

impl Kernels {
    /// A cell ended while its page was away.
    pub(super) fn write_missed_soon(self: &Arc<Self>, live: &Arc<Live>) {
        if live.is_written_soon.swap(true, Ordering::AcqRel) {
            return;
        }
        let (kernels, live) = (Arc::clone(self), Arc::clone(live));
        tokio::spawn(async move {
            tokio::time::sleep(GONE_AFTER).await;
            live.is_written_soon.store(false, Ordering::Release);
            kernels.write_missed(&live, GONE_AFTER).await;
        });
    }

    /// Writes what this kernel's cells put out whose page is away for so long into its notebook. A cell that was changed
    /// since, or a notebook that is not here, keeps what it has.
    pub(crate) async fn write_missed(&self, live: &Arc<Live>, away: Duration) {
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
        let of = account.clone();
        let written = tokio::task::spawn_blocking(move || {
            let place = Place::parse(&path)?;
            contents.of(&account)?.put_outputs(&place, &missed)
        });
        match written.await {
            Ok(Ok(rewritten)) => {
                if let Some(rewritten) = rewritten {
                    self.keep_trust(&of, rewritten).await;
                }
                live.recorder.written(&keys);
                live.tell_followed_soon();
            }
            // It was moved, or is no notebook now, or there is no room: tried again later.
            Ok(Err(error)) => tracing::debug!(kernel = %live.id, %error, "outputs were not written down"),
            Err(error) => tracing::error!(kernel = %live.id, %error, "outputs were not written down"),
        }
    }

    /// What the account's own cells put out takes no trust from a notebook that had it.
    async fn keep_trust(&self, account: &str, rewritten: Rewritten) {
        let Rewritten { before, after } = rewritten;
        let kept = match self.store.trusts_notebook(account, &before).await {
            Ok(true) => self.store.trust_notebook(account, &after).await,
            Ok(false) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = kept {
            tracing::warn!(%error, "whether a notebook is trusted was not written down");
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
            if live.recorder.is_empty() && live.relay.is_caught_up()
                || self.notebook_of(account, live.id).await.as_deref() != Some(path)
            {
                continue;
            }
            live.relay.caught_up().await;
            if !live.recorder.is_empty() {
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
