//! The gateway: one axum server on one origin, with the Jupyter Server API, the Hub's read routes and `/v1`.
//!
//! Started in process by the `alephlab` command. It relays cells and key requests, indexes models and keeps shares; it
//! holds no key that opens content at rest, but those that owners deposited to be sold (for a stock Hub client it opens a share
//! in memory, see `library`). What it can open are the secrets that accounts store with it for their notebooks. Kernels run on hosts, never inside it: this machine,
//! through an agent process, and hosts that are rented for one kernel each.
#![forbid(unsafe_code)]

mod aleph;
mod allocations;
pub mod attestation;
mod audit;
mod auth;
mod contents;
mod database;
mod door;
mod error;
mod framing;
mod gate;
mod host;
mod index;
mod kernels;
mod keycalls;
mod lab;
mod library;
mod limiter;
mod market;
mod models;
mod oidc;
mod opened;
mod outputs;
pub mod reading;
mod receipts;
mod recent;
mod recorder;
mod relay;
mod routes;
mod scopes;
mod secrets;
mod settlement;
mod standby;
mod state;
mod store;
mod terminals;
mod x402;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use alephlab_api::money::Amount;
use alephlab_api::{Secret, time};
use alephlab_vault::Address;
use alephlab_vault::storage::{self, Storage};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use url::Url;

pub use crate::aleph::{Aleph, AlephConfig};
pub use crate::allocations::LeaseSecrets;
pub use crate::audit::{AuditError, check_audit};
pub use crate::database::{DatabaseUrl, DatabaseUrlError};
pub use crate::error::GatewayError;
pub use crate::gate::local_url;
pub use crate::host::{Bill, HostConfig, HostProvider, Rented, ResidentHost, Seen, ThisMachine};
pub use crate::market::{MarketConfig, PurchaseError, check_paid, check_purchase, paid_hash, purchase_hash};
pub use crate::oidc::OidcConfig;
pub use crate::outputs::{Outputs, joined_lines, split_lines};
pub use crate::receipts::{Posting, ReceiptError, check_chain, check_consistency, check_head, check_proof};
pub use crate::settlement::{ChainConfig, CreditsConfig, RateSource, SettlementConfig};

use crate::allocations::{Allocations, Door};
use crate::contents::Contents;
use crate::door::Certificate;
use crate::error::Result;
use crate::gate::{Gate, Peer};
use crate::host::{Hosts, LeaseEvents};
use crate::index::Index;
use crate::kernels::{Kernels, Terms};
use crate::lab::Lab;
use crate::limiter::Limiter;
use crate::market::Market;
use crate::models::Models;
use crate::oidc::Oidc;
use crate::receipts::ReceiptKey;
use crate::secrets::SecretsKey;
use crate::settlement::Settlement;
use crate::state::App;
use crate::store::{Store, Wait, sha256};
use crate::terminals::Terminals;
use crate::x402::X402;

/// How long open requests may take to end after the gateway was told to stop.
const FAREWELL: Duration = Duration::from_secs(3);

/// How long a gateway that stops waits until rented hosts are given back; the next one goes on with those that are not.
const GIVEN_BACK: Duration = Duration::from_secs(8);

/// What one peer may do in a minute before it is told to wait.
#[derive(Debug, Clone, Copy)]
pub struct PeerLimits {
    /// Proofs that fail: tokens and signatures.
    pub failures: u32,
    /// Texts to sign; each is a row that waits.
    pub texts: u32,
}

impl Default for PeerLimits {
    fn default() -> Self {
        Self {
            failures: 60,
            texts: 30,
        }
    }
}

/// The account that runs the gateway, and its token.
pub struct Operator {
    /// Address, EIP-55 or all of one case.
    pub address: String,
    /// Opens everything that is this account's, until a gateway is started here with another.
    pub token: Secret,
}

