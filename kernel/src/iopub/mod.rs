//! IOPub: our own XPUB publisher.
//!
//! zeromq's XPUB writes to its subscribers in turn, so one that stops reading freezes output for all; its PUB
//! queues without a bound and cannot send `iopub_welcome`. Here publishing only appends to queues and never
//! waits, so neither a cell nor the control channel can be held up by a client. Called by everything that
//! publishes; the text of streams comes through [`StreamBuffer`].

mod stream;
mod subscriber;
mod zmtp;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use json_escape_simd::escape_into;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use stream::Stream;
pub(crate) use stream::StreamBuffer;
pub use subscriber::Limits;
use subscriber::{Item, Kind, Subscriber};

use crate::wire::{Parent, Parts, Session};
use crate::{Error, Result};

/// What a slow subscriber reads in place of the text it missed.
const DROPPED_NOTICE: &str = "\n[output dropped: this client reads too slowly]\n";
/// Pause after a failed accept, for example when no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Publishes to all subscribers.
pub(crate) struct Publisher {
    session: Arc<Session>,
    subscribers: Mutex<HashMap<u64, Arc<Subscriber>>>,
    next_id: AtomicU64,
    subscribed: watch::Sender<bool>,
    limits: Limits,
    cancel: CancellationToken,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Publisher {
    /// Listens on `tcp://IP:PORT` or `ipc://PATH` until `cancel`.
    ///
    /// # Errors
    /// [`Error::Bind`].
    pub(crate) async fn bind(
        address: &str,
        session: Arc<Session>,
        limits: Limits,
        cancel: CancellationToken,
    ) -> Result<Arc<Self>> {
        let listener = listen(address).await.map_err(|source| Error::Bind {
            channel: "iopub",
            address: address.to_owned(),
            message: source.to_string(),
        })?;
        let publisher = Arc::new(Self {
            session,
            subscribers: Mutex::default(),
            next_id: AtomicU64::new(0),
            subscribed: watch::Sender::new(false),
            limits,
            cancel,
        });
        tokio::spawn(Arc::clone(&publisher).accept_all(listener));
        Ok(publisher)
    }

    /// Publishes a message that is never dropped.
    pub(crate) fn publish(&self, msg_type: &str, parent: &Parent, content: &impl Serialize) {
        self.publish_with(msg_type, parent, &json!({}), content);
    }

    /// As [`Publisher::publish`], with metadata.
    pub(crate) fn publish_with(
        &self,
        msg_type: &str,
        parent: &Parent,
        metadata: &Value,
        content: &impl Serialize,
    ) {
        self.publish_binary(msg_type, parent, metadata, content, Vec::new());
    }

    /// As [`Publisher::publish_with`], with binary parts behind the content.
    pub(crate) fn publish_binary(
        &self,
        msg_type: &str,
        parent: &Parent,
        metadata: &Value,
        content: &impl Serialize,
        buffers: Vec<Bytes>,
    ) {
        let parts = || {
            self.session
                .encode(msg_type, parent, metadata, content)
                .with_buffers(buffers)
        };
        self.send(msg_type, parent, Kind::Kept, parts);
    }

    /// Publishes text of a stream, which a too slow subscriber misses.
    pub(crate) fn publish_stream(&self, parent: &Parent, stream: Stream, text: &str) {
        self.send("stream", parent, Kind::Stream, || {
            self.encode_stream(parent, stream.name(), text)
        });
    }

    /// Waits until somebody has subscribed, `limit` at most.
    pub(crate) async fn wait_for_subscriber(&self, limit: Duration) {
        let mut subscribed = self.subscribed.subscribe();
        let _ = tokio::time::timeout(limit, subscribed.wait_for(|yes| *yes)).await;
    }

    fn send(&self, msg_type: &str, parent: &Parent, kind: Kind, encode: impl FnOnce() -> Parts) {
        let subscribers: Vec<_> = {
            let all = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
            all.values()
                .filter(|one| one.wants(msg_type.as_bytes()))
                .cloned()
                .collect()
        };
        if subscribers.is_empty() {
            return;
        }
        let item = Item {
            bytes: published(msg_type, encode()),
            kind,
        };
        for subscriber in subscribers {
            subscriber.push(item.clone(), || {
                let notice = self.encode_stream(parent, "stderr", DROPPED_NOTICE);
                Item {
                    bytes: published("stream", notice),
                    kind: Kind::Kept,
                }
            });
        }
    }

    fn encode_stream(&self, parent: &Parent, name: &str, text: &str) -> Parts {
        let content = stream_content(name, text);
        self.session.encode_json("stream", parent, &json!({}), content)
    }

    async fn accept_all(self: Arc<Self>, listener: Listener) {
        loop {
            let accepted = tokio::select! {
                () = self.cancel.cancelled() => return,
                accepted = accept(&listener) => accepted,
            };
            match accepted {
                Ok(stream) => {
                    tokio::spawn(Arc::clone(&self).serve(stream));
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    async fn serve(self: Arc<Self>, stream: Box<dyn Duplex>) {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let subscriber = Arc::new(Subscriber::new(self.limits, self.cancel.child_token()));
        self.lock().insert(id, Arc::clone(&subscriber));
        let welcome = |topic: &Bytes| {
            let content = json!({ "subscription": String::from_utf8_lossy(topic) });
            let parts = self
                .session
                .encode("iopub_welcome", &Parent::none(), &json!({}), &content);
            let bytes = zmtp::message(&parts.frames(std::slice::from_ref(topic)));
            subscriber.push(
                Item {
                    bytes,
                    kind: Kind::Kept,
                },
                no_notice,
            );
            self.subscribed.send_replace(true);
        };
        if let Err(error) = subscriber.serve(stream, welcome).await {
            tracing::debug!(%error, "iopub subscriber left");
        }
        self.lock().remove(&id);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Subscriber>>> {
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Not through serde: looking at each byte was a third of what a flood of text costs a kernel.
fn stream_content(name: &str, text: &str) -> Vec<u8> {
    let mut content = Vec::with_capacity(text.len() + text.len() / 32 + 64);
    content.extend_from_slice(br#"{"name":"#);
    escape_into(name, &mut content);
    content.extend_from_slice(br#","text":"#);
    escape_into(text, &mut content);
    content.push(b'}');
    content
}

/// A message as subscribers read it, behind its topic.
fn published(msg_type: &str, parts: Parts) -> Bytes {
    let topic = Bytes::copy_from_slice(msg_type.as_bytes());
    zmtp::message(&parts.frames(&[topic]))
}

/// A welcome pushed to a queue that is full already needs no notice of its own.
fn no_notice() -> Item {
    Item {
        bytes: Bytes::new(),
        kind: Kind::Kept,
    }
}

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

async fn listen(address: &str) -> std::io::Result<Listener> {
    if let Some(path) = address.strip_prefix("ipc://") {
        return UnixListener::bind(path).map(Listener::Unix);
    }
    TcpListener::bind(address.trim_start_matches("tcp://"))
        .await
        .map(Listener::Tcp)
}

async fn accept(listener: &Listener) -> std::io::Result<Box<dyn Duplex>> {
    match listener {
        Listener::Tcp(listener) => {
            let (stream, _) = listener.accept().await?;
            // Without it small messages wait 40 ms for an acknowledgement.
            stream.set_nodelay(true)?;
            Ok(Box::new(stream))
        }
        Listener::Unix(listener) => Ok(Box::new(listener.accept().await?.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_streams_is_escaped_as_serde_does() {
        let every: String = (0..=0x2030u32)
            .filter_map(char::from_u32)
            .chain("🦀\u{10ffff}".chars())
            .collect();
        let lines = "a line that is longer than one register of any width is, and ends\n".repeat(40);
        // Every length and place of what is escaped, as registers see it.
        let shifted = (0..130).map(|at| format!("{}\"{}", "x".repeat(at), "y".repeat(130 - at)));
        for text in [String::new(), every, lines].into_iter().chain(shifted) {
            let written = stream_content("stdout", &text);
            let expected = serde_json::to_vec(&json!({ "name": "stdout", "text": text })).unwrap();
            assert_eq!(written, expected, "{text:?}");
        }
    }
}
