//! The static checks of a revision: `alephlab-verify` over what is on Aleph, or over files of this machine. V2 is made here,
//! by the owner's signature; V5 and V8 run code and are made elsewhere, so they stand in the report as not run.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

use alephlab_api::Problem;
use alephlab_api::model::RecordFile;
use alephlab_api::time;
use alephlab_verify::{
    Check, CheckId, Entry, External, Options, Outcome, Report, Scanner, Signatures, Source, UNKNOWN_FORMAT,
    VerifyError, manifest_of, verify,
};
use tokio::runtime::Handle;

use super::open::Opened;
use super::pull::stopped;
use crate::error::{CliError, Result};

/// Programs that scan for malware, the quicker one first.
const SCANNERS: [&str; 2] = ["clamdscan", "clamscan"];

/// Faults of a refused revision that are said.
const FAULTS_SHOWN: usize = 5;

/// What is checked.
pub(crate) enum Checked {
    /// A revision, fetched as it is read; none of it is kept.
    Revision(Arc<Opened>),
    /// Files of this machine by their paths in the revision, against what its owner signed where that is known.
    Files {
        /// Path and place.
        files: Vec<(String, PathBuf)>,
        /// What the record says.
        signed: Option<Vec<RecordFile>>,
    },
}

/// Makes every check that runs no code of the revision.
pub(crate) async fn check_files(what: Checked) -> Result<Report> {
    let runtime = Handle::current();
    let checked = tokio::task::spawn_blocking(move || made(what, &runtime)).await;
    checked
        .map_err(|error| stopped(&error))?
        .map_err(|error| unchecked(&error))
}

/// Refuses files that can run code, and those that are not what their names say, by what is in them; with `unknown` also files of
/// which nothing is known. Nothing else is asked: scanners take their time, and whose files they are is known.
pub(crate) async fn refuse_unsafe(files: Vec<(String, PathBuf)>, unknown: bool) -> Result<()> {
    let checked = tokio::task::spawn_blocking(move || {
        let source = Local::new(files).map_err(|source| VerifyError::Read {
            file: "the files".to_owned(),
            source,
        })?;
        let options = Options {
            date: time::now(),
            selling: false,
        };
        verify(&source, &manifest_of(&source)?, &[], &options)
    });
    let report = checked
        .await
        .map_err(|error| stopped(&error))?
        .map_err(|error| unchecked(&error))?;
    let of = |id| report.check(id).filter(|check| check.outcome == Outcome::Failed);
    let failed: Vec<_> = [CheckId::V3, CheckId::V4].into_iter().filter_map(of).collect();
    let faults = failed.iter().flat_map(|check| &check.findings);
    let faults: Vec<_> = faults
        .filter(|fault| unknown || fault.what != UNKNOWN_FORMAT)
        .collect();
    let Some(first) = faults.first() else {
        return Ok(());
    };
    let more = faults.iter().skip(1).take(FAULTS_SHOWN - 1);
    let more: String = more.map(|fault| format!("; {}", fault.why)).collect();
    let rest = match faults.len().saturating_sub(FAULTS_SHOWN) {
        0 => String::new(),
        rest => format!("; and {rest} more"),
    };
    let problem = Problem::new("model_unsafe", format!("{}{more}{rest}", first.why));
    Err(CliError::Refused {
        problem: problem.with_hint(first.hint.clone()),
    })
}

/// Why a revision could not be checked, which says nothing about it.
pub(crate) fn unchecked(error: &VerifyError) -> CliError {
    CliError::Library {
        what: "the revision was not checked",
        code: error.code().to_owned(),
        message: error.to_string(),
        hint: Some(error.hint().to_owned()),
    }
}

fn made(what: Checked, runtime: &Handle) -> std::result::Result<Report, VerifyError> {
    let options = Options {
        date: time::now(),
        // Every model is free today.
        selling: false,
    };
    let external = External::clamscan(scanner());
    let scanners: [&dyn Scanner; 2] = [&Signatures, &external];
    match what {
        Checked::Revision(opened) => {
            opened.reader.keep(2 * opened.reader.object_bytes());
            let source = Sealed::new(&opened, runtime);
            verify(&source, &opened.files, &scanners, &options)?.with_outside(publisher(true))
        }
        Checked::Files { files, signed } => {
            let source = Local::new(files).map_err(|source| VerifyError::Read {
                file: "the files".to_owned(),
                source,
            })?;
            let (manifest, is_signed) = match signed {
                Some(signed) => (signed, true),
                None => (manifest_of(&source)?, false),
            };
            let report = verify(&source, &manifest, &scanners, &options)?;
            // A signature over other files than these says nothing of them.
            let whole = report
                .check(CheckId::V1)
                .is_some_and(|check| check.outcome == Outcome::Passed);
            report.with_outside(publisher(is_signed && whole))
        }
    }
}

/// V2. Who calls this with `true` has checked the owner's signatures of record and head, which name each other.
fn publisher(is_signed: bool) -> Check {
    let outcome = if is_signed {
        Outcome::Passed
    } else {
        Outcome::NotRun
    };
    let version = concat!("alephlab ", env!("CARGO_PKG_VERSION")).to_owned();
    Check::new(CheckId::V2, outcome, Vec::new(), version, time::now())
}

/// A scanner of this machine.
fn scanner() -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    let folders: Vec<PathBuf> = std::env::split_paths(&folders).collect();
    let places = SCANNERS
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    places.into_iter().find(|place| place.is_file())
}

/// An open revision.
struct Sealed<'a> {
    opened: &'a Opened,
    runtime: &'a Handle,
    entries: Vec<Entry>,
}

impl<'a> Sealed<'a> {
    fn new(opened: &'a Opened, runtime: &'a Handle) -> Self {
        let entries = opened.files.iter();
        Self {
            opened,
            runtime,
            entries: entries.map(|file| Entry::file(&file.path, file.size)).collect(),
        }
    }
}

impl Source for Sealed<'_> {
    fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn read(&self, entry: usize, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let path = &self.entries.get(entry).ok_or(io::ErrorKind::NotFound)?.path;
        let reading = self.opened.reader.read_range(path, offset, buffer.len() as u64);
        let bytes = self.runtime.block_on(reading).map_err(io::Error::other)?;
        let part = buffer.get_mut(..bytes.len()).ok_or(io::ErrorKind::InvalidData)?;
        part.copy_from_slice(&bytes);
        Ok(bytes.len())
    }
}

/// Files of this machine.
struct Local {
    places: Vec<PathBuf>,
    entries: Vec<Entry>,
}

impl Local {
    fn new(files: Vec<(String, PathBuf)>) -> io::Result<Self> {
        let (mut places, mut entries) = (Vec::new(), Vec::new());
        for (path, place) in files {
            entries.push(Entry::file(path, std::fs::metadata(&place)?.len()));
            places.push(place);
        }
        Ok(Self { places, entries })
    }
}

impl Source for Local {
    fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn read(&self, entry: usize, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut file = File::open(self.places.get(entry).ok_or(io::ErrorKind::NotFound)?)?;
        file.seek(SeekFrom::Start(offset))?;
        file.read(buffer)
    }
}
