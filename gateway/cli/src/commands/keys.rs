//! `alephlab keys`: answers a gateway's requests with this machine's keys, after consent or by a saved rule.

use std::sync::Arc;

use alephlab_api::Secret;
use alephlab_api::client::GatewayClient;
use clap::Args;

use super::{DataFlag, GatewayFlag};
use crate::account::Account;
use crate::data::DataFolder;
use crate::error::{CliError, Result};
use crate::keys::{Consent, Engine, Rules, Service};
use crate::run_file::RunFile;
use crate::settings::{self, Flags};
use crate::stop::{self, or_stop};
use crate::{address, logs, run_file, services};

/// Answer requests of kernels to open datasets and sign models with this machine's keys.
///
/// Shows for each request what is wanted, the gateway, the host and its trust line, and the fingerprint of the kernel's
/// key, and asks. Saved answers are in rules.json of the data folder. The keys never leave this machine.
#[derive(Args)]
pub(crate) struct Keys {
    #[command(flatten)]
    data: DataFlag,
    #[command(flatten)]
    gateway: GatewayFlag,
    /// Name of the account whose keys answer [default: account.name].
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
}

impl Keys {
    /// Answers until Ctrl-C.
    pub(crate) async fn run(self) -> Result<()> {
        let stop = stop::on_signal()?;
        let loaded = settings::load(&Flags {
            account: self.account.clone(),
            ..self.data.flags()
        })?;
        let data = loaded.open_data()?;
        logs::start(&data)?;
        let account = Arc::new(Account::open(&data, &loaded.settings.account.name)?);
        let connecting = async {
            let (gateway, token) = connect(&data, &self.gateway, &account).await?;
            // The node that this machine trusts, or else the one that the gateway uses: what it serves is verified.
            let aleph = match loaded.settings.aleph.remote() {
                Some(url) => url.to_owned(),
                None => gateway.health().await?.aleph,
            };
            Ok((gateway, token, aleph))
        };
        let (gateway, token, aleph) = or_stop(&stop, "connecting to the gateway", connecting).await?;
        let storage = services::storage(&aleph)?;
        let engine = Engine::new(account.clone(), storage, gateway.clone());
        let rules = Rules::load(&data.rules_file())?;
        let address = gateway.base().as_str().trim_end_matches('/').to_owned();
        println!(
            "keys of {} {} answer {address}; Ctrl-C ends",
            account.name(),
            account.address()
        );
        let consent = Consent::Terminal(address.clone(), rules);
        let service = Service::new(gateway, token, engine, consent);
        service
            .run(stop)
            .await
            .map_err(|reason| CliError::Unreachable { url: address, reason })
    }
}

/// A gateway with a token of `account`: the named one, or the running `up` of this data folder.
pub(super) async fn connect(
    data: &DataFolder,
    chosen: &GatewayFlag,
    account: &Account,
) -> Result<(GatewayClient, Secret)> {
    let named = chosen.gateway.as_deref();
    if let Some(url) = named {
        address::check(url, chosen.insecure_http)?;
    }
    let running = run_file::find(data)?;
    let url = match (named, &running) {
        (Some(url), _) => url.to_owned(),
        (None, Some(run)) => run.gateway_url.clone(),
        (None, None) => {
            return Err(CliError::NotRunning {
                path: data.root().to_path_buf(),
            });
        }
    };
    let gateway = GatewayClient::new(&url, None)?;
    let token = token_at(&gateway, running, chosen, account).await?;
    Ok((gateway.with_token(token.clone()), token))
}

/// A token of `account` for this gateway. The operator's is at hand where none is named, and is for the gateway that runs now and for
/// no other; everybody else proves the account by its wallet.
pub(super) async fn token_at(
    gateway: &GatewayClient,
    running: Option<RunFile>,
    chosen: &GatewayFlag,
    account: &Account,
) -> Result<Secret> {
    let own = running.filter(|run| chosen.gateway.is_none() && run.account == account.name());
    match own.filter(|run| is_at(run, gateway)) {
        Some(run) => Ok(Secret::new(run.token)),
        None => account.session(gateway).await,
    }
}

fn is_at(run: &RunFile, gateway: &GatewayClient) -> bool {
    GatewayClient::new(&run.gateway_url, None).is_ok_and(|running| running.base() == gateway.base())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operators_token_is_for_the_gateway_that_runs() {
        let run = RunFile {
            pid: 1,
            gateway_url: "http://127.0.0.1:2".into(),
            aleph_url: String::new(),
            token: String::new(),
            account: String::new(),
            runtime_dir: "x".into(),
            started: 0,
            boot: String::new(),
            host: None,
        };
        let is_at = |url: &str| is_at(&run, &GatewayClient::new(url, None).unwrap());
        assert!(is_at("http://127.0.0.1:2") && is_at("http://127.0.0.1:2/"));
        assert!(!is_at("http://127.0.0.1:1") && !is_at("https://127.0.0.1:2"));
    }
}
