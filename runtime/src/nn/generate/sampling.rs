//! One token from the scores of all.

use crate::train::SeededRandom;

/// How a token is chosen.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sampling {
    /// Scores are divided by it; at 0 the highest is taken.
    pub(super) temperature: f64,
    /// So many of the likeliest are chosen among.
    pub(super) top_k: Option<usize>,
    /// The likeliest are, that together have this share.
    pub(super) top_p: Option<f64>,
    /// Scores of tokens that stand there already are made smaller by it.
    pub(super) repetition_penalty: f64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: None,
            top_p: None,
            repetition_penalty: 1.0,
        }
    }
}

impl Sampling {
    /// What is wrong with it.
    pub(super) fn fault(&self) -> Option<String> {
        let Self {
            temperature,
            top_k,
            top_p,
            repetition_penalty,
        } = self;
        if !(*temperature >= 0.0 && temperature.is_finite()) {
            return Some(format!("a temperature is 0 or more, not {temperature}"));
        }
        if *top_k == Some(0) {
            return Some("top_k is 1 or more: at 0 there is no token to choose".to_owned());
        }
        if let Some(share) = top_p.filter(|share| !(*share > 0.0 && *share <= 1.0)) {
            return Some(format!("top_p is a share above 0, at most 1, not {share}"));
        }
        if !(*repetition_penalty > 0.0 && repetition_penalty.is_finite()) {
            return Some(format!(
                "a repetition penalty is above 0 (1 changes nothing), not {repetition_penalty}"
            ));
        }
        None
    }

    /// The next token after `before`; none when a score is no number.
    pub(super) fn choose(
        &self,
        mut scores: Vec<f32>,
        before: &[u32],
        random: &mut SeededRandom,
    ) -> Option<u32> {
        if scores.iter().any(|score| score.is_nan()) {
            return None;
        }
        self.penalise(&mut scores, before);
        let best = first_largest(&scores)?;
        if self.temperature == 0.0 {
            return u32::try_from(best).ok();
        }
        let mut chances = self.chances(&scores, f64::from(scores[best]));
        if let Some(share) = self.top_p {
            keep_share(&mut chances, share);
        }
        draw(&chances, random)
    }

    /// As CTRL does it (Keskar et al., 2019): each token that stands there, once.
    fn penalise(&self, scores: &mut [f32], before: &[u32]) {
        if self.repetition_penalty == 1.0 {
            return;
        }
        let mut seen: Vec<usize> = before.iter().map(|token| *token as usize).collect();
        seen.sort_unstable();
        seen.dedup();
        #[expect(clippy::cast_possible_truncation, reason = "scores are f32")]
        let penalty = self.repetition_penalty as f32;
        for token in seen {
            if let Some(score) = scores.get_mut(token) {
                *score = if *score > 0.0 {
                    *score / penalty
                } else {
                    *score * penalty
                };
            }
        }
    }

    /// The likeliest tokens and their chances, which need not sum to 1, the likeliest first where an order is needed.
    fn chances(&self, scores: &[f32], best: f64) -> Vec<(usize, f64)> {
        let likelier = |a: &usize, b: &usize| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b));
        let mut tokens: Vec<usize> = (0..scores.len()).collect();
        if let Some(count) = self.top_k.filter(|count| *count < tokens.len()) {
            tokens.select_nth_unstable_by(count, likelier);
            tokens.truncate(count);
        }
        if self.top_p.is_some() || self.top_k.is_some() {
            tokens.sort_unstable_by(likelier);
        }
        let chance = |token: usize| ((f64::from(scores[token]) - best) / self.temperature).exp();
        tokens.into_iter().map(|token| (token, chance(token))).collect()
    }
}

fn first_largest(scores: &[f32]) -> Option<usize> {
    let (mut place, mut largest) = (None, f32::NEG_INFINITY);
    for (token, score) in scores.iter().enumerate() {
        if *score > largest {
            (place, largest) = (Some(token), *score);
        }
    }
    place
}

