//! JupyterLab's published files, for the gateway to serve as a page: fetched once with pip, checked by their hashes, unpacked
//! into the cache folder. Nothing of them is run here; no Python runs while the page is used.

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use tokio::process::Command;

use crate::build::command::build;
use crate::error::{CliError, Result};
use crate::settings::{Settings, xdg};
use crate::stop::or_stop;

use tokio_util::sync::CancellationToken;

/// Version of the page; the folder is named after it.
pub(crate) const VERSION: &str = "4.6.6";

/// A published package: what pip is asked for, its file, and the file's SHA-256.
struct Package {
    requirement: &'static str,
    file: &'static str,
    sha256: &'static str,
}

/// JupyterLab itself, and what shows its widgets.
const PACKAGES: [Package; 2] = [
    Package {
        requirement: "jupyterlab==4.6.6",
        file: "jupyterlab-4.6.6-py3-none-any.whl",
        sha256: "4261910ccf1ecad6e0b3ca0debe96d4fde9735bfc9707509c125aab850e06b81",
    },
    Package {
        requirement: "jupyterlab-widgets==3.0.17",
        file: "jupyterlab_widgets-3.0.17-py3-none-any.whl",
        sha256: "40ac1e9955acf116c4d995d9bfa082d86ad9ec6d91c4f134827cf5e0a5eb75e0",
    },
];

/// Where it is, or will be, installed.
fn folder() -> PathBuf {
    let cache = xdg("XDG_CACHE_HOME", ".cache");
    cache.join("alephlab").join(format!("jupyterlab-{VERSION}"))
}

/// The folder of the settings, or what `alephlab lab install` made; none when there is neither.
pub(crate) fn in_use(settings: &Settings) -> Option<PathBuf> {
    let is_there = |folder: &PathBuf| folder.join("lab/static/index.html").is_file();
    settings
        .gateway
        .lab
        .clone()
        .or_else(|| Some(folder()).filter(is_there))
}

/// Fetches, checks and unpacks it; gives the folder, and whether it was there already.
pub(crate) async fn install(stop: &CancellationToken) -> Result<(PathBuf, bool)> {
    let folder = folder();
    if folder.join("lab/static/index.html").is_file() {
        return Ok((folder, true));
    }
    let parent = folder.parent().unwrap_or(Path::new("/")).to_owned();
    let making = |source| CliError::file("make a folder in", &parent, source);
    std::fs::create_dir_all(&parent).map_err(making)?;
    let fresh = tempfile::Builder::new()
        .prefix(".jupyterlab-")
        .tempdir_in(&parent)
        .map_err(making)?;
    or_stop(stop, "fetching JupyterLab", Box::pin(fetch(fresh.path()))).await?;
    let whole = fresh.path().join("share");
    for package in &PACKAGES {
        check(&fresh.path().join(package.file), package.sha256)?;
        let unpacked = fresh.path().join(format!("{}.files", package.file));
        or_stop(
            stop,
            "unpacking JupyterLab",
            Box::pin(unpack(&fresh.path().join(package.file), &unpacked)),
        )
        .await?;
        take(&unpacked, &whole)?;
    }
    match std::fs::rename(&whole, &folder) {
        // Another install was quicker.
        Err(_) if folder.join("lab/static/index.html").is_file() => Ok((folder, true)),
        renamed => renamed
            .map(|()| (folder.clone(), false))
            .map_err(|source| CliError::file("make", &folder, source)),
    }
}

async fn fetch(into: &Path) -> Result<()> {
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
    ])
    .args(["--only-binary", ":all:", "--dest"])
    .arg(into)
    .args(PACKAGES.iter().map(|package| package.requirement));
    build("JupyterLab's page (pip download)", &mut pip, |_| {}).await
}

async fn unpack(file: &Path, into: &Path) -> Result<()> {
    let mut zip = Command::new("python3");
    zip.args(["-m", "zipfile", "-e"]).arg(file).arg(into);
    build("JupyterLab's page (unpacking)", &mut zip, |_| {}).await
}

fn check(file: &Path, sha256: &str) -> Result<()> {
    let bytes = std::fs::read(file).map_err(|source| CliError::file("read", file, source))?;
    let found = hex::encode(Sha256::digest(&bytes));
    if found == sha256 {
        return Ok(());
    }
    Err(CliError::Malformed {
        path: file.to_owned(),
        reason: format!("its SHA-256 is {found}, and not {sha256} as published; nothing was installed"),
    })
}

/// Moves what the package puts below `share/jupyter` to where the gateway looks.
fn take(unpacked: &Path, whole: &Path) -> Result<()> {
    let failed = |source| CliError::file("unpack", unpacked, source);
    for entry in std::fs::read_dir(unpacked).map_err(failed)?.flatten() {
        let share = entry.path().join("data/share/jupyter");
        for part in ["lab", "labextensions"] {
            let from = share.join(part);
            if from.is_dir() {
                std::fs::create_dir_all(whole).map_err(failed)?;
                std::fs::rename(&from, whole.join(part)).map_err(failed)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::scratch;

    #[test]
    fn a_file_that_is_not_the_published_one_is_refused() {
        let folder = scratch();
        let file = folder.path().join("x.whl");
        std::fs::write(&file, "abc").unwrap();
        let right = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        check(&file, right).unwrap();
        let error = check(&file, &right.replace('b', "c")).unwrap_err().to_string();
        assert!(error.contains("nothing was installed"), "{error}");
    }

    #[test]
    fn takes_what_the_page_needs() {
        let folder = scratch();
        let (unpacked, whole) = (folder.path().join("u"), folder.path().join("w"));
        let file = unpacked.join("x.data/data/share/jupyter/lab/static/index.html");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, "x").unwrap();
        take(&unpacked, &whole).unwrap();
        assert!(whole.join("lab/static/index.html").is_file());
    }
}
