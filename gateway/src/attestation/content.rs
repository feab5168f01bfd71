//! What a machine's message on Aleph allows one to say of its host, and what its evidence is checked against.

use std::fmt;

use aleph_types::message::execution::environment::TeeMode;
use aleph_types::message::{InstanceContent, VerifiableProgramContent};

use super::Policy;
use super::error::{AttestError, Result};

/// Who could read what is opened on a machine. It is what the message asks for: only [`super::verify`] shows that it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrustLine {
    /// Its host.
    HostReads,
    /// Not its host, once it is verified.
    Measured {
        /// Whether it has GPUs in confidential mode.
        gpu: bool,
    },
}

impl fmt::Display for TrustLine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::HostReads => "Rented host: its operator could read this data",
            Self::Measured { gpu: false } => "Measured VM: its operator cannot read this data, within side channels",
            Self::Measured { gpu: true } => {
                "Measured VM with a confidential GPU: its operator cannot read this data, within side channels"
            }
        })
    }
}

/// The content of a message that asks for a machine.
#[derive(Clone, Debug)]
pub enum Content {
    /// A VM with a disk of its own.
    Instance(Box<InstanceContent>),
    /// A VM all of whose programs are measured.
    Program(Box<VerifiableProgramContent>),
}

impl Content {
    /// Reads the JSON of an INSTANCE or a V-PROGRAM; which of them is seen from its `verification`.
    ///
    /// # Errors
    /// [`AttestError::Content`].
    pub fn read(json: &[u8]) -> Result<Self> {
        let malformed = |error: serde_json::Error| AttestError::Content {
            reason: error.to_string(),
        };
        let value: serde_json::Value = serde_json::from_slice(json).map_err(malformed)?;
        if value.get("verification").is_some() {
            serde_json::from_value(value)
                .map(|content| Self::Program(Box::new(content)))
                .map_err(malformed)
        } else {
            serde_json::from_value(value)
                .map(|content| Self::Instance(Box::new(content)))
                .map_err(malformed)
        }
    }

    /// The line that may be shown for it, and that rules are held against.
    ///
    /// # Errors
    /// [`AttestError::PlainGpu`]: such a machine is neither rented nor shown.
    pub fn trust_line(&self) -> Result<TrustLine> {
        match self {
            Self::Program(content) => Ok(TrustLine::Measured {
                gpu: content.gpu.is_some(),
            }),
            Self::Instance(content) => {
                let execution = content.environment.trusted_execution.as_ref();
                // Plain SEV does not keep memory whole, and TDX has no verifier here.
                let Some(snp) = execution.filter(|execution| execution.mode == Some(TeeMode::SevSnp)) else {
                    return Ok(TrustLine::HostReads);
                };
                let requirements = content.base.requirements.as_ref();
                let plain = requirements.and_then(|requirements| requirements.gpu.as_ref());
                if plain.is_some_and(|gpus| !gpus.is_empty()) {
                    return Err(AttestError::PlainGpu);
                }
                Ok(TrustLine::Measured {
                    gpu: snp.gpu.is_some(),
                })
            }
        }
    }

    /// What its evidence is checked against.
    ///
    /// # Errors
    /// [`AttestError::PlainGpu`], or [`AttestError::NotMeasured`].
    pub fn policy(&self, now: u64) -> Result<Policy> {
        if self.trust_line()? == TrustLine::HostReads {
            return Err(AttestError::NotMeasured {
                reason: "its message asks for no measured VM",
            });
        }
        match self {
            Self::Program(content) => {
                let pinned = &content.verification;
                Policy::pinned(&pinned.measurements, pinned.policy, now)
            }
            Self::Instance(content) => {
                let execution = content.environment.trusted_execution.as_ref();
                let pinned = execution
                    .and_then(|execution| Some((execution.measurements.as_deref()?, execution.policy)));
                let (measurements, policy) = pinned.ok_or(AttestError::NotMeasured {
                    reason: "its message pins no measurement",
                })?;
                Policy::pinned(measurements, policy, now)
            }
        }
    }
}
