//! `generate`.

use alephlab::nn::{End, Generated, Gpt};
use alephlab::prelude::*;

use super::support::plain;
use super::text::tiny;

fn network() -> (Gpt, Tokenizer) {
    // All tokens of the tiny network are bytes of no letters: that is enough here.
    (Gpt::new(&tiny(), plain("gpt2")).unwrap(), Tokenizer::bytes())
}

const PROMPT: &str = "\u{5}\u{3}";

#[test]
fn the_same_seed_gives_the_same_tokens_and_another_gives_others() {
    let (network, tokenizer) = network();
    let tokens = |seed| -> Vec<u32> {
        let settings = generate(&network, &tokenizer, PROMPT)
            .top_k(20)
            .top_p(0.95)
            .seed(seed);
        let tokens = settings.max_tokens(12).tokens().unwrap();
        tokens.map(Result::unwrap).collect()
    };
    assert_eq!(tokens(1), tokens(1));
    assert_ne!(tokens(1), tokens(2));
    assert_eq!(tokens(1).len(), 12);
}

#[test]
fn at_temperature_0_each_token_is_that_of_the_highest_score_of_the_whole_row() {
    let (network, tokenizer) = network();
    let made: Vec<u32> = generate(&network, &tokenizer, PROMPT)
        .temperature(0.0)
        .max_tokens(10)
        .tokens()
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let mut row = vec![5_u32, 3];
    for token in made {
        let input = Tensor::new(row.as_slice(), &Device::Cpu)
            .unwrap()
            .unsqueeze(0)
            .unwrap();
        let scores = network.forward_t(&input, false).unwrap();
        let best = scores.argmax(D::Minus1).unwrap().to_vec2::<u32>().unwrap()[0][row.len() - 1];
        assert_eq!(token, best);
        row.push(token);
    }
}

#[test]
fn a_row_longer_than_the_network_has_places_goes_on() {
    let (network, tokenizer) = network();
    let settings = generate(&network, &tokenizer, PROMPT).seed(3).max_tokens(60);
    let made: Vec<u32> = settings.tokens().unwrap().map(Result::unwrap).collect();
    assert_eq!(made.len(), 60);
    let long: String = "\u{7}".repeat(40);
    let settings = generate(&network, &tokenizer, long).seed(3).max_tokens(5);
    assert_eq!(settings.tokens().unwrap().count(), 5);
}

#[test]
fn it_ends_at_a_token_that_ends_texts_and_says_why() {
    let (network, tokenizer) = network();
    let all = generate(&network, &tokenizer, PROMPT)
        .temperature(0.0)
        .max_tokens(8);
    let made: Vec<u32> = all.tokens().unwrap().map(Result::unwrap).collect();
    let stop = made[3];
    let first = made.iter().position(|token| *token == stop).unwrap();
    let stopped: Generated = all.clone().stop([stop]).show().unwrap();
    assert_eq!((stopped.tokens, stopped.ended), (first, End::Stop));
    let whole: Generated = all.show().unwrap();
    assert_eq!((whole.tokens, whole.ended), (8, End::MaxTokens));
    assert_eq!(whole.text, all.text().unwrap());
    assert_eq!(
        all.pieces().unwrap().map(Result::unwrap).collect::<String>(),
        whole.text
    );
    assert!(whole.bundle().as_text().unwrap().contains("tokens a second"));
}

#[test]
fn settings_and_prompts_that_make_no_sense_are_refused() {
    let (network, tokenizer) = network();
    let refused = |settings: alephlab::nn::Generate, words: &str| {
        let error = settings.tokens().unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    let good = || generate(&network, &tokenizer, PROMPT);
    refused(good().temperature(-1.0), "temperature");
    refused(good().top_p(0.0), "top_p");
    refused(generate(&network, &tokenizer, "letters"), "another tokenizer");
    // The end of a text is token 256, which this network has not.
    refused(generate(&network, &tokenizer, ""), "token 256");
    refused(
        generate(&network, &tokenizer, "").stop([]),
        "no token to begin with",
    );
}
