//! What stands between a scanner program and everything else: bubblewrap where there is one, bounds in any case.
//!
//! Scanners are programs of others that read files of strangers. In the sandbox one sees the system's programs, what it is made of
//! itself, ClamAV's database and the socket of its daemon, and what it is to read; there is no network, and nothing can be written but
//! in a temporary folder of its own. That is on disk: what a scanner unpacks may be more than there is memory. Whether there was one stands in the report, beside the scanner's version.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use alephlab_api::isolation::bubblewrap::{BESIDE_USR, Bwrap, PROGRAMS, add, closed, namespaces, system};

/// Where bubblewrap is looked for: not in `PATH`, of which a part may be anybody's.
const FOLDERS: [&str; 3] = ["/usr/bin", "/usr/local/bin", "/bin"];
/// ClamAV's settings and database, and its daemon's socket, where the systems that have it put them.
const CLAMAV: [&str; 8] = [
    "/etc/clamav",
    "/etc/clamd.conf",
    "/etc/clamd.d",
    "/var/lib/clamav",
    "/run/clamav",
    "/run/clamd.scan",
    "/run/clamd",
    "/tmp/clamd.sock",
];
/// What of the folder beside `bin` a program is made of.
const OF_PROGRAM: [&str; 3] = ["lib", "lib64", "pyvenv.cfg"];
/// Memory that it may map, bytes: ClamAV's database and the longest file, with room.
const MEMORY_MAX: u64 = 6 << 30;
/// The longest file that it may write, bytes: a copy of the longest that it reads.
const WRITTEN_MAX: u64 = 4 << 30;
/// What it may keep in `/dev/shm`, which is memory, bytes.
const SHARED_MAX: u64 = 64 << 20;
/// Links that are followed from one program.
const LINKS_MAX: usize = 40;
/// The longest first line of a script that is read.
const FIRST_LINE: u64 = 1024;
/// Bounds of a shell, for what it becomes then: kilobytes of memory, half kilobytes of a file, seconds of processors.
const BOUNDED: &str =
    "ulimit -c 0 && ulimit -v \"$1\" && ulimit -f \"$2\" && ulimit -t \"$3\" && shift 3 && exec \"$@\"";

/// What a run of a program is given.
pub(super) struct Needs<'a> {
    /// The scanner, whatever of it runs: a Python of its own may.
    pub(super) scanner: &'a Path,
    /// Files and folders that it reads.
    pub(super) shown: &'a [PathBuf],
    /// Where it starts, an empty folder.
    pub(super) folder: &'a Path,
    /// What is `/tmp` in a sandbox.
    pub(super) temporary: &'a Path,
    /// Longest time.
    pub(super) limit: Duration,
}

/// The command that runs a program.
pub(super) fn command(program: &Path, arguments: &[String], needs: &Needs<'_>) -> Command {
    let mut words = match found() {
        Some(bwrap) => enclosed(bwrap, program, needs),
        None => Vec::new(),
    };
    words.extend(["/bin/sh", "-c", BOUNDED, "sh"].map(OsString::from));
    // For each thread's share of it, too: some read with several.
    let seconds = 4 * needs.limit.as_secs().max(1);
    let bounds = [MEMORY_MAX >> 10, WRITTEN_MAX >> 9, seconds];
    words.extend(bounds.map(|bound| bound.to_string().into()));
    words.push(program.into());
    words.extend(arguments.iter().map(OsString::from));
    let mut command = Command::new(&words[0]);
    command
        .args(&words[1..])
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("LC_ALL", "C")
        .current_dir(needs.folder);
    command
}

/// What a report says of it.
pub(super) fn in_words() -> &'static str {
    match found() {
        Some(_) => "in bubblewrap without network",
        None => "without a sandbox",
    }
}

