//! The `Range` header, as far as Hub clients use it: one range of bytes.

use std::ops::Range;

/// What a request wants of a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The whole file: no range, or one that may be ignored.
    All,
    /// These bytes.
    Part(Range<u64>),
    /// Bytes that the file does not have.
    Outside,
}

/// Reads a `Range` header for a file of `size` bytes. Several ranges and other units are ignored, as RFC 9110 allows.
pub(crate) fn parse(header: Option<&str>, size: u64) -> Wanted {
    let Some(spec) = header.and_then(|text| text.trim().strip_prefix("bytes=")) else {
        return Wanted::All;
    };
    let Some((first, last)) = spec.split_once('-') else {
        return Wanted::All;
    };
    let (first, last) = (first.trim(), last.trim());
    if first.is_empty() {
        return match last.parse::<u64>() {
            Ok(0) => Wanted::Outside,
            Ok(_) if size == 0 => Wanted::Outside,
            Ok(count) => Wanted::Part(size.saturating_sub(count)..size),
            Err(_) => Wanted::All,
        };
    }
    let Ok(first) = first.parse::<u64>() else {
        return Wanted::All;
    };
    let end = match last {
        "" => size,
        last => match last.parse::<u64>() {
            Ok(last) if last >= first => last.saturating_add(1).min(size),
            _ => return Wanted::All,
        },
    };
    if first >= size {
        Wanted::Outside
    } else {
        Wanted::Part(first..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_ranges_that_clients_send() {
        let cases = [
            (None, 10, Wanted::All),
            (Some("bytes=0-0"), 10, Wanted::Part(0..1)),
            (Some("bytes=3-"), 10, Wanted::Part(3..10)),
            (Some("bytes=0-100000"), 10, Wanted::Part(0..10)),
            (Some("bytes=-4"), 10, Wanted::Part(6..10)),
            (Some("bytes=-40"), 10, Wanted::Part(0..10)),
            (Some("bytes=10-"), 10, Wanted::Outside),
            (Some("bytes=0-0"), 0, Wanted::Outside),
            (Some("bytes=-0"), 10, Wanted::Outside),
            (Some("bytes=5-2"), 10, Wanted::All),
            (Some("bytes=0-1,3-4"), 10, Wanted::All),
            (Some("items=0-1"), 10, Wanted::All),
            (
                Some("bytes=18446744073709551615-18446744073709551615"),
                10,
                Wanted::Outside,
            ),
            (Some("bytes=0-18446744073709551615"), 10, Wanted::Part(0..10)),
        ];
        for (header, size, wanted) in cases {
            assert_eq!(parse(header, size), wanted, "{header:?} of {size}");
        }
    }
}
