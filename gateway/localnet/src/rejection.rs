//! Why a message is refused: the network's error codes (reference, section 5) and their details.
//!
//! Used by everything that judges a message; `http` shows code and details.

use serde_json::{Value, json};

use crate::error::Error;

/// Error codes of the network for the message types that this node takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorCode {
    Format = 0,
    Signature = 1,
    Permission = 2,
    ContentUnavailable = 3,
    FileUnavailable = 4,
    Balance = 5,
    Credits = 6,
    AmendWithoutTarget = 100,
    AmendTargetMissing = 101,
    AmendOfAmend = 102,
    StoreRefMissing = 200,
    StoreUpdateOfUpdate = 201,
    PaymentMethod = 202,
    MachineRefMissing = 300,
    VolumeMissing = 301,
    MachineAmendNotAllowed = 302,
    MachineUpdateOfUpdate = 303,
    VolumeTooSmall = 304,
    ForgetWithoutTarget = 500,
    ForgetTargetMissing = 501,
    ForgetOfForget = 502,
    ForgetNotAllowed = 503,
    ForgottenDuplicate = 504,
}

impl ErrorCode {
    /// Number on the wire.
    pub(crate) fn number(self) -> i64 {
        self as i64
    }

    /// Whether the thing that is missing may still arrive, so that the message stays pending.
    pub(crate) fn may_resolve(self) -> bool {
        matches!(
            self,
            Self::ContentUnavailable
                | Self::FileUnavailable
                | Self::AmendTargetMissing
                | Self::StoreRefMissing
                | Self::MachineRefMissing
                | Self::VolumeMissing
                | Self::ForgetTargetMissing
        )
    }
}

/// A refusal.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rejection {
    /// Number on the wire: an [`ErrorCode`], or whatever a fault switch asked for.
    pub(crate) code: i64,
    /// Entries of `details.errors`.
    pub(crate) errors: Vec<Value>,
    /// See [`ErrorCode::may_resolve`].
    pub(crate) may_resolve: bool,
}

impl Rejection {
    pub(crate) fn new(code: ErrorCode, reason: impl Into<String>) -> Self {
        Self::with(code, Value::String(reason.into()))
    }

    pub(crate) fn with(code: ErrorCode, error: Value) -> Self {
        Self {
            code: code.number(),
            errors: vec![error],
            may_resolve: code.may_resolve(),
        }
    }

    pub(crate) fn format(reason: impl Into<String>) -> Self {
        Self::new(ErrorCode::Format, reason)
    }

    pub(crate) fn details(&self) -> Value {
        json!({ "errors": self.errors })
    }
}

/// Why judging a message ended early.
#[derive(Debug)]
pub(crate) enum Halt {
    /// The message is at fault.
    Reject(Rejection),
    /// The node is at fault; nothing is decided about the message.
    Broken(Error),
}

impl From<Rejection> for Halt {
    fn from(rejection: Rejection) -> Self {
        Self::Reject(rejection)
    }
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Broken(error)
    }
}

impl From<sqlx::Error> for Halt {
    fn from(error: sqlx::Error) -> Self {
        Self::Broken(error.into())
    }
}

/// Result of a step of judging.
pub(crate) type Judged<T> = std::result::Result<T, Halt>;
