//! The compute side of the local network: CRNs that run instances, and the scheduler that has them started.
//!
//! An instance is a sandboxed process of this machine and not a virtual machine (`sandbox`, which says what is apart
//! and what is not); it boots within a second, has a root that the INSTANCE's keys open by SSH (`alephlab-instance`),
//! and no card: cards exist in the protocol, where they are listed, reserved, taken and paid. Images, volumes,
//! confidential instances, backups and IPv6 are not there.
//!
//! Not here: the routes (that is `http::crn` and `http::scheduler`) and what a machine costs (that is `ledger`).

mod boot;
mod config;
mod console;
mod crn;
mod sandbox;
mod scheduler;
pub(crate) mod spec;

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::net::TcpListener;
use url::Url;

pub use boot::INSTANCE_READY;
pub use config::{ComputeConfig, CrnConfig, GpuConfig};
pub(crate) use console::Line;
pub(crate) use crn::{Crn, Refusal, Seen, Started};
pub(crate) use scheduler::{Halt, end_unpaid, halt, resume, schedule, status};

use self::{boot::Starter, crn::Facts, sandbox::Sandbox};
use crate::{error::Result, faults::Faults, server};

/// All CRNs of the local network.
#[derive(Debug)]
pub(crate) struct Compute {
    pub(crate) crns: Vec<Arc<Crn>>,
    sandbox: Arc<Sandbox>,
    dispatch_pause: Duration,
    /// Why the scheduler could not have an instance started.
    refused: Mutex<HashMap<String, Refusal>>,
}

/// A CRN that answers at an address of its own.
pub(crate) type Apart = (Arc<Crn>, TcpListener);

impl Compute {
    /// Makes the CRNs and starts nothing yet; `url` is the node's own address.
    pub(crate) fn open(
        config: ComputeConfig,
        data: &Path,
        url: &Url,
        faults: &Faults,
    ) -> Result<(Self, Vec<Apart>)> {
        config.check()?;
        let sandbox = Arc::new(Sandbox::open(&config, data)?);
        let starter = Arc::new(Starter::new()?);
        let (mut crns, mut apart) = (Vec::new(), Vec::new());
        for node in config.nodes {
            let facts = Facts {
                hash: Facts::hash_of(&node.name),
                url: node.listener.as_ref().map_or(Ok(url.clone()), server::address)?,
                is_apart: node.listener.is_some(),
                name: node.name,
                gpus: node.gpus,
                cpus: node.cpus,
                memory_mib: node.memory_mib,
                reservation: config.reservation,
            };
            let crn = Crn::new(facts, faults.clone(), Arc::clone(&sandbox), Arc::clone(&starter));
            let crn = Arc::new(crn);
            apart.extend(node.listener.map(|listener| (Arc::clone(&crn), listener)));
            crns.push(crn);
        }
        let compute = Self {
            crns,
            sandbox,
            dispatch_pause: config.dispatch_pause,
            refused: Mutex::default(),
        };
        Ok((compute, apart))
    }

    /// The CRN that runs an instance.
    pub(crate) fn host_of(&self, hash: &str) -> Option<&Arc<Crn>> {
        self.crns.iter().find(|crn| crn.seen(hash).is_some())
    }

    /// Ends all instances; the next start of the node boots them again.
    pub(crate) async fn shut_down(&self) {
        for crn in &self.crns {
            crn.shut_down().await;
        }
    }

    fn refuse(&self, hash: &str, refusal: Option<Refusal>) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        match refusal {
            Some(refusal) => refused.insert(hash.to_owned(), refusal),
            None => refused.remove(hash),
        };
    }

    fn refusal(&self, hash: &str) -> Option<Refusal> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.get(hash).cloned()
    }
}
