//! Text that is posted beside a version and is for whoever can open it: what the owner of a private model says of a revision.
//!
//! Sealed under a key of its own, made from the secret of the head's epoch, so that it opens to everybody who was granted the
//! version and to nobody who only has the keys of its objects (a share, a delegation to a kernel). What it is about is bound in:
//! no text can be put in the place of another.

use crate::digest::sha256;
use crate::keys::{DatasetId, EpochSecret, expand, random};
use crate::pack::padme;
use crate::{Result, VaultError};
use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// Texts are at least this long, in bytes, when they are sealed: short ones are not to be told apart by their length.
const SHORTEST: usize = 1024;
/// Ends the text; padding of zeros follows.
const END: u8 = 0x80;

/// Seals `text` for who holds `secret`, the one of this dataset and epoch. `about` says what it is, and is needed to open it.
///
/// # Errors
/// When the system's generator fails, `E_LIMIT` for a text that is too long.
pub fn seal_beside(
    secret: &EpochSecret,
    (dataset, epoch): (&DatasetId, u32),
    about: &str,
    text: &str,
) -> Result<String> {
    let mut padded = Zeroizing::new(Vec::with_capacity(text.len() + SHORTEST));
    padded.extend_from_slice(text.as_bytes());
    padded.push(END);
    let length = padme(padded.len()).max(SHORTEST);
    padded.resize(length, 0);
    let nonce: [u8; 12] = random()?;
    let payload = Payload {
        msg: &padded,
        aad: about.as_bytes(),
    };
    let sealed = cipher(secret, dataset, epoch, about).encrypt(&nonce.into(), payload);
    let sealed = sealed.map_err(|_| VaultError::Limit {
        what: "the sealed text in bytes".into(),
        limit: u32::MAX.into(),
    })?;
    Ok(STANDARD.encode([nonce.as_slice(), &sealed].concat()))
}

/// Opens what [`seal_beside`] made.
///
/// # Errors
/// `E_GRANT_OPEN` for another secret, dataset, epoch or `about`, and for what is no such text: all alike.
pub fn open_beside(
    secret: &EpochSecret,
    (dataset, epoch): (&DatasetId, u32),
    about: &str,
    sealed: &str,
) -> Result<Zeroizing<String>> {
    let refuse = || VaultError::GrantOpen {
        reason: "what is sealed beside this version is not for this key, or was changed".into(),
    };
    let bytes = STANDARD.decode(sealed).map_err(|_| refuse())?;
    let (nonce, body) = bytes.split_first_chunk::<12>().ok_or_else(refuse)?;
    let payload = Payload {
        msg: body,
        aad: about.as_bytes(),
    };
    let opened = cipher(secret, dataset, epoch, about).decrypt(&(*nonce).into(), payload);
    let opened = Zeroizing::new(opened.map_err(|_| refuse())?);
    let end = opened.iter().rposition(|byte| *byte != 0).ok_or_else(refuse)?;
    if opened[end] != END {
        return Err(refuse());
    }
    let text = std::str::from_utf8(&opened[..end]).map_err(|_| refuse())?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// A key for each thing that is said, so that a nonce meets one text or few.
fn cipher(secret: &EpochSecret, dataset: &DatasetId, epoch: u32, about: &str) -> Aes256Gcm {
    let label = b"alephlab/beside/v1\0".as_slice();
    let about = sha256(&[about.as_bytes()]);
    let key: Zeroizing<[u8; 32]> = expand(
        secret.expose(),
        &[label, &dataset.0, &epoch.to_be_bytes(), &about],
    );
    Aes256Gcm::new((&*key).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_with_the_same_secret_place_and_subject_only() {
        let (secret, other) = (EpochSecret::generate().unwrap(), EpochSecret::generate().unwrap());
        let (id, epoch) = (DatasetId([7; 32]), 3);
        let sealed = seal_beside(&secret, (&id, epoch), "a record", "{\"name\":\"digits\"}").unwrap();
        let open = |secret, at, about, sealed: &str| open_beside(secret, at, about, sealed);
        let opened = open(&secret, (&id, epoch), "a record", &sealed).unwrap();
        assert_eq!(&*opened, "{\"name\":\"digits\"}");
        let mut changed = STANDARD.decode(&sealed).unwrap();
        changed[40] ^= 1;
        let refused = [
            open(&other, (&id, epoch), "a record", &sealed),
            open(&secret, (&DatasetId([8; 32]), epoch), "a record", &sealed),
            open(&secret, (&id, 4), "a record", &sealed),
            open(&secret, (&id, epoch), "tags", &sealed),
            open(&secret, (&id, epoch), "a record", &STANDARD.encode(changed)),
            open(&secret, (&id, epoch), "a record", "AAAA"),
            open(&secret, (&id, epoch), "a record", "no base64"),
        ];
        for (n, refused) in refused.into_iter().enumerate() {
            assert_eq!(refused.unwrap_err().code(), "E_GRANT_OPEN", "{n}");
        }
    }

    #[test]
    fn short_texts_are_alike_and_none_shows() {
        let secret = EpochSecret::generate().unwrap();
        let seal = |text: &str| seal_beside(&secret, (&DatasetId([7; 32]), 1), "x", text).unwrap();
        assert_eq!(seal("").len(), seal(&"digits".repeat(100)).len());
        assert_ne!(seal("same"), seal("same"));
        let long = "x".repeat(100_000);
        let sealed = seal(&long);
        let opened = open_beside(&secret, (&DatasetId([7; 32]), 1), "x", &sealed).unwrap();
        assert_eq!(*opened, long);
    }
}
