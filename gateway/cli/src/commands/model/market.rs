//! What models cost, and buying: `model sell`, `buy`, `orders`, `refund` and `earnings`.

use std::time::{Duration, Instant};

use alephlab_api::market::{
    Bought, ModelTerms, Order, OrderState, Part, PartKind, ReleaseWay, SaleQuote, Split, WaitingReason,
    basis_points,
};
use alephlab_api::money::{Amount, Asset};
use alephlab_api::time;
use alephlab_vault::Address;
use clap::Args;
use serde_json::json;
use uuid::Uuid;

use super::{ModelCommand, counted, say_untold};
use crate::commands::confirm::{Loss, confirm};
use crate::error::{CliError, Result};
use crate::models::{Asks, Found, Reference, Registry};
use crate::progress::{Phase, Reporter, printable};

const LOSS: Loss = Loss {
    becomes: "be paid from your balance",
    done: "paid",
    verb: "pay",
};
/// How often an order is looked at while its key is waited for.
const LOOK: Duration = Duration::from_millis(500);

/// Say what a revision of a model of yours costs, from now on; what is not said is nothing.
#[derive(Args)]
pub(super) struct Sell {
    /// The model.
    model: String,
    /// In ALEPH, for each buyer and revision, such as 240 or 0.5.
    #[arg(long, value_name = "ALEPH", required_unless_present_any = ["stop", "royalty"])]
    price: Option<Amount>,
    /// What sellers of models that are made from it pay you of their price, at most 30%; half of it from the next ones, a quarter
    /// after that.
    #[arg(long, value_name = "PERCENT", value_parser = basis_points)]
    royalty: Option<u16>,
    /// Who else has a part of what you get, such as 0x...=20%; may be said more than once.
    #[arg(long, value_name = "ADDRESS=PERCENT", value_parser = parse_split)]
    split: Vec<Split>,
    /// How a buyer gets the key: `keys`, from this machine's `alephlab keys`; `deposit`, at once from the gateway, whose operator can
    /// read the model then. `attested`, from a measured service, is not available yet.
    #[arg(long, value_name = "keys|deposit", default_value = "keys", value_parser = parse_way)]
    release: ReleaseWay,
    /// Not sold any more; who bought it keeps it.
    #[arg(long, conflicts_with = "price")]
    stop: bool,
}

/// Buy a revision of another account's model, from your balance at the gateway.
#[derive(Args)]
pub(super) struct Buy {
    /// OWNER/NAME, with @REVISION or @TAG for another one than the newest.
    model: String,
    /// Most that is paid, in ALEPH.
    #[arg(long, value_name = "ALEPH")]
    max: Option<Amount>,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// How long to wait for the key, seconds; what is bought stays bought.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    wait: u64,
}

impl ModelCommand {
    pub(super) async fn sell(&self, registry: &Registry, sell: &Sell) -> Result<()> {
        let (name, found) = registry.find_own(&Reference::parse(&sell.model)?).await?;
        registry.learn(&name, &found.model).await?;
        let asks = Asks {
            price: sell.price,
            royalty: sell.royalty.unwrap_or(0),
            split: sell.split.clone(),
            release: sell.release,
        };
        let deposits = sell.release == ReleaseWay::Deposit && sell.price.is_some();
        if deposits {
            // Before it is offered so.
            registry.deposit(&name).await?;
        }
        let said = registry.sell(&name, asks).await?;
        if !deposits {
            // Each time: an earlier run may have been stopped before this.
            registry.gateway()?.forget_deposits(&found.name).await?;
        }
        let unchanged = said.is_none();
        let before = found.model.asks();
        let (terms, message) = match said {
            Some((terms, posted)) => {
                say_untold(&Reporter::new(), posted.untold.as_ref());
                (terms, Some(posted.message))
            }
            None => (before.cloned().ok_or_else(|| gone(&found))?, None),
        };
        let text = match terms.price {
            Some(price) if deposits => format!(
                "{} costs {} from now on; this gateway has the key of {}, and its operator can read it; sell again after \
                 publishing",
                terms.name,
                price.of(terms.asset),
                found.revision.record.commit
            ),
            Some(price) => format!(
                "{} costs {} from now on; keep `alephlab keys` running on this machine: it gives buyers the key",
                terms.name,
                price.of(terms.asset)
            ),
            None => format!("{} is not for sale; who bought it keeps it", terms.name),
        };
        let mut dropped = before.map(|before| dropped(before, &terms)).unwrap_or_default();
        dropped.retain(|one| !(sell.stop && *one == "price"));
        let text = match &dropped[..] {
            [] => text,
            dropped => format!(
                "{text}; no longer asked, because it was not said: {}",
                dropped.join(", ")
            ),
        };
        self.print(
            &json!({ "terms": terms, "message": message, "unchanged": unchanged, "dropped": dropped }),
            &text,
        );
        Ok(())
    }

