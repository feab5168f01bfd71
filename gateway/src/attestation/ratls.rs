//! What a measured VM of Aleph sends: a TLS certificate that carries a report, or an answer to a challenge; and how a report is
//! bound to the TLS key.
//!
//! The form is that of Aleph's guest agent (`aleph-tee`): extension 1.3.6.1.4.1.60000.1.1 with JSON inside an OCTET STRING.

use serde::Deserialize;
use sha2::{Digest, Sha384};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::der::asn1::{ObjectIdentifier, OctetStringRef};

use super::chain::{self, NAME_CHARACTERS_SHOWN};
use super::error::{AttestError, Result};

/// The extension that carries a report.
const STATEMENT: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.60000.1.1");
/// What is hashed before the key; the zero byte ends it, so that none is the beginning of another.
const KEY_DOMAIN: &[u8] = b"aleph-attest-tls-key-v1\0";
/// What is hashed before key and nonce.
const FRESH_DOMAIN: &[u8] = b"aleph-attest-fresh-v1\0";

/// What the guest agent writes, in certificates and answers.
#[derive(Deserialize)]
struct Statement {
    tee_type: String,
    data: String,
}

/// A TLS certificate of a VM.
pub(super) struct Served(Certificate);

impl Served {
    /// Reads it, as DER or PEM.
    pub(super) fn read(bytes: &[u8]) -> Result<Self> {
        chain::decode(bytes)
            .map(Self)
            .map_err(|reason| AttestError::Certificate { reason })
    }

    /// The key whose possession the handshake proves: the bits of `subjectPublicKey`.
    pub(super) fn public_key(&self) -> &[u8] {
        let info = &self.0.tbs_certificate.subject_public_key_info;
        info.subject_public_key.raw_bytes()
    }

    /// The one report that it carries.
    pub(super) fn report(&self) -> Result<Vec<u8>> {
        let extensions = self.0.tbs_certificate.extensions.as_deref().unwrap_or_default();
        let mut statements = extensions
            .iter()
            .filter(|extension| extension.extn_id == STATEMENT);
        let Some(statement) = statements.next() else {
            return Err(AttestError::NoStatement);
        };
        let others = statements.count();
        if others > 0 {
            return Err(AttestError::SeveralStatements { count: 1 + others });
        }
        let inner = OctetStringRef::from_der(statement.extn_value.as_bytes());
        let inner = inner.map_err(|error| AttestError::Statement {
            reason: error.to_string(),
        })?;
        report(inner.as_bytes())
    }
}

/// The report in what the guest agent writes.
pub(super) fn report(json: &[u8]) -> Result<Vec<u8>> {
    let malformed = |reason: String| AttestError::Statement { reason };
    let statement: Statement = serde_json::from_slice(json).map_err(|error| malformed(error.to_string()))?;
    if statement.tee_type != "sev-snp" {
        return Err(AttestError::Technology {
            found: statement.tee_type.chars().take(NAME_CHARACTERS_SHOWN).collect(),
        });
    }
    hex::decode(&statement.data).map_err(|error| malformed(format!("`data` is not hexadecimal: {error}")))
}

/// `report_data` of a report in the certificate of this key, or, with a nonce, of an answer to it.
pub(super) fn bound(public_key: &[u8], nonce: Option<&[u8]>) -> [u8; 64] {
    let mut hasher = Sha384::new();
    hasher.update(if nonce.is_some() { FRESH_DOMAIN } else { KEY_DOMAIN });
    hasher.update(public_key);
    hasher.update(nonce.unwrap_or_default());
    let mut data = [0; 64];
    data[..48].copy_from_slice(&hasher.finalize());
    data
}
