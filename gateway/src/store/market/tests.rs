//! Random histories of orders against a plain model, calls that are dropped half-way, and what the schema refuses.

mod earned;

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::LazyLock;
use std::task::Poll;

use alephlab_api::market::{Paid, Purchase};
use alephlab_api::money::Amount;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;
use crate::store::StoredShare;

const NAMES: [&str; 4] = [
    "0x00000000000000000000000000000000000000aD",
    "0x00000000000000000000000000000000000000bE",
    "0x00000000000000000000000000000000000000cF",
    "0x00000000000000000000000000000000000000dF",
];
/// What everybody has at first.
const START: u64 = 1_000_000;

async fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    for name in NAMES {
        let amount = Amount::from_base(START.into());
        store
            .credit((NAMES[0], name), ASSET, amount, name, "")
            .await
            .unwrap();
    }
    (folder, store)
}

/// What signs receipts in all of them.
fn receipt_key() -> &'static ReceiptKey {
    static KEY: LazyLock<ReceiptKey> = LazyLock::new(|| {
        let folder = tempfile::tempdir().unwrap();
        ReceiptKey::open(folder.path(), NAMES[0].parse().unwrap()).unwrap()
    });
    &KEY
}

/// An order of one of them for another's model, as a buyer signs it and the gateway answers.
struct Asked {
    signed: NewOrder,
    paid: SignedPaid,
    parts: Vec<Part>,
    buyer: &'static str,
    seller: &'static str,
}

/// Parts are the seller's, one other's and the gateway's.
fn asked(buyer: usize, seller: usize, (revision, price, time): (u32, u64, u64)) -> Asked {
    let (buyer_of, seller_of) = (NAMES[buyer], NAMES[seller]);
    let other = (0..NAMES.len())
        .find(|one| ![buyer, seller].contains(one))
        .unwrap();
    let purchase = Purchase {
        order: Uuid::new_v4(),
        buyer: buyer_of.into(),
        model: format!("{seller_of}/digits"),
        uuid: Uuid::nil(),
        revision: format!("{revision:040x}"),
        price: Amount::from_base(price.into()),
        asset: ASSET,
        gateway: NAMES[0].into(),
        time,
    };
    let part = |kind, to: &str, amount: u64| Part {
        kind,
        to: to.to_owned(),
        amount: Amount::from_base(amount.into()),
        model: purchase.model.clone(),
    };
    let (fee, royalty) = (price / 20, price / 10);
    let mut parts = vec![part(PartKind::Sale, seller_of, price - fee - royalty)];
    parts.push(part(PartKind::Royalty, NAMES[other], royalty));
    parts.push(part(PartKind::Fee, "gateway", fee));
    parts.retain(|part| !part.amount.is_zero());
    let said = Paid {
        order: purchase.order,
        buyer: purchase.buyer.clone(),
        model: purchase.model.clone(),
        revision: purchase.revision.clone(),
        price: purchase.price,
        asset: ASSET,
        time,
    };
    Asked {
        signed: NewOrder {
            purchase,
            signature: "0x".into(),
        },
        paid: SignedPaid {
            paid: said,
            signature: "0x".into(),
        },
        parts,
        buyer: buyer_of,
        seller: seller_of,
    }
}

impl Asked {
    fn new_sale<'a>(&'a self, terms: &'a str) -> NewSale<'a> {
        NewSale {
            signed: &self.signed,
            paid: &self.paid,
            buyer: self.buyer,
            seller: self.seller,
            way: ReleaseWay::Keys,
            terms,
            parts: &self.parts,
            most_per_hour: 1_000,
            settles: self.paid.paid.time + 100,
            receipts: receipt_key(),
        }
    }

    fn id(&self) -> Uuid {
        self.signed.purchase.order
    }
}

/// What the plain model knows: what each can spend, what waits for each, and of each order its parts and state.
#[derive(Default)]
struct Model {
    wallet: BTreeMap<String, u64>,
    pending: BTreeMap<String, u64>,
    orders: Vec<(Asked, OrderState, bool)>,
}

