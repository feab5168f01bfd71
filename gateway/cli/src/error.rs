//! The command's one error type: what failed, why, and what to do about it.
//!
//! Library errors become `Library` with their own stable code and hint; nothing here prints.
//! Made by every module of the command, shown once by `main`.

use std::io;
use std::path::{Path, PathBuf};

use alephlab_api::client::ClientError;
use alephlab_api::problem::Problem;

/// What a command answers when it cannot do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// A file or folder could not be used.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// The verb of the failed operation, such as `read`.
        action: &'static str,
        /// What it was tried on.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file was read but its content makes no sense.
    #[error("{} cannot be understood: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The data folder cannot hold data.
    #[error("the data folder {} cannot be written: {source}", path.display())]
    DataFolder {
        /// The folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Another process holds the data folder.
    #[error("the data folder {} is in use by another alephlab (process {pid})", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
        /// The other process, as it wrote itself down.
        pid: String,
    },
    /// A port that was asked for is taken.
    #[error("port {port} on 127.0.0.1 cannot be used: {source}")]
    Port {
        /// The port number.
        port: u16,
        /// The system's answer.
        source: io::Error,
    },
    /// A setting is unknown or has a value that cannot be used.
    #[error("{message}")]
    Setting {
        /// Which setting, where it was found, and what is wrong.
        message: String,
    },
    /// The Rust toolchain or another tool of the machine is missing or is another version.
    #[error("{message}")]
    Toolchain {
        /// What is missing.
        message: String,
        /// How to get it.
        hint: String,
    },
    /// A build that was started here failed.
    #[error("{what} could not be built: {detail}")]
    Build {
        /// What was being built.
        what: &'static str,
        /// The first lines of the compiler's or program's own words.
        detail: String,
    },
    /// A program of ours is missing or stopped when it should not.
    #[error("{program}: {reason}")]
    Program {
        /// Its name.
        program: &'static str,
        /// What happened.
        reason: String,
    },
    /// Nothing listens where a gateway or node was expected, or the connection broke.
    #[error("{url} cannot be reached: {reason}")]
    Unreachable {
        /// The address, without any token.
        url: String,
        /// Why.
        reason: String,
    },
    /// The gateway, broker or keys answered with a refusal.
    #[error("{}", .problem.message)]
    Refused {
        /// Their answer.
        problem: Problem,
    },
    /// One of our libraries failed.
    #[error("{what}: {message}")]
    Library {
        /// What was being done.
        what: &'static str,
        /// The library's stable code.
        code: String,
        /// The library's sentence.
        message: String,
        /// The library's hint.
        hint: Option<String>,
    },
    /// A cell of a notebook failed.
    #[error("cell {number} failed: {ename}: {evalue}")]
    Cell {
        /// Position among the code cells, from 1.
        number: usize,
        /// The error's name.
        ename: String,
        /// The error's value.
        evalue: String,
        /// The whole text, as Jupyter would show it, without colours.
        traceback: String,
    },
    /// A kernel died, or its connection was lost for good.
    #[error("the kernel stopped while {doing}: {reason}")]
    Kernel {
        /// What it was needed for.
        doing: String,
        /// What is known of the cause.
        reason: String,
    },
    /// What was done is complete but its result is not what was promised.
    #[error("{message}")]
    Check {
        /// The promise and the result.
        message: String,
    },
    /// A word on the command line cannot be used.
    #[error("{message}")]
    Usage {
        /// Which, and why.
        message: String,
        /// What to write in its place.
        hint: String,
    },
    /// Nothing of ours runs on this data folder, and it was needed.
    #[error("no running `alephlab up` was found for the data folder {}", path.display())]
    NotRunning {
        /// The folder whose run file was looked for.
        path: PathBuf,
    },
    /// The user stopped the command.
    #[error("stopped while {doing}")]
    Stopped {
        /// What was going on.
        doing: String,
    },
}

/// What every fallible function here returns.
pub(crate) type Result<T> = std::result::Result<T, CliError>;

