//! The terminals of this agent: opened, written to and closed as the gateway orders; what they put out is sent as far as it
//! is read there.
//!
//! They go on while the gateway is away. Not here: whose a terminal is.

mod kept;
mod pty;
mod shell;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use alephlab_api::agent::{FromAgent, HeldTerminal, ToAgent, WindowSize, encode};
use bytes::Bytes;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::launch::{Host, ShellSpec};
use kept::Kept;
use shell::Order;

/// Orders that may wait for one terminal's task, which takes them at once.
const ORDERS: usize = 1024;
/// Input that may wait for a program that does not read. The gateway sends less.
const MAX_INPUT: u64 = 1 << 20;
/// Bytes of one frame: kernels' messages go between them.
const FRAME: usize = 32 << 10;
/// A number over any that a gateway has a reason for.
const MAX_TERMINALS: usize = 1024;

/// The terminals by id.
pub(crate) struct Terminals {
    host: Arc<Host>,
    state: Mutex<State>,
    /// There may be something to send.
    pub(crate) changed: Notify,
}

#[derive(Default)]
struct State {
    open: HashMap<Uuid, Open>,
    tasks: JoinSet<()>,
    /// A gateway is there that says how far it reads.
    connected: bool,
}

struct Open {
    kept: Kept,
    orders: mpsc::Sender<Order>,
    room: Arc<Notify>,
}

