//! AMD's certificates: from the key of one chip at one firmware (VCEK) over its line's (ASK) to the root (ARK), and the list of
//! those that AMD took back.
//!
//! Signatures are checked by `sev`; what it leaves out is here: that the root is AMD's, names, times, revocation, and that the VCEK
//! is of the very chip and firmware that the report names.

use std::fmt;

use rsa::RsaPublicKey;
use rsa::pss::{Signature, VerifyingKey};
use rsa::signature::Verifier;
use sev::certs::snp::{Certificate as SevCertificate, Verifiable, builtin};
use sev::firmware::guest::AttestationReport;
use sha2::{Digest, Sha384};
use x509_cert::Certificate;
use x509_cert::crl::CertificateList;
use x509_cert::der::asn1::{BitString, ObjectIdentifier, OctetStringRef};
use x509_cert::der::referenced::OwnedToRef;
use x509_cert::der::{Decode, DecodePem, Encode};
use x509_cert::name::Name;
use x509_cert::time::Time;

use super::error::{AttestError, Result};
use super::tcb::Tcb;

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
const RSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
/// The VCEK's extensions: versions of the firmware's parts, and the chip's name.
const BOOTLOADER: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.1");
const TEE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.2");
const SNP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.3");
const MICROCODE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.8");
const FMC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.9");
const CHIP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.4");
const LOOSE: &str = "its signature has parts that are not signed";
/// How much of a name that somebody else wrote goes into a message.
pub(super) const NAME_CHARACTERS_SHOWN: usize = 64;

/// A line of processors, with a root of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// EPYC 7003.
    Milan,
    /// EPYC 9004 and 8004.
    Genoa,
    /// EPYC 9005.
    Turin,
}

impl Product {
    /// A Turin chip's name is shorter than a report's field for it.
    pub(super) const TURIN_CHIP_BYTES: usize = 8;

    fn name(self) -> &'static str {
        match self {
            Self::Milan => "Milan",
            Self::Genoa => "Genoa",
            Self::Turin => "Turin",
        }
    }

    /// SHA-384 of the root's `SubjectPublicKeyInfo`. Written down here, so that another root in a library is noticed.
    pub(super) fn root_key(self) -> &'static str {
        match self {
            Self::Milan => {
                "1249f67f15cf229a4069195e1a9ce537d1765ef706a1f4a123c36be9518786515d25ecc007f366b564d2b3f31c48082e"
            }
            Self::Genoa => {
                "32ab53a6ce5ec14926207396e5c475ae768a6a9831b7e860b5acf2e1c1dff222bc5a8bfc43eb5e06393189c1f246d880"
            }
            Self::Turin => {
                "3475f08a9727f8ac9a1deaea5f2a2097aa59d64d05c2a678c229c873e6359d3a6926287a2a22cd5f88a385e333a2fcc5"
            }
        }
    }
}

impl fmt::Display for Product {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// What a chain of one line must end in, and its certificates.
pub(super) struct Anchor {
    /// SHA-384 of the root's `SubjectPublicKeyInfo`, in hexadecimal digits.
    pub(super) root_key: String,
    pub(super) ark: Certificate,
    pub(super) ask: Certificate,
}

/// AMD's own, as `sev` brings them.
pub(super) fn amd(product: Product) -> Result<Anchor> {
    let certificates = match product {
        Product::Milan => (builtin::milan::ark(), builtin::milan::ask()),
        Product::Genoa => (builtin::genoa::ark(), builtin::genoa::ask()),
        Product::Turin => (builtin::turin::ark(), builtin::turin::ask()),
    };
    let read = |certificate: std::io::Result<SevCertificate>, which| {
        certificate
            .map(Certificate::from)
            .map_err(|error| unreadable(which, error.to_string()))
    };
    Ok(Anchor {
        root_key: product.root_key().to_owned(),
        ark: read(certificates.0, "ARK")?,
        ask: read(certificates.1, "ASK")?,
    })
}

/// A certificate as DER or PEM.
pub(super) fn decode(bytes: &[u8]) -> std::result::Result<Certificate, String> {
    let certificate = if bytes.starts_with(b"-----BEGIN") {
        Certificate::from_pem(bytes)
    } else {
        Certificate::from_der(bytes)
    };
    certificate.map_err(|error| error.to_string())
}

fn unreadable(which: &'static str, reason: String) -> AttestError {
    AttestError::Unreadable { which, reason }
}

/// The three certificates, not yet believed.
pub(super) struct Chain {
    pub(super) product: Product,
    root_key: String,
    ark: Certificate,
    ask: Certificate,
    vcek: Certificate,
}

impl Chain {
    /// Reads what was given; what was not is AMD's own.
    pub(super) fn read(
        vcek: &[u8],
        ask: Option<&[u8]>,
        ark: Option<&[u8]>,
        anchor: impl FnOnce(Product) -> Result<Anchor>,
    ) -> Result<Self> {
        let read = |which, bytes| decode(bytes).map_err(|reason| unreadable(which, reason));
        let vcek = read("VCEK", vcek)?;
        let issuer = common_name(&vcek.tbs_certificate.issuer);
        let product = [Product::Milan, Product::Genoa, Product::Turin]
            .into_iter()
            .find(|product| issuer.strip_prefix("SEV-") == Some(product.name()))
            .ok_or_else(|| AttestError::UnknownProduct {
                issuer: issuer.chars().take(NAME_CHARACTERS_SHOWN).collect(),
            })?;
        let own = anchor(product)?;
        Ok(Self {
            product,
            root_key: own.root_key,
            ark: ark.map_or(Ok(own.ark), |bytes| read("ARK", bytes))?,
            ask: ask.map_or(Ok(own.ask), |bytes| read("ASK", bytes))?,
            vcek,
        })
    }

