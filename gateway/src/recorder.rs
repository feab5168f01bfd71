//! What the cells of one kernel put out, for pages that go before it is saved.
//!
//! JupyterLab shows outputs of cells that it ran itself, and of no others: a page that is opened later shows what is in the
//! file. So each cell that a page runs is followed here until the notebook is saved; if its page goes before that, the outputs
//! are put into the notebook. Clients that do not say which cell they run (`cellId`) are not followed.
//!
//! Outputs are here only in memory. The agent is told which cells are followed ([`Recorder::next_change`]) and keeps what the
//! kernel said since the first of them began; another run of the gateway gets both back and hears it again.

mod kept;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use alephlab_api::agent::HeldCell;
use alephlab_api::jupyter::Channel;
use alephlab_api::time;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::framing::{CONTENT, KernelMessage};
use crate::outputs::Outputs;
use crate::store::sha256;

use kept::Kept;
pub(crate) use kept::Noted;

/// Cells of one kernel that are followed; when there are more, the oldest are given up.
const MAX_CELLS: usize = 512;
/// Bytes of their outputs.
const MAX_BYTES: usize = 32 << 20;
/// Bytes of messages that the agent keeps for one of them. A cell that says more (a plot that is drawn again and again) is
/// followed by this run of the gateway only.
const MAX_KEPT: u64 = 64 << 20;

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
    kept: Kept,
}

struct Cell {
    noted: Noted,
    /// SHA-256.
    code: [u8; 32],
    /// [`Inner::heard`] when it began; none once the agent does not keep it.
    kept_from: Option<u64>,
    count: Option<u64>,
    is_over: bool,
    /// Messages that were lost since it was heard last.
    lost: u64,
    /// Counts what came.
    changes: u64,
    /// As many of them are written down.
    written: u64,
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

impl Cell {
    /// The kernel has said something of it.
    fn has_begun(&self) -> bool {
        self.changes > 1
    }
}

impl Inner {
    fn forget(&mut self, number: u64) {
        if let Some(cell) = self.cells.remove(&number) {
            self.requests.remove(&cell.noted.request);
            if cell.kept_from.is_some() {
                self.kept.tell(number, None);
            }
        }
        self.outputs.forget(&number);
    }

    fn follow(&mut self, number: u64, noted: Noted, code: [u8; 32]) {
        self.newest = self.newest.max(number);
        self.requests.insert(noted.request.clone(), number);
        let cell = Cell {
            noted,
            code,
            kept_from: Some(self.heard),
            count: None,
            is_over: false,
            lost: 0,
            changes: 1,
            written: 0,
        };
        self.cells.insert(number, cell);
        self.trim();
    }

    /// What is too much for the agent to keep is this run's alone; `at` is the number of a message of `size` bytes that came.
    fn trim_kept(&mut self, at: u64, size: u64) {
        for (number, cell) in &mut self.cells {
            let kept = cell.kept_from.map_or(0, |from| self.heard - from);
            if kept <= MAX_KEPT {
                continue;
            }
            if cell.has_begun() {
                cell.kept_from = None;
                self.kept.tell(*number, None);
            } else {
                // That was others'.
                cell.noted.since = at.saturating_sub(1);
                cell.kept_from = Some(self.heard - size);
                self.kept.tell(*number, Some(cell.noted.clone()));
            }
        }
    }

