//! The one error body of every HTTP answer, link event and command message.
//!
//! Not an error enum: each library has its own and turns it into a [`Problem`] at the edge.

use std::fmt;

use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What went wrong, in words for a person and a code for a program.
///
/// Its JSON also carries `reason`, equal to `message`, because Jupyter's clients show that key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Stable `snake_case` name of the kind of problem.
    pub code: String,
    /// One lower-case sentence: what happened and why.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Problem {
    /// A problem without a hint.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            hint: None,
        }
    }

    /// The same problem with a hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.hint {
            Some(hint) => write!(f, "{} ({hint})", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for Problem {}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut body = serializer.serialize_struct("Problem", 3 + usize::from(self.hint.is_some()))?;
        body.serialize_field("code", &self.code)?;
        body.serialize_field("message", &self.message)?;
        body.serialize_field("reason", &self.message)?;
        match &self.hint {
            Some(hint) => body.serialize_field("hint", hint)?,
            None => body.skip_field("hint")?,
        }
        body.end()
    }
}

impl<'de> Deserialize<'de> for Problem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Body {
            #[serde(default)]
            code: Option<String>,
            #[serde(default)]
            message: Option<String>,
            #[serde(default)]
            reason: Option<String>,
            #[serde(default)]
            hint: Option<String>,
        }
        let body = Body::deserialize(deserializer)?;
        let message = body
            .message
            .or(body.reason)
            .ok_or_else(|| serde::de::Error::missing_field("message"))?;
        Ok(Self {
            code: body.code.unwrap_or_else(|| "unknown".to_owned()),
            message,
            hint: body.hint,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carries_reason_for_jupyter_clients() {
        let problem = Problem::new("kernel_unknown", "no such kernel").with_hint("list the kernels");
        let json = serde_json::to_value(&problem).unwrap();
        assert_eq!(json["reason"], "no such kernel");
        assert_eq!(serde_json::from_value::<Problem>(json).unwrap(), problem);
    }

    #[test]
    fn reads_a_foreign_error_body() {
        let problem: Problem = serde_json::from_str(r#"{"reason":"gone"}"#).unwrap();
        assert_eq!(problem.message, "gone");
        assert!(serde_json::from_str::<Problem>(r#"{"detail":1}"#).is_err());
    }
}
