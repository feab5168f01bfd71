//! Delegations: how a reader's machine hands the narrowest sufficient keys to a kernel's broker (container
//! section 11). Signed by the reader's wallet, sealed to the kernel's key, pinned to one head, and short-lived.

use crate::cbor::Writer;
use crate::digest::sha256;
use crate::encoding::hex_bytes;
use crate::head::SignedHead;
use crate::keys::{Address, DatasetId, EpochSecret, random};
use crate::policy::Policy;
use crate::readerkey::{ReaderKey, ReaderPublic};
use crate::ring::Keys;
use crate::scope::ObjectKeys;
use crate::sealed::Sealed;
use crate::wallet::{Wallet, recover_text};
use crate::{Result, VaultError};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Longest term of a delegation, seconds: seven days.
const MAX_TERM: u64 = 7 * 86_400;

/// What is delegated, to whom and until when; all of it is signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DelegationTerms {
    /// For whom and what: [`session_text`] for a kernel.
    pub session: String,
    /// The kernel's public key.
    pub kernel_key: ReaderPublic,
    /// Unix seconds; at most seven days ahead.
    pub not_after: u64,
    /// Hash of the message that allocated the host, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocation: Option<String>,
    /// What the owner asks of hosts; the broker refuses to open on another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
}

/// A signed, sealed delegation; crosses HTTP as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delegation {
    /// What is delegated.
    #[serde(flatten)]
    pub terms: DelegationTerms,
    /// Whose reader's machine made it.
    pub reader: Address,
    /// The dataset.
    pub dataset_id: DatasetId,
    /// Epoch of the head.
    pub epoch: u32,
    /// Version of the head: pins against rollback.
    pub head_version: u64,
    /// Hash of the head.
    #[serde(with = "hex_bytes")]
    pub head_hash: [u8; 32],
    /// 0 epoch secret, 2 object keys.
    pub scope: u8,
    /// SHA-256 of the sealed keys' plaintext form; binds them to the signature.
    #[serde(with = "hex_bytes")]
    pub keys_hash: [u8; 32],
    /// Drawn afresh for each delegation.
    #[serde(with = "hex_bytes")]
    pub nonce: [u8; 32],
    /// EIP-191 signature by `reader`.
    pub signature: String,
    /// The keys, sealed to the kernel's key.
    pub sealed: Sealed,
}

/// The session of a delegation that answers a kernel's request to open `reference`: the kernel's id and the SHA-256
/// of the reference as it was asked. It is signed, so that whoever relays request and answer cannot pass the
/// delegation of one name off as that of another.
pub fn session_text(kernel: &str, reference: &str) -> String {
    format!("{kernel}:{}", hex::encode(sha256(&[reference.as_bytes()])))
}

impl Delegation {
    /// Seals `keys` for the kernel and signs.
    ///
    /// # Errors
    /// `E_DELEGATION` for a term of more than seven days from `now` or keys of another head, `E_KEY_POINT` for
    /// an unusable kernel key.
    pub fn seal(
        wallet: &Wallet,
        head: &SignedHead,
        terms: DelegationTerms,
        keys: &Keys,
        now: u64,
    ) -> Result<Self> {
        if terms.not_after > now.saturating_add(MAX_TERM) {
            return Err(refuse("it would last longer than seven days"));
        }
        let (scope, plaintext) = encode(keys);
        if matches!(keys, Keys::Objects(keys) if keys.head_hash != head.hash()) {
            return Err(refuse("the object keys belong to another head"));
        }
        let nonce: [u8; 32] = random()?;
        let mut delegation = Self {
            reader: wallet.owner(),
            dataset_id: head.head.dataset_id,
            epoch: head.head.epoch,
            head_version: head.head.version,
            head_hash: head.hash(),
            scope,
            // Salted with the nonce, so that equal keys do not show.
            keys_hash: keys_hash(&nonce, &plaintext),
            nonce,
            signature: String::new(),
            sealed: Sealed {
                enc: Vec::new(),
                ct: Vec::new(),
            },
            terms,
        };
        let hash = delegation.hash();
        delegation.signature = wallet.sign_text(&delegation.signed_text(&hash))?;
        let info = delegation.info(&hash);
        delegation.sealed = Sealed::seal(&delegation.terms.kernel_key, &info, |_| Vec::new(), &plaintext)?;
        Ok(delegation)
    }

