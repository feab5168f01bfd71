//! Grants: an epoch's secret wrapped for a reader's registered key, posted on Aleph (container section 10).
//! Scope 0 only; who sent it is what makes it authentic.

use crate::cbor::Writer;
use crate::encoding::{hex_bytes, hex_vec};
use crate::head::SignedHead;
use crate::keys::{Address, DatasetId, EpochSecret, random};
use crate::policy::Policy;
use crate::readerkey::{ReaderKey, ReaderPublic};
use crate::sealed::Sealed;
use crate::{Result, VaultError};
use serde::{Deserialize, Serialize};

/// POST type of grants.
pub const GRANT_POST_TYPE: &str = "aleph-dataset-grant";

/// A wrapped epoch secret with everything that its AAD binds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Key 1.
    pub dataset_id: DatasetId,
    /// Key 2.
    pub epoch: u32,
    /// Key 3: whose key.
    pub recipient: Address,
    /// Key 4: which key.
    #[serde(with = "hex_bytes")]
    pub key_id: [u8; 16],
    /// Key 5: 0x0020 X25519, 0x647a X-Wing.
    pub kem_id: u16,
    /// Key 6: 0, the epoch secret.
    pub scope: u8,
    /// Key 7: unix seconds.
    pub not_before: u64,
    /// Key 7: unix seconds; none for no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<u64>,
    /// Key 8.
    #[serde(with = "hex_bytes")]
    pub grant_id: [u8; 16],
    /// Key 9 is its hash: what the owner asks of hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// Key 10: encapsulated key.
    #[serde(with = "hex_vec")]
    pub enc: Vec<u8>,
    /// Key 11: sealed scope byte and secret.
    #[serde(with = "hex_bytes")]
    pub ct: [u8; 49],
}

/// When a grant holds, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrantTerms {
    /// Unix seconds.
    pub not_before: u64,
    /// Unix seconds; none for no end.
    pub not_after: Option<u64>,
    /// What is asked of hosts; none for nothing.
    pub policy: Option<Policy>,
}

impl GrantTerms {
    /// On any host until `not_after`, unix seconds.
    pub fn until(not_after: Option<u64>) -> Self {
        Self {
            not_after,
            ..Self::default()
        }
    }
}

impl Grant {
    /// Wraps `secret` for the reader whose key is `to`.
    ///
    /// # Errors
    /// `E_KEY_POINT` for an unusable key.
    pub fn seal(
        dataset_id: DatasetId,
        epoch: u32,
        secret: &EpochSecret,
        recipient: Address,
        to: &ReaderPublic,
        terms: GrantTerms,
    ) -> Result<Self> {
        let mut grant = Self {
            dataset_id,
            epoch,
            recipient,
            key_id: to.id(),
            kem_id: to.kem_id(),
            scope: 0,
            not_before: terms.not_before,
            not_after: terms.not_after,
            grant_id: random()?,
            policy: terms.policy.filter(|policy| !policy.is_empty()),
            enc: Vec::new(),
            ct: [0; 49],
        };
        let mut plaintext = zeroize::Zeroizing::new([0; 33]);
        plaintext[1..].copy_from_slice(secret.expose());
        let info = grant.info();
        let sealed = Sealed::seal(to, &info, |enc| grant.aad(enc), &*plaintext)?;
        grant.enc = sealed.enc;
        grant.ct = sealed.ct.try_into().map_err(|_| VaultError::KeyPoint)?;
        Ok(grant)
    }

