//! The runtime template: the prebuilt runtime that kernels copy, in a cache folder named by its sources.
//!
//! `alephlab-kernel template` builds it and decides whether that is needed; here is where it lies.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use tokio::process::Command;

use super::command::build;
use super::programs::Programs;
use super::source;
use crate::data;
use crate::error::{CliError, Result};
use crate::settings::{Settings, xdg};

/// Written last by the builder: with it the template is whole.
const STAMP: &str = "stamp.json";
/// The builder's phase that a template which is up to date does not have.
const COMPILING: &str = "crates";

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
        message:
            "neither Alephlab's sources nor a built runtime were found: set runtime.source or runtime.dir"
                .into(),
    })?;
    Ok(cache().join(source::runtime_hash(root)?))
}

/// The folder of all templates that are named by their sources.
pub(super) fn cache() -> PathBuf {
    xdg("XDG_CACHE_HOME", ".cache").join("alephlab/runtime")
}

/// Whether a template is whole.
pub(crate) fn is_built(folder: &Path) -> bool {
    folder.join(STAMP).is_file()
}

/// Brings the template up to date; says whether it was built now.
///
/// Only the builder knows whether a template fits its kernel, so it is asked whenever there are sources; it answers at
/// once when nothing has changed, and two builders of one folder wait for each other.
pub(crate) async fn ensure(
    folder: &Path,
    root: Option<&Path>,
    programs: &Programs,
    mut progress: impl FnMut(&Step),
) -> Result<bool> {
    let Some(root) = root else {
        if is_built(folder) {
            return Ok(false);
        }
        let detail = format!(
            "{} has no built runtime and Alephlab's sources were not found",
            folder.display()
        );
        return Err(CliError::Build {
            what: "the runtime",
            detail,
        });
    };
    let parent = folder.parent().unwrap_or(folder);
    data::create_private_folder(parent)
        .map_err(|source| CliError::file("make the folder", parent, source))?;
    let mut command = Command::new(&programs.kernel);
    command
        .arg("template")
        .arg("--runtime-source")
        .arg(root)
        .arg("--out")
        .arg(folder)
        .current_dir(root);
    let mut compiled = false;
    build("the runtime", &mut command, |line| {
        match serde_json::from_str::<Step>(line) {
            Ok(step) => {
                compiled |= step.phase == COMPILING;
                progress(&step);
            }
            Err(_) => tracing::debug!("the template's builder said something else than progress"),
        }
    })
    .await?;
    if is_built(folder) {
        return Ok(compiled);
    }
    let detail = format!(
        "its builder ended well but left no {STAMP} in {}",
        folder.display()
    );
    Err(CliError::Build {
        what: "the runtime",
        detail,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::testing::scratch;

    fn fake_builder(folder: &Path, body: &str) -> Programs {
        let path = folder.join("builder");
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Programs {
            kernel: path.clone(),
            broker: path.clone(),
            agent: path.clone(),
            instance: path,
        }
    }

    #[tokio::test]
    async fn the_builder_says_whether_it_had_to_build() {
        let folder = scratch();
        let body = r#"[ -f "$5/stamp.json" ] || echo '{"phase":"crates","done":1,"total":2}'; mkdir -p "$5"; echo {} > "$5/stamp.json""#;
        let programs = fake_builder(folder.path(), body);
        let out = folder.path().join("cache/abc");
        let mut seen = Vec::new();
        let show = |step: &Step| seen.push((step.phase.clone(), step.done, step.total));
        assert!(ensure(&out, Some(folder.path()), &programs, show).await.unwrap());
        assert_eq!(seen, [("crates".to_owned(), 1, 2)]);
        assert!(
            !ensure(&out, Some(folder.path()), &programs, |_| ())
                .await
                .unwrap()
        );
        assert!(!ensure(&out, None, &programs, |_| ()).await.unwrap());
        let none = ensure(&folder.path().join("none"), None, &programs, |_| ()).await;
        assert!(matches!(none, Err(CliError::Build { .. })));
    }

    #[tokio::test]
    async fn a_builder_that_leaves_nothing_is_an_error() {
        let folder = scratch();
        let programs = fake_builder(folder.path(), "exit 0");
        let out = folder.path().join("abc");
        assert!(
            ensure(&out, Some(folder.path()), &programs, |_| ())
                .await
                .is_err()
        );
    }
}
