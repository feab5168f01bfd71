//! `commit`: changes that become one revision, or none of them.
//!
//! Every byte is in the working area, hashed, before the writer hears of the commit. An `lfsFile` names content by its
//! SHA-256; it is taken only if this caller uploaded it, or if the writer says that this caller may read it.

use alephlab_api::model::is_hex;
use axum::Json;
use axum::body::Body;
use axum::extract::Query;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;

use super::ndjson::{Found, Lines};
use super::preupload::Wish;
use super::{Caller, Change, Committed, Content, NewCommit, Result, checked_path, telling};
use crate::repo::Asked;
use crate::staging::incoming::{aside, next_piece};
use crate::staging::{CallerKey, Held, Incoming, Spool};
use crate::{RegistryError, Writing};

/// Changes in one commit.
const CHANGES_MAX: usize = 25_000;
/// The largest file within a commit: some clients put everything there.
const INLINE_MAX: u64 = 512 << 20;

#[derive(Deserialize)]
#[serde(tag = "key", content = "value", rename_all = "camelCase")]
enum Line {
    Header(Header),
    File(File),
    LfsFile(LfsFile),
    DeletedFile(Deleted),
    DeletedFolder(Deleted),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    #[serde(default)]
    summary: String,
    #[serde(default)]
    description: Option<String>,
    parent_commit: Option<String>,
}

#[derive(Deserialize)]
struct File {
    path: String,
    encoding: Option<String>,
}

#[derive(Deserialize)]
struct LfsFile {
    path: String,
    oid: String,
    size: Option<u64>,
    algo: Option<String>,
}

#[derive(Deserialize)]
struct Deleted {
    path: String,
}

/// `POST /api/models/{id}/commit/{branch}`.
pub(super) async fn commit(asked: Asked, Query(wish): Query<Wish>, body: Body) -> Result<Response> {
    let (writing, caller, id) = asked.writer().await?;
    wish.check()?;
    let mut draft = Draft {
        writing,
        caller: &caller,
        key: writing.staging.key(&caller.account),
        held: Vec::new(),
        id: &id,
        header: None,
        changes: Vec::new(),
        incoming: None,
    };
    draft.receive(body).await?;
    let (key, held) = (draft.key.clone(), std::mem::take(&mut draft.held));
    let commit = draft.finish(asked.at.revision.clone())?;
    let staged: Vec<_> = commit.changes.iter().filter_map(staged_hash).collect();
    let Committed { revision, told } = writing.writer.commit(&caller, &id, commit).await?;
    drop(held);
    for sha256 in staged {
        writing.staging.committed(&key, &sha256);
    }
    let url = format!("{}/{id}/commit/{revision}", writing.base);
    let answer = Json(json!({
        "success": true, "commitOid": revision, "commitUrl": url, "hookOutput": "", "pullRequestUrl": null,
    }));
    Ok(telling(answer, told.map(|told| format!("card; {id}: {told}"))))
}

fn staged_hash(change: &Change) -> Option<String> {
    match change {
        Change::Put { content, .. } => content.staged.as_ref().map(|_| content.sha256.clone()),
        Change::DeleteFile { .. } | Change::DeleteFolder { .. } => None,
    }
}

/// A commit that is being received.
struct Draft<'a> {
    writing: &'a Writing,
    caller: &'a Caller,
    key: CallerKey,
    id: &'a str,
    /// Keeps what the changes name until the writer has it.
    held: Vec<Held>,
    header: Option<Header>,
    changes: Vec<Change>,
    incoming: Option<Incoming<Spool>>,
}

