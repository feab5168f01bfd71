//! `alephlab kernel`: puts the kernelspec where Jupyter finds it, and starts the kernel for Jupyter.

mod install;
mod start;

use std::path::PathBuf;
use std::process::ExitCode;

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
    /// Install the kernelspec "alephlab": Rust (Alephlab).
    Install {
        #[command(flatten)]
        location: Location,
    },
    /// Remove the kernelspec.
    Uninstall {
        #[command(flatten)]
        location: Location,
    },
    /// Start a kernel; Jupyter calls this.
    Start {
        /// Jupyter's connection file.
        #[arg(long, value_name = "FILE")]
        connection_file: PathBuf,
    },
}

impl Kernel {
    /// Runs the action; a started kernel takes this process's place.
    pub(crate) async fn run(self) -> Result<ExitCode> {
        match &self.action {
            Action::Install { location } => {
                println!(
                    "{}",
                    install::install(location, self.data.data.as_deref())
                        .await?
                        .display()
                );
            }
            Action::Uninstall { location } => match install::uninstall(location).await? {
                Some(folder) => println!("removed {}", folder.display()),
                None => println!("the kernelspec was not installed there"),
            },
            Action::Start { connection_file } => {
                let loaded = settings::load(&self.data.flags())?;
                return Err(start::start(&loaded.settings, connection_file).await);
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
