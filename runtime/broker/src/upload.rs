//! Uploading a dataset from a kernel: its files are sealed here as the next version, the owner's machine signs, and wraps the
//! new secret for everybody who could read the version before.

use std::path::{Path, PathBuf};

use alephlab_api::broker::Uploaded;
use alephlab_api::keys::{Ask, KeyReply};
use alephlab_vault::{EpochSecret, Meta, SourceFile, walk};

use crate::ask::unfit;
use crate::report::Report;
use crate::sealing::{blocking, json, seal, unsigned_head};
use crate::{Broker, BrokerError, Result};

impl Broker {
    pub(crate) async fn upload(
        &self,
        dataset: &str,
        path: PathBuf,
        mut meta: Meta,
        report: &Report,
    ) -> Result<Uploaded> {
        report.progress("look at the files", 0, 0, "");
        let (files, bytes) = blocking(move || found(&path)).await?;
        let ask = Ask::PrepareUpload {
            dataset: dataset.to_owned(),
            files: files.len() as u64,
            bytes,
        };
        let prepared = self.prepare(ask, report).await?;
        let secret = EpochSecret::generate()?;
        meta.title = Some(dataset.to_owned());
        let staged = seal(files, meta, &prepared, &secret, report).await?;
        let ask = Ask::SignUploadStores {
            dataset: dataset.to_owned(),
            objects: staged.objects.clone(),
        };
        self.store(ask, &prepared, &staged, report).await?;
        let head = unsigned_head(&prepared, &staged.tree, &secret);
        let ask = Ask::SignUpload {
            dataset: dataset.to_owned(),
            head: json(&head)?,
            secret: json(&prepared.wrap(&secret)?)?,
        };
        report.progress("sign", 0, 0, "");
        let KeyReply::Uploaded {
            version, without_key, ..
        } = self.ask(ask, report).await?
        else {
            return Err(unfit("the request to sign"));
        };
        if version != prepared.version {
            return Err(unfit("the request to sign"));
        }
        tracing::info!(dataset = %prepared.dataset_id, version, "uploaded");
        Ok(Uploaded {
            name: dataset.to_owned(),
            dataset_id: prepared.dataset_id.to_string(),
            version,
            files: staged.tree.files,
            bytes: staged.tree.bytes,
            without_key,
        })
    }
}

/// The files of a folder, or one file, and the sum of their sizes.
fn found(path: &Path) -> Result<(Vec<SourceFile>, u64)> {
    if !path.is_absolute() {
        return Err(BrokerError::Request {
            reason: format!("{} is no whole path", path.display()),
        });
    }
    let files = walk(path)?;
    let mut bytes = 0;
    for file in &files {
        bytes += file.size()?;
    }
    Ok((files, bytes))
}
