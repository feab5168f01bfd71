//! Everything that runs while Alephlab is up: local Aleph node, gateway with this machine as host, keys.
//!
//! They live in this process; kernels, brokers and the agent are programs that the gateway's host starts. Used by
//! `up`, `quickstart` and a `run` without a gateway of its own.

mod parts;
mod standby;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use alephlab_api::Secret;
use alephlab_api::client::GatewayClient;
use alephlab_gateway::{Operator, local_url};
use alephlab_vault::register_reader_key;
use alephlab_vault::storage::{self, Storage};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::account::Account;
use crate::build::cache::InUse;
use crate::build::prepare::Prepared;
use crate::data::{DataFolder, FolderLock};
use crate::error::{CliError, Result};
use crate::keys;
use crate::renting;
use crate::run_file::{self, Announced, RunFile};
use crate::settings::Loaded;
pub(crate) use parts::Running;
use parts::{admitted, gateway_config, listen, plain, start_gateway, start_node, wait_for_host};

/// Kernels get their own time to end inside the gateway; this is for all of it.
const GATEWAY_STOP: Duration = Duration::from_secs(20);
/// The node only has to finish what it writes.
const NODE_STOP: Duration = Duration::from_secs(10);

/// What runs, and how to reach it.
pub(crate) struct Services {
    /// Where the gateway listens, as this machine reaches it.
    pub gateway_url: String,
    /// Its address for browsers and clients.
    pub public_url: String,
    /// The Aleph node in use.
    pub aleph_url: String,
    /// The operator's token.
    pub token: Secret,
    /// A client of the gateway with the operator's token.
    pub gateway: GatewayClient,
    /// The Aleph node as storage.
    pub storage: Arc<dyn Storage>,
    /// The operator's account.
    pub account: Arc<Account>,
    node: Option<Running>,
    server: Running,
    keys: Running,
    _runtime: Option<Arc<InUse>>,
    keeps_kernels: bool,
    /// Another one may wait for this one's end, and is to have its token.
    is_followed: bool,
    announced: Announced,
    _lock: FolderLock,
}

/// A data folder and ports that are this process's own: taken before anything long, so that a clash is told at once.
pub(crate) struct Claim {
    lock: FolderLock,
    gateway: TcpListener,
    node: Option<TcpListener>,
    /// What the last run left behind: its kernels may go on.
    last: Option<RunFile>,
    /// It waits while another one has what is to be taken.
    standby: bool,
}

/// Takes the data folder and the ports; where it is to stand by, waits until the folder is nobody else's.
pub(crate) async fn claim(loaded: &Loaded, data: &DataFolder, standby: bool) -> Result<Claim> {
    let settings = &loaded.settings;
    let lock = match standby {
        true => standby::wait(data).await?,
        false => data.lock()?,
    };
    let last = run_file::left_behind(data)?;
    // Where nobody chose another port, as it was: clients, pages and kernels that go on look there.
    let take = async |key, (address, set), before: Option<&String>| {
        let chosen = loaded.is_chosen(key) && set != 0;
        let before = before.filter(|_| !chosen).and_then(|url| port_of(url));
        listen(address, before.unwrap_or(set), chosen).await
    };
    let before = last.as_ref();
    let gateway = take(
        "gateway.port",
        (settings.gateway.listen, settings.gateway.port),
        before.map(|run| &run.gateway_url),
    )
    .await?;
    let node = match settings.aleph.remote() {
        Some(_) => None,
        None => Some(
            take(
                "aleph.port",
                (Ipv4Addr::LOCALHOST.into(), settings.aleph.port),
                before.map(|run| &run.aleph_url),
            )
            .await?,
        ),
    };
    Ok(Claim {
        lock,
        gateway,
        node,
        last,
        standby,
    })
}

