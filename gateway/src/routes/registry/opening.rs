//! One click from a page to a notebook that pulls what the page shows.

use std::sync::Arc;

use alephlab_api::market::ReleaseWay;
use axum::Form;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Deserialize;
use uuid::Uuid;

use super::handlers::{ModelQuery, known_model, not_found, see, show_model, show_share, url};
use super::model::{Notice, Tab, find};
use super::notebook;
use crate::auth::Account;
use crate::contents::Files;
use crate::error::{GatewayError, Result};
use crate::routes::browser::{own_form, sentence};
use crate::routes::contents::encoded;
use crate::state::App;

/// What is said after a notebook was made where there is no JupyterLab to open it. A link can say anything, so only what can
/// be the name of one is repeated.
pub(super) fn made(name: &str) -> Option<Notice> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let is_name = name.ends_with(".ipynb") && name.len() <= 120 && name.chars().all(plain);
    is_name.then(|| Notice {
        is_bad: false,
        text: format!(
            "The notebook {name} is in your folder at this gateway. To open it here its operator runs `alephlab lab install` \
             and starts `alephlab up` again; meanwhile open it from a program that is connected to this gateway."
        ),
    })
}

/// What the button of a model's page says.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct OpenForm {
    rev: String,
}

/// `POST /models/{owner}/{name}/notebook`: makes one in the account's folder, and opens it.
pub(crate) async fn open_in_notebook(
    State(app): State<Arc<App>>,
    account: Account,
    headers: HeaderMap,
    Path((owner, name)): Path<(String, String)>,
    Form(form): Form<OpenForm>,
) -> Result<Response> {
    own_form(&app, &headers, "make notebooks")?;
    let name = format!("{owner}/{name}");
    let asked = Some(form.rev.as_str()).filter(|rev| !rev.is_empty());
    let known = known_model(&app, Some(&account), &name).await?;
    let Some(chosen) = known.as_ref().and_then(|known| find(known, asked)) else {
        return not_found(&app, Some(&account), &headers).await;
    };
    let record = chosen.record.clone();
    let address = format!("/models/{}", record.name);
    let page = format!("{}{address}", url(&app));
    // What was bought of a deposited key is opened by the share that its buyer was given.
    let bought = app.store.bought(&account.id, &record.name).await?;
    let share = bought
        .iter()
        .find(|order| order.way == ReleaseWay::Deposit && order.signed.purchase.revision == record.commit)
        .and_then(|order| order.proof.first()?.parse().ok());
    let written = write(&app, &account, move |files| match share {
        Some(share) => notebook::write_share(files, share, &page),
        None => notebook::write(files, &record, &page),
    })
    .await;
    match opened(&app, written, &address)? {
        Opened::At(place) => Ok(place),
        Opened::Not(notice) => {
            let query = ModelQuery {
                rev: form.rev,
                ..ModelQuery::default()
            };
            let place = (name.as_str(), Tab::Card);
            show_model(&app, Some(&account), &headers, place, &query, Some(notice)).await
        }
    }
}

/// `POST /m/{uuid}/notebook`: the same with what a share opens. Whether there is such a share is not looked up: the notebook asks
/// the reader's own machine, which has the token.
pub(crate) async fn open_share_in_notebook(
    State(app): State<Arc<App>>,
    account: Option<Account>,
    headers: HeaderMap,
    Path(uuid): Path<String>,
) -> Result<Response> {
    own_form(&app, &headers, "make notebooks")?;
    let Ok(uuid) = uuid.parse::<Uuid>() else {
        return not_found(&app, account.as_ref(), &headers).await;
    };
    let address = format!("/m/{uuid}");
    let Some(account) = account else {
        return Ok(see(&format!("/?next={address}")));
    };
    let page = format!("{}{address}", url(&app));
    let written = write(&app, &account, move |files| {
        notebook::write_share(files, uuid, &page)
    })
    .await;
    match opened(&app, written, &address)? {
        Opened::At(place) => Ok(place),
        Opened::Not(notice) => show_share(&app, &headers, uuid, Some(notice)),
    }
}

/// Files are written on threads that may wait; the notebook's path.
async fn write(
    app: &App,
    account: &Account,
    notebook: impl FnOnce(&Files) -> Result<String> + Send + 'static,
) -> Result<String> {
    let (contents, id) = (app.contents.clone(), account.id.clone());
    let written = tokio::task::spawn_blocking(move || notebook(&contents.of(&id)?));
    written.await.unwrap_or_else(|error| {
        tracing::error!(%error, "a notebook was not written");
        Err(GatewayError::refused(
            StatusCode::INTERNAL_SERVER_ERROR,
            "file_failed",
            "the notebook could not be written",
        ))
    })
}

/// What became of a notebook.
enum Opened {
    /// Where the browser goes.
    At(Response),
    /// What the page says of one that was not made.
    Not(Notice),
}

fn opened(app: &App, written: Result<String>, address: &str) -> Result<Opened> {
    match written {
        Ok(path) if app.lab.is_some() => Ok(Opened::At(see(&format!("/lab/tree/{}", encoded(&path))))),
        Ok(path) => Ok(Opened::At(see(&format!("{address}?made={}", encoded(&path))))),
        Err(error @ GatewayError::Refused { .. }) => Ok(Opened::Not(Notice {
            is_bad: true,
            text: format!("No notebook was made. {}", sentence(&error)),
        })),
        Err(error) => Err(error),
    }
}
