//! Is this VM the one that was agreed? Checks the evidence of a measured VM (AMD SEV-SNP) before a key or a lease's token goes
//! to it. Everything is given: nothing here uses the network.
//!
//! [`verify`] is the gate: it answers only when every check was made and holds. [`examine`] makes the same checks and tells each
//! result, for people. That the sender has the TLS key is proven by the handshake, not here: whoever calls takes the certificate
//! from a connection whose handshake was verified, and goes on speaking only to [`Verified::public_key`].
//!
//! What it does not check: the evidence of an NVIDIA GPU in confidential mode, which the measured program has to do; what is on
//! disks that the measurement does not cover. It was never run against a live VM of Aleph, only against published reports
//! (docs/adr/0022-attestation.md).

mod chain;
mod content;
mod error;
mod ratls;
mod report;
mod tcb;
#[cfg(test)]
mod tests;

use std::fmt;

use aleph_types::message::execution::environment::LaunchMeasurement;
use sev::firmware::guest::AttestationReport;

pub use chain::Product;
pub use content::{Content, TrustLine};
pub use error::AttestError;
pub use tcb::{Floor, Tcb};

use chain::{Anchor, Chain};
use error::Result;
use ratls::Served;

/// Fewer bytes than these can be asked for beforehand.
const NONCE_BYTES_MIN: usize = 16;
/// The levels of firmware and kernel. Aleph's guest agent asks as level 1, and a less privileged program cannot.
const HIGHEST_VMPL: u32 = 1;

/// What a VM says of itself.
#[derive(Clone, Debug)]
pub enum Statement {
    /// Its TLS certificate, with the report in it.
    Certificate(Vec<u8>),
    /// Its TLS certificate, and its answer (JSON) to a nonce of ours: made after we asked.
    Answer {
        /// The certificate of the connection.
        certificate: Vec<u8>,
        /// The body of the answer.
        answer: Vec<u8>,
        /// What we sent.
        nonce: Vec<u8>,
    },
    /// A report alone: nothing says who sent it, so [`verify`] refuses it.
    Report(Vec<u8>),
}

/// Everything that is checked. Certificates are DER or PEM.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// What the VM sent.
    pub statement: Statement,
    /// AMD's certificate of the chip's key.
    pub vcek: Vec<u8>,
    /// AMD's certificate of the processor line's key; the built-in one if none is given.
    pub ask: Option<Vec<u8>>,
    /// AMD's root; the built-in one if none is given, and no other is accepted.
    pub ark: Option<Vec<u8>>,
    /// AMD's list of what it took back (DER).
    pub revocation_list: Option<Vec<u8>>,
}

/// What was agreed, and what is asked of any VM. What is left out is not checked, and [`verify`] then refuses.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The programs that may run.
    pub measurements: Vec<Measurement>,
    /// The guest policy. Debugging and migration are refused even if it allows them.
    pub guest_policy: Option<u64>,
    /// The least firmware.
    pub floor: Floor,
    /// The least privileged level that a report may be asked for at; 0 is the most privileged.
    pub highest_vmpl: u32,
    /// The time at which certificates must be valid (seconds of 1970).
    pub now: u64,
}

impl Policy {
    /// Asks for everything that needs no agreement.
    pub fn new(now: u64) -> Self {
        Self {
            measurements: Vec::new(),
            guest_policy: None,
            floor: Floor::default(),
            highest_vmpl: HIGHEST_VMPL,
            now,
        }
    }

    /// As a message on Aleph pins it.
    ///
    /// # Errors
    /// When a measurement is of another technology, or none.
    fn pinned(measurements: &[LaunchMeasurement], guest_policy: u64, now: u64) -> Result<Self> {
        let not_ours = AttestError::NotMeasured {
            reason: "a measurement is of another technology than SEV-SNP",
        };
        let measurements: Option<Vec<Measurement>> = measurements
            .iter()
            .map(|one| one.registers.as_sev_snp()?.launch.parse().ok())
            .collect();
        Ok(Self {
            measurements: measurements.ok_or(not_ours)?,
            guest_policy: Some(guest_policy),
            ..Self::new(now)
        })
    }
}

/// The hash of what a VM was started with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measurement(pub [u8; 48]);

