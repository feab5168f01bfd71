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

pub(super) fn stores(messages: &[SignedMessage], owner: &str, objects: &[String]) -> Vec<SignedMessage> {
    let wanted = |message: &&SignedMessage| {
        message.stored_file().is_ok_and(|file| objects.contains(&file))
            && message.sender().eq_ignore_ascii_case(owner)
            && message.verify().is_ok()
    };
    messages.iter().filter(wanted).cloned().collect()
}

/// What a FORGET takes away: messages of its sender, and objects that no other STORE holds.
pub(super) fn forgotten(messages: &[SignedMessage], forget: &SignedMessage) -> (Vec<String>, Vec<String>) {
    let named = forget.forgets();
    let (gone, left): (Vec<_>, Vec<_>) = messages
        .iter()
        .partition(|one| one.sender() == forget.sender() && named.contains(&one.item_hash()));
    let held: Vec<String> = left.iter().filter_map(|one| one.stored_file().ok()).collect();
    let objects = gone.iter().filter_map(|one| one.stored_file().ok());
    let objects = objects.filter(|object| !held.contains(object)).collect();
    (gone.iter().map(|one| one.item_hash()).collect(), objects)
}

pub(super) fn aggregate(messages: &[SignedMessage], address: &str, key: &str) -> Result<Option<Value>> {
    merge(messages, address, key)
}
