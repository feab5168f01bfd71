//! The working area: what callers have uploaded and no commit has taken yet, on disk, verified.
//!
//! Content is addressed by caller and SHA-256, so that naming somebody else's hash finds nothing. A file gets its name
//! by a rename after it was synced and hashed: half of one never becomes an object, whatever ends the process. Folder:
//!
//! ```text
//! staging.key            signs addresses of uploads, also of those from before a restart
//! tmp/                   what arrives; emptied at start
//! objects/CALLER/SHA256  whole, verified, not committed yet
//! done/CALLER/HASH       empty: that object was committed, or that xorb's files are whole. It is kept so that it need
//!                        not be sent again, and is the first to go when room is short
//! parts/CALLER/SHA-SIZE/ an upload in parts: `data`, and a file for each part that is there
//! xorbs/CALLER/HASH      whole, verified xorbs of Xet, which clients refer to for weeks
//! ```
//!
//! When room is short, what is idle goes, too, so that an upload that was given up locks nobody out; what a commit
//! works with never does ([`Staging::hold`]).
//!
//! Plaintext lies here. The folder is its user's alone (0700); whoever seals what was committed removes it by
//! [`Staging::forget`].

pub(crate) mod incoming;
pub(crate) mod parts;

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use alephlab_api::Problem;
use alephlab_api::model::is_hex;
use tokio::sync::Semaphore;

pub(crate) use self::incoming::{Incoming, Sink, Spool};
pub(crate) use self::parts::PartSink;
use self::parts::Uploads;
use crate::RegistryError;
use crate::signed::Signer;

type Result<T, E = RegistryError> = std::result::Result<T, E>;

/// Bounds of a working area.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The largest object, in bytes.
    pub object: u64,
    /// Bytes of one caller, all kinds together.
    pub caller: u64,
    /// Bytes of all callers.
    pub total: u64,
    /// Objects larger than this are uploaded in parts of this size by clients that can.
    pub part: u64,
    /// What nobody asked for that long is removed. Xet's clients count on xorbs for three weeks.
    pub age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            object: 50 << 30,
            caller: 200 << 30,
            total: 1 << 40,
            part: 64 << 20,
            age: Duration::from_secs(22 * 24 * 3600),
        }
    }
}

/// A caller's folder: says nothing of the account, and can stand in an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CallerKey(String);

impl CallerKey {
    /// One that stood in an address of ours.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        is_hex(text, 32).then(|| Self(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// A whole object of a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staged {
    /// Where it lies. Never written to again.
    pub path: PathBuf,
    /// Its bytes.
    pub size: u64,
}

/// The working area. One process has it at a time.
pub struct Staging {
    root: PathBuf,
    secret: [u8; 32],
    limits: Limits,
    used: Mutex<HashMap<CallerKey, u64>>,
    /// Files that somebody works with, and how many do.
    held: Mutex<HashMap<PathBuf, usize>>,
    uploads: Uploads,
    /// Files that are made of xorbs at once: it takes a processor and a disk.
    pub(crate) rebuilds: Arc<Semaphore>,
    _lock: File,
}

/// Keeps an object until it is dropped, whatever room is needed.
pub(crate) struct Held {
    staging: Arc<Staging>,
    path: PathBuf,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = lock(&self.staging.held);
        match held.get_mut(&self.path) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                held.remove(&self.path);
            }
        }
    }
}

/// So long after somebody asked for it, an upload may be going on: until then, only what is done goes for room.
const IN_USE: Duration = Duration::from_secs(3600);
/// Rebuilds at once.
const REBUILDS: usize = 2;
/// Kinds of whole files, each a folder.
const KINDS: [&str; 2] = ["objects", "xorbs"];

impl Staging {
    /// Opens or makes the folder, removes what was left half done, and counts what is there.
    ///
    /// # Errors
    /// [`RegistryError::Storage`] when the folder cannot be used or another process has it.
    pub fn open(root: &Path, limits: Limits) -> Result<Arc<Self>> {
        private_folder(root).map_err(failed)?;
        // It may have been there before, open to others.
        fs::set_permissions(root, Permissions::from_mode(0o700)).map_err(failed)?;
        let mut options = private_file();
        let taken = options.create(true).truncate(false).open(root.join("lock"));
        let taken = taken.map_err(failed)?;
        taken
            .try_lock()
            .map_err(|_| storage("staging_taken", "another process has this working area"))?;
        let _ = fs::remove_dir_all(root.join("tmp"));
        for folder in ["tmp", "parts", "done"].iter().chain(&KINDS) {
            private_folder(&root.join(folder)).map_err(failed)?;
        }
        let staging = Self {
            root: root.to_owned(),
            secret: secret(root).map_err(failed)?,
            limits,
            used: Mutex::default(),
            held: Mutex::default(),
            uploads: Uploads::default(),
            rebuilds: Arc::new(Semaphore::new(REBUILDS)),
            _lock: taken,
        };
        staging.sweep(SystemTime::now());
        for (caller, path) in staging.everything() {
            *lock(&staging.used).entry(caller).or_default() += size(&path).unwrap_or(0);
        }
        Ok(Arc::new(staging))
    }

