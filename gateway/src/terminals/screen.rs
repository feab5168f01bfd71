//! What a terminal put out last, who looks at it and how far each has read.
//!
//! The quickest reader says how fast output comes: one that is slow, or went to sleep, holds up nobody else and misses what is
//! no longer kept. Where nobody looks, everything is as good as read.

use std::collections::{HashMap, VecDeque};

use alephlab_api::agent::{TERMINAL_KEPT, WindowSize};

/// Bytes of one message to a page.
const MESSAGE: usize = 16 << 10;
/// Where the beginning is missing, reading begins at a line: what comes before it may be half of a control sequence.
const LINE: usize = 4 << 10;
/// The window of a terminal that nobody has looked at yet.
pub(super) const FIRST_SIZE: WindowSize = WindowSize { rows: 24, cols: 80 };

/// The newest output of one terminal, and its readers.
pub(super) struct Screen {
    kept: VecDeque<u8>,
    /// Bytes put out in all.
    end: u64,
    /// Newest byte that somebody has read, and what the agent was told of that.
    taken: u64,
    told: Option<u64>,
    viewers: HashMap<u64, Viewer>,
    newest_viewer: u64,
    size: WindowSize,
}

#[derive(Default)]
struct Viewer {
    place: u64,
    size: Option<WindowSize>,
}

impl Default for Screen {
    fn default() -> Self {
        Self {
            kept: VecDeque::new(),
            end: 0,
            taken: 0,
            told: None,
            viewers: HashMap::new(),
            newest_viewer: 0,
            size: FIRST_SIZE,
        }
    }
}

impl Screen {
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    fn oldest(&self) -> u64 {
        self.end - length(self.kept.len())
    }

    /// Output came that has so much before it. What is known already is left out; what is missing was not kept by the host.
    pub(super) fn accept(&mut self, offset: u64, bytes: &[u8]) {
        if offset > self.end {
            self.kept.clear();
            self.end = offset;
        }
        let known = usize::try_from(self.end - offset).unwrap_or(usize::MAX);
        let new = bytes.get(known..).unwrap_or_default();
        self.kept.extend(new);
        self.end += length(new.len());
        let excess = self.kept.len().saturating_sub(TERMINAL_KEPT);
        self.kept.drain(..excess);
        if self.viewers.is_empty() {
            self.taken = self.end;
        }
    }

    /// Somebody looks; everything that is kept is for them.
    pub(super) fn attach(&mut self) -> u64 {
        self.newest_viewer += 1;
        self.viewers.insert(self.newest_viewer, Viewer::default());
        self.newest_viewer
    }

    /// Somebody has gone. Gives the window's size where that changes it.
    pub(super) fn detach(&mut self, viewer: u64) -> Option<WindowSize> {
        self.viewers.remove(&viewer);
        if self.viewers.is_empty() {
            self.taken = self.end;
        }
        self.fit()
    }

    /// Somebody's window has this size. Gives the terminal's where that changes it: the smallest, so that all see all of it.
    pub(super) fn resize(&mut self, viewer: u64, size: WindowSize) -> Option<WindowSize> {
        self.viewers.get_mut(&viewer)?.size = Some(size);
        self.fit()
    }

    fn fit(&mut self) -> Option<WindowSize> {
        let sizes = || self.viewers.values().filter_map(|viewer| viewer.size);
        let size = WindowSize {
            rows: sizes().map(|size| size.rows).min()?,
            cols: sizes().map(|size| size.cols).min()?,
        };
        let before = std::mem::replace(&mut self.size, size);
        (before != size).then_some(size)
    }

    /// What this viewer is to see next, and where that ends. `all`: no more comes, so that half a character is one.
    pub(super) fn next(&self, viewer: u64, all: bool) -> Option<(String, u64)> {
        let read = self.viewers.get(&viewer)?.place;
        let place = read.max(self.oldest());
        let start = usize::try_from(place - self.oldest()).ok()?;
        let stop = self.kept.len().min(start.saturating_add(MESSAGE));
        let bytes: Vec<u8> = self.kept.range(start.min(stop)..stop).copied().collect();
        let skipped = if read < place { line_start(&bytes) } else { 0 };
        let whole = if all { bytes.len() } else { whole(&bytes) };
        let text = bytes.get(skipped..whole).unwrap_or_default();
        let text = String::from_utf8_lossy(text).into_owned();
        (whole > 0).then(|| (text, place + length(whole)))
    }

    /// This viewer has read so far.
    pub(super) fn delivered(&mut self, viewer: u64, place: u64) {
        if let Some(viewer) = self.viewers.get_mut(&viewer) {
            viewer.place = place;
            self.taken = self.taken.max(place);
        }
    }

