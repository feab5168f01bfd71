//! What one terminal put out: the newest part of it, and how far it was sent and read, counted in bytes since it was opened.
//!
//! What is not sent yet is always kept: the shell waits while the gateway has [`TERMINAL_WINDOW`] to read. While no gateway is
//! there nobody reads, and the oldest goes, as in every terminal.

use std::collections::VecDeque;

use alephlab_api::agent::{TERMINAL_KEPT, TERMINAL_WINDOW};

/// Output, input and end of one terminal.
#[derive(Default)]
pub(super) struct Kept {
    bytes: VecDeque<u8>,
    /// Bytes put out in all.
    end: u64,
    sent: u64,
    /// What was read by whoever looks at the terminal.
    taken: u64,
    /// Bytes of input that came, that its shell has got, and that were reported so.
    received: u64,
    took: u64,
    told_took: u64,
    ended: Option<End>,
}

struct End {
    reason: Option<String>,
    told: bool,
}

impl Kept {
    fn oldest(&self) -> u64 {
        self.end - length(self.bytes.len())
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        self.end += length(bytes.len());
        let excess = self.bytes.len().saturating_sub(TERMINAL_KEPT);
        self.bytes.drain(..excess);
    }

    /// Bytes that the shell may put out before somebody reads.
    pub(super) fn room(&self) -> u64 {
        (self.taken + TERMINAL_WINDOW).saturating_sub(self.end)
    }

    /// The gateway says how far its reader came; true when there was no room and is now.
    pub(super) fn take(&mut self, taken: u64) -> bool {
        let before = self.room();
        self.taken = self.taken.max(taken.min(self.end));
        before == 0 && self.room() > 0
    }

    /// A connection begins whose gateway has so much.
    pub(super) fn resume(&mut self, has: u64) {
        self.sent = has.clamp(self.oldest(), self.end);
        self.told_took = 0;
        if let Some(end) = &mut self.ended {
            end.told = false;
        }
    }

    /// What is to be sent next, at most so much, and how much came before it.
    pub(super) fn unsent(&mut self, most: usize) -> Option<(u64, Vec<u8>)> {
        let offset = self.sent.max(self.oldest());
        let start = usize::try_from(offset - self.oldest()).unwrap_or(usize::MAX);
        let stop = self.bytes.len().min(start.saturating_add(most));
        let bytes: Vec<u8> = self.bytes.range(start.min(stop)..stop).copied().collect();
        self.sent = offset + length(bytes.len());
        (!bytes.is_empty()).then_some((offset, bytes))
    }

    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Input that came and that the shell has not got.
    pub(super) fn waiting(&self) -> u64 {
        self.received.saturating_sub(self.took)
    }

    pub(super) fn receive(&mut self, bytes: usize) {
        self.received += length(bytes);
    }

    pub(super) fn took(&mut self, bytes: usize) {
        self.took += length(bytes);
    }

    /// How much input the shell has got, when that was not told yet.
    pub(super) fn untold_input(&mut self) -> Option<u64> {
        let news = self.took != self.told_took;
        self.told_took = self.took;
        news.then_some(self.took)
    }

    pub(super) fn end(&mut self, reason: Option<String>) {
        self.ended.get_or_insert(End { reason, told: false });
    }

    /// Why it ended, once after all its output.
    pub(super) fn untold_end(&mut self) -> Option<Option<String>> {
        let end = self
            .ended
            .as_mut()
            .filter(|end| !end.told && self.sent == self.end)?;
        end.told = true;
        Some(end.reason.clone())
    }
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sends_each_byte_once_and_again_what_a_new_connection_lacks() {
        let mut kept = Kept::default();
        kept.push(b"hello");
        assert_eq!(kept.unsent(3), Some((0, b"hel".to_vec())));
        assert_eq!(kept.unsent(9), Some((3, b"lo".to_vec())));
        assert_eq!(kept.unsent(9), None);
        kept.resume(1);
        assert_eq!(kept.unsent(9), Some((1, b"ello".to_vec())));
        kept.resume(1 << 40);
        assert_eq!(kept.unsent(9), None, "more than there is, is all");
    }

    #[test]
    fn has_room_as_far_as_it_was_read() {
        let mut kept = Kept::default();
        let window = usize::try_from(TERMINAL_WINDOW).unwrap();
        kept.push(&vec![b'x'; window - 1]);
        assert_eq!(kept.room(), 1);
        kept.push(b"xy");
        assert_eq!(kept.room(), 0);
        assert!(!kept.take(1) && kept.take(2) && !kept.take(3));
        assert!(!kept.take(0), "what was read stays read");
        assert_eq!(kept.room(), 2);
    }

    #[test]
    fn keeps_the_newest_only() {
        let mut kept = Kept::default();
        for _ in 0..9 {
            kept.push(&vec![b'x'; TERMINAL_KEPT / 4]);
        }
        kept.push(b"end");
        let all = kept.end;
        let (offset, bytes) = kept.unsent(usize::MAX).unwrap();
        assert_eq!((bytes.len(), offset + length(bytes.len())), (TERMINAL_KEPT, all));
        assert!(bytes.ends_with(b"end"));
    }

    #[test]
    fn its_end_comes_after_its_output_and_again_on_each_connection() {
        let mut kept = Kept::default();
        kept.push(b"bye");
        kept.end(Some("why".to_owned()));
        kept.end(None);
        assert_eq!(kept.untold_end(), None);
        kept.unsent(9);
        assert_eq!(kept.untold_end(), Some(Some("why".to_owned())));
        assert_eq!(kept.untold_end(), None);
        kept.resume(3);
        assert_eq!(kept.untold_end(), Some(Some("why".to_owned())));
    }

    #[test]
    fn tells_of_input_once() {
        let mut kept = Kept::default();
        kept.receive(5);
        kept.took(2);
        assert_eq!((kept.received(), kept.waiting()), (5, 3));
        assert_eq!((kept.untold_input(), kept.untold_input()), (Some(2), None));
        kept.resume(0);
        assert_eq!(kept.untold_input(), Some(2));
    }
}
