//! Reading one file of a revision forwards, with a small buffer and a known end. Used by every parser here.
//!
//! A parser can neither read past the end nor ask for more memory than it names: both are faults of the file.

use std::io;
use std::ops::Range;

use crate::error::VerifyError;
use crate::source::Source;

/// Bytes kept of a file while it is parsed.
const BUFFER: usize = 64 * 1024;
/// Bytes read after a jump: what is there is often looked at and left again.
const JUMPED: usize = 4 * 1024;

/// What is wrong with a file, in a sentence that goes on after "the file": `has no tensors`.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) why: String,
    pub(crate) hint: &'static str,
}

/// Why a parser stopped.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The file is at fault.
    Fault(Fault),
    /// The source is.
    Source(VerifyError),
}

impl From<VerifyError> for Stop {
    fn from(error: VerifyError) -> Self {
        Self::Source(error)
    }
}

pub(crate) type Parsed<T> = Result<T, Stop>;

/// A fault without a hint of its own.
pub(crate) fn fault<T>(why: impl Into<String>) -> Parsed<T> {
    fault_with(
        why,
        "save the file again with the library that made it, and upload it again",
    )
}

pub(crate) fn fault_with<T>(why: impl Into<String>, hint: &'static str) -> Parsed<T> {
    Err(Stop::Fault(Fault {
        why: why.into(),
        hint,
    }))
}

/// Text of a file as it may stand in a finding: short, on one line, without control characters.
pub(crate) fn shown(text: &str) -> String {
    const SHOWN: usize = 120;
    let mut short: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() {
        short.push('…');
    }
    short
}

/// A part of one file, read forwards; [`Reader::seek`] may go back.
pub(crate) struct Reader<'a> {
    source: &'a dyn Source,
    entry: usize,
    buffer: Vec<u8>,
    buffer_at: u64,
    at: u64,
    end: u64,
    fetched: u64,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(source: &'a dyn Source, entry: usize) -> Self {
        let end = source.entries().get(entry).map_or(0, |entry| entry.size);
        Self {
            source,
            entry,
            buffer: Vec::new(),
            buffer_at: 0,
            at: 0,
            end,
            fetched: 0,
        }
    }

    /// Bytes that were asked of the source so far.
    pub(crate) fn fetched(&self) -> u64 {
        self.fetched
    }

    /// Only these bytes; what lies beyond the file's end is cut off.
    pub(crate) fn within(mut self, range: &Range<u64>) -> Self {
        self.end = self.end.min(range.end);
        self.at = range.start.min(self.end);
        self
    }

    /// Path of the file.
    pub(crate) fn path(&self) -> &'a str {
        self.source
            .entries()
            .get(self.entry)
            .map_or("", |entry| &entry.path)
    }

    pub(crate) fn position(&self) -> u64 {
        self.at
    }

    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    pub(crate) fn left(&self) -> u64 {
        self.end - self.at
    }

    pub(crate) fn seek(&mut self, at: u64) -> Parsed<()> {
        if at > self.end {
            return fault(format!(
                "ends at byte {}, before byte {at} that it points to",
                self.end
            ));
        }
        self.at = at;
        Ok(())
    }

    pub(crate) fn skip(&mut self, count: u64) -> Parsed<()> {
        match self.at.checked_add(count) {
            Some(at) => self.seek(at),
            None => fault("names a length that no file has"),
        }
    }

    /// The next bytes, at most `count` of them and at most a buffer full; fewer only at the end. They stay unread.
    pub(crate) fn peek(&mut self, count: usize) -> Parsed<&[u8]> {
        let wanted = (count.min(BUFFER) as u64).min(self.left());
        let held = self.buffer_at + self.buffer.len() as u64;
        if self.at < self.buffer_at || self.at + wanted > held {
            // Reading on is by whole buffers.
            let is_on = (self.buffer_at..=held).contains(&self.at);
            let least = if is_on { BUFFER } else { JUMPED };
            self.fill(least.max(count.min(BUFFER)))?;
        }
        let from = usize::try_from(self.at - self.buffer_at).unwrap_or(usize::MAX);
        let to = from.saturating_add(usize::try_from(wanted).unwrap_or(usize::MAX));
        match self.buffer.get(from..to) {
            Some(bytes) => Ok(bytes),
            None => fault(format!(
                "ends early: its source gave fewer bytes than its size of {}",
                self.end
            )),
        }
    }

    fn fill(&mut self, most: usize) -> Parsed<()> {
        let wanted = usize::try_from(self.left()).unwrap_or(most).min(most);
        self.buffer.resize(wanted, 0);
        self.buffer_at = self.at;
        let mut got = 0;
        while let Some(rest) = self.buffer.get_mut(got..).filter(|rest| !rest.is_empty()) {
            match self.source.read(self.entry, self.at + got as u64, rest) {
                Ok(0) => break,
                // A source that says it wrote more than it was given room for is not believed.
                Ok(count) => got += count.min(wanted - got),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    let file = self.path().to_owned();
                    return Err(VerifyError::Read { file, source }.into());
                }
            }
        }
        self.buffer.truncate(got);
        self.fetched = self.fetched.saturating_add(got as u64);
        Ok(())
    }

    /// Exactly `count` bytes, at most a buffer full.
    pub(crate) fn take(&mut self, count: usize) -> Parsed<&[u8]> {
        if count > BUFFER || count as u64 > self.left() {
            return fault(format!(
                "ends early: {count} bytes are announced where {} are left",
                self.left()
            ));
        }
        self.peek(count)?;
        self.at += count as u64;
        let from = usize::try_from(self.at - self.buffer_at).unwrap_or(usize::MAX) - count;
        Ok(self.buffer.get(from..from + count).unwrap_or_default())
    }

    /// Whatever is in the buffer next; empty at the end.
    pub(crate) fn chunk(&mut self) -> Parsed<&[u8]> {
        let count = self.peek(BUFFER)?.len();
        self.take(count)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Parsed<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self) -> Parsed<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Parsed<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Parsed<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Parsed<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// `count` bytes in memory, refused above `limit` and before anything is allocated.
    pub(crate) fn bytes(&mut self, count: u64, limit: u64) -> Parsed<Vec<u8>> {
        if count > limit {
            return fault(format!(
                "has a part of {count} bytes where at most {limit} are read"
            ));
        }
        if count > self.left() {
            return fault(format!(
                "ends early: {count} bytes are announced where {} are left",
                self.left()
            ));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
        while (bytes.len() as u64) < count {
            let rest = usize::try_from(count - bytes.len() as u64)
                .unwrap_or(BUFFER)
                .min(BUFFER);
            bytes.extend_from_slice(self.take(rest)?);
        }
        Ok(bytes)
    }
}

/// For `serde_json`, which reads byte by byte.
impl io::Read for Reader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self.peek(out.len()) {
            Ok(bytes) => {
                let count = bytes.len();
                out.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
                self.at += count as u64;
                Ok(count)
            }
            Err(Stop::Source(VerifyError::Read { source, .. })) => Err(source),
            Err(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
