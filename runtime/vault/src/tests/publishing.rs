//! Publishing: versions in a row, what a second run does, forks, and uploads that break.

use super::{Fixture, code, noise};
use crate::storage::{Fault, FaultyStorage, FolderStorage, MemoryStorage, Storage};
use crate::{
    Keys, Meta, Progress, Reader, ReaderKey, SeenHeads, SourceFile, Trust, Wallet, find_grant, find_head,
    heads_of, put_dataset, walk,
};
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};

#[tokio::test]
async fn publishes_finds_and_continues_a_dataset() {
    let folder = tempfile::tempdir().unwrap();
    let memory: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let disk: Arc<dyn Storage> = Arc::new(FolderStorage::new(folder.path()).unwrap());
    for storage in [memory, disk] {
        publish_and_continue(storage).await;
    }
}

async fn publish_and_continue(storage: Arc<dyn Storage>) {
    let (wallet, key) = (Wallet::generate().unwrap(), ReaderKey::generate().unwrap());
    let source = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(source.path().join("x/empty")).unwrap();
    std::fs::write(source.path().join("x/a.csv"), "1,2").unwrap();
    let meta = Meta {
        title: Some("digits".into()),
        ..Meta::default()
    };
    let told = Mutex::new(Vec::new());
    let progress = |step: Progress| told.lock().unwrap().push(step);
    let put = |previous| {
        let files = walk(source.path()).unwrap();
        put_dataset(
            storage.clone(),
            &wallet,
            &key,
            files,
            meta.clone(),
            previous,
            &progress,
        )
    };
    let first = put(None).await.unwrap();
    assert_eq!(
        (first.version, first.files, first.bytes, first.unchanged),
        (1, 1, 3, false)
    );
    let phases: Vec<_> = told.lock().unwrap().iter().map(|step| step.phase).collect();
    assert!(phases.contains(&"upload") && phases.ends_with(&["sign"]));

    let address = wallet.address();
    let find = || find_head(&*storage, &address, &first.dataset_id);
    let (head, message) = find().await.unwrap().unwrap();
    assert_eq!(
        (message.as_str(), head.revision().len()),
        (first.head_message.as_str(), 40)
    );
    opens_for_its_owner_only(&storage, &head, &key).await;

    let again = put(Some((head.clone(), message))).await.unwrap();
    assert!(again.unchanged);
    assert_eq!(again.head_hash, first.head_hash);

    std::fs::write(source.path().join("x/b.csv"), "3").unwrap();
    let second = put(find().await.unwrap()).await.unwrap();
    assert_eq!((second.version, second.unchanged), (2, false));
    std::fs::remove_file(source.path().join("x/a.csv")).unwrap();
    let third = put(find().await.unwrap()).await.unwrap();
    let heads = heads_of(&*storage, &address, &first.dataset_id).await.unwrap();
    assert_eq!(
        heads
            .iter()
            .map(|(head, _)| head.head.version)
            .collect::<Vec<_>>(),
        [1, 2, 3]
    );
    assert_eq!(find().await.unwrap().unwrap().1, third.head_message);
    remembers(&heads.into_iter().map(|(head, _)| head).collect::<Vec<_>>());
}

async fn opens_for_its_owner_only(storage: &Arc<dyn Storage>, head: &crate::SignedHead, key: &ReaderKey) {
    let secret = find_grant(&**storage, head, key).await.unwrap();
    let reader = Reader::open(storage.clone(), head, Keys::Epoch(secret))
        .await
        .unwrap();
    assert_eq!(reader.read("x/a.csv").await.unwrap(), "1,2");
    let stranger = ReaderKey::generate().unwrap();
    assert_eq!(
        code(find_grant(&**storage, head, &stranger).await),
        "E_GRANT_OPEN"
    );
}

