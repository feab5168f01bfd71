//! Where a safetensors file is cut into objects, so that a tensor that stays the same finds its objects again when others
//! change, or when the header gets longer.
//!
//! A tensor of at least half an object begins in an object of its own and is divided into equal pieces, whose borders follow
//! from its size alone. Smaller tensors fill objects together and are cut at their borders. Half an object, because a STORE
//! is billed as at least 25 MiB: an object of 16 MiB costs at most 1.6 times what is in it, one of a quarter 3.1 times, and
//! of what is smaller many tensors share the price of one object. The objects are in the order of the file, each visited once
//! by who reads it from one end to the other; only what stands at the ends and is small, the header above all, goes to the small
//! files.

use std::collections::HashMap;

/// Longest header that is read, some 50,000 tensors: it is in memory whole.
pub(crate) const HEADER_MAX: u64 = 8 << 20;
/// Most tensors.
const TENSORS_MAX: usize = 1 << 20;

/// A run of a file's bytes that begins an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// At most an object's capacity.
    pub(crate) length: u64,
    /// Goes to the small files in place of an object of its own.
    pub(crate) packed: bool,
}

/// Bytes of the header, if the file can be one of safetensors by its first eight bytes and its size.
pub(crate) fn header_length(first: [u8; 8], size: u64) -> Option<u64> {
    let length = u64::from_le_bytes(first);
    (2..=HEADER_MAX.min(size.saturating_sub(8)))
        .contains(&length)
        .then_some(length)
}

