//! Percent-encoding of paths, for addresses and headers that we write (RFC 3986, section 2).

/// Text as it may stand in one segment of a path, or behind `filename*=UTF-8''`.
pub(crate) fn segment(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// A path, its slashes kept.
pub(crate) fn path(text: &str) -> String {
    text.split('/').map(segment).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_slashes_and_hides_all_else() {
        assert_eq!(path("a b/ä?#%/c.d"), "a%20b/%C3%A4%3F%23%25/c.d");
        assert_eq!(segment("a/b"), "a%2Fb");
    }
}
