//! Signing in at an OpenID provider: the authorization code flow with PKCE, and the check of what the provider says.
//!
//! The crate `openidconnect` reads and checks metadata, keys and ID tokens; here is how the provider is reached (bounded in time
//! and size, over TLS but on loopback), when it is asked again, and what of an answer becomes an identity. Knows no accounts and
//! no cookies. Nothing of the provider's access token is used or kept.

use std::time::{Duration, Instant};

use alephlab_api::Secret;
use futures_util::future::BoxFuture;
use openidconnect::core::{
    CoreAuthenticationFlow, CoreClient, CoreClientAuthMethod, CoreIdTokenClaims, CoreIdTokenVerifier,
    CoreJwsSigningAlgorithm, CoreProviderMetadata, CoreRequestTokenError,
};
use openidconnect::{
    AsyncHttpClient, AuthType, AuthorizationCode, ClaimsVerificationError, ClientId, ClientSecret, CsrfToken,
    HttpRequest, HttpResponse, IssuerUrl, Nonce, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl,
    RequestTokenError, Scope, SignatureVerificationError, TokenResponse as _,
};
use reqwest::redirect::Policy;
use tokio::sync::Mutex;
use url::{Host, Url};

use crate::error::{GatewayError, Result};
use crate::store::Identity;

/// Where the provider sends browsers back, below the gateway's address.
pub(crate) const BACK: &str = "/sign-in/oidc/back";
/// For each request to the provider, and for what it says of itself with all who wait for that.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than any answer of a provider: metadata and keys are some kilobytes.
const MAX_ANSWER: usize = 256 << 10;
/// How long metadata and keys are taken as they were.
const FRESH: Duration = Duration::from_secs(3600);
/// Characters of a label.
const MAX_LABEL: usize = 100;
/// What OpenID allows a subject, bytes.
const MAX_SUBJECT: usize = 255;

/// What may sign an ID token: every algorithm with a public key that we can check. Not `none`, and none whose key the client knows.
const ALGORITHMS: [CoreJwsSigningAlgorithm; 9] = [
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha384,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha512,
    CoreJwsSigningAlgorithm::RsaSsaPssSha256,
    CoreJwsSigningAlgorithm::RsaSsaPssSha384,
    CoreJwsSigningAlgorithm::RsaSsaPssSha512,
    CoreJwsSigningAlgorithm::EcdsaP256Sha256,
    CoreJwsSigningAlgorithm::EcdsaP384Sha384,
    CoreJwsSigningAlgorithm::EdDsa,
];

/// An OpenID provider that accounts may sign in at.
pub struct OidcConfig {
    /// Its issuer, exactly as it writes it itself; `https` but on this machine.
    pub issuer: String,
    /// What it knows this gateway by.
    pub client_id: String,
    /// What this gateway proves itself with; none for a public client, which has PKCE only.
    pub client_secret: Option<Secret>,
    /// What people call it.
    pub name: String,
    /// What is asked for besides `openid`.
    pub scopes: Vec<String>,
    /// Whether everyone may use the gateway who can sign in there; else an operator admits each.
    pub everyone: bool,
}

/// Why nobody is signed in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OidcError {
    /// It does not answer as a provider.
    #[error("{provider} cannot be reached, or does not answer as an OpenID provider")]
    Unreachable {
        /// What it is called.
        provider: String,
        /// For the log.
        reason: String,
    },
    /// It does not give a token for the code.
    #[error("{provider} did not confirm the sign-in")]
    Unconfirmed {
        /// What it is called.
        provider: String,
        /// For the log.
        reason: String,
    },
    /// What it says of who signs in does not hold.
    #[error("what {provider} says of who signs in does not hold")]
    Untrue {
        /// What it is called.
        provider: String,
        /// For the log.
        reason: String,
    },
}

impl OidcError {
    /// Stable name of the kind of error.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "oidc_unreachable",
            Self::Unconfirmed { .. } => "oidc_unconfirmed",
            Self::Untrue { .. } => "oidc_untrue",
        }
    }

    /// What the log is told besides.
    pub(crate) fn reason(&self) -> &str {
        match self {
            Self::Unreachable { reason, .. }
            | Self::Unconfirmed { reason, .. }
            | Self::Untrue { reason, .. } => reason,
        }
    }
}

