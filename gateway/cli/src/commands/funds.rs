//! `alephlab wallet balance`, `statement` and `credit`: what an account has at a gateway.

use alephlab_api::client::GatewayClient;
use alephlab_api::ledger::{Balances, NewCredit};
use alephlab_api::money::{Amount, Asset};
use serde_json::json;

use crate::error::{CliError, Result};

/// What the account has; with `as_json`, one object.
pub(super) async fn balance(gateway: &GatewayClient, as_json: bool) -> Result<()> {
    print_balances(&gateway.balance().await?, as_json);
    Ok(())
}

/// All entries of the account, oldest first.
pub(super) async fn statement(gateway: &GatewayClient, as_json: bool) -> Result<()> {
    let mut after = 0;
    loop {
        let entries = gateway.statement(after).await?;
        let Some(last) = entries.last() else {
            return Ok(());
        };
        after = last.seq;
        for entry in entries {
            if as_json {
                println!("{}", json!(entry));
                continue;
            }
            let sign = if entry.incoming { '+' } else { '-' };
            let time = alephlab_api::time::hub(entry.time);
            println!("{time}  {sign}{}  {}", entry.amount.of(entry.asset), entry.memo);
        }
    }
}

/// Gives an account something to spend, as the gateway's operator.
pub(super) async fn credit(
    gateway: &GatewayClient,
    to: String,
    amount: Amount,
    asset: Asset,
    memo: &str,
    as_json: bool,
) -> Result<()> {
    if amount.is_zero() {
        return Err(CliError::Usage {
            message: "nothing is given".to_owned(),
            hint: "name an amount above 0".to_owned(),
        });
    }
    let credit = NewCredit {
        address: to,
        amount,
        asset,
        // Each command gives once, however often its request is sent.
        key: uuid::Uuid::new_v4().to_string(),
        memo: memo.to_owned(),
    };
    print_balances(&gateway.give(&credit).await?, as_json);
    Ok(())
}

fn print_balances(balances: &Balances, as_json: bool) {
    if as_json {
        println!("{}", json!(balances));
        return;
    }
    if balances.balances.is_empty() {
        println!("{} has nothing here", balances.address);
    }
    for one in &balances.balances {
        let of = |amount: Amount| amount.of(one.asset);
        println!(
            "{} has {}: {} available, {} set aside for what runs",
            balances.address,
            of(one.total),
            of(one.available),
            of(one.held)
        );
    }
}
