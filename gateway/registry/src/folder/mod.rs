//! A library in a folder, in clear: drafts before they are sealed, and the tests' library.
//!
//! Revisions are immutable and named by a hash over their manifest; tags and branches are names in one small file,
//! whose replacement is the moment in which a commit counts. Nothing is encrypted, signed or published here: whoever
//! may read the folder may read the models in it. A repo's owner is its namespace; a private one is its owner's alone.
//!
//! ```text
//! OWNER/NAME/repo.json         settings, branches, tags
//! OWNER/NAME/revisions/COMMIT.json
//! OWNER/NAME/objects/SHA256    content, once for all revisions of the repo
//! ```

mod state;
mod write;

use std::fs;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use alephlab_api::model::{RecordFile, is_name};
use alephlab_api::{Problem, Secret};
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use subtle::ConstantTimeEq as _;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use self::state::{Manifest, State, load};
use crate::staging::incoming::aside;
use crate::{
    Answer, ByteStream, CommitInfo, Gated, Library, NamedRevision, Page, Refs, RegistryError, Repo, RepoInfo,
    Search,
};

type Result<T, E = RegistryError> = std::result::Result<T, E>;

/// How folders of removed repos begin; no account may be named so.
const GONE: &str = ".gone-";
/// Bytes of a file that are sent at once.
const PIECE: usize = 256 << 10;
/// Revisions in one answer about history.
const HISTORY_MAX: usize = 10_000;

/// Somebody with a token.
#[derive(Debug, Clone)]
pub struct Account {
    /// Also the namespace of its repos.
    pub name: String,
    /// What it sends as a bearer.
    pub token: Secret,
    /// Whether the token is for more than reading.
    pub may_write: bool,
}

/// A folder of repos.
pub struct FolderLibrary {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    accounts: Vec<Account>,
    /// Held while a repo's state is read, changed and replaced.
    changing: Mutex<()>,
}

/// One revision, open for reading.
struct FolderRepo {
    folder: PathBuf,
    info: RepoInfo,
    /// Whether the bearer may read files.
    is_open: bool,
}

impl FolderLibrary {
    /// Opens or makes the folder, for these accounts.
    ///
    /// # Errors
    /// [`RegistryError::Storage`] when it cannot be made.
    pub fn open(root: &Path, accounts: Vec<Account>) -> Result<Arc<Self>> {
        fs::create_dir_all(root).map_err(failed)?;
        // What an interrupted removal left: it was no repo any more.
        for entry in fs::read_dir(root).map_err(failed)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(GONE) {
                fs::remove_dir_all(entry.path()).map_err(failed)?;
            }
        }
        let inner = Inner {
            root: root.to_owned(),
            accounts,
            changing: Mutex::default(),
        };
        Ok(Arc::new(Self {
            inner: Arc::new(inner),
        }))
    }

    /// Does something with files on a thread for such work.
    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Answer<'static, T> {
        let inner = Arc::clone(&self.inner);
        async move { aside(move || work(&inner)).await? }.boxed()
    }

    /// The same for a bearer, who may be nobody, but must not be somebody unknown.
    fn run_for<T: Send + 'static>(
        &self,
        bearer: Option<&Secret>,
        work: impl FnOnce(&Inner, Option<&str>) -> Result<T> + Send + 'static,
    ) -> Answer<'static, T> {
        let account = match bearer.map(|bearer| self.inner.account(bearer)) {
            None => None,
            Some(Some(account)) => Some(account.name.clone()),
            Some(None) => return async { Err(RegistryError::Token) }.boxed(),
        };
        self.run(move |inner| work(inner, account.as_deref()))
    }
}

impl Inner {
    /// Whose token this is. Looks at all of them, so that it takes as long for each.
    fn account(&self, bearer: &Secret) -> Option<&Account> {
        let token = bearer.expose().as_bytes();
        let mut found = None;
        for account in &self.accounts {
            if bool::from(account.token.expose().as_bytes().ct_eq(token)) {
                found = Some(account);
            }
        }
        found
    }

