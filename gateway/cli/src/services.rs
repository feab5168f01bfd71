//! Everything that runs while Alephlab is up: local Aleph node, gateway with this machine as host, keys.
//!
//! They live in this process; kernels, brokers and the agent are programs that the gateway's host starts. Used by
//! `up`, `quickstart` and a `run` without a gateway of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use alephlab_api::Secret;
use alephlab_api::client::GatewayClient;
use alephlab_gateway::{Gateway, HostConfig, Operator};
use alephlab_localnet::Localnet;
use alephlab_vault::storage::{AlephStorage, Storage};
use alephlab_vault::{reader_key_of, register_reader_key};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::account::Account;
use crate::build::prepare::Prepared;
use crate::data::{DataFolder, FolderLock};
use crate::error::{CliError, Result};
use crate::keys;
use crate::run_file::{self, Announced, RunFile};
use crate::settings::Loaded;

/// Kernels get their own time to end inside the gateway; this is for all of it.
const GATEWAY_STOP: Duration = Duration::from_secs(20);
/// The node only has to finish what it writes.
const NODE_STOP: Duration = Duration::from_secs(10);
/// The host's agent connects within moments; a broken one must not be waited for without end.
const HOST_DEADLINE: Duration = Duration::from_secs(30);
/// How often the gateway is asked whether its host is there.
const HOST_CHECK: Duration = Duration::from_millis(50);

/// What runs, and how to reach it.
pub(crate) struct Services {
    /// Where the gateway listens.
    pub gateway_url: String,
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
    _announced: Announced,
    _lock: FolderLock,
}

pub(crate) struct Running {
    name: &'static str,
    stop: CancellationToken,
    join: JoinHandle<std::result::Result<(), String>>,
}

/// A data folder and ports that are this process's own: taken before anything long, so that a clash is told at once.
pub(crate) struct Claim {
    lock: FolderLock,
    gateway: TcpListener,
    node: Option<TcpListener>,
}

/// Takes the data folder and the ports.
pub(crate) async fn claim(loaded: &Loaded, data: &DataFolder) -> Result<Claim> {
    let lock = data.lock()?;
    let settings = &loaded.settings;
    let gateway = listen(settings.gateway.port, loaded.is_chosen("gateway.port")).await?;
    let node = match settings.aleph.remote() {
        Some(_) => None,
        None => Some(listen(settings.aleph.port, loaded.is_chosen("aleph.port")).await?),
    };
    Ok(Claim { lock, gateway, node })
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
            let (url, node) = start_node(listener, data).await?;
            (url, Some(node))
        }
        None => (plain(&settings.aleph.url), None),
    };
    let token = Secret::new(settings.gateway.token.clone().unwrap_or_else(new_token));
    let operator = Operator {
        address: account.address(),
        token: token.clone(),
    };
    let (gateway_url, server) = start_gateway(claim.gateway, data, &aleph_url, operator, prepared).await?;
    let gateway = GatewayClient::new(&gateway_url, Some(token.clone()))?;
    wait_for_host(&gateway).await?;
    let storage: Arc<dyn Storage> = Arc::new(storage(&aleph_url)?);
    let unregistered = |error| CliError::vault("the reader key was not registered", &error);
    // A kernel seals what it publishes for the key that the wallet registered, and for no other.
    let registered = reader_key_of(&*storage, &account.address())
        .await
        .map_err(unregistered)?;
    if registered != Some(account.reader().public()) {
        register_reader_key(&*storage, account.wallet(), account.reader())
            .await
            .map_err(unregistered)?;
    }
    let keys = start_keys(data, &gateway, &token, &account, &storage)?;
    let run = RunFile {
        pid: std::process::id(),
        gateway_url: gateway_url.clone(),
        aleph_url: aleph_url.clone(),
        token: token.expose().to_owned(),
        account: account.name().to_owned(),
        runtime_dir: prepared.runtime_dir.clone(),
        started: chrono::Utc::now().timestamp(),
    };
    let announced = run_file::announce(data, &run)?;
    Ok(Services {
        gateway_url,
        aleph_url,
        token,
        gateway,
        storage,
        account,
        node,
        server,
        keys,
        _announced: announced,
        _lock: claim.lock,
    })
}

impl Services {
    /// The gateway's address with the operator's token, as a browser takes it.
    pub(crate) fn address_with_token(&self) -> String {
        format!("{}/?token={}", self.gateway_url, self.token.expose())
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
    pub(crate) async fn stop(self) {
        self.keys.stop(NODE_STOP).await;
        self.server.stop(GATEWAY_STOP).await;
        if let Some(node) = self.node {
            node.stop(NODE_STOP).await;
        }
    }
}

impl Running {
    async fn ended(&mut self) -> CliError {
        let reason = match (&mut self.join).await {
            Ok(Ok(())) => "it ended by itself".to_owned(),
            Ok(Err(reason)) => reason,
            Err(error) => error.to_string(),
        };
        CliError::Program {
            program: self.name,
            reason,
        }
    }

