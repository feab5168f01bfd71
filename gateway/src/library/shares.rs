//! Shares, opened with the token that a stock Hub client sends whole.
//!
//! For such a client the gateway could read the revision (design, section 8); it keeps what it opened in memory while
//! it is asked for (`opened`), writes none of it, and looks at the share's row for each request and each piece that it
//! sends, so a share that was ended or is over serves nothing more.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use alephlab_api::model::RecordFile;
use alephlab_api::time::unix_now;
use alephlab_api::{Problem, Secret};
use alephlab_registry::{Answer, ByteStream, Library, ReadBy, RegistryError, Repo, RepoInfo, only_at};
use alephlab_vault::share::{ShareTerms, ShareToken, open_share};
use alephlab_vault::{Keys, Reader};
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::{Stream, StreamExt as _};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use super::downloads::{Download, reader_of};
use super::{content, inside, models};
use crate::models::Models;
use crate::opened::{IDLE, ShareId};
use crate::reading;
use crate::state::{App, address};
use crate::store::{Store, StoredModel, StoredShare, sha256};

/// How often it is looked whether what is open is still wanted.
const TIDY: Duration = Duration::from_secs(30);

/// What who has the token is told when it opens no more.
pub(crate) const USED_UP: &str = "this share has opened as much as its owner allowed; ask them for another";

/// Shares as repos `m/<uuid>`.
pub(crate) struct Shares {
    app: Arc<App>,
}

/// One share, open for reading.
pub(crate) struct SharedModel {
    share: ShareId,
    store: Store,
    models: Arc<Models>,
    /// The model that it is a share of.
    name: String,
    info: RepoInfo,
    reader: Reader,
}

/// Drops what is open and not asked for, or over. Runs for as long as the gateway does.
pub(crate) async fn tidy(app: &App) {
    let mut tick = tokio::time::interval(TIDY);
    loop {
        tick.tick().await;
        app.opened.drop_idle(IDLE);
        for share in app.opened.shares() {
            if !stands(&app.store, share).await.unwrap_or(false) {
                app.opened.forget(share.uuid);
            }
        }
    }
}

/// Whether this share, with this token, still opens anything.
async fn stands(store: &Store, share: ShareId) -> Result<bool, RegistryError> {
    let stored = store.share(share.uuid).await.map_err(inside)?;
    Ok(stored.is_some_and(|stored| stored.lives() && stored.id() == share))
}

impl Shares {
    pub(crate) fn new(app: Arc<App>) -> Self {
        Self { app }
    }

    async fn find(&self, id: &str, bearer: Option<&Secret>) -> Result<Option<Arc<dyn Repo>>, RegistryError> {
        // The same steps for a wrong id, a wrong token and none.
        let token = ShareToken::parse(bearer.map_or("", |bearer| bearer.expose())).ok();
        let uuid = id.strip_prefix("m/").and_then(|uuid| uuid.parse::<Uuid>().ok());
        let auth = token.as_ref().map_or([0; 32], |token| sha256(&*token.auth()));
        let share = self
            .app
            .store
            .share(uuid.unwrap_or_default())
            .await
            .map_err(inside)?;
        let stored = share.as_ref().map_or([1; 32], |share| share.auth_sha256);
        let right = bool::from(stored.ct_eq(&auth));
        let (Some(token), Some(share), true) = (token, share, right) else {
            return Ok(None);
        };
        if !share.lives() {
            self.app.opened.forget(share.uuid);
            return Ok(None);
        }
        if let Some(wait) = self.app.pace.exceeded(&share) {
            return Err(RegistryError::Limited {
                message: format!("this share may be asked less often; try again in {wait} seconds"),
                wait,
            });
        }
        if let Some(repo) = self.app.opened.get(share.id()) {
            return Ok(Some(repo));
        }
        let repo = Arc::new(self.open(&token, &share).await?);
        self.app.opened.keep(share.id(), &repo);
        Ok(Some(repo))
    }

    async fn open(&self, token: &ShareToken, share: &StoredShare) -> Result<SharedModel, RegistryError> {
        let model = self
            .app
            .store
            // Whether it is still offered is looked at where the share is: what was sold need not be.
            .model_ever(&share.model, &share.revision)
            .await
            .map_err(inside)?;
        let Some(model) = model else {
            return Err(RegistryError::RepoNotFound);
        };
        let terms = ShareTerms {
            uuid: share.uuid,
            model: share.model.clone(),
            revision: share.revision.clone(),
            expires: share.expires,
        };
        let keys = open_share(token, &terms, &share.sealed, unix_now()).map_err(content)?;
        let StoredModel {
            message: _,
            record,
            head,
        } = model;
        let storage = Arc::clone(&self.app.storage);
        let reader = reading::open(storage, head, Keys::Objects(keys))
            .await
            .map_err(content)?;
        // The record of a private model says nothing of it: what the bearer may know stands in what the token opens.
        let (files, card) = match record.sealed {
            Some(_) => (
                reading::files(&reader),
                reading::card(&reader).await.map_err(content)?,
            ),
            None => (record.files, record.card),
        };
        let info = RepoInfo {
            id: format!("m/{}", share.uuid),
            author: record.owner,
            revision: record.commit,
            tags: record.tags,
            files,
            card,
            created: record.created,
            modified: record.created,
            // Who has no token of the share does not see it.
            private: true,
            ..RepoInfo::default()
        };
        Ok(SharedModel {
            share: share.id(),
            store: self.app.store.clone(),
            models: Arc::clone(&self.app.models),
            name: share.model.clone(),
            info,
            reader,
        })
    }
}

