//! Xorbs: chunks behind one another, each with a header of eight bytes, some compressed; a footer may follow.
//!
//! From the Xet protocol's specification ("Xorb format"). The footer is not needed and not believed: hashes are those
//! of the chunks' bytes. Lengths come from outside and are held to bounds before anything is made room for.

use std::io::Read as _;

use lz4_flex::frame::FrameDecoder;

use super::hash::{Tree, XetHash};
use crate::RegistryError;

type Result<T, E = RegistryError> = std::result::Result<T, E>;

/// Bytes of a xorb, footer included.
pub(crate) const XORB_MAX: u64 = (64 << 20) + (1 << 20);
/// Chunks of a xorb.
const CHUNKS_MAX: u32 = 8 << 10;
/// Plain bytes of a chunk.
pub(crate) const CHUNK_MAX: usize = 128 << 10;
/// What a header takes.
pub(crate) const HEADER: usize = 8;
/// What a footer begins with, where a header would say version zero.
const FOOTER: &[u8; 7] = b"XETBLOB";
/// Largest block that an LZ4 frame may announce: its decoder makes room for one.
const BLOCK_CODE_MAX: u8 = 6;

/// Header of one chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    scheme: Scheme,
    /// Bytes that follow the header.
    pub(crate) stored: usize,
    /// Bytes that they become.
    pub(crate) plain: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Plain,
    Lz4,
    /// The first bytes of all groups of four, then the second ones, and so on, compressed.
    GroupedLz4,
}

impl Header {
    /// Reads a header; nothing where the footer begins.
    pub(crate) fn parse(bytes: [u8; HEADER]) -> Result<Option<Self>> {
        if bytes.starts_with(FOOTER) {
            return Ok(None);
        }
        let [version, a, b, c, scheme, x, y, z] = bytes;
        let length =
            |low, middle, high| usize::from(low) | usize::from(middle) << 8 | usize::from(high) << 16;
        let (stored, plain) = (length(a, b, c), length(x, y, z));
        let scheme = match scheme {
            0 => Scheme::Plain,
            1 => Scheme::Lz4,
            2 => Scheme::GroupedLz4,
            _ => return Err(bad("a chunk is compressed in an unknown way")),
        };
        let lengths_fit = (1..=CHUNK_MAX).contains(&plain) && (1..=2 * CHUNK_MAX).contains(&stored);
        if version != 0 || !lengths_fit || (scheme == Scheme::Plain && stored != plain) {
            return Err(bad("a chunk's header has an impossible version or length"));
        }
        Ok(Some(Self {
            scheme,
            stored,
            plain,
        }))
    }

    /// The chunk's bytes, of exactly the announced length.
    pub(crate) fn open(self, stored: &[u8]) -> Result<Vec<u8>> {
        let plain = match self.scheme {
            Scheme::Plain => stored.to_vec(),
            Scheme::Lz4 => decompress(stored, self.plain)?,
            Scheme::GroupedLz4 => regroup(&decompress(stored, self.plain)?),
        };
        if plain.len() == self.plain {
            Ok(plain)
        } else {
            Err(bad("a chunk has another length than its header says"))
        }
    }
}

fn decompress(stored: &[u8], length: usize) -> Result<Vec<u8>> {
    // Magic number, flags, then the code of the largest block in bits four to six.
    let code = stored.get(5).map_or(u8::MAX, |byte| byte >> 4 & 7);
    if !stored.starts_with(&[0x04, 0x22, 0x4d, 0x18]) || code > BLOCK_CODE_MAX {
        return Err(bad("a chunk is no LZ4 frame, or one of too large blocks"));
    }
    let mut plain = Vec::with_capacity(length);
    // One byte more than announced, to see that there are none.
    let mut reader = FrameDecoder::new(stored).take(length as u64 + 1);
    reader
        .read_to_end(&mut plain)
        .map_err(|_| bad("a chunk's LZ4 frame is damaged"))?;
    Ok(plain)
}

/// Undoes the grouping of bytes by their place in groups of four.
fn regroup(grouped: &[u8]) -> Vec<u8> {
    let (quarter, rest) = (grouped.len() / 4, grouped.len() % 4);
    let mut starts = [0; 4];
    for place in 1..4 {
        starts[place] = starts[place - 1] + quarter + usize::from(rest >= place);
    }
    (0..grouped.len())
        .map(|at| grouped[starts[at % 4] + at / 4])
        .collect()
}

/// Checks a xorb while it is received.
#[derive(Default)]
pub(crate) struct Scanner {
    pending: Vec<u8>,
    tree: Tree,
    chunks: u32,
    in_footer: bool,
}

