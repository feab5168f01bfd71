//! Credit transfers: posts that move prepaid credits from their owner to others (reference, section 4).

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::value::RawValue;
use sqlx::SqliteConnection;

use crate::{
    db, ledger,
    node::Node,
    process::Candidate,
    rejection::{Judged, Rejection},
};

/// `type` of the posts.
const POST_TYPE: &str = "aleph_credit_transfer";
/// Only here do they take effect; elsewhere they are posts like any other.
const CHANNEL: &str = "ALEPH_CREDIT";

#[derive(Deserialize)]
struct Post {
    content: Box<RawValue>,
}

#[derive(Deserialize)]
struct Transfer {
    transfer: Entries,
}

#[derive(Deserialize)]
struct Entries {
    credits: Vec<Entry>,
}

/// What one address gets.
#[derive(Deserialize)]
struct Entry {
    address: String,
    amount: u64,
    /// Milliseconds since 1970. A client that sends seconds means January 1970, here as on the network.
    #[serde(default)]
    expiration: Option<i64>,
}

/// Moves the credits of a transfer; does nothing for other posts.
pub(crate) async fn transfer(
    node: &Node,
    connection: &mut SqliteConnection,
    candidate: Candidate<'_>,
    kind: &str,
    raw: &str,
) -> Judged<()> {
    if kind != POST_TYPE || candidate.envelope.channel.as_deref() != Some(CHANNEL) {
        return Ok(());
    }
    let malformed =
        |error: serde_json::Error| Rejection::format(format!("the transfer is malformed: {error}"));
    let post: Post = serde_json::from_str(raw).map_err(malformed)?;
    let Transfer { transfer } = serde_json::from_str(post.content.get()).map_err(malformed)?;
    let from = candidate.content.address.as_str();
    let total = check(from, &transfer.credits)?;
    let now = db::now();
    ledger::settle(connection, now).await?;
    ledger::take(connection, &node.settings, from, total).await?;
    for (position, entry) in transfer.credits.iter().enumerate() {
        let moved = ledger::Moved {
            from,
            to: &entry.address,
            amount: entry.amount,
            expiration: entry.expiration.map(|millis| millis as f64 / 1_000.0),
            message: &candidate.envelope.item_hash,
            position,
            time: candidate.content.time,
        };
        ledger::give(connection, &moved).await?;
    }
    Ok(())
}

/// The sum of all entries, if the network would take them.
fn check(from: &str, entries: &[Entry]) -> Result<u64, Rejection> {
    if entries.is_empty() {
        return Err(Rejection::format("the transfer names nobody"));
    }
    let mut seen = HashSet::new();
    let mut total: u64 = 0;
    for entry in entries {
        let address = entry.address.trim();
        if address.is_empty() || entry.amount == 0 || entry.expiration.is_some_and(i64::is_negative) {
            return Err(Rejection::format(
                "a transfer needs an address, an amount above zero and no negative expiration",
            ));
        }
        if address.eq_ignore_ascii_case(from) || !seen.insert(address.to_lowercase()) {
            return Err(Rejection::format(
                "a transfer goes to others, and to each of them once",
            ));
        }
        total = total
            .checked_add(entry.amount)
            .ok_or_else(|| Rejection::format("the transfer is larger than any balance"))?;
    }
    Ok(total)
}
