//! The `alephlab-agent` program: reads its bootstrap file, serves until its standard input ends.
//!
//! The gateway starts it on its own machine and holds the other end of that input, so the agent cannot outlive it; where it
//! shall (`--outlive`), it serves until no gateway has come back in time.

mod log;
mod names;

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use alephlab_agent::{AgentError, Config};
use alephlab_api::agent::AgentBootstrap;
use anyhow::Context as _;
use clap::{Parser, Subcommand};
use tokio_util::sync::CancellationToken;

/// What goes wrong, and once which walls there are.
const USUAL_LOG: &str = "warn,alephlab_agent::walls=info";

#[derive(Parser)]
#[command(version, about = "Runs kernels on this machine for an Alephlab gateway.")]
struct Arguments {
    /// Address of the gateway.
    #[arg(long)]
    gateway: Option<String>,
    /// File with lease and token; it is deleted after reading.
    #[arg(long)]
    bootstrap: Option<PathBuf>,
    /// Go on when standard input ends.
    #[arg(long)]
    outlive: bool,
    /// End kernels after this many seconds without a gateway.
    #[arg(long, default_value_t = 600)]
    patience: u64,
    #[command(subcommand)]
    step: Option<Step>,
}

#[derive(Subcommand)]
enum Step {
    /// Take a lease from standard input and leave an agent behind that serves it.
    Join {
        /// What this host's image says of itself.
        #[arg(long, default_value_os_t = alephlab_agent::default_host_file())]
        host: PathBuf,
    },
    /// Become another program that dies with the agent.
    #[command(hide = true)]
    Hold(alephlab_agent::Hold),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match &arguments.step {
        Some(Step::Hold(held)) => {
            let failed = alephlab_agent::hold(held);
            Err(anyhow::Error::msg(failed.line()))
        }
        Some(Step::Join { host }) => join(host),
        None => {
            log::start_over();
            serve(arguments)
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line, never a backtrace: it becomes the reason that a person reads.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn join(host: &Path) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("this program cannot find itself")?;
    let joined = alephlab_agent::join(std::io::stdin().lock(), host, &program)
        .map_err(|error| anyhow::Error::msg(error.line()))?;
    let answer = serde_json::to_string(&joined)?;
    writeln!(std::io::stdout(), "{answer}").context("the answer could not be written")
}

fn serve(arguments: Arguments) -> anyhow::Result<()> {
    let gateway = arguments.gateway.context("--gateway is missing")?;
    let file = arguments.bootstrap.context("--bootstrap is missing")?;
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("ALEPHLAB_LOG").unwrap_or_else(|_| USUAL_LOG.into()),
        )
        .init();
    names::settle();
    let config = Config {
        gateway,
        bootstrap: read_bootstrap(&file).map_err(|error| anyhow::Error::msg(error.line()))?,
        launcher: Some(std::env::current_exe().context("this program cannot find itself")?),
        patience: Duration::from_secs(arguments.patience),
    };
    // One thread: the parent's death signal goes by the thread that started a process, and this one stays.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(async {
        let stop = CancellationToken::new();
        if !arguments.outlive {
            watch_input(stop.clone());
        }
        watch_signals(&stop);
        Box::pin(alephlab_agent::run(config, stop)).await
    });
    // The thread that watches standard input cannot be told to end.
    runtime.shutdown_background();
    // One line with the hint; the cause is in it already.
    outcome.map_err(|error| anyhow::Error::msg(error.line()))
}

fn read_bootstrap(path: &Path) -> Result<AgentBootstrap, AgentError> {
    let bad = |reason: String| AgentError::Bootstrap {
        path: path.to_owned(),
        reason,
    };
    let text = std::fs::read(path).map_err(|error| bad(error.to_string()))?;
    std::fs::remove_file(path).map_err(|error| bad(error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))
}

/// Stops when standard input ends: its other end is in the gateway.
fn watch_input(stop: CancellationToken) {
    std::thread::spawn(move || {
        let mut chunk = [0_u8; 64];
        let mut input = std::io::stdin().lock();
        while input.read(&mut chunk).is_ok_and(|count| count > 0) {}
        stop.cancel();
    });
}

fn watch_signals(stop: &CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let Ok(mut signals) = signal(kind) else { continue };
        let stop = stop.clone();
        tokio::spawn(async move {
            signals.recv().await;
            stop.cancel();
        });
    }
}
