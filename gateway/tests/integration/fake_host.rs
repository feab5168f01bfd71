//! A host without processes that speaks the agent's protocol: its kernels echo. It keeps what they said, as an agent does.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use alephlab_api::Secret;
use alephlab_api::agent::{FromAgent, Held, HeldCell, Proof, Received, ToAgent, decode, encode, number};
use alephlab_api::isolation::{LimitedBy, Walls};
use alephlab_api::jupyter::Channel;
use alephlab_api::kernel::KernelState;
use alephlab_gateway::{GatewayError, ResidentHost};
use ed25519_dalek::{Signer as _, SigningKey};
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::Socket;

#[derive(Default)]
pub(crate) struct FakeHost {
    me: Weak<FakeHost>,
    pub(crate) url: Mutex<String>,
    /// Refuse to rent.
    pub(crate) broken: AtomicBool,
    pub(crate) rented: AtomicUsize,
    /// Ends the machine.
    current: Mutex<CancellationToken>,
    /// Ends the connection; the agent dials again.
    connection: Mutex<CancellationToken>,
    /// What its kernels said, the newest note of each, and the newest order.
    kernels: Mutex<BTreeMap<Uuid, Said>>,
    received: Mutex<Option<Received>>,
    /// The environment of the last start.
    pub(crate) env: Mutex<Value>,
    /// What the kernel that was started last sees of the work folder, and whether it may work elsewhere.
    pub(crate) home: Mutex<(Option<String>, bool)>,
    pub(crate) kernel_token: Mutex<Option<Secret>>,
    pub(crate) interrupts: AtomicUsize,
    pub(crate) starts: AtomicUsize,
}

#[derive(Default)]
struct Said {
    frames: Vec<Vec<u8>>,
    sent: usize,
    note: Value,
    cells: BTreeMap<u64, HeldCell>,
}

