//! The runtime's one error type. What cells see in a traceback is its message, then its hint.

use std::path::{Path, PathBuf};

use alephlab_api::Problem;

/// Result of every call in this library.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The link to the kernel failed.
    #[error("{source}")]
    Link {
        /// What happened to it.
        #[from]
        source: alephlab_link::Error,
    },
    /// A file could not be read or written.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A CSV file that is not a table of numbers.
    #[error("{path} is not a table of numbers: line {line}: {reason}", path = path.display())]
    Csv {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// Rows, labels or settings of a training that do not fit together.
    #[error("{reason}")]
    Data {
        /// What does not fit.
        reason: String,
    },
    /// A checkpoint of a training that cannot be gone on from.
    #[error("the training cannot go on from {path}: {reason}", path = path.display())]
    Checkpoint {
        /// Which checkpoint.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A picture that cannot be drawn.
    #[error("the picture cannot be drawn: {reason}")]
    Plot {
        /// Why.
        reason: String,
    },
    /// candle refused a calculation or a file of tensors.
    #[error("{source}")]
    Tensor {
        /// candle's own error.
        #[from]
        source: candle_core::Error,
    },
    /// A GPU that cannot be used.
    #[error("{source}")]
    Gpu {
        /// Why not.
        #[from]
        source: crate::device::Absence,
    },
    /// A GPU failed while it calculated; it can be used further.
    #[error("the GPU failed: {what}")]
    GpuFailed {
        /// In the driver's words.
        what: String,
    },
    /// A GPU without memory for a calculation.
    #[error("the GPU has no memory left: {state}")]
    GpuMemory {
        /// How much is free, and who has the rest.
        state: String,
    },
    /// A name or path that cannot be used.
    #[error("`{name}` cannot be used: {reason}")]
    Name {
        /// What was given.
        name: String,
        /// Why not.
        reason: String,
    },
    /// A kernel without a broker.
    #[error(
        "datasets, models and secrets need a broker, and none runs beside this kernel; start `alephlab up`, then this \
         kernel again"
    )]
    NoBroker,
    /// The broker ended or said something that is not in the contract.
    #[error("the broker beside this kernel failed: {reason}; restart the kernel")]
    BrokerGone {
        /// What happened.
        reason: String,
    },
    /// The broker's own answer.
    #[error("{problem}")]
    Broker {
        /// In its own words.
        problem: Problem,
    },
    /// `input` where nobody can answer.
    #[error("this cell asked for input, but nobody can answer here")]
    NoInput,
}

impl Error {
    pub(crate) fn file(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::File {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// Stable machine-readable name of this error.
    pub fn code(&self) -> &str {
        match self {
            Self::Link { source } => source.code(),
            Self::File { .. } => "file",
            Self::Csv { .. } => "csv",
            Self::Data { .. } => "data",
            Self::Checkpoint { .. } => "checkpoint",
            Self::Plot { .. } => "plot",
            Self::Tensor { .. } => "tensor",
            Self::Gpu { source } => source.code(),
            Self::GpuFailed { .. } => "gpu_failed",
            Self::GpuMemory { .. } => "gpu_memory",
            Self::Name { .. } => "name",
            Self::NoBroker => "no_broker",
            Self::BrokerGone { .. } => "broker_gone",
            Self::Broker { problem } => &problem.code,
            Self::NoInput => "no_input",
        }
    }

    /// What the reader can do about it, where there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Link { source } => source.hint(),
            Self::Broker { problem } => problem.hint.clone(),
            Self::Gpu { source } => Some(source.hint()),
            Self::GpuMemory { .. } => {
                Some("drop variables, or take smaller batches or bf16 in place of f32".into())
            }
            Self::File { .. }
            | Self::Csv { .. }
            | Self::Data { .. }
            | Self::Plot { .. }
            | Self::GpuFailed { .. }
            | Self::Tensor { .. }
            | Self::Name { .. }
            | Self::NoBroker
            | Self::BrokerGone { .. } => None,
            Self::Checkpoint { .. } => {
                Some("train as that run was set to, or name another folder to begin anew".into())
            }
            Self::NoInput => {
                Some("run the notebook in a client that can ask, or set the value in the cell".into())
            }
        }
    }
}
