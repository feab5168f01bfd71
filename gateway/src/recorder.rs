//! What the cells of one kernel put out, for pages that go before it is saved.
//!
//! JupyterLab shows outputs of cells that it ran itself, and of no others: a page that is opened later shows what is in the
//! file. So each cell that a page runs is followed here until the notebook is saved; if its page goes before that, the outputs
//! are put into the notebook. Clients that do not say which cell they run (`cellId`) are not followed.
//!
//! Outputs are here only in memory. The agent is told which cells are followed ([`Recorder::next_change`]) and keeps what the
//! kernel said since the first of them began; another run of the gateway gets both back and hears it again.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use alephlab_api::agent::HeldCell;
use alephlab_api::jupyter::Channel;
use alephlab_api::time;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::framing::KernelMessage;
use crate::outputs::Outputs;
use crate::store::sha256;

/// Cells of one kernel that are followed; when there are more, the oldest are given up.
const MAX_CELLS: usize = 512;
/// Bytes of their outputs.
const MAX_BYTES: usize = 32 << 20;
/// Bytes of messages that the agent keeps for one of them. A cell that says more (a plot that is drawn again and again) is
/// followed by this run of the gateway only.
const MAX_KEPT: u64 = 64 << 20;
/// Letters of each name that a client gives.
const MAX_NAME: usize = 256;

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
    /// Bytes that the kernel said.
    heard: u64,
    /// What the agent is to be told, in this order: cells that are followed, and none for those that are not any longer.
    changes: VecDeque<(u64, Option<Value>)>,
}

struct Cell {
    noted: Noted,
    /// The same of [`Inner::heard`]; none once the agent does not keep it.
    kept_from: Option<u64>,
    count: Option<u64>,
    is_over: bool,
    /// Counts what came.
    changes: u64,
    /// As many of them are written down.
    written: u64,
}

/// What the agent keeps of a cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Noted {
    id: String,
    /// SHA-256.
    code: [u8; 32],
    request: String,
    /// Who ran it.
    session: String,
    /// The agent's newest number when it was asked for.
    since: u64,
}

impl Noted {
    /// Cells that an agent gives back. It is a host's word: of a cell whose text it was never sent it cannot know the hash.
    pub(crate) fn of_agent(cells: &[HeldCell]) -> BTreeMap<u64, Self> {
        let noted = cells.iter().filter_map(|held| {
            let noted = Self::deserialize(&held.note).ok()?;
            Some((held.cell, noted)).filter(|(_, noted)| noted.is_short())
        });
        noted.take(MAX_CELLS).collect()
    }

    /// Before this number, as the agent counts, nothing is said of any of them.
    pub(crate) fn since(cells: &BTreeMap<u64, Self>) -> Option<u64> {
        cells.values().map(|noted| noted.since).min()
    }

    fn is_short(&self) -> bool {
        [&self.id, &self.request, &self.session]
            .iter()
            .all(|name| name.len() <= MAX_NAME)
    }
}

/// A cell of a notebook and what it put out.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Recorded {
    pub(crate) id: String,
    /// SHA-256 of its text when it was run.
    pub(crate) code: [u8; 32],
    pub(crate) count: Option<u64>,
    pub(crate) outputs: Vec<Value>,
    number: u64,
    changes: u64,
}

impl Recorded {
    /// For [`Recorder::written`].
    pub(crate) fn key(&self) -> (u64, u64) {
        (self.number, self.changes)
    }
}

impl Inner {
    fn forget(&mut self, number: u64) {
        if let Some(cell) = self.cells.remove(&number) {
            self.requests.remove(&cell.noted.request);
            if cell.kept_from.is_some() {
                self.changes.push_back((number, None));
            }
        }
        self.outputs.forget(&number);
    }

    fn follow(&mut self, number: u64, noted: Noted) {
        self.newest = self.newest.max(number);
        self.requests.insert(noted.request.clone(), number);
        let cell = Cell {
            noted,
            kept_from: Some(self.heard),
            count: None,
            is_over: false,
            changes: 1,
            written: 0,
        };
        self.cells.insert(number, cell);
        self.trim();
    }

    /// What is too much for the agent to keep is this run's alone.
    fn trim_kept(&mut self) {
        for (number, cell) in &mut self.cells {
            let kept = cell.kept_from.map_or(0, |from| self.heard - from);
            if kept <= MAX_KEPT {
                continue;
            }
            cell.kept_from = None;
            self.changes.push_back((*number, None));
        }
    }

