//! An account of this machine: its wallet, its reader key and what it calls its datasets and models.
//!
//! `accounts/NAME/{wallet.key,reader.key,datasets.json,models.json,sessions.json}`. It signs in at gateways; consent to use the keys
//! for others is the business of `keys`.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use alephlab_api::Secret;
use alephlab_api::account::SignIn;
use alephlab_api::client::GatewayClient;
use alephlab_vault::{Passphrase, ReaderKey, VaultError, Wallet};

use crate::data::{DataFolder, read_json, write_json};
use crate::error::{CliError, Result};
use crate::unlock;

/// Longest name of an account: it is a folder's name.
const NAME_CHARS_MAX: usize = 64;

/// An account whose keys lie in this data folder.
pub(crate) struct Account {
    name: String,
    folder: PathBuf,
    wallet: Wallet,
    reader: ReaderKey,
    /// A passphrase opens its keys.
    is_locked: bool,
}

impl Account {
    /// Makes a new account; an existing one is never overwritten.
    pub(crate) fn create(data: &DataFolder, name: &str, lock: Option<&Passphrase>) -> Result<Self> {
        let wallet = Wallet::generate().map_err(|error| unmade(&error))?;
        Self::create_with(data, name, wallet, lock)
    }

    /// Makes an account of a wallet that is already somebody's. Its reader key is new.
    pub(crate) fn create_with(
        data: &DataFolder,
        name: &str,
        wallet: Wallet,
        lock: Option<&Passphrase>,
    ) -> Result<Self> {
        check_free(data, name)?;
        let folder = data.accounts().join(name);
        let fail = |error| unmade(&error);
        data.make(&folder)?;
        let reader_path = folder.join("reader.key");
        // The wallet comes last: a folder without it is an unfinished account, which may be finished here.
        let reader = if reader_path.exists() {
            ReaderKey::load(&reader_path, lock).map_err(fail)?
        } else {
            let reader = ReaderKey::generate().map_err(fail)?;
            save_whole(&reader_path, |path| reader.save(path, lock).map_err(fail))?;
            reader
        };
        save_whole(&folder.join("wallet.key"), |path| {
            wallet.save(path, lock).map_err(fail)
        })?;
        Ok(Self {
            name: name.to_owned(),
            folder,
            wallet,
            reader,
            is_locked: lock.is_some(),
        })
    }

    /// Opens an existing account.
    pub(crate) fn open(data: &DataFolder, name: &str) -> Result<Self> {
        check_name(name)?;
        let folder = data.accounts().join(name);
        let path = folder.join("wallet.key");
        if !path.exists() {
            return Err(CliError::Usage {
                message: format!("there is no account {name} in {}", data.root().display()),
                hint: format!("make it with `alephlab wallet new {name}`"),
            });
        }
        let mut lock = Lock {
            account: name,
            file: data.passphrase_file(),
            passphrase: None,
        };
        let wallet = lock.open(|passphrase| Wallet::load(&path, passphrase))?;
        let reader_path = folder.join("reader.key");
        let reader = lock.open(|passphrase| ReaderKey::load(&reader_path, passphrase))?;
        let is_locked = lock.passphrase.is_some();
        Ok(Self {
            name: name.to_owned(),
            folder,
            wallet,
            reader,
            is_locked,
        })
    }

    /// Opens an account, made first when it is missing.
    pub(crate) fn open_or_create(data: &DataFolder, name: &str) -> Result<Self> {
        check_name(name)?;
        let exists = data.accounts().join(name).join("wallet.key").exists();
        if exists {
            Self::open(data, name)
        } else {
            // Made on the way, without a person to choose a passphrase: `wallet lock` sets one.
            Self::create(data, name, None)
        }
    }

    /// Writes the keys anew, opened by `lock`, or by nothing but the file's mode.
    pub(crate) fn relock(&self, lock: Option<&Passphrase>) -> Result<()> {
        let fail = |error| unmade(&error);
        let [reader, wallet] = ["reader.key", "wallet.key"].map(|name| self.folder.join(name));
        let [new_reader, new_wallet] = [&reader, &wallet].map(|path| part(path));
        let put = |from: &Path, to: &Path| {
            std::fs::rename(from, to).map_err(|source| CliError::file("replace", to, source))
        };
        // Both are written before either is put in its place: they open with one passphrase.
        let written = self.reader.save(&new_reader, lock);
        let written = written
            .and_then(|()| self.wallet.save(&new_wallet, lock))
            .map_err(fail);
        let done = written
            .and_then(|()| put(&new_reader, &reader))
            .and_then(|()| put(&new_wallet, &wallet));
        // What was kept without a passphrase must not stay beside one.
        drop(std::fs::remove_file(self.folder.join("sessions.json")));
        // Removed also when they were never made; what matters is told.
        drop((
            std::fs::remove_file(&new_reader),
            std::fs::remove_file(&new_wallet),
        ));
        done
    }

