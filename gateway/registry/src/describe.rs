//! JSON of the Hub's answers about a repo: model object, entries of a tree, refs.
//!
//! Every file is described as the Hub describes a large one, by the SHA-256 that the signed record holds; its git id
//! is that of the git-lfs pointer.

use std::collections::{BTreeSet, HashMap};

use alephlab_api::model::RecordFile;
use alephlab_api::time;
use serde_json::{Map, Value, json};
use sha1::{Digest as _, Sha1};

use crate::info::{CommitInfo, NamedRevision, Refs};
use crate::{RegistryError, RepoInfo};

/// The model object; `blobs` adds sizes and hashes of files.
pub(crate) fn model(info: &RepoInfo, blobs: bool) -> Value {
    let mut model = summary(info);
    let siblings: Vec<_> = info.files.iter().map(|file| sibling(file, blobs)).collect();
    let card = &info.card;
    let mut data = Map::new();
    for (key, value) in [
        ("license", Some(&card.licence)),
        ("pipeline_tag", card.task.as_ref()),
        ("library_name", card.library.as_ref()),
    ] {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            data.insert(key.to_owned(), value.as_str().into());
        }
    }
    data.insert("tags".to_owned(), card.tags.as_slice().into());
    model["cardData"] = data.into();
    model["siblings"] = siblings.into();
    model["usedStorage"] = info
        .files
        .iter()
        .fold(0_u64, |sum, file| sum.saturating_add(file.size))
        .into();
    model
}

/// The model object of a list: without files.
pub(crate) fn summary(info: &RepoInfo) -> Value {
    let card = &info.card;
    let modified = time::hub(info.modified.max(info.created));
    let mut model = json!({
        "_id": info.revision.get(..24).unwrap_or_default(), "id": info.id, "modelId": info.id, "author": info.author,
        "sha": info.revision, "private": info.private, "gated": info.gated.json(), "disabled": false,
        "downloads": info.downloads, "likes": info.likes, "tags": tags(info), "lastModified": modified,
        "createdAt": time::hub(info.created),
    });
    if let Some(task) = &card.task {
        model["pipeline_tag"] = task.as_str().into();
    }
    if let Some(library) = &card.library {
        model["library_name"] = library.as_str().into();
    }
    if let Some(total) = info.parameters {
        model["safetensors"] = json!({ "parameters": info.tensor_types, "total": total });
    }
    if let Some(aleph) = &info.aleph {
        model["aleph"] = aleph.clone();
    }
    model
}

/// Everything that `filter` finds a model by: its own tags, and task, library and licence as the Hub writes them.
pub(crate) fn tags(info: &RepoInfo) -> Vec<String> {
    let card = &info.card;
    let mut tags = card.tags.clone();
    tags.extend(card.library.clone());
    tags.extend(card.task.clone());
    if !card.licence.is_empty() {
        tags.push(format!("license:{}", card.licence.to_ascii_lowercase()));
    }
    tags.extend(card.dataset.iter().map(|dataset| format!("dataset:{dataset}")));
    let mut seen = BTreeSet::new();
    tags.retain(|tag| seen.insert(tag.clone()));
    tags
}

fn sibling(file: &RecordFile, blobs: bool) -> Value {
    let mut sibling = json!({ "rfilename": file.path });
    if blobs {
        let pointer = pointer(file);
        sibling["size"] = file.size.into();
        sibling["blobId"] = blob_id(pointer.as_bytes()).into();
        sibling["lfs"] = json!({ "sha256": file.sha256, "size": file.size, "pointerSize": pointer.len() });
    }
    sibling
}

/// What lies below a folder, of which a page at a time is described.
pub(crate) struct Tree<'a> {
    info: &'a RepoInfo,
    folders: Vec<String>,
    files: Vec<&'a RecordFile>,
}

/// Entries below a folder, folders first.
pub(crate) fn tree<'a>(info: &'a RepoInfo, below: &str, recursive: bool) -> Tree<'a> {
    let depth = |path: &str| match below {
        "" => path.matches('/').count(),
        below => path
            .get(below.len() + 1..)
            .map_or(0, |rest| rest.matches('/').count()),
    };
    let within =
        |path: &str| below.is_empty() || path.strip_prefix(below).is_some_and(|rest| rest.starts_with('/'));
    let shown = |path: &str| within(path) && (recursive || depth(path) == 0);
    let folders = folders(info).into_iter().filter(|path| shown(path));
    let files = info.files.iter().filter(|file| shown(&file.path));
    Tree {
        info,
        folders: folders.collect(),
        files: files.collect(),
    }
}

impl Tree<'_> {
    pub(crate) fn len(&self) -> usize {
        self.folders.len() + self.files.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One page of it. `expand` adds the commit; it is the listed revision, not the one that last touched the file,
    /// which nothing here remembers.
    pub(crate) fn entries(&self, from: usize, limit: usize, expand: bool) -> Vec<Value> {
        let folders = self.folders.iter().map(|path| Ok(path.as_str()));
        let all = folders.chain(self.files.iter().map(|file| Err(*file)));
        let date = time::hub(self.info.modified.max(self.info.created));
        let described = all.skip(from).take(limit).map(|found| {
            let mut entry = match found {
                Ok(folder) => folder_entry(folder),
                Err(file) => file_entry(file),
            };
            if expand {
                entry["lastCommit"] = json!({ "id": self.info.revision, "title": "", "date": date });
                entry["securityFileStatus"] = Value::Null;
            }
            entry
        });
        described.collect()
    }
}