impl Model {
    fn new() -> Self {
        Self {
            wallet: NAMES.map(|name| (name.to_owned(), START)).into(),
            ..Self::default()
        }
    }

    fn end(&mut self, place: usize, state: OrderState) {
        let (asked, was, _) = &mut self.orders[place];
        *was = state;
        for part in &asked.parts {
            let amount = units(part.amount);
            *self.pending.get_mut(&part.to).unwrap() -= amount;
            let to = match state {
                OrderState::Final => part.to.as_str(),
                _ => asked.buyer,
            };
            *self.wallet.entry(to.to_owned()).or_default() += amount;
        }
    }

    async fn check(&self, store: &Store) {
        let (mut all, mut earned) = (0, 0);
        for name in NAMES {
            let found = store.balances(name).await.unwrap().pop().unwrap();
            assert_eq!(units(found.total), self.wallet[name], "{name}");
            let earnings = store.earnings(name).await.unwrap();
            let waits = self.pending.get(name).copied().unwrap_or_default();
            assert_eq!(units(earnings.pending), waits, "{name}");
            earned += units(earnings.earned);
            let three = [earnings.pending, earnings.available, earnings.paid_out].map(units);
            let total = units(earnings.pending) + units(earnings.earned);
            assert_eq!(three.into_iter().sum::<u64>(), total, "{name}");
            assert!(
                three[1] <= self.wallet[name],
                "{name}: no more is available than is there"
            );
            let reasons: u64 = earnings.waiting.iter().map(|one| units(one.amount)).sum();
            assert_eq!(reasons, waits, "{name}");
            all += self.wallet[name] + waits;
        }
        let gateways = |of: &BTreeMap<String, u64>| of.get("gateway").copied().unwrap_or_default();
        all += gateways(&self.wallet) + gateways(&self.pending);
        assert_eq!(all, START * NAMES.len() as u64, "nothing is lost or made");
        let finals = self
            .orders
            .iter()
            .filter(|(_, state, _)| *state == OrderState::Final);
        let sum: u64 = finals.map(|(asked, ..)| units(asked.signed.purchase.price)).sum();
        assert_eq!(earned + gateways(&self.wallet), sum);
        for name in NAMES {
            let bought = self.orders.iter().filter(|(asked, ..)| asked.buyer == name);
            let mut bought: Vec<_> = bought.map(|(asked, ..)| asked.signed.purchase.price).collect();
            let written = store.receipts(name, 0, 500).await.unwrap().into_iter();
            let mut receipts: Vec<_> = written.map(|one| one.receipt.amount).collect();
            bought.sort_unstable();
            receipts.sort_unstable();
            assert_eq!(receipts, bought, "one receipt of each order of {name}");
        }
        assert_eq!(store.audit().await.unwrap().faults, Vec::<String>::new());
    }
}

fn units(amount: Amount) -> u64 {
    amount.times(Amount::from_base(1))
}

fn code<T: std::fmt::Debug>(outcome: Result<T>) -> String {
    outcome.unwrap_err().code().to_owned()
}

