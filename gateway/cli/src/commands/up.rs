//! `alephlab up`: starts everything on this machine, prints the addresses and stays.

use clap::Args;
use serde_json::json;

use super::DataFlag;
use crate::build::prepare::prepare;
use crate::error::Result;
use crate::progress::Reporter;
use crate::services::{self, Services};
use crate::settings::{self, Flags};
use crate::stop::{self, or_stop};
use crate::{browser, logs};

/// Start the gateway, the local Aleph node and this machine as host, and stay.
///
/// The gateway serves Jupyter clients, for example `jupyter lab --gateway-url URL`, and the Hub API of the registry.
/// Ctrl-C ends everything, kernels included (unless gateway.keep_kernels is set). When it was killed, kernels go on for ten
/// minutes (gateway.outlive_minutes), and the next `alephlab up` takes them over at the same addresses.
#[derive(Args)]
pub(crate) struct Up {
    #[command(flatten)]
    data: DataFlag,
    /// Port of the gateway on 127.0.0.1; 0 takes a free one.
    #[arg(long)]
    port: Option<u16>,
    /// Token of the operator; made anew at each start when not set.
    #[arg(long)]
    token: Option<String>,
    /// Wait while another `alephlab up` has the data folder or the database, and take over when it ends.
    #[arg(long)]
    standby: bool,
    /// Do not open the start page in a browser.
    #[arg(long)]
    no_browser: bool,
    /// Print one JSON line with the addresses when ready.
    #[arg(long)]
    json: bool,
}

impl Up {
    /// Runs until Ctrl-C or until a part of it ends by itself.
    pub(crate) async fn run(self) -> Result<()> {
        let stop = stop::on_signal()?;
        let flags = Flags {
            port: self.port,
            token: self.token.clone(),
            standby: self.standby,
            ..self.data.flags()
        };
        let loaded = settings::load(&flags)?;
        let data = loaded.open_data()?;
        let reporter = Reporter::new();
        let (claim, prepared) = if loaded.settings.gateway.standby {
            // What takes long is done before: others wait when it is its turn.
            let prepared = Box::pin(prepare(&loaded.settings, &reporter, &stop)).await?;
            let phase = reporter.phase("standby", "waiting until no other gateway has this data folder");
            let claim = or_stop(&stop, "waiting", services::claim(&loaded, &data, true)).await?;
            phase.finish("taking over");
            logs::start(&data)?;
            (claim, prepared)
        } else {
            let claim = services::claim(&loaded, &data, false).await?;
            logs::start(&data)?;
            (
                claim,
                Box::pin(prepare(&loaded.settings, &reporter, &stop)).await?,
            )
        };
        let starting = async {
            let phase = reporter.phase(
                "services",
                "starting the Aleph node, the gateway and this machine as host",
            );
            let services = Box::pin(services::start(&loaded, &data, claim, &prepared)).await?;
            phase.finish("running");
            Ok(services)
        };
        let mut services = or_stop(&stop, "starting the services", starting).await?;
        tell_of_kernels(&services, &reporter).await;
        self.announce(&services, &reporter);
        let ended = tokio::select! {
            () = stop.cancelled() => Ok(()),
            error = services.watch() => Err(error),
        };
        reporter.line(match services.keeps_kernels() {
            true => "stopping gateway and node; kernels go on, for the next `alephlab up` to take over",
            false => "stopping kernels, gateway and node",
        });
        services.stop().await;
        ended
    }

    fn announce(&self, services: &Services, reporter: &Reporter) {
        let address = services.address_with_token();
        if self.json {
            let token = services.token.expose();
            let line = json!({
                "gateway_url": services.public_url, "aleph_url": services.aleph_url, "token": token,
            });
            println!("{line}");
        } else {
            println!("gateway:    {address}");
            println!("Aleph node: {}", services.aleph_url);
        }
        for line in how_to_use(services) {
            reporter.write(&line);
        }
        if !self.no_browser && !self.json {
            browser::open(&address);
        }
    }
}

/// Right after the start there are none but those of the last run.
async fn tell_of_kernels(services: &Services, reporter: &Reporter) {
    let kernels = services.gateway.kernels().await.unwrap_or_default();
    let going_on = kernels.iter().filter(|kernel| kernel.execution_state != "dead");
    match going_on.count() {
        0 => {}
        1 => reporter.line("1 kernel of the last run goes on"),
        count => reporter.line(&format!("{count} kernels of the last run go on")),
    }
}

/// What a user can type next.
pub(crate) fn how_to_use(services: &Services) -> [String; 2] {
    [
        format!(
            "JupyterLab: jupyter lab --gateway-url={} --GatewayClient.auth_token={}",
            services.public_url,
            services.token.expose()
        ),
        "Ctrl-C stops everything".to_owned(),
    ]
}
