//! What storing files costs, before anything is stored.

use alephlab_vault::DEFAULT_OBJ_LOG2;
use alephlab_vault::storage::Quote;

use crate::error::{CliError, Result};

/// Objects of a version that hold no file: leaves, a page, the root.
const MANIFEST_OBJECTS: u64 = 3;
/// Bytes of files that one object takes.
pub(crate) const OBJECT_BYTES: u64 = 1 << DEFAULT_OBJ_LOG2;
/// One dollar (reference: Aleph credits since February 2026).
const CREDITS_PER_DOLLAR: f64 = 1_000_000.0;
/// Hours that credits must cover when something is stored: what the network asks for.
const ADMISSION_HOURS: f64 = 24.0;

/// Objects of a first version with files of these sizes: those of a quarter of an object and more have their own.
fn objects(sizes: &[u64]) -> u64 {
    let (large, small): (Vec<u64>, Vec<u64>) = sizes.iter().partition(|size| **size >= OBJECT_BYTES / 4);
    let own: u64 = large.iter().map(|size| size.div_ceil(OBJECT_BYTES)).sum();
    own + small.iter().sum::<u64>().div_ceil(OBJECT_BYTES) + MANIFEST_OBJECTS
}

/// What an upload costs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Price {
    /// At most so many are stored.
    pub(crate) objects: u64,
    pub(crate) credits_per_hour: f64,
    /// Credits of the account.
    pub(crate) balance: u64,
}

impl Price {
    /// Of files of these sizes, where one full object costs so much.
    pub(crate) fn of(sizes: &[u64], quote: Quote) -> Self {
        let objects = objects(sizes);
        Self {
            objects,
            #[expect(clippy::cast_precision_loss, reason = "a number of objects, for a price")]
            credits_per_hour: quote.credits_per_second * 3_600.0 * objects as f64,
            balance: quote.balance,
        }
    }

    /// For 30 days.
    pub(crate) fn dollars_per_month(&self) -> f64 {
        self.credits_per_hour * 24.0 * 30.0 / CREDITS_PER_DOLLAR
    }

    /// Refuses before anything is stored what the network would refuse in the middle.
    pub(crate) fn check(&self, account: &str) -> Result<()> {
        let needed = self.credits_per_hour * ADMISSION_HOURS;
        #[expect(clippy::cast_precision_loss, reason = "credits, compared with a price")]
        let balance = self.balance as f64;
        if needed <= balance {
            return Ok(());
        }
        Err(CliError::Usage {
            message: format!(
                "storing this takes {needed:.0} credits for the first {ADMISSION_HOURS} hours, and {account} has {}",
                self.balance
            ),
            hint: "add credits to the account, and put it again".to_owned(),
        })
    }
}

impl std::fmt::Display for Price {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "at most {} objects: {:.1} credits an hour, {:.4} USD for 30 days; the account has {} credits",
            self.objects,
            self.credits_per_hour,
            self.dollars_per_month(),
            self.balance
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_says_what_a_month_costs_and_refuses_what_is_not_covered() {
        // Six files of 9 MiB are six objects, though their bytes would fit into two.
        assert_eq!(objects(&[9 << 20; 6]), 6 + MANIFEST_OBJECTS);
        assert_eq!(objects(&[1, 2, 70 << 20]), 3 + 1 + MANIFEST_OBJECTS);
        // 1 GiB at 0.17967 credits a MiB and hour, the network's default: 0.13 USD for 30 days.
        let price = Price {
            objects: 32,
            credits_per_hour: 0.17967 * 1_024.0,
            balance: 4_415,
        };
        assert!((price.dollars_per_month() - 0.1325).abs() < 0.0001);
        let refused = price.check("0xabc").unwrap_err().to_string();
        assert!(refused.contains("4416") && refused.contains("4415"), "{refused}");
        assert!(
            Price {
                balance: 4_416,
                ..price
            }
            .check("0xabc")
            .is_ok()
        );
    }
}
