//! Messages in memory and the queries over them: what the folder and memory storages share.

use super::{PostQuery, StoredPost, merge};
use crate::Result;
use crate::message::SignedMessage;
use serde_json::Value;

pub(super) fn posts(messages: &[SignedMessage], query: &PostQuery) -> Vec<StoredPost> {
    let mut found: Vec<_> = messages
        .iter()
        .filter_map(|message| StoredPost::from_message(message).ok())
        .filter(|post| query.matches(post))
        .collect();
    found.sort_by(|one, two| {
        one.time
            .total_cmp(&two.time)
            .then_with(|| one.item_hash.cmp(&two.item_hash))
    });
    found
}

pub(super) fn aggregate(messages: &[SignedMessage], address: &str, key: &str) -> Result<Option<Value>> {
    merge(messages, address, key)
}
