//! Models that are sold: what they cost, who may buy, whose the price is, and when it goes back.

use std::sync::Arc;
use std::time::Duration;

use alephlab_api::Secret;
use alephlab_api::client::{ClientError, GatewayClient};
use alephlab_api::ledger::NewCredit;
use alephlab_api::market::{
    MODEL_TERMS_TYPE, ModelTerms, NewDeposit, NewOrder, Order, OrderState, PartKind, Purchase, ReleaseWay,
    Released, SaleQuote, Split,
};
use alephlab_api::model::{
    MODEL_RECORD_TYPE, MODEL_WITHDRAWAL_TYPE, ModelRecord, ModelWithdrawal, Visibility,
};
use alephlab_api::money::{Amount, Asset};
use alephlab_api::time::unix_now;
use alephlab_gateway::{MarketConfig, check_paid, check_purchase, purchase_hash};
use alephlab_vault::message::sign_post;
use alephlab_vault::storage::{MemoryStorage, Storage};
use alephlab_vault::{
    Keys, PutOutcome, Reader, ReaderKey, ReaderPublic, Release, Wallet, find_release, register_reader_key,
    release_revision,
};
use serde::Serialize;
use uuid::Uuid;

use crate::shares::{answer, narrowed, publish};
use crate::support::{World, eventually, sign_in};

/// Somebody at the gateway.
pub(crate) struct Person {
    pub(crate) wallet: Wallet,
    pub(crate) key: ReaderKey,
    pub(crate) client: GatewayClient,
    pub(crate) token: Secret,
}

impl Person {
    pub(crate) fn address(&self) -> String {
        self.wallet.address()
    }

    pub(crate) async fn say(&self, world: &World, post_type: &str, content: impl Serialize) {
        let content = serde_json::to_value(content).unwrap();
        let post = sign_post(&self.wallet, post_type, content, None).unwrap();
        world.storage.publish(&post).await.unwrap();
        self.client.add_model_message(&post.item_hash()).await.unwrap();
    }

    pub(crate) async fn publish(&self, world: &World, name: &str) -> (PutOutcome, ModelRecord) {
        let keys = (&self.wallet, &self.key);
        publish(world, &self.client, keys, (name, Visibility::Sealed), b"weights").await
    }

    /// What this one asks for a model, through this gateway.
    pub(crate) async fn terms(&self, record: &ModelRecord, price: Option<u64>, created: u64) -> ModelTerms {
        ModelTerms {
            owner: record.owner.clone(),
            name: record.name.clone(),
            uuid: record.uuid,
            price: price.map(Amount::from_whole),
            asset: Asset::Aleph,
            royalty: 0,
            split: Vec::new(),
            release: ReleaseWay::Keys,
            gateway: self.client.receipts(0).await.unwrap().signer,
            per_hour: None,
            created,
        }
    }

    pub(crate) fn sign(&self, quote: &SaleQuote) -> NewOrder {
        let purchase = Purchase {
            order: Uuid::new_v4(),
            buyer: self.address(),
            model: quote.model.clone(),
            uuid: quote.uuid,
            revision: quote.revision.clone(),
            price: quote.price,
            asset: quote.asset,
            gateway: quote.gateway.clone(),
            time: unix_now(),
        };
        self.signed(purchase)
    }

    pub(crate) fn signed(&self, purchase: Purchase) -> NewOrder {
        let signature = self.wallet.sign_hash(&purchase_hash(&purchase).unwrap()).unwrap();
        NewOrder { purchase, signature }
    }

    pub(crate) async fn available(&self) -> Amount {
        let balances = self.client.balance().await.unwrap().balances;
        let own = balances.iter().find(|one| one.asset == Asset::Aleph);
        own.map_or(Amount::ZERO, |one| one.available)
    }
}

