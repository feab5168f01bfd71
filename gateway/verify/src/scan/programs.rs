//! Scanner programs that are known: how each is asked, what its exit codes mean, and how it says its version.
//!
//! Chosen by what they can say of a revision: `clamav` knows malware by its database, `picklescan` reads every file as a pickle,
//! `modelscan` knows some formats by their endings and passes over all others, so that it can refuse and never counts as one
//! that found nothing. None of them sends anything anywhere.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::external::{External, Feeding, Input};
use crate::error::Result;
use crate::reader::shown;

/// What to do where fewer than two scanners are there.
pub(super) const INSTALL: &str = "install picklescan (pipx install picklescan), or ClamAV with its database (apt-get install \
    clamav, then freshclam): programs on PATH are used";

/// Longest file; clamscan takes no more than 2 GB.
const SIZE_MAX: u64 = 2_000_000_000;
/// The daemon passes over what is longer than its own limits, of which 25 MiB is the least that it comes with.
const DAEMON_MAX: u64 = 25 << 20;
/// Longest time for one file: ClamAV may read its whole database first.
const LIMIT: Duration = Duration::from_secs(600);
/// Files of a database; ClamAV's own are three.
const DATABASE_FILES: usize = 1_000;
/// The longest first line of a script that is read.
const FIRST_LINE: u64 = 1024;

