//! Reading a mounted file, beside a trivial file system that answers from memory, the floor of any FUSE file system, and
//! beside gocryptfs.
//!
//! `cargo bench -p alephlab-mount --bench mount -- [MIB]`: a file of MIB (512). *Cached* is with its objects open and the
//! system's page cache dropped; *cold* with nothing open, from a node that answers after a delay, each object at the rate of a
//! gigabit a second. gocryptfs (Debian's) has its ciphertext in memory. *To the first byte* is from a reader that is not open yet
//! to the first byte of a dataset of a thousand files of 100 kB. Needs the right to mount.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark fails by panicking, and prints"
)]

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use alephlab_mount::{Options, mount};
use alephlab_vault::storage::{
    BoxFuture, CachedStorage, FaultyStorage, Hashed, MemoryStorage, PostQuery, Storage, StoredPost,
};
use alephlab_vault::{
    Keys, Meta, Reader, ReaderKey, SignedMessage, SourceFile, Wallet, find_grant, put_dataset,
};
use bytes::Bytes;
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEntry, ReplyOpen, Request, Session,
    SessionACL,
};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

const ROUNDS: usize = 5;
/// Bytes a second of the line to the node.
const LINE: f64 = 125e6;
/// Reads here and there in one round.
const SCATTERED: u64 = 200;

fn main() {
    let mib: usize = std::env::args().find_map(|text| text.parse().ok()).unwrap_or(512);
    let mut plain = vec![0; mib << 20];
    StdRng::seed_from_u64(1).fill(&mut plain[..]);
    let plain: Arc<[u8]> = plain.into();
    let runtime = Runtime::new().unwrap();
    let node = Arc::new(Slow::new());
    let whole = vec![SourceFile::bytes("plain", plain.to_vec())];
    let (head, key) = runtime.block_on(seal(&node, whole));
    let open = || runtime.block_on(open(node.clone(), &head, &key));
    let folder = tempfile::tempdir().unwrap();

    let floor = floor(&plain, folder.path());
    print("floor: a file system in memory", &floor);
    let mounted = mount(
        open(),
        folder.path(),
        runtime.handle().clone(),
        Options { memory: 2 << 30 },
    )
    .unwrap();
    let path = mounted.path().join("plain");
    read_through(&path);
    let cached: Vec<f64> = (0..ROUNDS).map(|_| read_through(&path)).collect();
    print("mounted, cached", &cached);
    println!("ratio to the floor: {:.2}", median(&cached) / median(&floor));
    drop(mounted);
    match gocryptfs(&plain, folder.path()) {
        Some(rates) => print("gocryptfs, page cache dropped", &rates),
        None => println!("gocryptfs is not installed: nothing to compare with"),
    }

    for delay in [0, 20, 100] {
        node.set(Duration::from_millis(delay));
        let (mut front, mut scattered, mut first) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..3 {
            let mounted = mount(
                open(),
                folder.path(),
                runtime.handle().clone(),
                Options { memory: 1 << 30 },
            )
            .unwrap();
            front.push(read_through(&path));
            drop(mounted);
            let mounted = mount(
                open(),
                folder.path(),
                runtime.handle().clone(),
                Options { memory: 0 },
            )
            .unwrap();
            let begun = Instant::now();
            File::open(&path).unwrap().read_exact(&mut [0]).unwrap();
            first.push(begun.elapsed().as_secs_f64() * 1e3);
            scattered.push(read_scattered(&path, plain.len() as u64));
            drop(mounted);
        }
        println!(
            "cold, {delay} ms: front to back {:.0} MB/s ({:.0} % of the line); first byte {:.0} ms; 4 KiB here and there {:.1} a second",
            median(&front),
            median(&front) * 1e6 / LINE * 100.0,
            median(&first),
            median(&scattered)
        );
    }
    first_bytes(&runtime, folder.path());
}

