//! What kernels said and the gateway may still need: numbered, kept on the host, sent as far as the gateway has room.
//!
//! The newest frames are in memory, older ones in files without a name, which go with the agent. A journal has a limit of
//! bytes; beyond it the oldest frames go, and the gateway sees by the numbers how many. Not here: what frames mean.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use alephlab_api::agent::{FromAgent, Held, HeldCell, encode, number};
use alephlab_api::kernel::KernelState;
use bytes::Bytes;
use serde_json::Value;
use tokio::sync::Notify;
use uuid::Uuid;

/// Bounds of one kernel's journal, bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// In memory; older frames are in files.
    memory: usize,
    /// Of one file.
    segment: u64,
    /// In all.
    total: u64,
    /// Sent and not yet taken by the gateway.
    window: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 1 << 20,
            segment: 8 << 20,
            total: 256 << 20,
            window: 4 << 20,
        }
    }
}

/// Frames of one batch: enough that a flush costs little.
const BATCH: usize = 64;
/// Bytes after which a batch is full.
const BATCH_BYTES: usize = 256 << 10;

/// The journals of all kernels of this agent.
pub(crate) struct Journals {
    limits: Limits,
    /// Where files are made.
    folder: PathBuf,
    kernels: Mutex<BTreeMap<Uuid, Journal>>,
    /// There may be something to send.
    pub(crate) changed: Notify,
}

/// Where one kernel's task and its bridge put what they have to say.
#[derive(Clone)]
pub(crate) struct Outbound {
    kernel: Uuid,
    journals: Arc<Journals>,
}

/// What a frame says of its kernel's state, why, and when, unix seconds.
pub(crate) type Says = (KernelState, Option<String>, u64);

impl Outbound {
    /// Adds a frame of `encode`, and what it says of the kernel's state: that must not wait behind output.
    pub(crate) fn push(&self, frame: Vec<u8>, says: Option<Says>) {
        let (limits, folder) = (self.journals.limits, &self.journals.folder);
        let mut kernels = self.journals.lock();
        let journal = kernels.entry(self.kernel).or_default();
        if let Some(says) = says {
            journal.says = Some((journal.next(), says));
        }
        if let Err(error) = journal.push(frame, limits, folder) {
            tracing::warn!(kernel = %self.kernel, %error, "output could not be kept in a file and is lost");
        }
        drop(kernels);
        self.journals.changed.notify_one();
    }

    /// No more comes: the journal goes once the gateway has it.
    pub(crate) fn end(&self) {
        let mut kernels = self.journals.lock();
        if let Some(journal) = kernels.get_mut(&self.kernel) {
            journal.over = true;
            if journal.unknown {
                kernels.remove(&self.kernel);
            }
        }
    }
}

