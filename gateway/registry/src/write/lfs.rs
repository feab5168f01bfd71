//! git-lfs' batch API and the addresses that it hands out, as the Hub's clients use them: whole objects by one `PUT`,
//! large ones in parts, or by Xet where the client offers it.
//!
//! Addresses authorise by themselves, because clients send no token to them: what they allow, for whom and until when
//! is signed.

use std::collections::HashSet;
use std::sync::Arc;

use alephlab_api::model::is_hex;
use alephlab_api::time::unix_now;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::HeaderValue;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Caller, Result, json as read, writer_of};
use crate::repo::Asked;
use crate::staging::incoming::aside;
use crate::staging::parts::{PARTS_MAX, Parted};
use crate::staging::{CallerKey, Incoming, PartSink, Spool};
use crate::{Hub, RegistryError, Writing};

/// How long an address is good for, from the batch on: a slow line needs hours for a large object.
const GOOD_FOR: u64 = 12 * 3600;
/// Objects in one batch.
const OBJECTS_MAX: usize = 256;
/// Addresses of parts in one answer, over all its objects.
const ADDRESSES_MAX: u64 = 20_000;

#[derive(Deserialize)]
struct Batch {
    operation: String,
    #[serde(default)]
    transfers: Vec<String>,
    objects: Vec<Object>,
    hash_algo: Option<String>,
}

#[derive(Deserialize)]
struct Object {
    oid: String,
    size: u64,
}

/// What an address of ours binds, beside caller and hash.
#[derive(Deserialize)]
pub(super) struct Signed {
    size: u64,
    #[serde(default)]
    part: u64,
    #[serde(default)]
    number: u64,
    expires: u64,
    signature: String,
}

/// How objects of one batch are sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Transfer {
    Basic,
    Multipart,
    Xet,
}

/// `POST /{id}.git/info/lfs/objects/batch`.
pub(super) async fn batch(asked: Asked, body: Bytes) -> Result<Response> {
    let id = asked.id();
    let id = id.strip_suffix(".git").ok_or(RegistryError::RepoNotFound)?;
    let (writing, caller) = writer_of(&asked.hub, &asked.asker, id).await?;
    let batch: Batch = read(&body)?;
    batch.check()?;
    let offered = batch.transfer();
    let mut seen = HashSet::new();
    let objects: Vec<&Object> = batch
        .objects
        .iter()
        .filter(|object| seen.insert(&object.oid))
        .collect();
    // Over Xet a client sends all that it was told of: only where nothing of it is needed is it told so.
    let transfer = match offered {
        Transfer::Xet if all_there(writing, &caller, id, &objects).await? => Transfer::Basic,
        other => other,
    };
    let mut answers = Vec::new();
    let mut is_parted = false;
    let parts_max = (ADDRESSES_MAX / objects.len().max(1) as u64).clamp(1, PARTS_MAX);
    for object in objects {
        let mut answer = json!({ "oid": object.oid, "size": object.size });
        if let Some(refusal) = object.refusal(writing) {
            answer["error"] = json!({ "code": 422, "message": refusal });
        } else if transfer == offered
            && transfer != Transfer::Xet
            && !is_there(writing, &caller, id, object).await?
        {
            let upload = Upload {
                writing,
                base: &writing.base,
                key: writing.staging.key(&caller.account),
                object,
                parts_max,
            };
            answer["actions"] = upload.actions(transfer);
            is_parted |= !answer["actions"]["upload"]["header"].is_null();
        }
        answers.push(answer);
    }
    let chosen = match transfer {
        Transfer::Xet => "xet",
        _ if is_parted => "multipart",
        _ => "basic",
    };
    let mut response = Json(json!({ "transfer": chosen, "objects": answers })).into_response();
    let kind = HeaderValue::from_static("application/vnd.git-lfs+json");
    response.headers_mut().insert("content-type", kind);
    Ok(response)
}

