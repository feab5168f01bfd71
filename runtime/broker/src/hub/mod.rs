//! `alephlab hub` beside a kernel: the Hub's routes on the loopback, for stock clients in cells and what cells start.
//!
//! They read what this kernel's user may read: `library` finds it, has it opened like a `pull` does, and keeps few of those
//! `readers`; plain bytes go from memory to the client. Public models and shares are for whoever names them, as at a gateway;
//! all else needs the token of this kernel, which its cells have in their environment, since other kernels and programs of the
//! machine reach the same loopback. Nothing is written here: cells publish by `publish`.

mod library;
mod lookup;
mod readers;
mod revision;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use alephlab_api::agent::HubAddress;
use alephlab_api::{Problem, Secret};
use alephlab_registry::{Hosts, Hub, RegistryError};
use alephlab_vault::share::ShareToken;
use axum::Router;
use axum::extract::Request;
use axum::http::Method;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use url::Url;

pub(crate) use readers::{Audience, Held, Readers};

use crate::{Broker, BrokerError, Result};
use library::KernelLibrary;

/// The endpoint of one kernel, which listens and does not serve yet.
pub struct Endpoint {
    listener: TcpListener,
    url: Url,
    token: Secret,
}

impl Endpoint {
    /// Takes a free port of the loopback, and a random token that is this kernel's alone.
    ///
    /// # Errors
    /// [`BrokerError::Hub`] when there is no loopback to listen on.
    pub async fn bind() -> Result<Self> {
        let failed = |reason: String| BrokerError::Hub { reason };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.map_err(|error| failed(error.to_string()))?;
        let address = listener.local_addr().map_err(|error| failed(error.to_string()))?;
        let url = Url::parse(&format!("http://{address}")).map_err(|error| failed(error.to_string()))?;
        let token = Secret::new(ShareToken::generate()?.expose());
        Ok(Self { listener, url, token })
    }

    /// Address and token, as clients take them from `HF_ENDPOINT` and `HF_TOKEN`.
    pub fn address(&self) -> HubAddress {
        HubAddress {
            url: self.url.as_str().trim_end_matches('/').to_owned(),
            token: self.token.clone(),
        }
    }

    /// Serves until `stop`.
    pub async fn serve(self, broker: Arc<Broker>, stop: CancellationToken) {
        let service =
            routes(&self.url, self.token, broker).into_make_service_with_connect_info::<SocketAddr>();
        let listener = axum::serve::ListenerExt::tap_io(self.listener, |stream| {
            // Small answers must not wait for one another.
            let _ = stream.set_nodelay(true);
        });
        tokio::select! {
            served = axum::serve(listener, service) => if let Err(error) = served {
                tracing::warn!(%error, "the kernel's hub ended");
            },
            () = stop.cancelled() => {}
        }
    }
}

fn routes(url: &Url, token: Secret, broker: Arc<Broker>) -> Router {
    let library = Arc::new(KernelLibrary::new(broker, token));
    let router = Hub::new(library).served_at(url).router().fallback(elsewhere);
    Hosts::of(url).before(router)
}

/// Everything that only reads is routed; what else a client asks for is mostly to write.
async fn elsewhere(request: Request) -> RegistryError {
    let (method, path) = (request.method(), request.uri().path());
    if matches!(*method, Method::GET | Method::HEAD) {
        let message = format!("a kernel's hub does not serve {method} {path}");
        let problem = Problem::new("route_unknown", message);
        return RegistryError::Route { problem };
    }
    RegistryError::Forbidden {
        reason: "a kernel's hub only reads: publish from a cell, by publish(&saved, Card { .. })".to_owned(),
    }
}