/// A sign-in that is about to go through the provider.
pub(crate) struct Begun {
    /// Where the browser goes.
    pub(crate) url: Url,
    pub(crate) state: String,
    pub(crate) nonce: String,
    pub(crate) verifier: String,
}

/// The provider.
pub(crate) struct Oidc {
    config: OidcConfig,
    issuer: IssuerUrl,
    back: RedirectUrl,
    http: Http,
    known: Mutex<Option<Known>>,
}

/// What the provider said of itself.
#[derive(Clone)]
struct Known {
    metadata: CoreProviderMetadata,
    since: Instant,
}

impl Oidc {
    /// A provider that is not asked yet: a gateway starts also while it is down.
    pub(crate) fn new(config: OidcConfig, public_url: &Url) -> Result<Self> {
        let wrong = |setting, reason: String| GatewayError::Setting { setting, reason };
        let issuer = IssuerUrl::new(config.issuer.clone())
            .map_err(|error| wrong("oidc.issuer", format!("it is no URL: {error}")))?;
        if !is_private_way(issuer.url()) {
            let reason = "an issuer is https, or on this machine".to_owned();
            return Err(wrong("oidc.issuer", reason));
        }
        if config.client_id.is_empty() {
            let reason = "the provider knows this gateway by it".to_owned();
            return Err(wrong("oidc.client_id", reason));
        }
        let back = format!("{}{BACK}", public_url.as_str().trim_end_matches('/'));
        let back = RedirectUrl::new(back).map_err(|error| wrong("public_url", error.to_string()))?;
        // No redirects: a provider answers where its metadata says.
        let http = reqwest::Client::builder()
            .timeout(PATIENCE)
            .redirect(Policy::none())
            .build()
            .map_err(|error| wrong("oidc.issuer", error.to_string()))?;
        Ok(Self {
            config,
            issuer,
            back,
            http: Http(http),
            known: Mutex::default(),
        })
    }

    /// What people call it.
    pub(crate) fn name(&self) -> &str {
        &self.config.name
    }

    /// Its issuer.
    pub(crate) fn issuer(&self) -> &str {
        self.issuer.as_str()
    }

    /// Whether everyone is admitted who can sign in there.
    pub(crate) fn admits_everyone(&self) -> bool {
        self.config.everyone
    }

    /// Begins a sign-in.
    pub(crate) async fn begin(&self) -> Result<Begun, OidcError> {
        let metadata = self.metadata(FRESH).await?;
        if !is_private_way(metadata.authorization_endpoint().url()) {
            return Err(self.unreachable("its authorization endpoint is neither https nor on this machine"));
        }
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let client = CoreClient::from_provider_metadata(metadata, self.client_id(), None)
            .set_redirect_uri(self.back.clone());
        let flow = CoreAuthenticationFlow::AuthorizationCode;
        let scopes = self.config.scopes.iter().filter(|scope| *scope != "openid");
        let (url, state, nonce) = client
            .authorize_url(flow, CsrfToken::new_random, Nonce::new_random)
            .add_scopes(scopes.cloned().map(Scope::new))
            .set_pkce_challenge(challenge)
            .url();
        Ok(Begun {
            url,
            state: state.secret().clone(),
            nonce: nonce.secret().clone(),
            verifier: verifier.secret().clone(),
        })
    }

    /// Who signed in, for the code that the browser came back with.
    pub(crate) async fn finish(
        &self,
        code: String,
        verifier: String,
        nonce: String,
    ) -> Result<Identity, OidcError> {
        let metadata = self.metadata(FRESH).await?;
        let method = method(&metadata);
        let client = CoreClient::from_provider_metadata(metadata, self.client_id(), self.client_secret())
            .set_redirect_uri(self.back.clone())
            .set_auth_type(method);
        let asked = client
            .exchange_code(AuthorizationCode::new(code))
            .map_err(|error| self.unreachable(&error.to_string()))?;
        let asked = asked.set_pkce_verifier(PkceCodeVerifier::new(verifier));
        let answer = asked.request_async(&self.http).await;
        let answer = answer.map_err(|error| self.unanswered(&error))?;
        let Some(token) = answer.id_token() else {
            return Err(self.untrue("it gave no ID token"));
        };
        let nonce = Nonce::new(nonce);
        let allowed = |verifier: CoreIdTokenVerifier<'static>| verifier.set_allowed_algs(ALGORITHMS);
        let mut checked = token.claims(&allowed(self.verifier(FRESH).await?), &nonce);
        if let Err(ClaimsVerificationError::SignatureVerification(
            SignatureVerificationError::NoMatchingKey,
        )) = &checked
        {
            // It may have changed its keys. Nobody else makes us ask: the token came from the provider itself.
            checked = token.claims(&allowed(self.verifier(Duration::ZERO).await?), &nonce);
        }
        let claims = checked.map_err(|error| self.untrue(&with_sources(&error)))?;
        self.identity(claims)
    }

