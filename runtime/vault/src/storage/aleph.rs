//! The Aleph network through `aleph-sdk`: the only module that speaks to a node. Retries what may pass; says
//! clearly what the node refuses. Verifies messages; leaves the bytes of objects to the reader.

use super::{
    BoxFuture, ByteStream, Hashed, PostQuery, Quote, Storage, StoredPost, absent, check_store, merge,
};
use crate::digest::Sha256;
use crate::message::{SignedMessage, sign_question};
use crate::wallet::Wallet;
use crate::{Result, VaultError};
use aleph_sdk::client::{
    AlephAccountClient, AlephClient, AlephMessageClient, AlephStorageClient, MessageError, MessageFilter,
    MessageWithStatus, RetryConfig, SortOrder, StorageError, UndecodableMessage,
};
use aleph_types::chain::Address;
use aleph_types::item_hash::ItemHash;
use aleph_types::message::pending::PendingMessage;
use aleph_types::message::{Message, MessageType};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use serde_json::Value;
use std::pin::pin;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use url::Url;

/// Tries of one upload or download.
const TRIES: u32 = 5;
/// Wait before the second try; doubles for each further one.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// How long a message may stay pending.
const PENDING: Duration = Duration::from_secs(60);
/// No sealed object is longer, bytes.
const MAX_OBJECT: usize = 68 << 20;

/// What a list of messages may cost. The node is not trusted to end it.
#[derive(Clone, Copy)]
pub(crate) struct ListLimits {
    /// Messages, readable or not; 200 come in one page.
    pub(crate) messages: usize,
    /// Bytes of their contents, which are all held until the list is whole.
    pub(crate) bytes: usize,
    /// Time for all pages. It alone ends a list of empty ones.
    pub(crate) time: Duration,
}

/// Far more than any query of ours has to find: versions or grants of one dataset, records of one account.
const LIST_LIMITS: ListLimits = ListLimits {
    messages: 20_000,
    bytes: 128 << 20,
    time: Duration::from_secs(300),
};

/// A core channel node.
pub struct AlephStorage {
    client: AlephClient,
    limits: ListLimits,
}