    /// Folder of a repo, whether it is there or not.
    fn folder(&self, id: &str) -> Option<PathBuf> {
        let (owner, name) = id.split_once('/')?;
        (is_name(owner) && is_name(name)).then(|| self.root.join(owner).join(name))
    }

    /// A repo that this account sees.
    fn seen(&self, id: &str, account: Option<&str>) -> Result<Option<(PathBuf, State)>> {
        let Some(folder) = self.folder(id) else {
            return Ok(None);
        };
        let state: Option<State> = load(&folder.join("repo.json")).map_err(failed)?;
        let owner = id.split('/').next();
        Ok(state
            .filter(|state| !state.private || owner == account)
            .map(|state| (folder, state)))
    }

    /// A revision of a repo that this account sees.
    fn open(&self, id: &str, revision: &str, account: Option<&str>) -> Result<Option<FolderRepo>> {
        let Some((folder, state)) = self.seen(id, account)? else {
            return Ok(None);
        };
        let (commit, manifest) = revision_of(&folder, &state, revision)?;
        let owner = id.split('/').next().unwrap_or_default();
        let info = RepoInfo {
            id: id.to_owned(),
            author: owner.to_owned(),
            tags: names_of(&state, &commit),
            revision: commit,
            files: manifest.files,
            card: manifest.card,
            created: state.created,
            modified: manifest.created,
            private: state.private,
            gated: state.gated(),
            ..RepoInfo::default()
        };
        let is_open = state.gated() == Gated::No || account == Some(owner);
        Ok(Some(FolderRepo {
            folder,
            info,
            is_open,
        }))
    }

    /// Ids of all repos.
    fn ids(&self) -> Vec<String> {
        let names = |folder: &Path| -> Vec<String> {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            entries
                .filter_map(|entry| entry.file_name().into_string().ok())
                .collect()
        };
        let below = |owner: String| {
            let names = names(&self.root.join(&owner));
            names.into_iter().map(move |name| format!("{owner}/{name}"))
        };
        names(&self.root).into_iter().flat_map(below).collect()
    }

    fn list(&self, search: &Search, account: Option<&str>) -> Result<Page> {
        let mut found = Vec::new();
        for id in self.ids() {
            found.extend(self.open(&id, "main", account)?.map(|repo| repo.info));
        }
        Ok(search.page(found))
    }

    fn history(&self, id: &str, revision: &str, account: Option<&str>) -> Result<Option<Vec<CommitInfo>>> {
        let Some((folder, state)) = self.seen(id, account)? else {
            return Ok(None);
        };
        let mut next = Some(revision_of(&folder, &state, revision)?);
        let mut history = Vec::new();
        while let Some((commit, manifest)) = next {
            history.push(CommitInfo {
                revision: commit,
                title: manifest.title,
                message: manifest.message,
                author: manifest.author,
                created: manifest.created,
            });
            next = match manifest.parent.filter(|_| history.len() < HISTORY_MAX) {
                Some(parent) => Manifest::load(&folder, &parent)
                    .map_err(failed)?
                    .map(|manifest| (parent, manifest)),
                None => None,
            };
        }
        Ok(Some(history))
    }
}

/// The revision that a name stands for.
fn revision_of(folder: &Path, state: &State, name: &str) -> Result<(String, Manifest)> {
    let unknown = || RegistryError::RevisionNotFound {
        revision: name.to_owned(),
    };
    let commit = state.resolve(name).ok_or_else(unknown)?;
    let manifest = Manifest::load(folder, &commit).map_err(failed)?;
    Ok((commit, manifest.ok_or_else(unknown)?))
}

/// Tags of a commit.
fn names_of(state: &State, commit: &str) -> Vec<String> {
    let tags = state.tags.iter().filter(|(_, at)| *at == commit);
    tags.map(|(name, _)| name.clone()).collect()
}