    /// Opens the grant for `head`'s dataset. `sender` signed the message that carried it, `now` is in unix
    /// seconds.
    ///
    /// # Errors
    /// `E_GRANT_SENDER`, `E_GRANT_EXPIRED`, `E_GRANT_OPEN`, `E_KEY_POINT`, and `E_EPOCH` when the secret is not
    /// the one that the head commits to.
    pub fn open(&self, key: &ReaderKey, sender: &str, head: &SignedHead, now: u64) -> Result<EpochSecret> {
        let refuse = |reason: &str| {
            Err(VaultError::GrantOpen {
                reason: reason.to_owned(),
            })
        };
        let allowed = sender
            .parse()
            .is_ok_and(|sender: Address| head.may_write(&sender));
        if !allowed {
            let owner = head.head.owner.to_string();
            return Err(VaultError::GrantSender {
                sender: sender.to_owned(),
                owner,
            });
        }
        if self.dataset_id != head.head.dataset_id || self.epoch != head.head.epoch {
            return refuse("it is for another dataset or epoch");
        }
        let not_after = self.not_after.unwrap_or(u64::MAX);
        if now < self.not_before || now > not_after {
            return Err(VaultError::GrantExpired {
                not_before: self.not_before,
                not_after,
            });
        }
        let sealed = Sealed {
            enc: self.enc.clone(),
            ct: self.ct.to_vec(),
        };
        if sealed.kem_id() != Some(self.kem_id) || self.scope != 0 {
            return refuse("it is of a kind that this program does not know");
        }
        if !key.has(self.kem_id, &self.key_id) {
            return refuse("it was made for another key");
        }
        let opened = sealed.open(key, &self.info(), &self.aad(&self.enc))?;
        let Some((0, secret)) = opened.split_first() else {
            return refuse("it does not hold an epoch secret");
        };
        let Ok(secret) = secret.try_into() else {
            return refuse("it does not hold 32 bytes");
        };
        let secret = EpochSecret::from_bytes(secret);
        if secret.commitment(&self.dataset_id, self.epoch) != head.head.epoch_commitment {
            return Err(VaultError::Epoch {
                reason: "the head commits to another secret than the grant holds".into(),
            });
        }
        Ok(secret)
    }

    /// The grant in a post of the owner or a listed writer; none in one that is no grant.
    ///
    /// # Errors
    /// `E_GRANT_OPEN` for one with conditions that this program does not know: it must not be passed over for an older one.
    pub(crate) fn from_post(content: &serde_json::Value) -> Result<Option<Self>> {
        match serde_json::from_value::<Self>(content.clone()) {
            Ok(grant) => Ok(Some(grant)),
            Err(_) if content.get("policy").is_some_and(|policy| !policy.is_null()) => {
                Err(VaultError::GrantOpen {
                    reason: "a grant has conditions that this version of alephlab does not know".into(),
                })
            }
            Err(_) => Ok(None),
        }
    }

    /// Content of the POST message, tagged with the dataset id and with the recipient, who finds it by that.
    ///
    /// # Errors
    /// When it can not be written as JSON, which it always can.
    pub fn post_content(&self) -> Result<serde_json::Value> {
        let mut content = crate::head::to_json(self)?;
        content["tags"] = serde_json::json!([self.dataset_id.to_string(), self.recipient.to_string()]);
        Ok(content)
    }

    fn info(&self) -> Vec<u8> {
        let label = b"aleph-dataset/v1/grant\0".as_slice();
        [label, &self.dataset_id.0, &self.epoch.to_be_bytes(), &self.key_id].concat()
    }

    /// CBOR of keys 1 to 10.
    fn aad(&self, enc: &[u8]) -> Vec<u8> {
        let mut to = Writer::new();
        to.map(10)
            .uint(1)
            .bytes(&self.dataset_id.0)
            .uint(2)
            .uint(self.epoch.into());
        to.uint(3)
            .bytes(&self.recipient.0)
            .uint(4)
            .bytes(&self.key_id)
            .uint(5)
            .uint(self.kem_id.into());
        to.uint(6)
            .uint(self.scope.into())
            .uint(7)
            .array(2)
            .uint(self.not_before)
            .optional_uint(self.not_after);
        to.uint(8).bytes(&self.grant_id).uint(9);
        match &self.policy {
            Some(policy) => to.bytes(&policy.hash()),
            None => to.null(),
        };
        to.uint(10).bytes(enc);
        to.finish()
    }
}
