//! What a gateway answers that has its port already and waits for its database, which another one has: that it waits, so that
//! whoever balances between them goes to the other one.

use alephlab_api::Problem;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Answers 503 to everything at this listener until `over`. Connections that are not accepted by then are left to whoever
/// listens next.
///
/// # Errors
/// When the listener cannot be used.
pub(crate) async fn stand_by(
    listener: std::net::TcpListener,
    over: CancellationToken,
) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let router = Router::new().fallback(async || waiting());
    axum::serve(TcpListener::from_std(listener)?, router)
        .with_graceful_shutdown(over.cancelled_owned())
        .await
}

fn waiting() -> Response {
    let problem = Problem::new("gateway_standby", "this gateway waits: another one serves")
        .with_hint("ask again, or at the other gateway's address");
    let mut response = (StatusCode::SERVICE_UNAVAILABLE, Json(problem)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    // A client that keeps its connection would go on asking here.
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn says_that_it_waits_until_the_listener_is_somebody_elses() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/api/status", listener.local_addr().unwrap());
        let over = CancellationToken::new();
        let waiting = tokio::spawn(stand_by(listener.try_clone().unwrap(), over.clone()));
        let answer = reqwest::get(&url).await.unwrap();
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()["retry-after"], "1");
        let problem: Problem = answer.json().await.unwrap();
        assert_eq!(problem.code, "gateway_standby");
        over.cancel();
        waiting.await.unwrap().unwrap();
        let router = Router::new().fallback(async || "serves");
        tokio::spawn(async move { axum::serve(TcpListener::from_std(listener).unwrap(), router).await });
        assert_eq!(reqwest::get(&url).await.unwrap().text().await.unwrap(), "serves");
    }
}
