//! Text from a language model, token by token: as an iterator, as pieces of text, or shown in the cell while it is made.
//!
//! The same network, prompt, settings and seed give the same tokens on the same machine. Called by notebooks
//! ([`generate`]).

mod sampling;
mod text;

use std::io::Write;
use std::time::{Duration, Instant};

use candle_core::Tensor;

use sampling::Sampling;
use text::TextStream;

use super::{Gpt, GptCache};
use crate::data::Tokenizer;
use crate::display::{Bundle, Rich};
use crate::interrupt::check_interrupt;
use crate::live::{facts_html, facts_text};
use crate::train::SeededRandom;
use crate::{Error, Result};

/// Longest time that text is held back in a cell: each flush is a message to the client.
const FLUSH_EVERY: Duration = Duration::from_millis(40);
/// Tokens that published tokenizers end a text with.
const ENDS: [&str; 3] = ["<|endoftext|>", "</s>", "<|im_end|>"];

/// Goes on with `prompt`: answers settings, whose [`Generate::show`] does it in the cell.
///
/// As it is made: 100 tokens at most, drawn by their chances as the network has them, until one that ends a text.
///
/// ```no_run
/// use alephlab::nn::{Generated, Gpt};
/// use alephlab::prelude::*;
///
/// # fn cell(network: &Gpt, tokenizer: &Tokenizer) -> Result<(), alephlab::Error> {
/// let made: Generated = generate(network, tokenizer, "To be").temperature(0.8).top_k(40).seed(1).max_tokens(200).show()?;
/// # Ok(())
/// # }
/// ```
pub fn generate(network: &Gpt, tokenizer: &Tokenizer, prompt: impl Into<String>) -> Generate {
    let ends = ENDS.iter().filter_map(|end| tokenizer.token(end));
    let mut stops: Vec<u32> = ends.collect();
    if tokenizer.is_bytes() {
        stops.push(tokenizer.pad());
    }
    Generate {
        network: network.clone(),
        tokenizer: tokenizer.clone(),
        prompt: prompt.into(),
        sampling: Sampling::default(),
        seed: 0,
        stops,
        max_tokens: 100,
    }
}

/// How a text is gone on with. Made by [`generate`].
///
/// Of a prompt of more tokens than the network has places, and of a text that has grown so long, only the newest are seen: half
/// as many as there are places, and those that come.
#[derive(Debug, Clone)]
pub struct Generate {
    network: Gpt,
    tokenizer: Tokenizer,
    prompt: String,
    sampling: Sampling,
    seed: u64,
    stops: Vec<u32>,
    max_tokens: usize,
}

impl Generate {
    /// How far from likely tokens may be: below 1 the likely ones become likelier; at 0 the likeliest is always taken.
    #[must_use]
    pub fn temperature(mut self, temperature: f64) -> Self {
        self.sampling.temperature = temperature;
        self
    }

    /// Chooses among so many of the likeliest tokens only.
    #[must_use]
    pub fn top_k(mut self, tokens: usize) -> Self {
        self.sampling.top_k = Some(tokens);
        self
    }

    /// Chooses among the likeliest tokens that together have this share of the chances, and no others; after
    /// [`Generate::top_k`] of those that it left.
    #[must_use]
    pub fn top_p(mut self, share: f64) -> Self {
        self.sampling.top_p = Some(share);
        self
    }

    /// Makes tokens that stand in the text already less likely: above 1, such as 1.1. As in `transformers`.
    #[must_use]
    pub fn repetition_penalty(mut self, penalty: f64) -> Self {
        self.sampling.repetition_penalty = penalty;
        self
    }

    /// What the draws follow from.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Ends at one of these tokens, which is not put out, in place of those that end a text.
    #[must_use]
    pub fn stop(mut self, tokens: impl IntoIterator<Item = u32>) -> Self {
        self.stops = tokens.into_iter().collect();
        self
    }

    /// Makes so many tokens at most.
    #[must_use]
    pub fn max_tokens(mut self, tokens: usize) -> Self {
        self.max_tokens = tokens;
        self
    }

    /// The tokens, each made when it is asked for.
    ///
    /// # Errors
    /// [`Error::Data`] for settings that make no sense and for a prompt without a token, or with one that the network has
    /// not.
    pub fn tokens(&self) -> Result<Tokens> {
        if let Some(reason) = self.sampling.fault() {
            return Err(Error::Data { reason });
        }
        let mut row = self.tokenizer.encode(&self.prompt)?;
        if row.is_empty() {
            // Each text of the training began behind the end of another.
            row.extend(self.stops.first());
        }
        let known = self.network.config().vocab_size;
        let strange = row.iter().find(|token| **token as usize >= known);
        let fault = match (strange, row.is_empty()) {
            (Some(token), _) => format!(
                "the prompt has token {token}, and the network knows {known}: it was trained with another tokenizer"
            ),
            (None, true) => "there is no token to begin with: give a prompt of a letter or more".to_owned(),
            (None, false) => {
                return Ok(Tokens {
                    cache: self.network.cache(),
                    settings: self.clone(),
                    random: SeededRandom::named(self.seed, "generate"),
                    given: 0,
                    made: 0,
                    ended: None,
                    row,
                });
            }
        };
        Err(Error::Data { reason: fault })
    }

