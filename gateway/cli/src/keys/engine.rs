//! Uses the keys of one account to answer a call that was agreed to.
//!
//! It decides nothing: `consent` has said yes. What a kernel asks for is checked against what this machine itself
//! prepared, so that a kernel can neither name another dataset's version nor have a foreign head signed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use alephlab_api::Problem;
use alephlab_api::client::GatewayClient;
use alephlab_api::keys::{Ask, KeyCall, KeyReply, KeyRequest};
use alephlab_api::model::Visibility;
use alephlab_vault::storage::Storage;
use alephlab_vault::{Address, DatasetId, Keys};

use super::books::Books;
use crate::account::Account;
use crate::error::{CliError, Result};
use crate::models::Index;

/// A dataset's id and its sealed title.
type Titled = (DatasetId, Option<String>);

/// The keys of one account, for kernels of one gateway.
pub(crate) struct Engine {
    pub(super) account: Arc<Account>,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) gateway: GatewayClient,
    pub(super) books: Books,
    /// Keys that were narrowed to one version, by the hash of its head: the storage of each costs.
    pub(super) narrowed: Mutex<BTreeMap<[u8; 32], Arc<Keys>>>,
    /// Datasets of other owners by owner and name, as they were found, with their titles.
    pub(super) granted: Mutex<BTreeMap<(Address, String), Titled>>,
    /// Own datasets that another machine has published, until one of them is opened and so gets its name here.
    pub(super) elsewhere: Mutex<Elsewhere>,
    /// What owners have signed of their models, as this account sees it.
    pub(super) index: Index,
    /// Models of other owners that a reference named, as they were found last.
    pub(super) models: Mutex<BTreeMap<ModelAt, GrantedModel>>,
}

/// Owner, name, and revision or tag.
pub(super) type ModelAt = (Address, String, Option<String>);

/// A revision of a model of another owner.
#[derive(Clone)]
pub(super) struct GrantedModel {
    /// Its plain name.
    pub(super) name: String,
    pub(super) dataset_id: DatasetId,
    pub(super) revision: String,
}

/// What was found of this account's own datasets, and when.
#[derive(Default)]
pub(super) struct Elsewhere {
    pub(super) looked: Option<Instant>,
    pub(super) named: Vec<(String, DatasetId)>,
}

impl Engine {
    /// An engine for calls that come through `gateway`.
    pub(crate) fn new(account: Arc<Account>, storage: Arc<dyn Storage>, gateway: GatewayClient) -> Self {
        let books = Books::of(&account);
        Self {
            index: Index::new(Arc::clone(&account), Arc::clone(&storage)),
            models: Mutex::default(),
            account,
            storage,
            gateway,
            books,
            narrowed: Mutex::default(),
            granted: Mutex::default(),
            elsewhere: Mutex::default(),
        }
    }

    /// The gateway whose kernels are answered.
    pub(crate) fn gateway(&self) -> &GatewayClient {
        &self.gateway
    }

    /// Every name of the thing asked for, as this machine knows it, the fullest first: for rules, which must judge the
    /// same thing alike however a kernel writes it.
    pub(crate) fn names(&self, ask: &Ask) -> Vec<String> {
        match ask {
            Ask::Open { reference } => self.names_to_open(reference),
            Ask::Prepare { model }
            | Ask::Match { model, .. }
            | Ask::SignStores { model, .. }
            | Ask::SignPublish { model, .. } => {
                let mut names = vec![format!("{}/{model}", self.account.address()), model.clone()];
                let known = self.books.models().ok();
                names.extend(known.and_then(|known| Some(known.get(model)?.dataset_id.clone())));
                names
            }
            Ask::PrepareUpload { dataset, .. }
            | Ask::SignUploadStores { dataset, .. }
            | Ask::SignUpload { dataset, .. } => {
                let mut names = vec![format!("{}/{dataset}", self.account.address()), dataset.clone()];
                let known = self.books.datasets().ok();
                names.extend(known.and_then(|known| Some(known.get(dataset)?.dataset_id.clone())));
                names
            }
        }
    }

    /// What a person should know about the thing asked for: one line each, taken from this machine's own sources.
    pub(crate) async fn describe(&self, request: &KeyRequest) -> Vec<String> {
        match &request.ask {
            Ask::Open { reference } => self.describe_open(reference, &request.walls).await,
            Ask::SignPublish {
                model,
                head,
                secret,
                record,
            } => {
                let Some(record) = self.record_to_sign(head, secret, record) else {
                    return vec!["unknown: a sealed record that does not open here".to_owned()];
                };
                let bytes: u64 = record.files.iter().map(|file| file.size).sum();
                let mut lines = vec![format!(
                    "signs    {} with {} files, {bytes} bytes",
                    record.name,
                    record.files.len()
                )];
                if record.visibility == Visibility::Private {
                    lines.push("private  only who may open it sees that it is there".to_owned());
                }
                lines.extend(self.describe_grants(model).await);
                lines.extend(
                    record
                        .files
                        .iter()
                        .map(|file| format!("         {} ({} bytes)", file.path, file.size)),
                );
                lines
            }
            Ask::PrepareUpload {
                dataset,
                files,
                bytes,
                large,
            } => self.describe_upload(dataset, (*files, *bytes, large)).await,
            Ask::Prepare { .. }
            | Ask::Match { .. }
            | Ask::SignStores { .. }
            | Ask::SignUploadStores { .. }
            | Ask::SignUpload { .. } => Vec::new(),
        }
    }

    /// Does what is asked.
    pub(crate) async fn answer(&self, call: &KeyCall) -> Result<KeyReply> {
        match &call.request.ask {
            Ask::Open { reference } => self.open(call, reference).await,
            Ask::Prepare { model } => self.prepare(call, model).await,
            Ask::Match { model, survey, proof } => self.match_objects(call.id, model, (survey, proof)).await,
            Ask::SignStores { model, objects } => self.sign_stores(model, objects).await,
            Ask::SignPublish {
                model,
                head,
                secret,
                record,
            } => {
                self.sign_publish(model, head.clone(), secret.clone(), record.clone())
                    .await
            }
            Ask::PrepareUpload {
                dataset,
                files,
                bytes,
                large,
            } => self.prepare_upload(call, dataset, (*files, *bytes, large)).await,
            Ask::SignUploadStores {
                dataset,
                objects,
                proof,
            } => self.sign_upload_stores(dataset, objects, proof).await,
            Ask::SignUpload {
                dataset,
                head,
                secret,
                proof,
            } => {
                self.sign_upload(dataset, head.clone(), secret.clone(), proof)
                    .await
            }
        }
    }
}

/// Makes a vault error ours.
pub(super) fn vault(what: &'static str) -> impl Fn(alephlab_vault::VaultError) -> CliError {
    move |error| CliError::vault(what, &error)
}

/// A refusal in our own words.
pub(super) fn refuse(code: &str, message: impl Into<String>, hint: &str) -> CliError {
    CliError::Refused {
        problem: Problem::new(code, message).with_hint(hint),
    }
}
