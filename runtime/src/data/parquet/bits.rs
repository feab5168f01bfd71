//! Numbers packed into bits: runs of equal ones (RLE) and differences. Called by [`super::pages`].

/// Reads bits, lowest first.
struct Bits<'a> {
    bytes: &'a [u8],
    /// In bits.
    at: usize,
}

impl Bits<'_> {
    /// The next number of `width` bits, at most 64.
    fn next(&mut self, width: usize) -> Option<u64> {
        let (mut value, mut have) = (0_u64, 0);
        while have < width {
            let byte = u64::from(*self.bytes.get(self.at / 8)?);
            let (from, take) = (self.at % 8, (8 - self.at % 8).min(width - have));
            value |= (byte >> from & ((1 << take) - 1)) << have;
            (have, self.at) = (have + take, self.at + take);
        }
        Some(value)
    }
}

/// A number of seven bits a byte, and the bytes behind it.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (at, byte) in bytes.iter().enumerate().take(9) {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if *byte < 0x80 {
            return Some((value, &bytes[at + 1..]));
        }
    }
    None
}

/// `count` numbers of `width` bits, at most 32, in runs: of one number, or of packed ones. None when there are fewer.
pub(super) fn runs(mut bytes: &[u8], width: usize, count: usize) -> Option<Vec<u32>> {
    let mut values: Vec<u32> = Vec::new();
    if width > 32 {
        return None;
    }
    while values.len() < count {
        let (head, rest) = varint(bytes)?;
        let left = count - values.len();
        let length = usize::try_from(head >> 1).ok()?;
        if head & 1 == 0 {
            let size = width.div_ceil(8);
            let value = rest
                .get(..size)?
                .iter()
                .rev()
                .fold(0, |all, byte| all << 8 | u32::from(*byte));
            values.resize(values.len() + length.min(left), value);
            bytes = &rest[size..];
        } else {
            let size = length.checked_mul(width)?;
            // The last run may be cut where its numbers end.
            let packed = &rest[..size.min(rest.len())];
            let mut bits = Bits { bytes: packed, at: 0 };
            for _ in 0..length.checked_mul(8)?.min(left) {
                values.push(u32::try_from(bits.next(width)?).ok()?);
            }
            bytes = &rest[packed.len()..];
        }
    }
    Some(values)
}

/// Numbers as differences (DELTA_BINARY_PACKED), `count` of them at most, and the bytes behind.
pub(super) fn differences(bytes: &[u8], count: usize) -> Option<(Vec<i64>, &[u8])> {
    let signed = |value: u64| (value >> 1).cast_signed() ^ -(value & 1).cast_signed();
    let (block, rest) = varint(bytes)?;
    let (parts, rest) = varint(rest)?;
    let (total, rest) = varint(rest)?;
    let (first, mut rest) = varint_wide(rest)?;
    let (block, parts) = (usize::try_from(block).ok()?, usize::try_from(parts).ok()?);
    let total = usize::try_from(total).ok().filter(|&total| total <= count)?;
    let part = block
        .checked_div(parts)
        .filter(|&part| part > 0 && part % 8 == 0)?;
    let mut values = Vec::new();
    if total > 0 {
        values.push(signed(first));
    }
    while values.len() < total {
        let (least, after) = varint_wide(rest)?;
        let widths = after.get(..parts)?;
        rest = &after[parts..];
        for &width in widths {
            if values.len() >= total {
                // Widths of parts that are not there mean nothing.
                break;
            }
            let width = usize::from(width);
            let size = part.checked_mul(width)? / 8;
            let packed = rest.get(..size).filter(|_| width <= 64)?;
            let mut bits = Bits { bytes: packed, at: 0 };
            for _ in 0..part.min(total - values.len()) {
                let difference = signed(least).wrapping_add(bits.next(width)?.cast_signed());
                values.push(values.last()?.wrapping_add(difference));
            }
            rest = &rest[size..];
        }
    }
    Some((values, rest))
}

/// As [`varint`], with all 64 bits.
fn varint_wide(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (at, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f).checked_shl(u32::try_from(7 * at).ok()?)?;
        if *byte < 0x80 {
            return Some((value, &bytes[at + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_and_packed_numbers_are_those_of_the_format() {
        // From the format's own page: 0 to 7 in three bits each.
        assert_eq!(
            runs(&[0x03, 0x88, 0xc6, 0xfa], 3, 8).unwrap(),
            [0, 1, 2, 3, 4, 5, 6, 7]
        );
        assert_eq!(runs(&[0x08, 0x05, 0x03, 0xff], 1, 4).unwrap(), [5; 4]);
        assert_eq!(runs(&[0x04, 0x2c, 0x01], 9, 2).unwrap(), [300, 300]);
        assert_eq!(runs(&[0x06], 0, 3).unwrap(), [0; 3]);
        for broken in [&[][..], &[0x03, 0x88], &[0x08], &[0xff; 12]] {
            assert!(runs(broken, 3, 8).is_none());
        }
    }

    #[test]
    fn differences_are_those_of_the_format() {
        // Its first example, 1 to 5: block of 128 in four parts, five values, the first 1, least difference 1, no bits.
        let mut bytes = vec![0x80, 0x01, 0x04, 0x05, 0x02, 0x02, 0, 0, 0, 0];
        bytes.push(99);
        let (values, rest) = differences(&bytes, 5).unwrap();
        assert_eq!((&values[..], rest), (&[1, 2, 3, 4, 5][..], &[99][..]));
        assert!(differences(&bytes, 4).is_none() && differences(&bytes[..6], 5).is_none());
        assert!(differences(&[0x80, 0x01, 0, 5, 2, 2], 5).is_none());
    }
}
