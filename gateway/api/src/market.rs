//! Selling and buying: what an owner asks for a model, what a buyer signs, what the gateway says of it, and what of that is
//! whose. One sale is one grant of one revision.

mod terms;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::{is_hex, is_owned};
use crate::money::{Amount, Asset};
use crate::problem::Problem;
use crate::secret::Secret;

use terms::is_address;
pub use terms::{IndexedTerms, ModelTerms, ReleaseWay, Split, basis_points};

/// Type of the Aleph POST message whose content is a [`ModelTerms`].
pub const MODEL_TERMS_TYPE: &str = "alephlab-model-terms";

/// All of a price, in basis points.
pub const WHOLE: u16 = 10_000;

/// Most that a model asks of the sales of what is made from it, basis points. Three steps of it, halved each time, and the
/// largest fee leave something to the seller.
pub const ROYALTY_MAX: u16 = 3_000;

/// Most that a gateway takes of a sale, basis points.
pub const FEE_MAX: u16 = 3_000;

/// Ancestors of a model that a sale pays: each further one gets half the share.
pub const LINEAGE_MAX: usize = 3;

/// How long before an order is settled its key goes out at the latest, seconds, of the time that it has in all. The seller's
/// machine takes half of it at most from its word that it begins until the key is posted, so that the other half is left to see
/// the message.
pub fn release_spare(term: u64) -> u64 {
    (term / 12).max(15).min(term / 4)
}

/// What a buyer signs with the wallet, as typed data (EIP-712).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purchase {
    /// Drawn by the buyer: the same id is the same order, and is paid once.
    pub order: Uuid,
    /// Address of the buyer, EIP-55.
    pub buyer: String,
    /// `owner/name`.
    pub model: String,
    /// The model's own identity.
    pub uuid: Uuid,
    /// 40 hex digits.
    pub revision: String,
    /// What the buyer pays, all included.
    pub price: Amount,
    /// Of what.
    pub asset: Asset,
    /// Address of the gateway's receipt key, EIP-55.
    pub gateway: String,
    /// Seconds since 1970.
    pub time: u64,
}

impl Purchase {
    /// Checks the form of one that came from outside.
    ///
    /// # Errors
    /// An `order_malformed` problem.
    pub fn check(&self) -> Result<(), Problem> {
        let owner = self.model.split_once('/').map_or("", |(owner, _)| owner);
        if is_owned(owner, &self.model)
            && is_hex(&self.revision, 40)
            && is_address(&self.buyer)
            && is_address(&self.gateway)
        {
            return Ok(());
        }
        let text = "the order names no buyer, model, revision or gateway";
        Err(Problem::new("order_malformed", text))
    }
}

/// One of `GET /v1/purchases`: what somebody who is signed in as the account in a browser wants to buy. Nothing is paid before a
/// machine that has the account's wallet signs it, as an order of this id at this price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedPurchase {
    /// Of the order.
    pub order: Uuid,
    /// `owner/name`.
    pub model: String,
    /// 40 hex digits.
    pub revision: String,
    /// What the page said that it costs.
    pub price: Amount,
    /// Of what.
    pub asset: Asset,
    /// When, seconds since 1970.
    pub asked: u64,
}

/// `POST /v1/orders`: pays for a revision from the account's balance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewOrder {
    /// What is signed.
    #[serde(flatten)]
    pub purchase: Purchase,
    /// By the buyer's wallet: 65 bytes r, s, v, hex with `0x`.
    pub signature: String,
}

/// The gateway's word that an order is paid, signed by its receipt key as typed data (EIP-712).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paid {
    /// Which order.
    pub order: Uuid,
    /// Address of the buyer, EIP-55.
    pub buyer: String,
    /// `owner/name`.
    pub model: String,
    /// 40 hex digits.
    pub revision: String,
    /// What was paid.
    pub price: Amount,
    /// Of what.
    pub asset: Asset,
    /// When, seconds since 1970.
    pub time: u64,
}

/// The same with its signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedPaid {
    /// What is signed.
    #[serde(flatten)]
    pub paid: Paid,
    /// 65 bytes r, s, v, hex with `0x`.
    pub signature: String,
}

/// Where an order is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OrderState {
    /// The buyer paid, and has no key yet. What was paid is nobody's to spend, and goes back if no key comes.
    Paid,
    /// The key went out; nothing goes back any more.
    Released,
    /// The seller can spend it.
    Final,
    /// It went back to the buyer.
    Refunded,
}

