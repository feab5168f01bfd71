//! Takes evcxr's own marks out of a cell's stdout.
//!
//! evcxr's generated code and the ecosystem's `evcxr_display` methods print marks among the text. Text passes
//! through at once, also without a line feed; only what may become a mark is held until that is clear. A mark
//! counts anywhere in a line: a panic after `print!` leaves one behind that text. Pure; called by
//! [`super::link`].

/// Begins every mark.
const PREFIX: &[u8] = b"EVCXR_";
const BEGIN: &[u8] = b"EVCXR_BEGIN_CONTENT ";
const END: &[u8] = b"EVCXR_END_CONTENT\n";
/// Marks that are a whole line.
pub(super) const PANIC: &str = "EVCXR_PANIC_NOTIFICATION";
/// See [`PANIC`].
pub(super) const ERROR: &str = "EVCXR_ERROR_OCCURRED";
/// Followed by the variable's name.
const CHANGED: &[u8] = b"EVCXR_VARIABLE_CHANGED_TYPE:";
/// Longest line that can be a mark: a variable name or a media type behind it.
const MAX_MARK_BYTES: usize = 512;
/// Longest content block, the same as the longest frame.
const MAX_CONTENT_BYTES: usize = alephlab_link::MAX_FRAME_BYTES;

/// What stdout held, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// The cell's own text.
    Text(Vec<u8>),
    /// A line for evcxr.
    Control(String),
    /// A block between begin and end marks.
    Content { media_type: String, content: String },
}

/// The filter of one child.
#[derive(Debug, Default)]
pub(super) struct Markers {
    held: Vec<u8>,
    /// Media type and bytes of an open content block.
    content: Option<(String, Vec<u8>)>,
}

impl Markers {
    /// Takes bytes as they were read.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<Piece> {
        self.held.extend_from_slice(bytes);
        let mut pieces = Vec::new();
        while self.step(&mut pieces) {}
        pieces
    }

    /// Whether text is held that may be a mark.
    pub(super) fn is_holding(&self) -> bool {
        !self.held.is_empty() && self.content.is_none()
    }

    /// Gives up waiting: what is held is text.
    pub(super) fn finish(&mut self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        if let Some((_, content)) = self.content.take() {
            text(&mut pieces, content);
        }
        text(&mut pieces, std::mem::take(&mut self.held));
        pieces
    }

    /// Does one thing; false when more bytes are needed.
    fn step(&mut self, pieces: &mut Vec<Piece>) -> bool {
        if self.content.is_some() {
            return self.step_content(pieces);
        }
        let at = find_start(&self.held);
        let rest = self.held.split_off(at);
        text(pieces, std::mem::replace(&mut self.held, rest));
        if self.held.is_empty() {
            return false;
        }
        let Some(line_end) = self.held.iter().position(|byte| *byte == b'\n') else {
            return self.give_up_unless(could_be_mark(&self.held), pieces);
        };
        let line = String::from_utf8_lossy(&self.held[..line_end]).into_owned();
        if line == PANIC || line == ERROR || line.as_bytes().starts_with(CHANGED) {
            pieces.push(Piece::Control(line));
        } else if let Some(media_type) = line.as_bytes().strip_prefix(BEGIN) {
            let media_type = String::from_utf8_lossy(media_type).trim().to_owned();
            self.content = Some((media_type, Vec::new()));
        } else {
            return self.give_up_unless(false, pieces);
        }
        self.held.drain(..=line_end);
        true
    }

    /// Passes on the first byte as text, so that the search goes on behind it, unless `wait`.
    fn give_up_unless(&mut self, wait: bool, pieces: &mut Vec<Piece>) -> bool {
        if wait {
            return false;
        }
        text(pieces, vec![self.held.remove(0)]);
        true
    }

    fn step_content(&mut self, pieces: &mut Vec<Piece>) -> bool {
        let Some((media_type, mut content)) = self.content.take() else {
            return false;
        };
        let searched = content.len().saturating_sub(END.len());
        content.append(&mut self.held);
        let end = find(&content[searched..], END).map(|at| searched + at);
        match end {
            Some(end) => {
                self.held = content.split_off(end + END.len());
                content.truncate(end);
                if content.last() == Some(&b'\n') {
                    content.pop();
                }
                let content = String::from_utf8_lossy(&content).into_owned();
                pieces.push(Piece::Content { media_type, content });
                true
            }
            None if content.len() > MAX_CONTENT_BYTES => {
                text(pieces, content);
                false
            }
            None => {
                self.content = Some((media_type, content));
                false
            }
        }
    }
}

