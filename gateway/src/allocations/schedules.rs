//! Random schedules of one allocation each, against a network that fails at every step, a gateway that is killed at every
//! step, and two gateways that act on the same row. `ALEPHLAB_TEST_LONG=1` runs ten thousand; else as many as take seconds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use alephlab_api::agent::Join;
use alephlab_api::kernel::KernelState;
use alephlab_api::money::{Amount, Asset};
use alephlab_api::offer::{Offer, Offers, Stage};
use futures_util::future::{BoxFuture, FutureExt as _};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::sync::Notify;
use uuid::Uuid;

use super::*;
use crate::store::{NewAllocation, NewHold};

const OWNER: &str = "0x00000000000000000000000000000000000000aD";
/// Of an hour; a second is no whole number of base units.
const PRICE: u128 = 7 * 3_600 + 1;
const GIVEN: u128 = 1 << 60;

/// A host as the network has it.
#[derive(Default, Clone)]
struct Host {
    alive: bool,
    billed: bool,
    handed: bool,
}

/// What happens to a call.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// It fails and has done nothing.
    Before,
    /// It fails and has had its effect.
    After,
    /// It has had its effect, and the gateway dies before it hears of it.
    Never,
}

struct Network {
    hosts: HashMap<String, Host>,
    random: StdRng,
    is_fair: bool,
}

impl Network {
    fn fault(&mut self) -> Fault {
        match self.random.random_range(0..10) {
            _ if self.is_fair => Fault::None,
            0..2 => Fault::Before,
            2..4 => Fault::After,
            4 => Fault::Never,
            _ => Fault::None,
        }
    }
}

/// The network, and what tells that the gateway dies now.
#[derive(Clone)]
struct Simulated(Arc<Mutex<Network>>, Arc<Notify>);

impl Simulated {
    /// Does something to the network, or not, and says something of it, or not.
    async fn call<T>(&self, act: impl FnOnce(&mut Network) -> T) -> Result<T> {
        let lost = || GatewayError::Host {
            reason: "the network failed".to_owned(),
        };
        let (fault, said) = {
            let mut network = self.0.lock().unwrap();
            let fault = network.fault();
            if fault == Fault::Before {
                return Err(lost());
            }
            (fault, act(&mut network))
        };
        match fault {
            Fault::After => Err(lost()),
            Fault::Never => {
                self.1.notify_one();
                std::future::pending().await
            }
            Fault::Before | Fault::None => Ok(said),
        }
    }
}

fn key(draft: &Value) -> String {
    draft["lease"].as_str().unwrap().to_owned()
}

impl HostProvider for Simulated {
    fn name(&self) -> &'static str {
        "simulated"
    }

    fn offers(&self) -> BoxFuture<'_, Offers> {
        let none = Offers {
            offers: Vec::new(),
            troubles: Vec::new(),
        };
        std::future::ready(none).boxed()
    }

    fn draft<'a>(&'a self, lease: Uuid, _: &'a Offer) -> BoxFuture<'a, Result<Value>> {
        self.call(move |_| json!({ "lease": lease })).boxed()
    }

    fn rent<'a>(&'a self, draft: &'a Value) -> BoxFuture<'a, Result<Rented>> {
        self.call(move |network| {
            if network.random.random_range(0..12) == 0 && !network.hosts.contains_key(&key(draft)) {
                return Rented::Refused("it is taken".to_owned());
            }
            let new = Host {
                alive: true,
                billed: true,
                handed: false,
            };
            // The same draft is the same host, and one that was given back does not come again.
            network.hosts.entry(key(draft)).or_insert(new);
            Rented::Accepted
        })
        .boxed()
    }

    fn look<'a>(&'a self, draft: &'a Value) -> BoxFuture<'a, Result<Seen>> {
        self.call(move |network| match network.hosts.get(&key(draft)) {
            Some(host) if host.alive => match network.random.random_range(0..3) {
                0 => Seen::Waiting("it boots".to_owned()),
                _ => Seen::Reachable,
            },
            _ => Seen::Gone("it went away".to_owned()),
        })
        .boxed()
    }

    fn hand_over<'a>(&'a self, draft: &'a Value, _: &'a Join) -> BoxFuture<'a, Result<()>> {
        self.call(move |network| {
            if let Some(host) = network.hosts.get_mut(&key(draft)) {
                host.handed = host.alive;
            }
        })
        .boxed()
    }

    fn end<'a>(&'a self, draft: &'a Value) -> BoxFuture<'a, Result<Bill>> {
        self.call(move |network| {
            let slow = !network.is_fair && network.random.random_range(0..3) == 0;
            match network.hosts.get_mut(&key(draft)) {
                Some(host) if host.billed => {
                    host.alive = false;
                    host.billed = slow;
                }
                _ => {}
            }
            match slow {
                true => Bill::Runs("the network has not seen it yet".to_owned()),
                false => Bill::Stopped,
            }
        })
        .boxed()
    }
}