/// One step on an order that is there, as it is answered where it may not be.
async fn step(store: &Store, model: &mut Model, place: usize, what: u32) {
    let (asked, state, is_claimed) = &model.orders[place];
    let (id, buyer, seller) = (asked.id(), asked.buyer, asked.seller);
    let (state, is_claimed) = (*state, *is_claimed);
    let proof = ["c".repeat(64)];
    match (what, state) {
        (0, OrderState::Paid) if is_claimed => {
            assert_eq!(
                code(store.refund_order(Some(buyer), id, 5).await),
                "order_claimed"
            );
        }
        (0, OrderState::Paid) => {
            assert_eq!(
                code(store.refund_order(Some(seller), id, 5).await),
                "order_unknown"
            );
            for _ in 0..2 {
                store.refund_order(Some(buyer), id, 5).await.unwrap();
            }
            model.end(place, OrderState::Refunded);
        }
        (0, OrderState::Released | OrderState::Final) => {
            assert_eq!(code(store.refund_order(None, id, 5).await), "order_released");
        }
        (1, OrderState::Paid) => {
            assert_eq!(code(store.claim_order(buyer, id, 5, 9).await), "order_unknown");
            // Claimed or not: what is released after the end may be refunded before it is seen.
            assert_eq!(code(store.claim_order(seller, id, 10, 9).await), "order_ended");
            store.claim_order(seller, id, 5, 9).await.unwrap();
            model.orders[place].2 = true;
        }
        (2, OrderState::Paid) => {
            for _ in 0..2 {
                store.release_order(id, &proof, 6).await.unwrap();
            }
            model.orders[place].1 = OrderState::Released;
        }
        (1 | 2, OrderState::Refunded) => {
            assert_eq!(code(store.release_order(id, &proof, 6).await), "order_ended");
            assert_eq!(code(store.claim_order(seller, id, 5, 9).await), "order_ended");
        }
        (3, OrderState::Released) => {
            for _ in 0..2 {
                store.finish_order(id, 7).await.unwrap();
            }
            model.end(place, OrderState::Final);
        }
        // Its time is over, claimed or not.
        (4, OrderState::Paid) => {
            store.refund_order(None, id, 8).await.unwrap();
            model.end(place, OrderState::Refunded);
        }
        (3, OrderState::Paid | OrderState::Refunded) => {
            assert_eq!(code(store.finish_order(id, 7).await), "order_ended");
        }
        _ => {}
    }
}

#[tokio::test]
async fn random_orders_end_as_a_plain_model_says() {
    for seed in 0..12 {
        let (_folder, store) = store().await;
        let (mut random, mut model) = (StdRng::seed_from_u64(seed), Model::new());
        for time in 0..60_u64 {
            if random.random_range(0..5) < 2 || model.orders.is_empty() {
                let buyer = random.random_range(0..4_usize);
                let seller = (buyer + random.random_range(1..4_usize)) % 4;
                let price = random.random_range(1..START / 2);
                let asked = asked(buyer, seller, (random.random_range(0..4), price, time));
                let again = model.orders.iter().any(|(known, state, _)| {
                    let (new, known) = (&asked.signed.purchase, &known.signed.purchase);
                    (&known.buyer, &known.model, &known.revision) == (&new.buyer, &new.model, &new.revision)
                        && *state != OrderState::Refunded
                });
                let terms = "d".repeat(64);
                let bought = store.buy(&asked.new_sale(&terms)).await;
                if again {
                    assert_eq!(code(bought), "order_again");
                } else if price > model.wallet[asked.buyer] {
                    assert_eq!(code(bought), "balance_too_small");
                    assert!(store.order(asked.id()).await.unwrap().is_none());
                } else {
                    let order = bought.unwrap();
                    assert_eq!(store.buy(&asked.new_sale(&terms)).await.unwrap(), order);
                    *model.wallet.get_mut(asked.buyer).unwrap() -= price;
                    for part in &asked.parts {
                        *model.pending.entry(part.to.clone()).or_default() += units(part.amount);
                    }
                    model.orders.push((asked, OrderState::Paid, false));
                }
            } else {
                let place = random.random_range(0..model.orders.len());
                step(&store, &mut model, place, random.random_range(0..5)).await;
            }
        }
        model.check(&store).await;
    }
}

/// Goes on with a call for so many turns and drops it where it is: as a gateway that is killed there. Whether it was done before.
async fn cut<T>(call: impl Future<Output = T>, mut turns: u32) -> bool {
    let mut call = Box::pin(call);
    poll_fn(|context| match call.as_mut().poll(context) {
        Poll::Ready(_) => Poll::Ready(true),
        Poll::Pending if turns == 0 => Poll::Ready(false),
        Poll::Pending => {
            turns -= 1;
            Poll::Pending
        }
    })
    .await
}