/// A gateway that settles sales after this long, and people at it; each has 1000 ALEPH.
pub(crate) async fn world<const N: usize>(settle: Duration) -> (World, [Person; N]) {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let wallets = [(); N].map(|()| Wallet::generate().unwrap());
    let admitted = wallets.iter().map(Wallet::address).collect();
    let market = MarketConfig {
        settle,
        ..MarketConfig::default()
    };
    let world = World::selling(&storage, admitted, (None, market)).await;
    let mut people = Vec::new();
    for wallet in wallets {
        let key = ReaderKey::generate().unwrap();
        register_reader_key(&*storage, &wallet, &key).await.unwrap();
        let signed = sign_in(&world, &wallet).await.unwrap();
        let gift = NewCredit {
            address: wallet.address(),
            amount: Amount::from_whole(1_000),
            asset: Asset::Aleph,
            key: wallet.address(),
            memo: String::new(),
        };
        world.client().give(&gift).await.unwrap();
        people.push(Person {
            client: world.client().with_token(signed.token.clone()),
            token: signed.token,
            wallet,
            key,
        });
    }
    (world, people.try_into().ok().unwrap())
}

pub(crate) fn refusal<T: std::fmt::Debug>(outcome: Result<T, ClientError>) -> String {
    match outcome.unwrap_err() {
        ClientError::Refused { problem, .. } => problem.code,
        other => panic!("{other}"),
    }
}

/// What the seller's machine does with what waits.
pub(crate) async fn release(world: &World, seller: &Person, put: &PutOutcome) -> Vec<Order> {
    let keys = narrowed(&world.storage, put, (&seller.wallet, &seller.key)).await;
    let mut done = Vec::new();
    for sale in seller.client.sales(true).await.unwrap() {
        let purchase = &sale.order.purchase;
        let order = NewOrder {
            purchase: purchase.clone(),
            signature: sale.signature.clone(),
        };
        check_purchase(&order).unwrap();
        check_paid(&sale.paid, purchase, &purchase.gateway).unwrap();
        seller.client.claim_sale(purchase.order).await.unwrap();
        let to = (&*purchase.order.to_string(), purchase.buyer.parse().unwrap());
        let messages = release_revision(&*world.storage, &seller.wallet, &put.head, &keys, to).await;
        let messages = messages.unwrap();
        done.push(
            seller
                .client
                .sale_released(purchase.order, &Released { messages })
                .await
                .unwrap(),
        );
    }
    done
}

#[tokio::test]
async fn a_model_is_sold_released_and_paid_for_with_a_royalty() {
    let (world, [seller, mother, buyer]) = world(Duration::from_secs(2)).await;
    let (_, base) = mother.publish(&world, "base").await;
    let (put, record) = seller.publish(&world, "tuned").await;
    // An earlier record of the revision, which says what it is made from.
    let mut made = record.clone();
    made.created -= 5;
    made.card.base_model = Some(format!("{}@main", base.name));
    seller.say(&world, MODEL_RECORD_TYPE, &made).await;
    let mut asks = mother.terms(&base, None, 1).await;
    asks.royalty = 1_000;
    mother.say(&world, MODEL_TERMS_TYPE, &asks).await;
    assert_eq!(
        refusal(buyer.client.sale_quote(&record.name, None).await),
        "not_for_sale"
    );
    seller
        .say(
            &world,
            MODEL_TERMS_TYPE,
            seller.terms(&record, Some(240), 2).await,
        )
        .await;
    // Older terms that come later change nothing.
    seller
        .say(&world, MODEL_TERMS_TYPE, seller.terms(&record, Some(1), 1).await)
        .await;
    let quote = buyer.client.sale_quote(&record.name, None).await.unwrap();
    let parts: Vec<_> = quote
        .parts
        .iter()
        .map(|part| (part.kind, part.to.clone(), part.amount.to_string()))
        .collect();
    assert_eq!(
        parts,
        [
            (PartKind::Sale, seller.address(), "204".to_owned()),
            (PartKind::Royalty, mother.address(), "24".to_owned()),
            (PartKind::Fee, "gateway".to_owned(), "12".to_owned()),
        ]
    );
    let path = format!("/{}/resolve/main/model.safetensors", record.name);
    let (status, headers, _) = answer(&world, &path, None).await;
    let said = headers["x-error-message"].to_str().unwrap();
    assert_eq!(
        (status, headers["x-error-code"].to_str().unwrap()),
        (402, "GatedRepo")
    );
    assert!(
        said.contains(&format!("alephlab model buy {}@{}", record.name, record.commit))
            && said.contains("240.00 ALEPH")
    );
    let (_, _, info) = answer(&world, &format!("/api/models/{}", record.name), None).await;
    let info: serde_json::Value = serde_json::from_slice(&info).unwrap();
    assert_eq!(info["aleph"]["price"], "240.00 ALEPH");
    let order = buyer.sign(&quote);
    let bought = buyer.client.buy(&order).await.unwrap().order;
    assert_eq!(bought.state, OrderState::Paid);
    assert_eq!(buyer.client.buy(&order).await.unwrap().order, bought, "paid once");
    assert_eq!(buyer.available().await, Amount::from_whole(760));
    assert_eq!(seller.available().await, Amount::from_whole(1_000), "not yet");
    assert_eq!(
        refusal(buyer.client.buy(&buyer.sign(&quote)).await),
        "order_again"
    );
    let done = release(&world, &seller, &put).await;
    assert_eq!(done[0].state, OrderState::Released);
    assert_eq!(
        refusal(buyer.client.refund(order.purchase.order).await),
        "order_released"
    );
    let found = find_release(&*world.storage, &put.head, buyer.wallet.owner(), &buyer.key).await;
    let keys = Keys::Objects(found.unwrap().unwrap());
    let reader = Reader::open(Arc::clone(&world.storage), &put.head, keys)
        .await
        .unwrap();
    assert!(reader.read("model.safetensors").await.unwrap() == b"weights"[..]);
    let last = eventually("the sale is final", async || {
        let order = buyer.client.order(order.purchase.order).await.unwrap();
        Some(order).filter(|order| order.state == OrderState::Final)
    })
    .await;
    assert_eq!(last.proof.len(), 1);
    assert_eq!(seller.available().await, Amount::from_whole(1_204));
    assert_eq!(mother.available().await, Amount::from_whole(1_024));
    let earnings = mother.client.earnings().await.unwrap();
    assert_eq!(
        (earnings.earned, earnings.pending, earnings.paid_out),
        (Amount::from_whole(24), Amount::ZERO, Amount::ZERO)
    );
    assert_eq!((earnings.available, earnings.waiting), (earnings.earned, vec![]));
    assert_eq!(
        (earnings.rows.len(), earnings.rows[0].kind),
        (1, PartKind::Royalty)
    );
}

