//! Runs the cells of a notebook on a kernel, in order, and puts their outputs into it.
//!
//! A cell that fails ends the run unless its author marked it as allowed to fail. The caller starts and deletes the
//! kernel and writes the file, so that nothing is lost however a run ends.

use std::time::Duration;

use alephlab_api::Secret;
use alephlab_api::client::GatewayClient;
use alephlab_gateway::Outputs;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::channels::{Channels, Message};
use super::notebook::Notebook;
use crate::error::{CliError, Result};

/// A kernel that was just asked for answers its first request within this, its evaluator's start included.
const START_DEADLINE: Duration = Duration::from_secs(300);
/// How often a silent kernel is asked about at the gateway.
const LIFE_CHECK: Duration = Duration::from_secs(10);
/// After a cell's reply its last outputs arrive at once; a gateway that loses them must not hang the run.
const IDLE_DEADLINE: Duration = Duration::from_secs(30);

/// What a run shows while it goes on.
pub(crate) trait Watch: Send {
    /// A cell begins: its number from 1, of how many, and its text.
    fn cell(&mut self, number: usize, total: usize, source: &str);
    /// Text that a cell wrote, as it came: not always whole lines.
    fn output(&mut self, text: &str);
    /// The text form of something that a cell displays or updates, such as a progress bar.
    fn display(&mut self, text: &str);
}

/// Where a notebook runs.
pub(crate) struct Target<'a> {
    /// The gateway, with the token of the kernel's owner.
    pub gateway: &'a GatewayClient,
    /// The same token, for the WebSocket.
    pub token: &'a Secret,
    /// The kernel.
    pub kernel: Uuid,
}

/// Waits until the kernel answers.
pub(crate) async fn connect(target: &Target<'_>) -> Result<Channels> {
    let deadline = Instant::now() + START_DEADLINE;
    let mut channels = Channels::connect(target.gateway, target.token, target.kernel).await?;
    let mut asked = channels.request("kernel_info_request", json!({})).await?;
    while Instant::now() < deadline {
        match timeout(LIFE_CHECK, channels.next()).await {
            Ok(message) => {
                let message = message?;
                if message.msg_type == "kernel_info_reply" && message.parent == asked {
                    return Ok(channels);
                }
            }
            Err(_) => {
                check_alive(target, "it started").await?;
                asked = channels.request("kernel_info_request", json!({})).await?;
            }
        }
    }
    let reason = format!("it gave no answer within {} s", START_DEADLINE.as_secs());
    Err(CliError::Kernel {
        doing: "it started".to_owned(),
        reason,
    })
}

/// Runs every code cell; the notebook has the outputs of all cells that ran, also when this fails.
pub(crate) async fn run(
    target: &Target<'_>,
    channels: &mut Channels,
    notebook: &mut Notebook,
    watch: &mut dyn Watch,
) -> Result<()> {
    notebook.clear();
    let cells = notebook.code_cells();
    let mut run = Run {
        target,
        channels,
        outputs: Outputs::new(),
    };
    for (position, &index) in cells.iter().enumerate() {
        let code = notebook.source(index);
        watch.cell(position + 1, cells.len(), &code);
        let result = run.cell(index, &code, notebook.may_fail(index), watch).await;
        // Updates reach back into earlier cells, and a broken connection must not lose what came before it.
        for &shown in cells.iter().take(position + 1) {
            let count = if shown == index {
                result.as_ref().ok().and_then(|ended| ended.count)
            } else {
                None
            };
            let count = count.or_else(|| notebook.execution_count(shown));
            notebook.set_result(shown, run.outputs.stored(&shown), count);
        }
        match result?.error {
            Some(error) if !notebook.may_fail(index) => return Err(error.into_cli(position + 1)),
            _ => {}
        }
    }
    Ok(())
}

struct Run<'a> {
    target: &'a Target<'a>,
    channels: &'a mut Channels,
    outputs: Outputs<usize>,
}

struct Ended {
    count: Option<u64>,
    error: Option<CellError>,
}

struct CellError {
    ename: String,
    evalue: String,
    traceback: String,
}

