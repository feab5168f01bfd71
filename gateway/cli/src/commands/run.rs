//! `alephlab run`: runs a notebook without a browser and writes its outputs into it.

use std::path::PathBuf;

use alephlab_api::Secret;
use alephlab_api::client::GatewayClient;
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::keys::connect;
use super::{DataFlag, GatewayFlag};
use crate::account::Account;
use crate::build::prepare::prepare;
use crate::error::{CliError, Result};
use crate::jupyter::notebook::Notebook;
use crate::jupyter::session::{self, Place};
use crate::progress::Reporter;
use crate::services::{self, Services};
use crate::settings::{self, Loaded};
use crate::stop::{self, or_stop};
use crate::{address, logs, run_file};

/// Run a notebook headlessly and write its outputs into it.
///
/// Without --gateway the running `alephlab up` of this data folder is used; without one everything is started for the
/// time of the run. When a cell fails, the outputs up to there are written and the exit status is not zero.
#[derive(Args)]
pub(crate) struct Run {
    #[command(flatten)]
    data: DataFlag,
    /// The notebook, an .ipynb file.
    notebook: PathBuf,
    /// Write the result here and leave the notebook as it is.
    #[arg(long, value_name = "OUT")]
    output: Option<PathBuf>,
    #[command(flatten)]
    gateway: GatewayFlag,
    /// Token of an account at that gateway.
    #[arg(long, requires = "gateway", conflicts_with = "account")]
    token: Option<String>,
    /// Sign in as this account of the data folder, and not as the one that the gateway belongs to. Its `alephlab keys`
    /// must answer for what the notebook opens.
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    /// Set a variable before the notebook runs; numbers and booleans as such, everything else as String.
    #[arg(long = "param", value_name = "NAME=VALUE", value_parser = parse_parameter)]
    parameters: Vec<(String, String)>,
}

impl Run {
    /// Runs it.
    pub(crate) async fn run(self) -> Result<()> {
        let stop = stop::on_signal()?;
        let mut loaded = settings::load(&self.data.flags())?;
        // Its own gateway is for one notebook.
        loaded.settings.gateway.outlive_minutes = 0;
        if let Some(url) = &self.gateway.gateway {
            address::check(url, self.gateway.insecure_http)?;
        }
        let mut notebook = Notebook::read(&self.notebook)?;
        notebook.inject(&self.parameters)?;
        let reporter = Reporter::new();
        if let Some(name) = &self.account {
            let data = loaded.data();
            let account = Account::open(&data, name)?;
            let (gateway, token) = connect(&data, &self.gateway, &account).await?;
            return self.execute(&gateway, &token, notebook, &reporter, &stop).await;
        }
        if let Some(url) = &self.gateway.gateway {
            let token = self.token.as_ref().ok_or_else(|| CliError::Usage {
                message: "a gateway was named, and nobody to sign in as".to_owned(),
                hint: "add --account NAME or --token TOKEN".to_owned(),
            })?;
            let token = Secret::new(token.clone());
            let gateway = GatewayClient::new(url, Some(token.clone()))?;
            return self.execute(&gateway, &token, notebook, &reporter, &stop).await;
        }
        if let Some(run) = run_file::find(&loaded.data())? {
            let token = Secret::new(run.token.clone());
            let gateway = GatewayClient::new(&run.gateway_url, Some(token.clone()))?;
            return self.execute(&gateway, &token, notebook, &reporter, &stop).await;
        }
        let services = Box::pin(start(&loaded, &reporter, &stop)).await?;
        let result = self
            .execute(&services.gateway, &services.token, notebook, &reporter, &stop)
            .await;
        services.stop().await;
        result
    }

    async fn execute(
        &self,
        gateway: &GatewayClient,
        token: &Secret,
        mut notebook: Notebook,
        reporter: &Reporter,
        stop: &CancellationToken,
    ) -> Result<()> {
        let place = Place {
            gateway,
            token,
            reporter,
            stop,
        };
        let kernel = session::start(&place, "kernel").await?;
        let result = session::run(&place, "notebook", kernel, &mut notebook).await;
        let output = self.output.as_ref().unwrap_or(&self.notebook);
        let written = notebook.write(output);
        session::stop(&place, kernel).await;
        // The cell's error says more than a full disk would.
        result?;
        written?;
        println!("{}", output.display());
        Ok(())
    }
}

async fn start(loaded: &Loaded, reporter: &Reporter, stop: &CancellationToken) -> Result<Services> {
    let data = loaded.open_data()?;
    let claim = services::claim(loaded, &data, false).await?;
    logs::start(&data)?;
    let prepared = Box::pin(prepare(&loaded.settings, reporter, stop)).await?;
    or_stop(
        stop,
        "starting the services",
        Box::pin(services::start(loaded, &data, claim, &prepared)),
    )
    .await
}

fn parse_parameter(text: &str) -> std::result::Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}
