//! `alephlab attest`: whether a VM is the one that was agreed, checked from files alone, by the gateway's own verifier.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use alephlab_gateway::attestation::{
    AttestError, Content, Evidence, Examination, Finding, Floor, Measurement, Outcome, Policy, Statement,
    Tcb, examine,
};
use chrono::DateTime;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::error::{CliError, Result};

/// Check the evidence of a measured VM (AMD SEV-SNP), from files and without any network.
#[derive(Args)]
pub(crate) struct Attest {
    /// Print one JSON object.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Make every check that the files allow, and say which were not made.
    ///
    /// The exit status is 1 when a check fails. A check that was not made is no failure here; the gateway releases
    /// nothing without it.
    Verify(Box<Verify>),
    /// Say what a message's content lets one say of its host, and what its evidence would be checked against.
    Content {
        /// The content of an INSTANCE or a V-PROGRAM, as JSON.
        file: PathBuf,
    },
}

#[derive(Args)]
struct Verify {
    /// The VM's TLS certificate, DER or PEM, with the report in it.
    #[arg(long, value_name = "FILE", required_unless_present = "report")]
    certificate: Option<PathBuf>,
    /// A report alone (1184 bytes, or their hexadecimal digits); what it is bound to is then not checked.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["certificate", "answer"])]
    report: Option<PathBuf>,
    /// The VM's answer to --nonce, as JSON: checked in place of the certificate's own report.
    #[arg(long, value_name = "FILE", requires_all = ["certificate", "nonce"])]
    answer: Option<PathBuf>,
    /// What the VM was asked with, in hexadecimal digits.
    #[arg(long, value_name = "HEX", requires = "answer")]
    nonce: Option<String>,
    /// AMD's certificate of the chip's key, DER or PEM.
    #[arg(long, value_name = "FILE")]
    vcek: PathBuf,
    /// AMD's certificate of the processor line's key [default: the built-in one].
    #[arg(long, value_name = "FILE")]
    ask: Option<PathBuf>,
    /// AMD's root [default: the built-in one; no other is accepted].
    #[arg(long, value_name = "FILE")]
    ark: Option<PathBuf>,
    /// AMD's revocation list for the processor line, DER.
    #[arg(long, value_name = "FILE")]
    crl: Option<PathBuf>,
    /// The message's content as JSON: it pins measurements and guest policy.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["measurement", "guest_policy"])]
    content: Option<PathBuf>,
    /// A measurement that was agreed, 96 hexadecimal digits; can be given several times.
    #[arg(long, value_name = "HEX")]
    measurement: Vec<Measurement>,
    /// The guest policy that was agreed, such as 0x30000.
    #[arg(long, value_name = "POLICY", value_parser = parse_policy)]
    guest_policy: Option<u64>,
    /// The least firmware, as bootloader=4,snp=22 [default: what is built in for the chip].
    #[arg(long, value_name = "PARTS")]
    min_tcb: Option<Tcb>,
    /// Check as of this time, such as 2026-08-18T00:00:00Z [default: now].
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    at: Option<u64>,
}

impl Attest {
    /// Runs the action.
    pub(crate) fn run(&self) -> Result<ExitCode> {
        match &self.action {
            Action::Content { file } => content(file, self.json).map(|()| ExitCode::SUCCESS),
            Action::Verify(verify) => {
                let examination = verify.run()?;
                let holds = !examination
                    .findings
                    .iter()
                    .any(|finding| matches!(finding.outcome, Outcome::Fails(_)));
                if self.json {
                    println!("{}", as_json(examination, holds));
                } else {
                    print!("{}", as_text(&examination, holds));
                }
                Ok(if holds {
                    ExitCode::SUCCESS
                } else {
                    ExitCode::FAILURE
                })
            }
        }
    }
}

impl Verify {
    fn run(&self) -> Result<Examination> {
        let read_all = |path: &Option<PathBuf>| path.as_deref().map(read).transpose();
        let evidence = Evidence {
            statement: self.statement()?,
            vcek: read(&self.vcek)?,
            ask: read_all(&self.ask)?,
            ark: read_all(&self.ark)?,
            revocation_list: read_all(&self.crl)?,
        };
        examine(&evidence, &self.policy()?).map_err(|error| library(&error))
    }

    fn statement(&self) -> Result<Statement> {
        let certificate = match (&self.certificate, &self.report) {
            (Some(certificate), _) => read(certificate)?,
            (None, Some(report)) => return Ok(Statement::Report(binary(read(report)?))),
            (None, None) => {
                return Err(CliError::Usage {
                    message: "there is nothing to check".to_owned(),
                    hint: "give --certificate or --report".to_owned(),
                });
            }
        };
        let (Some(answer), Some(nonce)) = (&self.answer, &self.nonce) else {
            return Ok(Statement::Certificate(certificate));
        };
        let nonce = hex::decode(nonce).map_err(|error| CliError::Usage {
            message: format!("the nonce cannot be used: {error}"),
            hint: "write the bytes that the VM was asked with as hexadecimal digits".to_owned(),
        })?;
        Ok(Statement::Answer {
            certificate,
            answer: read(answer)?,
            nonce,
        })
    }

