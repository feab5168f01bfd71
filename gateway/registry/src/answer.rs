//! Refusals as the Hub's clients read them: by headers, with a small JSON body.
//!
//! Absent, forbidden and anonymous get one and the same answer, so that nobody learns which repos exist.

use alephlab_api::Problem;
use axum::Json;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// Why a request of a Hub client is not served.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// No such repo for this bearer; says nothing more.
    #[error("repository not found, or not for this token")]
    RepoNotFound,
    /// The repo has no such revision.
    #[error("the repository has no revision `{revision}`")]
    RevisionNotFound {
        /// What was asked for.
        revision: String,
    },
    /// The revision has no such file.
    #[error("revision {commit} has no file `{path}`")]
    EntryNotFound {
        /// What was asked for.
        path: String,
        /// The revision, sent so that clients cache the absence.
        commit: String,
    },
    /// The repo may be seen, its files not: not approved, or not bought.
    #[error("{message}")]
    Gated {
        /// What the client prints: why, and what to do.
        message: String,
        /// Whether paying opens it: 402 in place of 403.
        price: Option<Price>,
    },
    /// The repo was taken down.
    #[error("Access to this resource is disabled.")]
    Disabled,
    /// The range lies outside the file.
    #[error("the range is outside the file's {size} bytes")]
    Range {
        /// Size of the file.
        size: u64,
    },
    /// The token would cross a network in clear.
    #[error("this registry takes tokens over plain http only on its own machine")]
    PlainHttp,
    /// Used more often than it may be; after some seconds it may be again.
    #[error("{message}")]
    Limited {
        /// What, and how often it may be.
        message: String,
        /// Seconds.
        wait: u64,
    },
    /// Too many refusals for this peer.
    #[error("too many refused requests")]
    TooMany,
    /// The token is unknown (only where no repo is named).
    #[error("the token is not known here")]
    Token,
    /// The token is known, but may not do this.
    #[error("{reason}")]
    Forbidden {
        /// What it lacks.
        reason: String,
    },
    /// What was sent breaks a rule of the protocol or of this registry.
    #[error("{reason}")]
    Invalid {
        /// Which rule.
        reason: String,
    },
    /// There is one already.
    #[error("{what} exists already")]
    Exists {
        /// A repo, a tag, a branch.
        what: String,
        /// Its page; clients that were told `exist_ok` read it.
        url: Option<String>,
    },
    /// The commit was made upon a revision that is no longer the newest.
    #[error("the branch has moved to {head} since; take that in and commit again")]
    StaleParent {
        /// The newest revision.
        head: String,
    },
    /// More than this registry takes.
    #[error("{what} is more than the {most} that this registry takes")]
    TooLarge {
        /// What is too large.
        what: String,
        /// Bytes or pieces, in words.
        most: String,
    },
    /// A commit names content that this caller neither uploaded nor may read.
    #[error("`{path}` names content {sha256} that was not uploaded by this token")]
    NotUploaded {
        /// Where it should stand.
        path: String,
        /// What was named.
        sha256: String,
    },
    /// The next bytes of a body did not come in time.
    #[error("nothing came for {seconds} seconds, so the upload was given up")]
    Slow {
        /// How long it was waited for.
        seconds: u64,
    },
    /// A signed address or a token of a transfer is wrong or over.
    #[error("this address or token of a transfer is wrong or over; ask for a new one")]
    Unsigned,
    /// The registry has no such route.
    #[error("{problem}")]
    Route {
        /// What was asked for.
        problem: Problem,
    },
    /// The bytes cannot be had or are not what was signed.
    #[error("the file cannot be read: {problem}")]
    Content {
        /// Why.
        problem: Problem,
    },
    /// What was sent cannot be stored.
    #[error("the upload cannot be stored: {problem}")]
    Storage {
        /// Why.
        problem: Problem,
    },
}

/// What a payment client needs to pay for a repo (x402, version 2).
#[derive(Debug, Clone, Default)]
pub struct Price {
    /// Value of `PAYMENT-REQUIRED`, base64; none where such a client cannot pay.
    pub required: Option<String>,
}

