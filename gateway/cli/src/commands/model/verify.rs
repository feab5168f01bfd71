//! `model verify`: the checks, as a table or as the report that is published, and signed where that is asked for.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use alephlab_api::Secret;
use alephlab_api::client::GatewayClient;
use alephlab_api::model::RecordFile;
use alephlab_vault::{Address, Source, walk};
use alephlab_verify::{CheckId, Outcome, Report};
use clap::Args;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::publish::LEFT_OUT;
use super::{opened, say_untold};
use crate::data::DataFolder;
use crate::error::{CliError, Result};
use crate::hosts::{with_earlier_loading, with_other_hosts};
use crate::jupyter::session::Place;
use crate::models::{Checked, Opened, Reference, Registry, Scanners, check_files, into_folder, unchecked};
use crate::oms;
use crate::progress::{Reporter, printable};
use crate::run_file::{self, RunFile};
use crate::trial::{Bounds, Trial};

/// Problems of one check that are shown to people; JSON has all that the report keeps.
const FINDINGS_SHOWN: usize = 5;

/// What to check.
#[derive(Args)]
pub(super) struct Verify {
    /// The model, or the UUID of a share; fetched as it is read, and not kept.
    #[arg(required_unless_present = "folder")]
    model: Option<String>,
    /// Files of this machine, such as a pulled model; with a model's name, against what its owner signed.
    #[arg(long = "in", value_name = "DIR")]
    folder: Option<PathBuf>,
    /// A `model.sig` of these files, in place of a model's name.
    #[arg(
        long,
        value_name = "FILE",
        requires = "folder",
        requires = "signer",
        conflicts_with = "model"
    )]
    signature: Option<PathBuf>,
    #[command(flatten)]
    signer: Signer,
    /// Also run it, in a kernel of this machine's `alephlab up` without network, keys or other files: a forward pass of a network
    /// that is known, else its verify.ipynb (V5), and its evaluation.ipynb against what the card claims (V8).
    #[arg(long, conflicts_with = "folder")]
    run: bool,
    /// Keep the notebooks that ran here, with what they showed [default: no copy is kept].
    #[arg(long, value_name = "DIR", requires = "run")]
    logs: Option<PathBuf>,
    /// The most memory that the kernel may take, in GiB.
    #[arg(long, value_name = "GIB", requires = "run", default_value_t = 8)]
    memory: u64,
    /// A scanner program for V6: clamscan, clamdscan, picklescan or modelscan; can be given more than once. Without it, those that are
    /// on PATH.
    #[arg(long, value_name = "PROGRAM")]
    scanner: Vec<PathBuf>,
    /// ClamAV's database, a file or a folder, in place of the one that it is installed with.
    #[arg(long, value_name = "PATH")]
    clamav_database: Option<PathBuf>,
    /// Sign what was found as this account and post it, so that gateways which take its word show it.
    #[arg(long, conflicts_with = "folder")]
    attest: bool,
}

/// Who must have signed a `model.sig`.
#[derive(Args)]
#[group(id = "signer", multiple = false)]
struct Signer {
    /// The account whose wallet said that the key is its own; then V2 passes.
    #[arg(long, value_name = "ADDRESS", requires = "signature")]
    by: Option<Address>,
    /// A public key, PEM. Whose it is, is yours to know: V2 is not made.
    #[arg(long, value_name = "FILE", requires = "signature")]
    public_key: Option<PathBuf>,
}

/// What running a revision needs beside it.
pub(super) struct Here<'a> {
    pub(super) data: &'a DataFolder,
    pub(super) stop: &'a CancellationToken,
}

impl Verify {
    /// Whether neither gateway nor node is asked.
    pub(super) fn is_local(&self) -> bool {
        self.model.is_none() && self.signer.by.is_none()
    }

    /// Whether a kernel is started, which has to be stopped.
    pub(super) fn runs(&self) -> bool {
        self.run
    }

