//! Text of stdout and stderr, gathered into few messages.
//!
//! Servers cut off clients that send a thousand messages a second, so text waits up to [`FLUSH_AFTER`] for more.
//! It goes out earlier when [`FLUSH_BYTES`] have gathered, when the other stream speaks, before any other output
//! and before idle. Bytes are cut on character borders. Called by [`crate::cell::Cell`].

use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::Publisher;
use crate::wire::Parent;

/// How long text waits for more: one message for what a loop prints, and still soon enough to look live.
const FLUSH_AFTER: Duration = Duration::from_millis(50);
/// How much text makes one message: of a flood of hundreds of megabytes a second no more than some hundred messages,
/// which is what servers allow, and each still small beside what a client may be behind.
const FLUSH_BYTES: usize = 1024 * 1024;

/// One of the two text streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// The protocol's name of this stream.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Gathers the text of one cell.
pub(crate) struct StreamBuffer {
    publisher: Arc<Publisher>,
    parent: Parent,
    state: Mutex<State>,
    filled: Arc<Notify>,
}

struct State {
    stream: Stream,
    bytes: Vec<u8>,
}

impl StreamBuffer {
    /// An empty buffer whose messages answer `parent`.
    pub(crate) fn new(publisher: Arc<Publisher>, parent: Parent) -> Arc<Self> {
        let state = Mutex::new(State {
            stream: Stream::Stdout,
            bytes: Vec::new(),
        });
        let buffer = Arc::new(Self {
            publisher,
            parent,
            state,
            filled: Arc::new(Notify::new()),
        });
        tokio::spawn(flush_regularly(
            Arc::downgrade(&buffer),
            Arc::clone(&buffer.filled),
        ));
        buffer
    }

    /// Adds text.
    pub(crate) fn push(&self, stream: Stream, mut bytes: &[u8]) {
        let mut state = self.lock();
        if state.stream != stream {
            self.publish(&mut state, true);
            state.stream = stream;
        }
        while !bytes.is_empty() {
            let room = FLUSH_BYTES
                .saturating_sub(state.bytes.len())
                .clamp(1, bytes.len());
            state.bytes.extend_from_slice(&bytes[..room]);
            bytes = &bytes[room..];
            if state.bytes.len() >= FLUSH_BYTES {
                self.publish(&mut state, false);
            }
        }
        self.filled.notify_one();
    }

    /// Publishes all text now, a cut character as a replacement character.
    pub(crate) fn flush(&self) {
        self.publish(&mut self.lock(), true);
    }

    fn publish(&self, state: &mut State, all: bool) {
        let cut = if all {
            state.bytes.len()
        } else {
            whole_characters(&state.bytes)
        };
        if cut > 0 {
            let bytes = &state.bytes[..cut];
            // Almost always it is text, and to see that takes a tenth of what looking for what is none takes.
            let text = match std::str::from_utf8(bytes) {
                Ok(text) => Cow::Borrowed(text),
                Err(_) => String::from_utf8_lossy(bytes),
            };
            self.publisher.publish_stream(&self.parent, state.stream, &text);
        }
        state.bytes.drain(..cut);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn flush_regularly(buffer: std::sync::Weak<StreamBuffer>, filled: Arc<Notify>) {
    loop {
        filled.notified().await;
        tokio::time::sleep(FLUSH_AFTER).await;
        let Some(buffer) = buffer.upgrade() else { return };
        buffer.publish(&mut buffer.lock(), false);
    }
}

impl Drop for StreamBuffer {
    fn drop(&mut self) {
        self.flush();
        self.filled.notify_one();
    }
}

/// Length of the longest beginning that does not end inside a character.
fn whole_characters(bytes: &[u8]) -> usize {
    let tail = bytes.len().saturating_sub(3);
    for at in (tail..bytes.len()).rev() {
        let length = match bytes[at] {
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf7 => 4,
            0x80..=0xbf => continue,
            _ => 1,
        };
        return if at + length > bytes.len() {
            at
        } else {
            bytes.len()
        };
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::whole_characters;

    #[test]
    fn text_is_never_cut_inside_a_character() {
        let text = "aé€😀".as_bytes();
        let borders = [0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10];
        for (length, border) in borders.into_iter().enumerate() {
            assert_eq!(whole_characters(&text[..length]), border, "first {length} bytes");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_not_held_back() {
        assert_eq!(whole_characters(&[0x80, 0x80, 0x80, 0x80]), 4);
        assert_eq!(whole_characters(b"ok"), 2);
    }
}
