//! The static part of "Verified": what can be said about a revision by reading its files and running none of them.
//!
//! [`verify`] makes checks V1 (integrity), V3 (no executable formats), V4 (formats valid), V6 (scans) and V7 (card) of
//! `reference/marketplace.md` section 3 over any [`Source`]. V2 (publisher), V5 (loads) and V8 (evaluation) are made by
//! other programs and put in by [`Report::with_outside`]. Called by verifiers and, before publishing, by the command.
//!
//! Not here: signatures, sandboxes, storage, keys. Nothing of a revision is ever executed, unpickled or rendered.
//!
//! Memory: a 64 KiB buffer for each open file, some megabytes of what a parser keeps, a safetensors header of up to 25
//! MB, and over the whole revision bounded lists: findings, names of tensors, parts of files. Time: each check reads a
//! file once or twice from its beginning to its end; what is followed by leaps, such as candidates for hidden files, has
//! a budget that grows with the file. No input makes it panic.
#![forbid(unsafe_code)]

mod card;
mod elsewhere;
mod error;
mod formats;
mod inspect;
mod integrity;
mod kind;
mod reader;
mod report;
mod scan;
mod shards;
mod source;

use alephlab_api::model::RecordFile;

use crate::report::Findings;

pub use crate::error::{Result, VerifyError};
pub use crate::inspect::TensorData;
pub use crate::integrity::{manifest_hash, manifest_of};
pub use crate::report::{Check, CheckId, FINDINGS_MAX, Finding, HOSTS_MIN, Outcome, Report, Tool, canonical};
pub use crate::scan::{External, Feeding, Reading, SCANNERS_MIN, Scan, Scanner, Signatures, Version};
pub use crate::source::{Entry, EntryKind, FILES_MAX, Folder, Memory, Source};

/// Name and version of this checker, in every check that it makes.
pub const VERSION: &str = concat!("alephlab-verify ", env!("CARGO_PKG_VERSION"));

/// What a verification is told beside the files.
#[derive(Debug, Clone)]
pub struct Options {
    /// When, as RFC 3339 in UTC; stands in the report.
    pub date: String,
    /// Whether the model is for sale, which its licence must then allow.
    pub selling: bool,
}

impl Default for Options {
    /// Now, for sale: the stricter of the two.
    fn default() -> Self {
        Self {
            date: alephlab_api::time::now(),
            selling: true,
        }
    }
}

/// Findings of V3 in some files of a revision to be: what carries code is refused before anything is stored.
///
/// # Errors
/// When the source cannot be read.
pub fn code(source: &dyn Source) -> Result<Vec<Finding>> {
    Ok(inspect::code(source)?.into_vec())
}

/// Makes every check that needs no execution. The report is not `verified` before V2 and V5 are put in.
///
/// # Errors
/// When the source cannot be read; what is wrong with the files is in the report.
pub fn verify(
    source: &dyn Source,
    manifest: &[RecordFile],
    scanners: &[&dyn Scanner],
    options: &Options,
) -> Result<Report> {
    if source.entries().len() > FILES_MAX {
        return Err(VerifyError::TooMany {
            what: "more files",
            limit: FILES_MAX,
        });
    }
    let (version, date) = (|| VERSION.to_owned(), || options.date.clone());
    let judged = |id, findings: Findings| Check::judged(id, findings, version(), date());
    let integrity = integrity::check(source, manifest)?;
    let inspected = inspect::all(source)?;
    let (outcome, findings, tools) = scan::all(scanners, source, &inspected.tensor_data)?;
    let mut scans = Check::of(CheckId::V6, outcome, findings, version(), date());
    scans.tools = tools;
    let mut card = Findings::default();
    card.extend(card::check(source, options.selling)?);
    let checks = vec![
        judged(CheckId::V1, integrity),
        judged(CheckId::V3, inspected.refused),
        judged(CheckId::V4, inspected.faults),
        scans,
        judged(CheckId::V7, card),
    ];
    Ok(Report::new(manifest_hash(manifest), checks))
}
