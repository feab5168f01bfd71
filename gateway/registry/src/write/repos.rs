//! Repos, their settings, names of revisions, and the check of a card's front matter.

use std::sync::Arc;

use alephlab_api::model::is_name;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Caller, NewRepo, RefKind, Result, Settings, checked_name, json, telling, writer, writer_of};
use crate::card;
use crate::repo::{Asked, Asker};
use crate::{Gated, Hub, RegistryError};

#[derive(Deserialize)]
struct Named {
    name: String,
    organization: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    visibility: Option<String>,
    private: Option<bool>,
}

impl Named {
    fn id(&self, caller: &Caller) -> Result<String> {
        models_only(self.kind.as_deref())?;
        let namespace = self.organization.as_deref().unwrap_or(&caller.account);
        checked_id(&format!("{namespace}/{}", self.name))
    }
}

#[derive(Deserialize)]
struct Move {
    #[serde(rename = "fromRepo")]
    from: String,
    #[serde(rename = "toRepo")]
    to: String,
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Set {
    visibility: Option<String>,
    private: Option<bool>,
    gated: Option<Value>,
}

#[derive(Deserialize)]
struct NewTag {
    tag: String,
}

#[derive(Default, Deserialize)]
struct NewBranch {
    #[serde(rename = "startingPoint")]
    from: Option<String>,
}

#[derive(Deserialize)]
struct Yaml {
    content: String,
}

pub(super) async fn create(State(hub): State<Arc<Hub>>, asker: Asker, body: Bytes) -> Result<Json<Value>> {
    let (writing, caller) = writer(&hub, &asker).await?;
    let named: Named = json(&body)?;
    let new = NewRepo {
        id: named.id(&caller)?,
        private: private(named.visibility.as_deref(), named.private)?,
    };
    let url = format!("{}/{}", writing.base, new.id);
    let made = writing.writer.create(&caller, &new).await;
    made.map_err(|error| match error {
        RegistryError::Exists { what, .. } => RegistryError::Exists {
            what,
            url: Some(url.clone()),
        },
        error => error,
    })?;
    Ok(Json(json!({ "url": url, "name": new.id, "id": new.id })))
}

pub(super) async fn remove(State(hub): State<Arc<Hub>>, asker: Asker, body: Bytes) -> Result<Json<Value>> {
    let (_, caller) = writer(&hub, &asker).await?;
    let id = json::<Named>(&body)?.id(&caller)?;
    let (writing, caller) = writer_of(&hub, &asker, &id).await?;
    writing.writer.delete(&caller, &id).await?;
    Ok(done())
}

pub(super) async fn rename(State(hub): State<Arc<Hub>>, asker: Asker, body: Bytes) -> Result<Json<Value>> {
    let (_, _) = writer(&hub, &asker).await?;
    let wish: Move = json(&body)?;
    models_only(wish.kind.as_deref())?;
    let (from, to) = (checked_id(&wish.from)?, checked_id(&wish.to)?);
    let (writing, caller) = writer_of(&hub, &asker, &from).await?;
    writing.writer.rename(&caller, &from, &to).await?;
    Ok(done())
}

pub(super) async fn set(asked: Asked, body: Bytes) -> Result<Response> {
    let (writing, caller, id) = asked.writer().await?;
    let set: Set = json(&body)?;
    let gated = set.gated.as_ref().map(|gated| match gated {
        Value::Bool(false) => Ok(Gated::No),
        Value::String(word) if word == "auto" => Ok(Gated::Auto),
        Value::String(word) if word == "manual" => Ok(Gated::Manual),
        _ => Err(RegistryError::invalid("`gated` is `false`, `auto` or `manual`")),
    });
    let settings = Settings {
        private: private(set.visibility.as_deref(), set.private)?,
        gated: gated.transpose()?,
    };
    let told = writing.writer.set(&caller, &id, &settings).await?;
    Ok(telling(
        done(),
        told.map(|told| format!("visibility; {id}: {told}")),
    ))
}

pub(super) async fn add_tag(asked: Asked, body: Bytes) -> Result<Json<Value>> {
    let tag = json::<NewTag>(&body)?.tag;
    add(&asked, RefKind::Tag, (&tag, &asked.at.revision)).await
}

pub(super) async fn add_branch(asked: Asked, body: Bytes) -> Result<Json<Value>> {
    let new = if body.is_empty() {
        NewBranch::default()
    } else {
        json(&body)?
    };
    let from = new.from.unwrap_or_else(|| "main".to_owned());
    add(&asked, RefKind::Branch, (&asked.at.revision, &from)).await
}

async fn add(asked: &Asked, kind: RefKind, (name, revision): (&str, &str)) -> Result<Json<Value>> {
    let (writing, caller, id) = asked.writer().await?;
    let name = checked_name(name)?;
    writing.writer.set_ref(&caller, &id, kind, name, revision).await?;
    Ok(done())
}

pub(super) async fn remove_tag(asked: Asked) -> Result<Json<Value>> {
    remove_ref(&asked, RefKind::Tag).await
}

pub(super) async fn remove_branch(asked: Asked) -> Result<Json<Value>> {
    if asked.at.revision == "main" {
        return Err(RegistryError::invalid("`main` cannot be removed"));
    }
    remove_ref(&asked, RefKind::Branch).await
}

async fn remove_ref(asked: &Asked, kind: RefKind) -> Result<Json<Value>> {
    let (writing, caller, id) = asked.writer().await?;
    let name = &asked.at.revision;
    writing.writer.remove_ref(&caller, &id, kind, name).await?;
    Ok(done())
}

/// What clients ask before each upload of a `README.md`. Errors here stop the upload, so only what makes the card
/// unreadable is one; what is merely not understood is a warning. Cards are checked without a token, too.
pub(super) async fn validate_yaml(body: Bytes) -> Result<(StatusCode, Json<Value>)> {
    let found = card::check(&json::<Yaml>(&body)?.content);
    let status = if found.errors.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::BAD_REQUEST
    };
    let list = |words: Vec<String>| -> Vec<Value> {
        words
            .into_iter()
            .map(|message| json!({ "message": message }))
            .collect()
    };
    let answer = json!({ "errors": list(found.errors), "warnings": list(found.warnings) });
    Ok((status, Json(answer)))
}

fn private(visibility: Option<&str>, private: Option<bool>) -> Result<Option<bool>> {
    match visibility {
        None => Ok(private),
        Some("public") => Ok(Some(false)),
        Some("private") => Ok(Some(true)),
        Some(_) => Err(RegistryError::invalid("`visibility` is `public` or `private`")),
    }
}

fn models_only(kind: Option<&str>) -> Result<()> {
    match kind {
        None | Some("model") => Ok(()),
        Some(_) => Err(RegistryError::invalid("this registry has models only")),
    }
}

/// An id of a repo, as clients check it before they ask.
fn checked_id(id: &str) -> Result<String> {
    match id.split_once('/') {
        Some((namespace, name)) if is_name(namespace) && is_name(name) => Ok(id.to_owned()),
        _ => Err(RegistryError::invalid(
            "a repository is named `namespace/name`, of letters, digits and `.-_`",
        )),
    }
}

fn done() -> Json<Value> {
    Json(json!({ "ok": true }))
}
