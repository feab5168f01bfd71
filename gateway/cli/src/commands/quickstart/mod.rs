//! `alephlab quickstart`: the whole job once, on real parts, with every phase shown and timed.

mod job;

use clap::Args;
use serde_json::json;

use super::DataFlag;
use super::up::how_to_use;
use crate::account::Account;
use crate::build::prepare::prepare;
use crate::error::Result;
use crate::logs;
use crate::progress::Reporter;
use crate::services::{self, Services};
use crate::settings::{self, Flags};
use crate::stop::{self, or_stop};
use job::{Job, Outcome};

/// Do the whole job once, on real parts: encrypt a dataset, train on it, publish, share, pull.
///
/// Builds what is still missing, starts a local Aleph node, the gateway and this machine as host, makes two accounts,
/// and runs notebooks/quickstart.ipynb and notebooks/pull.ipynb on kernels that the gateway allocates. Then it stays,
/// so that you can open JupyterLab on it.
#[derive(Args)]
pub(crate) struct Quickstart {
    #[command(flatten)]
    data: DataFlag,
    /// End after the job; the exit status says whether it was done.
    #[arg(long)]
    exit: bool,
    /// Print one JSON object as the last line of output.
    #[arg(long)]
    json: bool,
    /// Port of the gateway on 127.0.0.1; 0 takes a free one.
    #[arg(long)]
    port: Option<u16>,
}

impl Quickstart {
    /// Does the job, then stays until Ctrl-C unless told otherwise.
    pub(crate) async fn run(self) -> Result<()> {
        let stop = stop::on_signal()?;
        let mut loaded = settings::load(&Flags {
            port: self.port,
            ..self.data.flags()
        })?;
        // Nobody takes a quickstart over.
        loaded.settings.gateway.outlive_minutes = 0;
        let data = loaded.open_data()?;
        let claim = services::claim(&loaded, &data, false).await?;
        logs::start(&data)?;
        let reporter = Reporter::new();
        reporter.line(&format!("data folder: {}", data.root().display()));
        let prepared = Box::pin(prepare(&loaded.settings, &reporter, &stop)).await?;
        let starting = async {
            let phase = reporter.phase(
                "services",
                "starting the Aleph node, the gateway and this machine as host",
            );
            // Before the gateway starts: it lets in the accounts that it finds in the data folder.
            Account::open_or_create(&data, job::READER)?;
            let services = Box::pin(services::start(&loaded, &data, claim, &prepared)).await?;
            phase.finish(&format!(
                "gateway {}, Aleph node {}",
                services.gateway_url, services.aleph_url
            ));
            Ok(services)
        };
        let mut services = or_stop(&stop, "starting the services", starting).await?;
        let job = Job {
            services: &services,
            reporter: &reporter,
            stop: &stop,
            data: &data,
            root: prepared.root,
        };
        let result = match Box::pin(job.run()).await {
            Ok(outcome) => {
                self.tell(&outcome, &services, &reporter);
                if self.exit {
                    Ok(())
                } else {
                    stay(&mut services, &stop, &reporter).await
                }
            }
            Err(error) => Err(error),
        };
        services.stop().await;
        result
    }

    fn tell(&self, outcome: &Outcome, services: &Services, reporter: &Reporter) {
        for line in summary(outcome, services) {
            reporter.write(&line);
        }
        if self.json {
            println!("{}", as_json(outcome, services, reporter));
        } else {
            println!("gateway:    {}", services.address_with_token());
            println!("Aleph node: {}", services.aleph_url);
        }
        if !self.exit {
            for line in how_to_use(services) {
                reporter.write(&line);
            }
        }
    }
}

async fn stay(
    services: &mut Services,
    stop: &tokio_util::sync::CancellationToken,
    reporter: &Reporter,
) -> Result<()> {
    let ended = tokio::select! {
        () = stop.cancelled() => Ok(()),
        error = services.watch() => Err(error),
    };
    reporter.line("stopping kernels, gateway and node");
    ended
}

fn summary(outcome: &Outcome, services: &Services) -> Vec<String> {
    let percent = |accuracy: f64| format!("{:.2} %", accuracy * 100.0);
    vec![
        String::new(),
        format!(
            "trained:    {} of the held-back digits are read correctly",
            percent(outcome.accuracy)
        ),
        format!(
            "pulled:     {} with the second account's copy",
            percent(outcome.pulled_accuracy)
        ),
        format!("model:      {} at {}", outcome.model, outcome.revision),
        format!(
            "share:      {} {}",
            outcome.share_uuid,
            outcome.share_token.expose()
        ),
        format!(
            "download:   HF_ENDPOINT={} HF_TOKEN={} hf download m/{}",
            services.gateway_url,
            outcome.share_token.expose(),
            outcome.share_uuid
        ),
        format!("notebooks:  {}", outcome.notebooks.display()),
    ]
}

fn as_json(outcome: &Outcome, services: &Services, reporter: &Reporter) -> serde_json::Value {
    json!({
        "accuracy": outcome.accuracy,
        "pulled_accuracy": outcome.pulled_accuracy,
        "dataset": outcome.dataset,
        "model": outcome.model,
        "revision": outcome.revision,
        "share_uuid": outcome.share_uuid,
        "share_token": outcome.share_token.expose(),
        "gateway_url": services.gateway_url,
        "aleph_url": services.aleph_url,
        "seconds": reporter.seconds(),
    })
}