/// How a program says which version it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Version {
    /// In the first line of what it prints with this argument.
    Flag(&'static str),
    /// The same; and how many signatures its database has, by looking through nothing. With a database that is named, its hash:
    /// that one has no version.
    ClamScan {
        /// A file or a folder of them; its own where none is named.
        database: Option<PathBuf>,
    },
    /// Of this Python package, in the environment that runs the program.
    Package(&'static str),
}

impl External {
    /// The programs that are known, the quicker one of two first.
    pub const KNOWN: [&'static str; 4] = ["clamdscan", "clamscan", "picklescan", "modelscan"];

    /// A program that is known by its name.
    pub fn of(program: &Path, database: Option<&Path>) -> Option<Self> {
        let with = |name: &str, arguments: &[&str], feeding, version| Self {
            name: name.to_owned(),
            program: program.to_owned(),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            feeding,
            version,
            clean: BTreeSet::from([0]),
            hit: BTreeSet::from([1]),
            unknown: BTreeSet::new(),
            size_max: SIZE_MAX,
            limit: LIMIT,
        };
        match program.file_name().and_then(OsStr::to_str)? {
            // 0: clean, 1: found, 2: error (its manual).
            "clamdscan" => Some(Self {
                size_max: DAEMON_MAX,
                ..with(
                    "clamav",
                    &["--no-summary", "-"],
                    Feeding::Input,
                    Version::Flag("--version"),
                )
            }),
            "clamscan" => Some(Self::clamscan(
                &with("clamav", &[], Feeding::Input, Version::Flag("")),
                database,
            )),
            // 0: nothing, 1: a dangerous import, 2: it cannot read it. What is no pickle is nothing.
            "picklescan" => Some(with(
                "picklescan",
                &["--log", "WARNING", "--path"],
                Feeding::Path,
                Version::Package("picklescan"),
            )),
            // 0: nothing, 1: found, 2: error, 3: no file that it knows.
            "modelscan" => Some(Self {
                unknown: BTreeSet::from([3]),
                ..with(
                    "modelscan",
                    &["scan", "--path"],
                    Feeding::Path,
                    Version::Flag("--version"),
                )
            }),
            _ => None,
        }
    }

    /// Files beyond its limits are told as found, and not passed over in silence.
    fn clamscan(common: &Self, database: Option<&Path>) -> Self {
        let mut arguments = vec!["--no-summary".to_owned(), "--alert-exceeds-max=yes".to_owned()];
        arguments.extend(["filesize", "scansize"].map(|what| format!("--max-{what}={SIZE_MAX}")));
        arguments.extend(database.map(named));
        arguments.push("-".to_owned());
        Self {
            arguments,
            version: Version::ClamScan {
                database: database.map(Path::to_owned),
            },
            ..common.clone()
        }
    }

    /// Those of the known programs that are in these folders: one for each name in reports, the first of them.
    pub fn installed(folders: &[PathBuf], database: Option<&Path>) -> Vec<Self> {
        let mut found: Vec<Self> = Vec::new();
        for known in Self::KNOWN {
            let mut places = folders.iter().map(|folder| folder.join(known));
            // A database that is named is read by clamscan; the daemon has its own.
            if known == "clamdscan" && database.is_some() {
                continue;
            }
            let one = places
                .find(|place| place.is_file())
                .and_then(|place| Self::of(&place, database));
            found.extend(one.filter(|one| found.iter().all(|other| other.name != one.name)));
        }
        found
    }
}

/// What a program says of itself, or why it cannot look through anything.
pub(super) fn version(of: &External) -> Result<std::result::Result<String, String>> {
    match &of.version {
        Version::Flag(flag) => first_line(of, &of.program, &[(*flag).to_owned()]),
        Version::Package(package) => {
            let Some(python) = interpreter(&of.program) else {
                return Ok(Err("the Python that runs it is not in its first line".to_owned()));
            };
            let ask = format!("from importlib.metadata import version; print(version('{package}'))");
            first_line(of, &python, &["-I".to_owned(), "-c".to_owned(), ask])
        }
        Version::ClamScan { database } => {
            let version = match first_line(of, &of.program, &["--version".to_owned()])? {
                Ok(version) => version,
                Err(why) => return Ok(Err(why)),
            };
            let mut arguments: Vec<_> = database.iter().map(|database| named(database)).collect();
            arguments.push("-".to_owned());
            let known = match of.run(&of.program, &arguments, Input::Nothing)? {
                Ok((0, text)) => known_viruses(&text),
                Ok(_) => None,
                Err(why) => return Ok(Err(why)),
            };
            let Some(known) = known.filter(|known| *known > 0) else {
                return Ok(Err("it has no database that it can read".to_owned()));
            };
            let hash = match database.as_deref().map(hash_of).transpose() {
                Ok(hash) => hash.map_or_else(String::new, |hash| format!(", database {hash}")),
                Err(error) => return Ok(Err(format!("its database cannot be read: {error}"))),
            };
            Ok(Ok(format!("{version}, {known} signatures{hash}")))
        }
    }
}

fn first_line(
    of: &External,
    program: &Path,
    arguments: &[String],
) -> Result<std::result::Result<String, String>> {
    let ran = of.run(program, arguments, Input::Nothing)?;
    Ok(ran.and_then(
        |(code, text)| match text.lines().find(|line| !line.trim().is_empty()) {
            Some(line) if code == 0 => Ok(shown(line.trim())),
            _ => Err(format!("asked for its version it ends with exit code {code}")),
        },
    ))
}

/// The line of a scanner's output that tells what it found: the first that ends in `FOUND`, as two of them write it, or else one that
/// describes it.
pub(super) fn hit(text: &str) -> &str {
    let line = |is: fn(&str) -> bool| text.lines().map(str::trim).find(|line| is(line));
    line(|line| line.ends_with("FOUND"))
        .or_else(|| line(|line| line.starts_with("- Description:")))
        .or_else(|| line(|line| !line.is_empty()))
        .unwrap_or_default()
}

fn known_viruses(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Known viruses:"))?;
    line.trim().parse().ok()
}

fn named(database: &Path) -> String {
    format!("--database={}", database.display())
}

/// The start of the SHA-256 over names and bytes of a database's files, in order.
fn hash_of(database: &Path) -> std::io::Result<String> {
    let mut files = Vec::new();
    if database.is_dir() {
        for item in std::fs::read_dir(database)?.take(DATABASE_FILES) {
            files.push(item?.path());
        }
        files.sort();
    } else {
        files.push(database.to_owned());
    }
    let mut hash = Sha256::new();
    for file in files.iter().filter(|file| file.is_file()) {
        hash.update(file.file_name().unwrap_or_default().as_encoded_bytes());
        hash.update([0]);
        let mut file = BufReader::with_capacity(1 << 16, File::open(file)?);
        loop {
            let part = file.fill_buf()?;
            if part.is_empty() {
                break;
            }
            hash.update(part);
            let read = part.len();
            file.consume(read);
        }
    }
    let mut text = hex::encode(hash.finalize());
    text.truncate(16);
    Ok(text)
}

/// The Python that runs a script of a package.
fn interpreter(program: &Path) -> Option<PathBuf> {
    let mut line = String::new();
    let file = File::open(program).ok()?.take(FIRST_LINE);
    BufReader::new(file).read_line(&mut line).ok()?;
    let python = PathBuf::from(line.strip_prefix("#!")?.trim());
    let name = python.file_name()?.to_str()?;
    (python.is_absolute() && name.starts_with("python")).then_some(python)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_known_by_their_names() {
        let of = |name: &str| External::of(&Path::new("/opt").join(name), None);
        assert!(External::KNOWN.iter().all(|name| of(name).is_some()));
        assert!(of("sh").is_none() && of("clamscan2").is_none());
        let own = External::of(Path::new("/usr/bin/clamscan"), Some(Path::new("/db"))).unwrap();
        assert!(own.arguments.contains(&"--database=/db".to_owned()));
        assert_eq!(of("clamdscan").unwrap().size_max, DAEMON_MAX);
    }

    #[test]
    fn one_of_a_kind_is_taken_and_the_daemon_has_its_own_database() {
        let folder = tempfile::tempdir().unwrap();
        for name in External::KNOWN {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let folders = [folder.path().to_owned()];
        let programs = |database: Option<&Path>| -> Vec<_> {
            let found = External::installed(&folders, database);
            found
                .iter()
                .map(|one| one.program.file_name().unwrap().to_string_lossy().into_owned())
                .collect()
        };
        assert_eq!(programs(None), ["clamdscan", "picklescan", "modelscan"]);
        assert_eq!(
            programs(Some(Path::new("/db"))),
            ["clamscan", "picklescan", "modelscan"]
        );
    }

    #[test]
    fn what_was_found_is_one_line_of_what_was_said() {
        assert_eq!(
            hit("\nfile: dangerous import 'posix system' FOUND\n--- SUMMARY"),
            "file: dangerous import 'posix system' FOUND"
        );
        assert_eq!(
            hit("Scanning\n  - Severity: x\n  - Description: Use of y\n"),
            "- Description: Use of y"
        );
        assert_eq!(hit("\n\n"), "");
        assert_eq!(known_viruses("x\nKnown viruses: 12\n"), Some(12));
    }
}