    /// Of claims that hold.
    fn identity(&self, claims: &CoreIdTokenClaims) -> Result<Identity, OidcError> {
        let subject = claims.subject().as_str();
        if subject.is_empty() || subject.len() > MAX_SUBJECT || subject.contains('\0') {
            return Err(self.untrue("its subject is empty or over 255 bytes"));
        }
        let name = claims.name().and_then(|name| name.get(None));
        let label = claims
            .preferred_username()
            .map(|name| name.as_str())
            .or(name.map(|name| name.as_str()))
            .unwrap_or(subject);
        Ok(Identity {
            issuer: self.issuer.as_str().to_owned(),
            subject: subject.to_owned(),
            label: label
                .chars()
                .filter(|letter| !letter.is_control())
                .take(MAX_LABEL)
                .collect(),
        })
    }

    /// What the provider says of itself, no older than `fresh`.
    async fn metadata(&self, fresh: Duration) -> Result<CoreProviderMetadata, OidcError> {
        self.metadata_within(PATIENCE, fresh).await
    }

    async fn metadata_within(
        &self,
        patience: Duration,
        fresh: Duration,
    ) -> Result<CoreProviderMetadata, OidcError> {
        // The wait for others counts, or of many browsers each would hear of a silent provider only after the one before.
        let asked = tokio::time::timeout(patience, self.asked(fresh)).await;
        asked.unwrap_or_else(|_| Err(self.unreachable("it has not said in time what it is")))
    }

    async fn asked(&self, fresh: Duration) -> Result<CoreProviderMetadata, OidcError> {
        // Held while it is asked: those who come meanwhile take the same answer.
        let mut known = self.known.lock().await;
        if let Some(known) = known.as_ref().filter(|known| known.since.elapsed() < fresh) {
            return Ok(known.metadata.clone());
        }
        let asked = CoreProviderMetadata::discover_async(self.issuer.clone(), &self.http).await;
        let metadata = asked.map_err(|error| self.unreachable(&with_sources(&error)))?;
        *known = Some(Known {
            metadata: metadata.clone(),
            since: Instant::now(),
        });
        Ok(metadata)
    }

    async fn verifier(&self, fresh: Duration) -> Result<CoreIdTokenVerifier<'static>, OidcError> {
        let metadata = self.metadata(fresh).await?;
        let (issuer, keys) = (self.issuer.clone(), metadata.jwks().clone());
        // Always that for a public client: with the secret, signatures made with it would be looked at.
        Ok(CoreIdTokenVerifier::new_public_client(
            self.client_id(),
            issuer,
            keys,
        ))
    }

    fn client_id(&self) -> ClientId {
        ClientId::new(self.config.client_id.clone())
    }

    fn client_secret(&self) -> Option<ClientSecret> {
        let secret = self.config.client_secret.as_ref()?;
        Some(ClientSecret::new(secret.expose().to_owned()))
    }

    fn unanswered(&self, error: &CoreRequestTokenError<Unanswered>) -> OidcError {
        match error {
            RequestTokenError::Request(error) => self.unreachable(&with_sources(error)),
            // What could not be read may hold tokens, and is not repeated.
            RequestTokenError::Parse(error, _) => {
                self.unconfirmed(&format!("its answer cannot be read at {}", error.path()))
            }
            RequestTokenError::ServerResponse(answer) => self.unconfirmed(answer.error().as_ref()),
            RequestTokenError::Other(reason) => self.unconfirmed(reason),
        }
    }

    fn unreachable(&self, reason: &str) -> OidcError {
        OidcError::Unreachable {
            provider: self.config.name.clone(),
            reason: reason.to_owned(),
        }
    }

    fn unconfirmed(&self, reason: &str) -> OidcError {
        OidcError::Unconfirmed {
            provider: self.config.name.clone(),
            reason: reason.to_owned(),
        }
    }

    fn untrue(&self, reason: &str) -> OidcError {
        OidcError::Untrue {
            provider: self.config.name.clone(),
            reason: reason.to_owned(),
        }
    }
}

