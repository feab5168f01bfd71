//! `alephlab audit`: the gateway's log of sign-ins, tokens and credits, and the check that nobody changed it; and its ledger, added up.

use alephlab_api::audit::AuditLine;
use alephlab_api::client::GatewayClient;
use alephlab_api::time;
use alephlab_gateway::check_audit;
use clap::{Args, Subcommand};
use serde_json::json;

use super::at_gateway::AtGateway;
use crate::error::{CliError, Result};

/// Show and check the gateway's log of sign-ins, tokens and credits, and its ledger; for its operator.
#[derive(Args)]
pub(crate) struct Audit {
    #[command(flatten)]
    at: AtGateway,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Add the whole ledger up again, and say what is wrong with it.
    Ledger,
    /// List all lines, oldest first.
    List {
        /// Print JSON, one object in each line.
        #[arg(long)]
        json: bool,
    },
    /// Check that no line was changed, taken out or put in, and print the hash of the last.
    Verify {
        /// A hash that an earlier `verify` printed: its line must still be there, so that lines missing at the end are found.
        #[arg(long, value_name = "HASH")]
        since: Option<String>,
    },
}

impl Audit {
    /// Runs the action.
    pub(crate) async fn run(self) -> Result<()> {
        let (gateway, _) = self.at.connect().await?;
        match self.action {
            Action::Ledger => ledger(&gateway).await?,
            Action::List { json } => list(&all(&gateway).await?, json),
            Action::Verify { since } => {
                let lines = all(&gateway).await?;
                let last = verify(&lines, since.as_deref())?;
                println!("{} lines hold; the last has the hash {last}", lines.len());
            }
        }
        Ok(())
    }
}

async fn ledger(gateway: &GatewayClient) -> Result<()> {
    let audit = gateway.audit_ledger().await?;
    for fault in &audit.faults {
        println!("{fault}");
    }
    let (entries, purses) = (audit.entries, audit.purses);
    match audit.faults.len() {
        0 => println!("{entries} entries add up to what {purses} purses have"),
        faults => {
            let message = format!("the ledger does not add up: {faults} faults in {entries} entries");
            return Err(CliError::Check { message });
        }
    }
    Ok(())
}

async fn all(gateway: &GatewayClient) -> Result<Vec<AuditLine>> {
    let mut lines: Vec<AuditLine> = Vec::new();
    loop {
        let page = gateway.audit(lines.last().map_or(0, |line| line.seq)).await?;
        if page.is_empty() {
            return Ok(lines);
        }
        lines.extend(page);
    }
}

fn verify(lines: &[AuditLine], since: Option<&str>) -> Result<String> {
    let last = check_audit(lines).map_err(|error| CliError::Check {
        message: error.to_string(),
    })?;
    match since {
        Some(hash) if !lines.iter().any(|line| line.hash == hash) => Err(CliError::Check {
            message: format!(
                "the audit log holds, but has no line with the hash {hash}: lines at its end are missing"
            ),
        }),
        _ => Ok(last),
    }
}

fn list(lines: &[AuditLine], as_json: bool) {
    for line in lines {
        match as_json {
            true => println!("{}", json!(line)),
            false => println!(
                "{:>6}  {}  {}  {:<15}  {:<7}  {}",
                line.seq,
                time::hub(line.time),
                line.account,
                line.action,
                line.result,
                line.subject
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_that_is_gone_tells_that_the_end_is_missing() {
        assert!(verify(&[], None).is_ok());
        let message = verify(&[], Some("ab")).unwrap_err().to_string();
        assert!(message.contains("missing"), "{message}");
    }
}
