//! What can go wrong in the gateway, and how it becomes an HTTP answer.
//!
//! A refusal's body is a [`Problem`]: `code`, `message`, `reason` for Jupyter's clients, `hint`. It never holds what a
//! client sent as a secret.

use std::path::PathBuf;

use alephlab_api::Problem;
use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

/// Why the gateway did not start, or did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayError {
    /// The data folder cannot be used.
    #[error("the gateway's folder {} cannot be used: {source}", path.display())]
    Folder {
        /// Which folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The database failed.
    #[error("the gateway's database failed: {source}")]
    Database {
        /// Why.
        #[from]
        source: sqlx::Error,
    },
    /// The database cannot be reached.
    #[error("the gateway's database on {server} cannot be used: {reason}")]
    DatabaseServer {
        /// Its server, without what is secret of its URL.
        server: String,
        /// Why.
        reason: String,
    },
    /// Another gateway has the database.
    #[error("another gateway uses the database on {server}")]
    DatabaseTaken {
        /// Its server, without what is secret of its URL.
        server: String,
    },
    /// The database is of another version.
    #[error("the gateway's database cannot be brought up to date: {source}")]
    Migration {
        /// Why.
        #[from]
        source: sqlx::migrate::MigrateError,
    },
    /// A setting is wrong.
    #[error("the gateway's setting `{setting}` is wrong: {reason}")]
    Setting {
        /// Which one.
        setting: &'static str,
        /// Why.
        reason: String,
    },
    /// The server ended.
    #[error("the gateway's server ended: {source}")]
    Server {
        /// Why.
        source: std::io::Error,
    },
    /// A host could not be had.
    #[error("no host could be started: {reason}")]
    Host {
        /// Why.
        reason: String,
    },
    /// A request is refused.
    #[error("{problem}")]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// What to tell.
        problem: Problem,
    },
}

pub(crate) type Result<T, E = GatewayError> = std::result::Result<T, E>;

impl GatewayError {
    /// Stable name of the kind of error.
    pub fn code(&self) -> &str {
        match self {
            Self::Folder { .. } => "gateway_folder",
            Self::Database { .. } => "gateway_database",
            Self::DatabaseServer { .. } => "gateway_database_server",
            Self::DatabaseTaken { .. } => "gateway_database_taken",
            Self::Migration { .. } => "gateway_migration",
            Self::Setting { .. } => "gateway_setting",
            Self::Server { .. } => "gateway_server",
            Self::Host { .. } => "host_unavailable",
            Self::Refused { problem, .. } => &problem.code,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Folder { .. } => Some("choose another folder, or make this one writable".to_owned()),
            Self::DatabaseServer { .. } => Some(
                "check the setting gateway.database, and that its server takes connections from here"
                    .to_owned(),
            ),
            Self::DatabaseTaken { .. } => Some(
                "stop the other one, or start this one with --standby: it takes over when the other one ends"
                    .to_owned(),
            ),
            Self::Migration { .. } => {
                Some("use the alephlab that made this folder, or another folder".to_owned())
            }
            Self::Host { .. } => Some("run: alephlab doctor".to_owned()),
            Self::Refused { problem, .. } => problem.hint.clone(),
            Self::Database { .. } | Self::Setting { .. } | Self::Server { .. } => None,
        }
    }

    pub(crate) fn refused(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self::Refused {
            status,
            problem: Problem::new(code, message),
        }
    }

    pub(crate) fn bad_request(code: &str, message: impl Into<String>) -> Self {
        Self::refused(StatusCode::BAD_REQUEST, code, message)
    }

    pub(crate) fn not_found(code: &str, message: impl Into<String>) -> Self {
        Self::refused(StatusCode::NOT_FOUND, code, message)
    }

    /// The same refusal with a hint; other errors have their own.
    #[must_use]
    pub(crate) fn with_hint(self, hint: &str) -> Self {
        match self {
            Self::Refused { status, problem } => Self::Refused {
                status,
                problem: problem.with_hint(hint),
            },
            other => other,
        }
    }
}

impl IntoResponse for GatewayError {
    fn into_response(self) -> Response {
        let (status, problem) = match self {
            Self::Refused { status, problem } => (status, problem),
            Self::Host { reason } => (
                StatusCode::SERVICE_UNAVAILABLE,
                Problem::new("host_unavailable", format!("no host: {reason}")),
            ),
            Self::Database { source } if is_unstorable(&source) => (
                StatusCode::BAD_REQUEST,
                Problem::new("text_refused", "a text with the character NUL cannot be stored"),
            ),
            other => {
                // What failed inside is for the log, not for a client.
                tracing::error!(error = %other, code = other.code(), "a request failed");
                let message = "the gateway could not finish this request; nothing was changed";
                (
                    StatusCode::INTERNAL_SERVER_ERROR,
                    Problem::new(other.code(), message),
                )
            }
        };
        let mut response = (status, Json(problem.clone())).into_response();
        // For pages, which say it to a person.
        response.extensions_mut().insert(problem);
        if status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(
                axum::http::header::RETRY_AFTER,
                axum::http::HeaderValue::from_static("60"),
            );
        }
        response
    }
}

/// Whether PostgreSQL refused a text that came from a client; SQLite takes any.
fn is_unstorable(error: &sqlx::Error) -> bool {
    let error = error.as_database_error();
    error.and_then(|error| error.code()).as_deref() == Some("22021")
}

/// What the vault said, as an answer: it is about content that a client named, so it may be told.
impl From<alephlab_vault::VaultError> for GatewayError {
    fn from(error: alephlab_vault::VaultError) -> Self {
        let status = match error {
            alephlab_vault::VaultError::Unavailable { .. } => StatusCode::BAD_GATEWAY,
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Self::Refused {
            status,
            problem: Problem {
                code: error.code().to_owned(),
                message: error.to_string(),
                hint: error.hint(),
            },
        }
    }
}