/// bubblewrap, where it can make a sandbox; found out once, by a real start.
fn found() -> Option<&'static Bwrap> {
    static FOUND: OnceLock<Option<Bwrap>> = OnceLock::new();
    let find = || {
        let mut places = FOLDERS.iter().map(|folder| Path::new(folder).join("bwrap"));
        let program = places.find(|place| place.is_file())?;
        let bwrap = |forbids_namespaces| Bwrap {
            program: program.clone(),
            forbids_namespaces,
        };
        [true, false].map(bwrap).into_iter().find(works)
    };
    FOUND.get_or_init(find).as_ref()
}

fn works(bwrap: &Bwrap) -> bool {
    let mut words = system_of(bwrap);
    words.extend(closed());
    words.extend(["--", "/bin/sh", "-c", ":"].map(OsString::from));
    let done = Command::new(&words[0])
        .args(&words[1..])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    done.is_ok_and(|status| status.success())
}

fn system_of(bwrap: &Bwrap) -> Vec<OsString> {
    let mut words = namespaces(bwrap);
    add(&mut words, &["--unshare-net", "--new-session"]);
    words.extend(system(SHARED_MAX));
    words
}

fn enclosed(bwrap: &Bwrap, program: &Path, needs: &Needs<'_>) -> Vec<OsString> {
    let mut words = system_of(bwrap);
    words.extend(["--bind".into(), needs.temporary.into(), "/tmp".into()]);
    let clamav = CLAMAV.iter().map(PathBuf::from);
    let read = needs.shown.iter().cloned();
    let of_program = [program, needs.scanner].into_iter().flat_map(parts);
    for path in clamav.chain(of_program).chain(read) {
        words.extend(["--ro-bind-try".into(), path.clone().into(), path.into()]);
    }
    // Where daemons' settings say that sockets are.
    add(&mut words, &["--symlink", "/run", "/var/run"]);
    let folder = needs.folder;
    words.extend(["--ro-bind".into(), folder.into(), folder.into()]);
    words.extend(closed());
    words.extend(["--chdir".into(), folder.into(), "--".into()]);
    words
}

/// What a program is made of beside the system, by each path that leads to it: itself, where it is a script its interpreter, and of a
/// `bin` all of it with the libraries beside. Of any other folder nothing else is shown: it may be somebody's home.
fn parts(program: &Path) -> Vec<PathBuf> {
    let mut programs = places(program);
    programs.extend(interpreter(program).iter().flat_map(|python| places(python)));
    let mut parts = Vec::new();
    for program in programs {
        let folder = program.parent().filter(|folder| folder.ends_with("bin"));
        match folder.and_then(|bin| Some((bin, bin.parent()?))) {
            Some((bin, prefix)) => {
                parts.push(bin.to_owned());
                parts.extend(OF_PROGRAM.map(|name| prefix.join(name)));
            }
            None => parts.push(program),
        }
    }
    let is_of_system = |path: &PathBuf| {
        PROGRAMS
            .iter()
            .chain(&BESIDE_USR)
            .any(|folder| path.starts_with(folder))
    };
    parts.retain(|path| !is_of_system(path));
    parts
}

/// A program's paths: the one that is named, and what it is after each link on the way.
fn places(program: &Path) -> Vec<PathBuf> {
    let mut places = vec![program.to_owned()];
    while let Some(next) = places
        .last()
        .filter(|_| places.len() < LINKS_MAX)
        .and_then(|last| followed(last))
    {
        places.push(next);
    }
    places
}

/// The path with its first link replaced by what that says.
fn followed(path: &Path) -> Option<PathBuf> {
    let mut before = PathBuf::new();
    let mut parts = path.components();
    while let Some(part) = parts.next() {
        let at = before.join(part);
        if let Ok(target) = std::fs::read_link(&at) {
            let mut next = before;
            for part in target.components().chain(parts) {
                match part {
                    // What is before it has no links any more.
                    Component::ParentDir => drop(next.pop()),
                    part => next.push(part),
                }
            }
            return Some(next);
        }
        before = at;
    }
    None
}

