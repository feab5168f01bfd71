//! Kernels on hosts that are rented for them: from the price to the receipt, and what becomes of them when somebody dies.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alephlab_api::Secret;
use alephlab_api::agent::Join;
use alephlab_api::client::{ClientError, GatewayClient};
use alephlab_api::jupyter::NewKernel;
use alephlab_api::ledger::NewCredit;
use alephlab_api::money::{Amount, Asset};
use alephlab_api::offer::{AllocationModel, Gpu, NewQuote, Offer, Offers, Stage};
use alephlab_gateway::{Bill, GatewayError, HostProvider, Rented, Seen};
use futures_util::SinkExt as _;
use futures_util::future::{BoxFuture, FutureExt as _};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;

use crate::fake_host::FakeHost;
use crate::support::{DEADLINE, OWNER, TOKEN, World, eventually, legacy, next, text};

/// A second costs one credit.
const PRICE: u64 = 3_600;
const SPEC: &str = "alephlab-rtx-4090";

/// What the provider's hosts do now.
#[derive(Default)]
struct Machine {
    /// Cards that are free.
    free: usize,
    boots: bool,
    lost: bool,
    /// Leases that are billed.
    billed: Vec<String>,
    rents: usize,
    ends: usize,
    joined: Option<Join>,
}

/// Rents one fake host.
struct Provider {
    host: Arc<FakeHost>,
    machine: Mutex<Machine>,
}

impl Provider {
    fn new(url: &str) -> Arc<Self> {
        let machine = Machine {
            free: 1,
            boots: true,
            ..Machine::default()
        };
        Arc::new(Self {
            host: FakeHost::new(url, false),
            machine: Mutex::new(machine),
        })
    }

    fn set(&self, change: impl FnOnce(&mut Machine)) {
        change(&mut self.machine.lock().unwrap());
    }

    fn get<T>(&self, read: impl FnOnce(&Machine) -> T) -> T {
        read(&self.machine.lock().unwrap())
    }
}

fn lease(draft: &Value) -> String {
    draft["lease"].as_str().unwrap().to_owned()
}

impl HostProvider for Provider {
    fn name(&self) -> &'static str {
        "fake network"
    }

    fn offers(&self) -> BoxFuture<'_, Offers> {
        let gpu = Gpu {
            model: "RTX 4090".to_owned(),
            device_id: "10de:2684".to_owned(),
            count: 1,
            memory_gib: 24,
        };
        let offer = Offer {
            id: "one".to_owned(),
            provider: self.name().to_owned(),
            kernelspec: SPEC.to_owned(),
            hardware: "RTX 4090".to_owned(),
            gpu: Some(gpu),
            vcpus: 6,
            memory_gib: 36,
            disk_gib: 360,
            place: "a cellar".to_owned(),
            price: Amount::from_whole(PRICE),
            trust: "Host can read memory".to_owned(),
            starts: "at once".to_owned(),
            unavailable: self.get(|machine| (machine.free == 0).then(|| "it is taken".to_owned())),
        };
        let offers = Offers {
            offers: vec![offer],
            troubles: Vec::new(),
        };
        async move { offers }.boxed()
    }

    fn draft<'a>(&'a self, lease: Uuid, _: &'a Offer) -> BoxFuture<'a, Result<Value, GatewayError>> {
        async move { Ok(json!({ "lease": lease })) }.boxed()
    }

    fn rent<'a>(&'a self, draft: &'a Value) -> BoxFuture<'a, Result<Rented, GatewayError>> {
        self.set(|machine| {
            machine.rents += 1;
            machine.billed.push(lease(draft));
        });
        async { Ok(Rented::Accepted) }.boxed()
    }

    fn look<'a>(&'a self, _: &'a Value) -> BoxFuture<'a, Result<Seen, GatewayError>> {
        let seen = self.get(|machine| match (machine.lost, machine.boots) {
            (true, _) => Seen::Gone("the cellar is flooded".to_owned()),
            (_, true) => Seen::Reachable,
            (_, false) => Seen::Waiting("the machine boots".to_owned()),
        });
        async move { Ok(seen) }.boxed()
    }

    fn hand_over<'a>(&'a self, _: &'a Value, join: &'a Join) -> BoxFuture<'a, Result<(), GatewayError>> {
        if self.get(|machine| machine.joined.is_none()) {
            self.host.boot(join.lease, &join.token);
        }
        self.set(|machine| machine.joined = Some(join.clone()));
        async { Ok(()) }.boxed()
    }

    fn end<'a>(&'a self, draft: &'a Value) -> BoxFuture<'a, Result<Bill, GatewayError>> {
        self.host.lose();
        let before = self.get(|machine| machine.billed.contains(&lease(draft)));
        self.set(|machine| {
            machine.ends += 1;
            machine.billed.retain(|billed| *billed != lease(draft));
        });
        let bill = match before {
            true => Bill::Runs("it is told".to_owned()),
            false => Bill::Stopped,
        };
        async move { Ok(bill) }.boxed()
    }
}

