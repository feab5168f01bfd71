//! One subscriber of iopub: its subscriptions, its queue with a byte budget, and its connection.
//!
//! A slow subscriber costs itself only: its queue fills, then the text of streams is dropped (oldest first, with
//! one notice), then it is disconnected. Status, results and errors are never dropped. Called by
//! [`super::Publisher`].

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::zmtp::{self, FromSubscriber};

/// How long a peer may take for its greeting.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Small messages are written together up to this many bytes.
const BATCH_BYTES: usize = 64 * 1024;

/// When a subscriber counts as too slow.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes that may wait for one subscriber.
    pub budget_bytes: usize,
    /// How long a subscriber may stay over its budget before it is disconnected.
    pub over_budget: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            budget_bytes: 64 * 1024 * 1024,
            over_budget: Duration::from_secs(30),
        }
    }
}

/// Whether a message may be dropped for a slow subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Text of stdout or stderr.
    Stream,
    /// Everything else.
    Kept,
}

/// A message ready for the wire, and the notice to put in its place when it is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) bytes: Bytes,
    pub(crate) kind: Kind,
}

/// One subscriber. Locks are held for a few instructions only, never across an await.
pub(crate) struct Subscriber {
    topics: Mutex<Vec<Bytes>>,
    queue: Mutex<Queue>,
    wake: Notify,
    gone: CancellationToken,
    limits: Limits,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    /// Bytes of `items` and of what is being written now.
    bytes: usize,
    /// Since when the budget was exceeded without having been half empty again.
    over_since: Option<Instant>,
}

impl Subscriber {
    pub(crate) fn new(limits: Limits, gone: CancellationToken) -> Self {
        Self {
            topics: Mutex::default(),
            queue: Mutex::default(),
            wake: Notify::new(),
            gone,
            limits,
        }
    }

    pub(crate) fn wants(&self, topic: &[u8]) -> bool {
        lock(&self.topics).iter().any(|prefix| topic.starts_with(prefix))
    }

    /// Queues a message; `notice` makes the message that says that text was dropped.
    pub(crate) fn push(&self, item: Item, notice: impl FnOnce() -> Item) {
        let mut queue = lock(&self.queue);
        let room = |queue: &Queue, item: &Item| queue.bytes + item.bytes.len() <= self.limits.budget_bytes;
        if room(&queue, &item) {
            queue.add(item);
        } else {
            let first = queue.over_since.is_none();
            let since = *queue.over_since.get_or_insert_with(Instant::now);
            if since.elapsed() > self.limits.over_budget || queue.bytes / 2 > self.limits.budget_bytes {
                self.gone.cancel();
                return;
            }
            if first {
                queue.add(notice());
            }
            if item.kind == Kind::Kept {
                queue.drop_streams(item.bytes.len(), self.limits.budget_bytes);
                queue.add(item);
            }
        }
        drop(queue);
        self.wake.notify_one();
    }

    /// Serves the connection until either end closes it. `subscribed` is told every new subscription.
    pub(crate) async fn serve<S>(&self, stream: S, subscribed: impl Fn(&Bytes)) -> std::io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let greeted = tokio::time::timeout(HANDSHAKE_LIMIT, async {
            writer.write_all(&zmtp::greeting()).await?;
            let mut greeting = [0_u8; zmtp::GREETING_BYTES];
            reader.read_exact(&mut greeting).await?;
            if !zmtp::is_greeting(&greeting) {
                return Err(std::io::ErrorKind::InvalidData.into());
            }
            writer.write_all(&zmtp::ready()).await
        });
        greeted.await.map_err(|_| std::io::ErrorKind::TimedOut)??;
        tokio::select! {
            () = self.gone.cancelled() => Ok(()),
            result = self.read_all(reader, subscribed) => result,
            result = self.write_all(writer) => result,
        }
    }

    async fn read_all(
        &self,
        mut reader: impl AsyncRead + Unpin,
        subscribed: impl Fn(&Bytes),
    ) -> std::io::Result<()> {
        loop {
            match zmtp::read(&mut reader).await? {
                FromSubscriber::Subscribe(topic) => {
                    // Under one lock, so that the welcome is the first message that this subscription brings, and
                    // whoever has read it misses nothing that is published afterwards.
                    let mut topics = lock(&self.topics);
                    subscribed(&topic);
                    topics.push(topic);
                }
                FromSubscriber::Cancel(topic) => {
                    let mut topics = lock(&self.topics);
                    if let Some(at) = topics.iter().position(|known| *known == topic) {
                        topics.swap_remove(at);
                    }
                }
                FromSubscriber::Ping(context) => {
                    let pong = Item {
                        bytes: zmtp::pong(&context),
                        kind: Kind::Kept,
                    };
                    lock(&self.queue).add(pong);
                    self.wake.notify_one();
                }
                FromSubscriber::Ready | FromSubscriber::Other => {}
            }
        }
    }

    async fn write_all(&self, mut writer: impl AsyncWrite + Unpin) -> std::io::Result<()> {
        loop {
            let Some(batch) = self.next_batch() else {
                self.wake.notified().await;
                continue;
            };
            let length = batch.len();
            writer.write_all(&batch).await?;
            lock(&self.queue).written(length, self.limits.budget_bytes);
        }
    }

    fn next_batch(&self) -> Option<Bytes> {
        let mut queue = lock(&self.queue);
        let first = queue.items.pop_front()?;
        let more = queue
            .items
            .front()
            .is_some_and(|next| first.bytes.len() + next.bytes.len() < BATCH_BYTES);
        if !more {
            return Some(first.bytes);
        }
        let mut batch = BytesMut::from(&first.bytes[..]);
        while let Some(next) = queue
            .items
            .pop_front_if(|next| batch.len() + next.bytes.len() < BATCH_BYTES)
        {
            batch.extend_from_slice(&next.bytes);
        }
        Some(batch.freeze())
    }
}