    /// Gives up the oldest while there is too much.
    fn trim(&mut self) {
        while self.cells.len() > MAX_CELLS || self.outputs.bytes() > MAX_BYTES {
            let Some((number, _)) = self.cells.first_key_value() else {
                return;
            };
            self.forget(*number);
        }
    }
}

impl Recorder {
    /// A client sent this, when the agent's newest number was `since`.
    pub(crate) fn asked(&self, session: &str, message: &KernelMessage, since: u64) {
        if message.channel != Channel::Shell || message.msg_type != "execute_request" {
            return;
        }
        let Some(id) = message.metadata()["cellId"].as_str().map(str::to_owned) else {
            return;
        };
        let content = message.content();
        let noted = Noted {
            id,
            code: sha256(content["code"].as_str().unwrap_or_default().as_bytes()),
            request: message.msg_id().to_owned(),
            session: session.to_owned(),
            since,
        };
        if !noted.is_short() {
            return;
        }
        let mut inner = self.lock();
        // What it put out before is over, and a request has its id to itself.
        let is_replaced =
            |cell: &Cell| (cell.is_over && cell.noted.id == noted.id) || cell.noted.request == noted.request;
        let before = inner.cells.iter().filter(|(_, cell)| is_replaced(cell));
        let before: Vec<_> = before.map(|(number, _)| *number).collect();
        before.into_iter().for_each(|number| inner.forget(number));
        // Another than any that an earlier run of the gateway gave.
        let number = time::unix_micros().max(inner.newest + 1);
        let note = serde_json::to_value(&noted).unwrap_or_default();
        inner.changes.push_back((number, Some(note)));
        inner.follow(number, noted);
    }

    /// Follows what an earlier run of the gateway followed, before the kernel is heard again.
    pub(crate) fn restore(&self, cells: BTreeMap<u64, Noted>) {
        let mut inner = self.lock();
        for (number, noted) in cells {
            inner.follow(number, noted);
        }
    }

    /// What the agent is to be told next; then [`Recorder::told`].
    pub(crate) fn next_change(&self) -> Option<(u64, Option<Value>)> {
        self.lock().changes.front().cloned()
    }

    /// It was.
    pub(crate) fn told(&self) {
        self.lock().changes.pop_front();
    }

    /// What the agent need not keep for this: everything up to this number; none when it need not keep anything.
    pub(crate) fn since(&self) -> Option<u64> {
        let inner = self.lock();
        let kept = inner.cells.values().filter(|cell| cell.kept_from.is_some());
        kept.map(|cell| cell.noted.since).min()
    }

    /// So many messages are lost: it is said among the outputs of the cells that run.
    pub(crate) fn lost(&self, count: u64) {
        let text = format!("[alephlab: {count} messages of the kernel are lost here]\n");
        let content = json!({ "name": "stderr", "text": text });
        let mut inner = self.lock();
        let Inner { cells, outputs, .. } = &mut *inner;
        for (number, cell) in cells.iter_mut().filter(|(_, cell)| !cell.is_over) {
            cell.changes += 1;
            outputs.take(*number, "stream", &content);
        }
    }

    /// The kernel said this; `is_here` tells of sessions. True when a cell has ended that is to be written down.
    pub(crate) fn said(&self, message: &KernelMessage, is_here: impl Fn(&str) -> bool) -> bool {
        let mut inner = self.lock();
        if inner.cells.is_empty() || message.channel != Channel::Iopub {
            return false;
        }
        inner.heard += message.size() as u64;
        inner.trim_kept();
        let number = message
            .parent_id()
            .and_then(|request| inner.requests.get(&request).copied());
        let Inner { cells, outputs, .. } = &mut *inner;
        let Some((number, cell)) = number.and_then(|number| Some((number, cells.get_mut(&number)?))) else {
            return false;
        };
        cell.changes += 1;
        match message.msg_type.as_str() {
            "execute_input" => cell.count = message.content()["execution_count"].as_u64(),
            "status" => cell.is_over |= message.execution_state().as_deref() == Some("idle"),
            kind => outputs.take(number, kind, &message.content()),
        }
        let is_to_be_written = cell.is_over && !is_here(&cell.noted.session);
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

    /// Cells that are over now and whose page has heard all of it: when it saves, their outputs are in the file.
    pub(crate) fn over(&self, has_heard_all: impl Fn(&str) -> bool) -> Vec<u64> {
        let inner = self.lock();
        let over = inner
            .cells
            .iter()
            .filter(|(_, cell)| cell.is_over && has_heard_all(&cell.noted.session));
        over.map(|(number, _)| *number).collect()
    }

    /// The notebook was saved by a page of which [`Recorder::over`] was asked before.
    pub(crate) fn saved(&self, over: Vec<u64>) {
        let mut inner = self.lock();
        over.into_iter().for_each(|number| inner.forget(number));
    }

    /// Whether any cell is followed.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().cells.is_empty()
    }

