//! What is done with ALEPH that an account has: spent on compute, sent as credits, withdrawn. An amount that is typed shows first what
//! becomes of it; a second press does it, once however often it is sent.

use std::sync::Arc;

use alephlab_api::money::{Amount, Asset};
use alephlab_api::offer::usd;
use alephlab_api::payout::{NewConversion, NewWithdrawal, Target};
use axum::Form;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use uuid::Uuid;

use super::earnings::{self, Typed};
use super::offer::available;
use super::words::{self, exact};
use crate::auth::Account;
use crate::error::{GatewayError, Result};
use crate::routes::browser::{own_form, sentence};
use crate::routes::payouts;
use crate::routes::registry::see;
use crate::state::App;

/// Which of the three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Spend,
    Send,
    Withdraw,
}

impl Way {
    pub(super) const ALL: [Self; 3] = [Self::Spend, Self::Send, Self::Withdraw];

    /// In addresses.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Spend => "spend",
            Self::Send => "send",
            Self::Withdraw => "withdraw",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Spend => "Spend on compute",
            Self::Send => "Send as Aleph credits",
            Self::Withdraw => "Withdraw as ALEPH",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|way| way.word() == text)
    }
}

/// One form.
pub(super) struct MoveBox {
    pub(super) way: &'static str,
    pub(super) title: &'static str,
    /// Why it cannot be used, in one sentence.
    pub(super) off: Option<String>,
    pub(super) hint: &'static str,
    /// What holds of any amount.
    pub(super) facts: Vec<(&'static str, String)>,
    pub(super) typed: String,
    pub(super) trouble: Option<String>,
    pub(super) quote: Option<Quote>,
}

/// What an amount becomes.
pub(super) struct Quote {
    pub(super) rows: Vec<(&'static str, String)>,
    pub(super) arrives: (&'static str, String),
    pub(super) button: String,
    pub(super) action: &'static str,
    /// What the button sends.
    pub(super) fields: Vec<(&'static str, String)>,
}

/// The three forms with what was typed into one of them.
pub(super) async fn boxes(app: &App, account: &Account, typed: &Typed) -> Result<Vec<MoveBox>> {
    let own = available(app, &account.id, Asset::Aleph).await?;
    let mut boxes = Vec::new();
    for way in Way::ALL {
        let mut shown = describe(app, account, way).await?;
        if Way::parse(&typed.way) == Some(way) {
            shown.typed.clone_from(&typed.amount);
            shown.trouble.clone_from(&typed.trouble);
            if shown.off.is_none() && shown.trouble.is_none() && !typed.amount.trim().is_empty() {
                match quote(app, account, way, (&typed.amount, own)) {
                    Ok(quote) => shown.quote = Some(quote),
                    Err(error @ GatewayError::Refused { .. }) => shown.trouble = Some(sentence(&error)),
                    Err(error) => return Err(error),
                }
            }
        }
        boxes.push(shown);
    }
    Ok(boxes)
}

async fn describe(app: &App, account: &Account, way: Way) -> Result<MoveBox> {
    let address = account.address().map(crate::routes::pages::short);
    let needs_address = || "This account has proven no address yet: link one in Settings.".to_owned();
    let mut shown = MoveBox {
        way: way.word(),
        title: way.title(),
        off: None,
        hint: "",
        facts: Vec::new(),
        typed: String::new(),
        trouble: None,
        quote: None,
    };
    let rate = app.settlement.rate();
    match (way, &rate) {
        (Way::Spend | Way::Send, Ok(rate)) => {
            let said = format!("{}, {}", words::rate(*rate), words::clock(rate.time));
            shown.facts.push(("1 ALEPH", said));
        }
        (Way::Spend | Way::Send, Err(error)) => shown.off = Some(sentence(error)),
        (Way::Withdraw, _) => {}
    }
    match way {
        Way::Spend => {
            shown.hint = "Credits for kernels at this gateway. They cannot be turned back into ALEPH.";
        }
        Way::Send => {
            shown.hint = "Credits of your own address on the Aleph network, whole ones. They cannot be turned back into ALEPH.";
            match address {
                _ if !app.settlement.sends_credits() => {
                    shown.off = Some("This gateway sends no credits to the network.".to_owned());
                }
                None => shown.off = Some(needs_address()),
                Some(address) => shown.facts.push(("To", address)),
            }
        }
        Way::Withdraw => {
            shown.hint = "ALEPH at your own address on the chain, paid with the next batch.";
            withdrawal_facts(app, &mut shown, address.ok_or_else(needs_address)).await?;
        }
    }
    Ok(shown)
}

async fn withdrawal_facts(
    app: &App,
    shown: &mut MoveBox,
    address: std::result::Result<String, String>,
) -> Result<()> {
    let terms = match app.settlement.terms() {
        Ok(terms) => terms,
        Err(error @ GatewayError::Refused { .. }) => {
            shown.off = Some(sentence(&error));
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    match address {
        Ok(address) => shown.facts.push(("To", address)),
        Err(reason) => shown.off = Some(reason),
    }
    shown.facts.push(("Smallest", exact(terms.minimum)));
    if let Some(daily) = terms.daily {
        shown.facts.push(("Most in 24 hours", exact(daily)));
    }
    if let Some(stop) = app.store.settlement_stop().await? {
        shown.off = Some(format!(
            "Withdrawals are stopped until the operator has looked why ({}). What you have stays yours.",
            stop.code
        ));
    }
    Ok(())
}

/// What an amount would become now.
fn quote(app: &App, account: &Account, way: Way, (typed, own): (&str, Amount)) -> Result<Quote> {
    let amount = amount(typed)?;
    let left = own.checked_sub(amount).ok_or_else(|| {
        let text = format!("{} are available", exact(own));
        GatewayError::bad_request("balance_too_small", text)
    })?;
    let id = ("id", Uuid::new_v4().to_string());
    let amount_field = ("amount", amount.to_string());
    let after = ("Balance after", words::aleph(left));
    if way == Way::Withdraw {
        let terms = app.settlement.terms()?;
        if amount < terms.minimum {
            let text = format!("the smallest withdrawal is {}", exact(terms.minimum));
            return Err(GatewayError::bad_request("withdrawal_too_small", text));
        }
        return Ok(Quote {
            rows: vec![
                ("To", account.address().unwrap_or_default().to_owned()),
                ("Fee", "0.00 ALEPH, this gateway pays the chain".to_owned()),
                after,
            ],
            arrives: ("You receive", exact(amount)),
            button: format!("Withdraw {}", exact(amount)),
            action: "/earnings/withdraw",
            fields: vec![id, amount_field],
        });
    }
    let target = if way == Way::Send {
        Target::Network
    } else {
        Target::Compute
    };
    let rate = app.settlement.rate()?;
    let credits = rate
        .converted(amount, target)
        .filter(|credits| !credits.is_zero())
        .ok_or_else(|| {
            GatewayError::bad_request(
                "amount_unusable",
                "it becomes no credits, or more than there can be",
            )
        })?;
    let (arrives, button) = match target {
        Target::Compute => (
            format!("{} USD of compute", usd(credits)),
            format!("Convert {} to {} USD", exact(amount), usd(credits)),
        ),
        Target::Network => {
            let credits = credits
                .whole()
                .map_or_else(|| credits.to_string(), crate::routes::words::grouped);
            (format!("{credits} credits"), format!("Send {credits} credits"))
        }
    };
    Ok(Quote {
        rows: vec![
            (
                "Rate",
                format!("{}, {}", words::rate(rate), words::clock(rate.time)),
            ),
            ("Fee", "0.00 ALEPH".to_owned()),
            after,
        ],
        arrives: ("You get", arrives),
        button,
        action: "/earnings/convert",
        fields: vec![
            id,
            amount_field,
            ("to", target.name().to_owned()),
            ("rate", rate.credits.to_string()),
        ],
    })
}

/// ALEPH as somebody typed it.
fn amount(typed: &str) -> Result<Amount> {
    words::typed(typed).map_err(|said| GatewayError::bad_request("amount", said))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct MoveForm {
    id: Uuid,
    amount: String,
    to: String,
    rate: String,
}

/// `POST /earnings/convert`.
pub(crate) async fn convert(
    State(app): State<Arc<App>>,
    account: Account,
    headers: HeaderMap,
    Form(form): Form<MoveForm>,
) -> Result<Response> {
    own_form(&app, &headers, "turn ALEPH into credits")?;
    let way = match form.to.as_str() {
        "network" => Way::Send,
        _ => Way::Spend,
    };
    let done = async {
        let to = if way == Way::Send {
            Target::Network
        } else {
            Target::Compute
        };
        let rate = form
            .rate
            .parse()
            .map_err(|_| GatewayError::bad_request("rate_changed", "the rate is missing: ask again"))?;
        let new = NewConversion {
            id: form.id,
            amount: amount(&form.amount)?,
            to,
            rate,
        };
        payouts::convert_now(&app, &account, &new).await
    };
    answer(
        &app,
        &account,
        &headers,
        (way, &form.amount),
        done.await.map(drop),
    )
    .await
}

/// `POST /earnings/withdraw`.
pub(crate) async fn withdraw(
    State(app): State<Arc<App>>,
    account: Account,
    headers: HeaderMap,
    Form(form): Form<MoveForm>,
) -> Result<Response> {
    own_form(&app, &headers, "withdraw ALEPH")?;
    let done = async {
        let new = NewWithdrawal {
            id: form.id,
            amount: amount(&form.amount)?,
        };
        payouts::withdraw_now(&app, &account, &new).await
    };
    let way = (Way::Withdraw, form.amount.as_str());
    answer(&app, &account, &headers, way, done.await.map(drop)).await
}

/// `POST /earnings/withdrawals/{id}/take-back`: while it is in no batch.
pub(crate) async fn take_back(
    State(app): State<Arc<App>>,
    account: Account,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response> {
    own_form(&app, &headers, "take withdrawals back")?;
    let done = match id.parse::<Uuid>() {
        Ok(id) => app.store.take_withdrawal_back(&account.id, id).await.map(drop),
        Err(_) => Err(GatewayError::not_found(
            "withdrawal_unknown",
            "this account has no such withdrawal",
        )),
    };
    match done {
        Ok(()) => Ok(see("/earnings?done=back#history")),
        Err(error @ GatewayError::Refused { .. }) => {
            let typed = Typed {
                way: Way::Withdraw.word().to_owned(),
                trouble: Some(sentence(&error)),
                ..Typed::default()
            };
            earnings::page(&app, &account, &headers, (&typed, None)).await
        }
        Err(error) => Err(error),
    }
}

async fn answer(
    app: &App,
    account: &Account,
    headers: &HeaderMap,
    (way, amount): (Way, &str),
    done: Result<()>,
) -> Result<Response> {
    match done {
        Ok(()) => Ok(see(&format!("/earnings?done={}#history", way.word()))),
        Err(error @ GatewayError::Refused { .. }) => {
            let typed = Typed {
                way: way.word().to_owned(),
                amount: amount.to_owned(),
                trouble: Some(sentence(&error)),
            };
            earnings::page(app, account, headers, (&typed, None)).await
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_are_known_by_the_words_of_their_addresses() {
        for way in Way::ALL {
            assert_eq!(Way::parse(way.word()), Some(way));
        }
        assert_eq!(Way::parse("keep"), None);
    }
}