/// Whether this caller need send none of these. Looks no further than to the first that it must.
async fn all_there(writing: &Writing, caller: &Caller, id: &str, objects: &[&Object]) -> Result<bool> {
    for object in objects {
        if object.refusal(writing).is_some() || !is_there(writing, caller, id, object).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Batch {
    fn check(&self) -> Result<()> {
        if self.operation != "upload" {
            return Err(RegistryError::invalid(
                "files are downloaded by `resolve`, not by git-lfs",
            ));
        }
        if self
            .hash_algo
            .as_deref()
            .is_some_and(|algorithm| algorithm != "sha256")
        {
            return Err(RegistryError::invalid("objects are named by SHA-256"));
        }
        if self.objects.len() > OBJECTS_MAX {
            return Err(RegistryError::TooLarge {
                what: format!("a batch of {}", self.objects.len()),
                most: format!("{OBJECTS_MAX} objects"),
            });
        }
        Ok(())
    }

    /// Xet where the client can: it goes on where it was cut, and the others of its kind fall back to worse than this.
    fn transfer(&self) -> Transfer {
        let offers = |name: &str| self.transfers.iter().any(|transfer| transfer == name);
        if offers("xet") {
            Transfer::Xet
        } else if offers("multipart") {
            Transfer::Multipart
        } else {
            Transfer::Basic
        }
    }
}

impl Object {
    fn refusal(&self, writing: &Writing) -> Option<String> {
        if !is_hex(&self.oid, 64) {
            return Some("the oid is not a SHA-256 in hex".to_owned());
        }
        let most = writing.staging.limits().object;
        (self.size > most)
            .then(|| format!("files of more than {most} bytes are not taken: split the weights"))
    }
}

/// Whether this caller need not send it: it has, or the repo holds it for it.
async fn is_there(writing: &Writing, caller: &Caller, id: &str, object: &Object) -> Result<bool> {
    let key = writing.staging.key(&caller.account);
    let staged = writing.staging.object(&key, &object.oid);
    if staged.is_some_and(|staged| staged.size == object.size) {
        return Ok(true);
    }
    let held = writing.writer.holds(caller, id, &object.oid).await?;
    Ok(held == Some(object.size))
}

/// Addresses for one object.
struct Upload<'a> {
    writing: &'a Writing,
    base: &'a str,
    key: CallerKey,
    object: &'a Object,
    parts_max: u64,
}

impl Upload<'_> {
    fn actions(&self, transfer: Transfer) -> Value {
        let verify = self.address("verify", 0, 0);
        let part = self.writing.staging.limits().part;
        let part = part.max(self.object.size.div_ceil(self.parts_max)).max(1);
        if transfer == Transfer::Basic || self.object.size <= part {
            let href = self.address("objects", 0, 0);
            return json!({ "upload": { "href": href }, "verify": { "href": verify } });
        }
        let mut header = Map::new();
        header.insert("chunk_size".to_owned(), part.to_string().into());
        for number in 1..=self.object.size.div_ceil(part) {
            let href = self.address("parts", part, number);
            header.insert(number.to_string(), href.into());
        }
        let href = self.address("complete", part, 0);
        json!({ "upload": { "href": href, "header": header }, "verify": { "href": verify } })
    }

    fn address(&self, purpose: &str, part: u64, number: u64) -> String {
        let signed = Signed {
            size: self.object.size,
            part,
            number,
            expires: unix_now() + GOOD_FOR,
            signature: String::new(),
        };
        let (key, oid) = (self.key.as_str(), &self.object.oid);
        let signature = signed.sign(self.writing, purpose, key, oid);
        let Signed { size, expires, .. } = signed;
        format!(
            "{}/lfs/{purpose}/{key}/{oid}?size={size}&part={part}&number={number}&expires={expires}&signature={signature}",
            self.base
        )
    }
}

impl Signed {
    fn sign(&self, writing: &Writing, purpose: &str, key: &str, oid: &str) -> String {
        let numbers = [self.size, self.part, self.number, self.expires].map(|number| number.to_string());
        let [size, part, number, expires] = &numbers;
        writing
            .signer
            .sign(purpose, &[key, oid, size, part, number, expires])
    }

    /// Whether an address of ours came back as it was given out, in time.
    fn check(&self, writing: &Writing, purpose: &str, key: &str, oid: &str) -> Result<CallerKey> {
        let numbers = [self.size, self.part, self.number, self.expires].map(|number| number.to_string());
        let [size, part, number, expires] = &numbers;
        let parts = [key, oid, size, part, number, expires];
        let signed = writing.signer.is_signed(purpose, &parts, &self.signature);
        let key = CallerKey::parse(key).filter(|_| signed && self.expires >= unix_now() && is_hex(oid, 64));
        key.ok_or(RegistryError::Unsigned)
    }

    fn parted(&self, oid: String) -> Parted {
        Parted {
            sha256: oid,
            size: self.size,
            part: self.part,
        }
    }
}

/// `PUT` of a whole object. Half of one leaves nothing.
pub(super) async fn put_object(
    State(hub): State<Arc<Hub>>,
    Path((key, oid)): Path<(String, String)>,
    Query(signed): Query<Signed>,
    body: Body,
) -> Result<()> {
    let writing = hub.writing()?;
    let key = signed.check(writing, "objects", &key, &oid)?;
    let spool = Spool::new(&writing.staging, &key, signed.size)?;
    let spool = Incoming::new(spool).body(body).await?;
    aside(move || spool.keep_object(Some((&oid, signed.size)))).await??;
    Ok(())
}

/// `PUT` of one part. The tag in the answer is not looked at again: the whole is hashed at the end.
pub(super) async fn put_part(
    State(hub): State<Arc<Hub>>,
    Path((key, oid)): Path<(String, String)>,
    Query(signed): Query<Signed>,
    body: Body,
) -> Result<Response> {
    let writing = hub.writing()?;
    let key = signed.check(writing, "parts", &key, &oid)?;
    let part = PartSink::new(&writing.staging, &key, &signed.parted(oid), signed.number)?;
    let part = Incoming::new(part).body(body).await?;
    let tag = aside(move || part.keep()).await??;
    Ok(([("etag", format!("\"{tag}\""))], ()).into_response())
}

/// `POST` after the last part.
pub(super) async fn complete(
    State(hub): State<Arc<Hub>>,
    Path((key, oid)): Path<(String, String)>,
    Query(signed): Query<Signed>,
    // Taken in, though the address says it all: a connection with an unread body is closed under the client's next request.
    _body: Bytes,
) -> Result<Json<Value>> {
    let writing = hub.writing()?;
    let key = signed.check(writing, "complete", &key, &oid)?;
    let (staging, whole) = (Arc::clone(&writing.staging), signed.parted(oid));
    aside(move || staging.finish_parts(&key, &whole)).await??;
    Ok(Json(json!({ "success": true })))
}

/// `POST` of oid and size when all is sent.
pub(super) async fn verify(
    State(hub): State<Arc<Hub>>,
    Path((key, oid)): Path<(String, String)>,
    Query(signed): Query<Signed>,
    // Taken in, though the address says it all: a connection with an unread body is closed under the client's next request.
    _body: Bytes,
) -> Result<Json<Value>> {
    let writing = hub.writing()?;
    let key = signed.check(writing, "verify", &key, &oid)?;
    let staged = writing.staging.object(&key, &oid);
    if staged.is_none_or(|staged| staged.size != signed.size) {
        return Err(RegistryError::NotUploaded {
            path: String::new(),
            sha256: oid,
        });
    }
    Ok(Json(json!({ "success": true })))
}
