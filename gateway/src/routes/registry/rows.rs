//! Rows of a model's page: files of a revision, and revisions with what changed.

use alephlab_api::model::{ModelPage, ModelRecord, Visibility};

use crate::routes::contents::encoded;
use crate::routes::words::{self, Day, short_hash};

/// Files and revisions that a page shows at most.
pub(super) const ROWS: usize = 500;

/// One file.
pub(super) struct FileRow {
    pub(super) path: String,
    pub(super) size: String,
    pub(super) sha256: String,
    pub(super) address: String,
}

/// One revision.
pub(super) struct RevisionRow {
    pub(super) commit: String,
    pub(super) short: String,
    pub(super) address: String,
    pub(super) tags: Vec<String>,
    pub(super) made: Day,
    pub(super) size: String,
    pub(super) visibility: Visibility,
    pub(super) changes: String,
    pub(super) here: bool,
    pub(super) newest: bool,
}

/// Files of a revision.
pub(super) fn files(record: &ModelRecord) -> Vec<FileRow> {
    record
        .files
        .iter()
        .take(ROWS)
        .map(|file| FileRow {
            path: file.path.clone(),
            size: words::bytes(file.size),
            sha256: file.sha256.clone(),
            address: format!(
                "/{}/resolve/{}/{}",
                record.name,
                record.commit,
                encoded(&file.path)
            ),
        })
        .collect()
}

/// Revisions of a model; `here` is the one that the page shows.
pub(super) fn revisions(known: &ModelPage, here: &str) -> Vec<RevisionRow> {
    let rows = known.revisions.iter().take(ROWS).enumerate();
    rows.map(|(at, one)| {
        let record = &one.record;
        let before = record
            .parent
            .as_deref()
            .and_then(|parent| known.revisions.iter().find(|one| one.record.commit == parent));
        let size = record
            .files
            .iter()
            .fold(0_u64, |sum, file| sum.saturating_add(file.size));
        RevisionRow {
            commit: record.commit.clone(),
            short: short_hash(&record.commit, 8),
            address: format!("/models/{}?rev={}", record.name, record.commit),
            tags: known
                .tags
                .iter()
                .filter(|(_, commit)| **commit == record.commit)
                .map(|(tag, _)| tag.clone())
                .collect(),
            made: Day::at(record.created),
            size: words::bytes(size),
            visibility: record.visibility,
            changes: match (before, &record.parent) {
                (Some(before), _) => changes(&before.record, record),
                (None, Some(_)) => "After a withdrawn one".to_owned(),
                (None, None) => "The first".to_owned(),
            },
            here: record.commit == here,
            newest: at == 0,
        }
    })
    .collect()
}

/// `2 files changed, 1 new`.
fn changes(before: &ModelRecord, record: &ModelRecord) -> String {
    let old = |path: &str| before.files.iter().find(|file| file.path == path);
    let (mut changed, mut new) = (0, 0);
    for file in &record.files {
        match old(&file.path) {
            None => new += 1,
            Some(old) if old.sha256 != file.sha256 => changed += 1,
            Some(_) => {}
        }
    }
    let gone = before.files.len() + new - record.files.len().min(before.files.len() + new);
    let parts: Vec<_> = [(changed, "changed"), (new, "new"), (gone, "gone")]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    match parts.is_empty() {
        true if before.card != record.card => "Only the card".to_owned(),
        true => "The same files".to_owned(),
        false => format!("Files: {}", parts.join(", ")),
    }
}
