//! `alephlab hub`: the Hugging Face Hub's routes on this machine's loopback, for stock clients. What they upload is sealed
//! here and signed by this account; what they download is opened here, with what this account may read.
//!
//! `library` finds and opens, `writer` publishes, `drafts` remembers repos that have no revision
//! yet. Plaintext that was uploaded lies in the account's own folder until it is sealed.

mod drafts;
mod library;
mod origins;
mod repo;
mod writer;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use alephlab_api::Secret;
use alephlab_registry::staging::Limits;
use alephlab_registry::{Hosts, Hub, RegistryError, Staging, unknown_route};
use axum::extract::Request;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::error::{CliError, Result};
use crate::models::Registry;

/// How often what was uploaded and never committed is looked through.
const SWEEP: Duration = Duration::from_secs(3600);

/// A hub that listens and does not serve yet.
pub(crate) struct Endpoint {
    listener: TcpListener,
    url: Url,
    hub: Sealed,
    staging: Arc<Staging>,
}

/// Library and writer in one.
#[derive(Clone)]
struct Sealed(Arc<Inner>);

/// What they share.
struct Inner {
    registry: Registry,
    /// Stands for the account.
    token: Secret,
    drafts: drafts::Drafts,
    staging: Arc<Staging>,
    /// Held over each change: commits follow one another, and each sees what the one before has made.
    changing: tokio::sync::Mutex<()>,
    /// Hashes of content that could not be taken from where it is.
    distrusted: Mutex<BTreeSet<String>>,
    /// Whether files that carry code are published, too.
    unchecked: bool,
}

impl std::ops::Deref for Sealed {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Endpoint {
    /// Takes a port of the loopback, zero for a free one, and the account's working area.
    ///
    /// # Errors
    /// When the port is taken, or another hub of this account runs.
    pub(crate) async fn open(registry: Registry, token: Secret, port: u16, unchecked: bool) -> Result<Self> {
        let taken = |source| CliError::Port { port, source };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .await
            .map_err(taken)?;
        let address = listener.local_addr().map_err(taken)?;
        let url = Url::parse(&format!("http://{address}")).map_err(|error| CliError::Program {
            program: "alephlab hub",
            reason: error.to_string(),
        })?;
        let folder = registry.account().folder().join("hub");
        let staging = Staging::open(&folder.join("staging"), Limits::default()).map_err(unusable)?;
        let drafts = drafts::Drafts::at(&folder.join("drafts.json"));
        let hub = Sealed(Arc::new(Inner {
            registry,
            token,
            drafts,
            staging: Arc::clone(&staging),
            changing: tokio::sync::Mutex::default(),
            distrusted: Mutex::default(),
            unchecked,
        }));
        Ok(Self {
            listener,
            url,
            hub,
            staging,
        })
    }

    /// Its address, as clients write it into `HF_ENDPOINT`.
    pub(crate) fn url(&self) -> &str {
        self.url.as_str().trim_end_matches('/')
    }

    /// Serves until stopped; what is being received or sealed then is cut, and goes on when it is sent again.
    pub(crate) async fn serve(self, stop: CancellationToken) -> Result<()> {
        let hosts = Hosts::of(&self.url);
        let router = Hub::new(Arc::new(self.hub.clone()))
            .written_by(&self.url, Arc::new(self.hub), Arc::clone(&self.staging))
            .router()
            .fallback(|request: Request| async move {
                unknown_route(request.method().as_str(), request.uri().path())
            });
        let router = hosts.before(router);
        let sweeping = tokio::spawn(sweep(self.staging, stop.clone()));
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        let listener = axum::serve::ListenerExt::tap_io(self.listener, |stream| {
            // Small answers must not wait for one another.
            let _ = stream.set_nodelay(true);
        });
        let served = tokio::select! {
            served = axum::serve(listener, service) => served,
            () = stop.cancelled() => Ok(()),
        };
        sweeping.abort();
        served.map_err(|source| CliError::Program {
            program: "alephlab hub",
            reason: source.to_string(),
        })
    }
}

/// Removes what was uploaded and is asked for no more.
async fn sweep(staging: Arc<Staging>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let staging = Arc::clone(&staging);
        let swept = tokio::task::spawn_blocking(move || staging.sweep(SystemTime::now())).await;
        if let Err(error) = swept {
            tracing::warn!(%error, "the hub's working area was not swept");
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "what `map_err` passes")]
fn unusable(error: RegistryError) -> CliError {
    CliError::Library {
        what: "the hub's working area cannot be used",
        code: error.code().to_owned(),
        message: error.to_string(),
        hint: Some("one `alephlab hub` runs for an account at a time: stop the other one".to_owned()),
    }
}