impl Scanner {
    /// The next bytes. Keeps at most one chunk of them.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        while !self.in_footer && !rest.is_empty() {
            let wanted = self.wanted()?;
            let (now, later) = rest.split_at(rest.len().min(wanted - self.pending.len()));
            self.pending.extend_from_slice(now);
            rest = later;
            if self.pending.len() == wanted {
                self.chunk()?;
            }
        }
        Ok(())
    }

    /// Bytes that must be there for the next step: a header, or a header and its chunk.
    fn wanted(&self) -> Result<usize> {
        match self.pending.first_chunk::<HEADER>() {
            None => Ok(HEADER),
            Some(header) => Ok(HEADER + Header::parse(*header)?.map_or(0, |header| header.stored)),
        }
    }

    fn chunk(&mut self) -> Result<()> {
        let Some((header, stored)) = self.pending.split_first_chunk::<HEADER>() else {
            return Ok(());
        };
        let Some(header) = Header::parse(*header)? else {
            self.in_footer = true;
            return Ok(());
        };
        if stored.is_empty() {
            return Ok(());
        }
        self.chunks += 1;
        if self.chunks > CHUNKS_MAX {
            return Err(bad("it has too many chunks"));
        }
        let plain = header.open(stored)?;
        self.tree.push(XetHash::of_chunk(&plain), plain.len() as u64);
        self.pending.clear();
        Ok(())
    }

    /// The hash of the xorb that was received.
    pub(crate) fn end(self) -> Result<XetHash> {
        if self.chunks == 0 || (!self.in_footer && !self.pending.is_empty()) {
            return Err(bad("it is empty or ends within a chunk"));
        }
        Ok(self.tree.root())
    }
}

pub(crate) fn bad(why: &str) -> RegistryError {
    RegistryError::invalid(format!("the xorb is refused: {why}"))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write as _;

    use lz4_flex::frame::FrameEncoder;
    use proptest::prelude::*;

    use super::*;

    /// A xorb with these chunks, compressed in turn in each way, and its hash.
    pub(crate) fn written(chunks: &[Vec<u8>]) -> (Vec<u8>, XetHash) {
        let (mut xorb, mut tree) = (Vec::new(), Tree::default());
        for (n, chunk) in chunks.iter().enumerate() {
            let scheme = u8::try_from(n % 3).unwrap();
            let stored = match scheme {
                0 => chunk.clone(),
                1 => lz4(chunk),
                _ => lz4(&(0..4)
                    .flat_map(|k| chunk.iter().skip(k).step_by(4).copied())
                    .collect::<Vec<_>>()),
            };
            xorb.push(0);
            xorb.extend(&u32::try_from(stored.len()).unwrap().to_le_bytes()[..3]);
            xorb.push(scheme);
            xorb.extend(&u32::try_from(chunk.len()).unwrap().to_le_bytes()[..3]);
            xorb.extend(stored);
            tree.push(XetHash::of_chunk(chunk), chunk.len() as u64);
        }
        (xorb, tree.root())
    }

    fn lz4(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = FrameEncoder::new(Vec::new());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn scan(xorb: &[u8], pieces: usize) -> Result<XetHash> {
        let mut scanner = Scanner::default();
        for piece in xorb.chunks(pieces.max(1)) {
            scanner.push(piece)?;
        }
        scanner.end()
    }

    #[test]
    fn a_frame_cannot_become_more_than_its_header_says() {
        let bomb = lz4(&vec![0; 1 << 20]);
        let header = Header {
            scheme: Scheme::Lz4,
            stored: bomb.len(),
            plain: 10,
        };
        assert!(header.open(&bomb).is_err());
        let mut large_blocks = lz4(b"hello");
        large_blocks[5] = 7 << 4;
        assert!(Header { plain: 5, ..header }.open(&large_blocks).is_err());
    }

    #[test]
    fn refuses_headers_with_impossible_lengths() {
        let header = |stored: u32, scheme, plain: u32| {
            let (s, p) = (stored.to_le_bytes(), plain.to_le_bytes());
            Header::parse([0, s[0], s[1], s[2], scheme, p[0], p[1], p[2]])
        };
        assert!(header(5, 0, 5).unwrap().is_some());
        for (stored, scheme, plain) in [
            (0, 1, 5),
            (5, 1, 0),
            (5, 3, 5),
            (5, 0, 6),
            (5, 1, 131_073),
            (262_145, 1, 5),
        ] {
            assert!(
                header(stored, scheme, plain).is_err(),
                "{stored} {scheme} {plain}"
            );
        }
        assert_eq!(Header::parse(*b"XETBLOB\x01").unwrap(), None);
        assert!(Header::parse([1, 5, 0, 0, 0, 5, 0, 0]).is_err());
    }

    proptest! {
        #[test]
        fn reads_what_was_written_with_and_without_footer(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 1..12),
            pieces in 1_usize..400, footer in any::<bool>(),
        ) {
            let (mut xorb, hash) = written(&chunks);
            if footer {
                xorb.extend(b"XETBLOB\x01 whatever follows is not believed");
            }
            prop_assert_eq!(scan(&xorb, pieces).unwrap(), hash);
        }

        #[test]
        fn one_wrong_byte_is_refused_or_another_hash(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..100), 1..6),
            at in any::<prop::sample::Index>(), bit in 0_u32..8,
        ) {
            let (mut xorb, hash) = written(&chunks);
            let at = at.index(xorb.len());
            xorb[at] ^= 1_u8 << bit;
            // Some bits of an LZ4 frame mean nothing for what comes out. Where they do not count, no bit may be lost.
            if let Ok(found) = scan(&xorb, 64) {
                let is_plain = at >= HEADER && at < HEADER + chunks[0].len();
                prop_assert!(!is_plain || found != hash);
            }
        }

        #[test]
        fn survives_anything(bytes in proptest::collection::vec(any::<u8>(), 0..500), pieces in 1_usize..100) {
            let _ = scan(&bytes, pieces);
        }
    }
}
