//! What a host is given in secret: derived from one file of the gateway's and the lease's id, so that a step that is done
//! again hands over the same, and the database holds none of it.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use alephlab_api::Secret;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use uuid::Uuid;

use crate::error::{GatewayError, Result};

/// Derives secrets of leases.
#[derive(Clone)]
pub struct LeaseSecrets([u8; 32]);

impl LeaseSecrets {
    /// From `lease.key` in `folder`, made (0600) when there is none.
    ///
    /// # Errors
    /// When it cannot be read, or is not 32 bytes.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("lease.key");
        let bad = |source| GatewayError::Folder {
            path: path.clone(),
            source,
        };
        if !path.exists() {
            let made = folder.join("lease.key.new");
            let mut file = OpenOptions::new()
                .create(true)
                .truncate(true)
                .write(true)
                .mode(0o600)
                .open(&made)
                .map_err(bad)?;
            file.write_all(&rand::random::<[u8; 32]>()).map_err(bad)?;
            file.sync_all().map_err(bad)?;
            fs::rename(&made, &path).map_err(bad)?;
        }
        let bytes = fs::read(&path).map_err(bad)?;
        let key = bytes.try_into().map_err(|_| GatewayError::Setting {
            setting: "the lease key",
            reason: format!("{} does not hold 32 bytes", path.display()),
        })?;
        Ok(Self(key))
    }

    /// The token with which the agent of a lease proves itself first.
    pub(crate) fn token(&self, lease: Uuid) -> Secret {
        Secret::new(hex::encode(self.derive(b"alephlab/lease-token/v1", lease)))
    }

    /// The token of a kernel on a rented host: whoever is told to start it again tells the same.
    pub(crate) fn kernel_token(&self, kernel: Uuid) -> Secret {
        Secret::new(hex::encode(self.derive(b"alephlab/kernel-token/v1", kernel)))
    }

    /// Seed of the Ed25519 key with which the gateway reaches the host of a lease over SSH.
    pub(crate) fn ssh_seed(&self, lease: Uuid) -> [u8; 32] {
        self.derive(b"alephlab/lease-ssh/v1", lease)
    }

    fn derive(&self, purpose: &[u8], lease: Uuid) -> [u8; 32] {
        // As RFC 2104 has it for a key that is shorter than a block.
        let mut block = [0; 64];
        block[..32].copy_from_slice(&self.0);
        let mut mac = Hmac::<Sha256>::new(&block.into());
        mac.update(purpose);
        mac.update(lease.as_bytes());
        mac.finalize().into_bytes().into()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_same_file_gives_the_same_secrets_and_each_lease_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let (first, lease) = (LeaseSecrets::open(folder.path()).unwrap(), Uuid::new_v4());
        let again = LeaseSecrets::open(folder.path()).unwrap();
        assert_eq!(first.token(lease).expose(), again.token(lease).expose());
        assert_ne!(first.token(lease).expose(), first.token(Uuid::nil()).expose());
        assert_ne!(
            hex::encode(first.ssh_seed(lease)),
            first.token(lease).expose(),
            "each purpose has its own"
        );
        let mode = fs::metadata(folder.path().join("lease.key"))
            .unwrap()
            .permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        fs::write(folder.path().join("lease.key"), "short").unwrap();
        assert!(LeaseSecrets::open(folder.path()).is_err());
    }
}