/// Sizes of the tensors in the order in which they lie, when the header describes `data` bytes without gap and overlap.
pub(crate) fn tensors(header: &[u8], data: u64) -> Option<Vec<u64>> {
    let entries: HashMap<String, Value> = serde_json::from_slice(header).ok()?;
    if header.first() != Some(&b'{') || entries.len() > TENSORS_MAX {
        return None;
    }
    let mut spans = Vec::with_capacity(entries.len());
    for (name, value) in entries {
        match value {
            Value::Tensor(tensor) => spans.push(tensor.span()?),
            Value::Notes(notes) if name == "__metadata__" && notes.len() <= TENSORS_MAX => {}
            Value::Notes(_) => return None,
        }
    }
    spans.sort_unstable();
    let mut at = 0;
    let mut sizes = Vec::with_capacity(spans.len());
    for (from, to) in spans {
        if from != at {
            return None;
        }
        sizes.push(to - from);
        at = to;
    }
    (at == data && !sizes.is_empty()).then_some(sizes)
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Value {
    Tensor(Tensor),
    Notes(HashMap<String, String>),
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Tensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl Tensor {
    /// First byte and end, if they are as many as type and shape say.
    fn span(&self) -> Option<(u64, u64)> {
        let bits: u64 = match self.dtype.as_str() {
            "F4" => 4,
            "F6_E2M3" | "F6_E3M2" => 6,
            "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" => 8,
            "U16" | "I16" | "F16" | "BF16" => 16,
            "U32" | "I32" | "F32" => 32,
            "U64" | "I64" | "F64" | "C64" => 64,
            _ => return None,
        };
        let count = self
            .shape
            .iter()
            .try_fold(bits, |count, side| count.checked_mul(*side))?;
        let (from, to) = self.data_offsets;
        (to.checked_sub(from)? == count / 8 && count.is_multiple_of(8)).then_some((from, to))
    }
}

/// Cuts a file of this header (its length included) and these tensors.
pub(crate) fn cut(header: u64, tensors: &[u64], capacity: u64) -> Vec<Piece> {
    let mut lengths = even(header, capacity);
    // Bytes of the object that is being filled.
    let mut open = 0;
    let mut close = |open: &mut u64| {
        if *open > 0 {
            lengths.push(std::mem::take(open));
        }
    };
    for &size in tensors {
        if size < capacity / 2 {
            if open + size > capacity {
                close(&mut open);
            }
            open += size;
            continue;
        }
        let pieces = even(size, capacity);
        // What is small before it costs no object of its own where its first piece has room.
        let first = pieces.first().copied().unwrap_or_default();
        if open >= capacity / 2 || open + first > capacity {
            close(&mut open);
        }
        for (number, piece) in pieces.into_iter().enumerate() {
            if number > 0 {
                close(&mut open);
            }
            open += piece;
        }
    }
    close(&mut open);
    let (small, last) = (capacity / 4, lengths.len().saturating_sub(1));
    let piece = |(at, length): (usize, u64)| Piece {
        length,
        packed: length < small && (at == 0 || at == last),
    };
    lengths.into_iter().enumerate().map(piece).collect()
}

/// Equal pieces, all but the last a multiple of a 32nd of an object.
fn even(size: u64, capacity: u64) -> Vec<u64> {
    if size == 0 {
        return Vec::new();
    }
    let step = (capacity / 32).max(1);
    let piece = size
        .div_ceil(size.div_ceil(capacity))
        .next_multiple_of(step)
        .min(capacity);
    let whole = size / piece;
    let mut pieces = vec![piece; usize::try_from(whole).unwrap_or(usize::MAX)];
    pieces.extend((size % piece > 0).then_some(size % piece));
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    fn lengths(header: u64, tensors: &[u64]) -> Vec<u64> {
        let pieces = cut(header, tensors, 32 * MIB);
        pieces.iter().map(|piece| piece.length).collect()
    }

    #[test]
    fn large_tensors_begin_an_object_and_small_ones_share() {
        assert_eq!(
            lengths(500, &[64 * MIB, 64 * MIB]),
            [500, 32 * MIB, 32 * MIB, 32 * MIB, 32 * MIB]
        );
        // Equal pieces, and what is small goes where there is room: behind, before, or at the end to the small files.
        assert_eq!(
            lengths(500, &[40 * MIB, 100, 32 * MIB, 100, 40 * MIB, 100]),
            [
                500,
                20 * MIB,
                20 * MIB + 100,
                32 * MIB,
                20 * MIB + 100,
                20 * MIB + 100
            ]
        );
        let ends = cut(500, &[32 * MIB, 100], 32 * MIB);
        assert_eq!(
            ends.iter().map(|piece| piece.packed).collect::<Vec<_>>(),
            [true, false, true]
        );
        let many = vec![MIB; 64];
        assert_eq!(lengths(500, &many), [500, 32 * MIB, 32 * MIB]);
    }

    #[test]
    fn a_longer_header_moves_no_border_of_a_tensor() {
        let tensors = [70 * MIB, 3 * MIB, 20 * MIB];
        assert_eq!(lengths(500, &tensors)[1..], lengths(50_000, &tensors)[1..]);
    }

    #[test]
    fn reads_headers_strictly() {
        let read = |text: &str, data| tensors(text.as_bytes(), data);
        let one = r#"{"__metadata__":{"a":"b"},"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}  "#;
        assert_eq!(read(one, 16), Some(vec![16]));
        for (text, data) in [
            (one, 17),
            (r#" {"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#, 1),
            (r#"{"w":{"dtype":"U8","shape":[2],"data_offsets":[0,1]}}"#, 1),
            (r#"{"w":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}}"#, 1),
            (r#"{"w":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#, 2),
            (r#"{"w":{"dtype":"X8","shape":[1],"data_offsets":[0,1]}}"#, 1),
            (
                r#"{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"more":1}}"#,
                1,
            ),
            (
                r#"{"w":{"dtype":"U8","shape":[18446744073709551615,9],"data_offsets":[0,1]}}"#,
                1,
            ),
            (r#"{"other":{"a":"b"}}"#, 0),
            ("{}", 0),
        ] {
            assert_eq!(read(text, data), None, "{text}");
        }
        assert_eq!(header_length(20_u64.to_le_bytes(), 28), Some(20));
        for (length, size) in [
            (21_u64, 28_u64),
            (1, 28),
            (u64::MAX, u64::MAX),
            (HEADER_MAX + 1, u64::MAX),
            (2, 3),
        ] {
            assert_eq!(
                header_length(length.to_le_bytes(), size),
                None,
                "{length} of {size}"
            );
        }
    }

    proptest! {
        #[test]
        fn every_byte_is_in_one_piece_that_fits(
            header in 1_u64..3_000,
            tensors in proptest::collection::vec(prop_oneof![0_u64..100, 0_u64..1_024, 0_u64..40_000], 1..40),
        ) {
            let capacity = 1_024;
            let pieces = cut(header, &tensors, capacity);
            let sum: u64 = pieces.iter().map(|piece| piece.length).sum();
            prop_assert_eq!(sum, header + tensors.iter().sum::<u64>());
            prop_assert!(pieces.iter().all(|piece| piece.length > 0 && piece.length <= capacity));
            // Where a large tensor begins and is divided.
            let mut at = header;
            let mut borders = vec![0];
            for piece in &pieces {
                borders.push(borders.last().unwrap() + piece.length);
            }
            for size in tensors {
                let pieces = even(size, capacity);
                if size >= capacity / 2 {
                    let mut inner = at;
                    for piece in &pieces[..pieces.len() - 1] {
                        inner += piece;
                        prop_assert!(borders.contains(&inner));
                    }
                }
                at += size;
            }
            // Two neighbours would not have fit into one, the ends and what is at large tensors apart.
            prop_assert!(pieces.len() as u64 <= 4 + header / 512 + 4 * (sum / 512));
        }
    }
}