impl Library for Shares {
    fn at<'a>(
        &'a self,
        id: &'a str,
        revision: &'a str,
        bearer: Option<&'a Secret>,
    ) -> BoxFuture<'a, Result<Option<Arc<dyn Repo>>, RegistryError>> {
        async move {
            let found = self.find(id, bearer).await?;
            found.map(|repo| only_at(repo, revision)).transpose()
        }
        .boxed()
    }

    fn who<'a>(&'a self, bearer: &'a Secret) -> BoxFuture<'a, Result<Option<String>, RegistryError>> {
        async move {
            if let Ok(token) = ShareToken::parse(bearer.expose()) {
                let share = self
                    .app
                    .store
                    .share_by_auth(&sha256(&*token.auth()))
                    .await
                    .map_err(inside)?;
                return Ok(share.filter(StoredShare::lives).map(|_| "share".to_owned()));
            }
            let known = self
                .app
                .store
                .bearer(&sha256(bearer.expose().as_bytes()))
                .await
                .map_err(inside)?;
            Ok(known.map(|bearer| bearer.account))
        }
        .boxed()
    }

    fn refused(&self, peer: SocketAddr) -> bool {
        self.app.refuse(address(peer))
    }
}

impl Repo for SharedModel {
    fn info(&self) -> &RepoInfo {
        &self.info
    }

    fn read(&self, file: &RecordFile, range: Range<u64>) -> Answer<'static, ByteStream> {
        self.count(file, range, None)
    }

    fn read_by(&self, file: &RecordFile, range: Range<u64>, by: ReadBy<'_>) -> Answer<'static, ByteStream> {
        self.count(
            file,
            range,
            Some(reader_of(&self.name, &self.info.revision, file, by)),
        )
    }
}

impl SharedModel {
    /// Bytes of a file, each piece counted before it is sent.
    fn count(
        &self,
        file: &RecordFile,
        range: Range<u64>,
        who: Option<Download>,
    ) -> Answer<'static, ByteStream> {
        let stream = models::pieces(&self.reader, file, range.clone());
        let (store, share, models, size) = (
            self.store.clone(),
            self.share,
            Arc::clone(&self.models),
            file.size,
        );
        async move {
            let stored = store.share(share.uuid).await.map_err(inside)?;
            if stored.is_some_and(|stored| stored.is_used_up()) {
                return Err(used_up());
            }
            let spend = move |piece: Range<u64>| {
                let (store, models) = (store.clone(), Arc::clone(&models));
                let done = who.clone().filter(|_| piece.end == size);
                async move {
                    spend(&store, share, &piece, piece.end == size).await?;
                    if let Some(done) = done {
                        done.note(&models).await.map_err(inside)?;
                    }
                    Ok(())
                }
            };
            Ok(each_counted(stream?, range.start, spend).boxed())
        }
        .boxed()
    }
}

/// Counts a piece that is about to be sent under a share that still stands.
async fn spend(store: &Store, share: ShareId, piece: &Range<u64>, is_end: bool) -> Result<(), RegistryError> {
    if !stands(store, share).await? {
        let problem = Problem::new("share_ended", "this share was ended while it was read");
        return Err(RegistryError::Content { problem });
    }
    let counted = store
        .spend_share(share, piece.end - piece.start, u64::from(is_end))
        .await;
    match counted.map_err(inside)? {
        true => Ok(()),
        false => Err(used_up()),
    }
}

fn used_up() -> RegistryError {
    RegistryError::Gated {
        message: USED_UP.to_owned(),
        price: None,
    }
}

/// The pieces from `start` on for as long as `count` takes each; then its error, so that no part is taken for the whole.
pub(super) fn each_counted<F>(
    pieces: ByteStream,
    start: u64,
    count: impl Fn(Range<u64>) -> F + Send + 'static,
) -> impl Stream<Item = Result<Bytes, RegistryError>> + Send
where
    F: Future<Output = Result<(), RegistryError>> + Send,
{
    let state = Some((pieces, start, count));
    futures_util::stream::unfold(state, async |state| {
        let (mut pieces, start, count) = state?;
        let piece = match pieces.next().await? {
            Ok(piece) => piece,
            Err(error) => return Some((Err(error), None)),
        };
        let end = start + piece.len() as u64;
        match count(start..end).await {
            Ok(()) => Some((Ok(piece), Some((pieces, end, count)))),
            Err(error) => Some((Err(error), None)),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures_util::stream;

    use super::*;

    #[tokio::test]
    async fn what_is_not_counted_is_not_sent() {
        let counted = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&counted);
        let count = move |piece: Range<u64>| {
            let allowed = piece.end <= 14;
            seen.store(piece.end, Ordering::Relaxed);
            std::future::ready(if allowed { Ok(()) } else { Err(used_up()) })
        };
        let pieces = stream::repeat_with(|| Ok(Bytes::from_static(b"ab")))
            .take(5)
            .boxed();
        let read: Vec<_> = each_counted(pieces, 10, count).collect().await;
        assert_eq!(read.len(), 3);
        assert!(matches!(&read[..2], [Ok(_), Ok(_)]));
        assert!(matches!(read[2], Err(RegistryError::Gated { .. })));
        assert_eq!(
            counted.load(Ordering::Relaxed),
            16,
            "a stream ends with its first error"
        );
    }
}