/// A thousand files: from opening the dataset to the first byte of the last file; cold, and with its objects in the disk cache.
fn first_bytes(runtime: &Runtime, folder: &Path) {
    let node = Arc::new(Slow::new());
    let mut random = StdRng::seed_from_u64(3);
    let files = (0..1_000).map(|number| {
        let mut bytes = vec![0; 100_000];
        random.fill(&mut bytes[..]);
        SourceFile::bytes(format!("{number:03}.bin"), bytes)
    });
    let (head, key) = runtime.block_on(seal(&node, files.collect()));
    for delay in [0, 20, 100] {
        node.set(Duration::from_millis(delay));
        let (mut manifest, mut cold, mut warm) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let kept = tempfile::tempdir().unwrap();
            for times in [&mut cold, &mut warm] {
                let cached = CachedStorage::over(node.clone(), kept.path(), 1 << 30);
                let begun = Instant::now();
                let reader = runtime.block_on(open(cached, &head, &key));
                manifest.push(begun.elapsed().as_secs_f64() * 1e3);
                let memory = Options { memory: 1 << 30 };
                let mounted = mount(reader, folder, runtime.handle().clone(), memory).unwrap();
                let mut file = File::open(folder.join("999.bin")).unwrap();
                file.read_exact(&mut [0]).unwrap();
                times.push(begun.elapsed().as_secs_f64() * 1e3);
                drop((file, mounted));
            }
        }
        let manifest: Vec<f64> = manifest.into_iter().step_by(2).collect();
        println!(
            "1,000 files, {delay} ms: to the first byte {:.0} ms, of which the manifest {:.0}; from the disk cache {:.0} ms",
            median(&cold),
            median(&manifest),
            median(&warm)
        );
    }
}

/// The same file in a gocryptfs whose ciphertext is in memory; none where it is not installed.
fn gocryptfs(plain: &Arc<[u8]>, folder: &Path) -> Option<Vec<f64>> {
    let cipher = tempfile::tempdir_in("/dev/shm").unwrap();
    let run = |arguments: &[&str]| {
        let done = Command::new("gocryptfs")
            .args(["-q", "-nosyslog", "-extpass", "echo password"])
            .args(arguments)
            .status();
        done.ok().filter(std::process::ExitStatus::success)
    };
    let (from, to) = (cipher.path().to_str().unwrap(), folder.to_str().unwrap());
    run(&["-init", "-scryptn", "10", from])?;
    run(&[from, to])?;
    let path = folder.join("plain");
    std::fs::write(&path, plain).unwrap();
    read_through(&path);
    let rates = (0..ROUNDS).map(|_| read_through(&path)).collect();
    assert!(
        Command::new("fusermount3")
            .args(["-u", to])
            .status()
            .unwrap()
            .success()
    );
    Some(rates)
}

/// A node in memory behind one line: each answer comes after a delay, and takes its turn on the line.
struct Slow {
    inner: FaultyStorage,
    delay: std::sync::Mutex<Option<Duration>>,
    line: Mutex<()>,
}

impl Slow {
    fn new() -> Self {
        Self {
            inner: FaultyStorage::new(Arc::new(MemoryStorage::new())),
            delay: std::sync::Mutex::default(),
            line: Mutex::default(),
        }
    }

    fn set(&self, delay: Duration) {
        *self.delay.lock().unwrap() = Some(delay);
    }
}

impl Storage for Slow {
    fn put<'a>(&'a self, bytes: Bytes, store: &'a SignedMessage) -> BoxFuture<'a, ()> {
        self.inner.put(bytes, store)
    }

    fn get<'a>(&'a self, item_hash: &'a str) -> BoxFuture<'a, Bytes> {
        Box::pin(async move {
            let bytes = self.inner.get(item_hash).await?;
            let delay = *self.delay.lock().unwrap();
            if let Some(delay) = delay {
                tokio::time::sleep(delay).await;
                let _turn = self.line.lock().await;
                tokio::time::sleep(Duration::from_secs_f64(bytes.len() as f64 / LINE)).await;
            }
            Ok(bytes)
        })
    }

    /// Bytes of its own, hashed while they come, as the storage that speaks HTTP does.
    fn get_hashed<'a>(&'a self, item_hash: &'a str) -> BoxFuture<'a, Hashed> {
        Box::pin(async move {
            let copied = async {
                let bytes = self.inner.get(item_hash).await?;
                let hashed = tokio::task::spawn_blocking(move || {
                    let bytes = bytes.to_vec();
                    (Sha256::digest(&bytes).into(), bytes)
                });
                Ok(hashed.await.unwrap())
            };
            let (came, copied) = tokio::join!(self.get(item_hash), copied);
            came?;
            let (hash, bytes) = copied?;
            Ok((bytes.into(), Some(hash)))
        })
    }

