//! RFC 9162 tree hash and the 1 MiB leaves of a sealed object. Used by the manifest.

use crate::encoding::sha256;

/// Bytes of ciphertext under one leaf.
pub(crate) const SLICE: usize = 1 << 20;

/// Leaf hash of RFC 9162: SHA-256(0x00 ‖ data).
pub(crate) fn leaf(data: &[u8]) -> [u8; 32] {
    sha256(&[&[0], data])
}

/// Leaves of a sealed object, one for each started MiB of it.
pub(crate) fn leaves(ciphertext: &[u8]) -> Vec<[u8; 32]> {
    ciphertext.chunks(SLICE).map(leaf).collect()
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
