//! Who gets what of a price. Pure: the same terms and lineage give the same parts.

use alephlab_api::market::{LINEAGE_MAX, ModelTerms, Part, PartKind, WHOLE};
use alephlab_api::money::Amount;

/// To whom fees go.
const GATEWAY: &str = "gateway";

/// A model that the sold one is made from, whose owner asks for a royalty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ancestor {
    /// `owner/name`.
    pub(crate) model: String,
    /// Address of its owner.
    pub(crate) owner: String,
    /// What it asks of its direct descendants, basis points.
    pub(crate) royalty: u16,
    /// How many steps up it is, from 0.
    pub(crate) steps: usize,
}

/// Divides a price: the gateway's fee and royalties of the whole, then what is split of the rest; the seller has what is left.
/// Each part is rounded down but the seller's, so that together they are the price. A royalty is halved with each step.
pub(crate) fn divide(price: Amount, fee: u16, terms: &ModelTerms, ancestors: &[Ancestor]) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut left = price;
    let mut take = |kind, to: &str, model: &str, amount: Amount| {
        left = left.saturating_sub(amount);
        if !amount.is_zero() {
            parts.push(Part {
                kind,
                to: to.to_owned(),
                amount,
                model: model.to_owned(),
            });
        }
        left
    };
    let mut rest = take(PartKind::Fee, GATEWAY, &terms.name, share(price, fee.into(), 1));
    for one in ancestors.iter().filter(|one| one.steps < LINEAGE_MAX) {
        let amount = share(price, one.royalty.into(), 1 << one.steps);
        rest = take(PartKind::Royalty, &one.owner, &one.model, amount);
    }
    let whole = rest;
    for split in &terms.split {
        rest = take(
            PartKind::Sale,
            &split.to,
            &terms.name,
            share(whole, split.share.into(), 1),
        );
    }
    take(PartKind::Sale, &terms.owner, &terms.name, rest);
    // Who is paid most is named first.
    parts.reverse();
    parts
}

/// So many basis points of an amount, divided by `by`, rounded down.
fn share(of: Amount, points: u64, by: u64) -> Amount {
    // At most all of it.
    of.part(points, u64::from(WHOLE) * by).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use alephlab_api::market::{FEE_MAX, ROYALTY_MAX, ReleaseWay, Split};
    use alephlab_api::money::Asset;
    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};
    use uuid::Uuid;

    use super::*;

    fn terms(split: Vec<Split>) -> ModelTerms {
        ModelTerms {
            owner: "seller".into(),
            name: "seller/digits".into(),
            uuid: Uuid::nil(),
            price: None,
            asset: Asset::Aleph,
            royalty: 0,
            split,
            release: ReleaseWay::Keys,
            gateway: "0x".into(),
            per_hour: None,
            created: 1,
        }
    }

    fn ancestor(name: &str, royalty: u16, steps: usize) -> Ancestor {
        Ancestor {
            model: format!("{name}/base"),
            owner: name.into(),
            royalty,
            steps,
        }
    }

    #[test]
    fn a_price_goes_to_gateway_ancestors_split_and_seller() {
        let split = vec![Split {
            to: "friend".into(),
            share: 2_000,
        }];
        let ancestors = [ancestor("mother", 1_000, 0), ancestor("grandmother", 1_000, 1)];
        let parts = divide(Amount::from_whole(240), 500, &terms(split), &ancestors);
        let said: Vec<_> = parts
            .iter()
            .map(|part| format!("{} {} {}", part.kind.name(), part.to, part.amount))
            .collect();
        assert_eq!(
            said,
            [
                "sale seller 153.6",
                "sale friend 38.4",
                "royalty grandmother 12",
                "royalty mother 24",
                "fee gateway 12",
            ]
        );
    }

    #[test]
    fn parts_are_the_price_and_the_seller_has_one_whatever_is_asked() {
        let mut random = StdRng::seed_from_u64(1);
        for _ in 0..2_000 {
            let split = (0..random.random_range(0..4_u16)).map(|n| Split {
                to: format!("friend {n}"),
                share: random.random_range(1..3_000),
            });
            let terms = terms(split.collect());
            let ancestors: Vec<_> = (0..random.random_range(0..5))
                .map(|steps| ancestor("mother", random.random_range(0..=ROYALTY_MAX), steps))
                .collect();
            let digits = random.random_range(1..30);
            let price = Amount::from_base(random.random_range(1..10_u128.pow(digits)));
            let parts = divide(price, random.random_range(0..=FEE_MAX), &terms, &ancestors);
            let sum = parts
                .iter()
                .try_fold(Amount::ZERO, |sum, part| sum.checked_add(part.amount));
            assert_eq!(sum, Some(price), "{parts:?}");
            assert!(parts.iter().all(|part| !part.amount.is_zero()));
            assert_eq!(parts[0].to, "seller");
        }
    }
}
