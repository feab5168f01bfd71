//! Writing: what a [`Writer`] must do, and the routes that turn requests of Hub clients into calls of it.
//!
//! Nothing reaches a writer that was not received whole and hashed. What it is given are names, hashes and files on
//! this machine's disk; what a revision is, how it is stored and who signs it is its own business.

mod apply;
mod commit;
mod lfs;
mod ndjson;
mod preupload;
mod repos;

use std::path::PathBuf;
use std::sync::Arc;

use alephlab_api::Secret;
use alephlab_api::model::is_path;
use axum::Router;
use axum::http::HeaderValue;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, post, put};
use serde::de::DeserializeOwned;

use crate::repo::{Asked, Asker};
use crate::{Answer, Gated, Hub, RegistryError, Writing};

type Result<T, E = RegistryError> = std::result::Result<T, E>;

/// Who writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The account; also the namespace of its own repos.
    pub account: String,
    /// Whether the token is for more than reading.
    pub may_write: bool,
}

/// A repo to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRepo {
    /// `namespace/name`, well-formed.
    pub id: String,
    /// What the client asks for; a writer that has only one kind may refuse the other.
    pub private: Option<bool>,
}

/// What may be changed of a repo; what is not given stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Whether only its owner sees it.
    pub private: Option<bool>,
    /// How it lets people in.
    pub gated: Option<Gated>,
}

/// A name that stands for a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefKind {
    /// Moved by commits.
    Branch,
    /// Moved by its owner: removed and made again.
    Tag,
}

/// Content of one file of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// SHA-256 in hex, verified.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
    /// Where the bytes lie until the call returns; nowhere when the writer said by [`Writer::holds`] that it has them.
    pub staged: Option<PathBuf>,
}

/// One change of a commit. Paths are relative, plain, and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A file, new or in place of another.
    Put {
        /// Where.
        path: String,
        /// What.
        content: Content,
    },
    /// A file goes.
    DeleteFile {
        /// Where.
        path: String,
    },
    /// Everything below a folder goes; all of the revision for an empty path.
    DeleteFolder {
        /// Where.
        path: String,
    },
}

/// Changes that become one revision, or none of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCommit {
    /// Branch that moves to the new revision.
    pub branch: String,
    /// What the branch must stand for now, if the client says.
    pub parent: Option<String>,
    /// One line.
    pub title: String,
    /// The rest.
    pub message: String,
    /// In order; a later one of the same path counts.
    pub changes: Vec<Change>,
}

/// What became of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The revision, which without any change is the newest one.
    pub revision: String,
    /// What the person should be told of it, if anything.
    pub told: Option<String>,
}

/// Who may write, and what becomes of it.
///
/// Every method with an id first decides whether the caller sees the repo at all ([`RegistryError::RepoNotFound`]
/// otherwise), then whether it may change it ([`RegistryError::Forbidden`]).
pub trait Writer: Send + Sync + 'static {
    /// Who the bearer is; nobody for an unknown token.
    fn caller<'a>(&'a self, bearer: &'a Secret) -> Answer<'a, Option<Caller>>;

    /// Whether the caller may change this repo. Asked before anything is received for it.
    fn may_write<'a>(&'a self, caller: &'a Caller, id: &'a str) -> Answer<'a, ()>;

    /// Makes a repo with a first, empty revision.
    ///
    /// # Errors
    /// [`RegistryError::Exists`].
    fn create<'a>(&'a self, caller: &'a Caller, new: &'a NewRepo) -> Answer<'a, ()>;

    /// Removes a repo and all of its revisions.
    fn delete<'a>(&'a self, caller: &'a Caller, id: &'a str) -> Answer<'a, ()>;

    /// Gives a repo another id.
    fn rename<'a>(&'a self, caller: &'a Caller, from: &'a str, to: &'a str) -> Answer<'a, ()>;

    /// Changes what `settings` names; what the person should be told of it, if anything.
    fn set<'a>(
        &'a self,
        caller: &'a Caller,
        id: &'a str,
        settings: &'a Settings,
    ) -> Answer<'a, Option<String>>;

    /// Size of content that a commit to this repo may name without uploading it: that of its own revisions, and of
    /// other repos whose files this caller may read. Never anything else, or a hash alone would hand over a file.
    fn holds<'a>(&'a self, caller: &'a Caller, id: &'a str, sha256: &'a str) -> Answer<'a, Option<u64>>;

    /// Makes a revision of the branch's newest one and the changes, and moves the branch; all or nothing.
    ///
    /// # Errors
    /// [`RegistryError::StaleParent`], [`RegistryError::EntryNotFound`] for a path that cannot be deleted.
    fn commit<'a>(&'a self, caller: &'a Caller, id: &'a str, commit: NewCommit) -> Answer<'a, Committed>;

    /// Names a revision, given by any name that it has.
    ///
    /// # Errors
    /// [`RegistryError::Exists`], [`RegistryError::RevisionNotFound`].
    fn set_ref<'a>(
        &'a self,
        caller: &'a Caller,
        id: &'a str,
        kind: RefKind,
        name: &'a str,
        revision: &'a str,
    ) -> Answer<'a, ()>;

    /// Removes a name.
    ///
    /// # Errors
    /// [`RegistryError::RevisionNotFound`].
    fn remove_ref<'a>(
        &'a self,
        caller: &'a Caller,
        id: &'a str,
        kind: RefKind,
        name: &'a str,
    ) -> Answer<'a, ()>;
}

