//! Kernelspecs: the one that this gateway has, and its pictures.

use axum::Json;
use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::auth::Account;
use crate::error::{GatewayError, Result};
use crate::kernels::SPEC;

const LOGO_SVG: &[u8] = include_bytes!("../../static/logo-svg.svg");
const LOGO_32: &[u8] = include_bytes!("../../static/logo-32x32.png");
const LOGO_64: &[u8] = include_bytes!("../../static/logo-64x64.png");

/// `GET /api/kernelspecs`.
pub(crate) async fn all(_: Account) -> Json<Value> {
    Json(json!({ "default": SPEC, "kernelspecs": { SPEC: spec() } }))
}

/// `GET /api/kernelspecs/{name}`.
pub(crate) async fn one(_: Account, Path(name): Path<String>) -> Result<Json<Value>> {
    if name == SPEC {
        Ok(Json(spec()))
    } else {
        Err(unknown(&name))
    }
}

/// `GET /kernelspecs/{name}/{file}`. Pictures are no secret, and pages show them without a token.
pub(crate) async fn resource(Path((name, file)): Path<(String, String)>) -> Result<Response> {
    let (kind, bytes) = match (name.as_str(), file.as_str()) {
        (SPEC, "logo-svg.svg") => ("image/svg+xml", LOGO_SVG),
        (SPEC, "logo-32x32.png") => ("image/png", LOGO_32),
        (SPEC, "logo-64x64.png") => ("image/png", LOGO_64),
        (SPEC, _) => {
            return Err(GatewayError::not_found(
                "resource_unknown",
                "this kernelspec has no such file",
            ));
        }
        _ => return Err(unknown(&name)),
    };
    Ok((
        [
            (header::CONTENT_TYPE, kind),
            (header::CACHE_CONTROL, "max-age=3600"),
        ],
        bytes,
    )
        .into_response())
}

fn unknown(name: &str) -> GatewayError {
    let message = format!("this gateway has no kernelspec `{name}`; it has `{SPEC}`");
    GatewayError::not_found("kernelspec_unknown", message)
}

fn spec() -> Value {
    let logo = |file: &str| format!("/kernelspecs/{SPEC}/{file}");
    json!({
        "name": SPEC,
        "spec": {
            "argv": ["alephlab-kernel", "run", "--connection-file", "{connection_file}"],
            "env": {}, "display_name": "Rust (Alephlab)", "language": "rust", "interrupt_mode": "message",
            "metadata": { "debugger": false },
        },
        "resources": {
            "logo-svg": logo("logo-svg.svg"), "logo-32x32": logo("logo-32x32.png"), "logo-64x64": logo("logo-64x64.png"),
        },
    })
}