/// What a gateway needs to start.
pub struct Config {
    /// Where it listens; the caller bound it, so a taken port is the caller's to report.
    pub listener: std::net::TcpListener,
    /// The address that clients use.
    pub public_url: Url,
    /// Fronts (reverse proxies) whose `X-Forwarded-For` says who called; nobody else's counts.
    pub fronts: Vec<IpAddr>,
    /// What one peer may do in a minute.
    pub limits: PeerLimits,
    /// Its folder: database, unless that is elsewhere, and bootstrap files.
    pub data: PathBuf,
    /// A PostgreSQL database in place of the SQLite file in the folder.
    pub database: Option<DatabaseUrl>,
    /// Wait while another gateway has that database, instead of being refused.
    pub standby: bool,
    /// The Aleph node, or several with commas between them.
    pub aleph_url: String,
    /// The first account.
    pub operator: Operator,
    /// Addresses of the other accounts that may sign in, and so run cells as the user who started the gateway; the
    /// operator always may. Tokens of all others open nothing from the next start on.
    pub admitted: Vec<String>,
    /// An OpenID provider as a second door; none has none.
    pub oidc: Option<OidcConfig>,
    /// This machine as a host.
    pub host: HostConfig,
    /// What a kernel costs, in credits an hour; nothing where it is free.
    pub kernel_price: Amount,
    /// Where accounts' notebooks and files are, each in a folder of its own; on this machine below where kernels work.
    pub contents: PathBuf,
    /// JupyterLab's files, to serve it as a page; none serves none.
    pub lab: Option<PathBuf>,
    /// Kernels of one account at the same time.
    pub max_kernels: usize,
    /// Bytes that an account's notebooks and files may take; none is no limit.
    pub max_storage: Option<u64>,
    /// How long a kernel that nobody is connected to may be idle before it is stopped; none for ever.
    pub idle: Option<Duration>,
    /// A gateway that stops leaves hosts and kernels to the next one that is started here, where the host can outlive it.
    pub keep_kernels: bool,
    /// Accounts may open terminals: shells as the user who runs the host.
    pub terminals: bool,
    /// Addresses of verifiers whose evidence counts for a badge, but for their own models; the operator's when not given.
    pub verifiers: Option<Vec<String>>,
    /// How often messages of models that others told are looked for on Aleph; none for never.
    pub follow: Option<Duration>,
    /// What it asks of sales.
    pub market: MarketConfig,
    /// Who posts the roots of receipts on Aleph; none posts none.
    pub posting: Option<Posting>,
    /// Hosts beyond this machine; none rents none.
    pub renting: Option<Renting>,
    /// How ALEPH comes in and goes out; the default is not at all.
    pub settlement: SettlementConfig,
}

/// How hosts beyond this machine are had, and how they find this gateway.
pub struct Renting {
    /// Who rents them out.
    pub providers: Vec<Arc<dyn HostProvider>>,
    /// Where their agents dial in, behind TLS.
    pub listener: std::net::TcpListener,
    /// The same as hosts see it, `name:port`; the listener's own address when not given.
    pub address: Option<String>,
    /// How long kernels there go on without the gateway.
    pub outlive: Duration,
}

/// A running gateway.
pub struct Handle {
    /// Where it answers.
    pub url: Url,
    /// A host of an earlier run was taken over, with its kernels.
    pub adopted: bool,
    /// Ends after the token given to [`Gateway::start`] was cancelled, with every kernel ended.
    pub join: JoinHandle<Result<(), GatewayError>>,
}

/// Starts gateways.
pub struct Gateway;

impl Gateway {
    /// Starts a gateway on its Aleph node; it serves when this returns.
    ///
    /// # Errors
    /// [`GatewayError`] when folder, database or a setting cannot be used.
    pub async fn start(config: Config, stop: CancellationToken) -> Result<Handle, GatewayError> {
        let storage = storage::nodes(&config.aleph_url).map_err(|error| GatewayError::Setting {
            setting: "aleph_url",
            reason: error.to_string(),
        })?;
        let address = config
            .listener
            .local_addr()
            .map_err(|source| GatewayError::Server { source })?;
        // The agent dials the listener itself: the public name may lead elsewhere.
        let provider = ThisMachine::new(config.host.clone(), local_url(address), config.data.clone());
        Self::start_with(config, storage, Arc::new(provider), stop).await
    }

    /// The same with another storage and another provider of hosts; tests give ones that fail.
    ///
    /// # Errors
    /// As [`Gateway::start`].
    pub async fn start_with(
        config: Config,
        storage: Arc<dyn Storage>,
        provider: Arc<dyn ResidentHost>,
        stop: CancellationToken,
    ) -> Result<Handle, GatewayError> {
        // On the heap: whoever starts one holds this while it starts.
        Box::pin(Self::begin(config, storage, provider, stop)).await
    }

