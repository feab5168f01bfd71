//! One compute resource node: what it has, what it has promised, and the instances that it runs.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};
use url::Url;

use super::{
    boot::{Process, Starter, State},
    config::GpuConfig,
    console::{Console, Source},
    sandbox::Sandbox,
    spec::Spec,
};
use crate::{db, error::Result, faults::Faults};

/// Why an instance is not started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No card, processors or memory that are free.
    NoCapacity,
    /// Processors and memory are not those of the card.
    WrongTier(String),
    /// It was tried.
    Failed(String),
}

/// What comes of wanting to start an instance.
pub(crate) type Started<T> = std::result::Result<T, Refusal>;

impl Refusal {
    /// In words.
    pub(crate) fn reason(&self) -> &str {
        match self {
            Self::NoCapacity => "This CRN cannot host the requested instance at this time.",
            Self::WrongTier(reason) | Self::Failed(reason) => reason,
        }
    }
}

/// What a CRN has.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) name: String,
    pub(crate) hash: String,
    pub(crate) url: Url,
    /// Whether it answers at an address of its own.
    pub(crate) is_apart: bool,
    pub(crate) gpus: Vec<GpuConfig>,
    pub(crate) cpus: u32,
    pub(crate) memory_mib: u64,
    pub(crate) reservation: Duration,
}

impl Facts {
    /// The hash of a CRN, which is the same after a restart.
    pub(crate) fn hash_of(name: &str) -> String {
        hex::encode(Sha256::digest(format!("alephlab-localnet CRN {name}")))
    }

    /// Host name that signed requests name.
    pub(crate) fn domain(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// Base address as the network lists it.
    pub(crate) fn address(&self) -> &str {
        self.url.as_str().trim_end_matches('/')
    }
}

/// A running CRN.
#[derive(Debug)]
pub(crate) struct Crn {
    pub(crate) facts: Facts,
    pub(crate) faults: Faults,
    sandbox: Arc<Sandbox>,
    starter: Arc<Starter>,
    /// Held while an instance is started or ended, so that nothing is done twice.
    changing: tokio::sync::Mutex<()>,
    held: Mutex<Held>,
}

/// What is taken.
#[derive(Debug, Default)]
struct Held {
    machines: HashMap<String, Machine>,
    reservations: Vec<Reservation>,
    /// Consoles of the instances whose files are here, running or not.
    consoles: HashMap<String, Arc<Console>>,
    /// Instances that ended by themselves: they stay down until somebody starts them.
    down: HashSet<String>,
}

/// An instance that holds cards, processors and memory.
#[derive(Debug)]
struct Machine {
    spec: Spec,
    /// Places in the CRN's list.
    cards: Vec<usize>,
    times: Times,
    /// `None` while it is being started.
    process: Option<Process>,
}

#[derive(Debug)]
struct Reservation {
    owner: String,
    cards: Vec<usize>,
    until: Instant,
}

/// When what happened, in Unix seconds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Times {
    pub(crate) defined: f64,
    pub(crate) started: Option<f64>,
}

/// What everybody may see of an instance.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) hash: String,
    pub(crate) times: Times,
    pub(crate) is_running: bool,
    /// Port of this machine that is its port 22; once SSH answers.
    pub(crate) ssh: Option<u16>,
}

