//! `alephlab host`: what can be rented, what an account has rented and its cap, and the account that pays for it on Aleph's
//! network.

use std::collections::BTreeMap;

use alephlab_api::client::GatewayClient;
use alephlab_api::jupyter::NewKernel;
use alephlab_api::money::{Amount, Asset};
use alephlab_api::offer::{AllocationModel, NewQuote, Offer, Stage, usd};
use alephlab_api::time;
use clap::{Args, Subcommand};
use uuid::Uuid;

use super::at_gateway::AtGateway;
use super::confirm::agreed;
use crate::error::{CliError, Result};
use crate::renting;

/// Hosts beyond this machine: offers with their prices, and what the account has rented.
#[derive(Args)]
pub(crate) struct Host {
    #[command(flatten)]
    at: AtGateway,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List what can be rented now, cheapest first, and what cannot and why.
    Offers,
    /// Start a kernel on an offer, after showing the price.
    Rent {
        /// The offer's id, as `offers` shows it.
        offer: String,
        /// Most credits to spend; what the account has, up to twelve hours, when not given.
        #[arg(long, value_name = "CREDITS")]
        cap: Option<String>,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// List what the account has rented, newest first.
    List,
    /// Raise the cap of a kernel that runs, after showing what is set aside for it; also of one on the gateway's own machine.
    RaiseCap {
        /// The kernel's id, as `list` shows it.
        kernel: Uuid,
        /// The whole cap in credits, not what is added; 1 USD is 1,000,000.
        #[arg(value_name = "CREDITS")]
        cap: Amount,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Show the address that pays for hosts on Aleph's network: send credits there.
    Account,
}

impl Host {
    /// Runs the action.
    pub(crate) async fn run(self) -> Result<()> {
        match &self.action {
            Action::Account => {
                let data = self.at.load()?.open_data()?;
                data.make(&data.gateway())?;
                println!("{}", renting::wallet(&data)?.address());
                Ok(())
            }
            Action::Offers => offers(&self.at.connect().await?.0).await,
            Action::List => list(&self.at.connect().await?.0).await,
            Action::Rent { offer, cap, yes } => {
                let (gateway, _) = self.at.connect().await?;
                rent(&gateway, offer, cap.as_deref(), *yes).await
            }
            Action::RaiseCap { kernel, cap, yes } => {
                let (gateway, _) = self.at.connect().await?;
                raise_cap(&gateway, *kernel, *cap, *yes).await
            }
        }
    }
}

async fn offers(gateway: &GatewayClient) -> Result<()> {
    let all = gateway.offers().await?;
    for offer in &all.offers {
        println!("{}", line(offer));
    }
    for trouble in &all.troubles {
        println!("{trouble}");
    }
    if all.offers.is_empty() && all.troubles.is_empty() {
        println!("this gateway rents no hosts; its operator sets hosts.aleph");
    }
    Ok(())
}

fn line(offer: &Offer) -> String {
    let now = match &offer.unavailable {
        None => offer.id.clone(),
        Some(reason) => format!("not available: {reason}"),
    };
    format!(
        "{:<14} {:>5} USD/h  {:>3} vCPU {:>4} GiB  {}  {}  {now}",
        offer.hardware,
        usd(offer.price),
        offer.vcpus,
        offer.memory_gib,
        offer.trust,
        offer.place
    )
}

async fn rent(gateway: &GatewayClient, offer: &str, cap: Option<&str>, yes: bool) -> Result<()> {
    let cap = cap.map(str::parse).transpose();
    let cap = cap.map_err(|error| CliError::Usage {
        message: format!("--cap: {error}"),
        hint: "write credits, for example --cap 500000 for 0.50 USD".to_owned(),
    })?;
    let asked = NewQuote {
        offer: offer.to_owned(),
        cap,
        idle_seconds: None,
    };
    let quote = gateway.quote(&asked).await?;
    println!(
        "{} at {}: {} USD/h, at most {} USD for {}; {}",
        quote.offer.hardware,
        quote.offer.place,
        usd(quote.offer.price),
        usd(quote.cap),
        spoken(quote.seconds),
        quote.offer.trust
    );
    if !yes && !agreed("Rent it?")? {
        println!("nothing was rented");
        return Ok(());
    }
    let env = BTreeMap::from([("KERNEL_QUOTE".to_owned(), quote.id.to_string())]);
    let wanted = NewKernel {
        env,
        ..NewKernel::default()
    };
    let kernel = gateway.start_kernel(&wanted).await?;
    println!(
        "kernel {} is starting; `alephlab host list` shows how far it is",
        kernel.id
    );
    Ok(())
}

async fn raise_cap(gateway: &GatewayClient, kernel: Uuid, cap: Amount, yes: bool) -> Result<()> {
    let now = gateway.cap(kernel).await?;
    let more = cap.saturating_sub(now.cap);
    let balances = gateway.balance().await?.balances;
    let credits = balances.iter().find(|balance| balance.asset == Asset::Credit);
    let available = credits.map_or(Amount::ZERO, |balance| balance.available);
    println!(
        "{} of {} USD are used, at {} USD/h; a cap of {} USD sets {} USD more aside, of {} USD that are available",
        usd(now.charged),
        usd(now.cap),
        usd(now.price),
        usd(cap),
        usd(more),
        usd(available)
    );
    // What sets nothing aside is asked of the gateway at once: it says why not.
    if !more.is_zero() && !yes && !agreed("Raise it?")? {
        println!("nothing was set aside");
        return Ok(());
    }
    let raised = gateway.raise_cap(kernel, cap).await?;
    println!(
        "kernel {kernel} has a cap of {} USD, which lasts {} more",
        usd(raised.cap),
        spoken(raised.seconds_left)
    );
    Ok(())
}

async fn list(gateway: &GatewayClient) -> Result<()> {
    let all = gateway.allocations().await?.allocations;
    for allocation in &all {
        println!("{}", rented(allocation));
    }
    if all.is_empty() {
        println!("nothing was rented yet");
    }
    Ok(())
}

fn rented(allocation: &AllocationModel) -> String {
    let detail = allocation.detail.as_deref().unwrap_or("");
    let stage = match allocation.stage {
        Stage::Ending => "ending (the host is being given back)",
        stage => stage.name(),
    };
    format!(
        "{}  {}  {:<14} {:<8} {} of {} USD for {}  {detail}",
        allocation.id,
        time::hub(allocation.created),
        allocation.offer.hardware,
        stage,
        usd(allocation.charged),
        usd(allocation.cap),
        spoken(allocation.seconds)
    )
}

fn spoken(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        _ => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
    }
}