impl AlephStorage {
    /// Uses the node at `url`; connects when first asked.
    ///
    /// # Errors
    /// `E_MALFORMED` when it is no http or https URL.
    pub fn new(url: Url) -> Result<Self> {
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            let reason = format!("{url} is no http or https address");
            return Err(VaultError::Malformed {
                what: "the Aleph node's URL",
                reason,
            });
        }
        let retries = RetryConfig {
            max_retries: 3,
            min_backoff: FIRST_WAIT,
            max_backoff: Duration::from_secs(4),
        };
        Ok(Self {
            client: AlephClient::builder(url).retry_config(retries).build(),
            limits: LIST_LIMITS,
        })
    }

    /// Sets other limits, so that tests need not send so much.
    #[cfg(test)]
    pub(crate) fn limit(&mut self, limits: ListLimits) {
        self.limits = limits;
    }

    async fn upload(&self, bytes: &Bytes, store: &SignedMessage) -> Result<()> {
        let name = check_store(bytes, store)?;
        let what = format!("object {name}");
        let message = store.pending();
        let mut wait = FIRST_WAIT;
        for attempt in 1.. {
            let Err(error) = self.client.upload_to_storage(bytes, Some(&message), true).await else {
                break;
            };
            if attempt == TRIES || !may_pass(&error) {
                return Err(upload_error(what, error));
            }
            tracing::debug!(object = name, attempt, %error, "upload failed, trying again");
            sleep(wait).await;
            wait *= 2;
            // The answer may be all that was lost; sending it again would then wait for nothing.
            let arrived = !matches!(&error, StorageError::UploadFailed(error) if error.is_connect());
            if arrived && self.is_processed(&message.item_hash).await {
                break;
            }
        }
        Ok(())
    }

    async fn is_processed(&self, hash: &ItemHash) -> bool {
        matches!(
            self.client.get_message(hash).await,
            Ok(MessageWithStatus::Processed { .. })
        )
    }

    async fn download(&self, item_hash: &str) -> Result<Hashed> {
        let hash = parse(item_hash)?;
        let mut wait = FIRST_WAIT;
        for _ in 0..TRIES {
            if let Some(hashed) = self.download_once(&hash, item_hash).await? {
                return Ok(hashed);
            }
            sleep(wait).await;
            wait *= 2;
        }
        let reason = format!("its download broke off {TRIES} times");
        Err(VaultError::Unavailable {
            what: format!("object {item_hash}"),
            reason,
        })
    }

    /// None when the download breaks off; requests that fail are tried again by the SDK.
    async fn download_once(&self, hash: &ItemHash, name: &str) -> Result<Option<Hashed>> {
        let what = || format!("object {name}");
        let answer = match self.client.download_file_by_hash(hash).await {
            Err(MessageError::Storage(StorageError::NotFound(_))) => return Err(absent(name)),
            answer => answer.map_err(|error| unavailable(what(), error))?,
        };
        let mut stream = pin!(answer.into_stream());
        let (mut bytes, mut sha256) = (BytesMut::new(), Sha256::new());
        while let Some(piece) = stream.next().await {
            let Ok(piece) = piece else { return Ok(None) };
            if bytes.len() + piece.len() > MAX_OBJECT {
                return Err(VaultError::Limit {
                    what: format!("{} in bytes", what()),
                    limit: MAX_OBJECT as u64,
                });
            }
            // A piece is some KiB: hashing it holds no other task up for long.
            sha256.update(&piece);
            bytes.extend_from_slice(&piece);
        }
        Ok(Some((bytes.freeze(), Some(sha256.finalize()))))
    }

    async fn send(&self, message: &SignedMessage) -> Result<()> {
        message.verify()?;
        let what = format!("message {}", message.item_hash());
        let pending = message.pending();
        let answer = self
            .client
            .post_message(&pending, true)
            .await
            .map_err(|error| post_error(what.clone(), error))?;
        if answer.message_status == "processed" {
            return Ok(());
        }
        self.wait(what, &pending.item_hash).await
    }

    /// Asks for a message's status until it is final.
    async fn wait(&self, what: String, hash: &ItemHash) -> Result<()> {
        let deadline = Instant::now() + PENDING;
        let mut wait = FIRST_WAIT;
        loop {
            match self.client.get_message(hash).await {
                Ok(MessageWithStatus::Processed { .. }) => return Ok(()),
                Ok(MessageWithStatus::Rejected { error_code, .. }) => return Err(rejected(what, error_code)),
                Ok(MessageWithStatus::Pending { .. }) => {}
                Err(error) if error.is_not_found() => {}
                Ok(other) => {
                    let reason = format!("the node says that it is {:?}", other.status());
                    return Err(VaultError::Rejected { what, reason });
                }
                Err(error) => return Err(unavailable(what, error)),
            }
            if Instant::now() + wait > deadline {
                return Err(VaultError::Unavailable {
                    what,
                    reason: "it stayed pending for a minute".into(),
                });
            }
            sleep(wait).await;
            wait = (wait * 2).min(Duration::from_secs(4));
        }
    }

    async fn one_post(&self, item_hash: &str) -> Result<Option<StoredPost>> {
        match self.client.get_message(&parse(item_hash)?).await {
            Ok(MessageWithStatus::Processed { message }) => {
                let post = StoredPost::from_message(&signed(&message)?)?;
                if post.item_hash != item_hash {
                    let reason = format!("the node answered with {}", post.item_hash);
                    return Err(VaultError::Message {
                        message: item_hash.to_owned(),
                        reason,
                    });
                }
                Ok(Some(post))
            }
            Ok(_) => Ok(None),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(unavailable(format!("message {item_hash}"), error)),
        }
    }

    async fn is_taken(&self, item_hash: &str) -> Result<bool> {
        match self.client.get_message(&parse(item_hash)?).await {
            Ok(MessageWithStatus::Rejected { .. }) => Ok(false),
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(unavailable(format!("message {item_hash}"), error)),
        }
    }

    async fn list(&self, filter: MessageFilter) -> Result<Vec<SignedMessage>> {
        let time = self.limits.time;
        let ended = tokio::time::timeout(time, self.list_all(filter)).await;
        ended.unwrap_or_else(|_| Err(endless(format!("did not end within {time:?}"))))
    }

    async fn list_all(&self, filter: MessageFilter) -> Result<Vec<SignedMessage>> {
        let limits = self.limits;
        let (mut found, mut messages, mut bytes) = (Vec::new(), 0_usize, 0_usize);
        let mut stream = pin!(self.client.get_messages_iterator_with_undecodable(filter, None));
        while let Some(item) = stream.next().await {
            let item = item.map_err(|error| unavailable("the list of messages".into(), error))?;
            messages += 1;
            if messages > limits.messages {
                return Err(endless(format!("has more than {} messages", limits.messages)));
            }
            // One message that this program can not read must not hide the others.
            if let Ok(message) = item
                && let Ok(message) = signed(&message)
            {
                bytes = bytes.saturating_add(message.size());
                if bytes > limits.bytes {
                    return Err(endless(format!("has more than {} bytes", limits.bytes)));
                }
                found.push(message);
            }
        }
        Ok(found)
    }
}