/// Lets a future be asked so often and then forgets it, as a killed gateway does; none when it was not done by then.
async fn cut<T>(future: impl Future<Output = T>, polls: usize) -> Option<T> {
    let mut future = std::pin::pin!(future);
    let mut left = polls;
    std::future::poll_fn(move |context| {
        if left == 0 {
            return std::task::Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(context).map(Some)
    })
    .await
}

fn offer() -> Offer {
    Offer {
        id: "one".to_owned(),
        provider: "simulated".to_owned(),
        kernelspec: "alephlab-simulated".to_owned(),
        hardware: "Simulated".to_owned(),
        gpu: None,
        vcpus: 1,
        memory_gib: 1,
        disk_gib: 1,
        place: "here".to_owned(),
        price: Amount::from_base(PRICE),
        trust: offers::HOST_READS_MEMORY.to_owned(),
        starts: "at once".to_owned(),
        unavailable: None,
    }
}

struct Trial {
    folder: tempfile::TempDir,
    store: Store,
    network: Simulated,
    allocations: Allocations,
    /// What was charged in all schedules.
    charged: Amount,
}

impl Trial {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        store.configure(OWNER, &[1; 32], &[], None).await.unwrap();
        store
            .credit(
                (OWNER, OWNER),
                Asset::Credit,
                Amount::from_base(GIVEN),
                "1",
                "given",
            )
            .await
            .unwrap();
        let network = Network {
            hosts: HashMap::new(),
            random: StdRng::seed_from_u64(0),
            is_fair: false,
        };
        let network = Simulated(Arc::new(Mutex::new(network)), Arc::default());
        let door = Door {
            gateway: "https://gateway.example".to_owned(),
            certificate: None,
            outlive: Duration::from_secs(600),
        };
        let receipts = Arc::new(ReceiptKey::open(folder.path(), OWNER.parse().unwrap()).unwrap());
        let secrets = LeaseSecrets::open(folder.path()).unwrap();
        let providers: Vec<Arc<dyn HostProvider>> = vec![Arc::new(network.clone())];
        Self {
            allocations: Allocations::new(store.clone(), providers, receipts, secrets, door),
            folder,
            store,
            network,
            charged: Amount::ZERO,
        }
    }

    fn random<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.network.0.lock().unwrap().random)
    }

    async fn begin(&self, id: Uuid, amount: Amount) -> Allocation {
        let name = id.to_string();
        let hold = self
            .store
            .hold(NewHold {
                owner: OWNER,
                key: &name,
                amount,
                price: Amount::from_base(PRICE),
                memo: "kernel",
            })
            .await
            .unwrap();
        let lease = Uuid::new_v4();
        let (offer, start) = (offer(), json!({}));
        let new = NewAllocation {
            id,
            account: OWNER,
            kernelspec: "alephlab-simulated",
            idle_limit: None,
            kernel_token_sha256: &sha256(id.as_bytes()),
            lease,
            lease_token_sha256: &self.allocations.token_sha256(lease),
            hold: hold.id,
            offer: &offer,
            start: &start,
            quote: None,
        };
        let begun = self.store.begin_allocation(&new).await.unwrap();
        // Whoever asks again with the same id gets no second one.
        let lease = Uuid::new_v4();
        assert!(
            self.store
                .begin_allocation(&NewAllocation { lease, ..new })
                .await
                .is_err()
        );
        assert!(self.store.lease(lease).await.unwrap().is_none());
        begun
    }

    /// What the network bills is of an allocation that has not ended.
    async fn check(&self, id: Uuid) -> Allocation {
        let stored = self.store.allocation(id).await.unwrap().unwrap();
        let host = self.host(&stored);
        if host.is_some_and(|host| host.billed) {
            assert!(!matches!(stored.stage, Stage::Held | Stage::Ended), "{stored:?}");
        }
        stored
    }

    fn host(&self, allocation: &Allocation) -> Option<Host> {
        let network = self.network.0.lock().unwrap();
        network.hosts.get(&allocation.lease.to_string()).cloned()
    }

    /// Something that happens in the world or is asked for, at a moment that nobody chose.
    async fn happen(&self, allocation: &Allocation, used: &mut u64) {
        let id = allocation.id;
        let state = self.store.kernel(id).await.unwrap().unwrap().state;
        match self.random(|random| random.random_range(0..12)) {
            0..4 if self.host(allocation).is_some_and(|host| host.handed) => {
                // Its agent comes, and with it the kernel.
                self.store.set_host_key(allocation.lease, &[7; 32]).await.unwrap();
                if allocation.stage == Stage::Running && state == KernelState::Starting {
                    self.set(id, KernelState::Idle).await;
                }
            }
            4..8 if allocation.stage == Stage::Running && state == KernelState::Idle => {
                *used += self.random(|random| random.random_range(1..2_000));
                self.store.charge(allocation.hold, *used).await.unwrap();
            }
            8 if !state.is_over() && state != KernelState::Stopping => {
                self.set(id, KernelState::Stopping).await;
                self.set(id, KernelState::Stopped).await;
            }
            9 if !state.is_over() => self.set(id, KernelState::Dead).await,
            10 => {
                let mut network = self.network.0.lock().unwrap();
                if let Some(host) = network.hosts.get_mut(&allocation.lease.to_string()) {
                    host.alive = false;
                }
            }
            _ => {}
        }
    }

    async fn set(&self, id: Uuid, state: KernelState) {
        self.store.set_kernel_state(id, state, None, None).await.unwrap();
    }

    async fn schedule(&mut self, seed: u64) {
        {
            let mut network = self.network.0.lock().unwrap();
            (network.random, network.is_fair) = (StdRng::seed_from_u64(seed), false);
        }
        let amount = Amount::from_base(self.random(|random| random.random_range(1..PRICE * 2)));
        let (id, mut used) = (Uuid::from_u128(u128::from(seed) + 1), 0);
        let mut held = vec![self.begin(id, amount).await];
        for _ in 0..30 {
            let newest = self.check(id).await;
            self.happen(&newest, &mut used).await;
            // Mostly what is true; else what another gateway still believes.
            let known = match self.random(|random| random.random_range(0..5)) {
                0 => held[self.random(|random| random.random_range(0..held.len()))].clone(),
                _ => newest.clone(),
            };
            let polls = self.random(|random| random.random_range(1..40));
            let moved = tokio::select! {
                moved = cut(self.allocations.step(&known), polls) => moved,
                () = self.network.1.notified() => None,
            };
            if let Some(Ok(Some((moved, _)))) = moved {
                held.push(moved);
            }
            if known.fence != newest.fence {
                let now = self.check(id).await;
                assert_eq!(now.fence, newest.fence, "an old copy of the row moves nothing");
            }
        }
        self.settle(id, used, amount).await;
    }

    /// The network is well again, and the account wants no more: everything comes to its end.
    async fn settle(&mut self, id: Uuid, used: u64, amount: Amount) {
        self.network.0.lock().unwrap().is_fair = true;
        let state = self.store.kernel(id).await.unwrap().unwrap().state;
        if !state.is_over() {
            self.set(id, KernelState::Dead).await;
        }
        for turn in 0.. {
            assert!(turn < 20, "it does not end");
            let known = self.check(id).await;
            let (_, next) = self.allocations.step(&known).await.unwrap().unwrap();
            if next == Next::Done {
                break;
            }
        }
        let ended = self.check(id).await;
        assert_eq!(ended.stage, Stage::Ended);
        assert!(self.host(&ended).is_none_or(|host| !host.billed));
        assert!(self.store.kernel(id).await.unwrap().unwrap().state.is_over());
        let due = Amount::from_base(PRICE).part(used, 3_600).unwrap().min(amount);
        let hold = self.store.charge(ended.hold, used + 1_000_000).await.unwrap();
        assert_eq!((hold.is_open, hold.charged), (false, due));
        self.charged = self.charged.checked_add(due).unwrap();
        let balance = self.store.balances(OWNER).await.unwrap().pop().unwrap();
        assert_eq!(balance.held, Amount::ZERO);
        assert_eq!(
            balance.total,
            Amount::from_base(GIVEN).saturating_sub(self.charged)
        );
    }
}

#[tokio::test]
async fn whatever_fails_no_host_is_left_and_nothing_is_billed_after_its_end() {
    let is_long = std::env::var("ALEPHLAB_TEST_LONG").is_ok_and(|value| value == "1");
    let mut trial = Trial::new().await;
    for seed in 0..if is_long { 10_000 } else { 400 } {
        trial.schedule(seed).await;
    }
    assert_eq!(trial.store.audit().await.unwrap().faults, Vec::<String>::new());
    assert!(trial.store.open_allocations().await.unwrap().is_empty());
    let rented = trial.network.0.lock().unwrap().hosts.len();
    assert!(rented > 100, "schedules must come that far: {rented}");
    drop(trial.folder);
}
