//! Files on their way in: `add_file` with or without a signed STORE, and `add_json`.
//!
//! The order of the checks is the real node's, because it decides which status a bad upload gets
//! (reference, section 6): size, form of the metadata, signature, hash, money.

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{FromRequest, Multipart, Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::{Stream, StreamExt};
use serde_json::{Value, json, value::RawValue};

use aleph_types::message::{MessageType, item_type::ItemType};

use super::{
    MAX_BODY_BYTES, Shared,
    failure::{Answer, Failure},
};
use crate::{
    config::{MAX_FILE_BYTES, MAX_UNAUTHENTICATED_BYTES},
    content::{Body as ContentBody, Content, StoreBody},
    db,
    envelope::Envelope,
    files::Incoming,
    ledger,
    node::{Node, Status},
    rejection::Halt,
};

/// Bytes of a file over the limit that are still read, so that its sender hears 413 and not a
/// broken connection.
const MAX_DRAINED_BYTES: u64 = MAX_FILE_BYTES;

/// What a request brought.
#[derive(Debug, Default)]
struct Parts {
    file: Option<Incoming>,
    metadata: Option<Vec<u8>>,
}

/// A STORE that came with its file, not yet checked.
struct Metadata {
    envelope: Envelope,
    sync: bool,
}

/// `POST /api/v0/storage/add_file`: multipart with `file` and perhaps `metadata` in any order, or the bare bytes.
pub(crate) async fn add_file(State(node): Shared, request: Request) -> Answer<Response> {
    let content_type = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let is_multipart = content_type.is_some_and(|value| value.starts_with("multipart/form-data"));
    let parts = if is_multipart {
        let multipart = Multipart::from_request(request, &())
            .await
            .map_err(|_| invalid_multipart())?;
        receive_parts(&node, multipart).await?
    } else {
        let stream = request.into_body().into_data_stream();
        Parts {
            file: Some(receive(&node, stream, MAX_UNAUTHENTICATED_BYTES).await?),
            metadata: None,
        }
    };
    let file = parts.file.ok_or_else(|| {
        Failure::text(
            StatusCode::BAD_REQUEST,
            "File should be sent as FormData or Raw Upload",
        )
    })?;
    let Some(metadata) = parts.metadata else {
        if file.size() > MAX_UNAUTHENTICATED_BYTES {
            return Err(too_large());
        }
        let hash = node.store_file(file).await?;
        return Ok(Json(json!({ "status": "success", "hash": hash })).into_response());
    };
    let Metadata { envelope, sync } = parse_metadata(&metadata)?;
    check(&node, &envelope, &file).await?;
    let hash = node.store_file(file).await?;
    let status = node.submit(&envelope, sync).await?;
    Ok(uploaded(&hash, status))
}

/// `POST /api/v0/storage/add_json`: stores the JSON without its white space.
pub(crate) async fn add_json(State(node): Shared, body: Body) -> Answer<Json<Value>> {
    let limit = usize::try_from(MAX_UNAUTHENTICATED_BYTES).unwrap_or(usize::MAX);
    let bytes = axum::body::to_bytes(body, limit).await.map_err(|_| too_large())?;
    let invalid = |_| Failure::text(StatusCode::UNPROCESSABLE_ENTITY, "the body is not JSON");
    serde_json::from_slice::<&RawValue>(&bytes).map_err(invalid)?;
    let mut file = node.files.begin().await?;
    file.write(&without_white_space(&bytes)).await?;
    let hash = node.store_file(file).await?;
    Ok(Json(json!({ "status": "success", "hash": hash })))
}

/// JSON without the white space between its parts. Numbers and escapes stay as they were written,
/// because the sender signs the hash of what is stored.
fn without_white_space(json: &[u8]) -> Vec<u8> {
    let (mut in_string, mut escaped) = (false, false);
    let keep = |byte: &u8| {
        let kept = in_string || !matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ => {}
        }
        kept
    };
    json.iter().copied().filter(keep).collect()
}

fn uploaded(hash: &str, status: Status) -> Response {
    match status {
        Status::Processed => Json(json!({ "status": "success", "hash": hash })).into_response(),
        Status::Pending => (
            StatusCode::ACCEPTED,
            Json(json!({ "status": "success", "hash": hash })),
        )
            .into_response(),
        Status::Rejected => {
            let body = json!({ "status": "error", "hash": hash, "message_status": "rejected" });
            (StatusCode::UNPROCESSABLE_ENTITY, Json(body)).into_response()
        }
    }
}