impl Storage for AlephStorage {
    fn put<'a>(&'a self, bytes: Bytes, store: &'a SignedMessage) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.upload(&bytes, store).await })
    }

    fn get<'a>(&'a self, item_hash: &'a str) -> BoxFuture<'a, Bytes> {
        Box::pin(async move { Ok(self.download(item_hash).await?.0) })
    }

    fn get_hashed<'a>(&'a self, item_hash: &'a str) -> BoxFuture<'a, Hashed> {
        Box::pin(self.download(item_hash))
    }

    fn get_stream<'a>(&'a self, item_hash: &'a str) -> BoxFuture<'a, ByteStream> {
        Box::pin(async move {
            let what = format!("object {item_hash}");
            let answer = match self.client.download_file_by_hash(&parse(item_hash)?).await {
                Err(MessageError::Storage(StorageError::NotFound(_))) => return Err(absent(item_hash)),
                answer => answer.map_err(|error| unavailable(what.clone(), error))?,
            };
            let pieces = answer.into_stream();
            Ok(pieces
                .map(move |piece| piece.map_err(|error| unavailable(what.clone(), error)))
                .boxed())
        })
    }

    fn stores<'a>(&'a self, owner: &'a str, objects: &'a [String]) -> BoxFuture<'a, Vec<SignedMessage>> {
        Box::pin(async move {
            let filter = MessageFilter {
                message_type: Some(MessageType::Store),
                addresses: Some(vec![Address::from(owner.to_owned())]),
                content_hashes: Some(objects.iter().map(|name| parse(name)).collect::<Result<_>>()?),
                ..MessageFilter::default()
            };
            Ok(super::shelf::stores(&self.list(filter).await?, owner, objects))
        })
    }

    fn publish<'a>(&'a self, message: &'a SignedMessage) -> BoxFuture<'a, ()> {
        Box::pin(self.send(message))
    }

    fn post<'a>(&'a self, item_hash: &'a str) -> BoxFuture<'a, Option<StoredPost>> {
        Box::pin(self.one_post(item_hash))
    }

    fn knows<'a>(&'a self, item_hash: &'a str) -> BoxFuture<'a, bool> {
        Box::pin(self.is_taken(item_hash))
    }

    fn posts<'a>(&'a self, query: PostQuery) -> BoxFuture<'a, Vec<StoredPost>> {
        Box::pin(async move {
            let messages = self.list(post_filter(&query)).await?;
            Ok(super::shelf::posts(&messages, &query))
        })
    }

    fn each_post<'a>(&'a self, query: PostQuery, since: u64) -> BoxStream<'a, Result<StoredPost>> {
        let filter = MessageFilter {
            // A list that grows while it is read grows at its end.
            sort_order: Some(SortOrder::Asc),
            start_date: (since > 0).then(|| super::seconds(since).into()),
            ..post_filter(&query)
        };
        let messages = self.client.get_messages_iterator_with_undecodable(filter, None);
        let read = move |item: std::result::Result<std::result::Result<Box<Message>, _>, MessageError>| {
            let post = match item {
                Err(error) => Some(Err(unavailable("the list of messages".into(), error))),
                // What this program can not read must not hide the others.
                Ok(Err(UndecodableMessage { .. })) => None,
                Ok(Ok(message)) => signed(&message)
                    .and_then(|message| StoredPost::from_message(&message))
                    .ok()
                    .filter(|post| query.matches(post))
                    .map(Ok),
            };
            std::future::ready(post)
        };
        messages.filter_map(read).boxed()
    }

    fn aggregate<'a>(&'a self, address: &'a str, key: &'a str) -> BoxFuture<'a, Option<Value>> {
        Box::pin(async move {
            let filter = MessageFilter {
                message_type: Some(MessageType::Aggregate),
                addresses: Some(vec![Address::from(address.to_owned())]),
                content_keys: Some(vec![key.to_owned()]),
                ..MessageFilter::default()
            };
            merge(&self.list(filter).await?, address, key)
        })
    }

    fn has<'a>(&'a self, store: &'a SignedMessage) -> BoxFuture<'a, bool> {
        Box::pin(async move { Ok(self.is_processed(&store.pending().item_hash).await) })
    }

    fn quote<'a>(&'a self, wallet: &'a Wallet, size: u64) -> BoxFuture<'a, Option<Quote>> {
        Box::pin(async move {
            let what = || "the price of storage".to_owned();
            let question = sign_question(wallet, size)?;
            let price = self.client.estimate_price(&question).await;
            let price = price.map_err(|error| unavailable(what(), error))?;
            let address = Address::from(wallet.address());
            let account = self.client.get_balance(&address).await;
            let account = account.map_err(|error| unavailable("the account's balance".into(), error))?;
            // In credits a second when it is paid with credits.
            let cost = price.cost.as_deref().and_then(|cost| cost.parse().ok());
            let credits_per_second = cost.ok_or_else(|| unavailable(what(), "the node names none"))?;
            Ok(Some(Quote {
                credits_per_second,
                balance: account.credits,
            }))
        })
    }
}

