//! `/kernels`: what runs, on which hardware, and what it costs; `/kernels/new`: offers with their prices, a firm quote, and the
//! start. Complete without script.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use alephlab_api::jupyter::NewKernel;
use alephlab_api::kernel::KernelState;
use alephlab_api::money::Amount;
use alephlab_api::offer::{AllocationModel, NewQuote, Offer, Quote, Stage, from_usd, usd};
use alephlab_api::time;
use askama::Template;
use axum::Form;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Redirect, Response};
use serde::Deserialize;
use uuid::Uuid;

use super::browser::{own_form, sentence};
use super::contents::encoded;
use super::pages::{page, readable, short};
use crate::allocations::HOST_READS_MEMORY;
use crate::auth::Account;
use crate::error::{GatewayError, Result};
use crate::kernels::Live;
use crate::state::App;

/// Allocations that have ended and are shown.
const ENDED: usize = 20;
/// Times without a cell that the form offers, minutes.
const IDLES: [(u64, &str); 3] = [(30, "30 minutes"), (120, "2 hours"), (0, "Never, until the cap")];

#[derive(Template)]
#[template(path = "kernels.html")]
struct KernelsPage {
    version: &'static str,
    place: &'static str,
    address: String,
    short: String,
    summary: String,
    as_of: String,
    done: Option<&'static str>,
    rents: bool,
    kernels: Vec<KernelRow>,
    ended: Vec<EndedRow>,
}

struct KernelRow {
    id: Uuid,
    name: String,
    open: Option<String>,
    state: &'static str,
    class: &'static str,
    hardware: String,
    place: String,
    trust: Trust,
    cost: Option<Cost>,
    steps: Vec<Step>,
    detail: Option<String>,
}

/// A trust line, with its icon.
struct Trust {
    text: String,
    icon: &'static str,
    warns: bool,
}

struct Cost {
    charged: String,
    cap: String,
    price: String,
    left: String,
    percent: u64,
    until: String,
}

struct Step {
    name: &'static str,
    class: &'static str,
}

struct EndedRow {
    hardware: String,
    place: String,
    ran: String,
    why: String,
    paid: String,
}

#[derive(Template)]
#[template(path = "kernel_stop.html")]
struct StopPage {
    version: &'static str,
    place: &'static str,
    address: String,
    short: String,
    id: Uuid,
    name: String,
    hardware: String,
    left: Option<String>,
}

#[derive(Template)]
#[template(path = "kernel_new.html")]
struct NewPage {
    version: &'static str,
    place: &'static str,
    address: String,
    short: String,
    balance: String,
    count: String,
    as_of: String,
    trouble: Option<String>,
    offers: Vec<OfferRow>,
    reasons: Vec<String>,
    quote: Option<QuoteBox>,
    cap: String,
    idles: Vec<Idle>,
}

struct OfferRow {
    id: String,
    hardware: String,
    gpu: String,
    vcpus: u32,
    memory: u32,
    place: String,
    starts: String,
    unavailable: Option<String>,
    trust: Trust,
    usd: String,
    credits: String,
    chosen: bool,
}

struct QuoteBox {
    id: Uuid,
    hardware: String,
    place: String,
    trust: Trust,
    usd: String,
    credits: String,
    cap: String,
    after: String,
    lasts: String,
    until: String,
}

struct Idle {
    minutes: u64,
    title: &'static str,
    chosen: bool,
}

#[derive(Deserialize)]
pub(crate) struct Done {
    #[serde(default)]
    done: String,
}

/// `GET /kernels`.
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    account: Option<Account>,
    headers: HeaderMap,
    Query(Done { done }): Query<Done>,
) -> Result<Response> {
    let Some(account) = account else {
        return Ok(Redirect::to("/?next=/kernels").into_response());
    };
    let allocations = app.kernels.allocations_of(&account.address, 200).await?;
    let mut kernels = Vec::new();
    for live in app.kernels.of(&account.address) {
        if !live.status().state.is_over() {
            let allocation = allocations.iter().find(|one| one.id == live.id);
            kernels.push(row(&app, &live, allocation).await);
        }
    }
    let ended = allocations.iter().filter(|one| one.stage == Stage::Ended);
    let shown = KernelsPage {
        version: env!("CARGO_PKG_VERSION"),
        place: "kernels",
        short: short(&account.address),
        summary: summary(&kernels, &allocations),
        as_of: readable(&time::now()),
        done: match done.as_str() {
            "started" => Some(
                "The kernel is starting. In JupyterLab choose it with Kernel, Change Kernel, or open the notebook that should have it.",
            ),
            "stopped" => Some("The kernel is stopped, and its host is given back."),
            _ => None,
        },
        rents: app.kernels.allocations.has_providers(),
        kernels,
        ended: ended.take(ENDED).map(ended_row).collect(),
        address: account.address,
    };
    page(&headers, &shown)
}

