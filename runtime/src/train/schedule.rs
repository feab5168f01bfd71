//! How the learning rate changes in the course of a training: pure functions of the step.
//!
//! So nothing of a schedule is kept in a checkpoint but the number of the step. Called by [`super::Trainer`].

use std::f64::consts::PI;
use std::fmt;
use std::sync::Arc;

/// How the learning rate changes. Each is a factor of the trainer's learning rate, which is the highest.
#[derive(Clone)]
pub struct Schedule(Kind);

#[derive(Clone)]
enum Kind {
    Constant,
    Linear { to: f64 },
    Cosine { to: f64 },
    Steps { every: u64, factor: f64 },
    OneCycle { rise: f64, start: f64, end: f64 },
    WarmUp { steps: u64, then: Box<Kind> },
    Own(Arc<dyn Fn(u64, u64) -> f64 + Send + Sync>),
}

impl Schedule {
    /// The same rate throughout.
    pub fn constant() -> Self {
        Self(Kind::Constant)
    }

    /// Falls in a straight line to the part `to` of the rate, which the step after the last would have.
    pub fn linear(to: f64) -> Self {
        Self(Kind::Linear { to })
    }

    /// Falls along half a cosine to nothing (Loshchilov and Hutter, 2017, without restarts): the trainer's own.
    pub fn cosine() -> Self {
        Self::cosine_to(0.0)
    }

    /// Falls along half a cosine to the part `to` of the rate, which the step after the last would have.
    pub fn cosine_to(to: f64) -> Self {
        Self(Kind::Cosine { to })
    }

    /// Is multiplied by `factor` after each `every` steps.
    pub fn steps(every: u64, factor: f64) -> Self {
        Self(Kind::Steps {
            every: every.max(1),
            factor,
        })
    }

    /// Rises along half a cosine from 1/25 for the first three tenths of the steps, then falls to 1/250000 at the last
    /// one (Smith and Topin, 2018; numbers as PyTorch's `OneCycleLR`).
    pub fn one_cycle() -> Self {
        Self(Kind::OneCycle {
            rise: 0.3,
            start: 1.0 / 25.0,
            end: 1.0 / 25.0 / 1e4,
        })
    }

    /// A schedule of one's own: the factor for a step, from 0, and the number of all steps, 0 where it is not known.
    pub fn of(factor: impl Fn(u64, u64) -> f64 + Send + Sync + 'static) -> Self {
        Self(Kind::Own(Arc::new(factor)))
    }

    /// Rises in a straight line for so many steps first, none of which has rate 0; the schedule then begins with what
    /// is left of the steps.
    #[must_use]
    pub fn warm_up(self, steps: u64) -> Self {
        Self(Kind::WarmUp {
            steps,
            then: Box::new(self.0),
        })
    }

    /// The factor of the learning rate in `step`, from 0, of `steps`.
    pub fn factor(&self, step: u64, steps: u64) -> f64 {
        self.0.factor(step, steps)
    }

    /// Whether the factor depends on how many steps there will be.
    pub fn needs_length(&self) -> bool {
        self.0.needs_length()
    }
}

impl Kind {
    fn factor(&self, step: u64, steps: u64) -> f64 {
        let at = step as f64;
        let share = (at / steps.max(1) as f64).min(1.0);
        match self {
            Self::Constant => 1.0,
            Self::Linear { to } => 1.0 + (to - 1.0) * share,
            Self::Cosine { to } => between(*to, 1.0, 0.5 * (1.0 + (PI * share).cos())),
            Self::Steps { every, factor } => factor.powf((step / every) as f64),
            Self::OneCycle { rise, start, end } => {
                // As PyTorch: the peak is step rise·steps - 1, and the last step has the end's rate.
                let (peak, last) = (rise * steps as f64 - 1.0, steps as f64 - 1.0);
                if at <= peak {
                    between(*start, 1.0, falling(1.0 - at / peak))
                } else {
                    between(*end, 1.0, falling(((at - peak) / (last - peak)).min(1.0)))
                }
            }
            Self::WarmUp { steps: rise, .. } if step < *rise => (at + 1.0) / (*rise as f64 + 1.0),
            Self::WarmUp { steps: rise, then } => then.factor(step - rise, steps.saturating_sub(*rise)),
            Self::Own(factor) => factor(step, steps),
        }
    }

