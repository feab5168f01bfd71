//! The check of receipts that somebody else may have sent: from a file, a node of the Aleph network and, where it is named, the gateway.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use alephlab_api::client::GatewayClient;
use alephlab_api::receipt::{RECEIPT_HEAD_TYPE, ReceiptFile, ReceiptHead, ReceiptLog, SignedReceipt};
use alephlab_gateway::{ReceiptError, check_chain, check_consistency, check_head, check_proof};
use alephlab_vault::storage::{PostQuery, Storage, StoredPost};
use alephlab_vault::{Address, VaultError};
use clap::Args;
use futures_util::TryStreamExt as _;

use super::super::at_gateway::AtGateway;
use super::said;
use crate::error::{CliError, Result};
use crate::progress::printable;
use crate::services;

#[derive(Args)]
pub(super) struct Verify {
    /// The file; - is standard input.
    file: PathBuf,
    /// Address of the key that must have signed; without it that of the gateway which --gateway names.
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
            (None, Some(gateway)) => gateway.receipt_log().await?.signer,
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
        let log = match gateway {
            Some(gateway) => Some(gateway.receipt_log().await?),
            None => None,
        };
        let log = gateway.zip(log);
        let mut wanted = self.signer.iter().chain(log.as_ref().map(|(_, log)| &log.signer));
        if let Some(wanted) = wanted.find(|wanted| !wanted.eq_ignore_ascii_case(&signer)) {
            return Err(CliError::Check {
                message: format!("this receipt is one of {signer}, not of {}", printable(wanted)),
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
            (None, Some(gateway)) => Some(gateway.receipt_proof(paid.id).await?),
            (proof, _) => proof,
        };
        let file = ReceiptFile {
            signer,
            receipt,
            proof,
        };
        self.under_root(&file, at, log.as_ref()).await?;
        match self.signer.is_some() || log.is_some() {
            true => Ok(()),
            // Anybody can make a key, and with it all that was checked above.
            false => Err(CliError::Usage {
                message: format!(
                    "not checked: that {} is the key of the gateway that you mean",
                    file.signer
                ),
                hint: "add --signer ADDRESS, as that gateway or a payer names it, or --gateway URL"
                    .to_owned(),
            }),
        }
    }

    /// That a receipt stands under a root on Aleph, and that what was posted later continues it.
    async fn under_root(
        &self,
        file: &ReceiptFile,
        at: &AtGateway,
        log: Option<&(&GatewayClient, ReceiptLog)>,
    ) -> Result<()> {
        let Some(proof) = &file.proof else {
            println!(
                "not checked: that it stands under a root on Aleph; the file has no proof, --gateway URL asks for one"
            );
            return Ok(());
        };
        let node = match &self.node {
            Some(node) => node.clone(),
            None => at.node()?,
        };
        let storage = services::storage(&node)?;
        let post = storage
            .post(&proof.message)
            .await
            .map_err(|error| unknown(&error))?;
        let post = post.ok_or_else(|| CliError::Check {
            message: format!(
                "the node {} does not have the message {}, which is to have the root; if the gateway posts on another network, name a \
                 node of it: --node URL",
                printable(&node),
                printable(&proof.message)
            ),
        })?;
        let head = check_head(&post, &file.signer).map_err(|error| refused(&error))?;
        if !post.sender.eq_ignore_ascii_case(&proof.poster) {
            let (said, poster) = (printable(&proof.poster), &post.sender);
            let message = format!("the file says that {said} posted the root, and {poster} did");
            return Err(CliError::Check { message });
        }
        check_proof(&file.receipt, proof, &head).map_err(|error| refused(&error))?;
        println!(
            "on Aleph: receipt {} of the {} under the root {}, posted by {} as {}",
            proof.place + 1,
            head.size,
            head.root,
            post.sender,
            proof.message
        );
        match log {
            Some(log) => continued(log, &storage, (&post, &head), &file.signer).await,
            None => {
                println!(
                    "not checked: that what was posted later continues this root; --gateway URL asks for it"
                );
                Ok(())
            }
        }
    }
}

/// This root and all others of this key that these accounts have on Aleph, by their sizes.
async fn roots(
    storage: &Arc<dyn Storage>,
    addresses: Vec<String>,
    (post, head): (&StoredPost, &ReceiptHead),
    signer: &str,
) -> Result<BTreeMap<u64, (String, ReceiptHead)>> {
    let mut posts = storage.each_post(
        PostQuery {
            types: vec![RECEIPT_HEAD_TYPE.to_owned()],
            addresses,
            ..PostQuery::default()
        },
        0,
    );
    let mut roots = BTreeMap::from([(head.size, (post.item_hash.clone(), head.clone()))]);
    while let Some(post) = posts.try_next().await.map_err(|error| unknown(&error))? {
        let Ok(head) = check_head(&post, signer) else {
            continue;
        };
        let (message, known) = roots
            .entry(head.size)
            .or_insert_with(|| (post.item_hash.clone(), head.clone()));
        if !known.root.eq_ignore_ascii_case(&head.root) {
            let message = format!(
                "two roots of {} receipts stand on Aleph, {message} and {}, both signed by {signer}: that gateway has two logs",
                head.size, post.item_hash
            );
            return Err(CliError::Check { message });
        }
    }
    Ok(roots)
}

/// Checks that the newest root on Aleph has all receipts of this one. The gateway is asked for the proof only: which is the newest, the
/// node knows.
async fn continued(
    (gateway, log): &(&GatewayClient, ReceiptLog),
    storage: &Arc<dyn Storage>,
    (post, head): (&StoredPost, &ReceiptHead),
    signer: &str,
) -> Result<()> {
    if let Some(fault) = &log.fault {
        let message = format!(
            "the gateway at {} says that its log is not what it has posted: {}",
            gateway.base(),
            printable(fault)
        );
        return Err(CliError::Check { message });
    }
    // Who posts now may be another account than then.
    let mut posters = vec![post.sender.clone()];
    posters.extend(log.posted.iter().map(|posted| posted.poster.clone()));
    let roots = roots(storage, posters, (post, head), signer).await?;
    let newest = roots.last_key_value().filter(|(size, _)| **size > head.size);
    let Some((&to, (_, newest))) = newest else {
        println!("it is the newest root that stands on Aleph by its poster");
        return Ok(());
    };
    let from = head.size;
    let consistency = gateway.receipt_consistency(from, to).await?;
    check_consistency(head, newest, &consistency).map_err(|error| refused(&error))?;
    println!("the newest root, of {to} receipts, continues it: none of these {from} was changed or dropped");
    Ok(())
}

fn unknown(error: &VaultError) -> CliError {
    CliError::vault("what is posted on Aleph cannot be looked up", error)
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
    let malformed = |reason: String| CliError::Malformed {
        path: file.to_owned(),
        reason,
    };
    // `show` writes one value, which may be set over several lines; `list` writes one in each line.
    let mut values = serde_json::Deserializer::from_str(&text).into_iter::<serde_json::Value>();
    if let Some(Ok(one)) = values.next()
        && one.get("receipt").is_some()
    {
        let one = serde_json::from_str(&text);
        let one = one.map_err(|error| malformed(format!("it is no receipt of `show`: {error}")))?;
        return Ok(Read::File(Box::new(one)));
    }
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let lines = lines.map(|line| {
        serde_json::from_str(line).map_err(|error| malformed(format!("a line is no receipt: {error}")))
    });
    let lines: Vec<_> = lines.collect::<Result<_>>()?;
    match lines.is_empty() {
        true => Err(malformed("there is no receipt in it".to_owned())),
        false => Ok(Read::Lines(lines)),
    }
}
