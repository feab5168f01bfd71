//! Scanner programs that are known: how each is asked, what its exit codes mean, and how it says its version.
//!
//! Chosen by what they can say of a revision: `clamav` knows malware by its database and reads every file. `picklescan` knows pickles,
//! `modelscan` some formats by their endings; what else there is they did not look through, so that in most revisions they can
//! refuse and do not count as ones that found nothing. None of them sends anything anywhere.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::answers::Reading;
use super::external::{External, Feeding, Input};
use super::sandbox::interpreter;
use crate::error::Result;
use crate::reader::shown;

/// What to do where fewer than two scanners are there.
pub(super) const INSTALL: &str = "install ClamAV with its database (apt-get install clamav, then freshclam): programs on PATH are \
    used";

/// Why a daemon does not count.
const DAEMON_SILENT: &str = "it would call a file clean that is beyond its daemon's limits: set `AlertExceedsMax yes` in clamd.conf, or \
    install clamscan";

/// The same where it is not known.
const DAEMON_UNKNOWN: &str = "what its daemon does with files beyond its limits is not known: `clamconf` beside it does not show the \
    settings of clamd; install clamscan";

/// Longest file; clamscan takes no more than 2 GB.
const SIZE_MAX: u64 = 2_000_000_000;
/// The daemon passes over what is longer than its own limits, of which 25 MiB is the least that it comes with.
const DAEMON_MAX: u64 = 25 << 20;
/// picklescan keeps every step of what it reads in memory, a hundred bytes for one.
const PICKLE_MAX: u64 = 32 << 20;
/// Longest time for one file: ClamAV may read its whole database first.
const LIMIT: Duration = Duration::from_secs(600);
/// Longest time for a whole revision, so that many files are not many times the limit of one.
const LIMIT_ALL: Duration = Duration::from_secs(3600);
/// Files of a database; ClamAV's own are three.
const DATABASE_FILES: usize = 1_000;

