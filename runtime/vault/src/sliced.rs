//! Content in order, without holding whole objects: ciphertext is verified by its 1 MiB slices as it comes in, decrypted, and
//! sent on. About four slices are in memory for each stream, however long the file and however slow its reader.
//!
//! For who sends content to many at once, as the gateway does. Storage has no ranged reads, so what lies before the range in
//! its object is fetched and dropped. Objects without hashes of their slices are opened whole, few at a time.

use crate::digest::sha256;
use crate::entry::Extent;
use crate::fetch::Wanted;
use crate::keys::DatasetId;
use crate::manifest::Row;
use crate::merkle::SLICE;
use crate::object::{CHUNK, Chunks, FRAME, Kind, TAG};
use crate::reader::{Inner, Reader, pieces, runs};
use crate::{Result, VaultError};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{self, Sender};
use zeroize::Zeroizing;

/// Objects of all streams that are held whole at the same time.
static WHOLE: Semaphore = Semaphore::const_new(3);
/// How often a download may break off without another byte, before the object is asked for whole.
const STUCK: u32 = 3;

/// Whether a run was sent to its end.
type Sent = std::result::Result<(), Ended>;

/// Why one was not.
enum Ended {
    /// Nobody reads any more.
    Left,
    Failed(VaultError),
}

impl From<VaultError> for Ended {
    fn from(error: VaultError) -> Self {
        Self::Failed(error)
    }
}

impl Reader {
    /// A file as clients of a server read it: much of it goes by in slices; what is little, or asked for in parts at a time, comes
    /// from an object that is kept for the next. To be called on a runtime.
    ///
    /// # Errors
    /// As [`Reader::stream`].
    pub fn pieces(&self, path: &str, range: Range<u64>) -> Result<BoxStream<'static, Result<Bytes>>> {
        match range.end.saturating_sub(range.start) >= self.object_bytes() {
            true => self.stream_slices(path, range),
            false => self.stream(path, range),
        }
    }

    /// As [`Reader::stream`], in pieces of at most 1 MiB, or 4 where an object has to be opened whole; keeps nothing for the next
    /// read. To be called on a runtime.
    ///
    /// # Errors
    /// `E_NOT_FOUND` at once; the errors of section 6 in the stream, which ends after the first.
    pub fn stream_slices(&self, path: &str, range: Range<u64>) -> Result<BoxStream<'static, Result<Bytes>>> {
        let entry = self.file(path)?;
        let runs = runs(entry, range.start..range.end.min(entry.size));
        let (to, from) = mpsc::channel(1);
        let inner = Arc::clone(&self.inner);
        tokio::spawn(async move {
            for run in runs {
                match inner.send(run, &to).await {
                    Ok(()) => {}
                    Err(Ended::Left) => return,
                    // Nobody is there to hear it when this fails.
                    Err(Ended::Failed(error)) => return drop(to.send(Err(error)).await),
                }
            }
        });
        Ok(stream::unfold(from, async |mut from| Some((from.recv().await?, from))).boxed())
    }
}

impl Inner {
    async fn send(&self, run: Extent, to: &Sender<Result<Bytes>>) -> Sent {
        let mut rest = run;
        let mut stuck = 0;
        while let Some((leaves, row)) = self.leaves(rest.object).await {
            let before = rest.length;
            let ended = tokio::select! {
                ended = self.send_slices(&leaves, row, &mut rest, to) => ended,
                () = to.closed() => Err(Ended::Left),
            };
            let error = match ended {
                Ok(()) => return Ok(()),
                Err(Ended::Left) => return Err(Ended::Left),
                Err(Ended::Failed(error)) => error,
            };
            stuck = if rest.length < before { 0 } else { stuck + 1 };
            tracing::debug!(
                object = row.item_hash,
                code = error.code(),
                "a download of slices broke off"
            );
            // Another node may have the right bytes: the whole object is asked for at all of them.
            if stuck >= STUCK || !matches!(error, VaultError::Unavailable { .. }) {
                break;
            }
        }
        self.send_whole(rest, to).await
    }

