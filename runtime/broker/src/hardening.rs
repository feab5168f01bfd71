//! Makes this process harder to look into: no core dumps, no attaching by other processes of the same account, memory
//! that is never swapped where the system lets it, and new files for its owner only. Unsafe code of this crate is here
//! and nowhere else.
//!
//! It does not stop root, and not whoever owns the machine: nothing in software does. Called first by `main`. The one
//! other system call of this crate, [`space_of`], is here for the sake of that rule.
#![expect(
    unsafe_code,
    reason = "prctl, setrlimit, mlockall, umask and statvfs have no safe form in std"
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
    vec![
        wall(
            "undumpable",
            "other processes cannot look into the broker",
            dumpable,
        ),
        wall("no-core-dump", "a crash writes no memory to the disk", core),
        wall("locked-memory", "keys stay in locked memory", lock_memory()),
        wall("no-swap", "memory is not swapped to the disk", swap_is_on()),
    ]
}

/// A wall; `id` is one of [`alephlab_api::broker::WALLS`].
pub(crate) fn wall(id: &str, name: &str, missing: Option<String>) -> Wall {
    Wall {
        id: id.to_owned(),
        name: name.to_owned(),
        missing,
    }
}

/// What the system said, if it refused.
fn done(result: libc::c_int) -> Option<String> {
    (result != 0).then(|| std::io::Error::last_os_error().to_string())
}

/// Keeps all memory of this process off the disk, now and later. Says why not, where that cannot be had.
///
/// All of it, not the keys alone: ciphers keep what they derive from keys where no type of ours reaches. Only where the
/// amount is not limited, because beyond a limit every allocation would fail.
fn lock_memory() -> Option<String> {
    let unlimited = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    let mut limit = unlimited;
    // SAFETY: both limits are valid and live until the calls return. Some may raise their own, others may not.
    let known = unsafe {
        libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited);
        libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit)
    };
    let is_limited = known != 0 || limit.rlim_cur != libc::RLIM_INFINITY;
    if is_limited && !may_lock() {
        let kilobytes = limit.rlim_cur / 1024;
        return Some(format!(
            "this account may lock {kilobytes} KiB, too little for a process"
        ));
    }
    // Pages are locked as they are touched: stacks of threads are mostly empty.
    let flags = libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT;
    // SAFETY: mlockall takes flags and touches no memory of ours.
    done(unsafe { libc::mlockall(flags) })
}

/// Whether the limit does not bind this process: it has `CAP_IPC_LOCK` (14) in the first user namespace, whose number
/// is fixed (`PROC_USER_INIT_INO`); in others the capability has no force.
fn may_lock() -> bool {
    let first =
        std::fs::read_link("/proc/self/ns/user").is_ok_and(|ns| ns.as_os_str() == "user:[4026531837]");
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    first && capabilities(&status, "CapEff:").is_some_and(|held| held & (1 << 14) != 0)
}

/// Whether cells, which run in the process `peer` or beside it, lack root's power to look into this process whatever
/// it does against it: they are not root, or are root of another user namespace only. Says why not.
pub(crate) fn power_of(peer: Option<i32>) -> Option<String> {
    let unknown = |error: &dyn std::fmt::Display| format!("what cells may do cannot be seen: {error}");
    let Some(peer) = peer else {
        return Some(unknown(&"their process is not known"));
    };
    let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/user"));
    let status = std::fs::read_to_string(format!("/proc/{peer}/status"));
    match (namespace("self"), namespace(&peer.to_string()), status) {
        (Ok(own), Ok(theirs), _) if own != theirs => None,
        (Ok(_), Ok(_), Ok(status)) => can_trace(&status)
            .then(|| "cells run as root beside the broker, and root may look into any process".to_owned()),
        (Err(error), ..) | (_, Err(error), _) | (.., Err(error)) => Some(unknown(&error)),
    }
}

/// Whether a process with this `/proc/PID/status` has, or may take, `CAP_SYS_PTRACE` (19, `capabilities(7)`).
fn can_trace(status: &str) -> bool {
    capabilities(status, "CapPrm:").is_none_or(|permitted| permitted & (1 << 19) != 0)
}

/// One of the sets of capabilities in a `/proc/PID/status`.
fn capabilities(status: &str, set: &str) -> Option<u64> {
    let hex = status.lines().find_map(|line| line.strip_prefix(set))?;
    u64::from_str_radix(hex.trim(), 16).ok()
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

/// Opened files that were copied lie in a memory file system, which can be swapped.
fn swap_is_on() -> Option<String> {
    match std::fs::read_to_string("/proc/swaps") {
        Ok(swaps) if swaps.lines().count() > 1 => {
            Some("swap is on, so opened files may reach the disk".to_owned())
        }
        Ok(_) => None,
        Err(error) => Some(format!("whether swap is on cannot be seen: {error}")),
    }
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
        // The other two depend on the machine; a reason is given when they do not stand.
        let locked = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let kilobytes = |name: &str| {
            let line = locked.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.trim_matches([' ', '\t', 'k', 'B']).parse::<u64>().ok())
        };
        if walls[2].missing.is_none() {
            assert!(kilobytes("VmLck:") > Some(0), "{locked}");
        }
    }

    #[test]
    fn root_beside_the_broker_is_a_wall_that_is_missing_and_others_are_none() {
        let root = "Name:\tx\nCapPrm:\t000001ffffffffff\nCapEff:\t0000000000000000\n";
        let nobody = "Name:\tx\nCapPrm:\t0000000000000000\n";
        assert!(can_trace(root) && can_trace("Name:\tx\n") && !can_trace(nobody));
        assert!(power_of(None).is_some_and(|reason| reason.contains("not known")));
        assert!(power_of(Some(i32::MAX)).is_some());
        let own = i32::try_from(std::process::id()).unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        assert_eq!(power_of(Some(own)).is_some(), can_trace(&status));
    }
}
