//! How a request that cannot be served is answered.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use crate::error::Error;

/// An answer that is not a success.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Status and plain text, as the real node words it.
    Text(StatusCode, String),
    /// Status and JSON.
    Json(StatusCode, Value),
    /// The node is at fault; the cause goes to the log, not to the client.
    Internal(Error),
}

impl Failure {
    pub(crate) fn text(status: StatusCode, text: impl Into<String>) -> Self {
        Self::Text(status, text.into())
    }

    pub(crate) fn not_found(text: impl Into<String>) -> Self {
        Self::Text(StatusCode::NOT_FOUND, text.into())
    }

    /// A request field that is missing or wrong, in the form of the real node's validator.
    pub(crate) fn invalid(field: &str, message: &str) -> Self {
        Self::Json(
            StatusCode::UNPROCESSABLE_ENTITY,
            json!([{ "type": "value_error", "loc": [field], "msg": message }]),
        )
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Internal(error)
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Internal(error.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Self::Text(status, text) => (status, text).into_response(),
            Self::Json(status, body) => (status, Json(body)).into_response(),
            Self::Internal(error) => {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(%error, source, "a request failed");
                (
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "internal error of the local node",
                )
                    .into_response()
            }
        }
    }
}

/// Result of a handler.
pub(crate) type Answer<T> = std::result::Result<T, Failure>;
