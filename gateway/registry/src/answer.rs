//! Refusals as the Hub's clients read them: by headers, with a small JSON body.
//!
//! Absent, forbidden and anonymous get one and the same answer, so that nobody learns which repos exist.

use alephlab_api::Problem;
use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
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
    /// The range lies outside the file.
    #[error("the range is outside the file's {size} bytes")]
    Range {
        /// Size of the file.
        size: u64,
    },
    /// The token would cross a network in clear.
    #[error("this registry answers plain http only on its own machine")]
    PlainHttp,
    /// Too many refusals for this peer.
    #[error("too many refused requests")]
    TooMany,
    /// The token is unknown (only where no repo is named).
    #[error("the token is not known here")]
    Token,
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
}

impl RegistryError {
    /// Stable name of the kind of error; in `X-Error-Code` where clients know it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::RepoNotFound => "RepoNotFound",
            Self::RevisionNotFound { .. } => "RevisionNotFound",
            Self::EntryNotFound { .. } => "EntryNotFound",
            Self::Range { .. } => "RangeNotSatisfiable",
            Self::PlainHttp => "PlainHttp",
            Self::TooMany => "TooManyRequests",
            Self::Token => "InvalidToken",
            Self::Route { .. } => "RouteNotFound",
            Self::Content { .. } => "ContentUnavailable",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::RepoNotFound => Some("check the id and the token of the share".to_owned()),
            Self::PlainHttp => Some("use https".to_owned()),
            Self::Route { problem } | Self::Content { problem } => problem.hint.clone(),
            _ => None,
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::RepoNotFound | Self::Token => StatusCode::UNAUTHORIZED,
            Self::RevisionNotFound { .. } | Self::EntryNotFound { .. } | Self::Route { .. } => {
                StatusCode::NOT_FOUND
            }
            Self::Range { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::PlainHttp => StatusCode::FORBIDDEN,
            Self::TooMany => StatusCode::TOO_MANY_REQUESTS,
            // Not 500: clients repeat that for 23 s, and a wrong hash does not heal.
            Self::Content { .. } => StatusCode::UNPROCESSABLE_ENTITY,
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
        let mut response = (self.status(), Json(json!({ "error": message }))).into_response();
        let headers = response.headers_mut();
        headers.insert("x-error-code", HeaderValue::from_static(self.code()));
        if let Ok(message) = HeaderValue::from_str(&printable(&message)) {
            headers.insert("x-error-message", message);
        }
        match &self {
            Self::EntryNotFound { commit, .. } => {
                if let Ok(commit) = HeaderValue::from_str(commit) {
                    headers.insert("x-repo-commit", commit);
                }
            }
            Self::Range { size } => {
                if let Ok(range) = HeaderValue::from_str(&format!("bytes */{size}")) {
                    headers.insert(header::CONTENT_RANGE, range);
                }
            }
            Self::TooMany => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("60"));
            }
            _ => {}
        }
        response
    }
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
