//! `alephlab wallet deposit`, `withdraw`, `convert` and `settlement`: ALEPH that comes in, goes out and becomes credits. Each says
//! what it costs and what arrives before it asks.

use std::time::Duration;

use alephlab_api::client::{ClientError, GatewayClient};
use alephlab_api::money::{Amount, Asset};
use alephlab_api::payout::{
    Conversion, ConversionState, Conversions, Moved, NewConversion, NewWithdrawal, Rate, Settlement, Target,
    Way, Withdrawal,
};
use alephlab_api::time;
use clap::Args;
use serde_json::json;
use uuid::Uuid;

use super::confirm::agreed;
use crate::error::{CliError, Result};

type Answered<T> = std::result::Result<T, ClientError>;

/// How often one request is sent until it is answered.
const TRIES: u32 = 5;
/// Between two of them.
const BETWEEN: Duration = Duration::from_secs(2);

/// What `withdraw` takes.
#[derive(Args, Clone)]
pub(super) struct Withdraw {
    /// How much, in ALEPH such as 12.5.
    #[arg(required_unless_present_any = ["list", "take_back"])]
    amount: Option<Amount>,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// Only list what was asked for, newest first.
    #[arg(long, conflicts_with = "amount")]
    list: bool,
    /// Ask again for one whose answer did not arrive, by the id that was told then.
    #[arg(long, value_name = "ID", requires = "amount")]
    id: Option<Uuid>,
    /// Take back one that is in no batch yet, by its id as `--list` shows it.
    #[arg(long, value_name = "ID", conflicts_with_all = ["amount", "list"])]
    take_back: Option<Uuid>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What `convert` takes.
#[derive(Args, Clone)]
pub(super) struct Convert {
    /// How much, in ALEPH such as 12.5.
    #[arg(required_unless_present = "list")]
    amount: Option<Amount>,
    /// Credits for kernels at this gateway, or credits of the account's own address on the Aleph network.
    #[arg(long, default_value = "compute", value_name = "compute|network")]
    to: Target,
    /// Ask again for one whose answer did not arrive, by the id that was told then.
    #[arg(long, value_name = "ID", requires = "amount")]
    id: Option<Uuid>,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// Only list what was converted, newest first, and the rate.
    #[arg(long, conflicts_with = "amount")]
    list: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What `settlement` takes.
#[derive(Args, Clone)]
pub(super) struct Settle {
    /// Record that the contract's owner put so much in, in ALEPH.
    #[arg(long, value_name = "AMOUNT", conflicts_with_all = ["taken_out", "resume"])]
    put_in: Option<Amount>,
    /// Record that the contract's owner took so much out, in ALEPH.
    #[arg(long, value_name = "AMOUNT", conflicts_with = "resume")]
    taken_out: Option<Amount>,
    /// Record again what was not answered, by the id that was told then.
    #[arg(long, value_name = "ID", conflicts_with = "resume")]
    id: Option<Uuid>,
    /// Kept with what is recorded.
    #[arg(long, default_value = "")]
    memo: String,
    /// Have withdrawals go on after a stop.
    #[arg(long)]
    resume: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Where to send ALEPH to.
pub(super) async fn deposit(gateway: &GatewayClient, as_json: bool) -> Result<()> {
    let place = gateway.deposit_place().await?;
    if as_json {
        println!("{}", json!(place));
        return Ok(());
    }
    println!("send ALEPH to    {}", place.address);
    println!("token            {} on chain {}", place.token, place.chain_id);
    let when = match place.confirmations {
        Some(blocks) => format!("when {blocks} blocks lie upon its own"),
        None => "when the chain says that its block is final".to_owned(),
    };
    println!("counts           {when}");
    match place.from {
        Some(own) => {
            println!("only from        {own}");
            println!(
                "What comes from another address, an exchange's too, is nobody's until an account has proven that address."
            );
        }
        None => println!(
            "This account has proven no address, so a deposit would be nobody's: link the one that you send from first."
        ),
    }
    Ok(())
}

/// Has ALEPH sent to the account's own address.
pub(super) async fn withdraw(gateway: &GatewayClient, flags: &Withdraw) -> Result<()> {
    if let Some(id) = flags.take_back {
        print_withdrawal(&gateway.take_withdrawal_back(id).await?, flags.json);
        return Ok(());
    }
    let terms = gateway.withdrawals().await?;
    let Some(amount) = flags.amount else {
        for one in &terms.withdrawals {
            print_withdrawal(one, flags.json);
        }
        if terms.withdrawals.is_empty() && !flags.json {
            println!("nothing was withdrawn yet");
        }
        return Ok(());
    };
    let Some(to) = &terms.address else {
        return Err(CliError::Usage {
            message: "this account has proven no address to which anything could be sent".to_owned(),
            hint: "link one first: alephlab account link, or the page Settings".to_owned(),
        });
    };
    // The gateway refuses these too; here nobody is asked before. One that was asked for already may be past them.
    if let Some(code) = terms.stopped.as_deref().filter(|_| flags.id.is_none()) {
        return Err(CliError::Usage {
            message: format!("withdrawals are stopped ({code})"),
            hint: "what you have stays in your account; ask the gateway's operator".to_owned(),
        });
    }
    if amount < terms.minimum && flags.id.is_none() {
        return Err(CliError::Usage {
            message: format!("least that is paid out is {}", aleph(terms.minimum)),
            hint: "withdraw more, or convert it".to_owned(),
        });
    }
    let arrives = amount.saturating_sub(terms.fee);
    let what = format!(
        "{} go to {to} on chain {}. The gateway takes {} and pays the chain itself; {} arrive. Once it is in a batch it is not undone.",
        aleph(amount),
        terms.chain_id,
        aleph(terms.fee),
        aleph(arrives)
    );
    if !flags.json {
        println!("{what}");
    }
    if !flags.yes && !agreed("Withdraw it?")? {
        println!("nothing was withdrawn");
        return Ok(());
    }
    let new = NewWithdrawal {
        id: flags.id.unwrap_or_else(Uuid::new_v4),
        amount,
    };
    let asked = answered(new.id, async || gateway.withdraw(&new).await).await?;
    print_withdrawal(&asked, flags.json);
    Ok(())
}

fn print_withdrawal(one: &Withdrawal, as_json: bool) {
    if as_json {
        println!("{}", json!(one));
        return;
    }
    let reason = one
        .reason
        .as_deref()
        .map_or(String::new(), |reason| format!(": {reason}"));
    let transaction = one
        .transaction
        .as_deref()
        .map_or(String::new(), |hash| format!("  {hash}"));
    println!(
        "{}  {}  {} to {}  {}{reason}{transaction}",
        one.id,
        time::hub(one.asked),
        aleph(one.amount),
        one.address,
        one.state.words()
    );
}

/// Turns ALEPH into credits.
pub(super) async fn convert(gateway: &GatewayClient, flags: &Convert) -> Result<()> {
    let known = gateway.conversions().await?;
    let Some(amount) = flags.amount else {
        return list_conversions(&known, flags.json);
    };
    let Some(rate) = known.rate else {
        return Err(CliError::Usage {
            message: "the gateway has no rate of ALEPH that is new enough".to_owned(),
            hint: "ask its operator, or again later".to_owned(),
        });
    };
    let credits = rate.converted(amount, flags.to).unwrap_or_default();
    if amount < known.minimum || credits.is_zero() {
        return Err(CliError::Usage {
            message: format!("{} cannot be converted, {}", aleph(amount), said(&rate)),
            hint: format!("{} is the least", aleph(known.minimum)),
        });
    }
    if flags.to == Target::Network && !known.network {
        return Err(CliError::Usage {
            message: "this gateway sends no credits to the network".to_owned(),
            hint: "convert to compute: the credits are for kernels here".to_owned(),
        });
    }
    let whose = match flags.to {
        Target::Compute => "in your account here, for kernels",
        Target::Network => "at your own address on the Aleph network",
    };
    let what = format!(
        "{} become {} {whose}, {}. The gateway takes {}. There is no way back.",
        aleph(amount),
        credits.of(Asset::Credit),
        said(&rate),
        aleph(Amount::ZERO)
    );
    if !flags.json {
        println!("{what}");
    }
    if !flags.yes && !agreed("Convert it?")? {
        println!("nothing was converted");
        return Ok(());
    }
    let new = NewConversion {
        id: flags.id.unwrap_or_else(Uuid::new_v4),
        amount,
        to: flags.to,
        rate: rate.credits,
    };
    let done = answered(new.id, async || gateway.convert(&new).await).await?;
    print_conversion(&done, flags.json);
    Ok(())
}

/// Sends a request until it is answered: its id makes it one, however often it is sent.
async fn answered<T>(id: Uuid, ask: impl AsyncFn() -> Answered<T>) -> Result<T> {
    for _ in 0..TRIES {
        match ask().await {
            Err(ClientError::Unreachable { .. } | ClientError::Answer { .. }) => {
                tokio::time::sleep(BETWEEN).await;
            }
            answer => return Ok(answer?),
        }
    }
    Err(CliError::Usage {
        message: "the gateway did not answer, and may have done it or not".to_owned(),
        hint: format!("ask for the same again with --id {id}: it is done once"),
    })
}

fn list_conversions(known: &Conversions, as_json: bool) -> Result<()> {
    for one in &known.conversions {
        print_conversion(one, as_json);
    }
    if !as_json {
        match &known.rate {
            Some(rate) => println!("the next one: {}", said(rate)),
            None => println!("the gateway has no rate of ALEPH that is new enough"),
        }
    }
    Ok(())
}

fn aleph(amount: Amount) -> String {
    amount.of(Asset::Aleph)
}

fn said(rate: &Rate) -> String {
    format!(
        "at {} for {}, as of {}",
        rate.credits.of(Asset::Credit),
        aleph(Amount::from_whole(1)),
        time::hub(rate.time)
    )
}

fn print_conversion(one: &Conversion, as_json: bool) {
    if as_json {
        println!("{}", json!(one));
        return;
    }
    let state = match one.state {
        ConversionState::Done => "in the account",
        ConversionState::Asked => "to be sent",
        ConversionState::Posted => "posted",
        ConversionState::Seen => "sent",
        ConversionState::Returned => "not sent, the ALEPH is in the account again",
    };
    let reason = one
        .reason
        .as_deref()
        .map_or(String::new(), |reason| format!(": {reason}"));
    println!(
        "{}  {} became {}, {}  {state}{reason}",
        time::hub(one.asked),
        aleph(one.aleph),
        one.credits.of(Asset::Credit),
        said(&one.rate)
    );
}

/// Shows how settlement stands, after recording or resuming.
pub(super) async fn settlement(gateway: &GatewayClient, flags: &Settle) -> Result<()> {
    let moved = match (flags.put_in, flags.taken_out) {
        (Some(amount), _) => Some((Way::In, amount)),
        (None, Some(amount)) => Some((Way::Out, amount)),
        (None, None) => None,
    };
    let stands = match moved {
        Some((way, amount)) => {
            let id = flags.id.unwrap_or_else(Uuid::new_v4);
            let moved = Moved {
                key: id.to_string(),
                amount,
                way,
                memo: flags.memo.clone(),
            };
            answered(id, async || gateway.moved(&moved).await).await?
        }
        None if flags.resume => gateway.resume_settlement().await?,
        None => gateway.settlement().await?,
    };
    match flags.json {
        true => println!("{}", json!(stands)),
        false => print_settlement(&stands),
    }
    Ok(())
}

fn print_settlement(stands: &Settlement) {
    let Settlement {
        chain_id,
        contract,
        deposit,
        payout_key,
        ..
    } = stands;
    println!("chain         {chain_id}");
    println!("contract      {contract}");
    println!("payout key    {payout_key} (the contract's operator; it pays for gas)");
    println!("deposits      {deposit}");
    if let Some(block) = stands.read_to {
        println!("read to       block {block}");
    }
    if let Some(compared) = &stands.compared {
        println!(
            "compared      {}, block {}: {} on the chain, {} missing, {} in no book",
            time::hub(compared.time),
            compared.block,
            aleph(compared.on_chain),
            aleph(compared.missing),
            aleph(compared.unbooked)
        );
    }
    println!(
        "waiting       {} withdrawals, {}",
        stands.asked,
        aleph(stands.asked_total)
    );
    if stands.unknown > 0 {
        println!(
            "of nobody     {} deposits, {}",
            stands.unknown,
            aleph(stands.unknown_total)
        );
    }
    if let Some(batch) = &stands.batch {
        let waiting = batch
            .waiting
            .as_deref()
            .map_or(String::new(), |why| format!(": {why}"));
        println!(
            "batch         {} of {} to {} accounts, {}{waiting}",
            batch.id,
            aleph(batch.total),
            batch.payouts,
            batch.stage
        );
    }
    if let Some(trouble) = &stands.trouble {
        println!("trouble       {trouble}");
    }
    if let Some(stop) = &stands.stopped {
        println!(
            "STOPPED       since {} ({}): {}. Look, record what was put in or taken out, then --resume.",
            time::hub(stop.since),
            stop.code,
            stop.reason
        );
    }
}
