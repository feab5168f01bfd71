//! What others told the network: read from Aleph now and then, and all of it when the registry is built anew.
//!
//! Needs to know no owners: messages are listed by their type, page by page, and verified like those that accounts tell of.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use alephlab_api::model::{RebuildState, RegistryRebuild};
use alephlab_api::time::unix_now;
use alephlab_vault::storage::{PostQuery, StoredPost};
use axum::http::StatusCode;
use futures_util::StreamExt as _;
use tokio::sync::Notify;

use super::ingest::{self, TYPES};
use crate::error::{GatewayError, Result};
use crate::state::App;

/// Messages that are verified at the same time: each waits for its head.
const AT_ONCE: usize = 8;
/// How much older than the newest that was seen a new message may be, seconds: it is signed before it is sent, and nodes tell
/// each other late.
const LATE: u64 = 6 * 3600;

/// How far reading is, and what wakes it.
#[derive(Default)]
pub(crate) struct Following {
    progress: Mutex<RegistryRebuild>,
    wake: Notify,
}

impl Following {
    /// How far the last rebuild is.
    pub(crate) fn progress(&self) -> RegistryRebuild {
        self.lock().clone()
    }

    /// Has everything read anew; what runs already is left to it.
    pub(crate) fn rebuild(&self) -> RegistryRebuild {
        let mut progress = self.lock();
        if progress.state != RebuildState::Running {
            *progress = RegistryRebuild {
                state: RebuildState::Running,
                started: Some(unix_now()),
                ..RegistryRebuild::default()
            };
            self.wake.notify_one();
        }
        progress.clone()
    }

    fn is_wanted(&self) -> bool {
        self.lock().state == RebuildState::Running
    }

    fn count(&self, change: impl FnOnce(&mut RegistryRebuild)) {
        let mut progress = self.lock();
        if progress.state == RebuildState::Running {
            change(&mut progress);
        }
    }

    fn lock(&self) -> MutexGuard<'_, RegistryRebuild> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What became of one message.
enum Outcome {
    Taken,
    Known,
    Refused,
    /// The network could not be asked; it is looked at again.
    Unavailable,
}

/// Reads what is new every so often, and everything when a rebuild is wanted. A gateway that has seen nothing yet begins with
/// everything. Never ends.
pub(crate) async fn follow(app: &App, every: Option<Duration>) {
    let following = &app.models.following;
    if every.is_some() && app.store.last_seen().await.is_ok_and(|last| last.is_none()) {
        following.rebuild();
    }
    loop {
        if following.is_wanted() {
            let done = read_all(app).await;
            if let Err(error) = &done {
                tracing::warn!(%error, code = error.code(), "the registry could not be built anew");
            }
            following.count(|progress| {
                progress.ended = Some(unix_now());
                progress.state = RebuildState::Done;
                if let Err(error) = done {
                    progress.state = RebuildState::Failed;
                    progress.reason = Some(error.to_string());
                }
            });
            continue;
        }
        let pause = async {
            match every {
                Some(every) => tokio::time::sleep(every).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = following.wake.notified() => {}
            () = pause => if let Err(error) = read_new(app).await {
                tracing::warn!(%error, code = error.code(), "what is new on Aleph could not be read");
            },
        }
    }
}

async fn read_all(app: &App) -> Result<()> {
    read(app, 0, true).await
}

async fn read_new(app: &App) -> Result<()> {
    let last = app.store.last_seen().await?;
    let since = last.map_or(0, |last| last.min(unix_now()).saturating_sub(LATE));
    read(app, since, false).await
}

async fn read(app: &App, since: u64, anew: bool) -> Result<()> {
    let query = PostQuery {
        types: TYPES.map(str::to_owned).to_vec(),
        ..PostQuery::default()
    };
    let posts = app.storage.each_post(query, since);
    let looked = posts.map(|post| async move {
        match post {
            Ok(post) => take_in(app, post, anew).await,
            Err(error) => Err(error.into()),
        }
    });
    let mut outcomes = looked.buffer_unordered(AT_ONCE);
    while let Some(outcome) = outcomes.next().await {
        let outcome = outcome?;
        app.models.following.count(|progress| {
            progress.read += 1;
            match outcome {
                Outcome::Taken => progress.taken += 1,
                Outcome::Known => {}
                Outcome::Refused => progress.refused += 1,
                Outcome::Unavailable => progress.unavailable += 1,
            }
        });
    }
    Ok(())
}

async fn take_in(app: &App, post: StoredPost, anew: bool) -> Result<Outcome> {
    let (message, time) = (post.item_hash.clone(), ingest::seconds(post.time));
    if !anew && app.store.was_seen(&message).await? {
        return Ok(Outcome::Known);
    }
    let outcome = match ingest::verified(&app.storage, post).await {
        Ok(said) => {
            app.take_in(&said).await?;
            Outcome::Taken
        }
        Err(error) if is_for_now(&error) => {
            tracing::info!(message, %error, "a message of the registry cannot be looked at now");
            return Ok(Outcome::Unavailable);
        }
        Err(error) => {
            tracing::debug!(message, %error, "a message of the registry is refused");
            Outcome::Refused
        }
    };
    app.store.seen(&message, time).await?;
    Ok(outcome)
}

/// Whether another try may end otherwise: what it names was not there, or the node did not answer.
fn is_for_now(error: &GatewayError) -> bool {
    match error {
        GatewayError::Refused { status, .. } => {
            *status == StatusCode::NOT_FOUND || *status == StatusCode::BAD_GATEWAY
        }
        _ => true,
    }
}

/// Tells that an account's message was looked at, so that it is not again.
pub(crate) async fn told(app: &Arc<App>, message: &str) -> Result<()> {
    app.store.seen(message, unix_now()).await
}
