//! The gateway's HTTP client: what the broker, `alephlab keys` and `alephlab run` call.
//!
//! Not here: the WebSockets (their addresses are), and anything that opens content.

mod accounts;
#[cfg(feature = "money")]
mod caps;
#[cfg(feature = "money")]
mod chain;
mod hub;
#[cfg(feature = "money")]
mod market;
mod models;
mod renewal;
mod secrets;

use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::Url;
use uuid::Uuid;

use crate::account::{Challenge, Health, KernelSession, SignIn, SignedIn, WhoAmI};
use crate::audit::AuditLine;
use crate::jupyter::{KernelModel, NewKernel};
use crate::keys::{KeyReply, KeyRequest, Pending};
use crate::problem::Problem;
use crate::secret::Secret;
use crate::share::{NewShare, ShareEnvelope, ShareInfo};
use crate::token::{MadeToken, NewToken, TokenInfo};

pub use renewal::Renewal;

/// Longest wait for the owner's machine.
pub const KEYS_PATIENCE: Duration = Duration::from_secs(300);

/// Why a call of the gateway failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The address is not one of a gateway.
    #[error("`{address}` is not an http or https address")]
    Address {
        /// What was given.
        address: String,
    },
    /// No answer.
    #[error("the gateway at {gateway} does not answer: {reason}")]
    Unreachable {
        /// Which gateway.
        gateway: String,
        /// Why, from the transport.
        reason: String,
    },
    /// It answered with a problem.
    #[error("{problem}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The gateway's own words.
        problem: Problem,
    },
    /// It answered with something else than the contract says.
    #[error("the gateway at {gateway} answered {call} with something unreadable: {reason}")]
    Answer {
        /// Which gateway.
        gateway: String,
        /// Method and path.
        call: String,
        /// What was wrong.
        reason: String,
    },
    /// The owner's machine did not answer in time.
    #[error("no machine of the owner answered within {minutes} minutes")]
    KeysOffline {
        /// How long was waited.
        minutes: u64,
    },
}

impl ClientError {
    /// Stable name of the kind of error; for [`ClientError::Refused`] the gateway's code is in its problem.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Address { .. } => "gateway_address",
            Self::Unreachable { .. } => "gateway_unreachable",
            Self::Refused { .. } => "gateway_refused",
            Self::Answer { .. } => "gateway_answer",
            Self::KeysOffline { .. } => "keys_offline",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Address { .. } => Some("use an address such as http://127.0.0.1:8888".to_owned()),
            Self::Unreachable { .. } => Some("start it with: alephlab up".to_owned()),
            Self::Refused { problem, .. } => problem.hint.clone(),
            Self::Answer { .. } => None,
            Self::KeysOffline { .. } => Some("start on your machine: alephlab keys".to_owned()),
        }
    }

    /// The same as a [`Problem`], keeping the gateway's code when it gave one.
    pub fn to_problem(&self) -> Problem {
        match self {
            Self::Refused { problem, .. } => problem.clone(),
            other => Problem {
                code: other.code().to_owned(),
                message: other.to_string(),
                hint: other.hint(),
            },
        }
    }
}

fn http_client() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(10))
        .tcp_nodelay(true)
        // A bearer must never follow a redirect to somewhere else.
        .redirect(reqwest::redirect::Policy::none())
        // The gateway is named by the user; a proxy of the environment would see the token.
        .no_proxy()
}

fn built(builder: reqwest::ClientBuilder, gateway: &str) -> Result<reqwest::Client, ClientError> {
    builder.build().map_err(|error| ClientError::Unreachable {
        gateway: gateway.to_owned(),
        reason: error.to_string(),
    })
}

/// A gateway and the token to use there.
#[derive(Clone)]
pub struct GatewayClient {
    base: Url,
    http: reqwest::Client,
    /// One for all clones: a token that was renewed is everybody's.
    token: Arc<RwLock<Option<Secret>>>,
    renewal: Option<Renewal>,
}

