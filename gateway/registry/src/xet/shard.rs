//! Shards: which chunks of which xorbs make up which files.
//!
//! From the Xet protocol's specification ("Shard format"): a header of 48 bytes, then for each file a header, its
//! segments, where flagged a verification entry for each, where flagged the file's SHA-256; all entries have 48 bytes,
//! and one of ones ends the list. What follows, facts about xorbs and tables to look up, is not needed here. The list is
//! read entry by entry, because its lengths come from outside; a file's SHA-256, which stands behind its segments, is
//! looked at first, because a file that is there already need not be made again.

use std::io::{BufReader, Read, Seek};

use super::hash::XetHash;
use crate::RegistryError;

type Result<T, E = RegistryError> = std::result::Result<T, E>;

/// Bytes of a shard.
pub(crate) const SHARD_MAX: u64 = 64 << 20;
/// What every shard begins with.
const TAG: [u8; 32] = [
    b'H', b'F', b'R', b'e', b'p', b'o', b'M', b'e', b't', b'a', b'D', b'a', b't', b'a', 0, 85, 105, 103, 69,
    106, 123, 129, 87, 131, 165, 189, 217, 92, 205, 209, 74, 169,
];
const VERSION: u64 = 2;
const ENTRY: usize = 48;
/// There is a verification entry for each segment.
const WITH_VERIFICATION: u32 = 1 << 31;
/// There is an entry with the file's SHA-256.
const WITH_SHA256: u32 = 1 << 30;

/// Chunks `first..end` of a xorb.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) xorb: XetHash,
    pub(crate) first: u32,
    pub(crate) end: u32,
    /// Plain bytes of these chunks.
    pub(crate) bytes: u32,
}

/// What is done with the files of a shard, as they are read.
pub(crate) trait Files {
    /// The next file begins; false when it need not be read.
    fn begin(&mut self, sha256: Option<XetHash>) -> Result<bool>;

    /// The next segment of the file that is being read.
    fn segment(&mut self, segment: &Segment) -> Result<()>;

    /// That file is over.
    fn end(&mut self, hash: XetHash, sha256: Option<XetHash>) -> Result<()>;
}

/// Reads the files of a shard.
///
/// # Errors
/// [`RegistryError::Invalid`] for what is no shard, and what `files` refuses.
pub(crate) fn read<R: Read + Seek>(mut shard: BufReader<R>, files: &mut impl Files) -> Result<()> {
    let mut header = [0; ENTRY];
    fill(&mut shard, &mut header)?;
    if header[..32] != TAG || word64(&header, 32) != VERSION {
        return Err(bad("it does not begin as shards of version 2 do"));
    }
    loop {
        let mut file = [0; ENTRY];
        fill(&mut shard, &mut file)?;
        let hash = hash(&file);
        if hash.0 == [0xff; 32] {
            return Ok(());
        }
        let (flags, count) = (word32(&file, 32), word32(&file, 36));
        let segments = i64::from(count) * ENTRY as i64;
        // They prove that a client has the chunks that it names. Here only its own xorbs are looked at.
        let verification = if flags & WITH_VERIFICATION != 0 {
            segments
        } else {
            0
        };
        let mut sha256 = None;
        let mut entry = [0; ENTRY];
        if flags & WITH_SHA256 != 0 {
            skip(&mut shard, segments + verification)?;
            fill(&mut shard, &mut entry)?;
            sha256 = Some(self::hash(&entry));
            skip(&mut shard, -(segments + verification + ENTRY as i64))?;
        }
        let is_wanted = files.begin(sha256)?;
        if is_wanted {
            for _ in 0..count {
                fill(&mut shard, &mut entry)?;
                files.segment(&segment(&entry))?;
            }
            files.end(hash, sha256)?;
        } else {
            skip(&mut shard, segments)?;
        }
        skip(&mut shard, verification)?;
        if sha256.is_some() {
            fill(&mut shard, &mut entry)?;
        }
    }
}

/// Goes on, or back, by so many bytes. What is beyond the end is seen at the next entry.
fn skip<R: Read + Seek>(shard: &mut BufReader<R>, bytes: i64) -> Result<()> {
    shard.seek_relative(bytes).map_err(|_| bad("it cannot be read"))
}

fn segment(entry: &[u8; ENTRY]) -> Segment {
    Segment {
        xorb: hash(entry),
        bytes: word32(entry, 36),
        first: word32(entry, 40),
        end: word32(entry, 44),
    }
}

fn hash(entry: &[u8; ENTRY]) -> XetHash {
    let mut hash = XetHash::default();
    hash.0.copy_from_slice(&entry[..32]);
    hash
}

