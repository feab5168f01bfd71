//! Finds our other programs beside this one, and builds them when this one lies in a target folder.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use tokio::process::Command;

use super::command::{build, probe};
use crate::error::{CliError, Result};

/// Packages and programs that bear the same names.
const NAMES: [&str; 3] = ["alephlab-kernel", "alephlab-broker", "alephlab-agent"];

/// Where our programs are.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    /// `alephlab-kernel`.
    pub kernel: PathBuf,
    /// `alephlab-broker`.
    pub broker: PathBuf,
    /// `alephlab-agent`.
    pub agent: PathBuf,
    /// `alephlab-instance`, the first program of the local network's hosts; it may be missing where there are none.
    pub instance: PathBuf,
}

/// How far a build is.
pub(crate) struct Progress<'a> {
    /// Packages finished.
    pub done: u64,
    /// Packages in all; 0 when unknown.
    pub total: u64,
    /// The package finished last.
    pub name: &'a str,
}

/// The programs beside this one, all of which must exist.
pub(crate) fn find() -> Result<Programs> {
    let folder = own_folder()?;
    let path = |name: &'static str| {
        let path = folder.join(name);
        let missing = || CliError::Program {
            program: name,
            reason: format!("it is not in {}", folder.display()),
        };
        if path.is_file() { Ok(path) } else { Err(missing()) }
    };
    let [kernel, broker, agent] = NAMES.map(path);
    Ok(Programs {
        kernel: kernel?,
        broker: broker?,
        agent: agent?,
        instance: folder.join("alephlab-instance"),
    })
}

/// Brings the programs up to date when this program was built in the workspace's target folder.
pub(crate) async fn ensure(root: Option<&Path>, mut progress: impl FnMut(&Progress<'_>)) -> Result<Programs> {
    let folder = own_folder()?;
    let target = folder
        .parent()
        .filter(|_| folder.file_name().is_some_and(|name| name == "release"));
    if let (Some(root), Some(target)) = (root, target) {
        let total = packages(root).await;
        let mut done = HashSet::new();
        let mut command = Command::new("cargo");
        command.args([
            "build",
            "--release",
            "--message-format=json-render-diagnostics",
            "--target-dir",
        ]);
        command.arg(target).current_dir(root);
        // The local network's, for `alephlab-instance`.
        for name in NAMES.into_iter().chain(["alephlab-localnet"]) {
            command.args(["--package", name]);
        }
        build("the programs kernel, broker and agent", &mut command, |line| {
            if let Some(artifact) = artifact(line) {
                done.insert(artifact.package_id);
                progress(&Progress {
                    done: done.len() as u64,
                    total,
                    name: &artifact.target.name,
                });
            }
        })
        .await?;
    }
    find()
}

fn own_folder() -> Result<PathBuf> {
    let program = std::env::current_exe().map_err(|error| CliError::Program {
        program: "alephlab",
        reason: error.to_string(),
    })?;
    Ok(program.parent().map(Path::to_path_buf).unwrap_or_default())
}

/// How many packages the build will name; 0 when cargo cannot say.
async fn packages(root: &Path) -> u64 {
    let mut args = vec!["tree", "--prefix=none", "--edges=normal,build", "--format={p}"];
    for name in NAMES {
        args.extend(["--package", name]);
    }
    let answer = probe("cargo", &args, Some(root), Duration::from_secs(60)).await;
    let text = answer
        .map(|answer| String::from_utf8_lossy(&answer.stdout).into_owned())
        .unwrap_or_default();
    let names: HashSet<&str> = text
        .lines()
        .map(|line| line.trim_end_matches(" (*)"))
        .filter(|line| !line.is_empty())
        .collect();
    names.len() as u64
}

#[derive(Deserialize)]
struct Artifact {
    reason: String,
    package_id: String,
    target: Target,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

fn artifact(line: &str) -> Option<Artifact> {
    serde_json::from_str(line)
        .ok()
        .filter(|artifact: &Artifact| artifact.reason == "compiler-artifact")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargos_lines_name_finished_packages() {
        let line =
            r#"{"reason":"compiler-artifact","package_id":"p","target":{"name":"serde"},"fresh":true}"#;
        assert_eq!(artifact(line).unwrap().target.name, "serde");
        assert!(artifact(r#"{"reason":"build-finished","success":true}"#).is_none());
        assert!(artifact("Compiling serde").is_none());
    }
}