impl GatewayClient {
    /// A client of the gateway at `base`, with an account's or a kernel's token.
    ///
    /// # Errors
    /// [`ClientError::Address`] when `base` is not `http` or `https`.
    pub fn new(base: &str, token: Option<Secret>) -> Result<Self, ClientError> {
        let bad = || ClientError::Address {
            address: base.to_owned(),
        };
        let mut base = Url::parse(base).map_err(|_| bad())?;
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
            return Err(bad());
        }
        base.set_query(None);
        base.set_fragment(None);
        let http = built(http_client(), base.as_str())?;
        Ok(Self {
            base,
            http,
            token: Arc::new(RwLock::new(token)),
            renewal: None,
        })
    }

    /// The same gateway, of which only this certificate (PEM) is taken.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when it is none.
    pub fn trusting_only(self, certificate: &str) -> Result<Self, ClientError> {
        let certificate = reqwest::Certificate::from_pem(certificate.as_bytes());
        let builder = certificate.map(|certificate| http_client().tls_certs_only([certificate]));
        let http = builder.map_err(|error| ClientError::Unreachable {
            gateway: self.base.to_string(),
            reason: error.to_string(),
        })?;
        Ok(Self {
            http: built(http, self.base.as_str())?,
            ..self
        })
    }

    /// Address of the gateway.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// The same gateway with another token, which is not renewed.
    #[must_use]
    pub fn with_token(&self, token: Secret) -> Self {
        Self {
            token: Arc::new(RwLock::new(Some(token))),
            renewal: None,
            ..self.clone()
        }
    }

    /// WebSocket address of a kernel's channels, without the token (send it as a header).
    pub fn channels_url(&self, kernel: Uuid, session: &str) -> Url {
        let mut url = self.websocket(&format!("api/kernels/{kernel}/channels"));
        url.query_pairs_mut().append_pair("session_id", session);
        url
    }

    /// WebSocket address of `alephlab keys`.
    pub fn keys_url(&self) -> Url {
        self.websocket("v1/keys")
    }

    /// `GET /health`.
    ///
    /// # Errors
    /// [`ClientError`], as of every call below.
    pub async fn health(&self) -> Result<Health, ClientError> {
        self.get("health").await
    }

    /// `GET /v1/whoami`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn whoami(&self) -> Result<WhoAmI, ClientError> {
        self.get("v1/whoami").await
    }

    /// Asks for the text to sign.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn challenge(&self, address: &str) -> Result<Challenge, ClientError> {
        self.get(&format!("v1/sign-in?address={address}")).await
    }

    /// Gives the signature and gets a token.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn sign_in(&self, signed: &SignIn) -> Result<SignedIn, ClientError> {
        self.send(Method::POST, "v1/sign-in", Some(signed)).await
    }

    /// Starts a kernel: it is `starting` in the answer.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn start_kernel(&self, kernel: &NewKernel) -> Result<KernelModel, ClientError> {
        self.send(Method::POST, "api/kernels", Some(kernel)).await
    }

    /// All kernels of the account.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn kernels(&self) -> Result<Vec<KernelModel>, ClientError> {
        self.get("api/kernels").await
    }

    /// One kernel.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn kernel(&self, id: Uuid) -> Result<KernelModel, ClientError> {
        self.get(&format!("api/kernels/{id}")).await
    }

    /// Stops a kernel.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn stop_kernel(&self, id: Uuid) -> Result<(), ClientError> {
        self.quiet(Method::DELETE, &format!("api/kernels/{id}")).await
    }

    /// Interrupts a kernel's cell.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn interrupt_kernel(&self, id: Uuid) -> Result<(), ClientError> {
        self.quiet(Method::POST, &format!("api/kernels/{id}/interrupt"))
            .await
    }

    /// Restarts a kernel in place.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn restart_kernel(&self, id: Uuid) -> Result<KernelModel, ClientError> {
        self.send::<(), _>(Method::POST, &format!("api/kernels/{id}/restart"), None)
            .await
    }

    /// A token for a kernel that the gateway did not start.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn new_kernel_session(&self) -> Result<KernelSession, ClientError> {
        self.send(Method::POST, "v1/kernel-sessions", Some(&serde_json::json!({})))
            .await
    }

    /// Makes an access token of the account.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn new_token(&self, token: &NewToken) -> Result<MadeToken, ClientError> {
        self.send(Method::POST, "v1/tokens", Some(token)).await
    }

    /// The account's access tokens, newest first.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn tokens(&self) -> Result<Vec<TokenInfo>, ClientError> {
        self.get("v1/tokens").await
    }

    /// Ends an access token, and what is open by it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn revoke_token(&self, id: Uuid) -> Result<(), ClientError> {
        self.quiet(Method::DELETE, &format!("v1/tokens/{id}")).await
    }

    /// Lines of the audit log after the one at `after`, in order; none when there are no more. For the operator.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn audit(&self, after: u64) -> Result<Vec<AuditLine>, ClientError> {
        self.get(&format!("v1/audit?after={after}")).await
    }

    /// Makes a share.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn new_share(&self, share: &NewShare) -> Result<ShareInfo, ClientError> {
        self.send(Method::POST, "v1/shares", Some(share)).await
    }

    /// The account's shares.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn shares(&self) -> Result<Vec<ShareInfo>, ClientError> {
        self.get("v1/shares").await
    }

    /// Ends a share.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn revoke_share(&self, uuid: Uuid) -> Result<(), ClientError> {
        self.quiet(Method::DELETE, &format!("v1/shares/{uuid}")).await
    }

    /// The sealed keys of a share, for the auth (hex) derived from its token; never for the token itself.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn share(&self, uuid: Uuid, auth: &Secret) -> Result<ShareEnvelope, ClientError> {
        self.with_token(auth.clone())
            .get(&format!("v1/shares/{uuid}"))
            .await
    }

    /// `GET /v1/offers`: what can be rented.
    ///
    /// # Errors
    /// [`ClientError`].
    #[cfg(feature = "money")]
    pub async fn offers(&self) -> Result<crate::offer::Offers, ClientError> {
        self.get("v1/offers").await
    }

    /// `POST /v1/quotes`: a firm price for an offer.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when it is gone, or too dear.
    #[cfg(feature = "money")]
    pub async fn quote(&self, new: &crate::offer::NewQuote) -> Result<crate::offer::Quote, ClientError> {
        self.send(Method::POST, "v1/quotes", Some(new)).await
    }

    /// `GET /v1/allocations`: what the account has rented.
    ///
    /// # Errors
    /// [`ClientError`].
    #[cfg(feature = "money")]
    pub async fn allocations(&self) -> Result<crate::offer::Allocations, ClientError> {
        self.get("v1/allocations").await
    }

    /// What the account has.
    ///
    /// # Errors
    /// See [`ClientError`].
    #[cfg(feature = "money")]
    pub async fn balance(&self) -> Result<crate::ledger::Balances, ClientError> {
        self.get("v1/balance").await
    }

    /// Entries of the account's statement after the one at `after`, oldest first; none when there are no more.
    ///
    /// # Errors
    /// See [`ClientError`].
    #[cfg(feature = "money")]
    pub async fn statement(&self, after: u64) -> Result<Vec<crate::ledger::Entry>, ClientError> {
        self.get(&format!("v1/ledger?after={after}")).await
    }

    /// Receipts of the account after the one with this sequence, in order; none when there are no more.
    ///
    /// # Errors
    /// See [`ClientError`].
    #[cfg(feature = "money")]
    pub async fn receipts(&self, after: u64) -> Result<crate::receipt::Receipts, ClientError> {
        self.get(&format!("v1/receipts?after={after}")).await
    }

    /// Gives an account something to spend; for the operator.
    ///
    /// # Errors
    /// See [`ClientError`].
    #[cfg(feature = "money")]
    pub async fn give(
        &self,
        credit: &crate::ledger::NewCredit,
    ) -> Result<crate::ledger::Balances, ClientError> {
        self.send(Method::POST, "v1/credits", Some(credit)).await
    }

    /// Asks the owner's machine and waits for its answer, at most [`KEYS_PATIENCE`].
    ///
    /// # Errors
    /// [`ClientError::KeysOffline`] when nobody answered; a refusal is a [`KeyReply::Refused`], not an error.
    pub async fn ask_keys(&self, request: &KeyRequest) -> Result<KeyReply, ClientError> {
        let started = Instant::now();
        let (status, body) = self
            .answer(Method::POST, "v1/keys/requests", Some(request), 40)
            .await?;
        if status != StatusCode::ACCEPTED {
            return self.read("POST v1/keys/requests", &body);
        }
        let pending: Pending = self.read("POST v1/keys/requests", &body)?;
        let path = format!("v1/keys/requests/{}?wait=25", pending.id);
        while started.elapsed() < KEYS_PATIENCE {
            match self.answer::<()>(Method::GET, &path, None, 40).await {
                Ok((StatusCode::ACCEPTED, _)) => {}
                Ok((_, body)) => return self.read("GET v1/keys/requests", &body),
                Err(ClientError::Refused { problem, .. }) if problem.code == "keys_offline" => break,
                Err(error) => return Err(error),
            }
        }
        Err(ClientError::KeysOffline {
            minutes: KEYS_PATIENCE.as_secs() / 60,
        })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.send::<(), T>(Method::GET, path, None).await
    }

    async fn quiet(&self, method: Method, path: &str) -> Result<(), ClientError> {
        self.answer::<()>(method, path, None, 60).await.map(|_| ())
    }

    async fn send<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<T, ClientError> {
        let call = format!("{method} {path}");
        let (_, bytes) = self.answer(method, path, body, 60).await?;
        self.read(&call, &bytes)
    }

    async fn answer<B: Serialize>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
        seconds: u64,
    ) -> Result<(StatusCode, Vec<u8>), ClientError> {
        let token = self.token();
        let answer = self
            .ask(token.as_ref(), method.clone(), path, body, seconds)
            .await;
        let is_ended = matches!(&answer, Err(ClientError::Refused { status: 401, .. }));
        if !is_ended {
            return answer;
        }
        match self.renewed(token.as_ref()).await {
            Some(token) => self.ask(Some(&token), method, path, body, seconds).await,
            None => answer,
        }
    }

    async fn ask<B: Serialize>(
        &self,
        token: Option<&Secret>,
        method: Method,
        path: &str,
        body: Option<&B>,
        seconds: u64,
    ) -> Result<(StatusCode, Vec<u8>), ClientError> {
        let unreachable = |error: reqwest::Error| ClientError::Unreachable {
            gateway: self.base.to_string(),
            // Without the address, whose query could hold a secret.
            reason: root_cause(&error.without_url()),
        };
        let mut request = self
            .http
            .request(method, self.url(path))
            .timeout(Duration::from_secs(seconds));
        if let Some(token) = token {
            request = request.bearer_auth(token.expose());
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let bytes = response.bytes().await.map_err(unreachable)?.to_vec();
        if status.is_success() {
            return Ok((status, bytes));
        }
        let problem = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Problem::new("gateway_refused", format!("the gateway answered {status}")));
        Err(ClientError::Refused {
            status: status.as_u16(),
            problem,
        })
    }

    fn read<T: DeserializeOwned>(&self, call: &str, body: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(body).map_err(|error| ClientError::Answer {
            gateway: self.base.to_string(),
            call: call.to_owned(),
            reason: error.to_string(),
        })
    }

    fn url(&self, path: &str) -> Url {
        let (path, query) = path
            .split_once('?')
            .map_or((path, None), |(path, query)| (path, Some(query)));
        let mut url = self.base.clone();
        let root = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{root}/{path}"));
        url.set_query(query);
        url
    }

    fn websocket(&self, path: &str) -> Url {
        let mut url = self.url(path);
        let scheme = if url.scheme() == "https" { "wss" } else { "ws" };
        // Cannot fail: both are special schemes, as are http and https.
        let _ = url.set_scheme(scheme);
        url
    }
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_addresses_under_the_base() {
        let client = GatewayClient::new("http://127.0.0.1:8888/?token=x", None).unwrap();
        assert_eq!(client.keys_url().as_str(), "ws://127.0.0.1:8888/v1/keys");
        let url = client.channels_url(Uuid::nil(), "a b");
        assert_eq!(
            url.as_str(),
            "ws://127.0.0.1:8888/api/kernels/00000000-0000-0000-0000-000000000000/channels?session_id=a+b"
        );
    }

    #[test]
    fn refuses_an_address_that_is_none() {
        for address in ["127.0.0.1:8888", "ftp://x", "", "file:///etc"] {
            let error = GatewayClient::new(address, None).err().unwrap();
            assert_eq!(error.code(), "gateway_address", "{address}");
        }
    }
}