    /// A caller's object with this hash, if it is whole. Asked for, it stays longer.
    pub fn object(&self, caller: &CallerKey, sha256: &str) -> Option<Staged> {
        if !is_hex(sha256, 64) {
            return None;
        }
        let path = self.place("objects", caller, sha256);
        let size = size(&path)?;
        touch(&path);
        Some(Staged { path, size })
    }

    /// The same, and it stays until the guard is dropped.
    pub(crate) fn hold(self: &Arc<Self>, caller: &CallerKey, sha256: &str) -> Option<(Staged, Held)> {
        let path = self.place("objects", caller, sha256);
        *lock(&self.held).entry(path.clone()).or_default() += 1;
        let held = Held {
            staging: Arc::clone(self),
            path,
        };
        self.object(caller, sha256).map(|staged| (staged, held))
    }

    /// Key of an account: an HMAC, so that a name of a folder says nothing of whose it is.
    pub fn key(&self, account: &str) -> CallerKey {
        let mac = Signer::new(&self.secret).sign("caller", &[account]);
        CallerKey(mac.chars().take(32).collect())
    }

    /// A commit has taken this object, or the files of this xorb are whole: it may go as soon as room is short.
    pub fn committed(&self, caller: &CallerKey, hash: &str) {
        if is_hex(hash, 64) && private_folder(&self.root.join("done").join(caller.as_str())).is_ok() {
            let mark = self.place("done", caller, hash);
            let _ = private_file().create(true).truncate(false).open(mark);
        }
    }

    /// Removes an object at once.
    pub fn forget(&self, caller: &CallerKey, sha256: &str) {
        if is_hex(sha256, 64) {
            self.remove_file(caller, &self.place("objects", caller, sha256));
        }
    }

