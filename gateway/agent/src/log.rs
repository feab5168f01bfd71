//! The agent's log file: what it and its brokers have to say goes there, not to the terminal of whoever runs the gateway.
//!
//! Brokers inherit the agent's standard error, so that is what is put into the file, by starting this program once more
//! in its own place: process, standard input and arguments stay what they are. Used by `main` alone.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names the file. Gone from the environment after the start over, so that no kernel inherits it.
const VARIABLE: &str = "ALEPHLAB_AGENT_LOG";
/// A file above this is set aside as `.1`, of which one is kept.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// Starts over with standard error in the log file. Returns when no file is named, or when that cannot be done: kernels
/// matter more than a log.
pub(crate) fn start_over() {
    let Some(path) = std::env::var_os(VARIABLE).map(PathBuf::from) else {
        return;
    };
    let error = match std::env::current_exe().and_then(|program| logging(Command::new(program), &path)) {
        Ok(mut command) => command.args(std::env::args_os().skip(1)).exec(),
        Err(error) => error,
    };
    let text = format!("the agent cannot log to {}: {error}\n", path.display());
    let _ = io::Write::write_all(&mut io::stderr(), text.as_bytes());
}

/// The command with its standard error appended to the file.
fn logging(mut command: Command, path: &Path) -> io::Result<Command> {
    command.env_remove(VARIABLE).stderr(open(path)?);
    Ok(command)
}

/// Opens the file for its owner alone; a large one is set aside first.
fn open(path: &Path) -> io::Result<File> {
    if std::fs::metadata(path).is_ok_and(|meta| meta.len() > FILE_BYTES_MAX) {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".1");
        std::fs::rename(path, aside)?;
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn says(path: &Path, words: &str) {
        let mut shell = Command::new("sh");
        // As a broker would: a grandchild that inherits the agent's standard error.
        shell.args(["-c", "sh -c 'echo \"$0$ALEPHLAB_AGENT_LOG\" >&2' \"$0\"", words]);
        shell.env(VARIABLE, "named");
        let status = logging(shell, path).unwrap().status().unwrap();
        assert!(status.success());
    }

    #[test]
    fn words_of_all_children_are_appended_to_a_private_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.log");
        says(&path, "one");
        says(&path, "two");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn a_large_file_is_set_aside_and_a_small_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.log");
        let full = File::create(&path).unwrap();
        full.set_len(FILE_BYTES_MAX + 1).unwrap();
        says(&path, "new");
        says(&path, "er");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new\ner\n");
        let aside = std::fs::metadata(folder.path().join("agent.log.1")).unwrap();
        assert_eq!(aside.len(), FILE_BYTES_MAX + 1);
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(logging(Command::new("true"), &folder.path().join("none/agent.log")).is_err());
    }
}
