//! `alephlab wallet deposit`, `withdraw`, `convert` and `settlement`: ALEPH that comes in, goes out and becomes credits. Each says
//! what it costs and what arrives before it asks.

use alephlab_api::client::GatewayClient;
use alephlab_api::money::Amount;
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
    let to = terms
        .address
        .as_deref()
        .unwrap_or("an address that this account has to prove first");
    let arrives = amount.saturating_sub(terms.fee);
    let what = format!(
        "{amount} ALEPH go to {to} on chain {}. The gateway takes {} ALEPH and pays the chain itself; {arrives} ALEPH arrive. It is not undone.",
        terms.chain_id, terms.fee
    );
    if !flags.json {
        println!("{what}");
    }
    if !flags.yes && !agreed("Withdraw it?")? {
        println!("nothing was withdrawn");
        return Ok(());
    }
    // Each command asks once, however often its request is sent.
    let id = Uuid::new_v4();
    let asked = gateway.withdraw(&NewWithdrawal { id, amount }).await?;
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
        "{}  {}  {} ALEPH to {}  {}{reason}{transaction}",
        one.id,
        time::hub(one.asked),
        one.amount,
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
    let whose = match flags.to {
        Target::Compute => "in your account here, for kernels",
        Target::Network => "at your own address on the Aleph network",
    };
    let what = format!(
        "{amount} ALEPH become {credits} credits {whose}, {}. The gateway takes 0 ALEPH. There is no way back.",
        said(&rate)
    );
    if !flags.json {
        println!("{what}");
    }
    if !flags.yes && !agreed("Convert it?")? {
        println!("nothing was converted");
        return Ok(());
    }
    let new = NewConversion {
        id: Uuid::new_v4(),
        amount,
        to: flags.to,
        rate: rate.credits,
    };
    print_conversion(&gateway.convert(&new).await?, flags.json);
    Ok(())
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

fn said(rate: &Rate) -> String {
    format!(
        "at {} credits for one ALEPH, as of {}",
        rate.credits,
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
        ConversionState::Returned => "in the account, not sent",
    };
    let reason = one
        .reason
        .as_deref()
        .map_or(String::new(), |reason| format!(": {reason}"));
    println!(
        "{}  {} ALEPH became {} credits, {}  {state}{reason}",
        time::hub(one.asked),
        one.aleph,
        one.credits,
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
            let moved = Moved {
                key: Uuid::new_v4().to_string(),
                amount,
                way,
                memo: flags.memo.clone(),
            };
            gateway.moved(&moved).await?
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
            "compared      {}, block {}: {} ALEPH on the chain, {} missing, {} in no book",
            time::hub(compared.time),
            compared.block,
            compared.on_chain,
            compared.missing,
            compared.unbooked
        );
    }
    println!(
        "waiting       {} withdrawals, {} ALEPH",
        stands.asked, stands.asked_total
    );
    if stands.unknown > 0 {
        println!(
            "of nobody     {} deposits, {} ALEPH",
            stands.unknown, stands.unknown_total
        );
    }
    if let Some(batch) = &stands.batch {
        let waiting = batch
            .waiting
            .as_deref()
            .map_or(String::new(), |why| format!(": {why}"));
        println!(
            "batch         {} of {} ALEPH to {} accounts, {}{waiting}",
            batch.id, batch.total, batch.payouts, batch.stage
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