fn text(pieces: &mut Vec<Piece>, bytes: Vec<u8>) {
    match pieces.last_mut() {
        _ if bytes.is_empty() => {}
        Some(Piece::Text(before)) => before.extend(bytes),
        _ => pieces.push(Piece::Text(bytes)),
    }
}

/// Where a mark may start: at the whole prefix, or at an end that could grow into it.
fn find_start(bytes: &[u8]) -> usize {
    if let Some(at) = find(bytes, PREFIX) {
        return at;
    }
    let longest = (PREFIX.len() - 1).min(bytes.len());
    (1..=longest)
        .rev()
        .find(|length| bytes.ends_with(&PREFIX[..*length]))
        .map_or(bytes.len(), |n| bytes.len() - n)
}

/// Whether an unfinished line can still become a mark.
fn could_be_mark(bytes: &[u8]) -> bool {
    let marks = [PANIC.as_bytes(), ERROR.as_bytes(), CHANGED, BEGIN];
    bytes.len() < MAX_MARK_BYTES
        && marks.iter().any(|mark| {
            let length = mark.len().min(bytes.len());
            let open_ended = *mark == CHANGED || *mark == BEGIN;
            bytes[..length] == mark[..length] && (open_ended || bytes.len() <= mark.len())
        })
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pushes the text in chunks of every size: marks may be cut anywhere.
    fn check(input: &str, expected: &[Piece]) {
        for chunk in 1..=input.len() {
            let mut markers = Markers::default();
            let mut pieces = Vec::new();
            let parts = input
                .as_bytes()
                .chunks(chunk)
                .map(|part| markers.push(part))
                .collect::<Vec<_>>();
            for piece in parts.into_iter().chain([markers.finish()]).flatten() {
                match (pieces.last_mut(), piece) {
                    (Some(Piece::Text(before)), Piece::Text(bytes)) => before.extend(bytes),
                    (_, piece) => pieces.push(piece),
                }
            }
            assert_eq!(pieces, expected, "in chunks of {chunk}");
        }
    }

    fn text(text: &str) -> Piece {
        Piece::Text(text.as_bytes().to_vec())
    }

    #[test]
    fn text_passes_unchanged() {
        check(
            "EVEN EVCXR_ERRORS\nEVCXR_\r 50 %",
            &[text("EVEN EVCXR_ERRORS\nEVCXR_\r 50 %")],
        );
    }

    #[test]
    fn text_that_cannot_become_a_mark_is_not_held() {
        let mut markers = Markers::default();
        assert_eq!(markers.push(b"50 %\r"), [text("50 %\r")]);
        assert!(!markers.is_holding());
        assert_eq!(markers.push(b"E"), []);
        assert!(markers.is_holding());
        assert_eq!(markers.push(b"nd"), [text("End")]);
    }

    #[test]
    fn a_panic_mark_behind_text_without_line_feed_is_found() {
        let control = Piece::Control(PANIC.to_owned());
        check(
            "abcEVCXR_PANIC_NOTIFICATION\ndef",
            &[text("abc"), control, text("def")],
        );
    }

    #[test]
    fn a_changed_variable_keeps_its_name() {
        check(
            "EVCXR_VARIABLE_CHANGED_TYPE:x\n",
            &[Piece::Control("EVCXR_VARIABLE_CHANGED_TYPE:x".into())],
        );
    }

    #[test]
    fn content_blocks_are_taken_out_whole() {
        let content = Piece::Content {
            media_type: "text/html".into(),
            content: "<b>\nEVCXR_x</b>".into(),
        };
        let input = "a\nEVCXR_BEGIN_CONTENT text/html\n<b>\nEVCXR_x</b>\nEVCXR_END_CONTENT\nb";
        check(input, &[text("a\n"), content, text("b")]);
    }
}
