//! Tests on PostgreSQL: a server that is thrown away after them, on a socket in a folder of its own and on
//! no network, run by a user who may do nothing else.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{DirBuilderExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::counts::Counts;
use crate::steps::{Steps, succeed};
use crate::{crates, system};

/// Where tests look for a server's URL.
pub(crate) const VARIABLE: &str = "ALEPHLAB_TEST_DATABASE";
/// Where Debian has the programs of each version; not on the path.
const DEBIAN: &str = "/usr/lib/postgresql";
/// What `postgres` says on its standard error, in English, once it serves.
const READY: &str = "database system is ready to accept connections";

/// Runs the gateway's tests a second time, on PostgreSQL.
pub(crate) fn test(steps: &Steps, filter: Option<&str>) -> Result<Counts> {
    let server = Server::start(steps)?;
    crates::test_again(steps, "alephlab-gateway", (VARIABLE, &server.url()), filter)
}

/// A running server; ended and removed when dropped.
pub(crate) struct Server {
    folder: PathBuf,
    programs: PathBuf,
    user: Option<(u32, u32)>,
    child: Option<Child>,
}

impl Server {
    pub(crate) fn start(steps: &Steps) -> Result<Self> {
        let programs = programs(steps)?;
        // The server refuses to run as root.
        let user = system::is_root().then(nobody).transpose()?;
        // Short: a socket's path has room for about 100 characters.
        let folder = std::env::temp_dir().join(format!("alephlab-postgres-{}", std::process::id()));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("{} cannot be made", folder.display()))?;
        let mut server = Self {
            folder,
            programs,
            user,
            child: None,
        };
        if let Some((user, group)) = user {
            chown(&server.folder, Some(user), Some(group))?;
        }
        let options = [
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
        ];
        succeed(
            server
                .program("initdb")
                .args(options)
                .arg("--no-sync")
                .arg("--pgdata")
                .arg(server.data())
                .stdout(Stdio::null()),
        )?;
        server.serve(&steps.target().join("test-artifacts"))?;
        Ok(server)
    }

    /// Starts it and waits until it serves. What it says goes to a file.
    fn serve(&mut self, logs: &Path) -> Result<()> {
        let mut command = self.program("postgres");
        command.arg("-D").arg(self.data()).arg("-k").arg(&self.folder);
        // No network. Nothing has to survive: the disk is not waited for.
        for option in [
            "listen_addresses=",
            "fsync=off",
            "full_page_writes=off",
            "max_connections=300",
        ] {
            command.args(["-c", option]);
        }
        let mut child = command
            .stderr(Stdio::piped())
            .spawn()
            .context("postgres cannot be started")?;
        let stderr = child.stderr.take().context("a piped child has no output")?;
        self.child = Some(child);
        let mut stderr = BufReader::new(stderr);
        let (mut said, mut line) = (String::new(), String::new());
        while !line.contains(READY) {
            line.clear();
            if stderr.read_line(&mut line)? == 0 {
                bail!("postgres ended: {said}");
            }
            said.push_str(&line);
        }
        fs::create_dir_all(logs)?;
        let mut log = fs::File::create(logs.join("postgres.log"))?;
        // Read to its end: a server whose words nobody reads stops when the pipe is full.
        std::thread::spawn(move || std::io::copy(&mut said.as_bytes().chain(stderr), &mut log));
        Ok(())
    }

    pub(crate) fn url(&self) -> String {
        format!(
            "postgres:///postgres?user=postgres&host={}",
            self.folder.display()
        )
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        command
            .current_dir(&self.folder)
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let mut stop = self.program("pg_ctl");
            stop.args(["stop", "--silent", "--mode=immediate", "--pgdata"])
                .arg(self.data());
            if succeed(&mut stop).is_err() {
                let _ = child.kill();
            }
            let _ = child.wait();
        }
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            println!("{} cannot be removed: {error}", self.folder.display());
        }
    }
}

/// The folder of PostgreSQL's programs, installed when that is possible.
fn programs(steps: &Steps) -> Result<PathBuf> {
    if let Some(found) = find() {
        return Ok(found);
    }
    system::install_where_allowed(steps, "postgresql");
    find().context("PostgreSQL is missing; on Debian: apt-get install postgresql")
}

/// On the path, or the newest of Debian's.
fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir(DEBIAN)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            Some((
                entry.file_name().to_str()?.parse().ok()?,
                entry.path().join("bin"),
            ))
        })
        .collect();
    versions.sort();
    let mut folders =
        std::env::split_paths(&path).chain(versions.into_iter().rev().map(|(_, folder)| folder));
    folders.find(|folder| {
        ["initdb", "postgres", "pg_ctl"]
            .iter()
            .all(|name| folder.join(name).is_file())
    })
}

/// User and group who may do nothing.
fn nobody() -> Result<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").context("the users cannot be read")?;
    let line = users.lines().find(|line| line.starts_with("nobody:"));
    let fields: Vec<&str> = line.context("there is no user `nobody`")?.split(':').collect();
    match fields[..] {
        [_, _, user, group, ..] => Ok((user.parse()?, group.parse()?)),
        _ => bail!("the user `nobody` cannot be read"),
    }
}
