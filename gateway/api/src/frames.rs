//! Frames of the agent's protocol as bytes (`agent.rs` says what is in them): number, header, parts.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::problem::Problem;

/// Largest frame either side takes, bytes.
pub const MAX_FRAME: usize = 64 << 20;
/// Bytes of a frame's number.
const NUMBER: usize = 8;

/// One frame without a number: header and parts, as bytes of a binary WebSocket message.
///
/// # Errors
/// `frame_size` when it would exceed [`MAX_FRAME`]; `frame_header` when the header is not JSON.
pub fn encode<H: Serialize, P: AsRef<[u8]>>(header: &H, parts: &[P]) -> Result<Vec<u8>, Problem> {
    let json = serde_json::to_vec(header).map_err(|error| {
        Problem::new(
            "frame_header",
            format!("the frame's header cannot be written: {error}"),
        )
    })?;
    let total = parts
        .iter()
        .fold(NUMBER + 4 + json.len(), |sum, part| sum + 4 + part.as_ref().len());
    if total > MAX_FRAME {
        let limit = MAX_FRAME >> 20;
        return Err(Problem::new(
            "frame_size",
            format!("a message of {total} bytes is over the limit of {limit} MiB"),
        ));
    }
    let mut bytes = Vec::with_capacity(total);
    bytes.extend_from_slice(&[0; NUMBER]);
    for part in std::iter::once(json.as_slice()).chain(parts.iter().map(AsRef::as_ref)) {
        let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(part);
    }
    Ok(bytes)
}

/// Numbers a frame of [`encode`].
pub fn number(frame: &mut [u8], number: u64) {
    if let Some(place) = frame.first_chunk_mut::<NUMBER>() {
        *place = number.to_be_bytes();
    }
}

/// A frame from outside: its number, its header, and the byte ranges of its parts.
pub type Decoded<H> = (u64, H, Vec<std::ops::Range<usize>>);

/// Takes a frame from outside apart.
///
/// # Errors
/// `frame_size` when lengths do not add up; `frame_header` when the header is not the expected JSON.
pub fn decode<H: DeserializeOwned>(bytes: &[u8]) -> Result<Decoded<H>, Problem> {
    let bad = || Problem::new("frame_size", "a frame's lengths do not add up to its size");
    if bytes.len() > MAX_FRAME {
        return Err(bad());
    }
    let number = bytes.first_chunk::<NUMBER>().copied().ok_or_else(bad)?;
    let mut ranges = Vec::new();
    let mut at = NUMBER;
    while at < bytes.len() {
        let length: [u8; 4] = bytes
            .get(at..at + 4)
            .and_then(|raw| raw.try_into().ok())
            .ok_or_else(bad)?;
        let length = usize::try_from(u32::from_be_bytes(length)).map_err(|_| bad())?;
        let end = (at + 4)
            .checked_add(length)
            .filter(|end| *end <= bytes.len())
            .ok_or_else(bad)?;
        ranges.push(at + 4..end);
        at = end;
    }
    if ranges.is_empty() {
        return Err(bad());
    }
    let header = ranges.remove(0);
    let header = serde_json::from_slice(&bytes[header]).map_err(|error| {
        Problem::new(
            "frame_header",
            format!("a frame's header cannot be read: {error}"),
        )
    })?;
    Ok((u64::from_be_bytes(number), header, ranges))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::agent::ToAgent;
    use crate::jupyter::Channel;

    #[test]
    fn frames_round_trip_with_empty_and_binary_parts() {
        let header = ToAgent::Message {
            kernel_id: Uuid::nil(),
            client: Uuid::nil(),
            channel: Channel::Shell,
        };
        let parts: [&[u8]; 4] = [b"{}", b"", &[0xff, 0x00], b"x"];
        let mut bytes = encode(&header, &parts).unwrap();
        assert_eq!(decode::<ToAgent>(&bytes).unwrap().0, 0);
        number(&mut bytes, 1 << 40);
        let (count, back, ranges) = decode::<ToAgent>(&bytes).unwrap();
        assert_eq!(count, 1 << 40);
        assert!(matches!(
            back,
            ToAgent::Message {
                channel: Channel::Shell,
                ..
            }
        ));
        let back: Vec<&[u8]> = ranges.into_iter().map(|range| &bytes[range]).collect();
        assert_eq!(back, parts);
    }

    #[test]
    fn refuses_lengths_that_lie() {
        assert_eq!(decode::<ToAgent>(&[]).unwrap_err().code, "frame_size");
        let refused = |rest: &[u8]| {
            decode::<ToAgent>(&[&[0; NUMBER], rest].concat())
                .unwrap_err()
                .code
        };
        assert_eq!(refused(&[0, 0, 0, 9, b'{']), "frame_size");
        assert_eq!(refused(&[0, 0]), "frame_size");
        assert_eq!(refused(&[]), "frame_size");
        assert_eq!(refused(&[0, 0, 0, 2, b'{', b'}']), "frame_header");
    }

    #[test]
    fn refuses_to_write_a_frame_over_the_limit() {
        let part = vec![0_u8; MAX_FRAME];
        assert_eq!(encode(&0, &[part]).unwrap_err().code, "frame_size");
    }
}
