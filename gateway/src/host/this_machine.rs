//! This machine as a host: the agent as a child process of the gateway.
//!
//! The agent gets lease and token in a 0600 file that it deletes, and ends when its standard input does, so it cannot
//! outlive the gateway. It has its own process group: Ctrl-C in a terminal reaches the gateway, which stops it in order.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use alephlab_api::Secret;
use alephlab_api::agent::{AgentBootstrap, Engine, ObjectCache};
use futures_util::future::{BoxFuture, FutureExt as _};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::HostProvider;
use crate::error::{GatewayError, Result};

/// Kernels get three seconds to end by themselves, brokers as many; then the agent kills them.
const GRACE: Duration = Duration::from_secs(10);

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

impl HostProvider for ThisMachine {
    fn name(&self) -> &'static str {
        "this machine"
    }

    fn trust(&self) -> &'static str {
        "This gateway's own machine"
    }

    fn rent<'a>(&'a self, lease: Uuid, token: &'a Secret) -> BoxFuture<'a, Result<()>> {
        async move {
            let mut agents = self.agents.lock().await;
            if agents.contains_key(&lease) {
                return Ok(());
            }
            let file = self.bootstrap(lease, token)?;
            let mut agent = Command::new(&self.config.agent_program);
            if let Some(log) = &self.config.log {
                agent.env("ALEPHLAB_AGENT_LOG", log);
            }
            let child = agent
                .arg("--gateway")
                .arg(&self.gateway)
                .arg("--bootstrap")
                .arg(&file)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .process_group(0)
                .kill_on_drop(true)
                .spawn();
            match child {
                Ok(child) => {
                    agents.insert(lease, Agent::new(child));
                    Ok(())
                }
                Err(error) => {
                    let _ = std::fs::remove_file(&file);
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
                Some(ended) => wait(ended).await,
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
            let Agent { input, ended, kill } = agent;
            drop(input);
            if timeout(GRACE, wait(ended.clone())).await.is_err() {
                // Its kernels die by its death signal.
                kill.cancel();
                wait(ended).await;
            }
            let _ = std::fs::remove_file(self.bootstrap_path(lease));
        }
        .boxed()
    }
}

/// One agent; a task of its own waits for the process.
struct Agent {
    /// Closing it tells the agent to end.
    input: Option<ChildStdin>,
    ended: watch::Receiver<Option<String>>,
    kill: CancellationToken,
}

impl Agent {
    fn new(mut child: Child) -> Self {
        let (sender, ended) = watch::channel(None);
        let (input, kill) = (child.stdin.take(), CancellationToken::new());
        let killed = kill.clone();
        tokio::spawn(async move {
            let status = tokio::select! {
                status = child.wait() => status,
                () = killed.cancelled() => {
                    let _ = child.start_kill();
                    child.wait().await
                }
            };
            let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
            sender.send_replace(Some(format!(
                "this machine's agent ended ({how}); variables are gone"
            )));
        });
        Self { input, ended, kill }
    }
}

async fn wait(mut ended: watch::Receiver<Option<String>>) -> String {
    match ended.wait_for(Option::is_some).await {
        Ok(reason) => reason.clone().unwrap_or_default(),
        Err(_) => "its agent is gone".to_owned(),
    }
}
