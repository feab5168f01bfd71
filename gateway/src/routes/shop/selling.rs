//! `/sell`: what an owner asks for a model and receives of each sale, as the one command that signs it on the owner's machine.

use std::sync::Arc;

use alephlab_api::market::{ReleaseWay, Split, basis_points};
use alephlab_api::money::Amount;
use askama::Template;
use axum::Form;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;

use super::words::{self, PartRow};
use crate::auth::Account;
use crate::error::{GatewayError, Result};
use crate::market;
use crate::routes::browser::{own_form, sentence};
use crate::routes::contents::encoded;
use crate::routes::pages::short;
use crate::routes::registry::{Command, not_found, see};
use crate::routes::top::own_page;
use crate::state::App;

/// Lines of the split that are read.
const LINES: usize = 17;

/// What was typed.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SellForm {
    price: String,
    royalty: String,
    split: String,
    /// How buyers get the key.
    release: String,
}

#[derive(Template)]
#[template(path = "sell.html")]
struct SellPage {
    version: &'static str,
    address: String,
    short: String,
    name: String,
    own: String,
    /// What it costs now.
    now: Option<String>,
    fee: String,
    form: SellForm,
    troubles: Vec<Trouble>,
    /// Of what was typed.
    prepared: Option<Prepared>,
}

struct Trouble {
    field: &'static str,
    label: &'static str,
    text: String,
}

struct Prepared {
    command: String,
    price: String,
    usd: Option<String>,
    parts: Vec<PartRow>,
}

/// What can be asked for.
struct Asks {
    price: Amount,
    royalty: u16,
    split: Vec<Split>,
    release: ReleaseWay,
}

