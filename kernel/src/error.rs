//! What can go wrong around the kernel itself. Errors of cells are [`crate::evaluator::CellError`].

use std::path::PathBuf;

/// Result of a kernel operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the kernel cannot start, serve or build its template.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The connection file cannot be read.
    #[error("the connection file {path} cannot be read: {source}", path = path.display())]
    ConnectionFile {
        /// Which file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The connection file is not what Jupyter writes.
    #[error("the connection file {path} is not understood: {message}", path = path.display())]
    ConnectionMalformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A socket cannot be opened, most often because its port is taken.
    #[error("the {channel} channel cannot listen on {address}: {message}")]
    Bind {
        /// Which channel.
        channel: &'static str,
        /// Where.
        address: String,
        /// What the operating system said.
        message: String,
    },
    /// A file or folder cannot be used.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A program cannot be started or failed.
    #[error("{program} failed: {message}")]
    Program {
        /// Which program.
        program: String,
        /// What it said.
        message: String,
    },
    /// The runtime template is missing, unfinished or of another build.
    #[error("the runtime in {path} cannot be used: {message}", path = path.display())]
    Template {
        /// Which template.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The evaluator cannot start.
    #[error("the evaluator cannot start: {message}")]
    Evaluator {
        /// What it said.
        message: String,
    },
    /// The child cannot start.
    #[error("the child cannot start: {message}")]
    Child {
        /// What happened.
        message: String,
    },
}

impl Error {
    pub(crate) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }

    /// Stable machine-readable name of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::ConnectionFile { .. } => "connection_file",
            Self::ConnectionMalformed { .. } => "connection_malformed",
            Self::Bind { .. } => "bind",
            Self::File { .. } => "file",
            Self::Program { .. } => "program",
            Self::Template { .. } => "template",
            Self::Evaluator { .. } => "evaluator",
            Self::Child { .. } => "child",
        }
    }

    /// What the reader can do about it, where there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Bind { .. } => Some("start the kernel again, the client picks other ports".into()),
            Self::Template { .. } => Some(
                "run `alephlab quickstart` to build it, or `alephlab doctor` to see what is missing".into(),
            ),
            Self::Evaluator { .. } | Self::Program { .. } => Some("run `alephlab doctor`".into()),
            Self::ConnectionFile { .. }
            | Self::ConnectionMalformed { .. }
            | Self::File { .. }
            | Self::Child { .. } => None,
        }
    }
}
