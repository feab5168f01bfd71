//! V1: every file has the size and SHA-256 that the manifest says, and there is no other file.

use std::collections::BTreeMap;

use alephlab_api::model::{RecordFile, is_path};
use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::reader::{Reader, Stop, shown};
use crate::report::{Finding, Findings, canonical, sha256};
use crate::source::Source;

/// SHA-256, in hex, of the canonical manifest: JSON of path, sha256 and size, sorted by path.
pub fn manifest_hash(manifest: &[RecordFile]) -> String {
    let mut sorted: Vec<&RecordFile> = manifest.iter().collect();
    sorted.sort_by(|a, b| (&a.path, &a.sha256, a.size).cmp(&(&b.path, &b.sha256, b.size)));
    sha256(&canonical(&sorted))
}

/// Makes the manifest of a source that has none yet, such as a folder before it is published.
///
/// # Errors
/// When a file cannot be read.
pub fn manifest_of(source: &dyn Source) -> Result<Vec<RecordFile>> {
    let mut manifest = Vec::new();
    for (number, entry) in source.entries().iter().enumerate() {
        let sha256 = match digest(source, number)? {
            Digested::Whole(digest) => digest,
            // Nothing has this digest, so the check says what is wrong with the file.
            Digested::Short => "0".repeat(64),
        };
        manifest.push(RecordFile {
            path: entry.path.clone(),
            size: entry.size,
            sha256,
        });
    }
    manifest.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(manifest)
}

/// Reads every byte and compares.
pub(crate) fn check(source: &dyn Source, manifest: &[RecordFile]) -> Result<Findings> {
    let mut findings = Findings::default();
    let mut note = |file: &str, why: String| {
        findings.add(Finding {
            file: file.to_owned(),
            what: "a file of the manifest".to_owned(),
            why,
            hint: "publish the revision again; what was fetched is not what the manifest names".to_owned(),
        });
    };
    let mut expected = BTreeMap::new();
    let mut folded = BTreeMap::new();
    for file in manifest {
        if !is_path(&file.path) {
            note(
                &file.path,
                format!("`{}` is no plain relative path", shown(&file.path)),
            );
        }
        if expected.insert(file.path.as_str(), file).is_some() {
            note(
                &file.path,
                format!("`{}` is in the manifest twice", shown(&file.path)),
            );
        } else if folded.insert(file.path.to_lowercase(), ()).is_some() {
            note(
                &file.path,
                format!(
                    "`{}` differs from another path only in its case",
                    shown(&file.path)
                ),
            );
        }
    }
    for (number, entry) in source.entries().iter().enumerate() {
        let name = shown(&entry.path);
        let Some(file) = expected.remove(entry.path.as_str()) else {
            note(&entry.path, format!("`{name}` is not in the manifest"));
            continue;
        };
        if file.size != entry.size {
            note(
                &entry.path,
                format!("`{name}` has {} bytes and not {}", entry.size, file.size),
            );
            continue;
        }
        match digest(source, number)? {
            Digested::Whole(digest) if digest == file.sha256 => {}
            Digested::Whole(digest) => {
                note(
                    &entry.path,
                    format!(
                        "`{name}` has the SHA-256 {digest} and not {}",
                        shown(&file.sha256)
                    ),
                );
            }
            Digested::Short => note(
                &entry.path,
                format!("`{name}` ends before its size of {}", entry.size),
            ),
        }
    }
    for path in expected.into_keys() {
        note(path, format!("`{}` is missing", shown(path)));
    }
    Ok(findings)
}

enum Digested {
    Whole(String),
    Short,
}

fn digest(source: &dyn Source, entry: usize) -> Result<Digested> {
    let mut reader = Reader::new(source, entry);
    let mut hash = Sha256::new();
    while reader.left() > 0 {
        match reader.chunk() {
            Ok(chunk) => hash.update(chunk),
            Err(Stop::Source(error)) => return Err(error),
            Err(Stop::Fault(_)) => return Ok(Digested::Short),
        }
    }
    Ok(Digested::Whole(hex::encode(hash.finalize())))
}
