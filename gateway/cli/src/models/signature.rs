//! The publishing key of an account: a P-256 key that signs `model.sig` for programs that know no wallets. The wallet says once, in a
//! post on Aleph, that the key is its own; who knows the owner's address finds it there, and a key that ended is not taken.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use alephlab_api::model::{ModelRecord, PUBLISHING_KEY_TYPE, PublishingKey};
use alephlab_api::time::unix_now;
use alephlab_vault::Address;
use alephlab_vault::storage::{PostQuery, StoredPost};
use p256::ecdsa::{SigningKey, VerifyingKey};
use p256::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, LineEnding};
use zeroize::Zeroizing;

use super::{Registry, refuse, vault};
use crate::data::{private_text, write_private};
use crate::error::{CliError, Result};
use crate::oms;

/// In an account's folder.
const KEY_FILE: &str = "publishing.pem";
const WHAT: &str = "the publishing key cannot be looked up";

/// A signature over the files of a revision.
pub(crate) struct Signature {
    /// The bundle.
    pub(crate) bundle: Vec<u8>,
    /// The public key, PEM.
    pub(crate) key: String,
    /// The message in which the wallet said just now that the key is its own; none where it had.
    pub(crate) delegated: Option<String>,
}

impl Registry {
    /// Signs the files of an own revision with the account's publishing key, which is made where there is none, or with that of a
    /// file.
    ///
    /// # Errors
    /// When the key has ended, or a passphrase guards the account's keys and no file is named.
    pub(crate) async fn sign_files(&self, record: &ModelRecord, file: Option<&Path>) -> Result<Signature> {
        let key = match file {
            Some(file) => read_key(file)?,
            None => self.publishing_key()?,
        };
        let pem = oms::pem(key.verifying_key())?;
        let delegated = match self.key_posts(self.account.wallet().owner()).await?.get(&pem) {
            Some(post) if post.ended => {
                return Err(refuse(
                    "publishing_key_ended",
                    "this publishing key has ended: nobody takes what it signs".to_owned(),
                    "sign with another one, or move accounts/NAME/publishing.pem away, so that a new one is made",
                ));
            }
            Some(_) => None,
            None => {
                let proof = oms::prove(&PublishingKey::about(&self.account.address()), &key);
                Some(self.post_key(&pem, Some(proof)).await?)
            }
        };
        let mut files: Vec<_> = record
            .files
            .iter()
            .filter(|file| !oms::is_ignored(&file.path))
            .map(|file| (file.path.clone(), file.sha256.clone()))
            .collect();
        files.sort();
        let name = record.name.rsplit('/').next().unwrap_or(&record.name);
        Ok(Signature {
            bundle: oms::sign(name, &files, &key)?,
            key: pem,
            delegated,
        })
    }

    /// Says that the account's publishing key, or that of a file, is its own no more. The public half is enough: who lost the key, or
    /// had it stolen, needs this most.
    pub(crate) async fn end_publishing_key(&self, file: Option<&Path>) -> Result<String> {
        let path = file.map_or_else(|| self.key_path(), Path::to_owned);
        let text = Zeroizing::new(read(&path)?);
        let key = match oms::public_key(&text) {
            Ok(key) => key,
            Err(_) => *private_key(&text, &path)?.verifying_key(),
        };
        self.post_key(&oms::pem(&key)?, None).await
    }

    /// The keys that an owner's wallet said are its own, and did not take back.
    pub(crate) async fn publishing_keys(&self, owner: Address) -> Result<Vec<VerifyingKey>> {
        let posts = self.key_posts(owner).await?;
        let standing = posts.values().filter(|post| !post.ended);
        Ok(standing
            .filter_map(|post| oms::public_key(&post.key).ok())
            .collect())
    }

