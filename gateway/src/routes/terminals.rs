//! `/api/terminals` and `/terminals/websocket/{name}`, as Jupyter's servers have them: a page's terminal talks in JSON arrays
//! whose first entry says what they are.

use std::sync::Arc;

use alephlab_api::agent::WindowSize;
use axum::Json;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::interval;

use super::body;
use super::channels::{CLOSE_TOKEN, Clock, PING, READ_BUFFER, close as end, in_time};
use crate::auth::{Account, own_pages_only};
use crate::error::{GatewayError, Result};
use crate::state::App;
use crate::terminals::{Step, Terminal};

/// Longest message of a page: what was pasted comes as one.
const MAX_MESSAGE: usize = 10 << 20;

/// What clients are shown of a terminal.
#[derive(Serialize)]
pub(crate) struct TerminalModel {
    name: String,
    last_activity: String,
}

#[derive(Default, Deserialize)]
struct NewTerminal {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    cwd: Option<String>,
}

fn model(terminal: &Terminal) -> TerminalModel {
    TerminalModel {
        name: terminal.name.clone(),
        last_activity: terminal.last_activity(),
    }
}

/// `GET /api/terminals`.
pub(crate) async fn all(State(app): State<Arc<App>>, account: Account) -> Json<Vec<TerminalModel>> {
    let terminals = app.terminals.of(&account.id);
    Json(terminals.iter().map(|terminal| model(terminal)).collect())
}

/// `POST /api/terminals`: 200, not 201, as Jupyter's servers answer.
pub(crate) async fn open(
    State(app): State<Arc<App>>,
    account: Account,
    bytes: Bytes,
) -> Result<Json<TerminalModel>> {
    let wanted: Option<NewTerminal> = body(&bytes)?;
    let NewTerminal { name, cwd } = wanted.unwrap_or_default();
    if !app.kernels.has_allocation(&account.id) {
        let message = "a terminal here needs a kernel of yours that runs";
        let refused = GatewayError::refused(StatusCode::PAYMENT_REQUIRED, "terminal_kernel", message);
        return Err(refused.with_hint("open a notebook first: its kernel is what is paid for"));
    }
    let terminal = app.terminals.start(&account.id, name, cwd).await?;
    Ok(Json(model(&terminal)))
}

/// `GET /api/terminals/{name}`.
pub(crate) async fn one(
    State(app): State<Arc<App>>,
    account: Account,
    Path(name): Path<String>,
) -> Result<Json<TerminalModel>> {
    let terminal = app.terminals.get(&account.id, &name)?;
    Ok(Json(model(&terminal)))
}

