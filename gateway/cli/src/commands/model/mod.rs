//! `alephlab model`: publishes, pulls, shares and verifies models on the machine that has the keys.

mod access;
mod market;
mod publish;
mod show;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use alephlab_vault::Address;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::at_gateway::AtGateway;
use super::share::{Terms, parse_term};
use crate::error::{CliError, Result};
use crate::models::{Opened, Reference, Registry, into_folder};
use crate::progress::Reporter;
use crate::services;
use crate::settings::Loaded;
use crate::stop::{self, or_stop};

/// Publish models of yours, pull what you may read, and say who may.
///
/// NAME is a model of yours, OWNER/NAME another account's, a UUID a share whose token you keep (`alephlab share accept`);
/// @ and a revision or tag behind a name pick one. Files are sealed on this machine before they leave it. Each revision has a
/// public record, signed by your wallet: name, card, and path, size and SHA-256 of each file; a public one its keys too.
#[derive(Args)]
pub(crate) struct ModelCommand {
    #[command(flatten)]
    at: AtGateway,
    /// Print JSON: one object, or one in each line of a list.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Seal files and publish them as the next revision of a model, or as its first.
    Publish(Box<publish::Publish>),
    /// Download and verify a revision; what is there already is kept, and what was cut goes on.
    Pull {
        /// The model, or the UUID of a share.
        model: String,
        /// The folder [default: the model's name, here].
        #[arg(long, value_name = "DIR")]
        to: Option<PathBuf>,
    },
    /// List models: yours by default.
    Ls {
        /// Only what this account has published.
        #[arg(long, conflicts_with = "all")]
        mine: bool,
        /// Also what was granted to this account, and what the gateway lists of others.
        #[arg(long)]
        all: bool,
        /// Part of the name.
        #[arg(long, value_name = "TEXT")]
        search: Option<String>,
    },
    /// Show what is known of a model: card, files, revisions, tags, evidence.
    Show {
        /// The model.
        model: String,
    },
    /// Say which public models have a file, by its content.
    Which {
        /// The file, or its SHA-256.
        file: String,
    },
    /// Make a tag stand for a revision, the newest by default; it moves if it is there.
    Tag {
        /// The model, with @REVISION for another one than the newest.
        model: String,
        /// The tag.
        tag: String,
    },
    /// Remove a tag.
    Untag {
        /// The model.
        model: String,
        /// The tag.
        tag: String,
    },
    /// Make a share of one revision, and print its UUID and token, this once.
    Share {
        /// The model, with @REVISION or @TAG for another one than the newest.
        model: String,
        #[command(flatten)]
        terms: Terms,
    },
    /// Sign the files of a revision of yours as `model.sig`, which the OpenSSF tools for models verify without an account. Your wallet
    /// says once, on Aleph, that the key which signs is yours.
    Sign {
        /// The model, with @REVISION for another one than the newest.
        model: String,
        /// Where the signature goes.
        #[arg(long, value_name = "FILE", default_value = crate::oms::FILE)]
        out: PathBuf,
        /// Write the public key there, as PEM, for who verifies; keep it apart from the model's files.
        #[arg(long, value_name = "FILE")]
        public_key: Option<PathBuf>,
        /// A private key of your own (P-256, PKCS#8 PEM) in place of the account's.
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
    },
    /// Say that the key which signs as `model.sig` is yours no more: what it signed does not count from then on.
    EndKey {
        /// The key, where it is not the account's, or that is lost: the private one, or the public one alone.
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
    },
    /// End a share: the gateway answers nothing more under it. Who opened it before can keep what it opened.
    Revoke {
        /// The share.
        share: Uuid,
        /// Also seal the newest revision anew without a single object of earlier ones, and withdraw the shared revision: keys
        /// that somebody kept open nothing of it, nor of what is published from then on.
        #[arg(long)]
        reseal: bool,
    },
    /// Let another account read a revision of yours, and those after it; without a token.
    Grant {
        /// The model, with @REVISION for another one than the newest.
        model: String,
        /// Address of the account, which must have registered its key.
        reader: Address,
        /// How long, such as 12h or 30d; without end by default.
        #[arg(long, value_name = "TIME", value_parser = parse_term)]
        expires: Option<u64>,
    },
    Sell(Box<market::Sell>),
    Buy(market::Buy),
    /// List what this account has bought at the gateway, newest first.
    Orders {
        /// What it has sold.
        #[arg(long)]
        sold: bool,
    },
    /// Take back what was paid for an order, while no key came.
    Refund {
        /// The order.
        order: Uuid,
    },
    /// Show what sales have brought, by day and model.
    Earnings,
    /// Say that a model, or with @REVISION one revision, is not offered any more. Who opened it before can keep it.
    Withdraw {
        /// The model.
        model: String,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Check a revision: integrity, publisher, formats, scans, card; with --run also that it loads, and its evaluation. Ends with 1
    /// when a check that must pass does not.
    Verify(verify::Verify),
}

impl ModelCommand {
    /// Runs the action.
    pub(crate) async fn run(self) -> Result<ExitCode> {
        let stop = stop::on_signal()?;
        let loaded = self.at.load()?;
        let doing = match &self.action {
            Action::Publish(_) => "publishing the model",
            Action::Pull { .. } => "downloading the model",
            Action::Verify(_) => "checking the model",
            Action::Buy(_) => "buying the model",
            Action::Revoke { .. } => "ending the share",
            _ => "asking for models",
        };
        let acting = Box::pin(self.act(&loaded, &stop));
        match &self.action {
            // It has a kernel to stop.
            Action::Verify(verify) if verify.runs() => acting.await,
            _ => or_stop(&stop, doing, acting).await,
        }
    }

