//! The words of a bubblewrap command that every sandbox here begins with: what of the system is in it, and that nothing else is.
//!
//! Agents add what a kernel or terminal sees, verifiers what a scanner program needs. Nothing is started here.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// Folders beside `/usr`: links into it, or folders of a system whose programs are not all there.
pub const BESIDE_USR: [&str; 6] = ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];
/// Where programs are that a person installs for all.
pub const PROGRAMS: [&str; 3] = ["/usr", "/opt", "/nix"];
/// What of `/etc` programs need to link, to look up names, to trust certificates and to greet. No keys, no passwords.
const SHARED_ETC: [&str; 38] = [
    "OpenCL",
    "alternatives",
    "bash.bashrc",
    "ca-certificates",
    "ca-certificates.conf",
    "crypto-policies",
    "debian_version",
    "default/locale",
    "fonts",
    "gai.conf",
    "group",
    "host.conf",
    "hostname",
    "hosts",
    "inputrc",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "locale.alias",
    "lsb-release",
    "magic",
    "mime.types",
    "nsswitch.conf",
    "nvidia",
    "os-release",
    "passwd",
    "pki",
    "profile",
    "profile.d",
    "protocols",
    "resolv.conf",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
    "terminfo",
    "timezone",
    "vulkan",
];
/// bubblewrap as it is on this host.
#[derive(Debug, Clone)]
pub struct Bwrap {
    /// The program.
    pub program: PathBuf,
    /// It is new enough to forbid cells namespaces of their own, in which more of the system could be attacked.
    pub forbids_namespaces: bool,
}

/// What all sandboxes have.
pub fn namespaces(bwrap: &Bwrap) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec![bwrap.program.clone().into()];
    if bwrap.forbids_namespaces {
        words.push("--disable-userns".into());
    }
    words.extend(
        [
            "--unshare-user",
            "--unshare-pid",
            "--unshare-ipc",
            "--unshare-uts",
            "--unshare-cgroup-try",
            "--die-with-parent",
            "--cap-drop",
            "ALL",
        ]
        .map(OsString::from),
    );
    words
}

/// The system: programs, settings, processes, devices.
pub fn system(temporary: u64) -> Vec<OsString> {
    let mut words = Vec::new();
    for path in PROGRAMS.into_iter().filter(|path| Path::new(path).is_dir()) {
        add(&mut words, &["--ro-bind", path, path]);
    }
    for path in BESIDE_USR {
        match fs::read_link(path) {
            Ok(target) => words.extend(["--symlink".into(), target.into(), path.into()]),
            Err(_) => add(&mut words, &["--ro-bind-try", path, path]),
        }
    }
    for name in SHARED_ETC {
        let path = format!("/etc/{name}");
        add(&mut words, &["--ro-bind-try", &path, &path]);
    }
    add(&mut words, &["--proc", "/proc", "--dev", "/dev"]);
    // How many processors there are.
    add(
        &mut words,
        &["--ro-bind-try", "/sys/devices/system", "/sys/devices/system"],
    );
    let size = temporary.to_string();
    add(
        &mut words,
        &[
            "--size", &size, "--tmpfs", "/tmp", "--size", &size, "--tmpfs", "/dev/shm",
        ],
    );
    add(
        &mut words,
        &["--dir", "/var", "--symlink", "/tmp", "/var/tmp", "--dir", "/run"],
    );
    words
}

/// The last word on the system: its frame is not for writing.
pub fn closed() -> Vec<OsString> {
    ["--remount-ro", "/dev", "--remount-ro", "/"]
        .map(OsString::from)
        .to_vec()
}

/// Adds plain words.
pub fn add(words: &mut Vec<OsString>, more: &[&str]) {
    words.extend(more.iter().map(OsString::from));
}
