//! The provider of hosts on Aleph's network, against a local network whose nodes take cards and start nothing.

use std::sync::Arc;
use std::time::Duration;

use alephlab_api::agent::Join;
use alephlab_api::jupyter::NewKernel;
use alephlab_api::ledger::NewCredit;
use alephlab_api::money::{Amount, Asset};
use alephlab_api::offer::{NewQuote, Offer, Offers, Stage};
use alephlab_api::time::unix_now;
use alephlab_gateway::{Aleph, AlephConfig, Bill, GatewayError, HostProvider, LeaseSecrets, Rented, Seen};
use alephlab_localnet::{ComputeConfig, Config, CrnConfig, Fault, GpuConfig, Handle, Localnet, bind};
use alephlab_vault::Wallet;
use alephlab_vault::message::sign_store;
use alephlab_vault::storage::{AlephStorage, Storage as _};
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use crate::fake_host::FakeHost;
use crate::support::{DEADLINE, OWNER, TOKEN, World, eventually};

const IMAGE: &[u8] = b"nothing boots this";
/// Six units of 43,125 credits an hour.
const PRICE: u64 = 258_750;
const ROW: &str = "instance_gpu_standard";

/// A network with one node.
struct Network {
    handle: Handle,
    image: String,
    folder: tempfile::TempDir,
    _stop: DropGuard,
}

impl Network {
    /// Its node has so many cards, and takes machines that it never starts.
    async fn with_cards(cards: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let mut config = Config::new(listener, folder.path().join("network"));
        config.credits = 100_000_000;
        // One message of these tests is not judged while its sender waits.
        config.sync_timeout = Duration::from_secs(1);
        config.retry_interval = Duration::from_millis(10);
        config.max_attempts = 1_000;
        let card = GpuConfig {
            device_id: "10de:2684".to_owned(),
            model: "RTX 4090".to_owned(),
        };
        let node = CrnConfig {
            name: "one".to_owned(),
            gpus: vec![card; cards],
            cpus: 64,
            memory_mib: 512 << 10,
            listener: None,
        };
        let mut compute = ComputeConfig::new(vec![node], std::env::current_exe().unwrap());
        // Nothing is started, so nothing is needed to start it with.
        compute.bwrap = "true".into();
        compute.dispatch_pause = Duration::from_millis(10);
        config.compute = Some(compute);
        let stop = CancellationToken::new();
        let handle = Localnet::start(config, stop.clone()).await.unwrap();
        handle.faults.on(Fault::NeverBoots, None);
        let wallet = Wallet::generate().unwrap();
        let hash = hex::encode(Sha256::digest(IMAGE));
        let store = sign_store(&wallet, &hash, IMAGE.len() as u64).unwrap();
        let storage = AlephStorage::new(handle.url.clone()).unwrap();
        storage.put(Bytes::from_static(IMAGE), &store).await.unwrap();
        Self {
            handle,
            image: store.item_hash(),
            folder,
            _stop: stop.drop_guard(),
        }
    }

    /// Another gateway's provider, and its account; prices are read whenever they are asked for.
    fn provider(&self) -> (Aleph, String) {
        let wallet = Wallet::generate().unwrap();
        let address = wallet.address();
        let aleph = Aleph::new(AlephConfig {
            node: self.handle.url.clone(),
            crns: self.handle.url.join("crns.json").unwrap(),
            image: Some(self.image.clone()),
            wallet,
            secrets: LeaseSecrets::open(self.folder.path()).unwrap(),
            prices_for: Duration::ZERO,
        });
        (aleph.unwrap(), address)
    }

    async fn get(&self, path: &str) -> Value {
        let url = self.handle.url.join(path).unwrap();
        reqwest::get(url).await.unwrap().json().await.unwrap()
    }

    /// Hashes of the INSTANCE messages of an account.
    async fn instances(&self, address: &str) -> Vec<Value> {
        let path = format!("api/v0/messages.json?msgTypes=INSTANCE&addresses={address}");
        let messages = self.get(&path).await["messages"].clone();
        let messages = messages.as_array().unwrap().iter();
        messages.map(|message| message["item_hash"].clone()).collect()
    }

    /// Waits until an account has just this INSTANCE.
    async fn until_only(&self, address: &str, draft: &Value) {
        eventually("its message", || async {
            (self.instances(address).await == [draft["hash"].clone()]).then_some(())
        })
        .await;
    }