/// How the client proves itself: in the header, as OpenID has it when nothing is said, unless only the body is offered.
fn method(metadata: &CoreProviderMetadata) -> AuthType {
    let offered = metadata.token_endpoint_auth_methods_supported();
    let has = |method| offered.is_some_and(|offered| offered.contains(&method));
    let (header, body) = (
        has(CoreClientAuthMethod::ClientSecretBasic),
        has(CoreClientAuthMethod::ClientSecretPost),
    );
    match body && !header {
        true => AuthType::RequestBody,
        false => AuthType::BasicAuth,
    }
}

/// Whether nobody on the way can read or change what goes there.
fn is_private_way(url: &Url) -> bool {
    let is_loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    };
    match url.scheme() {
        "https" => url.host().is_some(),
        "http" => is_loopback,
        _ => false,
    }
}

/// An error with what caused it, for the log.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// The way to the provider.
struct Http(reqwest::Client);

/// A request to the provider that came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unanswered {
    #[error("the request could not be sent")]
    Request(#[from] reqwest::Error),
    #[error("an address of the provider is neither https nor on this machine")]
    Exposed,
    #[error("the answer is over 256 KiB")]
    TooLong,
}

impl<'c> AsyncHttpClient<'c> for Http {
    type Error = Unanswered;
    type Future = BoxFuture<'c, Result<HttpResponse, Unanswered>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(self.ask(request))
    }
}

impl Http {
    async fn ask(&self, request: HttpRequest) -> Result<HttpResponse, Unanswered> {
        let request = reqwest::Request::try_from(request)?;
        if !is_private_way(request.url()) {
            return Err(Unanswered::Exposed);
        }
        let mut answer = self.0.execute(request).await?;
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await? {
            if body.len() + piece.len() > MAX_ANSWER {
                return Err(Unanswered::TooLong);
            }
            body.extend_from_slice(&piece);
        }
        let mut response = HttpResponse::new(body);
        *response.status_mut() = answer.status();
        *response.headers_mut() = std::mem::take(answer.headers_mut());
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;

    fn config(issuer: &str) -> OidcConfig {
        OidcConfig {
            issuer: issuer.to_owned(),
            client_id: "alephlab".to_owned(),
            client_secret: None,
            name: "Example".to_owned(),
            scopes: Vec::new(),
            everyone: false,
        }
    }

    #[test]
    fn an_issuer_is_reached_so_that_nobody_reads_along() {
        let gateway: Url = "http://127.0.0.1:8890".parse().unwrap();
        for (issuer, is_good) in [
            ("https://id.example/realms/lab", true),
            ("http://127.0.0.1:9000", true),
            ("http://[::1]:9000", true),
            ("http://localhost:9000", true),
            ("http://id.example", false),
            ("http://localhost.example", false),
            ("http://10.0.0.1", false),
            ("file:///etc/passwd", false),
            ("id.example", false),
        ] {
            let oidc = Oidc::new(config(issuer), &gateway);
            assert_eq!(oidc.is_ok(), is_good, "{issuer}");
            if let Ok(oidc) = oidc {
                assert_eq!(oidc.issuer(), issuer);
                assert_eq!(oidc.back.as_str(), "http://127.0.0.1:8890/sign-in/oidc/back");
            }
        }
    }

    #[tokio::test]
    async fn who_waits_for_a_silent_provider_hears_of_it_with_everybody_else() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let gateway: Url = "http://127.0.0.1:8890".parse().unwrap();
        let oidc = Oidc::new(config(&issuer), &gateway).unwrap();
        let (patience, begun) = (Duration::from_millis(500), Instant::now());
        let waiting = (0..20).map(|_| oidc.metadata_within(patience, FRESH));
        for told in join_all(waiting).await {
            assert!(matches!(told, Err(OidcError::Unreachable { .. })));
        }
        assert!(begun.elapsed() < patience * 10, "{:?}", begun.elapsed());
    }
}