impl Queue {
    fn add(&mut self, item: Item) {
        self.bytes += item.bytes.len();
        self.items.push_back(item);
    }

    fn written(&mut self, bytes: usize, budget: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
        if self.bytes < budget / 2 {
            self.over_since = None;
        }
    }

    /// Drops queued text, oldest first, until `needed` bytes fit.
    fn drop_streams(&mut self, needed: usize, budget: usize) {
        let mut bytes = self.bytes;
        self.items.retain(|item| {
            let keep = item.kind == Kind::Kept || bytes + needed <= budget;
            if !keep {
                bytes -= item.bytes.len();
            }
            keep
        });
        self.bytes = bytes;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(kind: Kind, length: usize) -> Item {
        Item {
            bytes: Bytes::from(vec![if kind == Kind::Stream { b's' } else { b'k' }; length]),
            kind,
        }
    }

    fn subscriber(over_budget: Duration) -> Subscriber {
        Subscriber::new(
            Limits {
                budget_bytes: 100,
                over_budget,
            },
            CancellationToken::new(),
        )
    }

    fn notice() -> Item {
        Item {
            bytes: Bytes::from_static(b"n"),
            kind: Kind::Kept,
        }
    }

    fn queued(subscriber: &Subscriber) -> String {
        let queue = lock(&subscriber.queue);
        queue.items.iter().map(|item| char::from(item.bytes[0])).collect()
    }

    #[test]
    fn over_budget_text_is_dropped_with_one_notice_and_status_is_kept() {
        let subscriber = subscriber(Duration::from_secs(60));
        subscriber.push(item(Kind::Stream, 60), notice);
        for _ in 0..5 {
            subscriber.push(item(Kind::Stream, 60), notice);
        }
        assert_eq!(queued(&subscriber), "sn");
        subscriber.push(item(Kind::Kept, 90), notice);
        assert_eq!(queued(&subscriber), "nk");
        assert!(!subscriber.gone.is_cancelled());
    }

    #[test]
    fn a_subscriber_that_stays_over_its_budget_is_disconnected() {
        let subscriber = subscriber(Duration::ZERO);
        subscriber.push(item(Kind::Kept, 99), notice);
        subscriber.push(item(Kind::Kept, 99), notice);
        let deadline = Instant::now() + Duration::from_secs(5);
        while !subscriber.gone.is_cancelled() && Instant::now() < deadline {
            subscriber.push(item(Kind::Stream, 99), notice);
        }
        assert!(subscriber.gone.is_cancelled());
    }

    #[test]
    fn small_messages_are_written_together_and_large_ones_alone() {
        let subscriber = Subscriber::new(Limits::default(), CancellationToken::new());
        for _ in 0..3 {
            subscriber.push(item(Kind::Kept, 10), notice);
        }
        subscriber.push(item(Kind::Kept, BATCH_BYTES), notice);
        assert_eq!(subscriber.next_batch().unwrap().len(), 30);
        assert_eq!(subscriber.next_batch().unwrap().len(), BATCH_BYTES);
        assert!(subscriber.next_batch().is_none());
    }
}