impl Journals {
    pub(crate) fn new(folder: PathBuf, limits: Limits) -> Self {
        Self {
            limits,
            folder,
            kernels: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// For a kernel that starts.
    pub(crate) fn outbound(self: &Arc<Self>, kernel: Uuid) -> Outbound {
        self.lock().entry(kernel).or_default().over = false;
        Outbound {
            kernel,
            journals: Arc::clone(self),
        }
    }

    /// What there is, for a new connection.
    pub(crate) fn held(&self) -> Vec<Held> {
        let kernels = self.lock();
        let held = kernels.iter().map(|(id, journal)| Held {
            kernel_id: *id,
            oldest: journal.first,
            newest: journal.next() - 1,
            note: journal.note.clone(),
            cells: journal.cells(),
        });
        held.collect()
    }

    /// A connection begins whose gateway has so much of each kernel. Gives the kernels that it does not know.
    pub(crate) fn resume(&self, has: &BTreeMap<Uuid, u64>) -> Vec<Uuid> {
        let mut kernels = self.lock();
        let mut unknown = Vec::new();
        kernels.retain(|id, journal| {
            if let Some(has) = has.get(id) {
                journal.resume(*has);
                return true;
            }
            // It is to be stopped; nobody reads what it says.
            unknown.push(*id);
            journal.unknown = true;
            journal.drop_before(journal.next());
            !journal.over
        });
        self.changed.notify_one();
        unknown
    }

    /// Keeps the gateway's note, and no longer what it does not need.
    pub(crate) fn note(&self, kernel: Uuid, (taken, keep): (u64, u64), note: Value) {
        let mut kernels = self.lock();
        let Some(journal) = kernels.get_mut(&kernel) else {
            return;
        };
        journal.note = note;
        journal.taken = journal.taken.max(taken.min(journal.sent));
        journal.trim_window();
        // What is not taken yet would not be needed by a gateway that knows what it does; it is sent all the same.
        journal.drop_before(keep.min(journal.taken + 1));
        if journal.over && journal.taken + 1 >= journal.next() {
            kernels.remove(&kernel);
        }
        self.changed.notify_one();
    }

    /// Keeps what the gateway wrote of a cell, or no longer.
    pub(crate) fn follow(&self, kernel: Uuid, cell: u64, note: Option<Value>) {
        let mut kernels = self.lock();
        let Some(journal) = kernels.get_mut(&kernel) else {
            return;
        };
        match note {
            Some(note) => journal.cells.insert(cell, note),
            None => journal.cells.remove(&cell),
        };
    }

    /// Keeps nothing of cells any longer.
    pub(crate) fn follow_none(&self) {
        self.lock().values_mut().for_each(|journal| journal.cells.clear());
    }

    /// The next frames to send, in order for each kernel; none when there are none, or the gateway has no room.
    pub(crate) fn batch(&self) -> Vec<Bytes> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        let mut kernels = self.lock();
        for (id, journal) in kernels.iter_mut() {
            let mut share = 0;
            while batch.len() < BATCH && share < BATCH_BYTES && bytes < 4 * BATCH_BYTES {
                match journal.next_to_send(self.limits.window) {
                    Ok(Some(frame)) => {
                        share += frame.len();
                        bytes += frame.len();
                        batch.push(frame);
                    }
                    Ok(None) => break,
                    Err(error) => {
                        tracing::warn!(kernel = %id, %error, "kept output cannot be read and is lost")
                    }
                }
            }
            batch.extend(journal.ahead(*id, self.limits.window));
        }
        batch
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Uuid, Journal>> {
        self.kernels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One kernel's journal. Numbers count from 1; those below `first` are gone.
struct Journal {
    first: u64,
    entries: VecDeque<Entry>,
    bytes: u64,
    /// Entries from this number on are in memory.
    in_memory_from: u64,
    memory: usize,
    segments: BTreeMap<u64, Segment>,
    /// Newest number sent on this connection.
    sent: u64,
    /// Newest number that the gateway has taken.
    taken: u64,
    /// Lengths of what was sent and is not taken, and their sum.
    window: VecDeque<(u64, u64)>,
    in_flight: u64,
    note: Value,
    /// The gateway's, too.
    cells: BTreeMap<u64, Value>,
    /// The newest frame that says something of the kernel's state.
    says: Option<(u64, Says)>,
    /// Number of the newest one that was told before its turn on this connection.
    told: u64,
    /// No more comes.
    over: bool,
    /// The gateway does not know the kernel.
    unknown: bool,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            first: 1,
            entries: VecDeque::new(),
            bytes: 0,
            in_memory_from: 1,
            memory: 0,
            segments: BTreeMap::new(),
            sent: 0,
            taken: 0,
            window: VecDeque::new(),
            in_flight: 0,
            note: Value::Null,
            cells: BTreeMap::new(),
            says: None,
            told: 0,
            over: false,
            unknown: false,
        }
    }
}

enum Entry {
    Memory(Bytes),
    File { segment: u64, at: u64, length: usize },
}

impl Entry {
    fn len(&self) -> u64 {
        match self {
            Self::Memory(frame) => frame.len() as u64,
            Self::File { length, .. } => *length as u64,
        }
    }
}

struct Segment {
    file: File,
    length: u64,
    /// Entries that are in it.
    entries: u64,
}

impl Journal {
    fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    fn push(&mut self, mut frame: Vec<u8>, limits: Limits, folder: &std::path::Path) -> std::io::Result<()> {
        number(&mut frame, self.next());
        self.bytes += frame.len() as u64;
        self.memory += frame.len();
        self.entries.push_back(Entry::Memory(frame.into()));
        let mut spilled = Ok(());
        while self.memory > limits.memory && self.in_memory_from + 1 < self.next() && spilled.is_ok() {
            spilled = self.spill(limits.segment, folder);
        }
        if spilled.is_err() {
            // Memory stays bounded: what there is no room for is lost, oldest first.
            self.drop_before(self.in_memory_from + 1);
        }
        while self.bytes > limits.total && !self.entries.is_empty() {
            self.drop_before(self.first + 1);
        }
        spilled
    }

    /// Moves the oldest frame that is in memory into a file.
    fn spill(&mut self, limit: u64, folder: &std::path::Path) -> std::io::Result<()> {
        let Some(at) = self.in_memory_from.checked_sub(self.first) else {
            return Ok(());
        };
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        let Some(Entry::Memory(frame)) = self.entries.get(at) else {
            return Ok(());
        };
        let full = self
            .segments
            .last_key_value()
            .is_none_or(|(_, one)| one.length >= limit);
        let newest = self.segments.last_key_value().map_or(0, |(number, _)| *number);
        let id = newest + u64::from(full);
        if full {
            let file = tempfile::tempfile_in(folder)?;
            let segment = Segment {
                file,
                length: 0,
                entries: 0,
            };
            self.segments.insert(id, segment);
        }
        let Some(segment) = self.segments.get_mut(&id) else {
            return Ok(());
        };
        segment.file.write_all_at(frame, segment.length)?;
        let (place, length) = (segment.length, frame.len());
        segment.length += length as u64;
        segment.entries += 1;
        self.memory -= length;
        self.in_memory_from += 1;
        self.entries[at] = Entry::File {
            segment: id,
            at: place,
            length,
        };
        Ok(())
    }

    fn cells(&self) -> Vec<HeldCell> {
        let held = |(cell, note): (&u64, &Value)| HeldCell {
            cell: *cell,
            note: note.clone(),
        };
        self.cells.iter().map(held).collect()
    }

    fn drop_before(&mut self, number: u64) {
        while self.first < number {
            let Some(entry) = self.entries.pop_front() else {
                break;
            };
            self.bytes -= entry.len();
            match entry {
                Entry::Memory(frame) => self.memory -= frame.len(),
                Entry::File { segment, .. } => {
                    let last = self.segments.get_mut(&segment).is_some_and(|one| {
                        one.entries -= 1;
                        one.entries == 0
                    });
                    if last {
                        self.segments.remove(&segment);
                    }
                }
            }
            self.first += 1;
        }
        self.in_memory_from = self.in_memory_from.max(self.first);
    }

    fn resume(&mut self, has: u64) {
        // A gateway that claims more than there is has another journal in mind: it gets what there is.
        self.taken = has.min(self.next() - 1);
        self.sent = self.taken;
        self.window.clear();
        self.in_flight = 0;
        self.told = 0;
    }

    /// The newest state, where it waits because the gateway has no room.
    fn ahead(&mut self, kernel_id: Uuid, window: u64) -> Option<Bytes> {
        let waits = |number: u64| self.in_flight >= window && number > self.sent.max(self.told);
        let (number, (state, detail, at)) = self.says.clone().filter(|(number, _)| waits(*number))?;
        self.told = number;
        let ahead = FromAgent::Ahead {
            kernel_id,
            number,
            state,
            detail,
            at,
        };
        encode::<_, &[u8]>(&ahead, &[]).ok().map(Bytes::from)
    }

    fn trim_window(&mut self) {
        while let Some((number, length)) = self.window.front().copied()
            && number <= self.taken
        {
            self.window.pop_front();
            self.in_flight -= length;
        }
    }

    fn next_to_send(&mut self, window: u64) -> std::io::Result<Option<Bytes>> {
        let number = (self.sent + 1).max(self.first);
        if number >= self.next() || self.in_flight >= window {
            return Ok(None);
        }
        self.sent = number;
        let at = usize::try_from(number - self.first).unwrap_or(usize::MAX);
        let frame = match self.entries.get(at) {
            None => return Ok(None),
            Some(Entry::Memory(frame)) => frame.clone(),
            Some(Entry::File { segment, at, length }) => {
                let mut frame = vec![0; *length];
                let gone = || std::io::Error::other("its file is gone");
                let segment = self.segments.get(segment).ok_or_else(gone)?;
                segment.file.read_exact_at(&mut frame, *at)?;
                frame.into()
            }
        };
        self.in_flight += frame.len() as u64;
        self.window.push_back((number, frame.len() as u64));
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests;
