//! One sealed object: frame, sealing and opening (container sections 4 to 6). Knows nothing of files.

use crate::digest::sha256;
use crate::keys::{DatasetId, ObjectKey, expand, hmac512};
use crate::{Result, VaultError};
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit, Nonce, Tag};
use hmac::Mac;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Bytes before the first chunk.
pub(crate) const FRAME: usize = 88;
/// Plaintext bytes of a full chunk.
pub(crate) const CHUNK: usize = 16_384;
/// Bytes of an authentication tag.
pub(crate) const TAG: usize = 16;
/// Largest plaintext of any object: 64 MiB.
pub(crate) const MAX_PLAINTEXT: u64 = 1 << 26;

const MAGIC: &[u8; 8] = b"ALEPHDS1";
const CONTEXT: &[u8] = b"aleph-dataset/v1/object\0";
const SUITE: &[u8] = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0";

/// What an object holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Content of files.
    Data = 1,
    /// A page of the manifest.
    Page = 2,
    /// The root of the manifest.
    Root = 3,
    /// Hashes of slices of data objects.
    Leaves = 4,
}

/// The frame's variable fields.
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) epoch: u32,
    pub(crate) object_id: [u8; 16],
    salt: [u8; 24],
    commitment: [u8; 32],
}

/// What manifest or head say of an object before it is fetched.
pub(crate) struct Expected<'a> {
    pub(crate) name: &'a str,
    pub(crate) ciphertext_len: u64,
    pub(crate) sha256: [u8; 32],
    pub(crate) kind: Kind,
    pub(crate) epoch: u32,
    /// None for a root, whose id stands in its frame only.
    pub(crate) object_id: Option<[u8; 16]>,
}

/// Length of the sealed object for `plaintext` bytes.
pub(crate) fn ciphertext_len(plaintext: u64) -> u64 {
    FRAME as u64 + plaintext + TAG as u64 * (plaintext / CHUNK as u64 + 1)
}

/// Length of the plaintext in a sealed object of `ciphertext` bytes, if any object has that length.
pub(crate) fn plaintext_len(ciphertext: u64) -> Option<u64> {
    let body = ciphertext.checked_sub(FRAME as u64)?;
    let full = body / (CHUNK + TAG) as u64;
    let rest = body % (CHUNK + TAG) as u64;
    let plaintext = full * CHUNK as u64 + rest.checked_sub(TAG as u64)?;
    (plaintext <= MAX_PLAINTEXT).then_some(plaintext)
}

/// Seals `plaintext`, whose tree hash is `digest`, with a salt of `noise`, hedged. The buffer becomes the object.
pub(crate) fn seal(
    dataset: &DatasetId,
    kind: Kind,
    epoch: u32,
    object_id: &[u8; 16],
    key: &ObjectKey,
    plaintext: Vec<u8>,
    (noise, digest): (&[u8; 32], &[u8; 32]),
) -> Result<Vec<u8>> {
    let mut mac = hmac512(&key.0);
    mac.update(b"aleph-dataset/v1/salt\0");
    mac.update(noise);
    mac.update(digest);
    mac.update(&(plaintext.len() as u64).to_be_bytes());
    let mut salt = [0; 24];
    salt.copy_from_slice(&mac.finalize().into_bytes()[..24]);
    seal_with_salt(dataset, kind, epoch, object_id, key, plaintext, salt)
}

