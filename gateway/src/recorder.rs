//! What the cells of one kernel put out, for pages that go before it is saved.
//!
//! JupyterLab shows outputs of cells that it ran itself, and of no others: a page that is opened later shows what is in the
//! file. So each cell that a page runs is followed here until the notebook is saved; if its page goes before that, the outputs
//! are put into the notebook. Clients that do not say which cell they run (`cellId`) are not followed.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use alephlab_api::jupyter::Channel;
use serde_json::Value;

use crate::framing::KernelMessage;
use crate::outputs::Outputs;

/// Cells of one kernel that are followed; when there are more, the oldest that are over are given up.
const MAX_CELLS: usize = 512;
/// Bytes of their outputs.
const MAX_BYTES: usize = 32 << 20;

/// The cells of one kernel that ran since its notebook was saved.
#[derive(Default)]
pub(crate) struct Recorder {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// In the order in which they were asked for.
    cells: BTreeMap<u64, Cell>,
    /// Numbers of cells by the id of the request that runs them.
    requests: HashMap<String, u64>,
    outputs: Outputs<u64>,
    newest: u64,
}

struct Cell {
    id: String,
    code: String,
    request: String,
    /// Who ran it.
    session: String,
    count: Option<u64>,
    is_over: bool,
    /// Its page was away for some of it.
    is_missed: bool,
    /// Something came since it was written down.
    is_new: bool,
}

/// A cell of a notebook and what it put out.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Recorded {
    pub(crate) id: String,
    pub(crate) code: String,
    pub(crate) count: Option<u64>,
    pub(crate) outputs: Vec<Value>,
}

impl Inner {
    fn forget(&mut self, number: u64) {
        if let Some(cell) = self.cells.remove(&number) {
            self.requests.remove(&cell.request);
        }
        self.outputs.forget(&number);
    }

    /// Gives up the oldest that are over while there is too much.
    fn trim(&mut self) {
        while self.cells.len() > MAX_CELLS || self.outputs.bytes() > MAX_BYTES {
            let oldest = self.cells.iter().find(|(_, cell)| cell.is_over);
            let Some(number) = oldest.map(|(number, _)| *number) else {
                return;
            };
            self.forget(number);
        }
    }
}

impl Recorder {
    /// A client sent this.
    pub(crate) fn asked(&self, session: &str, message: &KernelMessage) {
        if message.channel != Channel::Shell || message.msg_type != "execute_request" {
            return;
        }
        let Some(id) = message.metadata()["cellId"].as_str().map(str::to_owned) else {
            return;
        };
        let code = message.content()["code"].as_str().unwrap_or_default().to_owned();
        let mut inner = self.lock();
        // What it put out before is over.
        let before = inner.cells.iter().find(|(_, cell)| cell.is_over && cell.id == id);
        if let Some(number) = before.map(|(number, _)| *number) {
            inner.forget(number);
        }
        inner.newest += 1;
        let (number, request) = (inner.newest, message.msg_id().to_owned());
        inner.requests.insert(request.clone(), number);
        let cell = Cell {
            id,
            code,
            request,
            session: session.to_owned(),
            count: None,
            is_over: false,
            is_missed: false,
            is_new: true,
        };
        inner.cells.insert(number, cell);
        inner.trim();
    }

    /// The kernel said this; `is_here` tells of sessions. True when a cell has ended that is to be written down.
    pub(crate) fn said(&self, message: &KernelMessage, is_here: impl Fn(&str) -> bool) -> bool {
        let mut inner = self.lock();
        if inner.cells.is_empty() || message.channel != Channel::Iopub {
            return false;
        }
        let number = message
            .parent_id()
            .and_then(|request| inner.requests.get(&request).copied());
        let Inner { cells, outputs, .. } = &mut *inner;
        let Some((number, cell)) = number.and_then(|number| Some((number, cells.get_mut(&number)?))) else {
            return false;
        };
        cell.is_missed |= !is_here(&cell.session);
        cell.is_new = true;
        match message.msg_type.as_str() {
            "execute_input" => cell.count = message.content()["execution_count"].as_u64(),
            "status" => cell.is_over = message.execution_state().as_deref() == Some("idle"),
            kind => outputs.take(number, kind, &message.content()),
        }
        let is_to_be_written = cell.is_over && cell.is_missed;
        inner.trim();
        is_to_be_written
    }

    /// The kernel's process is gone: no cell goes on.
    pub(crate) fn ended(&self) {
        self.lock()
            .cells
            .values_mut()
            .for_each(|cell| cell.is_over = true);
    }

    /// The notebook was saved by a page, with the outputs of cells that are over.
    pub(crate) fn saved(&self) {
        let mut inner = self.lock();
        let over: Vec<_> = inner
            .cells
            .iter()
            .filter(|(_, cell)| cell.is_over)
            .map(|(number, _)| *number)
            .collect();
        over.into_iter().for_each(|number| inner.forget(number));
    }

