//! The cache folder's templates: which are in use, and removing those that nobody used for two weeks.
//!
//! Every change of the runtime's sources makes a new template of some hundred megabytes. A template that the user named
//! is never touched. Used by `prepare`, and by a kernel that starts on a template.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::template;
use crate::data::{create_private_folder, lock_file};
use crate::error::{CliError, Result};

/// In every template: its time is that of the last use, and its lock is held while something runs on it.
const MARK: &str = "used";
/// Locked by the builder in the template, and by each kernel in its copy.
const LOCK: &str = "lock";
/// The copies of running kernels.
const KERNELS: &str = "kernels";
/// Begins the name of a template that is being removed.
const GONE: &str = ".gone-";
/// Digits of a template's name.
const NAME_DIGITS: usize = 16;
/// Somebody who goes back to an older checkout within this finds its template still there.
const KEPT: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// Held by a process that uses a template; the system drops it when the process ends.
#[derive(Debug)]
pub(crate) struct InUse {
    _mark: File,
}

impl InUse {
    /// Marks a template of the cache folder as used now, before it is built or looked at. `None` for one that the user
    /// put elsewhere.
    pub(crate) fn of(folder: &Path) -> Result<Option<Self>> {
        if folder.parent() != Some(&*template::cache()) {
            return Ok(None);
        }
        Self::mark(folder)
            .map(Some)
            .map_err(|source| CliError::file("mark as used", folder, source))
    }

    fn mark(folder: &Path) -> io::Result<Self> {
        loop {
            create_private_folder(folder)?;
            let path = folder.join(MARK);
            let mark = lock_file(&path)?;
            // Held by others only while the folder is being removed; then this mark is gone with it.
            mark.lock_shared()?;
            if fs::metadata(&path)
                .is_ok_and(|there| mark.metadata().is_ok_and(|ours| ours.ino() == there.ino()))
            {
                mark.set_modified(SystemTime::now())?;
                return Ok(Self { _mark: mark });
            }
        }
    }
}

/// Removes the templates beside `current` that nobody uses or has used for two weeks. What cannot be removed stays.
pub(crate) async fn prune(current: &Path) {
    let current = current.to_path_buf();
    // Only a panic fails here, and an old template harms nobody.
    drop(tokio::task::spawn_blocking(move || sweep(&current)).await);
}

fn sweep(current: &Path) {
    let entries = current.parent().and_then(|folder| fs::read_dir(folder).ok());
    for entry in entries.into_iter().flatten().flatten() {
        let (name, folder) = (entry.file_name(), entry.path());
        let name = name.to_string_lossy();
        let is_template = name.len() == NAME_DIGITS && name.chars().all(|c| c.is_ascii_hexdigit());
        let removed = if name.starts_with(GONE) {
            fs::remove_dir_all(&folder)
        } else if is_template && folder != current && is_old(&folder) {
            remove(&folder)
        } else {
            continue;
        };
        match removed {
            Ok(()) => tracing::info!(template = %folder.display(), "an unused runtime was removed"),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                tracing::warn!(template = %folder.display(), %error, "an unused runtime could not be removed");
            }
        }
    }
}

/// By the newest of everything that building and using a template touch. A clock that was set back removes nothing.
fn is_old(folder: &Path) -> bool {
    let parts = ["", MARK, LOCK, KERNELS, "stamp.json"];
    let times = parts
        .iter()
        .filter_map(|part| fs::metadata(folder.join(part)).ok()?.modified().ok());
    times
        .max()
        .and_then(|newest| newest.elapsed().ok())
        .is_some_and(|age| age > KEPT)
}

/// Removes a template whose locks are all free, holding them meanwhile; `WouldBlock` when one is taken.
fn remove(folder: &Path) -> io::Result<()> {
    let mut locks = vec![folder.join(MARK), folder.join(LOCK)];
    let kernels = fs::read_dir(folder.join(KERNELS)).into_iter().flatten().flatten();
    locks.extend(kernels.map(|kernel| kernel.path().join(LOCK)));
    let mut held = Vec::with_capacity(locks.len());
    for path in &locks {
        held.extend(take(path)?);
    }
    // Under another name first: a template is there whole or not at all, also when this process is killed now.
    let gone = gone(folder);
    fs::rename(folder, &gone)?;
    fs::remove_dir_all(&gone)
}

fn take(path: &Path) -> io::Result<Option<File>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn gone(folder: &Path) -> PathBuf {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    folder.with_file_name(format!("{GONE}{name}-{:08x}", rand::random::<u32>()))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::testing::{Scratch, scratch};

    /// A template whose every part was touched `age` ago.
    fn made(cache: &Scratch, name: &str, age: Duration) -> PathBuf {
        let folder = cache.path().join(name);
        fs::create_dir_all(folder.join(KERNELS).join("one")).unwrap();
        for file in [MARK, LOCK, "stamp.json", "kernels/one/lock"] {
            fs::write(folder.join(file), "").unwrap();
        }
        aged(&folder, age);
        folder
    }

    fn aged(folder: &Path, age: Duration) {
        for part in [MARK, LOCK, "stamp.json", KERNELS, ""] {
            let part = File::open(folder.join(part)).unwrap();
            part.set_modified(SystemTime::now() - age).unwrap();
        }
    }

    #[test]
    fn what_nobody_used_for_two_weeks_goes_and_nothing_else() {
        let cache = scratch();
        let old = KEPT + Duration::from_secs(60);
        let current = made(&cache, "0000000000000000", old);
        let unused = made(&cache, "1111111111111111", old);
        let recent = made(&cache, "2222222222222222", KEPT - Duration::from_secs(60));
        let foreign = made(&cache, "notes", old);
        let held = made(&cache, "3333333333333333", old);
        let in_use = InUse::mark(&held).unwrap();
        aged(&held, old);
        let with_kernel = made(&cache, "4444444444444444", old);
        let kernel = File::open(with_kernel.join("kernels/one/lock")).unwrap();
        kernel.lock().unwrap();
        let left_over = made(&cache, ".gone-5555555555555555-0", Duration::ZERO);
        sweep(&current);
        assert!(!unused.exists() && !left_over.exists());
        for kept in [&current, &recent, &foreign, &held, &with_kernel] {
            assert!(kept.join("stamp.json").exists(), "{}", kept.display());
        }
        drop((in_use, kernel));
        let deadline = Instant::now() + Duration::from_secs(10);
        // A process that another test starts meanwhile has our locks until it has become its program.
        while (held.exists() || with_kernel.exists()) && Instant::now() < deadline {
            sweep(&current);
        }
        assert!(!held.exists() && !with_kernel.exists());
        assert!(current.exists() && recent.exists() && foreign.exists());
    }

    #[test]
    fn using_a_template_makes_it_new_again() {
        let cache = scratch();
        let folder = made(&cache, "1111111111111111", KEPT * 2);
        drop(InUse::mark(&folder).unwrap());
        sweep(&cache.path().join("0000000000000000"));
        assert!(folder.exists());
    }

    #[test]
    fn a_template_that_the_user_named_is_not_marked() {
        let folder = scratch();
        assert!(InUse::of(folder.path()).unwrap().is_none());
        assert!(!folder.path().join(MARK).exists());
    }
}