/// The Python that runs a script of a package.
pub(super) fn interpreter(program: &Path) -> Option<PathBuf> {
    let mut line = String::new();
    let file = File::open(program).ok()?.take(FIRST_LINE);
    BufReader::new(file).read_line(&mut line).ok()?;
    let python = PathBuf::from(line.strip_prefix("#!")?.trim());
    let name = python.file_name()?.to_str()?;
    (python.is_absolute() && name.starts_with("python")).then_some(python)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn run(folder: &Path, script: &str, shown: &[PathBuf], temporary: &Path) -> String {
        let program = folder.join("look");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let empty = tempfile::tempdir().unwrap();
        let needs = Needs {
            scanner: &program,
            shown,
            folder: empty.path(),
            temporary,
            limit: Duration::from_secs(60),
        };
        let done = command(&program, &[], &needs).output().unwrap();
        String::from_utf8(done.stdout).unwrap()
    }

    #[test]
    fn a_program_has_bounds_with_and_without_a_sandbox() {
        let (folder, temporary) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let script = "ulimit -v; ulimit -f; ulimit -t; ulimit -c";
        let said = run(folder.path(), script, &[], temporary.path());
        let all: Vec<_> = said.lines().collect();
        assert_eq!(all, ["6291456", "8388608", "240", "0"]);
    }

    #[test]
    fn in_a_sandbox_a_program_sees_what_it_reads_and_no_network() {
        if found().is_none() {
            assert_eq!(in_words(), "without a sandbox");
            return;
        }
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (place, name) in [(&folder, "beside"), (&other, "read"), (&other, "kept")] {
            std::fs::write(place.path().join(name), name).unwrap();
        }
        let read = other.path().join("read");
        let script = format!(
            "cat {0}/beside {1}/read {1}/kept 2>/dev/null; echo; cat /proc/net/dev | tail -n +3 | cut -d: -f1 | tr -d ' '; \
             touch ./written 2>/dev/null || echo closed; echo much > /tmp/unpacked",
            folder.path().display(),
            other.path().display()
        );
        let temporary = tempfile::tempdir().unwrap();
        let said = run(folder.path(), &script, &[read], temporary.path());
        assert_eq!(said, "read\nlo\nclosed\n");
        assert!(temporary.path().join("unpacked").is_file(), "on disk");
    }

    #[test]
    fn of_a_prefix_only_programs_and_libraries_are_shown() {
        let home = tempfile::tempdir().unwrap();
        let bin = home.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        std::fs::write(bin.join("scan"), "#!/usr/bin/python3\n").unwrap();
        let shown = parts(&bin.join("scan"));
        assert!(
            shown.contains(&bin) && shown.contains(&home.path().join("lib")),
            "{shown:?}"
        );
        assert!(
            !shown.contains(&home.path().to_owned()) && !shown.iter().any(|path| path.starts_with("/usr"))
        );
        // One that lies in a home folder shows nothing else of that.
        std::fs::write(home.path().join("scan"), "#!/bin/sh\n").unwrap();
        assert_eq!(parts(&home.path().join("scan")), [home.path().join("scan")]);
        // A Python by a link to a folder that is a link itself.
        let (minor, patch) = (home.path().join("3.12"), home.path().join("3.12.1"));
        std::fs::create_dir_all(patch.join("bin")).unwrap();
        std::fs::write(patch.join("bin/python3"), "").unwrap();
        std::os::unix::fs::symlink("3.12.1", &minor).unwrap();
        std::os::unix::fs::symlink("../3.12/bin/python3", bin.join("python")).unwrap();
        let shown = parts(&bin.join("python"));
        for folder in [&bin, &minor.join("bin"), &patch.join("bin"), &patch.join("lib")] {
            assert!(shown.contains(folder), "{folder:?} of {shown:?}");
        }
    }
}
