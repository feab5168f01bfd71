//! A root, a line and a chip of the tests' own, so that reports can be changed and signed anew.

use std::sync::OnceLock;
use std::time::Duration;

use p384::ecdsa::signature::Signer;
use p384::ecdsa::{Signature, SigningKey};
use rsa::RsaPrivateKey;
use rsa::pss;
use rsa::rand_core::OsRng;
use rsa::sha2::Sha384;
use rsa::signature::{RandomizedSigner, SignatureEncoding};
use sha2::Digest;
use x509_cert::Certificate;
use x509_cert::certificate::{TbsCertificate, Version};
use x509_cert::crl::{CertificateList, RevokedCert, TbsCertList};
use x509_cert::der::asn1::{BitString, ObjectIdentifier, OctetString, UtcTime};
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::Extension;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{AlgorithmIdentifierOwned, EncodePublicKey, SubjectPublicKeyInfoOwned};
use x509_cert::time::{Time, Validity};

use super::super::chain::Anchor;
use super::super::{Evidence, Policy, Statement, ratls};
use super::{GENOA_V5, NOW};

/// Enough for tests, and quickly made.
const RSA_BITS: usize = 2048;
const YEAR: u64 = 31_536_000;
const RSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const STATEMENT: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.60000.1.1");
const AMD: &str = "1.3.6.1.4.1.3704.1";

pub(super) struct Forge {
    ark_key: RsaPrivateKey,
    ask_key: RsaPrivateKey,
    chip_key: SigningKey,
    tls_key: SigningKey,
    ark: Certificate,
    ask: Certificate,
}

impl Forge {
    /// One for all tests: its keys take a while.
    pub(super) fn shared() -> &'static Self {
        static SHARED: OnceLock<Forge> = OnceLock::new();
        SHARED.get_or_init(|| {
            let rsa = || RsaPrivateKey::new(&mut OsRng, RSA_BITS).expect("a key");
            let (ark_key, ask_key) = (rsa(), rsa());
            let ark = to_be_signed("ARK-Genoa", "ARK-Genoa", 1, &ark_key.to_public_key());
            let ask = to_be_signed("SEV-Genoa", "ARK-Genoa", 2, &ask_key.to_public_key());
            Self {
                ark: signed(ark, &ark_key),
                ask: signed(ask, &ark_key),
                ark_key,
                ask_key,
                chip_key: SigningKey::random(&mut OsRng),
                tls_key: SigningKey::random(&mut OsRng),
            }
        })
    }

    /// What its chains end in, in the place of AMD's.
    pub(super) fn anchor(&self) -> Anchor {
        let info = &self.ark.tbs_certificate.subject_public_key_info;
        Anchor {
            root_key: hex::encode(sha2::Sha384::digest(info.to_der().expect("a form"))),
            ark: self.ark.clone(),
            ask: self.ask.clone(),
        }
    }

    /// A Genoa's report, changed and then signed by this chip.
    pub(super) fn report(&self, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut report = GENOA_V5.report.to_vec();
        let bound = ratls::bound(&self.public_key(), None);
        report[0x50..0x90].copy_from_slice(&bound);
        change(&mut report);
        let signature: Signature = self.chip_key.sign(&report[..0x2A0]);
        let (first, second) = signature.split_bytes();
        report[0x2A0..].fill(0);
        for (place, half) in [(0x2A0, first), (0x2A0 + 72, second)] {
            let backwards: Vec<u8> = half.iter().rev().copied().collect();
            report[place..place + 48].copy_from_slice(&backwards);
        }
        report
    }

    /// This chip's certificate, changed and then signed by the line.
    pub(super) fn vcek(&self, change: impl FnOnce(&mut TbsCertificate)) -> Vec<u8> {
        let mut certificate = to_be_signed("SEV-VCEK", "SEV-Genoa", 0, self.chip_key.verifying_key());
        let report = GENOA_V5.report;
        let parts = [("3.1", 0x180), ("3.2", 0x181), ("3.3", 0x186), ("3.8", 0x187)];
        let mut extensions: Vec<Extension> = parts
            .iter()
            .map(|(part, place)| extension(part, report[*place].to_der().expect("a form")))
            .collect();
        extensions.push(extension("4", report[0x1A0..0x1E0].to_vec()));
        certificate.extensions = Some(extensions);
        change(&mut certificate);
        signed(certificate, &self.ask_key).to_der().expect("a form")
    }

    /// The line's certificate, changed and then signed by the root.
    pub(super) fn ask(&self, change: impl FnOnce(&mut TbsCertificate)) -> Vec<u8> {
        let mut certificate = self.ask.tbs_certificate.clone();
        change(&mut certificate);
        signed(certificate, &self.ark_key).to_der().expect("a form")
    }

    /// The VM's TLS certificate with these statements in it.
    pub(super) fn tls(&self, statements: &[Vec<u8>]) -> Vec<u8> {
        let mut certificate = to_be_signed("vm", "vm", 1, self.tls_key.verifying_key());
        let extensions = statements.iter().map(|statement| Extension {
            extn_id: STATEMENT,
            critical: false,
            extn_value: OctetString::new(statement.clone()).expect("short enough"),
        });
        certificate.extensions = Some(extensions.collect());
        let message = certificate.to_der().expect("a form");
        let signature: Signature = self.tls_key.sign(&message);
        let certificate = Certificate {
            signature_algorithm: certificate.signature.clone(),
            tbs_certificate: certificate,
            signature: BitString::from_bytes(&signature.to_vec()).expect("short enough"),
        };
        certificate.to_der().expect("a form")
    }

    /// The bits of the TLS key.
    pub(super) fn public_key(&self) -> Vec<u8> {
        self.tls_key
            .verifying_key()
            .to_encoded_point(false)
            .as_bytes()
            .to_vec()
    }

    /// A list that names these serial numbers.
    pub(super) fn list(&self, revoked: &[u8], change: impl FnOnce(&mut TbsCertList)) -> Vec<u8> {
        let entries = revoked.iter().map(|serial| RevokedCert {
            serial_number: SerialNumber::new(&[*serial]).expect("a number"),
            revocation_date: time(NOW - YEAR),
            crl_entry_extensions: None,
        });
        let mut list = TbsCertList {
            version: Version::V2,
            signature: algorithm(),
            issuer: self.ark.tbs_certificate.subject.clone(),
            this_update: time(NOW - YEAR),
            next_update: Some(time(NOW + YEAR)),
            revoked_certificates: (!revoked.is_empty()).then(|| entries.collect()),
            crl_extensions: None,
        };
        change(&mut list);
        let message = list.to_der().expect("a form");
        let list = CertificateList {
            signature_algorithm: list.signature.clone(),
            tbs_cert_list: list,
            signature: signature(&message, &self.ark_key),
        };
        list.to_der().expect("a form")
    }

    /// Everything that a VM sends, with this chain.
    pub(super) fn evidence(&self, vcek: Vec<u8>, report: impl AsRef<[u8]>) -> Evidence {
        let der = |certificate: &Certificate| Some(certificate.to_der().expect("a form"));
        Evidence {
            statement: Statement::Certificate(self.tls(&[statement(&json(report.as_ref()))])),
            vcek,
            ask: der(&self.ask),
            ark: der(&self.ark),
            revocation_list: Some(self.list(&[], |_| {})),
        }
    }

    /// What its reports agree with.
    pub(super) fn policy(&self) -> Policy {
        GENOA_V5.policy()
    }
}