    /// Ends it, in good order within `limit`.
    pub(crate) async fn stop(self, limit: Duration) {
        self.stop.cancel();
        let mut join = self.join;
        if tokio::time::timeout(limit, &mut join).await.is_err() {
            tracing::warn!(name = self.name, "did not end in time and is cut off");
            join.abort();
        }
    }
}

/// The Aleph node at `url` as storage.
pub(crate) fn storage(node: &str) -> Result<AlephStorage> {
    AlephStorage::new(url(node)?).map_err(|error| CliError::vault("the Aleph node cannot be used", &error))
}

fn url(text: &str) -> Result<url::Url> {
    url::Url::parse(text).map_err(|error| CliError::Unreachable {
        url: text.to_owned(),
        reason: error.to_string(),
    })
}

/// 256 random bits, as hex.
fn new_token() -> String {
    hex::encode(rand::random::<[u8; 32]>())
}

/// Takes a port on loopback. One that nobody asked for may be replaced by a free one.
async fn listen(port: u16, chosen: bool) -> Result<TcpListener> {
    let bind = |port| TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    match bind(port).await {
        Ok(listener) => Ok(listener),
        Err(source) if chosen => Err(CliError::Port { port, source }),
        Err(_) => bind(0).await.map_err(|source| CliError::Port { port: 0, source }),
    }
}

async fn start_node(listener: TcpListener, data: &DataFolder) -> Result<(String, Running)> {
    data.make(&data.aleph())?;
    let stop = CancellationToken::new();
    let config = alephlab_localnet::Config::new(listener, data.aleph());
    let handle = Localnet::start(config, stop.clone()).await.map_err(|error| {
        CliError::start(
            "the local Aleph node did not start",
            error.code(),
            error.to_string(),
            error.hint(),
        )
    })?;
    let join = tokio::spawn(async move { flatten(handle.join.await) });
    Ok((
        plain(handle.url.as_str()),
        Running {
            name: "the local Aleph node",
            stop,
            join,
        },
    ))
}

async fn start_gateway(
    listener: TcpListener,
    data: &DataFolder,
    aleph_url: &str,
    operator: Operator,
    prepared: &Prepared,
) -> Result<(String, Running)> {
    data.make(&data.gateway())?;
    data.make(&data.work())?;
    let programs = &prepared.programs;
    let unusable = |source| CliError::Port { port: 0, source };
    let address = listener.local_addr().map_err(unusable)?;
    let config = alephlab_gateway::Config {
        listener: listener.into_std().map_err(unusable)?,
        public_url: url(&format!("http://{address}"))?,
        data: data.gateway(),
        aleph_url: url(aleph_url)?,
        operator,
        host: HostConfig {
            agent_program: programs.agent.clone(),
            kernel_program: programs.kernel.clone(),
            broker_program: Some(programs.broker.clone()),
            runtime_dir: prepared.runtime_dir.clone(),
            work_dir: data.work(),
            kernel_argv: None,
        },
    };
    let stop = CancellationToken::new();
    let handle = Gateway::start(config, stop.clone()).await.map_err(|error| {
        CliError::start(
            "the gateway did not start",
            error.code(),
            error.to_string(),
            error.hint(),
        )
    })?;
    let join = tokio::spawn(async move { flatten(handle.join.await) });
    Ok((
        plain(handle.url.as_str()),
        Running {
            name: "the gateway",
            stop,
            join,
        },
    ))
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

async fn wait_for_host(gateway: &GatewayClient) -> Result<()> {
    let waited = tokio::time::timeout(HOST_DEADLINE, async {
        let mut tick = tokio::time::interval(HOST_CHECK);
        loop {
            tick.tick().await;
            if gateway
                .health()
                .await
                .is_ok_and(|health| health.agent == "connected")
            {
                return;
            }
        }
    });
    waited.await.map_err(|_| CliError::Program {
        program: "alephlab-agent",
        reason: format!(
            "it did not connect to the gateway within {} s",
            HOST_DEADLINE.as_secs()
        ),
    })
}

fn plain(url: &str) -> String {
    url.trim_end_matches('/').to_owned()
}

fn flatten<E: std::fmt::Display>(
    joined: std::result::Result<std::result::Result<(), E>, tokio::task::JoinError>,
) -> std::result::Result<(), String> {
    match joined {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_chosen_port_must_be_free() {
        let taken = listen(0, false).await.unwrap();
        let port = taken.local_addr().unwrap().port();
        assert!(matches!(listen(port, true).await, Err(CliError::Port { port: named, .. }) if named == port));
        assert_ne!(
            listen(port, false).await.unwrap().local_addr().unwrap().port(),
            port
        );
    }
}
