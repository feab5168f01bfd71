//! `alephlab share`: makes, lists and ends shares of the owner's models.

use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Arc;

use alephlab_api::share::ShareLimits;
use alephlab_api::time::unix_now;
use alephlab_vault::share::ShareToken;
use clap::{Args, Subcommand};
use serde_json::json;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::at_gateway::AtGateway;
use crate::account::Account;
use crate::error::{CliError, Result};
use crate::keys::{Books, Engine};
use crate::{services, shares};

/// Share a model of yours by UUID and token.
///
/// The token is made on this machine and shown once; the gateway never sees it from our clients. Whoever has UUID and
/// token can open exactly that revision, and keep what was opened.
#[derive(Args)]
pub(crate) struct Share {
    #[command(flatten)]
    at: AtGateway,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Make a share and print its UUID and token.
    Create {
        /// The model: name, or name@revision; the newest revision by default.
        model: String,
        #[command(flatten)]
        terms: Terms,
    },
    /// Keep the token of a share that you were given, asked for or read from standard input, so that `pull(UUID, None)` works.
    Accept {
        /// The share.
        uuid: Uuid,
    },
    /// List the shares of the account.
    List,
    /// End a share; what was opened before can be kept by who opened it.
    Revoke {
        /// The share.
        uuid: Uuid,
    },
}

/// What a share is good for. Who opened it can keep it: limits bind what the gateway answers from then on.
#[derive(Args)]
pub(super) struct Terms {
    /// How long it opens, such as 12h or 7d; without end by default.
    #[arg(long, value_name = "TIME", value_parser = parse_term)]
    expires: Option<u64>,
    /// Files that stock clients may download, and openings by `alephlab`, at most.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    downloads: Option<u64>,
    /// Bytes that the gateway sends, at most, such as 500M or 20G.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    bytes: Option<u64>,
    /// Requests in one minute, at most.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    per_minute: Option<u32>,
}

impl Terms {
    /// When it ends, unix seconds.
    pub(super) fn end(&self) -> Option<u64> {
        self.expires.map(|term| unix_now().saturating_add(term))
    }

    /// What the gateway answers, at most.
    pub(super) fn limits(&self) -> ShareLimits {
        ShareLimits {
            downloads: self.downloads,
            bytes: self.bytes,
            per_minute: self.per_minute,
        }
    }
}

impl Share {
    /// Runs the action.
    pub(crate) async fn run(self) -> Result<()> {
        let loaded = self.at.load()?;
        let account = Arc::new(self.at.account(&loaded)?);
        if let Action::Accept { uuid } = &self.action {
            return accept(&account, *uuid);
        }
        let gateway = self.at.gateway(&loaded, &account).await?;
        match &self.action {
            Action::Create { model, terms } => {
                let aleph = match loaded.settings.aleph.remote() {
                    Some(url) => url.to_owned(),
                    None => gateway.health().await?.aleph,
                };
                let storage = services::storage(&aleph)?;
                let engine = Engine::new(account, storage, gateway);
                let (expires, limits) = (terms.end(), terms.limits());
                let shared = shares::create(&engine, model, expires, limits).await?;
                created(&shared, (expires, limits), self.json);
            }
            Action::Accept { .. } => {}
            Action::List => self.listed(&gateway.shares().await?),
            Action::Revoke { uuid } => {
                gateway.revoke_share(*uuid).await?;
                println!("{uuid} opens nothing from now on");
            }
        }
        Ok(())
    }

    fn listed(&self, shares: &[alephlab_api::share::ShareInfo]) {
        for share in shares {
            if self.json {
                println!("{}", json!(share));
            } else {
                let end = share
                    .expires
                    .map_or_else(|| "no end".to_owned(), alephlab_api::time::hub);
                println!("{}  {} at {}  {end}", share.uuid, share.model, share.revision);
            }
        }
    }
}

