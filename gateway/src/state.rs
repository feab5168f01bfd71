//! What every route can reach: built once in [`crate::Gateway::start`], shared by all.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use alephlab_vault::storage::Storage;
use futures_util::future::{BoxFuture, FutureExt as _};
use tokio_util::sync::CancellationToken;
use url::Url;
use uuid::Uuid;

use crate::contents::Contents;
use crate::error::Result;
use crate::host::{Hosts, LeaseEvents};
use crate::index::Index;
use crate::kernels::Kernels;
use crate::keycalls::KeyCalls;
use crate::lab::Lab;
use crate::library::{Pace, PublicModels, SharedModel};
use crate::limiter::Limiter;
use crate::market::Market;
use crate::models::{Models, Said};
use crate::oidc::Oidc;
use crate::opened::Opened;
use crate::receipts::ReceiptKey;
use crate::secrets::SecretsKey;
use crate::settlement::Settlement;
use crate::store::Store;
use crate::terminals::Terminals;
use crate::x402::X402;

/// The gateway's state.
pub(crate) struct App {
    pub(crate) store: Store,
    pub(crate) kernels: Arc<Kernels>,
    pub(crate) terminals: Terminals,
    pub(crate) hosts: Arc<Hosts>,
    pub(crate) keys: KeyCalls,
    pub(crate) storage: Arc<dyn Storage>,
    /// What lists, searches and facets of models are answered from.
    pub(crate) index: Arc<Index>,
    pub(crate) models: Arc<Models>,
    pub(crate) market: Market,
    pub(crate) contents: Contents,
    /// What signs receipts, and the roots of all of them.
    pub(crate) receipts: Arc<ReceiptKey>,
    /// Payments that are signed and sent to the chain.
    pub(crate) x402: X402,
    /// What seals secrets of accounts at rest.
    pub(crate) secrets: Arc<SecretsKey>,
    pub(crate) settlement: Settlement,
    /// Where accounts may sign in besides their wallets.
    pub(crate) oidc: Option<Oidc>,
    /// JupyterLab as a page, where it is installed.
    pub(crate) lab: Option<Lab>,
    pub(crate) public_url: Url,
    /// Whose `X-Forwarded-For` counts.
    pub(crate) fronts: Arc<[IpAddr]>,
    /// It listens on more than this machine's own address.
    pub(crate) is_open: bool,
    pub(crate) aleph_url: String,
    /// When it started, as Jupyter writes times.
    pub(crate) started: String,
    pub(crate) failures: Limiter,
    /// Texts to sign that peers asked for.
    pub(crate) texts: Limiter,
    /// Shares that stock clients read now.
    pub(crate) opened: Opened<SharedModel>,
    /// How often shares are asked.
    pub(crate) pace: Pace,
    /// Public models that stock clients read of late.
    pub(crate) public: PublicModels,
    pub(crate) refusals: AtomicU64,
    pub(crate) stop: CancellationToken,
}

impl App {
    /// Counts a failed proof; true when this peer had too many.
    pub(crate) fn refuse(&self, peer: IpAddr) -> bool {
        self.refusals.fetch_add(1, Ordering::Relaxed);
        self.failures.exceeded(peer)
    }

    /// Takes a verified message of the registry in. Shares of what was withdrawn are over, and nothing of them stays open.
    pub(crate) async fn take_in(&self, said: &Said) -> Result<()> {
        self.models.take_in(said).await?;
        if matches!(said, Said::Withdrawal(_)) {
            for share in self.opened.shares() {
                if self.store.share(share.uuid).await?.is_none() {
                    self.opened.forget(share.uuid);
                }
            }
        }
        Ok(())
    }

    /// Name of the cookie: with the port, because cookies of one machine are shared by all its ports.
    pub(crate) fn cookie_name(&self) -> String {
        format!(
            "alephlab-{}",
            self.public_url.port_or_known_default().unwrap_or_default()
        )
    }

    /// Whether a `Host` or an origin's host is this gateway: its public name or this machine's own.
    pub(crate) fn is_own_host(&self, host: &str) -> bool {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.ends_with(':') => name,
            _ => host,
        };
        let name = name.trim_start_matches('[').trim_end_matches(']');
        name.eq_ignore_ascii_case("localhost")
            // A name of somebody else's that leads here is what is refused; a number is none.
            || name.parse::<IpAddr>().is_ok_and(|ip| self.is_open || ip.is_loopback())
            || self
                .public_url
                .host_str()
                .is_some_and(|own| own.trim_matches(['[', ']']).eq_ignore_ascii_case(name))
    }
}

impl LeaseEvents for App {
    fn lease_ended<'a>(&'a self, lease: Uuid, reason: &'a str) -> BoxFuture<'a, ()> {
        async move {
            self.kernels.lease_ended(lease, reason).await;
            self.terminals.lease_ended(lease, reason).await;
        }
        .boxed()
    }
}

/// A peer's address without the form that IPv4 takes on an IPv6 socket.
pub(crate) fn address(peer: SocketAddr) -> IpAddr {
    peer.ip().to_canonical()
}
