//! Makes this process harder to look into: no core dumps, no attaching by other processes of the same account, and
//! new files for its owner only. Unsafe code of this crate is here and nowhere else.
//!
//! It does not stop root, and not whoever owns the machine: nothing in software does. Called first by `main`.
#![expect(unsafe_code, reason = "prctl, setrlimit and umask have no safe form in std")]

/// Hardens this process and answers what could not be done, one sentence each, for the log.
pub fn harden() -> Vec<String> {
    let mut missing = Vec::new();
    // SAFETY: PR_SET_DUMPABLE takes one integer and touches no memory of ours.
    if unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) } != 0 {
        missing.push(format!(
            "other processes may look into this one: {}",
            std::io::Error::last_os_error()
        ));
    }
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `none` is a valid rlimit that lives until the call returns.
    if unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) } != 0 {
        missing.push(format!(
            "a crash may write memory to the disk: {}",
            std::io::Error::last_os_error()
        ));
    }
    // SAFETY: umask takes one integer and cannot fail.
    unsafe { libc::umask(0o077) };
    if swap_is_on() {
        missing.push("swap is on, so keys and opened files may reach the disk".to_owned());
    }
    missing
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
        let missing = harden();
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
        assert!(
            missing.iter().all(|reason| !reason.contains("may look into")),
            "{missing:?}"
        );
    }
}
