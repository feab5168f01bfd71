//! A sealed dataset as a folder, read by plain file calls: every byte right, errors instead of wrong or missing bytes,
//! nothing fetched twice, nothing to read once it is closed.
//!
//! Where this account may not mount, each test checks that it is told so.
#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use alephlab_mount::{Mounted, Options, detach_below, mount};
use alephlab_vault::storage::{Fault, FaultyStorage, MemoryStorage, Storage};
use alephlab_vault::{Keys, Meta, Reader, ReaderKey, SourceFile, Wallet, find_grant, put_dataset};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::runtime::{Handle, Runtime};

/// Seed of all tests' bytes and places.
const SEED: u64 = 20_261_129;
const MIB: usize = 1 << 20;

/// A node with one dataset, and the files as they were.
struct Sealed {
    runtime: Runtime,
    storage: Arc<FaultyStorage>,
    reader: Reader,
    files: Vec<(String, Vec<u8>)>,
}

fn seal(files: Vec<(String, Vec<u8>)>) -> Sealed {
    let runtime = Runtime::new().unwrap();
    let storage = Arc::new(FaultyStorage::new(Arc::new(MemoryStorage::new())));
    let sources = files
        .iter()
        .map(|(path, bytes)| SourceFile::bytes(path, bytes.clone()));
    let reader = runtime.block_on(open(storage.clone(), sources.collect()));
    Sealed {
        runtime,
        storage,
        reader,
        files,
    }
}

async fn open(storage: Arc<dyn Storage>, files: Vec<SourceFile>) -> Reader {
    let (wallet, key) = (Wallet::generate().unwrap(), ReaderKey::generate().unwrap());
    let put = put_dataset(
        storage.clone(),
        &wallet,
        &key,
        files,
        Meta::default(),
        None,
        &|_| {},
    );
    let head = put.await.unwrap().head;
    let secret = find_grant(&*storage, &head, &key).await.unwrap();
    Reader::open(storage, &head, Keys::Epoch(secret)).await.unwrap()
}

/// A small file, a long path, an empty one, and one of three objects.
fn mixed() -> Vec<(String, Vec<u8>)> {
    let mut random = StdRng::seed_from_u64(SEED);
    let mut large = vec![0; 40 * MIB + 123];
    random.fill(&mut large[..]);
    let mut small = vec![0; 70_001];
    random.fill(&mut small[..]);
    vec![
        ("a/b/c/é t.bin".into(), small),
        ("empty.txt".into(), Vec::new()),
        ("large.bin".into(), large),
        ("readme.md".into(), b"# Data".to_vec()),
    ]
}

impl Sealed {
    /// None where this account may not mount.
    fn mount(&self, at: &Path, memory: u64) -> Option<Mounted> {
        let runtime: Handle = self.runtime.handle().clone();
        match mount(self.reader.clone(), at, runtime, Options { memory }) {
            Ok(mounted) => Some(mounted),
            Err(error) => {
                assert_eq!(error.code(), "mount_refused");
                assert!(!error.to_string().is_empty());
                None
            }
        }
    }
}

