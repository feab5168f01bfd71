//! Files that hold one 32-byte secret in hex: mode 0600, never overwritten. Used by wallets and reader keys.

use crate::{Result, VaultError};
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use zeroize::Zeroizing;

/// Writes `secret` to a new file.
pub(crate) fn save(path: &Path, secret: &[u8; 32]) -> Result<()> {
    let refuse = |reason: String| VaultError::KeyFile {
        path: path.to_owned(),
        reason,
    };
    let mut text = Zeroizing::new([0_u8; 65]);
    text[64] = b'\n';
    // The buffer holds exactly 64 digits and a newline, so this can not fail.
    let _ = hex::encode_to_slice(secret, &mut text[..64]);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| refuse(error.to_string()))?;
    file.write_all(&*text)
        .and_then(|()| file.sync_all())
        .map_err(|error| refuse(error.to_string()))
}

/// Reads a secret, refusing a file that others can read.
pub(crate) fn load(path: &Path) -> Result<Zeroizing<[u8; 32]>> {
    let refuse = |reason: String| VaultError::KeyFile {
        path: path.to_owned(),
        reason,
    };
    let mut file = OpenOptions::new()
        .read(true)
        .open(path)
        .map_err(|error| refuse(error.to_string()))?;
    let meta = file.metadata().map_err(|error| refuse(error.to_string()))?;
    if meta.permissions().mode() & 0o077 != 0 {
        return Err(refuse("other people on this machine can read it".into()));
    }
    let mut text = Zeroizing::new([0_u8; 128]);
    let mut length = 0;
    while length < text.len() {
        match file
            .read(&mut text[length..])
            .map_err(|error| refuse(error.to_string()))?
        {
            0 => break,
            read => length += read,
        }
    }
    let mut secret = Zeroizing::new([0; 32]);
    let digits = text[..length].trim_ascii();
    let digits = digits.strip_prefix(b"0x").unwrap_or(digits);
    hex::decode_to_slice(digits, &mut *secret)
        .map_err(|_| refuse("it does not hold 64 hex digits".into()))?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saves_once_and_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        save(&path, &[7; 32]).unwrap();
        assert_eq!(*load(&path).unwrap(), [7; 32]);
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(save(&path, &[8; 32]).unwrap_err().code(), "E_KEY_FILE");
        assert_eq!(*load(&path).unwrap(), [7; 32]);
    }

    #[test]
    fn refuses_files_open_to_others_and_other_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        save(&path, &[7; 32]).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(load(&path).err().unwrap().to_string().contains("other people"));
        let short = dir.path().join("short");
        std::fs::write(&short, "0011").unwrap();
        std::fs::set_permissions(&short, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(load(&short).err().unwrap().code(), "E_KEY_FILE");
        assert_eq!(load(&dir.path().join("none")).err().unwrap().code(), "E_KEY_FILE");
    }
}