fn word32(entry: &[u8; ENTRY], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&entry[at..at + 4]);
    u32::from_le_bytes(bytes)
}

fn word64(entry: &[u8; ENTRY], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&entry[at..at + 8]);
    u64::from_le_bytes(bytes)
}

fn fill(shard: &mut impl Read, entry: &mut [u8; ENTRY]) -> Result<()> {
    shard.read_exact(entry).map_err(|_| bad("it ends early"))
}

pub(crate) fn bad(why: &str) -> RegistryError {
    RegistryError::invalid(format!("the shard is refused: {why}"))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    #[derive(Default, Debug, PartialEq, Clone)]
    pub(crate) struct Listed(
        pub(crate) Vec<(Vec<Segment>, XetHash, Option<XetHash>)>,
        Vec<Segment>,
    );

    /// Reads a shard that is in memory.
    pub(crate) fn read_bytes(shard: &[u8], files: &mut impl Files) -> Result<()> {
        read(BufReader::new(Cursor::new(shard)), files)
    }

    impl Files for Listed {
        fn begin(&mut self, _: Option<XetHash>) -> Result<bool> {
            Ok(true)
        }

        fn segment(&mut self, segment: &Segment) -> Result<()> {
            self.1.push(segment.clone());
            Ok(())
        }

        fn end(&mut self, hash: XetHash, sha256: Option<XetHash>) -> Result<()> {
            self.0.push((std::mem::take(&mut self.1), hash, sha256));
            Ok(())
        }
    }

    /// A shard of these files, with verification entries.
    pub(crate) fn written(files: &[(Vec<Segment>, XetHash, Option<XetHash>)]) -> Vec<u8> {
        let mut shard = TAG.to_vec();
        shard.extend(VERSION.to_le_bytes());
        shard.extend([0; 8]);
        let mut entry = |hash: &[u8; 32], words: [u32; 4]| {
            shard.extend(hash);
            shard.extend(words.into_iter().flat_map(u32::to_le_bytes));
        };
        for (segments, hash, sha256) in files {
            let count = u32::try_from(segments.len()).unwrap();
            let flags = WITH_VERIFICATION | if sha256.is_some() { WITH_SHA256 } else { 0 };
            entry(&hash.0, [flags, count, 0, 0]);
            for segment in segments {
                entry(&segment.xorb.0, [0, segment.bytes, segment.first, segment.end]);
            }
            for _ in segments {
                entry(&[9; 32], [0; 4]);
            }
            if let Some(sha256) = sha256 {
                entry(&sha256.0, [0; 4]);
            }
        }
        entry(&[0xff; 32], [0; 4]);
        shard
    }

    fn some_hash() -> impl Strategy<Value = XetHash> {
        any::<[u8; 31]>().prop_map(|bytes| {
            let mut hash = XetHash::default();
            hash.0[..31].copy_from_slice(&bytes);
            hash
        })
    }

    fn some_segment() -> impl Strategy<Value = Segment> {
        (some_hash(), any::<u32>(), any::<u32>(), any::<u32>()).prop_map(|(xorb, first, end, bytes)| {
            Segment {
                xorb,
                first,
                end,
                bytes,
            }
        })
    }

    #[test]
    fn a_count_of_four_billion_makes_room_for_nothing() {
        let mut shard = written(&[(vec![], XetHash::default(), None)]);
        shard[ENTRY + 36..ENTRY + 40].fill(0xff);
        assert!(read_bytes(&shard, &mut Listed::default()).is_err());
    }

    proptest! {
        #[test]
        fn reads_what_was_written(
            files in proptest::collection::vec(
                (proptest::collection::vec(some_segment(), 0..5), some_hash(), proptest::option::of(some_hash())), 0..4,
            ),
        ) {
            let mut listed = Listed::default();
            read_bytes(&written(&files), &mut listed).unwrap();
            prop_assert_eq!(listed.0, files);
        }

        #[test]
        fn a_part_of_one_is_refused(segments in proptest::collection::vec(some_segment(), 0..4), at in any::<prop::sample::Index>()) {
            let shard = written(&[(segments, XetHash::default(), Some(XetHash::default()))]);
            let part = &shard[..at.index(shard.len() - ENTRY + 32)];
            prop_assert!(read_bytes(part, &mut Listed::default()).is_err());
        }

        #[test]
        fn survives_anything(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut shard = written(&[]);
            shard.truncate(ENTRY);
            shard.extend(bytes);
            let _ = read_bytes(&shard, &mut Listed::default());
        }
    }
}
