//! RFC 9162 tree hash and its 1 MiB leaves. Used by the manifest and by sealing.

use crate::digest::{sha256, sha256_each};

/// Bytes under one leaf.
pub(crate) const SLICE: usize = 1 << 20;

/// Leaf hashes of RFC 9162, SHA-256(0x00 ‖ slice), one for each started MiB.
pub(crate) fn leaves(bytes: &[u8]) -> Vec<[u8; 32]> {
    sha256_each(0, &bytes.chunks(SLICE).collect::<Vec<_>>())
}

/// Merkle tree hash over leaf hashes; SHA-256 of nothing for no leaves.
pub(crate) fn root(leaves: &[[u8; 32]]) -> [u8; 32] {
    match leaves {
        [] => sha256(&[]),
        [one] => *one,
        _ => {
            let split = leaves.len().next_power_of_two() / 2;
            let (left, right) = leaves.split_at(split);
            sha256(&[&[1], &root(left), &root(right)])
        }
    }
}
