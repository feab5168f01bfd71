//! One lease: what its agent proves itself with, the queue of orders to it, and whether it is connected.
//!
//! Orders are numbered and kept until the agent says that it has them, so that a lost connection loses and repeats none.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use alephlab_api::Secret;
use alephlab_api::agent::{MAX_FRAME, Proof, Received, ToAgent, encode, number};
use alephlab_api::isolation::Walls;
use alephlab_api::kernel::KernelState;
use alephlab_api::load::{HostLoad, KernelLoad};
use alephlab_api::time::unix_now;
use bytes::Bytes;
use ed25519_dalek::{Signature, VerifyingKey};
use subtle::ConstantTimeEq as _;
use tokio::sync::{Notify, mpsc, watch};
use uuid::Uuid;

use crate::error::{GatewayError, Result};
use crate::store::{StoredKernel, StoredLease, sha256};

/// Frames that may wait for an agent. When it is full, the sender waits.
const QUEUE: usize = 4096;
/// GPUs of a host that are shown, and letters of their names.
const MAX_GPUS: usize = 16;
const MAX_NAME: usize = 60;
/// How long a sender waits then.
const PATIENCE: Duration = Duration::from_secs(10);

/// One lease: the queue to its agent, and whether the agent is connected.
pub(crate) struct Lease {
    pub(crate) id: Uuid,
    /// This run's name for its orders.
    pub(crate) run: Uuid,
    token_sha256: [u8; 32],
    /// Its host is rented for one kernel, not this machine.
    is_rented: bool,
    /// The agent's, once it has come.
    key: Mutex<Option<[u8; 32]>>,
    queue: mpsc::Sender<Frame>,
    pub(super) outgoing: tokio::sync::Mutex<Outgoing>,
    /// Newest order that the agent has.
    pub(super) acknowledged: AtomicU64,
    /// Some kernel's note for the agent is to be written, or there is room for more orders.
    pub(crate) notes: Arc<Notify>,
    /// Kernels that the gateway does not know, and what their agent may forget of them.
    forgotten: Mutex<HashMap<Uuid, u64>>,
    /// Counts connections, so that a newer one ends an older.
    pub(super) turn: watch::Sender<u64>,
    /// Name of the machine while connected.
    connected: watch::Sender<Option<String>>,
    /// What its agent said last of the walls around kernels.
    walls: Mutex<Option<Walls>>,
    /// What its agent measured last, while it is connected.
    load: Mutex<Option<Arc<Load>>>,
}

/// What an agent measured.
pub(crate) struct Load {
    /// When it came, unix seconds.
    pub(crate) at: u64,
    pub(crate) host: HostLoad,
    pub(crate) kernels: BTreeMap<Uuid, KernelLoad>,
}

/// Whether an agent is who it says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Proved {
    /// Its key is known.
    Known,
    /// It has the token, and this key from now on.
    New([u8; 32]),
    /// It is not.
    No,
}

impl Lease {
    pub(super) fn new(token: &Secret) -> Self {
        Self::with(Uuid::new_v4(), sha256(token.expose().as_bytes()), None)
    }

    /// That of a host which is rented under this id.
    pub(crate) fn of_rented(id: Uuid, token_sha256: [u8; 32], key: Option<[u8; 32]>) -> Self {
        Self {
            is_rented: true,
            ..Self::with(id, token_sha256, key)
        }
    }

    pub(crate) fn is_rented(&self) -> bool {
        self.is_rented
    }

