//! The job itself: accounts, dataset, training, share, and the second account's use of it.
//!
//! Every step goes through the same doors as a user's own work: POST /api/kernels, the channels, keys, shares.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use alephlab_api::client::GatewayClient;
use alephlab_api::share::ShareLimits;
use alephlab_vault::share::ShareToken;
use alephlab_vault::{Meta, find_head, put_dataset, register_reader_key, walk};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::account::Account;
use crate::data::DataFolder;
use crate::error::{CliError, Result};
use crate::jupyter::notebook::Notebook;
use crate::jupyter::session::{self, Place};
use crate::keys::{Books, DatasetEntry};
use crate::progress::Reporter;
use crate::services::{self, Services};
use crate::shares::{self, Shared};
use crate::stop::or_stop;

/// The second account, which only ever gets the share.
pub(super) const READER: &str = "reader";
/// Local name of the dataset, as the notebook mounts it.
const DATASET: &str = "digits";
/// What the notebook must reach on images that it has not trained on.
const ACCURACY_MIN: f64 = 0.97;
/// How long the reader's keys may take to end.
const KEYS_STOP: Duration = Duration::from_secs(5);
/// Start of the line in which a notebook tells its result.
const RESULT: &str = "ALEPHLAB_RESULT";

/// What the job needs.
pub(super) struct Job<'a> {
    /// Everything that runs.
    pub services: &'a Services,
    /// Shows the phases.
    pub reporter: &'a Reporter,
    /// Cancelled by Ctrl-C.
    pub stop: &'a CancellationToken,
    /// Where accounts and notebooks lie.
    pub data: &'a DataFolder,
    /// The workspace, with notebooks and dataset.
    pub root: Option<PathBuf>,
}

/// What came of it.
pub(super) struct Outcome {
    /// Of the trained model.
    pub accuracy: f64,
    /// Of the second account's copy.
    pub pulled_accuracy: f64,
    /// Id of the dataset.
    pub dataset: String,
    /// `owner/name`.
    pub model: String,
    /// 40 hex digits.
    pub revision: String,
    /// Identity of the share.
    pub share_uuid: Uuid,
    /// What opens it.
    pub share_token: ShareToken,
    /// Folder of the executed notebooks.
    pub notebooks: PathBuf,
}

struct Trained {
    accuracy: f64,
    model: String,
    revision: String,
}