    /// Whether any cell is followed.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().cells.is_empty()
    }

    /// What is to be written down now: cells whose page was, or is, away. Those that are over are forgotten.
    pub(crate) fn missed(&self, is_here: impl Fn(&str) -> bool) -> Vec<Recorded> {
        let mut inner = self.lock();
        let (mut missed, mut done) = (Vec::new(), Vec::new());
        let Inner { cells, outputs, .. } = &mut *inner;
        for (number, cell) in cells {
            cell.is_missed |= !is_here(&cell.session);
            if !cell.is_missed {
                continue;
            }
            if std::mem::take(&mut cell.is_new) {
                missed.push(Recorded {
                    id: cell.id.clone(),
                    code: cell.code.clone(),
                    count: cell.count,
                    outputs: outputs.stored(number),
                });
            }
            done.extend(cell.is_over.then_some(*number));
        }
        done.into_iter().for_each(|number| inner.forget(number));
        missed
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message(
        channel: Channel,
        kind: &str,
        parent: &str,
        metadata: &Value,
        content: &Value,
    ) -> KernelMessage {
        let header = json!({ "msg_id": if parent.is_empty() { "r1" } else { "x" }, "msg_type": kind });
        let parent = if parent.is_empty() {
            json!({})
        } else {
            json!({ "msg_id": parent })
        };
        let parts = [&header, &parent, metadata, content].map(|part| part.to_string().into());
        KernelMessage::new(channel, parts.to_vec()).unwrap()
    }

    fn ask(recorder: &Recorder) {
        let metadata = json!({ "cellId": "c1" });
        let content = json!({ "code": "1 + 1" });
        recorder.asked(
            "page",
            &message(Channel::Shell, "execute_request", "", &metadata, &content),
        );
    }

    fn say(recorder: &Recorder, is_here: bool, kind: &str, content: &Value) -> bool {
        let message = message(Channel::Iopub, kind, "r1", &json!({}), content);
        recorder.said(&message, |_| is_here)
    }

    fn print(recorder: &Recorder, is_here: bool, text: &str) {
        assert!(!say(
            recorder,
            is_here,
            "stream",
            &json!({ "name": "stdout", "text": text })
        ));
    }

    fn idle(recorder: &Recorder, is_here: bool) -> bool {
        say(recorder, is_here, "status", &json!({ "execution_state": "idle" }))
    }

    #[test]
    fn a_cell_whose_page_stayed_is_forgotten_once_it_is_saved() {
        let recorder = Recorder::default();
        ask(&recorder);
        print(&recorder, true, "a");
        recorder.saved();
        assert!(!idle(&recorder, true));
        assert!(recorder.missed(|_| true).is_empty() && !recorder.is_empty());
        recorder.saved();
        assert!(recorder.is_empty() && recorder.missed(|_| false).is_empty());
    }

    #[test]
    fn a_cell_that_was_not_saved_when_its_page_went_is_written_down_as_it_ran_last() {
        let recorder = Recorder::default();
        for text in ["first", "second"] {
            ask(&recorder);
            print(&recorder, true, text);
            idle(&recorder, true);
        }
        let missed = recorder.missed(|_| false);
        assert_eq!(missed.len(), 1);
        assert_eq!(missed[0].outputs[0]["text"], json!(["second"]));
    }

    #[test]
    fn gives_up_the_oldest_when_there_is_too_much() {
        let recorder = Recorder::default();
        let text = "x".repeat(1 << 20);
        for cell in 0..40 {
            let metadata = json!({ "cellId": format!("c{cell}") });
            recorder.asked(
                "page",
                &message(
                    Channel::Shell,
                    "execute_request",
                    "",
                    &metadata,
                    &json!({ "code": "" }),
                ),
            );
            print(&recorder, true, &text);
            idle(&recorder, true);
        }
        let missed = recorder.missed(|_| false);
        assert!((30..=32).contains(&missed.len()), "{}", missed.len());
        assert_eq!(missed.last().unwrap().id, "c39");
    }

    #[test]
    fn a_cell_whose_page_went_is_written_down_whole() {
        let recorder = Recorder::default();
        ask(&recorder);
        say(&recorder, true, "execute_input", &json!({ "execution_count": 7 }));
        print(&recorder, true, "heard\n");
        print(&recorder, false, "missed\n");
        let missed = recorder.missed(|_| false);
        let text = json!({ "output_type": "stream", "name": "stdout", "text": ["heard\n", "missed\n"] });
        let recorded = Recorded {
            id: "c1".into(),
            code: "1 + 1".into(),
            count: Some(7),
            outputs: vec![text],
        };
        assert_eq!(missed, [recorded]);
        assert!(recorder.missed(|_| false).is_empty(), "nothing came since");
        assert!(idle(&recorder, true), "the page that came back has not run it");
        assert_eq!(recorder.missed(|_| true).len(), 1);
        assert!(recorder.missed(|_| true).is_empty());
    }

    #[test]
    fn a_page_that_went_and_heard_everything_until_now_is_away_when_another_opens() {
        let recorder = Recorder::default();
        ask(&recorder);
        print(&recorder, true, "a");
        assert!(recorder.missed(|_| true).is_empty());
        assert_eq!(recorder.missed(|_| false).len(), 1);
    }

    #[test]
    fn follows_only_cells_that_are_named() {
        let recorder = Recorder::default();
        let content = json!({ "code": "1" });
        recorder.asked(
            "s",
            &message(Channel::Shell, "execute_request", "", &json!({}), &content),
        );
        print(&recorder, false, "a");
        assert!(recorder.missed(|_| false).is_empty());
    }
}
