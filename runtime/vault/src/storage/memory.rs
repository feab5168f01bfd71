//! Storage in memory, for tests and examples.

use super::{BoxFuture, PostQuery, Storage, StoredPost, absent, check_store, shelf};
use crate::Result;
use crate::message::SignedMessage;
use bytes::Bytes;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Objects and messages in two maps; loses everything when dropped.
#[derive(Default)]
pub struct MemoryStorage {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    objects: BTreeMap<String, Bytes>,
    messages: BTreeMap<String, SignedMessage>,
}

impl MemoryStorage {
    /// An empty storage.
    pub fn new() -> Self {
        Self::default()
    }

    /// Names of all objects, sorted.
    pub fn objects(&self) -> Vec<String> {
        self.lock().objects.keys().cloned().collect()
    }

    /// Replaces an object's bytes under its old name, as a rotten disk would.
    pub fn damage(&self, item_hash: &str, bytes: impl Into<Bytes>) {
        self.lock().objects.insert(item_hash.to_owned(), bytes.into());
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn messages(&self) -> Vec<SignedMessage> {
        self.lock().messages.values().cloned().collect()
    }

    fn store(&self, bytes: Bytes, store: &SignedMessage) -> Result<()> {
        let name = check_store(&bytes, store)?;
        let mut inner = self.lock();
        inner.objects.insert(name, bytes);
        inner.messages.insert(store.item_hash(), store.clone());
        Ok(())
    }
}

impl Storage for MemoryStorage {
    fn put<'a>(&'a self, bytes: Bytes, store: &'a SignedMessage) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.store(bytes, store) })
    }

    fn get<'a>(&'a self, item_hash: &'a str) -> BoxFuture<'a, Bytes> {
        Box::pin(async move {
            self.lock()
                .objects
                .get(item_hash)
                .cloned()
                .ok_or_else(|| absent(item_hash))
        })
    }

    fn stores<'a>(&'a self, owner: &'a str, objects: &'a [String]) -> BoxFuture<'a, Vec<SignedMessage>> {
        Box::pin(async move { Ok(shelf::stores(&self.messages(), owner, objects)) })
    }

    fn publish<'a>(&'a self, message: &'a SignedMessage) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            message.verify()?;
            let (messages, objects) = shelf::forgotten(&self.messages(), message);
            let mut inner = self.lock();
            inner.messages.retain(|hash, _| !messages.contains(hash));
            inner.objects.retain(|name, _| !objects.contains(name));
            inner.messages.insert(message.item_hash(), message.clone());
            Ok(())
        })
    }

    fn post<'a>(&'a self, item_hash: &'a str) -> BoxFuture<'a, Option<StoredPost>> {
        Box::pin(async move {
            let found = self.lock().messages.get(item_hash).cloned();
            found
                .map(|message| StoredPost::from_message(&message))
                .transpose()
        })
    }

    fn posts<'a>(&'a self, query: PostQuery) -> BoxFuture<'a, Vec<StoredPost>> {
        Box::pin(async move { Ok(shelf::posts(&self.messages(), &query)) })
    }

    fn aggregate<'a>(&'a self, address: &'a str, key: &'a str) -> BoxFuture<'a, Option<Value>> {
        Box::pin(async move { shelf::aggregate(&self.messages(), address, key) })
    }
}