    /// The text in pieces as they come; together they are all of it. No piece holds half a character.
    ///
    /// # Errors
    /// As [`Generate::tokens`].
    pub fn pieces(&self) -> Result<Pieces> {
        let tokens = self.tokens()?;
        Ok(Pieces {
            stream: TextStream::new(&self.tokenizer, &tokens.row),
            tokens,
            is_over: false,
        })
    }

    /// The whole text, without the prompt.
    ///
    /// # Errors
    /// As [`Generate::tokens`], and from candle.
    pub fn text(&self) -> Result<String> {
        self.pieces()?.collect()
    }

    /// Writes prompt and text into the cell while they are made, and answers what was made and how fast.
    ///
    /// An interrupt of the cell ends it at the next token; what is written stays.
    ///
    /// # Errors
    /// As [`Generate::text`].
    pub fn show(&self) -> Result<Generated> {
        let begun = Instant::now();
        let mut pieces = self.pieces()?;
        let mut out = std::io::stdout();
        let mut flushed = begun;
        let mut text = String::new();
        // Whether anybody reads along is not the model's concern.
        let _ = write!(out, "{}", self.prompt);
        let _ = out.flush();
        for piece in &mut pieces {
            let piece = piece?;
            let _ = write!(out, "{piece}");
            text.push_str(&piece);
            if flushed.elapsed() >= FLUSH_EVERY {
                let _ = out.flush();
                flushed = Instant::now();
            }
        }
        let _ = writeln!(out);
        let _ = out.flush();
        Ok(Generated {
            text,
            tokens: pieces.tokens.made,
            seconds: begun.elapsed().as_secs_f64(),
            ended: pieces.tokens.ended.unwrap_or(End::MaxTokens),
        })
    }
}

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// A token came that ends texts.
    Stop,
    /// As many tokens were made as were asked for.
    MaxTokens,
}

/// The tokens of a text, an iterator. Made by [`Generate::tokens`].
#[derive(Debug)]
pub struct Tokens {
    settings: Generate,
    cache: GptCache,
    random: SeededRandom,
    /// Prompt and tokens that were made.
    row: Vec<u32>,
    /// How many at the start of `row` the cache has been given, or will never be.
    given: usize,
    made: usize,
    ended: Option<End>,
}

impl Tokens {
    fn make(&mut self) -> Result<Option<u32>> {
        let settings = &self.settings;
        if self.made >= settings.max_tokens {
            self.ended = Some(End::MaxTokens);
            return Ok(None);
        }
        let scores = self.scores()?;
        let settings = &self.settings;
        let chosen = settings.sampling.choose(scores, &self.row, &mut self.random);
        let token = chosen.ok_or_else(|| Error::Data {
            reason: "the network's scores are no numbers any more: were its weights trained to the end?"
                .to_owned(),
        })?;
        if settings.stops.contains(&token) {
            self.ended = Some(End::Stop);
            return Ok(None);
        }
        self.row.push(token);
        self.made += 1;
        Ok(Some(token))
    }

    /// Scores of what comes after the row.
    fn scores(&mut self) -> Result<Vec<f32>> {
        let network = &self.settings.network;
        let most = network.config().n_positions;
        let new = self.row.len() - self.given;
        if self.cache.len() + new > most {
            // There is no place left: the row is begun anew from its newer half, so that this is not so at each token.
            self.cache.clear();
            self.given = self.row.len() - most.div_ceil(2).min(self.row.len());
        }
        let new = &self.row[self.given..];
        let input = Tensor::new(new, network.device())?.unsqueeze(0)?;
        let scores = network.next(&input, &mut self.cache)?.squeeze(0)?.to_vec1()?;
        self.given = self.row.len();
        Ok(scores)
    }
}

impl Iterator for Tokens {
    type Item = Result<u32>;

    fn next(&mut self) -> Option<Self::Item> {
        check_interrupt();
        if self.ended.is_some() {
            return None;
        }
        let made = self.make();
        if made.is_err() {
            // What went wrong goes wrong again.
            self.ended = Some(End::Stop);
        }
        made.transpose()
    }
}

/// The pieces of a text, an iterator. Made by [`Generate::pieces`].
#[derive(Debug)]
pub struct Pieces {
    tokens: Tokens,
    stream: TextStream,
    is_over: bool,
}

impl Iterator for Pieces {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.is_over {
            let piece = match self.tokens.next() {
                Some(token) => token.and_then(|token| self.stream.push(token)),
                None => {
                    self.is_over = true;
                    self.stream.finish()
                }
            };
            match piece {
                Ok(piece) if piece.is_empty() => {}
                other => return Some(other),
            }
        }
        None
    }
}

/// A text that was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated {
    /// Without the prompt.
    pub text: String,
    /// Tokens that were made.
    pub tokens: usize,
    /// From the prompt to the last token.
    pub seconds: f64,
    /// Why it ended.
    pub ended: End,
}

impl Generated {
    /// Tokens made in a second.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.seconds.max(1e-9)
    }
}

impl Rich for Generated {
    /// How much and how fast: the text stands in the cell already.
    fn bundle(&self) -> Bundle {
        let ended = match self.ended {
            End::Stop => "a token that ends texts",
            End::MaxTokens => "as many tokens as were asked for",
        };
        let facts = [
            ("tokens", self.tokens.to_string()),
            (
                "speed",
                format!("{:.1} tokens a second", self.tokens_per_second()),
            ),
            ("ended by", ended.to_owned()),
        ];
        Bundle::new()
            .text(facts_text("Generated text", &facts))
            .html(facts_html("Generated text", &facts))
    }
}
