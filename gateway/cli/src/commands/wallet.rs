//! `alephlab wallet`: makes and shows accounts. The keys never leave their 0600 files.

use alephlab_vault::register_reader_key;
use clap::{Args, Subcommand};

use super::DataFlag;
use crate::account::{self, Account};
use crate::data::DataFolder;
use crate::error::{CliError, Result};
use crate::{services, settings};

/// Make and show accounts.
#[derive(Args)]
pub(crate) struct Wallet {
    #[command(flatten)]
    data: DataFlag,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Make an account: a wallet key and a reader key.
    New {
        /// Its name on this machine.
        name: String,
    },
    /// Print an account's address.
    Address {
        /// Its name on this machine.
        name: String,
    },
    /// List the accounts of this data folder.
    List,
    /// Publish an account's reader key, so that owners of datasets can grant to it.
    RegisterKey {
        /// Its name on this machine.
        name: String,
    },
}

impl Wallet {
    /// Runs the action.
    pub(crate) async fn run(&self) -> Result<()> {
        let loaded = settings::load(&self.data.flags())?;
        match &self.action {
            Action::New { name } => {
                let data = DataFolder::open(&loaded.settings.data.dir)?;
                println!("{}", Account::create(&data, name)?.address());
            }
            Action::Address { name } => {
                let data = DataFolder::at(&loaded.settings.data.dir);
                println!("{}", Account::open(&data, name)?.address());
            }
            Action::List => {
                let data = DataFolder::at(&loaded.settings.data.dir);
                for name in account::names(&data)? {
                    println!("{name} {}", Account::open(&data, &name)?.address());
                }
            }
            Action::RegisterKey { name } => {
                let data = DataFolder::at(&loaded.settings.data.dir);
                let account = Account::open(&data, name)?;
                let storage = services::node_in_use(&loaded, &data)?;
                register_reader_key(&*storage, account.wallet(), account.reader())
                    .await
                    .map_err(|error| CliError::vault("the reader key was not registered", &error))?;
                println!("{} can be granted datasets", account.address());
            }
        }
        Ok(())
    }
}
