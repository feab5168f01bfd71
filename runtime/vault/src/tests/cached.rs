//! The disk cache of objects: what it spares, what it heals, how much it keeps, and that no plaintext gets there.

use super::Fixture;
use crate::message::sign_store;
use crate::storage::{CachedStorage, Fault, FaultyStorage, MemoryStorage, Storage};
use crate::{Keys, Reader, SourceFile};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const MIB: u64 = 1 << 20;

struct World {
    folder: tempfile::TempDir,
    memory: Arc<MemoryStorage>,
    node: Arc<FaultyStorage>,
}

impl World {
    fn new(memory: Arc<MemoryStorage>) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            node: Arc::new(FaultyStorage::new(memory.clone())),
            memory,
        }
    }

    fn cache(&self, bytes_max: u64) -> CachedStorage {
        CachedStorage::new(self.node.clone(), &self.folder.path().join("objects"), bytes_max).unwrap()
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.folder.path().join("objects")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Objects are written behind the reader's back: waits until all files are whole and there are so many.
    async fn until_kept(&self, count: usize) -> Vec<PathBuf> {
        for _ in 0..1000 {
            let files = self.files();
            if files.len() == count && files.iter().all(|file| file.extension().is_none()) {
                return files;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{:?}", self.files());
    }

    async fn put(&self, fixture: &Fixture, bytes: Vec<u8>) -> String {
        let name = hex::encode(crate::digest::sha256(&[&bytes]));
        let store = sign_store(&fixture.wallet, &name, bytes.len() as u64).unwrap();
        self.memory.put(bytes.into(), &store).await.unwrap();
        name
    }
}

#[tokio::test]
async fn what_was_fetched_once_is_there_for_the_next_process_without_a_node() {
    let (world, fixture) = (World::new(Arc::new(MemoryStorage::new())), Fixture::new());
    let name = world.put(&fixture, b"ciphertext".to_vec()).await;
    let first = world.cache(MIB);
    assert_eq!(&first.get(&name).await.unwrap()[..], b"ciphertext");
    world.until_kept(1).await;
    let calls = world.node.calls();
    world.node.set(Some(Fault::FailTimes(u64::MAX)));
    assert_eq!(&world.cache(MIB).get(&name).await.unwrap()[..], b"ciphertext");
    assert_eq!(world.node.calls(), calls);
    let folder = world.folder.path().join("objects");
    assert_eq!(
        std::fs::metadata(folder).unwrap().permissions().mode() & 0o777,
        0o700
    );
}

#[tokio::test]
async fn a_damaged_file_is_fetched_again_and_a_node_that_lies_is_believed_at_no_time() {
    let fixture = Fixture::new();
    let text = b"planted plaintext ".repeat(4000);
    let version = fixture.seal(&[SourceFile::bytes("a.txt", text.clone())]).await;
    let world = World::new(fixture.storage.clone());
    let cache: Arc<dyn Storage> = Arc::new(world.cache(16 * MIB));
    let read = async || {
        let keys = Keys::Epoch(fixture.secret.duplicate());
        let reader = Reader::open(cache.clone(), &version.head, keys).await?;
        reader.read("a.txt").await
    };
    assert!(read().await.unwrap() == text[..]);
    let kept = world.until_kept(world.files().len().max(2)).await;
    let damages: [fn(&mut Vec<u8>); 3] = [|bytes| bytes[77] ^= 1, |bytes| bytes.truncate(40), Vec::clear];
    for damage in damages {
        for file in &kept {
            let mut bytes = std::fs::read(file).unwrap();
            assert!(
                !bytes.windows(17).any(|window| window == b"planted plaintext"),
                "{file:?}"
            );
            damage(&mut bytes);
            std::fs::write(file, bytes).unwrap();
        }
        let calls = world.node.calls();
        assert!(read().await.unwrap() == text[..]);
        assert!(world.node.calls() > calls);
        // The good ones are written again.
        world.until_kept(kept.len()).await;
    }
    for file in &kept {
        std::fs::remove_file(file).unwrap();
    }
    world.node.set(Some(Fault::FlipByte(99)));
    assert_eq!(super::code(read().await), "E_HASH");
    world.node.set(None);
    assert!(read().await.unwrap() == text[..]);
}

#[tokio::test]
async fn the_folder_stays_within_its_room_and_what_was_read_last_stays_longest() {
    let (world, fixture) = (World::new(Arc::new(MemoryStorage::new())), Fixture::new());
    let cache = world.cache(MIB);
    let mut names = Vec::new();
    for number in 0..40_u8 {
        names.push(world.put(&fixture, vec![number; 64 * 1024]).await);
    }
    let path = |name: &str| world.folder.path().join("objects").join(name);
    for name in &names {
        cache.get(name).await.unwrap();
        while !path(name).exists() {
            tokio::task::yield_now().await;
        }
        // The first one is read again and again, as if by another process.
        assert_eq!(cache.get(&names[0]).await.unwrap().len(), 64 * 1024);
        let total: u64 = world
            .files()
            .iter()
            .map(|file| std::fs::metadata(file).unwrap().len())
            .sum();
        assert!(total <= MIB, "{total}");
    }
    assert!(path(&names[0]).exists() && !path(&names[1]).exists() && path(&names[39]).exists());
}

#[tokio::test]
async fn what_is_too_large_is_not_kept_and_what_a_killed_process_left_goes() {
    let (world, fixture) = (World::new(Arc::new(MemoryStorage::new())), Fixture::new());
    let name = world.put(&fixture, vec![1; 600 * 1024]).await;
    let small = world.put(&fixture, vec![2; 1024]).await;
    let cache = world.cache(MIB);
    let folder = world.folder.path().join("objects");
    let half = |pid: u32| folder.join(format!("{pid}-7.part"));
    std::fs::write(half(u32::MAX), "half").unwrap();
    std::fs::write(half(std::process::id()), "half").unwrap();
    drop(world.cache(MIB));
    assert!(!half(u32::MAX).exists() && half(std::process::id()).exists());
    std::fs::remove_file(half(std::process::id())).unwrap();
    cache.get(&name).await.unwrap();
    cache.get(&small).await.unwrap();
    assert!(world.until_kept(1).await[0].ends_with(&small));
}

#[tokio::test]
async fn names_that_are_no_hashes_never_become_paths() {
    let world = World::new(Arc::new(MemoryStorage::new()));
    let outside = world.folder.path().join("outside");
    std::fs::write(&outside, "secret").unwrap();
    let cache = world.cache(MIB);
    for name in ["../outside", "..", "", "a/b", outside.to_str().unwrap()] {
        assert!(cache.get(name).await.is_err(), "{name}");
        assert!(!cache.distrust(name));
    }
    assert!(outside.exists());
}
