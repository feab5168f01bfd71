//! The head: the public, signed record that names a dataset's current version (container section 9). Broker,
//! gateway and command verify it; only the owner's wallet makes it.

use crate::cbor::Writer as Cbor;
use crate::digest::sha256;
use crate::encoding::hex_bytes;
use crate::keys::{Address, DatasetId, dataset_id};
use crate::wallet::{Wallet, recover_text};
use crate::{Result, VaultError};
use serde::{Deserialize, Serialize};

/// POST type of heads.
pub const HEAD_POST_TYPE: &str = "aleph-dataset-head";

/// Where the manifest root lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootRef {
    /// Name of the object in storage.
    pub item_hash: String,
    /// Bytes of the sealed object.
    pub length: u64,
    /// SHA-256 of the sealed object.
    #[serde(with = "hex_bytes")]
    pub sha256: [u8; 32],
}

/// Another account that may sign heads and grants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    /// Who.
    pub address: Address,
    /// Until when, unix seconds.
    pub expires: u64,
}

/// Keys 1 to 10 of the head record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnsignedHead {
    /// Key 1.
    pub dataset_id: DatasetId,
    /// Key 2.
    pub owner: Address,
    /// Key 3: first 1, then previous + 1.
    pub version: u64,
    /// Key 4: hash of the previous head, zero for the first.
    #[serde(with = "hex_bytes")]
    pub prev: [u8; 32],
    /// Key 5: current epoch, from 1.
    pub epoch: u32,
    /// Key 6: commitment to the epoch's secret.
    #[serde(with = "hex_bytes")]
    pub epoch_commitment: [u8; 32],
    /// Key 7.
    pub root: RootRef,
    /// Key 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub writers: Vec<Writer>,
    /// Key 9, first part: unix seconds.
    pub created: u64,
    /// Key 9, second part: fresh until, unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<u64>,
    /// Key 10.
    #[serde(with = "hex_bytes")]
    pub id_random: [u8; 16],
}

/// A head with its signature; what the POST's content holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedHead {
    /// The signed fields.
    #[serde(flatten)]
    pub head: UnsignedHead,
    /// Key 11: `0x` and 65 bytes r, s, v, hex.
    pub signature: String,
}

impl UnsignedHead {
    /// Deterministic CBOR of keys 1 to 10: what is hashed and signed.
    pub fn cbor(&self) -> Vec<u8> {
        let mut to = Cbor::new();
        let writers = !self.writers.is_empty();
        to.map(9 + usize::from(writers))
            .uint(1)
            .bytes(&self.dataset_id.0)
            .uint(2)
            .bytes(&self.owner.0);
        to.uint(3)
            .uint(self.version)
            .uint(4)
            .bytes(&self.prev)
            .uint(5)
            .uint(self.epoch.into());
        to.uint(6).bytes(&self.epoch_commitment);
        to.uint(7)
            .array(3)
            .text(&self.root.item_hash)
            .uint(self.root.length)
            .bytes(&self.root.sha256);
        if writers {
            to.uint(8).array(self.writers.len());
            for writer in &self.writers {
                to.array(2).bytes(&writer.address.0).uint(writer.expires);
            }
        }
        to.uint(9)
            .array(2)
            .uint(self.created)
            .optional_uint(self.not_after);
        to.uint(10).bytes(&self.id_random);
        to.finish()
    }

    /// SHA-256 of the CBOR.
    pub fn hash(&self) -> [u8; 32] {
        sha256(&[&self.cbor()])
    }

    /// Signs with the owner's or a listed writer's wallet.
    ///
    /// # Errors
    /// `E_HEAD_SIG` when this wallet may not sign this head, or the head contradicts itself.
    pub fn sign(self, wallet: &Wallet) -> Result<SignedHead> {
        let signature = wallet.sign_text(&self.signed_text())?;
        let head = SignedHead {
            head: self,
            signature,
        };
        head.verify()?;
        Ok(head)
    }

    fn signed_text(&self) -> String {
        let hash = hex::encode(self.hash());
        format!(
            "aleph-dataset/v1 head\n{}\n{}\n{hash}",
            self.dataset_id, self.version
        )
    }
}

impl SignedHead {
    /// Checks everything that needs neither network nor memory: name, signer, limits.
    ///
    /// # Errors
    /// `E_HEAD_SIG` says what is wrong.
    pub fn verify(&self) -> Result<()> {
        let refuse = |reason: &str| {
            Err(VaultError::HeadSig {
                reason: reason.to_owned(),
            })
        };
        let head = &self.head;
        if head.dataset_id != dataset_id(&head.owner, &head.id_random) {
            return refuse("its dataset id does not belong to its owner");
        }
        if head.version == 0 || head.epoch == 0 {
            return refuse("version and epoch count from 1");
        }
        if (head.version == 1) != (head.prev == [0; 32]) {
            return refuse("the first version has no previous head, and every other has one");
        }
        let signer =
            recover_text(&head.signed_text(), &self.signature).map_err(|error| VaultError::HeadSig {
                reason: error.to_string(),
            })?;
        if self.may_write(&signer) {
            return Ok(());
        }
        Err(VaultError::HeadSig {
            reason: format!("{signer} signed it, who is neither owner nor listed writer"),
        })
    }

    /// Checks the head's own term, if it states one.
    ///
    /// # Errors
    /// `E_HEAD_EXPIRED`.
    pub fn check_fresh(&self, now: u64) -> Result<()> {
        match self.head.not_after {
            Some(not_after) if now > not_after => Err(VaultError::HeadExpired { not_after }),
            _ => Ok(()),
        }
    }

    /// Whether `address` may sign for this dataset at the head's own time.
    pub fn may_write(&self, address: &Address) -> bool {
        let listed = |writer: &Writer| writer.address == *address && self.head.created <= writer.expires;
        *address == self.head.owner || self.head.writers.iter().any(listed)
    }

    /// SHA-256 of the head's CBOR.
    pub fn hash(&self) -> [u8; 32] {
        self.head.hash()
    }

    /// The revision's name: first 20 bytes of the hash, 40 hex digits.
    pub fn revision(&self) -> String {
        hex::encode(&self.hash()[..20])
    }

    /// Content of the POST message, with the dataset id as tag so that nodes can filter.
    ///
    /// # Errors
    /// When it can not be written as JSON, which it always can.
    pub fn post_content(&self) -> Result<serde_json::Value> {
        let mut content = to_json(self)?;
        content["tags"] = serde_json::json!([self.head.dataset_id.to_string()]);
        Ok(content)
    }

    /// Reads a POST's content; [`SignedHead::verify`] is still to be called.
    ///
    /// # Errors
    /// `E_HEAD_SIG` when fields are missing or malformed.
    pub fn from_post(content: &serde_json::Value) -> Result<Self> {
        serde_json::from_value(content.clone()).map_err(|error| VaultError::HeadSig {
            reason: error.to_string(),
        })
    }
}

/// A record as JSON.
pub(crate) fn to_json<T: Serialize>(record: &T) -> Result<serde_json::Value> {
    serde_json::to_value(record).map_err(|error| VaultError::Malformed {
        what: "a record",
        reason: error.to_string(),
    })
}
