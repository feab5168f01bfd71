//! What the system asks of the mounted files, answered from the reader.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use alephlab_vault::{Entry, Reader, VaultError};
use bytes::Bytes;
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, Request,
};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::ahead::Cursor;
use crate::tree::{ROOT, Tree};

/// Nothing of a version changes, so what the system knows of it stays true.
const FOR_LONG: Duration = Duration::from_secs(24 * 3600);
/// Longest that a read waits for its object.
const PATIENCE: Duration = Duration::from_secs(180);
/// Objects that are fetched ahead at a time, over all files: enough to hide a delay of 100 ms, few enough to leave a slow line
/// to the object that is waited for.
const AHEAD_AT_A_TIME: usize = 3;
/// Block of the file system, bytes.
const BLOCK: u32 = 4096;

/// The file system. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Files {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    /// None when it is closed: then nothing here can open an object.
    reader: RwLock<Option<Reader>>,
    entries: Arc<[Entry]>,
    tree: Tree,
    bytes: u64,
    runtime: Handle,
    owner: (u32, u32),
    /// When it was mounted: the time of entries that have none.
    since: SystemTime,
    /// Most plaintext that is held, bytes.
    memory: u64,
    fetching_ahead: Arc<Semaphore>,
    /// Of open files.
    cursors: Mutex<HashMap<u64, Arc<Cursor>>>,
    next_handle: AtomicU64,
    /// Files that were opened at some time: the system may have kept some of their bytes.
    touched: Mutex<HashSet<u64>>,
    /// The last read that failed.
    failure: Mutex<Option<Failure>>,
}

/// A read that failed: programs see no more of it than "input/output error".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Of which file.
    pub path: String,
    /// Stable code.
    pub code: &'static str,
    /// Why.
    pub message: String,
}

impl Files {
    /// `memory` bounds the plaintext that is held, in bytes.
    pub(crate) fn new(reader: Reader, runtime: Handle, memory: u64) -> Self {
        reader.keep(memory);
        let entries = reader.share_entries();
        Self {
            shared: Arc::new(Shared {
                tree: Tree::of(&entries),
                entries,
                bytes: reader.bytes(),
                runtime,
                owner: (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw()),
                since: SystemTime::now(),
                memory,
                fetching_ahead: Arc::new(Semaphore::new(AHEAD_AT_A_TIME)),
                cursors: Mutex::default(),
                next_handle: AtomicU64::new(1),
                touched: Mutex::default(),
                failure: Mutex::default(),
                reader: RwLock::new(Some(reader)),
            }),
        }
    }
}

impl Shared {
    /// From now on nothing can be opened or read, and neither keys nor plaintext are held.
    pub(crate) fn close(&self) {
        if let Some(reader) = self.reader.write().unwrap_or_else(PoisonError::into_inner).take() {
            // Clones of reads that are under way live a little longer.
            reader.keep(0);
        }
    }

    /// Takes [`Shared::close`] back, with a reader of the same version.
    pub(crate) fn reopen(&self, reader: Reader) {
        reader.keep(self.memory);
        *self.reader.write().unwrap_or_else(PoisonError::into_inner) = Some(reader);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.reader().is_none()
    }

    pub(crate) fn failure(&self) -> Option<Failure> {
        lock(&self.failure).clone()
    }

