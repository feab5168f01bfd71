//! A log of hashes as RFC 9162 has it (section 2.1): roots, that a leaf is under a root, and that a root continues another.
//!
//! Pure. Here a receipt's hash is what a leaf is of, and the database has the hashes (`store::receipts`): what is asked of it are
//! the roots of ranges of leaves.

use std::ops::Range;

use sha2::{Digest as _, Sha256};

/// SHA-256.
pub(crate) type Hash = [u8; 32];

/// The leaf of a receipt with this hash.
pub(crate) fn leaf(receipt: &Hash) -> Hash {
    Sha256::new()
        .chain_update([0])
        .chain_update(receipt)
        .finalize()
        .into()
}

fn node(left: &Hash, right: &Hash) -> Hash {
    let hash = Sha256::new().chain_update([1]).chain_update(left);
    hash.chain_update(right).finalize().into()
}

/// Root of a power of two of hashes.
pub(crate) fn whole(hashes: &[Hash]) -> Hash {
    let mut level = hashes.to_vec();
    while level.len() > 1 {
        level = level
            .chunks(2)
            .map(|pair| node(&pair[0], &pair[pair.len() - 1]))
            .collect();
    }
    level.first().copied().unwrap_or_else(empty)
}

/// Root of the subtrees of [`subtrees`].
pub(crate) fn joined(subtrees: &[Hash]) -> Hash {
    let joined = subtrees
        .iter()
        .rev()
        .copied()
        .reduce(|right, left| node(&left, &right));
    joined.unwrap_or_else(empty)
}

fn empty() -> Hash {
    Sha256::digest([]).into()
}

/// The whole subtrees, from the left, that a range of leaves is made of: their level, and their number among those of it. A
/// range is one that [`inclusion`] or [`consistency`] name, or begins with 0.
pub(crate) fn subtrees(leaves: &Range<u64>) -> Vec<(u32, u64)> {
    let (mut begin, mut found) = (leaves.start, Vec::new());
    while begin < leaves.end {
        let level = (leaves.end - begin).ilog2();
        found.push((level, begin >> level));
        begin += 1 << level;
    }
    found
}

/// The ranges whose roots show that a leaf is one of the first `size`, from the leaf up.
pub(crate) fn inclusion(place: u64, size: u64) -> Vec<Range<u64>> {
    let (mut leaves, mut found) = (0..size, Vec::new());
    while leaves.end - leaves.start > 1 {
        let split = split(&leaves);
        if place < split {
            found.push(split..leaves.end);
            leaves.end = split;
        } else {
            found.push(leaves.start..split);
            leaves.start = split;
        }
    }
    found.reverse();
    found
}

/// The ranges whose roots show that the first `from` leaves are the first of `to`.
pub(crate) fn consistency(from: u64, to: u64) -> Vec<Range<u64>> {
    let (mut leaves, mut found, mut is_known) = (0..to, Vec::new(), true);
    while from != leaves.end {
        let split = split(&leaves);
        if from <= split {
            found.push(split..leaves.end);
            leaves.end = split;
        } else {
            found.push(leaves.start..split);
            leaves.start = split;
            is_known = false;
        }
    }
    if !is_known {
        found.push(leaves);
    }
    found.reverse();
    found
}

/// Where the tree of a range of more than one leaf parts.
fn split(leaves: &Range<u64>) -> u64 {
    leaves.start + (1 << (leaves.end - leaves.start - 1).ilog2())
}

