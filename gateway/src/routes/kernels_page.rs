//! `/kernels`: what runs, on which hardware, and what it costs, and its stop. Complete without script.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use alephlab_api::kernel::KernelState;
use alephlab_api::ledger::KernelCap;
use alephlab_api::load::Loads;
use alephlab_api::money::Amount;
use alephlab_api::offer::{AllocationModel, Stage, usd};
use alephlab_api::time;
use askama::Template;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Redirect, Response};
use serde::Deserialize;
use uuid::Uuid;

use super::browser::own_form;
use super::contents::encoded;
use super::meters::{self, HostRow, Meter};
use super::pages::{readable, short};
use super::top::own_page;
use crate::allocations::{HOST_READS_MEMORY, MEASURED};
use crate::auth::Account;
use crate::error::{GatewayError, Result};
use crate::kernels::Live;
use crate::state::App;

/// Allocations that have ended and are shown.
const ENDED: usize = 20;

#[derive(Template)]
#[template(path = "kernels.html")]
struct KernelsPage {
    version: &'static str,
    address: String,
    short: String,
    summary: String,
    as_of: String,
    done: Option<&'static str>,
    rents: bool,
    kernels: Vec<KernelRow>,
    hosts: Vec<HostRow>,
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
    /// What is between it and the rest of the host.
    walls: Option<String>,
    cost: Option<Cost>,
    /// What one costs that is not rented.
    own_price: String,
    steps: Vec<Step>,
    meters: Vec<Meter>,
    detail: Option<String>,
}

/// A trust line, with its icon.
pub(super) struct Trust {
    pub(super) text: String,
    pub(super) icon: &'static str,
    pub(super) warns: bool,
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
    address: String,
    short: String,
    id: Uuid,
    name: String,
    hardware: String,
    left: Option<String>,
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
    let allocations = app.kernels.allocations_of(&account.id, 200).await?;
    let loads = app.kernels.loads_of(&account.id);
    let mut kernels = Vec::new();
    for live in app.kernels.of(&account.id) {
        if !live.status().state.is_over() {
            let allocation = allocations.iter().find(|one| one.id == live.id);
            kernels.push(row(&app, &live, allocation, &loads).await?);
        }
    }
    let ended = allocations.iter().filter(|one| one.stage == Stage::Ended);
    let shown = KernelsPage {
        version: env!("CARGO_PKG_VERSION"),
        short: short(&account.id),
        summary: summary(&kernels, &allocations),
        as_of: readable(&time::now()),
        done: match done.as_str() {
            "started" => Some(
                "The kernel is starting. In JupyterLab choose it with Kernel, Change Kernel, or open the notebook that should have it.",
            ),
            "stopped" => Some("The kernel is stopped, and its host is given back."),
            "raised" => Some("The cap is raised, and the kernel goes on."),
            _ => None,
        },
        rents: app.kernels.allocations.has_providers(),
        kernels,
        hosts: meters::of_hosts(&loads),
        ended: ended.take(ENDED).map(ended_row).collect(),
        address: account.id,
    };
    own_page(&app, &shown.address, &headers, &shown).await
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

async fn row(
    app: &App,
    live: &Live,
    allocation: Option<&AllocationModel>,
    loads: &Loads,
) -> Result<KernelRow> {
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
    let cap = app.kernels.cap_of(live).await?;
    Ok(KernelRow {
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
        walls: app.kernels.walls(live),
        cost: cap.map(|cap| cost(&cap, status.state)),
        own_price: app.kernels.own_price(),
        steps: allocation
            .filter(|_| status.state == KernelState::Starting)
            .map_or_else(Vec::new, |allocation| steps(allocation.stage)),
        meters: meters::of_kernel(loads, live.id),
        detail: status.reason.map(|reason| capital(&reason)),
    })
}

pub(super) fn capital(text: &str) -> String {
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

fn cost(cap: &KernelCap, state: KernelState) -> Cost {
    let hundredth = cap.cap.part(1, 100).unwrap_or(Amount::ZERO);
    let percent = match hundredth.is_zero() {
        true => 0,
        false => cap.charged.times(hundredth).min(100),
    };
    Cost {
        charged: usd(cap.charged),
        cap: usd(cap.cap),
        price: usd(cap.price),
        left: usd(cap.cap.saturating_sub(cap.charged)),
        percent,
        until: match (state, cap.seconds) {
            (KernelState::Starting, 0) => "nothing charged yet".to_owned(),
            (_, 0) => "counting".to_owned(),
            _ => format!("stops in {}", lasts(cap.seconds_left)),
        },
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

pub(super) fn trust(text: &str) -> Trust {
    let (icon, warns) = match text {
        HOST_READS_MEMORY => ("i-eye", true),
        MEASURED => ("i-shield", false),
        _ => ("i-chip", false),
    };
    Trust {
        text: text.to_owned(),
        icon,
        warns,
    }
}

pub(super) fn lasts(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
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
    let live = app.kernels.get(&account.id, kernel_id(&id)?)?;
    let allocations = app.kernels.allocations_of(&account.id, 200).await?;
    let allocation = allocations.iter().find(|one| one.id == live.id);
    let row = row(&app, &live, allocation, &Loads::default()).await?;
    let shown = StopPage {
        version: env!("CARGO_PKG_VERSION"),
        short: short(&account.id),
        address: account.id,
        id: live.id,
        name: row.name,
        hardware: row.hardware,
        left: row.cost.map(|cost| cost.left),
    };
    own_page(&app, &shown.address, &headers, &shown).await
}

/// `POST /kernels/{id}/stop`.
pub(crate) async fn stop(
    State(app): State<Arc<App>>,
    account: Account,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response> {
    own_form(&app, &headers, "stop kernels")?;
    app.kernels.stop(&account.id, kernel_id(&id)?).await?;
    Ok(Redirect::to("/kernels?done=stopped").into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_steps_are_shown_as_people_read_them() {
        assert_eq!(lasts(59), "59 s");
        assert_eq!(lasts(27_660), "7 h 41 min");
        let steps: Vec<_> = steps(Stage::Booting).iter().map(|step| step.class).collect();
        assert_eq!(steps, ["done", "done", "now", "", ""]);
    }
}
