//! `/settings`: an account's tokens and signed-in browsers, the theme of its pages, and what this gateway allows it.
//!
//! Only forms of our own pages change anything here. A token that was made is shown in the answer to its form and nowhere else.

use std::sync::Arc;

use alephlab_api::Secret;
use alephlab_api::token::{NewToken, Scope, TokenInfo};
use askama::Template;
use axum::Form;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;

use super::browser::{own_form, sentence};
use super::pages::{Theme, short};
use super::top::own_page;
use super::words::Day;
use super::{accounts, tokens};
use crate::auth::Account;
use crate::contents::size;
use crate::error::{GatewayError, Result};
use crate::state::App;
use crate::store::SignedInAs;

const DAY: u64 = 86_400;
/// Lives that the form offers, days.
const LIVES: [u64; 4] = [7, 30, 90, 365];
/// Themes that the form offers; the first is no choice.
const THEMES: [(&str, &str); 3] = [("system", "System"), ("light", "Light"), ("dark", "Dark")];
/// What the page says after a form was done.
const DONE: [(&str, &str); 4] = [
    (
        "linked",
        "The address is linked. Whoever signs in with it has this account.",
    ),
    ("revoked", "The token is revoked. What was open by it is closed."),
    (
        "signed-out",
        "Every other browser and program is signed out. Access tokens stay.",
    ),
    ("theme", "This browser shows the pages in that theme."),
];

#[derive(Template)]
#[template(path = "settings.html")]
struct SettingsPage {
    version: &'static str,
    address: String,
    short: String,
    /// The one that the account has proven.
    proven: Option<String>,
    /// Where it signs in, and as whom.
    identity: Option<(String, String)>,
    role: &'static str,
    operator: bool,
    since: String,
    themes: [Choice; 3],
    done: Option<&'static str>,
    /// What the account's tokens and sign-ins are; none for a token that may not see them.
    keys: Option<Keys>,
    scope: Scope,
    limits: Limits,
}

/// The parts of the page that only a token of scope admin opens.
struct Keys {
    tokens: Vec<TokenRow>,
    sign_ins: Vec<SignInRow>,
    form: TokenForm,
    made: Option<Made>,
}

struct TokenRow {
    id: String,
    name: String,
    scope: Scope,
    made: Day,
    ends: Day,
    used: Day,
}

struct SignInRow {
    name: String,
    is_this: bool,
    since: Day,
    ends: Day,
    used: Day,
}

/// One of several that a form offers.
struct Choice {
    value: String,
    title: &'static str,
    chosen: bool,
}

/// What was typed, and what was wrong with it.
struct TokenForm {
    name: String,
    scope: Scope,
    days: u64,
    trouble: Option<String>,
}

impl TokenForm {
    fn lives(&self) -> Vec<Choice> {
        let choice = |days: u64| Choice {
            value: days.to_string(),
            title: "days",
            chosen: days == self.days,
        };
        LIVES.into_iter().map(choice).collect()
    }
}

impl Default for TokenForm {
    fn default() -> Self {
        Self {
            name: String::new(),
            scope: Scope::Run,
            days: 30,
            trouble: None,
        }
    }
}

/// The token, once.
struct Made {
    name: String,
    token: Secret,
    scope: Scope,
    ends: Day,
}

struct Limits {
    kernels: usize,
    idle: String,
    used: String,
    /// None where there is no limit.
    storage: Option<String>,
    /// Of a hundred, for the bar.
    percent: u64,
}

#[derive(Template)]
#[template(path = "settings_revoke.html")]
struct RevokePage {
    version: &'static str,
    address: String,
    short: String,
    token: TokenRow,
}

#[derive(Deserialize)]
pub(crate) struct Done {
    #[serde(default)]
    done: String,
}

/// `GET /settings`. Who is not signed in is sent to where that is done.
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    account: Option<Account>,
    headers: HeaderMap,
    Query(Done { done }): Query<Done>,
) -> Result<Response> {
    let Some(account) = account else {
        return Ok(Redirect::to("/?next=/settings").into_response());
    };
    let mut shown = settings_page(&app, &account, &headers).await?;
    shown.done = DONE.iter().find(|(name, _)| *name == done).map(|(_, text)| *text);
    own_page(&app, &shown.address, &headers, &shown).await
}

#[derive(Deserialize)]
pub(crate) struct ThemeForm {
    #[serde(default)]
    theme: String,
}

/// `POST /settings/theme`: a cookie of this browser, of no account.
pub(crate) async fn theme(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    Form(form): Form<ThemeForm>,
) -> Result<Response> {
    own_form(&app, &headers, "choose a theme")?;
    let cookie = Theme::cookie(&form.theme, app.public_url.scheme() == "https");
    Ok((
        [(header::SET_COOKIE, cookie)],
        Redirect::to("/settings?done=theme"),
    )
        .into_response())
}

#[derive(Deserialize)]
pub(crate) struct NewTokenForm {
    #[serde(default)]
    name: String,
    #[serde(default)]
    scope: String,
    #[serde(default)]
    days: u64,
}

