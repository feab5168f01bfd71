//! A gateway without a host that could run kernels: for tests and benches of models, which need no more.

use std::error::Error;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use alephlab_api::Secret;
use alephlab_api::money::Amount;
use alephlab_gateway::{
    ChainConfig, Config, Gateway, HostConfig, MarketConfig, Operator, RateSource, SettlementConfig,
    ThisMachine,
};
use alephlab_vault::storage::nodes;
use tokio_util::sync::CancellationToken;

/// A chain of a test: `node chain token contract`, one block is final when another lies upon it.
fn chain() -> Result<Option<ChainConfig>, Box<dyn Error>> {
    let Ok(said) = std::env::var("CHAIN") else {
        return Ok(None);
    };
    let [node, chain_id, token, contract] = said.split(' ').collect::<Vec<_>>()[..] else {
        return Err("CHAIN is not of four words".into());
    };
    Ok(Some(ChainConfig {
        node: Secret::new(node),
        chain_id: chain_id.parse()?,
        token: token.to_owned(),
        contract: contract.to_owned(),
        deposit: None,
        confirmations: Some(1),
        minimum: Amount::from_whole(1),
        daily: None,
        fee_max: 1_000_000_000_000,
        every: Duration::from_secs(1),
    }))
}

/// Serves over an Aleph node on a free port, prints its address, and ends with its standard input.
pub(crate) async fn run(
    data: &Path,
    node: &str,
    operator: Operator,
    admitted: Vec<String>,
) -> Result<(), Box<dyn Error>> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", listener.local_addr()?);
    let work = data.join("work");
    std::fs::create_dir_all(&work)?;
    let host = HostConfig {
        // Ends at once: nothing here starts a kernel.
        agent_program: PathBuf::from("/bin/true"),
        kernel_program: PathBuf::from("/bin/true"),
        broker_program: None,
        runtime_dir: data.to_owned(),
        engine: Default::default(),
        work_dir: work.clone(),
        cache: None,
        log: None,
        kernel_argv: None,
        confinement: Default::default(),
        outlive: None,
    };
    // Tests of sales do not wait for a day.
    let settle = std::env::var("SETTLE_SECONDS").ok();
    let market = match settle {
        Some(seconds) => MarketConfig {
            settle: Duration::from_secs(seconds.parse()?),
            ..MarketConfig::default()
        },
        None => MarketConfig::default(),
    };
    // And are shown what an ALEPH is worth.
    let rate = std::env::var("ALEPH_RATE")
        .ok()
        .map(|rate| rate.parse())
        .transpose()?;
    let settlement = SettlementConfig {
        chain: chain()?,
        rate: rate.map(RateSource::Fixed),
        ..SettlementConfig::default()
    };
    let provider = ThisMachine::new(host.clone(), url.clone(), data.to_owned());
    let config = Config {
        listener,
        public_url: url.parse()?,
        fronts: Vec::new(),
        limits: Default::default(),
        data: data.to_owned(),
        database: None,
        standby: false,
        aleph_url: node.to_owned(),
        operator,
        admitted,
        oidc: None,
        host,
        kernel_price: Default::default(),
        contents: work,
        lab: None,
        max_kernels: 1,
        max_storage: None,
        idle: None,
        keep_kernels: false,
        renting: None,
        settlement,
        terminals: false,
        verifiers: None,
        follow: None,
        market,
        posting: None,
    };
    let stop = CancellationToken::new();
    let handle = Gateway::start_with(config, nodes(node)?, Arc::new(provider), stop.clone()).await?;
    writeln!(std::io::stdout(), "{url}")?;
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    stop.cancel();
    handle.join.await??;
    Ok(())
}
