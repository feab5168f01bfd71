//! `/v1/kernels/{id}/cap` and `/kernels/{id}/cap`: what is set aside for a kernel that costs something, and raising that while
//! it runs. The page shows what an amount would do before anything is set aside, and is complete without script.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use alephlab_api::ledger::{KernelCap, NewCap};
use alephlab_api::offer::usd;
use alephlab_api::time;
use askama::Template;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::{Form, Json};
use bytes::Bytes;
use serde::Deserialize;
use uuid::Uuid;

use super::body;
use super::browser::{own_form, sentence};
use super::kernels::kernel_id;
use super::kernels_page::lasts;
use super::offers_page::dollars;
use super::pages::{readable, short};
use super::top::own_page;
use crate::auth::Account;
use crate::error::{GatewayError, Result};
use crate::kernels::Raise;
use crate::state::App;

/// What lasts longer is not said with a date, seconds.
const FAR: u64 = 365 * 86_400;

#[derive(Template)]
#[template(path = "kernel_cap.html")]
struct CapPage {
    version: &'static str,
    address: String,
    short: String,
    id: Uuid,
    name: String,
    balance: String,
    cap: String,
    charged: String,
    price: String,
    lasts: String,
    /// It has ended, or is about to.
    over: bool,
    trouble: Option<String>,
    /// As it was typed.
    typed: String,
    raise: Option<RaiseBox>,
}

/// What is confirmed.
struct RaiseBox {
    cap: String,
    more: String,
    lasts: String,
    after: String,
}

/// The whole cap, in dollars.
#[derive(Deserialize)]
pub(crate) struct Typed {
    #[serde(default)]
    cap: String,
}

/// `GET /v1/kernels/{id}/cap`.
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    account: Account,
    Path(id): Path<String>,
) -> Result<Json<KernelCap>> {
    Ok(Json(app.kernels.cap(&account.id, kernel_id(&id)?).await?))
}

/// `PUT /v1/kernels/{id}/cap`: the whole cap, so that a request that is sent again changes nothing.
pub(crate) async fn set(
    State(app): State<Arc<App>>,
    account: Account,
    Path(id): Path<String>,
    bytes: Bytes,
) -> Result<Json<KernelCap>> {
    let new: NewCap = body(&bytes)?;
    let id = kernel_id(&id)?;
    Ok(Json(app.kernels.raise_cap(&account.id, id, new.cap).await?))
}

/// `GET /kernels/{id}/cap`: the form, and what the amount that was typed would do.
pub(crate) async fn ask(
    State(app): State<Arc<App>>,
    account: Account,
    headers: HeaderMap,
    Path(id): Path<String>,
    Query(Typed { cap: typed }): Query<Typed>,
) -> Result<Response> {
    let id = kernel_id(&id)?;
    let mut shown = CapPage::of(&app, &account, id, typed).await?;
    if !shown.over && !shown.typed.trim().is_empty() {
        let asked = async {
            let cap = dollars(&shown.typed)?;
            let raise = app.kernels.would_raise(&account.id, id, cap).await?;
            Ok::<_, GatewayError>(RaiseBox::of(usd(cap), &raise))
        };
        match asked.await {
            Ok(raise) => shown.raise = Some(raise),
            Err(error @ GatewayError::Refused { .. }) => shown.trouble = Some(sentence(&error)),
            Err(error) => return Err(error),
        }
    }
    own_page(&app, &shown.address, &headers, &shown).await
}

/// `POST /kernels/{id}/cap`: raises it, or shows the page again with what was wrong.
pub(crate) async fn submit(
    State(app): State<Arc<App>>,
    account: Account,
    headers: HeaderMap,
    Path(id): Path<String>,
    Form(Typed { cap: typed }): Form<Typed>,
) -> Result<Response> {
    own_form(&app, &headers, "raise the caps of kernels")?;
    let id = kernel_id(&id)?;
    let raised = async {
        let cap = dollars(&typed)?;
        app.kernels.raise_cap(&account.id, id, cap).await
    };
    match raised.await {
        Ok(_) => Ok(Redirect::to("/kernels?done=raised").into_response()),
        Err(error @ GatewayError::Refused { .. }) => {
            let mut shown = CapPage::of(&app, &account, id, typed).await?;
            shown.trouble = Some(sentence(&error));
            own_page(&app, &shown.address, &headers, &shown).await
        }
        Err(error) => Err(error),
    }
}

impl CapPage {
    async fn of(app: &App, account: &Account, id: Uuid, typed: String) -> Result<Self> {
        let cap = app.kernels.cap(&account.id, id).await?;
        let notebook = app.kernels.notebook_of(&account.id, id).await;
        Ok(Self {
            version: env!("CARGO_PKG_VERSION"),
            short: short(&account.id),
            address: account.id.clone(),
            id,
            name: notebook.unwrap_or_else(|| id.to_string().chars().take(8).collect()),
            balance: usd(app.kernels.available(&account.id).await?),
            lasts: lasts_until(&cap),
            over: cap.ended || app.kernels.running(&account.id, id).is_none(),
            cap: usd(cap.cap),
            charged: usd(cap.charged),
            price: usd(cap.price),
            trouble: None,
            typed,
            raise: None,
        })
    }
}

impl RaiseBox {
    fn of(cap: String, raise: &Raise) -> Self {
        Self {
            cap,
            more: usd(raise.more),
            lasts: lasts(raise.seconds),
            after: usd(raise.balance_after),
        }
    }
}

/// Until when a cap lasts if its kernel goes on, or how long where it is not counted yet.
fn lasts_until(cap: &KernelCap) -> String {
    match (cap.seconds, cap.seconds_left) {
        (0, left) => format!("{} from when it can be used", lasts(left)),
        (_, left @ 0..FAR) => {
            let end = UNIX_EPOCH + Duration::from_secs(time::unix_now() + left);
            format!("until {}", readable(&time::format(end)))
        }
        (_, left) => lasts(left),
    }
}