/// `POST /settings/tokens`: the page with the new token, or with what was wrong.
pub(crate) async fn make_token(
    State(app): State<Arc<App>>,
    account: Account,
    headers: HeaderMap,
    Form(typed): Form<NewTokenForm>,
) -> Result<Response> {
    own_form(&app, &headers, "make a token")?;
    let scope = typed.scope.parse().unwrap_or_default();
    let wanted = NewToken {
        name: typed.name.clone(),
        scope,
        life: Some(typed.days.saturating_mul(DAY)),
    };
    let made = tokens::new_token(&app, &account, wanted).await;
    let mut shown = settings_page(&app, &account, &headers).await?;
    if let Some(keys) = &mut shown.keys {
        match made {
            Ok(made) => {
                keys.made = Some(Made {
                    ends: Day::at(made.info.expires),
                    name: made.info.name,
                    scope: made.info.scope,
                    token: made.token,
                });
            }
            Err(error @ GatewayError::Refused { .. }) => {
                keys.form = TokenForm {
                    name: typed.name,
                    scope,
                    days: typed.days,
                    trouble: Some(sentence(&error)),
                };
            }
            Err(error) => return Err(error),
        }
    }
    own_page(&app, &shown.address, &headers, &shown).await
}

/// `GET /settings/tokens/{id}/revoke`: what is lost and what stays.
pub(crate) async fn ask_revoke(
    State(app): State<Arc<App>>,
    account: Account,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response> {
    let tokens = app.store.access_tokens(&account.id).await?;
    let found = tokens.into_iter().find(|token| token.id.to_string() == id);
    let shown = RevokePage {
        version: env!("CARGO_PKG_VERSION"),
        short: short(&account.id),
        address: account.id,
        token: TokenRow::of(found.ok_or_else(tokens::unknown)?),
    };
    own_page(&app, &shown.address, &headers, &shown).await
}

/// `POST /settings/tokens/{id}/revoke`.
pub(crate) async fn revoke_token(
    State(app): State<Arc<App>>,
    account: Account,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response> {
    own_form(&app, &headers, "revoke a token")?;
    tokens::end(&app, &account, &id).await?;
    Ok(Redirect::to("/settings?done=revoked").into_response())
}

/// `POST /settings/sign-out-others`.
pub(crate) async fn sign_out_others(
    State(app): State<Arc<App>>,
    account: Account,
    headers: HeaderMap,
) -> Result<Response> {
    own_form(&app, &headers, "sign anybody out")?;
    app.store.sign_out_others(&account.proof).await?;
    Ok(Redirect::to("/settings?done=signed-out").into_response())
}

async fn settings_page(app: &App, account: &Account, headers: &HeaderMap) -> Result<SettingsPage> {
    let theme = Theme::of(headers).map_or("system", Theme::name);
    let keys = match account.scope {
        Scope::Admin => Some(keys(app, account).await?),
        Scope::Read | Scope::Run => None,
    };
    let info = app
        .store
        .account(&account.id)
        .await?
        .ok_or_else(accounts::unknown)?;
    Ok(SettingsPage {
        version: env!("CARGO_PKG_VERSION"),
        short: short(&account.id),
        address: account.id.clone(),
        proven: info.address,
        identity: info.issuer.zip(info.label),
        role: match account.proof.operator {
            true => "Operator of this gateway",
            false => "User, admitted by the operator",
        },
        operator: account.operator,
        since: Day::at(info.created).text,
        themes: THEMES.map(|(value, title)| Choice {
            chosen: value == theme,
            value: value.to_owned(),
            title,
        }),
        done: None,
        keys,
        scope: account.scope,
        limits: limits(app, &account.id).await?,
    })
}

async fn keys(app: &App, account: &Account) -> Result<Keys> {
    let tokens = app.store.access_tokens(&account.id).await?;
    let sign_ins = app.store.sign_ins(&account.id).await?;
    Ok(Keys {
        tokens: tokens.into_iter().map(TokenRow::of).collect(),
        sign_ins: sign_ins
            .into_iter()
            .map(|one| SignInRow::of(one, &account.proof.sha256))
            .collect(),
        form: TokenForm::default(),
        made: None,
    })
}

async fn limits(app: &App, address: &str) -> Result<Limits> {
    let limit = app.contents.limit();
    let (contents, address) = (app.contents.clone(), address.to_owned());
    let used = tokio::task::spawn_blocking(move || contents.of(&address).map(|files| files.used())).await;
    let used = used.unwrap_or_else(|error| {
        tracing::error!(%error, "an account's files could not be measured");
        Err(GatewayError::refused(
            StatusCode::INTERNAL_SERVER_ERROR,
            "file_failed",
            "the files could not be measured",
        ))
    })?;
    let minutes = app.kernels.idle_limit().map(|limit| limit.as_secs() / 60);
    Ok(Limits {
        kernels: app.kernels.most(),
        idle: match minutes {
            Some(minutes) => format!("After {minutes} min"),
            None => "Never".to_owned(),
        },
        used: size(used),
        storage: limit.map(size),
        percent: match limit {
            Some(limit) if limit > 0 => u64::try_from(u128::from(used) * 100 / u128::from(limit))
                .unwrap_or(100)
                .min(100),
            _ => 100,
        },
    })
}

impl TokenRow {
    fn of(token: TokenInfo) -> Self {
        Self {
            id: token.id.to_string(),
            name: token.name,
            scope: token.scope,
            made: Day::at(token.created),
            ends: Day::at(token.expires),
            used: Day::of_use(token.used),
        }
    }
}

impl SignInRow {
    fn of(one: SignedInAs, this: &[u8; 32]) -> Self {
        Self {
            name: one.browser.unwrap_or_else(|| "A program".to_owned()),
            is_this: one.sha256 == *this,
            since: Day::at(one.created),
            ends: Day::at(one.expires),
            used: Day::of_use(one.used),
        }
    }
}
