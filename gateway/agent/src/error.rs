//! What can go wrong in the agent itself; what goes wrong with one kernel is that kernel's state.

use std::path::PathBuf;

/// Why the agent ended or one kernel could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// A file or folder could not be made, read or removed.
    #[error("{what} at {} failed: {source}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The bootstrap file is not one.
    #[error("the bootstrap file {} cannot be used: {reason}", path.display())]
    Bootstrap {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The address is not one of a gateway.
    #[error("`{address}` is not the address of a gateway")]
    Address {
        /// What was given.
        address: String,
    },
    /// The gateway's certificate cannot be used.
    #[error("the gateway's certificate cannot be used: {reason}")]
    Certificate {
        /// Why.
        reason: String,
    },
    /// A lease was not taken.
    #[error("the lease was not taken: {reason}")]
    Lease {
        /// Why.
        reason: String,
    },
    /// The gateway does not know this lease.
    #[error("the gateway refused this lease: {reason}")]
    Refused {
        /// Its words.
        reason: String,
    },
    /// No gateway for too long.
    #[error("the gateway did not answer for {seconds} s: {reason}")]
    GatewayGone {
        /// How long.
        seconds: u64,
        /// Why the last try failed.
        reason: String,
    },
    /// A program could not be started.
    #[error("{program} could not be started: {source}")]
    Spawn {
        /// Which program.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// A terminal could not be had from the system.
    #[error("the system gave no terminal: {source}")]
    Terminal {
        /// Why.
        source: std::io::Error,
    },
    /// A sandbox is demanded, and there is none.
    #[error(
        "kernels are to run in sandboxes of bubblewrap only (isolation.sandbox), and here they cannot: {reason}"
    )]
    Isolation {
        /// Why.
        reason: String,
    },
    /// A kernel was asked for in a way that cannot be had here.
    #[error("this kernel cannot be started as it was asked for: {reason}")]
    Asked {
        /// Why.
        reason: String,
    },
    /// The broker did not say that it is ready.
    #[error("the broker did not become ready: {reason}")]
    Broker {
        /// Why.
        reason: String,
    },
    /// The kernel ended before it answered.
    #[error("the kernel ended before it answered: {reason}")]
    KernelEnded {
        /// Exit status and last words.
        reason: String,
    },
    /// The kernel runs but does not answer.
    #[error("the kernel did not answer within {seconds} s")]
    KernelSilent {
        /// How long was waited.
        seconds: u64,
    },
    /// A socket of the kernel failed.
    #[error("the kernel's {channel} socket failed: {reason}")]
    Socket {
        /// Which one.
        channel: &'static str,
        /// Why.
        reason: String,
    },
    /// A message of the kernel is not one.
    #[error("a message on {channel} was refused: {reason}")]
    Message {
        /// Where it came from.
        channel: &'static str,
        /// Why.
        reason: &'static str,
    },
}

impl AgentError {
    /// Stable name of the kind of error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::File { .. } => "agent_file",
            Self::Bootstrap { .. } => "agent_bootstrap",
            Self::Address { .. } => "agent_address",
            Self::Certificate { .. } => "agent_certificate",
            Self::Lease { .. } => "agent_lease",
            Self::Refused { .. } => "agent_refused",
            Self::GatewayGone { .. } => "agent_gateway_gone",
            Self::Spawn { .. } => "agent_spawn",
            Self::Terminal { .. } => "agent_terminal",
            Self::Isolation { .. } => "agent_isolation",
            Self::Asked { .. } => "kernel_asked",
            Self::Broker { .. } => "agent_broker",
            Self::KernelEnded { .. } => "kernel_ended",
            Self::KernelSilent { .. } => "kernel_silent",
            Self::Socket { .. } => "kernel_socket",
            Self::Message { .. } => "kernel_message",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Spawn { .. } | Self::KernelEnded { .. } => Some("run: alephlab doctor".to_owned()),
            Self::Bootstrap { .. } | Self::Refused { .. } => {
                Some("the gateway starts its agent by itself; start the gateway instead".to_owned())
            }
            Self::Isolation { .. } => Some(
                "install bubblewrap and allow user namespaces on that machine, or set isolation.sandbox = \"auto\"".to_owned(),
            ),
            Self::KernelSilent { .. } => Some("the machine may be overloaded; start it again".to_owned()),
            _ => None,
        }
    }

    /// Message and hint in one line, for a kernel's `detail` and the program's last words.
    pub fn line(&self) -> String {
        match self.hint() {
            Some(hint) => format!("{self} ({hint})"),
            None => self.to_string(),
        }
    }
}

pub(crate) type Result<T, E = AgentError> = std::result::Result<T, E>;
