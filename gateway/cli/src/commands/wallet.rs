//! `alephlab wallet`: makes and shows accounts. The keys never leave their 0600 files.

use std::path::Path;

use alephlab_vault::register_reader_key;
use clap::{Args, Subcommand};
use zeroize::Zeroizing;

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
    /// Make an account of a private key that is already yours, read from standard input: 64 hex digits.
    Import {
        /// What to call it on this machine.
        name: String,
    },
    /// Show what is known of an account; never its keys.
    Show {
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
            Action::Import { name } => {
                let secret = read_secret()?;
                let data = DataFolder::open(&loaded.settings.data.dir)?;
                println!("{}", Account::import(&data, name, &secret)?.address());
            }
            Action::Show { name } => {
                let data = DataFolder::at(&loaded.settings.data.dir);
                let account = Account::open(&data, name)?;
                println!("name        {name}");
                println!("address     {}", account.address());
                println!("reader key  {}", account.reader().public().to_hex());
                println!("folder      {}", account.folder().display());
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

/// From standard input, because arguments can be read by every process of this machine.
fn read_secret() -> Result<Zeroizing<[u8; 32]>> {
    let mut line = Zeroizing::new(String::new());
    std::io::stdin()
        .read_line(&mut line)
        .map_err(|source| CliError::file("read", Path::new("standard input"), source))?;
    let digits = line.trim();
    let digits = digits.strip_prefix("0x").unwrap_or(digits);
    let mut secret = Zeroizing::new([0; 32]);
    hex::decode_to_slice(digits, &mut *secret).map_err(|_| CliError::Usage {
        message: "what was read is no private key".to_owned(),
        hint: "give 64 hex digits on standard input".to_owned(),
    })?;
    Ok(secret)
}
