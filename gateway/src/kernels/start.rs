//! Starting kernels: on this machine at once, on other hardware by renting a host for them (`rented`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use alephlab_api::agent::ToAgent;
use alephlab_api::jupyter::NewKernel;
use alephlab_api::kernel::KernelState;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::environment::allowed;
use super::quotes::Choice;
use super::{Kernels, Live, SPECS, idle, spec_of, unknown_spec};
use crate::error::{GatewayError, Result};
use crate::relay::Relay;
use crate::store::{Hold, sha256};

/// Dead kernels of one account that stay at hand.
const MAX_DEAD: usize = 64;
/// How long an agent may take to connect before kernels that wait for it are given up.
const AGENT_PATIENCE: Duration = Duration::from_secs(60);

/// What a kernel is started with, beside whose it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Start {
    pub(super) env: BTreeMap<String, String>,
    pub(super) cwd: Option<String>,
}

impl Kernels {
    /// Starts a kernel: it is `starting` when this returns. On this machine the order to its agent is queued; other hardware
    /// is being rented.
    pub(crate) async fn start(self: &Arc<Self>, account: &str, wanted: &NewKernel) -> Result<Arc<Live>> {
        let (name, env) = (spec_of(wanted), allowed(&wanted.env)?);
        let choice = Choice::of(name, &env)?;
        if choice.is_none() && !SPECS.iter().any(|(known, _)| *known == name) {
            return Err(unknown_spec(name));
        }
        if let Some(running) = self.admit(account, wanted).await? {
            return Ok(running);
        }
        let idle_limit = idle::asked_for(&env)?;
        let id = wanted.kernel_id.unwrap_or_else(Uuid::new_v4);
        let cwd = wanted.path.clone().filter(|path| !path.is_empty());
        let start = Start { env, cwd };
        match choice {
            Some(choice) => self.rent((id, account), choice, start, idle_limit).await,
            None => self.start_here((id, account), name, start, idle_limit).await,
        }
    }

    /// Starts one on this machine.
    async fn start_here(
        self: &Arc<Self>,
        (id, account): (Uuid, &str),
        name: &str,
        start: Start,
        idle_limit: Option<u64>,
    ) -> Result<Arc<Live>> {
        let _one = self.beginning.lock().await;
        if let Some(begun) = self.begun_before(account, id).await? {
            return Ok(begun);
        }
        let lease = self.hosts.lease()?;
        let token = crate::auth::random_token();
        let token_sha256 = sha256(token.expose().as_bytes());
        let held = self.set_aside(account, id, &start.env).await?;
        let added = self
            .store
            .add_kernel((id, account), name, Some(lease.id), &token_sha256, idle_limit)
            .await;
        if let (Err(_), Some(held)) = (&added, &held) {
            self.store.end_hold(held.id, 0, &self.terms.receipts).await?;
        }
        added?;
        let relay = Relay::new(Arc::clone(&lease.notes));
        let live = Live {
            idle_limit,
            ..Live::new(id, (account, name), &lease, relay, KernelState::Starting)
        };
        let live = self.enlist(live, held);
        let sent = match self.order_to_start(&live, start, token) {
            Ok(order) => lease.send::<&[u8]>(&order, &[]).await,
            Err(error) => Err(error),
        };
        match sent {
            Ok(()) => drop(tokio::spawn(Arc::clone(self).watch_start(Arc::clone(&live)))),
            Err(error) => {
                self.change(&live, KernelState::Dead, Some(error.to_string()))
                    .await;
            }
        }
        Ok(live)
    }

    /// A kernel is known from now on: it is charged, and stopped when nothing runs in it for too long.
    pub(super) fn enlist(self: &Arc<Self>, live: Live, held: Option<Hold>) -> Arc<Live> {
        let live = Arc::new(live);
        live.touch();
        // When it was last is not known of an adopted one; it is not held against it.
        live.work();
        self.live().insert(live.id, Arc::clone(&live));
        tokio::spawn(Arc::clone(self).watch_idle(Arc::clone(&live)));
        if let Some(held) = held {
            tokio::spawn(Arc::clone(self).meter(Arc::clone(&live), held));
        }
        live
    }

