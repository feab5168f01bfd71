//! The agent: what runs on a host. It dials out to its gateway, starts brokers and kernels, passes their messages; and
//! terminals ([`terminals`]).
//!
//! Called by the `alephlab-agent` program, which the gateway starts on its own machine, or on a rented one over SSH ([`join`]). It has no policy and no key that
//! opens content: whom a kernel belongs to and what it may open is decided elsewhere. Kernels and brokers run in their own
//! process groups and die with the agent by the parent's death signal; the agent itself ends when its standard input does,
//! or, where it is to outlive its gateway, when no gateway has come back in time. What kernels say meanwhile it keeps
//! ([`journal`]).
//! Processes that a kernel or a cell starts in further groups are not known here; ending those is the kernel's part.
#![forbid(unsafe_code)]

mod bridge;
mod connection;
mod dial;
mod error;
mod folder;
mod gpus;
mod hold;
mod identity;
mod isolation;
mod join;
mod journal;
mod kernel;
mod kernels;
mod launch;
mod load;
mod processes;
mod terminals;
mod wire;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use alephlab_api::agent::AgentBootstrap;
use alephlab_api::isolation::Walls;
use tokio_util::sync::CancellationToken;

pub use crate::error::AgentError;
pub use crate::hold::{Hold, hold};
pub use crate::join::{default_host_file, join};

use crate::folder::PrivateFolder;
use crate::isolation::Enclosure;
use crate::journal::{Journals, Limits};
use crate::kernels::Kernels;
use crate::load::Loads;
use crate::terminals::Terminals;

/// What an agent needs to know.
pub struct Config {
    /// Address of the gateway, `http` form.
    pub gateway: String,
    /// What the gateway handed over.
    pub bootstrap: AgentBootstrap,
    /// This program, for its hidden `hold` command; none starts kernels without the parent's death signal.
    pub launcher: Option<PathBuf>,
    /// How long to go on without a gateway before ending all kernels.
    pub patience: Duration,
}

/// Serves the lease until `stop` is cancelled or the gateway is gone for good; then ends every kernel.
///
/// # Errors
/// [`AgentError`] when the private folder cannot be made, the gateway refuses the lease, or patience ran out.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), AgentError> {
    let Config {
        gateway,
        bootstrap,
        launcher,
        patience,
    } = config;
    let folder = PrivateFolder::create()?;
    let _lock = bootstrap
        .lock
        .as_deref()
        .map(|path| folder::lock(path, &gateway))
        .transpose()?;
    let journals = Arc::new(Journals::new(bootstrap.work_dir.clone(), Limits::default()));
    let mut confinement = bootstrap.confinement.clone();
    // Sockets and files of all kernels.
    confinement.hidden.push(folder.path().to_owned());
    let enclosure = Enclosure::find(confinement, launcher.clone()).await;
    tell(&enclosure.walls);
    let walls = enclosure.walls.clone();
    let host = Arc::new(launch::Host {
        gateway: gateway.clone(),
        kernel_program: bootstrap.kernel_program.clone(),
        broker_program: bootstrap.broker_program.clone(),
        runtime_dir: bootstrap.runtime_dir.clone(),
        engine: bootstrap.engine,
        work_dir: bootstrap.work_dir.clone(),
        cache: bootstrap.cache.clone(),
        kernel_argv: bootstrap.kernel_argv.clone(),
        launcher: launcher.clone(),
        certificate: bootstrap.certificate.clone(),
        folder: folder.path().to_owned(),
        enclosure,
    });
    let terminals = Arc::new(Terminals::new(Arc::clone(&host)));
    let loads = Arc::new(Loads::new());
    let mut kernels = Kernels::new(host, Arc::clone(&journals), Arc::clone(&loads));
    let keeps = (journals, Arc::clone(&terminals));
    let tells = (walls, loads.news());
    let mut connection = connection::Connection::new(&gateway, &bootstrap, patience, tells, keeps)?;
    let outcome = tokio::select! {
        outcome = connection.run(&mut kernels, &stop) => outcome,
        () = loads.keep_measuring(bootstrap.work_dir.clone(), launcher) => Ok(()),
    };
    tokio::join!(kernels.end(), terminals.end());
    outcome
}

/// Once in the log, under a name of its own, so that it stands there whatever else does not.
fn tell(walls: &Walls) {
    let (limits, missing) = (walls.limits.join(", "), walls.missing.join("; "));
    tracing::info!(target: "alephlab_agent::walls", %walls, limits, missing, "between kernels and this host");
}
