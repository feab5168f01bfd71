//! A small OpenID provider that signs whatever a test wants it to: what a good one never does.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use alephlab_api::Secret;
use alephlab_api::time::unix_now;
use alephlab_gateway::OidcConfig;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Form, Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rsa::pkcs1v15::SigningKey;
use rsa::sha2::{Digest as _, Sha256};
use rsa::signature::{SignatureEncoding as _, Signer as _};
use rsa::traits::PublicKeyParts as _;
use rsa::{RsaPrivateKey, rand_core::OsRng};
use serde_json::{Value, json};
use url::Url;

pub(crate) const CLIENT: &str = "lab one";
pub(crate) const SECRET: &str = "p%ss word";

/// Making one takes a while.
static KEYS: LazyLock<[RsaPrivateKey; 2]> =
    LazyLock::new(|| std::array::from_fn(|_| RsaPrivateKey::new(&mut OsRng, 2048).unwrap()));

/// What the provider answers for a code.
pub(crate) struct Ticket {
    pub(crate) challenge: String,
    pub(crate) back: String,
    pub(crate) id_token: String,
}

#[derive(Default)]
struct Kept {
    issuer: String,
    tickets: HashMap<String, Ticket>,
    /// Which of the keys it has published.
    key: usize,
    broken: bool,
    asked: usize,
}

/// The provider, for as long as the test's runtime lives.
#[derive(Clone)]
pub(crate) struct Provider(Arc<Mutex<Kept>>);

impl Provider {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let provider = Self(Arc::default());
        provider.0.lock().unwrap().issuer = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(metadata))
            .route("/jwks", get(keys))
            .route("/token", post(token))
            .with_state(provider.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        provider
    }

    pub(crate) fn issuer(&self) -> String {
        self.0.lock().unwrap().issuer.clone()
    }

    pub(crate) fn config(&self, everyone: bool) -> OidcConfig {
        OidcConfig {
            issuer: self.issuer(),
            client_id: CLIENT.to_owned(),
            client_secret: Some(Secret::new(SECRET)),
            name: "Example".to_owned(),
            scopes: vec!["profile".to_owned()],
            everyone,
        }
    }

    /// From now on it answers with failures, or not.
    pub(crate) fn set_broken(&self, broken: bool) {
        self.0.lock().unwrap().broken = broken;
    }

    /// From now on it signs with the other key.
    pub(crate) fn change_key(&self) {
        self.0.lock().unwrap().key = 1;
    }

    /// How often its metadata was asked for.
    pub(crate) fn asked(&self) -> usize {
        self.0.lock().unwrap().asked
    }

    /// Good claims for who signs in by this address that the gateway made.
    pub(crate) fn claims(&self, asked: &Url, subject: &str) -> Value {
        json!({
            "iss": self.issuer(), "aud": CLIENT, "sub": subject, "nonce": parameter(asked, "nonce"),
            "iat": unix_now(), "exp": unix_now() + 60, "preferred_username": subject,
        })
    }

    /// A code for what the gateway asked, for which it answers with this token.
    pub(crate) fn code(&self, asked: &Url, id_token: String) -> String {
        let code = format!("code-{}", uuid::Uuid::new_v4());
        let ticket = Ticket {
            challenge: parameter(asked, "code_challenge"),
            back: parameter(asked, "redirect_uri"),
            id_token,
        };
        self.0.lock().unwrap().tickets.insert(code.clone(), ticket);
        code
    }

    /// A token over these claims, signed as it should be.
    pub(crate) fn signed(&self, claims: &Value) -> String {
        let key = self.0.lock().unwrap().key;
        signed_by(key, &json!({ "alg": "RS256", "kid": key.to_string() }), claims)
    }
}

/// A parameter of an address.
pub(crate) fn parameter(url: &Url, name: &str) -> String {
    let found = url.query_pairs().find(|(key, _)| key == name);
    found.unwrap_or_else(|| panic!("{name}: {url}")).1.into_owned()
}

/// A token signed by one of the keys, whatever its header says.
pub(crate) fn signed_by(key: usize, header: &Value, claims: &Value) -> String {
    let text = unsigned(header, claims);
    let text = text.trim_end_matches('.');
    let signature = SigningKey::<Sha256>::new(KEYS[key].clone()).sign(text.as_bytes());
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()))
}

/// A token without a signature.
pub(crate) fn unsigned(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.", part(header), part(claims))
}

async fn metadata(State(provider): State<Provider>) -> Response {
    let mut kept = provider.0.lock().unwrap();
    kept.asked += 1;
    if kept.broken {
        return StatusCode::BAD_GATEWAY.into_response();
    }
    let issuer = &kept.issuer;
    Json(json!({
        "issuer": issuer, "authorization_endpoint": format!("{issuer}/authorize"),
        "token_endpoint": format!("{issuer}/token"), "jwks_uri": format!("{issuer}/jwks"),
        "response_types_supported": ["code"], "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256", "none", "HS256"],
    }))
    .into_response()
}

async fn keys(State(provider): State<Provider>) -> Json<Value> {
    let key = provider.0.lock().unwrap().key;
    let part = |number: &rsa::BigUint| URL_SAFE_NO_PAD.encode(number.to_bytes_be());
    let public = &KEYS[key];
    Json(json!({ "keys": [{
        "kty": "RSA", "use": "sig", "alg": "RS256", "kid": key.to_string(),
        "n": part(public.n()), "e": part(public.e()),
    }] }))
}

/// Gives a code's token once, to who proves the client, the verifier and the address that it came back to.
async fn token(
    State(provider): State<Provider>,
    headers: HeaderMap,
    Form(form): Form<HashMap<String, String>>,
) -> Response {
    let refused = |error: &str| (StatusCode::BAD_REQUEST, Json(json!({ "error": error }))).into_response();
    // RFC 6749, 2.3.1: both parts are encoded as in a form.
    let client = format!("Basic {}", STANDARD.encode("lab+one:p%25ss+word"));
    if headers.get("authorization").and_then(|value| value.to_str().ok()) != Some(client.as_str()) {
        return refused("invalid_client");
    }
    let mut kept = provider.0.lock().unwrap();
    let Some(ticket) = kept.tickets.remove(&form["code"]) else {
        return refused("invalid_grant");
    };
    let proof = URL_SAFE_NO_PAD.encode(Sha256::digest(form["code_verifier"].as_bytes()));
    if proof != ticket.challenge || form["redirect_uri"] != ticket.back {
        return refused("invalid_grant");
    }
    Json(json!({ "access_token": "unused", "token_type": "Bearer", "id_token": ticket.id_token }))
        .into_response()
}
