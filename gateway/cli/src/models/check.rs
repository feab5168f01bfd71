//! The static checks of a revision: `alephlab-verify` over what is on Aleph, or over files of this machine. V2 is made here,
//! by the owner's signature; V5 and V8 run code and are made elsewhere, so they stand in the report as not run.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

use alephlab_api::model::RecordFile;
use alephlab_api::{Problem, time};
use alephlab_verify::{
    Check, CheckId, Entry, External, Finding, Options, Outcome, Report, Scanner, Signatures, Source,
    VerifyError, code, manifest_of, verify,
};
use tokio::runtime::Handle;

use super::open::Opened;
use super::pull::stopped;
use crate::error::{CliError, Result};

/// Problems that are shown of files that are refused.
const FAULTS_SHOWN: usize = 5;

/// Which scanner programs look through the files beside the one that is built in.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scanners {
    /// Programs that are named; those that are known on PATH where none is.
    pub(crate) programs: Vec<PathBuf>,
    /// ClamAV's database, a file or a folder, in place of the one that it is installed with.
    pub(crate) database: Option<PathBuf>,
}

impl Scanners {
    /// # Errors
    /// When a program is named that is not known.
    fn found(&self) -> Result<Vec<External>> {
        let database = self.database.as_deref();
        if self.programs.is_empty() {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
            return Ok(External::installed(&folders, database));
        }
        let known = |program: &PathBuf| {
            External::of(program, database).ok_or_else(|| CliError::Usage {
                message: format!("{} is no scanner that is known", program.display()),
                hint: format!("name the path of one of {}", External::KNOWN.join(", ")),
            })
        };
        self.programs.iter().map(known).collect()
    }
}

/// What is checked.
pub(crate) enum Checked {
    /// A revision, fetched as it is read; none of it is kept.
    Revision(Arc<Opened>),
    /// Files of this machine by their paths in the revision, against what its owner signed where that is known.
    Files {
        /// Path and place.
        files: Vec<(String, PathBuf)>,
        /// What the record, or another signature, says.
        signed: Option<Vec<RecordFile>>,
        /// Whether it is the owner who says so.
        by_owner: bool,
    },
}

/// Makes every check that runs no code of the revision. Without scanners only the one that is built in looks through the files.
pub(crate) async fn check_files(what: Checked, scanners: Option<&Scanners>) -> Result<Report> {
    let programs = scanners.map(Scanners::found).transpose()?.unwrap_or_default();
    let runtime = Handle::current();
    let checked = tokio::task::spawn_blocking(move || made(what, &programs, &runtime)).await;
    checked
        .map_err(|error| stopped(&error))?
        .map_err(|error| unchecked(&error))
}

/// Where a file lies that is looked at.
pub(crate) enum Lies {
    /// On this machine.
    Here(PathBuf),
    /// In an open revision, at this path.
    Sealed(Arc<Opened>, String),
}

/// Refuses files that carry code, before anything of them is stored; the sentence is that of `model publish`.
pub(crate) async fn refuse_code(files: Vec<(String, Lies)>) -> Result<()> {
    let runtime = Handle::current();
    let looking = tokio::task::spawn_blocking(move || code(&Gathered::new(files, &runtime)?));
    let found = looking.await.map_err(|error| stopped(&error))?;
    let found = found.map_err(|error| unchecked(&error))?;
    refusal(&found, "").map_or(Ok(()), Err)
}

/// What is said of files that are refused, `way` round it; none where none is.
pub(crate) fn refusal<'a>(faults: impl IntoIterator<Item = &'a Finding>, way: &str) -> Option<CliError> {
    let faults: Vec<&Finding> = faults.into_iter().collect();
    let first = faults.first()?;
    let more = faults.iter().skip(1).take(FAULTS_SHOWN - 1);
    let more: String = more.map(|fault| format!("; {}", fault.why)).collect();
    let rest = faults.len().saturating_sub(FAULTS_SHOWN);
    let rest = if rest > 0 {
        format!("; and {rest} more")
    } else {
        String::new()
    };
    let problem = Problem::new("model_unsafe", format!("{}{more}{rest}", first.why));
    Some(CliError::Refused {
        problem: problem.with_hint(format!("{}{way}", first.hint)),
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

fn made(what: Checked, programs: &[External], runtime: &Handle) -> std::result::Result<Report, VerifyError> {
    let options = Options {
        date: time::now(),
        // Every model is free today.
        selling: false,
    };
    let mut scanners: Vec<&dyn Scanner> = vec![&Signatures];
    scanners.extend(programs.iter().map(|program| program as &dyn Scanner));
    match what {
        Checked::Revision(opened) => {
            opened.reader.keep(2 * opened.reader.object_bytes());
            let source = Sealed::new(&opened, runtime);
            verify(&source, &opened.files, &scanners, &options)?.with_outside(publisher(true))
        }
        Checked::Files {
            files,
            signed,
            by_owner,
        } => {
            let files = files.into_iter().map(|(path, place)| (path, Lies::Here(place)));
            let source = Gathered::new(files.collect(), runtime)?;
            let (manifest, is_signed) = match signed {
                Some(signed) => (signed, by_owner),
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
        read_sealed((self.opened, path), self.runtime, offset, buffer)
    }
}

fn read_sealed(
    (opened, path): (&Opened, &str),
    runtime: &Handle,
    offset: u64,
    buffer: &mut [u8],
) -> io::Result<usize> {
    let reading = opened.reader.read_range(path, offset, buffer.len() as u64);
    let bytes = runtime.block_on(reading).map_err(io::Error::other)?;
    let part = buffer.get_mut(..bytes.len()).ok_or(io::ErrorKind::InvalidData)?;
    part.copy_from_slice(&bytes);
    Ok(bytes.len())
}

/// Files that lie in several places.
struct Gathered<'a> {
    places: Vec<Lies>,
    entries: Vec<Entry>,
    runtime: &'a Handle,
}

impl<'a> Gathered<'a> {
    fn new(files: Vec<(String, Lies)>, runtime: &'a Handle) -> std::result::Result<Self, VerifyError> {
        let size_of = |lies: &Lies| match lies {
            Lies::Here(place) => Ok(std::fs::metadata(place)?.len()),
            Lies::Sealed(opened, path) => {
                let entry = opened.reader.entry(path);
                entry
                    .map(|entry| entry.size)
                    .ok_or_else(|| io::ErrorKind::NotFound.into())
            }
        };
        let (mut places, mut entries) = (Vec::new(), Vec::new());
        for (path, lies) in files {
            let size = size_of(&lies).map_err(|source| VerifyError::Read {
                file: path.clone(),
                source,
            })?;
            entries.push(Entry::file(path, size));
            places.push(lies);
        }
        Ok(Self {
            places,
            entries,
            runtime,
        })
    }
}

impl Source for Gathered<'_> {
    fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn read(&self, entry: usize, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        match self.places.get(entry).ok_or(io::ErrorKind::NotFound)? {
            Lies::Here(place) => {
                let mut file = File::open(place)?;
                file.seek(SeekFrom::Start(offset))?;
                file.read(buffer)
            }
            Lies::Sealed(opened, path) => read_sealed((opened, path), self.runtime, offset, buffer),
        }
    }
}
