//! What one transaction pays: fixed when it is planned, named by an id that is used once.

use alephlab_api::money::Amount;
use alloy_primitives::{Address, B256, U256, keccak256};

use crate::error::{Result, SettlementError};

/// Most payouts of a batch: measured at 27,260 gas each (docs/benchmarks.md), a third of what one transaction may take on Ethereum.
pub const PAYOUTS_MAX: usize = 200;

/// One account's withdrawal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payout {
    /// Who is paid.
    pub to: Address,
    /// In the token's base units.
    pub amount: Amount,
}

/// The one contract that a batch is for. Under its id another contract knows nothing, and would pay it once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Which chain, as EIP-155 counts them.
    pub chain_id: u64,
    /// Where on it.
    pub contract: Address,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} on chain {}", self.contract, self.chain_id)
    }
}

/// Payouts that are made together or, in part, refused by the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    place: Place,
    id: B256,
    deadline: u64,
    payouts: Vec<Payout>,
    total: Amount,
}

impl Batch {
    /// A batch of one contract that no block after `deadline` (seconds since 1970) may have. All four are written down together.
    ///
    /// # Errors
    /// When it is empty, too long, names somebody twice or nobody, or an amount is nothing or too large.
    pub fn new(place: Place, id: B256, deadline: u64, payouts: Vec<Payout>) -> Result<Self> {
        let refuse = |reason: String| Err(SettlementError::Batch { reason });
        if payouts.is_empty() || payouts.len() > PAYOUTS_MAX {
            return refuse(format!("it has {} payouts, of 1 to {PAYOUTS_MAX}", payouts.len()));
        }
        let mut total = Amount::ZERO;
        let mut paid = std::collections::HashSet::new();
        for Payout { to, amount } in &payouts {
            if to.is_zero() || amount.is_zero() {
                return refuse(format!("{amount} for {to} pays nobody"));
            }
            // The ledger adds up what an account withdraws: twice in a batch is a mistake there.
            if !paid.insert(*to) {
                return refuse(format!("{to} is in it twice"));
            }
            let Some(sum) = total.checked_add(*amount) else {
                return refuse("its sum is larger than any amount".to_owned());
            };
            total = sum;
        }
        Ok(Self {
            place,
            id,
            deadline,
            payouts,
            total,
        })
    }

    /// Who is to pay it.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Its name on the chain.
    pub fn id(&self) -> B256 {
        self.id
    }

    /// Last second in which a block may have it.
    pub fn deadline(&self) -> u64 {
        self.deadline
    }

    /// In their order, by which the chain's logs name them.
    pub fn payouts(&self) -> &[Payout] {
        &self.payouts
    }

    /// The sum.
    pub fn total(&self) -> Amount {
        self.total
    }

    /// What the contract keeps of a batch that it has paid: Keccak-256 over two words a payout.
    pub fn digest(&self) -> B256 {
        let mut words = Vec::with_capacity(self.payouts.len() * 64);
        for Payout { to, amount } in &self.payouts {
            words.extend_from_slice(to.into_word().as_slice());
            words.extend_from_slice(&amount.to_bytes());
        }
        keccak256(words)
    }
}

/// As alloy has amounts.
pub(crate) fn to_u256(amount: Amount) -> U256 {
    U256::from_be_bytes(amount.to_bytes())
}

/// As the ledger has amounts.
pub(crate) fn to_amount(value: U256) -> Amount {
    Amount::from_bytes(value.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place {
        chain_id: 1,
        contract: Address::ZERO,
    };

    fn payout(to: u8, amount: u128) -> Payout {
        Payout {
            to: Address::repeat_byte(to),
            amount: Amount::from_base(amount),
        }
    }

    fn refused(payouts: Vec<Payout>) -> String {
        Batch::new(PLACE, B256::ZERO, 1, payouts).unwrap_err().to_string()
    }

    #[test]
    fn a_batch_names_each_once_and_pays_everybody_something() {
        let batch = Batch::new(PLACE, B256::ZERO, 1, vec![payout(1, 5), payout(2, 7)]).unwrap();
        assert_eq!(batch.total(), Amount::from_base(12));
        assert!(refused(vec![]).contains("0 payouts"));
        assert!(refused(vec![payout(1, 5), payout(1, 7)]).contains("twice"));
        assert!(refused(vec![payout(0, 5)]).contains("nobody"));
        assert!(refused(vec![payout(1, 0)]).contains("nobody"));
        let most = Payout {
            to: Address::repeat_byte(9),
            amount: to_amount(U256::MAX),
        };
        assert!(refused(vec![payout(1, 1), most]).contains("larger than any"));
        let many = (0..=PAYOUTS_MAX)
            .map(|i| Payout {
                to: Address::left_padding_from(&(i + 1).to_be_bytes()),
                amount: Amount::from_base(1),
            })
            .collect();
        assert!(refused(many).contains("201 payouts"));
    }

    #[test]
    fn another_content_has_another_digest() {
        let digest = |payouts| Batch::new(PLACE, B256::ZERO, 1, payouts).unwrap().digest();
        let two = digest(vec![payout(1, 5), payout(2, 7)]);
        assert_ne!(two, digest(vec![payout(2, 7), payout(1, 5)]));
        assert_ne!(two, digest(vec![payout(1, 7), payout(2, 5)]));
        assert_eq!(two, digest(vec![payout(1, 5), payout(2, 7)]));
    }
}
