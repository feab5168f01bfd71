//! `alephlab receipt`: what an account paid, in statements that the gateway signed, and their check.

mod verify;

use alephlab_api::receipt::{Receipt as Paid, SignedReceipt, Unit};
use alephlab_gateway::check_chain;
use clap::{Args, Subcommand};
use serde_json::json;
use uuid::Uuid;

use super::at_gateway::AtGateway;
use crate::error::{CliError, Result};
use crate::progress::printable;

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
    /// Print one receipt as JSON, with what shows that it stands under a root on Aleph: what `verify` reads.
    Show {
        /// The receipt, as `list` shows it.
        id: Uuid,
    },
    /// Check receipts that `show` or `list --json` wrote; needs no account.
    Verify(verify::Verify),
}

impl Receipt {
    /// Runs the action.
    pub(crate) async fn run(self) -> Result<()> {
        match &self.action {
            Action::List { json } => self.list(*json).await,
            Action::Show { id } => {
                let (gateway, _) = self.at.connect().await?;
                println!("{}", json!(gateway.receipt(*id).await?));
                Ok(())
            }
            Action::Verify(verify) => verify.run(&self.at).await,
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
        check_chain(&all, &signer).map_err(|error| CliError::Check {
            message: format!("{error}; keep what you have, and ask the gateway's operator"),
        })?;
        for one in &all {
            match as_json {
                true => println!("{}", json!(one)),
                false => println!(
                    "{:>4}  {}  {}  {}",
                    one.receipt.sequence,
                    one.receipt.id,
                    alephlab_api::time::hub(one.receipt.time),
                    said(&one.receipt)
                ),
            }
        }
        if !as_json {
            println!("{} receipts hold, signed by {signer}", all.len());
        }
        Ok(())
    }
}

/// What was paid for what.
fn said(receipt: &Paid) -> String {
    let (amount, subject) = (receipt.amount.of(receipt.asset), printable(&receipt.subject));
    match receipt.unit {
        Unit::Hour => format!("{amount} for {} s of {subject}", receipt.units),
        Unit::One if receipt.units == 1 => format!("{amount} for {subject}"),
        Unit::One => format!("{amount} for {} of {subject}", receipt.units),
    }
}