/// The reader's memory over three versions in one line.
fn remembers(heads: &[crate::SignedHead]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("seen.json");
    let mut seen = SeenHeads::load(&path).unwrap();
    assert_eq!(seen.accept(&heads[0], &[]).unwrap(), Trust::FirstUse);
    assert_eq!(seen.accept(&heads[0], &[]).unwrap(), Trust::Known);
    assert_eq!(code(seen.accept(&heads[2], &[])), "E_UNAVAILABLE");
    let mut seen = SeenHeads::load(&path).unwrap();
    assert_eq!(seen.accept(&heads[2], heads).unwrap(), Trust::Known);
    assert_eq!(code(seen.accept(&heads[1], heads)), "E_ROLLBACK");
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    std::fs::write(&path, "{").unwrap();
    assert_eq!(code(SeenHeads::load(&path)), "E_MALFORMED");
}

#[tokio::test]
async fn stops_at_forks_and_never_chooses() {
    let fixture = Fixture::new();
    let first = fixture.seal(&[SourceFile::bytes("a", "1")]).await;
    let reader = fixture.open(&first).await.unwrap();
    let one = fixture
        .next(&reader, &[SourceFile::bytes("a", "2")], 1, &fixture.secret)
        .await;
    let two = fixture
        .next(&reader, &[SourceFile::bytes("a", "3")], 1, &fixture.secret)
        .await;
    let dir = tempfile::tempdir().unwrap();
    let mut seen = SeenHeads::load(&dir.path().join("seen")).unwrap();
    seen.accept(&first.head, &[]).unwrap();
    seen.accept(&one.head, &[]).unwrap();
    assert_eq!(code(seen.accept(&two.head, &[])), "E_FORK");
    // A third version that continues the other line is refused too.
    let reader = fixture.open(&two).await.unwrap();
    let three = fixture
        .next(&reader, &[SourceFile::bytes("a", "4")], 1, &fixture.secret)
        .await;
    assert_eq!(
        code(seen.accept(&three.head, std::slice::from_ref(&two.head))),
        "E_FORK"
    );
    for version in [&one, &two] {
        let content = version.head.post_content().unwrap();
        let post = crate::message::sign_post(&fixture.wallet, crate::HEAD_POST_TYPE, content, None).unwrap();
        fixture.storage.publish(&post).await.unwrap();
    }
    let found = find_head(&*fixture.storage, &fixture.wallet.address(), &fixture.dataset).await;
    assert_eq!(code(found), "E_FORK");
}

#[tokio::test]
async fn leaves_the_old_version_when_an_upload_breaks() {
    let (wallet, key) = (Wallet::generate().unwrap(), ReaderKey::generate().unwrap());
    let faulty = Arc::new(FaultyStorage::new(Arc::new(MemoryStorage::new())));
    let storage: Arc<dyn Storage> = faulty.clone();
    let put = |files: Vec<SourceFile>, previous| {
        put_dataset(
            storage.clone(),
            &wallet,
            &key,
            files,
            Meta::default(),
            previous,
            &|_| (),
        )
    };
    let first = put(vec![SourceFile::bytes("a", "1")], None).await.unwrap();
    let address = wallet.address();
    let found = || find_head(&*storage, &address, &first.dataset_id);
    let previous = found().await.unwrap();
    let before = faulty.calls();
    put(vec![SourceFile::bytes("a", "2")], previous.clone())
        .await
        .unwrap();
    let calls = faulty.calls() - before;
    let newest = found().await.unwrap();
    // Whatever call of a put fails, the newest head stays and can be opened.
    for failing in 0..calls {
        let breaking = Arc::new(Breaking::new(storage.clone(), failing));
        let broken: Arc<dyn Storage> = breaking.clone();
        let files = vec![SourceFile::bytes("a", format!("3-{failing}"))];
        let result = put_dataset(
            broken,
            &wallet,
            &key,
            files,
            Meta::default(),
            newest.clone(),
            &|_| (),
        )
        .await;
        assert_eq!(code(result), "E_UNAVAILABLE", "call {failing}");
        assert_eq!(found().await.unwrap(), newest);
    }
    let (head, _) = newest.unwrap();
    let secret = find_grant(&*storage, &head, &key).await.unwrap();
    let reader = Reader::open(storage.clone(), &head, Keys::Epoch(secret))
        .await
        .unwrap();
    assert_eq!(reader.read("a").await.unwrap(), "2");
}

