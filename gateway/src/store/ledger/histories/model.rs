//! What steps there are, and the plain model of what all purses must come to by them.

use std::collections::BTreeMap;

use alephlab_api::ledger::EntryKind;
use alephlab_api::money::Asset;

use super::super::PurseKind;

/// An hour; so that seconds are no whole amounts.
pub(super) const PRICE: u128 = 7 * 3_600 + 1;

/// What a step does; amounts in base units.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Credit {
        owner: usize,
        amount: u128,
    },
    Deposit {
        owner: Option<usize>,
        amount: u128,
    },
    Hold {
        owner: usize,
        amount: u128,
    },
    Raise {
        hold: String,
        amount: u128,
    },
    Charge {
        hold: String,
        seconds: u64,
    },
    End {
        hold: String,
        seconds: u64,
    },
    Sale {
        sale: Sale,
    },
    Refund {
        key: String,
        sale: Sale,
    },
    Release {
        key: String,
        sale: Sale,
    },
    Use {
        hold: String,
        amount: u128,
    },
    Convert {
        owner: usize,
        aleph: u128,
        credits: u128,
    },
    Withdraw {
        owner: usize,
        amount: u128,
    },
    Settle {
        key: String,
        amount: u128,
    },
    Return {
        key: String,
        owner: usize,
        amount: u128,
    },
}

/// Who buys of whom, and what of it goes to the owner of an ancestor and to the gateway.
#[derive(Debug, Clone)]
pub(super) struct Sale {
    pub(super) buyer: usize,
    pub(super) seller: usize,
    pub(super) shares: [u128; 3],
}

/// One leg of the model: what goes from where to where.
pub(super) type Moved = (Asset, u128, Purse, Purse);
/// Whose, an account of the history or the gateway, and which.
pub(super) type Purse = (Option<usize>, PurseKind);

const fn of(owner: usize, kind: PurseKind) -> Purse {
    (Some(owner), kind)
}

impl Step {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Credit { .. } => "credit",
            Self::Deposit { .. } => "deposit",
            Self::Hold { .. } => "hold",
            Self::Raise { .. } => "raise",
            Self::Charge { .. } => "charge",
            Self::End { .. } => "end",
            Self::Sale { .. } => "sale",
            Self::Refund { .. } => "refund",
            Self::Release { .. } => "release",
            Self::Use { .. } => "use",
            Self::Convert { .. } => "convert",
            Self::Withdraw { .. } => "withdraw",
            Self::Settle { .. } => "settle",
            Self::Return { .. } => "return",
        }
    }

    /// What it moves by transfers, of which each has a kind of entry; nothing for what calls of their own do.
    pub(super) fn transfers(&self) -> Vec<(EntryKind, Moved)> {
        use PurseKind::{Custody, Exchange, Fee, Payouts, Pending, Suspense, Wallet};
        let aleph = |kind, amount, from, to| (kind, (Asset::Aleph, amount, from, to));
        match *self {
            Self::Deposit { owner, amount } => {
                let to = owner.map_or((None, Suspense), |owner| of(owner, Wallet));
                vec![aleph(EntryKind::Deposit, amount, (None, Custody), to)]
            }
            Self::Sale { ref sale } => {
                let kinds = [EntryKind::Sale, EntryKind::Royalty, EntryKind::Fee];
                let from = of(sale.buyer, Wallet);
                let shares = kinds.into_iter().zip(sale.shares).zip(sale.earners());
                shares
                    .map(|((kind, share), to)| aleph(kind, share, from, to))
                    .collect()
            }
            Self::Refund { ref sale, .. } => {
                let to = of(sale.buyer, Wallet);
                let shares = sale.shares.into_iter().zip(sale.earners());
                shares
                    .map(|(share, from)| aleph(EntryKind::Refund, share, from, to))
                    .collect()
            }
            Self::Release { ref sale, .. } => {
                let shares = sale.shares.into_iter().zip(sale.earners());
                let to = |from: Purse| from.0.map_or((None, Fee), |owner| of(owner, Wallet));
                shares
                    .map(|(share, from)| aleph(EntryKind::Release, share, from, to(from)))
                    .collect()
            }
            Self::Convert {
                owner,
                aleph: paid,
                credits,
            } => vec![
                aleph(EntryKind::Convert, paid, of(owner, Wallet), (None, Exchange)),
                (
                    EntryKind::Convert,
                    (Asset::Credit, credits, (None, Exchange), of(owner, Wallet)),
                ),
            ],
            Self::Withdraw { owner, amount } => {
                vec![aleph(
                    EntryKind::Withdraw,
                    amount,
                    of(owner, Wallet),
                    (None, Payouts),
                )]
            }
            Self::Settle { amount, .. } => {
                vec![aleph(EntryKind::Settle, amount, (None, Payouts), (None, Custody))]
            }
            Self::Return { owner, amount, .. } => {
                vec![aleph(
                    EntryKind::Return,
                    amount,
                    (None, Payouts),
                    of(owner, Wallet),
                )]
            }
            Self::Use { amount, .. } => vec![(
                EntryKind::Use,
                (Asset::Credit, amount, of(0, Wallet), of(1, Pending)),
            )],
            _ => Vec::new(),
        }
    }
}

impl Sale {
    fn earners(&self) -> [Purse; 3] {
        let ancestor = 3 - self.buyer - self.seller;
        [
            of(self.seller, PurseKind::Pending),
            of(ancestor, PurseKind::Pending),
            (None, PurseKind::Pending),
        ]
    }
}