impl std::str::FromStr for Measurement {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let mut bytes = [0; 48];
        hex::decode_to_slice(text, &mut bytes)
            .map_err(|_| "a measurement has 96 hexadecimal digits".to_owned())?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for Measurement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(self.0))
    }
}

/// A VM of which every check holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The key to speak with, and no other: the bits of the certificate's `subjectPublicKey`.
    pub public_key: Vec<u8>,
    /// The program that runs.
    pub measurement: Measurement,
    /// The policy that it was started with.
    pub guest_policy: u64,
    /// The host's processor line.
    pub product: Product,
    /// The host's firmware.
    pub tcb: Tcb,
}

/// One check and its result.
#[derive(Debug)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// What was found.
    pub outcome: Outcome,
}

/// The result of a check.
#[derive(Debug)]
pub enum Outcome {
    /// It holds; the text says what was found.
    Holds(String),
    /// It does not.
    Fails(AttestError),
    /// It was not made; the text says what was missing.
    NotChecked(&'static str),
}

/// Everything that [`examine`] found.
#[derive(Debug)]
pub struct Examination {
    /// Each check, in a fixed order.
    pub findings: Vec<Finding>,
    verified: Verified,
}

impl Examination {
    /// What may be believed of the VM, when everything was checked and holds.
    ///
    /// # Errors
    /// The first check that fails, or else the first that was not made.
    pub fn verified(self) -> Result<Verified> {
        let mut missing = None;
        for Finding { check, outcome } in self.findings {
            match outcome {
                Outcome::Holds(_) => {}
                Outcome::Fails(error) => return Err(error),
                Outcome::NotChecked(reason) => {
                    missing.get_or_insert(AttestError::NotChecked { what: check, reason });
                }
            }
        }
        missing.map_or(Ok(self.verified), Err)
    }
}

/// Makes every check; only what passes all of them is a VM that keys may go to.
///
/// # Errors
/// The first thing that does not hold, or was not checked.
pub fn verify(evidence: &Evidence, policy: &Policy) -> Result<Verified> {
    examine(evidence, policy)?.verified()
}

/// Makes every check that can be made, and tells each result.
///
/// # Errors
/// When the evidence cannot be read.
pub fn examine(evidence: &Evidence, policy: &Policy) -> Result<Examination> {
    examine_under(evidence, policy, chain::amd)
}

/// Under roots that a test may have made.
fn examine_under(
    evidence: &Evidence,
    policy: &Policy,
    anchor: impl FnOnce(Product) -> Result<Anchor>,
) -> Result<Examination> {
    let (report, sender) = open(&evidence.statement)?;
    let report = report::read(&report)?;
    let (ask, ark) = (evidence.ask.as_deref(), evidence.ark.as_deref());
    let chain = Chain::read(&evidence.vcek, ask, ark, anchor)?;
    let mut findings = of_chain(&chain, evidence.revocation_list.as_deref(), policy.now);
    findings.extend(of_chip(&chain, &report, policy));
    findings.extend(of_machine(&report, policy));
    findings.push(bound(&report, sender.as_ref()));
    Ok(Examination {
        findings,
        verified: Verified {
            public_key: sender.map_or_else(Vec::new, |sender| sender.public_key),
            measurement: Measurement(report.measurement),
            guest_policy: report::guest_policy(&report),
            product: chain.product,
            tcb: Tcb::from(report.reported_tcb),
        },
    })
}

/// Are these AMD's certificates?
fn of_chain(chain: &Chain, list: Option<&[u8]>, now: u64) -> Vec<Finding> {
    let text = |text: &'static str| move |()| text.to_owned();
    let root = chain
        .check_root()
        .map(|()| format!("AMD's for {}", chain.product));
    vec![
        made("root", root),
        made("chain", chain.check_signatures().map(text("ARK, ASK, VCEK"))),
        made(
            "validity",
            chain.check_validity(now).map(text("all three certificates")),
        ),
        if_given("revocation", list, "no revocation list was given", |list| {
            chain
                .check_revocation(list, now)
                .map(text("none is on AMD's list"))
        }),
    ]
}

/// Did this chip sign, and with firmware that can be believed?
fn of_chip(chain: &Chain, report: &AttestationReport, policy: &Policy) -> Vec<Finding> {
    let signature = chain
        .check_report(report)
        .map(|()| "the VCEK's, over the whole report".to_owned());
    let floor = policy.floor.check(chain.product, report);
    vec![
        made("signature", signature),
        made("chip", chain.check_chip(report).map(|()| chip(report))),
        made("firmware", chain.check_tcb(report).map(|tcb| tcb.to_string())),
        made("least firmware", floor.map(|floor| format!("at least {floor}"))),
    ]
}

/// Is this the machine that was agreed?
fn of_machine(report: &AttestationReport, policy: &Policy) -> Vec<Finding> {
    let guest_policy = report::check_policy(report);
    vec![
        made(
            "guest policy",
            guest_policy.map(|policy| format!("{policy:#x}: no debugging, no migration")),
        ),
        agreed_policy(report, policy),
        made("privilege level", check_vmpl(report, policy)),
        measured(report, policy),
    ]
}

/// Whom a report has to be bound to.
struct Sender {
    public_key: Vec<u8>,
    nonce: Option<Vec<u8>>,
}

/// The report's bytes, and who sent them.
fn open(statement: &Statement) -> Result<(Vec<u8>, Option<Sender>)> {
    match statement {
        Statement::Report(report) => Ok((report.clone(), None)),
        Statement::Certificate(certificate) => {
            let served = Served::read(certificate)?;
            let public_key = served.public_key().to_vec();
            Ok((
                served.report()?,
                Some(Sender {
                    public_key,
                    nonce: None,
                }),
            ))
        }
        Statement::Answer {
            certificate,
            answer,
            nonce,
        } => {
            let public_key = Served::read(certificate)?.public_key().to_vec();
            Ok((
                ratls::report(answer)?,
                Some(Sender {
                    public_key,
                    nonce: Some(nonce.clone()),
                }),
            ))
        }
    }
}

fn made(check: &'static str, result: Result<String>) -> Finding {
    Finding {
        check,
        outcome: result.map_or_else(Outcome::Fails, Outcome::Holds),
    }
}

fn if_given<T>(
    check: &'static str,
    given: Option<T>,
    missing: &'static str,
    run: impl FnOnce(T) -> Result<String>,
) -> Finding {
    match given {
        Some(given) => made(check, run(given)),
        None => Finding {
            check,
            outcome: Outcome::NotChecked(missing),
        },
    }
}

fn agreed_policy(report: &AttestationReport, policy: &Policy) -> Finding {
    let found = report::guest_policy(report);
    let missing = "no guest policy was agreed";
    if_given("agreed policy", policy.guest_policy, missing, |expected| {
        if found == expected {
            Ok(format!("{found:#x}"))
        } else {
            Err(AttestError::GuestPolicy { expected, found })
        }
    })
}

fn check_vmpl(report: &AttestationReport, policy: &Policy) -> Result<String> {
    let (found, highest) = (report.vmpl, policy.highest_vmpl);
    if found > highest {
        return Err(AttestError::Vmpl { found, highest });
    }
    Ok(found.to_string())
}

fn measured(report: &AttestationReport, policy: &Policy) -> Finding {
    let found = Measurement(report.measurement);
    let agreed = (!policy.measurements.is_empty()).then_some(&policy.measurements);
    let missing = "no measurement was agreed";
    if_given("measurement", agreed, missing, |agreed| {
        if agreed.contains(&found) {
            Ok(found.to_string())
        } else {
            Err(AttestError::Measurement {
                found: found.to_string(),
            })
        }
    })
}

fn bound(report: &AttestationReport, sender: Option<&Sender>) -> Finding {
    let missing = "a report alone does not say who sent it";
    if_given("TLS key", sender, missing, |sender| {
        let nonce = sender.nonce.as_deref();
        if nonce.is_some_and(|nonce| nonce.len() < NONCE_BYTES_MIN) {
            return Err(AttestError::NotChecked {
                what: "TLS key",
                reason: "a nonce of fewer than 16 bytes can be guessed",
            });
        }
        if report.report_data != ratls::bound(&sender.public_key, nonce) {
            return Err(AttestError::KeyBinding);
        }
        Ok(match nonce {
            Some(_) => "bound, and made for our nonce".to_owned(),
            None => "bound".to_owned(),
        })
    })
}

fn chip(report: &AttestationReport) -> String {
    let start = &report.chip_id[..Product::TURIN_CHIP_BYTES];
    format!("{}…", hex::encode(start))
}
