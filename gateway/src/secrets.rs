//! Secrets of accounts at rest: sealed under a key file of the gateway's own, bound to account, name and version.
//!
//! Whoever has database and key file can open them, and so can the operator: this keeps them out of copies of the database,
//! not from who runs the gateway. The key (`secrets.key`, 0600) is not in the database.

use std::path::Path;

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit};
use alephlab_api::Secret;
use alephlab_api::secrets::SecretName;
use alephlab_vault::random_key;
use axum::http::StatusCode;
use sha2::{Digest as _, Sha256};

use crate::error::{GatewayError, Result};
use crate::store::SealedSecret;

/// Begins what is authenticated with each secret, so that nothing else that is sealed under this key passes for one.
const LABEL: &str = "alephlab secret v1";

/// Seals and opens secrets.
pub(crate) struct SecretsKey {
    cipher: Aes256Gcm,
    /// Tells this key from others, and nothing of it.
    id: [u8; 8],
}

/// Whose secret it is, which, and which of its values.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) account: &'a str,
    pub(crate) name: &'a SecretName,
    pub(crate) version: i64,
}

impl SecretsKey {
    /// The key in `folder`, made when there is none.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let key = random_key(&folder.join("secrets.key")).map_err(|error| GatewayError::Setting {
            setting: "the key of stored secrets",
            reason: error.to_string(),
        })?;
        let hash = Sha256::new()
            .chain_update(LABEL)
            .chain_update(" key id")
            .chain_update(*key)
            .finalize();
        let mut id = [0; 8];
        id.copy_from_slice(&hash[..8]);
        Ok(Self {
            cipher: Aes256Gcm::new((&*key).into()),
            id,
        })
    }

    /// Seals a value for its place, under a nonce of its own.
    pub(crate) fn seal(&self, place: Place<'_>, value: &Secret) -> Result<SealedSecret> {
        let nonce: [u8; 12] = rand::random();
        let aad = place.bytes();
        let payload = Payload {
            msg: value.expose().as_bytes(),
            aad: &aad,
        };
        let sealed = self.cipher.encrypt(&nonce.into(), payload);
        Ok(SealedSecret {
            key_id: self.id,
            nonce,
            // It refuses only what is longer than 64 GiB.
            sealed: sealed.map_err(|_| unreadable(place.name, "could not be sealed"))?,
        })
    }

    /// Opens what was sealed for this place, or says in words why it cannot.
    pub(crate) fn unseal(&self, place: Place<'_>, sealed: &SealedSecret) -> Result<Secret> {
        if sealed.key_id != self.id {
            let reason = "was sealed under another key file than the one that this gateway has now";
            return Err(unreadable(place.name, reason));
        }
        let aad = place.bytes();
        let payload = Payload {
            msg: &sealed.sealed,
            aad: &aad,
        };
        let opened = self.cipher.decrypt(&sealed.nonce.into(), payload);
        let text = opened.ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let text = text.ok_or_else(|| {
            let reason = "cannot be opened: what the gateway's database holds of it was changed";
            unreadable(place.name, reason)
        })?;
        Ok(Secret::new(text))
    }
}

impl Place<'_> {
    /// No part has a NUL, so no two places have the same bytes.
    fn bytes(&self) -> Vec<u8> {
        let Self {
            account,
            name,
            version,
        } = self;
        format!("{LABEL}\0{account}\0{name}\0{version}").into_bytes()
    }
}

fn unreadable(name: &SecretName, reason: &str) -> GatewayError {
    GatewayError::refused(
        StatusCode::INTERNAL_SERVER_ERROR,
        "secret_unreadable",
        format!("the secret {name} {reason}"),
    )
    .with_hint(&format!(
        "set it again with `alephlab secret set {name}`; or the gateway's operator puts back database and secrets.key as they \
         were together"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &SecretName) -> Place<'_> {
        Place {
            account: "0x00000000000000000000000000000000000000aD",
            name,
            version: 1,
        }
    }

    #[test]
    fn what_is_sealed_opens_in_its_own_place_only() {
        let folder = tempfile::tempdir().unwrap();
        let key = SecretsKey::open(folder.path()).unwrap();
        let (name, other): (SecretName, SecretName) = ("A".parse().unwrap(), "B".parse().unwrap());
        let sealed = key.seal(place(&name), &Secret::new("canary")).unwrap();
        assert!(!sealed.sealed.windows(6).any(|part| part == b"canary"));
        let again = SecretsKey::open(folder.path()).unwrap();
        assert_eq!(again.unseal(place(&name), &sealed).unwrap().expose(), "canary");
        for elsewhere in [
            place(&other),
            Place {
                version: 2,
                ..place(&name)
            },
            Place {
                account: "0x00000000000000000000000000000000000000eE",
                ..place(&name)
            },
        ] {
            let error = key.unseal(elsewhere, &sealed).unwrap_err();
            assert_eq!(error.code(), "secret_unreadable");
            assert!(error.to_string().contains("was changed"), "{error}");
        }
    }

    #[test]
    fn a_value_is_never_sealed_the_same_way_twice() {
        let folder = tempfile::tempdir().unwrap();
        let key = SecretsKey::open(folder.path()).unwrap();
        let name: SecretName = "A".parse().unwrap();
        let seal = || key.seal(place(&name), &Secret::new("canary")).unwrap();
        let (one, two) = (seal(), seal());
        assert!(one.nonce != two.nonce && one.sealed != two.sealed);
    }

    #[test]
    fn another_key_file_is_told_from_a_changed_row() {
        let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let key = SecretsKey::open(folder.path()).unwrap();
        let name: SecretName = "A".parse().unwrap();
        let sealed = key.seal(place(&name), &Secret::new("canary")).unwrap();
        let other = SecretsKey::open(elsewhere.path()).unwrap();
        let error = other.unseal(place(&name), &sealed).unwrap_err();
        assert!(error.to_string().contains("another key file"), "{error}");
        assert!(error.hint().unwrap().contains("alephlab secret set A"));
        let forged = SealedSecret {
            key_id: other.id,
            ..sealed
        };
        let error = other.unseal(place(&name), &forged).unwrap_err();
        assert!(error.to_string().contains("was changed"), "{error}");
    }

    #[test]
    fn a_key_file_that_others_can_read_is_refused_in_words() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        drop(SecretsKey::open(folder.path()).unwrap());
        let path = folder.path().join("secrets.key");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = SecretsKey::open(folder.path()).err().unwrap().to_string();
        assert!(
            error.contains("other people on this machine can read it"),
            "{error}"
        );
    }
}
