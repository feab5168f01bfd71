//! Runs one cell on a Jupyter server and counts what comes: `drain URL TOKEN KERNELSPEC CELL`. Prints the bytes of text that the
//! cell put out and the seconds from its request to idle. For benches: a client in Python reads more slowly than servers write.

use std::io::Write as _;
use std::time::Instant;

use anyhow::{Context as _, bail};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio_tungstenite::connect_async_with_config;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use uuid::Uuid;

const V1: &str = "v1.kernel.websocket.jupyter.org";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, token, name, cell] = &arguments[..] else {
        bail!("use: drain URL TOKEN KERNELSPEC CELL");
    };
    let http = reqwest::Client::new();
    let request = http
        .post(format!("{url}/api/kernels"))
        .header("Authorization", format!("token {token}"));
    let kernel: Value = request
        .json(&json!({ "name": name }))
        .send()
        .await?
        .error_for_status()?
        .json()
        .await?;
    let kernel = kernel["id"].as_str().context("a kernel has an id")?.to_owned();
    let session = Uuid::new_v4().to_string();
    let socket = format!(
        "{}/api/kernels/{kernel}/channels?session_id={session}",
        url.replacen("http", "ws", 1)
    );
    let mut upgrade = socket.into_client_request()?;
    upgrade
        .headers_mut()
        .insert("authorization", format!("token {token}").parse()?);
    upgrade
        .headers_mut()
        .insert("sec-websocket-protocol", V1.parse()?);
    let config = WebSocketConfig::default()
        .max_message_size(None)
        .max_frame_size(None);
    let (mut socket, _) = connect_async_with_config(upgrade, Some(config), true).await?;
    // Kernels that start late would be measured with their start.
    run(&mut socket, &session, "").await?;
    let begun = Instant::now();
    let bytes = run(&mut socket, &session, cell).await?;
    let seconds = begun.elapsed().as_secs_f64();
    writeln!(
        std::io::stdout(),
        "{}",
        json!({ "bytes": bytes, "seconds": seconds })
    )?;
    http.delete(format!("{url}/api/kernels/{kernel}"))
        .header("Authorization", format!("token {token}"))
        .send()
        .await?;
    Ok(())
}

type Socket = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

/// Bytes of text until the cell is idle.
async fn run(socket: &mut Socket, session: &str, cell: &str) -> anyhow::Result<usize> {
    let id = Uuid::new_v4().simple().to_string();
    let header = json!({ "msg_id": id, "msg_type": "execute_request", "session": session, "username": "b", "version": "5.3" });
    let content = json!({ "code": cell, "silent": false, "store_history": false, "allow_stdin": false });
    let parts = [
        b"shell".to_vec(),
        header.to_string().into_bytes(),
        b"{}".to_vec(),
        // As a page of JupyterLab: our gateway follows such cells for their notebook.
        br#"{"cellId": "drained"}"#.to_vec(),
        content.to_string().into_bytes(),
    ];
    socket.send(Message::binary(frame(&parts))).await?;
    let mut bytes = 0;
    loop {
        let Message::Binary(said) = socket
            .next()
            .await
            .context("the server closed the connection")??
        else {
            continue;
        };
        let part = |number: usize| -> anyhow::Result<&[u8]> {
            let at = |number: usize| -> anyhow::Result<usize> {
                let bytes = said
                    .get(8 * (number + 1)..8 * (number + 2))
                    .context("a frame is cut off")?;
                Ok(usize::try_from(u64::from_le_bytes(bytes.try_into()?))?)
            };
            said.get(at(number)?..at(number + 1)?)
                .context("a frame is cut off")
        };
        let header: Value = serde_json::from_slice(part(1)?)?;
        if header["msg_type"] == "stream" {
            let content: Value = serde_json::from_slice(part(4)?)?;
            bytes += content["text"].as_str().unwrap_or_default().len();
        } else if header["msg_type"] == "status" {
            let (parent, content): (Value, Value) = (
                serde_json::from_slice(part(2)?)?,
                serde_json::from_slice(part(4)?)?,
            );
            if content["execution_state"] == "idle" && parent["msg_id"] == id.as_str() {
                return Ok(bytes);
            }
        }
    }
}

/// The framing that both servers know: offsets, then the parts.
fn frame(parts: &[Vec<u8>]) -> Vec<u8> {
    let count = parts.len() + 1;
    let mut offsets = vec![8 * (count as u64 + 1)];
    for part in parts {
        offsets.push(offsets[offsets.len() - 1] + part.len() as u64);
    }
    let mut frame = (count as u64).to_le_bytes().to_vec();
    offsets
        .iter()
        .for_each(|offset| frame.extend(offset.to_le_bytes()));
    frame.extend(parts.concat());
    frame
}
