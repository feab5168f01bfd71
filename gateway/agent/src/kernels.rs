//! All kernels of this agent: takes the gateway's frames apart and hands each to its kernel's task.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use alephlab_api::agent::ToAgent;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::journal::Journals;
use crate::kernel::{Kernel, Order};
use crate::launch::{Host, Spec};
use crate::load::Loads;

/// Orders that may wait for one kernel. When it is full the gateway's connection waits, at most [`PATIENCE`].
const ORDERS: usize = 1024;
/// A kernel's task that takes no order for this long loses the order rather than stalling all others.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// The kernels by id.
pub(crate) struct Kernels {
    host: Arc<Host>,
    journals: Arc<Journals>,
    loads: Arc<Loads>,
    running: HashMap<Uuid, (mpsc::Sender<Order>, JoinHandle<()>)>,
}

impl Kernels {
    pub(crate) fn new(host: Arc<Host>, journals: Arc<Journals>, loads: Arc<Loads>) -> Self {
        Self {
            host,
            journals,
            loads,
            running: HashMap::new(),
        }
    }

    /// Stops kernels that the gateway does not know.
    pub(crate) async fn stop(&mut self, unknown: Vec<Uuid>) {
        for kernel in unknown {
            tracing::info!(%kernel, "the gateway does not know this kernel; it is stopped");
            self.tell(kernel, Order::Stop).await;
        }
    }

    /// Obeys one order of the gateway; `frame` holds the parts.
    pub(crate) async fn obey(&mut self, frame: &Bytes, order: ToAgent, parts: Vec<Range<usize>>) {
        match order {
            // What is about the connection itself, or for terminals, is not for kernels.
            ToAgent::Challenge { .. }
            | ToAgent::Welcome { .. }
            | ToAgent::Resume { .. }
            | ToAgent::Note { .. }
            | ToAgent::Follow { .. }
            | ToAgent::OpenTerminal { .. }
            | ToAgent::TerminalInput { .. }
            | ToAgent::TerminalSize { .. }
            | ToAgent::CloseTerminal { .. }
            | ToAgent::TerminalTaken { .. } => {}
            ToAgent::StartKernel {
                kernel_id,
                name,
                env,
                cwd,
                home,
                anywhere,
                kernel_token,
                account,
                aleph_url,
            } => {
                self.start(Spec {
                    kernel_id,
                    name,
                    env,
                    cwd,
                    home,
                    anywhere,
                    kernel_token,
                    account,
                    aleph_url,
                });
            }
            ToAgent::StopKernel { kernel_id } => self.tell(kernel_id, Order::Stop).await,
            ToAgent::InterruptKernel { kernel_id } => self.tell(kernel_id, Order::Interrupt).await,
            ToAgent::RestartKernel { kernel_id } => self.tell(kernel_id, Order::Restart).await,
            ToAgent::ClientClose { kernel_id, client } => self.tell(kernel_id, Order::Close(client)).await,
            ToAgent::Message {
                kernel_id,
                client,
                channel,
            } => {
                let parts = parts.into_iter().map(|range| frame.slice(range)).collect();
                self.tell(
                    kernel_id,
                    Order::Message {
                        client,
                        channel,
                        parts,
                    },
                )
                .await;
            }
        }
    }

    /// Stops all kernels and waits until their processes are gone.
    pub(crate) async fn end(self) {
        let mut tasks = Vec::with_capacity(self.running.len());
        for (orders, task) in self.running.into_values() {
            let _ = orders.try_send(Order::Stop);
            // A closed queue means stop as well, should it have been full.
            drop(orders);
            tasks.push(task);
        }
        for task in tasks {
            let _ = task.await;
        }
    }

    fn start(&mut self, spec: Spec) {
        let id = spec.kernel_id;
        if self.running.get(&id).is_some_and(|(_, task)| !task.is_finished()) {
            return;
        }
        self.running.retain(|_, (_, task)| !task.is_finished());
        let (sender, orders) = mpsc::channel(ORDERS);
        let parts = (Arc::clone(&self.host), Arc::clone(&self.loads));
        let kernel = Kernel::new(parts, spec, self.journals.outbound(id), orders);
        self.running.insert(id, (sender, tokio::spawn(kernel.run())));
    }

    async fn tell(&mut self, kernel_id: Uuid, order: Order) {
        let Some((orders, _)) = self.running.get(&kernel_id) else {
            tracing::debug!(%kernel_id, "an order for a kernel that does not run here");
            return;
        };
        if orders.send_timeout(order, PATIENCE).await.is_err() {
            tracing::warn!(%kernel_id, "an order was left out: the kernel's task does not take it");
        }
    }
}
