//! A gateway without a host that could run kernels, over an Aleph node: the tests of models with stock clients need no more.
//!
//! `registry_gateway NODE DATA OPERATOR ADDRESS...` admits these accounts, prints its address and serves until its standard
//! input ends.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use alephlab_api::Secret;
use alephlab_api::isolation::Confinement;
use alephlab_gateway::{Config, Gateway, HostConfig, Operator, ThisMachine};
use alephlab_vault::storage::nodes;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "registry_gateway NODE DATA OPERATOR ADDRESS...";
    let mut next = || arguments.next().ok_or(usage);
    let (node, data, operator) = (next()?, PathBuf::from(next()?), next()?);
    let admitted: Vec<String> = arguments.collect();
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", listener.local_addr()?);
    std::fs::create_dir_all(data.join("work"))?;
    let host = HostConfig {
        // Ends at once: nothing here starts a kernel.
        agent_program: PathBuf::from("/bin/true"),
        kernel_program: PathBuf::from("/bin/true"),
        broker_program: None,
        runtime_dir: data.clone(),
        engine: Default::default(),
        work_dir: data.join("work"),
        cache: None,
        log: None,
        kernel_argv: None,
        confinement: Confinement::default(),
        outlive: None,
    };
    let contents = data.join("work");
    let provider = ThisMachine::new(host.clone(), url.clone(), data.clone());
    let storage = nodes(&node)?;
    let config = Config {
        listener,
        public_url: url.parse()?,
        fronts: Vec::new(),
        limits: Default::default(),
        data,
        database: None,
        standby: false,
        aleph_url: node,
        operator: Operator {
            address: operator,
            token: Secret::new(format!("{:032x}", rand::random::<u128>())),
        },
        admitted,
        oidc: None,
        host,
        kernel_price: Default::default(),
        contents,
        lab: None,
        max_kernels: 1,
        max_storage: None,
        idle: None,
        keep_kernels: false,
        renting: None,
        terminals: false,
    };
    let stop = CancellationToken::new();
    let handle = Gateway::start_with(config, storage, Arc::new(provider), stop.clone()).await?;
    writeln!(std::io::stdout(), "{url}")?;
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    stop.cancel();
    handle.join.await??;
    Ok(())
}