impl OrderState {
    /// As it is stored and sent.
    pub fn name(self) -> &'static str {
        match self {
            Self::Paid => "paid",
            Self::Released => "released",
            Self::Final => "final",
            Self::Refunded => "refunded",
        }
    }

    /// As [`OrderState::name`] writes it.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Paid, Self::Released, Self::Final, Self::Refunded]
            .into_iter()
            .find(|state| state.name() == text)
    }
}

/// What a part of a price is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PartKind {
    /// The seller's, or of those whom the seller splits it with.
    Sale,
    /// Of the owner of a model that this one is made from.
    Royalty,
    /// The gateway's.
    Fee,
}

impl PartKind {
    /// As it is stored and sent.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sale => "sale",
            Self::Royalty => "royalty",
            Self::Fee => "fee",
        }
    }

    /// As [`PartKind::name`] writes it.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Sale, Self::Royalty, Self::Fee]
            .into_iter()
            .find(|kind| kind.name() == text)
    }
}

/// What one of those who are paid gets; all parts of an order are its price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// What for.
    pub kind: PartKind,
    /// Address, or `gateway`.
    pub to: String,
    /// How much.
    pub amount: Amount,
    /// The model that a royalty is for; the sold one otherwise.
    pub model: String,
}

/// `GET /v1/market/{owner}/{name}?revision=`: what a revision costs now, and whom that pays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaleQuote {
    /// `owner/name`.
    pub model: String,
    /// The model's own identity.
    pub uuid: Uuid,
    /// 40 hex digits.
    pub revision: String,
    /// All included.
    pub price: Amount,
    /// Of what.
    pub asset: Asset,
    /// Who gets what of it.
    pub parts: Vec<Part>,
    /// How the key comes.
    pub release: ReleaseWay,
    /// What an order has to name: the address of this gateway's receipt key.
    pub gateway: String,
    /// Item hash of the terms' message.
    pub terms: String,
    /// Until how long after paying it can be refunded while no key came, seconds.
    pub refund_seconds: u64,
}

/// `GET /v1/orders/{id}`, and one of `GET /v1/orders`: an order as its buyer and its seller see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// What the buyer signed.
    pub purchase: Purchase,
    /// Where it is.
    pub state: OrderState,
    /// How the key comes.
    pub release: ReleaseWay,
    /// Who gets what.
    pub parts: Vec<Part>,
    /// The seller's machine has begun to release it: it cannot be refunded by its buyer any more.
    pub claimed: bool,
    /// When it was paid, seconds since 1970.
    pub paid: u64,
    /// When it goes back by itself without a key, or to the seller with one, seconds since 1970.
    pub settles: u64,
    /// When the key went out.
    #[serde(default)]
    pub released: Option<u64>,
    /// When it was final or refunded.
    #[serde(default)]
    pub ended: Option<u64>,
    /// Item hashes of the messages by which the key went out.
    #[serde(default)]
    pub proof: Vec<String>,
}

/// The answer to `POST /v1/orders`: of a model whose key is deposited, with what opens it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bought {
    /// The order.
    #[serde(flatten)]
    pub order: Order,
    /// Made anew with each answer; the one before opens nothing then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<SoldShare>,
}

/// What opens a revision that was bought, at this gateway.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SoldShare {
    /// The share.
    pub uuid: Uuid,
    /// Its token, in this answer only.
    pub token: Secret,
}

/// `GET /v1/market`: what a gateway asks of sales, and where keys can be deposited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarketInfo {
    /// Address of its receipt key, EIP-55: by it terms and orders name this gateway.
    pub gateway: String,
    /// What it takes of each sale, basis points.
    pub fee: u16,
    /// How long after it is paid an order is settled, seconds.
    pub settle_seconds: u64,
    /// Public key that deposits are sealed for, hex.
    pub deposit_key: String,
    /// The receipt key's signature over [`deposit_text`].
    pub deposit_signature: String,
}

/// What a gateway's receipt key signs, to show that a key for deposits is its own.
pub fn deposit_text(key: &str) -> String {
    format!("alephlab/deposit-key/v1\n{key}")
}

/// `PUT /v1/deposits`: gives a gateway the key of one revision, which it then gives to buyers at once. Its operator can read it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NewDeposit {
    /// `owner/name`.
    pub model: String,
    /// The vault's `Release` to the gateway's key, opaque here.
    pub sealed: serde_json::Value,
}