    /// An agent has come and is known.
    pub(crate) fn is_known(&self) -> bool {
        self.key.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Tells when its agent comes or goes.
    pub(crate) fn connection(&self) -> watch::Receiver<Option<String>> {
        self.connected.subscribe()
    }

    /// One that an earlier run began, with kernels that are known to its agent or were never ordered.
    pub(super) fn of_earlier_run(stored: &StoredLease, kernels: &[StoredKernel]) -> Self {
        let lease = Self::with(stored.id, stored.token_sha256, stored.host_key);
        let starting = kernels
            .iter()
            .filter(|kernel| kernel.state == KernelState::Starting);
        if let Ok(mut outgoing) = lease.outgoing.try_lock() {
            outgoing.ordered.extend(starting.map(|kernel| (kernel.id, 0)));
        }
        lease
    }

    fn with(id: Uuid, token_sha256: [u8; 32], key: Option<[u8; 32]>) -> Self {
        let (sender, queue) = mpsc::channel(QUEUE);
        Self {
            id,
            run: Uuid::new_v4(),
            token_sha256,
            is_rented: false,
            key: Mutex::new(key),
            queue: sender,
            outgoing: tokio::sync::Mutex::new(Outgoing {
                queue,
                kept: VecDeque::new(),
                bytes: 0,
                newest: 0,
                ordered: HashMap::new(),
            }),
            acknowledged: AtomicU64::new(0),
            notes: Arc::default(),
            forgotten: Mutex::default(),
            turn: watch::Sender::new(0),
            connected: watch::Sender::new(None),
            load: Mutex::default(),
            walls: Mutex::default(),
        }
    }

    pub(super) fn token_sha256(&self) -> &[u8; 32] {
        &self.token_sha256
    }

    /// Checks what an agent answers to a challenge: the key that is known, or else the token with a first key.
    pub(super) fn check(&self, proof: &Proof, nonce: &str) -> Proved {
        let Some(key) = signed(proof, self.id, nonce) else {
            return Proved::No;
        };
        let known = *self.key.lock().unwrap_or_else(PoisonError::into_inner);
        match (known, &proof.token) {
            (Some(known), _) if known == key => Proved::Known,
            (None, Some(token)) => {
                let right = sha256(token.expose().as_bytes()).ct_eq(&self.token_sha256);
                if bool::from(right) {
                    Proved::New(key)
                } else {
                    Proved::No
                }
            }
            _ => Proved::No,
        }
    }

    pub(super) fn know(&self, key: [u8; 32]) {
        *self.key.lock().unwrap_or_else(PoisonError::into_inner) = Some(key);
    }

    /// Nobody needs what this kernel said up to this number.
    pub(crate) fn forget(&self, kernel: Uuid, number: u64) {
        let mut forgotten = self.forgotten.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = forgotten.entry(kernel).or_default();
        *newest = number.max(*newest);
        self.notes.notify_one();
    }

    pub(super) fn take_forgotten(&self) -> HashMap<Uuid, u64> {
        std::mem::take(&mut *self.forgotten.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Name of the machine while its agent is connected.
    pub(crate) fn machine(&self) -> Option<String> {
        self.connected.borrow().clone()
    }

    /// What is between its kernels and the rest of the host; none before its agent came, or when that is an older one.
    pub(crate) fn walls(&self) -> Option<Walls> {
        self.walls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn is_connected(&self, machine: String, walls: Option<Walls>) {
        *self.walls.lock().unwrap_or_else(PoisonError::into_inner) = walls;
        self.connected.send_replace(Some(machine));
    }

    /// What its host and the kernels there take, as it says; told for nothing but to be looked at.
    pub(crate) fn load(&self) -> Option<Arc<Load>> {
        self.load.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn is_loaded(&self, mut host: HostLoad, kernels: BTreeMap<Uuid, KernelLoad>) {
        // It is what the host says, and shown: no more of it than a page can hold.
        host.gpus.truncate(MAX_GPUS);
        for gpu in &mut host.gpus {
            gpu.name = gpu.name.chars().take(MAX_NAME).collect();
        }
        let at = unix_now();
        let load = Load { at, host, kernels };
        *self.load.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(load));
    }

    pub(super) fn disconnected(&self) {
        *self.load.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.connected.send_replace(None);
    }

    /// Puts an order in the agent's queue.
    pub(crate) async fn send<P: AsRef<[u8]>>(&self, order: &ToAgent, parts: &[P]) -> Result<()> {
        let too_large = |problem| GatewayError::Refused {
            status: axum::http::StatusCode::PAYLOAD_TOO_LARGE,
            problem,
        };
        let starts = match order {
            ToAgent::StartKernel { kernel_id, .. } => Some(*kernel_id),
            _ => None,
        };
        let bytes = encode(order, parts).map_err(too_large)?;
        let gone = || GatewayError::Host {
            reason: "its agent is gone".to_owned(),
        };
        self.queue
            .send_timeout(Frame { bytes, starts }, PATIENCE)
            .await
            .map_err(|_| gone())
    }
}

/// The key of a proof whose signature is right (RFC 8032, strict).
fn signed(proof: &Proof, lease: Uuid, nonce: &str) -> Option<[u8; 32]> {
    let key: [u8; 32] = hex::decode(&proof.key).ok()?.try_into().ok()?;
    let signature = Signature::from_slice(&hex::decode(&proof.signature).ok()?).ok()?;
    let checked = VerifyingKey::from_bytes(&key).ok()?;
    checked
        .verify_strict(&Proof::text(lease, nonce), &signature)
        .ok()?;
    Some(key)
}

/// An order that waits for its number.
struct Frame {
    bytes: Vec<u8>,
    /// The kernel that it orders to start.
    starts: Option<Uuid>,
}

/// Orders on their way. One connection at a time has it.
pub(super) struct Outgoing {
    queue: mpsc::Receiver<Frame>,
    /// Numbered, and not known to have come.
    kept: VecDeque<(u64, Bytes)>,
    bytes: usize,
    newest: u64,
    /// Kernels that were ordered to start, and by which order.
    pub(super) ordered: HashMap<Uuid, u64>,
}

impl Outgoing {
    /// The next order; waits while there is none, or the agent must first say what it has.
    pub(super) async fn next(&mut self) -> Bytes {
        if self.bytes > MAX_FRAME {
            return std::future::pending().await;
        }
        match self.queue.recv().await {
            Some(frame) => self.numbered(frame),
            // Its sender is in the lease, which has this.
            None => std::future::pending().await,
        }
    }

    /// The next order that waits, if one may go.
    pub(super) fn try_next(&mut self) -> Option<Bytes> {
        let may = self.bytes <= MAX_FRAME;
        let frame = may.then(|| self.queue.try_recv().ok()).flatten()?;
        Some(self.numbered(frame))
    }

    fn numbered(&mut self, frame: Frame) -> Bytes {
        let Frame { mut bytes, starts } = frame;
        self.newest += 1;
        number(&mut bytes, self.newest);
        self.ordered.extend(starts.map(|kernel| (kernel, self.newest)));
        let bytes = Bytes::from(bytes);
        self.bytes += bytes.len();
        self.kept.push_back((self.newest, bytes.clone()));
        bytes
    }

    /// The agent has everything up to `number`.
    pub(super) fn acknowledge(&mut self, number: u64) {
        while let Some((first, bytes)) = self.kept.front()
            && *first <= number
        {
            self.bytes -= bytes.len();
            self.kept.pop_front();
        }
    }

    /// What is to be sent again to an agent that has so much of this run.
    pub(super) fn again(&mut self, run: Uuid, received: Option<Received>) -> Vec<Bytes> {
        let has = received.filter(|received| received.run == run);
        self.acknowledge(has.map_or(0, |received| received.number));
        self.kept.iter().map(|(_, bytes)| bytes.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};

    use super::*;

    fn proof(seed: u8, token: Option<&str>, lease: Uuid, nonce: &str) -> Proof {
        let key = SigningKey::from_bytes(&[seed; 32]);
        Proof {
            token: token.map(Secret::new),
            key: hex::encode(key.verifying_key().as_bytes()),
            signature: hex::encode(key.sign(&Proof::text(lease, nonce)).to_bytes()),
        }
    }

    #[test]
    fn the_token_is_good_for_one_key_and_everything_public_for_none() {
        let lease = Lease::new(&Secret::new("token"));
        let id = lease.id;
        assert_eq!(lease.check(&proof(1, None, id, "n"), "n"), Proved::No);
        assert_eq!(lease.check(&proof(1, Some("wrong"), id, "n"), "n"), Proved::No);
        assert_eq!(
            lease.check(&proof(1, Some("token"), id, "n"), "another"),
            Proved::No
        );
        assert_eq!(
            lease.check(&proof(1, Some("token"), Uuid::nil(), "n"), "n"),
            Proved::No
        );
        let Proved::New(key) = lease.check(&proof(1, Some("token"), id, "n"), "n") else {
            panic!("the token opens")
        };
        lease.know(key);
        assert_eq!(lease.check(&proof(1, None, id, "m"), "m"), Proved::Known);
        // Somebody else with the same token, or with the key but not what belongs to it.
        assert_eq!(lease.check(&proof(2, Some("token"), id, "n"), "n"), Proved::No);
        let stolen = Proof {
            key: proof(1, None, id, "n").key,
            ..proof(2, Some("token"), id, "n")
        };
        assert_eq!(lease.check(&stolen, "n"), Proved::No);
    }

    #[tokio::test]
    async fn orders_are_sent_again_until_the_agent_has_them() {
        let lease = Lease::new(&Secret::new("token"));
        let order = ToAgent::StopKernel {
            kernel_id: Uuid::nil(),
        };
        for _ in 0..3 {
            lease.send::<&[u8]>(&order, &[]).await.unwrap();
        }
        let mut outgoing = lease.outgoing.lock().await;
        let sent = [outgoing.next().await, outgoing.next().await];
        assert_eq!(outgoing.again(lease.run, None), sent);
        let received = |number, run| Some(Received { run, number });
        assert_eq!(
            outgoing.again(lease.run, received(9, Uuid::nil())),
            sent,
            "of another run"
        );
        assert_eq!(outgoing.again(lease.run, received(1, lease.run)), sent[1..]);
        assert_eq!(outgoing.next().await[..8], 3_u64.to_be_bytes());
    }
}