    /// What an owner said last of each key.
    async fn key_posts(&self, owner: Address) -> Result<BTreeMap<String, PublishingKey>> {
        let query = PostQuery {
            addresses: vec![owner.to_string()],
            types: vec![PUBLISHING_KEY_TYPE.to_owned()],
            ..PostQuery::default()
        };
        let posts = self.storage.posts(query).await.map_err(vault(WHAT))?;
        let owner = owner.to_string();
        let said = |post: StoredPost| -> Option<PublishingKey> {
            let said: PublishingKey = serde_json::from_value(post.content).ok()?;
            let is_own = said.check().is_ok() && said.owner == owner && post.address == post.sender;
            (is_own && is_proved(&said)).then_some(said)
        };
        let mut last: BTreeMap<String, PublishingKey> = BTreeMap::new();
        for said in posts.into_iter().filter_map(said) {
            // One that ended stays so, whatever comes late.
            let was_ended = last.get(&said.key).is_some_and(|before| before.ended);
            let ended = said.ended || was_ended;
            last.insert(said.key.clone(), PublishingKey { ended, ..said });
        }
        Ok(last)
    }

    /// Says with a proof that a key is the account's own, and without one that it is no more.
    async fn post_key(&self, pem: &str, proof: Option<String>) -> Result<String> {
        let content = PublishingKey {
            owner: self.account.address(),
            key: pem.to_owned(),
            ended: proof.is_none(),
            proof,
            created: unix_now(),
        };
        content.check().map_err(|problem| CliError::Refused { problem })?;
        self.post_untold(PUBLISHING_KEY_TYPE, &content).await
    }

    fn key_path(&self) -> PathBuf {
        self.account.folder().join(KEY_FILE)
    }

    fn publishing_key(&self) -> Result<SigningKey> {
        let path = self.key_path();
        if path.exists() {
            return read_key(&path);
        }
        if self.account.is_locked() {
            return Err(CliError::Usage {
                message: format!("a passphrase guards the keys of {}, and a publishing key would lie beside them without one", self.account.name()),
                hint: "make one where you want it to lie (openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out FILE), and name it with --key".to_owned(),
            });
        }
        let bytes: Zeroizing<[u8; 32]> = Zeroizing::new(rand::random());
        let key = SigningKey::from_slice(&*bytes).map_err(|_| unusable(&path))?;
        let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(|_| unusable(&path))?;
        write_private(&path, pem.as_bytes())?;
        Ok(key)
    }
}

/// Whether who says that a key is theirs has it, or wants no more than that it ends.
fn is_proved(said: &PublishingKey) -> bool {
    let text = PublishingKey::about(&said.owner);
    let has_key = |proof: &String| oms::proves(&text, &said.key, proof);
    said.ended || said.proof.as_ref().is_some_and(has_key)
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|source| CliError::file("read", path, source))
}

fn read_key(path: &Path) -> Result<SigningKey> {
    private_key(&private_text(path)?, path)
}

fn private_key(text: &str, path: &Path) -> Result<SigningKey> {
    SigningKey::from_pkcs8_pem(text).map_err(|_| unusable(path))
}

fn unusable(path: &Path) -> CliError {
    CliError::Usage {
        message: format!(
            "{} is no key of the curve P-256 that is not locked (PKCS#8, PEM)",
            path.display()
        ),
        hint: "make one: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out FILE".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_others_is_not_taken_by_a_post_of_ones_own() {
        let key = SigningKey::from_slice(&[7; 32]).unwrap();
        let said = |owner: &str, proof: Option<String>| PublishingKey {
            owner: owner.to_owned(),
            key: oms::pem(key.verifying_key()).unwrap(),
            proof,
            ended: false,
            created: 1,
        };
        let proof = oms::prove(&PublishingKey::about("0xAlice"), &key);
        assert!(is_proved(&said("0xAlice", Some(proof.clone()))));
        // Her key, and her own proof of it, under another name.
        let foreign = said("0xMallory", Some(proof));
        assert!(!is_proved(&foreign) && !is_proved(&said("0xMallory", None)));
        let other = SigningKey::from_slice(&[8; 32]).unwrap();
        let forged = oms::prove(&PublishingKey::about("0xMallory"), &other);
        assert!(!is_proved(&said("0xMallory", Some(forged))));
        assert!(is_proved(&PublishingKey {
            ended: true,
            ..foreign
        }));
    }
}