    /// Checks, and prints what came out; `registry` is there unless it is local.
    pub(super) async fn run(
        &self,
        registry: Option<&Registry>,
        here: &Here<'_>,
        json: bool,
    ) -> Result<ExitCode> {
        let signed = match (&self.model, registry) {
            (Some(model), Some(registry)) => Some((registry, model)),
            _ => None,
        };
        let what = match (&self.folder, signed) {
            (Some(folder), signed) => {
                self.files(folder, registry, signed.map(|(_, model)| model))
                    .await?
            }
            (None, Some((registry, model))) => Checked::Revision(opened(registry, model).await?),
            (None, None) => {
                return Err(CliError::Usage {
                    message: "nothing is named to be checked".to_owned(),
                    hint: "name a model, or a folder with --in".to_owned(),
                });
            }
        };
        let revision = match &what {
            Checked::Revision(opened) => Some(opened.clone()),
            Checked::Files { .. } => None,
        };
        let scanners = Scanners {
            programs: self.scanner.clone(),
            database: self.clamav_database.clone(),
        };
        let mut report = check_files(what, Some(&scanners)).await?;
        if let (Some(opened), true) = (&revision, self.run) {
            report = self.tried(opened, report, here).await?;
        }
        if let (Some(registry), Some(opened), true) = (registry, &revision, self.run || self.attest) {
            // Whatever is made now: what was said of other hosts is not lost by it.
            let before = registry.attested(opened, &report.manifest).await?;
            if !self.run {
                report = with_earlier_loading(report, &before).map_err(|error| unchecked(&error))?;
            }
            report = with_other_hosts(report, &before).map_err(|error| unchecked(&error))?;
        }
        let posted = match (registry, &revision) {
            (Some(registry), Some(opened)) if self.attest => Some(registry.attest(opened, &report).await?),
            _ => None,
        };
        if json {
            let text = serde_json::to_string(&report).map_err(|error| CliError::Check {
                message: format!("the report cannot be written: {error}"),
            })?;
            println!("{text}");
        } else {
            print(&report);
        }
        if let Some(posted) = posted {
            let reporter = Reporter::new();
            let phase = reporter.phase("evidence", "signed");
            phase.finish(&format!("posted as {}", posted.message));
            say_untold(&reporter, posted.untold.as_ref());
        }
        let failed = report
            .checks
            .iter()
            .any(|check| check.blocking && check.outcome == Outcome::Failed);
        Ok(if failed {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }
}

impl Verify {
    /// Files of this machine, and what they are compared with.
    async fn files(
        &self,
        folder: &Path,
        registry: Option<&Registry>,
        model: Option<&String>,
    ) -> Result<Checked> {
        let mut files = files_in(folder)?;
        let by_owner = self.signer.by.is_some() || model.is_some();
        let signed = match (registry, model, &self.signature) {
            (Some(registry), Some(model), _) => Some(signed_files(registry, model).await?),
            (registry, None, Some(signature)) => {
                let bundle = signature.canonicalize().ok();
                files.retain(|(path, place)| {
                    !oms::is_ignored(path) && (bundle.is_none() || place.canonicalize().ok() != bundle)
                });
                Some(self.named(signature, registry, &files).await?)
            }
            _ => None,
        };
        Ok(Checked::Files {
            files,
            signed,
            by_owner,
        })
    }

    /// The files of a `model.sig`, with their sizes here: it tells none, and its hashes tell the rest.
    async fn named(
        &self,
        signature: &Path,
        registry: Option<&Registry>,
        files: &[(String, PathBuf)],
    ) -> Result<Vec<RecordFile>> {
        let read = |path: &Path| {
            let failed = |source| CliError::file("read", path, source);
            let size = fs::metadata(path).map_err(failed)?.len();
            match size > oms::BYTES_MAX {
                true => Err(failed(std::io::ErrorKind::FileTooLarge.into())),
                false => fs::read(path).map_err(failed),
            }
        };
        let keys = match (registry, self.signer.by, &self.signer.public_key) {
            (Some(registry), Some(owner), _) => registry.publishing_keys(owner).await?,
            (_, _, Some(key)) => vec![oms::public_key(&String::from_utf8_lossy(&read(key)?))?],
            _ => Vec::new(),
        };
        let named = oms::open(&read(signature)?, &keys)?;
        let size = |path: &str| {
            let place = files.iter().find(|(of, _)| of == path).map(|(_, place)| place);
            place
                .and_then(|place| fs::metadata(place).ok())
                .map_or(0, |meta| meta.len())
        };
        let file = |(path, sha256): (String, String)| RecordFile {
            size: size(&path),
            path,
            sha256,
        };
        Ok(named.into_iter().map(file).collect())
    }

    /// Runs it over a copy, unless what was read already says that it must not be run.
    async fn tried(&self, opened: &Opened, report: Report, here: &Here<'_>) -> Result<Report> {
        let passed = |id| {
            report
                .check(id)
                .is_some_and(|check| check.outcome == Outcome::Passed)
        };
        if ![CheckId::V1, CheckId::V3, CheckId::V4].into_iter().all(passed) {
            return Ok(report);
        }
        let run = run_file::find(here.data)?.ok_or_else(|| CliError::NotRunning {
            path: here.data.root().to_owned(),
        })?;
        let token = Secret::new(run.token.clone());
        let gateway = GatewayClient::new(&run.gateway_url, Some(token.clone()))?;
        let reporter = Reporter::new();
        let place = Place {
            gateway: &gateway,
            token: &token,
            reporter: &reporter,
            stop: here.stop,
        };
        let copy =
            tempfile::tempdir().map_err(|source| CliError::file("make", Path::new("a folder"), source))?;
        let folder = copy
            .path()
            .canonicalize()
            .map_err(|source| CliError::file("find", copy.path(), source))?;
        let files = folder.join("files");
        into_folder(opened, &files, &|_, _| {}).await?;
        let logs = self.logs.clone().unwrap_or_else(|| folder.join("logs"));
        fs::create_dir_all(&logs).map_err(|source| CliError::file("make", &logs, source))?;
        let trial = Trial {
            // Where its kernels run, which need not be where this command does.
            host: run.host.as_deref(),
            place: &place,
            folder: &files,
            logs: &logs,
            runtime: &runtime_of(&run)?,
            bounds: Bounds {
                memory: self.memory.saturating_mul(1 << 30),
                ..Bounds::default()
            },
        };
        let claimed: BTreeMap<String, f64> = opened.card.metrics.clone();
        let loads = trial.loads().await?;
        let report = report.with_outside(loads).map_err(|error| unchecked(&error))?;
        let evaluation = trial.evaluation(&claimed).await?;
        report.with_outside(evaluation).map_err(|error| unchecked(&error))
    }
}

/// What tells one built runtime from another: the hash of its stamp, which names compiler, sources and settings.
fn runtime_of(run: &RunFile) -> Result<String> {
    let stamp = run.runtime_dir.join("stamp.json");
    let bytes = fs::read(&stamp).map_err(|source| CliError::file("read", &stamp, source))?;
    Ok(hex::encode(Sha256::digest(bytes)))
}

async fn signed_files(registry: &Registry, model: &str) -> Result<Vec<RecordFile>> {
    match Reference::parse(model)? {
        Reference::Model {
            owner,
            name,
            revision,
        } => {
            let found = registry.find(owner, &name, revision.as_deref()).await?;
            // Head and record name each other, and both are the owner's.
            registry.head(&found.revision.record).await?;
            Ok(found.revision.record.files.clone())
        }
        Reference::Share(share) => Ok(registry.open_share(share).await?.files.clone()),
    }
}

fn files_in(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let walked = walk(folder).map_err(|error| CliError::vault("the folder cannot be checked", &error))?;
    let files = walked.into_iter().filter_map(|file| {
        let top = file.path.split('/').next().unwrap_or_default();
        let is_part = !LEFT_OUT.contains(&top);
        match file.source {
            Source::Path(place) if is_part => Some((file.path, place)),
            _ => None,
        }
    });
    Ok(files.collect())
}

fn print(report: &Report) {
    for check in &report.checks {
        let word = match check.outcome {
            Outcome::Passed => "passed",
            Outcome::Failed => "FAILED",
            Outcome::NotRun => "not run",
        };
        let must = if check.blocking {
            ""
        } else {
            "  (not needed for Verified)"
        };
        println!("{}  {:<22} {word}{must}", check.id, check.id.title());
        for finding in check.findings.iter().take(FINDINGS_SHOWN) {
            println!("    {}", printable(&finding.why));
        }
        let more = check.findings.len().saturating_sub(FINDINGS_SHOWN) as u64 + check.left_out;
        if more > 0 {
            println!("    and {more} more");
        }
    }
    println!("manifest  {}", report.manifest);
    println!("report    {}", report.hash());
}