#[tokio::test]
async fn an_order_that_is_cut_anywhere_goes_on_and_pays_once() {
    // Until no step is cut any more.
    for turns in 0.. {
        assert!(turns < 1_000, "a step has no end");
        let (_folder, store) = store().await;
        let asked = asked(0, 1, (1, 1_000, 0));
        let (id, terms, proof) = (asked.id(), "d".repeat(64), ["c".repeat(64)]);
        let mut whole = cut(store.buy(&asked.new_sale(&terms)), turns).await;
        store.buy(&asked.new_sale(&terms)).await.unwrap();
        whole &= cut(store.claim_order(NAMES[1], id, 1, 9), turns).await;
        store.claim_order(NAMES[1], id, 1, 9).await.unwrap();
        whole &= cut(store.release_order(id, &proof, 1), turns).await;
        store.release_order(id, &proof, 1).await.unwrap();
        whole &= cut(store.finish_order(id, 2), turns).await;
        let order = store.finish_order(id, 2).await.unwrap();
        assert_eq!((order.state, order.ended), (OrderState::Final, Some(2)));
        let mut model = Model::new();
        model.wallet.insert(NAMES[0].into(), START - 1_000);
        for part in &asked.parts {
            model.pending.insert(part.to.clone(), units(part.amount));
        }
        model.orders.push((asked, OrderState::Released, false));
        model.end(0, OrderState::Final);
        model.check(&store).await;
        if whole {
            break;
        }
    }
}

#[tokio::test]
async fn a_refund_that_is_cut_anywhere_goes_on_and_pays_back_once() {
    for turns in 0.. {
        assert!(turns < 1_000, "a step has no end");
        let (_folder, store) = store().await;
        let asked = asked(0, 1, (1, 1_000, 0));
        let (id, terms) = (asked.id(), "d".repeat(64));
        store.buy(&asked.new_sale(&terms)).await.unwrap();
        let whole = cut(store.refund_order(None, id, 2), turns).await;
        let order = store.refund_order(None, id, 2).await.unwrap();
        assert_eq!((order.state, order.ended), (OrderState::Refunded, Some(2)));
        let mut model = Model::new();
        model.orders.push((asked, OrderState::Refunded, false));
        model.check(&store).await;
        if whole {
            break;
        }
    }
}

/// What a share needs of the seller and of the revision.
async fn offer(store: &Store, asked: &Asked) {
    let purchase = &asked.signed.purchase;
    sqlx::query(
        "INSERT INTO accounts (id, address, operator, admitted, role, created) VALUES ($1, $1, 0, 1, 'user', 0)
         ON CONFLICT DO NOTHING",
    )
    .bind(asked.seller)
    .execute(&store.write)
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO models (message, uuid, record, head, created, made, owner, name, revision)
         VALUES ($1, $2, '{}', '{}', 1, 1, $3, $4, $5)",
    )
    .bind(format!("{:0>64}", purchase.revision))
    .bind(purchase.uuid.to_string())
    .bind(asked.seller)
    .bind(&purchase.model)
    .bind(&purchase.revision)
    .execute(&store.write)
    .await
    .unwrap();
}

/// A share as it is made for an order.
fn share(asked: &Asked, uuid: Uuid, auth: u8) -> StoredShare {
    StoredShare {
        uuid,
        model: asked.signed.purchase.model.clone(),
        revision: asked.signed.purchase.revision.clone(),
        auth_sha256: [auth; 32],
        sealed: vec![auth],
        expires: None,
        created: 1,
        limits: Default::default(),
        used: Default::default(),
    }
}

