//! Shares: a UUID and an access token that open exactly one revision (design, "who can open a model or dataset").
//!
//! The owner's machine makes the token and seals scope 2 under a key derived from it; the gateway stores only
//! that and a hash of another derived value. Nothing here talks to a gateway.

use crate::cbor::Writer;
use crate::digest::sha256;
use crate::head::SignedHead;
use crate::keys::random;
use crate::scope::ObjectKeys;
pub use crate::scope::narrow;
use crate::{Result, VaultError};
use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hkdf::Hkdf;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use uuid::Uuid;
use zeroize::Zeroizing;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Random characters: 28 of 62 are 166 bits.
const RANDOM: usize = 28;
const CHECKSUM: usize = 6;
const PREFIX: &str = "hf_";

/// `hf_`, 28 random characters, 6 of checksum. Zeroized on drop, without `Debug`.
pub struct ShareToken(Zeroizing<String>);

/// What a share is bound to; every change makes it unopenable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareTerms {
    /// The share's own id.
    pub uuid: Uuid,
    /// "owner/name".
    pub model: String,
    /// 40 hex digits.
    pub revision: String,
    /// Unix seconds, if it ends.
    pub expires: Option<u64>,
}

/// What a gateway keeps of a share and answers to who proves to have its token. All of it is the gateway's word.
#[derive(Clone, Copy, Debug)]
pub struct ShareEnvelope<'a> {
    /// "owner/name".
    pub model: &'a str,
    /// 40 hex digits.
    pub revision: &'a str,
    /// Unix seconds, if it ends.
    pub expires: Option<u64>,
    /// What [`seal_share`] made, base64.
    pub sealed: &'a str,
    /// Content of the head's POST.
    pub head: &'a serde_json::Value,
}

/// What a share opens: a verified head and the keys of exactly that version.
pub struct OpenedShare {
    /// The head of the revision.
    pub head: SignedHead,
    /// Keys of its objects.
    pub keys: ObjectKeys,
}

impl ShareToken {
    /// A fresh token from the system's generator.
    ///
    /// # Errors
    /// When the generator fails.
    pub fn generate() -> Result<Self> {
        let mut body = Zeroizing::new(String::with_capacity(RANDOM));
        while body.len() < RANDOM {
            let bytes = Zeroizing::new(random::<64>()?);
            // 248 is 4 × 62: larger bytes would favour the first letters.
            let missing = RANDOM - body.len();
            for byte in bytes.iter().filter(|byte| **byte < 248).take(missing) {
                body.push(char::from(ALPHABET[usize::from(byte % 62)]));
            }
        }
        let check = checksum(&body);
        let mut token = Zeroizing::new(String::with_capacity(PREFIX.len() + RANDOM + CHECKSUM));
        token.push_str(PREFIX);
        token.push_str(&body);
        token.push_str(&check);
        Ok(Self(token))
    }