/// Entries of single paths.
pub(crate) struct Entries<'a> {
    files: HashMap<&'a str, &'a RecordFile>,
    folders: BTreeSet<String>,
}

impl<'a> Entries<'a> {
    pub(crate) fn of(info: &'a RepoInfo) -> Self {
        Self {
            files: info.files.iter().map(|file| (file.path.as_str(), file)).collect(),
            folders: folders(info),
        }
    }

    /// The entry of one path, if the revision has it.
    pub(crate) fn at(&self, path: &str) -> Option<Value> {
        let folder = || self.folders.contains(path).then(|| folder_entry(path));
        let file = self.files.get(path).map(|file| file_entry(file));
        file.or_else(folder)
    }
}

/// Every folder that holds a file.
fn folders(info: &RepoInfo) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for file in &info.files {
        // From the deepest up: what is above a folder that is there is there, too.
        let mut rest = file.path.as_str();
        while let Some((folder, _)) = rest.rsplit_once('/') {
            if all.contains(folder) {
                break;
            }
            all.insert(folder.to_owned());
            rest = folder;
        }
    }
    all
}

/// The file at a path.
///
/// # Errors
/// [`RegistryError::EntryNotFound`] with the revision, so that clients cache the absence.
pub(crate) fn file<'a>(info: &'a RepoInfo, path: &str) -> Result<&'a RecordFile, RegistryError> {
    let found = info.files.iter().find(|file| file.path == path);
    found.ok_or_else(|| RegistryError::EntryNotFound {
        path: path.to_owned(),
        commit: info.revision.clone(),
    })
}

pub(crate) fn refs(refs: &Refs) -> Value {
    let named = |kind: &str, list: &[NamedRevision]| -> Vec<Value> {
        let one = |it: &NamedRevision| json!({ "name": it.name, "ref": format!("refs/{kind}/{}", it.name), "targetCommit": it.revision });
        list.iter().map(one).collect()
    };
    json!({ "branches": named("heads", &refs.branches), "tags": named("tags", &refs.tags), "converts": [] })
}

pub(crate) fn commit(commit: &CommitInfo) -> Value {
    json!({
        "id": commit.revision, "title": commit.title, "message": commit.message, "date": time::hub(commit.created),
        "authors": [{ "user": commit.author }],
    })
}

fn file_entry(file: &RecordFile) -> Value {
    let pointer = pointer(file);
    json!({
        "type": "file", "oid": blob_id(pointer.as_bytes()), "size": file.size, "path": file.path,
        "lfs": { "oid": file.sha256, "size": file.size, "pointerSize": pointer.len() },
    })
}

fn folder_entry(path: &str) -> Value {
    json!({ "type": "directory", "oid": blob_id(path.as_bytes()), "size": 0, "path": path })
}

/// The git-lfs pointer that stands for a file in git.
pub(crate) fn pointer(file: &RecordFile) -> String {
    format!(
        "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n",
        file.sha256, file.size
    )
}

/// Git's id of a blob with these bytes.
pub(crate) fn blob_id(bytes: &[u8]) -> String {
    let mut hash = git_hash(bytes.len() as u64);
    hash.update(bytes);
    hex::encode(hash.finalize())
}

/// Git's hash of a blob of this size, before its first byte.
pub(crate) fn git_hash(size: u64) -> Sha1 {
    Sha1::new_with_prefix(format!("blob {size}\0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> RepoInfo {
        let file = |path: &str| RecordFile {
            path: path.into(),
            size: 3,
            sha256: "0".repeat(64),
        };
        RepoInfo {
            id: "m/x".into(),
            author: "0xAb".into(),
            revision: "a".repeat(40),
            files: vec![file("README.md"), file("onnx/a/model.onnx"), file("onnx/b.bin")],
            ..RepoInfo::default()
        }
    }

    fn paths(entries: &[Value]) -> Vec<&str> {
        entries
            .iter()
            .filter_map(|entry| entry["path"].as_str())
            .collect()
    }

    #[test]
    fn lists_folders_and_files_at_each_depth() {
        let list = |below, recursive| tree(&info(), below, recursive).entries(0, 100, false);
        assert_eq!(paths(&list("", false)), ["onnx", "README.md"]);
        assert_eq!(
            paths(&list("", true)),
            ["onnx", "onnx/a", "README.md", "onnx/a/model.onnx", "onnx/b.bin"]
        );
        assert_eq!(paths(&list("onnx", false)), ["onnx/a", "onnx/b.bin"]);
        assert!(list("none", true).is_empty());
    }

    #[test]
    fn names_blobs_as_git_does() {
        // `printf hello | git hash-object --stdin`
        assert_eq!(blob_id(b"hello"), "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0");
    }

    #[test]
    fn has_every_field_that_some_client_asks_for() {
        let model = model(&info(), true);
        for key in [
            "_id",
            "id",
            "modelId",
            "sha",
            "private",
            "gated",
            "disabled",
            "downloads",
            "likes",
            "tags",
            "lastModified",
            "createdAt",
            "siblings",
            "author",
            "cardData",
            "usedStorage",
        ] {
            assert!(!model[key].is_null(), "{key}");
        }
        assert_eq!(model["gated"], false);
        assert_eq!(model["siblings"][0]["lfs"]["size"], 3);
    }
}