pub(crate) fn routes() -> Router<Arc<Hub>> {
    const MODEL: &str = "/api/models/{namespace}/{name}";
    let at = |rest: &str| format!("{MODEL}{rest}");
    Router::new()
        .route("/api/repos/create", post(repos::create))
        .route("/api/repos/delete", delete(repos::remove))
        .route("/api/repos/move", post(repos::rename))
        .route("/api/validate-yaml", post(repos::validate_yaml))
        .route(&at("/settings"), put(repos::set))
        .route(
            &at("/tag/{revision}"),
            post(repos::add_tag).delete(repos::remove_tag),
        )
        .route(
            &at("/branch/{revision}"),
            post(repos::add_branch).delete(repos::remove_branch),
        )
        .route(&at("/preupload/{revision}"), post(preupload::preupload))
        .route(&at("/commit/{revision}"), post(commit::commit))
        .route("/{namespace}/{name}/info/lfs/objects/batch", post(lfs::batch))
        .route("/lfs/objects/{caller}/{sha256}", put(lfs::put_object))
        .route("/lfs/parts/{caller}/{sha256}", put(lfs::put_part))
        .route("/lfs/complete/{caller}/{sha256}", post(lfs::complete))
        .route("/lfs/verify/{caller}/{sha256}", post(lfs::verify))
}

/// Who asks, if it may write anything here.
///
/// # Errors
/// [`RegistryError::Token`] for nobody, [`RegistryError::Forbidden`] for a token that only reads.
pub(crate) async fn writer<'a>(hub: &'a Hub, asker: &Asker) -> Result<(&'a Writing, Caller)> {
    let writing = hub.writing()?;
    let caller = match &asker.bearer {
        Some(bearer) => writing.writer.caller(bearer).await?,
        None => None,
    };
    let caller = caller.ok_or_else(|| asker.refusal(hub.library(), RegistryError::Token))?;
    if !caller.may_write {
        return Err(RegistryError::Forbidden {
            reason: "this token may only read".to_owned(),
        });
    }
    Ok((writing, caller))
}

/// Who asks, if it may change this repo.
pub(crate) async fn writer_of<'a>(hub: &'a Hub, asker: &Asker, id: &str) -> Result<(&'a Writing, Caller)> {
    let (writing, caller) = writer(hub, asker).await?;
    let may = writing.writer.may_write(&caller, id).await;
    may.map_err(|error| match error {
        RegistryError::RepoNotFound => asker.refusal(hub.library(), error),
        error => error,
    })?;
    Ok((writing, caller))
}

impl Asked {
    /// Who asks, if it may change the repo of the path, and the id of that.
    pub(crate) async fn writer(&self) -> Result<(&Writing, Caller, String)> {
        let id = self.id();
        let (writing, caller) = writer_of(&self.hub, &self.asker, &id).await?;
        Ok((writing, caller, id))
    }
}

/// An answer with what the person should be told: `topic; words`. Clients print it, once for each topic.
fn telling(answer: impl IntoResponse, told: Option<String>) -> Response {
    let mut response = answer.into_response();
    if let Some(Ok(told)) = told.map(|told| HeaderValue::from_str(&told)) {
        response.headers_mut().insert("x-hf-warning", told);
    }
    response
}

/// A JSON body, whatever its content type says: git-lfs has one of its own.
fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body)
        .map_err(|error| RegistryError::invalid(format!("the body cannot be read: {error}")))
}

/// A path that a revision may have: relative, plain, and none that git would refuse on some system.
fn checked_path(path: &str) -> Result<&str> {
    if is_path(path) {
        return Ok(path);
    }
    Err(RegistryError::invalid(format!(
        "`{}` is not a path that a repository may have",
        path.chars().take(100).collect::<String>()
    )))
}

/// A name of a branch or tag.
fn checked_name(name: &str) -> Result<&str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | '+');
    let is_commit = name.len() == 40 && name.bytes().all(|b| b.is_ascii_hexdigit());
    let right = !name.is_empty()
        && name.len() <= 100
        && name.chars().all(plain)
        && name
            .split('/')
            .all(|part| !part.is_empty() && !part.starts_with(['.', '-']))
        && !name.contains("..")
        && !name.ends_with(".lock")
        && !name.starts_with("refs/")
        && !is_commit;
    if right {
        return Ok(name);
    }
    Err(RegistryError::invalid("no branch or tag may be named so"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_plain_paths_only() {
        for path in ["a", "a/b.bin", ".gitattributes", "ä/…"] {
            assert!(checked_path(path).is_ok(), "{path}");
        }
        for path in [
            "",
            "/a",
            "a/",
            "a//b",
            "../a",
            "a/../b",
            "./a",
            ".git/config",
            "a/.GIT/x",
            "a\\b",
            "a\nb",
        ] {
            assert!(checked_path(path).is_err(), "{path}");
        }
    }

    #[test]
    fn takes_plain_names_only() {
        for name in ["v1", "v1.0+x", "feature/a"] {
            assert!(checked_name(name).is_ok(), "{name}");
        }
        let commit = "a".repeat(40);
        for name in [
            "",
            "a b",
            "../x",
            "a//b",
            ".x",
            "refs/heads/a",
            "x.lock",
            commit.as_str(),
        ] {
            assert!(checked_name(name).is_err(), "{name}");
        }
    }
}