    /// What is to be written down now: cells whose page is away, and of which something came since the last time.
    pub(crate) fn missed(&self, is_here: impl Fn(&str) -> bool) -> Vec<Recorded> {
        let inner = self.lock();
        let missed = inner
            .cells
            .iter()
            .filter(|(_, cell)| cell.changes > cell.written && !is_here(&cell.noted.session));
        let recorded = missed.map(|(number, cell)| Recorded {
            id: cell.noted.id.clone(),
            code: cell.noted.code,
            count: cell.count,
            outputs: inner.outputs.stored(number),
            number: *number,
            changes: cell.changes,
        });
        recorded.collect()
    }

    /// These are in the file now; those that are over are not followed any longer.
    pub(crate) fn written(&self, recorded: &[(u64, u64)]) {
        let mut inner = self.lock();
        for (number, changes) in recorded {
            let Some(cell) = inner.cells.get_mut(number) else {
                continue;
            };
            cell.written = *changes;
            if cell.is_over && cell.changes == *changes {
                inner.forget(*number);
            }
        }
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
            0,
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

    fn write(recorder: &Recorder) -> Vec<Recorded> {
        let missed = recorder.missed(|_| false);
        recorder.written(&missed.iter().map(Recorded::key).collect::<Vec<_>>());
        missed
    }

    #[test]
    fn a_cell_whose_page_stayed_is_forgotten_once_it_is_saved() {
        let recorder = Recorder::default();
        ask(&recorder);
        print(&recorder, true, "a");
        let over = recorder.over(|_| true);
        assert!(!idle(&recorder, true));
        recorder.saved(over);
        assert!(!recorder.is_empty(), "the page that saved had not all of it");
        recorder.saved(recorder.over(|_| false));
        assert!(
            !recorder.is_empty(),
            "another page saved, or this one hears slowly"
        );
        recorder.saved(recorder.over(|_| true));
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
        let missed = write(&recorder);
        assert_eq!(missed.len(), 1);
        assert_eq!(missed[0].outputs[0]["text"], json!(["second"]));
        assert!(recorder.is_empty());
    }

    #[test]
    fn gives_up_the_oldest_when_there_is_too_much() {
        let recorder = Recorder::default();
        let content = json!({ "name": "stdout", "text": "x".repeat(1 << 20) });
        for cell in 0..40 {
            let request = format!("r{cell}");
            let header = json!({ "msg_id": request, "msg_type": "execute_request" });
            let metadata = json!({ "cellId": format!("c{cell}") });
            let parts = [header, json!({}), metadata, json!({ "code": "" })];
            let parts = parts.map(|part| part.to_string().into()).to_vec();
            recorder.asked("page", &KernelMessage::new(Channel::Shell, parts).unwrap(), 0);
            let said = message(Channel::Iopub, "stream", &request, &json!({}), &content);
            recorder.said(&said, |_| true);
        }
        let missed = recorder.missed(|_| false);
        assert!((30..=32).contains(&missed.len()), "{}", missed.len());
        assert_eq!(missed.last().unwrap().id, "c39");
    }

    #[test]
    fn a_cell_whose_page_went_is_written_down_whole_and_until_that_is_done() {
        let recorder = Recorder::default();
        ask(&recorder);
        say(&recorder, true, "execute_input", &json!({ "execution_count": 7 }));
        print(&recorder, true, "heard\n");
        print(&recorder, false, "missed\n");
        let missed = recorder.missed(|_| false);
        let text = json!({ "output_type": "stream", "name": "stdout", "text": ["heard\n", "missed\n"] });
        assert_eq!(
            (missed[0].id.as_str(), missed[0].count, &missed[0].outputs),
            ("c1", Some(7), &vec![text])
        );
        assert_eq!(missed[0].code, sha256(b"1 + 1"));
        assert_eq!(write(&recorder).len(), 1, "it was not written yet");
        assert!(write(&recorder).is_empty(), "nothing came since");
        assert!(
            recorder.missed(|_| true).is_empty(),
            "its page is back and has it"
        );
        assert!(idle(&recorder, false));
        assert_eq!(write(&recorder).len(), 1);
        assert!(recorder.is_empty());
    }

    #[test]
    fn cells_that_never_end_are_bounded_too() {
        let recorder = Recorder::default();
        for request in 0..2_000 {
            let header = json!({ "msg_id": request.to_string(), "msg_type": "execute_request" });
            let metadata = json!({ "cellId": format!("c{request}") });
            let parts = [header, json!({}), metadata, json!({ "code": "x".repeat(1_000) })];
            let parts = parts.map(|part| part.to_string().into()).to_vec();
            recorder.asked("page", &KernelMessage::new(Channel::Shell, parts).unwrap(), 0);
        }
        assert_eq!(recorder.lock().cells.len(), MAX_CELLS);
        assert_eq!(recorder.lock().requests.len(), MAX_CELLS);
    }

    fn told(recorder: &Recorder) -> Vec<(u64, Option<Value>)> {
        std::iter::from_fn(|| recorder.next_change().inspect(|_| recorder.told())).collect()
    }

    #[test]
    fn another_run_of_the_gateway_goes_on_with_what_the_agent_was_told() {
        let recorder = Recorder::default();
        let metadata = json!({ "cellId": "c1" });
        let asked = message(
            Channel::Shell,
            "execute_request",
            "",
            &metadata,
            &json!({ "code": "1 + 1" }),
        );
        recorder.asked("page", &asked, 17);
        assert_eq!(recorder.since(), Some(17));
        let changes = told(&recorder);
        let [(cell, Some(note))] = changes.as_slice() else {
            panic!("{changes:?}")
        };
        let mut long = note.clone();
        long["id"] = "x".repeat(MAX_NAME + 1).into();
        let cells = [(*cell, note.clone()), (3, json!({ "id": 1 })), (4, long)];
        let cells = cells.map(|(cell, note)| HeldCell { cell, note });
        let noted = Noted::of_agent(&cells);
        assert_eq!(
            (noted.len(), Noted::since(&noted)),
            (1, Some(17)),
            "what is no note is left out"
        );

        let next = Recorder::default();
        next.restore(noted);
        assert!(told(&next).is_empty(), "the agent has it");
        for text in ["1\n", "2\n"] {
            print(&next, false, text);
        }
        assert!(idle(&next, false));
        ask(&next);
        let missed = next.missed(|_| false);
        assert_eq!(missed.len(), 1, "the same cell, asked for again");
        assert_ne!(missed[0].number, *cell);
        assert_eq!(told(&next).first(), Some(&(*cell, None)));
    }

    #[test]
    fn the_agent_keeps_nothing_for_cells_that_are_written_or_say_too_much() {
        let recorder = Recorder::default();
        ask(&recorder);
        idle(&recorder, false);
        write(&recorder);
        let changes = told(&recorder);
        assert!(
            matches!(changes.as_slice(), [(_, Some(_)), (_, None)]),
            "{changes:?}"
        );
        assert_eq!(recorder.since(), None);
        ask(&recorder);
        told(&recorder);
        let plot = json!({ "data": { "image/png": "x".repeat(1 << 20) }, "metadata": {} });
        for _ in 0..70 {
            say(&recorder, true, "clear_output", &json!({ "wait": true }));
            say(&recorder, true, "display_data", &plot);
        }
        assert_eq!(recorder.since(), None);
        assert!(matches!(told(&recorder).as_slice(), [(_, None)]));
        assert_eq!(recorder.missed(|_| false).len(), 1, "this run still has it");
    }

    #[test]
    fn what_is_lost_is_said_in_the_cell_that_runs() {
        let recorder = Recorder::default();
        ask(&recorder);
        recorder.lost(3);
        print(&recorder, false, "rest");
        let outputs = &recorder.missed(|_| false)[0].outputs;
        assert_eq!(
            outputs[0]["text"],
            json!(["[alephlab: 3 messages of the kernel are lost here]\n"])
        );
        assert_eq!(outputs[1]["text"], json!(["rest"]));
    }

    #[test]
    fn follows_only_cells_that_are_named() {
        let recorder = Recorder::default();
        let content = json!({ "code": "1" });
        recorder.asked(
            "s",
            &message(Channel::Shell, "execute_request", "", &json!({}), &content),
            0,
        );
        print(&recorder, false, "a");
        assert!(recorder.missed(|_| false).is_empty());
    }
}