impl Job<'_> {
    /// Does everything in order; the first failure ends it.
    pub(super) async fn run(self) -> Result<Outcome> {
        let root = self.root.clone().ok_or_else(|| CliError::Program {
            program: "quickstart",
            reason: "Alephlab's sources, with its notebooks and dataset, were not found".to_owned(),
        })?;
        let notebooks = root.join("notebooks");
        let kept = self.data.notebooks();
        self.data.make(&kept)?;
        let reader = or_stop(self.stop, "making accounts", self.accounts()).await?;
        let files = notebooks.join("data").join(DATASET);
        let dataset = or_stop(self.stop, "uploading the dataset", self.dataset(&files)).await?;
        let trained = self.train(&notebooks.join("quickstart.ipynb"), &kept).await?;
        let shared = or_stop(self.stop, "sharing the model", self.share(&trained)).await?;
        let pulled_accuracy = self
            .pull(&notebooks.join("pull.ipynb"), &kept, &reader, &shared)
            .await?;
        if (pulled_accuracy - trained.accuracy).abs() > f64::EPSILON {
            let message = format!(
                "the pulled model reads {pulled_accuracy} of the digits correctly, but the published one {}",
                trained.accuracy
            );
            return Err(CliError::Check { message });
        }
        Ok(Outcome {
            accuracy: trained.accuracy,
            pulled_accuracy,
            dataset,
            model: shared.model,
            revision: shared.revision,
            share_uuid: shared.uuid,
            share_token: shared.token,
            notebooks: kept,
        })
    }

    async fn accounts(&self) -> Result<Arc<Account>> {
        let phase = self.reporter.phase(
            "accounts",
            "making two accounts and registering their reader keys",
        );
        let reader = Arc::new(Account::open_or_create(self.data, READER)?);
        for account in [&*self.services.account, &reader] {
            register_reader_key(&*self.services.storage, account.wallet(), account.reader())
                .await
                .map_err(|error| CliError::vault("a reader key was not registered", &error))?;
        }
        phase.finish(&format!(
            "{} {}, {READER} {}",
            self.services.account.name(),
            self.services.account.address(),
            reader.address()
        ));
        Ok(reader)
    }

    async fn dataset(&self, folder: &Path) -> Result<String> {
        let phase = self
            .reporter
            .phase("dataset", "packing and encrypting the digits");
        let fail = |error| CliError::vault("the dataset was not uploaded", &error);
        let account = &self.services.account;
        let books = Books::of(account);
        let storage = &self.services.storage;
        let previous = match books.datasets()?.get(DATASET) {
            Some(entry) => {
                let id = entry.dataset_id.parse().map_err(fail)?;
                find_head(&**storage, &account.address(), &id)
                    .await
                    .map_err(fail)?
            }
            None => None,
        };
        let show = |step: alephlab_vault::Progress| phase.progress(step.done, step.total, step.phase);
        let files = walk(folder).map_err(fail)?;
        let put = put_dataset(
            storage.clone(),
            account.wallet(),
            account.reader(),
            files,
            meta(),
            previous,
            &show,
        );
        let put = put.await.map_err(fail)?;
        let dataset_id = put.dataset_id.to_string();
        books.set_dataset(
            DATASET,
            DatasetEntry {
                dataset_id: dataset_id.clone(),
            },
        )?;
        phase.finish(&match put.unchanged {
            true => format!("version {} is already on the Aleph node", put.version),
            false => format!(
                "version {} uploaded: {} files, {} bytes encrypted",
                put.version, put.files, put.uploaded
            ),
        });
        Ok(dataset_id)
    }

    async fn train(&self, source: &Path, kept: &Path) -> Result<Trained> {
        let place = Place {
            gateway: &self.services.gateway,
            token: &self.services.token,
            reporter: self.reporter,
            stop: self.stop,
        };
        let mut notebook = Notebook::read(source)?;
        let result = self
            .execute(
                &place,
                ["kernel", "training"],
                &mut notebook,
                &kept.join("quickstart.ipynb"),
            )
            .await?;
        let accuracy = number(&result, "accuracy")?;
        if accuracy < ACCURACY_MIN {
            let message = format!(
                "the model reads only {accuracy} of the held-back digits correctly, not {ACCURACY_MIN}"
            );
            return Err(CliError::Check { message });
        }
        Ok(Trained {
            accuracy,
            model: text(&result, "model")?,
            revision: text(&result, "revision")?,
        })
    }

    async fn share(&self, trained: &Trained) -> Result<Shared> {
        let phase = self
            .reporter
            .phase("share", "making a token on the owner's machine");
        let name = trained.model.rsplit('/').next().unwrap_or_default();
        let reference = format!("{name}@{}", trained.revision);
        let shared =
            shares::create(&self.services.engine(), &reference, None, ShareLimits::default()).await?;
        phase.finish(&format!("{} opens {}", shared.uuid, shared.model));
        Ok(shared)
    }

    async fn pull(&self, source: &Path, kept: &Path, reader: &Arc<Account>, shared: &Shared) -> Result<f64> {
        let gateway = GatewayClient::new(&self.services.gateway_url, None)?;
        let token = or_stop(self.stop, "signing in", reader.sign_in(&gateway)).await?;
        let gateway = gateway.with_token(token.clone());
        let place = Place {
            gateway: &gateway,
            token: &token,
            reporter: self.reporter,
            stop: self.stop,
        };
        // The reader's own machine keeps the token, so that it is in no cell: the gateway relays cells.
        Books::of(reader).accept(shared.uuid, &shared.token)?;
        let keys = services::start_keys(self.data, &gateway, &token, reader, &self.services.storage)?;
        let mut notebook = Notebook::read(source)?;
        notebook.inject(&[("share_uuid".to_owned(), shared.uuid.to_string())])?;
        let result = self
            .execute(
                &place,
                ["reader_kernel", "pull"],
                &mut notebook,
                &kept.join("pull.ipynb"),
            )
            .await;
        keys.stop(KEYS_STOP).await;
        number(&result?, "pulled_accuracy")
    }

    /// A fresh kernel, the notebook on it, its outputs kept, the kernel deleted.
    async fn execute(
        &self,
        place: &Place<'_>,
        [allocate, run]: [&'static str; 2],
        notebook: &mut Notebook,
        kept: &Path,
    ) -> Result<Value> {
        let kernel = session::start(place, allocate).await?;
        let ran = session::run(place, run, kernel, notebook).await;
        notebook.forget_parameters();
        let written = notebook.write(kept);
        session::stop(place, kernel).await;
        ran?;
        written?;
        notebook.result_after(RESULT).ok_or_else(|| CliError::Check {
            message: format!(
                "{} ran but printed no line that starts with {RESULT}",
                kept.display()
            ),
        })
    }
}

/// What the sealed manifest says of the digits; constant, so that an unchanged folder stays the same version.
fn meta() -> Meta {
    Meta {
        title: Some("Handwritten digits".to_owned()),
        description: Some(
            "1,797 images of 8 x 8 pixels, from the UCI Machine Learning Repository".to_owned(),
        ),
        licence: Some("CC-BY-4.0".to_owned()),
        created: None,
    }
}

fn number(result: &Value, key: &str) -> Result<f64> {
    result[key].as_f64().ok_or_else(|| missing(key))
}

fn text(result: &Value, key: &str) -> Result<String> {
    result[key]
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| missing(key))
}

fn missing(key: &str) -> CliError {
    CliError::Check {
        message: format!("the notebook's result has no {key}"),
    }
}
