//! What the seller's machine believes of a sale, and that a kernel of the buyer opens what was released.

use alephlab_api::market::{
    MODEL_TERMS_TYPE, ModelTerms, NewOrder, Order, OrderState, Paid, Purchase, ReleaseWay, Sale, SignedPaid,
};
use alephlab_api::money::{Amount, Asset};
use alephlab_api::time::unix_now;
use alephlab_gateway::{paid_hash, purchase_hash};
use alephlab_vault::message::sign_post;
use alephlab_vault::{Wallet, register_reader_key, release_revision};

use super::private::published;
use super::*;

/// A seller with a model for 240 ALEPH, the gateway that sells it, and a buyer.
struct Market {
    seller: Bench,
    record: ModelRecord,
    gateway: Wallet,
    buyer: Bench,
}

impl Market {
    async fn new() -> Self {
        let (seller, mut buyer) = (bench().await, bench().await);
        buyer.storage = Arc::clone(&seller.storage);
        let client = buyer.engine.gateway().clone();
        buyer.engine = Engine::new(buyer.account.clone(), buyer.storage.clone(), client);
        register_reader_key(&*buyer.storage, buyer.account.wallet(), buyer.account.reader())
            .await
            .unwrap();
        let sealing = seal(&seller, "digits", "one").await;
        let message = published(&seller, &sealing).await;
        let post = seller.storage.post(&message).await.unwrap().unwrap();
        let record = serde_json::from_value(post.content).unwrap();
        let market = Self {
            seller,
            record,
            gateway: Wallet::generate().unwrap(),
            buyer,
        };
        market.ask(Some(240), 10).await;
        market
    }

    async fn ask(&self, price: Option<u64>, created: u64) {
        let terms = ModelTerms {
            owner: self.record.owner.clone(),
            name: self.record.name.clone(),
            uuid: self.record.uuid,
            price: price.map(Amount::from_whole),
            asset: Asset::Aleph,
            royalty: 0,
            split: Vec::new(),
            release: ReleaseWay::Keys,
            gateway: self.gateway.address(),
            per_hour: None,
            created,
        };
        let wallet = self.seller.account.wallet();
        let content = serde_json::to_value(terms).unwrap();
        let post = sign_post(wallet, MODEL_TERMS_TYPE, content, None).unwrap();
        self.seller.storage.publish(&post).await.unwrap();
    }

    /// An order as it comes through the gateway, signed by these, after a change.
    fn sale(&self, buyer: &Wallet, gateway: &Wallet, change: impl Fn(&mut Purchase)) -> Sale {
        let mut purchase = Purchase {
            order: Uuid::new_v4(),
            buyer: self.buyer.account.address(),
            model: self.record.name.clone(),
            uuid: self.record.uuid,
            revision: self.record.commit.clone(),
            price: Amount::from_whole(240),
            asset: Asset::Aleph,
            gateway: self.gateway.address(),
            time: 20,
        };
        change(&mut purchase);
        let paid = Paid {
            order: purchase.order,
            buyer: purchase.buyer.clone(),
            model: purchase.model.clone(),
            revision: purchase.revision.clone(),
            price: purchase.price,
            asset: purchase.asset,
            time: purchase.time,
        };
        let signature = buyer.sign_hash(&purchase_hash(&purchase).unwrap()).unwrap();
        let said = gateway.sign_hash(&paid_hash(&paid).unwrap()).unwrap();
        let order = NewOrder { purchase, signature };
        Sale {
            order: Order {
                purchase: order.purchase,
                state: OrderState::Paid,
                release: ReleaseWay::Keys,
                parts: Vec::new(),
                claimed: false,
                paid: 20,
                settles: u64::MAX,
                released: None,
                ended: None,
                proof: Vec::new(),
            },
            signature: order.signature,
            paid: SignedPaid {
                paid,
                signature: said,
            },
        }
    }