    pub(super) async fn buy(&self, registry: &Registry, buy: &Buy) -> Result<()> {
        let found = match Reference::parse(&buy.model)? {
            Reference::Model {
                owner,
                name,
                revision,
            } => registry.find(owner, &name, revision.as_deref()).await?,
            Reference::Share(_) => {
                return Err(CliError::Usage {
                    message: "a share is given, not bought".to_owned(),
                    hint: "name a model: OWNER/NAME".to_owned(),
                });
            }
        };
        let reporter = Reporter::new();
        let bought = match registry.order_of(&found).await? {
            // Paid by an earlier run of this command.
            Some(order) if order.release == ReleaseWay::Deposit => registry.answer_again(&order).await?,
            Some(order) => Bought { order, share: None },
            None => {
                let quote = registry.quote(&found).await?;
                self.agree(registry, &quote, buy).await?;
                registry.buy(&quote, Uuid::new_v4()).await?
            }
        };
        let order = bought.order;
        if let Some(share) = bought.share {
            return self.bought_share(registry, &order, share.uuid).await;
        }
        let id = order.purchase.order;
        let phase = reporter.phase("order", &format!("{id}: waiting for the seller's machine"));
        let order = released(registry, order, Duration::from_secs(buy.wait), &phase).await?;
        match order.state {
            OrderState::Released | OrderState::Final => {}
            _ => return Err(not_released(&order)),
        }
        phase.finish("the key is here");
        registry.open_released(&found.revision.record, id).await?;
        self.print(
            &json!({ "order": order, "model": found.name, "revision": order.purchase.revision }),
            &format!(
                "{} is yours to read: alephlab model pull {}@{}",
                found.name, found.name, order.purchase.revision
            ),
        );
        Ok(())
    }

    /// What was bought of a deposited key: its token is kept.
    async fn bought_share(&self, registry: &Registry, order: &Order, share: Uuid) -> Result<()> {
        registry.open_share(share).await?;
        let model = &order.purchase.model;
        self.print(
            &json!({ "order": order, "model": model, "revision": order.purchase.revision, "share": share }),
            &format!("{model} is yours to read by this gateway's share: alephlab model pull {share}"),
        );
        Ok(())
    }

    /// Shows what is paid to whom, and has the person agree.
    async fn agree(&self, registry: &Registry, quote: &SaleQuote, buy: &Buy) -> Result<()> {
        let price = quote.price.of(quote.asset);
        let reporter = Reporter::new();
        reporter.line(&format!("model    {}@{}", quote.model, quote.revision));
        reporter.line(&format!("price    {price}"));
        for part in &quote.parts {
            reporter.line(&format!("         {}", in_words(part, quote.asset)));
        }
        reporter.line(&format!("key      {}", quote.release.in_words()));
        reporter.line(&format!(
            "refund   until the key is here, and by itself if none came within {}",
            term(quote.refund_seconds)
        ));
        let balances = registry.gateway()?.balance().await?.balances;
        let own = balances.iter().find(|balance| balance.asset == quote.asset);
        let available = own.map_or(Amount::ZERO, |balance| balance.available);
        reporter.line(&format!("balance  {}", available.of(quote.asset)));
        if let Some(max) = buy.max.filter(|max| quote.price > *max) {
            return Err(CliError::Usage {
                message: format!("it costs {price}, and --max is {}", max.of(quote.asset)),
                hint: "say a higher --max, or leave it".to_owned(),
            });
        }
        if buy.yes {
            return Ok(());
        }
        let name = quote.model.rsplit('/').next().unwrap_or(&quote.model);
        confirm(&price, name, &LOSS)
    }

