//! `preupload`: which files of an upload go into the commit itself and which are uploaded before it, and which the
//! client may leave out because they are there already.

use alephlab_api::model::RecordFile;
use axum::Json;
use axum::extract::Query;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use serde::Deserialize;
use serde_json::{Value, json};
use sha1::Digest as _;

use super::{Result, checked_path, json};
use crate::repo::{Asked, yes};
use crate::{RegistryError, Repo, describe};

/// Files in one request.
const FILES_MAX: usize = 256;
/// The largest file that a client is told to put into a commit.
const REGULAR_MAX: u64 = 5 << 20;
/// Endings of names that are weights whatever their first bytes look like.
const WEIGHTS: [&str; 12] = [
    "safetensors",
    "bin",
    "gguf",
    "onnx",
    "pt",
    "pth",
    "npz",
    "npy",
    "parquet",
    "zip",
    "gz",
    "tar",
];

#[derive(Deserialize)]
struct Request {
    files: Vec<Wanted>,
}

#[derive(Deserialize)]
struct Wanted {
    path: String,
    #[serde(default)]
    sample: String,
    size: u64,
}

#[derive(Deserialize)]
pub(super) struct Wish {
    create_pr: Option<String>,
}

impl Wish {
    /// # Errors
    /// [`RegistryError::Invalid`] for a pull request, of which there are none.
    pub(super) fn check(&self) -> Result<()> {
        if yes(self.create_pr.as_deref()) {
            return Err(RegistryError::invalid(
                "this registry has no pull requests: commit to a branch",
            ));
        }
        Ok(())
    }
}

/// `POST /api/models/{id}/preupload/{revision}`.
pub(super) async fn preupload(asked: Asked, Query(wish): Query<Wish>, body: Bytes) -> Result<Json<Value>> {
    asked.writer().await?;
    wish.check()?;
    let request: Request = json(&body)?;
    if request.files.len() > FILES_MAX {
        return Err(RegistryError::TooLarge {
            what: format!("a list of {} files", request.files.len()),
            most: format!("{FILES_MAX} files"),
        });
    }
    let repo = asked.repo().await?;
    let mut files = Vec::new();
    for wanted in &request.files {
        let path = checked_path(&wanted.path)?;
        let mode = mode(wanted);
        let mut file = json!({ "path": path, "uploadMode": mode, "shouldIgnore": false });
        if let Some(there) = repo.info().files.iter().find(|file| file.path == path)
            && there.size == wanted.size
        {
            file["oid"] = match mode {
                "lfs" => there.sha256.as_str().into(),
                _ => git_id(repo.as_ref(), there).await?.into(),
            };
        }
        files.push(file);
    }
    Ok(Json(json!({ "files": files })))
}

/// Short text goes into the commit.
fn mode(wanted: &Wanted) -> &'static str {
    let ending = wanted.path.rsplit('.').next().unwrap_or_default();
    let is_weights = WEIGHTS.iter().any(|weights| ending.eq_ignore_ascii_case(weights));
    let sample = STANDARD.decode(&wanted.sample).unwrap_or_default();
    // The sample may end within a character.
    let is_text = match std::str::from_utf8(&sample) {
        Ok(_) => true,
        Err(error) => error.error_len().is_none(),
    };
    if wanted.size <= REGULAR_MAX && !is_weights && is_text && !sample.contains(&0) {
        "regular"
    } else {
        "lfs"
    }
}

/// Git's id of the file that is there, which clients compare small files by.
async fn git_id(repo: &dyn Repo, file: &RecordFile) -> Result<String> {
    repo.gate()?;
    let mut hash = describe::git_hash(file.size);
    if file.size > 0 {
        let mut pieces = repo.read(file, 0..file.size).await?;
        while let Some(piece) = pieces.try_next().await? {
            hash.update(&piece);
        }
    }
    Ok(hex::encode(hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_text_goes_into_the_commit() {
        let mode_of = |path: &str, sample: &[u8], size| {
            mode(&Wanted {
                path: path.into(),
                sample: STANDARD.encode(sample),
                size,
            })
        };
        assert_eq!(mode_of("README.md", b"# a", 3), "regular");
        assert_eq!(mode_of("a.txt", &"ä".as_bytes()[..1], 2), "regular");
        assert_eq!(mode_of("a.txt", b"a\0b", 3), "lfs");
        assert_eq!(mode_of("a.txt", b"\xff\xfe", 2), "lfs");
        assert_eq!(mode_of("vocab.json", b"{}", 6 << 20), "lfs");
        assert_eq!(mode_of("model.SafeTensors", b"", 0), "lfs");
    }
}