    async fn begin(
        config: Config,
        storage: Arc<dyn Storage>,
        provider: Arc<dyn ResidentHost>,
        stop: CancellationToken,
    ) -> Result<Handle, GatewayError> {
        let Config {
            listener,
            public_url,
            fronts,
            limits,
            data,
            database,
            standby,
            aleph_url,
            operator,
            admitted,
            oidc,
            host: _,
            kernel_price,
            contents,
            lab,
            max_kernels,
            max_storage,
            idle,
            keep_kernels,
            renting,
            terminals,
            verifiers,
            follow,
            market,
            posting,
            settlement,
        } = config;
        let failed = |source| GatewayError::Server { source };
        let is_open = !listener.local_addr().map_err(failed)?.ip().is_loopback();
        let store = match standby {
            true => lead_in_time(&listener, &data, database.as_ref()).await?,
            false => Store::lead(&data, database.as_ref(), Wait::Briefly).await?,
        };
        listener.set_nonblocking(true).map_err(failed)?;
        let listener = TcpListener::from_std(listener).map_err(failed)?;
        let oidc = oidc.map(|oidc| Oidc::new(oidc, &public_url)).transpose()?;
        let issuer = oidc.as_ref().map(Oidc::issuer);
        let payee = admit(&store, &operator, &admitted, issuer).await?;
        let verifiers = match verifiers {
            Some(verifiers) => addresses("registry.verifiers", &verifiers)?,
            None => vec![payee],
        };
        let index = Arc::<Index>::default();
        let receipts = Arc::new(ReceiptKey::open(&data, payee)?);
        let signer = receipts.address();
        let models = Models::open(store.clone(), Arc::clone(&index), &verifiers, signer).await?;
        let market = Market::open(market, &data, Arc::clone(&receipts))?;
        let secrets = Arc::new(SecretsKey::open(&data)?);
        let settlement = Settlement::open(&data, settlement)?;
        let x402 = X402::open(&data)?;
        let hosts = Arc::new(Hosts::new(provider, store.clone(), keep_kernels));
        let (allocations, door) = rent(renting, &data, &store, &receipts)?;
        let aleph = aleph_url.trim_end_matches('/').to_owned();
        let contents = Contents::new(contents, max_storage);
        let kernels = Arc::new(Kernels::new(
            (store.clone(), contents.clone()),
            (Arc::clone(&hosts), allocations),
            aleph.clone(),
            Terms {
                price: kernel_price,
                receipts: Arc::clone(&receipts),
                max_kernels,
                idle,
            },
        ));
        let terminals = Terminals::new(terminals, (store.clone(), contents.clone()), &hosts, &public_url);
        let first = hosts.open().await?;
        terminals.adopt(&first.lease).await?;
        let adopted = first.is_adopted();
        if adopted {
            kernels.adopt(&first.lease).await?;
        }
        kernels.take_allocations_over().await?;
        kernels.take_holds_over().await?;
        let app = Arc::new(App {
            store,
            kernels,
            terminals,
            hosts,
            keys: Default::default(),
            storage,
            index,
            models: Arc::new(models),
            market,
            contents,
            receipts,
            secrets,
            settlement,
            x402,
            oidc,
            lab: lab.as_deref().map(Lab::open).transpose()?,
            public_url: public_url.clone(),
            fronts: fronts.into(),
            is_open,
            aleph_url: aleph,
            started: time::now(),
            failures: Limiter::new(limits.failures),
            texts: Limiter::new(limits.texts),
            opened: Default::default(),
            pace: Default::default(),
            public: library::none_open(),
            refusals: Default::default(),
            stop: stop.clone(),
        });
        let leave = if keep_kernels {
            Leave::Kernels
        } else {
            Leave::Nothing
        };
        let join = tokio::spawn(serve(
            app,
            (listener, door),
            first,
            (stop, leave),
            (follow, posting),
        ));
        Ok(Handle {
            url: public_url,
            adopted,
            join,
        })
    }
}

/// Waits until no other gateway has the database, and says so at the listener meanwhile: nobody is to wait for an answer.
async fn lead_in_time(
    listener: &std::net::TcpListener,
    data: &Path,
    database: Option<&DatabaseUrl>,
) -> Result<Store> {
    let failed = |source| GatewayError::Server { source };
    let over = CancellationToken::new();
    let _over = over.clone().drop_guard();
    let answers = standby::stand_by(listener.try_clone().map_err(failed)?, over.clone());
    let answers = tokio::spawn(answers);
    let store = Store::lead(data, database, Wait::UntilItEnds).await?;
    over.cancel();
    // Requests that it answers have their moment to end.
    let _ = tokio::time::timeout(FAREWELL, answers).await;
    Ok(store)
}

/// Writes down who may sign in; gives the operator's address.
async fn admit(
    store: &Store,
    operator: &Operator,
    admitted: &[String],
    issuer: Option<&str>,
) -> Result<Address> {
    let wrong = |setting, reason: String| GatewayError::Setting { setting, reason };
    let address: Address = operator
        .address
        .parse()
        .map_err(|_| wrong("operator.address", "it is no address".to_owned()))?;
    if operator.token.expose().len() < 16 {
        return Err(wrong(
            "operator.token",
            "it has fewer than 16 characters".to_owned(),
        ));
    }
    let admitted = addresses("accounts", admitted)?;
    let admitted: Vec<_> = admitted.iter().map(Address::to_string).collect();
    let token = sha256(operator.token.expose().as_bytes());
    store
        .configure(&address.to_string(), &token, &admitted, issuer)
        .await?;
    Ok(address)
}

