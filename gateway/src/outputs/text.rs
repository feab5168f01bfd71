//! Text of a stream, kept as it came while nobody asks for it.
//!
//! Almost all text that is followed is forgotten unread: the page that is there saves the notebook itself. To read hundreds of
//! megabytes a second out of JSON for that would be most of what a gateway does.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

/// JSON of fewer bytes is copied: it would keep the whole message, and the frame in which that came, in memory.
const SHARED_FROM: usize = 16 << 10;
/// What a piece takes beside its bytes.
const PIECE: usize = std::mem::size_of::<Bytes>() * 2;

/// What a `stream` message says.
pub(super) struct Said {
    pub(super) name: String,
    pub(super) text: Text,
}

/// Text, in pieces of which the first is read and the others are JSON strings.
#[derive(Default)]
pub(super) struct Text {
    read: String,
    unread: Vec<Bytes>,
    bytes: usize,
}

impl Said {
    /// None where the content is not what the protocol says. The message has `whole` bytes, all of which stay in memory with
    /// a piece of it that is shared: its other parts, buffers too.
    pub(super) fn new(content: &Bytes, whole: usize) -> Option<Self> {
        #[derive(Deserialize)]
        struct Content<'a> {
            #[serde(borrow)]
            name: Cow<'a, str>,
            #[serde(borrow)]
            text: &'a RawValue,
        }
        let Content { name, text } = serde_json::from_slice(content).ok()?;
        let json = text.get().as_bytes();
        let text = match json {
            [b'"', ..] if json.len() >= SHARED_FROM => {
                let is_most = json.len().saturating_mul(2) >= whole.max(content.len());
                if is_most {
                    Text::unread(content.slice_ref(json), whole)
                } else {
                    Text::unread(Bytes::copy_from_slice(json), json.len())
                }
            }
            [b'"', ..] => Text::from(read(json).as_str()),
            _ => return None,
        };
        Some(Self {
            name: name.into_owned(),
            text,
        })
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self {
            read: text.to_owned(),
            unread: Vec::new(),
            bytes: text.len(),
        }
    }
}

impl Text {
    /// A piece that keeps so many bytes.
    fn unread(json: Bytes, kept: usize) -> Self {
        Self {
            read: String::new(),
            bytes: kept + PIECE,
            unread: vec![json],
        }
    }

    /// Bytes that it takes, roughly.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes that it takes more with that behind it.
    pub(super) fn grows_by(&self, more: &Self) -> usize {
        let is_piece = !self.unread.is_empty() && !more.read.is_empty();
        more.bytes.saturating_add(if is_piece { PIECE } else { 0 })
    }

    pub(super) fn append(&mut self, more: Self) {
        self.bytes = self.bytes.saturating_add(self.grows_by(&more));
        if self.unread.is_empty() {
            self.read.push_str(&more.read);
        } else if !more.read.is_empty() {
            self.unread
                .extend(serde_json::to_vec(&more.read).map(Bytes::from));
        }
        self.unread.extend(more.unread);
    }

    /// All of it.
    pub(super) fn whole(&self) -> Cow<'_, str> {
        if self.unread.is_empty() {
            return Cow::Borrowed(&self.read);
        }
        let mut whole = self.read.clone();
        self.unread.iter().for_each(|json| whole.push_str(&read(json)));
        Cow::Owned(whole)
    }
}

/// A JSON string's text. One that is none, such as half of a surrogate pair, is empty: it was shown nowhere either.
fn read(json: &[u8]) -> String {
    serde_json::from_slice(json).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Outputs;
    use super::*;

    fn message(text: &str) -> Bytes {
        json!({ "name": "stdout", "text": text }).to_string().into()
    }

    #[test]
    fn what_comes_raw_is_what_comes_read() {
        let long = "line \"quoted\" \\ é 🦀\n".repeat(2000);
        let (mut raw, mut values) = (Outputs::new(), Outputs::new());
        for text in ["short\n", &long, "between", &long, "", "end"] {
            let message = message(text);
            raw.take_raw(0, "stream", &message, message.len());
            values.take(0, "stream", &json!({ "name": "stdout", "text": text }));
        }
        assert_eq!(raw.stored(&0), values.stored(&0));
        assert_eq!(raw.stored(&0).len(), 1);
        let expected: String = ["short\n", &long, "between", &long, "end"].concat();
        assert_eq!(crate::joined_lines(&raw.stored(&0)[0]["text"]), expected);
        assert!(raw.bytes() >= expected.len());
    }

    #[test]
    fn long_text_is_not_copied_and_short_text_holds_no_message() {
        let long = message(&"x".repeat(SHARED_FROM));
        let said = Said::new(&long, long.len()).unwrap();
        let begin = long.as_ptr() as usize;
        assert!((begin..begin + long.len()).contains(&(said.text.unread[0].as_ptr() as usize)));
        let short = Said::new(&message("x"), 100).unwrap();
        assert!(short.text.unread.is_empty());
        let mut both = said.text;
        both.append(short.text);
        assert!(both.whole().ends_with("xx"));
        assert_eq!(both.unread.len(), 2);
    }

    #[test]
    fn text_that_is_the_lesser_part_of_its_message_does_not_keep_it() {
        let long = "x".repeat(SHARED_FROM);
        let is_shared = |content: &Bytes, whole: usize| {
            let said = Said::new(content, whole).unwrap();
            assert_eq!(said.text.whole(), long);
            let piece = said.text.unread[0].as_ptr() as usize;
            let begin = content.as_ptr() as usize;
            (begin..begin + content.len()).contains(&piece)
        };
        let alone = message(&long);
        assert!(is_shared(&alone, alone.len()));
        // Beside buffers, and beside other content.
        assert!(!is_shared(&alone, alone.len() + (1 << 20)));
        let more = json!({ "name": "stdout", "text": long, "more": "y".repeat(3 * SHARED_FROM) });
        let more = Bytes::from(more.to_string());
        assert!(!is_shared(&more, more.len()));
        // What is kept is counted.
        let said = Said::new(&alone, alone.len() + 9_000).unwrap();
        assert_eq!(said.text.bytes(), alone.len() + 9_000 + PIECE);
    }

    #[test]
    fn odd_content_is_no_text_and_stops_nothing() {
        let half = Bytes::from(format!(
            r#"{{"name":"stdout","text":"\ud800{}"}}"#,
            "x".repeat(SHARED_FROM)
        ));
        for content in [r#"{"name":"stdout"}"#, r#"{"name":"stdout","text":1}"#, "[]", "{"] {
            assert!(Said::new(&Bytes::from(content), 100).is_none(), "{content}");
        }
        let mut outputs = Outputs::new();
        outputs.take_raw(0, "stream", &half, half.len());
        outputs.take_raw(0, "stream", &message("after"), 100);
        assert_eq!(outputs.stored(&0)[0]["text"], json!(["after"]));
        outputs.take_raw(1, "stream", &Bytes::from(r#"{"name":"stdout","text":1}"#), 100);
        assert_eq!(crate::joined_lines(&outputs.stored(&1)[0]["text"]), "");
    }
}
