//! Signing in by wallet (EIP-4361 text, EIP-191 signature), who one is, and tokens for kernels started elsewhere.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alephlab_api::account::{Challenge, KernelSession, SignIn, SignedIn, WhoAmI};
use alephlab_api::time;
use alephlab_vault::{Address, verify_text};
use axum::Json;
use axum::extract::{ConnectInfo, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use uuid::Uuid;

use super::{body, has_nul};
use crate::auth::{Account, random_token};
use crate::error::{GatewayError, Result};
use crate::kernels::SPEC;
use crate::state::{App, address};
use crate::store::sha256;

/// How long the token of a sign-in works, seconds: a month, so that programs that run for weeks need no hand.
const SIGN_IN_LIFE: u64 = 30 * 86_400;
/// The way of a sign-in by wallet, as the audit log names it.
pub(super) const WALLET: &str = "wallet";
/// How long a text may wait for its signature.
const PATIENCE: Duration = Duration::from_secs(300);

#[derive(Deserialize)]
pub(crate) struct ChallengeQuery {
    #[serde(default)]
    address: String,
}

/// `GET /v1/sign-in?address=0x..`. Everybody gets a text, so that nobody learns here who is admitted.
pub(crate) async fn challenge(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Query(query): Query<ChallengeQuery>,
) -> Result<Json<Challenge>> {
    let address = account_address(&query.address)?;
    Ok(Json(text_to_sign(&app, peer, &address, None).await?))
}

/// A text that waits for the signature of this address: to sign in, or to be linked to an account. What is signed for one is
/// not taken for the other, or a page that has somebody sign in could take their address.
pub(super) async fn text_to_sign(
    app: &App,
    peer: SocketAddr,
    signer: &str,
    account: Option<&str>,
) -> Result<Challenge> {
    if app.texts.exceeded(address(peer)) {
        let message = "too many texts to sign were asked for";
        return Err(
            GatewayError::refused(StatusCode::TOO_MANY_REQUESTS, "too_many_texts", message)
                .with_hint("try again in a minute"),
        );
    }
    // 128 random bits: more than EIP-4361 asks for, alphanumeric as it wants.
    let nonce = Uuid::new_v4().simple().to_string();
    let now = SystemTime::now();
    let purpose = match account {
        None => "Sign in to Alephlab.".to_owned(),
        Some(account) => format!("Link this address to the account {account} of Alephlab, for good."),
    };
    let message = format!(
        "{} wants you to sign in with your Ethereum account:\n{signer}\n\n\
         {purpose} This costs nothing and moves nothing.\n\n\
         URI: {}\nVersion: 1\nChain ID: 1\nNonce: {nonce}\nIssued At: {}\nExpiration Time: {}",
        app.public_url.authority(),
        app.public_url.as_str().trim_end_matches('/'),
        time::format(now),
        time::format(now + PATIENCE),
    );
    app.store
        .add_challenge(
            &nonce,
            (signer, account),
            &message,
            time::unix_now() + PATIENCE.as_secs(),
        )
        .await?;
    Ok(Challenge { nonce, message })
}

/// `POST /v1/sign-in`: the text is used up by any try.
pub(crate) async fn sign_in(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    bytes: Bytes,
) -> Result<Response> {
    let signed: SignIn = body(&bytes)?;
    let account = prove_admitted(&app, peer, &signed).await?;
    let (token, expires) = (random_token(), time::unix_now() + SIGN_IN_LIFE);
    app.store
        .add_token(
            &sha256(token.expose().as_bytes()),
            (&account, WALLET),
            None,
            expires,
        )
        .await?;
    let answer = SignedIn {
        address: account_address(&signed.address)?,
        token,
        expires: Some(time::format(UNIX_EPOCH + Duration::from_secs(expires))),
    };
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response())
}

/// The account of the address that signed a text which waited for it, if it may sign in here.
pub(super) async fn prove_admitted(app: &App, peer: SocketAddr, signed: &SignIn) -> Result<String> {
    let address = prove(app, peer, signed, None).await?;
    // Only now: who is admitted is told to nobody but the account itself.
    match app.store.admits(&address).await? {
        Some(account) => Ok(account),
        None => {
            app.store.note_refused_sign_in(&address, WALLET).await?;
            Err(not_admitted())
        }
    }
}

/// The address that signed a text which waited for it, to sign in or to be linked to this account.
pub(super) async fn prove(
    app: &App,
    peer: SocketAddr,
    signed: &SignIn,
    account: Option<&str>,
) -> Result<String> {
    let signer = account_address(&signed.address)?;
    let text = match has_nul(&signed.nonce) {
        // No nonce has one, so this is a failed proof like any other.
        true => None,
        false => {
            app.store
                .take_challenge(&signed.nonce, (&signer, account), time::unix_now())
                .await?
        }
    };
    let had_text = text.is_some();
    let proven = text.is_some_and(|text| verify_text(&signer, &text, &signed.signature).is_ok());
    if !proven {
        // Texts are bounded for each peer, and so is what is noted here.
        if had_text && account.is_none() {
            app.store.note_refused_sign_in(&signer, WALLET).await?;
        }
        if app.refuse(address(peer)) {
            let message = "too many attempts to sign in";
            return Err(GatewayError::refused(
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_failures",
                message,
            ));
        }
        let message = "the signature is not by this address for a text that still waits for one";
        return Err(
            GatewayError::refused(StatusCode::UNAUTHORIZED, "sign_in_refused", message)
                .with_hint("ask for a new text and sign it within five minutes"),
        );
    }
    Ok(signer)
}

fn not_admitted() -> GatewayError {
    let message = "this gateway does not admit this account";
    GatewayError::refused(StatusCode::FORBIDDEN, "not_admitted", message)
        .with_hint("its operator can add the address to the setting `gateway.accounts` and start it again")
}

/// `GET /v1/whoami`.
pub(crate) async fn whoami(account: Account) -> Json<WhoAmI> {
    Json(WhoAmI {
        address: account.address().map(str::to_owned),
        account: account.id,
        operator: account.operator,
        scope: account.scope,
    })
}

/// `POST /v1/kernel-sessions`.
pub(crate) async fn kernel_session(State(app): State<Arc<App>>, account: Account) -> Result<Response> {
    let (kernel_id, token) = (Uuid::new_v4(), random_token());
    let token_sha256 = sha256(token.expose().as_bytes());
    app.store
        .add_kernel((kernel_id, &account.id), SPEC, None, &token_sha256, None)
        .await?;
    let answer = Json(KernelSession { kernel_id, token });
    Ok((StatusCode::CREATED, [(header::CACHE_CONTROL, "no-store")], answer).into_response())
}

/// An address as EIP-55 writes it; the same account never under two spellings.
pub(crate) fn account_address(text: &str) -> Result<String> {
    let parsed = text.trim().parse::<Address>();
    parsed
        .map(|address| address.to_string())
        .map_err(|_| GatewayError::bad_request("address_malformed", "an address is `0x` and 40 hex digits"))
}