    /// Reads a token that a person typed or pasted.
    ///
    /// # Errors
    /// `E_TOKEN`, without repeating the token.
    pub fn parse(text: &str) -> Result<Self> {
        let refuse = |reason| Err(VaultError::Token { reason });
        let text = text.trim();
        let Some(rest) = text.strip_prefix(PREFIX) else {
            return refuse("it does not start with hf_");
        };
        if rest.len() != RANDOM + CHECKSUM || !rest.bytes().all(|letter| letter.is_ascii_alphanumeric()) {
            return refuse("it does not have 34 letters and digits after hf_");
        }
        let (body, check) = rest.split_at(RANDOM);
        if checksum(body) != check {
            return refuse("it has a typing error");
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }

    /// The token, to show it once to its owner.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What a client proves itself with; the gateway stores its SHA-256.
    pub fn auth(&self) -> Zeroizing<[u8; 32]> {
        self.derive(&[b"alephlab/share/v1/auth"])
    }

    /// [`ShareToken::auth`] in hex, as the bearer of a request.
    pub fn auth_hex(&self) -> Zeroizing<String> {
        Zeroizing::new(hex::encode(*self.auth()))
    }

    /// SHA-256 of [`ShareToken::auth`] in hex: what a new share tells the gateway.
    pub fn auth_sha256(&self) -> String {
        hex::encode(sha256(&[&*self.auth()]))
    }

    /// Key under which the share with this UUID is sealed.
    pub fn wrap(&self, uuid: Uuid) -> Zeroizing<[u8; 32]> {
        self.derive(&[b"alephlab/share/v1/wrap", uuid.as_bytes()])
    }

    fn derive(&self, info: &[&[u8]]) -> Zeroizing<[u8; 32]> {
        let mut out = Zeroizing::new([0; 32]);
        // 32 bytes are within what HKDF-SHA256 gives.
        let _ = Hkdf::<Sha256>::new(None, self.0.as_bytes()).expand_multi_info(info, &mut *out);
        out
    }
}

/// Seals `keys` under the token for exactly these terms: nonce (12) ‖ ciphertext and tag.
///
/// # Errors
/// `E_MALFORMED` when the revision is not 40 hex digits or not that of the keys.
pub fn seal_share(token: &ShareToken, terms: &ShareTerms, keys: &ObjectKeys) -> Result<Vec<u8>> {
    if terms.revision != hex::encode(&keys.head_hash[..20]) {
        let reason = "it is not the revision of these keys".to_owned();
        return Err(VaultError::Malformed {
            what: "the revision",
            reason,
        });
    }
    let nonce: [u8; 12] = random()?;
    let blob = keys.encode();
    let aad = aad(terms);
    let sealed = cipher(token, terms)
        .encrypt(
            &nonce.into(),
            Payload {
                msg: &blob,
                aad: &aad,
            },
        )
        .map_err(|_| VaultError::Limit {
            what: "the share in bytes".into(),
            limit: u32::MAX.into(),
        })?;
    Ok([nonce.as_slice(), &sealed].concat())
}

/// Opens what [`seal_share`] made.
///
/// # Errors
/// `E_SHARE` for a wrong token, UUID, model, revision or expiry, all alike; `E_SHARE` too when `now`, unix
/// seconds, is after the expiry.
pub fn open_share(token: &ShareToken, terms: &ShareTerms, sealed: &[u8], now: u64) -> Result<ObjectKeys> {
    if terms.expires.is_some_and(|expires| now > expires) {
        return Err(VaultError::Share);
    }
    let (nonce, body) = sealed.split_first_chunk::<12>().ok_or(VaultError::Share)?;
    let aad = aad(terms);
    let blob = cipher(token, terms).decrypt(&(*nonce).into(), Payload { msg: body, aad: &aad });
    let blob = Zeroizing::new(blob.map_err(|_| VaultError::Share)?);
    let keys = ObjectKeys::decode(&blob)?;
    if bool::from(keys.head_hash[..20].ct_eq(&hex::decode(&terms.revision).unwrap_or_default())) {
        return Ok(keys);
    }
    Err(VaultError::Share)
}

/// Opens the share `uuid` from what a gateway answered, and checks that head, revision, owner and keys belong
/// together. The UUID is the one that was asked for, never one that the gateway names. `now` in unix seconds.
///
/// # Errors
/// `E_SHARE` as [`open_share`]; `E_HEAD_SIG` for a forged head; `E_MALFORMED` for an envelope that is not base64,
/// or comes with the head of another model or revision.
pub fn open_envelope(
    token: &ShareToken,
    uuid: Uuid,
    envelope: &ShareEnvelope<'_>,
    now: u64,
) -> Result<OpenedShare> {
    let refuse = |reason: String| VaultError::Malformed {
        what: "the share's envelope",
        reason,
    };
    let sealed = STANDARD
        .decode(envelope.sealed)
        .map_err(|_| refuse("it is no base64".to_owned()))?;
    let terms = ShareTerms {
        uuid,
        model: envelope.model.to_owned(),
        revision: envelope.revision.to_owned(),
        expires: envelope.expires,
    };
    let keys = open_share(token, &terms, &sealed, now)?;
    let head = SignedHead::from_post(envelope.head)?;
    head.verify()?;
    let owner = terms.model.split('/').next().unwrap_or_default();
    let owned = head.head.owner.to_string().eq_ignore_ascii_case(owner);
    if owned && head.revision() == terms.revision && head.hash() == keys.head_hash {
        return Ok(OpenedShare { head, keys });
    }
    Err(refuse(format!(
        "its head is not that of {} at {}",
        terms.model, terms.revision
    )))
}

fn cipher(token: &ShareToken, terms: &ShareTerms) -> Aes256Gcm {
    Aes256Gcm::new((&*token.wrap(terms.uuid)).into())
}

fn aad(terms: &ShareTerms) -> Vec<u8> {
    let mut to = Writer::new();
    to.array(4)
        .bytes(terms.uuid.as_bytes())
        .text(&terms.model)
        .text(&terms.revision);
    to.uint(terms.expires.unwrap_or(0));
    to.finish()
}

/// Six characters that catch typing errors; no secret.
fn checksum(body: &str) -> String {
    let hash = sha256(&[b"alephlab/share/v1/checksum\0", body.as_bytes()]);
    hash[..CHECKSUM]
        .iter()
        .map(|byte| char::from(ALPHABET[usize::from(byte % 62)]))
        .collect()
}