#[test]
fn files_read_as_they_were_with_names_sizes_and_modes() {
    let (sealed, folder) = (seal(mixed()), tempfile::tempdir().unwrap());
    let Some(mounted) = sealed.mount(folder.path(), 1 << 30) else {
        return;
    };
    for (path, bytes) in &sealed.files {
        let file = mounted.path().join(path);
        assert!(std::fs::read(&file).unwrap() == *bytes, "{path}");
        let meta = file.metadata().unwrap();
        assert_eq!(
            (meta.len(), meta.mode() & 0o777),
            (bytes.len() as u64, 0o400),
            "{path}"
        );
    }
    let names = |folder: &Path| -> Vec<_> {
        let listed = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = listed
            .map(|one| one.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(
        names(mounted.path()),
        ["a", "empty.txt", "large.bin", "readme.md"]
    );
    assert_eq!(names(&mounted.path().join("a/b/c")), ["é t.bin"]);
    assert_eq!(
        std::fs::read(mounted.path().join("none")).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    // Nothing can be written, made or removed.
    for failed in [
        std::fs::write(mounted.path().join("new"), "x"),
        std::fs::write(mounted.path().join("readme.md"), "x"),
        std::fs::remove_file(mounted.path().join("readme.md")),
    ] {
        let kind = failed.unwrap_err().kind();
        assert!(
            matches!(kind, ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied),
            "{kind:?}"
        );
    }
    drop(mounted);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn reads_here_and_there_give_no_wrong_byte() {
    let (sealed, folder) = (seal(mixed()), tempfile::tempdir().unwrap());
    // With room for one object each that misses decrypts a whole one, so there are fewer.
    for (memory, reads) in [(0, 200), (1 << 30, reads())] {
        let Some(mounted) = sealed.mount(folder.path(), memory) else {
            return;
        };
        read_here_and_there(&mounted, &sealed.files[2].1, reads);
    }
}

fn read_here_and_there(mounted: &Mounted, plain: &[u8], reads: u64) {
    let file = File::open(mounted.path().join("large.bin")).unwrap();
    let mut random = StdRng::seed_from_u64(SEED);
    let mut buffer = vec![0; 300_000];
    for read in 0..reads {
        let length = if read % 4 == 0 {
            random.random_range(1..buffer.len())
        } else {
            4096
        };
        let offset = random.random_range(0..plain.len());
        let end = (offset + length).min(plain.len());
        file.read_exact_at(&mut buffer[..end - offset], offset as u64)
            .unwrap();
        assert!(
            buffer[..end - offset] == plain[offset..end],
            "{length} at {offset}"
        );
    }
    assert_eq!(file.read_at(&mut buffer, plain.len() as u64).unwrap(), 0);
}

/// Reads of the test above; the full count in the long form of the tests.
fn reads() -> u64 {
    if std::env::var("ALEPHLAB_TEST_LONG").is_ok_and(|value| value == "1") {
        1_000_000
    } else {
        50_000
    }
}

#[test]
fn what_many_ask_for_at_once_is_fetched_once() {
    let (sealed, folder) = (seal(mixed()), tempfile::tempdir().unwrap());
    let Some(mounted) = sealed.mount(folder.path(), 1 << 30) else {
        return;
    };
    sealed.storage.set(Some(Fault::Delay(Duration::from_millis(50))));
    let before = sealed.storage.calls();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut bytes = Vec::new();
                File::open(mounted.path().join("large.bin"))
                    .unwrap()
                    .read_to_end(&mut bytes)
                    .unwrap();
                assert!(bytes == sealed.files[2].1);
            });
        }
    });
    let objects = (sealed.files[2].1.len() as u64).div_ceil(sealed.reader.object_bytes());
    // One more when a small file before it ends in the same object.
    let fetched = sealed.storage.calls() - before;
    assert!((objects..=objects + 1).contains(&fetched), "{fetched} fetches");
}

#[test]
fn a_node_that_lies_or_fails_gives_an_error_and_a_later_read_is_right() {
    let (sealed, folder) = (seal(mixed()), tempfile::tempdir().unwrap());
    let Some(mounted) = sealed.mount(folder.path(), 1 << 30) else {
        return;
    };
    let path = mounted.path().join("a/b/c/é t.bin");
    for fault in [
        Fault::FlipByte(5000),
        Fault::Truncate(1000),
        Fault::FailTimes(1000),
    ] {
        sealed.storage.set(Some(fault.clone()));
        let error = std::fs::read(&path).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(5), "{fault:?}");
    }
    let failure = mounted.failure().unwrap();
    assert_eq!(
        (failure.path.as_str(), failure.code),
        ("a/b/c/é t.bin", "E_UNAVAILABLE")
    );
    sealed.storage.set(None);
    assert!(std::fs::read(&path).unwrap() == sealed.files[0].1);
}