    /// Its name on this machine.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its address, EIP-55.
    pub(crate) fn address(&self) -> String {
        self.wallet.address()
    }

    /// Whether a passphrase guards its keys.
    pub(crate) fn is_locked(&self) -> bool {
        self.is_locked
    }

    /// Its folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// What signs for it.
    pub(crate) fn wallet(&self) -> &Wallet {
        &self.wallet
    }

    /// What grants to it are sealed for.
    pub(crate) fn reader(&self) -> &ReaderKey {
        &self.reader
    }

    /// Where the upload of a dataset notes how far it is.
    pub(crate) fn upload_journal(&self, name: &str) -> Result<PathBuf> {
        self.journal("uploads", name)
    }

    /// Where the publishing of a model notes how far it is.
    pub(crate) fn model_journal(&self, name: &str) -> Result<PathBuf> {
        self.journal("models", name)
    }

    fn journal(&self, kind: &str, name: &str) -> Result<PathBuf> {
        let folder = self.folder.join(kind);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.map_err(|source| CliError::file("make", &folder, source))?;
        Ok(folder.join(format!("{name}.jsonl")))
    }

    /// A token of this account at a gateway: that of an earlier sign-in for as long as the gateway takes it, so that commands
    /// that follow one another do not sign in each, or a new one. Kept in a 0600 file beside the keys, and not at all where a
    /// passphrase guards those.
    pub(crate) async fn session(&self, gateway: &GatewayClient) -> Result<Secret> {
        let path = self.folder.join("sessions.json");
        let url = gateway.base().as_str().to_owned();
        // What cannot be read is as if it was not there: it is written anew.
        let mut kept: BTreeMap<String, String> = match self.is_locked {
            true => BTreeMap::new(),
            false => read_json(&path).ok().flatten().unwrap_or_default(),
        };
        if let Some(token) = kept.get(&url).map(Secret::new)
            && gateway.with_token(token.clone()).whoami().await.is_ok()
        {
            return Ok(token);
        }
        let token = self.sign_in(gateway).await?;
        if !self.is_locked {
            kept.insert(url, token.expose().to_owned());
            write_json(&path, &kept)?;
        }
        Ok(token)
    }

    /// Signs in at a gateway with the wallet and gets a token for this session.
    pub(crate) async fn sign_in(&self, gateway: &GatewayClient) -> Result<Secret> {
        let address = self.address();
        let challenge = gateway.challenge(&address).await?;
        // The text comes from the gateway: one that names another gateway would let this one sign in there as us.
        let opening = format!("{} wants you to sign in", gateway.base().authority());
        if !challenge.message.starts_with(&opening) || !challenge.message.contains(&address) {
            return Err(CliError::Unreachable {
                url: gateway.base().to_string(),
                reason: "it asked to sign a text that is not a sign-in of this account at this address"
                    .to_owned(),
            });
        }
        let signature = self
            .wallet
            .sign_text(&challenge.message)
            .map_err(|error| CliError::vault("signing in failed", &error))?;
        let signed = SignIn {
            address,
            nonce: challenge.nonce,
            signature,
        };
        Ok(gateway.sign_in(&signed).await?.token)
    }
}

/// What opens the files of an account: nothing, until one of them says that it is locked.
struct Lock<'a> {
    account: &'a str,
    file: Option<&'a Path>,
    passphrase: Option<Passphrase>,
}

impl Lock<'_> {
    fn open<T>(&mut self, load: impl Fn(Option<&Passphrase>) -> alephlab_vault::Result<T>) -> Result<T> {
        let fail = |error: VaultError| CliError::vault("the account's keys cannot be read", &error);
        match load(self.passphrase.as_ref()) {
            // The other file of the account may have another one, if it was locked anew and that was cut short.
            Err(VaultError::Locked { .. } | VaultError::Passphrase { .. }) => {
                let passphrase = unlock::passphrase(self.account, self.file)?;
                load(Some(self.passphrase.insert(passphrase))).map_err(fail)
            }
            loaded => loaded.map_err(fail),
        }
    }
}