    /// Whether the node runs, or would run, a draft's machine.
    async fn runs(&self, draft: &Value) -> bool {
        let machines = self.get("v2/about/executions/list").await;
        machines.get(draft["hash"].as_str().unwrap()).is_some()
    }
}

/// The only offer.
async fn offer(aleph: &Aleph) -> Offer {
    let mut said = aleph.offers().await;
    assert_eq!(
        (said.offers.len(), said.troubles.as_slice()),
        (1, &[][..]),
        "{:?}",
        said.troubles
    );
    said.offers.remove(0)
}

async fn given_back(aleph: &Aleph, draft: &Value) {
    eventually("the end of the bill", || async {
        (aleph.end(draft).await.unwrap() == Bill::Stopped).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_last_card_is_theirs_who_reserved_it_and_others_are_refused_before_they_pay() {
    let network = Network::with_cards(1).await;
    let ((first, _), (second, loser)) = (network.provider(), network.provider());
    let card = offer(&first).await;
    assert_eq!(card.price, Amount::from_whole(PRICE));
    // Both see it free.
    let ours = first.draft(Uuid::new_v4(), &card).await.unwrap();
    let theirs = second.draft(Uuid::new_v4(), &offer(&second).await).await.unwrap();
    // The network does not look at the message yet: only what the node holds keeps the card.
    let pending = Fault::StayPending {
        message_type: "INSTANCE".to_owned(),
    };
    network.handle.faults.on(pending, None);
    assert_eq!(first.rent(&ours).await.unwrap(), Rented::Accepted);
    assert!(!network.runs(&ours).await);
    let full = Rented::Refused("its node has no room for it any more".to_owned());
    for _ in 0..2 {
        assert_eq!(
            second.rent(&theirs).await.unwrap(),
            full,
            "however often it is asked"
        );
    }
    network.handle.faults.clear();
    network.handle.faults.on(Fault::NeverBoots, None);
    // Who reserved it gets it, and renting it again changes nothing.
    eventually("the machine", || async {
        network.runs(&ours).await.then_some(())
    })
    .await;
    assert_eq!(first.rent(&ours).await.unwrap(), Rented::Accepted);
    assert!(matches!(first.look(&ours).await.unwrap(), Seen::Waiting(_)));
    assert_eq!(
        network.instances(&loser).await,
        Vec::<Value>::new(),
        "nothing was posted"
    );
    let path = format!("api/v0/addresses/{loser}/balance");
    assert_eq!(network.get(&path).await["credit_balance"], 100_000_000);
    given_back(&first, &ours).await;
    // And the card is free again.
    assert_eq!(offer(&second).await.unavailable, None);
    assert_eq!(second.rent(&theirs).await.unwrap(), Rented::Accepted);
    network.until_only(&loser, &theirs).await;
    given_back(&second, &theirs).await;
}

#[tokio::test]
async fn prices_are_what_the_network_says_unless_that_cannot_be() {
    let network = Network::with_cards(1).await;
    let (aleph, _) = network.provider();
    let foundation = &network.handle.foundation;
    let before = offer(&aleph).await;
    assert_eq!(
        (before.price, before.unavailable.as_deref()),
        (Amount::from_whole(PRICE), None)
    );
    foundation.set_price(ROW, "50000");
    let dearer = offer(&aleph).await;
    assert_eq!(
        (dearer.price, dearer.unavailable),
        (Amount::from_whole(300_000), None)
    );
    for wrong in ["0", "-43125", "431251", "dear"] {
        foundation.set_price(ROW, wrong);
        let doubted = offer(&aleph).await;
        let reason = doubted.unavailable.expect(wrong);
        assert!(reason.contains("the network's price for it"), "{reason}");
        // Nor is what was quoted before rented at a price that nobody knows.
        assert!(aleph.draft(Uuid::new_v4(), &before).await.is_err());
    }
    // When they cannot be read, those that were read last are good for a while, and built-in ones for who never read any.
    foundation.set_price(ROW, "50000");
    assert_eq!(offer(&aleph).await.price, Amount::from_whole(300_000));
    let unread = Fault::Status {
        path: "/api/v0/aggregates/".to_owned(),
        status: 404,
    };
    network.handle.faults.on(unread, None);
    assert_eq!(offer(&aleph).await.price, Amount::from_whole(300_000));
    let (blind, _) = network.provider();
    let built_in = offer(&blind).await;
    assert_eq!(
        (built_in.price, built_in.unavailable),
        (Amount::from_whole(PRICE), None)
    );
}

/// Rents on the network, and has a fake host come in place of the machine.
struct Rents {
    aleph: Aleph,
    host: Arc<FakeHost>,
}

impl HostProvider for Rents {
    fn name(&self) -> &'static str {
        self.aleph.name()
    }

    fn offers(&self) -> BoxFuture<'_, Offers> {
        self.aleph.offers()
    }

    fn draft<'a>(&'a self, lease: Uuid, offer: &'a Offer) -> BoxFuture<'a, Result<Value, GatewayError>> {
        self.aleph.draft(lease, offer)
    }

    fn rent<'a>(&'a self, draft: &'a Value) -> BoxFuture<'a, Result<Rented, GatewayError>> {
        self.aleph.rent(draft)
    }

    fn look<'a>(&'a self, _: &'a Value) -> BoxFuture<'a, Result<Seen, GatewayError>> {
        async { Ok(Seen::Reachable) }.boxed()
    }

    fn hand_over<'a>(&'a self, _: &'a Value, join: &'a Join) -> BoxFuture<'a, Result<(), GatewayError>> {
        self.host.boot(join.lease, &join.token);
        async { Ok(()) }.boxed()
    }

    fn end<'a>(&'a self, draft: &'a Value) -> BoxFuture<'a, Result<Bill, GatewayError>> {
        self.host.lose();
        self.aleph.end(draft)
    }
}

