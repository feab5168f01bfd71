//! Makes this process harder to look into: no core dumps, no attaching by other processes of the same account, and
//! new files for its owner only. Unsafe code of this crate is here and nowhere else.
//!
//! It does not stop root, and not whoever owns the machine: nothing in software does. Called first by `main`. The one
//! other system call of this crate, [`space_of`], is here for the sake of that rule.
#![expect(
    unsafe_code,
    reason = "prctl, setrlimit, umask and statvfs have no safe form in std"
)]

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use alephlab_api::broker::Wall;

/// Hardens this process and answers which walls stand between cells and its keys, and which do not.
pub fn harden() -> Vec<Wall> {
    // SAFETY: PR_SET_DUMPABLE takes one integer and touches no memory of ours.
    let dumpable = done(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) });
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `none` is a valid rlimit that lives until the call returns.
    let core = done(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) });
    // SAFETY: umask takes one integer and cannot fail.
    unsafe { libc::umask(0o077) };
    let swap = swap_is_on().then(|| "swap is on, so keys and opened files may reach the disk".to_owned());
    let wall = |name: &str, missing: Option<String>| Wall {
        name: name.to_owned(),
        missing,
    };
    vec![
        wall("other processes cannot look into the broker", dumpable),
        wall("a crash writes no memory to the disk", core),
        wall("memory is not swapped to the disk", swap),
        wall("cells run as another user than the broker", same_user()),
    ]
}

/// What the system said, if it refused.
fn done(result: libc::c_int) -> Option<String> {
    (result != 0).then(|| std::io::Error::last_os_error().to_string())
}

/// The agent starts broker and kernel as the same user; only where cells are given another one does this wall stand.
fn same_user() -> Option<String> {
    Some("broker and cells are the same user; the kernel keeps them apart only by the wall above".to_owned())
}

/// Room in a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Space {
    /// Bytes that this account may still write.
    pub(crate) free: u64,
    /// Bytes in which it is given out: a file takes a whole number of them.
    pub(crate) block: u64,
}

/// How much room there is where `folder` lies.
pub(crate) fn space_of(folder: &Path) -> std::io::Result<Space> {
    let path = CString::new(folder.as_os_str().as_bytes())?;
    let mut found = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `path` ends with a zero byte, and `found` has room for the one struct that the call writes.
    if unsafe { libc::statvfs(path.as_ptr(), found.as_mut_ptr()) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the call said that it wrote the struct.
    let found = unsafe { found.assume_init() };
    Ok(Space {
        free: found.f_bavail.saturating_mul(found.f_frsize),
        block: found.f_frsize.max(1),
    })
}

/// Locking all memory would fail under usual limits as soon as a dataset is opened, so swap is only told of.
fn swap_is_on() -> bool {
    std::fs::read_to_string("/proc/swaps").is_ok_and(|swaps| swaps.lines().count() > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_no_core_dump_and_says_only_what_it_could_not_do() {
        let walls = harden();
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"))
            .map(str::to_owned);
        // A process that is not dumpable may not be able to read its own limits.
        if let Some(core) = core {
            assert!(
                core.split_whitespace()
                    .rev()
                    .skip(1)
                    .take(2)
                    .all(|limit| limit == "0"),
                "{core}"
            );
        }
        let standing: Vec<_> = walls.iter().map(|wall| wall.missing.is_none()).collect();
        assert_eq!(standing[..2], [true, true], "{walls:?}");
    }
}
