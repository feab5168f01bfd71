//! What a host is given in secret: derived from one file of the gateway's and the lease's id, so that a step that is done
//! again hands over the same, and the database holds none of it.

use std::path::Path;

use alephlab_api::Secret;
use alephlab_vault::random_key;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::error::{GatewayError, Result};

/// Derives secrets of leases.
#[derive(Clone)]
pub struct LeaseSecrets(Zeroizing<[u8; 32]>);

impl LeaseSecrets {
    /// From `lease.key` in `folder`, made (0600) when there is none.
    ///
    /// # Errors
    /// When it cannot be read, others can read it, or it holds something else.
    pub fn open(folder: &Path) -> Result<Self> {
        let key = random_key(&folder.join("lease.key")).map_err(|error| GatewayError::Setting {
            setting: "the lease key",
            reason: error.to_string(),
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
        block[..32].copy_from_slice(&*self.0);
        let mut mac = Hmac::<Sha256>::new(&block.into());
        mac.update(purpose);
        mac.update(lease.as_bytes());
        mac.finalize().into_bytes().into()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
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