    fn policy(&self) -> Result<Policy> {
        let now = self.at.unwrap_or_else(alephlab_api::time::unix_now);
        let mut policy = match &self.content {
            Some(file) => pinned(file, now)?,
            None => Policy {
                measurements: self.measurement.clone(),
                guest_policy: self.guest_policy,
                ..Policy::new(now)
            },
        };
        if let Some(tcb) = self.min_tcb {
            policy.floor = Floor::Given(tcb);
        }
        Ok(policy)
    }
}

fn pinned(file: &Path, now: u64) -> Result<Policy> {
    Content::read(&read(file)?)
        .and_then(|content| content.policy(now))
        .map_err(|error| library(&error))
}

fn content(file: &Path, as_json: bool) -> Result<()> {
    let content = Content::read(&read(file)?).map_err(|error| library(&error))?;
    let line = content.trust_line().map_err(|error| library(&error))?;
    let policy = content.policy(alephlab_api::time::unix_now()).ok();
    if as_json {
        let pinned = policy.map(|policy| {
            let measurements: Vec<String> = policy.measurements.iter().map(ToString::to_string).collect();
            json!({"measurements": measurements, "guest_policy": policy.guest_policy})
        });
        println!("{}", json!({"trust": line.to_string(), "pinned": pinned}));
        return Ok(());
    }
    println!("{line}");
    let Some(policy) = policy else {
        return Ok(());
    };
    println!("holds only when its evidence does, which is checked against:");
    if let Some(guest_policy) = policy.guest_policy {
        println!("  guest policy {guest_policy:#x}");
    }
    for measurement in policy.measurements {
        println!("  measurement {measurement}");
    }
    Ok(())
}

fn as_text(examination: &Examination, holds: bool) -> String {
    let mut text = String::new();
    let mut missing = 0;
    for Finding { check, outcome } in &examination.findings {
        match outcome {
            Outcome::Holds(found) => text.push_str(&format!("ok          {check}: {found}\n")),
            Outcome::NotChecked(reason) => {
                missing += 1;
                text.push_str(&format!("not checked {check}: {reason}\n"));
            }
            Outcome::Fails(error) => {
                text.push_str(&format!("FAILED      {check}: {error}\n"));
                if let Some(hint) = error.hint() {
                    text.push_str(&format!("            hint: {hint}\n"));
                }
            }
        }
    }
    text.push_str(&match (holds, missing) {
        (false, _) => "this evidence is not to be trusted\n".to_owned(),
        (true, 0) => "every check holds: this VM is the one that was agreed\n".to_owned(),
        (true, missing) => {
            format!("what was checked holds; with {missing} checks not made, no key would be released\n")
        }
    });
    text
}

fn as_json(examination: Examination, holds: bool) -> Value {
    let findings: Vec<Value> = examination
        .findings
        .iter()
        .map(|Finding { check, outcome }| match outcome {
            Outcome::Holds(found) => json!({"check": check, "outcome": "holds", "found": found}),
            Outcome::NotChecked(reason) => json!({"check": check, "outcome": "not_checked", "found": reason}),
            Outcome::Fails(error) => json!({
                "check": check, "outcome": "fails", "found": error.to_string(), "code": error.code(), "hint": error.hint()
            }),
        })
        .collect();
    let verified = examination.verified();
    let refused = verified.as_ref().err().map(AttestError::code);
    let public_key = verified.ok().map(|verified| hex::encode(verified.public_key));
    json!({"holds": holds, "release": refused.is_none(), "refused": refused, "public_key": public_key, "findings": findings})
}

fn library(error: &AttestError) -> CliError {
    CliError::Library {
        what: "attestation",
        code: error.code().to_owned(),
        message: error.to_string(),
        hint: error.hint().map(str::to_owned),
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|source| CliError::file("read", path, source))
}

/// Bytes, or the bytes that hexadecimal digits stand for.
fn binary(bytes: Vec<u8>) -> Vec<u8> {
    let text = std::str::from_utf8(&bytes).map(str::trim);
    match text.ok().map(hex::decode) {
        Some(Ok(decoded)) => decoded,
        _ => bytes,
    }
}

fn parse_policy(text: &str) -> std::result::Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|error| format!("`{text}` is no guest policy: {error}"))
}

fn parse_time(text: &str) -> std::result::Result<u64, String> {
    let moment =
        DateTime::parse_from_rfc3339(text).map_err(|error| format!("`{text}` is no time: {error}"))?;
    u64::try_from(moment.timestamp()).map_err(|_| format!("`{text}` is before 1970"))
}
