//! Several nodes of the network as one storage: what one does not have, spoils or cannot do now, another is asked for. Lists are
//! put together from all that answer, so that one node that lags or withholds hides no version.

use super::{AlephStorage, BoxFuture, ByteStream, Hashed, PostQuery, Quote, Storage, StoredPost};
use crate::digest::sha256;
use crate::message::SignedMessage;
use crate::wallet::Wallet;
use crate::{Result, VaultError};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream, FuturesUnordered};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How much longer than the first a node may take to list something.
const GRACE: Duration = Duration::from_secs(2);

/// The nodes that a text names: one URL, or several with commas between them.
///
/// # Errors
/// `E_MALFORMED`, naming what is no http or https URL.
pub fn nodes(urls: &str) -> Result<Arc<dyn Storage>> {
    let malformed = |url: &str, reason: &dyn std::fmt::Display| VaultError::Malformed {
        what: "the Aleph node's URL",
        reason: format!("{url:?} is no http or https address: {reason}"),
    };
    let mut all: Vec<Arc<dyn Storage>> = Vec::new();
    for url in urls.split(',').map(str::trim) {
        let parsed = url.parse().map_err(|error| malformed(url, &error))?;
        all.push(Arc::new(AlephStorage::new(parsed)?));
    }
    match <[_; 1]>::try_from(all) {
        Ok([one]) => Ok(one),
        Err(several) => Ok(Arc::new(Nodes::new(several))),
    }
}

/// See [`nodes`].
pub(crate) struct Nodes {
    all: Vec<Arc<dyn Storage>>,
    /// Which one answered last: it is asked first, so that a dead one costs its time-outs once.
    first: AtomicUsize,
}

impl Nodes {
    pub(crate) fn new(all: Vec<Arc<dyn Storage>>) -> Self {
        Self {
            all,
            first: AtomicUsize::new(0),
        }
    }

    /// Asks one after the other until one answers. That a node has nothing counts only when all could be asked: what it lacks,
    /// one that could not be asked may have.
    async fn ask<'a, T>(
        &'a self,
        what: Asked,
        call: impl Fn(&'a dyn Storage) -> BoxFuture<'a, Answer<T>>,
    ) -> Result<T> {
        let first = self.first.load(Ordering::Relaxed);
        let (mut nothing, mut failure) = (None, None);
        for number in (first..self.all.len()).chain(0..first) {
            match call(&*self.all[number]).await {
                Ok(Answer::Is(value)) => {
                    self.first.store(number, Ordering::Relaxed);
                    return Ok(value);
                }
                Ok(Answer::Nothing(value)) => nothing = Some(value),
                // What one node refuses to store, every node refuses; what it answers wrongly, another may answer rightly.
                Err(error) if what == Asked::ToStore && !is_away(&error) => return Err(error),
                Err(error) => {
                    tracing::debug!(node = number, %error, "another node is asked");
                    failure.get_or_insert(error);
                }
            }
        }
        match (failure, nothing) {
            (Some(error), _) => Err(error),
            (None, Some(nothing)) => Ok(nothing),
            (None, None) => Err(VaultError::Unavailable {
                what: "the Aleph network".into(),
                reason: "no node is configured".into(),
            }),
        }
    }

    /// Tells all nodes, and is done when one has taken it and the others have had [`GRACE`].
    async fn tell(&self, message: &SignedMessage) -> Result<()> {
        let mut told: FuturesUnordered<_> = self.all.iter().map(|node| node.publish(message)).collect();
        let (mut deadline, mut failure) = (None, None);
        while let Some(answer) = next_until(&mut told, deadline).await {
            match answer {
                Ok(()) => drop(deadline.get_or_insert_with(|| Instant::now() + GRACE)),
                // What was refused says more than that a node could not be asked.
                Err(error) if failure.as_ref().is_none_or(is_away) => failure = Some(error),
                Err(_) => {}
            }
        }
        match failure {
            Some(error) if deadline.is_none() => Err(error),
            _ => Ok(()),
        }
    }

    /// What all nodes that answer list, by the name of each item. One that is slower than another by [`GRACE`] is left out.
    async fn union<'a, T>(
        &'a self,
        call: impl Fn(&'a dyn Storage) -> BoxFuture<'a, Vec<T>>,
        name: impl Fn(&T) -> String,
    ) -> Result<Vec<T>> {
        let mut asked: FuturesUnordered<_> = self.all.iter().map(|node| call(&**node)).collect();
        let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
        let (mut deadline, mut failure) = (None, None);
        while let Some(answer) = next_until(&mut asked, deadline).await {
            match answer {
                Ok(items) => {
                    deadline.get_or_insert_with(|| Instant::now() + GRACE);
                    found.extend(items.into_iter().filter(|item| seen.insert(name(item))));
                }
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            Some(error) if deadline.is_none() => Err(error),
            _ => Ok(found),
        }
    }
}

/// What a node says.
enum Answer<T> {
    Is(T),
    /// It has nothing; another may.
    Nothing(T),
}

/// What for a node is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    ToTell,
    ToStore,
}

/// Whether the node could not be asked.
fn is_away(error: &VaultError) -> bool {
    matches!(error, VaultError::Unavailable { .. } | VaultError::Listing { .. })
}