/// Starts node, gateway, host and keys.
pub(crate) async fn start(
    loaded: &Loaded,
    data: &DataFolder,
    claim: Claim,
    prepared: &Prepared,
) -> Result<Services> {
    let settings = &loaded.settings;
    let account = Arc::new(Account::open_or_create(data, &settings.account.name)?);
    let (aleph_url, node) = match claim.node {
        Some(listener) => {
            let (url, node) = start_node(listener, data, renting::compute(settings, prepared)?).await?;
            (url, Some(node))
        }
        None => (plain(&settings.aleph.url), None),
    };
    let before = claim.last.map(|run| run.token);
    let token = settings.gateway.token.clone().or(before);
    let token = Secret::new(token.unwrap_or_else(new_token));
    let operator = Operator {
        address: account.address(),
        token: token.clone(),
    };
    let admitted = admitted(&settings.gateway.accounts, data, &operator.address);
    let storage = storage(&aleph_url)?;
    let unusable = |source| CliError::Port { port: 0, source };
    let gateway_url = local_url(claim.gateway.local_addr().map_err(unusable)?);
    let mut config = gateway_config(
        claim.gateway,
        data,
        &aleph_url,
        operator,
        admitted,
        prepared,
        settings,
    )?;
    config.standby = claim.standby;
    config.settlement.credits = renting::credits(settings, data, &aleph_url)?;
    config.renting = renting::renting(settings, data, &aleph_url, &*storage).await?;
    let (public_url, server, adopted) = start_gateway(config).await?;
    let gateway = GatewayClient::new(&gateway_url, Some(token.clone()))?;
    wait_for_host(&gateway, &data.agent_log()).await?;
    let unregistered = |error| CliError::vault("the reader key was not registered", &error);
    // A kernel seals what it publishes for the key that the wallet registered, and for no other.
    register_reader_key(&*storage, account.wallet(), account.reader())
        .await
        .map_err(unregistered)?;
    let keys = start_keys(data, &gateway, &token, &account, &storage)?;
    let run = RunFile {
        pid: std::process::id(),
        gateway_url: gateway_url.clone(),
        aleph_url: aleph_url.clone(),
        token: token.expose().to_owned(),
        account: account.name().to_owned(),
        runtime_dir: prepared.runtime_dir.clone(),
        started: chrono::Utc::now().timestamp(),
        boot: run_file::this_boot(),
    };
    let announced = run_file::announce(data, &run)?;
    Ok(Services {
        gateway_url,
        public_url,
        aleph_url,
        token,
        gateway,
        storage,
        account,
        node,
        server,
        keys,
        _runtime: prepared.in_use.clone(),
        // Those of an `up` that was killed are not this one's to end.
        keeps_kernels: settings.gateway.keeps_kernels() || (adopted && settings.gateway.outlive().is_none()),
        is_followed: claim.standby,
        announced,
        _lock: claim.lock,
    })
}

impl Services {
    /// The gateway's address with the operator's token, as a browser takes it.
    pub(crate) fn address_with_token(&self) -> String {
        format!("{}/?token={}", self.public_url, self.token.expose())
    }

    /// Whether a stop leaves kernels to the next run.
    pub(crate) fn keeps_kernels(&self) -> bool {
        self.keeps_kernels
    }

    /// The operator's keys, for work of its owner on this machine.
    pub(crate) fn engine(&self) -> keys::Engine {
        keys::Engine::new(self.account.clone(), self.storage.clone(), self.gateway.clone())
    }

    /// Waits until something ends by itself, which is always an error.
    pub(crate) async fn watch(&mut self) -> CliError {
        let node = async {
            match &mut self.node {
                Some(node) => node.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            error = node => error,
            error = self.server.ended() => error,
            error = self.keys.ended() => error,
        }
    }

    /// Ends everything in order: keys, kernels and host with the gateway, then the node.
    pub(crate) async fn stop(mut self) {
        if self.keeps_kernels || self.is_followed {
            self.announced.leave_behind();
        }
        self.keys.stop(NODE_STOP).await;
        self.server.stop(GATEWAY_STOP).await;
        if let Some(node) = self.node {
            node.stop(NODE_STOP).await;
        }
    }
}

/// The Aleph node at `url` as storage.
pub(crate) fn storage(nodes: &str) -> Result<Arc<dyn Storage>> {
    storage::nodes(nodes).map_err(|error| CliError::vault("the Aleph node cannot be used", &error))
}

/// The Aleph node of the settings, or else the one that a running `alephlab up` of this data folder uses.
pub(crate) fn node_in_use(loaded: &Loaded, data: &DataFolder) -> Result<Arc<dyn Storage>> {
    let url = match loaded.settings.aleph.remote() {
        Some(url) => url.to_owned(),
        None => run_file::find(data)?
            .map(|run| run.aleph_url)
            .ok_or_else(|| CliError::Usage {
                message: format!(
                    "no Aleph node is known: no `alephlab up` runs on {}",
                    data.root().display()
                ),
                hint: "start `alephlab up`, or set aleph.url to the address of a node".to_owned(),
            })?,
    };
    storage(&url)
}

/// The port of an address that we printed.
fn port_of(url: &str) -> Option<u16> {
    url.rsplit_once(':')?.1.parse().ok()
}

/// 256 random bits, as hex.
fn new_token() -> String {
    hex::encode(rand::random::<[u8; 32]>())
}

/// Answers for the keys of one account at this machine's own gateway, by its rules.
pub(crate) fn start_keys(
    data: &DataFolder,
    gateway: &GatewayClient,
    token: &Secret,
    account: &Arc<Account>,
    storage: &Arc<dyn Storage>,
) -> Result<Running> {
    let engine = keys::Engine::new(account.clone(), storage.clone(), gateway.clone());
    let rules = keys::Rules::load_or_own(&data.rules_file())?;
    let stop = CancellationToken::new();
    let service = keys::Service::new(
        gateway.clone(),
        token.clone(),
        engine,
        keys::Consent::OwnGateway(rules),
    );
    let join = tokio::spawn(service.run(stop.clone()));
    Ok(Running {
        name: "keys",
        stop,
        join,
    })
}