impl Draft<'_> {
    async fn receive(&mut self, body: Body) -> Result<()> {
        let (mut lines, mut pieces) = (Lines::default(), body.into_data_stream());
        while let Some(piece) = next_piece(&mut pieces).await? {
            let mut rest = piece.as_ref();
            while let Some(found) = lines.next(&mut rest)? {
                self.take(found).await?;
            }
        }
        if let Some(found) = lines.end()? {
            self.take(found).await?;
        }
        Ok(())
    }

    async fn take(&mut self, found: Found) -> Result<()> {
        match found {
            Found::Content(bytes) => {
                if self.incoming.is_none() {
                    self.incoming = Some(Incoming::new(self.spool()?));
                }
                if let Some(incoming) = &mut self.incoming {
                    incoming.push(&bytes).await?;
                }
                Ok(())
            }
            Found::Line { text, has_content } => {
                let line: Line = super::json(&text)?;
                let content = match self.incoming.take() {
                    Some(incoming) => Some(incoming.end().await?),
                    None if has_content => Some(self.spool()?),
                    None => None,
                };
                self.add(line, content).await
            }
        }
    }

    fn spool(&self) -> Result<Spool> {
        let staging = &self.writing.staging;
        let most = INLINE_MAX.min(staging.limits().object);
        Spool::new(staging, &self.key, most)
    }

    async fn add(&mut self, line: Line, content: Option<Spool>) -> Result<()> {
        if self.changes.len() >= CHANGES_MAX {
            return Err(RegistryError::TooLarge {
                what: "a commit".to_owned(),
                most: format!("{CHANGES_MAX} changes"),
            });
        }
        let change = match (line, content) {
            (Line::Header(header), None) if self.header.is_none() && self.changes.is_empty() => {
                self.header = Some(header);
                return Ok(());
            }
            (Line::File(file), Some(content)) => self.file(&file, content).await?,
            (Line::LfsFile(file), None) => self.lfs_file(&file).await?,
            (Line::DeletedFile(deleted), None) => Change::DeleteFile {
                path: checked_path(&deleted.path)?.to_owned(),
            },
            (Line::DeletedFolder(deleted), None) => Change::DeleteFolder {
                path: folder(&deleted.path)?,
            },
            _ => {
                return Err(RegistryError::invalid(
                    "a line of the commit has too much or too little",
                ));
            }
        };
        self.changes.push(change);
        Ok(())
    }

    async fn file(&mut self, file: &File, content: Spool) -> Result<Change> {
        if file.encoding.as_deref() != Some("base64") {
            return Err(RegistryError::invalid(
                "the content of files in a commit is base64",
            ));
        }
        let path = checked_path(&file.path)?.to_owned();
        let (sha256, size) = aside(move || content.keep_object(None)).await??;
        let staged = self.staged(&path, &sha256, size)?;
        Ok(Change::Put {
            path,
            content: staged,
        })
    }

    async fn lfs_file(&mut self, file: &LfsFile) -> Result<Change> {
        if file
            .algo
            .as_deref()
            .is_some_and(|algorithm| algorithm != "sha256")
            || !is_hex(&file.oid, 64)
        {
            return Err(RegistryError::invalid("large files are named by SHA-256"));
        }
        let path = checked_path(&file.path)?.to_owned();
        let right = |size: u64| file.size.is_none_or(|expected| expected == size);
        let staged = self.writing.staging.hold(&self.key, &file.oid);
        let content = match staged.filter(|(staged, _)| right(staged.size)) {
            Some((staged, held)) => {
                self.held.push(held);
                Content {
                    sha256: file.oid.clone(),
                    size: staged.size,
                    staged: Some(staged.path),
                }
            }
            None => self.held(&path, file).await?,
        };
        Ok(Change::Put { path, content })
    }

    /// Content that is in the library already, if this caller may read it.
    async fn held(&self, path: &str, file: &LfsFile) -> Result<Content> {
        let held = self.writing.writer.holds(self.caller, self.id, &file.oid).await?;
        match held {
            Some(size) if file.size.is_none_or(|expected| expected == size) => Ok(Content {
                sha256: file.oid.clone(),
                size,
                staged: None,
            }),
            // The same for content that nobody has and for somebody else's.
            _ => Err(not_uploaded(path, &file.oid)),
        }
    }

    fn staged(&mut self, path: &str, sha256: &str, size: u64) -> Result<Content> {
        let staged = self.writing.staging.hold(&self.key, sha256);
        let (staged, held) = staged.ok_or_else(|| not_uploaded(path, sha256))?;
        self.held.push(held);
        Ok(Content {
            sha256: sha256.to_owned(),
            size,
            staged: Some(staged.path),
        })
    }

    fn finish(self, branch: String) -> Result<NewCommit> {
        let header = self.header;
        let header = header.ok_or_else(|| RegistryError::invalid("the commit has no header"))?;
        let title = header.summary.trim();
        if title.is_empty() {
            return Err(RegistryError::invalid("the commit has no summary"));
        }
        Ok(NewCommit {
            branch,
            parent: header.parent_commit,
            title: title.to_owned(),
            message: header.description.unwrap_or_default(),
            changes: self.changes,
        })
    }
}

fn not_uploaded(path: &str, sha256: &str) -> RegistryError {
    RegistryError::NotUploaded {
        path: path.to_owned(),
        sha256: sha256.to_owned(),
    }
}

/// A folder as clients write it: with a slash at its end, and `/` or nothing for all.
fn folder(path: &str) -> Result<String> {
    match path.trim_end_matches('/').trim_start_matches("./") {
        "" | "." => Ok(String::new()),
        path => Ok(checked_path(path)?.to_owned()),
    }
}
