//! `alephlab hub` beside a kernel: the Hub's routes on the loopback, for stock clients in cells and what cells start.
//!
//! They read what this kernel's user may read: `library` finds it, has it opened like a `pull` does, and keeps few of those
//! `readers`; plain bytes go from memory to the client. All needs the token of this kernel, which its cells have in their
//! environment, or that of a share, since other kernels and programs of the machine reach the same loopback. Clients keep copies
//! in the open: they are given a folder for them (`HF_HOME`) that goes with the kernel. Nothing is written here: cells publish by
//! `publish`.

mod connections;
mod library;
mod lookup;
mod readers;
mod revision;

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
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
use connections::Bounds;
use library::KernelLibrary;

/// The endpoint of one kernel, which listens and does not serve yet.
pub struct Endpoint {
    listener: TcpListener,
    url: Url,
    token: Secret,
    home: Option<PathBuf>,
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
        Ok(Self {
            listener,
            url,
            token,
            home: None,
        })
    }

    /// Makes a folder for the copies of clients, with the token for those that read it from a file; else they keep them where they
    /// always do.
    #[must_use]
    pub fn with_home(mut self, folder: Option<PathBuf>) -> Self {
        self.home = folder.filter(|folder| {
            let made = home(folder, &self.token);
            if let Err(error) = &made {
                tracing::warn!(path = %folder.display(), %error, "clients keep their copies elsewhere");
            }
            made.is_ok()
        });
        self
    }

    /// Address and token, as clients take them from `HF_ENDPOINT` and `HF_TOKEN`.
    pub fn address(&self) -> HubAddress {
        HubAddress {
            url: self.url.as_str().trim_end_matches('/').to_owned(),
            token: self.token.clone(),
            home: self.home.clone(),
        }
    }

    /// Serves until `stop`.
    pub async fn serve(self, broker: Arc<Broker>, stop: CancellationToken) {
        let routes = routes(&self.url, self.token, broker);
        connections::serve(self.listener, routes, Bounds::USUAL, stop).await;
    }
}

fn home(folder: &Path, token: &Secret) -> std::io::Result<()> {
    std::fs::DirBuilder::new().mode(0o700).create(folder)?;
    let mut file = std::fs::OpenOptions::new();
    let file = file.write(true).create_new(true).mode(0o600);
    file.open(folder.join("token"))?
        .write_all(token.expose().as_bytes())
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