    async fn refusal(&self, sale: &Sale) -> String {
        self.seller.engine.check_sale(sale).await.unwrap_err().to_string()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_was_sold_and_paid_at_the_own_terms_is_released() {
    let market = Market::new().await;
    let (buyer, gateway) = (market.buyer.account.wallet(), &market.gateway);
    let good = market.sale(buyer, gateway, |_| {});
    assert_eq!(market.seller.engine.check_sale(&good).await.unwrap(), "digits");
    // More than is asked is not too little.
    let dear = market.sale(buyer, gateway, |one| one.price = Amount::from_whole(241));
    market.seller.engine.check_sale(&dear).await.unwrap();
    let other = Wallet::generate().unwrap();
    let forged = [
        (market.sale(&other, gateway, |_| {}), "purchase is not signed"),
        (
            market.sale(buyer, &other, |_| {}),
            "payment of this order is not signed",
        ),
        (
            market.sale(buyer, gateway, |one| one.price = Amount::from_whole(239)),
            "no terms",
        ),
        (
            market.sale(buyer, gateway, |one| one.asset = Asset::Credit),
            "no terms",
        ),
        (
            market.sale(buyer, &other, |one| one.gateway = other.address()),
            "no terms",
        ),
        (
            market.sale(buyer, gateway, |one| one.uuid = Uuid::nil()),
            "not one that is sold",
        ),
        (
            market.sale(buyer, gateway, |one| one.revision = "a".repeat(40)),
            "not offered",
        ),
        (
            market.sale(buyer, gateway, |one| {
                one.model = format!("{}/digits", other.address())
            }),
            "another account's",
        ),
    ];
    for (sale, why) in &forged {
        let said = market.refusal(sale).await;
        assert!(said.contains(why), "{said}");
    }
    // The payment of another order.
    let mut crossed = market.sale(buyer, gateway, |_| {});
    crossed.paid = good.paid.clone();
    assert!(market.refusal(&crossed).await.contains("payment of this order"));
    // What is asked later does not undo what was paid before, and holds from then on.
    market.ask(Some(900), 10_000).await;
    market.seller.engine.check_sale(&good).await.unwrap();
    let late = market.sale(buyer, gateway, |one| one.time = 10_001);
    assert!(market.refusal(&late).await.contains("no terms"));
    market.ask(None, 20_000).await;
    let stopped = market.sale(buyer, gateway, |one| {
        (one.time, one.price) = (20_001, Amount::from_whole(900));
    });
    assert!(market.refusal(&stopped).await.contains("no terms"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kernel_of_the_buyer_opens_what_was_released_and_a_strangers_does_not() {
    let market = Market::new().await;
    let reference = format!("{}@{}", market.record.name, market.record.commit);
    assert!(market.buyer.open(&reference).await.is_err());
    let opened = market.seller.engine.open_here(&reference).await.unwrap();
    let head = opened.head.clone();
    let keys = market.seller.engine.narrow(opened, "the test").await.unwrap();
    let to = ("an order", market.buyer.account.wallet().owner());
    let wallet = market.seller.account.wallet();
    release_revision(&*market.seller.storage, wallet, &head, &keys, to)
        .await
        .unwrap();
    let (found, reader) = market.buyer.open(&reference).await.unwrap();
    assert_eq!(found.revision(), market.record.commit);
    assert!(reader.entries().iter().any(|entry| entry.is_file()));
    // As before a person is asked.
    market.buyer.engine.look_up(&reference).await.unwrap();
    let names = market.buyer.engine.names(&Ask::Open {
        reference: reference.clone(),
    });
    assert!(names.contains(&market.record.name), "{names:?}");
    // Bought, it can be neither shared on nor is the next revision open.
    let mut next = seal(&market.seller, "digits", "two").await;
    next.record.created = unix_now() + 5;
    published(&market.seller, &next).await;
    assert!(
        market
            .buyer
            .another()
            .open_here(&market.record.name)
            .await
            .is_err()
    );
    let mut stranger = bench().await;
    stranger.storage = Arc::clone(&market.seller.storage);
    stranger.engine = stranger.another();
    assert!(stranger.open(&reference).await.is_err());
}