/// An open hold of the model.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) owner: usize,
    pub(super) amount: u128,
    pub(super) charged: u128,
    pub(super) seconds: u64,
}

/// What everything must come to.
#[derive(Default)]
pub(super) struct Model {
    pub(super) purses: BTreeMap<(String, &'static str, Asset), i128>,
    /// Set aside, by account of this history.
    pub(super) held: [u128; 3],
    pub(super) holds: BTreeMap<String, Held>,
    /// Purchases that are neither final nor given back, and withdrawals on their way.
    pub(super) sales: Vec<(String, Sale)>,
    pub(super) payouts: Vec<(String, usize, u128)>,
    pub(super) receipts: u64,
}

/// An account of a history.
pub(super) fn owner(history: u64, number: usize) -> String {
    let address: alephlab_vault::Address = format!("0x{history:032x}{number:08x}").parse().unwrap();
    address.to_string()
}

impl Model {
    fn purse(&mut self, history: u64, purse: Purse, asset: Asset) -> &mut i128 {
        let named = purse
            .0
            .map_or_else(|| "gateway".to_owned(), |number| owner(history, number));
        self.purses.entry((named, purse.1.name(), asset)).or_default()
    }

    /// What a wallet can spend.
    fn available(&mut self, history: u64, of: usize, asset: Asset) -> i128 {
        let held = match asset {
            Asset::Credit => self.held[of],
            Asset::Aleph => 0,
        };
        *self.purse(history, (Some(of), PurseKind::Wallet), asset) - i128::try_from(held).unwrap()
    }

    /// The code with which a step is refused; most are not.
    pub(super) fn refusal(&mut self, history: u64, step: &Step) -> Option<&'static str> {
        let short = |wanted: u128, available: i128| i128::try_from(wanted).unwrap() > available;
        let is_short = match step {
            Step::Hold { owner, amount } => short(*amount, self.available(history, *owner, Asset::Credit)),
            Step::Raise { hold, amount } => {
                let Held {
                    owner,
                    amount: before,
                    ..
                } = self.holds[hold].clone();
                let Some(more) = amount.checked_sub(before) else {
                    return Some("cap_too_small");
                };
                short(more, self.available(history, owner, Asset::Credit))
            }
            _ => {
                let mut wanted: BTreeMap<(usize, Asset), u128> = BTreeMap::new();
                for (_, (asset, amount, from, _)) in step.transfers() {
                    if let (Some(owner), PurseKind::Wallet) = from {
                        *wanted.entry((owner, asset)).or_default() += amount;
                    }
                }
                let mut wanted = wanted.into_iter();
                wanted.any(|((owner, asset), sum)| short(sum, self.available(history, owner, asset)))
            }
        };
        is_short.then_some("balance_too_small")
    }

    pub(super) fn take(&mut self, history: u64, key: &str, step: &Step) {
        for (_, (asset, amount, from, to)) in step.transfers() {
            let amount = i128::try_from(amount).unwrap();
            *self.purse(history, from, asset) -= amount;
            *self.purse(history, to, asset) += amount;
        }
        match step {
            Step::Credit { owner, amount } => {
                let amount = i128::try_from(*amount).unwrap();
                *self.purse(history, (None, PurseKind::Issued), Asset::Credit) -= amount;
                *self.purse(history, (Some(*owner), PurseKind::Wallet), Asset::Credit) += amount;
            }
            Step::Hold { owner, amount } => {
                self.held[*owner] += amount;
                let held = Held {
                    owner: *owner,
                    amount: *amount,
                    charged: 0,
                    seconds: 0,
                };
                self.holds.insert(key.to_owned(), held);
            }
            Step::Raise { hold, amount } => {
                let held = self.holds.get_mut(hold).unwrap();
                self.held[held.owner] += amount - held.amount;
                held.amount = *amount;
            }
            Step::Charge { hold, seconds } => self.charge(history, hold, *seconds),
            Step::End { hold, seconds } => {
                self.charge(history, hold, *seconds);
                let held = self.holds.remove(hold).unwrap();
                self.held[held.owner] -= held.amount - held.charged;
                self.receipts += u64::from(held.charged > 0);
            }
            Step::Sale { sale } => {
                self.sales.push((key.to_owned(), sale.clone()));
                self.receipts += 1;
            }
            Step::Refund { key, .. } | Step::Release { key, .. } => {
                self.sales.retain(|(sale, _)| sale != key)
            }
            Step::Withdraw { owner, amount } => {
                self.payouts.push((key.to_owned(), *owner, *amount));
                self.receipts += 1;
            }
            Step::Settle { key, .. } | Step::Return { key, .. } => {
                self.payouts.retain(|(payout, ..)| payout != key);
            }
            Step::Deposit { .. } | Step::Use { .. } | Step::Convert { .. } => {}
        }
    }

    fn charge(&mut self, history: u64, hold: &str, seconds: u64) {
        let held = self.holds.get_mut(hold).unwrap();
        if seconds <= held.seconds {
            return;
        }
        let due = (PRICE * u128::from(seconds) / 3_600).min(held.amount);
        let (owner, more) = (held.owner, due - held.charged);
        (held.charged, held.seconds) = (due, seconds);
        self.held[owner] -= more;
        let more = i128::try_from(more).unwrap();
        *self.purse(history, (Some(owner), PurseKind::Wallet), Asset::Credit) -= more;
        *self.purse(history, (None, PurseKind::Revenue), Asset::Credit) += more;
    }
}