impl CellError {
    fn from_reply(content: &Value) -> Self {
        let text = |key: &str| content[key].as_str().unwrap_or_default().to_owned();
        let lines = content["traceback"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let traceback = lines
            .iter()
            .filter_map(Value::as_str)
            .collect::<Vec<_>>()
            .join("\n");
        Self {
            ename: text("ename"),
            evalue: text("evalue"),
            traceback: without_colours(&traceback),
        }
    }

    fn into_cli(self, number: usize) -> CliError {
        CliError::Cell {
            number,
            ename: self.ename,
            evalue: self.evalue,
            traceback: self.traceback,
        }
    }
}

impl Run<'_> {
    async fn cell(
        &mut self,
        index: usize,
        code: &str,
        may_fail: bool,
        watch: &mut dyn Watch,
    ) -> Result<Ended> {
        let content = json!({
            "code": code, "silent": false, "store_history": true, "user_expressions": {},
            "allow_stdin": false, "stop_on_error": !may_fail,
        });
        let id = self.channels.request("execute_request", content).await?;
        let (mut reply, mut idle) = (None, false);
        while reply.is_none() || !idle {
            let wait = if reply.is_some() {
                IDLE_DEADLINE
            } else {
                LIFE_CHECK
            };
            let message = match timeout(wait, self.channels.next()).await {
                Ok(message) => message?,
                Err(_) if reply.is_some() => break,
                Err(_) => {
                    check_alive(self.target, "a cell ran").await?;
                    continue;
                }
            };
            refuse_death(&message)?;
            if message.parent != id {
                continue;
            }
            match (message.channel.as_str(), message.msg_type.as_str()) {
                ("shell", "execute_reply") => reply = Some(message.content),
                ("iopub", "status") => idle = message.content["execution_state"] == "idle",
                ("iopub", msg_type) => {
                    show(msg_type, &message.content, watch);
                    self.outputs.take(index, msg_type, &message.content);
                }
                _ => {}
            }
        }
        let reply = reply.unwrap_or_default();
        let error = (reply["status"] != "ok").then(|| CellError::from_reply(&reply));
        Ok(Ended {
            count: reply["execution_count"].as_u64(),
            error,
        })
    }
}

fn show(msg_type: &str, content: &Value, watch: &mut dyn Watch) {
    match msg_type {
        "stream" => watch.output(content["text"].as_str().unwrap_or_default()),
        "display_data" | "update_display_data" => {
            watch.display(content["data"]["text/plain"].as_str().unwrap_or_default());
        }
        _ => {}
    }
}

/// The gateway announces a kernel's death as a status of its own.
fn refuse_death(message: &Message) -> Result<()> {
    if message.msg_type == "status" && message.content["execution_state"] == "dead" {
        let reason = "its process ended; the log of the gateway says more".to_owned();
        return Err(CliError::Kernel {
            doing: "a cell ran".to_owned(),
            reason,
        });
    }
    Ok(())
}

async fn check_alive(target: &Target<'_>, doing: &str) -> Result<()> {
    let kernel = target
        .gateway
        .kernel(target.kernel)
        .await
        .map_err(CliError::from)?;
    if matches!(kernel.execution_state.as_str(), "dead" | "terminating") {
        let reason = kernel
            .reason
            .unwrap_or_else(|| format!("the gateway says it is {}", kernel.execution_state));
        return Err(CliError::Kernel {
            doing: doing.to_owned(),
            reason,
        });
    }
    Ok(())
}

/// Text without terminal colours: `ESC [ .. letter`.
pub(crate) fn without_colours(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        if c == '\u{1b}' && rest.peek() == Some(&'[') {
            rest.next();
            while rest.next().is_some_and(|c| !c.is_ascii_alphabetic()) {}
        } else if !c.is_control() || matches!(c, '\n' | '\t') {
            plain.push(c);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_and_control_characters_are_removed() {
        assert_eq!(
            without_colours("\u{1b}[0;31merror\u{1b}[0m:\tx\r\n"),
            "error:\tx\n"
        );
    }

    #[test]
    fn a_failed_reply_keeps_its_traceback() {
        let reply = json!({"status": "error", "ename": "panic", "evalue": "boom", "traceback": ["a", "b"]});
        let error = CellError::from_reply(&reply).into_cli(2);
        assert_eq!(error.to_string(), "cell 2 failed: panic: boom");
        assert!(matches!(error, CliError::Cell { traceback, .. } if traceback == "a\nb"));
    }

    #[test]
    fn a_dead_kernel_ends_the_run() {
        let message = Message {
            channel: "iopub".into(),
            msg_type: "status".into(),
            parent: String::new(),
            content: json!({"execution_state": "dead"}),
        };
        assert!(refuse_death(&message).is_err());
    }
}