    /// The root's key is AMD's: every other root signs itself just as well.
    pub(super) fn check_root(&self) -> Result<()> {
        let info = self.ark.tbs_certificate.subject_public_key_info.to_der();
        let info = info.map_err(|error| unreadable("ARK", error.to_string()))?;
        if hex::encode(Sha384::digest(info)) == self.root_key {
            Ok(())
        } else {
            Err(AttestError::Root {
                product: self.product,
            })
        }
    }

    /// Each is signed and named by the one above it.
    pub(super) fn check_signatures(&self) -> Result<()> {
        let links = [
            ("ARK", &self.ark, &self.ark, format!("ARK-{}", self.product)),
            ("ASK", &self.ark, &self.ask, format!("SEV-{}", self.product)),
            ("VCEK", &self.ask, &self.vcek, "SEV-VCEK".to_owned()),
        ];
        for (which, above, below, name) in links {
            let broken = |reason: String| AttestError::Chain { which, reason };
            let subject = &below.tbs_certificate.subject;
            if common_name(subject) != name {
                return Err(broken(format!("it is not called {name}")));
            }
            if below.tbs_certificate.issuer != above.tbs_certificate.subject {
                return Err(broken("it names another issuer".to_owned()));
            }
            if !is_whole(
                below.signature_algorithm == below.tbs_certificate.signature,
                &below.signature,
            ) {
                return Err(broken(LOOSE.to_owned()));
            }
            (&sevs(above), &sevs(below))
                .verify()
                .map_err(|error| broken(error.to_string()))?;
        }
        Ok(())
    }

    /// All three at this time (seconds of 1970).
    pub(super) fn check_validity(&self, now: u64) -> Result<()> {
        for (which, certificate) in self.all() {
            let validity = &certificate.tbs_certificate.validity;
            let begins = seconds(validity.not_before);
            let ended = seconds(validity.not_after);
            if now < begins {
                return Err(AttestError::NotYetValid { which, begins, now });
            }
            if now > ended {
                return Err(AttestError::Expired { which, ended, now });
            }
        }
        Ok(())
    }

    /// None is on AMD's list, which must be AMD's and in force: an old list does not say what was revoked since.
    pub(super) fn check_revocation(&self, list: &[u8], now: u64) -> Result<()> {
        const LIST: &str = "revocation list";
        let list = CertificateList::from_der(list).map_err(|error| unreadable(LIST, error.to_string()))?;
        self.check_list_signature(&list)?;
        let begins = seconds(list.tbs_cert_list.this_update);
        if now < begins {
            return Err(AttestError::NotYetValid {
                which: LIST,
                begins,
                now,
            });
        }
        let ended = list.tbs_cert_list.next_update.map_or(0, seconds);
        if now > ended {
            return Err(AttestError::Expired {
                which: LIST,
                ended,
                now,
            });
        }
        let revoked = list.tbs_cert_list.revoked_certificates.unwrap_or_default();
        for (which, certificate) in self.all() {
            let serial = &certificate.tbs_certificate.serial_number;
            if revoked.iter().any(|entry| entry.serial_number == *serial) {
                return Err(AttestError::Revoked { which });
            }
        }
        Ok(())
    }

