//! Xet's hashes: chunks by keyed BLAKE3, xorbs and files by a tree over them.
//!
//! From the Xet protocol's specification ("Hashing" and its reference keys). The tree is computed as nodes come, so a
//! file of any length needs memory for a few nodes a level.

use std::fmt::Write as _;

/// Key of chunks, from the specification.
const CHUNK_KEY: [u8; 32] = [
    102, 151, 245, 119, 91, 149, 80, 222, 49, 53, 203, 172, 165, 151, 24, 28, 157, 228, 33, 16, 155, 235, 43,
    88, 180, 208, 176, 75, 147, 173, 242, 41,
];
/// Key of inner nodes, from the specification.
const NODE_KEY: [u8; 32] = [
    1, 126, 197, 199, 165, 71, 41, 150, 253, 148, 102, 102, 180, 138, 2, 230, 93, 221, 83, 111, 55, 199, 109,
    210, 248, 99, 82, 230, 74, 83, 113, 63,
];
/// Nodes below one, on average; the specification's branching factor.
const BRANCHES: u64 = 4;
/// The most nodes below one.
const BRANCHES_MAX: usize = 9;

/// A hash of Xet, as its 32 bytes stand in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(crate) struct XetHash(pub(crate) [u8; 32]);

impl XetHash {
    /// Of a chunk's plain bytes.
    pub(crate) fn of_chunk(bytes: &[u8]) -> Self {
        Self(*blake3::keyed_hash(&CHUNK_KEY, bytes).as_bytes())
    }

    /// As addresses write it: four little-endian words in hex. A SHA-256 stands in shards so that this gives its hex.
    pub(crate) fn hex(&self) -> String {
        let mut text = String::with_capacity(64);
        for word in self.words() {
            let _ = write!(text, "{word:016x}");
        }
        text
    }

    fn words(&self) -> [u64; 4] {
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(self.0.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        words
    }

    /// Whether a group of nodes ends here.
    fn is_cut(&self) -> bool {
        self.words()[3].is_multiple_of(BRANCHES)
    }
}

type Node = (XetHash, u64);

/// The tree over chunks, each with its length, given in order.
#[derive(Default)]
pub(crate) struct Tree {
    levels: Vec<Level>,
}

#[derive(Default)]
struct Level {
    open: Vec<Node>,
    /// Whether a group of this level was closed before.
    has_closed: bool,
}

impl Tree {
    /// The next chunk.
    pub(crate) fn push(&mut self, hash: XetHash, length: u64) {
        self.add(0, (hash, length));
    }

    fn add(&mut self, at: usize, node: Node) {
        if self.levels.len() == at {
            self.levels.push(Level::default());
        }
        let level = &mut self.levels[at];
        level.open.push(node);
        // A group has at least three nodes where more follow, and ends at the first that says so.
        let count = level.open.len();
        if (count > 2 && node.0.is_cut()) || count == BRANCHES_MAX {
            let node = merge(&std::mem::take(&mut level.open));
            level.has_closed = true;
            self.add(at + 1, node);
        }
    }

    /// The hash of a xorb with these chunks; of no chunk, zeros.
    pub(crate) fn root(mut self) -> XetHash {
        let mut at = 0;
        while at < self.levels.len() {
            let level = &mut self.levels[at];
            if !level.has_closed && level.open.len() == 1 {
                return level.open[0].0;
            }
            let open = std::mem::take(&mut level.open);
            if !open.is_empty() {
                self.add(at + 1, merge(&open));
            }
            at += 1;
        }
        XetHash::default()
    }

    /// The hash of a file with these chunks: the root, keyed by zeros; of no chunk, zeros.
    pub(crate) fn file(self) -> XetHash {
        if self.levels.is_empty() {
            return XetHash::default();
        }
        XetHash(*blake3::keyed_hash(&[0; 32], &self.root().0).as_bytes())
    }
}

/// The node over some: hash of their hashes and lengths as text.
fn merge(nodes: &[Node]) -> Node {
    let mut text = String::with_capacity(88 * nodes.len());
    let mut total = 0_u64;
    for (hash, length) in nodes {
        let _ = writeln!(text, "{} : {length}", hash.hex());
        total = total.saturating_add(*length);
    }
    (
        XetHash(*blake3::keyed_hash(&NODE_KEY, text.as_bytes()).as_bytes()),
        total,
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The rule as the specification words it: level by level over the whole list.
    fn whole(mut nodes: Vec<Node>) -> XetHash {
        while nodes.len() > 1 {
            let mut above = Vec::new();
            let mut rest = nodes.as_slice();
            while !rest.is_empty() {
                let end = rest.len().min(BRANCHES_MAX);
                let cut = (2..end).find(|&at| rest[at].0.is_cut()).map_or(end, |at| at + 1);
                let cut = if rest.len() <= 2 { rest.len() } else { cut };
                above.push(merge(&rest[..cut]));
                rest = &rest[cut..];
            }
            nodes = above;
        }
        nodes.first().map_or(XetHash::default(), |node| node.0)
    }

    #[test]
    fn writes_hashes_as_words() {
        let mut bytes = [0; 32];
        bytes[0] = 1;
        bytes[31] = 2;
        let text = XetHash(bytes).hex();
        assert_eq!(text, format!("{:0>16}{:0>32}{:0<16}", 1, "", "02"));
    }

    proptest! {
        #[test]
        fn computes_level_by_level_what_the_whole_list_gives(lengths in proptest::collection::vec(1_u64..100, 0..300)) {
            let nodes: Vec<Node> = lengths
                .iter()
                .enumerate()
                .map(|(n, &length)| (XetHash::of_chunk(&n.to_le_bytes()), length))
                .collect();
            let mut tree = Tree::default();
            for (hash, length) in &nodes {
                tree.push(*hash, *length);
            }
            prop_assert_eq!(tree.root(), whole(nodes));
        }
    }
}