    pub(super) async fn orders(&self, registry: &Registry, sold: bool) -> Result<()> {
        let gateway = registry.gateway()?;
        let orders = match sold {
            true => {
                let sales = gateway.sales(false).await?.into_iter();
                sales.map(|sale| sale.order).collect()
            }
            false => gateway.orders().await?,
        };
        for order in &orders {
            let purchase = &order.purchase;
            self.print(
                &json!(order),
                &format!(
                    "{}  {}  {:<8}  {}  {}@{}",
                    purchase.order,
                    time::hub(order.paid),
                    order.state.name(),
                    purchase.price.of(purchase.asset),
                    printable(&purchase.model),
                    purchase.revision
                ),
            );
        }
        Ok(())
    }

    pub(super) async fn refund(&self, registry: &Registry, order: Uuid) -> Result<()> {
        let order = registry.gateway()?.refund(order).await?;
        let purchase = &order.purchase;
        self.print(
            &json!(order),
            &format!(
                "{} went back to your balance; {} is not bought",
                purchase.price.of(purchase.asset),
                purchase.model
            ),
        );
        Ok(())
    }

    pub(super) async fn earnings(&self, registry: &Registry) -> Result<()> {
        let earnings = registry.gateway()?.earnings().await?;
        if self.json {
            println!("{}", json!(earnings));
            return Ok(());
        }
        for row in &earnings.rows {
            println!(
                "{}  {}  {}  {}  {} pending, {} earned",
                time::hub(row.day).get(..10).unwrap_or_default(),
                printable(&row.model),
                row.kind.name(),
                counted(row.sales, "sale", "sales"),
                row.pending.of(earnings.asset),
                row.earned.of(earnings.asset)
            );
        }
        for one in &earnings.waiting {
            let (amount, until) = (one.amount.of(earnings.asset), time::hub(one.last));
            match one.reason {
                WaitingReason::NoKey => println!(
                    "{amount} pending: the buyer has no key yet, and it goes back by {until} unless `alephlab keys` gives it"
                ),
                WaitingReason::Settling => println!("{amount} pending: yours by {until}"),
            }
        }
        println!(
            "{} pending, {} available, {} paid out",
            earnings.pending.of(earnings.asset),
            earnings.available.of(earnings.asset),
            earnings.paid_out.of(earnings.asset)
        );
        Ok(())
    }
}

/// What was asked before and is not any more: each `sell` says everything.
fn dropped(before: &ModelTerms, now: &ModelTerms) -> Vec<&'static str> {
    let lost = [
        ("price", before.price.is_some() && now.price.is_none()),
        ("royalty", before.royalty > 0 && now.royalty == 0),
        ("split", !before.split.is_empty() && now.split.is_empty()),
    ];
    lost.into_iter()
        .filter(|(_, lost)| *lost)
        .map(|(name, _)| name)
        .collect()
}

/// Waits until the key went out or what was paid went back, at most so long.
async fn released(registry: &Registry, mut order: Order, most: Duration, phase: &Phase) -> Result<Order> {
    let (gateway, started) = (registry.gateway()?, Instant::now());
    let id = order.purchase.order;
    let mut is_said = false;
    while order.state == OrderState::Paid && started.elapsed() < most {
        tokio::time::sleep(LOOK).await;
        order = gateway.order(id).await?;
        if order.claimed && !is_said {
            is_said = true;
            phase.say("the seller's machine is granting it");
        }
    }
    Ok(order)
}

