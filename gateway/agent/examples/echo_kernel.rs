//! The smallest Jupyter kernel, for the agent's tests: echoes cells, asks for input, can die.
//!
//! Cells: `die` ends the process with status 3, `ask` asks for input and echoes it, anything else is echoed.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use serde_json::{Value, json};
use zeromq::{PubSocket, RouterSocket, Socket as _, SocketRecv as _, SocketSend as _, ZmqMessage};

struct Kernel {
    output: PubSocket,
    stdin: RouterSocket,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let file = std::env::args().nth(1).context("no connection file is named")?;
    let file: Value = serde_json::from_slice(&std::fs::read(file)?)?;
    std::fs::write("pid", std::process::id().to_string())?;
    let at = |port: &str| format!("ipc://{}-{}", file["ip"].as_str().unwrap_or_default(), file[port]);
    let (mut shell, mut control) = (RouterSocket::new(), RouterSocket::new());
    let mut kernel = Kernel {
        output: PubSocket::new(),
        stdin: RouterSocket::new(),
    };
    kernel.output.bind(&at("iopub_port")).await?;
    kernel.stdin.bind(&at("stdin_port")).await?;
    shell.bind(&at("shell_port")).await?;
    control.bind(&at("control_port")).await?;
    loop {
        tokio::select! {
            message = shell.recv() => {
                if let Some(code) = kernel.serve(&mut shell, message?).await? {
                    return Ok(code);
                }
            }
            message = control.recv() => {
                if let Some(code) = kernel.serve(&mut control, message?).await? {
                    return Ok(code);
                }
            }
        }
    }
}

impl Kernel {
    /// Answers one request; an exit code ends the process.
    async fn serve(
        &mut self,
        socket: &mut RouterSocket,
        message: ZmqMessage,
    ) -> anyhow::Result<Option<ExitCode>> {
        let frames = message.into_vec();
        let (identity, header) = (frames[0].clone(), frames[3].clone());
        let kind = serde_json::from_slice::<Value>(&header)?["msg_type"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let content: Value = serde_json::from_slice(&frames[6])?;
        let code = content["code"].as_str().unwrap_or_default().to_owned();
        self.publish(&header, "status", &json!({ "execution_state": "busy" }))
            .await?;
        match (kind.as_str(), code.as_str()) {
            ("shutdown_request", _) => return Ok(Some(ExitCode::SUCCESS)),
            ("execute_request", "die") => return Ok(Some(ExitCode::from(3))),
            ("execute_request", "ask") => {
                let value = self.ask(&identity, &header).await?;
                self.publish(&header, "stream", &json!({ "name": "stdout", "text": value }))
                    .await?;
            }
            ("execute_request", _) => {
                self.publish(&header, "stream", &json!({ "name": "stdout", "text": code }))
                    .await?;
            }
            ("interrupt_request", _) => {
                self.publish(
                    &header,
                    "stream",
                    &json!({ "name": "stdout", "text": "interrupted" }),
                )
                .await?;
            }
            _ => {}
        }
        let reply = Self::message(
            &kind.replace("_request", "_reply"),
            &header,
            &json!({ "status": "ok" }),
        );
        socket.send(addressed(identity, reply)?).await?;
        self.publish(&header, "status", &json!({ "execution_state": "idle" }))
            .await?;
        Ok(None)
    }

    async fn ask(&mut self, identity: &Bytes, header: &Bytes) -> anyhow::Result<Value> {
        let question = Self::message(
            "input_request",
            header,
            &json!({ "prompt": "?", "password": false }),
        );
        // The client's stdin connects beside its shell and can be later; zeromq does not say when a peer arrives.
        let deadline = Instant::now() + Duration::from_secs(5);
        while let Err(error) = self
            .stdin
            .send(addressed(identity.clone(), question.clone())?)
            .await
        {
            anyhow::ensure!(Instant::now() < deadline, "nobody to ask: {error}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let answer = self.stdin.recv().await?.into_vec();
        Ok(serde_json::from_slice::<Value>(&answer[6])?["value"].take())
    }

    async fn publish(&mut self, parent: &Bytes, kind: &str, content: &Value) -> anyhow::Result<()> {
        let message = Self::message(kind, parent, content);
        Ok(self
            .output
            .send(addressed(Bytes::from(kind.to_owned()), message)?)
            .await?)
    }

    fn message(kind: &str, parent: &Bytes, content: &Value) -> Vec<Bytes> {
        let header =
            json!({ "msg_id": kind, "msg_type": kind, "session": "k", "username": "k", "version": "5.3" });
        let parts = [
            header.to_string().into(),
            parent.clone(),
            Bytes::from_static(b"{}"),
            content.to_string().into(),
        ];
        // The agent's key is empty: nothing is signed.
        [Bytes::from_static(b"<IDS|MSG>"), Bytes::new()]
            .into_iter()
            .chain(parts)
            .collect()
    }
}

fn addressed(to: Bytes, mut message: Vec<Bytes>) -> anyhow::Result<ZmqMessage> {
    message.insert(0, to);
    ZmqMessage::try_from(message).map_err(|_| anyhow::anyhow!("an empty message"))
}