/// One of `GET /v1/sales`: what the seller's machine releases by. It believes the signatures in it, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sale {
    /// As the gateway has it.
    pub order: Order,
    /// The buyer's signature over the purchase.
    pub signature: String,
    /// The gateway's word that it is paid.
    pub paid: SignedPaid,
}

/// `POST /v1/sales/{id}/release`: where the key went out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    /// Item hashes of the seller's messages on Aleph.
    pub messages: Vec<String>,
}

/// `GET /v1/earnings`: what sales have brought an account. What is pending, available and paid out is all of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Earnings {
    /// Of what.
    pub asset: Asset,
    /// Paid by buyers, and not to be spent yet.
    pub pending: Amount,
    /// Why that is, and until when.
    pub waiting: Vec<Waiting>,
    /// Of what went to the balance, what is still there. What leaves the balance is taken from here first.
    pub available: Amount,
    /// The rest of what went to the balance: withdrawn, converted or spent.
    pub paid_out: Amount,
    /// Gone to the balance so far: available and paid out.
    pub earned: Amount,
    /// Each model and day, the newest first.
    pub rows: Vec<EarningsRow>,
}

/// What is pending for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Why.
    pub reason: WaitingReason,
    /// How many orders.
    pub sales: u64,
    /// All of them.
    pub amount: Amount,
    /// When the first of them is settled, seconds since 1970.
    pub first: u64,
    /// When the last of them is.
    pub last: u64,
}

/// Why something is pending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitingReason {
    /// The buyer has no key yet: it goes back if none comes.
    NoKey,
    /// The key went out: it is available when the order is settled.
    Settling,
}

/// What one model brought on one day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarningsRow {
    /// When the day begins (UTC), seconds since 1970.
    pub day: u64,
    /// The model that was sold.
    pub model: String,
    /// As what.
    pub kind: PartKind,
    /// How many orders, refunded ones not counted.
    pub sales: u64,
    /// Not to be spent yet.
    pub pending: Amount,
    /// Gone to the balance.
    pub earned: Amount,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms() -> ModelTerms {
        let owner = format!("0x{}", "a1".repeat(20));
        ModelTerms {
            name: format!("{owner}/digits"),
            owner,
            uuid: Uuid::nil(),
            price: Some(Amount::from_whole(240)),
            asset: Asset::Aleph,
            royalty: 500,
            split: vec![Split {
                to: format!("0x{}", "b2".repeat(20)),
                share: 2_000,
            }],
            release: ReleaseWay::Keys,
            gateway: format!("0x{}", "c3".repeat(20)),
            per_hour: None,
            created: 1,
        }
    }

    #[test]
    fn terms_that_came_from_outside_are_checked() {
        terms().check().unwrap();
        let stop = ModelTerms {
            price: None,
            ..terms()
        };
        stop.check().unwrap();
        let faults: [fn(&mut ModelTerms); 11] = [
            |t| t.owner = "0xAc".into(),
            |t| t.name = format!("{}/00000000-0000-0000-0000-000000000000", t.owner),
            |t| t.price = Some(Amount::ZERO),
            |t| t.asset = Asset::Credit,
            |t| t.royalty = ROYALTY_MAX + 1,
            |t| t.gateway = "somewhere".into(),
            |t| t.split[0].share = WHOLE,
            |t| t.split[0].share = 0,
            |t| t.split[0].to = t.owner.clone(),
            |t| t.split.push(t.split[0].clone()),
            |t| t.per_hour = Some(Amount::from_whole(1)),
        ];
        for (n, fault) in faults.into_iter().enumerate() {
            let mut bad = terms();
            fault(&mut bad);
            let code = bad.check().unwrap_err().code;
            let wanted = if n == 10 {
                "per_use_unavailable"
            } else {
                "model_terms"
            };
            assert_eq!(code, wanted, "fault {n}");
        }
    }

    #[test]
    fn an_order_is_one_flat_object_with_its_price_in_base_units() {
        let terms = terms();
        let order = NewOrder {
            purchase: Purchase {
                order: Uuid::nil(),
                buyer: terms.gateway.clone(),
                model: terms.name,
                uuid: Uuid::nil(),
                revision: "a".repeat(40),
                price: Amount::from_whole(1),
                asset: Asset::Aleph,
                gateway: terms.gateway,
                time: 1,
            },
            signature: "0x".into(),
        };
        order.purchase.check().unwrap();
        let text = serde_json::to_string(&order).unwrap();
        assert!(text.contains(r#""price":"1000000000000000000""#), "{text}");
        assert_eq!(serde_json::from_str::<NewOrder>(&text).unwrap(), order);
    }
}