impl Library for FolderLibrary {
    fn at<'a>(
        &'a self,
        id: &'a str,
        revision: &'a str,
        bearer: Option<&'a Secret>,
    ) -> Answer<'a, Option<Arc<dyn Repo>>> {
        let (id, revision) = (id.to_owned(), revision.to_owned());
        self.run_for(bearer, move |inner, account| {
            let repo = inner.open(&id, &revision, account)?;
            Ok(repo.map(|repo| Arc::new(repo) as Arc<dyn Repo>))
        })
    }

    fn refs<'a>(&'a self, id: &'a str, bearer: Option<&'a Secret>) -> Answer<'a, Option<Refs>> {
        let id = id.to_owned();
        self.run_for(bearer, move |inner, account| {
            let named = |(name, revision): (String, String)| NamedRevision { name, revision };
            let seen = inner.seen(&id, account)?;
            Ok(seen.map(|(_, state)| Refs {
                branches: state.branches.into_iter().map(named).collect(),
                tags: state.tags.into_iter().map(named).collect(),
            }))
        })
    }

    fn commits<'a>(
        &'a self,
        id: &'a str,
        revision: &'a str,
        bearer: Option<&'a Secret>,
    ) -> Answer<'a, Option<Vec<CommitInfo>>> {
        let (id, revision) = (id.to_owned(), revision.to_owned());
        self.run_for(bearer, move |inner, account| {
            inner.history(&id, &revision, account)
        })
    }

    fn list<'a>(&'a self, search: &'a Search, bearer: Option<&'a Secret>) -> Answer<'a, Page> {
        let search = search.clone();
        self.run_for(bearer, move |inner, account| inner.list(&search, account))
    }

    fn who<'a>(&'a self, bearer: &'a Secret) -> Answer<'a, Option<String>> {
        let name = self.inner.account(bearer).map(|account| account.name.clone());
        async move { Ok(name) }.boxed()
    }

    /// It answers one machine, whose programs can read the folder anyhow.
    fn refused(&self, _: SocketAddr) -> bool {
        false
    }
}

impl Repo for FolderRepo {
    fn info(&self) -> &RepoInfo {
        &self.info
    }

    fn gate(&self) -> Result<()> {
        if self.is_open {
            return Ok(());
        }
        Err(RegistryError::Gated {
            message: format!("Access to model {} is restricted: ask its owner", self.info.id),
            price: None,
        })
    }

    fn read(&self, file: &RecordFile, range: Range<u64>) -> Answer<'static, ByteStream> {
        let path = self.folder.join("objects").join(&file.sha256);
        async move {
            let mut file = tokio::fs::File::open(path).await.map_err(unreadable)?;
            file.seek(std::io::SeekFrom::Start(range.start))
                .await
                .map_err(unreadable)?;
            let left = range.end - range.start;
            Ok(futures_util::stream::try_unfold((file, left), piece).boxed())
        }
        .boxed()
    }
}

/// The next bytes of a file, of which so many are left to send.
async fn piece((mut file, left): (tokio::fs::File, u64)) -> Result<Option<(Bytes, (tokio::fs::File, u64))>> {
    if left == 0 {
        return Ok(None);
    }
    let mut buffer = vec![0; usize::try_from(left).unwrap_or(PIECE).min(PIECE)];
    file.read_exact(&mut buffer).await.map_err(unreadable)?;
    let left = left - buffer.len() as u64;
    Ok(Some((buffer.into(), (file, left))))
}

#[expect(clippy::needless_pass_by_value, reason = "what `map_err` passes")]
fn unreadable(error: std::io::Error) -> RegistryError {
    RegistryError::Content {
        problem: Problem::new("folder_io", format!("the library's folder failed: {error}")),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "what `map_err` passes")]
fn failed(error: std::io::Error) -> RegistryError {
    tracing::error!(%error, "the library's folder failed");
    RegistryError::Storage {
        problem: Problem::new("folder_io", format!("the library's folder failed: {error}")),
    }
}