/// [`seal`] with the salt given. Only known-answer tests choose a salt.
pub(crate) fn seal_with_salt(
    dataset: &DatasetId,
    kind: Kind,
    epoch: u32,
    object_id: &[u8; 16],
    key: &ObjectKey,
    plaintext: Vec<u8>,
    salt: [u8; 24],
) -> Result<Vec<u8>> {
    let length = plaintext.len();
    let size = length as u64;
    if size > MAX_PLAINTEXT {
        return Err(VaultError::Limit {
            what: "an object's plaintext in bytes".into(),
            limit: MAX_PLAINTEXT,
        });
    }
    let mut frame = Vec::with_capacity(FRAME);
    frame.extend_from_slice(MAGIC);
    frame.extend_from_slice(&[1, kind as u8, 1, 0]);
    frame.extend_from_slice(&epoch.to_be_bytes());
    frame.extend_from_slice(object_id);
    let (cipher, base, commitment) = schedule(dataset, key, &frame, &salt);
    frame.extend_from_slice(&salt);
    frame.extend_from_slice(&commitment);
    let total = usize::try_from(ciphertext_len(size)).unwrap_or(usize::MAX);
    let mut out = with_room(plaintext, total);
    out.resize(total, 0);
    // From the last to the first, so that each chunk moves to where nothing is needed any more.
    for index in (0..=length / CHUNK).rev() {
        let (from, to) = (index * CHUNK, FRAME + index * (CHUNK + TAG));
        let body = (length - from).min(CHUNK);
        out.copy_within(from..from + body, to);
        let tag = cipher
            .encrypt_inout_detached(&nonce(&base, index as u64), &[], (&mut out[to..to + body]).into())
            .map_err(|_| VaultError::Limit {
                what: "a chunk in bytes".into(),
                limit: CHUNK as u64,
            })?;
        out[to + body..to + body + TAG].copy_from_slice(&tag);
    }
    out[..FRAME].copy_from_slice(&frame);
    Ok(out)
}

/// The same bytes in a buffer that need not grow: one that grows leaves plaintext behind.
fn with_room(bytes: Vec<u8>, total: usize) -> Vec<u8> {
    if bytes.capacity() >= total {
        return bytes;
    }
    let (old, mut new) = (Zeroizing::new(bytes), Vec::with_capacity(total));
    new.extend_from_slice(&old);
    new
}

/// Opens an object in the normative order of section 6: length, hash, frame, commitment, tags. Nothing is
/// returned before everything holds. `key` gives the object's key once the frame is known.
#[cfg(test)]
pub(crate) fn open(
    bytes: Vec<u8>,
    expected: &Expected<'_>,
    dataset: &DatasetId,
    key: impl FnOnce(&Frame) -> Result<ObjectKey>,
) -> Result<Vec<u8>> {
    check(&bytes, None, expected)?;
    open_checked(bytes, expected, dataset, key)
}

/// The first steps, which need no key: whether these are the bytes that were signed for. `known` is their hash, if they were
/// hashed already.
pub(crate) fn check(bytes: &[u8], known: Option<[u8; 32]>, expected: &Expected<'_>) -> Result<()> {
    let object = || expected.name.to_owned();
    let got = bytes.len() as u64;
    if got != expected.ciphertext_len || plaintext_len(got).is_none() {
        return Err(VaultError::Length {
            object: object(),
            expected: expected.ciphertext_len,
            got,
        });
    }
    let hash = known.unwrap_or_else(|| sha256(&[bytes]));
    if hash != expected.sha256 {
        return Err(VaultError::Hash {
            object: object(),
            got: hex::encode(hash),
        });
    }
    Ok(())
}

/// The other steps, on bytes that [`check`] has accepted.
pub(crate) fn open_checked(
    mut bytes: Vec<u8>,
    expected: &Expected<'_>,
    dataset: &DatasetId,
    key: impl FnOnce(&Frame) -> Result<ObjectKey>,
) -> Result<Vec<u8>> {
    let object = || expected.name.to_owned();
    let frame = parse(&bytes, expected.name)?;
    check_frame(&frame, expected)?;
    let key = key(&frame)?;
    let (cipher, base, commitment) = schedule(dataset, &key, &bytes[..32], &frame.salt);
    if !bool::from(commitment.ct_eq(&frame.commitment)) {
        return Err(VaultError::Commit { object: object() });
    }
    let mut written = 0;
    let mut at = FRAME;
    for chunk in 0_u64.. {
        let end = bytes.len().min(at + CHUNK + TAG);
        let Some(body) = (end - at).checked_sub(TAG) else {
            break;
        };
        let mut tag = Tag::default();
        tag.copy_from_slice(&bytes[at + body..end]);
        cipher
            .decrypt_inout_detached(
                &nonce(&base, chunk),
                &[],
                (&mut bytes[at..at + body]).into(),
                &tag,
            )
            .map_err(|_| VaultError::Tag {
                object: object(),
                chunk,
            })?;
        bytes.copy_within(at..at + body, written);
        written += body;
        at = end;
    }
    bytes.truncate(written);
    Ok(bytes)
}

/// Opens an object chunk by chunk, for who has verified its bytes otherwise than as a whole.
pub(crate) struct Chunks {
    cipher: Aes256Gcm,
    base: [u8; 12],
    name: String,
}