async fn start(folder: tempfile::TempDir, provider: &Arc<Provider>, keep: bool) -> World {
    start_patient(folder, provider, keep, DEADLINE).await
}

async fn start_patient(
    folder: tempfile::TempDir,
    provider: &Arc<Provider>,
    keep: bool,
    outlive: Duration,
) -> World {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    provider.host.url.lock().unwrap().clone_from(&url);
    let host = FakeHost::new(&url, false);
    let provider = Arc::clone(provider) as Arc<dyn HostProvider>;
    World::start_renting(
        folder,
        (listener, host),
        (TOKEN, Vec::new()),
        (Amount::ZERO, keep),
        Some((provider, outlive)),
    )
    .await
}

async fn world() -> (World, Arc<Provider>) {
    let provider = Provider::new("");
    let world = start(tempfile::tempdir().unwrap(), &provider, false).await;
    let given = NewCredit {
        address: OWNER.to_owned(),
        amount: Amount::from_whole(10_000),
        asset: Asset::Credit,
        key: "one".to_owned(),
        memo: "welcome".to_owned(),
    };
    world.client().give(&given).await.unwrap();
    (world, provider)
}

fn wanted(name: &str, pairs: &[(&str, &str)]) -> NewKernel {
    let env: BTreeMap<String, String> = pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    NewKernel {
        name: Some(name.to_owned()),
        env,
        ..NewKernel::default()
    }
}

fn refusal<T: std::fmt::Debug>(outcome: Result<T, ClientError>) -> String {
    match outcome.unwrap_err() {
        ClientError::Refused { problem, .. } => problem.code,
        other => panic!("{other}"),
    }
}

async fn allocation(client: &GatewayClient, id: Uuid) -> AllocationModel {
    let all = client.allocations().await.unwrap().allocations;
    all.into_iter().find(|allocation| allocation.id == id).unwrap()
}

async fn until(client: &GatewayClient, id: Uuid, stage: Stage) -> AllocationModel {
    eventually(stage.name(), || async {
        Some(allocation(client, id).await).filter(|allocation| allocation.stage == stage)
    })
    .await
}

#[tokio::test]
async fn hardware_is_a_kernelspec_with_its_price_and_trust() {
    let (world, provider) = world().await;
    let specs: Value = world
        .http()
        .get(format!("{}/api/kernelspecs", world.url))
        .bearer_auth(TOKEN)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(
        specs["kernelspecs"][SPEC]["spec"]["display_name"],
        "Rust · RTX 4090 · 0.0036 USD/h · host can read memory"
    );
    let client = world.client();
    let no = client.start_kernel(&wanted("alephlab-abacus", &[])).await;
    assert_eq!(refusal(no), "hardware_unknown");
    let no = client
        .start_kernel(&wanted(SPEC, &[("KERNEL_MAX_PRICE", "10")]))
        .await;
    assert_eq!(refusal(no), "price_too_high");
    let no = client
        .start_kernel(&wanted(SPEC, &[("KERNEL_MAX_COST", "20000")]))
        .await;
    assert_eq!(refusal(no), "balance_too_small");
    let no = client
        .start_kernel(&wanted("alephlab", &[("KERNEL_GPU", "Voodoo 2")]))
        .await;
    assert_eq!(refusal(no), "hardware_unknown");
    assert_eq!(provider.get(|machine| machine.rents), 0);
    assert!(client.allocations().await.unwrap().allocations.is_empty());
}