    fn check_list_signature(&self, list: &CertificateList) -> Result<()> {
        let wrong = |reason: String| AttestError::ListSignature {
            product: self.product,
            reason,
        };
        if list.signature_algorithm.oid != RSA_PSS {
            return Err(wrong(format!(
                "its algorithm is {}",
                list.signature_algorithm.oid
            )));
        }
        if !is_whole(
            list.signature_algorithm == list.tbs_cert_list.signature,
            &list.signature,
        ) {
            return Err(wrong(LOOSE.to_owned()));
        }
        let info = &self.ark.tbs_certificate.subject_public_key_info;
        let key = RsaPublicKey::try_from(info.owned_to_ref()).map_err(|error| wrong(error.to_string()))?;
        let signed = list
            .tbs_cert_list
            .to_der()
            .map_err(|error| wrong(error.to_string()))?;
        let signature =
            Signature::try_from(list.signature.raw_bytes()).map_err(|error| wrong(error.to_string()))?;
        VerifyingKey::<rsa::sha2::Sha384>::new(key)
            .verify(&signed, &signature)
            .map_err(|error| wrong(error.to_string()))
    }

    /// The report is signed by this very key.
    pub(super) fn check_report(&self, report: &AttestationReport) -> Result<()> {
        (&sevs(&self.vcek), report)
            .verify()
            .map_err(|_| AttestError::Signature)
    }

    /// The key is of the chip that the report names.
    pub(super) fn check_chip(&self, report: &AttestationReport) -> Result<()> {
        let wrong = |reason: &str| AttestError::Chip {
            reason: reason.to_owned(),
        };
        if !super::report::is_of(report, self.product) {
            return Err(wrong("it is of another line of processors"));
        }
        let value = self.extension(CHIP)?;
        // AMD writes the bare bytes; an OCTET STRING around them is seen, too.
        let certified = OctetStringRef::from_der(value).map_or(value, |inner| inner.as_bytes());
        let used = match self.product {
            Product::Turin => Product::TURIN_CHIP_BYTES,
            Product::Milan | Product::Genoa => report.chip_id.len(),
        };
        let (name, rest) = report.chip_id.split_at(used);
        if name.iter().all(|byte| *byte == 0) {
            return Err(wrong("the host hides its chip's name"));
        }
        if certified != name && value != name || rest.iter().any(|byte| *byte != 0) {
            return Err(wrong("it names another chip"));
        }
        Ok(())
    }

    /// The key is of the firmware that the report names: old firmware with a hole may sign any claim, but only with its own key.
    pub(super) fn check_tcb(&self, report: &AttestationReport) -> Result<Tcb> {
        let reported = Tcb::from(report.reported_tcb);
        let certified = Tcb {
            fmc: match self.product {
                Product::Turin => self.version(FMC)?,
                Product::Milan | Product::Genoa => 0,
            },
            bootloader: self.version(BOOTLOADER)?,
            tee: self.version(TEE)?,
            snp: self.version(SNP)?,
            microcode: self.version(MICROCODE)?,
        };
        if certified == reported {
            Ok(reported)
        } else {
            Err(AttestError::ReportedTcb { reported, certified })
        }
    }

    fn version(&self, oid: ObjectIdentifier) -> Result<u8> {
        u8::from_der(self.extension(oid)?)
            .map_err(|error| unreadable("VCEK", format!("extension {oid}: {error}")))
    }

    fn extension(&self, oid: ObjectIdentifier) -> Result<&[u8]> {
        let extensions = self.vcek.tbs_certificate.extensions.as_deref();
        let mut found = extensions
            .unwrap_or_default()
            .iter()
            .filter(|extension| extension.extn_id == oid);
        match (found.next(), found.next()) {
            (Some(extension), None) => Ok(extension.extn_value.as_bytes()),
            _ => Err(unreadable(
                "VCEK",
                format!("extension {oid} is not there exactly once"),
            )),
        }
    }

    fn all(&self) -> [(&'static str, &Certificate); 3] {
        [("ARK", &self.ark), ("ASK", &self.ask), ("VCEK", &self.vcek)]
    }
}

/// A signature says nothing of the algorithm's name outside of what is signed, nor of bits after its last byte.
fn is_whole(same_algorithm: bool, signature: &BitString) -> bool {
    same_algorithm && signature.as_bytes().is_some()
}

fn sevs(certificate: &Certificate) -> SevCertificate {
    SevCertificate::from(certificate.clone())
}

fn seconds(time: Time) -> u64 {
    time.to_unix_duration().as_secs()
}

/// The last common name, which is the most specific; empty when there is none.
fn common_name(name: &Name) -> String {
    let mut attributes = name.0.iter().flat_map(|part| part.0.iter());
    attributes
        .rfind(|attribute| attribute.oid == COMMON_NAME)
        .and_then(|attribute| std::str::from_utf8(attribute.value.value()).ok())
        .unwrap_or_default()
        .to_owned()
}