    async fn send_whole(&self, run: Extent, to: &Sender<Result<Bytes>>) -> Sent {
        let object = match self.opened.ready(run.object) {
            Some(object) => (object, None),
            None => {
                let permit = WHOLE.acquire().await.ok();
                let bytes = self.fetch(run.object, Kind::Data).await?;
                (Bytes::from_owner(Zeroizing::new(bytes)), permit)
            }
        };
        for piece in pieces(run) {
            let sent = to.send(Ok(piece.of(&object.0))).await;
            sent.map_err(|_| Ended::Left)?;
        }
        Ok(())
    }

    /// Hashes of an object's slices, where it has some that can be had.
    async fn leaves(&self, number: u32) -> Option<(Vec<[u8; 32]>, &Row)> {
        let row = self.rows.get(number as usize)?;
        let table = row.leaves?;
        let bytes = match self.leaf_tables.ready(table) {
            Some(bytes) => bytes,
            None => {
                let fetch = self.fetch(table, Kind::Leaves);
                self.leaf_tables.get(table, fetch).await.ok()?
            }
        };
        // A table has those of whole objects, in order of their numbers.
        let slices = |row: &Row| usize::try_from(row.ciphertext_len.div_ceil(SLICE as u64)).unwrap_or(0);
        let of_table = |rows: &[Row]| -> usize {
            rows.iter()
                .filter(|row| row.leaves == Some(table))
                .map(slices)
                .sum()
        };
        if bytes.len() != 32 * of_table(&self.rows) {
            return None;
        }
        let first = of_table(self.rows.get(..number as usize)?);
        let own = bytes.get(32 * first..32 * (first + slices(row)))?;
        let leaves = own.chunks_exact(32).filter_map(|leaf| leaf.try_into().ok());
        Some((leaves.collect(), row))
    }

    /// Sends what is left of a run, and takes what was sent off it.
    async fn send_slices(
        &self,
        leaves: &[[u8; 32]],
        row: &Row,
        rest: &mut Extent,
        to: &Sender<Result<Bytes>>,
    ) -> Sent {
        if rest.length == 0 {
            return Ok(());
        }
        let dataset = self.root.dataset;
        let key = self
            .ring
            .object_key(&dataset, Kind::Data, row.epoch, &row.object_id)?;
        let mut source = self.storage.get_stream(&row.item_hash).await?;
        let mut opening = Opening::new(row, dataset, rest);
        let mut key = Some(key);
        let mut piece = Bytes::new();
        for (number, leaf) in (0..).zip(leaves) {
            let place = opening.slice(number);
            if place.start >= opening.wanted.end {
                break;
            }
            // The first holds what all others are opened with.
            let is_wanted = number == 0 || place.end > opening.wanted.start;
            let size = usize::try_from(place.end - place.start).unwrap_or(SLICE);
            let mut slice = Vec::with_capacity(if is_wanted { size } else { 0 });
            let mut left = size;
            while left > 0 {
                if piece.is_empty() {
                    piece = next(&mut source, &row.item_hash).await?;
                }
                let part = piece.split_to(left.min(piece.len()));
                left -= part.len();
                if is_wanted {
                    slice.extend_from_slice(&part);
                }
            }
            if !is_wanted {
                continue;
            }
            let (leaf, first_key) = (*leaf, key.take());
            let work = tokio::task::spawn_blocking(move || {
                let plain = opening.open(number, slice, &leaf, first_key.as_ref());
                plain.map(|plain| (opening, plain))
            });
            let stopped = |error: tokio::task::JoinError| VaultError::Stopped {
                reason: error.to_string(),
            };
            let plain;
            (opening, plain) = work.await.map_err(stopped)??;
            if plain.is_empty() {
                continue;
            }
            let sent = plain.len() as u64;
            to.send(Ok(plain)).await.map_err(|_| Ended::Left)?;
            rest.offset += sent;
            rest.length -= sent;
        }
        if rest.length == 0 {
            return Ok(());
        }
        Err(Ended::Failed(VaultError::Tree {
            what: format!("object {} has too few slices", row.item_hash),
        }))
    }
}

