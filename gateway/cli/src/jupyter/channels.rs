//! A kernel's channels over the gateway's WebSocket, in Jupyter's legacy JSON framing.
//!
//! One connection, one session id; messages come in the order of the wire. Binary frames carry buffers, which a
//! notebook file cannot hold, so only their JSON part is read.

use std::time::Duration;

use alephlab_api::Secret;
use alephlab_api::client::GatewayClient;
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, Message as WsMessage};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use uuid::Uuid;

use crate::error::{CliError, Result};

/// Largest message taken from a gateway: above any output that a notebook should hold.
const MESSAGE_BYTES_MAX: usize = 256 << 20;
/// A gateway on this machine or a near one answers a handshake well within this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// A gateway that takes no goodbye within this gets none.
const GOODBYE: Duration = Duration::from_secs(2);

/// An open connection to one kernel.
pub(crate) struct Channels {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    session: String,
}

/// What a kernel said.
#[derive(Debug)]
pub(crate) struct Message {
    /// `iopub`, `shell`, `stdin` or `control`.
    pub channel: String,
    /// Such as `execute_reply`.
    pub msg_type: String,
    /// Id of the request that caused it; empty when none did.
    pub parent: String,
    /// The content as the protocol defines it for this type.
    pub content: Value,
}

impl Channels {
    /// Connects to the channels of `kernel`.
    pub(crate) async fn connect(gateway: &GatewayClient, token: &Secret, kernel: Uuid) -> Result<Self> {
        let session = Uuid::new_v4().simple().to_string();
        let url = gateway.channels_url(kernel, &session);
        let socket = open_websocket(url.as_str(), token).await?;
        Ok(Self { socket, session })
    }

    /// Sends a request on the shell channel and gives its id.
    pub(crate) async fn request(&mut self, msg_type: &str, content: Value) -> Result<String> {
        let id = Uuid::new_v4().simple().to_string();
        let message = json!({
            "header": {
                "msg_id": id,
                "msg_type": msg_type,
                "username": "alephlab",
                "session": self.session,
                "date": alephlab_api::time::now(),
                "version": "5.3",
            },
            "parent_header": {},
            "metadata": {},
            "content": content,
            "buffers": [],
            "channel": "shell",
        });
        let sent = self.socket.send(WsMessage::text(message.to_string())).await;
        sent.map_err(|error| lost(&error.to_string()))?;
        Ok(id)
    }

    /// The next message; an error when the gateway closed the connection.
    pub(crate) async fn next(&mut self) -> Result<Message> {
        loop {
            let text = match self.socket.next().await {
                Some(Ok(WsMessage::Text(text))) => parse(text.as_bytes()),
                Some(Ok(WsMessage::Binary(bytes))) => json_part(&bytes).and_then(parse),
                Some(Ok(WsMessage::Close(frame))) => {
                    let reason = frame
                        .map(|frame| frame.reason.to_string())
                        .filter(|text| !text.is_empty());
                    return Err(lost(
                        &reason.unwrap_or_else(|| "the gateway closed the connection".to_owned()),
                    ));
                }
                Some(Ok(_)) => continue,
                Some(Err(error)) => return Err(lost(&error.to_string())),
                None => return Err(lost("the gateway closed the connection")),
            };
            match text {
                Some(message) => return Ok(message),
                None => tracing::warn!("the gateway sent a message that is not Jupyter's"),
            }
        }
    }

    /// Says goodbye; the gateway keeps the kernel.
    pub(crate) async fn close(mut self) {
        // The kernel is deleted or kept by its id; a connection that is already gone needs no goodbye.
        drop(tokio::time::timeout(GOODBYE, self.socket.close(None)).await);
    }
}

/// Opens a WebSocket with the token in a header, never in the address.
pub(crate) async fn open_websocket(
    url: &str,
    token: &Secret,
) -> Result<WebSocketStream<MaybeTlsStream<TcpStream>>> {
    let unreachable = |reason: String| CliError::Unreachable {
        url: url.to_owned(),
        reason,
    };
    let mut request = url
        .into_client_request()
        .map_err(|error| unreachable(error.to_string()))?;
    let mut header = HeaderValue::from_str(&format!("token {}", token.expose()))
        .map_err(|_| unreachable("the token has characters that no header can carry".to_owned()))?;
    header.set_sensitive(true);
    request.headers_mut().insert("Authorization", header);
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let connecting = tokio_tungstenite::connect_async_with_config(request, Some(config), true);
    match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok((socket, _))) => Ok(socket),
        Ok(Err(WsError::Http(response))) => Err(unreachable(format!("it answered {}", response.status()))),
        Ok(Err(error)) => Err(unreachable(error.to_string())),
        Err(_) => Err(unreachable(format!(
            "no answer within {} s",
            CONNECT_TIMEOUT.as_secs()
        ))),
    }
}

fn lost(reason: &str) -> CliError {
    CliError::Kernel {
        doing: "a notebook ran on it".to_owned(),
        reason: reason.to_owned(),
    }
}

#[derive(Deserialize)]
struct Wire {
    channel: String,
    header: Header,
    #[serde(default)]
    parent_header: Value,
    #[serde(default)]
    content: Value,
}

#[derive(Deserialize)]
struct Header {
    msg_type: String,
}

fn parse(bytes: &[u8]) -> Option<Message> {
    let wire: Wire = serde_json::from_slice(bytes).ok()?;
    let parent = wire
        .parent_header
        .get("msg_id")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    Some(Message {
        channel: wire.channel,
        msg_type: wire.header.msg_type,
        parent,
        content: wire.content,
    })
}

/// The JSON of a legacy binary frame: big-endian count, offsets of all parts, then the parts, JSON first.
fn json_part(bytes: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| {
        let raw: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_be_bytes(raw)).ok()
    };
    let count = word(0)?;
    let start = word(4)?;
    let end = if count > 1 { word(8)? } else { bytes.len() };
    bytes.get(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: &[u8] = br#"{"channel":"iopub","header":{"msg_type":"status"},"parent_header":{"msg_id":"a"},"content":{"execution_state":"idle"}}"#;

    #[test]
    fn binary_frames_give_their_json() {
        let mut frame = Vec::new();
        let start = 12_u32;
        let end = start + u32::try_from(MESSAGE.len()).unwrap();
        for word in [2, start, end] {
            frame.extend_from_slice(&word.to_be_bytes());
        }
        frame.extend_from_slice(MESSAGE);
        frame.extend_from_slice(&[0xff; 9]);
        let message = json_part(&frame).and_then(parse).unwrap();
        assert_eq!(
            (message.parent.as_str(), message.msg_type.as_str()),
            ("a", "status")
        );
    }

    #[test]
    fn lying_offsets_are_no_message() {
        assert!(json_part(&[0, 0, 0, 2, 0, 0, 0, 200, 0, 0, 0, 201]).is_none());
        assert!(json_part(&[0, 0]).is_none());
        assert!(parse(b"{}").is_none());
    }
}
