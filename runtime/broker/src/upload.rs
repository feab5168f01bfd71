//! Uploading a dataset from a kernel: its files are sealed here as the next version, the owner's machine signs, and wraps the
//! new secret for everybody who could read the version before.

use std::path::{Path, PathBuf};

use alephlab_api::broker::Uploaded;
use alephlab_api::keys::{Ask, KeyReply, stores_text, upload_text};
use alephlab_vault::{DEFAULT_OBJ_LOG2, EpochSecret, Meta, Source, SourceFile, walk};

use crate::ask::unfit;
use crate::reach::Reach;
use crate::report::Report;
use crate::sealing::{blocking, json, seal, unsigned_head};
use crate::{Broker, BrokerError, Result, now};

impl Broker {
    pub(crate) async fn upload(
        &self,
        dataset: &str,
        path: PathBuf,
        mut meta: Meta,
        report: &Report,
    ) -> Result<Uploaded> {
        let reach = self.reach.clone();
        report.progress("look at the files", 0, 0, "");
        let Found {
            files,
            count,
            bytes,
            large,
        } = blocking(move || found(&path, &reach)).await?;
        let ask = Ask::PrepareUpload {
            dataset: dataset.to_owned(),
            files: count,
            bytes,
            large,
        };
        let prepared = self.prepare(ask, report).await?;
        let secret = EpochSecret::generate()?;
        meta.title = Some(dataset.to_owned());
        meta.created = Some(now());
        let staged = seal(files.into(), meta, &prepared, (&secret, None), report).await?;
        if staged.tree.bytes != bytes {
            return Err(BrokerError::Request {
                reason: "a file changed while it was being uploaded; upload it again".to_owned(),
            });
        }
        let ask = Ask::SignUploadStores {
            dataset: dataset.to_owned(),
            proof: prepared.proof(&stores_text(dataset, &staged.objects))?,
            objects: staged.objects.clone(),
        };
        self.store(ask, &prepared, &staged, report).await?;
        let head = unsigned_head(&prepared, &staged.tree, &secret);
        let ask = Ask::SignUpload {
            dataset: dataset.to_owned(),
            proof: prepared.proof(&upload_text(dataset, &hex::encode(head.hash())))?,
            head: json(&head)?,
            secret: json(&prepared.wrap(&secret, &staged.tree)?)?,
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

/// What is to be uploaded.
struct Found {
    /// Files and empty folders.
    files: Vec<SourceFile>,
    count: u64,
    bytes: u64,
    /// Sizes of files that take objects of their own.
    large: Vec<u64>,
}

/// The files of a folder, or one file.
fn found(path: &Path, reach: &Reach) -> Result<Found> {
    if !path.is_absolute() {
        return Err(BrokerError::Request {
            reason: format!("{} is no whole path", path.display()),
        });
    }
    reach.check(path)?;
    let files: Vec<_> = walk(path)?.into_iter().map(|file| reach.bound(file)).collect();
    let (mut count, mut bytes, mut large) = (0, 0, Vec::new());
    for file in files
        .iter()
        .filter(|file| !matches!(file.source, Source::Directory))
    {
        let size = file.size()?;
        count += 1;
        bytes += size;
        if size >= (1 << DEFAULT_OBJ_LOG2) / 4 {
            large.push(size);
        }
    }
    Ok(Found {
        files,
        count,
        bytes,
        large,
    })
}