impl Chunks {
    /// From the first bytes of an object: frame and commitment are checked.
    pub(crate) fn begin(
        start: &[u8],
        expected: &Expected<'_>,
        dataset: &DatasetId,
        key: &ObjectKey,
    ) -> Result<Self> {
        let frame = parse(start, expected.name)?;
        check_frame(&frame, expected)?;
        let (cipher, base, commitment) = schedule(dataset, key, &start[..32], &frame.salt);
        let name = expected.name.to_owned();
        if !bool::from(commitment.ct_eq(&frame.commitment)) {
            return Err(VaultError::Commit { object: name });
        }
        Ok(Self { cipher, base, name })
    }

    /// Decrypts a chunk with its tag in place; gives the length of its plaintext, which is at its start.
    pub(crate) fn open(&self, bytes: &mut [u8], chunk: u64) -> Result<usize> {
        let refused = || VaultError::Tag {
            object: self.name.clone(),
            chunk,
        };
        let body = bytes.len().checked_sub(TAG).ok_or_else(refused)?;
        let mut tag = Tag::default();
        tag.copy_from_slice(&bytes[body..]);
        let body_bytes = &mut bytes[..body];
        let opened =
            self.cipher
                .decrypt_inout_detached(&nonce(&self.base, chunk), &[], body_bytes.into(), &tag);
        opened.map_err(|_| refused())?;
        Ok(body)
    }
}

/// Reads and checks the constant fields of a frame.
pub(crate) fn parse(bytes: &[u8], name: &str) -> Result<Frame> {
    let object = || name.to_owned();
    let Some(head) = bytes.first_chunk::<FRAME>() else {
        return Err(VaultError::Frame {
            object: object(),
            reason: "it is shorter than a frame".into(),
        });
    };
    if &head[..8] != MAGIC {
        return Err(VaultError::Frame {
            object: object(),
            reason: "it does not start with ALEPHDS1".into(),
        });
    }
    if head[8] != 1 {
        return Err(VaultError::Version {
            object: object(),
            version: head[8],
        });
    }
    let kind = match head[9] {
        1 => Kind::Data,
        2 => Kind::Page,
        3 => Kind::Root,
        4 => Kind::Leaves,
        kind => {
            return Err(VaultError::Kind {
                object: object(),
                kind,
            });
        }
    };
    if head[10] != 1 {
        return Err(VaultError::Suite {
            object: object(),
            suite: head[10],
        });
    }
    if head[11] != 0 {
        return Err(VaultError::Flags {
            object: object(),
            flags: head[11],
        });
    }
    Ok(Frame {
        kind,
        epoch: u32::from_be_bytes(part(head, 12)),
        object_id: part(head, 16),
        salt: part(head, 32),
        commitment: part(head, 56),
    })
}

fn check_frame(frame: &Frame, expected: &Expected<'_>) -> Result<()> {
    let wrong = |field: &str| {
        let reason = format!("its {field} is not the one that the manifest names");
        Err(VaultError::Frame {
            object: expected.name.to_owned(),
            reason,
        })
    };
    if frame.kind != expected.kind {
        return wrong("kind");
    }
    if frame.epoch != expected.epoch || frame.epoch == 0 {
        return wrong("epoch");
    }
    if expected.object_id.is_some_and(|id| id != frame.object_id) {
        return wrong("object id");
    }
    Ok(())
}

/// Cipher, base nonce and commitment for a frame's first 32 bytes and salt (section 5, steps 1 and 3).
fn schedule(
    dataset: &DatasetId,
    key: &ObjectKey,
    frame: &[u8],
    salt: &[u8; 24],
) -> (Aes256Gcm, [u8; 12], [u8; 32]) {
    let block = expand::<76>(&key.0, &[SUITE, salt, CONTEXT, &dataset.0, frame]);
    let cipher = Aes256Gcm::new((&part::<32>(&*block, 0)).into());
    (cipher, part(&*block, 32), part(&*block, 44))
}

fn nonce(base: &[u8; 12], chunk: u64) -> Nonce<aes_gcm::aead::consts::U12> {
    let mut nonce = *base;
    for (byte, counter) in nonce[4..].iter_mut().zip(chunk.to_be_bytes()) {
        *byte ^= counter;
    }
    nonce.into()
}

/// `N` bytes at `at`; callers pass constants inside the array.
fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}
