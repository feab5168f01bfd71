//! Tokens as text while they come.
//!
//! A character may reach over several tokens, and some tokenizers write a token in another way after others. So the text of
//! the newest tokens is made again with each, and only what no later token can change is handed out.

use crate::Result;
use crate::data::Tokenizer;

/// What decoders write for bytes that are no character yet.
const UNFINISHED: char = '\u{fffd}';
/// Bytes that can still become a character with those to come: one less than the longest has.
const UNFINISHED_MAX: usize = 3;

/// Text of a row of tokens, piece by piece.
#[derive(Debug)]
pub(super) struct TextStream {
    tokenizer: Tokenizer,
    /// The newest tokens, those whose text is out already before the others.
    tokens: Vec<u32>,
    /// How many of them are only there because they may change how the others are written.
    known: usize,
    /// Bytes that were handed out of the text of the others.
    told: usize,
}

impl TextStream {
    /// Text that follows that of `before`.
    pub(super) fn new(tokenizer: &Tokenizer, before: &[u32]) -> Self {
        Self {
            tokenizer: tokenizer.clone(),
            tokens: before.to_vec(),
            known: before.len(),
            told: 0,
        }
    }

    /// The text that this token finishes; empty where it only begins a character.
    pub(super) fn push(&mut self, token: u32) -> Result<String> {
        self.tokens.push(token);
        let text = self.new_text()?;
        let certain = certain(&text);
        let piece = text.get(self.told..certain).unwrap_or_default().to_owned();
        self.told = self.told.max(certain);
        if certain == text.len() {
            self.tokens.drain(..self.known);
            (self.known, self.told) = (self.tokens.len(), 0);
        }
        Ok(piece)
    }

    /// What is left at the end, as far as it is a character.
    pub(super) fn finish(&mut self) -> Result<String> {
        let text = self.new_text()?;
        let piece = text.get(self.told..).unwrap_or_default().to_owned();
        self.told = text.len();
        Ok(piece)
    }

    /// The text of the tokens behind the known ones.
    fn new_text(&self) -> Result<String> {
        let all = self.tokenizer.decode(&self.tokens)?;
        let before = self.tokenizer.decode(&self.tokens[..self.known])?;
        // A character that is unfinished in what is known is another one in the whole.
        let kept = certain(&before);
        Ok(all.get(kept..).unwrap_or_default().to_owned())
    }
}

/// How many bytes of a text no later token can change.
fn certain(text: &str) -> usize {
    let mut end = text.len();
    for _ in 0..UNFINISHED_MAX {
        if text[..end].ends_with(UNFINISHED) {
            end -= UNFINISHED.len_utf8();
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streamed(text: &[u8]) -> Vec<String> {
        let mut stream = TextStream::new(&Tokenizer::bytes(), &[]);
        let pieces = text.iter().map(|byte| stream.push(u32::from(*byte)).unwrap());
        let mut pieces: Vec<String> = pieces.collect();
        pieces.push(stream.finish().unwrap());
        pieces
    }

    #[test]
    fn characters_come_whole_when_their_last_byte_does() {
        let text = "aé€🦀z";
        let pieces = streamed(text.as_bytes());
        assert_eq!(pieces.concat(), text);
        assert_eq!(pieces[..3], ["a", "", "é"]);
        assert_eq!(
            pieces.iter().filter(|piece| piece.is_empty()).count(),
            1 + 2 + 3 + 1
        );
    }

    #[test]
    fn bytes_that_are_no_character_are_told_once() {
        for bytes in [
            &[0xff_u8, b'a'][..],
            &[0xe2, 0x82],
            &[0xf0, 0x9f, b'x', 0xe2, 0x82, 0xac],
            &[0x80; 20],
        ] {
            assert_eq!(
                streamed(bytes).concat(),
                String::from_utf8_lossy(bytes),
                "{bytes:?}"
            );
        }
    }

    #[test]
    fn a_character_that_the_prompt_began_is_finished() {
        let bytes = "é".as_bytes();
        let mut stream = TextStream::new(&Tokenizer::bytes(), &[u32::from(bytes[0])]);
        assert_eq!(stream.push(u32::from(bytes[1])).unwrap(), "é");
    }
}
