//! SHA-256 (FIPS 180-4), fast: one message by aws-lc's assembly, and many messages of one length side by side in the lanes of
//! vector registers, which is several times faster where a processor has no SHA instructions.
//!
//! Objects are hashed whole and in slices, files whole: sealing spends most of its time here (docs/benchmarks.md). Not here:
//! what is hashed.

use aws_lc_rs::digest::{Context, SHA256};

/// Messages that are hashed side by side.
const LANES: usize = 16;
/// Bytes of a block.
const BLOCK: usize = 64;

/// A running hash.
pub(crate) struct Sha256(Context);

impl Sha256 {
    pub(crate) fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finalize(self) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(self.0.finish().as_ref());
        hash
    }
}

/// The hash of parts in a row.
pub(crate) fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

/// The hash of `first` and then the message, for each message. Messages of one length in a row go side by side.
pub(crate) fn sha256_each(first: u8, messages: &[&[u8]]) -> Vec<[u8; 32]> {
    let mut hashes = Vec::with_capacity(messages.len());
    let mut rest = messages;
    while let Some(next) = rest.first() {
        let group = rest.first_chunk::<LANES>();
        match group.filter(|group| group.iter().all(|message| message.len() == next.len())) {
            Some(group) => {
                hashes.extend(side_by_side(first, group));
                rest = &rest[LANES..];
            }
            None => {
                hashes.push(sha256(&[&[first], next]));
                rest = &rest[1..];
            }
        }
    }
    hashes
}

/// One value for each lane.
type Lanes = [u32; LANES];

/// The hashes of messages of one length, each behind one byte, by the widest instructions that this processor has.
#[cfg(target_arch = "x86_64")]
#[expect(
    unsafe_code,
    reason = "code for a kind of processor is called on that kind only"
)]
fn side_by_side(first: u8, messages: &[&[u8]; LANES]) -> [[u8; 32]; LANES] {
    #[target_feature(enable = "avx512f,avx512vl")]
    fn with_avx512(first: u8, messages: &[&[u8]; LANES]) -> [[u8; 32]; LANES] {
        in_lanes(first, messages)
    }
    #[target_feature(enable = "avx2")]
    fn with_avx2(first: u8, messages: &[&[u8]; LANES]) -> [[u8; 32]; LANES] {
        in_lanes(first, messages)
    }
    if std::is_x86_feature_detected!("avx512f") && std::is_x86_feature_detected!("avx512vl") {
        // SAFETY: this processor has both.
        return unsafe { with_avx512(first, messages) };
    }
    if std::is_x86_feature_detected!("avx2") {
        // SAFETY: this processor has it.
        return unsafe { with_avx2(first, messages) };
    }
    in_lanes(first, messages)
}

#[cfg(not(target_arch = "x86_64"))]
fn side_by_side(first: u8, messages: &[&[u8]; LANES]) -> [[u8; 32]; LANES] {
    in_lanes(first, messages)
}

/// Inlined into code for each kind of processor, where the loops over lanes become vector instructions.
#[inline(always)]
fn in_lanes(first: u8, messages: &[&[u8]; LANES]) -> [[u8; 32]; LANES] {
    let mut state = INITIAL.map(|word| [word; LANES]);
    // The first byte shifts all blocks by one.
    let length = messages[0].len() + 1;
    let full = length / BLOCK;
    for block in 0..full {
        let mut words = [[0; LANES]; 16];
        for (lane, message) in messages.iter().enumerate() {
            let mut bytes = [0; BLOCK];
            if block == 0 {
                bytes[0] = first;
                bytes[1..].copy_from_slice(&message[..BLOCK - 1]);
            } else {
                bytes.copy_from_slice(&message[block * BLOCK - 1..][..BLOCK]);
            }
            load(&mut words, lane, &bytes);
        }
        compress(&mut state, words);
    }
    // What is left, the bit that ends it, and the length in bits.
    let rest = length % BLOCK;
    let ends = if rest < BLOCK - 8 { 1 } else { 2 };
    for end in 0..ends {
        let mut words = [[0; LANES]; 16];
        for (lane, message) in messages.iter().enumerate() {
            let mut bytes = [0; 2 * BLOCK];
            if full == 0 {
                bytes[0] = first;
                bytes[1..rest].copy_from_slice(message);
            } else {
                bytes[..rest].copy_from_slice(&message[full * BLOCK - 1..]);
            }
            bytes[rest] = 0x80;
            bytes[ends * BLOCK - 8..ends * BLOCK].copy_from_slice(&(length as u64 * 8).to_be_bytes());
            load(&mut words, lane, &bytes[end * BLOCK..][..BLOCK]);
        }
        compress(&mut state, words);
    }
    let mut hashes = [[0; 32]; LANES];
    for (lane, hash) in hashes.iter_mut().enumerate() {
        for (bytes, word) in hash.chunks_exact_mut(4).zip(&state) {
            bytes.copy_from_slice(&word[lane].to_be_bytes());
        }
    }
    hashes
}

#[inline(always)]
fn load(words: &mut [Lanes; 16], lane: usize, bytes: &[u8]) {
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
        word[lane] = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
}

