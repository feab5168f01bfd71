//! A kernel that runs as root gives up its power over other processes, above all over the broker that holds keys.
//!
//! Root may look into any process of its user namespace, whatever that process does against it. So the kernel moves
//! itself, and with it every cell, into a user namespace of its own (`user_namespaces(7)`) in which all accounts are
//! what they were: files stay as they are, and packages can be installed, but what lies in the namespace above cannot
//! be looked into. It is no prison: as the owner of root's files a cell can still change what others start later.
//!
//! Called by `main` before any thread runs, because a process of several threads cannot change its namespace. The
//! broker looks for itself whether it was done and tells it in `mounts()`.
#![expect(unsafe_code, reason = "unshare and geteuid have no safe form in std")]

use std::io::{Error, Read, Result, Write};
use std::process::{Command, Stdio};

/// Moves this process into its own user namespace when it is root. Whoever is not root has no such power to give up.
///
/// # Errors
/// When the system refuses, as some container hosts do.
pub fn give_up_power() -> Result<()> {
    // SAFETY: geteuid takes nothing and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return Ok(());
    }
    // Only a process that stays above may write the new namespace's accounts.
    let mut above = Command::new(std::env::current_exe()?)
        .arg("map-accounts")
        .arg(std::process::id().to_string())
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    // SAFETY: unshare takes flags; CLONE_NEWUSER changes nothing but this process's credentials.
    let moved = match unsafe { libc::unshare(libc::CLONE_NEWUSER) } {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    };
    if let Some(mut input) = above.stdin.take()
        && moved.is_ok()
    {
        input.write_all(b".")?;
    }
    let mapped = above.wait()?;
    moved?;
    if mapped.success() {
        return Ok(());
    }
    // Root of a container may not be allowed to give other accounts away; without any, it would own no file.
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", "0 0 1")?;
    std::fs::write("/proc/self/gid_map", "0 0 1")
}

/// Gives the process `pid`, which has just moved, all accounts that there are here, each as itself. Run above the new
/// namespace by [`give_up_power`].
///
/// # Errors
/// When the other process did not move, or the system refuses.
pub fn map_accounts(pid: u32) -> Result<()> {
    let mut moved = [0; 1];
    std::io::stdin().read_exact(&mut moved)?;
    for map in ["uid_map", "gid_map"] {
        let own = std::fs::read_to_string(format!("/proc/self/{map}"))?;
        std::fs::write(format!("/proc/{pid}/{map}"), each_as_itself(&own))?;
    }
    Ok(())
}

/// The map for a namespace below the one whose map is given: its lines say first account here, first account above,
/// how many.
fn each_as_itself(map: &str) -> String {
    let line = |line: &str| {
        let mut fields = line.split_whitespace();
        let (first, count) = (fields.next()?, fields.nth(1)?);
        Some(format!("{first} {first} {count}\n"))
    };
    map.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_below_are_those_here_whatever_they_are_above() {
        let first = "         0          0 4294967295\n";
        assert_eq!(each_as_itself(first), "0 0 4294967295\n");
        let container = "         0       1000          1\n         1     100000      65536\n";
        assert_eq!(each_as_itself(container), "0 0 1\n1 1 65536\n");
    }
}
