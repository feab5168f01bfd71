//! An instance's files, and the bubblewrap command that makes a process believe that they are a machine.
//!
//! What is its own: accounts, processes, name, `/root`, `/var`, `/etc` (kept over reboots), `/tmp` and `/run` (not
//! kept). What it shares: the system's programs, read-only, and the network, because it has to dial out: it reaches
//! whatever this machine reaches, also programs that listen on `127.0.0.1`. So it is a stand-in for a host, and no
//! wall between tenants. Power over the system it has none: its root may make namespaces and mounts of its own and
//! own its files.

use std::{
    ffi::OsString,
    fs, io,
    net::TcpListener,
    os::{
        fd::OwnedFd,
        unix::fs::{OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{config::ComputeConfig, spec::Spec};
use crate::error::{Error, Result};

/// Where an instance finds its first program.
const FIRST_PROGRAM: &str = "/init";

/// The system's own folders of programs.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Folders of a system without merged `/usr`, and links of one with.
const BESIDE_USR: [&str; 6] = ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];

/// What of this machine's `/etc` programs need to link, to look up names and to trust certificates.
const SHARED_ETC: [&str; 6] = [
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
];

/// Files of `/etc` that are the same in every instance.
const OWN_ETC: [(&str, &str); 3] = [
    (
        "passwd",
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
    ),
    ("group", "root:x:0:\nnogroup:x:65534:\n"),
    ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
];

/// How instances are started on this machine.
#[derive(Debug)]
pub(crate) struct Sandbox {
    bwrap: PathBuf,
    instance: PathBuf,
    folder: PathBuf,
    programs: Vec<PathBuf>,
    host_file: Option<Vec<u8>>,
    path: Vec<PathBuf>,
    env: Vec<(String, String)>,
}

impl Sandbox {
    /// Checks that instances can be started here.
    pub(crate) fn open(config: &ComputeConfig, data: &Path) -> Result<Self> {
        let folder = config.folder.clone().unwrap_or_else(|| data.join("instances"));
        let refuse = |cause: io::Error| Error::Folder {
            path: folder.clone(),
            cause,
        };
        fs::create_dir_all(&folder).map_err(refuse)?;
        // Whole, because bubblewrap and its children work elsewhere.
        let folder = fs::canonicalize(&folder).map_err(refuse)?;
        let instance = fs::canonicalize(&config.instance)
            .ok()
            .filter(|path| path.is_file())
            .ok_or_else(|| Error::Instance {
                path: config.instance.clone(),
            })?;
        let sandbox = Self {
            bwrap: found(&config.bwrap),
            instance,
            folder,
            programs: config.programs.clone(),
            host_file: config.host_file.clone(),
            path: config.path.clone(),
            env: config.env.clone(),
        };
        sandbox.try_out()?;
        Ok(sandbox)
    }

    /// Starts nothing in a sandbox like the instances': what is missing is said now and not at the first of them.
    fn try_out(&self) -> Result<()> {
        let refuse = |cause: String| Error::Sandbox {
            program: self.bwrap.clone(),
            cause,
        };
        let mut command = Command::new(&self.bwrap);
        command.args([
            "--unshare-all",
            "--share-net",
            "--unshare-user",
            "--uid",
            "0",
            "--gid",
            "0",
        ]);
        command.args(["--cap-drop", "ALL", "--cap-add", "CAP_SETFCAP"]);
        command.args(["--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "true"]);
        let output = command.output().map_err(|error| refuse(error.to_string()))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(refuse(said.lines().next().unwrap_or("it failed").to_owned()))
    }

    /// Folder of one instance.
    fn home(&self, hash: &str) -> PathBuf {
        self.folder.join(hash)
    }

    /// Hashes of the instances that have a folder.
    pub(crate) fn kept(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    }

    /// Removes the files of an instance, if there are any.
    pub(crate) fn erase(&self, hash: &str) -> Result<()> {
        let path = self.home(hash);
        match fs::remove_dir_all(&path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(Error::Folder { path, cause }),
            _ => Ok(()),
        }
    }

    /// Makes the files that an instance boots with; what it has changed itself stays.
    pub(crate) fn prepare(&self, spec: &Spec) -> Result<()> {
        let home = self.home(&spec.hash);
        lay_out(&home, spec, self.host_file.as_deref()).map_err(|cause| Error::Folder { path: home, cause })
    }

    /// The command that boots an instance whose port 22 is `port`.
    pub(crate) fn command(&self, spec: &Spec, port: TcpListener) -> Command {
        let home = self.home(&spec.hash);
        let mut command = Command::new(&self.bwrap);
        // Without --as-pid-1: bubblewrap's own init reaps zombies.
        command.args([
            "--unshare-all",
            "--share-net",
            "--die-with-parent",
            "--new-session",
        ]);
        // A root of its own, who may only give its accounts to namespaces within.
        command.args(["--unshare-user", "--uid", "0", "--gid", "0"]);
        command.args(["--cap-drop", "ALL", "--cap-add", "CAP_SETFCAP"]);
        command.args(["--hostname", &hostname(&spec.hash)]);
        command.args(["--ro-bind", "/usr", "/usr"]);
        for path in BESIDE_USR {
            beside_usr(&mut command, Path::new(path));
        }
        command.args([
            "--proc",
            "/proc",
            "--dev",
            "/dev",
            "--dev-bind-try",
            "/dev/fuse",
            "/dev/fuse",
        ]);
        command.args(["--tmpfs", "/tmp", "--tmpfs", "/run", "--dir", "/run/lock"]);
        for folder in ["root", "var", "etc"] {
            command
                .arg("--bind")
                .arg(home.join(folder))
                .arg(Path::new("/").join(folder));
        }
        for path in SHARED_ETC {
            command.args(["--ro-bind-try", path, path]);
        }
        command
            .arg("--ro-bind")
            .arg(home.join("authorized_keys"))
            .arg("/etc/ssh/authorized_keys");
        for path in &self.programs {
            command.arg("--ro-bind-try").arg(path).arg(path);
        }
        command.arg("--ro-bind").arg(&self.instance).arg(FIRST_PROGRAM);
        command.args([
            "--clearenv",
            "--setenv",
            "HOME",
            "/root",
            "--setenv",
            "USER",
            "root",
        ]);
        command.args(["--setenv", "SHELL", "/bin/sh", "--setenv", "LANG", "C.UTF-8"]);
        for (name, value) in &self.env {
            command.args(["--setenv", name, value]);
        }
        command.arg("--setenv").arg("PATH").arg(self.search_path());
        command.args(["--chdir", "/root", "--", FIRST_PROGRAM]);
        // Nothing of this process's environment, not even to bubblewrap, whose own is seen from within.
        command.env_clear().current_dir("/");
        command
            .stdin(OwnedFd::from(port))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn search_path(&self) -> OsString {
        let mut path = OsString::new();
        for folder in &self.path {
            path.push(folder);
            path.push(":");
        }
        path.push(SYSTEM_PATH);
        path
    }
}

/// A program by its path, or by its name in this process's `PATH`.
fn found(program: &Path) -> PathBuf {
    let path = std::env::var_os("PATH").filter(|_| program.components().count() == 1);
    let folders = path.iter().flat_map(std::env::split_paths);
    let mut found = folders
        .map(|folder| folder.join(program))
        .filter(|path| path.is_file());
    found.next().unwrap_or_else(|| program.to_owned())
}

/// Name of the machine.
fn hostname(hash: &str) -> String {
    format!("vm-{}", hash.get(..8).unwrap_or(hash))
}

/// Shows a folder beside `/usr` as it is here: a link into it or a folder.
fn beside_usr(command: &mut Command, path: &Path) {
    match fs::read_link(path) {
        Ok(target) => command.arg("--symlink").arg(target).arg(path),
        Err(_) => command.arg("--ro-bind-try").arg(path).arg(path),
    };
}

fn lay_out(home: &Path, spec: &Spec, host_file: Option<&[u8]>) -> io::Result<()> {
    for folder in [
        "root",
        "var/tmp",
        "var/log",
        "var/lib",
        "var/cache",
        "etc/ssh",
        "etc/alephlab",
        "etc/ssl",
    ] {
        fs::create_dir_all(home.join(folder))?;
    }
    // Nobody else on this machine has business there.
    fs::set_permissions(home, fs::Permissions::from_mode(0o700))?;
    fs::set_permissions(home.join("root"), fs::Permissions::from_mode(0o700))?;
    let etc = home.join("etc");
    for (name, text) in OWN_ETC {
        write(&etc.join(name), text.as_bytes())?;
    }
    let name = hostname(&spec.hash);
    write(&etc.join("hostname"), format!("{name}\n").as_bytes())?;
    let hosts = format!("127.0.0.1 localhost {name}\n::1 localhost\n");
    write(&etc.join("hosts"), hosts.as_bytes())?;
    // A copy, because it is often a link to where instances see nothing. Without one, names are not looked up.
    let resolvers = fs::read("/etc/resolv.conf").unwrap_or_default();
    write(&etc.join("resolv.conf"), &resolvers)?;
    if let Some(bytes) = host_file {
        write(&etc.join("alephlab/host.json"), bytes)?;
    }
    // One line for each key, whatever stands in the message.
    let keys: Vec<String> = spec
        .keys
        .iter()
        .map(|key| key.replace(['\n', '\r'], " "))
        .collect();
    write(&home.join("authorized_keys"), keys.join("\n").as_bytes())
}

/// Writes a file anew: what the instance has put in its place, such as a link to elsewhere, is not followed.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new();
    let mut file = file.write(true).create_new(true).mode(0o644).open(path)?;
    io::Write::write_all(&mut file, bytes)
}
