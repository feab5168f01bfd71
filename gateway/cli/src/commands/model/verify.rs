//! `model verify`: the static checks, as a table or as the report that is published.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use alephlab_api::model::RecordFile;
use alephlab_vault::{Source, walk};
use alephlab_verify::{Outcome, Report};
use clap::Args;

use super::opened;
use super::publish::LEFT_OUT;
use crate::error::{CliError, Result};
use crate::models::{Checked, Reference, Registry, check_files};
use crate::progress::printable;

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
}

impl Verify {
    /// Whether neither gateway nor node is asked.
    pub(super) fn is_local(&self) -> bool {
        self.model.is_none()
    }

    /// Checks, and prints what came out; `registry` is there unless it is local.
    pub(super) async fn run(&self, registry: Option<&Registry>, json: bool) -> Result<ExitCode> {
        let signed = match (&self.model, registry) {
            (Some(model), Some(registry)) => Some((registry, model)),
            _ => None,
        };
        let what = match (&self.folder, signed) {
            (Some(folder), signed) => Checked::Files {
                files: files_in(folder)?,
                signed: match signed {
                    Some((registry, model)) => Some(signed_files(registry, model).await?),
                    None => None,
                },
            },
            (None, Some((registry, model))) => Checked::Revision(opened(registry, model).await?),
            (None, None) => {
                return Err(CliError::Usage {
                    message: "nothing is named to be checked".to_owned(),
                    hint: "name a model, or a folder with --in".to_owned(),
                });
            }
        };
        let report = check_files(what).await?;
        if json {
            let text = serde_json::to_string(&report).map_err(|error| CliError::Check {
                message: format!("the report cannot be written: {error}"),
            })?;
            println!("{text}");
        } else {
            print(&report);
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
