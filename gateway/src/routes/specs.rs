//! Kernelspecs: those that this gateway has, and their pictures.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::auth::Account;
use crate::error::{GatewayError, Result};
use crate::kernels::{SPEC, SPECS, unknown_spec};
use crate::state::App;

const LOGO_SVG: &[u8] = include_bytes!("../../static/logo-svg.svg");
const LOGO_32: &[u8] = include_bytes!("../../static/logo-32x32.png");
const LOGO_64: &[u8] = include_bytes!("../../static/logo-64x64.png");

/// `GET /api/kernelspecs`.
pub(crate) async fn all(State(app): State<Arc<App>>, _: Account) -> Json<Value> {
    let here = SPECS
        .iter()
        .map(|(name, title)| ((*name).to_owned(), spec(name, &app.kernels.titled(title))));
    let rented = app.kernels.allocations.kernelspecs().await;
    let rented = rented.into_iter().map(|(name, title)| {
        let spec = spec(&name, &title);
        (name, spec)
    });
    let all: serde_json::Map<String, Value> = here.chain(rented).collect();
    Json(json!({ "default": SPEC, "kernelspecs": all }))
}

/// `GET /api/kernelspecs/{name}`.
pub(crate) async fn one(
    State(app): State<Arc<App>>,
    _: Account,
    Path(name): Path<String>,
) -> Result<Json<Value>> {
    if let Some((name, title)) = SPECS.iter().find(|(known, _)| *known == name) {
        return Ok(Json(spec(name, &app.kernels.titled(title))));
    }
    let rented = app.kernels.allocations.kernelspecs().await;
    let found = rented.into_iter().find(|(known, _)| *known == name);
    let (name, title) = found.ok_or_else(|| unknown_spec(&name))?;
    Ok(Json(spec(&name, &title)))
}

/// `GET /kernelspecs/{name}/{file}`. Pictures are no secret, and pages show them without a token.
pub(crate) async fn resource(Path((name, file)): Path<(String, String)>) -> Result<Response> {
    // Kernelspecs of hardware begin alike; which there are changes by the minute, and all have the same pictures.
    if !name.starts_with(SPEC) {
        return Err(unknown_spec(&name));
    }
    let (kind, bytes) = match file.as_str() {
        "logo-svg.svg" => ("image/svg+xml", LOGO_SVG),
        "logo-32x32.png" => ("image/png", LOGO_32),
        "logo-64x64.png" => ("image/png", LOGO_64),
        _ => {
            return Err(GatewayError::not_found(
                "resource_unknown",
                "this kernelspec has no such file",
            ));
        }
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

fn spec(name: &str, title: &str) -> Value {
    let logo = |file: &str| format!("/kernelspecs/{name}/{file}");
    json!({
        "name": name,
        "spec": {
            "argv": ["alephlab-kernel", "run", "--connection-file", "{connection_file}"],
            "env": {}, "display_name": title, "language": "rust", "interrupt_mode": "message",
            // evcxr's cells have no debug information.
            "metadata": { "debugger": name == SPEC },
        },
        "resources": {
            "logo-svg": logo("logo-svg.svg"), "logo-32x32": logo("logo-32x32.png"), "logo-64x64": logo("logo-64x64.png"),
        },
    })
}
