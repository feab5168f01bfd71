//! An upload that is killed at any point: nothing is lost, nothing is stored twice, and the head is always whole.

use super::{long, noise};
use crate::message::SignedMessage;
use crate::storage::{BoxFuture, MemoryStorage, PostQuery, Storage, StoredPost};
use crate::{
    Keys, Meta, Put, PutOutcome, Reader, ReaderKey, SourceFile, Wallet, find_grant, find_head, heads_of,
    put_resumable, register_reader_key,
};
use bytes::Bytes;
use serde_json::Value;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock};
use tokio::sync::Notify;

/// A storage whose process is killed: after so many writes nothing is answered any more. The last one may have arrived.
pub(super) struct Killed {
    inner: Arc<MemoryStorage>,
    left: AtomicI64,
    last_arrives: bool,
    killed: Notify,
}

impl Killed {
    pub(super) fn new(inner: &Arc<MemoryStorage>, (left, last_arrives): (i64, bool)) -> Arc<Self> {
        Arc::new(Self {
            inner: Arc::clone(inner),
            left: AtomicI64::new(left),
            last_arrives,
            killed: Notify::new(),
        })
    }

    /// Ends when it is.
    pub(super) async fn killed(&self) {
        self.killed.notified().await;
    }

    async fn write(&self, work: impl Future<Output = crate::Result<()>> + Send) -> crate::Result<()> {
        let left = self.left.fetch_sub(1, Ordering::SeqCst);
        if left > 0 || (left == 0 && self.last_arrives) {
            work.await?;
        }
        if left <= 0 {
            self.killed.notify_one();
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

impl Storage for Killed {
    fn put<'a>(&'a self, bytes: Bytes, store: &'a SignedMessage) -> BoxFuture<'a, ()> {
        Box::pin(self.write(self.inner.put(bytes, store)))
    }
    fn get<'a>(&'a self, item_hash: &'a str) -> BoxFuture<'a, Bytes> {
        self.inner.get(item_hash)
    }
    fn stores<'a>(&'a self, owner: &'a str, objects: &'a [String]) -> BoxFuture<'a, Vec<SignedMessage>> {
        self.inner.stores(owner, objects)
    }
    fn publish<'a>(&'a self, message: &'a SignedMessage) -> BoxFuture<'a, ()> {
        Box::pin(self.write(self.inner.publish(message)))
    }
    fn post<'a>(&'a self, item_hash: &'a str) -> BoxFuture<'a, Option<StoredPost>> {
        self.inner.post(item_hash)
    }
    fn posts<'a>(&'a self, query: PostQuery) -> BoxFuture<'a, Vec<StoredPost>> {
        self.inner.posts(query)
    }
    fn aggregate<'a>(&'a self, address: &'a str, key: &'a str) -> BoxFuture<'a, Option<Value>> {
        self.inner.aggregate(address, key)
    }
}

struct Owner {
    wallet: Wallet,
    key: ReaderKey,
}

impl Owner {
    /// Runs a put until it ends, or until the process is killed after so many writes.
    async fn put(
        &self,
        storage: &Arc<MemoryStorage>,
        journal: &Path,
        files: Vec<SourceFile>,
        kill: Option<(i64, bool)>,
    ) -> Option<PutOutcome> {
        let killed = Killed::new(storage, kill.unwrap_or((i64::MAX, true)));
        let owner = self.wallet.address();
        let previous = match heads(storage, &self.wallet).await.first() {
            Some(id) => find_head(&**storage, &owner, id).await.unwrap(),
            None => None,
        };
        let put = Put {
            files,
            meta: Meta {
                title: Some("killed".into()),
                created: Some(1),
                ..Meta::default()
            },
            previous,
            journal: Some(journal.to_owned()),
            known: None,
        };
        let as_storage: Arc<dyn Storage> = killed.clone();
        tokio::select! {
            done = put_resumable(as_storage, &self.wallet, &self.key, put, &|_| {}) => Some(done.unwrap()),
            () = killed.killed() => None,
        }
    }
}

/// Datasets of the owner: of a put that was killed there may be one.
async fn heads(storage: &MemoryStorage, wallet: &Wallet) -> Vec<crate::DatasetId> {
    let query = PostQuery {
        addresses: vec![wallet.address()],
        types: vec![crate::HEAD_POST_TYPE.to_owned()],
        ..PostQuery::default()
    };
    let posts = storage.posts(query).await.unwrap();
    posts
        .iter()
        .filter_map(|post| crate::SignedHead::from_post(&post.content).ok())
        .map(|head| head.head.dataset_id)
        .collect()
}

/// Files of a version, made once: the bytes are shared.
fn files(version: u64) -> Vec<SourceFile> {
    static MADE: LazyLock<[Vec<SourceFile>; 2]> = LazyLock::new(|| [made(1), made(2)]);
    MADE[usize::from(version == 2)].clone()
}