    /// The order to a kernel's agent.
    ///
    /// # Errors
    /// When the account has no folder of its own on a machine that is for all.
    pub(super) fn order_to_start(
        &self,
        live: &Live,
        start: Start,
        token: alephlab_api::Secret,
    ) -> Result<ToAgent> {
        // This machine is for all accounts, a rented host for one.
        let is_shared = live.rental.is_none();
        let operator = self.terms.receipts.payee.to_string();
        let home = match is_shared {
            true => Some(self.contents.home_of(&live.account)?),
            false => None,
        };
        Ok(ToAgent::StartKernel {
            kernel_id: live.id,
            name: live.name.clone(),
            env: start.env,
            cwd: start.cwd,
            home,
            anywhere: is_shared && live.account.eq_ignore_ascii_case(&operator),
            kernel_token: token,
            account: live.account.clone(),
            aleph_url: self.aleph_url.clone(),
        })
    }

    /// Checks whether this account may start what it wants; gives the kernel that it has already under that id.
    async fn admit(&self, account: &str, wanted: &NewKernel) -> Result<Option<Arc<Live>>> {
        if let Some(id) = wanted.kernel_id {
            // One that is beginning has its row before it is known here.
            let _one = self.beginning.lock().await;
            if let Some(begun) = self.begun_before(account, id).await? {
                return Ok(Some(begun));
            }
        }
        let most = self.terms.max_kernels;
        if self.retire(account).await >= most {
            let message = format!("this account has {most} kernels; stop one first");
            return Err(GatewayError::refused(
                StatusCode::TOO_MANY_REQUESTS,
                "kernels_limit",
                message,
            ));
        }
        Ok(None)
    }

    /// The account's kernel with this id, if it has begun already.
    ///
    /// # Errors
    /// 409 `kernel_id_taken` when it is another's, or over.
    pub(super) async fn begun_before(&self, account: &str, id: Uuid) -> Result<Option<Arc<Live>>> {
        if let Ok(live) = self.get(account, id) {
            return Ok(Some(live));
        }
        if self.store.kernel(id).await?.is_none() {
            return Ok(None);
        }
        let message = "this kernel id is taken";
        Err(GatewayError::refused(
            StatusCode::CONFLICT,
            "kernel_id_taken",
            message,
        ))
    }

    /// Counts an account's kernels that are not over. Of dead ones only so many stay at hand; the store knows the rest.
    async fn retire(&self, account: &str) -> usize {
        let (over, running): (Vec<_>, Vec<_>) = self
            .of(account)
            .into_iter()
            .partition(|live| live.status().state.is_over());
        for live in over.iter().rev().skip(MAX_DEAD) {
            self.live().remove(&live.id);
            live.relay.close(1000, "the kernel is dead");
            let order = ToAgent::StopKernel { kernel_id: live.id };
            let _ = live.lease.send::<&[u8]>(&order, &[]).await;
        }
        running.len()
    }

    /// A kernel whose host never comes is given up.
    async fn watch_start(self: Arc<Self>, live: Arc<Live>) {
        let mut status = live.status.subscribe();
        let left = status.wait_for(|status| status.state != KernelState::Starting);
        if tokio::time::timeout(AGENT_PATIENCE, left).await.is_err() && self.hosts.machine().is_none() {
            let reason = self
                .hosts
                .trouble()
                .unwrap_or_else(|| "its agent does not connect".to_owned());
            let reason = format!(
                "this machine did not become ready within {} s: {reason}",
                AGENT_PATIENCE.as_secs()
            );
            let reported = self.report(&live, KernelState::Dead, Some(reason), None).await;
            if let Err(error) = reported {
                tracing::error!(kernel = %live.id, %error, "the end of a kernel could not be written");
            }
        }
    }
}
