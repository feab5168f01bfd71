//! `/v1/accounts` and `/settings/accounts`: who has an account here, in which role, for operators.

use std::sync::Arc;

use alephlab_api::account::{AccountChange, AccountInfo, Role};
use alephlab_vault::Address;
use askama::Template;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Form, Json};
use bytes::Bytes;
use serde::Deserialize;

use super::browser::{own_form, sentence};
use super::ledger::operators_only;
use super::pages::short;
use super::top::own_page;
use super::words::Day;
use super::{body, has_nul};
use crate::auth::Account;
use crate::error::{GatewayError, Result};
use crate::oidc::Oidc;
use crate::state::App;

#[derive(Template)]
#[template(path = "settings_accounts.html")]
struct AccountsPage {
    version: &'static str,
    address: String,
    short: String,
    done: Option<String>,
    trouble: Option<String>,
    accounts: Vec<Row>,
    provider: Option<String>,
}

struct Row {
    account: String,
    short: String,
    /// What the provider calls the person.
    label: Option<String>,
    /// The address, where the account's id is another.
    linked: Option<String>,
    role: Role,
    by_settings: bool,
    admitted: bool,
    /// An operator admits and dismisses it, not the settings.
    by_provider: bool,
    is_own: bool,
    since: Day,
}

/// `GET /v1/accounts`: those that wait first, the newest of them before others, then the rest, oldest first.
pub(crate) async fn all(State(app): State<Arc<App>>, account: Account) -> Result<Json<Vec<AccountInfo>>> {
    operators_only(&account, "sees all accounts")?;
    Ok(Json(app.store.accounts().await?))
}

/// `PATCH /v1/accounts/{account}`, named by its id or its address.
pub(crate) async fn change(
    State(app): State<Arc<App>>,
    account: Account,
    Path(named): Path<String>,
    bytes: Bytes,
) -> Result<Json<AccountInfo>> {
    operators_only(&account, "changes accounts")?;
    let change: AccountChange = body(&bytes)?;
    Ok(Json(changed(&app, &account, &named, change).await?))
}

#[derive(Deserialize)]
pub(crate) struct Done {
    #[serde(default)]
    done: String,
}

/// `GET /settings/accounts`.
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    account: Option<Account>,
    headers: HeaderMap,
    Query(Done { done }): Query<Done>,
) -> Result<Response> {
    let Some(account) = account else {
        return Ok(Redirect::to("/?next=/settings/accounts").into_response());
    };
    operators_only(&account, "sees all accounts")?;
    let mut shown = AccountsPage::of(&app, &account).await?;
    // A link can say anything, so what it says is read from the list.
    shown.done = shown
        .accounts
        .iter()
        .find(|row| row.account == done)
        .map(Row::said);
    own_page(&app, &shown.address, &headers, &shown).await
}

#[derive(Deserialize)]
pub(crate) struct ChangeForm {
    #[serde(default)]
    account: String,
    role: Option<Role>,
    admitted: Option<bool>,
}

/// `POST /settings/accounts`.
pub(crate) async fn submit(
    State(app): State<Arc<App>>,
    account: Account,
    headers: HeaderMap,
    Form(form): Form<ChangeForm>,
) -> Result<Response> {
    own_form(&app, &headers, "change accounts")?;
    operators_only(&account, "changes accounts")?;
    let change = AccountChange {
        role: form.role,
        admitted: form.admitted,
    };
    match changed(&app, &account, &form.account, change).await {
        Ok(info) => Ok(Redirect::to(&format!("/settings/accounts?done={}", info.account)).into_response()),
        Err(error @ GatewayError::Refused { .. }) => {
            let mut shown = AccountsPage::of(&app, &account).await?;
            shown.trouble = Some(sentence(&error));
            own_page(&app, &shown.address, &headers, &shown).await
        }
        Err(error) => Err(error),
    }
}

impl AccountsPage {
    async fn of(app: &App, account: &Account) -> Result<Self> {
        let accounts = app.store.accounts().await?;
        Ok(Self {
            version: env!("CARGO_PKG_VERSION"),
            short: short(&account.id),
            address: account.id.clone(),
            done: None,
            trouble: None,
            accounts: accounts
                .into_iter()
                .map(|one| Row::of(one, &account.id))
                .collect(),
            provider: app.oidc.as_ref().map(|oidc| oidc.name().to_owned()),
        })
    }
}

