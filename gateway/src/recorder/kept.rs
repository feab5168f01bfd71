//! What the agent keeps of followed cells, for another run of the gateway, and what it is to be told.

use std::collections::{BTreeMap, VecDeque};

use alephlab_api::agent::HeldCell;
use alephlab_api::time;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::MAX_CELLS;

/// Bytes of each name that a client gives: the agent tells all of them in one frame when it connects.
const MAX_NAME: usize = 256;
/// A number is microseconds since 1970: later than a day from now none of ours is.
const DAY: u64 = 86_400_000_000;

/// What the agent keeps of a cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Noted {
    pub(super) id: String,
    /// SHA-256 in hex.
    pub(super) code: String,
    pub(super) request: String,
    /// Who ran it.
    pub(super) session: String,
    /// Nothing is said of it before the agent's number after this.
    pub(super) since: u64,
}

impl Noted {
    /// Cells that an agent gives back which has frames from `oldest` on. Of those that began before that the file has what was
    /// written of them. It is a host's word: of a cell whose text it was never sent it cannot know the hash.
    pub(crate) fn of_agent(cells: &[HeldCell], oldest: u64) -> BTreeMap<u64, Self> {
        let latest = time::unix_micros().saturating_add(DAY);
        let noted = cells.iter().filter_map(|held| {
            let noted = Self::deserialize(&held.note).ok()?;
            let is_whole = noted.since.saturating_add(1) >= oldest && held.cell < latest;
            Some((held.cell, noted)).filter(|(_, noted)| is_whole && noted.is_short())
        });
        noted.take(MAX_CELLS).collect()
    }

    /// Before this number, as the agent counts, nothing is said of any of them.
    pub(crate) fn since(cells: &BTreeMap<u64, Self>) -> Option<u64> {
        cells.values().map(|noted| noted.since).min()
    }

    pub(super) fn is_short(&self) -> bool {
        let names = [&self.id, &self.request, &self.session];
        let is_short = |name: &&String| name.len() <= MAX_NAME && !name.contains(char::is_control);
        names.iter().all(is_short)
    }
}

/// Which cells the agent keeps, as far as it was told.
#[derive(Default)]
pub(super) struct Kept {
    /// [`Noted::since`] of each.
    told: BTreeMap<u64, u64>,
    /// What it is to be told, in this order: cells that are followed, and none for those that are not any longer.
    changes: VecDeque<(u64, Option<Noted>)>,
}

impl Kept {
    /// The agent has it already.
    pub(super) fn has(&mut self, cell: u64, noted: &Noted) {
        self.told.insert(cell, noted.since);
    }

    /// The agent is to be told.
    pub(super) fn tell(&mut self, cell: u64, noted: Option<Noted>) {
        // The first one may be on its way.
        let mut waiting = self.changes.iter_mut().skip(1);
        match waiting.find(|(waits, _)| *waits == cell) {
            Some((_, waits)) => *waits = noted,
            None => self.changes.push_back((cell, noted)),
        }
    }

    pub(super) fn next(&self) -> Option<(u64, Option<Value>)> {
        let (cell, noted) = self.changes.front()?;
        let note = noted.as_ref().and_then(|noted| serde_json::to_value(noted).ok());
        Some((*cell, note))
    }

    /// The next one was told.
    pub(super) fn was_told(&mut self) {
        match self.changes.pop_front() {
            Some((cell, Some(noted))) => drop(self.told.insert(cell, noted.since)),
            Some((cell, None)) => drop(self.told.remove(&cell)),
            None => {}
        }
    }

    /// What the agent need not keep: everything up to this number; none when it need not keep anything. What it was not told
    /// yet it would go by.
    pub(super) fn since(&self) -> Option<u64> {
        let coming = self.changes.iter().filter_map(|(_, noted)| noted.as_ref());
        let coming = coming.map(|noted| noted.since);
        self.told.values().copied().chain(coming).min()
    }
}
