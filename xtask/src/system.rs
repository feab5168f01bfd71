//! Programs of the system that some tests need: found, installed where that is allowed, or asked for.

use std::fs;

use anyhow::Result;

use crate::counts::Counts;
use crate::steps::{Steps, succeed};

/// A program that tests run.
struct Needed {
    /// What it is for.
    tests: &'static str,
    /// Names under which distributions install it; the tests look for the same.
    names: &'static [&'static str],
    /// Debian's package.
    package: &'static str,
}

const NEEDED: [Needed; 5] = [
    Needed {
        tests: "contracts, settlement and some clients",
        names: &["npm"],
        package: "npm",
    },
    Needed {
        tests: "instances and isolation",
        names: &["bwrap"],
        package: "bubblewrap",
    },
    Needed {
        tests: "browser",
        names: &["chromium", "chromium-browser", "google-chrome"],
        package: "chromium",
    },
    Needed {
        tests: "scanner",
        names: &["clamscan"],
        package: "clamav",
    },
    Needed {
        tests: "debugger",
        names: &[
            "lldb-dap",
            "lldb-dap-22",
            "lldb-dap-21",
            "lldb-dap-20",
            "lldb-dap-19",
            "lldb-dap-18",
        ],
        package: "lldb-19",
    },
];

/// Installs them as root on Debian; elsewhere says what to install. Tests without their program count themselves as skipped, those of contracts, instances, isolation and settlement fail.
pub(crate) fn ensure(steps: &Steps) -> Result<Counts> {
    for needed in &NEEDED {
        let Needed { tests, package, .. } = needed;
        if needed.is_installed() {
            println!("{package} is installed");
            continue;
        }
        install_where_allowed(steps, package);
        if !needed.is_installed() {
            println!(
                "{package} is missing, which the {tests} tests need; to run them: apt-get install {package}"
            );
        }
    }
    Ok(Counts::default())
}

impl Needed {
    fn is_installed(&self) -> bool {
        self.names.iter().any(|name| is_on_path(name))
    }
}

/// Installs a package as root on Debian; what came of it is for the caller to see.
pub(crate) fn install_where_allowed(steps: &Steps, package: &str) {
    if is_root() && is_debian() {
        println!("installing {package} with apt-get");
        if let Err(error) = install(steps, package) {
            println!("{package} could not be installed: {error:#}");
        }
    }
}

fn install(steps: &Steps, package: &str) -> Result<()> {
    let apt = |arguments: &[&str]| {
        let mut command = steps.command("apt-get");
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    succeed(&mut apt(&["update", "-qq"]))?;
    succeed(&mut apt(&[
        "install",
        "-y",
        "-qq",
        "--no-install-recommends",
        package,
    ]))
}

fn is_on_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

/// Whether this is root.
pub(crate) fn is_root() -> bool {
    // The owner of a process's own folder in /proc is the process's user.
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

fn is_debian() -> bool {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    text.lines()
        .filter(|line| line.starts_with("ID=") || line.starts_with("ID_LIKE="))
        .any(|line| line.contains("debian"))
}
