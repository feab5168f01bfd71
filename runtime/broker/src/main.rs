//! `alephlab-broker --bootstrap FILE`: hardens itself, takes its beginnings, listens, prints `ready` with what its starter has to
//! know, and ends when its standard input does, erasing what it opened.

use std::path::PathBuf;
use std::sync::Arc;

use alephlab_api::agent::{BrokerBootstrap, BrokerReady};
use alephlab_api::broker::Wall;
use alephlab_api::client::GatewayClient;
use alephlab_broker::{Broker, PrivateRoot, harden, hub::Endpoint, server::Server, take_bootstrap};
use alephlab_vault::storage::{CachedStorage, nodes};
use anyhow::Context;
use clap::Parser;
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Holds the keys beside one kernel. Started by the agent, not by people.
#[derive(Parser)]
#[command(name = "alephlab-broker", version)]
struct Arguments {
    /// File with socket, gateway, token and account (mode 0600); it is deleted once read.
    #[arg(long, value_name = "FILE")]
    bootstrap: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let walls = harden();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    for wall in &walls {
        if let Some(missing) = &wall.missing {
            tracing::warn!(wall = wall.name, missing, "a wall does not stand");
        }
    }
    let arguments = Arguments::parse();
    let bootstrap = take_bootstrap(&arguments.bootstrap)?;
    let threads = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    threads
        .context("threads cannot be started")?
        .block_on(run(bootstrap, walls))
}

async fn run(bootstrap: BrokerBootstrap, walls: Vec<Wall>) -> anyhow::Result<()> {
    let mut gateway = GatewayClient::new(&bootstrap.gateway, Some(bootstrap.kernel_token.clone()))?;
    if let Some(certificate) = &bootstrap.certificate {
        gateway = gateway.trusting_only(certificate)?;
    }
    let mut storage = nodes(&bootstrap.aleph_url)?;
    if let Some(cache) = bootstrap.cache {
        storage = CachedStorage::over(storage, &cache.folder, cache.bytes_max);
    }
    let of_cells = bootstrap
        .confined
        .is_none()
        .then_some(bootstrap.work_dir.as_path());
    let mut private = PrivateRoot::open(&bootstrap.kernel_id.to_string(), of_cells)?;
    if bootstrap.confined.is_some() {
        private = private.shared();
    }
    let place = private.path().to_owned();
    if !private.is_in_memory() {
        tracing::warn!(path = %private.path().display(), "no memory file system: opened files lie on the disk");
    }
    let mut broker = Broker::new(gateway, storage, bootstrap.kernel_id, bootstrap.account, private);
    if let Some(home) = &bootstrap.confined {
        broker = broker.confined_to(home, &bootstrap.work_dir, bootstrap.hidden);
    }
    let broker = Arc::new(broker.with_walls(walls));
    let server = Server::bind(&bootstrap.socket)?;
    let stop = CancellationToken::new();
    let serving = tokio::spawn(server.serve(broker.clone(), stop.clone()));
    // A kernel without it works; its cells find no address of a hub then.
    let hub = match Endpoint::bind().await {
        Ok(endpoint) => Some(endpoint.with_home(bootstrap.hub_home.clone())),
        Err(error) => {
            tracing::warn!(code = error.code(), %error, "this kernel has no hub");
            None
        }
    };
    let beginnings = BrokerReady {
        // The agent shows it to the sandbox.
        opened: bootstrap.confined.is_some().then_some(place),
        hub: hub.as_ref().map(Endpoint::address),
    };
    // Before it is known to be ready: a client that is fast enough would be refused.
    let hub = hub.map(|endpoint| tokio::spawn(endpoint.serve(broker.clone(), stop.clone())));
    let line = beginnings
        .line()
        .context("where datasets are opened cannot be told")?;
    println!("{line}");
    tokio::select! {
        () = broker.erase_what_expires() => {}
        ended = parent_is_gone() => ended?,
        ended = asked_to_end() => ended?,
    }
    stop.cancel();
    serving.await.context("the socket ended early")?;
    if let Some(hub) = hub {
        hub.await.context("the hub ended early")?;
    }
    broker.erase_all();
    if let Some(home) = &bootstrap.hub_home {
        // Plain copies of what this kernel might read; its starter may have been quicker.
        drop(std::fs::remove_dir_all(home));
    }
    Ok(())
}

/// Whoever started this process holds the other end of its standard input.
async fn parent_is_gone() -> anyhow::Result<()> {
    let mut ignored = [0; 256];
    let mut input = tokio::io::stdin();
    while input.read(&mut ignored).await? > 0 {}
    Ok(())
}

async fn asked_to_end() -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
