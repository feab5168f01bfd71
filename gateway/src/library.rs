//! The registry's view of this gateway: shares, opened with the token that a stock Hub client sends whole.
//!
//! For such a client the gateway could read the revision (design, section 8); it keeps what it opened in memory for
//! a minute, writes none of it, and looks at the share's row each time, so an ended share opens nothing at once.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use alephlab_api::model::RecordFile;
use alephlab_api::time::unix_now;
use alephlab_api::{Problem, Secret};
use alephlab_registry::{ByteStream, Library, RegistryError, Repo, RepoInfo};
use alephlab_vault::share::{ShareTerms, ShareToken, open_share};
use alephlab_vault::storage::Storage;
use alephlab_vault::{Entry, Keys, Reader, SignedHead, VaultError};
use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, FutureExt as _};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use crate::error::GatewayError;
use crate::state::{App, address};
use crate::store::{StoredModel, StoredShare, sha256};

/// How long an opened revision is kept for the next request of the same client.
const KEEP: Duration = Duration::from_secs(60);
const MAX_OPEN: usize = 32;

/// Shares as repos `m/<uuid>`.
pub(crate) struct Shares {
    app: Arc<App>,
    open: Mutex<Vec<Open>>,
}

struct Open {
    uuid: Uuid,
    auth_sha256: [u8; 32],
    since: Instant,
    repo: Arc<SharedModel>,
}

struct SharedModel {
    info: RepoInfo,
    reader: Reader,
}

impl Shares {
    pub(crate) fn new(app: Arc<App>) -> Self {
        Self {
            app,
            open: Mutex::default(),
        }
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
            return Ok(None);
        }
        if let Some(repo) = self.opened(&share) {
            return Ok(Some(repo));
        }
        let repo = Arc::new(self.open(&token, &share).await?);
        self.keep(&share, &repo);
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
        };
        Ok(SharedModel { info, reader })
    }

    fn opened(&self, share: &StoredShare) -> Option<Arc<dyn Repo>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|open| open.since.elapsed() < KEEP);
        let found = open
            .iter()
            .find(|open| open.uuid == share.uuid && open.auth_sha256 == share.auth_sha256);
        found.map(|open| Arc::clone(&open.repo) as Arc<dyn Repo>)
    }

    fn keep(&self, share: &StoredShare, repo: &Arc<SharedModel>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= MAX_OPEN {
            open.remove(0);
        }
        let (uuid, auth_sha256) = (share.uuid, share.auth_sha256);
        open.push(Open {
            uuid,
            auth_sha256,
            since: Instant::now(),
            repo: Arc::clone(repo),
        });
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
        // Size and hash of the record are what the client was told; the sealed manifest must say the same.
        let same = |entry: &Entry| entry.size == file.size && hex::encode(entry.sha256) == file.sha256;
        let stream = if self.reader.entry(&file.path).is_some_and(same) {
            self.reader.stream(&file.path, range).map_err(content)
        } else {
            let message = format!("`{}` is not the file that the signed record names", file.path);
            Err(RegistryError::Content {
                problem: Problem::new("record_mismatch", message),
            })
        };
        async move { stream.map(|stream| stream.map(|piece| piece.map_err(content)).boxed()) }.boxed()
    }
}

/// On a thread of its own: hashing and decrypting the manifest is work, and the future need not be `Send` there.
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

fn content(error: VaultError) -> RegistryError {
    tracing::warn!(code = error.code(), "a shared file cannot be read");
    RegistryError::Content {
        problem: Problem {
            code: error.code().to_owned(),
            message: error.to_string(),
            hint: error.hint(),
        },
    }
}

fn inside(error: GatewayError) -> RegistryError {
    tracing::error!(%error, "the registry's database failed");
    let message = "the gateway could not look this up";
    RegistryError::Content {
        problem: Problem::new("gateway_database", message),
    }
}
