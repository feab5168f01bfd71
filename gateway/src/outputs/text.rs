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
    /// None where the content is not what the protocol says.
    pub(super) fn new(content: &Bytes) -> Option<Self> {
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
            [b'"', ..] if json.len() >= SHARED_FROM => Text::unread(content.slice_ref(json)),
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
    fn unread(json: Bytes) -> Self {
        Self {
            read: String::new(),
            bytes: json.len() + PIECE,
            unread: vec![json],
        }
    }

    /// Bytes that it takes, roughly.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn append(&mut self, more: Self) {
        self.bytes = self.bytes.saturating_add(more.bytes);
        if self.unread.is_empty() {
            self.read.push_str(&more.read);
        } else if !more.read.is_empty() {
            self.unread
                .extend(serde_json::to_vec(&more.read).map(Bytes::from));
            self.bytes = self.bytes.saturating_add(PIECE);
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
            raw.take_raw(0, "stream", &message(text));
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
        let said = Said::new(&long).unwrap();
        let begin = long.as_ptr() as usize;
        assert!((begin..begin + long.len()).contains(&(said.text.unread[0].as_ptr() as usize)));
        let short = Said::new(&message("x")).unwrap();
        assert!(short.text.unread.is_empty());
        let mut both = said.text;
        both.append(short.text);
        assert!(both.whole().ends_with("xx"));
        assert_eq!(both.unread.len(), 2);
    }

    #[test]
    fn odd_content_is_no_text_and_stops_nothing() {
        let half = Bytes::from(format!(
            r#"{{"name":"stdout","text":"\ud800{}"}}"#,
            "x".repeat(SHARED_FROM)
        ));
        for content in [r#"{"name":"stdout"}"#, r#"{"name":"stdout","text":1}"#, "[]", "{"] {
            assert!(Said::new(&Bytes::from(content)).is_none(), "{content}");
        }
        let mut outputs = Outputs::new();
        outputs.take_raw(0, "stream", &half);
        outputs.take_raw(0, "stream", &message("after"));
        assert_eq!(outputs.stored(&0)[0]["text"], json!(["after"]));
        outputs.take_raw(1, "stream", &Bytes::from(r#"{"name":"stdout","text":1}"#));
        assert_eq!(crate::joined_lines(&outputs.stored(&1)[0]["text"]), "");
    }
}