fn summary(kernels: &[KernelRow], allocations: &[AllocationModel]) -> String {
    let running = allocations.iter().filter(|one| one.stage == Stage::Running);
    let price = running.fold(Amount::ZERO, |sum, one| {
        sum.checked_add(one.offer.price).unwrap_or(sum)
    });
    let count = match kernels.len() {
        0 => return "None is running.".to_owned(),
        1 => "One kernel".to_owned(),
        many => format!("{many} kernels"),
    };
    match price.is_zero() {
        true => format!("{count}."),
        false => format!("{count}; rented hosts cost {} USD/h.", usd(price)),
    }
}

async fn row(app: &App, live: &Live, allocation: Option<&AllocationModel>) -> KernelRow {
    let notebook = app.kernels.notebook_of(&live.account, live.id).await;
    let status = live.status();
    let rented = live.rental.is_some();
    let (state, class) = match (status.state, rented) {
        (KernelState::Busy, true) => ("Busy", "busy"),
        (KernelState::Idle, true) => ("Idle", "idle"),
        (KernelState::Busy, false) => ("Busy", "own-busy"),
        (KernelState::Idle, false) => ("Idle", "own-idle"),
        (KernelState::Stopping, _) => ("Stopping", "start"),
        _ => ("Starting", "start"),
    };
    let open = notebook.as_ref().filter(|_| app.lab.is_some());
    let place = app.kernels.place_of(live.id);
    KernelRow {
        id: live.id,
        open: open.map(|path| format!("/lab/tree/{}", encoded(path))),
        name: notebook.unwrap_or_else(|| live.id.to_string().chars().take(8).collect()),
        state,
        class,
        hardware: match &live.rental {
            Some(offer) => offer.hardware.clone(),
            None => place.map_or_else(|| "this machine".to_owned(), |(machine, _)| machine),
        },
        place: live
            .rental
            .as_ref()
            .map_or_else(String::new, |offer| offer.place.clone()),
        trust: trust(&app.kernels.trust(live)),
        cost: allocation.map(cost),
        steps: allocation
            .filter(|_| status.state == KernelState::Starting)
            .map_or_else(Vec::new, |allocation| steps(allocation.stage)),
        detail: status.reason.map(|reason| capital(&reason)),
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string());
    format!("{}{}.", first.unwrap_or_default(), letters.as_str())
}

/// What a person sees of its start.
fn steps(stage: Stage) -> Vec<Step> {
    let reached = match stage {
        Stage::Held | Stage::Renting => 1,
        Stage::Booting => 2,
        Stage::Joining => 3,
        _ => 4,
    };
    let names = ["Held", "Rented", "Booted", "Joined", "Kernel"];
    let class = |at: usize| match at.cmp(&reached) {
        std::cmp::Ordering::Less => "done",
        std::cmp::Ordering::Equal => "now",
        std::cmp::Ordering::Greater => "",
    };
    names
        .into_iter()
        .enumerate()
        .map(|(at, name)| Step {
            name,
            class: class(at),
        })
        .collect()
}

fn cost(allocation: &AllocationModel) -> Cost {
    let hundredth = allocation.cap.part(1, 100).unwrap_or(Amount::ZERO);
    let percent = match hundredth.is_zero() {
        true => 0,
        false => allocation.charged.times(hundredth).min(100),
    };
    let left = allocation.cap.saturating_sub(allocation.charged);
    let until = match allocation.stage {
        Stage::Running if allocation.seconds > 0 => {
            let seconds = left
                .part(3_600, 1)
                .map_or(u64::MAX, |hours| hours.times(allocation.offer.price));
            format!("stops in {}", lasts(seconds))
        }
        Stage::Running => "counting".to_owned(),
        _ => "nothing charged yet".to_owned(),
    };
    Cost {
        charged: usd(allocation.charged),
        cap: usd(allocation.cap),
        price: usd(allocation.offer.price),
        left: usd(left),
        percent,
        until,
    }
}

fn ended_row(allocation: &AllocationModel) -> EndedRow {
    let changed = time::format(UNIX_EPOCH + Duration::from_secs(allocation.changed));
    let why = allocation.detail.as_deref().unwrap_or("it was stopped");
    EndedRow {
        hardware: allocation.offer.hardware.clone(),
        place: allocation.offer.place.clone(),
        ran: lasts(allocation.seconds),
        why: format!("{}, {}", readable(&changed), why),
        paid: usd(allocation.charged),
    }
}

