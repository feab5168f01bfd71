//! `alephlab kernel`: puts the kernelspec where Jupyter finds it, and starts the kernel for Jupyter.

mod install;
mod start;

use std::path::PathBuf;
use std::process::ExitCode;

use alephlab_api::agent::Engine;
use clap::{Args, Subcommand};

use super::DataFlag;
use crate::error::Result;
use crate::settings;

/// Install, start or remove the Jupyter kernel.
#[derive(Args)]
pub(crate) struct Kernel {
    #[command(flatten)]
    data: DataFlag,
    #[command(subcommand)]
    action: Action,
}

/// Where kernelspecs lie.
#[derive(Args, Clone, Default)]
#[group(multiple = false)]
pub(crate) struct Location {
    /// For this user's Jupyter programs (the default).
    #[arg(long)]
    user: bool,
    /// For the active Python environment.
    #[arg(long)]
    sys_prefix: bool,
    /// Below this folder, in share/jupyter/kernels.
    #[arg(long, value_name = "DIR")]
    prefix: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Action {
    /// Install the kernelspecs "alephlab", Rust (Alephlab), and "alephlab-evcxr", Rust (evcxr).
    Install {
        #[command(flatten)]
        location: Location,
    },
    /// Remove the kernelspecs.
    Uninstall {
        #[command(flatten)]
        location: Location,
    },
    /// Start a kernel; Jupyter calls this.
    Start {
        /// Jupyter's connection file.
        #[arg(long, value_name = "FILE")]
        connection_file: PathBuf,
        /// What compiles cells; the setting `kernel.engine` when it is left out.
        #[arg(long, value_parser = engine)]
        engine: Option<Engine>,
    },
}

fn engine(name: &str) -> std::result::Result<Engine, String> {
    [Engine::Zygote, Engine::Evcxr]
        .into_iter()
        .find(|engine| engine.name() == name)
        .ok_or_else(|| "write zygote or evcxr".to_owned())
}

impl Kernel {
    /// Runs the action; a started kernel takes this process's place.
    pub(crate) async fn run(self) -> Result<ExitCode> {
        match &self.action {
            Action::Install { location } => {
                for folder in install::install(location, self.data.data.as_deref()).await? {
                    println!("{}", folder.display());
                }
            }
            Action::Uninstall { location } => {
                let removed = install::uninstall(location).await?;
                for folder in &removed {
                    println!("removed {}", folder.display());
                }
                if removed.is_empty() {
                    println!("the kernelspecs were not installed there");
                }
            }
            Action::Start {
                connection_file,
                engine,
            } => {
                let mut settings = settings::load(&self.data.flags())?.settings;
                if let Some(engine) = engine {
                    settings.kernel.engine = *engine;
                }
                return Err(start::start(&settings, connection_file).await);
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