#[tokio::test]
async fn a_quote_keeps_its_price_and_that_is_what_is_charged() {
    let network = Network::with_cards(2).await;
    let (aleph, account) = network.provider();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let host = FakeHost::new(&url, false);
    let provider = Arc::new(Rents {
        aleph,
        host: Arc::clone(&host),
    });
    let world = World::start_renting(
        tempfile::tempdir().unwrap(),
        (listener, FakeHost::new(&url, false)),
        (TOKEN, Vec::new()),
        (Amount::ZERO, false),
        Some((Arc::clone(&provider) as Arc<dyn HostProvider>, DEADLINE)),
    )
    .await;
    let client = world.client();
    let given = NewCredit {
        address: OWNER.to_owned(),
        amount: Amount::from_whole(1_000_000),
        asset: Asset::Credit,
        key: "one".to_owned(),
        memo: "welcome".to_owned(),
    };
    client.give(&given).await.unwrap();
    let known = client.offers().await.unwrap().offers.remove(0);
    let quote = client
        .quote(&NewQuote {
            offer: known.id,
            cap: None,
            idle_seconds: None,
        })
        .await
        .unwrap();
    network.handle.foundation.set_price(ROW, "86250");
    assert_eq!(
        offer(&provider.aleph).await.price,
        Amount::from_whole(2 * PRICE),
        "it is another one now"
    );
    let by_quote = NewKernel {
        name: Some("alephlab".to_owned()),
        env: [("KERNEL_QUOTE".to_owned(), quote.id.to_string())].into(),
        ..NewKernel::default()
    };
    let kernel = client.start_kernel(&by_quote).await.unwrap();
    world.until(kernel.id, "idle").await;
    let since = unix_now();
    let mine = || async {
        let all = client.allocations().await.unwrap().allocations;
        all.into_iter()
            .find(|allocation| allocation.id == kernel.id)
            .unwrap()
    };
    eventually("its message", || async {
        (network.instances(&account).await.len() == 1).then_some(())
    })
    .await;
    // So that there is something to pay.
    eventually("two seconds", || async {
        (unix_now() >= since + 2).then_some(())
    })
    .await;
    client.stop_kernel(kernel.id).await.unwrap();
    let ended = eventually("its end", || async {
        Some(mine().await).filter(|allocation| allocation.stage == Stage::Ended)
    })
    .await;
    assert_eq!(ended.offer.price, Amount::from_whole(PRICE));
    assert!(ended.seconds >= 1, "{} s", ended.seconds);
    let quoted = Amount::from_whole(PRICE).part(ended.seconds, 3_600).unwrap();
    assert_eq!(ended.charged, quoted);
    assert_eq!(
        network.instances(&account).await,
        Vec::<Value>::new(),
        "the bill has stopped"
    );
    drop(world.stop().await);
}
