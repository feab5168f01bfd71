//! Asking the owner's machine through the gateway.

use std::time::Duration;

use alephlab_api::broker::Wall;
use alephlab_api::keys::{Ask, KeyReply, KeyRequest};
use alephlab_vault::{ReaderKey, fingerprint};

use crate::report::Report;
use crate::{Broker, BrokerError, Result};

/// A machine with a saved rule answers sooner than this; only then is the person told to act.
const NOTICE_AFTER: Duration = Duration::from_millis(1500);

impl Broker {
    /// Asks and waits, at most five minutes. A refusal is an error here.
    pub(crate) async fn ask(&self, ask: Ask, report: &Report) -> Result<KeyReply> {
        self.ask_with(&ReaderKey::generate()?, Vec::new(), ask, report)
            .await
    }

    /// [`Broker::ask`] for something that is sealed to `kernel_key`. Every request has a key of its own, so that no
    /// answer to one can be passed off as the answer to another, or be kept back and used later.
    pub(crate) async fn ask_with(
        &self,
        kernel_key: &ReaderKey,
        walls: Vec<Wall>,
        ask: Ask,
        report: &Report,
    ) -> Result<KeyReply> {
        let request = KeyRequest {
            kernel_key: kernel_key.public().to_hex(),
            walls,
            ask,
        };
        let call = self.gateway.ask_keys(&request);
        tokio::pin!(call);
        let reply = tokio::select! {
            reply = &mut call => reply,
            () = tokio::time::sleep(NOTICE_AFTER), if request.ask.is_question() => {
                report.waiting(&notice(&request.kernel_key)).await;
                call.await
            }
        };
        match reply? {
            KeyReply::Refused { problem } => Err(BrokerError::Refused { problem }),
            reply => Ok(reply),
        }
    }
}

/// What the person is told: what to do, and the key to compare with the one that `alephlab keys` shows. A gateway that had put
/// its own in the place of this kernel's would be seen by that.
fn notice(kernel_key: &str) -> String {
    format!(
        "approve on your machine: alephlab keys (key {})",
        fingerprint(kernel_key)
    )
}

/// The error for a reply of another kind.
pub(crate) fn unfit(question: &str) -> BrokerError {
    BrokerError::Answer {
        reason: format!("the owner's machine answered something else to {question}"),
    }
}
