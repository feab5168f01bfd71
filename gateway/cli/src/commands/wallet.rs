//! `alephlab wallet`: makes and shows accounts. The keys never leave their files, and are never printed.

use std::path::{Path, PathBuf};

use alephlab_api::client::GatewayClient;
use alephlab_api::money::{Amount, Asset};
use alephlab_vault::{
    self as vault, Address, Passphrase, register_reader_key, registered_keys, revoke_reader_key,
};
use clap::{Args, Subcommand};
use zeroize::Zeroizing;

use super::keys::connect;
use super::{DataFlag, GatewayFlag, funds, outside};
use crate::account::{self, Account};
use crate::data::DataFolder;
use crate::error::{CliError, Result};
use crate::settings::Loaded;
use crate::{services, settings, unlock};

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
    /// Make an account: a wallet key and a reader key, in files that a passphrase opens.
    New {
        /// Its name on this machine.
        name: String,
        /// Protect the files by their mode alone.
        #[arg(long)]
        no_passphrase: bool,
    },
    /// Make an account of a key that is already yours: 64 hex digits from standard input, another wallet's key file, or a
    /// program that signs.
    Import {
        /// What to call it on this machine.
        name: String,
        /// A key file of another wallet (Ethereum's version 3), which its passphrase opens.
        #[arg(long, value_name = "FILE", conflicts_with = "signer")]
        keystore: Option<PathBuf>,
        /// A file (mode 0600) with the key file's passphrase; asked at the terminal when not given.
        #[arg(long, value_name = "FILE", requires = "keystore")]
        keystore_passphrase: Option<PathBuf>,
        /// A program that signs for the account, with its arguments, such as one that asks a hardware wallet: it gets the text
        /// on standard input and prints the EIP-191 signature. The key never comes here.
        #[arg(long, value_name = "COMMAND", requires = "address")]
        signer: Option<String>,
        /// Address of the account that the program signs for.
        #[arg(long, requires = "signer")]
        address: Option<String>,
        /// Protect the files by their mode alone.
        #[arg(long)]
        no_passphrase: bool,
    },
    /// Lock an account's keys by a passphrase, or by another one.
    Lock {
        /// Its name on this machine.
        name: String,
        /// A file (mode 0600) with the new passphrase; asked at the terminal when not given.
        #[arg(long, value_name = "FILE")]
        new_passphrase_file: Option<PathBuf>,
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
    /// Show what an account has at the gateway, and how much of it is set aside for what runs.
    Balance {
        /// Its name on this machine.
        name: String,
        #[command(flatten)]
        gateway: GatewayFlag,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List what an account was given and what it used.
    Statement {
        /// Its name on this machine.
        name: String,
        #[command(flatten)]
        gateway: GatewayFlag,
        /// Print JSON, one object in each line.
        #[arg(long)]
        json: bool,
    },
    /// Give an account something to spend; for the gateway's operator.
    Credit {
        /// Address or id of the account, or its name on this machine.
        to: String,
        /// How much, in whole credits such as 250000; 1 USD is 1,000,000.
        amount: Amount,
        /// Of what.
        #[arg(long, default_value = "credit", value_name = "credit|aleph")]
        asset: Asset,
        /// Shown to the account.
        #[arg(long, default_value = "")]
        memo: String,
        #[command(flatten)]
        gateway: GatewayFlag,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show where to send ALEPH to.
    Deposit {
        #[command(flatten)]
        of: Of,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Have ALEPH sent to the account's own address.
    Withdraw {
        #[command(flatten)]
        of: Of,
        #[command(flatten)]
        flags: outside::Withdraw,
    },
    /// Turn ALEPH into credits, for good.
    Convert {
        #[command(flatten)]
        of: Of,
        #[command(flatten)]
        flags: outside::Convert,
    },
    /// Show how deposits and withdrawals stand; for the gateway's operator.
    Settlement {
        #[command(flatten)]
        of: Of,
        #[command(flatten)]
        flags: outside::Settle,
    },
    /// List the reader keys that an account has published, one for each machine that uses it.
    Keys {
        /// Its name on this machine.
        name: String,
    },
    /// Take back the reader key of a machine that is lost: no secret is wrapped for it from now on.
    RevokeKey {
        /// The account's name on this machine.
        name: String,
        /// Key id, as `wallet keys` shows it.
        id: String,
    },
}

/// Whose, and where.
#[derive(Args)]
struct Of {
    /// Name of the account on this machine [default: account.name].
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    #[command(flatten)]
    gateway: GatewayFlag,
}

impl Of {
    async fn connect(&self, loaded: &Loaded) -> Result<GatewayClient> {
        let name = self.account.as_deref().unwrap_or(&loaded.settings.account.name);
        at_gateway(loaded, name, &self.gateway).await
    }
}

impl Wallet {
    /// Runs the action.
    pub(crate) async fn run(&self) -> Result<()> {
        let loaded = settings::load(&self.data.flags())?;
        match &self.action {
            Action::New { name, no_passphrase } => {
                let data = loaded.open_data()?;
                account::check_free(&data, name)?;
                let lock = lock(&data, name, *no_passphrase)?;
                println!("{}", Account::create(&data, name, lock.as_ref())?.address());
            }
            Action::Import {
                name,
                keystore,
                keystore_passphrase,
                signer,
                address,
                no_passphrase,
            } => {
                let data = loaded.open_data()?;
                account::check_free(&data, name)?;
                let wallet = match (keystore, signer.as_deref().zip(address.as_deref())) {
                    (Some(file), _) => of_keystore(file, keystore_passphrase.as_deref())?,
                    (None, Some((command, address))) => of_signer(command, address)?,
                    (None, None) => {
                        vault::Wallet::from_secret(&*read_secret()?).map_err(|error| unusable(&error))?
                    }
                };
                let lock = lock(&data, name, *no_passphrase)?;
                let account = Account::create_with(&data, name, wallet, lock.as_ref())?;
                println!("{}", account.address());
            }
            Action::Lock {
                name,
                new_passphrase_file,
            } => {
                let data = loaded.data();
                let account = Account::open(&data, name)?;
                account.relock(Some(&unlock::new_passphrase(
                    name,
                    new_passphrase_file.as_deref(),
                )?))?;
                println!("the keys of {name} are locked by the new passphrase");
            }
            Action::Show { name } => {
                let data = loaded.data();
                let locked = account::is_locked(&data, name)?;
                let account = Account::open(&data, name)?;
                println!("name        {name}");
                println!("address     {}", account.address());
                for (at, key) in account.reader().publics().iter().enumerate() {
                    let title = if at == 0 { "reader key" } else { "" };
                    let kem = match key {
                        vault::ReaderPublic::XWing(_) => "X-Wing",
                        vault::ReaderPublic::X25519(_) => "X25519",
                    };
                    println!("{title:<10}  {kem}, key id {}", hex::encode(key.id()));
                }
                println!("folder      {}", account.folder().display());
                let lock = if locked {
                    "by a passphrase"
                } else {
                    "by the files' mode alone; `alephlab wallet lock`"
                };
                println!("locked      {lock}");
                if account.wallet().is_elsewhere() {
                    println!("signer      a program of yours");
                }
            }
            Action::Address { name } => println!("{}", account::address(&loaded.data(), name)?),
            Action::List => {
                let data = loaded.data();
                for name in account::names(&data)? {
                    println!("{name} {}", account::address(&data, &name)?);
                }
            }
            Action::RegisterKey { name } => {
                let data = loaded.data();
                let account = Account::open(&data, name)?;
                let storage = services::node_in_use(&loaded, &data)?;
                register_reader_key(&*storage, account.wallet(), account.reader())
                    .await
                    .map_err(|error| CliError::vault("the reader key was not registered", &error))?;
                println!("{} can be granted datasets", account.address());
            }
            Action::Balance { name, gateway, json } => {
                funds::balance(&at_gateway(&loaded, name, gateway).await?, *json).await?;
            }
            Action::Statement { name, gateway, json } => {
                funds::statement(&at_gateway(&loaded, name, gateway).await?, *json).await?;
            }
            Action::Credit {
                to,
                amount,
                asset,
                memo,
                gateway,
                json,
            } => {
                // An account that began without an address has an id; no name here has its form by chance.
                let to = match to.len() == 37 && to.starts_with("acct_") {
                    true => to.clone(),
                    false => named(&loaded, to)?.to_string(),
                };
                let operator = at_gateway(&loaded, &loaded.settings.account.name, gateway).await?;
                funds::credit(&operator, to, *amount, *asset, memo, *json).await?;
            }
            Action::Deposit { of, json } => outside::deposit(&of.connect(&loaded).await?, *json).await?,
            Action::Withdraw { of, flags } => outside::withdraw(&of.connect(&loaded).await?, flags).await?,
            Action::Convert { of, flags } => outside::convert(&of.connect(&loaded).await?, flags).await?,
            Action::Settlement { of, flags } => {
                outside::settlement(&of.connect(&loaded).await?, flags).await?;
            }
            Action::Keys { name } => list_keys(&loaded, name).await?,
            Action::RevokeKey { name, id } => {
                let data = loaded.data();
                let account = Account::open(&data, name)?;
                let storage = services::node_in_use(&loaded, &data)?;
                revoke_reader_key(&*storage, account.wallet(), id)
                    .await
                    .map_err(|error| CliError::vault("the reader key was not revoked", &error))?;
                println!(
                    "nothing is wrapped for {id} any more; what its machine can open already it can open still, until each \
                     dataset has a new secret: alephlab dataset revoke"
                );
            }
        }
        Ok(())
    }
}

/// The gateway, as this account.
async fn at_gateway(loaded: &Loaded, name: &str, gateway: &GatewayFlag) -> Result<GatewayClient> {
    let data = loaded.data();
    let account = Account::open(&data, name)?;
    let (gateway, _) = connect(&data, gateway, &account).await?;
    Ok(gateway)
}

/// An address, or the account of that name here.
fn named(loaded: &Loaded, to: &str) -> Result<Address> {
    let address = match to.parse::<Address>() {
        Ok(address) => return Ok(address),
        Err(_) => account::address(&loaded.data(), to)?,
    };
    address.parse().map_err(|error| unusable(&error))
}

async fn list_keys(loaded: &Loaded, name: &str) -> Result<()> {
    let data = loaded.data();
    let account = Account::open(&data, name)?;
    let storage = services::node_in_use(loaded, &data)?;
    let keys = registered_keys(&*storage, &account.address()).await;
    let keys = keys.map_err(|error| CliError::vault("the reader keys were not found", &error))?;
    let own: Vec<String> = account
        .reader()
        .publics()
        .iter()
        .map(|key| hex::encode(key.id()))
        .collect();
    // One line for each machine: a key that a better one of the same machine stands for is left out.
    for key in keys.iter().filter(|key| key.counts() || key.is_revoked()) {
        let whose = if own.contains(&key.id) {
            "this machine"
        } else {
            "another machine"
        };
        let state = if key.is_revoked() { "revoked" } else { "in use" };
        println!(
            "{}  {}  {whose}  {state}",
            key.id,
            alephlab_api::time::hub(key.created())
        );
    }
    Ok(())
}

/// What is to open a new account's files.
fn lock(data: &DataFolder, name: &str, no_passphrase: bool) -> Result<Option<Passphrase>> {
    if no_passphrase {
        return Ok(None);
    }
    if data.passphrase_file().is_none() && !unlock::can_be_typed() {
        return Err(CliError::Usage {
            message: format!("the keys of {name} need a passphrase, and nobody can type it here"),
            hint: "name a file with it in account.passphrase_file, or say --no-passphrase".to_owned(),
        });
    }
    unlock::new_passphrase(name, data.passphrase_file()).map(Some)
}

/// Its passphrase is another wallet's, so it is typed, or stands in a file of its own.
fn of_keystore(file: &Path, passphrase_file: Option<&Path>) -> Result<vault::Wallet> {
    let what = file.display().to_string();
    let passphrase = unlock::passphrase(&what, passphrase_file)?;
    vault::Wallet::of_keystore(file, &passphrase).map_err(|error| unusable(&error))
}

/// A program is proved before it is kept: it signs a text for nothing.
fn of_signer(command: &str, address: &str) -> Result<vault::Wallet> {
    // A shell's line, as people write one: with quotes and pipes.
    let line = ["sh", "-c", command].map(str::to_owned).to_vec();
    let program = vault::Program::new(address, line).map_err(|error| unusable(&error))?;
    let wallet = vault::Wallet::of_program(program);
    let text = format!(
        "Alephlab asks whether this program signs for {}",
        wallet.address()
    );
    wallet.sign_text(&text).map_err(|error| unusable(&error))?;
    Ok(wallet)
}

fn unusable(error: &vault::VaultError) -> CliError {
    CliError::vault("the key was not imported", error)
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