/// Whether a passphrase locks an account's keys, without opening them.
pub(crate) fn is_locked(data: &DataFolder, name: &str) -> Result<bool> {
    check_name(name)?;
    // The reader's key: a wallet may be elsewhere.
    match ReaderKey::load(&data.accounts().join(name).join("reader.key"), None) {
        Err(VaultError::Locked { .. }) => Ok(true),
        Err(error) => Err(CliError::vault("the account's keys cannot be read", &error)),
        Ok(_) => Ok(false),
    }
}

/// An account's address, read from its file where a passphrase locks the key.
pub(crate) fn address(data: &DataFolder, name: &str) -> Result<String> {
    check_name(name)?;
    let path = data.accounts().join(name).join("wallet.key");
    let written = path
        .exists()
        .then(|| Wallet::address_in(&path).ok().flatten())
        .flatten();
    match written {
        Some(address) => Ok(address),
        None => Ok(Account::open(data, name)?.address()),
    }
}

/// Refuses a name that cannot be an account's, or is one's already.
pub(crate) fn check_free(data: &DataFolder, name: &str) -> Result<()> {
    check_name(name)?;
    if data.accounts().join(name).join("wallet.key").exists() {
        return Err(CliError::Usage {
            message: format!("the account {name} exists already"),
            hint: format!("`alephlab wallet address {name}` shows its address"),
        });
    }
    Ok(())
}

fn unmade(error: &VaultError) -> CliError {
    CliError::vault("the account's keys could not be made", error)
}

/// Names of all accounts, sorted.
pub(crate) fn names(data: &DataFolder) -> Result<Vec<String>> {
    let folder = data.accounts();
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(CliError::file("read", &folder, source)),
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok())
        .filter(|entry| entry.path().join("wallet.key").is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    Ok(names)
}

/// Has a key written under another name and then put in its place: a process that is killed leaves no half key, and a
/// key that is there already is never replaced.
fn save_whole(path: &Path, save: impl Fn(&Path) -> Result<()>) -> Result<()> {
    let part = part(path);
    let saved = save(&part).and_then(|()| {
        std::fs::hard_link(&part, path).map_err(|source| CliError::file("make", path, source))
    });
    // Removed also when it was never made; what matters is told.
    drop(std::fs::remove_file(&part));
    saved
}

/// A name beside a file, for what is to take its place.
fn part(path: &Path) -> PathBuf {
    path.with_extension(format!("part-{:08x}", rand::random::<u32>()))
}

fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if !name.is_empty() && name.len() <= NAME_CHARS_MAX && name.chars().all(plain) {
        return Ok(());
    }
    Err(CliError::Usage {
        message: format!("{name:?} cannot be the name of an account"),
        hint: format!("use at most {NAME_CHARS_MAX} letters, digits, hyphens and underscores"),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::testing::scratch;

    #[test]
    fn an_account_is_made_once_and_opened_again() {
        let folder = scratch();
        let data = DataFolder::open(folder.path()).unwrap();
        let made = Account::create(&data, "ada", None).unwrap().address();
        assert_eq!(Account::open(&data, "ada").unwrap().address(), made);
        assert_eq!(Account::open_or_create(&data, "ada").unwrap().address(), made);
        assert!(matches!(
            Account::create(&data, "ada", None),
            Err(CliError::Usage { .. })
        ));
        assert_eq!(names(&data).unwrap(), ["ada"]);
        for file in ["wallet.key", "reader.key"] {
            let mode = std::fs::metadata(data.accounts().join("ada").join(file))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
    }

    #[test]
    fn a_key_is_there_whole_or_not_at_all_and_never_replaced() {
        let folder = scratch();
        let path = folder.path().join("a.key");
        let save = |text: &'static str| {
            move |path: &Path| std::fs::write(path, text).map_err(|e| CliError::file("write", path, e))
        };
        let cut_short = |path: &Path| {
            save("half")(path)?;
            Err(CliError::file(
                "write",
                path,
                std::io::ErrorKind::Interrupted.into(),
            ))
        };
        assert!(save_whole(&path, cut_short).is_err());
        assert!(!path.exists());
        save_whole(&path, save("one")).unwrap();
        assert!(save_whole(&path, save("two")).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        let folder = scratch();
        let data = DataFolder::open(folder.path()).unwrap();
        for name in ["", "..", "a/b", "a b", "é"] {
            assert!(
                matches!(Account::create(&data, name, None), Err(CliError::Usage { .. })),
                "{name}"
            );
        }
        assert!(matches!(
            Account::open(&data, "nobody"),
            Err(CliError::Usage { .. })
        ));
    }
}
