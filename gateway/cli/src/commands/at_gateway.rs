//! Flags of commands that act for an account at a gateway, and how they come to it.

use std::sync::Arc;

use alephlab_api::client::{GatewayClient, Renewal};
use clap::Args;

use super::keys::{connect, token_at};
use super::{DataFlag, GatewayFlag};
use crate::account::Account;
use crate::error::{CliError, Result};
use crate::run_file;
use crate::settings::{self, Flags, Loaded};

/// Chooses the data folder, the gateway and the account.
#[derive(Args, Clone)]
pub(crate) struct AtGateway {
    #[command(flatten)]
    data: DataFlag,
    #[command(flatten)]
    gateway: GatewayFlag,
    /// Name of the account [default: account.name].
    #[arg(long, value_name = "NAME", global = true)]
    account: Option<String>,
}

impl AtGateway {
    /// The settings under these flags.
    pub(super) fn load(&self) -> Result<Loaded> {
        settings::load(&Flags {
            account: self.account.clone(),
            ..self.data.flags()
        })
    }

    /// The gateway that is named.
    pub(super) fn named(&self) -> Option<&str> {
        self.gateway.gateway.as_deref()
    }

    /// The Aleph node of the settings, or else of the gateway that runs here.
    pub(super) fn node(&self) -> Result<String> {
        let loaded = self.load()?;
        if let Some(url) = loaded.settings.aleph.remote() {
            return Ok(url.to_owned());
        }
        let running = run_file::find(&loaded.data())?;
        let none = || CliError::Usage {
            message: "no node of the Aleph network is named, and none runs here".to_owned(),
            hint: "add --node URL".to_owned(),
        };
        Ok(running.ok_or_else(none)?.aleph_url)
    }

    /// The account, which must be there.
    pub(super) fn account(&self, loaded: &Loaded) -> Result<Account> {
        Account::open(&loaded.data(), &loaded.settings.account.name)
    }

    /// The gateway with a token of the account.
    pub(super) async fn gateway(&self, loaded: &Loaded, account: &Account) -> Result<GatewayClient> {
        Ok(connect(&loaded.data(), &self.gateway, account).await?.0)
    }

    /// What gets another token when the one at hand has ended: the operator's from the run file, if it is still the same
    /// gateway that runs, or by signing in there again.
    pub(super) fn renewal(&self, loaded: &Loaded, account: &Arc<Account>) -> Renewal {
        let (data, gateway, account) = (loaded.data(), self.gateway.clone(), Arc::clone(account));
        Arc::new(move |client| {
            let (data, gateway, account) = (data.clone(), gateway.clone(), Arc::clone(&account));
            Box::pin(async move {
                let token = match run_file::find(&data) {
                    Ok(running) => token_at(&client, running, &gateway, &account).await,
                    Err(error) => Err(error),
                };
                match token {
                    Ok(token) => Some(token),
                    Err(error) => {
                        tracing::warn!(%error, "the gateway took neither the old token nor a sign-in");
                        None
                    }
                }
            })
        })
    }

    /// All of it, for commands that need nothing else.
    pub(super) async fn connect(&self) -> Result<(GatewayClient, Account)> {
        let loaded = self.load()?;
        let account = self.account(&loaded)?;
        Ok((self.gateway(&loaded, &account).await?, account))
    }
}