/// The addresses of a setting.
fn addresses(setting: &'static str, texts: &[String]) -> Result<Vec<Address>> {
    let read = |text: &String| {
        text.trim().parse().map_err(|_| GatewayError::Setting {
            setting,
            reason: format!("`{text}` is no address"),
        })
    };
    texts.iter().map(read).collect()
}

/// What a gateway that stops leaves to the next one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leave {
    Nothing,
    Kernels,
}

/// Opens the door for hosts, where any are rented.
fn rent(
    renting: Option<Renting>,
    data: &Path,
    store: &Store,
    receipts: &Arc<ReceiptKey>,
) -> Result<(Allocations, Option<Gate>)> {
    let failed = |source| GatewayError::Server { source };
    let mut door = Door {
        gateway: String::new(),
        certificate: None,
        outlive: Duration::ZERO,
    };
    let secrets = LeaseSecrets::open(data)?;
    let Some(renting) = renting else {
        let none = Allocations::new(store.clone(), Vec::new(), Arc::clone(receipts), secrets, door);
        return Ok((none, None));
    };
    let local = renting.listener.local_addr().map_err(failed)?;
    renting.listener.set_nonblocking(true).map_err(failed)?;
    let listener = TcpListener::from_std(renting.listener).map_err(failed)?;
    let address = renting.address.unwrap_or_else(|| local.to_string());
    let url = Url::parse(&format!("https://{address}")).ok();
    let name = url
        .as_ref()
        .and_then(Url::host_str)
        .ok_or_else(|| GatewayError::Setting {
            setting: "hosts.address",
            reason: format!("`{address}` is no `name:port`"),
        })?;
    let certificate = Certificate::open(data, name.trim_matches(['[', ']']))?;
    door.gateway = format!("https://{address}");
    door.certificate = Some(certificate.pem.clone());
    door.outlive = renting.outlive;
    let gate = Gate::behind(certificate.listen(listener)?, local);
    let allocations = Allocations::new(
        store.clone(),
        renting.providers,
        Arc::clone(receipts),
        secrets,
        door,
    );
    Ok((allocations, Some(gate)))
}

async fn serve(
    app: Arc<App>,
    (listener, door): (TcpListener, Option<Gate>),
    first: host::Opened,
    (stop, leave): (CancellationToken, Leave),
    (follow, posting): (Option<Duration>, Option<Posting>),
) -> Result<()> {
    let gate = Gate::new(listener).map_err(|source| GatewayError::Server { source })?;
    let router = routes::router(&app).into_make_service_with_connect_info::<Peer>();
    let server = axum::serve(gate, router).with_graceful_shutdown(stop.clone().cancelled_owned());
    if let Some(door) = door {
        let router = routes::for_hosts(&app).into_make_service_with_connect_info::<Peer>();
        let server = axum::serve(door, router).with_graceful_shutdown(stop.clone().cancelled_owned());
        tokio::spawn(async move { server.await });
    }
    let mut server = tokio::spawn(async move { server.await });
    let events: Arc<dyn LeaseEvents> = Arc::clone(&app) as _;
    let hosts = Arc::clone(&app.hosts);
    let stopping = stop.clone();
    let hosting = tokio::spawn(async move { hosts.run(first, events, stopping).await });
    let ended = tokio::select! {
        ended = &mut server => Some(ended),
        () = stop.cancelled() => None,
        () = app.store.lost_lead() => None,
        () = app.store.keep_lead() => None,
        () = app.store.keep_audited() => None,
        () = app.kernels.tidy() => None,
        () = library::tidy(&app) => None,
        () = models::follow(&app, follow) => None,
        () = market::settle(&app) => None,
        () = receipts::keep_posting(&app, posting) => None,
        () = settlement::run(&app.store, &app.settlement) => None,
        () = x402::run(&app) => None,
        () = app.terminals.tidy(&app.kernels) => None,
    };
    let overtaken = app.store.has_lost_lead();
    if overtaken {
        // Nothing of this run can be written any more, and nothing waits for it.
        tracing::error!("another gateway has this database now; this one ends");
        app.store.close().await;
    } else if leave == Leave::Nothing {
        app.kernels.give_all_back(GIVEN_BACK).await;
    }
    stop.cancel();
    app.kernels.close_all();
    let _ = hosting.await;
    let ended = match ended {
        Some(ended) => ended,
        None => match tokio::time::timeout(FAREWELL, &mut server).await {
            Ok(ended) => ended,
            Err(_) => {
                server.abort();
                Ok(Ok(()))
            }
        },
    };
    app.store.close().await;
    if overtaken {
        return Err(GatewayError::Server {
            source: std::io::Error::other("another gateway has its database now"),
        });
    }
    match ended {
        Ok(served) => served.map_err(|source| GatewayError::Server { source }),
        Err(error) => Err(GatewayError::Server {
            source: std::io::Error::other(error),
        }),
    }
}
