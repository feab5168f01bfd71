//! Credits that the renting account sends to others: a POST that moves them when the network takes it.

use aleph_sdk::client::{
    AlephAccountClient as _, AlephClient, AlephMessageClient as _, MessageError, MessageWithStatus,
};
use aleph_sdk::messages::PostBuilder;
use aleph_types::channel::Channel;
use aleph_types::item_hash::ItemHash;
use aleph_types::message::pending::PendingMessage;
use alephlab_vault::{SignedMessage, Wallet};
use serde_json::json;
use url::Url;

use super::host;
use crate::error::Result;

/// The only channel on which the network moves credits.
const CHANNEL: &str = "ALEPH_CREDIT";
const POST_TYPE: &str = "aleph_credit_transfer";

/// What the network makes of a transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It has never seen it.
    Unknown,
    /// It has it, and has not judged it.
    Pending,
    /// The credits are there.
    CarriedOut,
    /// The sender had too few credits. The same message could be carried out later.
    TooFew,
    /// It never will carry it out.
    Refused(String),
}

/// Sends credits by messages.
pub(crate) struct Transfers {
    node: AlephClient,
}

impl Transfers {
    pub(crate) fn new(node: Url) -> Self {
        Self {
            node: AlephClient::new(node),
        }
    }

    /// Whole credits of the account.
    pub(crate) async fn balance(&self, wallet: &Wallet) -> Result<u64> {
        let balance = self.node.get_balance(&wallet.address().into()).await;
        Ok(balance.map_err(|error| host(&error))?.credits)
    }

    /// A signed transfer of so many credits, as JSON, and its item hash.
    pub(crate) fn sign(wallet: &Wallet, to: &str, credits: u64) -> Result<(String, String)> {
        let content = json!({"transfer": {"credits": [{"address": to, "amount": credits}]}});
        let message = PostBuilder::new(wallet.account(), POST_TYPE, content)
            .map_err(|error| host(&error))?
            .channel(Channel::from(CHANNEL.to_owned()))
            .build()
            .map_err(|error| host(&error))?;
        let hash = message.item_hash.to_string();
        let text = serde_json::to_string(&message).map_err(|error| host(&error))?;
        Ok((text, hash))
    }

    /// Posts a transfer that was signed before; as often as one likes.
    pub(crate) async fn post(&self, message: &str) -> Result<()> {
        match self.node.post_message(&pending(message)?, true).await {
            Ok(_) => Ok(()),
            // It is judged; how is asked after it.
            Err(MessageError::ApiError {
                status: 402 | 422, ..
            }) => Ok(()),
            Err(error) => Err(host(&error)),
        }
    }

    /// How the network stands to a transfer.
    pub(crate) async fn verdict(&self, message: &str) -> Result<Verdict> {
        let hash: ItemHash = pending(message)?.item_hash;
        let found = match self.node.get_message(&hash).await {
            Ok(found) => found,
            Err(error) if error.is_not_found() => return Ok(Verdict::Unknown),
            Err(error) => return Err(host(&error)),
        };
        Ok(match found {
            MessageWithStatus::Pending { .. } => Verdict::Pending,
            // Credits that were moved stay where they are, whatever becomes of the message.
            MessageWithStatus::Processed { .. }
            | MessageWithStatus::Removing { .. }
            | MessageWithStatus::Removed { .. }
            | MessageWithStatus::Forgotten { .. } => Verdict::CarriedOut,
            MessageWithStatus::Rejected {
                error_code: 5 | 6, ..
            } => Verdict::TooFew,
            MessageWithStatus::Rejected { error_code, .. } => {
                Verdict::Refused(format!("the network rejects the message (error {error_code})"))
            }
        })
    }
}

fn pending(message: &str) -> Result<PendingMessage> {
    let value = serde_json::from_str(message).map_err(|error| host(&error))?;
    let signed = SignedMessage::from_value(value).map_err(|error| host(&error))?;
    Ok(signed.pending())
}