/// `DELETE /api/terminals/{name}`: with all that runs in it.
pub(crate) async fn close(
    State(app): State<Arc<App>>,
    account: Account,
    Path(name): Path<String>,
) -> Result<StatusCode> {
    app.terminals.close(&account.id, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /terminals/websocket/{name}`.
pub(crate) async fn socket(
    State(app): State<Arc<App>>,
    account: Account,
    Path(name): Path<String>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Result<Response> {
    own_pages_only(&app, &headers, "use terminals")?;
    let terminal = app.terminals.get(&account.id, &name)?;
    let upgrade = upgrade
        .read_buffer_size(READ_BUFFER)
        .max_message_size(MAX_MESSAGE)
        .max_frame_size(MAX_MESSAGE);
    let token = account.proof.sha256;
    Ok(upgrade.on_upgrade(move |socket| async move { serve(&app, &token, &terminal, socket).await }))
}

/// Until the page goes, or its token is over.
async fn serve(app: &App, token: &[u8; 32], terminal: &Terminal, socket: WebSocket) {
    let viewer = terminal.attach();
    let (mut sink, stream) = socket.split();
    let clock = Clock::new();
    let is_over = tokio::select! {
        () = read(terminal, viewer, stream, &clock) => false,
        _ = write(app, terminal, viewer, &mut sink, &clock) => false,
        () = app.store.token_ends(token) => true,
    };
    if is_over {
        end(&mut sink, CLOSE_TOKEN, "the token of this connection is over").await;
    }
    terminal.detach(viewer).await;
}

/// What a page says.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Typed(String),
    Sized(WindowSize),
}

impl Said {
    /// None for what is not known here: later pages may say more.
    fn of(text: &str) -> Option<Self> {
        let array: Vec<Value> = serde_json::from_str(text).ok()?;
        let (kind, rest) = array.split_first()?;
        match kind.as_str()? {
            "stdin" => Some(Self::Typed(rest.first()?.as_str()?.to_owned())),
            "set_size" => {
                let count = |at: usize| {
                    u16::try_from(rest.get(at)?.as_u64()?)
                        .ok()
                        .filter(|count| *count > 0)
                };
                let (rows, cols) = (count(0)?, count(1)?);
                Some(Self::Sized(WindowSize { rows, cols }))
            }
            _ => None,
        }
    }
}

async fn read(terminal: &Terminal, viewer: u64, mut stream: SplitStream<WebSocket>, clock: &Clock) {
    while let Some(Ok(message)) = stream.next().await {
        clock.hear();
        let said = match &message {
            Message::Text(text) => Said::of(text.as_str()),
            Message::Close(_) => return,
            _ => None,
        };
        let passed = match said {
            Some(Said::Typed(text)) => terminal.input(&text).await.is_ok(),
            Some(Said::Sized(size)) => {
                terminal.resize(viewer, size).await;
                true
            }
            None => true,
        };
        if !passed {
            // The page connects again, and finds out whether the host is back.
            return;
        }
    }
}

async fn write(
    app: &App,
    terminal: &Terminal,
    viewer: u64,
    sink: &mut SplitSink<WebSocket, Message>,
    clock: &Clock,
) -> Result<(), axum::Error> {
    let mut changes = terminal.changes();
    let mut ping = interval(PING);
    ping.reset();
    in_time(sink.send(text(&json!(["setup", {}])))).await?;
    loop {
        changes.mark_unchanged();
        match terminal.next(viewer) {
            Step::Output(output, place) => {
                if !output.is_empty() {
                    in_time(sink.send(text(&json!(["stdout", output])))).await?;
                }
                // Only now, so that a page that does not read holds up what writes.
                terminal.delivered(viewer, place);
            }
            Step::Ended(reason) => {
                if let Some(reason) = reason {
                    let sentence = format!("\r\n[terminal ended: {reason}]\r\n");
                    in_time(sink.feed(text(&json!(["stdout", sentence])))).await?;
                }
                in_time(sink.feed(text(&json!(["disconnect", 1])))).await?;
                end(sink, 1000, "the terminal ended").await;
                return Ok(());
            }
            Step::Wait => tokio::select! {
                changed = changes.changed() => if changed.is_err() { return Ok(()) },
                () = app.stop.cancelled() => {
                    end(sink, 1012, "the gateway restarts").await;
                    return Ok(());
                }
                _ = ping.tick() => {
                    if clock.silent() {
                        return Ok(());
                    }
                    in_time(sink.send(Message::Ping(Bytes::new()))).await?;
                }
            },
        }
    }
}

fn text(value: &Value) -> Message {
    Message::Text(value.to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_jupyterlab_sends_and_passes_over_the_rest() {
        let typed = Some(Said::Typed("ls\r".to_owned()));
        assert_eq!(Said::of(r#"["stdin","ls\r"]"#), typed);
        let size = Some(Said::Sized(WindowSize { rows: 30, cols: 120 }));
        assert_eq!(Said::of(r#"["set_size",30,120,600,900]"#), size);
        for other in [
            "",
            "{}",
            "[]",
            "[1]",
            r#"["stdin"]"#,
            r#"["set_size",0,1]"#,
            r#"["set_size",70000,1]"#,
            r#"["x"]"#,
        ] {
            assert_eq!(Said::of(other), None, "{other}");
        }
    }
}