impl FakeHost {
    pub(crate) fn new(url: &str, broken: bool) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            url: Mutex::new(url.to_owned()),
            broken: broken.into(),
            ..Self::default()
        })
    }

    /// The machine comes up, with nothing on it but the lease.
    pub(crate) fn boot(&self, lease: Uuid, token: &Secret) {
        self.kernels.lock().unwrap().clear();
        *self.received.lock().unwrap() = None;
        let stop = CancellationToken::new();
        *self.current.lock().unwrap() = stop.clone();
        let (me, token) = (self.me.upgrade().unwrap(), token.clone());
        tokio::spawn(async move { stop.run_until_cancelled(agent(me, lease, token)).await });
    }

    /// Loses the machine, as when it is switched off.
    pub(crate) fn lose(&self) {
        self.current.lock().unwrap().cancel();
    }

    /// Loses the connection only.
    pub(crate) fn disconnect(&self) {
        self.connection.lock().unwrap().cancel();
    }

    /// A kernel prints something although nobody asked.
    pub(crate) fn print(&self, kernel_id: Uuid, text: &str) {
        self.answer(
            kernel_id,
            &json!({}),
            "stream",
            &json!({ "name": "stdout", "text": text }),
        );
    }

    /// What a kernel says to all because of the message with this header.
    pub(crate) fn answer(&self, kernel_id: Uuid, parent: &Value, kind: &str, content: &Value) {
        let header = json!({ "msg_id": Uuid::new_v4(), "msg_type": kind, "session": "k", "username": "u", "version": "5.3" });
        let parts = [
            header.to_string(),
            parent.to_string(),
            "{}".into(),
            content.to_string(),
        ];
        let output = FromAgent::Message {
            kernel_id,
            client: None,
            channel: Channel::Iopub,
        };
        self.say(kernel_id, &output, &parts.map(String::into_bytes));
    }

    /// A kernel dies at this time, unix seconds.
    pub(crate) fn die(&self, kernel_id: Uuid, at: u64) {
        let said = FromAgent::State {
            kernel_id,
            state: KernelState::Dead,
            detail: Some("it was killed".to_owned()),
            at,
        };
        self.say(kernel_id, &said, &[]);
    }

    fn say(&self, kernel: Uuid, said: &FromAgent, parts: &[Vec<u8>]) {
        let mut frame = encode(said, parts).unwrap();
        let mut kernels = self.kernels.lock().unwrap();
        let frames = &mut kernels.entry(kernel).or_default().frames;
        number(&mut frame, frames.len() as u64 + 1);
        frames.push(frame);
    }

    fn report(&self, kernel_id: Uuid, state: KernelState, detail: Option<String>) {
        let said = FromAgent::State {
            kernel_id,
            state,
            detail,
            at: 0,
        };
        self.say(kernel_id, &said, &[]);
    }

    fn obey(&self, order: ToAgent, parts: &[Vec<u8>]) {
        match order {
            ToAgent::StartKernel {
                kernel_id,
                env,
                home,
                anywhere,
                kernel_token,
                ..
            } => {
                self.starts.fetch_add(1, Ordering::SeqCst);
                let detail = env
                    .contains_key("KERNEL_FAILS")
                    .then(|| "the compiler is missing".to_owned());
                *self.env.lock().unwrap() = json!(env);
                *self.home.lock().unwrap() = (home, anywhere);
                *self.kernel_token.lock().unwrap() = Some(kernel_token);
                let state = match detail {
                    Some(_) => KernelState::Dead,
                    None => KernelState::Idle,
                };
                self.report(kernel_id, state, detail);
            }
            ToAgent::StopKernel { kernel_id } => self.report(kernel_id, KernelState::Stopped, None),
            ToAgent::RestartKernel { kernel_id } => {
                for state in [KernelState::Restarting, KernelState::Idle] {
                    self.report(kernel_id, state, None);
                }
            }
            ToAgent::InterruptKernel { .. } => {
                self.interrupts.fetch_add(1, Ordering::SeqCst);
            }
            ToAgent::Message {
                kernel_id,
                client,
                channel,
            } => {
                // The reply is the request itself; then the same as output for all.
                for (client, channel) in [(Some(client), channel), (None, Channel::Iopub)] {
                    let said = FromAgent::Message {
                        kernel_id,
                        client,
                        channel,
                    };
                    self.say(kernel_id, &said, parts);
                }
            }
            ToAgent::Note { kernel_id, note, .. } => {
                if let Some(said) = self.kernels.lock().unwrap().get_mut(&kernel_id) {
                    said.note = note;
                }
            }
            ToAgent::Follow {
                kernel_id,
                cell,
                note,
            } => {
                let mut kernels = self.kernels.lock().unwrap();
                let cells = &mut kernels.get_mut(&kernel_id).unwrap().cells;
                match note {
                    Some(note) => cells.insert(cell, HeldCell { cell, note }),
                    None => cells.remove(&cell),
                };
            }
            _ => {}
        }
    }

    /// Cells of a kernel that the gateway follows, as this host was told.
    pub(crate) fn followed(&self, kernel_id: Uuid) -> usize {
        self.kernels.lock().unwrap()[&kernel_id].cells.len()
    }

    fn held(&self) -> Vec<Held> {
        let kernels = self.kernels.lock().unwrap();
        let held = kernels.iter().map(|(id, said)| Held {
            kernel_id: *id,
            oldest: 1,
            newest: said.frames.len() as u64,
            note: said.note.clone(),
            cells: said.cells.clone().into_values().collect(),
        });
        held.collect()
    }

    /// What was said and not sent on this connection.
    fn unsent(&self) -> Vec<Vec<u8>> {
        let mut kernels = self.kernels.lock().unwrap();
        let said = kernels.values_mut();
        said.flat_map(|said| {
            let new = said.frames[said.sent..].to_vec();
            said.sent = said.frames.len();
            new
        })
        .collect()
    }
}

impl ResidentHost for FakeHost {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn trust(&self) -> &'static str {
        "This gateway's own machine"
    }

    fn rent<'a>(&'a self, lease: Uuid, token: &'a Secret) -> BoxFuture<'a, Result<(), GatewayError>> {
        async move {
            self.rented.fetch_add(1, Ordering::SeqCst);
            if self.broken.load(Ordering::SeqCst) {
                return Err(GatewayError::Host {
                    reason: "the machine is switched off".into(),
                });
            }
            self.boot(lease, token);
            Ok(())
        }
        .boxed()
    }

    fn adopt(&self, _: Uuid) -> BoxFuture<'_, bool> {
        let here = self.rented.load(Ordering::SeqCst) > 0 && !self.current.lock().unwrap().is_cancelled();
        async move { here }.boxed()
    }

    fn gone(&self, _: Uuid) -> BoxFuture<'_, String> {
        let current = self.current.lock().unwrap().clone();
        async move {
            current.cancelled().await;
            "the machine was switched off".to_owned()
        }
        .boxed()
    }

    fn end(&self, _: Uuid) -> BoxFuture<'_, ()> {
        self.lose();
        async {}.boxed()
    }
}

