//! Chromium for the browser tests: found, installed where that is allowed, or asked for.

use std::fs;

use anyhow::Result;

use crate::counts::Counts;
use crate::steps::{Steps, succeed};

/// Names under which distributions install it; the tests look for the same.
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// Installs it as root on Debian; elsewhere says what to install, and its tests are counted as skipped by themselves.
pub(crate) fn ensure(steps: &Steps) -> Result<Counts> {
    if let Some(name) = NAMES.into_iter().find(|name| is_on_path(name)) {
        println!("{name} is installed");
        return Ok(Counts::default());
    }
    if is_root() && is_debian() {
        println!("installing chromium with apt-get");
        if let Err(error) = install(steps) {
            println!("chromium could not be installed: {error:#}");
        }
    }
    if !NAMES.into_iter().any(is_on_path) {
        println!(
            "Chromium is missing, so the browser tests are skipped; to run them: apt-get install chromium"
        );
    }
    Ok(Counts::default())
}

fn install(steps: &Steps) -> Result<()> {
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
        "chromium",
    ]))
}

fn is_on_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

fn is_root() -> bool {
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
