//! The part of ZMTP 3.0 that a publisher needs: greeting, READY, frames, subscriptions.
//!
//! Source: rfc.zeromq.org/spec/23. Minor version 0 makes newer peers (3.1) send subscriptions as messages.
//! Only the NULL mechanism; bytes in, values out, no sockets here. Called by [`super::subscriber`].

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Length of a greeting in bytes.
pub(crate) const GREETING_BYTES: usize = 64;
/// Longest frame taken from a subscriber: topics and commands are short.
const MAX_FRAME_BYTES: u64 = 64 * 1024;

const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// What a subscriber says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FromSubscriber {
    /// Wants messages whose topic starts so.
    Subscribe(Bytes),
    /// No longer wants them.
    Cancel(Bytes),
    /// Its READY.
    Ready,
    /// Wants to know that we live; the bytes go back.
    Ping(Bytes),
    /// Anything else, of no meaning to a publisher.
    Other,
}

/// Our greeting.
pub(crate) fn greeting() -> [u8; GREETING_BYTES] {
    let mut bytes = [0_u8; GREETING_BYTES];
    bytes[0] = 0xff;
    bytes[9] = 0x7f;
    bytes[10] = 3;
    bytes[12..16].copy_from_slice(b"NULL");
    bytes
}

/// Whether a peer's greeting is ZMTP 3 with the NULL mechanism.
pub(crate) fn is_greeting(bytes: &[u8; GREETING_BYTES]) -> bool {
    bytes[0] == 0xff && bytes[9] & 1 == 1 && bytes[10] >= 3 && &bytes[12..17] == b"NULL\0"
}

/// The READY command of an XPUB socket.
pub(crate) fn ready() -> Bytes {
    let mut body = BytesMut::new();
    body.put_slice(b"\x05READY\x0bSocket-Type");
    body.put_u32(4);
    body.put_slice(b"XPUB");
    frame(COMMAND, &body)
}

/// Answer to a PING.
pub(crate) fn pong(context: &[u8]) -> Bytes {
    let mut body = BytesMut::from(&b"\x04PONG"[..]);
    body.put_slice(context);
    frame(COMMAND, &body)
}

/// A message of several frames.
pub(crate) fn message(frames: &[Bytes]) -> Bytes {
    let mut out = BytesMut::with_capacity(frames.iter().map(|frame| frame.len() + 9).sum());
    for (index, part) in frames.iter().enumerate() {
        let flags = if index + 1 < frames.len() { MORE } else { 0 };
        put_frame(&mut out, flags, part);
    }
    out.freeze()
}

/// Reads the next thing that a subscriber says.
///
/// # Errors
/// Of the socket, and `InvalidData` for a frame that no subscriber needs to send.
pub(crate) async fn read(reader: &mut (impl AsyncRead + Unpin)) -> std::io::Result<FromSubscriber> {
    let flags = reader.read_u8().await?;
    let length = if flags & LONG == 0 {
        u64::from(reader.read_u8().await?)
    } else {
        reader.read_u64().await?
    };
    let length = usize::try_from(length)
        .ok()
        .filter(|length| *length as u64 <= MAX_FRAME_BYTES);
    let Some(length) = length else {
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            "frame too long",
        ));
    };
    let mut body = vec![0_u8; length];
    reader.read_exact(&mut body).await?;
    Ok(parse(flags, &Bytes::from(body)))
}

fn parse(flags: u8, body: &Bytes) -> FromSubscriber {
    if flags & COMMAND == 0 {
        return match body.first() {
            Some(1) => FromSubscriber::Subscribe(body.slice(1..)),
            Some(0) => FromSubscriber::Cancel(body.slice(1..)),
            _ => FromSubscriber::Other,
        };
    }
    let name_end = 1 + usize::from(body.first().copied().unwrap_or(0));
    match body.get(1..name_end) {
        Some(b"READY") => FromSubscriber::Ready,
        Some(b"SUBSCRIBE") => FromSubscriber::Subscribe(body.slice(name_end..)),
        Some(b"CANCEL") => FromSubscriber::Cancel(body.slice(name_end..)),
        // Two bytes of time to live, then the context.
        Some(b"PING") => FromSubscriber::Ping(body.slice((name_end + 2).min(body.len())..)),
        _ => FromSubscriber::Other,
    }
}

fn frame(flags: u8, body: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(body.len() + 9);
    put_frame(&mut out, flags, body);
    out.freeze()
}

fn put_frame(out: &mut BytesMut, flags: u8, body: &[u8]) {
    if let Ok(length) = u8::try_from(body.len()) {
        out.put_u8(flags);
        out.put_u8(length);
    } else {
        out.put_u8(flags | LONG);
        out.put_u64(body.len() as u64);
    }
    out.put_slice(body);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greeting_is_accepted_by_the_check_for_peers() {
        assert!(is_greeting(&greeting()));
        let mut curve = greeting();
        curve[12..17].copy_from_slice(b"CURVE");
        assert!(!is_greeting(&curve));
    }

    #[test]
    fn long_frames_have_eight_bytes_of_length() {
        let out = message(&[Bytes::from_static(b"t"), Bytes::from(vec![7; 256])]);
        assert_eq!(&out[..3], &[MORE, 1, b't']);
        assert_eq!(&out[3..12], &[LONG, 0, 0, 0, 0, 0, 0, 1, 0]);
        assert_eq!(out.len(), 3 + 9 + 256);
    }

    #[tokio::test]
    async fn subscriptions_come_as_messages_or_as_commands() {
        let mut bytes: &[u8] = b"\x00\x02\x01a\x00\x02\x00a\x04\x0b\x09SUBSCRIBEb";
        assert_eq!(
            read(&mut bytes).await.unwrap(),
            FromSubscriber::Subscribe(Bytes::from_static(b"a"))
        );
        assert_eq!(
            read(&mut bytes).await.unwrap(),
            FromSubscriber::Cancel(Bytes::from_static(b"a"))
        );
        assert_eq!(
            read(&mut bytes).await.unwrap(),
            FromSubscriber::Subscribe(Bytes::from_static(b"b"))
        );
    }

    #[tokio::test]
    async fn refuses_a_frame_that_claims_gigabytes() {
        let mut bytes: &[u8] = b"\x02\x00\x00\x00\xff\x00\x00\x00\x00";
        assert_eq!(
            read(&mut bytes).await.unwrap_err().kind(),
            std::io::ErrorKind::InvalidData
        );
    }
}
