//! `alephlab-kernel`: serves one kernel, builds the runtime template, or is the child that runs cells.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use alephlab_kernel::apart;
use alephlab_kernel::child::{self, ChildArgs};
use alephlab_kernel::evaluator::{Engine, RustConfig, evcxr, scripted, zygote};
use alephlab_kernel::template::build::{Progress, build};
use alephlab_kernel::{Config, Connection, Error, Kernel, Limits};
use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

/// How often a kernel looks whether the client that started it still lives.
const PARENT_CHECK: Duration = Duration::from_secs(1);

#[derive(Parser)]
#[command(name = "alephlab-kernel", version, about = "The Jupyter kernel of Alephlab")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve one kernel until it is shut down.
    Run {
        /// Jupyter's connection file.
        #[arg(long)]
        connection_file: PathBuf,
        /// The runtime template.
        #[arg(long, env = "ALEPHLAB__RUNTIME__DIR", required_unless_present = "engine")]
        runtime: Option<PathBuf>,
        /// The handover file, when a broker runs beside this kernel.
        #[arg(long)]
        handover: Option<PathBuf>,
        /// File of what was executed, for consoles that ask for it after a restart. None: nothing is kept.
        #[arg(long)]
        history: Option<PathBuf>,
        /// What compiles the cells.
        #[arg(long, env = "ALEPHLAB__KERNEL__ENGINE", default_value = "zygote")]
        engine: EngineName,
    },
    /// Build the runtime template; prints progress as JSON lines.
    Template {
        /// Checkout that holds the runtime's sources.
        #[arg(long)]
        runtime_source: PathBuf,
        /// Folder to build in.
        #[arg(long)]
        out: PathBuf,
    },
    /// Say as JSON which GPU kernels of this machine have, or why they have none.
    Gpu {
        /// The runtime template.
        #[arg(long, env = "ALEPHLAB__RUNTIME__DIR")]
        runtime: PathBuf,
    },
    /// Run compiled cells (started by `run`).
    #[command(hide = true)]
    Child {
        #[arg(long)]
        kernel: u32,
        #[arg(long)]
        link: PathBuf,
        #[arg(long)]
        stdout: PathBuf,
        #[arg(long)]
        stderr: PathBuf,
        #[arg(long)]
        libstd: PathBuf,
        #[arg(long)]
        runtime_lib: PathBuf,
    },
    /// Run compiled cells without our runtime (started by `template`).
    #[command(hide = true)]
    PlainChild,
    /// Set the accounts of a kernel's own user namespace (started by `run`).
    #[command(hide = true)]
    MapAccounts { pid: u32 },
}

#[derive(Clone, Copy, ValueEnum)]
enum EngineName {
    /// A compile server: quick.
    Zygote,
    /// The evcxr crate: the reference.
    Evcxr,
    /// The protocol tests' own language.
    #[value(hide = true)]
    Scripted,
}

fn main() -> ExitCode {
    // evcxr calls this program as a wrapper of rustc when a cell switches its cache on.
    if std::env::var_os("EVCXR_RUSTC_WRAPPER").is_some() && std::env::var_os("EVCXR_IS_RUNTIME").is_none() {
        ::evcxr::runtime_hook();
    }
    // A level, for our own messages only: rust-analyzer writes parts of cells into its log.
    let level = std::env::var("ALEPHLAB_LOG").unwrap_or_else(|_| "warn".to_owned());
    let filter = tracing_subscriber::EnvFilter::try_new(format!("off,alephlab_kernel={level}"));
    tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|_| "off,alephlab_kernel=warn".into()))
        .with_writer(std::io::stderr)
        .init();
    match run(Args::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let hint = error.downcast_ref::<Error>().and_then(Error::hint);
            let hint = hint.map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
            let _ = writeln!(std::io::stderr(), "alephlab-kernel: {error:#}{hint}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run {
            connection_file,
            runtime,
            handover,
            history,
            engine,
        } => {
            // Only a broker is worth it: without one there is nothing to be kept from cells.
            if handover.is_some()
                && let Some(error) = apart::give_up_power().context("cannot be root of a user namespace")?
            {
                tracing::warn!(%error, "cells keep root's power over the broker");
            }
            let runtime_threads = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build();
            let tokio = runtime_threads.context("cannot start the kernel's threads")?;
            let result = tokio.block_on(async {
                let engine = match (engine, runtime) {
                    (EngineName::Zygote, Some(template)) => zygote::engine(config(template, handover)?)?,
                    (EngineName::Evcxr, Some(template)) => evcxr::engine(config(template, handover)?)?,
                    (EngineName::Scripted, _) => scripted::engine(None),
                    (_, None) => anyhow::bail!("--runtime is missing"),
                };
                serve(Connection::read(&connection_file)?, engine, history).await
            });
            // The evaluator's thread may be inside a compile that nobody waits for any more.
            tokio.shutdown_background();
            result
        }
        Command::Template { runtime_source, out } => {
            build(&runtime_source, &out, &print_progress)?;
            Ok(())
        }
        Command::Child {
            kernel,
            link,
            stdout,
            stderr,
            libstd,
            runtime_lib,
        } => Ok(child::run(&ChildArgs {
            kernel,
            link,
            stdout,
            stderr,
            libstd,
            runtime_lib,
        })?),
        Command::Gpu { runtime } => {
            writeln!(std::io::stdout(), "{}", child::gpu::report(&runtime)?)?;
            Ok(())
        }
        Command::MapAccounts { pid } => {
            apart::map_accounts(pid).context("cannot set the accounts of a user namespace")
        }
        Command::PlainChild => {
            ::evcxr::runtime_hook();
            Ok(())
        }
    }
}

fn config(template: PathBuf, handover: Option<PathBuf>) -> anyhow::Result<RustConfig> {
    Ok(RustConfig {
        template,
        handover: handover.map(std::path::absolute).transpose()?,
        program: std::env::current_exe().context("cannot find this program")?,
        work_dir: std::env::current_dir().context("the current folder is gone")?,
    })
}

async fn serve(connection: Connection, engine: Engine, history: Option<PathBuf>) -> anyhow::Result<()> {
    let kernel = Kernel::start(Config {
        connection,
        engine,
        limits: Limits::default(),
        history,
    })
    .await?;
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    let mut parent = tokio::time::interval(PARENT_CHECK);
    let born_of = watched_parent();
    let ended = kernel.ended();
    loop {
        tokio::select! {
            () = ended.cancelled() => break,
            _ = interrupts.recv() => kernel.interrupt(),
            _ = terminations.recv() => kernel.shut_down(),
            _ = parent.tick() => {
                if born_of.is_some_and(|pid| pid != std::os::unix::process::parent_id()) {
                    kernel.shut_down();
                }
            }
        }
    }
    kernel.wait().await;
    Ok(())
}

/// The process whose end is also ours: jupyter_client names itself, so that no kernel is left over.
fn watched_parent() -> Option<u32> {
    let named = std::env::var("JPY_PARENT_PID").ok()?.parse::<u32>().ok()?;
    (named == std::os::unix::process::parent_id()).then_some(named)
}

fn print_progress(progress: Progress) {
    let mut out = std::io::stdout().lock();
    let _ = serde_json::to_writer(&mut out, &progress);
    let _ = writeln!(out);
}
