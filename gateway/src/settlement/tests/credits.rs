//! Credits to the network: once, whatever happens between look, message and verdict.

use alephlab_api::payout::{Conversion, ConversionState, Rate};
use alephlab_api::time::unix_now;
use alephlab_localnet::{Fault, Handle, Localnet};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::aleph::Transfers;
use crate::store::AskedConversion;

/// What every address has on the local network.
const HAS: u64 = 1_000;

const DAY: u64 = 24 * 3_600;

/// A gateway of which Bob and Cyd are accounts, with an account on a network.
struct Lab {
    store: Store,
    credits: Credits,
    network: Handle,
    key: zeroize::Zeroizing<[u8; 32]>,
    stop: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Lab {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        store
            .configure(BOB, &[1; 32], &[CYD.to_owned()], None)
            .await
            .unwrap();
        for account in [BOB, CYD] {
            store
                .credit((BOB, account), Asset::Aleph, Amount::from_whole(50), account, "")
                .await
                .unwrap();
        }
        let listener = alephlab_localnet::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let mut config = alephlab_localnet::Config::new(listener, folder.path().join("node"));
        config.credits = HAS;
        let stop = CancellationToken::new();
        let network = Localnet::start(config, stop.clone()).await.unwrap();
        let key = random_key(&folder.path().join("renting.key")).unwrap();
        let credits = Credits::new(CreditsConfig {
            wallet: Wallet::from_secret(&key).unwrap(),
            node: network.url.clone(),
        });
        Self {
            store,
            credits,
            network,
            key,
            stop,
            _folder: folder,
        }
    }

    fn wallet(&self) -> Wallet {
        Wallet::from_secret(&self.key).unwrap()
    }

    async fn convert(&self, account: &str, credits: u64) -> Uuid {
        let id = Uuid::new_v4();
        let asked = AskedConversion {
            id,
            account,
            aleph: Amount::from_whole(1),
            credits: Amount::from_whole(credits),
            rate: Rate {
                credits: Amount::from_whole(credits),
                time: 0,
            },
            address: Some(account),
        };
        self.store.convert(asked).await.unwrap();
        id
    }

    /// A step of a moment at which nothing waits any more.
    async fn step(&self) {
        self.credits.step(&self.store, unix_now() + DAY).await.unwrap();
    }

    async fn conversion(&self, account: &str, id: Uuid) -> Conversion {
        self.store.known_conversion(account, id).await.unwrap().unwrap()
    }

    async fn on_network(&self, address: &str) -> u64 {
        let path = format!("api/v0/addresses/{address}/balance");
        let url = self.network.url.join(&path).unwrap();
        let answer: serde_json::Value = reqwest::get(url).await.unwrap().json().await.unwrap();
        answer["credit_balance"].as_u64().unwrap()
    }

    async fn has(&self, account: &str, asset: Asset) -> Amount {
        let balances = self.store.balances(account).await.unwrap();
        let found = balances.iter().find(|balance| balance.asset == asset);
        found.map_or(Amount::ZERO, |balance| balance.available)
    }

    async fn end(self) {
        assert_eq!(self.store.audit().await.unwrap().faults, Vec::<String>::new());
        self.stop.cancel();
    }
}

#[tokio::test]
async fn credits_are_sent_to_the_accounts_address_once_wherever_it_is_cut_off() {
    let lab = Lab::start().await;
    let mut random = StdRng::seed_from_u64(9);
    for count in 1..=6 {
        lab.convert(BOB, 31).await;
        while !lab.store.open_conversions(unix_now()).await.unwrap().is_empty() {
            let step = lab.credits.step(&lab.store, unix_now());
            is_cut(random.random_range(0..40), step).await;
        }
        assert_eq!(lab.on_network(BOB).await, HAS + count * 31);
    }
    lab.end().await;
}

#[tokio::test]
async fn what_cannot_be_paid_beside_what_is_written_is_aleph_again() {
    let lab = Lab::start().await;
    lab.network.faults.on(
        Fault::StayPending {
            message_type: "POST".to_owned(),
        },
        None,
    );
    let first = lab.convert(BOB, 600).await;
    lab.step().await;
    assert_eq!(lab.conversion(BOB, first).await.state, ConversionState::Posted);
    // The account still has all of it, and no more than 400 that are nobody's yet.
    let second = lab.convert(CYD, 600).await;
    lab.step().await;
    assert_eq!(lab.conversion(CYD, second).await.state, ConversionState::Returned);
    assert_eq!(lab.has(CYD, Asset::Aleph).await, Amount::from_whole(50));
    assert_eq!(lab.has(CYD, Asset::Credit).await, Amount::ZERO);
    let third = lab.convert(CYD, 400).await;
    lab.network.faults.clear();
    while lab.conversion(BOB, first).await.ended.is_none() {
        lab.step().await;
    }
    lab.step().await;
    for (account, id) in [(BOB, first), (CYD, third)] {
        assert_eq!(lab.conversion(account, id).await.state, ConversionState::Seen);
    }
    let now = (lab.on_network(BOB).await, lab.on_network(CYD).await);
    assert_eq!(now, (HAS + 600, HAS + 400));
    lab.end().await;
}

#[tokio::test]
async fn what_the_network_rejected_once_it_is_posted_is_not_given_back() {
    let lab = Lab::start().await;
    let id = lab.convert(BOB, 1_500).await;
    // Its credits went elsewhere between the look and the verdict.
    let (message, hash) = Transfers::sign(&lab.wallet(), BOB, 1_500).unwrap();
    lab.store.write_transfer(id, &message, &hash).await.unwrap();
    lab.step().await;
    let waits = lab.conversion(BOB, id).await;
    assert_eq!(waits.state, ConversionState::Posted);
    assert!(waits.reason.unwrap().contains("tried again"));
    let soon = lab.store.open_conversions(unix_now()).await.unwrap();
    assert!(soon.is_empty(), "it is not posted without end");
    assert_eq!(lab.has(BOB, Asset::Aleph).await, Amount::from_whole(49));
    // Somebody fills the account.
    let friend = Wallet::generate().unwrap();
    let transfers = Transfers::new(lab.network.url.clone());
    let (filling, _) = Transfers::sign(&friend, &lab.wallet().address(), HAS).unwrap();
    transfers.post(&filling).await.unwrap();
    for _ in 0..2 {
        lab.step().await;
        // And whoever has seen the message posts it.
        transfers.post(&message).await.unwrap();
    }
    assert_eq!(lab.conversion(BOB, id).await.state, ConversionState::Seen);
    assert_eq!(lab.on_network(BOB).await, HAS + 1_500);
    assert_eq!(lab.has(BOB, Asset::Aleph).await, Amount::from_whole(49));
    assert_eq!(lab.has(BOB, Asset::Credit).await, Amount::ZERO);
    lab.end().await;
}