    fn reader(&self) -> Option<Reader> {
        self.reader.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Files of which the system may have kept bytes.
    pub(crate) fn touched(&self) -> Vec<INodeNo> {
        lock(&self.touched).iter().copied().map(INodeNo).collect()
    }

    fn entry(&self, number: u64) -> Option<&Entry> {
        self.entries.get(self.tree.entry(number)?)
    }

    /// Attributes; none where nothing has the number.
    fn attributes(&self, number: u64) -> Option<FileAttr> {
        let entry = if number == ROOT {
            None
        } else {
            Some(self.entry(number)?)
        };
        let file = entry.filter(|entry| entry.is_file());
        let time = entry.and_then(|entry| entry.mtime);
        let time = time.map_or(self.since, |seconds| {
            SystemTime::UNIX_EPOCH
                .checked_add(Duration::from_secs(seconds))
                .unwrap_or(self.since)
        });
        let size = file.map_or(0, |file| file.size);
        Some(FileAttr {
            ino: INodeNo(number),
            size,
            blocks: size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind: if file.is_some() {
                FileType::RegularFile
            } else {
                FileType::Directory
            },
            // For its owner only, and not to be changed.
            perm: if file.is_some() { 0o400 } else { 0o500 },
            nlink: if file.is_some() { 1 } else { 2 },
            uid: self.owner.0,
            gid: self.owner.1,
            rdev: 0,
            blksize: BLOCK,
            flags: 0,
        })
    }

    /// What a folder lists, itself and the one above first.
    fn listed(&self, folder: u64) -> impl Iterator<Item = (u64, &str)> {
        let own = [(folder, "."), (self.tree.parent(folder), "..")];
        own.into_iter().chain(self.tree.children(folder))
    }

    /// Fetches ahead what follows a read, where the file is read from front to back.
    fn fetch_ahead(&self, reader: &Reader, entry: &Entry, cursor: &Cursor, (offset, length): (u64, u64)) {
        let ahead = (self.memory / 2).min(AHEAD_AT_A_TIME as u64 * reader.object_bytes());
        let Some(next) = cursor.read(offset, length, ahead) else {
            return;
        };
        for number in reader.missing(entry, next) {
            // What does not fit now is asked for again at the next read.
            let Ok(permit) = Arc::clone(&self.fetching_ahead).try_acquire_owned() else {
                return;
            };
            let reader = reader.clone();
            self.runtime.spawn(async move {
                // Whoever needs it is told when it fails again.
                let _ = reader.open_object(number).await;
                drop(permit);
            });
        }
    }

    async fn read(&self, reader: &Reader, number: u64, offset: u64, length: u64) -> Result<Bytes, Errno> {
        let entry = self.entry(number).ok_or(Errno::ENOENT)?;
        let own = (
            reader.clone(),
            Arc::clone(&self.entries),
            self.tree.entry(number).unwrap_or(usize::MAX),
        );
        // A task of its own: when this wait ends, what was fetched of it is not lost, and a later read has it.
        let fetching = self.runtime.spawn(async move {
            let (reader, entries, place) = own;
            match entries.get(place) {
                Some(entry) => reader.read_at(entry, offset, length).await,
                None => Ok(Bytes::new()),
            }
        });
        let read = timeout(PATIENCE, fetching).await;
        // Never zeros and never less than there is: an error.
        let failed = |message: &str, code: &'static str| {
            tracing::warn!(path = %entry.path, offset, code, message, "a read of a mounted file failed");
            *lock(&self.failure) = Some(Failure {
                path: entry.path.clone(),
                code,
                message: message.to_owned(),
            });
            Errno::EIO
        };
        match read {
            Ok(Ok(Ok(bytes))) => Ok(bytes),
            Ok(Ok(Err(error))) => Err(failed(&error.to_string(), VaultError::code(&error))),
            Ok(Err(error)) => Err(failed(&error.to_string(), "E_STOPPED")),
            Err(_) => Err(failed(
                "no node has given all of its object within three minutes",
                "E_UNAVAILABLE",
            )),
        }
    }
}

impl Filesystem for Files {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Each is wanted and none is needed.
        for wanted in [
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
        ] {
            let _ = config.add_capabilities(wanted);
        }
        if let Err(most) = config.set_max_readahead(1 << 20) {
            let _ = config.set_max_readahead(most);
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let shared = &self.shared;
        let number = name.to_str().and_then(|name| shared.tree.find(parent.0, name));
        match number.and_then(|number| shared.attributes(number)) {
            Some(attributes) => reply.entry(&FOR_LONG, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.shared.attributes(number.0) {
            Some(attributes) => reply.attr(&FOR_LONG, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let shared = &self.shared;
        if shared.is_closed() {
            return reply.error(Errno::EACCES);
        }
        if flags.acc_mode() != fuser::OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        let handle = shared.next_handle.fetch_add(1, Ordering::Relaxed);
        lock(&shared.cursors).insert(handle, Arc::default());
        lock(&shared.touched).insert(number.0);
        reply.opened(FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let shared = &self.shared;
        let Some(reader) = shared.reader() else {
            return reply.error(Errno::EACCES);
        };
        let Some(entry) = shared.entry(number.0) else {
            return reply.error(Errno::ENOENT);
        };
        let length = u64::from(size);
        if let Some(cursor) = lock(&shared.cursors).get(&handle.0).cloned() {
            shared.fetch_ahead(&reader, entry, &cursor, (offset, length));
        }
        if let Some(bytes) = reader.read_open(entry, offset, length) {
            return reply.data(&bytes);
        }
        let shared = Arc::clone(shared);
        let runtime = shared.runtime.clone();
        runtime.spawn(async move {
            match shared.read(&reader, number.0, offset, length).await {
                Ok(_) if shared.is_closed() => reply.error(Errno::EACCES),
                Ok(bytes) => reply.data(&bytes),
                Err(error) => reply.error(error),
            }
        });
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        lock(&self.shared.cursors).remove(&handle.0);
        reply.ok();
    }

    /// Nothing is written: with this answer the system does not ask again.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(
            FileHandle(0),
            FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR,
        );
    }

    fn readdir(&self, _: &Request, folder: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for (place, (number, name)) in (1..).zip(self.shared.listed(folder.0)).skip(from) {
            let kind = self
                .shared
                .attributes(number)
                .map_or(FileType::Directory, |found| found.kind);
            if reply.add(INodeNo(number), place, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _: &Request,
        folder: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for (place, (number, name)) in (1..).zip(self.shared.listed(folder.0)).skip(from) {
            let Some(attributes) = self.shared.attributes(number) else {
                continue;
            };
            if reply.add(
                INodeNo(number),
                place,
                name,
                &FOR_LONG,
                &attributes,
                Generation(0),
            ) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let (bytes, files) = (self.shared.bytes, self.shared.entries.len() as u64);
        let blocks = bytes.div_ceil(u64::from(BLOCK));
        reply.statfs(blocks, 0, 0, files, 0, BLOCK, 255, BLOCK);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
