//! One kernel's life: a task that owns its processes and its bridge and takes commands in order.
//!
//! Death is seen by the process's end, never guessed from silence. A kernel that was ready is restarted when it dies,
//! as Jupyter's servers do, at most three times in quick succession.

use std::sync::Arc;
use std::time::Duration;

use alephlab_api::agent::{FromAgent, encode};
use alephlab_api::jupyter::Channel;
use alephlab_api::kernel::KernelState;
use bytes::Bytes;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;
use uuid::Uuid;

use crate::bridge::Bridge;
use crate::error::{AgentError, Result};
use crate::journal::Outbound;
use crate::launch::{Host, Spec};
use crate::load::{Loads, Measured};
use crate::processes::Processes;

/// How long a kernel gets to end by itself after it was asked to.
const GRACE: Duration = Duration::from_secs(3);
/// A kernel that lived shorter than this counts as one that cannot stay up.
const STEADY: Duration = Duration::from_secs(10);
/// Deaths in quick succession before it stays dead.
const MAX_QUICK_DEATHS: u32 = 3;
/// Messages kept for a kernel that starts; a client sends a handful.
const MAX_BACKLOG: usize = 1024;
/// Longest start that a client may ask for with `KERNEL_LAUNCH_TIMEOUT`.
const MAX_START: Duration = Duration::from_secs(600);
const USUAL_START: Duration = Duration::from_secs(120);

/// What a kernel's task is told.
pub(crate) enum Order {
    Close(Uuid),
    Message {
        client: Uuid,
        channel: Channel,
        parts: Vec<Bytes>,
    },
    Interrupt,
    Restart,
    Stop,
}

enum End {
    /// It was told to.
    Stop,
    /// A client wants a new process.
    Restart,
    /// It never became ready.
    Failed(String),
    /// It was ready, and died.
    Died { how: String, lived: Duration },
}

struct Running {
    processes: Processes,
    bridge: Bridge,
    since: Instant,
    _measured: Measured,
}

/// The task of one kernel.
pub(crate) struct Kernel {
    host: Arc<Host>,
    loads: Arc<Loads>,
    spec: Spec,
    outbound: Outbound,
    orders: mpsc::Receiver<Order>,
    backlog: Vec<Order>,
    /// An interrupt came while it started.
    interrupted: bool,
    starts: u64,
}

impl Kernel {
    pub(crate) fn new(
        (host, loads): (Arc<Host>, Arc<Loads>),
        spec: Spec,
        outbound: Outbound,
        orders: mpsc::Receiver<Order>,
    ) -> Self {
        Self {
            host,
            loads,
            spec,
            outbound,
            orders,
            backlog: Vec::new(),
            interrupted: false,
            starts: 0,
        }
    }

    /// Runs until it is told to stop.
    pub(crate) async fn run(mut self) {
        let mut quick_deaths = 0;
        self.report(KernelState::Starting, None);
        loop {
            let end = match self.start().await {
                Ok(running) => {
                    self.report(KernelState::Idle, None);
                    self.serve(running).await
                }
                Err(end) => end,
            };
            let detail = match end {
                End::Stop => break,
                End::Restart => {
                    quick_deaths = 0;
                    self.report(KernelState::Restarting, None);
                    continue;
                }
                End::Failed(reason) => reason,
                End::Died { how, lived } => {
                    quick_deaths = if lived < STEADY { quick_deaths + 1 } else { 1 };
                    let detail = format!("the kernel's process died: {how}; its variables are gone");
                    if quick_deaths <= MAX_QUICK_DEATHS {
                        self.report(KernelState::Restarting, Some(detail));
                        continue;
                    }
                    detail
                }
            };
            self.report(KernelState::Dead, Some(detail));
            if !self.restart_ordered().await {
                break;
            }
            quick_deaths = 0;
            self.report(KernelState::Restarting, None);
        }
        self.report(KernelState::Stopped, None);
        self.outbound.end();
    }

