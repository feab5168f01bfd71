//! `/settings/secrets`: the same as `/v1/secrets` for a browser, complete without script. Values go in and never come out.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use alephlab_api::secrets::{SECRET_BYTES_MAX, SECRETS_MAX, SecretInfo, SecretName};
use alephlab_api::{Secret, time};
use askama::Template;
use axum::Form;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::browser::{own_form, sentence};
use super::pages::{readable, short};
use super::secrets::{keep, secret_name};
use super::top::own_page;
use crate::auth::Account;
use crate::error::{GatewayError, Result};
use crate::state::App;

#[derive(Template)]
#[template(path = "settings_secrets.html")]
struct SecretsPage {
    version: &'static str,
    address: String,
    short: String,
    secrets: Vec<Row>,
    most: usize,
    kib_max: usize,
    /// What was done before.
    done: Option<String>,
    trouble: Option<Trouble>,
    /// What was typed as a name; the value is typed again.
    name: String,
}

/// What was wrong with the form, and where.
struct Trouble {
    text: String,
    of_name: bool,
    of_value: bool,
}

struct Row {
    name: String,
    changed: String,
    last_read: String,
}

#[derive(Template)]
#[template(path = "settings_secret_remove.html")]
struct RemovePage {
    version: &'static str,
    address: String,
    short: String,
    name: String,
}

#[derive(Deserialize)]
pub(crate) struct Done {
    #[serde(default)]
    stored: String,
    #[serde(default)]
    removed: String,
}

/// `GET /settings/secrets`.
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    account: Option<Account>,
    headers: HeaderMap,
    Query(done): Query<Done>,
) -> Result<Response> {
    let Some(account) = account else {
        return Ok(see("/?next=/settings/secrets"));
    };
    let mut shown = SecretsPage::of(&app, &account).await?;
    // A link can say anything, so it is believed only where the list agrees.
    let has = |name: &str| shown.secrets.iter().any(|row| row.name == name);
    if has(&done.stored) {
        let name = &done.stored;
        shown.done = Some(format!(
            "{name} is stored. Cells that ask for it get this value from now on."
        ));
    } else if let Some(name) = done
        .removed
        .parse::<SecretName>()
        .ok()
        .filter(|name| !has(name.as_str()))
    {
        shown.done = Some(format!(
            "{name} is removed. Cells that ask for it get an error from now on."
        ));
    }
    own_page(&app, &shown.address, &headers, &shown).await
}

#[derive(Deserialize)]
pub(crate) struct NewSecret {
    #[serde(default)]
    name: String,
    #[serde(default)]
    value: Secret,
}

/// `POST /settings/secrets`: stores one, or shows the page again with what was wrong.
pub(crate) async fn set(
    State(app): State<Arc<App>>,
    account: Account,
    headers: HeaderMap,
    Form(typed): Form<NewSecret>,
) -> Result<Response> {
    own_form(&app, &headers, "change secrets")?;
    let typed_name = typed.name.trim().to_owned();
    let stored = async {
        let name = secret_name(&typed_name)?;
        keep(&app, &account.id, &name, &typed.value).await
    };
    match stored.await {
        Ok(info) => Ok(see(&format!("/settings/secrets?stored={}", info.name))),
        Err(error @ GatewayError::Refused { .. }) => {
            let mut shown = SecretsPage::of(&app, &account).await?;
            shown.trouble = Some(Trouble {
                of_name: error.code() == "secret_name",
                of_value: error.code() == "secret_value",
                text: sentence(&error),
            });
            shown.name = typed_name;
            own_page(&app, &shown.address, &headers, &shown).await
        }
        Err(error) => Err(error),
    }
}

#[derive(Deserialize)]
pub(crate) struct Named {
    #[serde(default)]
    name: String,
}

/// `GET /settings/secrets/remove?name=`: asks first.
pub(crate) async fn ask_to_remove(
    State(app): State<Arc<App>>,
    account: Account,
    headers: HeaderMap,
    Query(Named { name }): Query<Named>,
) -> Result<Response> {
    let secrets = app.store.secrets(&account.id).await?;
    if !secrets.iter().any(|secret| secret.name.as_str() == name) {
        return Ok(see("/settings/secrets"));
    }
    let shown = RemovePage {
        version: env!("CARGO_PKG_VERSION"),
        short: short(&account.id),
        address: account.id,
        name,
    };
    own_page(&app, &shown.address, &headers, &shown).await
}

/// `POST /settings/secrets/remove`.
pub(crate) async fn remove(
    State(app): State<Arc<App>>,
    account: Account,
    headers: HeaderMap,
    Form(Named { name }): Form<Named>,
) -> Result<Response> {
    own_form(&app, &headers, "remove secrets")?;
    let name = secret_name(&name)?;
    // One that is gone already is what was asked for.
    app.store.remove_secret(&account.id, &name).await?;
    Ok(see(&format!("/settings/secrets?removed={name}")))
}

impl SecretsPage {
    async fn of(app: &App, account: &Account) -> Result<Self> {
        let secrets = app.store.secrets(&account.id).await?;
        Ok(Self {
            version: env!("CARGO_PKG_VERSION"),
            short: short(&account.id),
            address: account.id.clone(),
            secrets: secrets.iter().map(row).collect(),
            most: SECRETS_MAX,
            kib_max: SECRET_BYTES_MAX >> 10,
            done: None,
            trouble: None,
            name: String::new(),
        })
    }
}

fn row(secret: &SecretInfo) -> Row {
    let moment = |seconds| readable(&time::format(UNIX_EPOCH + Duration::from_secs(seconds)));
    Row {
        name: secret.name.to_string(),
        changed: moment(secret.changed),
        last_read: secret.last_read.map_or_else(|| "never".to_owned(), moment),
    }
}

/// Shows a page after a form, so that loading it again sends nothing again.
fn see(path: &str) -> Response {
    let headers = [(header::LOCATION, path), (header::CACHE_CONTROL, "no-store")];
    (StatusCode::SEE_OTHER, headers).into_response()
}