fn not_released(order: &Order) -> CliError {
    let id = order.purchase.order;
    if order.state == OrderState::Refunded {
        return CliError::Usage {
            message: format!("no key came for the order {id}, and what was paid went back"),
            hint: "ask the seller to start `alephlab keys`, and buy it again".to_owned(),
        };
    }
    CliError::Usage {
        message: format!(
            "the order {id} is paid, and the seller's machine has not granted it yet; what was paid goes back by itself on {}",
            time::hub(order.settles)
        ),
        hint: format!(
            "run the same command again to go on waiting, or take it back: alephlab model refund {id}"
        ),
    }
}

fn gone(found: &Found) -> CliError {
    CliError::Usage {
        message: format!("nothing was asked for {}", found.name),
        hint: "name a price: --price".to_owned(),
    }
}

fn in_words(part: &Part, asset: Asset) -> String {
    let amount = part.amount.of(asset);
    match part.kind {
        PartKind::Sale => format!("{amount} to {}", printable(&part.to)),
        PartKind::Royalty => format!(
            "{amount} to {}, of whose {} it is made",
            printable(&part.to),
            printable(&part.model)
        ),
        PartKind::Fee => format!("{amount} to this gateway"),
    }
}

/// What an owner asks, in one line.
pub(super) fn asks_in_words(terms: &ModelTerms) -> Option<String> {
    let price = terms.price.map(|price| price.of(terms.asset));
    let royalty = (terms.royalty > 0).then(|| {
        format!(
            "{}.{:02} % of what is made from it",
            terms.royalty / 100,
            terms.royalty % 100
        )
    });
    let said: Vec<String> = price.into_iter().chain(royalty).collect();
    (!said.is_empty()).then(|| said.join(", "))
}

fn term(seconds: u64) -> String {
    match seconds {
        0..7_200 => format!("{} minutes", seconds.div_ceil(60)),
        _ => format!("{} hours", seconds / 3_600),
    }
}

fn parse_split(text: &str) -> std::result::Result<Split, String> {
    let wrong = || "write an address, = and a percentage, such as 0x...=20%".to_owned();
    let (to, share) = text.split_once('=').ok_or_else(wrong)?;
    let to: Address = to.trim().parse().map_err(|_| wrong())?;
    Ok(Split {
        to: to.to_string(),
        share: basis_points(share)?,
    })
}

fn parse_way(text: &str) -> std::result::Result<ReleaseWay, String> {
    ReleaseWay::parse(text).ok_or_else(|| {
        let text = match text {
            "attested" => "a release by a measured service is not available yet; write keys or deposit",
            _ => "write keys or deposit",
        };
        text.to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_that_there_is_not_yet_is_said_to_be_so() {
        assert!(parse_way("attested").unwrap_err().contains("not available yet"));
        assert_eq!(parse_way("other").unwrap_err(), "write keys or deposit");
        assert_eq!(parse_way("deposit"), Ok(ReleaseWay::Deposit));
    }

    #[test]
    fn percentages_are_exact_or_refused() {
        for (text, points) in [
            ("5%", 500),
            ("2.5%", 250),
            ("0.01%", 1),
            ("100%", 10_000),
            ("30", 3_000),
        ] {
            assert_eq!(basis_points(text), Ok(points), "{text}");
        }
        for text in ["", "%", "-1%", "0.001%", "100.01%", "x"] {
            assert!(basis_points(text).is_err(), "{text}");
        }
        let split = parse_split("0x00000000000000000000000000000000000000ad=20%").unwrap();
        assert_eq!(
            (split.to.as_str(), split.share),
            ("0x00000000000000000000000000000000000000Ad", 2_000)
        );
        assert!(parse_split("me=20%").is_err() && parse_split("20%").is_err());
    }
}