    async fn act(&self, loaded: &Loaded, stop: &CancellationToken) -> Result<ExitCode> {
        let data = loaded.data();
        let here = verify::Here { data: &data, stop };
        if let Action::Verify(verify) = &self.action
            && verify.is_local()
        {
            return verify.run(None, &here, self.json).await;
        }
        let registry = registry(&self.at, loaded).await?;
        match &self.action {
            Action::Publish(publish) => self.publish(&registry, publish).await?,
            Action::Pull { model, to } => self.pull(&registry, model, to.clone()).await?,
            Action::Ls { all, search, .. } => self.list(&registry, *all, search.as_deref()).await?,
            Action::Show { model } => self.show(&registry, model).await?,
            Action::Which { file } => return self.which(&registry, file).await,
            Action::Tag { model, tag } => self.tag(&registry, model, tag).await?,
            Action::Untag { model, tag } => self.untag(&registry, model, tag).await?,
            Action::Share { model, terms } => self.share(&registry, model, terms).await?,
            Action::Sign {
                model,
                out,
                public_key,
                key,
            } => {
                self.sign(&registry, model, (out, public_key.as_deref()), key.as_deref())
                    .await?
            }
            Action::EndKey { key } => self.end_key(&registry, key.as_deref()).await?,
            Action::Revoke { share, reseal } => self.revoke(&registry, *share, *reseal).await?,
            Action::Grant {
                model,
                reader,
                expires,
            } => self.grant(&registry, model, *reader, *expires).await?,
            Action::Sell(sell) => self.sell(&registry, sell).await?,
            Action::Buy(buy) => self.buy(&registry, buy).await?,
            Action::Orders { sold } => self.orders(&registry, *sold).await?,
            Action::Refund { order } => self.refund(&registry, *order).await?,
            Action::Earnings => self.earnings(&registry).await?,
            Action::Withdraw { model, yes } => self.withdraw(&registry, model, *yes).await?,
            Action::Verify(verify) => return verify.run(Some(&registry), &here, self.json).await,
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn pull(&self, registry: &Registry, model: &str, to: Option<PathBuf>) -> Result<()> {
        let opened = opened(registry, model).await?;
        let plain = opened.model.rsplit('/').next().unwrap_or(&opened.model);
        let folder = to.unwrap_or_else(|| PathBuf::from(plain));
        let reporter = Reporter::new();
        let bytes: u64 = opened.files.iter().map(|file| file.size).sum();
        let phase = reporter.phase("model", &format!("downloading {bytes} bytes"));
        let shown = |done, total| phase.progress(done, total, "download");
        let pulled = into_folder(&opened, &folder, &shown).await?;
        phase.finish(&format!(
            "{} fetched, {} there already",
            counted(pulled.fetched, "file", "files"),
            pulled.kept
        ));
        self.print(
            &json!({ "model": opened.model, "revision": opened.revision, "by": opened.by.word(), "folder": folder,
                "files": opened.files.len(), "fetched": pulled.fetched, "bytes": pulled.bytes }),
            &format!("{}", folder.display()),
        );
        Ok(())
    }

    fn print(&self, json: &Value, text: &str) {
        if self.json {
            println!("{json}");
        } else {
            println!("{text}");
        }
    }
}

/// Opens what a person named.
async fn opened(registry: &Registry, text: &str) -> Result<Arc<Opened>> {
    match Reference::parse(text)? {
        Reference::Share(share) => registry.open_share(share).await,
        Reference::Model {
            owner,
            name,
            revision,
        } => {
            let found = registry.find(owner, &name, revision.as_deref()).await?;
            registry.open_or_refuse(&found.revision.record).await
        }
    }
}

/// Models of the account, with the gateway where one runs, and the Aleph node of the settings or else the gateway's.
pub(super) async fn registry(at: &AtGateway, loaded: &Loaded) -> Result<Registry> {
    let account = Arc::new(at.account(loaded)?);
    let gateway = match at.gateway(loaded, &account).await {
        Ok(gateway) => Some(gateway.renewed_by(at.renewal(loaded, &account))),
        // What is on Aleph can be read without one.
        Err(CliError::NotRunning { .. }) if loaded.settings.aleph.remote().is_some() => None,
        Err(error) => return Err(error),
    };
    let aleph = match (loaded.settings.aleph.remote(), &gateway) {
        (Some(url), _) => url.to_owned(),
        (None, Some(gateway)) => gateway.health().await?.aleph,
        (None, None) => String::new(),
    };
    Ok(Registry::new(account, services::storage(&aleph)?, gateway))
}

/// So many, in words.
fn counted(count: u64, one: &str, more: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { more })
}

/// Says that something is published and no gateway knows of it yet.
fn say_untold(reporter: &Reporter, untold: Option<&CliError>) {
    if let Some(error) = untold {
        reporter.line(&format!(
            "it is on Aleph; the gateway was not told ({error}): the same command tells it"
        ));
    }
}
