//! The single parts of what runs: ports, the node, the gateway, and waiting for its host. Their order is `services`'.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use alephlab_api::client::GatewayClient;
use alephlab_gateway::{Gateway, HostConfig, Operator, PeerLimits, SettlementConfig, local_url};
use alephlab_localnet::{ComputeConfig, Localnet};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::account;
use crate::build::prepare::Prepared;
use crate::data::DataFolder;
use crate::error::{CliError, Result};
use crate::lab;
use crate::settings::Settings;

/// The host's agent connects within moments; a broken one must not be waited for without end.
const HOST_DEADLINE: Duration = Duration::from_secs(30);
/// How often the gateway is asked whether its host is there.
const HOST_CHECK: Duration = Duration::from_millis(50);

/// Credits of every account on a local network that has hosts.
const RENTING_CREDITS: u64 = 1_000_000_000;

/// A part that runs in a task of its own.
pub(crate) struct Running {
    pub(super) name: &'static str,
    pub(super) stop: CancellationToken,
    pub(super) join: JoinHandle<std::result::Result<(), String>>,
}

impl Running {
    /// Waits until it ends, which it should not do by itself.
    pub(super) async fn ended(&mut self) -> CliError {
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
    pub(crate) async fn stop(mut self, limit: Duration) {
        self.stop.cancel();
        // What has ended by itself was waited for, and can be only once.
        if self.join.is_finished() {
            return;
        }
        if tokio::time::timeout(limit, &mut self.join).await.is_err() {
            tracing::warn!(name = self.name, "did not end in time and is cut off");
            self.join.abort();
        }
    }
}

impl Drop for Running {
    /// A start that fails or is stopped half-way must not leave the parts that had started.
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Takes a port. One that nobody asked for may be replaced by a free one.
pub(super) async fn listen(address: IpAddr, port: u16, chosen: bool) -> Result<TcpListener> {
    let bind = |port| TcpListener::bind(SocketAddr::from((address, port)));
    match bind(port).await {
        Ok(listener) => Ok(listener),
        Err(source) if chosen => Err(CliError::Port { port, source }),
        Err(_) => bind(0).await.map_err(|source| CliError::Port { port: 0, source }),
    }
}

pub(super) async fn start_node(
    listener: TcpListener,
    data: &DataFolder,
    compute: Option<ComputeConfig>,
) -> Result<(String, Running)> {
    data.make(&data.aleph())?;
    let stop = CancellationToken::new();
    let mut config = alephlab_localnet::Config::new(listener, data.aleph());
    if compute.is_some() {
        // A day of the dearest card has to be there before it is rented.
        config.credits = RENTING_CREDITS;
    }
    config.compute = compute;
    let handle = Localnet::start(config, stop.clone()).await.map_err(|error| {
        CliError::start(
            "the local Aleph node did not start",
            error.code(),
            error.to_string(),
            error.hint(),
        )
    })?;
    Ok(running(
        "the local Aleph node",
        handle.url.as_str(),
        stop,
        handle.join,
    ))
}

/// Who may sign in beside the operator: whom the settings name, and the accounts whose keys lie in this data folder.
/// An account that was made here, as quickstart's second one, needs no setting at the next start.
pub(super) fn admitted(named: &[String], data: &DataFolder, operator: &str) -> Vec<String> {
    let mut addresses = named.to_vec();
    let names = account::names(data).unwrap_or_else(|error| {
        tracing::warn!(%error, "the accounts of this data folder are not known");
        Vec::new()
    });
    for name in names {
        match account::address(data, &name) {
            Ok(address) => addresses.push(address),
            // The gateway works without it; whoever uses the account is told the same.
            Err(error) => tracing::warn!(name, %error, "an account may not sign in"),
        }
    }
    let mut seen = std::collections::BTreeSet::from([operator.to_ascii_lowercase()]);
    addresses.retain(|address| seen.insert(address.to_ascii_lowercase()));
    addresses
}

pub(super) fn gateway_config(
    listener: TcpListener,
    data: &DataFolder,
    aleph_url: &str,
    operator: Operator,
    admitted: Vec<String>,
    prepared: &Prepared,
    settings: &Settings,
) -> Result<alephlab_gateway::Config> {
    for folder in [data.gateway(), data.work(), data.logs()] {
        data.make(&folder)?;
    }
    let programs = &prepared.programs;
    let unusable = |source| CliError::Port { port: 0, source };
    let address = listener.local_addr().map_err(unusable)?;
    Ok(alephlab_gateway::Config {
        listener: listener.into_std().map_err(unusable)?,
        public_url: match &settings.gateway.public_url {
            Some(public) => public.clone(),
            None => url(&local_url(address))?,
        },
        fronts: settings.gateway.fronts.clone(),
        limits: PeerLimits {
            failures: settings.gateway.max_failures,
            texts: settings.gateway.max_texts,
        },
        standby: false,
        data: data.gateway(),
        database: settings.gateway.database.clone(),
        aleph_url: aleph_url.to_owned(),
        operator,
        admitted,
        oidc: settings.oidc.config()?,
        host: HostConfig {
            agent_program: programs.agent.clone(),
            kernel_program: programs.kernel.clone(),
            broker_program: Some(programs.broker.clone()),
            runtime_dir: prepared.runtime_dir.clone(),
            engine: prepared.engine,
            work_dir: data.work(),
            cache: settings.aleph.cache(data),
            log: Some(data.agent_log()),
            kernel_argv: None,
            confinement: settings.isolation.confinement(data.root()),
            outlive: settings.gateway.outlive(),
        },
        kernel_price: settings.gateway.price(),
        contents: data.work(),
        lab: lab::in_use(settings),
        max_kernels: settings.gateway.max_kernels,
        max_storage: settings.gateway.storage(),
        idle: settings.gateway.idle(),
        keep_kernels: settings.gateway.keeps_kernels(),
        renting: None,
        terminals: settings.gateway.terminals,
        verifiers: settings.registry.verifiers(),
        follow: settings.registry.follow(),
        market: settings.market.config(),
        settlement: SettlementConfig {
            chain: settings.settlement.chain()?,
            rate: settings.settlement.rate(data.root())?,
            credits: None,
        },
    })
}

/// The gateway, its public address, and whether it has taken over a host of an earlier run.
pub(super) async fn start_gateway(config: alephlab_gateway::Config) -> Result<(String, Running, bool)> {
    let stop = CancellationToken::new();
    let handle = Gateway::start(config, stop.clone()).await.map_err(|error| {
        CliError::start(
            "the gateway did not start",
            error.code(),
            error.to_string(),
            error.hint(),
        )
    })?;
    let adopted = handle.adopted;
    let (url, running) = running("the gateway", handle.url.as_str(), stop, handle.join);
    Ok((url, running, adopted))
}

/// A part that serves at an address: the address, and what ends it.
fn running<E: std::fmt::Display + Send + 'static>(
    name: &'static str,
    url: &str,
    stop: CancellationToken,
    join: JoinHandle<std::result::Result<(), E>>,
) -> (String, Running) {
    let join = tokio::spawn(async move { flatten(join.await) });
    (plain(url), Running { name, stop, join })
}

pub(super) async fn wait_for_host(gateway: &GatewayClient, log: &Path) -> Result<()> {
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
        reason: silence(log),
    })
}

