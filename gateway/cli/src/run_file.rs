//! `run.json`: how other commands of the same user find a running `up` or `quickstart`.
//!
//! It holds the gateway's token, so it is 0600 and removed at the end. A file left behind by a killed process is
//! noticed by its process id and counts as absent; the next `up` takes addresses and token from it, so that kernels which go
//! on, their clients and open pages find the gateway where it was.

use std::path::PathBuf;

use alephlab_api::agent::BOOT_ID;
use serde::{Deserialize, Serialize};

use crate::data::{self, DataFolder};
use crate::error::Result;

/// What a running `up` says about itself. No `Debug`: it carries the token.
#[derive(Clone, Deserialize, Serialize)]
pub(crate) struct RunFile {
    /// Process id.
    pub pid: u32,
    /// Where the gateway listens.
    pub gateway_url: String,
    /// The Aleph node in use.
    pub aleph_url: String,
    /// The operator's token at the gateway.
    pub token: String,
    /// Name of the account that operates it.
    pub account: String,
    /// The runtime template that its kernels use.
    pub runtime_dir: PathBuf,
    /// Unix seconds.
    pub started: i64,
    /// What tells the machine that its kernels run on from others, where it can be told.
    #[serde(default)]
    pub host: Option<String>,
    /// The machine and its present run: the folder may be one that several share.
    #[serde(default)]
    pub boot: String,
}

/// This machine and its present run.
pub(crate) fn this_boot() -> String {
    let boot = std::fs::read_to_string(BOOT_ID).unwrap_or_default();
    boot.trim().to_owned()
}

/// Reads the file of a process that is still alive.
pub(crate) fn find(data: &DataFolder) -> Result<Option<RunFile>> {
    let found: Option<RunFile> = data::read_json(&data.run_file())?;
    Ok(found.filter(|run| run.boot == this_boot() && is_alive(run.pid)))
}

/// Reads the file that was left behind, for whoever holds the folder's lock: its process is gone. Who has its id now, here or
/// on another machine that shares the folder, says nothing.
pub(crate) fn left_behind(data: &DataFolder) -> Result<Option<RunFile>> {
    data::read_json(&data.run_file())
}

/// Written while the services run, removed when dropped.
pub(crate) struct Announced {
    path: PathBuf,
    pid: u32,
    started: i64,
    keep: bool,
}

impl Announced {
    /// Leaves the file to the next run.
    pub(crate) fn leave_behind(&mut self) {
        self.keep = true;
    }
}

/// Writes the file.
pub(crate) fn announce(data: &DataFolder, run: &RunFile) -> Result<Announced> {
    let path = data.run_file();
    data::write_json(&path, run)?;
    Ok(Announced {
        path,
        pid: run.pid,
        started: run.started,
        keep: false,
    })
}

impl Drop for Announced {
    fn drop(&mut self) {
        // One that has taken over in the meantime has written its own.
        let found = data::read_json::<RunFile>(&self.path).ok().flatten();
        let is_own = found.is_some_and(|run| (run.pid, run.started) == (self.pid, self.started));
        if self.keep || !is_own {
            return;
        }
        // A file that cannot be removed is recognised later by its dead process id.
        drop(std::fs::remove_file(&self.path));
    }
}

/// Whether a process with this id exists.
pub(crate) fn is_alive(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else {
        return false;
    };
    rustix::process::test_kill_process(pid).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::scratch;

    fn sample(pid: u32) -> RunFile {
        RunFile {
            pid,
            gateway_url: "http://127.0.0.1:1".into(),
            aleph_url: "http://127.0.0.1:2".into(),
            token: "t".into(),
            account: "owner".into(),
            runtime_dir: PathBuf::from("/r"),
            started: 0,
            boot: this_boot(),
            host: None,
        }
    }

    #[test]
    fn a_living_process_is_found_until_it_ends() {
        let folder = scratch();
        let data = DataFolder::open(folder.path()).unwrap();
        let announced = announce(&data, &sample(std::process::id())).unwrap();
        assert_eq!(find(&data).unwrap().map(|run| run.token), Some("t".to_owned()));
        drop(announced);
        assert!(find(&data).unwrap().is_none());
    }

    #[test]
    fn what_was_left_behind_is_for_the_next_run() {
        let folder = scratch();
        let data = DataFolder::open(folder.path()).unwrap();
        assert!(left_behind(&data).unwrap().is_none());
        // Its id may be another process's by now.
        let mut announced = announce(&data, &sample(std::process::id())).unwrap();
        announced.leave_behind();
        drop(announced);
        assert_eq!(
            left_behind(&data).unwrap().map(|run| run.token),
            Some("t".to_owned())
        );
    }

    #[test]
    fn a_dead_process_counts_as_absent() {
        let folder = scratch();
        let data = DataFolder::open(folder.path()).unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let _announced = announce(&data, &sample(child.id())).unwrap();
        assert!(find(&data).unwrap().is_none());
    }
}