/// Fails exactly the call with the given number.
pub(super) struct Breaking {
    inner: FaultyStorage,
    failing: u64,
}

impl Breaking {
    pub(super) fn new(inner: Arc<dyn Storage>, failing: u64) -> Self {
        Self {
            inner: FaultyStorage::new(inner),
            failing,
        }
    }

    fn arm(&self) {
        self.inner
            .set((self.inner.calls() == self.failing).then_some(Fault::FailTimes(1)));
    }
}

impl Storage for Breaking {
    fn put<'a>(
        &'a self,
        bytes: bytes::Bytes,
        store: &'a crate::SignedMessage,
    ) -> crate::storage::BoxFuture<'a, ()> {
        self.arm();
        self.inner.put(bytes, store)
    }
    fn get<'a>(&'a self, item_hash: &'a str) -> crate::storage::BoxFuture<'a, bytes::Bytes> {
        self.arm();
        self.inner.get(item_hash)
    }
    fn stores<'a>(
        &'a self,
        owner: &'a str,
        objects: &'a [String],
    ) -> crate::storage::BoxFuture<'a, Vec<crate::SignedMessage>> {
        self.arm();
        self.inner.stores(owner, objects)
    }
    fn publish<'a>(&'a self, message: &'a crate::SignedMessage) -> crate::storage::BoxFuture<'a, ()> {
        self.arm();
        self.inner.publish(message)
    }
    fn post<'a>(
        &'a self,
        item_hash: &'a str,
    ) -> crate::storage::BoxFuture<'a, Option<crate::storage::StoredPost>> {
        self.arm();
        self.inner.post(item_hash)
    }
    fn posts<'a>(
        &'a self,
        query: crate::storage::PostQuery,
    ) -> crate::storage::BoxFuture<'a, Vec<crate::storage::StoredPost>> {
        self.arm();
        self.inner.posts(query)
    }
    fn aggregate<'a>(
        &'a self,
        address: &'a str,
        key: &'a str,
    ) -> crate::storage::BoxFuture<'a, Option<serde_json::Value>> {
        self.arm();
        self.inner.aggregate(address, key)
    }
}

#[tokio::test]
async fn a_dataset_keeps_files_too() {
    let (wallet, key) = (Wallet::generate().unwrap(), ReaderKey::generate().unwrap());
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let large = noise(1, 9 << 20);
    let put = |files, previous| {
        put_dataset(
            storage.clone(),
            &wallet,
            &key,
            files,
            Meta::default(),
            previous,
            &|_| {},
        )
    };
    let files = vec![
        SourceFile::bytes("a", noise(2, 900)),
        SourceFile::bytes("b", noise(3, 900)),
        SourceFile::bytes("large", large.clone()),
    ];
    let first = put(files, None).await.unwrap();
    let previous = Some((first.head, first.head_message));
    let kept = ["a", "b", "large"].map(SourceFile::kept).to_vec();
    assert!(put(kept, previous.clone()).await.unwrap().unchanged);
    // One of two that share an object is gone, and the large one has another name too.
    let files = vec![
        SourceFile::kept("a"),
        SourceFile::kept("large"),
        SourceFile::bytes("new", noise(4, 900)),
    ];
    let second = put(files, previous).await.unwrap();
    assert!(second.uploaded < 20_000, "{}", second.uploaded);
    let secret = find_grant(&*storage, &second.head, &key).await.unwrap();
    let reader = Reader::open(storage.clone(), &second.head, Keys::Epoch(secret))
        .await
        .unwrap();
    let paths: Vec<_> = reader.entries().iter().map(|entry| entry.path.as_str()).collect();
    assert_eq!(paths, ["a", "large", "new"]);
    assert!(reader.read("a").await.unwrap() == noise(2, 900));
    assert!(reader.read("large").await.unwrap() == large);
}