/// A value for each lane.
#[inline(always)]
fn each(value: impl Fn(usize) -> u32) -> Lanes {
    let mut lanes = [0; LANES];
    for (lane, out) in lanes.iter_mut().enumerate() {
        *out = value(lane);
    }
    lanes
}
/// The compression function in all lanes (FIPS 180-4, 6.2.2).
#[inline(always)]
fn compress(state: &mut [Lanes; 8], mut words: [Lanes; 16]) {
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    for (round, constant) in ROUNDS.iter().enumerate() {
        let at = round % 16;
        if round >= 16 {
            let (near, far, middle, old) = (
                words[(round + 1) % 16],
                words[(round + 14) % 16],
                words[(round + 9) % 16],
                words[at],
            );
            words[at] = each(|lane| {
                let small = near[lane].rotate_right(7) ^ near[lane].rotate_right(18) ^ (near[lane] >> 3);
                let large = far[lane].rotate_right(17) ^ far[lane].rotate_right(19) ^ (far[lane] >> 10);
                old[lane]
                    .wrapping_add(small)
                    .wrapping_add(middle[lane])
                    .wrapping_add(large)
            });
        }
        let word = words[at];
        let one = each(|lane| {
            let sum = e[lane].rotate_right(6) ^ e[lane].rotate_right(11) ^ e[lane].rotate_right(25);
            let choice = (e[lane] & f[lane]) ^ (!e[lane] & g[lane]);
            h[lane]
                .wrapping_add(sum)
                .wrapping_add(choice)
                .wrapping_add(*constant)
                .wrapping_add(word[lane])
        });
        let two = each(|lane| {
            let sum = a[lane].rotate_right(2) ^ a[lane].rotate_right(13) ^ a[lane].rotate_right(22);
            let majority = (a[lane] & b[lane]) ^ (a[lane] & c[lane]) ^ (b[lane] & c[lane]);
            sum.wrapping_add(majority)
        });
        (h, g, f) = (g, f, e);
        e = each(|lane| d[lane].wrapping_add(one[lane]));
        (d, c, b) = (c, b, a);
        a = each(|lane| one[lane].wrapping_add(two[lane]));
    }
    for (word, added) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        let old = *word;
        *word = each(|lane| old[lane].wrapping_add(added[lane]));
    }
}

/// The first hash value (FIPS 180-4, 5.3.3).
const INITIAL: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// A constant for each round (FIPS 180-4, 4.2.2).
const ROUNDS: [u32; 64] = [
    0x428a_2f98,
    0x7137_4491,
    0xb5c0_fbcf,
    0xe9b5_dba5,
    0x3956_c25b,
    0x59f1_11f1,
    0x923f_82a4,
    0xab1c_5ed5,
    0xd807_aa98,
    0x1283_5b01,
    0x2431_85be,
    0x550c_7dc3,
    0x72be_5d74,
    0x80de_b1fe,
    0x9bdc_06a7,
    0xc19b_f174,
    0xe49b_69c1,
    0xefbe_4786,
    0x0fc1_9dc6,
    0x240c_a1cc,
    0x2de9_2c6f,
    0x4a74_84aa,
    0x5cb0_a9dc,
    0x76f9_88da,
    0x983e_5152,
    0xa831_c66d,
    0xb003_27c8,
    0xbf59_7fc7,
    0xc6e0_0bf3,
    0xd5a7_9147,
    0x06ca_6351,
    0x1429_2967,
    0x27b7_0a85,
    0x2e1b_2138,
    0x4d2c_6dfc,
    0x5338_0d13,
    0x650a_7354,
    0x766a_0abb,
    0x81c2_c92e,
    0x9272_2c85,
    0xa2bf_e8a1,
    0xa81a_664b,
    0xc24b_8b70,
    0xc76c_51a3,
    0xd192_e819,
    0xd699_0624,
    0xf40e_3585,
    0x106a_a070,
    0x19a4_c116,
    0x1e37_6c08,
    0x2748_774c,
    0x34b0_bcb5,
    0x391c_0cb3,
    0x4ed8_aa4a,
    0x5b9c_ca4f,
    0x682e_6ff3,
    0x748f_82ee,
    0x78a5_636f,
    0x84c8_7814,
    0x8cc7_0208,
    0x90be_fffa,
    0xa450_6ceb,
    0xbef9_a3f7,
    0xc671_78f2,
];

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::Digest;

    /// FIPS 180-4's examples, as NIST publishes them.
    #[test]
    fn hashes_the_published_examples() {
        assert_eq!(
            hex::encode(sha256(&[b"ab", b"c"])),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(
            hex::encode(sha256(&[])),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }

    #[test]
    fn side_by_side_is_the_same_as_one_by_one_at_every_length_of_the_last_block() {
        let bytes: Vec<u8> = (0..64_u32 * 1024).map(|at| (at * 31 % 251) as u8).collect();
        for length in (0..200).chain([1023, 1024, 4095, 4096]) {
            // Two groups, one that is not whole, and one of another length.
            let messages: Vec<&[u8]> = (0..37)
                .map(|at| &bytes[at * 7..at * 7 + length])
                .chain([&bytes[..3]])
                .collect();
            let expected: Vec<[u8; 32]> = messages
                .iter()
                .map(|message| {
                    sha2::Sha256::new()
                        .chain_update([9])
                        .chain_update(message)
                        .finalize()
                        .into()
                })
                .collect();
            assert_eq!(sha256_each(9, &messages), expected, "{length}");
        }
    }
}