    /// Removes what nobody asked for in [`Limits::age`]. Its owner calls it now and then; reads folders, so not on a
    /// thread that answers requests.
    pub fn sweep(&self, now: SystemTime) {
        for (caller, path) in self.everything() {
            let modified = fs::metadata(&path).and_then(|found| found.modified());
            let over = modified.is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age > self.limits.age));
            if over {
                self.remove(&caller, &path);
            }
        }
    }

    /// Bytes that a caller has here.
    pub fn used(&self, caller: &CallerKey) -> u64 {
        lock(&self.used).get(caller).copied().unwrap_or(0)
    }

    /// The bounds.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// A verified xorb of this caller. Asked for, it stays longer.
    pub(crate) fn xorb(&self, caller: &CallerKey, hash: &str) -> Option<PathBuf> {
        let path = self.place("xorbs", caller, hash);
        let is_there = is_hex(hash, 64) && path.is_file();
        is_there.then(|| {
            touch(&path);
            path
        })
    }

    /// Where a file of some kind has its place. `name` must be plain hex.
    fn place(&self, kind: &str, caller: &CallerKey, name: &str) -> PathBuf {
        self.root.join(kind).join(caller.as_str()).join(name)
    }

    /// Takes bytes of the caller's quota; makes room of what was committed when there is none.
    fn take(&self, caller: &CallerKey, bytes: u64) -> Result<()> {
        if self.grow(caller, bytes) {
            return Ok(());
        }
        for path in self.dispensable(caller) {
            self.remove(caller, &path);
            if self.grow(caller, bytes) {
                return Ok(());
            }
        }
        // The room of all is short, not the caller's own: others have idle things, too.
        let others: Vec<_> = lock(&self.used).keys().cloned().collect();
        for other in others
            .iter()
            .filter(|other| self.fits(caller, bytes) && *other != caller)
        {
            for path in self.dispensable(other) {
                self.remove(other, &path);
                if self.grow(caller, bytes) {
                    return Ok(());
                }
            }
        }
        Err(RegistryError::TooLarge {
            what: "what this token has uploaded and not committed".to_owned(),
            most: format!("{} bytes", self.limits.caller),
        })
    }

    /// What may go when room is short, first what is missed least: what was committed or is whole, then xorbs, then
    /// uploads and parts of them, of which nobody asked of late; each the oldest first.
    fn dispensable(&self, caller: &CallerKey) -> Vec<PathBuf> {
        let dated = |path: PathBuf| Some((fs::metadata(&path).ok()?.modified().ok()?, path));
        let of = |kind| files(&self.root.join(kind).join(caller.as_str()));
        let mut done = Vec::new();
        for mark in of("done") {
            let name = mark.file_name().and_then(|name| name.to_str());
            let places = KINDS
                .iter()
                .filter_map(|kind| Some(self.place(kind, caller, name?)));
            done.extend(places.filter_map(dated));
        }
        let idle = |paths: Vec<PathBuf>| -> Vec<_> {
            let all = paths.into_iter().filter_map(dated);
            all.filter(|(at, _)| at.elapsed().is_ok_and(|age| age > IN_USE))
                .collect()
        };
        let mut xorbs = idle(of("xorbs"));
        let parts = of("parts").into_iter().map(|folder| folder.join("data"));
        let mut rest = idle(of("objects").into_iter().chain(parts).collect());
        done.sort();
        xorbs.sort();
        rest.sort();
        let all = done.into_iter().chain(xorbs).chain(rest);
        all.map(|(_, path)| path).collect()
    }

    /// Whether bytes would fit into the caller's own quota.
    fn fits(&self, caller: &CallerKey, bytes: u64) -> bool {
        self.used(caller).saturating_add(bytes) <= self.limits.caller
    }

    fn grow(&self, caller: &CallerKey, bytes: u64) -> bool {
        let mut used = lock(&self.used);
        let total = used.values().fold(bytes, |sum, used| sum.saturating_add(*used));
        let entry = used.entry(caller.clone()).or_default();
        let sum = entry.saturating_add(bytes);
        let fits = sum <= self.limits.caller && total <= self.limits.total;
        if fits {
            *entry = sum;
        }
        fits
    }

    fn give_back(&self, caller: &CallerKey, bytes: u64) {
        if let Some(used) = lock(&self.used).get_mut(caller) {
            *used = used.saturating_sub(bytes);
        }
    }

    /// Removes a file that nobody works with.
    fn remove(&self, caller: &CallerKey, path: &Path) {
        if path.ends_with("data") {
            let _ = path.parent().map(|folder| self.drop_parts(caller, folder));
            return;
        }
        let held = lock(&self.held);
        if !held.contains_key(path) {
            self.remove_file(caller, path);
        }
    }

    fn remove_file(&self, caller: &CallerKey, path: &Path) {
        if let Some(size) = size(path)
            && fs::remove_file(path).is_ok()
        {
            self.give_back(caller, size);
            self.unmark(caller, path);
        }
    }

    /// Gives a whole file its place; false when one is there already, which is the same.
    fn settle(&self, caller: &CallerKey, from: &Path, place: &Path) -> Result<bool> {
        let linked = match fs::hard_link(from, place) {
            // Some file systems have no links. Then two equal uploads at once may be counted twice until the next start.
            Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied) => {
                fs::rename(from, place)
            }
            linked => linked,
        };
        match linked {
            Ok(()) => {
                let _ = fs::remove_file(from);
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                touch(place);
                self.unmark(caller, place);
                Ok(false)
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// An object is no longer one that was committed: it is gone, or was uploaded again.
    fn unmark(&self, caller: &CallerKey, path: &Path) {
        if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
            let _ = fs::remove_file(self.place("done", caller, name));
        }
    }

    /// Every file that counts, with its caller.
    fn everything(&self) -> Vec<(CallerKey, PathBuf)> {
        let mut all = Vec::new();
        for kind in KINDS.iter().chain(&["parts"]) {
            for folder in files(&self.root.join(kind)) {
                let name = folder.file_name().and_then(|name| name.to_str());
                let Some(caller) = name.and_then(CallerKey::parse) else {
                    continue;
                };
                for path in files(&folder) {
                    let path = if *kind == "parts" { path.join("data") } else { path };
                    all.push((caller.clone(), path));
                }
            }
        }
        all
    }
}

/// Numbers only: whoever panicked left none of them half written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An upload could not be stored for a reason of this machine.
#[expect(clippy::needless_pass_by_value, reason = "what `map_err` passes")]
pub(crate) fn failed(error: io::Error) -> RegistryError {
    tracing::error!(%error, "an upload cannot be stored");
    storage("staging_io", &format!("the working area failed: {error}"))
}

fn storage(code: &str, message: &str) -> RegistryError {
    RegistryError::Storage {
        problem: Problem::new(code, message),
    }
}

fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

fn size(path: &Path) -> Option<u64> {
    fs::metadata(path)
        .ok()
        .filter(fs::Metadata::is_file)
        .map(|found| found.len())
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn touch(path: &Path) {
    if let Ok(file) = File::open(path) {
        let _ = file.set_modified(SystemTime::now());
    }
}

/// The secret that signs addresses, made at first. It has its name when it is whole.
fn secret(root: &Path) -> io::Result<[u8; 32]> {
    let path = root.join("staging.key");
    let mut secret = [0; 32];
    match File::open(&path) {
        Ok(mut file) => {
            file.read_exact(&mut secret)?;
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            secret = rand::random();
            let beside = root.join("tmp").join("staging.key");
            let mut file = private_file().create_new(true).open(&beside)?;
            file.write_all(&secret)?;
            file.sync_all()?;
            fs::rename(&beside, &path)?;
            File::open(root)?.sync_all()?;
        }
        Err(error) => return Err(error),
    }
    Ok(secret)
}

#[cfg(test)]
mod tests;