    fn stores<'a>(&'a self, owner: &'a str, objects: &'a [String]) -> BoxFuture<'a, Vec<SignedMessage>> {
        self.inner.stores(owner, objects)
    }

    fn publish<'a>(&'a self, message: &'a SignedMessage) -> BoxFuture<'a, ()> {
        self.inner.publish(message)
    }

    fn post<'a>(&'a self, item_hash: &'a str) -> BoxFuture<'a, Option<StoredPost>> {
        self.inner.post(item_hash)
    }

    fn posts<'a>(&'a self, query: PostQuery) -> BoxFuture<'a, Vec<StoredPost>> {
        self.inner.posts(query)
    }

    fn aggregate<'a>(&'a self, address: &'a str, key: &'a str) -> BoxFuture<'a, Option<serde_json::Value>> {
        self.inner.aggregate(address, key)
    }
}

async fn seal(node: &Arc<Slow>, files: Vec<SourceFile>) -> (alephlab_vault::SignedHead, ReaderKey) {
    let (wallet, key) = (Wallet::generate().unwrap(), ReaderKey::generate().unwrap());
    let put = put_dataset(node.clone(), &wallet, &key, files, Meta::default(), None, &|_| {})
        .await
        .unwrap();
    (put.head, key)
}

async fn open(node: Arc<dyn Storage>, head: &alephlab_vault::SignedHead, key: &ReaderKey) -> Reader {
    let secret = find_grant(&*node, head, key).await.unwrap();
    Reader::open(node, head, Keys::Epoch(secret)).await.unwrap()
}

/// Reads a file from front to back, as `dd bs=1M` does, none of it from the page cache: MB a second.
fn read_through(path: &Path) -> f64 {
    let mut file = File::open(path).unwrap();
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
    let (mut buffer, mut total) = (vec![0; 1 << 20], 0);
    let begun = Instant::now();
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => break,
            read => total += read,
        }
    }
    total as f64 / 1e6 / begun.elapsed().as_secs_f64()
}

/// Reads a second of 4 KiB here and there.
fn read_scattered(path: &Path, length: u64) -> f64 {
    let file = File::open(path).unwrap();
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
    let (mut random, begun, mut reads) = (StdRng::seed_from_u64(2), Instant::now(), 0_u64);
    while reads < SCATTERED && begun.elapsed() < Duration::from_secs(10) {
        file.read_exact_at(&mut [0; 4096], random.random_range(0..length - 4096))
            .unwrap();
        reads += 1;
    }
    reads as f64 / begun.elapsed().as_secs_f64()
}

fn floor(plain: &Arc<[u8]>, folder: &Path) -> Vec<f64> {
    let mut config = Config::default();
    config.mount_options = vec![MountOption::RO];
    config.acl = SessionACL::Owner;
    config.n_threads = Some(4);
    config.clone_fd = true;
    let session = Session::new(InMemory(plain.clone()), folder, &config)
        .unwrap()
        .spawn()
        .unwrap();
    let path = folder.join("plain");
    read_through(&path);
    let rates = (0..ROUNDS).map(|_| read_through(&path)).collect();
    session.umount_and_join().unwrap();
    rates
}

/// One file, `plain`.
struct InMemory(Arc<[u8]>);

impl InMemory {
    fn attributes(&self, number: INodeNo) -> FileAttr {
        let is_file = number.0 == 2;
        let (kind, perm) = if is_file {
            (FileType::RegularFile, 0o444)
        } else {
            (FileType::Directory, 0o555)
        };
        let time = SystemTime::UNIX_EPOCH;
        FileAttr {
            ino: number,
            size: if is_file { self.0.len() as u64 } else { 0 },
            blocks: 1,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

const FOR_LONG: Duration = Duration::from_secs(3600);

impl Filesystem for InMemory {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        if let Err(most) = config.set_max_readahead(1 << 20) {
            let _ = config.set_max_readahead(most);
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == "plain" {
            reply.entry(&FOR_LONG, &self.attributes(INodeNo(2)), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOR_LONG, &self.attributes(number));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let from = usize::try_from(offset).unwrap().min(self.0.len());
        let to = (from + size as usize).min(self.0.len());
        reply.data(&self.0[from..to]);
    }
}

fn print(what: &str, rates: &[f64]) {
    let (low, high) = rates.iter().fold((f64::MAX, 0.0_f64), |(low, high), rate| {
        (low.min(*rate), high.max(*rate))
    });
    println!("{what:32} {:.0} MB/s ({low:.0} to {high:.0})", median(rates));
}

fn median(rates: &[f64]) -> f64 {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
