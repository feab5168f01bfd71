//! Section `receipts`: how often their root is posted on Aleph.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::values::seconds;

/// Section `receipts`.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Receipts {
    /// Between two messages.
    #[serde(default = "often", deserialize_with = "seconds")]
    pub post_seconds: u32,
}

impl Default for Receipts {
    fn default() -> Self {
        Self {
            post_seconds: often(),
        }
    }
}

impl Receipts {
    /// How often; none for never.
    pub(crate) fn post_every(&self) -> Option<Duration> {
        (self.post_seconds > 0).then(|| Duration::from_secs(u64::from(self.post_seconds)))
    }
}

fn often() -> u32 {
    600
}
