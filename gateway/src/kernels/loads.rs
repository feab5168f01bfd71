//! What hosts and kernels take, for whoever looks: an account sees hosts with kernels of its own and this machine, and of the
//! kernels its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use alephlab_api::load::{HostReading, Loads};

use super::{Kernels, Live};
use crate::host::Lease;

impl Kernels {
    /// Hosts as their agents measured them last; those that are away are left out.
    pub(crate) fn loads_of(&self, account: &str) -> Loads {
        let kernels = self.of(account);
        let resident = self.hosts.lease().ok();
        let mut hosts: Vec<HostReading> = resident
            .iter()
            .filter_map(|lease| reading(lease, &kernels))
            .collect();
        let rented = kernels.iter().filter(|live| live.rental.is_some());
        hosts.extend(rented.filter_map(|live| reading(&live.lease, &kernels)));
        Loads { hosts }
    }
}

fn reading(lease: &Lease, kernels: &[Arc<Live>]) -> Option<HostReading> {
    let load = lease.load()?;
    let there = kernels.iter().filter(|live| live.lease.id == lease.id);
    let loads: BTreeMap<_, _> = there
        .filter_map(|live| Some((live.id, load.kernels.get(&live.id)?.clone())))
        .collect();
    Some(HostReading {
        name: lease.machine()?,
        at: load.at,
        load: load.host.clone(),
        kernels: loads,
    })
}
