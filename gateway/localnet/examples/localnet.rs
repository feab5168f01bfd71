//! Runs a local Aleph node until it is interrupted: `localnet --port 0 --data DIR [--faults]`.
//!
//! Prints its address on one line. The Python client tests start it.

use std::path::PathBuf;

use alephlab_localnet::{Config, Localnet, bind};
use anyhow::{Context, bail};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (mut port, mut data, mut faults) = (0, None, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .with_context(|| format!("{argument} needs a value"))
        };
        match argument.as_str() {
            "--port" => port = value()?.parse().context("--port is a number")?,
            "--data" => data = Some(PathBuf::from(value()?)),
            "--faults" => faults = true,
            other => bail!("unknown argument {other}: use --port N --data DIR [--faults]"),
        }
    }
    let data = data.context("--data DIR is missing")?;
    let mut config = Config::new(bind(([127, 0, 0, 1], port).into()).await?, data);
    config.faults = faults;
    let stop = CancellationToken::new();
    let node = Localnet::start(config, stop.clone()).await?;
    println!("{}", node.url);
    tokio::signal::ctrl_c().await?;
    stop.cancel();
    node.join.await??;
    Ok(())
}