fn trust(text: &str) -> Trust {
    let (icon, warns) = match text {
        HOST_READS_MEMORY => ("i-eye", true),
        "Measured VM, attested" => ("i-shield", false),
        _ => ("i-chip", false),
    };
    Trust {
        text: text.to_owned(),
        icon,
        warns,
    }
}

fn lasts(seconds: u64) -> String {
    match seconds {
        ..60 => format!("{seconds} s"),
        ..3_600 => format!("{} min", seconds / 60),
        _ => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
    }
}

fn kernel_id(text: &str) -> Result<Uuid> {
    let unknown = |_| GatewayError::not_found("kernel_unknown", "there is no such kernel");
    text.parse().map_err(unknown)
}

/// `GET /kernels/{id}/stop`: asks first.
pub(crate) async fn ask_stop(
    State(app): State<Arc<App>>,
    account: Account,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response> {
    let live = app.kernels.get(&account.address, kernel_id(&id)?)?;
    let allocations = app.kernels.allocations_of(&account.address, 200).await?;
    let allocation = allocations.iter().find(|one| one.id == live.id);
    let row = row(&app, &live, allocation).await;
    let shown = StopPage {
        version: env!("CARGO_PKG_VERSION"),
        place: "kernels",
        short: short(&account.address),
        address: account.address,
        id: live.id,
        name: row.name,
        hardware: row.hardware,
        left: row.cost.map(|cost| cost.left),
    };
    page(&headers, &shown)
}

/// `POST /kernels/{id}/stop`.
pub(crate) async fn stop(
    State(app): State<Arc<App>>,
    account: Account,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response> {
    own_form(&app, &headers, "stop kernels")?;
    app.kernels.stop(&account.address, kernel_id(&id)?).await?;
    Ok(Redirect::to("/kernels?done=stopped").into_response())
}

/// What was chosen on the page of offers.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Chosen {
    #[serde(default)]
    offer: String,
    #[serde(default)]
    cap: String,
    #[serde(default)]
    idle: Option<u64>,
    #[serde(default)]
    quote: String,
}

/// `GET /kernels/new`: offers, and a quote for the one that is chosen.
pub(crate) async fn offers(
    State(app): State<Arc<App>>,
    account: Option<Account>,
    headers: HeaderMap,
    Query(chosen): Query<Chosen>,
) -> Result<Response> {
    match account {
        Some(account) => page(&headers, &new_page(&app, &account, &chosen, None).await?),
        None => Ok(Redirect::to("/?next=/kernels/new").into_response()),
    }
}

/// `POST /kernels/new`: starts by the quote that the page showed, or shows what changed since.
pub(crate) async fn start(
    State(app): State<Arc<App>>,
    account: Account,
    headers: HeaderMap,
    Form(chosen): Form<Chosen>,
) -> Result<Response> {
    own_form(&app, &headers, "start kernels")?;
    let again = async |trouble: String| {
        let shown = new_page(&app, &account, &chosen, Some(trouble)).await?;
        page(&headers, &shown)
    };
    let quote = match chosen.quote.parse() {
        Ok(id) => app.kernels.quoted(&account.address, id).await?,
        Err(_) => None,
    };
    let same = quote.as_ref().is_some_and(|quote| is_of(&chosen, quote));
    let Some(quote) = quote.filter(|_| same) else {
        return again("What you chose is not what was quoted. This is the quote for it.".to_owned()).await;
    };
    let wanted = NewKernel {
        env: [("KERNEL_QUOTE".to_owned(), quote.id.to_string())].into(),
        ..NewKernel::default()
    };
    match app.kernels.start(&account.address, &wanted).await {
        Ok(_) => Ok(Redirect::to("/kernels?done=started").into_response()),
        Err(error @ GatewayError::Refused { .. }) => again(sentence(&error)).await,
        Err(error) => Err(error),
    }
}

/// Whether a quote is for what the form says.
fn is_of(chosen: &Chosen, quote: &Quote) -> bool {
    let cap = chosen.cap.trim();
    chosen.offer == quote.offer.id
        && (cap == usd(quote.cap) || from_usd(cap) == Ok(quote.cap))
        && chosen.idle.unwrap_or(0) * 60 == quote.idle_seconds.unwrap_or(0)
}

async fn new_page(
    app: &App,
    account: &Account,
    chosen: &Chosen,
    mut trouble: Option<String>,
) -> Result<NewPage> {
    let all = app.kernels.allocations.offers().await;
    let wanted = all.offers.iter().find(|offer| offer.id == chosen.offer);
    let first = || all.offers.iter().find(|offer| offer.unavailable.is_none());
    let wanted = wanted.or_else(first).filter(|offer| offer.unavailable.is_none());
    let idle = chosen.idle.unwrap_or(IDLES[0].0);
    let quote = match wanted {
        Some(offer) => match quote(app, account, offer, chosen, idle).await {
            Ok(quote) => Some(quote),
            Err(error @ GatewayError::Refused { .. }) => {
                trouble.get_or_insert(sentence(&error));
                None
            }
            Err(error) => return Err(error),
        },
        None => None,
    };
    let mut reasons: Vec<String> = all.troubles.clone();
    for offer in &all.offers {
        if let Some(reason) = &offer.unavailable {
            let reason = format!("{}: {}", offer.hardware, capital(reason));
            if !reasons.contains(&reason) {
                reasons.push(reason);
            }
        }
    }
    let chosen_id = wanted.map(|offer| offer.id.clone());
    let cap = match &quote {
        Some(quote) => usd(quote.cap),
        None => chosen.cap.clone(),
    };
    Ok(NewPage {
        version: env!("CARGO_PKG_VERSION"),
        place: "kernels",
        address: account.address.clone(),
        short: short(&account.address),
        balance: usd(app.kernels.available(&account.address).await?),
        count: match all.offers.len() {
            1 => "1 offer".to_owned(),
            many => format!("{many} offers"),
        },
        as_of: readable(&time::now()),
        trouble,
        offers: all
            .offers
            .iter()
            .map(|offer| offer_row(offer, chosen_id.as_deref() == Some(&offer.id)))
            .collect(),
        reasons,
        quote: quote.as_ref().map(quote_box),
        cap,
        idles: IDLES
            .into_iter()
            .map(|(minutes, title)| Idle {
                minutes,
                title,
                chosen: minutes == idle,
            })
            .collect(),
    })
}

async fn quote(app: &App, account: &Account, offer: &Offer, chosen: &Chosen, idle: u64) -> Result<Quote> {
    let typed = chosen.cap.trim();
    let wrong = |_| {
        let text = format!("`{typed}` is no amount; write dollars, for example 2.00");
        GatewayError::bad_request("cap", text)
    };
    let cap = match typed.is_empty() {
        true => None,
        false => Some(from_usd(typed).map_err(wrong)?),
    };
    let new = NewQuote {
        offer: offer.id.clone(),
        cap,
        idle_seconds: Some(idle * 60),
    };
    app.kernels.quote(&account.address, &new).await
}

fn offer_row(offer: &Offer, chosen: bool) -> OfferRow {
    OfferRow {
        id: offer.id.clone(),
        hardware: offer.hardware.clone(),
        gpu: offer
            .gpu
            .as_ref()
            .map_or_else(String::new, |gpu| format!("{} GB", gpu.memory_gib)),
        vcpus: offer.vcpus,
        memory: offer.memory_gib,
        place: offer.place.clone(),
        starts: offer.starts.clone(),
        unavailable: offer.unavailable.clone(),
        trust: trust(&offer.trust),
        usd: usd(offer.price),
        credits: grouped(offer.price),
        chosen,
    }
}

/// `2,070,000`.
fn grouped(credits: Amount) -> String {
    let text = credits.to_string();
    let (whole, fine) = text.split_at(text.find('.').unwrap_or(text.len()));
    let digits = whole.len();
    let mut shown = String::with_capacity(digits + digits / 3 + fine.len());
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (digits - at) % 3 == 0 {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown + fine
}

fn quote_box(quote: &Quote) -> QuoteBox {
    let until = time::format(UNIX_EPOCH + Duration::from_secs(quote.expires));
    QuoteBox {
        id: quote.id,
        hardware: quote.offer.hardware.clone(),
        place: quote.offer.place.clone(),
        trust: trust(&quote.offer.trust),
        usd: usd(quote.offer.price),
        credits: grouped(quote.offer.price),
        cap: usd(quote.cap),
        after: usd(quote.balance_after),
        lasts: lasts(quote.seconds),
        until: until.get(11..16).unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_and_times_are_shown_as_people_read_them() {
        assert_eq!(grouped(Amount::from_whole(2_070_000)), "2,070,000");
        assert_eq!(grouped(Amount::from_whole(999)), "999");
        assert_eq!(grouped("43125.5".parse().unwrap()), "43,125.5");
        assert_eq!(lasts(59), "59 s");
        assert_eq!(lasts(27_660), "7 h 41 min");
        let steps: Vec<_> = steps(Stage::Booting).iter().map(|step| step.class).collect();
        assert_eq!(steps, ["done", "done", "now", "", ""]);
    }
}