impl RegistryError {
    /// Stable name of the kind of error; in `X-Error-Code` where clients know it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::RepoNotFound => "RepoNotFound",
            Self::RevisionNotFound { .. } => "RevisionNotFound",
            Self::EntryNotFound { .. } => "EntryNotFound",
            Self::Gated { .. } => "GatedRepo",
            Self::Disabled => "RepoDisabled",
            Self::Range { .. } => "RangeNotSatisfiable",
            Self::PlainHttp => "PlainHttp",
            Self::TooMany | Self::Limited { .. } => "TooManyRequests",
            Self::Token => "InvalidToken",
            Self::Forbidden { .. } => "Forbidden",
            Self::Invalid { .. } => "BadRequest",
            Self::Exists { .. } => "Exists",
            Self::StaleParent { .. } => "StaleParent",
            Self::TooLarge { .. } => "TooLarge",
            Self::NotUploaded { .. } => "NotUploaded",
            Self::Slow { .. } => "RequestTimeout",
            Self::Unsigned => "Unsigned",
            Self::Route { .. } => "RouteNotFound",
            Self::Content { .. } => "ContentUnavailable",
            Self::Storage { .. } => "StorageFailed",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::RepoNotFound => Some("check the id and the token of the share".to_owned()),
            Self::PlainHttp => Some("use https".to_owned()),
            Self::Forbidden { .. } => Some("use a token that may write".to_owned()),
            Self::StaleParent { .. } => Some("download the newest revision and commit again".to_owned()),
            Self::NotUploaded { .. } | Self::Slow { .. } => Some("upload the file again".to_owned()),
            Self::TooLarge { .. } => Some(
                "send less at once; what was uploaded makes room when it is committed, or after an hour in which \
                 nobody asked for it"
                    .to_owned(),
            ),
            Self::Route { problem } | Self::Content { problem } | Self::Storage { problem } => {
                problem.hint.clone()
            }
            _ => None,
        }
    }

    /// What was sent breaks this rule.
    pub(crate) fn invalid(reason: impl Into<String>) -> Self {
        Self::Invalid {
            reason: reason.into(),
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::RepoNotFound | Self::Token => StatusCode::UNAUTHORIZED,
            Self::RevisionNotFound { .. } | Self::EntryNotFound { .. } | Self::Route { .. } => {
                StatusCode::NOT_FOUND
            }
            Self::Gated { price: Some(_), .. } => StatusCode::PAYMENT_REQUIRED,
            Self::Gated { .. }
            | Self::Disabled
            | Self::PlainHttp
            | Self::Forbidden { .. }
            | Self::Unsigned => StatusCode::FORBIDDEN,
            Self::Range { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::TooMany | Self::Limited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Invalid { .. } | Self::NotUploaded { .. } => StatusCode::BAD_REQUEST,
            Self::Slow { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::Exists { .. } => StatusCode::CONFLICT,
            Self::StaleParent { .. } => StatusCode::PRECONDITION_FAILED,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            // Not 500: clients repeat that for 23 s, and a wrong hash does not heal.
            Self::Content { .. } | Self::Storage { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        }
    }

    /// What only this kind of error says in headers.
    fn add_headers(&self, headers: &mut HeaderMap) {
        let mut set = |name: &'static str, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        match self {
            Self::EntryNotFound { commit, .. } => set("x-repo-commit", commit),
            Self::Range { size } => set(header::CONTENT_RANGE.as_str(), &format!("bytes */{size}")),
            Self::TooMany => set(header::RETRY_AFTER.as_str(), "60"),
            Self::Limited { wait, .. } => set(header::RETRY_AFTER.as_str(), &wait.to_string()),
            Self::Gated {
                price: Some(Price {
                    required: Some(required),
                }),
                ..
            } => set("payment-required", required),
            _ => {}
        }
    }
}

impl IntoResponse for RegistryError {
    fn into_response(self) -> Response {
        let message = match &self {
            // The exact words that the Python client shows as a wrong token.
            Self::Token => "Invalid credentials in Authorization header".to_owned(),
            other => other.to_string(),
        };
        let mut body = json!({ "error": message });
        if let Self::Exists { url: Some(url), .. } = &self {
            body["url"] = url.as_str().into();
        }
        let mut response = (self.status(), Json(body)).into_response();
        let headers = response.headers_mut();
        // Known kinds of error only: with any other code clients go by the status, as they should.
        headers.insert("x-error-code", HeaderValue::from_static(self.code()));
        if let Ok(message) = HeaderValue::from_str(&printable(&message)) {
            headers.insert("x-error-message", message);
        }
        // Shown to users, who quote it; unlike the rest of a refusal it may differ each time.
        if let Ok(id) = HeaderValue::from_str(&format!("{:032x}", rand::random::<u128>())) {
            headers.insert("x-request-id", id);
        }
        self.add_headers(headers);
        response
    }
}

/// What the framework refuses before a route sees it, in the words that clients read: the status stays.
pub(crate) async fn worded(response: Response) -> Response {
    let headers = response.headers();
    let is_json = |kind: &HeaderValue| kind.as_bytes().starts_with(b"application/json");
    let is_ours =
        headers.contains_key("x-error-code") || headers.get(header::CONTENT_TYPE).is_some_and(is_json);
    if is_ours || !response.status().is_client_error() {
        return response;
    }
    let status = response.status();
    let text = axum::body::to_bytes(response.into_body(), 4096).await;
    let text = String::from_utf8_lossy(&text.unwrap_or_default()).into_owned();
    let reason = if text.is_empty() {
        status.canonical_reason().unwrap_or("refused").to_owned()
    } else {
        text
    };
    let mut response = RegistryError::invalid(reason).into_response();
    *response.status_mut() = status;
    response
}

/// A path from outside may hold what no header may.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_ascii() && !c.is_ascii_control() {
                c
            } else {
                '?'
            }
        })
        .take(300)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_for_payment_and_says_gated_in_one_answer() {
        let gated = RegistryError::Gated {
            message: "not bought yet\n".into(),
            price: Some(Price {
                required: Some("e30=".into()),
            }),
        };
        let response = gated.into_response();
        assert_eq!(response.status(), 402);
        let headers = response.headers();
        assert_eq!(headers["x-error-code"], "GatedRepo");
        assert_eq!(headers["x-error-message"], "not bought yet?");
        assert_eq!(headers["payment-required"], "e30=");
        assert_eq!(headers["x-request-id"].len(), 32);
    }

    #[test]
    fn says_taken_down_in_the_words_that_clients_know() {
        let response = RegistryError::Disabled.into_response();
        assert_eq!(
            response.headers()["x-error-message"],
            "Access to this resource is disabled."
        );
    }
}
