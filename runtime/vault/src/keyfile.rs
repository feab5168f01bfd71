//! Files that hold one secret, in hex or opened by a passphrase ([`crate::keystore`]): mode 0600, never overwritten.
//! Used by wallets, reader keys and the gateway's key of stored secrets.

use crate::keys::random;
use crate::keystore::{self, Passphrase};
use crate::{Result, VaultError};
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use zeroize::Zeroizing;

/// Longest key file, bytes.
const FILE_BYTES_MAX: usize = 8 * 1024;

/// Writes `secret` to a new file: in hex, or opened by `passphrase`. `address` names an account's key.
pub(crate) fn save(
    path: &Path,
    secret: &[u8],
    address: Option<&str>,
    passphrase: Option<&Passphrase>,
) -> Result<()> {
    let text = match passphrase {
        Some(passphrase) => Zeroizing::new(keystore::seal(secret, address, passphrase)?),
        None => Zeroizing::new(hex::encode(secret)),
    };
    write(path, &text)
}

/// The 32 random bytes in a key file that only this machine's programs use; the file is made when there is none.
///
/// # Errors
/// [`VaultError::KeyFile`] when it cannot be made or read, others can read it, or it holds something else.
pub fn random_key(path: &Path) -> Result<Zeroizing<[u8; 32]>> {
    if !path.exists() {
        let key = Zeroizing::new(random::<32>()?);
        save(path, &*key, None, None)?;
    }
    sized(&load(path, None)?, path)
}

/// Writes a text to a new file.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    let refuse = |error: std::io::Error| VaultError::KeyFile {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.map_err(refuse)?;
    file.write_all(text.as_bytes()).map_err(refuse)?;
    file.write_all(b"\n").map_err(refuse)?;
    file.sync_all().map_err(refuse)
}

/// Reads a secret, refusing a file that others can read.
pub(crate) fn load(path: &Path, passphrase: Option<&Passphrase>) -> Result<Zeroizing<Vec<u8>>> {
    let text = read(path)?;
    open(&text, path, passphrase)
}

/// The secret in the text of a key file.
pub(crate) fn open(text: &str, path: &Path, passphrase: Option<&Passphrase>) -> Result<Zeroizing<Vec<u8>>> {
    if text.starts_with('{') {
        let locked = || VaultError::Locked {
            path: path.to_owned(),
        };
        return keystore::open(text, path, passphrase.ok_or_else(locked)?);
    }
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let secret = hex::decode(digits).map_err(|_| VaultError::KeyFile {
        path: path.to_owned(),
        reason: "it holds neither hex digits, nor is it a wallet's key file".into(),
    })?;
    Ok(Zeroizing::new(secret))
}

/// The 32 bytes of a wallet's key.
pub(crate) fn sized(secret: &[u8], path: &Path) -> Result<Zeroizing<[u8; 32]>> {
    let sized = secret.try_into().map_err(|_| VaultError::KeyFile {
        path: path.to_owned(),
        reason: "it does not hold 64 hex digits, nor is it a wallet's key file".into(),
    })?;
    Ok(Zeroizing::new(sized))
}

/// The text of a key file, refusing one that others can read.
pub(crate) fn read(path: &Path) -> Result<Zeroizing<String>> {
    let refuse = |reason: String| VaultError::KeyFile {
        path: path.to_owned(),
        reason,
    };
    let failed = |error: std::io::Error| refuse(error.to_string());
    let file = OpenOptions::new().read(true).open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if meta.permissions().mode() & 0o077 != 0 {
        return Err(refuse("other people on this machine can read it".into()));
    }
    // Room for all of it at once: a buffer that grows leaves copies behind.
    let mut text = Zeroizing::new(String::with_capacity(FILE_BYTES_MAX));
    file.take(FILE_BYTES_MAX as u64)
        .read_to_string(&mut text)
        .map_err(failed)?;
    let end = text.trim_end().len();
    text.truncate(end);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saves_once_and_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        save(&path, &[7; 32], None, None).unwrap();
        assert_eq!(**load(&path, None).unwrap(), [7; 32]);
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(
            save(&path, &[8; 32], None, None).unwrap_err().code(),
            "E_KEY_FILE"
        );
        assert_eq!(**load(&path, None).unwrap(), [7; 32]);
    }

    #[test]
    fn a_random_key_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let key = random_key(&dir.path().join("a.key")).unwrap();
        assert_eq!(*key, *random_key(&dir.path().join("a.key")).unwrap());
        assert_ne!(*key, *random_key(&dir.path().join("b.key")).unwrap());
        std::fs::write(dir.path().join("a.key"), "00").unwrap();
        assert_eq!(
            random_key(&dir.path().join("a.key")).err().unwrap().code(),
            "E_KEY_FILE"
        );
    }

    #[test]
    fn refuses_files_open_to_others_and_other_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        save(&path, &[7; 32], None, None).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(
            load(&path, None)
                .err()
                .unwrap()
                .to_string()
                .contains("other people")
        );
        let short = dir.path().join("short");
        std::fs::write(&short, "001").unwrap();
        std::fs::set_permissions(&short, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(load(&short, None).err().unwrap().code(), "E_KEY_FILE");
        assert_eq!(
            load(&dir.path().join("none"), None).err().unwrap().code(),
            "E_KEY_FILE"
        );
    }
}