/// Keeps the likeliest until they have this share, and the one that reaches it.
fn keep_share(chances: &mut Vec<(usize, f64)>, share: f64) {
    let total: f64 = chances.iter().map(|(_, chance)| chance).sum();
    let mut sum = 0.0;
    let reached = chances.iter().position(|(_, chance)| {
        sum += chance;
        sum >= share * total
    });
    if let Some(last) = reached {
        chances.truncate(last + 1);
    }
}

fn draw(chances: &[(usize, f64)], random: &mut SeededRandom) -> Option<u32> {
    let total: f64 = chances.iter().map(|(_, chance)| chance).sum();
    let mut left = random.uniform() * total;
    let possible = || chances.iter().filter(|(_, chance)| *chance > 0.0);
    for (token, chance) in possible() {
        left -= chance;
        if left < 0.0 {
            return u32::try_from(*token).ok();
        }
    }
    // Rounding may leave a little behind the last.
    possible()
        .next_back()
        .and_then(|(token, _)| u32::try_from(*token).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCORES: [f32; 5] = [1.0, 3.0, 2.0, f32::NEG_INFINITY, 3.0];

    fn counts(sampling: &Sampling, before: &[u32]) -> [usize; 5] {
        let mut random = SeededRandom::new(3);
        let mut counts = [0; 5];
        for _ in 0..10_000 {
            counts[sampling.choose(SCORES.to_vec(), before, &mut random).unwrap() as usize] += 1;
        }
        counts
    }

    #[test]
    fn without_settings_tokens_are_drawn_by_their_chances() {
        let counts = counts(&Sampling::default(), &[]);
        let sum: f64 = SCORES.iter().map(|score| f64::from(*score).exp()).sum();
        for (count, score) in counts.into_iter().zip(SCORES) {
            let expected = f64::from(score).exp() / sum * 10_000.0;
            assert!((count as f64 - expected).abs() < 150.0, "{counts:?}");
        }
        assert_eq!(counts[3], 0);
    }

    #[test]
    fn at_temperature_0_the_first_of_the_highest_is_taken() {
        let sampling = Sampling {
            temperature: 0.0,
            ..Sampling::default()
        };
        assert_eq!(counts(&sampling, &[])[1], 10_000);
        // Made smaller, it is the highest no more.
        let sampling = Sampling {
            repetition_penalty: 1.5,
            ..sampling
        };
        assert_eq!(counts(&sampling, &[1, 1])[4], 10_000);
    }

    #[test]
    fn a_low_temperature_draws_the_likeliest_more_often() {
        let cold = Sampling {
            temperature: 0.3,
            ..Sampling::default()
        };
        let (cold, warm) = (counts(&cold, &[]), counts(&Sampling::default(), &[]));
        assert!(cold[0] < warm[0] && cold[1] > warm[1], "{cold:?} {warm:?}");
    }

    #[test]
    fn few_are_chosen_among_by_number_or_share() {
        let by_number = Sampling {
            top_k: Some(3),
            ..Sampling::default()
        };
        let found = counts(&by_number, &[]);
        assert!(found[0] == 0 && found[2] > 0, "{found:?}");
        // Each of the two highest has 0.39.
        for (share, kept) in [(0.2, 1), (0.5, 2), (0.9, 3), (1.0, 4)] {
            let by_share = Sampling {
                top_p: Some(share),
                ..Sampling::default()
            };
            let found = counts(&by_share, &[]);
            assert_eq!(found.iter().filter(|count| **count > 0).count(), kept, "{share}");
        }
        let both = Sampling {
            top_k: Some(2),
            top_p: Some(0.4),
            ..Sampling::default()
        };
        assert_eq!(counts(&both, &[])[1], 10_000);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let faults = [
            Sampling {
                temperature: -1.0,
                ..Sampling::default()
            },
            Sampling {
                top_k: Some(0),
                ..Sampling::default()
            },
            Sampling {
                top_p: Some(1.5),
                ..Sampling::default()
            },
            Sampling {
                repetition_penalty: 0.0,
                ..Sampling::default()
            },
        ];
        for fault in &faults {
            assert!(fault.fault().is_some(), "{fault:?}");
        }
        assert_eq!(Sampling::default().fault(), None);
        let mut random = SeededRandom::new(0);
        assert_eq!(
            Sampling::default().choose(vec![f32::NAN, 1.0], &[], &mut random),
            None
        );
    }
}