#[tokio::test]
async fn what_is_not_released_goes_back_asked_for_or_not() {
    let (world, [seller, buyer]) = world(Duration::from_secs(3)).await;
    let (put, record) = seller.publish(&world, "digits").await;
    seller
        .say(
            &world,
            MODEL_TERMS_TYPE,
            seller.terms(&record, Some(100), 1).await,
        )
        .await;
    let quote = buyer.client.sale_quote(&record.name, None).await.unwrap();
    let first = buyer.sign(&quote);
    buyer.client.buy(&first).await.unwrap();
    let id = first.purchase.order;
    assert_eq!(refusal(seller.client.refund(id).await), "order_unknown");
    assert_eq!(buyer.client.refund(id).await.unwrap().state, OrderState::Refunded);
    assert_eq!(buyer.available().await, Amount::from_whole(1_000));
    assert_eq!(refusal(seller.client.claim_sale(id).await), "order_ended");
    // Bought again; its seller's machine began and never came back.
    let second = buyer.sign(&quote);
    buyer.client.buy(&second).await.unwrap();
    let id = second.purchase.order;
    assert_eq!(refusal(buyer.client.claim_sale(id).await), "order_unknown");
    seller.client.claim_sale(id).await.unwrap();
    assert_eq!(refusal(buyer.client.refund(id).await), "order_claimed");
    let nothing = Released {
        messages: vec![put.head_message.clone()],
    };
    assert_eq!(
        refusal(seller.client.sale_released(id, &nothing).await),
        "release_refused"
    );
    let state = async || buyer.client.order(id).await.unwrap().state;
    eventually("it goes back by itself", async || {
        (state().await == OrderState::Refunded).then_some(())
    })
    .await;
    assert_eq!(buyer.available().await, Amount::from_whole(1_000));
    // A machine that posted the key and never said so: the gateway finds it on Aleph.
    let third = buyer.sign(&quote);
    buyer.client.buy(&third).await.unwrap();
    let id = third.purchase.order;
    let keys = narrowed(&world.storage, &put, (&seller.wallet, &seller.key)).await;
    seller.client.claim_sale(id).await.unwrap();
    let to = (&*id.to_string(), buyer.wallet.owner());
    release_revision(&*world.storage, &seller.wallet, &put.head, &keys, to)
        .await
        .unwrap();
    eventually("it is seen and final", async || {
        let order = buyer.client.order(id).await.unwrap();
        Some(order).filter(|order| order.state == OrderState::Final)
    })
    .await;
    assert_eq!(seller.available().await, Amount::from_whole(1_095));
}