/// Dials until the machine is lost. Looks for what kernels say every few milliseconds.
async fn agent(host: Arc<FakeHost>, lease: Uuid, token: Secret) {
    let (key, mut token) = (SigningKey::from_bytes(&rand::random()), Some(token));
    let mut tick = tokio::time::interval(std::time::Duration::from_millis(5));
    loop {
        tick.tick().await;
        let url = host.url.lock().unwrap().replace("http", "ws");
        let Ok((mut socket, _)) = connect_async(format!("{url}/v1/agent")).await else {
            continue;
        };
        let ended = CancellationToken::new();
        *host.connection.lock().unwrap() = ended.clone();
        if introduce(&host, &mut socket, lease, &key, &token).await.is_none() {
            continue;
        }
        token = None;
        loop {
            for frame in host.unsent() {
                // Fails when the gateway of the test is gone already.
                let _ = socket.send(Message::binary(frame)).await;
            }
            tokio::select! {
                () = ended.cancelled() => break,
                _ = tick.tick() => {}
                message = socket.next() => {
                    let Some(Ok(message)) = message else { break };
                    if let Message::Binary(frame) = message {
                        take(&host, &frame);
                    }
                }
            }
        }
    }
}

fn take(host: &FakeHost, frame: &[u8]) {
    let (number, order, parts) = decode::<ToAgent>(frame).unwrap();
    if number > 0 {
        let mut received = host.received.lock().unwrap();
        let received = received.as_mut().unwrap();
        if number <= received.number {
            return;
        }
        received.number = number;
    }
    let parts: Vec<_> = parts.into_iter().map(|range| frame[range].to_vec()).collect();
    host.obey(order, &parts);
}

async fn introduce(
    host: &FakeHost,
    socket: &mut Socket,
    lease: Uuid,
    key: &SigningKey,
    token: &Option<Secret>,
) -> Option<()> {
    let ToAgent::Challenge { nonce } = order(socket).await? else {
        panic!("a challenge comes first")
    };
    let hello = FromAgent::Hello {
        lease,
        proof: Proof {
            token: token.clone(),
            key: hex::encode(key.verifying_key().as_bytes()),
            signature: hex::encode(key.sign(&Proof::text(lease, &nonce)).to_bytes()),
        },
        host: "fake-machine".into(),
        walls: Some(Walls {
            bubblewrap: true,
            limited_by: LimitedBy::CgroupV2,
            limits: Vec::new(),
            missing: Vec::new(),
        }),
    };
    send(socket, &hello).await?;
    let ToAgent::Welcome { run } = order(socket).await? else {
        panic!("then a welcome")
    };
    let holds = FromAgent::Holds {
        kernels: host.held(),
        received: *host.received.lock().unwrap(),
        terminals: Vec::new(),
    };
    send(socket, &holds).await?;
    let ToAgent::Resume { kernels, .. } = order(socket).await? else {
        panic!("then what it has")
    };
    let mut received = host.received.lock().unwrap();
    if received.is_none_or(|received| received.run != run) {
        *received = Some(Received { run, number: 0 });
    }
    for (id, said) in &mut *host.kernels.lock().unwrap() {
        said.sent = kernels
            .get(id)
            .map_or(said.frames.len(), |has| usize::try_from(*has).unwrap());
    }
    Some(())
}

async fn send(socket: &mut Socket, said: &FromAgent) -> Option<()> {
    let frame = encode::<_, &[u8]>(said, &[]).unwrap();
    socket.send(Message::binary(frame)).await.ok()
}

async fn order(socket: &mut Socket) -> Option<ToAgent> {
    match socket.next().await {
        Some(Ok(Message::Binary(frame))) => Some(decode(&frame).unwrap().1),
        _ => None,
    }
}