    /// Opens with the kernel's key, after checking that `reader` signed it for this head and that it holds at
    /// `now`, unix seconds.
    ///
    /// # Errors
    /// `E_DELEGATION` says which check failed; `E_GRANT_OPEN`, `E_KEY_POINT`; `E_EPOCH` when the secret is not
    /// the one that the head commits to.
    pub fn open(&self, kernel_key: &ReaderKey, head: &SignedHead, reader: &str, now: u64) -> Result<Keys> {
        let reader: Address = reader.parse()?;
        let hash = self.hash();
        let signer = recover_text(&self.signed_text(&hash), &self.signature);
        if self.reader != reader || !signer.is_ok_and(|signer| signer == reader) {
            return Err(refuse("it is not signed by this kernel's account"));
        }
        if self.terms.kernel_key != kernel_key.public() {
            return Err(refuse("it is for another kernel"));
        }
        if now > self.terms.not_after {
            return Err(refuse("it has expired"));
        }
        if self.terms.not_after > now.saturating_add(MAX_TERM) {
            return Err(refuse("it lasts longer than seven days"));
        }
        head.verify()?;
        let pinned = self.dataset_id == head.head.dataset_id
            && self.epoch == head.head.epoch
            && self.head_version == head.head.version
            && self.head_hash == head.hash();
        if !pinned {
            return Err(refuse("it is pinned to another version"));
        }
        let opened = self.sealed.open(kernel_key, &self.info(&hash), &[])?;
        if keys_hash(&self.nonce, &opened) != self.keys_hash {
            return Err(refuse("the keys in it are not those that were signed"));
        }
        self.decode(&opened, head)
    }

    fn decode(&self, opened: &[u8], head: &SignedHead) -> Result<Keys> {
        let Some((scope, rest)) = opened.split_first().filter(|(scope, _)| **scope == self.scope) else {
            return Err(refuse("it holds another scope than it says"));
        };
        match scope {
            0 => {
                let secret = rest.try_into().map_err(|_| refuse("it does not hold 32 bytes"))?;
                let secret = EpochSecret::from_bytes(secret);
                if secret.commitment(&self.dataset_id, self.epoch) != head.head.epoch_commitment {
                    return Err(VaultError::Epoch {
                        reason: "the head commits to another secret".into(),
                    });
                }
                Ok(Keys::Epoch(secret))
            }
            2 => Ok(Keys::Objects(ObjectKeys::decode(rest)?)),
            _ => Err(refuse("its scope is not known")),
        }
    }

    /// SHA-256 of the deterministic CBOR of everything that is signed.
    fn hash(&self) -> [u8; 32] {
        let mut to = Writer::new();
        to.map(14)
            .uint(1)
            .text(&self.terms.session)
            .uint(2)
            .bytes(self.terms.kernel_key.bytes());
        to.uint(3)
            .bytes(&self.dataset_id.0)
            .uint(4)
            .uint(self.epoch.into())
            .uint(5)
            .uint(self.head_version);
        to.uint(6)
            .bytes(&self.head_hash)
            .uint(7)
            .uint(self.scope.into())
            .uint(8)
            .array(1)
            .text("read");
        to.uint(9).uint(self.terms.not_after).uint(10);
        match &self.terms.allocation {
            Some(hash) => to.text(hash),
            None => to.null(),
        };
        to.uint(11);
        match &self.terms.policy {
            Some(policy) => to.bytes(&policy.hash()),
            None => to.null(),
        };
        to.uint(12).bytes(&self.nonce).uint(13).bytes(&self.reader.0);
        to.uint(14).bytes(&self.keys_hash);
        sha256(&[&to.finish()])
    }

    fn signed_text(&self, hash: &[u8; 32]) -> String {
        let (id, version, hash) = (self.dataset_id, self.head_version, hex::encode(hash));
        format!("aleph-dataset/v1 delegation\n{id}\n{version}\n{hash}")
    }

    fn info(&self, hash: &[u8; 32]) -> Vec<u8> {
        let label = b"aleph-dataset/v1/delegation\0".as_slice();
        [label, &self.dataset_id.0, &self.epoch.to_be_bytes(), hash].concat()
    }
}

fn encode(keys: &Keys) -> (u8, Zeroizing<Vec<u8>>) {
    let (scope, body) = match keys {
        Keys::Epoch(secret) => (0, Zeroizing::new(secret.expose().to_vec())),
        Keys::Objects(keys) => (2, keys.encode()),
    };
    let mut plaintext = Zeroizing::new(Vec::with_capacity(body.len() + 1));
    plaintext.push(scope);
    plaintext.extend_from_slice(&body);
    (scope, plaintext)
}

fn keys_hash(nonce: &[u8; 32], plaintext: &[u8]) -> [u8; 32] {
    sha256(&[b"aleph-dataset/v1/delegated-keys\0", nonce, plaintext])
}

fn refuse(reason: &str) -> VaultError {
    VaultError::Delegation {
        reason: reason.to_owned(),
    }
}