fn post_filter(query: &PostQuery) -> MessageFilter {
    let some = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    MessageFilter {
        message_type: Some(MessageType::Post),
        content_types: some(&query.types),
        addresses: some(&query.addresses).map(|list| list.into_iter().map(Address::from).collect()),
        tags: some(&query.tags),
        refs: some(&query.refs),
        ..MessageFilter::default()
    }
}

fn parse(item_hash: &str) -> Result<ItemHash> {
    let refuse = || VaultError::Malformed {
        what: "the item hash",
        reason: item_hash.chars().take(80).collect(),
    };
    // The SDK slices hashes by bytes, so only ASCII may reach it.
    if !item_hash.is_ascii() {
        return Err(refuse());
    }
    item_hash.parse().map_err(|_| refuse())
}

fn signed(message: &Message) -> Result<SignedMessage> {
    let pending = PendingMessage::try_from(message).map_err(|error| VaultError::Message {
        message: message.item_hash.to_string(),
        reason: error.to_string(),
    })?;
    SignedMessage::from_pending(&pending)
}

fn unavailable(what: String, error: impl std::fmt::Display) -> VaultError {
    VaultError::Unavailable {
        what,
        reason: error.to_string(),
    }
}

fn endless(reason: String) -> VaultError {
    VaultError::Listing { reason }
}

/// Whether another try may succeed: rate limits, server faults, lost connections.
fn may_pass(error: &StorageError) -> bool {
    match error {
        StorageError::UploadFailed(inner) => inner
            .status()
            .is_none_or(|status| status.as_u16() == 429 || status.is_server_error()),
        StorageError::UploadTimeout(_)
        | StorageError::IpfsBackendUnavailable(_)
        | StorageError::InvalidResponseBody(_) => true,
        _ => false,
    }
}

fn upload_error(what: String, error: StorageError) -> VaultError {
    match error {
        StorageError::InsufficientBalance => VaultError::Payment { what },
        StorageError::InvalidSignature => VaultError::Forbidden {
            what,
            reason: "the signature is not valid".into(),
        },
        StorageError::FileTooLarge => VaultError::TooLarge { what },
        StorageError::InvalidMetadata(reason) => VaultError::Rejected {
            what,
            reason: short(&reason),
        },
        other => unavailable(what, other),
    }
}

fn post_error(what: String, error: MessageError) -> VaultError {
    match error {
        MessageError::ApiError { status: 402, .. } => VaultError::Payment { what },
        MessageError::ApiError { status: 403, body } => VaultError::Forbidden {
            what,
            reason: short(&body),
        },
        MessageError::ApiError { status: 413, .. } => VaultError::TooLarge { what },
        MessageError::ApiError { status: 422, body } => {
            let code = serde_json::from_str::<Value>(&body).ok();
            match code.and_then(|body| body.get("error_code").and_then(Value::as_i64)) {
                Some(code) => rejected(what, code),
                None => VaultError::Rejected {
                    what,
                    reason: short(&body),
                },
            }
        }
        other => unavailable(what, other),
    }
}

/// The network's error codes in words.
fn rejected(what: String, code: i64) -> VaultError {
    let reason = match code {
        0 => "its form is wrong",
        1 => {
            return VaultError::Forbidden {
                what,
                reason: "the signature is not valid".into(),
            };
        }
        2 => {
            return VaultError::Forbidden {
                what,
                reason: "the sender has no permission".into(),
            };
        }
        4 => "the file is not there",
        5 | 6 => return VaultError::Payment { what },
        202 => "this way of payment is no longer accepted",
        _ => {
            return VaultError::Rejected {
                what,
                reason: format!("error code {code}"),
            };
        }
    };
    VaultError::Rejected {
        what,
        reason: reason.to_owned(),
    }
}

/// A node's answer cut to a line.
fn short(body: &str) -> String {
    body.chars()
        .filter(|letter| !letter.is_control())
        .take(200)
        .collect()
}