#[tokio::test]
async fn a_kernel_is_rented_used_charged_and_given_back() {
    let (world, provider) = world().await;
    provider.set(|machine| machine.boots = false);
    let client = world.client();
    let named = NewKernel {
        kernel_id: Some(Uuid::new_v4()),
        ..wanted(
            "alephlab",
            &[("KERNEL_GPU", "rtx4090"), ("KERNEL_MAX_COST", "5000")],
        )
    };
    let kernel = client.start_kernel(&named).await.unwrap();
    assert_eq!(
        (kernel.execution_state.as_str(), kernel.name.as_str()),
        ("starting", SPEC)
    );
    assert_eq!(
        client.start_kernel(&named).await.unwrap().id,
        kernel.id,
        "asked twice, rented once"
    );
    // A notebook hears of the kernel at once, and under its cell what the cell waits for.
    let mut socket = world.channels(kernel.id, "s", &[]).await;
    let mut asks = legacy("info", "shell");
    asks["header"]["msg_type"] = "kernel_info_request".into();
    socket.send(Message::text(asks.to_string())).await.unwrap();
    let mut came = Vec::new();
    for _ in 0..3 {
        came.push(text(&next(&mut socket).await));
    }
    assert_eq!(came[1]["msg_type"], "kernel_info_reply");
    assert_eq!(came[1]["content"]["language_info"]["name"], "rust");
    assert_eq!(came[2]["parent_header"]["msg_id"], "info");
    socket
        .send(Message::text(legacy("cell", "shell").to_string()))
        .await
        .unwrap();
    let notice = text(&next(&mut socket).await);
    assert_eq!(notice["parent_header"]["msg_id"], "cell");
    let said = notice["content"]["text"].as_str().unwrap();
    assert!(
        said.contains("runs as soon as RTX 4090 is there") && said.contains("nothing is charged"),
        "{said}"
    );
    until(&client, kernel.id, Stage::Booting).await;
    provider.set(|machine| machine.boots = true);
    world.until(kernel.id, "idle").await;
    // The cell was kept, and its output comes.
    let echoed = async {
        loop {
            let message = text(&next(&mut socket).await);
            if message["msg_type"] == "execute_request" && message["channel"] == "iopub" {
                return message;
            }
        }
    };
    echoed.await;
    let running = until(&client, kernel.id, Stage::Running).await;
    assert_eq!(running.cap, Amount::from_whole(5_000));
    let raise = async |cap: u64| client.raise_cap(kernel.id, Amount::from_whole(cap)).await;
    assert_eq!(raise(6_000).await.unwrap().price, running.offer.price);
    assert_eq!(
        allocation(&client, kernel.id).await.cap,
        Amount::from_whole(6_000),
        "a cap is raised while its kernel runs"
    );
    let join = provider.get(|machine| machine.joined.clone()).unwrap();
    assert!(join.gateway.starts_with("https://") && join.certificate.unwrap().contains("BEGIN CERTIFICATE"));
    // Somebody who sees everything that is public, or even the token that was used, is nobody.
    let stranger = FakeHost::new(&world.url, false);
    stranger.boot(join.lease, &Secret::new("0".repeat(64)));
    let late = FakeHost::new(&world.url, false);
    late.boot(join.lease, &join.token);
    client.stop_kernel(kernel.id).await.unwrap();
    let ended = until(&client, kernel.id, Stage::Ended).await;
    assert_eq!(refusal(raise(7_000).await), "hold_ended");
    assert_eq!(
        (
            stranger.starts.load(Ordering::SeqCst),
            late.starts.load(Ordering::SeqCst)
        ),
        (0, 0)
    );
    assert_eq!(
        provider.get(|machine| (machine.rents, machine.billed.len())),
        (1, 0)
    );
    assert!(
        provider.get(|machine| machine.ends) >= 2,
        "until the bill had stopped"
    );
    let balance = client.balance().await.unwrap().balances.remove(0);
    assert_eq!(balance.held, Amount::ZERO);
    assert_eq!(
        balance.total,
        Amount::from_whole(10_000).saturating_sub(ended.charged)
    );
    for fake in [stranger, late] {
        fake.lose();
    }
    drop(world.stop().await);
}