impl Row {
    fn of(info: AccountInfo, own: &str) -> Self {
        Self {
            short: short(&info.account),
            label: info.label,
            linked: info.address.filter(|address| *address != info.account),
            role: info.role,
            by_settings: info.by_settings,
            admitted: info.admitted,
            by_provider: info.issuer.is_some(),
            is_own: info.account == own,
            since: Day::at(info.created),
            account: info.account,
        }
    }

    fn said(&self) -> String {
        let standing = match self.admitted {
            true => "is admitted",
            false => {
                "is not admitted: what it had open is closed, and its kernels go on until they are stopped"
            }
        };
        let name = self.label.as_deref().unwrap_or(&self.short);
        format!("{name} has the role {} and {standing}.", self.role)
    }
}

/// Changes an account where the settings leave that open; gives it as it is then. What is refused changes nothing.
async fn changed(app: &App, by: &Account, named: &str, change: AccountChange) -> Result<AccountInfo> {
    // An address in whatever case.
    let named = named.trim();
    if has_nul(named) {
        return Err(unknown());
    }
    let spelled = named.parse::<Address>().map(|address| address.to_string());
    let named = spelled.unwrap_or_else(|_| named.to_owned());
    let found = app.store.account(&named).await?.ok_or_else(unknown)?;
    may_change(&by.id, &found, change)?;
    let id = found.account.as_str();
    // First, because only this can still be refused.
    if let Some(admitted) = change.admitted {
        let issuer = app.oidc.as_ref().map(Oidc::issuer);
        let own = found.issuer.as_deref().filter(|own| Some(*own) == issuer);
        let done = match own {
            Some(issuer) => app.store.set_admitted((id, issuer), admitted, &by.id).await?,
            None => false,
        };
        if !done {
            let message = "this account does not sign in at the gateway's OpenID provider";
            let hint =
                "whom the settings name is admitted: change `gateway.accounts` and start the gateway again";
            return Err(conflict("admitted_by_settings", message).with_hint(hint));
        }
    }
    if let Some(role) = change.role {
        app.store.set_role(id, role, &by.id).await?;
    }
    app.store.account(id).await?.ok_or_else(unknown)
}

/// Refuses what would leave the gateway without the operator that it was started with, or shut out who asks.
fn may_change(by: &str, found: &AccountInfo, change: AccountChange) -> Result<()> {
    if found.by_settings && change.role.is_some() {
        let message = "this account is the operator that the gateway was started with, and stays it";
        return Err(conflict("role_by_settings", message));
    }
    if change.admitted != Some(false) {
        return Ok(());
    }
    if found.by_settings {
        let message = "this account is the operator that the gateway was started with, and stays admitted";
        return Err(conflict("admitted_by_settings", message));
    }
    if found.account == by {
        let (message, hint) = (
            "nobody shuts out their own account",
            "ask another operator to do it",
        );
        return Err(conflict("own_account", message).with_hint(hint));
    }
    Ok(())
}

fn conflict(code: &str, message: &str) -> GatewayError {
    GatewayError::refused(StatusCode::CONFLICT, code, message)
}

pub(super) fn unknown() -> GatewayError {
    GatewayError::not_found("account_unknown", "this gateway has no such account")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_shuts_out_the_operator_of_the_settings_or_themselves() {
        let account = |id: &str, by_settings| AccountInfo {
            account: id.to_owned(),
            address: None,
            role: Role::Operator,
            by_settings,
            admitted: true,
            issuer: Some("https://id.example".to_owned()),
            label: None,
            created: 0,
        };
        let admitted = |admitted| AccountChange {
            role: None,
            admitted: Some(admitted),
        };
        let (ada, eve) = (account("ada", true), account("eve", false));
        let refused = |by, found, change| match may_change(by, found, change) {
            Err(error) => error.code().to_owned(),
            Ok(()) => String::new(),
        };
        for by in ["ada", "eve"] {
            assert_eq!(refused(by, &ada, admitted(false)), "admitted_by_settings");
            assert_eq!(refused(by, &ada, admitted(true)), "");
        }
        assert_eq!(refused("eve", &eve, admitted(false)), "own_account");
        assert_eq!(refused("ada", &eve, admitted(false)), "");
        let both = AccountChange {
            role: Some(Role::User),
            admitted: Some(true),
        };
        assert_eq!(refused("eve", &ada, both), "role_by_settings");
        assert_eq!(refused("ada", &eve, both), "");
    }
}