#[tokio::test]
async fn orders_that_do_not_hold_are_refused_in_words() {
    let (world, [seller, friend, buyer]) = world(Duration::from_secs(86_400)).await;
    let (_, record) = seller.publish(&world, "digits").await;
    let mut asks = seller.terms(&record, Some(240), 1).await;
    asks.split.push(Split {
        to: friend.address(),
        share: 1_000,
    });
    seller.say(&world, MODEL_TERMS_TYPE, &asks).await;
    let quote = buyer.client.sale_quote(&record.name, None).await.unwrap();
    for owner in [&seller, &friend] {
        assert_eq!(refusal(owner.client.buy(&owner.sign(&quote)).await), "order_own");
    }
    let good = buyer.sign(&quote);
    let of = |change: fn(&mut Purchase)| {
        let mut purchase = good.purchase.clone();
        purchase.order = Uuid::new_v4();
        change(&mut purchase);
        buyer.signed(purchase)
    };
    let mut forged = good.clone();
    forged.purchase.price = Amount::from_whole(1);
    let orders = [
        (forged, "order_signature"),
        (friend.sign(&quote), "order_foreign"),
        (of(|one| one.price = Amount::from_whole(239)), "price_changed"),
        (of(|one| one.asset = Asset::Credit), "price_changed"),
        (of(|one| one.time -= 7_200), "order_stale"),
        (of(|one| one.gateway = one.buyer.clone()), "order_elsewhere"),
        (of(|one| one.uuid = Uuid::nil()), "order_malformed"),
        (of(|one| one.revision = "a".repeat(40)), "revision_unknown"),
        (of(|one| one.revision = "main".into()), "order_malformed"),
    ];
    for (order, wanted) in orders {
        assert_eq!(refusal(buyer.client.buy(&order).await), wanted);
    }
    asks.price = Some(Amount::from_whole(5_000));
    asks.created = 2;
    seller.say(&world, MODEL_TERMS_TYPE, &asks).await;
    assert_eq!(refusal(buyer.client.buy(&good).await), "price_changed");
    let dear = buyer
        .client
        .sale_quote(&record.name, Some(&record.commit))
        .await
        .unwrap();
    match buyer.client.buy(&buyer.sign(&dear)).await.unwrap_err() {
        ClientError::Refused { status, problem } => {
            assert_eq!((status, &*problem.code), (402, "balance_too_small"));
            assert!(problem.message.contains("5000.00 ALEPH"), "{}", problem.message);
            assert!(problem.message.contains("1000.00 ALEPH"), "{}", problem.message);
        }
        other => panic!("{other}"),
    }
    (asks.price, asks.created) = (None, 3);
    seller.say(&world, MODEL_TERMS_TYPE, &asks).await;
    assert_eq!(
        refusal(buyer.client.sale_quote(&record.name, None).await),
        "not_for_sale"
    );
    (asks.price, asks.created) = (Some(Amount::from_whole(1)), 4);
    asks.gateway = friend.address();
    seller.say(&world, MODEL_TERMS_TYPE, &asks).await;
    assert_eq!(
        refusal(buyer.client.sale_quote(&record.name, None).await),
        "sold_elsewhere"
    );
    assert_eq!(buyer.available().await, Amount::from_whole(1_000));
    // Another's word about a price is nobody's.
    let post = sign_post(
        &buyer.wallet,
        MODEL_TERMS_TYPE,
        serde_json::to_value(&asks).unwrap(),
        None,
    )
    .unwrap();
    world.storage.publish(&post).await.unwrap();
    let refused = buyer.client.add_model_message(&post.item_hash()).await;
    assert_eq!(refusal(refused), "record_refused");
}