#[test]
fn a_mapped_page_that_cannot_be_fetched_ends_the_process_that_looks_at_it() {
    let (sealed, folder) = (seal(mixed()), tempfile::tempdir().unwrap());
    let Some(mounted) = sealed.mount(folder.path(), 1 << 30) else {
        return;
    };
    let look = || {
        let program = "import mmap, sys; f = open(sys.argv[1], 'rb'); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); print(m[70000])";
        let path = mounted.path().join("a/b/c/é t.bin");
        std::process::Command::new("python3")
            .args(["-c", program])
            .arg(path)
            .output()
            .unwrap()
    };
    sealed.storage.set(Some(Fault::FlipByte(5000)));
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&look().status),
        Some(7),
        "SIGBUS"
    );
    sealed.storage.set(None);
    let seen = look();
    assert_eq!(
        String::from_utf8_lossy(&seen.stdout).trim(),
        sealed.files[0].1[70_000].to_string()
    );
}

#[test]
fn closed_files_give_permission_denied_also_where_they_are_open_and_cached_until_reopened() {
    let (sealed, folder) = (seal(mixed()), tempfile::tempdir().unwrap());
    let Some(mounted) = sealed.mount(folder.path(), 1 << 30) else {
        return;
    };
    let path = mounted.path().join("readme.md");
    let open = File::open(&path).unwrap();
    let mut buffer = [0; 6];
    open.read_exact_at(&mut buffer, 0).unwrap();
    mounted.close();
    assert!(mounted.is_closed());
    assert_eq!(
        open.read_at(&mut buffer, 0).unwrap_err().kind(),
        ErrorKind::PermissionDenied
    );
    assert_eq!(
        std::fs::read(&path).unwrap_err().kind(),
        ErrorKind::PermissionDenied
    );
    mounted.reopen(sealed.reader);
    open.read_exact_at(&mut buffer, 0).unwrap();
    assert_eq!(&buffer, b"# Data");
}

#[test]
fn unmounting_does_not_wait_for_files_that_somebody_forgot_to_close() {
    let (sealed, folder) = (seal(mixed()), tempfile::tempdir().unwrap());
    let Some(mounted) = sealed.mount(folder.path(), 1 << 30) else {
        return;
    };
    let open = File::open(mounted.path().join("readme.md")).unwrap();
    let mut buffer = [0; 6];
    open.read_exact_at(&mut buffer, 0).unwrap();
    drop(mounted);
    assert!(open.read_at(&mut buffer, 0).is_err());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn what_a_dead_process_left_mounted_is_found_below_its_folder() {
    let (sealed, folder) = (seal(mixed()), tempfile::tempdir().unwrap());
    let place = folder.path().join("1 data");
    std::fs::create_dir(&place).unwrap();
    let Some(mounted) = sealed.mount(&place, 1 << 30) else {
        return;
    };
    detach_below(folder.path());
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0);
    drop(mounted);
}

#[test]
fn closing_does_not_wait_for_a_read_that_is_under_way() {
    let (sealed, folder) = (seal(mixed()), tempfile::tempdir().unwrap());
    let Some(mounted) = sealed.mount(folder.path(), 1 << 30) else {
        return;
    };
    sealed.storage.set(Some(Fault::Delay(Duration::from_secs(5))));
    let before = sealed.storage.calls();
    let path = mounted.path().join("large.bin");
    let reading = std::thread::spawn(move || std::fs::read(path));
    while sealed.storage.calls() == before {
        std::thread::yield_now();
    }
    mounted.close();
    assert!(!reading.is_finished());
    assert_eq!(
        reading.join().unwrap().unwrap_err().kind(),
        ErrorKind::PermissionDenied
    );
}

#[test]
fn a_folder_that_is_used_or_missing_is_refused() {
    let (sealed, folder) = (seal(vec![("a".into(), vec![1])]), tempfile::tempdir().unwrap());
    std::fs::write(folder.path().join("mine"), "x").unwrap();
    let handle = || sealed.runtime.handle().clone();
    let used = mount(sealed.reader.clone(), folder.path(), handle(), Options::default()).unwrap_err();
    assert_eq!(used.code(), "mount_folder");
    assert!(used.to_string().contains("not empty"), "{used}");
    let missing = folder.path().join("none");
    let missing = mount(sealed.reader.clone(), &missing, handle(), Options::default()).unwrap_err();
    assert_eq!(missing.code(), "mount_folder");
}
