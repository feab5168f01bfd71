//! Scope 2: exactly the objects of one version, with a manifest root sealed anew that carries no older epoch's
//! secret. What shares and narrow delegations hand out; it opens no earlier or later version.

use crate::cbor::{Reader as CborReader, Writer};
use crate::encoding::hex_array;
use crate::head::RootRef;
use crate::keys::{DatasetId, ObjectKey};
use crate::reader::Reader;
use crate::ring::Ring;
use crate::seal::SealedObject;
use crate::{Result, VaultError};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// The re-sealed manifest root: where it lies, and its key.
pub struct SealedRoot {
    /// Where the object lies; its hash and length are checked on reading.
    pub at: RootRef,
    pub(crate) key: ObjectKey,
}

/// Keys of all objects of one version. Zeroized on drop, without `Debug`.
pub struct ObjectKeys {
    /// The dataset.
    pub dataset_id: DatasetId,
    /// Epoch of the head that this was made from.
    pub epoch: u32,
    /// Item hash of the head's POST message.
    pub head_message: String,
    /// SHA-256 of the head's CBOR.
    pub head_hash: [u8; 32],
    /// The root to read in place of the head's.
    pub root: SealedRoot,
    pub(crate) keys: BTreeMap<[u8; 16], ObjectKey>,
}

impl ObjectKeys {
    /// Number of objects, the root not counted.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no object but the root is in scope.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// As it stands in the record of a public model: the same as shares seal, base64, for anyone to read.
    pub fn to_public(&self) -> String {
        STANDARD.encode(self.encode())
    }

    /// Reads what [`ObjectKeys::to_public`] wrote. Whether it opens what it is said to is seen by opening that.
    ///
    /// # Errors
    /// `E_MALFORMED` when it is something else.
    pub fn from_public(text: &str) -> Result<Self> {
        let bytes = STANDARD.decode(text).map_err(|error| VaultError::Malformed {
            what: "a list of object keys",
            reason: error.to_string(),
        })?;
        Self::decode(&bytes)
    }

    pub(crate) fn key(&self, object_id: &[u8; 16]) -> Option<&ObjectKey> {
        self.keys.get(object_id)
    }

    /// The scope-2 blob of shares and delegations, deterministic CBOR.
    pub(crate) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut to = Writer::new();
        to.map(7)
            .uint(1)
            .uint(2)
            .uint(2)
            .bytes(&self.dataset_id.0)
            .uint(3)
            .uint(self.epoch.into());
        to.uint(4).text(&self.head_message).uint(5).bytes(&self.head_hash);
        let at = &self.root.at;
        to.uint(6)
            .array(4)
            .bytes(&*self.root.key.0)
            .text(&at.item_hash)
            .uint(at.length)
            .bytes(&at.sha256);
        to.uint(7).array(self.keys.len());
        for (id, key) in &self.keys {
            to.array(2).bytes(id).bytes(&*key.0);
        }
        Zeroizing::new(to.finish())
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut from = CborReader::new("list of object keys", bytes)?;
        let fields = from.map()?;
        if fields != 7 || expect(&mut from, 1)? != 2 {
            return Err(from.refuse("it is not of scope 2"));
        }
        step(&mut from, 2)?;
        let dataset_id = DatasetId(from.bytes()?);
        let epoch =
            u32::try_from(expect(&mut from, 3)?).map_err(|_| from.refuse("the epoch is too large"))?;
        step(&mut from, 4)?;
        let head_message = from.text()?;
        step(&mut from, 5)?;
        let head_hash = from.bytes()?;
        step(&mut from, 6)?;
        from.tuple(4)?;
        let key = ObjectKey(Zeroizing::new(from.bytes()?));
        let at = RootRef {
            item_hash: from.text()?,
            length: from.uint()?,
            sha256: from.bytes()?,
        };
        step(&mut from, 7)?;
        let mut keys = BTreeMap::new();
        for _ in 0..from.array()? {
            from.tuple(2)?;
            keys.insert(from.bytes()?, ObjectKey(Zeroizing::new(from.bytes()?)));
        }
        let root = SealedRoot { at, key };
        let decoded = Self {
            dataset_id,
            epoch,
            head_message,
            head_hash,
            root,
            keys,
        };
        from.end(&decoded.encode())?;
        Ok(decoded)
    }
}

/// The next map key, which must be `key`, and the number after it.
fn expect(from: &mut CborReader<'_>, key: u64) -> Result<u64> {
    step(from, key)?;
    from.uint()
}

fn step(from: &mut CborReader<'_>, key: u64) -> Result<()> {
    match from.uint()? {
        found if found == key => Ok(()),
        found => Err(from.refuse(format!("key {found} stands where {key} belongs"))),
    }
}

/// Narrows an open dataset to its version: keys of its objects, and the root sealed anew, which the caller
/// stores like any object before handing out the keys. `head_message` is the item hash of the head's POST.
///
/// # Errors
/// `E_EPOCH` when the reader itself holds only object keys, so that nothing narrower can be made.
pub fn narrow(reader: &Reader, head_message: &str) -> Result<(ObjectKeys, SealedObject)> {
    hex_array::<32>("the head message's hash", head_message)?;
    let Ring::Epochs(_) = reader.ring() else {
        return Err(VaultError::Epoch {
            reason: "a share can not be shared again".into(),
        });
    };
    let (object, root) = reader.reseal_root()?;
    let head = reader.head();
    let keys = ObjectKeys {
        dataset_id: head.head.dataset_id,
        epoch: head.head.epoch,
        head_message: head_message.to_owned(),
        head_hash: head.hash(),
        root,
        keys: reader.object_keys()?,
    };
    Ok((keys, object))
}