/// Whether this leaf is at this place under the root (RFC 9162, 2.1.3.2).
pub(crate) fn is_included(leaf: Hash, (place, size): (u64, u64), path: &[Hash], root: &Hash) -> bool {
    if place >= size {
        return false;
    }
    let (mut at, mut last, mut hash) = (place, size - 1, leaf);
    for beside in path {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            hash = node(beside, &hash);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            hash = node(&hash, beside);
        }
        at >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// Whether the root of `from` leaves is continued by that of `to` (RFC 9162, 2.1.4.2).
pub(crate) fn is_continued((from, before): (u64, &Hash), (to, after): (u64, &Hash), path: &[Hash]) -> bool {
    if from == to {
        return before == after && path.is_empty();
    }
    if from == 0 || from > to {
        return false;
    }
    // Where the earlier tree is one of the later one's subtrees, its root is not sent.
    let known = from.is_power_of_two().then_some(before);
    let mut path = known.into_iter().chain(path);
    let Some(first) = path.next() else {
        return false;
    };
    let (mut at, mut last) = (from - 1, to - 1);
    while at & 1 == 1 {
        at >>= 1;
        last >>= 1;
    }
    let (mut old, mut new) = (*first, *first);
    for beside in path {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            old = node(beside, &old);
            new = node(beside, &new);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            new = node(&new, beside);
        }
        at >>= 1;
        last >>= 1;
    }
    last == 0 && old == *before && new == *after
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As RFC 9162 defines it, word for word.
    fn root(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => empty(),
            [one] => *one,
            _ => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                node(&root(left), &root(right))
            }
        }
    }

    fn leaves(count: u64) -> Vec<Hash> {
        (0..count)
            .map(|number| leaf(&Sha256::digest(number.to_be_bytes()).into()))
            .collect()
    }

    fn at(leaves: &[Hash], range: &Range<u64>) -> Hash {
        let hashes = subtrees(range).into_iter().map(|(level, at)| {
            let begin = usize::try_from(at << level).unwrap();
            whole(&leaves[begin..begin + (1 << level)])
        });
        let found = joined(&hashes.collect::<Vec<_>>());
        let of = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        assert_eq!(found, root(&leaves[of]), "{range:?}");
        found
    }

    #[test]
    fn the_roots_are_those_of_certificate_transparency() {
        // Of no leaf, and of one leaf without content, as every log has them.
        assert_eq!(hex::encode(at(&[], &(0..0))), hex::encode(Sha256::digest([])));
        let one: Hash = Sha256::digest([0]).into();
        assert_eq!(
            hex::encode(one),
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
        );
        let two = node(&one, &Sha256::digest([0, 0]).into());
        assert_eq!(
            hex::encode(two),
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"
        );
    }

    #[test]
    fn every_leaf_is_shown_to_be_under_every_root_and_at_no_other_place() {
        let all = leaves(70);
        for size in 1..=70 {
            let root = at(&all, &(0..size));
            for place in 0..size {
                let path: Vec<_> = inclusion(place, size)
                    .iter()
                    .map(|range| at(&all, range))
                    .collect();
                let leaf = all[usize::try_from(place).unwrap()];
                assert!(is_included(leaf, (place, size), &path, &root));
                for (other, of) in [(place + 1, size), (place ^ 1, size), (place, size + 1)] {
                    // A last leaf without neighbour is under the same hash in a tree that is larger only by name.
                    let is_other = (other, of) != (place, size);
                    assert!(
                        !is_other || !is_included(leaf, (other, of), &path, &root) || of != size,
                        "{place} of {size}"
                    );
                }
                assert!(!is_included(empty(), (place, size), &path, &root));
                let mut longer = path.clone();
                longer.push(root);
                assert!(!is_included(leaf, (place, size), &longer, &root));
                if let Some((_, shorter)) = path.split_last() {
                    assert!(!is_included(leaf, (place, size), shorter, &root));
                    let mut changed = path.clone();
                    changed[0][3] ^= 1;
                    assert!(!is_included(leaf, (place, size), &changed, &root));
                }
            }
            assert!(!is_included(all[0], (size, size), &[], &root));
        }
    }

    #[test]
    fn every_root_is_shown_to_continue_every_earlier_one_and_no_other() {
        let (all, mut others) = (leaves(40), leaves(40));
        others[0][0] ^= 1;
        for to in 1..=40 {
            let after = at(&all, &(0..to));
            for from in 1..=to {
                let before = at(&all, &(0..from));
                let path: Vec<_> = consistency(from, to)
                    .iter()
                    .map(|range| at(&all, range))
                    .collect();
                assert!(is_continued((from, &before), (to, &after), &path), "{from} {to}");
                let other = at(&others, &(0..from));
                assert!(!is_continued((from, &other), (to, &after), &path), "{from} {to}");
                assert!(!is_continued(
                    (from, &before),
                    (to, &at(&others, &(0..to))),
                    &path
                ));
                assert!(!is_continued((0, &before), (to, &after), &path));
                let mut longer = path.clone();
                longer.push(after);
                assert!(!is_continued((from, &before), (to, &after), &longer));
                if let Some((_, shorter)) = path.split_last() {
                    assert!(!is_continued((from, &before), (to, &after), shorter));
                }
            }
        }
    }
}
