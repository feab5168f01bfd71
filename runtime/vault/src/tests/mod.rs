//! Tests that need more than one module: known answers, hostile bytes, whole datasets. Small tests stand beside
//! the code that they test.

mod cached;
mod datasets;
mod envelopes;
mod forgetting;
mod known;
mod manifests;
mod matching;
mod node;
mod nodes;
mod objects;
mod publishing;
mod releases;
mod resuming;
mod revising;
mod revisions;
mod scopes;
mod sharing;
mod slices;
mod wycheproof;

use crate::keys::{EpochSecret, dataset_id};
use crate::message::sign_store;
use crate::storage::{MemoryStorage, Storage};
use crate::{
    DatasetId, Keys, Meta, Reader, SealParams, SealedObject, SealedTree, SignedHead, SourceFile,
    UnsignedHead, Wallet, seal_next, seal_tree,
};
use std::sync::Arc;

/// True when the long forms of tests are asked for.
fn long() -> bool {
    std::env::var("ALEPHLAB_TEST_LONG").is_ok_and(|value| value == "1")
}

/// The stable code of an error.
fn code<T>(result: crate::Result<T>) -> &'static str {
    result.err().map_or("no error", |error| error.code())
}

/// A dataset in memory whose every part a test can reach.
struct Fixture {
    storage: Arc<MemoryStorage>,
    wallet: Wallet,
    secret: EpochSecret,
    dataset: DatasetId,
    id_random: [u8; 16],
    obj_log2: u8,
}

/// One version of it.
struct Version {
    head: SignedHead,
    tree: SealedTree,
    objects: Vec<SealedObject>,
}

impl Fixture {
    fn new() -> Self {
        let wallet = Wallet::generate().unwrap();
        let id_random = [9; 16];
        Self {
            storage: Arc::new(MemoryStorage::new()),
            dataset: dataset_id(&wallet.owner(), &id_random),
            secret: EpochSecret::generate().unwrap(),
            wallet,
            id_random,
            obj_log2: 20,
        }
    }

    fn params(&self, version: u64, epoch: u32) -> SealParams {
        SealParams {
            dataset_id: self.dataset,
            version,
            epoch,
            obj_log2: self.obj_log2,
            meta: Meta::default(),
        }
    }

    /// Seals, stores and signs a first version.
    async fn seal(&self, files: &[SourceFile]) -> Version {
        let mut objects = Vec::new();
        let tree = seal_tree(files, &self.params(1, 1), &self.secret, &mut |object| {
            objects.push(object);
            Ok(())
        });
        self.store(tree.unwrap(), objects, 1, 1, [0; 32], &self.secret)
            .await
    }

    async fn store(
        &self,
        tree: SealedTree,
        objects: Vec<SealedObject>,
        version: u64,
        epoch: u32,
        prev: [u8; 32],
        secret: &EpochSecret,
    ) -> Version {
        for object in &objects {
            self.put(object).await;
        }
        let head = self
            .head(&tree, version, epoch, prev, secret)
            .sign(&self.wallet)
            .unwrap();
        Version { head, tree, objects }
    }

    async fn put(&self, object: &SealedObject) {
        let store = sign_store(&self.wallet, &object.item_hash(), object.bytes.len() as u64).unwrap();
        self.storage.put(object.bytes.clone(), &store).await.unwrap();
    }

    fn head(
        &self,
        tree: &SealedTree,
        version: u64,
        epoch: u32,
        prev: [u8; 32],
        secret: &EpochSecret,
    ) -> UnsignedHead {
        UnsignedHead {
            dataset_id: self.dataset,
            owner: self.wallet.owner(),
            version,
            prev,
            epoch,
            epoch_commitment: secret.commitment(&self.dataset, epoch),
            root: tree.root.clone(),
            writers: Vec::new(),
            created: 1_790_000_000,
            not_after: None,
            id_random: self.id_random,
        }
    }

    /// The version after `reader`'s, in another epoch when `secret` is another.
    async fn next(&self, reader: &Reader, files: &[SourceFile], epoch: u32, secret: &EpochSecret) -> Version {
        let unchanged = crate::Unchanged::find(reader, files).unwrap();
        let version = reader.head().head.version + 1;
        let mut objects = Vec::new();
        let tree = seal_next(
            files,
            &self.params(version, epoch),
            secret,
            &unchanged,
            &mut |object| {
                objects.push(object);
                Ok(())
            },
        );
        self.store(
            tree.unwrap(),
            objects,
            version,
            epoch,
            reader.head().hash(),
            secret,
        )
        .await
    }

    async fn open(&self, version: &Version) -> crate::Result<Reader> {
        self.open_with(version, Keys::Epoch(self.secret.duplicate()))
            .await
    }

    async fn open_with(&self, version: &Version, keys: Keys) -> crate::Result<Reader> {
        Reader::open(self.storage.clone(), &version.head, keys).await
    }
}

/// Bytes that look like nothing, the same for the same seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}
