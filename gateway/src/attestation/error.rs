//! Why evidence is not accepted: one variant for each thing that is checked, with a stable code and what to do.

use alephlab_api::time;

use super::chain::Product;
use super::tcb::Tcb;

/// What every check here returns.
pub(super) type Result<T> = std::result::Result<T, AttestError>;

/// Why a measured VM is not trusted, or why its evidence says nothing.
#[derive(Debug, thiserror::Error)]
pub enum AttestError {
    /// The TLS certificate is none.
    #[error("the VM's TLS certificate cannot be read: {reason}")]
    Certificate {
        /// What is wrong with it.
        reason: String,
    },
    /// The TLS certificate carries no report.
    #[error("the VM's TLS certificate carries no attestation")]
    NoStatement,
    /// The TLS certificate carries several reports: which one is meant is the sender's choice, not ours.
    #[error("the VM's TLS certificate carries {count} attestations, not one")]
    SeveralStatements {
        /// How many.
        count: usize,
    },
    /// What the certificate or the answer carries is not of the form that guests of Aleph write.
    #[error("the attestation cannot be read: {reason}")]
    Statement {
        /// What is wrong with it.
        reason: String,
    },
    /// A technology that is not verified here.
    #[error("the attestation is of `{found}`, and only sev-snp is verified")]
    Technology {
        /// Its name, as the sender wrote it.
        found: String,
    },
    /// A report has one length.
    #[error("a report has 1184 bytes, this one has {bytes}")]
    ReportLength {
        /// How many it has.
        bytes: usize,
    },
    /// A later version may give old bytes another meaning.
    #[error("reports of version {version} are not known here")]
    ReportVersion {
        /// The report's own word.
        version: u32,
    },
    /// Bytes that must be zero are not, or a field makes no sense.
    #[error("the report is malformed: {reason}")]
    ReportForm {
        /// What is wrong with it.
        reason: String,
    },
    /// Signed by another kind of key, or not at all.
    #[error("the report is not signed with its chip's own key: {reason}")]
    SigningKey {
        /// What it says of its signature.
        reason: String,
    },
    /// A certificate or list of AMD's is none.
    #[error("the {which} cannot be read: {reason}")]
    Unreadable {
        /// Which: VCEK, ASK, ARK or revocation list.
        which: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// No processor line that is known here.
    #[error("the VCEK was issued by `{issuer}`, which is no processor line that is known here")]
    UnknownProduct {
        /// The issuer's common name.
        issuer: String,
    },
    /// The chain ends in a key that is not AMD's.
    #[error("the root of the chain is not AMD's for {product}")]
    Root {
        /// The processor line.
        product: Product,
    },
    /// A certificate is not signed by the one above it.
    #[error("the {which} is not signed by the certificate above it: {reason}")]
    Chain {
        /// Which: VCEK, ASK or ARK.
        which: &'static str,
        /// What failed.
        reason: String,
    },
    /// Before its time.
    #[error("the {which} is valid from {}, and it is {}", time::hub(*begins), time::hub(*now))]
    NotYetValid {
        /// Which certificate.
        which: &'static str,
        /// When it begins.
        begins: u64,
        /// When it was checked.
        now: u64,
    },
    /// After its time.
    #[error("the {which} was valid until {}, and it is {}", time::hub(*ended), time::hub(*now))]
    Expired {
        /// Which certificate or list.
        which: &'static str,
        /// When it ended.
        ended: u64,
        /// When it was checked.
        now: u64,
    },
    /// A list that is not AMD's.
    #[error("the revocation list is not signed by AMD's root for {product}: {reason}")]
    ListSignature {
        /// The processor line.
        product: Product,
        /// What failed.
        reason: String,
    },
    /// AMD took it back.
    #[error("AMD has revoked the {which}")]
    Revoked {
        /// Which certificate.
        which: &'static str,
    },
    /// Changed, or signed elsewhere.
    #[error("the report is not signed by the VCEK: it was changed, or is another chip's")]
    Signature,
    /// The key is another chip's or another processor line's.
    #[error("the VCEK is not of the chip that the report names: {reason}")]
    Chip {
        /// What differs.
        reason: String,
    },
    /// The key is of other firmware than the report claims: the sign of firmware that lies about its version.
    #[error("the report claims firmware {reported}, and its VCEK is of {certified}")]
    ReportedTcb {
        /// As the report says.
        reported: Tcb,
        /// As AMD's certificate says.
        certified: Tcb,
    },
    /// Firmware with known holes.
    #[error("the {view} firmware is {found}; at least {floor} is asked for")]
    TcbFloor {
        /// Which of the report's four: launch, reported, current, committed.
        view: &'static str,
        /// What it is.
        found: Tcb,
        /// What it must be.
        floor: Tcb,
    },
    /// The host may read the VM's memory.
    #[error("the VM was started with debugging allowed: its host can read all of it")]
    DebugAllowed,
    /// The host may hand the VM to a migration agent.
    #[error("the VM was started with migration allowed: its memory can be handed to another program")]
    MigrationAllowed,
    /// Bits without a meaning are not as they must be.
    #[error("the guest policy {policy:#x} is none: {reason}")]
    PolicyForm {
        /// The policy.
        policy: u64,
        /// Which bits.
        reason: &'static str,
    },
    /// Another guest policy than was agreed.
    #[error("the VM was started with guest policy {found:#x}, and {expected:#x} was agreed")]
    GuestPolicy {
        /// What was agreed.
        expected: u64,
        /// What the report says.
        found: u64,
    },
    /// A report that less privileged code asked for.
    #[error("the report was asked for at privilege level {found}, and at most {highest} is accepted")]
    Vmpl {
        /// The report's level; 0 is the most privileged.
        found: u32,
        /// The least privileged that is accepted.
        highest: u32,
    },
    /// Another program was started.
    #[error("the VM's measurement is {found}, which is none of those that were agreed")]
    Measurement {
        /// In hexadecimal digits.
        found: String,
    },
    /// The report is not of whom we speak with.
    #[error("the report is not bound to the TLS key of the VM that sent it")]
    KeyBinding,
    /// Something that keys depend on was not looked at.
    #[error("{what} was not checked: {reason}")]
    NotChecked {
        /// What.
        what: &'static str,
        /// What was missing.
        reason: &'static str,
    },
    /// A measured VM with an ordinary GPU.
    #[error("a measured VM with an ordinary GPU is refused: the GPU, and so its host, would see plaintext")]
    PlainGpu,
    /// Nothing to verify it by.
    #[error("this machine is not measured: {reason}")]
    NotMeasured {
        /// Why not.
        reason: &'static str,
    },
    /// Not the content of a machine.
    #[error("the content is neither of an INSTANCE nor of a V-PROGRAM: {reason}")]
    Content {
        /// What is wrong with it.
        reason: String,
    },
}

impl AttestError {
    /// A stable name for scripts and logs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Certificate { .. } => "attest_certificate",
            Self::NoStatement => "attest_no_statement",
            Self::SeveralStatements { .. } => "attest_several_statements",
            Self::Statement { .. } => "attest_statement",
            Self::Technology { .. } => "attest_technology",
            Self::ReportLength { .. } => "attest_report_length",
            Self::ReportVersion { .. } => "attest_report_version",
            Self::ReportForm { .. } => "attest_report_form",
            Self::SigningKey { .. } => "attest_signing_key",
            Self::Unreadable { .. } => "attest_unreadable",
            Self::UnknownProduct { .. } => "attest_unknown_product",
            Self::Root { .. } => "attest_root",
            Self::Chain { .. } => "attest_chain",
            Self::NotYetValid { .. } => "attest_not_yet_valid",
            Self::Expired { .. } => "attest_expired",
            Self::ListSignature { .. } => "attest_list_signature",
            Self::Revoked { .. } => "attest_revoked",
            Self::Signature => "attest_signature",
            Self::Chip { .. } => "attest_chip",
            Self::ReportedTcb { .. } => "attest_reported_tcb",
            Self::TcbFloor { .. } => "attest_tcb_floor",
            Self::DebugAllowed => "attest_debug_allowed",
            Self::MigrationAllowed => "attest_migration_allowed",
            Self::PolicyForm { .. } => "attest_policy_form",
            Self::GuestPolicy { .. } => "attest_guest_policy",
            Self::Vmpl { .. } => "attest_vmpl",
            Self::Measurement { .. } => "attest_measurement",
            Self::KeyBinding => "attest_key_binding",
            Self::NotChecked { .. } => "attest_not_checked",
            Self::PlainGpu => "attest_plain_gpu",
            Self::NotMeasured { .. } => "attest_not_measured",
            Self::Content { .. } => "attest_content",
        }
    }

    /// What can be done, when there is something.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Unreadable { .. } | Self::Chip { .. } | Self::ReportedTcb { .. } => {
                "fetch the VCEK for the report's own chip and firmware from AMD, as DER or PEM"
            }
            Self::Expired {
                which: "revocation list",
                ..
            } => "fetch AMD's newest revocation list",
            Self::NotYetValid { .. } | Self::Expired { .. } => "check this machine's clock",
            Self::TcbFloor { .. } => {
                "the host's owner has to update its firmware; rent another host until then"
            }
            Self::ReportVersion { .. } | Self::UnknownProduct { .. } => "a newer alephlab may know it",
            Self::NotChecked { .. } => "give what is missing: keys are released only after every check",
            Self::PlainGpu => {
                "ask for the card in environment.trusted_execution.gpu (confidential mode), or leave out the measured mode"
            }
            Self::Content { .. } => "give the message's content as JSON",
            Self::Measurement { .. } | Self::GuestPolicy { .. } => {
                "another program was started than was agreed: end the lease, and do not send it anything"
            }
            Self::Root { .. }
            | Self::Chain { .. }
            | Self::ListSignature { .. }
            | Self::Revoked { .. }
            | Self::Signature
            | Self::SigningKey { .. }
            | Self::DebugAllowed
            | Self::MigrationAllowed
            | Self::PolicyForm { .. }
            | Self::Vmpl { .. }
            | Self::KeyBinding => "end the lease, and do not send this VM anything",
            Self::Certificate { .. }
            | Self::NoStatement
            | Self::SeveralStatements { .. }
            | Self::Statement { .. }
            | Self::Technology { .. }
            | Self::ReportLength { .. }
            | Self::ReportForm { .. }
            | Self::NotMeasured { .. } => return None,
        })
    }
}