impl CliError {
    /// Wraps an I/O error with the verb and the path that it belongs to.
    pub(crate) fn file(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::File {
            action,
            path: path.to_path_buf(),
            source,
        }
    }

    /// Wraps an error of the vault.
    pub(crate) fn vault(what: &'static str, error: &alephlab_vault::VaultError) -> Self {
        Self::Library {
            what,
            code: error.code().to_owned(),
            message: error.to_string(),
            hint: error.hint(),
        }
    }

    /// Wraps an error of the local Aleph node or the gateway, which start in this process.
    pub(crate) fn start(what: &'static str, code: &str, message: String, hint: Option<String>) -> Self {
        Self::Library {
            what,
            code: code.to_owned(),
            message,
            hint,
        }
    }

    /// A stable name for scripts and logs.
    pub(crate) fn code(&self) -> &str {
        match self {
            Self::File { .. } => "file",
            Self::Malformed { .. } => "malformed_file",
            Self::DataFolder { .. } => "data_folder",
            Self::Locked { .. } => "data_folder_in_use",
            Self::Port { .. } => "port",
            Self::Setting { .. } => "setting",
            Self::Toolchain { .. } => "toolchain",
            Self::Build { .. } => "build",
            Self::Program { .. } => "program",
            Self::Unreachable { .. } => "unreachable",
            Self::Refused { problem } => &problem.code,
            Self::Library { code, .. } => code,
            Self::Cell { .. } => "cell",
            Self::Kernel { .. } => "kernel",
            Self::Check { .. } => "check",
            Self::Usage { .. } => "usage",
            Self::NotRunning { .. } => "not_running",
            Self::Stopped { .. } => "stopped",
        }
    }

    /// What the user can do, when there is something.
    pub(crate) fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::DataFolder { .. } => "choose a folder that you own with --data DIR".to_owned(),
            Self::Locked { .. } => {
                "stop the other one with Ctrl-C, or choose another folder with --data DIR".to_owned()
            }
            Self::Port { .. } => "choose another one with --port N; --port 0 takes a free one".to_owned(),
            Self::Setting { .. } => "`alephlab config show` lists every setting and its source".to_owned(),
            Self::Toolchain { hint, .. } | Self::Usage { hint, .. } => hint.clone(),
            Self::Build { .. } | Self::Program { .. } => {
                "`alephlab doctor` says what is missing on this machine".to_owned()
            }
            Self::NotRunning { .. } => {
                "start it with `alephlab up`, or name a gateway with --gateway".to_owned()
            }
            Self::Refused { problem } => return problem.hint.clone(),
            Self::Library { hint, .. } => return hint.clone(),
            Self::Stopped { .. } => "nothing was lost: the same command goes on from here".to_owned(),
            Self::File { .. }
            | Self::Malformed { .. }
            | Self::Unreachable { .. }
            | Self::Cell { .. }
            | Self::Kernel { .. }
            | Self::Check { .. } => return None,
        };
        Some(hint)
    }

    /// The process's exit status: 130 after Ctrl-C as shells do it, 2 for the command line, else 1.
    pub(crate) fn exit_status(&self) -> u8 {
        match self {
            Self::Stopped { .. } => 130,
            Self::Usage { .. } | Self::Setting { .. } => 2,
            _ => 1,
        }
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        Self::Refused {
            problem: error.to_problem(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_has_the_shells_exit_status() {
        assert_eq!(
            CliError::Stopped {
                doing: "building".into()
            }
            .exit_status(),
            130
        );
    }

    #[test]
    fn a_refusal_keeps_the_words_of_who_refused() {
        let problem = Problem {
            code: "keys_offline".into(),
            message: "no keys".into(),
            hint: Some("start it".into()),
        };
        let error = CliError::Refused { problem };
        assert_eq!(
            (error.to_string().as_str(), error.code(), error.hint().as_deref()),
            ("no keys", "keys_offline", Some("start it"))
        );
    }
}
