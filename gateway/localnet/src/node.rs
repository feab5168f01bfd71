//! The state that all parts of one running node share, and the way a message goes in.

use std::{sync::Arc, time::Duration};

use sqlx::SqlitePool;
use tokio::sync::{Mutex, Notify, broadcast};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Settings,
    db,
    envelope::Envelope,
    error::Result,
    faults::Faults,
    files::{Files, Incoming},
    foundation::Foundation,
    rejection::Rejection,
};

/// Verdicts and accepted messages that a slow listener may lag behind before it loses some.
const CHANNEL_CAPACITY: usize = 4_096;

/// Shared state.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) db: SqlitePool,
    pub(crate) files: Files,
    pub(crate) settings: Settings,
    pub(crate) faults: Faults,
    pub(crate) foundation: Foundation,
    pub(crate) stop: CancellationToken,
    /// Wakes `tasks::judge` when there is a new message.
    pub(crate) wake: Notify,
    /// Every verdict, for requests that wait for one.
    pub(crate) verdicts: broadcast::Sender<Verdict>,
    /// Hashes of accepted messages, for websockets.
    pub(crate) accepted: broadcast::Sender<Arc<str>>,
    /// Held while a file goes in or files without a pin go out.
    pub(crate) storing: Mutex<()>,
}

/// What became of one pending message.
#[derive(Debug, Clone)]
pub(crate) struct Verdict {
    /// Row of the pending table.
    pub(crate) pending: i64,
    /// `None` when it was processed.
    pub(crate) rejection: Option<Rejection>,
}

/// Status of a message as the network names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Pending,
    Processed,
    Rejected,
}

impl Node {
    pub(crate) fn new(
        db: SqlitePool,
        files: Files,
        settings: Settings,
        (faults, foundation): (Faults, Foundation),
        stop: CancellationToken,
    ) -> Self {
        Self {
            db,
            files,
            settings,
            faults,
            foundation,
            stop,
            wake: Notify::new(),
            verdicts: broadcast::Sender::new(CHANNEL_CAPACITY),
            accepted: broadcast::Sender::new(CHANNEL_CAPACITY),
            storing: Mutex::new(()),
        }
    }

    /// Takes a well-formed message and, when `sync`, waits for its verdict.
    pub(crate) async fn submit(&self, envelope: &Envelope, sync: bool) -> Result<Status> {
        if self.is_processed(&envelope.item_hash).await? && envelope.verify().is_ok() {
            if !self.settings.strict_duplicates {
                return Ok(Status::Processed);
            }
            if sync {
                self.pause(self.settings.sync_timeout).await;
            }
            return Ok(Status::Pending);
        }
        // Before the row exists, so that its verdict cannot be missed.
        let mut verdicts = self.verdicts.subscribe();
        let now = db::now();
        let row = sqlx::query("INSERT INTO pending (item_hash, envelope, received, due) VALUES (?, ?, ?, ?)")
            .bind(&envelope.item_hash)
            .bind(envelope.to_json().to_string())
            .bind(now)
            .bind(now)
            .execute(&self.db)
            .await?;
        self.wake.notify_one();
        if !sync {
            return Ok(Status::Pending);
        }
        let pending = row.last_insert_rowid();
        tokio::select! {
            status = verdict_of(&mut verdicts, pending) => Ok(status),
            () = self.pause(self.settings.sync_timeout) => Ok(Status::Pending),
        }
    }

    /// Stores a file that has arrived and remembers it for the grace time.
    pub(crate) async fn store_file(&self, incoming: Incoming) -> Result<String> {
        let (hash, size) = (incoming.hash(), incoming.size());
        let _storing = self.storing.lock().await;
        self.files.keep(incoming).await?;
        sqlx::query(
            "INSERT INTO files (hash, size, keep_until) VALUES (?, ?, ?)
             ON CONFLICT (hash) DO UPDATE SET size = excluded.size, keep_until = MAX(keep_until, excluded.keep_until)",
        )
        .bind(&hash)
        .bind(db::signed(size))
        .bind(db::now() + self.settings.grace.as_secs_f64())
        .execute(&self.db)
        .await?;
        Ok(hash)
    }

    async fn is_processed(&self, hash: &str) -> Result<bool> {
        let found: Option<i64> =
            sqlx::query_scalar("SELECT 1 FROM messages WHERE item_hash = ? AND status = 'processed'")
                .bind(hash)
                .fetch_optional(&self.db)
                .await?;
        Ok(found.is_some())
    }

    /// Waits, but not longer than the node runs.
    async fn pause(&self, duration: Duration) {
        tokio::select! {
            () = tokio::time::sleep(duration) => {}
            () = self.stop.cancelled() => {}
        }
    }
}

/// The verdict on one pending message. A caller that lagged so far that it lost verdicts hears
/// `Pending`, which is true as far as it knows.
async fn verdict_of(verdicts: &mut broadcast::Receiver<Verdict>, pending: i64) -> Status {
    loop {
        match verdicts.recv().await {
            Ok(verdict) if verdict.pending == pending => {
                return if verdict.rejection.is_some() {
                    Status::Rejected
                } else {
                    Status::Processed
                };
            }
            Ok(_) => {}
            Err(_) => return Status::Pending,
        }
    }
}