async fn next(source: &mut BoxStream<'static, Result<Bytes>>, name: &str) -> Result<Bytes> {
    loop {
        let piece = source.next().await.unwrap_or_else(|| {
            Err(VaultError::Unavailable {
                what: format!("object {name}"),
                reason: "it ended before its end".into(),
            })
        })?;
        if !piece.is_empty() {
            return Ok(piece);
        }
    }
}

/// An object on its way through: what is verified and not yet decrypted, and what comes next.
struct Opening {
    expected: Wanted,
    dataset: DatasetId,
    length: u64,
    /// Of the ciphertext: the chunks that hold what is wanted.
    wanted: Range<u64>,
    /// Of the plaintext.
    plain: Range<u64>,
    chunks: Option<Chunks>,
    /// The next chunk to decrypt.
    chunk: u64,
    /// Verified ciphertext from that chunk on.
    held: Vec<u8>,
}

impl Opening {
    fn new(row: &Row, dataset: DatasetId, run: &Extent) -> Self {
        let whole = (CHUNK + TAG) as u64;
        let place = |chunk: u64| FRAME as u64 + chunk * whole;
        let plain = run.offset..run.offset + run.length;
        let first = plain.start / CHUNK as u64;
        let last = (plain.end - 1) / CHUNK as u64;
        Self {
            expected: Wanted::row(row, Kind::Data),
            dataset,
            length: row.ciphertext_len,
            wanted: place(first)..place(last + 1).min(row.ciphertext_len),
            plain,
            chunks: None,
            chunk: first,
            held: Vec::new(),
        }
    }

    /// Where a slice lies in the ciphertext.
    fn slice(&self, number: u64) -> Range<u64> {
        let start = number * SLICE as u64;
        start..(start + SLICE as u64).min(self.length)
    }

    /// Verifies a slice; decrypts the chunks that are whole by now. Gives what is wanted of them.
    fn open(
        &mut self,
        number: u64,
        slice: Vec<u8>,
        leaf: &[u8; 32],
        key: Option<&crate::keys::ObjectKey>,
    ) -> Result<Bytes> {
        let found = sha256(&[&[0], &slice]);
        if found != *leaf {
            return Err(VaultError::Hash {
                object: self.expected.name().to_owned(),
                got: hex::encode(found),
            });
        }
        if let Some(key) = key {
            let start = &slice[..slice.len().min(FRAME)];
            self.chunks = Some(Chunks::begin(
                start,
                &self.expected.expected(),
                &self.dataset,
                key,
            )?);
        }
        let Some(chunks) = &self.chunks else {
            return Err(VaultError::Stopped {
                reason: "a slice came before the first".into(),
            });
        };
        let place = self.slice(number);
        let within = |at: u64| usize::try_from(at.clamp(place.start, place.end) - place.start).unwrap_or(0);
        self.held
            .extend_from_slice(&slice[within(self.wanted.start)..within(self.wanted.end)]);
        drop(slice);
        let is_last = place.end >= self.wanted.end;
        let mut out = std::mem::take(&mut self.held);
        let (mut written, mut at) = (0, 0);
        while at < out.len() {
            let end = out.len().min(at + CHUNK + TAG);
            if end - at < CHUNK + TAG && !is_last {
                break;
            }
            let body = chunks.open(&mut out[at..end], self.chunk)?;
            // Only what is wanted of the first and the last.
            let start = self.chunk * CHUNK as u64;
            let from = usize::try_from(self.plain.start.saturating_sub(start))
                .unwrap_or(body)
                .min(body);
            let to = usize::try_from(self.plain.end.saturating_sub(start))
                .unwrap_or(body)
                .min(body);
            out.copy_within(at + from..at + to, written);
            written += to - from;
            self.chunk += 1;
            at = end;
        }
        self.held = out[at..].to_vec();
        out.truncate(written);
        Ok(Bytes::from_owner(Zeroizing::new(out)))
    }
}
