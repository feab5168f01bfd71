//! The routes of the registry's pages: who asks, what there is to show, and nothing of how it looks.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use alephlab_api::model::{ModelPage, private_uuid};
use alephlab_api::time::unix_now;
use alephlab_vault::storage::PostQuery;
use alephlab_vault::{GRANT_POST_TYPE, HEAD_POST_TYPE, REVOKE_POST_TYPE, granted_to};
use askama::Template;
use axum::Form;
use axum::extract::{Path, Query, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use uuid::Uuid;

use super::Visitor;
use super::browse::Browse;
use super::datasets::{self, DatasetsPage, GrantForm, Known};
use super::model::{Asked, ModelView, Notice, Tab, find};
use super::models::ModelsPage;
use super::opening::made;
use super::publish::{PublishForm, PublishPage, ShareForm, ShareNewPage};
use super::shares::{RevokePage, SharePage, SharesPage};
use crate::auth::Account;
use crate::error::Result;
use crate::models::private;
use crate::routes::browser::own_form;
use crate::routes::pages::page;
use crate::routes::shop::price_box;
use crate::routes::top::own_page;
use crate::state::App;
use crate::store::StoredShare;

/// How long a page waits for the Aleph node.
const NODE: Duration = Duration::from_secs(5);

/// What answers at an address where there is nothing to show.
#[derive(Template)]
#[template(path = "not_found.html")]
struct NotFoundPage {
    version: &'static str,
    visitor: Visitor,
}

/// A page for whoever looks.
pub(in crate::routes) async fn show<T: Template>(
    app: &App,
    account: Option<&Account>,
    headers: &HeaderMap,
    template: &T,
) -> Result<Response> {
    match account {
        Some(account) => own_page(app, &account.id, headers, template).await,
        None => page(headers, template),
    }
}

pub(in crate::routes) fn visitor(account: Option<&Account>, next: &str) -> Visitor {
    Visitor::new(
        account.map(|account| (account.id.as_str(), account.address())),
        next,
    )
}

/// The one page for what is wrong, gone or not to be seen.
pub(in crate::routes) async fn not_found(
    app: &App,
    account: Option<&Account>,
    headers: &HeaderMap,
) -> Result<Response> {
    let shown = NotFoundPage {
        version: env!("CARGO_PKG_VERSION"),
        visitor: visitor(account, "/models"),
    };
    let mut answer = show(app, account, headers, &shown).await?;
    *answer.status_mut() = StatusCode::NOT_FOUND;
    Ok(answer)
}

/// Shows a page after a form, so that loading it again sends nothing again.
pub(in crate::routes) fn see(path: &str) -> Response {
    let headers = [(header::LOCATION, path), (header::CACHE_CONTROL, "no-store")];
    (StatusCode::SEE_OTHER, headers).into_response()
}

pub(super) fn url(app: &App) -> &str {
    app.public_url.as_str().trim_end_matches('/')
}

/// `GET /models`, open to all.
pub(crate) async fn browse_models(
    State(app): State<Arc<App>>,
    account: Option<Account>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response> {
    let browse = Browse::parse(query.as_deref().unwrap_or_default());
    let own = match account.as_ref().and_then(Account::address) {
        Some(address) => private::entries(&app.store, address).await?,
        None => Vec::new(),
    };
    let found = app.index.search_with(&browse.query, &own);
    let shown = ModelsPage::of(
        visitor(account.as_ref(), "/models"),
        &browse,
        &found,
        (app.index.len(), own.len()),
    );
    show(&app, account.as_ref(), &headers, &shown).await
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ModelQuery {
    pub(super) rev: String,
    pub(super) client: String,
    /// Name of a notebook that was made and that nothing here opens.
    pub(super) made: String,
}

/// `GET /models/{owner}/{name}`, open to all.
pub(crate) async fn model_card(
    State(app): State<Arc<App>>,
    account: Option<Account>,
    headers: HeaderMap,
    Path((owner, name)): Path<(String, String)>,
    Query(query): Query<ModelQuery>,
) -> Result<Response> {
    let name = format!("{owner}/{name}");
    show_model(&app, account.as_ref(), &headers, (&name, Tab::Card), &query, None).await
}

/// `GET /models/{owner}/{name}/{tab}`.
pub(crate) async fn model_tab(
    State(app): State<Arc<App>>,
    account: Option<Account>,
    headers: HeaderMap,
    Path((owner, name, tab)): Path<(String, String, String)>,
    Query(query): Query<ModelQuery>,
) -> Result<Response> {
    let name = format!("{owner}/{name}");
    match Tab::parse(&tab) {
        Some(tab) => show_model(&app, account.as_ref(), &headers, (&name, tab), &query, None).await,
        None => not_found(&app, account.as_ref(), &headers).await,
    }
}

/// What there is to show of a model: of a private one to its owner alone.
pub(super) async fn known_model(
    app: &App,
    account: Option<&Account>,
    name: &str,
) -> Result<Option<ModelPage>> {
    match private_uuid(name) {
        Some(_) => private::page(&app.store, name, account.and_then(Account::address)).await,
        None => app.models.page(name).await,
    }
}

pub(super) async fn show_model(
    app: &App,
    account: Option<&Account>,
    headers: &HeaderMap,
    (name, tab): (&str, Tab),
    query: &ModelQuery,
    notice: Option<Notice>,
) -> Result<Response> {
    let asked = Some(query.rev.as_str()).filter(|rev| !rev.is_empty());
    let Some(known) = known_model(app, account, name).await? else {
        return not_found(app, account, headers).await;
    };
    let Some(chosen) = find(&known, asked) else {
        return not_found(app, account, headers).await;
    };
    let record = &chosen.record;
    let base = record.card.base_model.as_deref();
    let shown = ModelView::of(Asked {
        visitor: visitor(account, &format!("/models/{}", record.name)),
        tab,
        known: &known,
        revision: asked,
        client: &query.client,
        children: app.index.search(&Browse::of_base(&record.name).query).total,
        has_base: base.is_some_and(|base| app.index.get(base).is_some()),
        has_lab: app.lab.is_some(),
        gateway: url(app),
        notice: notice.or_else(|| made(&query.made)),
        price: price_box(app, account, &known, (&record.name, &record.commit)).await?,
    });
    match shown {
        Some(shown) => show(app, account, headers, &shown).await,
        None => not_found(app, account, headers).await,
    }
}

/// `GET /publish`, open to all: it prepares a command and does nothing.
pub(crate) async fn publish_form(
    State(app): State<Arc<App>>,
    account: Option<Account>,
    headers: HeaderMap,
) -> Result<Response> {
    let shown = PublishPage::new(visitor(account.as_ref(), "/publish"));
    show(&app, account.as_ref(), &headers, &shown).await
}

/// `POST /publish`: the command, or what is wrong with what was typed.
pub(crate) async fn prepare_publish(
    State(app): State<Arc<App>>,
    account: Option<Account>,
    headers: HeaderMap,
    Form(form): Form<PublishForm>,
) -> Result<Response> {
    own_form(&app, &headers, "prepare commands")?;
    let shown = PublishPage::of(visitor(account.as_ref(), "/publish"), form);
    show(&app, account.as_ref(), &headers, &shown).await
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SharesQuery {
    done: String,
}

/// `GET /shares`: the account's own.
pub(crate) async fn shares(
    State(app): State<Arc<App>>,
    account: Option<Account>,
    headers: HeaderMap,
    Query(query): Query<SharesQuery>,
) -> Result<Response> {
    let Some(account) = account else {
        return Ok(see("/?next=/shares"));
    };
    let shares: Vec<_> = app
        .store
        .shares(&account.id)
        .await?
        .iter()
        .map(StoredShare::info)
        .collect();
    let visitor = visitor(Some(&account), "/shares");
    let shown = SharesPage::of(visitor, &shares, unix_now(), query.done == "revoked");
    show(&app, Some(&account), &headers, &shown).await
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ModelOf {
    model: String,
}

/// `GET /shares/new?model=`, open to all: it prepares a command and does nothing.
pub(crate) async fn share_form(
    State(app): State<Arc<App>>,
    account: Option<Account>,
    headers: HeaderMap,
    Query(ModelOf { model }): Query<ModelOf>,
) -> Result<Response> {
    let shown = ShareNewPage::new(visitor(account.as_ref(), "/shares"), &model);
    show(&app, account.as_ref(), &headers, &shown).await
}

/// `POST /shares/new`: the command, or what is wrong with what was typed.
pub(crate) async fn prepare_share(
    State(app): State<Arc<App>>,
    account: Option<Account>,
    headers: HeaderMap,
    Form(form): Form<ShareForm>,
) -> Result<Response> {
    own_form(&app, &headers, "prepare commands")?;
    let shown = ShareNewPage::of(visitor(account.as_ref(), "/shares"), form);
    show(&app, account.as_ref(), &headers, &shown).await
}

/// `GET /shares/{uuid}/revoke`: what ends and what stays.
pub(crate) async fn ask_revoke(
    State(app): State<Arc<App>>,
    account: Account,
    headers: HeaderMap,
    Path(uuid): Path<String>,
) -> Result<Response> {
    let shares = app.store.shares(&account.id).await?;
    let found = uuid.parse::<Uuid>().ok();
    let found = shares.iter().find(|share| Some(share.uuid) == found);
    match found {
        Some(share) => {
            let shown = RevokePage::of(visitor(Some(&account), "/shares"), &share.info(), unix_now());
            show(&app, Some(&account), &headers, &shown).await
        }
        None => not_found(&app, Some(&account), &headers).await,
    }
}

/// `POST /shares/{uuid}/revoke`.
pub(crate) async fn revoke_share(
    State(app): State<Arc<App>>,
    account: Account,
    headers: HeaderMap,
    Path(uuid): Path<String>,
) -> Result<Response> {
    own_form(&app, &headers, "revoke shares")?;
    let Ok(uuid) = uuid.parse::<Uuid>() else {
        return not_found(&app, Some(&account), &headers).await;
    };
    if app.store.remove_share(&account.id, uuid).await? {
        // Its keys leave the memory too, unless a download still holds them until its next piece.
        app.opened.forget(uuid);
    }
    // One that is gone already is what was asked for.
    Ok(see("/shares?done=revoked"))
}

/// `GET /m/{uuid}`, open to all: how a share is used. Nothing is looked up, so it answers alike for every UUID.
pub(crate) async fn share_page(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    Path(uuid): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response> {
    let Ok(uuid) = uuid.parse::<Uuid>() else {
        return not_found(&app, None, &headers).await;
    };
    let query = query.unwrap_or_default();
    // It is never repeated, and no account is looked for: what stands there is a share's token if it is one.
    let notice = match query.contains("hf_") {
        true => Some(SharePage::leaked()),
        false => made(query.strip_prefix("made=").unwrap_or_default()),
    };
    show_share(&app, &headers, uuid, notice)
}

/// The page of a share, with what a form of it did.
pub(super) fn show_share(
    app: &App,
    headers: &HeaderMap,
    uuid: Uuid,
    notice: Option<Notice>,
) -> Result<Response> {
    let visitor = visitor(None, &format!("/m/{uuid}"));
    page(
        headers,
        &SharePage::of(
            visitor,
            uuid,
            url(app),
            (app.lab.is_some(), app.hosts.trust()),
            notice,
        ),
    )
}

/// `GET /datasets`.
pub(crate) async fn datasets(
    State(app): State<Arc<App>>,
    account: Option<Account>,
    headers: HeaderMap,
) -> Result<Response> {
    match account {
        Some(account) => show_datasets(&app, &account, &headers, None).await,
        None => Ok(see("/?next=/datasets")),
    }
}

/// `POST /datasets`: the command that lets somebody read, or that shuts somebody out.
pub(crate) async fn prepare_grant(
    State(app): State<Arc<App>>,
    account: Account,
    headers: HeaderMap,
    Form(form): Form<GrantForm>,
) -> Result<Response> {
    own_form(&app, &headers, "prepare commands")?;
    show_datasets(&app, &account, &headers, Some(form)).await
}

async fn show_datasets(
    app: &App,
    account: &Account,
    headers: &HeaderMap,
    form: Option<GrantForm>,
) -> Result<Response> {
    let known = match account.address() {
        Some(address) => known_datasets(app, address).await,
        None => Ok(Known::default()),
    };
    let (known, trouble) = match known {
        Ok(known) => (known, None),
        Err(reason) => (Known::default(), Some(reason)),
    };
    let shown = DatasetsPage::of(visitor(Some(account), "/datasets"), known, trouble, form);
    show(app, Some(account), headers, &shown).await
}

/// What the Aleph node says of an account's datasets, or why it is not known.
async fn known_datasets(app: &App, address: &str) -> std::result::Result<Known, String> {
    let failed = |error: &dyn std::fmt::Display| {
        tracing::warn!(%error, "datasets of an account could not be listed");
        "The Aleph node did not answer, so it is not known now which datasets you have.".to_owned()
    };
    let query = PostQuery {
        addresses: vec![address.to_owned()],
        types: [HEAD_POST_TYPE, GRANT_POST_TYPE, REVOKE_POST_TYPE]
            .map(str::to_owned)
            .to_vec(),
        ..PostQuery::default()
    };
    let models = app.store.models(address).await.map_err(|error| failed(&error))?;
    let models: BTreeSet<String> = models.into_iter().map(|model| model.record.head).collect();
    let asked = async {
        let posts = app.storage.posts(query).await?;
        let granted = match address.parse() {
            Ok(reader) => granted_to(&*app.storage, reader).await?,
            Err(_) => BTreeSet::new(),
        };
        Ok::<_, alephlab_vault::VaultError>((posts, granted))
    };
    let (posts, granted) = match tokio::time::timeout(NODE, asked).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return Err(failed(&error)),
        Err(late) => return Err(failed(&late)),
    };
    Ok(Known {
        datasets: datasets::read(address, posts, &models, unix_now()),
        granted: granted
            .into_iter()
            .map(|(id, owner)| (id.to_string(), owner.to_string()))
            .collect(),
    })
}
