//! `alephlab receipt`: what an account was charged, in statements that the gateway signed, and their check.

use std::path::{Path, PathBuf};

use alephlab_api::receipt::SignedReceipt;
use alephlab_gateway::check_chain;
use clap::{Args, Subcommand};
use serde_json::json;

use super::at_gateway::AtGateway;
use crate::error::{CliError, Result};

/// Show and check receipts: what was paid for, signed by the gateway, each naming the one before.
#[derive(Args)]
pub(crate) struct Receipt {
    #[command(flatten)]
    at: AtGateway,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List the account's receipts, after checking all of them.
    List {
        /// Print JSON, one receipt in each line: what `verify` reads.
        #[arg(long)]
        json: bool,
    },
    /// Check receipts that `list --json` wrote, without a gateway.
    Verify {
        /// The file; - is standard input.
        file: PathBuf,
        /// Address of the key that signs this gateway's receipts, as `list` shows it.
        #[arg(long)]
        signer: String,
    },
}

impl Receipt {
    /// Runs the action.
    pub(crate) async fn run(self) -> Result<()> {
        match &self.action {
            Action::List { json } => self.list(*json).await,
            Action::Verify { file, signer } => {
                let receipts = read(file)?;
                check(&receipts, signer)?;
                let begin = receipts.first().map_or(0, |first| first.receipt.sequence);
                let whole = if begin == 1 {
                    "complete up to the last"
                } else {
                    "without those before the first"
                };
                println!("{} receipts hold, {whole}", receipts.len());
                Ok(())
            }
        }
    }

    async fn list(&self, as_json: bool) -> Result<()> {
        let (gateway, _) = self.at.connect().await?;
        let (mut all, mut after): (Vec<SignedReceipt>, u64) = (Vec::new(), 0);
        let signer = loop {
            let page = gateway.receipts(after).await?;
            let Some(last) = page.receipts.last() else {
                break page.signer;
            };
            after = last.receipt.sequence;
            all.extend(page.receipts);
        };
        check(&all, &signer)?;
        for one in &all {
            let receipt = &one.receipt;
            if as_json {
                println!("{}", json!(one));
                continue;
            }
            println!(
                "{:>4}  {}  {} {} for {} s of {}",
                receipt.sequence,
                alephlab_api::time::hub(receipt.time),
                receipt.amount,
                receipt.asset.name(),
                receipt.units,
                receipt.subject
            );
        }
        if !as_json {
            println!("{} receipts hold, signed by {signer}", all.len());
        }
        Ok(())
    }
}

fn check(receipts: &[SignedReceipt], signer: &str) -> Result<()> {
    check_chain(receipts, signer).map_err(|error| CliError::Usage {
        message: error.to_string(),
        hint: "keep what you have, and ask the gateway's operator".to_owned(),
    })
}

fn read(file: &Path) -> Result<Vec<SignedReceipt>> {
    let text = match file == Path::new("-") {
        true => std::io::read_to_string(std::io::stdin()),
        false => std::fs::read_to_string(file),
    };
    let text = text.map_err(|source| CliError::file("read", file, source))?;
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines
        .map(|line| {
            serde_json::from_str(line).map_err(|error| CliError::Malformed {
                path: file.to_owned(),
                reason: format!("a line is no receipt: {error}"),
            })
        })
        .collect()
}
