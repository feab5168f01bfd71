//! The check of receipts that somebody else may have sent: from a file, a node of the Aleph network and, where it is named, the gateway.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use alephlab_api::client::GatewayClient;
use alephlab_api::receipt::{ReceiptFile, ReceiptHead, ReceiptProof, SignedReceipt};
use alephlab_gateway::{ReceiptError, check_chain, check_consistency, check_head, check_proof};
use alephlab_vault::Address;
use alephlab_vault::storage::Storage;
use clap::Args;

use super::super::at_gateway::AtGateway;
use super::said;
use crate::error::{CliError, Result};
use crate::progress::printable;
use crate::services;

#[derive(Args)]
pub(super) struct Verify {
    /// The file; - is standard input.
    file: PathBuf,
    /// Address of the key that signs this gateway's receipts [default: the gateway's, where --gateway names it].
    #[arg(long, value_name = "ADDRESS")]
    signer: Option<String>,
    /// URL of a node of the Aleph network, to look up what is posted there [default: `aleph.url`].
    #[arg(long, value_name = "URL")]
    node: Option<String>,
}

/// What a file holds.
enum Read {
    /// A receipt with its proof.
    File(Box<ReceiptFile>),
    /// A chain.
    Lines(Vec<SignedReceipt>),
}

impl Verify {
    pub(super) async fn run(&self, at: &AtGateway) -> Result<()> {
        let gateway = at.named().map(|url| GatewayClient::new(url, None)).transpose()?;
        match read(&self.file)? {
            Read::Lines(receipts) => self.chain(&receipts, gateway.as_ref()).await,
            Read::File(file) => self.one(*file, at, gateway.as_ref()).await,
        }
    }

    /// Receipts that `list --json` wrote.
    async fn chain(&self, receipts: &[SignedReceipt], gateway: Option<&GatewayClient>) -> Result<()> {
        let signer = match (&self.signer, gateway) {
            (Some(signer), _) => signer.clone(),
            (None, Some(gateway)) => gateway.receipt_head().await?.head.signer,
            (None, None) => {
                return Err(CliError::Usage {
                    message: "these receipts do not say who signed them".to_owned(),
                    hint: "add --signer ADDRESS, as `alephlab receipt list` shows it, or --gateway URL"
                        .to_owned(),
                });
            }
        };
        check_chain(receipts, &signer).map_err(|error| refused(&error))?;
        let begin = receipts.first().map_or(0, |first| first.receipt.sequence);
        let whole = match begin {
            1 => "complete up to the last",
            _ => "without those before the first",
        };
        println!("{} receipts hold, {whole}", receipts.len());
        Ok(())
    }

    /// A receipt that `show` wrote.
    async fn one(&self, file: ReceiptFile, at: &AtGateway, gateway: Option<&GatewayClient>) -> Result<()> {
        let ReceiptFile {
            signer,
            receipt,
            proof,
        } = file;
        if signer.parse::<Address>().is_err() {
            return Err(CliError::Malformed {
                path: self.file.clone(),
                reason: "its signer is no address".to_owned(),
            });
        }
        if let Some(wanted) = self
            .signer
            .as_ref()
            .filter(|wanted| !wanted.eq_ignore_ascii_case(&signer))
        {
            return Err(CliError::Check {
                message: format!("this receipt is one of {signer}, not of {wanted}"),
            });
        }
        check_chain(std::slice::from_ref(&receipt), &signer).map_err(|error| refused(&error))?;
        let paid = &receipt.receipt;
        println!(
            "{} paid {} to {}",
            printable(&paid.payer),
            said(paid),
            printable(&paid.payee)
        );
        println!("signed by {signer}; receipt {} of this payer", paid.sequence);
        let proof = match (proof, gateway) {
            (Some(proof), _) => proof,
            (None, Some(gateway)) => gateway.receipt_proof(paid.id).await?,
            (None, None) => {
                println!(
                    "not checked: that it stands under a root on Aleph; the file has no proof, --gateway URL asks for one"
                );
                return Ok(());
            }
        };
        let storage = self.storage(at)?;
        let (head, poster) = posted(&storage, &proof.message, &signer).await?;
        check_proof(&receipt, &proof, &head).map_err(|error| refused(&error))?;
        println!(
            "on Aleph: receipt {} of the {} under the root {}, posted by {poster} as {}",
            proof.place + 1,
            head.size,
            head.root,
            proof.message
        );
        match gateway {
            Some(gateway) => continued(gateway, &storage, (&signer, &proof), &head).await,
            None => {
                println!(
                    "not checked: that what the gateway posted later continues this root; --gateway URL asks for it"
                );
                Ok(())
            }
        }
    }

    fn storage(&self, at: &AtGateway) -> Result<Arc<dyn Storage>> {
        match &self.node {
            Some(node) => services::storage(node),
            None => services::storage(&at.node()?),
        }
    }
}

/// The root that a message posts and who signed the message, as the network has it.
async fn posted(storage: &Arc<dyn Storage>, message: &str, signer: &str) -> Result<(ReceiptHead, String)> {
    let failed = |error| CliError::vault("the message cannot be looked up on Aleph", &error);
    let post = storage.post(message).await.map_err(failed)?;
    let post = post.ok_or_else(|| CliError::Check {
        message: format!(
            "the node does not have the message {}, which is to have the root",
            printable(message)
        ),
    })?;
    Ok((
        check_head(&post, signer).map_err(|error| refused(&error))?,
        post.sender,
    ))
}

/// Checks that the newest root of the gateway has all receipts of this one.
async fn continued(
    gateway: &GatewayClient,
    storage: &Arc<dyn Storage>,
    (signer, proof): (&str, &ReceiptProof),
    head: &ReceiptHead,
) -> Result<()> {
    let newest = gateway.receipt_head().await?;
    if !newest.head.signer.eq_ignore_ascii_case(signer) {
        let message = format!(
            "the gateway at {} signs with {}, and this receipt is one of {signer}",
            gateway.base(),
            newest.head.signer
        );
        return Err(CliError::Check { message });
    }
    if newest.message == proof.message {
        println!("it is the newest root of the gateway at {}", gateway.base());
        return Ok(());
    }
    let (from, to) = (head.size, newest.head.size);
    let (newest, _) = posted(storage, &newest.message, signer).await?;
    if newest.size < from {
        let message = format!(
            "the newest root of the gateway is of {to} receipts, fewer than the {from} that it had posted"
        );
        return Err(CliError::Check { message });
    }
    let consistency = gateway.receipt_consistency(from, newest.size).await?;
    check_consistency(head, &newest, &consistency).map_err(|error| refused(&error))?;
    println!("the newest root, of {to} receipts, continues it: none of these {from} was changed or dropped");
    Ok(())
}

fn refused(error: &ReceiptError) -> CliError {
    CliError::Check {
        message: error.to_string(),
    }
}

fn read(file: &Path) -> Result<Read> {
    let text = match file == Path::new("-") {
        true => std::io::read_to_string(std::io::stdin()),
        false => std::fs::read_to_string(file),
    };
    let text = text.map_err(|source| CliError::file("read", file, source))?;
    if let Ok(one) = serde_json::from_str::<ReceiptFile>(&text) {
        return Ok(Read::File(Box::new(one)));
    }
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let lines = lines.map(|line| {
        serde_json::from_str(line).map_err(|error| CliError::Malformed {
            path: file.to_owned(),
            reason: format!("a line is no receipt: {error}"),
        })
    });
    Ok(Read::Lines(lines.collect::<Result<_>>()?))
}
