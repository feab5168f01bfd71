//! Kernels for tests, on a machine whose agent never comes.

use std::path::Path;
use std::sync::Arc;

use alephlab_api::money::Amount;

use super::{Kernels, Terms};
use crate::allocations::{Allocations, Door, LeaseSecrets};
use crate::contents::Contents;
use crate::host::{HostConfig, Hosts, ThisMachine};
use crate::receipts::ReceiptKey;
use crate::store::Store;

pub(super) const OWNER: &str = "0x7A3f09D2B8E14C5f6A7781E2D3905B64f1AAc41e";

/// Nothing runs yet; an hour costs `price`.
pub(super) async fn kernels_at(folder: &Path, price: Amount) -> Arc<Kernels> {
    let store = Store::open(folder).await.unwrap();
    store.configure(OWNER, &[1; 32], &[], None).await.unwrap();
    let config = HostConfig {
        agent_program: "none".into(),
        kernel_program: "none".into(),
        broker_program: None,
        runtime_dir: "none".into(),
        engine: alephlab_api::agent::Engine::default(),
        work_dir: "none".into(),
        log: None,
        cache: None,
        kernel_argv: None,
        confinement: Default::default(),
        outlive: None,
    };
    let machine = ThisMachine::new(config, String::new(), folder.to_owned());
    let hosts = Arc::new(Hosts::new(Arc::new(machine), store.clone(), false));
    hosts.open().await.unwrap();
    let receipts = Arc::new(ReceiptKey::open(folder, OWNER.parse().unwrap()).unwrap());
    let terms = Terms {
        price,
        receipts: Arc::clone(&receipts),
        max_kernels: 64,
        idle: None,
    };
    let door = Door {
        gateway: String::new(),
        certificate: None,
        outlive: std::time::Duration::ZERO,
    };
    let secrets = LeaseSecrets::open(folder).unwrap();
    let rented = Allocations::new(store.clone(), Vec::new(), receipts, secrets, door);
    let contents = Contents::new(folder.join("work"), None);
    Arc::new(Kernels::new(
        (store, contents),
        (hosts, rented),
        String::new(),
        terms,
    ))
}