    fn needs_length(&self) -> bool {
        match self {
            Self::Linear { .. } | Self::Cosine { .. } | Self::OneCycle { .. } => true,
            Self::WarmUp { then, .. } => then.needs_length(),
            Self::Constant | Self::Steps { .. } | Self::Own(_) => false,
        }
    }
}

/// 1 at 0, 0 at 1, along half a cosine.
fn falling(share: f64) -> f64 {
    0.5 * (1.0 + (PI * share).cos())
}

fn between(low: f64, high: f64, share: f64) -> f64 {
    low + (high - low) * share
}

impl fmt::Debug for Schedule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant => write!(formatter, "constant"),
            Self::Linear { to } => write!(formatter, "linear to {to}"),
            Self::Cosine { to } => write!(formatter, "cosine to {to}"),
            Self::Steps { every, factor } => write!(formatter, "times {factor} every {every} steps"),
            Self::OneCycle { .. } => write!(formatter, "one cycle"),
            Self::WarmUp { steps, then } => write!(formatter, "{steps} steps of warm-up, then {then:?}"),
            Self::Own(_) => write!(formatter, "its own function"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factors(schedule: &Schedule, steps: u64) -> Vec<f64> {
        (0..steps).map(|step| schedule.factor(step, steps)).collect()
    }

    fn close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12, "{found} in place of {expected}");
        }
    }

    #[test]
    fn follow_their_closed_values() {
        let root = 0.5_f64.sqrt();
        close(&factors(&Schedule::constant(), 3), &[1.0; 3]);
        close(&factors(&Schedule::linear(0.2), 4), &[1.0, 0.8, 0.6, 0.4]);
        let cosine = [1.0, 0.5 + 0.5 * root, 0.5, 0.5 - 0.5 * root];
        close(&factors(&Schedule::cosine(), 4), &cosine);
        close(
            &factors(&Schedule::cosine_to(0.1), 4),
            &cosine.map(|x| 0.1 + 0.9 * x),
        );
        close(
            &factors(&Schedule::steps(2, 0.5), 6),
            &[1.0, 1.0, 0.5, 0.5, 0.25, 0.25],
        );
        assert!(factors(&Schedule::cosine(), 4)[3] > 0.0);
        assert_eq!(Schedule::cosine().factor(9, 4), 0.0);
    }

    #[test]
    fn warm_up_rises_and_leaves_the_rest_to_what_follows() {
        let warm = Schedule::cosine().warm_up(3);
        let mut expected = vec![0.25, 0.5, 0.75];
        expected.extend(factors(&Schedule::cosine(), 5));
        close(&factors(&warm, 8), &expected);
        close(&factors(&Schedule::constant().warm_up(0), 2), &[1.0, 1.0]);
        // More warm-up than steps is no division by nothing.
        assert!(
            factors(&Schedule::cosine().warm_up(9), 4)
                .iter()
                .all(|x| x.is_finite())
        );
    }

    #[test]
    fn one_cycle_has_the_numbers_of_pytorch() {
        // 20 steps: from 1/25 at 0 to the peak at 0.3·20 - 1 = 5, down to 1/250000 at 19.
        let factors = factors(&Schedule::one_cycle(), 20);
        let up = |share: f64| 0.04 + 0.96 * (1.0 - (PI * share).cos()) / 2.0;
        let down = |share: f64| 1.0 + (4e-6 - 1.0) * (1.0 - (PI * share).cos()) / 2.0;
        let expected = (0..20).map(|step| {
            let at = f64::from(step);
            if step <= 5 {
                up(at / 5.0)
            } else {
                down((at - 5.0) / 14.0)
            }
        });
        close(&factors, &expected.collect::<Vec<_>>());
        close(&[factors[0], factors[5], factors[19]], &[0.04, 1.0, 4e-6]);
        for steps in 1..6 {
            let all = (0..steps).map(|step| Schedule::one_cycle().factor(step, steps));
            assert!(all.into_iter().all(|x| (0.0..=1.0).contains(&x)), "{steps}");
        }
    }

    #[test]
    fn say_what_they_are_and_whether_they_need_an_end() {
        let own = Schedule::of(|step, steps| (step + steps) as f64);
        assert_eq!(own.factor(2, 3), 5.0);
        let warm = Schedule::cosine().warm_up(10);
        assert_eq!(format!("{warm:?}"), "10 steps of warm-up, then cosine to 0");
        assert!(warm.needs_length() && Schedule::one_cycle().needs_length());
        assert!(!own.needs_length() && !Schedule::constant().warm_up(5).needs_length());
    }
}
