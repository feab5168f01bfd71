//! The runtime template: the prebuilt runtime that kernels copy, in a cache folder named by its sources.
//!
//! `alephlab-kernel template` builds it; here it is decided whether that is needed, and only one process builds it.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use tokio::process::Command;

use super::command::build;
use super::programs::Programs;
use super::source;
use super::toolchain::Toolchain;
use crate::data;
use crate::error::{CliError, Result};
use crate::settings::{Settings, xdg};

/// Written last by the builder: with it the template is whole.
const STAMP: &str = "stamp.json";
/// How often a build of another process is looked after.
const OTHER_BUILD_CHECK: Duration = Duration::from_millis(500);

/// One line of the builder's progress.
#[derive(Debug, Deserialize)]
pub(crate) struct Step {
    /// What is going on.
    pub phase: String,
    /// How far it is.
    #[serde(default)]
    pub done: u64,
    /// Of how much; 0 when unknown.
    #[serde(default)]
    pub total: u64,
}

/// Where the template belongs.
pub(crate) fn folder(settings: &Settings, root: Option<&Path>) -> Result<PathBuf> {
    if let Some(named) = &settings.runtime.dir {
        return std::path::absolute(named).map_err(|source| CliError::file("find", named, source));
    }
    let root = root.ok_or_else(|| CliError::Setting {
        message: "neither Alephlab's sources nor a built runtime were found: set runtime.source or runtime.dir".into(),
    })?;
    Ok(xdg("XDG_CACHE_HOME", ".cache").join("alephlab/runtime").join(source::runtime_hash(root)?))
}

/// Whether a template is whole.
pub(crate) fn is_built(folder: &Path) -> bool {
    folder.join(STAMP).is_file()
}

/// Builds the template when it is not there; says whether it was built now.
pub(crate) async fn ensure(
    folder: &Path,
    root: Option<&Path>,
    programs: &Programs,
    toolchain: &Toolchain,
    mut progress: impl FnMut(&Step),
) -> Result<bool> {
    if is_built(folder) {
        return Ok(false);
    }
    let root = root.ok_or_else(|| CliError::Build {
        what: "the runtime",
        detail: format!("{} has no built runtime and Alephlab's sources were not found", folder.display()),
    })?;
    let _lock = lock(folder, &mut progress).await?;
    if is_built(folder) {
        return Ok(false);
    }
    let mut command = Command::new(&programs.kernel);
    command.arg("template").arg("--runtime-source").arg(root).arg("--out").arg(folder).current_dir(root);
    // A library built on trial names libstd by a path relative to one folder deeper than it lies; below a folder that
    // also holds the toolchain, such as a home folder, that path leads elsewhere.
    command.env("LD_LIBRARY_PATH", toolchain.sysroot.join("lib"));
    build("the runtime", &mut command, |line| match serde_json::from_str(line) {
        Ok(step) => progress(&step),
        Err(_) => tracing::debug!(line, "the template's builder said something else than progress"),
    })
    .await?;
    if is_built(folder) {
        return Ok(true);
    }
    let detail = format!("its builder ended well but left no {STAMP} in {}", folder.display());
    Err(CliError::Build { what: "the runtime", detail })
}

/// Held while one process builds; others wait and then find the work done.
async fn lock(folder: &Path, progress: &mut impl FnMut(&Step)) -> Result<File> {
    let parent = folder.parent().unwrap_or(folder);
    data::create_private_folder(parent).map_err(|source| CliError::file("make the folder", parent, source))?;
    let path = folder.with_extension("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|source| CliError::file("write", &path, source))?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(source)) => return Err(CliError::file("lock", &path, source)),
            Err(TryLockError::WouldBlock) => {
                progress(&Step { phase: "waiting for another alephlab that builds it".into(), done: 0, total: 0 });
                tokio::time::sleep(OTHER_BUILD_CHECK).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::testing::scratch;

    fn toolchain() -> Toolchain {
        Toolchain { version: String::new(), sysroot: PathBuf::new(), has_rust_src: true }
    }

    fn fake_builder(folder: &Path, body: &str) -> Programs {
        let path = folder.join("builder");
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Programs { kernel: path.clone(), broker: path.clone(), agent: path }
    }

    #[tokio::test]
    async fn a_missing_template_is_built_once() {
        let folder = scratch();
        let body = r#"echo '{"phase":"candle","done":1,"total":2}'; mkdir -p "$5"; echo {} > "$5/stamp.json""#;
        let programs = fake_builder(folder.path(), body);
        let out = folder.path().join("cache/abc");
        let mut seen = Vec::new();
        let built = ensure(&out, Some(folder.path()), &programs, &toolchain(), |step| seen.push(step.phase.clone())).await;
        assert!(built.unwrap());
        assert_eq!(seen, ["candle"]);
        assert!(!ensure(&out, Some(folder.path()), &programs, &toolchain(), |_| ()).await.unwrap());
    }

    #[tokio::test]
    async fn a_builder_that_leaves_nothing_is_an_error() {
        let folder = scratch();
        let programs = fake_builder(folder.path(), "exit 0");
        let out = folder.path().join("abc");
        assert!(ensure(&out, Some(folder.path()), &programs, &toolchain(), |_| ()).await.is_err());
    }
}
