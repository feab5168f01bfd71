//! A kernel that runs as root gives up its power over other processes, above all over the broker that holds keys.
//!
//! Root may look into any process of its user namespace, whatever that process does against it. So the kernel moves
//! itself, and with it every cell, into a user namespace of its own (`user_namespaces(7)`) in which all accounts are
//! what they were: files stay as they are, and packages can be installed, but what lies in the namespace above cannot
//! be looked into. It is no prison: as the owner of root's files a cell can still change what others start later.
//!
//! Called by `main` before any thread runs, because a process of several threads cannot change its namespace. The
//! broker looks for itself whether it was done and tells it in `mounts()`.
#![expect(unsafe_code, reason = "unshare has no safe form in std")]

use std::io::{Error, Read, Result, Write};
use std::process::{Child, Command, Stdio};

/// `CAP_SYS_PTRACE`, the power that is given up (`capabilities(7)`).
const TRACE: u64 = 1 << 19;
/// What setting the accounts of a namespace takes: `CAP_SETGID`, `CAP_SETUID`, and for root's own `CAP_SETFCAP`.
const GIVE_ACCOUNTS: u64 = 1 << 6 | 1 << 7 | 1 << 31;

/// Moves this process into its own user namespace when it has root's power over other processes; whoever has none has nothing
/// to give up. Answers why not where the system refuses, as some container hosts do: then nothing has changed.
///
/// # Errors
/// When it moved and could not be given its accounts: it owns no file then, and must end.
pub fn give_up_power() -> Result<Option<Error>> {
    let held = capabilities(&std::fs::read_to_string("/proc/self/status").unwrap_or_default());
    if held & TRACE == 0 {
        return Ok(None);
    }
    if held & GIVE_ACCOUNTS != GIVE_ACCOUNTS {
        return Ok(Some(Error::other(
            "this root may not set the accounts of a user namespace",
        )));
    }
    let mut above = match stay_above() {
        Ok(above) => above,
        Err(error) => return Ok(Some(error)),
    };
    // SAFETY: unshare takes flags; CLONE_NEWUSER changes nothing but this process's credentials.
    let refused = (unsafe { libc::unshare(libc::CLONE_NEWUSER) } != 0).then(Error::last_os_error);
    if let Some(mut input) = above.stdin.take()
        && refused.is_none()
    {
        // Should it have ended early, its status says so.
        let _ = input.write_all(b".");
    }
    let mapped = above.wait()?;
    if mapped.success() || refused.is_some() {
        return Ok(refused);
    }
    Err(Error::other(
        "the accounts of its user namespace could not be set",
    ))
}

/// The permitted capabilities in a `/proc/PID/status`, one bit each.
fn capabilities(status: &str) -> u64 {
    let hex = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
    hex.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0)
}

/// Starts the process that will write this one's accounts once it has moved: only one that stays above may.
fn stay_above() -> Result<Child> {
    Command::new(std::env::current_exe()?)
        .arg("map-accounts")
        .arg(std::process::id().to_string())
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
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
    fn power_is_read_from_what_is_permitted() {
        let status = "Name:\tx\nCapInh:\t0000000000000000\nCapPrm:\t000001ffffffffff\n";
        assert_eq!(capabilities(status) & TRACE, TRACE);
        assert_eq!(capabilities(status) & GIVE_ACCOUNTS, GIVE_ACCOUNTS);
        assert_eq!(capabilities("CapPrm:\t0000000000080000\n"), TRACE);
        assert_eq!(capabilities("Name:\tx\n"), 0);
    }

    #[test]
    fn accounts_below_are_those_here_whatever_they_are_above() {
        let first = "         0          0 4294967295\n";
        assert_eq!(each_as_itself(first), "0 0 4294967295\n");
        let container = "         0       1000          1\n         1     100000      65536\n";
        assert_eq!(each_as_itself(container), "0 0 1\n1 1 65536\n");
    }
}
