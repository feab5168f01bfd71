//! This machine as a host: the agent as a child process of the gateway.
//!
//! The agent gets lease and token in a 0600 file that it deletes. It ends when its standard input does, so that it cannot
//! outlive the gateway; or it is to outlive it for a while ([`HostConfig::outlive`]), and then a lock on a file tells the next
//! gateway that it is still there. It has its own process group: Ctrl-C in a terminal reaches the gateway, which stops it in
//! order.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use alephlab_api::Secret;
use alephlab_api::agent::{AgentBootstrap, Engine, ObjectCache};
use alephlab_api::isolation::Confinement;
use futures_util::future::{BoxFuture, FutureExt as _};
use tokio::process::Command;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::ResidentHost;
use super::process::{Agent, ended};
use crate::error::{GatewayError, Result};

/// Programs and folders of this machine.
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// The `alephlab-agent` program.
    pub agent_program: PathBuf,
    /// The `alephlab-kernel` program.
    pub kernel_program: PathBuf,
    /// The `alephlab-broker` program; none starts kernels without one.
    pub broker_program: Option<PathBuf>,
    /// The prebuilt runtime.
    pub runtime_dir: PathBuf,
    /// What compiles cells where the kernelspec leaves it open.
    pub engine: Engine,
    /// Where kernels work.
    pub work_dir: PathBuf,
    /// Where brokers keep objects of remote Aleph nodes; none keeps none.
    pub cache: Option<ObjectCache>,
    /// Where agent and brokers log; none leaves them this process's standard error.
    pub log: Option<PathBuf>,
    /// Another kernel's command instead, `{connection_file}` replaced; for tests.
    pub kernel_argv: Option<Vec<String>>,
    /// How kernels are kept apart.
    pub confinement: Confinement,
    /// How long agent and kernels go on when the gateway was killed; none ends them with it.
    pub outlive: Option<Duration>,
}

/// Starts the agent here.
pub struct ThisMachine {
    config: HostConfig,
    gateway: String,
    data: PathBuf,
    agents: Mutex<HashMap<Uuid, Agent>>,
}

impl ThisMachine {
    /// For the gateway at `gateway`, keeping the bootstrap file in `data` until the agent has read it.
    pub fn new(config: HostConfig, gateway: String, data: PathBuf) -> Self {
        Self {
            config,
            gateway,
            data,
            agents: Mutex::default(),
        }
    }

    fn bootstrap_path(&self, lease: Uuid) -> PathBuf {
        self.data.join(format!("agent-{}.json", lease.simple()))
    }

    fn lock_path(&self, lease: Uuid) -> PathBuf {
        self.data.join(format!("agent-{}.lock", lease.simple()))
    }

    fn remove_files(&self, lease: Uuid) {
        for path in [self.bootstrap_path(lease), self.lock_path(lease)] {
            let _ = std::fs::remove_file(path);
        }
    }

    fn bootstrap(&self, lease: Uuid, token: &Secret) -> Result<PathBuf> {
        let HostConfig {
            agent_program: _,
            kernel_program,
            broker_program,
            runtime_dir,
            engine,
            work_dir,
            cache,
            log: _,
            kernel_argv,
            confinement,
            outlive,
        } = self.config.clone();
        let bootstrap = AgentBootstrap {
            lease,
            token: token.clone(),
            kernel_program,
            broker_program,
            runtime_dir,
            engine,
            work_dir,
            cache,
            kernel_argv,
            lock: outlive.map(|_| self.lock_path(lease)),
            certificate: None,
            confinement,
        };
        let path = self.bootstrap_path(lease);
        let bad = |source| GatewayError::Folder {
            path: path.clone(),
            source,
        };
        let json = serde_json::to_vec(&bootstrap).map_err(|error| bad(error.into()))?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(bad)?;
        file.write_all(&json).map_err(bad)?;
        Ok(path)
    }
}

impl ThisMachine {
    fn command(&self, bootstrap: &Path) -> Command {
        let mut agent = Command::new(&self.config.agent_program);
        if let Some(log) = &self.config.log {
            agent.env("ALEPHLAB_AGENT_LOG", log);
        }
        agent
            .arg("--gateway")
            .arg(&self.gateway)
            .arg("--bootstrap")
            .arg(bootstrap)
            .stdout(Stdio::null())
            .process_group(0);
        match self.config.outlive {
            Some(patience) => agent
                .arg("--outlive")
                .arg("--patience")
                .arg(patience.as_secs().to_string())
                .stdin(Stdio::null()),
            None => agent.stdin(Stdio::piped()).kill_on_drop(true),
        };
        agent
    }
}

impl ResidentHost for ThisMachine {
    fn name(&self) -> &'static str {
        "this machine"
    }

    fn trust(&self) -> &'static str {
        "This gateway's own machine"
    }

    fn ends_with_gateway(&self) -> bool {
        self.config.outlive.is_none()
    }

    fn rent<'a>(&'a self, lease: Uuid, token: &'a Secret) -> BoxFuture<'a, Result<()>> {
        async move {
            let mut agents = self.agents.lock().await;
            if agents.contains_key(&lease) {
                return Ok(());
            }
            let file = self.bootstrap(lease, token)?;
            match self.command(&file).spawn() {
                Ok(child) => {
                    agents.insert(lease, Agent::of_child(child));
                    Ok(())
                }
                Err(error) => {
                    self.remove_files(lease);
                    let program = self.config.agent_program.display();
                    Err(GatewayError::Host {
                        reason: format!("the agent {program} did not start: {error}"),
                    })
                }
            }
        }
        .boxed()
    }

    fn gone(&self, lease: Uuid) -> BoxFuture<'_, String> {
        async move {
            let agent = self
                .agents
                .lock()
                .await
                .get(&lease)
                .map(|agent| agent.ended.clone());
            match agent {
                Some(end) => ended(end).await,
                None => "its agent was never started".to_owned(),
            }
        }
        .boxed()
    }

    fn end(&self, lease: Uuid) -> BoxFuture<'_, ()> {
        async move {
            let Some(agent) = self.agents.lock().await.remove(&lease) else {
                return;
            };
            agent.end().await;
            self.remove_files(lease);
        }
        .boxed()
    }

    fn adopt(&self, lease: Uuid) -> BoxFuture<'_, bool> {
        async move {
            let Some((agent, gateway)) = Agent::found(&self.lock_path(lease)) else {
                self.remove_files(lease);
                return false;
            };
            if gateway != self.gateway {
                // It dials where nobody listens any more.
                tracing::warn!(
                    gateway,
                    "the agent of the last run knows another address of the gateway; it is ended"
                );
                agent.end().await;
                self.remove_files(lease);
                return false;
            }
            self.agents.lock().await.insert(lease, agent);
            true
        }
        .boxed()
    }
}