    /// How far the terminal was read, when the agent does not know that yet.
    pub(super) fn untold(&mut self) -> Option<u64> {
        let news = self.told != Some(self.taken);
        self.told = Some(self.taken);
        news.then_some(self.taken)
    }

    /// The agent is to be told again: it is connected anew.
    pub(super) fn retell(&mut self) {
        self.told = None;
    }
}

/// Bytes without the beginning of a character whose rest has not come.
fn whole(bytes: &[u8]) -> usize {
    let tail = bytes.len().saturating_sub(3);
    let start = bytes[tail..].iter().rposition(|byte| *byte >= 0xc0);
    let Some(start) = start.map(|start| tail + start) else {
        return bytes.len();
    };
    match std::str::from_utf8(&bytes[start..]) {
        Err(error) if error.error_len().is_none() => start,
        _ => bytes.len(),
    }
}

/// Where the first line begins; 0 where there is none near.
fn line_start(bytes: &[u8]) -> usize {
    let newline = bytes.iter().take(LINE).position(|byte| *byte == b'\n');
    newline.map_or(0, |newline| newline + 1)
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that a viewer has not read.
    fn read(screen: &mut Screen, viewer: u64) -> String {
        let mut all = String::new();
        while let Some((text, place)) = screen.next(viewer, false) {
            all += &text;
            screen.delivered(viewer, place);
        }
        all
    }

    #[test]
    fn each_viewer_sees_everything_once_from_the_start() {
        let mut screen = Screen::default();
        screen.accept(0, b"one ");
        let early = screen.attach();
        assert_eq!(read(&mut screen, early), "one ");
        screen.accept(2, b"e two");
        let late = screen.attach();
        assert_eq!(read(&mut screen, early), "two");
        assert_eq!(read(&mut screen, late), "one two");
        screen.accept(0, b"one two");
        assert_eq!((read(&mut screen, early).as_str(), screen.end()), ("", 7));
    }

    #[test]
    fn the_quickest_reader_counts_or_nobody() {
        let mut screen = Screen::default();
        screen.accept(0, &[b'x'; 100]);
        assert_eq!((screen.untold(), screen.untold()), (Some(100), None));
        let (quick, slow) = (screen.attach(), screen.attach());
        screen.accept(100, &[b'x'; 100]);
        assert_eq!(screen.untold(), None, "nobody has read it");
        screen.delivered(quick, 150);
        screen.delivered(slow, 110);
        assert_eq!(screen.untold(), Some(150));
        screen.retell();
        assert_eq!(screen.untold(), Some(150));
        screen.detach(quick);
        assert_eq!(screen.untold(), None);
        screen.detach(slow);
        assert_eq!(screen.untold(), Some(200));
    }

    #[test]
    fn a_slow_reader_goes_on_at_a_line_of_what_is_kept() {
        let mut screen = Screen::default();
        let viewer = screen.attach();
        screen.accept(0, &b"0123456789\n".repeat(TERMINAL_KEPT / 10));
        assert!(screen.kept.len() <= TERMINAL_KEPT);
        let text = read(&mut screen, viewer);
        assert!(text.starts_with("0123456789\n") && text.len() > TERMINAL_KEPT - 20);
    }

    #[test]
    fn what_the_host_did_not_keep_is_passed_over() {
        let mut screen = Screen::default();
        screen.accept(0, b"old");
        screen.accept(50, b"cut\nnew");
        let viewer = screen.attach();
        assert_eq!((read(&mut screen, viewer).as_str(), screen.end()), ("new", 57));
    }

    #[test]
    fn characters_are_whole_and_what_is_none_is_marked() {
        let mut screen = Screen::default();
        let (viewer, euro) = (screen.attach(), "€".as_bytes());
        screen.accept(0, &[b"a", &euro[..2]].concat());
        assert_eq!(read(&mut screen, viewer), "a");
        screen.accept(3, &euro[2..]);
        assert_eq!(read(&mut screen, viewer), "€");
        screen.accept(4, b"\xff\xfe!");
        assert_eq!(read(&mut screen, viewer), "\u{fffd}\u{fffd}!");
        screen.accept(7, &euro[..1]);
        assert_eq!(screen.next(viewer, false), None);
        assert_eq!(screen.next(viewer, true), Some(("\u{fffd}".to_owned(), 8)));
    }

    #[test]
    fn the_window_is_as_small_as_the_smallest() {
        let mut screen = Screen::default();
        let (one, two) = (screen.attach(), screen.attach());
        let size = |rows, cols| WindowSize { rows, cols };
        assert_eq!(screen.resize(one, FIRST_SIZE), None);
        assert_eq!(screen.resize(one, size(50, 100)), Some(size(50, 100)));
        assert_eq!(screen.resize(two, size(20, 200)), Some(size(20, 100)));
        assert_eq!(screen.detach(two), Some(size(50, 100)));
        assert_eq!(screen.detach(one), None);
    }
}