#[tokio::test]
async fn an_order_of_a_deposited_key_has_one_share_and_its_newest_token_counts() {
    for turns in 0.. {
        assert!(turns < 1_000, "a step has no end");
        let (_folder, store) = store().await;
        let (sold, given_back) = (asked(0, 1, (1, 1_000, 0)), asked(0, 1, (2, 1_000, 0)));
        let (id, terms) = (sold.id(), "d".repeat(64));
        for asked in [&sold, &given_back] {
            offer(&store, asked).await;
            store.buy(&asked.new_sale(&terms)).await.unwrap();
        }
        let uuid = Uuid::new_v4();
        let whole = cut(store.deliver_order(id, &share(&sold, uuid, 1), 1), turns).await;
        let (order, given) = store.deliver_order(id, &share(&sold, uuid, 2), 2).await.unwrap();
        assert!(given && order.state == OrderState::Released);
        assert_eq!(order.proof, [uuid.to_string()]);
        // Another answer drew another UUID: it gives nothing.
        let (_, given) = store
            .deliver_order(id, &share(&sold, Uuid::new_v4(), 3), 3)
            .await
            .unwrap();
        assert!(!given);
        let kept: Vec<(String, Vec<u8>)> = sqlx::query_as("SELECT uuid, auth_sha256 FROM shares")
            .fetch_all(&store.read)
            .await
            .unwrap();
        assert_eq!(kept, [(uuid.to_string(), vec![2; 32])]);
        let other = given_back.id();
        store.refund_order(None, other, 4).await.unwrap();
        let late = share(&given_back, Uuid::new_v4(), 4);
        assert_eq!(code(store.deliver_order(other, &late, 5).await), "order_ended");
        assert_eq!(code(store.refund_order(None, id, 5).await), "order_released");
        if whole {
            break;
        }
    }
}

#[tokio::test]
async fn a_buyer_pays_neither_themselves_nor_too_often() {
    let (_folder, store) = store().await;
    let terms = "d".repeat(64);
    let mut own = asked(0, 1, (1, 100, 0));
    own.parts[1].to = NAMES[0].to_owned();
    assert_eq!(code(store.buy(&own.new_sale(&terms)).await), "order_own");
    own.seller = NAMES[0];
    assert_eq!(code(store.buy(&own.new_sale(&terms)).await), "order_own");
    for (revision, time, wanted) in [
        (1, 10, None),
        (2, 3_000, Some("orders_too_many")),
        (2, 3_611, None),
    ] {
        let asked = asked(0, 1, (revision, 100, time));
        let sale = NewSale {
            most_per_hour: 1,
            ..asked.new_sale(&terms)
        };
        let outcome = store.buy(&sale).await;
        assert_eq!(
            outcome.err().map(|error| error.code().to_owned()).as_deref(),
            wanted
        );
    }
    let first = asked(1, 2, (1, 100, 0));
    store.buy(&first.new_sale(&terms)).await.unwrap();
    let mut other = asked(3, 2, (1, 100, 0));
    other.signed.purchase.order = first.id();
    assert_eq!(code(store.buy(&other.new_sale(&terms)).await), "key_conflict");
}

#[tokio::test]
async fn the_schema_refuses_what_no_order_does() {
    let (_folder, store) = store().await;
    let asked = asked(0, 1, (1, 1_000, 0));
    store.buy(&asked.new_sale(&"d".repeat(64))).await.unwrap();
    let proof = ["c".repeat(64)];
    for statement in [
        "UPDATE orders SET state = 'final', ended = 1",
        "UPDATE orders SET state = 'released'",
        "UPDATE orders SET buyer = seller",
        "UPDATE orders SET settles = settles + 1",
        "UPDATE order_parts SET account = 'me'",
        "DELETE FROM order_parts",
        "DELETE FROM orders",
    ] {
        assert!(
            sqlx::query(statement).execute(&store.write).await.is_err(),
            "{statement}"
        );
    }
    store.release_order(asked.id(), &proof, 1).await.unwrap();
    for statement in [
        "UPDATE orders SET state = 'refunded', released = NULL, ended = 1",
        "UPDATE orders SET state = 'paid', released = NULL",
        "UPDATE orders SET proof = '[]'",
    ] {
        assert!(
            sqlx::query(statement).execute(&store.write).await.is_err(),
            "{statement}"
        );
    }
}