fn made(seed: u64) -> Vec<SourceFile> {
    let mut files: Vec<SourceFile> = (0..6)
        .map(|n| SourceFile::bytes(format!("small/{n}"), noise(n, 2_000)))
        .collect();
    // Two of one content, each an object of its own, and one that differs between versions.
    for name in ["a.bin", "b.bin"] {
        files.push(SourceFile::bytes(name, noise(77, 9_000_000)));
    }
    files.push(SourceFile::bytes("c.bin", noise(seed, 9_000_000)));
    files
}

fn stores(storage: &MemoryStorage) -> usize {
    let messages = storage.messages();
    messages
        .iter()
        .filter(|message| message.message_type() == "STORE")
        .count()
}

#[tokio::test]
async fn an_upload_that_is_killed_goes_on_and_stores_nothing_twice() {
    let rounds = if long() { 1_000 } else { 5 };
    for round in 0..rounds {
        // A version that is cut twice at random writes, then the next one likewise.
        let (storage, owner) = registered().await;
        let folder = tempfile::tempdir().unwrap();
        let journal = folder.path().join("upload.jsonl");
        let mut expected = Vec::new();
        for version in 1..=2_u64 {
            for cut in 0..2 {
                let bytes = noise(round * 8 + version * 2 + cut, 2);
                let kill = (i64::from(bytes[0] % 9), bytes[1].is_multiple_of(2));
                let ended = owner.put(&storage, &journal, files(version), Some(kill)).await;
                if ended.is_some() {
                    break;
                }
                // What a crash in the middle of a line leaves.
                let mut file = std::fs::OpenOptions::new().append(true).open(&journal).unwrap();
                std::io::Write::write_all(&mut file, b"{\"store\":{\"item_").unwrap();
            }
            let put = owner.put(&storage, &journal, files(version), None).await.unwrap();
            assert_eq!(put.version, version, "round {round}");
            assert!(!journal.exists(), "round {round}");
            expected.push(put);
        }
        let found = heads_of(&*storage, &owner.wallet.address(), &expected[0].dataset_id)
            .await
            .unwrap();
        assert_eq!(found.len(), 2, "round {round}: one head for each version");
        // A clean upload of version 1: six small files in one object, three large ones, leaves, a page, a root; of version
        // 2: one large one, leaves, a page, a root.
        assert_eq!(storage.objects().len(), 7 + 4, "round {round}");
        assert_eq!(stores(&storage), 7 + 4, "round {round}");
        holds(&storage, &owner, &found[1].0, files(2)).await;
    }
}

#[tokio::test]
async fn files_that_change_between_two_runs_are_those_of_the_last_one() {
    let rounds = if long() { 200 } else { 10 };
    for round in 0..rounds {
        let (storage, owner) = registered().await;
        let folder = tempfile::tempdir().unwrap();
        let journal = folder.path().join("upload.jsonl");
        // Back and forth, so that a run also finds objects of the one before the last.
        let mut ended = None;
        for (cut, seed) in [1, 2, 1, 2].into_iter().enumerate() {
            let bytes = noise(round * 4 + cut as u64, 2);
            let kill = (i64::from(bytes[0] % 9), bytes[1].is_multiple_of(2));
            ended = owner.put(&storage, &journal, files(seed), Some(kill)).await;
            if ended.is_some() {
                break;
            }
        }
        let last = match ended {
            Some(put) => put.version,
            None => {
                owner
                    .put(&storage, &journal, files(2), None)
                    .await
                    .unwrap()
                    .version
            }
        };
        // What a run found published is the version before, and its files are the next one.
        let put = owner.put(&storage, &journal, files(2), None).await.unwrap();
        assert!(put.version == last || put.version == last + 1, "round {round}");
        assert!(!journal.exists(), "round {round}");
        let found = heads_of(&*storage, &owner.wallet.address(), &put.dataset_id)
            .await
            .unwrap();
        let versions: Vec<u64> = found.iter().map(|(head, _)| head.head.version).collect();
        let all: Vec<u64> = (1..=put.version).collect();
        assert_eq!(versions, all, "round {round}: one head for each version");
        assert_eq!(
            stores(&storage),
            storage.objects().len(),
            "round {round}: each is stored once"
        );
        holds(&storage, &owner, &put.head, files(2)).await;
    }
}

async fn registered() -> (Arc<MemoryStorage>, Owner) {
    let storage = Arc::new(MemoryStorage::new());
    let owner = Owner {
        wallet: Wallet::generate().unwrap(),
        key: ReaderKey::generate().unwrap(),
    };
    register_reader_key(&*storage, &owner.wallet, &owner.key)
        .await
        .unwrap();
    (storage, owner)
}

/// Every file of this version opens and is what was put.
async fn holds(
    storage: &Arc<MemoryStorage>,
    owner: &Owner,
    head: &crate::SignedHead,
    files: Vec<SourceFile>,
) {
    let secret = find_grant(&**storage, head, &owner.key).await.unwrap();
    let reader = Reader::open(storage.clone(), head, Keys::Epoch(secret))
        .await
        .unwrap();
    for file in files {
        let crate::Source::Bytes(bytes) = &file.source else {
            unreachable!()
        };
        assert!(reader.read(&file.path).await.unwrap() == *bytes, "{}", file.path);
    }
}
