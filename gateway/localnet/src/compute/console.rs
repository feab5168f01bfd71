//! What an instance's first program writes: kept in memory, shown to its owner, never logged.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::broadcast,
};

use crate::db;

/// Lines that a console keeps; older ones go.
const MAX_LINES: usize = 2_000;

/// Longest line in bytes; a longer one is shown in parts.
const MAX_LINE_BYTES: usize = 8 * 1024;

/// Lines that a slow listener may lag behind before it loses some.
const LISTENER_LINES: usize = 1_024;

/// Where a line comes from, in the words of the CRN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Stdout,
    Stderr,
    /// The host itself.
    System,
}

impl Source {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::System => "system",
        }
    }
}

/// One line.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) source: Source,
    pub(crate) text: Arc<str>,
    /// Unix seconds.
    pub(crate) time: f64,
}

/// The console of one instance, over all its boots.
#[derive(Debug)]
pub(crate) struct Console {
    lines: Mutex<VecDeque<Line>>,
    live: broadcast::Sender<Line>,
}

impl Default for Console {
    fn default() -> Self {
        Self {
            lines: Mutex::default(),
            live: broadcast::Sender::new(LISTENER_LINES),
        }
    }
}

impl Console {
    pub(crate) fn write(&self, source: Source, text: &str) {
        let line = Line {
            source,
            text: text.into(),
            time: db::now(),
        };
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() >= MAX_LINES {
            lines.pop_front();
        }
        lines.push_back(line.clone());
        // Under the lock, so that whoever joins misses no line and gets none twice. Nobody may be listening.
        let _ = self.live.send(line);
    }

    /// What is kept, and everything after it.
    pub(crate) fn follow(&self) -> (Vec<Line>, broadcast::Receiver<Line>) {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        (lines.iter().cloned().collect(), self.live.subscribe())
    }

    /// What is kept.
    pub(crate) fn past(&self) -> Vec<Line> {
        self.follow().0
    }

    /// Writes all lines of a stream, and tells each to `seen`.
    pub(crate) async fn copy(
        &self,
        source: Source,
        mut stream: impl AsyncRead + Unpin,
        mut seen: impl FnMut(&str),
    ) {
        let mut line = Vec::new();
        let mut buffer = vec![0; MAX_LINE_BYTES];
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            for &byte in buffer.iter().take(count) {
                let is_end = byte == b'\n';
                if !is_end {
                    line.push(byte);
                }
                if is_end || line.len() >= MAX_LINE_BYTES {
                    let text = String::from_utf8_lossy(&line);
                    seen(&text);
                    self.write(source, &text);
                    line.clear();
                }
            }
        }
        if !line.is_empty() {
            self.write(source, &String::from_utf8_lossy(&line));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_cut_and_bounded() {
        let console = Console::default();
        let mut seen = 0;
        let text = format!(
            "{}\n{}\nlast",
            "x\n".repeat(MAX_LINES),
            "y".repeat(MAX_LINE_BYTES + 1)
        );
        console.copy(Source::Stdout, text.as_bytes(), |_| seen += 1).await;
        let past = console.past();
        assert_eq!(past.len(), MAX_LINES);
        let ends: Vec<usize> = past.iter().rev().take(3).map(|line| line.text.len()).collect();
        assert_eq!(ends, [4, 1, MAX_LINE_BYTES]);
        assert_eq!(seen, MAX_LINES + 3);
    }
}