impl Terminals {
    pub(crate) fn new(host: Arc<Host>) -> Self {
        Self {
            host,
            state: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// What there is, for a new connection.
    pub(crate) fn held(&self) -> Vec<HeldTerminal> {
        let state = self.state();
        let held = state.open.iter().map(|(id, open)| HeldTerminal {
            terminal_id: *id,
            input: open.kept.received(),
        });
        held.collect()
    }

    /// A connection begins whose gateway has so much of each terminal; all others are closed.
    pub(crate) fn resume(&self, has: &BTreeMap<Uuid, u64>) {
        let mut state = self.state();
        state.open.retain(|id, open| {
            let known = has.get(id);
            if let Some(has) = known {
                open.kept.resume(*has);
            }
            known.is_some()
        });
        state.connected = true;
    }

    /// The connection is lost: nobody reads, so nothing waits for that.
    pub(crate) fn away(&self) {
        let mut state = self.state();
        state.connected = false;
        state.open.values().for_each(|open| open.room.notify_one());
    }

    /// The gateway's reader came so far.
    pub(crate) fn taken(&self, id: Uuid, taken: u64) {
        if let Some(open) = self.state().open.get_mut(&id)
            && open.kept.take(taken)
        {
            open.room.notify_one();
        }
    }

    /// Obeys an order that is for terminals; `frame` holds the parts.
    pub(crate) fn obey(self: &Arc<Self>, frame: &Bytes, order: &ToAgent, parts: &[Range<usize>]) {
        match order {
            ToAgent::OpenTerminal {
                terminal_id,
                cwd,
                home,
                env,
                size,
            } => {
                let spec = ShellSpec {
                    cwd: cwd.clone(),
                    home: home.clone(),
                    env: env.clone(),
                };
                self.open(*terminal_id, spec, *size);
            }
            ToAgent::TerminalInput { terminal_id } => {
                let bytes = parts.first().map(|part| frame.slice(part.clone()));
                self.input(*terminal_id, bytes.unwrap_or_default());
            }
            ToAgent::TerminalSize { terminal_id, size } => {
                if let Some(open) = self.state().open.get(terminal_id) {
                    tell(open, *terminal_id, Order::Size(*size));
                }
            }
            // Its task ends when nobody can order anything.
            ToAgent::CloseTerminal { terminal_id } => drop(self.state().open.remove(terminal_id)),
            _ => {}
        }
    }

    fn open(self: &Arc<Self>, id: Uuid, spec: ShellSpec, size: WindowSize) {
        let mut state = self.state();
        while state.tasks.try_join_next().is_some() {}
        if state.open.contains_key(&id) {
            return;
        }
        if state.open.len() >= MAX_TERMINALS {
            tracing::warn!(terminal = %id, "a terminal was not opened: there are too many");
            return;
        }
        let (sender, orders) = mpsc::channel(ORDERS);
        let room = Arc::new(Notify::new());
        let voice = Voice {
            id,
            room: Arc::clone(&room),
            terminals: Arc::clone(self),
        };
        let open = Open {
            kept: Kept::default(),
            orders: sender,
            room,
        };
        state.open.insert(id, open);
        let host = Arc::clone(&self.host);
        state
            .tasks
            .spawn(async move { shell::run(&host, spec, size, orders, voice).await });
    }

    fn input(&self, id: Uuid, bytes: Bytes) {
        let mut state = self.state();
        let Some(open) = state.open.get_mut(&id) else {
            return;
        };
        if open.kept.waiting() > MAX_INPUT {
            tracing::warn!(terminal = %id, "input was left out: its program does not read");
            return;
        }
        open.kept.receive(bytes.len());
        tell(open, id, Order::Input(bytes));
    }

    /// Adds what can be sent now; at most one frame of output for each terminal.
    pub(crate) fn batch(&self, frames: &mut Vec<Bytes>) {
        let mut state = self.state();
        for (id, open) in &mut state.open {
            let (terminal_id, kept) = (*id, &mut open.kept);
            if let Some((offset, bytes)) = kept.unsent(FRAME) {
                add(
                    frames,
                    &FromAgent::TerminalOutput { terminal_id, offset },
                    &[bytes],
                );
            }
            if let Some(input) = kept.untold_input() {
                add(frames, &FromAgent::TerminalTook { terminal_id, input }, &[]);
            }
            if let Some(reason) = kept.untold_end() {
                add(frames, &FromAgent::TerminalEnded { terminal_id, reason }, &[]);
            }
        }
    }

    /// Closes all terminals and waits until their processes are gone.
    pub(crate) async fn end(&self) {
        let mut tasks = {
            let mut state = self.state();
            state.open.clear();
            std::mem::take(&mut state.tasks)
        };
        while tasks.join_next().await.is_some() {}
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell(open: &Open, terminal: Uuid, order: Order) {
    if open.orders.try_send(order).is_err() {
        tracing::debug!(%terminal, "an order was left out: the terminal's task does not take it");
    }
}

fn add(frames: &mut Vec<Bytes>, said: &FromAgent, parts: &[Vec<u8>]) {
    match encode(said, parts) {
        Ok(frame) => frames.push(frame.into()),
        Err(problem) => tracing::warn!(%problem, "a terminal's frame was left out"),
    }
}

/// What a terminal's task says; nobody listens once it is closed.
struct Voice {
    id: Uuid,
    room: Arc<Notify>,
    terminals: Arc<Terminals>,
}

impl Voice {
    fn id(&self) -> Uuid {
        self.id
    }

    /// Bytes that may be put out now.
    fn room(&self) -> usize {
        let state = self.terminals.state();
        let waits = state.connected.then(|| state.open.get(&self.id)).flatten();
        let room = waits.map(|open| open.kept.room());
        room.map_or(usize::MAX, |room| usize::try_from(room).unwrap_or(usize::MAX))
    }

    /// Waits until there may be room again.
    async fn has_room(&self) {
        self.room.notified().await;
    }

    fn put_out(&self, bytes: &[u8]) {
        self.change(|kept| kept.push(bytes));
    }

    fn took(&self, bytes: usize) {
        self.change(|kept| kept.took(bytes));
    }

    fn ended(&self, reason: Option<String>) {
        self.change(|kept| kept.end(reason));
    }

    fn change(&self, change: impl FnOnce(&mut Kept)) {
        if let Some(open) = self.terminals.state().open.get_mut(&self.id) {
            change(&mut open.kept);
        }
        self.terminals.changed.notify_one();
    }
}