    /// A cell's message. True when it ends.
    fn cell_said(&mut self, number: u64, at: u64, message: &KernelMessage) -> bool {
        let Self {
            cells,
            outputs,
            heard,
            kept,
            ..
        } = self;
        let Some(cell) = cells.get_mut(&number) else {
            return false;
        };
        let has_begun = cell.has_begun();
        cell.changes += 1;
        let state = match message.msg_type.as_str() {
            "status" => message.execution_state(),
            _ => None,
        };
        let lost = std::mem::take(&mut cell.lost);
        // It is busy again after whatever the kernel answers beside it.
        if state.as_deref() == Some("busy") && (!has_begun || cell.is_over) {
            // What came before is of others, and need not be kept for it.
            cell.is_over = false;
            let since = std::mem::replace(&mut cell.noted.since, at.saturating_sub(1));
            if cell.kept_from.is_some() {
                cell.kept_from = Some(*heard);
                if since != cell.noted.since {
                    kept.tell(number, Some(cell.noted.clone()));
                }
            }
        } else if lost > 0 {
            let text = format!("[alephlab: {lost} messages of the kernel are lost here]\n");
            outputs.take(number, "stream", &json!({ "name": "stderr", "text": text }));
        }
        match message.msg_type.as_str() {
            "execute_input" => cell.count = message.content()["execution_count"].as_u64(),
            "status" => {}
            kind => {
                let whole = message.parts().iter().map(Bytes::len).sum();
                outputs.take_raw(number, kind, &message.parts()[CONTENT], whole);
            }
        }
        let ends = state.as_deref() == Some("idle") && !cell.is_over;
        cell.is_over |= ends;
        ends
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
    /// A client sends this; `since` gives the agent's newest number. Whether it runs a cell that is followed from now on.
    pub(crate) fn asked(&self, session: &str, message: &KernelMessage, since: impl FnOnce() -> u64) -> bool {
        if message.channel != Channel::Shell || message.msg_type != "execute_request" {
            return false;
        }
        let Some(id) = message.metadata()["cellId"].as_str().map(str::to_owned) else {
            return false;
        };
        let content = message.content();
        let code = sha256(content["code"].as_str().unwrap_or_default().as_bytes());
        let mut noted = Noted {
            id,
            code: hex::encode(code),
            request: message.msg_id().to_owned(),
            session: session.to_owned(),
            since: 0,
        };
        if !noted.is_short() {
            return false;
        }
        let mut inner = self.lock();
        // Under the lock, so that what the agent need not keep is never beyond it.
        noted.since = since();
        // What it put out before is over, and a request has its id to itself.
        let is_replaced =
            |cell: &Cell| (cell.is_over && cell.noted.id == noted.id) || cell.noted.request == noted.request;
        let before = inner.cells.iter().filter(|(_, cell)| is_replaced(cell));
        let before: Vec<_> = before.map(|(number, _)| *number).collect();
        before.into_iter().for_each(|number| inner.forget(number));
        // Another than any that an earlier run of the gateway gave.
        let number = time::unix_micros().max(inner.newest.saturating_add(1));
        inner.kept.tell(number, Some(noted.clone()));
        inner.follow(number, noted, code);
        true
    }

    /// The kernel will not hear of this request.
    pub(crate) fn not_asked(&self, request: &str) {
        let mut inner = self.lock();
        if let Some(number) = inner.requests.get(request).copied() {
            inner.forget(number);
        }
    }

    /// Follows what an earlier run of the gateway followed, before the kernel is heard again: `cells` of those that the agent
    /// holds, whose newest number is `newest`.
    pub(crate) fn restore(&self, held: &[HeldCell], cells: BTreeMap<u64, Noted>, newest: u64) {
        let mut inner = self.lock();
        let Inner {
            cells: asked, kept, ..
        } = &mut *inner;
        // Of clients that did not wait for this: the kernel has not been asked yet.
        for (number, cell) in asked {
            cell.noted.since = newest;
            kept.tell(*number, Some(cell.noted.clone()));
        }
        for held in held.iter().filter(|held| !cells.contains_key(&held.cell)) {
            inner.kept.tell(held.cell, None);
        }
        for (number, noted) in cells {
            inner.kept.has(number, &noted);
            let is_asked_again = inner.cells.values().any(|cell| cell.noted.id == noted.id);
            let mut code = [0; 32];
            match hex::decode_to_slice(&noted.code, &mut code) {
                Ok(()) if !is_asked_again => inner.follow(number, noted, code),
                _ => inner.kept.tell(number, None),
            }
        }
    }

    /// What the agent is to be told next; then [`Recorder::told`].
    pub(crate) fn next_change(&self) -> Option<(u64, Option<Value>)> {
        self.lock().kept.next()
    }

    /// It was.
    pub(crate) fn told(&self) {
        self.lock().kept.was_told();
    }

    /// What the agent need not keep for this: everything up to this number; none when it need not keep anything.
    pub(crate) fn since(&self) -> Option<u64> {
        self.lock().kept.since()
    }

    /// So many messages are lost. Cells of which there is more to hear say so then, but for those that only begin.
    pub(crate) fn lost(&self, count: u64) {
        let mut inner = self.lock();
        for cell in inner.cells.values_mut().filter(|cell| !cell.is_over) {
            cell.lost = cell.lost.saturating_add(count);
        }
    }

    /// The kernel said this under the agent's `number`; `is_here` tells of sessions. True when a cell ends that is to be
    /// written down.
    pub(crate) fn said(&self, number: u64, message: &KernelMessage, is_here: impl Fn(&str) -> bool) -> bool {
        let mut inner = self.lock();
        if inner.cells.is_empty() || message.channel != Channel::Iopub {
            return false;
        }
        let size = message.size() as u64;
        inner.heard = inner.heard.saturating_add(size);
        inner.trim_kept(number, size);
        let cell = message.parent_id();
        let Some(cell) = cell.and_then(|request| inner.requests.get(&request).copied()) else {
            return false;
        };
        let ends = inner.cell_said(cell, number, message);
        let is_to_be_written = |cell: &Cell| ends && !is_here(&cell.noted.session);
        let is_to_be_written = inner.cells.get(&cell).is_some_and(is_to_be_written);
        inner.trim();
        is_to_be_written
    }

    /// The kernel's process is gone: no cell goes on that was asked for before this number of the agent's.
    pub(crate) fn ended(&self, before: u64) {
        let mut inner = self.lock();
        let asked = inner.cells.values_mut().filter(|cell| cell.noted.since < before);
        asked.for_each(|cell| cell.is_over = true);
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
            code: cell.code,
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
mod tests;