impl SellPage {
    /// Each way with its words, and whether it is chosen.
    fn ways(&self) -> [(&'static str, &'static str, &'static str, bool); 2] {
        let chosen = ReleaseWay::parse(&self.form.release).unwrap_or(ReleaseWay::Keys);
        [
            (ReleaseWay::Keys, "From your machine"),
            (ReleaseWay::Deposit, "From this gateway, at once"),
        ]
        .map(|(way, title)| (way.name(), title, way.in_words(), way == chosen))
    }

    fn trouble(&self, field: &str) -> Option<&str> {
        let mut all = self.troubles.iter();
        all.find(|one| one.field == field).map(|one| one.text.as_str())
    }
}

/// `GET /sell/{owner}/{name}`, for its owner.
pub(crate) async fn ask(
    State(app): State<Arc<App>>,
    account: Option<Account>,
    headers: HeaderMap,
    Path((owner, name)): Path<(String, String)>,
) -> Result<Response> {
    let name = format!("{owner}/{name}");
    let Some(account) = account else {
        return Ok(see(&format!("/?next=/sell/{}", encoded(&name))));
    };
    page(&app, &account, &headers, (&name, None)).await
}

/// `POST /sell/{owner}/{name}`: the command, or what is wrong with what was typed.
pub(crate) async fn prepare(
    State(app): State<Arc<App>>,
    account: Account,
    headers: HeaderMap,
    Path((owner, name)): Path<(String, String)>,
    Form(form): Form<SellForm>,
) -> Result<Response> {
    own_form(&app, &headers, "prepare commands")?;
    page(&app, &account, &headers, (&format!("{owner}/{name}"), Some(form))).await
}

async fn page(
    app: &App,
    account: &Account,
    headers: &HeaderMap,
    (name, typed): (&str, Option<SellForm>),
) -> Result<Response> {
    let owner = name.split('/').next().unwrap_or_default();
    let is_owner = account
        .address()
        .is_some_and(|own| own.eq_ignore_ascii_case(owner));
    let known = match is_owner && !crate::routes::has_nul(name) {
        true => app.models.page(name).await?,
        false => None,
    };
    let Some((known, record)) =
        known.and_then(|known| Some((known.clone(), known.revisions.first()?.record.clone())))
    else {
        return not_found(app, Some(account), headers).await;
    };
    let terms = known.terms.map(|indexed| indexed.terms);
    let (_, own) = record.name.split_once('/').unwrap_or(("", &record.name));
    let mut shown = SellPage {
        version: env!("CARGO_PKG_VERSION"),
        short: short(&account.id),
        address: account.id.clone(),
        own: own.to_owned(),
        now: terms.as_ref().and_then(|terms| terms.price).map(words::exact),
        fee: percent(app.market.fee()),
        form: typed.clone().unwrap_or_default(),
        troubles: Vec::new(),
        prepared: None,
        name: record.name.clone(),
    };
    match (&typed, terms) {
        (Some(form), _) => match read(form) {
            Ok(asks) => shown.prepare(app, asks).await?,
            Err(troubles) => shown.troubles = troubles,
        },
        // What was signed last, to begin with.
        (None, Some(terms)) => {
            shown.form = SellForm {
                price: terms.price.map_or_else(String::new, |price| price.to_string()),
                royalty: match terms.royalty {
                    0 => String::new(),
                    points => percent(points),
                },
                split: terms
                    .split
                    .iter()
                    .map(|one| format!("{}={}%", one.to, percent(one.share)))
                    .collect::<Vec<_>>()
                    .join("\n"),
                release: terms.release.name().to_owned(),
            };
        }
        (None, None) => {}
    }
    own_page(app, &account.id, headers, &shown).await
}

impl SellPage {
    async fn prepare(&mut self, app: &App, asks: Asks) -> Result<()> {
        let (price, royalty) = (asks.price, asks.royalty);
        let mut command = Command::new("alephlab model sell")
            .word(&self.own)
            .flag("--price", &price.to_string());
        if royalty > 0 {
            command = command.flag("--royalty", &format!("{}%", percent(royalty)));
        }
        for one in &asks.split {
            command = command.flag("--split", &format!("{}={}%", one.to, percent(one.share)));
        }
        if asks.release != ReleaseWay::Keys {
            command = command.flag("--release", asks.release.name());
        }
        match market::preview(app, &self.name, (price, royalty), asks.split).await {
            Ok(parts) => {
                self.prepared = Some(Prepared {
                    command: command.text(),
                    price: words::exact(price),
                    usd: words::at_rate(price, app.settlement.rate().ok()),
                    parts: words::parts(&parts, &self.name, price),
                });
            }
            Err(error @ GatewayError::Refused { .. }) => {
                self.troubles.push(Trouble {
                    field: "split",
                    label: "Split",
                    text: sentence(&error),
                });
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

fn read(form: &SellForm) -> std::result::Result<Asks, Vec<Trouble>> {
    let mut troubles = Vec::new();
    let mut trouble = |field, label, text: &str| {
        troubles.push(Trouble {
            field,
            label,
            text: text.to_owned(),
        });
    };
    let price = words::typed(&form.price).unwrap_or_else(|said| {
        trouble("price", "Price", &crate::routes::browser::in_a_sentence(&said));
        Amount::ZERO
    });
    let royalty = match form.royalty.trim() {
        "" => Ok(0),
        text => basis_points(text),
    };
    if royalty.is_err() {
        trouble(
            "royalty",
            "Royalty",
            "Write a percentage up to 30 with at most two digits behind the point, or nothing.",
        );
    }
    let mut split = Vec::new();
    let lines = form.split.lines().map(str::trim).filter(|line| !line.is_empty());
    for line in lines.take(LINES) {
        let parsed = line.split_once('=').and_then(|(to, share)| {
            let to: alephlab_vault::Address = to.trim().parse().ok()?;
            Some(Split {
                to: to.to_string(),
                share: basis_points(share).ok()?,
            })
        });
        match parsed {
            Some(one) => split.push(one),
            None => trouble(
                "split",
                "Split",
                "Write an address, = and a percentage in each line, such as 0x…=20%.",
            ),
        }
    }
    match (troubles.is_empty(), royalty) {
        (true, Ok(royalty)) => Ok(Asks {
            price,
            royalty,
            split,
            // What is not known leaves the gateway without a key.
            release: ReleaseWay::parse(&form.release).unwrap_or(ReleaseWay::Keys),
        }),
        _ => Err(troubles),
    }
}

/// `2.5` of basis points.
pub(super) fn percent(points: u16) -> String {
    let text = format!("{}.{:02}", points / 100, points % 100);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(price: &str, royalty: &str, split: &str) -> SellForm {
        SellForm {
            price: price.into(),
            royalty: royalty.into(),
            split: split.into(),
            release: String::new(),
        }
    }

    #[test]
    fn what_is_typed_is_read_or_each_field_says_what_is_wrong() {
        let address = "0x00000000000000000000000000000000000000ad";
        let asks = read(&form(" 240 ", "2.5", &format!("\n{address} = 20%\n")));
        let asks = asks.unwrap_or_else(|_| panic!("it is fine"));
        assert_eq!(
            (asks.price, asks.royalty, asks.split[0].share),
            (Amount::from_whole(240), 250, 2_000)
        );
        let wrong = |price: &str, royalty: &str, split: &str| -> Vec<&str> {
            let troubles = read(&form(price, royalty, split)).err().unwrap_or_default();
            troubles.iter().map(|one| one.field).collect()
        };
        assert_eq!(wrong("0", "", ""), ["price"]);
        assert_eq!(wrong("-1", "x", "me=20%"), ["price", "royalty", "split"]);
        assert_eq!([250, 2_000, 1].map(percent), ["2.5", "20", "0.01"]);
    }
}
