//! Settings of the compute side.

use std::{path::PathBuf, time::Duration};

use tokio::net::TcpListener;

use crate::{
    content::card,
    error::{Error, Result},
};

/// Settings of the hosts that the local network has, and of the instances that they run.
#[derive(Debug)]
pub struct ComputeConfig {
    /// Hosts: each is a compute resource node (CRN) of its own.
    pub nodes: Vec<CrnConfig>,
    /// bubblewrap, by path or by a name that is looked for in `PATH`.
    pub bwrap: PathBuf,
    /// The built `alephlab-instance`, which is every instance's first program.
    pub instance: PathBuf,
    /// Folder of the instances' files; `None` means `instances` in the node's data folder.
    pub folder: Option<PathBuf>,
    /// Paths that every instance sees, read-only and under the same names: toolchain, runtime, programs. What is missing
    /// is left out.
    pub programs: Vec<PathBuf>,
    /// What stands in `/etc/alephlab/host.json` of every instance.
    pub host_file: Option<Vec<u8>>,
    /// Folders before the system's own in an instance's `PATH`.
    pub path: Vec<PathBuf>,
    /// More of an instance's environment.
    pub env: Vec<(String, String)>,
    /// How long the scheduler waits before it has a processed INSTANCE started, as the real one works in rounds.
    pub dispatch_pause: Duration,
    /// How long `reserve_resources` holds a card.
    pub reservation: Duration,
}

/// One compute resource node (CRN).
#[derive(Debug)]
pub struct CrnConfig {
    /// Name in the list; no other CRN has it, and the CRN's hash is made of it.
    pub name: String,
    /// Its cards.
    pub gpus: Vec<GpuConfig>,
    /// Processors that it rents out.
    pub cpus: u32,
    /// Memory that it rents out, in MiB.
    pub memory_mib: u64,
    /// Where it answers; `None` means at the node's own address, which one CRN can.
    pub listener: Option<TcpListener>,
}

/// One card of a CRN. It exists in the protocol only: instances get no device for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuConfig {
    /// PCI id, for example `10de:2684`; one that the network has a price for.
    pub device_id: String,
    /// Name, for example `RTX 4090`.
    pub model: String,
}

impl ComputeConfig {
    /// Default settings for these hosts, with the program `instance`.
    #[must_use]
    pub fn new(nodes: Vec<CrnConfig>, instance: impl Into<PathBuf>) -> Self {
        Self {
            nodes,
            bwrap: "bwrap".into(),
            instance: instance.into(),
            folder: None,
            programs: Vec::new(),
            host_file: None,
            path: Vec::new(),
            env: Vec::new(),
            dispatch_pause: Duration::from_millis(200),
            reservation: Duration::from_secs(60),
        }
    }

    /// Refuses hosts that cannot be told apart or that have unknown cards.
    pub(crate) fn check(&self) -> Result<()> {
        let refuse = |cause: String| Err(Error::Compute { cause });
        if self.nodes.iter().filter(|node| node.listener.is_none()).count() > 1 {
            return refuse("only one CRN can answer at the node's own address".into());
        }
        for (index, node) in self.nodes.iter().enumerate() {
            let earlier = self.nodes.iter().take(index);
            if earlier.into_iter().any(|other| other.name == node.name) {
                return refuse(format!("two CRNs have the name {}", node.name));
            }
            if let Some(gpu) = node.gpus.iter().find(|gpu| card(&gpu.device_id).is_none()) {
                return refuse(format!("the network has no card with the id {}", gpu.device_id));
            }
        }
        Ok(())
    }
}