    /// Starts processes and bridge while orders that can wait are kept.
    async fn start(&mut self) -> Result<Running, End> {
        self.starts += 1;
        let (host, number, outbound) = (Arc::clone(&self.host), self.starts, self.outbound.clone());
        let (spec, loads) = (&self.spec, Arc::clone(&self.loads));
        let starting = launch((&host, &loads), spec, number, outbound);
        tokio::pin!(starting);
        loop {
            tokio::select! {
                started = &mut starting => {
                    return started.map_err(|error| End::Failed(error.line()));
                }
                order = self.orders.recv() => match order {
                    None | Some(Order::Stop) => return Err(End::Stop),
                    Some(Order::Close(_)) => {}
                    Some(Order::Message { .. }) if self.backlog.len() >= MAX_BACKLOG => {
                        tracing::warn!(kernel = %spec.kernel_id, "a message to a starting kernel was left out");
                    }
                    Some(message @ Order::Message { .. }) => self.backlog.push(message),
                    Some(Order::Interrupt) => self.interrupted = true,
                    // It is being made new already.
                    Some(Order::Restart) => {}
                },
            }
        }
    }

    /// Serves a ready kernel until something ends it.
    async fn serve(&mut self, mut running: Running) -> End {
        let end = tokio::select! {
            how = running.processes.ended() => End::Died { how, lived: running.since.elapsed() },
            end = self.obey_all(&mut running.bridge) => end,
        };
        let patience = match end {
            End::Stop | End::Restart => {
                let content = json!({ "restart": matches!(end, End::Restart) });
                self.log(running.bridge.control("shutdown_request", &content).await);
                GRACE
            }
            End::Failed(_) | End::Died { .. } => Duration::from_secs(1),
        };
        running.processes.end(patience).await;
        end
    }

    /// Obeys what waited, then what comes, until an order ends it.
    async fn obey_all(&mut self, bridge: &mut Bridge) -> End {
        for order in std::mem::take(&mut self.backlog) {
            self.obey(bridge, order).await;
        }
        if std::mem::take(&mut self.interrupted) {
            self.obey(bridge, Order::Interrupt).await;
        }
        loop {
            match self.orders.recv().await {
                None | Some(Order::Stop) => return End::Stop,
                Some(Order::Restart) => return End::Restart,
                Some(order) => self.obey(bridge, order).await,
            }
        }
    }

    async fn obey(&mut self, bridge: &mut Bridge, order: Order) {
        let outcome = match order {
            Order::Close(client) => {
                bridge.close(client);
                Ok(())
            }
            Order::Message {
                client,
                channel,
                parts,
            } => bridge.send(client, channel, &parts).await,
            Order::Interrupt => bridge.control("interrupt_request", &json!({})).await,
            Order::Restart | Order::Stop => Ok(()),
        };
        self.log(outcome);
    }

    /// Waits, dead, for a restart; false when it is told to stop instead.
    async fn restart_ordered(&mut self) -> bool {
        self.backlog.clear();
        self.interrupted = false;
        loop {
            match self.orders.recv().await {
                None | Some(Order::Stop) => return false,
                Some(Order::Restart) => return true,
                Some(Order::Close(_) | Order::Message { .. } | Order::Interrupt) => {}
            }
        }
    }

    fn report(&self, state: KernelState, detail: Option<String>) {
        tracing::info!(kernel = %self.spec.kernel_id, %state, detail, "kernel state");
        let at = alephlab_api::time::unix_now();
        let frame = FromAgent::State {
            kernel_id: self.spec.kernel_id,
            state,
            detail: detail.clone(),
            at,
        };
        if let Ok(frame) = encode::<_, &[u8]>(&frame, &[]) {
            self.outbound.push(frame, Some((state, detail, at)));
        }
    }

    fn log(&self, outcome: Result<()>) {
        if let Err(error) = outcome {
            tracing::warn!(kernel = %self.spec.kernel_id, %error, "an order to a kernel failed");
        }
    }
}

async fn launch(
    (host, loads): (&Host, &Arc<Loads>),
    spec: &Spec,
    number: u64,
    outbound: Outbound,
) -> Result<Running> {
    let asked = spec
        .env
        .get("KERNEL_LAUNCH_TIMEOUT")
        .and_then(|text| text.parse().ok());
    let patience = asked
        .map_or(USUAL_START, |seconds| {
            Duration::from_secs(seconds).max(USUAL_START)
        })
        .min(MAX_START);
    let (mut processes, ends) = Processes::start(host, spec, number).await?;
    let bridge = tokio::select! {
        bridge = Bridge::connect(spec.kernel_id, ends, outbound, patience) => bridge?,
        reason = processes.ended() => return Err(AgentError::KernelEnded { reason }),
    };
    Ok(Running {
        _measured: loads.measure(spec.kernel_id, processes.kernel_pid()),
        processes,
        bridge,
        since: Instant::now(),
    })
}
