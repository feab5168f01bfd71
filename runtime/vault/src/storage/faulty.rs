//! A storage that misbehaves on purpose, around any other: what tests and drills use to see that nothing wrong
//! is ever returned.

use super::{BoxFuture, PostQuery, Quote, Storage, StoredPost};
use crate::message::SignedMessage;
use crate::wallet::Wallet;
use crate::{Result, VaultError};
use bytes::Bytes;
use serde_json::Value;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How it misbehaves.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Inverts one bit of the byte at this place, counted from the start and wrapped, in every object read.
    FlipByte(usize),
    /// Cuts every object read to this many bytes.
    Truncate(usize),
    /// The next N calls fail as unavailable.
    FailTimes(u64),
    /// The next N calls are served, all others fail as unavailable.
    FailAfter(u64),
    /// Every call takes this much longer.
    Delay(Duration),
}

/// Any storage with a fault in front; see [`Fault`].
pub struct FaultyStorage {
    inner: Arc<dyn Storage>,
    fault: Mutex<Option<Fault>>,
    calls: AtomicU64,
}

impl FaultyStorage {
    /// Wraps `inner`, faultless at first.
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self {
            inner,
            fault: Mutex::new(None),
            calls: AtomicU64::new(0),
        }
    }

    /// Sets the fault for all calls from now on.
    pub fn set(&self, fault: Option<Fault>) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    async fn before(&self) -> Result<()> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let delay = {
            let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
            let failed = || {
                Err(VaultError::Unavailable {
                    what: "the storage".into(),
                    reason: "a fault was asked for".to_owned(),
                })
            };
            match &mut *fault {
                Some(Fault::FailTimes(left)) if *left > 0 => {
                    *left -= 1;
                    return failed();
                }
                Some(Fault::FailAfter(0)) => return failed(),
                Some(Fault::FailAfter(left)) => {
                    *left -= 1;
                    None
                }
                Some(Fault::Delay(delay)) => Some(*delay),
                _ => None,
            }
        };
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        Ok(())
    }

    fn spoil(&self, bytes: Bytes) -> Bytes {
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        match &*fault {
            Some(Fault::FlipByte(at)) if !bytes.is_empty() => {
                let mut spoiled = bytes.to_vec();
                let at = at % spoiled.len();
                spoiled[at] ^= 1;
                spoiled.into()
            }
            Some(Fault::Truncate(length)) => bytes.slice(..bytes.len().min(*length)),
            _ => bytes,
        }
    }
}

impl Storage for FaultyStorage {
    fn put<'a>(&'a self, bytes: Bytes, store: &'a SignedMessage) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.before().await?;
            self.inner.put(bytes, store).await
        })
    }

    fn get<'a>(&'a self, item_hash: &'a str) -> BoxFuture<'a, Bytes> {
        Box::pin(async move {
            self.before().await?;
            Ok(self.spoil(self.inner.get(item_hash).await?))
        })
    }

    fn stores<'a>(&'a self, owner: &'a str, objects: &'a [String]) -> BoxFuture<'a, Vec<SignedMessage>> {
        Box::pin(async move {
            self.before().await?;
            self.inner.stores(owner, objects).await
        })
    }

    fn publish<'a>(&'a self, message: &'a SignedMessage) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.before().await?;
            self.inner.publish(message).await
        })
    }

    fn post<'a>(&'a self, item_hash: &'a str) -> BoxFuture<'a, Option<StoredPost>> {
        Box::pin(async move {
            self.before().await?;
            self.inner.post(item_hash).await
        })
    }

    fn knows<'a>(&'a self, item_hash: &'a str) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            self.before().await?;
            self.inner.knows(item_hash).await
        })
    }

    fn posts<'a>(&'a self, query: PostQuery) -> BoxFuture<'a, Vec<StoredPost>> {
        Box::pin(async move {
            self.before().await?;
            self.inner.posts(query).await
        })
    }

    fn quote<'a>(&'a self, wallet: &'a Wallet, size: u64) -> BoxFuture<'a, Option<Quote>> {
        self.inner.quote(wallet, size)
    }

    fn aggregate<'a>(&'a self, address: &'a str, key: &'a str) -> BoxFuture<'a, Option<Value>> {
        Box::pin(async move {
            self.before().await?;
            self.inner.aggregate(address, key).await
        })
    }
}