#[tokio::test]
async fn terms_pay_nobody_whose_address_is_spelled_otherwise() {
    let (world, [seller, friend]) = world(Duration::from_secs(86_400)).await;
    let (_, record) = seller.publish(&world, "digits").await;
    let good = seller.terms(&record, Some(240), 1).await;
    let mut split = good.clone();
    split.split.push(Split {
        to: friend.address().to_lowercase(),
        share: 1_000,
    });
    let mut gateway = good.clone();
    gateway.gateway = good.gateway.to_lowercase();
    for terms in [split, gateway] {
        let content = serde_json::to_value(&terms).unwrap();
        let post = sign_post(&seller.wallet, MODEL_TERMS_TYPE, content, None).unwrap();
        world.storage.publish(&post).await.unwrap();
        let refused = seller.client.add_model_message(&post.item_hash()).await;
        assert_eq!(refusal(refused), "record_refused");
    }
    // Terms of another model of that name sell nothing: the seller's machine would release nothing for them.
    let mut other = good;
    other.uuid = Uuid::new_v4();
    seller.say(&world, MODEL_TERMS_TYPE, &other).await;
    assert_eq!(
        refusal(friend.client.sale_quote(&record.name, None).await),
        "not_for_sale"
    );
}

/// What a file of a model is answered with to somebody who has nothing of it.
async fn told(world: &World, record: &ModelRecord) -> (u16, String) {
    let path = format!("/{}/resolve/main/model.safetensors", record.name);
    let (status, headers, _) = answer(world, &path, None).await;
    (status, headers["x-error-message"].to_str().unwrap().to_owned())
}

#[tokio::test]
async fn what_was_sold_of_a_deposited_key_outlives_the_offer() {
    let (world, [seller, buyer, late]) = world(Duration::from_secs(86_400)).await;
    let (put, record) = seller.publish(&world, "digits").await;
    let mut asks = seller.terms(&record, Some(100), 1).await;
    asks.release = ReleaseWay::Deposit;
    seller.say(&world, MODEL_TERMS_TYPE, &asks).await;
    let quoted = async |by: &Person| by.client.sale_quote(&record.name, Some(&record.commit)).await;
    assert_eq!(refusal(quoted(&buyer).await), "deposit_unavailable");
    // Nobody is told to buy what cannot be bought.
    assert_eq!(told(&world, &record).await.0, 403);
    let info = seller.client.market().await.unwrap();
    let to = ReaderPublic::from_hex(&info.deposit_key).unwrap();
    let keys = narrowed(&world.storage, &put, (&seller.wallet, &seller.key)).await;
    let sealed = Release::seal("deposit", &put.head, seller.wallet.owner(), &to, &keys).unwrap();
    let deposit = NewDeposit {
        model: record.name.clone(),
        sealed: serde_json::to_value(sealed).unwrap(),
    };
    assert_eq!(refusal(buyer.client.deposit(&deposit).await), "deposit_refused");
    seller.client.deposit(&deposit).await.unwrap();
    let (status, said) = told(&world, &record).await;
    assert!(status == 402 && said.contains(&record.commit), "{said}");
    let order = buyer.sign(&quoted(&buyer).await.unwrap());
    let lost = buyer.client.buy(&order).await.unwrap().share.unwrap();
    let receipts = buyer.client.receipts(0).await.unwrap().receipts;
    let receipt = &receipts[0].receipt;
    assert_eq!(
        (receipts.len(), receipt.units, receipt.unit_price, receipt.model),
        (1, 1, Amount::from_whole(100), Some(record.uuid))
    );
    // The owner takes back what is not sold yet, and withdraws the revision.
    seller.client.forget_deposits(&record.name).await.unwrap();
    let withdrawal = ModelWithdrawal {
        owner: record.owner.clone(),
        name: record.name.clone(),
        commit: Some(record.commit.clone()),
        created: unix_now(),
    };
    seller.say(&world, MODEL_WITHDRAWAL_TYPE, &withdrawal).await;
    assert_eq!(refusal(quoted(&late).await), "model_unknown");
    // The answer was lost: the order is answered with another token, which opens what was bought.
    let share = buyer.client.buy(&order).await.unwrap().share.unwrap();
    assert_eq!(share.uuid, lost.uuid);
    let path = format!("/m/{}/resolve/{}/model.safetensors", share.uuid, record.commit);
    let (status, _, body) = answer(&world, &path, Some(share.token.expose())).await;
    assert_eq!((status, &body[..]), (200, &b"weights"[..]));
    assert_eq!(answer(&world, &path, Some(lost.token.expose())).await.0, 401);
}