impl Crn {
    pub(crate) fn new(facts: Facts, faults: Faults, sandbox: Arc<Sandbox>, starter: Arc<Starter>) -> Self {
        Self {
            facts,
            faults,
            sandbox,
            starter,
            changing: tokio::sync::Mutex::default(),
            held: Mutex::default(),
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether requests to it find nobody.
    pub(crate) fn is_unreachable(&self) -> bool {
        self.faults.crn_is_unreachable(&self.facts.name)
    }

    /// Starts an instance; one that runs already is left alone.
    pub(crate) async fn start(self: &Arc<Self>, spec: &Spec) -> Started<()> {
        let _changing = self.changing.lock().await;
        if self.held().machines.contains_key(&spec.hash) {
            return Ok(());
        }
        spec.check_tier().map_err(Refusal::WrongTier)?;
        if self.faults.no_capacity() {
            return Err(Refusal::NoCapacity);
        }
        let console = self.held().take(&self.facts, spec)?;
        if self.faults.never_boots() {
            console.write(Source::System, "a fault switch keeps the instance from booting");
            return Ok(());
        }
        self.boot(spec, console).await
    }

    async fn boot(self: &Arc<Self>, spec: &Spec, console: Arc<Console>) -> Started<()> {
        let (crn, hash) = (Arc::downgrade(self), spec.hash.clone());
        let changed = move |state| {
            if state == State::Ended
                && let Some(crn) = Weak::upgrade(&crn)
            {
                crn.held().ended_itself(&hash);
            }
        };
        let booted = self.starter.boot(&self.sandbox, spec, console, changed).await;
        let mut held = self.held();
        match booted {
            Ok(process) => {
                // One that has ended at once is gone from the list already.
                if let Some(machine) = held.machines.get_mut(&spec.hash) {
                    machine.times.started = Some(db::now());
                    machine.process = Some(process);
                }
                Ok(())
            }
            Err(error) => {
                held.machines.remove(&spec.hash);
                Err(Refusal::Failed(format!(
                    "the instance could not be started: {error}"
                )))
            }
        }
    }

    /// Ends an instance and frees what it held; false when it does not run here.
    pub(crate) async fn stop(&self, hash: &str) -> bool {
        let _changing = self.changing.lock().await;
        self.end(hash).await
    }

    /// Ends an instance, if it runs, and removes its files.
    pub(crate) async fn erase(&self, hash: &str) -> Result<()> {
        let _changing = self.changing.lock().await;
        self.end(hash).await;
        self.held().consoles.remove(hash);
        self.held().down.remove(hash);
        let (sandbox, hash) = (Arc::clone(&self.sandbox), hash.to_owned());
        let erased = tokio::task::spawn_blocking(move || sandbox.erase(&hash)).await;
        erased.unwrap_or(Ok(()))
    }

    async fn end(&self, hash: &str) -> bool {
        // Taken off the list first, so that its end is not taken for its own.
        let Some(machine) = self.held().machines.remove(hash) else {
            return false;
        };
        if let Some(process) = machine.process {
            process.kill().await;
        }
        true
    }

    /// Ends all of them, as a host that goes down does: they are to run again.
    pub(crate) async fn shut_down(&self) {
        let _changing = self.changing.lock().await;
        let hashes: Vec<String> = self.held().machines.keys().cloned().collect();
        for hash in hashes {
            self.end(&hash).await;
        }
    }

    /// Kills an instance as a crash would: nobody has asked for it.
    pub(crate) async fn crash(&self, hash: &str) {
        let gone = self
            .held()
            .machines
            .get(hash)
            .and_then(|machine| machine.process.as_ref().map(Process::kill));
        if let Some(gone) = gone {
            gone.await;
        }
    }

    /// Holds cards for `spec`'s owner for a short time; until when.
    pub(crate) fn reserve(&self, spec: &Spec) -> Started<Duration> {
        spec.check_tier().map_err(Refusal::WrongTier)?;
        if self.faults.no_capacity() {
            return Err(Refusal::NoCapacity);
        }
        let mut held = self.held();
        let cards = held.fit(&self.facts, spec)?;
        held.reservations
            .retain(|reservation| reservation.owner != spec.owner);
        held.reservations.push(Reservation {
            owner: spec.owner.clone(),
            cards,
            until: Instant::now() + self.facts.reservation,
        });
        Ok(self.facts.reservation)
    }

    /// The cards that nobody has or holds.
    pub(crate) fn free_cards(&self) -> Vec<usize> {
        let taken = self.held().taken_cards(None);
        (0..self.facts.gpus.len())
            .filter(|card| !taken.contains(card))
            .collect()
    }

    /// Memory that nobody has, in MiB.
    pub(crate) fn free_memory_mib(&self) -> u64 {
        let held = self.held();
        let used: u64 = held
            .machines
            .values()
            .map(|machine| machine.spec.memory_mib)
            .sum();
        self.facts.memory_mib.saturating_sub(used)
    }

    /// What of an instance is seen; `None` when it does not run here.
    pub(crate) fn seen(&self, hash: &str) -> Option<Seen> {
        self.held().machines.get(hash).map(Machine::seen)
    }

    /// All that run here.
    pub(crate) fn all(&self) -> Vec<Seen> {
        self.held().machines.values().map(Machine::seen).collect()
    }

    /// What its message said of an instance that runs here, also if the message is forgotten.
    pub(crate) fn spec(&self, hash: &str) -> Option<Spec> {
        self.held().machines.get(hash).map(|machine| machine.spec.clone())
    }

    pub(crate) fn console(&self, hash: &str) -> Option<Arc<Console>> {
        self.held().consoles.get(hash).cloned()
    }

    /// Whether it ended by itself and nobody has started it since.
    pub(crate) fn is_down(&self, hash: &str) -> bool {
        self.held().down.contains(hash)
    }
}

impl Held {
    /// Takes what an instance needs.
    fn take(&mut self, facts: &Facts, spec: &Spec) -> Started<Arc<Console>> {
        let cards = self.fit(facts, spec)?;
        self.reservations
            .retain(|reservation| reservation.owner != spec.owner);
        self.down.remove(&spec.hash);
        let machine = Machine {
            spec: spec.clone(),
            cards,
            times: Times {
                defined: db::now(),
                started: None,
            },
            process: None,
        };
        self.machines.insert(spec.hash.clone(), machine);
        Ok(Arc::clone(self.consoles.entry(spec.hash.clone()).or_default()))
    }

    /// Free cards for an instance, if processors and memory are free too.
    fn fit(&mut self, facts: &Facts, spec: &Spec) -> Started<Vec<usize>> {
        self.reservations
            .retain(|reservation| reservation.until > Instant::now());
        let running = self.machines.values().map(|machine| &machine.spec);
        let (vcpus, memory_mib) = running.fold((0, 0), |(vcpus, memory_mib), spec| {
            (vcpus + spec.vcpus, memory_mib + spec.memory_mib)
        });
        if vcpus + spec.vcpus > facts.cpus || memory_mib + spec.memory_mib > facts.memory_mib {
            return Err(Refusal::NoCapacity);
        }
        let mut taken = self.taken_cards(Some(&spec.owner));
        let mut cards = Vec::new();
        for id in &spec.cards {
            let mut fitting = facts
                .gpus
                .iter()
                .enumerate()
                .filter(|(_, gpu)| gpu.device_id == *id);
            let free = fitting.find(|(place, _)| !taken.contains(place));
            let (place, _) = free.ok_or(Refusal::NoCapacity)?;
            taken.insert(place);
            cards.push(place);
        }
        Ok(cards)
    }

    /// Cards of instances, and those that are reserved for others than `owner`.
    fn taken_cards(&self, owner: Option<&str>) -> HashSet<usize> {
        let now = Instant::now();
        let reserved = self.reservations.iter().filter(|reservation| {
            reservation.until > now && owner.is_none_or(|owner| reservation.owner != owner)
        });
        let reserved = reserved.flat_map(|reservation| &reservation.cards);
        let running = self.machines.values().flat_map(|machine| &machine.cards);
        running.chain(reserved).copied().collect()
    }

    /// Frees what an instance held that nobody has ended.
    fn ended_itself(&mut self, hash: &str) {
        if self.machines.remove(hash).is_some() {
            self.down.insert(hash.to_owned());
        }
    }
}

impl Machine {
    fn seen(&self) -> Seen {
        let process = self.process.as_ref();
        let state = process.map(Process::state);
        Seen {
            hash: self.spec.hash.clone(),
            times: self.times,
            is_running: state.is_some_and(|state| state != State::Ended),
            ssh: process
                .filter(|_| state == Some(State::Ready))
                .map(|process| process.port),
        }
    }
}
