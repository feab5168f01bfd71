//! Questions to compute nodes and to the list of them. Who answers may be anybody, so an answer is bounded in time (by the
//! client) and in size (here), and is read only when it is whole.

use reqwest::RequestBuilder;
use serde::de::DeserializeOwned;

use super::{host, shown};
use crate::error::{GatewayError, Result};

/// Answers of nodes to one question.
pub(super) const SMALL: usize = 64 << 10;
/// What a node says of all machines that it runs.
pub(super) const MACHINES: usize = 1 << 20;
/// The list of all nodes, which has about 700 KB.
pub(super) const LIST: usize = 4 << 20;

/// What somebody answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswered {
    /// Nobody took the question, or said anything in time.
    #[error("it cannot be reached: {source}")]
    Unreachable {
        /// Why.
        source: reqwest::Error,
    },
    /// It broke off, or took too long for all of it.
    #[error("it does not answer: {source}")]
    Broken {
        /// Why.
        source: reqwest::Error,
    },
    /// It is longer than anything that was asked for.
    #[error("it answers with more than {most} bytes")]
    TooLong {
        /// Most that is read.
        most: usize,
    },
}

impl From<Unanswered> for GatewayError {
    fn from(why: Unanswered) -> Self {
        host(&why)
    }
}

impl Answer {
    /// Why a node refuses, as its answer says: no control characters, and not much of it.
    pub(super) fn reason(&self) -> Option<String> {
        let said = match serde_json::from_slice::<serde_json::Value>(&self.body) {
            Ok(value) => ["reason", "error"]
                .iter()
                .find_map(|key| value.get(key)?.as_str().map(str::to_owned)),
            Err(_) => Some(String::from_utf8_lossy(&self.body).into_owned()),
        };
        let said = shown(said?.trim(), 200);
        (!said.is_empty()).then_some(said)
    }
}

/// Asks, and reads an answer of at most so many bytes.
pub(super) async fn ask(request: RequestBuilder, most: usize) -> std::result::Result<Answer, Unanswered> {
    // Without even a status nobody knows whether there is a node at all.
    let is_silent = |source: &reqwest::Error| source.is_connect() || source.is_timeout();
    let mut response = request.send().await.map_err(|source| match is_silent(&source) {
        true => Unanswered::Unreachable { source },
        false => Unanswered::Broken { source },
    })?;
    let status = response.status().as_u16();
    let mut body = Vec::new();
    while let Some(part) = response
        .chunk()
        .await
        .map_err(|source| Unanswered::Broken { source })?
    {
        if body.len() + part.len() > most {
            return Err(Unanswered::TooLong { most });
        }
        body.extend_from_slice(&part);
    }
    Ok(Answer { status, body })
}

/// The same of an answer that is a success and JSON.
pub(super) async fn json<T: DeserializeOwned>(request: RequestBuilder, most: usize) -> Result<T> {
    let answer = ask(request, most).await?;
    if !(200..300).contains(&answer.status) {
        return Err(host(&format!("it answers with status {}", answer.status)));
    }
    serde_json::from_slice(&answer.body).map_err(|error| host(&format!("its answer cannot be read: {error}")))
}

#[cfg(test)]
pub(super) mod testing {
    //! A node that gives every question the same answer, and one that gives none.

    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use url::Url;

    /// Answers with this until the test ends; `length` is what it announces.
    pub(crate) async fn node(status: &str, body: Vec<u8>, length: usize) -> Url {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut asked = [0; 16 << 10];
                let _ = socket.read(&mut asked).await;
                let _ = socket.write_all(head.as_bytes()).await;
                let _ = socket.write_all(&body).await;
                let _ = socket.shutdown().await;
                // What is not read when a socket closes takes the answer with it.
                while matches!(socket.read(&mut asked).await, Ok(1..)) {}
            }
        });
        url.parse().unwrap()
    }

    /// Takes every question while the listener is kept, and says nothing.
    pub(crate) async fn silent() -> (TcpListener, Url) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        (listener, url.parse().unwrap())
    }

    /// Says a status and never the rest.
    pub(crate) async fn stalled() -> Url {
        let (listener, url) = silent().await;
        tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok((mut socket, _)) = listener.accept().await {
                let _ = socket.read(&mut [0; 1_000]).await;
                let _ = socket
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n")
                    .await;
                kept.push(socket);
            }
        });
        url
    }

    /// Does not wait for long.
    pub(crate) fn impatient() -> reqwest::Client {
        reqwest::Client::builder()
            .timeout(Duration::from_millis(200))
            .build()
            .unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn got(body: Vec<u8>, length: usize) -> std::result::Result<Answer, Unanswered> {
        let node = testing::node("200 OK", body, length).await;
        ask(reqwest::Client::new().get(node), 1_000).await
    }

    #[tokio::test]
    async fn an_answer_is_read_whole_or_not_at_all() {
        assert_eq!(got(vec![b'x'; 1_000], 1_000).await.unwrap().body.len(), 1_000);
        let long = got(vec![b'x'; 100_000], 100_000).await;
        assert!(matches!(long, Err(Unanswered::TooLong { most: 1_000 })));
        let cut = got(vec![b'x'; 10], 1_000).await;
        assert!(matches!(cut, Err(Unanswered::Broken { .. })));
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", closed.local_addr().unwrap());
        drop(closed);
        let nobody = ask(reqwest::Client::new().get(url), 1_000).await;
        assert!(matches!(nobody, Err(Unanswered::Unreachable { .. })));
        let (_kept, silent) = testing::silent().await;
        let nothing = ask(testing::impatient().get(silent), 1_000).await;
        assert!(matches!(nothing, Err(Unanswered::Unreachable { .. })));
        // This one has said that it is there.
        let slow = testing::stalled().await;
        let part = ask(testing::impatient().get(slow), 1_000).await;
        assert!(matches!(part, Err(Unanswered::Broken { .. })));
    }

    #[test]
    fn reasons_of_nodes_are_short_and_printable() {
        let of = |body: &str| {
            let body = body.as_bytes().to_vec();
            Answer { status: 400, body }.reason()
        };
        let failed = r#"{"status": "error", "error": "Failed to reserves all resources", "reason": "no GPU\u001b[2J"}"#;
        assert_eq!(of(failed).unwrap(), "no GPU[2J");
        assert_eq!(of(r#"{"error": "no"}"#).unwrap(), "no");
        assert_eq!(of("{}"), None);
        assert_eq!(of(" \n"), None);
        assert_eq!(of(&"€".repeat(70_000)).unwrap().chars().count(), 200);
    }
}