/// What the guest agent writes for a report.
pub(super) fn json(report: &[u8]) -> String {
    format!(r#"{{"tee_type":"sev-snp","data":"{}"}}"#, hex::encode(report))
}

/// The value of the extension for such a text.
pub(super) fn statement(text: &str) -> Vec<u8> {
    let inner = OctetString::new(text.as_bytes()).expect("short enough");
    inner.to_der().expect("a form")
}

/// One of AMD's extensions.
pub(super) fn extension(part: &str, value: Vec<u8>) -> Extension {
    Extension {
        extn_id: ObjectIdentifier::new(&format!("{AMD}.{part}")).expect("a name"),
        critical: false,
        extn_value: OctetString::new(value).expect("short enough"),
    }
}

/// A moment in a certificate.
pub(super) fn time(seconds: u64) -> Time {
    UtcTime::from_unix_duration(Duration::from_secs(seconds))
        .expect("before 2050")
        .into()
}

fn algorithm() -> AlgorithmIdentifierOwned {
    AlgorithmIdentifierOwned {
        oid: RSA_PSS,
        parameters: None,
    }
}

fn to_be_signed(subject: &str, issuer: &str, serial: u8, key: &impl EncodePublicKey) -> TbsCertificate {
    let info = key.to_public_key_der().expect("a key");
    let name = |name: &str| {
        format!("CN={name},O=Advanced Micro Devices")
            .parse()
            .expect("a name")
    };
    TbsCertificate {
        version: Version::V3,
        serial_number: SerialNumber::new(&[serial]).expect("a number"),
        signature: algorithm(),
        issuer: name(issuer),
        validity: Validity {
            not_before: time(NOW - YEAR),
            not_after: time(NOW + YEAR),
        },
        subject: name(subject),
        subject_public_key_info: SubjectPublicKeyInfoOwned::from_der(info.as_bytes()).expect("a key"),
        issuer_unique_id: None,
        subject_unique_id: None,
        extensions: None,
    }
}

fn signed(certificate: TbsCertificate, key: &RsaPrivateKey) -> Certificate {
    let message = certificate.to_der().expect("a form");
    Certificate {
        signature_algorithm: certificate.signature.clone(),
        tbs_certificate: certificate,
        signature: signature(&message, key),
    }
}

fn signature(message: &[u8], key: &RsaPrivateKey) -> BitString {
    let signer = pss::SigningKey::<Sha384>::new(key.clone());
    let signature = signer.sign_with_rng(&mut OsRng, message);
    BitString::from_bytes(&signature.to_bytes()).expect("short enough")
}