#[tokio::test]
async fn a_quote_is_firm_for_one_start() {
    let (world, provider) = world().await;
    let client = world.client();
    let ask = |cap| NewQuote {
        offer: "one".to_owned(),
        cap,
        idle_seconds: Some(600),
    };
    assert_eq!(
        refusal(client.quote(&ask(Some(Amount::from_whole(10_001)))).await),
        "balance_too_small"
    );
    let quote = client.quote(&ask(Some(Amount::from_whole(7_200)))).await.unwrap();
    assert_eq!(
        (quote.seconds, quote.balance_after),
        (7_200, Amount::from_whole(2_800))
    );
    let by = |id: &str| wanted("alephlab", &[("KERNEL_QUOTE", id)]);
    assert_eq!(refusal(client.start_kernel(&by("x")).await), "kernel_env");
    assert_eq!(
        refusal(client.start_kernel(&by(&Uuid::new_v4().to_string())).await),
        "quote_over"
    );
    let kernel = client.start_kernel(&by(&quote.id.to_string())).await.unwrap();
    assert_eq!(
        refusal(client.start_kernel(&by(&quote.id.to_string())).await),
        "quote_over"
    );
    world.until(kernel.id, "idle").await;
    assert_eq!(
        allocation(&client, kernel.id).await.cap,
        Amount::from_whole(7_200)
    );
    client.stop_kernel(kernel.id).await.unwrap();
    until(&client, kernel.id, Stage::Ended).await;
    // Its host goes away before the kernel is there: it is dead, and everything comes back.
    provider.set(|machine| machine.lost = true);
    let quote = client.quote(&ask(None)).await.unwrap();
    let kernel = client.start_kernel(&by(&quote.id.to_string())).await.unwrap();
    world.until(kernel.id, "dead").await;
    let ended = until(&client, kernel.id, Stage::Ended).await;
    assert_eq!(ended.detail.as_deref(), Some("the cellar is flooded"));
    let balance = client.balance().await.unwrap().balances.remove(0);
    assert_eq!((balance.held, ended.charged), (Amount::ZERO, Amount::ZERO));
    drop(world.stop().await);
}

#[tokio::test]
async fn a_gateway_that_comes_back_goes_on_with_what_is_rented() {
    let (world, provider) = world().await;
    let folder = world.stop().await;
    let world = start(folder, &provider, true).await;
    provider.set(|machine| machine.boots = false);
    let kernel = world.client().start_kernel(&wanted(SPEC, &[])).await.unwrap();
    until(&world.client(), kernel.id, Stage::Booting).await;
    // While its host boots.
    let folder = world.stop().await;
    let world = start(folder, &provider, true).await;
    assert_eq!(
        world.client().kernel(kernel.id).await.unwrap().execution_state,
        "starting"
    );
    provider.set(|machine| machine.boots = true);
    world.until(kernel.id, "idle").await;
    until(&world.client(), kernel.id, Stage::Running).await;
    // While it runs.
    let folder = world.stop().await;
    let world = start(folder, &provider, false).await;
    world.until(kernel.id, "idle").await;
    assert_eq!(provider.get(|machine| machine.rents), 1);
    assert_eq!(
        provider.host.starts.load(Ordering::SeqCst),
        1,
        "it is the same kernel"
    );
    // And one that stops for good leaves nothing behind.
    drop(world.stop().await);
    assert_eq!(provider.get(|machine| machine.billed.len()), 0);
}

#[tokio::test]
async fn a_host_that_goes_silent_is_given_up_and_given_back() {
    let (world, provider) = world().await;
    let folder = world.stop().await;
    let world = start_patient(folder, &provider, false, Duration::from_secs(1)).await;
    let kernel = world.client().start_kernel(&wanted(SPEC, &[])).await.unwrap();
    world.until(kernel.id, "idle").await;
    until(&world.client(), kernel.id, Stage::Running).await;
    // Its provider says that all is well.
    provider.host.lose();
    let ended = until(&world.client(), kernel.id, Stage::Ended).await;
    assert!(ended.detail.unwrap().contains("has not answered"));
    let dead = world.client().kernel(kernel.id).await.unwrap();
    assert_eq!(dead.execution_state, "dead");
    assert_eq!(provider.get(|machine| machine.billed.len()), 0);
    drop(world.stop().await);
}

#[tokio::test]
async fn many_requests_with_one_id_rent_one_host_that_is_paid_for() {
    let (world, provider) = world().await;
    let named = NewKernel {
        kernel_id: Some(Uuid::new_v4()),
        ..wanted(SPEC, &[("KERNEL_MAX_COST", "5000")])
    };
    let clients: Vec<_> = (0..8).map(|_| world.client()).collect();
    let started =
        futures_util::future::join_all(clients.iter().map(|client| client.start_kernel(&named))).await;
    for one in started {
        assert_eq!(Some(one.unwrap().id), named.kernel_id);
    }
    let kernel = named.kernel_id.unwrap();
    world.until(kernel, "idle").await;
    assert_eq!(provider.get(|machine| machine.rents), 1);
    let balance = world.client().balance().await.unwrap().balances.remove(0);
    assert_eq!(
        balance.held,
        Amount::from_whole(5_000),
        "what it may cost stays set aside"
    );
    drop(world.stop().await);
    assert_eq!(provider.get(|machine| machine.billed.len()), 0);
}
