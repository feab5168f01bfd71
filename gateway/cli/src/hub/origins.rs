//! Where the bytes of a revision to be come from: what a client has sent, and what the account may read already.
//!
//! Content that is there already is named by its hash and not sent again; across repos only that way from the client to this hub is
//! spared, since every model is sealed under keys of its own.

use std::sync::{Arc, PoisonError};

use alephlab_api::model::{ModelRecord, RecordFile};
use alephlab_registry::{Change, NewCommit, RegistryError};

use super::Sealed;
use super::repo::{content, storage};
use super::writer::Own;
use crate::error::CliError;
use crate::models::{Entitled, Lies, Model, Origin, refuse_code};

type Result<T, E = RegistryError> = std::result::Result<T, E>;

/// Hashes of content that is to be sent although it is there.
const DISTRUSTED_MAX: usize = 10_000;

impl Sealed {
    /// Where the bytes of one file of the revision to be come from.
    pub(super) async fn origin(
        &self,
        own: &Own,
        before: &[RecordFile],
        file: &RecordFile,
        commit: &NewCommit,
    ) -> Result<Origin> {
        let is_same = |old: &&RecordFile| old.path == file.path && old.sha256 == file.sha256;
        if before.iter().any(|old| is_same(&old)) {
            return Ok(Origin::Kept(file.path.clone()));
        }
        let staged = commit.changes.iter().rev().find_map(|change| match change {
            Change::Put { path, content } if *path == file.path && content.sha256 == file.sha256 => {
                content.staged.clone()
            }
            _ => None,
        });
        if let Some(staged) = staged {
            return Ok(Origin::File(staged));
        }
        // Content that this account may read, under another path or in another repo.
        let missing = || RegistryError::NotUploaded {
            path: file.path.clone(),
            sha256: file.sha256.clone(),
        };
        if let Some(old) = before.iter().find(|old| old.sha256 == file.sha256) {
            return Ok(Origin::Kept(old.path.clone()));
        }
        let (record, path) = self.readable(own, &file.sha256).await?.ok_or_else(missing)?;
        let opened = self
            .registry
            .open(&record)
            .await
            .map_err(|error| content(&error))?;
        Ok(Origin::Sealed(opened.ok_or_else(missing)?, path))
    }

    /// A revision that this account may read and that has content with this hash, and the path there.
    pub(super) async fn readable(
        &self,
        own: &Own,
        sha256: &str,
    ) -> Result<Option<(Arc<ModelRecord>, String)>> {
        let distrusted = self
            .distrusted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(sha256);
        if distrusted {
            return Ok(None);
        }
        let in_model = |model: &Model| {
            model.revisions.iter().rev().find_map(|revision| {
                let file = revision.record.files.iter().find(|file| file.sha256 == sha256)?;
                Some((Arc::clone(&revision.record), file.path.clone()))
            })
        };
        if let Some(found) = own.model.as_ref().and_then(in_model) {
            return Ok(Some(found));
        }
        let all = self.registry.own().await.map_err(|error| content(&error))?;
        if let Some(found) = all.values().find_map(in_model) {
            return Ok(Some(found));
        }
        let granted = self.registry.granted().await.map_err(|error| content(&error))?;
        for model in &granted {
            if let Some((record, path)) = in_model(model) {
                match self.registry.open(&record).await {
                    Ok(Some(_)) => return Ok(Some((record, path))),
                    Ok(None) => {}
                    // Then it is sent: what another has granted keeps nothing from being uploaded.
                    Err(error) => tracing::debug!(%error, "a granted model cannot be read"),
                }
            }
        }
        Ok(None)
    }

    /// Takes note of content of others that a commit which failed was to take: they may have named a hash that is not that of its
    /// bytes, or its objects may be gone. Clients are asked for it from then on.
    pub(super) fn distrust(&self, origins: &[(String, Origin)]) {
        let hashes = origins.iter().filter_map(|(_, origin)| match origin {
            Origin::Sealed(opened, from) if opened.by != Entitled::Owner => {
                let entry = opened.reader.entry(from)?;
                Some(hex::encode(entry.sha256))
            }
            _ => None,
        });
        let mut distrusted = self.distrusted.lock().unwrap_or_else(PoisonError::into_inner);
        if distrusted.len() >= DISTRUSTED_MAX {
            distrusted.clear();
        }
        distrusted.extend(hashes);
    }

    /// Refuses what carries code, before anything is sealed. What the revision before has under the same path is there already.
    pub(super) async fn refuse(&self, own: &Own, origins: &[(String, Origin)]) -> Result<()> {
        let is_moved =
            |(path, origin): &(String, Origin)| matches!(origin, Origin::Kept(from) if from != path);
        let newest = own.model.as_ref().and_then(Model::newest);
        let before = match newest.filter(|_| origins.iter().any(is_moved)) {
            Some(newest) => self
                .registry
                .open(&newest.record)
                .await
                .map_err(|error| content(&error))?,
            None => None,
        };
        let new = origins.iter().filter_map(|(path, origin)| {
            let lies = match origin {
                Origin::File(place) => Lies::Here(place.clone()),
                Origin::Sealed(opened, from) => Lies::Sealed(Arc::clone(opened), from.clone()),
                Origin::Kept(from) if from != path => {
                    Lies::Sealed(Arc::clone(before.as_ref()?), from.clone())
                }
                Origin::Kept(_) | Origin::Bytes(_) => return None,
            };
            Some((path.clone(), lies))
        });
        match refuse_code(new.collect()).await {
            Ok(()) => Ok(()),
            Err(CliError::Refused { problem }) => Err(RegistryError::Invalid {
                reason: match problem.hint {
                    Some(hint) => format!("{}; {hint}", problem.message),
                    None => problem.message,
                },
            }),
            Err(error) => Err(storage(&error)),
        }
    }
}
