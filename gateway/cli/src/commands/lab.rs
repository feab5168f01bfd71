//! `alephlab lab`: JupyterLab as a page of the gateway.

use clap::{Args, Subcommand};

use crate::error::Result;
use crate::lab::{self, VERSION};
use crate::progress::Reporter;
use crate::stop;

/// Serve JupyterLab itself from the gateway, so that notebooks need a browser and nothing else.
#[derive(Args)]
pub(crate) struct Lab {
    #[command(subcommand)]
    step: Step,
}

#[derive(Subcommand)]
enum Step {
    /// Fetch JupyterLab's published files with pip, check and unpack them. The next `alephlab up` serves them at /lab.
    Install,
}

impl Lab {
    pub(crate) async fn run(self) -> Result<()> {
        let Step::Install = self.step;
        let stop = stop::on_signal()?;
        let reporter = Reporter::new();
        let phase = reporter.phase("lab", &format!("fetching JupyterLab {VERSION} (15 MB)"));
        let (folder, was_there) = lab::install(&stop).await?;
        phase.finish(if was_there { "already here" } else { "installed" });
        reporter.write(&format!("{}", folder.display()));
        reporter.write("The next `alephlab up` serves it: open its address, then JupyterLab.");
        Ok(())
    }
}
