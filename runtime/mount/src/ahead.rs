//! Which objects to fetch before they are asked for: those that follow, once a file is read from front to back.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Reads in a row that make a file read from front to back.
const IN_A_ROW: u32 = 2;
/// How far from the end of the last read the next may begin, in bytes: the system sends reads of one file at once, and
/// they come in any order.
const NEAR: u64 = 1 << 20;

/// How one open file is read.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// End of the furthest read of the row.
    end: u64,
    in_a_row: u32,
}

impl Cursor {
    /// Notes a read, and says what to have ready: the `ahead` bytes that follow it, or nothing where the file is read here
    /// and there.
    pub(crate) fn read(&self, offset: u64, length: u64, ahead: u64) -> Option<Range<u64>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let end = offset.saturating_add(length);
        if offset.abs_diff(state.end) <= NEAR {
            state.in_a_row = state.in_a_row.saturating_add(1);
            state.end = state.end.max(end);
        } else {
            *state = State { end, in_a_row: 1 };
        }
        (state.in_a_row >= IN_A_ROW).then(|| state.end..state.end.saturating_add(ahead))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_read_from_front_to_back_is_fetched_ahead_also_when_reads_overtake_each_other() {
        let cursor = Cursor::default();
        assert_eq!(cursor.read(0, 128, 1000), None);
        assert_eq!(cursor.read(256, 128, 1000), Some(384..1384));
        assert_eq!(cursor.read(128, 128, 1000), Some(384..1384));
    }

    #[test]
    fn one_read_here_and_there_is_not() {
        let cursor = Cursor::default();
        for offset in [50 * NEAR, 10 * NEAR, 90 * NEAR] {
            assert_eq!(cursor.read(offset, 4096, 1000), None);
        }
        assert!(cursor.read(90 * NEAR + 4096, 4096, 1000).is_some());
    }
}
