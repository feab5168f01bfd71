//! `alephlab registry`: builds a gateway's registry anew from what is on Aleph; for its operator.

use std::time::Duration;

use alephlab_api::model::{RebuildState, RegistryRebuild};
use clap::{Args, Subcommand};

use super::at_gateway::AtGateway;
use crate::error::{CliError, Result};

/// How often it is asked how far the gateway is.
const LOOK: Duration = Duration::from_millis(300);

/// Build the gateway's registry of models anew from Aleph; for its operator.
#[derive(Args)]
pub(crate) struct Registry {
    #[command(flatten)]
    at: AtGateway,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Read all models, revisions, tags and evidence from the Aleph node again, and verify them.
    ///
    /// Shares, tokens and counts of downloads are this gateway's own and stay as they are.
    Rebuild,
}

impl Registry {
    /// Runs the action.
    pub(crate) async fn run(self) -> Result<()> {
        let (gateway, _) = self.at.connect().await?;
        match self.action {
            Action::Rebuild => {
                let mut progress = gateway.rebuild_registry().await?;
                while progress.state == RebuildState::Running {
                    tokio::time::sleep(LOOK).await;
                    progress = gateway.registry_rebuild().await?;
                }
                finish(&progress)
            }
        }
    }
}

fn finish(progress: &RegistryRebuild) -> Result<()> {
    if progress.state != RebuildState::Done {
        let reason = progress
            .reason
            .as_deref()
            .unwrap_or("the gateway was started anew meanwhile");
        return Err(CliError::Check {
            message: format!("the registry was not read to its end: {reason}"),
        });
    }
    println!("{}", line(progress));
    Ok(())
}

fn line(progress: &RegistryRebuild) -> String {
    let mut line = format!("{} messages read, {} of them hold", progress.read, progress.taken);
    for (count, what) in [
        (progress.refused, "refused"),
        (progress.unavailable, "not to be had now"),
    ] {
        if count > 0 {
            line.push_str(&format!(", {count} {what}"));
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_was_read_and_that_it_was_not_all() {
        let mut progress = RegistryRebuild {
            state: RebuildState::Done,
            read: 7,
            taken: 5,
            refused: 2,
            ..RegistryRebuild::default()
        };
        assert_eq!(line(&progress), "7 messages read, 5 of them hold, 2 refused");
        progress.state = RebuildState::Failed;
        progress.reason = Some("the node is away".to_owned());
        assert!(
            finish(&progress)
                .unwrap_err()
                .to_string()
                .contains("the node is away")
        );
    }
}
