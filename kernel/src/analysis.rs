//! Completion and inspection requests: answered beside the execution queue, also while a cell runs.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::{Semaphore, oneshot};

use crate::evaluator::{Analyst, CellError, Completions, STACK_BYTES};
use crate::execute::with_status;
use crate::request::{AtCursor, Unit, counted};
use crate::wire::Request;

/// Questions that are worked on at a time, each on a thread; more wait for their turn.
const AT_A_TIME: usize = 8;
static TURNS: Semaphore = Semaphore::const_new(AT_A_TIME);

/// Content of the reply to a `complete_request` or `inspect_request`.
pub(crate) async fn answer(analyst: &Arc<dyn Analyst>, request: &Request) -> Value {
    let asked: AtCursor = match serde_json::from_value(request.content.clone()) {
        Ok(asked) => asked,
        Err(error) => {
            let error = CellError::new("MalformedRequest", error.to_string(), None);
            return with_status("error", error.content());
        }
    };
    // Never closed.
    let turn = TURNS.acquire().await.ok();
    let analyst = Arc::clone(analyst);
    let completes = request.msg_type == "complete_request";
    let (reply, answered) = oneshot::channel();
    let work = move || {
        let _turn = turn;
        let (cursor, unit) = asked.byte_offset();
        let _ = reply.send(if completes {
            complete_content(&asked, unit, &analyst.complete(&asked.code, cursor))
        } else {
            let data = analyst.inspect(&asked.code, cursor);
            json!({ "status": "ok", "found": data.is_some(), "data": data.unwrap_or_default(), "metadata": {} })
        });
    };
    let thread = std::thread::Builder::new()
        .name("analysis".into())
        .stack_size(STACK_BYTES);
    if thread.spawn(work).is_err() {
        tracing::warn!("no thread is left to complete or inspect");
    }
    // A thread that crashed has no answer: nothing is found.
    answered.await.unwrap_or_else(|_| nothing(request))
}

fn nothing(request: &Request) -> Value {
    if request.msg_type == "complete_request" {
        json!({ "status": "ok", "matches": [], "cursor_start": 0, "cursor_end": 0, "metadata": {} })
    } else {
        json!({ "status": "ok", "found": false, "data": {}, "metadata": {} })
    }
}

fn complete_content(asked: &AtCursor, unit: Unit, found: &Completions) -> Value {
    let start = counted(&asked.code, found.start, unit);
    let end = counted(&asked.code, found.end, unit);
    let matches: Vec<&str> = found.matches.iter().map(|one| one.text.as_str()).collect();
    let types: Vec<Value> = found
        .matches
        .iter()
        .map(|one| {
            json!({ "text": one.text, "type": one.kind, "start": start, "end": end, "signature": one.signature })
        })
        .collect();
    json!({ "status": "ok", "matches": matches, "cursor_start": start, "cursor_end": end,
        "metadata": { "_jupyter_types_experimental": types } })
}