/// Why the host is not there, as far as it is known here; the agent's own words are in its log.
fn silence(log: &Path) -> String {
    let reason = format!(
        "it did not connect to the gateway within {} s",
        HOST_DEADLINE.as_secs()
    );
    if log.is_file() {
        format!("{reason}; see {}", log.display())
    } else {
        reason
    }
}

pub(super) fn url(text: &str) -> Result<url::Url> {
    url::Url::parse(text).map_err(|error| CliError::Unreachable {
        url: text.to_owned(),
        reason: error.to_string(),
    })
}

pub(super) fn plain(url: &str) -> String {
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
    use std::net::Ipv4Addr;

    use super::*;
    use crate::account::Account;
    use crate::testing::scratch;

    #[test]
    fn the_accounts_of_the_data_folder_and_of_the_settings_may_sign_in() {
        let folder = scratch();
        let data = DataFolder::open(folder.path()).unwrap();
        let [owner, reader] =
            ["owner", "reader"].map(|name| Account::create(&data, name, None).unwrap().address());
        let friend = format!("0x{}", "ab".repeat(20));
        let named = [
            friend.clone(),
            reader.to_ascii_lowercase(),
            owner.to_ascii_lowercase(),
        ];
        assert_eq!(
            admitted(&named, &data, &owner),
            [friend, reader.to_ascii_lowercase()]
        );
        assert_eq!(admitted(&[], &data, &owner), [reader]);
        std::fs::write(data.accounts().join("reader/wallet.key"), "damaged").unwrap();
        assert!(admitted(&[], &data, &owner).is_empty());
    }

    #[test]
    fn a_host_that_is_silent_points_to_its_log_when_there_is_one() {
        let folder = scratch();
        let log = folder.path().join("agent.log");
        assert!(!silence(&log).contains("agent.log"));
        std::fs::write(&log, "").unwrap();
        assert!(silence(&log).contains(&log.display().to_string()));
    }

    #[tokio::test]
    async fn a_part_that_is_dropped_is_told_to_stop() {
        let stop = CancellationToken::new();
        let running = Running {
            name: "a part",
            stop: stop.clone(),
            join: tokio::spawn(async { Ok(()) }),
        };
        drop(running);
        assert!(stop.is_cancelled());
    }

    #[tokio::test]
    async fn only_a_chosen_port_must_be_free() {
        let listen = async |port, chosen| listen(Ipv4Addr::LOCALHOST.into(), port, chosen).await;
        let taken = listen(0, false).await.unwrap();
        let port = taken.local_addr().unwrap().port();
        assert!(matches!(listen(port, true).await, Err(CliError::Port { port: named, .. }) if named == port));
        assert_ne!(
            listen(port, false).await.unwrap().local_addr().unwrap().port(),
            port
        );
    }
}
