//! Subshells (JEP 91): shells beside the main one, whose cells run while its own do.
//!
//! Opened and closed over control; a request on shell names its own in its header. One costs nothing before its first
//! execution: clients open them for comms too, which never run a cell.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use uuid::Uuid;

use crate::evaluator::{CellError, NewSubshell, Subshell};
use crate::execute::{Common, Executor, with_status};
use crate::request;
use crate::socket::Replies;
use crate::wire::Request;

/// Subshells of a kernel that may be open: each that runs cells has two threads, one of them the child's for ever.
const MAX_OPEN: usize = 64;

/// Those of one kernel.
pub(crate) struct Subshells {
    new: Option<NewSubshell>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By id; its executor from its first execution on.
    open: BTreeMap<String, Option<Arc<Executor>>>,
    /// Closed ones whose last cell runs on.
    closing: Vec<Arc<Executor>>,
}

impl Subshells {
    pub(crate) fn new(new: Option<NewSubshell>) -> Self {
        Self {
            new,
            state: Mutex::default(),
        }
    }

    /// Whether this kernel has them.
    pub(crate) fn is_supported(&self) -> bool {
        self.new.is_some()
    }

    /// Content of the reply to a request that opens, closes or lists subshells; nothing for another.
    pub(crate) fn answer(&self, request: &Request) -> Option<Value> {
        let verb = request.msg_type.strip_suffix("_subshell_request")?;
        let answered = match verb {
            "create" => self.create(),
            "delete" => self.delete(&request.content),
            "list" => Ok(json!({ "subshell_id": self.lock().open.keys().collect::<Vec<_>>() })),
            _ => return None,
        };
        Some(match answered {
            Ok(content) => with_status("ok", content),
            Err(error) => with_status("error", error.content()),
        })
    }

    fn create(&self) -> Result<Value, CellError> {
        if self.new.is_none() {
            let hint = "a kernel says so in its supported_features";
            return Err(CellError::new(
                "NoSubshells",
                "this kernel has no subshells",
                Some(hint),
            ));
        }
        let mut state = self.lock();
        state.closing.retain(|executor| !executor.is_ended());
        if state.open.len() + state.closing.len() >= MAX_OPEN {
            let message = format!("{MAX_OPEN} subshells are open already");
            return Err(CellError::new("TooManySubshells", message, Some("close one")));
        }
        let id = Uuid::new_v4().to_string();
        state.open.insert(id.clone(), None);
        Ok(json!({ "subshell_id": id }))
    }

    fn delete(&self, content: &Value) -> Result<Value, CellError> {
        let asked: request::DeleteSubshell = serde_json::from_value(content.clone()).unwrap_or_default();
        let mut state = self.lock();
        let closed = state.open.remove(&asked.subshell_id);
        let executor = closed.ok_or_else(|| missing(&asked.subshell_id))?;
        if let Some(executor) = executor {
            executor.close();
            state.closing.push(executor);
        }
        Ok(json!({}))
    }

    /// Queues an execution of a subshell.
    pub(crate) fn queue(
        &self,
        id: &str,
        request: Request,
        replies: Replies,
        main: &Executor,
        common: &Arc<Common>,
    ) {
        match self.executor(id, main, common) {
            Ok(executor) => executor.queue(request, replies),
            Err(error) => {
                let common = Arc::clone(common);
                tokio::spawn(async move { common.refuse(&request, &replies, &error).await });
            }
        }
    }

    fn executor(&self, id: &str, main: &Executor, common: &Arc<Common>) -> Result<Arc<Executor>, CellError> {
        let mut state = self.lock();
        let (Some(one), Some(new)) = (state.open.get_mut(id), &self.new) else {
            return Err(missing(id));
        };
        if let Some(executor) = one {
            return Ok(Arc::clone(executor));
        }
        let Subshell { start, interrupt } = new(main.turn());
        let executor = Executor::start(common, start, interrupt)
            .map_err(|error| CellError::new("SubshellFailed", error.to_string(), None))?;
        Ok(Arc::clone(one.insert(Arc::new(executor))))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn missing(id: &str) -> CellError {
    CellError::new(
        "NoSuchSubshell",
        format!("there is no subshell `{id}`"),
        Some("it may have been closed: open one"),
    )
}
