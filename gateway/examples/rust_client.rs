//! Runs cells on a gateway with the crate `jupyter-websocket-client`, a client that is none of ours: `rust_client URL TOKEN
//! KERNELSPEC CELL..`. Prints what the cells print and what their last expressions are.

use std::io::Write as _;

use anyhow::{Context as _, bail};
use futures_util::{SinkExt as _, StreamExt as _};
use jupyter_protocol::media::MediaType;
use jupyter_protocol::{ExecuteRequest, ExecutionState, JupyterMessage, JupyterMessageContent};
use jupyter_websocket_client::{Kernel, KernelLaunchRequest, KernelSpecsResponse, RemoteServer};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [base_url, token, name, cells @ ..] = &arguments[..] else {
        bail!("use: rust_client URL TOKEN KERNELSPEC CELL..");
    };
    let server = RemoteServer {
        base_url: base_url.clone(),
        token: token.clone(),
    };
    let http = reqwest::Client::new();
    let url = |path: &str| format!("{}?token={token}", server.api_url(path));
    let specs: KernelSpecsResponse = http.get(url("kernelspecs")).send().await?.json().await?;
    let spec = specs
        .kernelspecs
        .get(name)
        .context("there is no such kernelspec")?;
    writeln!(std::io::stdout(), "{}", spec.spec.display_name)?;
    let request = KernelLaunchRequest {
        name: name.clone(),
        path: None,
    };
    let kernel: Kernel = http
        .post(url("kernels"))
        .json(&request)
        .send()
        .await?
        .json()
        .await?;
    let (socket, _) = server.connect_to_kernel(&kernel.id).await?;
    writeln!(std::io::stdout(), "{:?}", socket.protocol_mode)?;
    let (mut writer, mut reader) = socket.split();
    for cell in cells {
        let request = JupyterMessage::new(ExecuteRequest::new(cell.clone()), None);
        let id = request.header.msg_id.clone();
        writer.send(request).await?;
        loop {
            let message = reader
                .next()
                .await
                .context("the gateway closed the connection")??;
            let is_ours = message
                .parent_header
                .as_ref()
                .is_some_and(|parent| parent.msg_id == id);
            if is_ours && !show(&message)? {
                break;
            }
        }
    }
    http.delete(url(&format!("kernels/{}", kernel.id))).send().await?;
    Ok(())
}

/// False for the last message of a cell.
fn show(message: &JupyterMessage) -> anyhow::Result<bool> {
    let mut out = std::io::stdout();
    match &message.content {
        JupyterMessageContent::StreamContent(stream) => write!(out, "{}", stream.text)?,
        JupyterMessageContent::ExecuteResult(result) => {
            for media in &result.data.content {
                if let MediaType::Plain(text) = media {
                    writeln!(out, "{text}")?;
                }
            }
        }
        JupyterMessageContent::ErrorOutput(error) => bail!("{}: {}", error.ename, error.evalue),
        JupyterMessageContent::Status(status) => return Ok(status.execution_state != ExecutionState::Idle),
        _ => {}
    }
    Ok(true)
}