/// Shows a share that was just made, this once.
pub(super) fn created(shared: &shares::Shared, (expires, limits): (Option<u64>, ShareLimits), json: bool) {
    let token = shared.token.expose();
    if json {
        let line = json!({
            "uuid": shared.uuid, "token": token, "model": shared.model, "revision": shared.revision,
            "page": shared.page, "expires": expires, "limits": limits,
        });
        println!("{line}");
    } else {
        println!("model:    {} at {}", shared.model, shared.revision);
        println!("uuid:     {}", shared.uuid);
        println!("page:     {}", shared.page);
        println!("token:    {token}");
        if is_of_this_machine(&shared.page) {
            println!(
                "The page opens on this machine only: where others reach this gateway, put its address there instead."
            );
        }
        println!("The token is shown only now. Whoever has both can open and keep this revision.");
    }
}

/// Whether an address is one that only programs of this machine can reach.
fn is_of_this_machine(page: &str) -> bool {
    url::Url::parse(page).is_ok_and(|page| match page.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    })
}

/// From standard input, because arguments can be read by every process of this machine. Who sits at a terminal is asked, and what
/// they type or paste is not shown.
fn accept(account: &Account, share: Uuid) -> Result<()> {
    let mut line = Zeroizing::new(String::new());
    let read = match std::io::stdin().is_terminal() {
        true => rpassword::prompt_password("token (hf_…, not shown): ").map(|typed| *line = typed),
        false => std::io::stdin().read_line(&mut line).map(|_| ()),
    };
    read.map_err(|source| CliError::file("read", Path::new("standard input"), source))?;
    let token =
        ShareToken::parse(line.trim()).map_err(|error| CliError::vault("the token was not kept", &error))?;
    Books::of(account).accept(share, &token)?;
    println!("kernels of {} can now pull {share}", account.name());
    Ok(())
}

/// Seconds of a time such as `90m`, `12h` or `7d`.
pub(super) fn parse_term(text: &str) -> std::result::Result<u64, String> {
    let wrong = || "write a number with m, h or d, such as 12h".to_owned();
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        'm' => 60,
        'h' => 60 * 60,
        'd' => 24 * 60 * 60,
        _ => return Err(wrong()),
    };
    let number: u64 = text
        .strip_suffix(unit)
        .and_then(|number| number.parse().ok())
        .ok_or_else(wrong)?;
    number
        .checked_mul(seconds)
        .filter(|term| *term > 0)
        .ok_or_else(wrong)
}

/// Bytes of a size such as `2000`, `500M` or `20G`.
fn parse_size(text: &str) -> std::result::Result<u64, String> {
    let wrong = || "write a number of bytes, or one with k, M, G or T, such as 20G".to_owned();
    let (number, unit) = match text.chars().last().ok_or_else(wrong)? {
        'k' => (text.strip_suffix('k'), 1_000),
        'M' => (text.strip_suffix('M'), 1_000_000),
        'G' => (text.strip_suffix('G'), 1_000_000_000),
        'T' => (text.strip_suffix('T'), 1_000_000_000_000),
        _ => (Some(text), 1),
    };
    let number: u64 = number.and_then(|number| number.parse().ok()).ok_or_else(wrong)?;
    let size = number.checked_mul(unit);
    size.filter(|size| *size > 0).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_may_have_a_unit() {
        assert_eq!(parse_size("20G"), Ok(20_000_000_000));
        assert_eq!(parse_size("7"), Ok(7));
        for text in ["", "G", "0", "-1", "1.5G", "1GB", "99999999999999999T", "1é"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn terms_have_a_unit() {
        assert_eq!(parse_term("7d"), Ok(604_800));
        assert_eq!(parse_term("90m"), Ok(5_400));
        for text in ["", "d", "7", "0h", "-1h", "7w", "99999999999999999d", "1é"] {
            assert!(parse_term(text).is_err(), "{text}");
        }
    }
}