/// How a program says which version it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Version {
    /// In the first line of what it prints with this argument.
    Flag(&'static str),
    /// The same; and how many signatures its database has, by looking through nothing. With a database that is named, its hash:
    /// that one has no version.
    ClamScan,
    /// The same as with a flag, of a daemon: it has limits of its own, and must say of each file that is beyond them that it is.
    ClamDaemon,
    /// Of this Python package, in the environment that runs the program.
    Package(&'static str),
}

impl External {
    /// The programs that are known. Of ClamAV's two the one first that we tell its limits: what a daemon passes over by its own, it
    /// calls clean.
    pub const KNOWN: [&'static str; 4] = ["clamscan", "clamdscan", "picklescan", "modelscan"];

    /// A program that is known by its name. A name alone is no path, and not looked up beside whatever lies here.
    pub fn of(program: &Path, database: Option<&Path>) -> Option<Self> {
        if program.components().count() < 2 {
            return None;
        }
        // It is started in a folder of its own.
        let program = &std::path::absolute(program).ok()?;
        let database = database.map(std::path::absolute).transpose().ok()?;
        let database = database.as_deref();
        let with = |name: &str, arguments: &[&str], feeding, version| Self {
            name: name.to_owned(),
            program: program.clone(),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            feeding,
            version,
            database: None,
            clean: BTreeSet::from([0]),
            hit: BTreeSet::from([1]),
            unknown: BTreeSet::new(),
            reading: Reading::Code,
            size_max: SIZE_MAX,
            limit: LIMIT,
            limit_all: LIMIT_ALL,
        };
        match program.file_name().and_then(OsStr::to_str)? {
            // 0: clean, 1: found, 2: error (its manual).
            "clamdscan" => Some(Self {
                size_max: DAEMON_MAX,
                reading: Reading::ClamAv,
                ..with(
                    "clamav",
                    &["--no-summary", "-"],
                    Feeding::Input,
                    Version::ClamDaemon,
                )
            }),
            "clamscan" => Some(Self::clamscan(
                &with("clamav", &[], Feeding::Input, Version::Flag("")),
                database,
            )),
            // 0: nothing or no pickle, 1: a dangerous import, 2: an error, whatever was found before it.
            "picklescan" => Some(Self {
                reading: Reading::Picklescan,
                size_max: PICKLE_MAX,
                ..with(
                    "picklescan",
                    &["--log", "INFO", "--path"],
                    Feeding::Path,
                    Version::Package("picklescan"),
                )
            }),
            // 0: nothing, 1: found, 2: error, 3: no file that it knows; 2 and 3 whatever was found.
            "modelscan" => Some(Self {
                unknown: BTreeSet::from([3]),
                reading: Reading::Modelscan,
                ..with(
                    "modelscan",
                    &["scan", "-r", "json", "--path"],
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
        // How long it may take is our limit; by its own it would stop before.
        arguments.push("--max-scantime=0".to_owned());
        arguments.extend(["filesize", "scansize"].map(|what| format!("--max-{what}={SIZE_MAX}")));
        arguments.extend(database.map(named));
        arguments.push("-".to_owned());
        Self {
            arguments,
            reading: Reading::ClamAv,
            version: Version::ClamScan,
            database: database.map(Path::to_owned),
            ..common.clone()
        }
    }

    /// Those of the known programs that are in these folders: one for each name in reports, the first of them.
    pub fn installed(folders: &[PathBuf], database: Option<&Path>) -> Vec<Self> {
        let mut found: Vec<Self> = Vec::new();
        for known in Self::KNOWN {
            // An empty or relative part of PATH is a folder of whoever wrote what lies here.
            let absolute = folders.iter().filter(|folder| folder.is_absolute());
            let mut places = absolute.map(|folder| folder.join(known));
            // A database that is named is read by clamscan; the daemon has its own.
            if known == "clamdscan" && database.is_some() {
                continue;
            }
            let one = places
                .find(|place| is_program(place))
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
        Version::ClamDaemon => {
            let version = first_line(of, &of.program, &["--version".to_owned()])?;
            Ok(match (version, tells_limits(of)?) {
                (Ok(version), Some(true)) => Ok(version),
                (Ok(_), Some(false)) => Err(DAEMON_SILENT.to_owned()),
                (Ok(_), None) => Err(DAEMON_UNKNOWN.to_owned()),
                (Err(why), _) => Err(why),
            })
        }
        Version::ClamScan => {
            let database = &of.database;
            let version = match first_line(of, &of.program, &["--version".to_owned()])? {
                Ok(version) => version,
                Err(why) => return Ok(Err(why)),
            };
            let mut arguments: Vec<_> = database.iter().map(|database| named(database)).collect();
            arguments.push("-".to_owned());
            let known = match of.run(&of.program, &arguments, Input::Nothing, of.limit)? {
                Ok(ran) if ran.code == 0 => known_viruses(&ran.text),
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

/// Whether the daemon's settings, as `clamconf` beside it prints them, have it say so where a file is beyond its limits. By itself
/// it calls such a file clean. None where they are not shown: other systems have them in places that clamconf does not look in.
fn tells_limits(of: &External) -> Result<Option<bool>> {
    let program = of.program.with_file_name("clamconf");
    let ran = of.run(&program, &[], Input::Nothing, of.limit)?;
    Ok(ran.ok().filter(|ran| ran.code == 0).and_then(|ran| {
        let mut lines = ran.text.lines().map(str::trim);
        let said = lines.find(|line| line.starts_with("AlertExceedsMax"))?;
        Some(said == "AlertExceedsMax = \"yes\"")
    }))
}

fn first_line(
    of: &External,
    program: &Path,
    arguments: &[String],
) -> Result<std::result::Result<String, String>> {
    let ran = of.run(program, arguments, Input::Nothing, of.limit)?;
    Ok(ran.and_then(
        |ran| match ran.text.lines().find(|line| !line.trim().is_empty()) {
            Some(line) if ran.code == 0 => Ok(shown(line.trim())),
            _ => Err(format!(
                "asked for its version it ends with exit code {}",
                ran.code
            )),
        },
    ))
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
        for item in std::fs::read_dir(database)? {
            files.push(item?.path());
            if files.len() > DATABASE_FILES {
                return Err(std::io::Error::other(format!(
                    "it has more than {DATABASE_FILES} files"
                )));
            }
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

fn is_program(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_known_by_their_names() {
        let of = |name: &str| External::of(&Path::new("/opt").join(name), None);
        assert!(External::KNOWN.iter().all(|name| of(name).is_some()));
        assert!(of("sh").is_none() && of("clamscan2").is_none());
        // Nothing that lies here is taken for a scanner.
        assert!(External::of(Path::new("picklescan"), None).is_none());
        assert!(of("clamscan").unwrap().program.is_absolute());
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
        let folders = ["".into(), folder.path().to_owned()];
        assert!(
            External::installed(&folders, None).is_empty(),
            "they cannot be executed"
        );
        for name in External::KNOWN {
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(folder.path().join(name), mode).unwrap();
        }
        let programs = |database: Option<&Path>| -> Vec<_> {
            let found = External::installed(&folders, database);
            found
                .iter()
                .map(|one| one.program.file_name().unwrap().to_string_lossy().into_owned())
                .collect()
        };
        assert_eq!(programs(None), ["clamscan", "picklescan", "modelscan"]);
        assert_eq!(
            programs(Some(Path::new("/db"))),
            ["clamscan", "picklescan", "modelscan"]
        );
    }

    #[test]
    fn the_size_of_a_database_is_read() {
        assert_eq!(known_viruses("x\nKnown viruses: 12\n"), Some(12));
    }
}
