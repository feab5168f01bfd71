//! `alephlab wallet`: makes and shows accounts. The keys never leave their 0600 files.

use clap::{Args, Subcommand};

use super::DataFlag;
use crate::account::{self, Account};
use crate::data::DataFolder;
use crate::error::Result;
use crate::settings;

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
}

impl Wallet {
    /// Runs the action.
    pub(crate) fn run(&self) -> Result<()> {
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
        }
        Ok(())
    }
}