async fn receive_parts(node: &Node, mut multipart: Multipart) -> Answer<Parts> {
    let mut parts = Parts::default();
    while let Some(mut field) = multipart.next_field().await.map_err(|_| invalid_multipart())? {
        match field.name() {
            Some("file") => parts.file = Some(receive(node, field, MAX_FILE_BYTES).await?),
            Some("metadata") => {
                let mut metadata = Vec::new();
                while let Some(chunk) = field.chunk().await.map_err(|_| invalid_multipart())? {
                    if metadata.len() + chunk.len() > MAX_BODY_BYTES {
                        return Err(too_large());
                    }
                    metadata.extend_from_slice(&chunk);
                }
                parts.metadata = Some(metadata);
            }
            // Skipped by asking for the next one.
            _ => {}
        }
    }
    Ok(parts)
}

/// Reads a file of at most `most` bytes.
async fn receive<S, E>(node: &Node, mut stream: S, most: u64) -> Answer<Incoming>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
{
    let mut incoming = node.files.begin().await?;
    let mut drained = 0;
    while let Some(chunk) = stream.next().await {
        let chunk =
            chunk.map_err(|_| Failure::text(StatusCode::BAD_REQUEST, "the upload ended before its end"))?;
        if drained > 0 || incoming.size() + chunk.len() as u64 > most {
            drained += chunk.len() as u64;
            if drained > MAX_DRAINED_BYTES {
                break;
            }
        } else {
            incoming.write(&chunk).await?;
        }
    }
    if drained > 0 {
        Err(too_large())
    } else {
        Ok(incoming)
    }
}

fn parse_metadata(bytes: &[u8]) -> Answer<Metadata> {
    let refuse = |reason: &str| {
        Failure::text(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!("Could not decode metadata: {reason}"),
        )
    };
    let metadata: Value = serde_json::from_slice(bytes).map_err(|_| refuse("it is not JSON"))?;
    let sync = metadata
        .get("sync")
        .and_then(Value::as_bool)
        .ok_or_else(|| refuse("sync is missing"))?;
    let message = metadata
        .get("message")
        .ok_or_else(|| refuse("message is missing"))?;
    let envelope = Envelope::parse(message).map_err(|malformed| refuse(&malformed.0))?;
    if envelope.kind != MessageType::Store || envelope.item_type != ItemType::Inline {
        return Err(refuse("the message is not an inline STORE"));
    }
    Ok(Metadata { envelope, sync })
}

/// Signature, hash and money of an authenticated upload.
async fn check(node: &Node, envelope: &Envelope, file: &Incoming) -> Answer<()> {
    let unprocessable = |text: String| Failure::text(StatusCode::UNPROCESSABLE_ENTITY, text);
    if envelope.verify().is_err() {
        return Err(Failure::text(StatusCode::FORBIDDEN, "403: Forbidden"));
    }
    let (content, store) = store_of(envelope).map_err(unprocessable)?;
    let hash = file.hash();
    if store.file_hash != hash {
        return Err(unprocessable(format!(
            "File hash does not match ({hash} != {})",
            store.file_hash
        )));
    }
    let mut transaction = node.db.begin_with(db::WRITE).await?;
    ledger::settle(&mut transaction, db::now()).await?;
    let (address, payment) = (&content.address, store.payment);
    let admitted = ledger::admit_store(
        &mut transaction,
        &node.settings,
        address,
        payment,
        file.size(),
        false,
    )
    .await;
    transaction.commit().await?;
    match admitted {
        Ok(_) => Ok(()),
        Err(Halt::Reject(_)) => Err(Failure::text(
            StatusCode::PAYMENT_REQUIRED,
            "402: Payment Required",
        )),
        Err(Halt::Broken(error)) => Err(error.into()),
    }
}

fn store_of(envelope: &Envelope) -> Result<(Content, StoreBody), String> {
    let text = envelope.item_content.as_deref().unwrap_or_default();
    let value = serde_json::from_str(text).map_err(|_| "Store message content needed".to_owned())?;
    let content = Content::parse(MessageType::Store, &value)
        .map_err(|rejection| format!("Invalid store message content: {}", rejection.details()))?;
    match content.body.clone() {
        ContentBody::Store(store) => Ok((content, store)),
        _ => Err("Store message content needed".to_owned()),
    }
}

fn too_large() -> Failure {
    Failure::text(StatusCode::PAYLOAD_TOO_LARGE, "413: Request Entity Too Large")
}

fn invalid_multipart() -> Failure {
    Failure::text(StatusCode::BAD_REQUEST, "Invalid multipart structure")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_goes_only_between_parts() {
        let json = br#"{ "a b" : [ 1.0 ,"\" x \\" , "\u0020" ] }"#;
        assert_eq!(without_white_space(json), br#"{"a b":[1.0,"\" x \\","\u0020"]}"#);
    }
}
