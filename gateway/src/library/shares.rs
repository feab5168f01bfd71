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
use alephlab_registry::{ByteStream, Library, RegistryError, Repo, RepoInfo};
use alephlab_vault::share::{ShareTerms, ShareToken, open_share};
use alephlab_vault::storage::Storage;
use alephlab_vault::{Keys, Reader, SignedHead, VaultError};
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::{Stream, StreamExt as _};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use super::{content, inside, models};
use crate::opened::{IDLE, ShareId};
use crate::state::{App, address};
use crate::store::{Store, StoredModel, StoredShare, sha256};

/// How often it is looked whether what is open is still wanted.
const TIDY: Duration = Duration::from_secs(30);

/// Shares as repos `m/<uuid>`.
pub(crate) struct Shares {
    app: Arc<App>,
}

/// One share, open for reading.
pub(crate) struct SharedModel {
    share: ShareId,
    store: Store,
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
            .model(&share.model, &share.revision)
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
        let reader = open_reader(storage, head, Keys::Objects(keys))
            .await
            .map_err(content)?;
        let info = RepoInfo {
            id: format!("m/{}", share.uuid),
            author: record.owner,
            revision: record.commit,
            tags: record.tags,
            files: record.files,
            card: record.card,
            created: record.created,
            modified: record.created,
            // Who has no token of the share does not see it.
            private: true,
            ..RepoInfo::default()
        };
        Ok(SharedModel {
            share: share.id(),
            store: self.app.store.clone(),
            info,
            reader,
        })
    }
}

impl Library for Shares {
    fn repo<'a>(
        &'a self,
        id: &'a str,
        bearer: Option<&'a Secret>,
    ) -> BoxFuture<'a, Result<Option<Arc<dyn Repo>>, RegistryError>> {
        self.find(id, bearer).boxed()
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

    fn read(
        &self,
        file: &RecordFile,
        range: Range<u64>,
    ) -> BoxFuture<'static, Result<ByteStream, RegistryError>> {
        let stream = models::pieces(&self.reader, file, range);
        let (store, share) = (self.store.clone(), self.share);
        let lives = move || {
            let store = store.clone();
            async move { stands(&store, share).await }
        };
        async move { stream.map(|stream| while_it_lives(stream, lives).boxed()) }.boxed()
    }
}

/// The pieces for as long as `lives` says yes before each; then an error, so that no part is taken for the whole.
fn while_it_lives<T, F>(
    pieces: impl Stream<Item = Result<T, RegistryError>>,
    lives: impl Fn() -> F,
) -> impl Stream<Item = Result<T, RegistryError>>
where
    F: Future<Output = Result<bool, RegistryError>>,
{
    pieces.then(move |piece| {
        let lives = lives();
        async move {
            if lives.await? {
                return piece;
            }
            let problem = Problem::new("share_ended", "this share was ended while it was read");
            Err(RegistryError::Content { problem })
        }
    })
}

/// On a thread of its own: hashing and decrypting the manifest is work that must not hold up other requests.
async fn open_reader(storage: Arc<dyn Storage>, head: SignedHead, keys: Keys) -> Result<Reader, VaultError> {
    let runtime = tokio::runtime::Handle::current();
    let opened =
        tokio::task::spawn_blocking(move || runtime.block_on(Reader::open(storage, &head, keys))).await;
    opened.unwrap_or_else(|error| {
        Err(VaultError::Stopped {
            reason: error.to_string(),
        })
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::stream;

    use super::*;

    #[tokio::test]
    async fn a_share_that_ends_while_it_is_read_is_cut() {
        let left = AtomicU32::new(2);
        let lives = || async { Ok(left.fetch_sub(1, Ordering::Relaxed) > 0) };
        let pieces = stream::iter([1, 2, 3]).map(Ok);
        let read: Vec<_> = while_it_lives(pieces, lives).collect().await;
        assert!(matches!(read[..2], [Ok(1), Ok(2)]));
        let Err(RegistryError::Content { problem }) = &read[2] else {
            panic!("the third piece is not sent")
        };
        assert_eq!(problem.code, "share_ended");
    }
}