/// The next of several answers, if it comes before the deadline.
async fn next_until<F: Future>(
    all: &mut FuturesUnordered<F>,
    deadline: Option<Instant>,
) -> Option<F::Output> {
    match deadline {
        Some(deadline) => timeout_at(deadline, all.next()).await.ok().flatten(),
        None => all.next().await,
    }
}

/// Objects are named by their SHA-256; other names say nothing about the bytes.
fn check(item_hash: &str, (bytes, known): Hashed) -> Result<Hashed> {
    let sha256 = known.unwrap_or_else(|| sha256(&[&bytes]));
    let hash = hex::encode(sha256);
    if item_hash.len() != hash.len() || item_hash.eq_ignore_ascii_case(&hash) {
        return Ok((bytes, Some(sha256)));
    }
    Err(VaultError::Hash {
        object: item_hash.to_owned(),
        got: hash,
    })
}

impl Storage for Nodes {
    fn put<'a>(&'a self, bytes: Bytes, store: &'a SignedMessage) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let put = move |node: &'a dyn Storage| -> BoxFuture<'a, Answer<()>> {
                let bytes = bytes.clone();
                Box::pin(async move { node.put(bytes, store).await.map(Answer::Is) })
            };
            self.ask(Asked::ToStore, put).await
        })
    }

    fn get<'a>(&'a self, item_hash: &'a str) -> BoxFuture<'a, Bytes> {
        Box::pin(async move { Ok(self.get_hashed(item_hash).await?.0) })
    }

    fn get_hashed<'a>(&'a self, item_hash: &'a str) -> BoxFuture<'a, Hashed> {
        Box::pin(self.ask(Asked::ToTell, move |node| {
            Box::pin(async move { check(item_hash, node.get_hashed(item_hash).await?).map(Answer::Is) })
        }))
    }

    /// Of the first that begins: what it is cannot be checked here before its end.
    fn get_stream<'a>(&'a self, item_hash: &'a str) -> BoxFuture<'a, ByteStream> {
        Box::pin(self.ask(Asked::ToTell, move |node| {
            Box::pin(async move { node.get_stream(item_hash).await.map(Answer::Is) })
        }))
    }

    fn stores<'a>(&'a self, owner: &'a str, objects: &'a [String]) -> BoxFuture<'a, Vec<SignedMessage>> {
        Box::pin(self.union(
            move |node| node.stores(owner, objects),
            |one| format!("{} {}", one.item_hash(), one.sender()),
        ))
    }

    fn publish<'a>(&'a self, message: &'a SignedMessage) -> BoxFuture<'a, ()> {
        Box::pin(self.tell(message))
    }

    fn post<'a>(&'a self, item_hash: &'a str) -> BoxFuture<'a, Option<StoredPost>> {
        Box::pin(self.ask(Asked::ToTell, move |node| {
            Box::pin(async move {
                Ok(match node.post(item_hash).await? {
                    None => Answer::Nothing(None),
                    found => Answer::Is(found),
                })
            })
        }))
    }

    fn knows<'a>(&'a self, item_hash: &'a str) -> BoxFuture<'a, bool> {
        Box::pin(self.ask(Asked::ToTell, move |node| {
            Box::pin(async move {
                Ok(match node.knows(item_hash).await? {
                    true => Answer::Is(true),
                    false => Answer::Nothing(false),
                })
            })
        }))
    }

    fn posts<'a>(&'a self, query: PostQuery) -> BoxFuture<'a, Vec<StoredPost>> {
        Box::pin(async move {
            let ask = move |node: &'a dyn Storage| node.posts(query.clone());
            let mut posts = self
                .union(ask, |post: &StoredPost| {
                    format!("{} {}", post.item_hash, post.sender)
                })
                .await?;
            posts.sort_by(|one, two| one.time.total_cmp(&two.time));
            Ok(posts)
        })
    }

    /// Each node's after the other's: a message that one withholds another tells.
    fn each_post<'a>(&'a self, query: PostQuery, since: u64) -> BoxStream<'a, Result<StoredPost>> {
        let posts = move |node: &'a Arc<dyn Storage>| node.each_post(query.clone(), since);
        stream::iter(&self.all).flat_map(posts).boxed()
    }

    fn aggregate<'a>(&'a self, address: &'a str, key: &'a str) -> BoxFuture<'a, Option<Value>> {
        Box::pin(self.ask(Asked::ToTell, move |node| {
            Box::pin(async move {
                Ok(match node.aggregate(address, key).await? {
                    None => Answer::Nothing(None),
                    found => Answer::Is(found),
                })
            })
        }))
    }

    fn has<'a>(&'a self, store: &'a SignedMessage) -> BoxFuture<'a, bool> {
        Box::pin(self.ask(Asked::ToTell, move |node| {
            Box::pin(async move {
                // Where it cannot be asked it is sent again.
                Ok(match node.has(store).await {
                    Ok(true) => Answer::Is(true),
                    Ok(false) | Err(_) => Answer::Nothing(false),
                })
            })
        }))
    }

    fn quote<'a>(&'a self, wallet: &'a Wallet, size: u64) -> BoxFuture<'a, Option<Quote>> {
        Box::pin(self.ask(Asked::ToTell, move |node| {
            Box::pin(async move { node.quote(wallet, size).await.map(Answer::Is) })
        }))
    }
}
