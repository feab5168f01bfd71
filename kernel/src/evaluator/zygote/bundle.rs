//! `:dep`: crates of the person's, built once for all kernels.
//!
//! A generated crate (dylib) depends on what was asked for, on the runtime and on the bundle before it, so that every
//! static exists once in the child. It is resolved with the runtime's lock file and built with its profile and flags,
//! in a target folder that starts as a copy of the template's; should cargo then build a crate of the runtime again,
//! because other features of it are wanted, the build is stopped: a second runtime in one process is what must never be.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::store;
use super::toolbox::Dependencies;
use crate::template::metadata::{is_macro, name_and_version, packages};
use crate::template::private::copy_tree;
use crate::template::stamp::{Stamp, hash_tree};
use crate::template::{Template, write_whole};
use crate::{Error, Result};

/// One line of a `[dependencies]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spec {
    pub(super) name: String,
    pub(super) line: String,
    /// Folder of a crate of the person's own, which may change at any time.
    path: Option<PathBuf>,
}

/// Why a bundle was not built.
#[derive(Debug)]
pub(super) enum BundleFault {
    /// What the person wrote is not understood.
    Malformed(String),
    /// cargo said no, in these words.
    Cargo(String),
    /// This crate of the runtime would be built again.
    Shared(String),
    /// It could not be tried.
    Failed(Error),
}

impl From<Error> for BundleFault {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Crates of the runtime.
struct Shared {
    /// Names and versions.
    packages: BTreeSet<(String, String)>,
    /// Names of the files that they were built into: with other features a crate's file has another name.
    files: BTreeSet<String>,
}

/// What is known of a finished bundle.
#[derive(Debug, Serialize, Deserialize)]
struct Finished {
    library: PathBuf,
    /// Hash of the library.
    identity: String,
    crates: Vec<(String, PathBuf)>,
    folders: Vec<PathBuf>,
}

impl Spec {
    /// Of the text behind `:dep`: a name, or a line of a manifest. Relative paths are those of the notebook.
    pub(super) fn parse(text: &str, work_dir: &Path) -> std::result::Result<Self, BundleFault> {
        let malformed = || {
            BundleFault::Malformed(format!(
                "`{text}` names no crate; write :dep NAME, :dep NAME = \"VERSION\" or :dep NAME = {{ path = \"…\" }}"
            ))
        };
        let is_name = |name: &str| {
            !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_')
        };
        let text = text.trim();
        if is_name(text) {
            return Ok(Self {
                name: text.to_owned(),
                line: format!("{text} = \"*\""),
                path: None,
            });
        }
        let table: toml::Table = text.parse().map_err(|_| malformed())?;
        let (name, mut value) = table
            .into_iter()
            .next()
            .filter(|(name, _)| is_name(name))
            .ok_or_else(malformed)?;
        let mut folder = None;
        if let Some(path) = value.get_mut("path")
            && let Some(relative) = path.as_str()
        {
            let absolute = work_dir.join(relative);
            let absolute = absolute.canonicalize().unwrap_or(absolute);
            *path = toml::Value::String(absolute.display().to_string());
            folder = Some(absolute);
        }
        Ok(Self {
            line: format!("{name} = {value}"),
            name,
            path: folder,
        })
    }

    /// Hash of a crate of the person's own as it is now; empty for one of a registry.
    pub(super) fn content(&self) -> String {
        let Some(path) = &self.path else {
            return String::new();
        };
        let manifest = fs::read_to_string(path.join("Cargo.toml")).unwrap_or_default();
        let source = hash_tree(&path.join("src")).unwrap_or_default();
        store::name([manifest.as_str(), source.as_str()])
    }

    fn code_name(&self) -> String {
        self.name.replace('-', "_")
    }
}

/// Builds what is asked for on top of what there is; at once when it was built before. `progress` hears what cargo does.
pub(super) fn add(
    template: &Template,
    stamp: &Stamp,
    before: &Dependencies,
    specs: &[Spec],
    progress: &mut dyn FnMut(&str),
) -> std::result::Result<Dependencies, BundleFault> {
    let lines: Vec<String> = specs
        .iter()
        .map(|spec| format!("{} {}", spec.line, spec.content()))
        .collect();
    let earlier = before.bundles.iter().map(|(name, _)| name.as_str());
    let name = format!(
        "bundle_{}",
        &store::name(earlier.chain(lines.iter().map(String::as_str)))[..12]
    );
    let root = template.bundles();
    let folder = root.join(&name);
    // A crate of the person's own may depend on others of theirs, which only cargo knows: it looks each time.
    let is_settled = specs.iter().all(|spec| spec.path.is_none());
    let finished = match read(&folder).filter(|_| is_settled) {
        Some(finished) => finished,
        None => {
            let bench = Bench {
                template,
                stamp,
                name: &name,
                folder: &folder,
            };
            bench.build(before, specs, progress)?
        }
    };
    let mut all = before.clone();
    all.bundles.push((name, finished.library));
    all.crates
        .retain(|(known, _)| !finished.crates.iter().any(|(new, _)| new == known));
    all.crates.extend(finished.crates);
    all.folders = finished.folders;
    all.identities.push(finished.identity);
    all.lines
        .extend(specs.iter().map(|spec| (spec.line.clone(), spec.content())));
    Ok(all)
}

/// A bundle whose files are all there.
fn read(folder: &Path) -> Option<Finished> {
    let text = fs::read(folder.join("finished.json")).ok()?;
    let finished: Finished = serde_json::from_slice(&text).ok()?;
    let is_whole = finished.library.exists() && finished.crates.iter().all(|(_, path)| path.exists());
    is_whole.then_some(finished)
}

/// What one bundle is built with.
struct Bench<'a> {
    template: &'a Template,
    stamp: &'a Stamp,
    name: &'a str,
    folder: &'a Path,
}

impl Bench<'_> {
    fn build(
        &self,
        before: &Dependencies,
        specs: &[Spec],
        progress: &mut dyn FnMut(&str),
    ) -> std::result::Result<Finished, BundleFault> {
        let root = self.template.bundles();
        fs::create_dir_all(&root).map_err(Error::file("make", &root))?;
        let lock = root.join("lock");
        let lock = File::create(&lock).map_err(Error::file("make", lock))?;
        // Two kernels that want the same: the second finds what the first has built.
        lock.lock().map_err(Error::file("lock", &root))?;
        let is_settled = specs.iter().all(|spec| spec.path.is_none());
        if let Some(finished) = read(self.folder).filter(|_| is_settled) {
            return Ok(finished);
        }
        let target = root.join("target");
        if !target.exists() {
            let new = root.join(".new-target");
            let _ = fs::remove_dir_all(&new);
            copy_tree(&self.template.evcxr().join("target"), &new)?;
            fs::rename(&new, &target).map_err(Error::file("make", &target))?;
        }
        self.write(before, specs)?;
        let built = self.cargo_build(&target, true, progress);
        let library = match built {
            // The network only when something is missing here.
            Err(BundleFault::Cargo(message)) if is_missing(&message) => {
                self.cargo_build(&target, false, progress)?
            }
            other => other?,
        };
        let bytes = fs::read(&library).map_err(Error::file("read", &library))?;
        let finished = Finished {
            identity: hex::encode(Sha256::digest(bytes)),
            library,
            crates: self.crates(&target, specs)?,
            folders: vec![
                target.join(&self.stamp.target).join("debug/deps"),
                target.join("debug/deps"),
            ],
        };
        let text = serde_json::to_string(&finished).unwrap_or_default();
        write_whole(&self.folder.join("finished.json"), &text)?;
        Ok(finished)
    }

    fn write(&self, before: &Dependencies, specs: &[Spec]) -> Result<()> {
        let source = self.folder.join("src");
        fs::create_dir_all(&source).map_err(Error::file("make", &source))?;
        let evcxr = self.template.evcxr().join("Cargo.toml");
        let evcxr = fs::read_to_string(&evcxr).map_err(Error::file("read", evcxr))?;
        // Its profile, to the letter: under another one everything would be built again.
        let profile = evcxr
            .split("[profile.dev]")
            .nth(1)
            .and_then(|rest| rest.split("\n[").next())
            .unwrap_or_default();
        let mut manifest = format!(
            "[package]\nname = \"{}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[lib]\ncrate-type = [\"dylib\"]\n\n\
             [workspace]\n\n[profile.dev]{profile}\n[dependencies]\nalephlab = {{ path = {:?} }}\n",
            self.name,
            self.template.source().join("runtime"),
        );
        let mut code = "pub extern crate alephlab;\n".to_owned();
        for (name, _) in &before.bundles {
            let _ = writeln!(
                manifest,
                "{name} = {{ path = {:?} }}",
                self.template.bundles().join(name)
            );
            let _ = writeln!(code, "pub extern crate {name};");
        }
        for spec in specs {
            let _ = writeln!(manifest, "{}", spec.line);
            let _ = writeln!(code, "pub extern crate {};", spec.code_name());
        }
        write_whole(&self.folder.join("Cargo.toml"), &manifest)?;
        write_whole(&source.join("lib.rs"), &code)?;
        let lock = match before.bundles.last() {
            Some((name, _)) => self.template.bundles().join(name).join("Cargo.lock"),
            None => self.template.evcxr().join("Cargo.lock"),
        };
        let own = self.folder.join("Cargo.lock");
        fs::copy(&lock, own).map(drop).map_err(Error::file("copy", lock))
    }

    fn cargo(&self, verb: &str, target: &Path) -> Command {
        let mut command = Command::new("cargo");
        command.arg(verb).current_dir(self.folder);
        command
            .env("CARGO_TARGET_DIR", target)
            .env("CARGO_BUILD_BUILD_DIR", target);
        command.env("RUSTFLAGS", &self.stamp.rustflags);
        command
            .env_remove("RUSTC_WRAPPER")
            .env_remove("CARGO_ENCODED_RUSTFLAGS");
        command.stdin(Stdio::null());
        command
    }

    /// Runs the build; the bundle's library.
    fn cargo_build(
        &self,
        target: &Path,
        offline: bool,
        progress: &mut dyn FnMut(&str),
    ) -> std::result::Result<PathBuf, BundleFault> {
        let mut command = self.cargo("build", target);
        command.args([
            "--message-format=json-render-diagnostics",
            "--target",
            &self.stamp.target,
        ]);
        if offline {
            command.arg("--offline");
        }
        let failed = |error: std::io::Error| Error::Program {
            program: "cargo".into(),
            message: error.to_string(),
        };
        let shared = self.shared_crates()?;
        let mut process = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let (Some(stdout), Some(stderr)) = (process.stdout.take(), process.stderr.take()) else {
            return Err(BundleFault::Cargo("cargo has no pipes".to_owned()));
        };
        let mut said = String::new();
        let mut outcome: std::result::Result<Option<PathBuf>, String> = Ok(None);
        std::thread::scope(|scope| {
            let watched = scope.spawn(|| watch(stdout, &mut process, self.name, &shared));
            for line in BufReader::new(stderr).lines().map_while(std::io::Result::ok) {
                progress(&line);
                said.push_str(&line);
                said.push('\n');
            }
            outcome = watched.join().unwrap_or(Ok(None));
        });
        let status = process.wait().map_err(failed)?;
        match outcome {
            Err(name) => Err(BundleFault::Shared(name)),
            Ok(Some(library)) if status.success() => Ok(library),
            Ok(_) => Err(BundleFault::Cargo(said)),
        }
    }

    /// What is inside the runtime's library: not what only build scripts and macros use.
    fn shared_crates(&self) -> std::result::Result<Shared, BundleFault> {
        let mut command = self.cargo("metadata", &self.template.evcxr().join("target"));
        command.current_dir(self.template.evcxr()).args([
            "--offline",
            "--format-version=1",
            "--filter-platform",
            &self.stamp.target,
        ]);
        let metadata: Value = serde_json::from_slice(&output(command)?).unwrap_or_default();
        let root = metadata["resolve"]["root"].as_str().unwrap_or_default();
        let linked = packages(&metadata, root, Value::is_null, |package| !is_macro(package));
        let packages: BTreeSet<_> = linked.into_iter().filter_map(name_and_version).collect();
        if packages.is_empty() {
            let said = "cargo does not say what the runtime is made of";
            return Err(BundleFault::Cargo(said.to_owned()));
        }
        let target = self.template.evcxr().join("target").join(&self.stamp.target);
        let folder = target.join("debug/deps");
        let files = fs::read_dir(&folder).map_err(Error::file("read", &folder))?;
        let names = files
            .flatten()
            .filter_map(|file| file.file_name().into_string().ok());
        Ok(Shared {
            packages,
            files: names.collect(),
        })
    }

    /// Name in code and file of each crate that was asked for.
    fn crates(
        &self,
        target: &Path,
        specs: &[Spec],
    ) -> std::result::Result<Vec<(String, PathBuf)>, BundleFault> {
        let mut command = self.cargo("build", target);
        command.args([
            "--offline",
            "--message-format=json",
            "--target",
            &self.stamp.target,
        ]);
        let artifacts = output(command)?;
        let mut command = self.cargo("metadata", target);
        command.args([
            "--offline",
            "--format-version=1",
            "--filter-platform",
            &self.stamp.target,
        ]);
        let metadata: Value = serde_json::from_slice(&output(command)?).unwrap_or_default();
        let nodes = metadata["resolve"]["nodes"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let root = nodes
            .into_iter()
            .find(|node| node["id"] == metadata["resolve"]["root"])
            .unwrap_or_default();
        let files: Vec<Value> = artifacts
            .split(|byte| *byte == b'\n')
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect();
        let mut crates = Vec::new();
        for spec in specs {
            let code_name = spec.code_name();
            let dependency = root["deps"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|one| one["name"] == code_name.as_str());
            let id = dependency.map(|one| one["pkg"].clone()).unwrap_or_default();
            let mut found = files
                .iter()
                .filter(|one| one["package_id"] == id)
                .filter_map(library_file);
            let file = found.next_back().ok_or_else(|| {
                BundleFault::Cargo(format!("`{}` has no library that a cell could use", spec.name))
            })?;
            crates.push((code_name, file));
        }
        Ok(crates)
    }
}

/// Reads cargo's messages: the bundle's library, or the crate of the runtime that would be built again.
fn watch(
    stdout: std::process::ChildStdout,
    process: &mut Child,
    name: &str,
    shared: &Shared,
) -> std::result::Result<Option<PathBuf>, String> {
    let mut library = None;
    for line in BufReader::new(stdout).lines().map_while(std::io::Result::ok) {
        let Ok(message) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        if message["reason"] != "compiler-artifact" {
            continue;
        }
        let target = message["target"]["name"].as_str().unwrap_or_default();
        if target == name {
            library = library_file(&message);
        }
        let Some(file) = library_file(&message) else {
            continue;
        };
        let for_cells = file.extension().is_some_and(|end| end != "so") && is_for_cells(&message);
        // Another version of it is another crate, with statics of its own: that is no harm.
        let is_shared = || package(&message).is_some_and(|package| shared.packages.contains(&package));
        // Not only what is built now: a build that was stopped has left some behind.
        let name = file
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let is_other = || message["fresh"] == false || !shared.files.contains(name);
        if for_cells && is_shared() && is_other() {
            let _ = process.kill();
            return Err(target.to_owned());
        }
    }
    Ok(library)
}

/// Whether a crate was built for the machine that cells run on, and not for a build script or macro.
fn is_for_cells(message: &Value) -> bool {
    let triple_folder = |path: &str| {
        Path::new(path)
            .components()
            .rev()
            .nth(3)
            .is_some_and(|part| part.as_os_str() != "target")
    };
    message["filenames"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .any(triple_folder)
}

/// Name and version of an artifact's package, by its package id specification.
fn package(message: &Value) -> Option<(String, String)> {
    let id = message["package_id"].as_str()?;
    let (source, fragment) = id.rsplit_once('#')?;
    let (name, version) = match fragment.rsplit_once('@') {
        Some((name, version)) => (name, version),
        None => (source.rsplit('/').next()?, fragment),
    };
    Some((name.to_owned(), version.to_owned()))
}

fn library_file(message: &Value) -> Option<PathBuf> {
    let files = message["filenames"].as_array()?;
    let ends = |end: &str| {
        let mut found = files
            .iter()
            .filter_map(Value::as_str)
            .filter(|file| file.ends_with(end));
        found.next().map(PathBuf::from)
    };
    let is_library = message["target"]["kind"]
        .as_array()?
        .iter()
        .any(|kind| matches!(kind.as_str(), Some("lib" | "rlib" | "dylib" | "proc-macro")));
    if !is_library {
        return None;
    }
    ends(".so").or_else(|| ends(".rlib")).or_else(|| ends(".rmeta"))
}

/// Whether cargo wants to download something.
fn is_missing(message: &str) -> bool {
    message.contains("offline")
}

fn output(mut command: Command) -> std::result::Result<Vec<u8>, BundleFault> {
    let output = command.output().map_err(|error| Error::Program {
        program: "cargo".into(),
        message: error.to_string(),
    })?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(BundleFault::Cargo(
            String::from_utf8_lossy(&output.stderr).into_owned(),
        ))
    }
}

/// cargo's own words without its colours and what is not the error.
pub(super) fn message(said: &str) -> String {
    let start = said.find("error").unwrap_or(0);
    said[start..].trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_artifact_says_which_package_in_which_version_it_is() {
        let package = |id: &str| package(&serde_json::json!({ "package_id": id }));
        let of = |name: &str, version: &str| Some((name.to_owned(), version.to_owned()));
        let registry = "registry+https://example.org/index#num-complex@0.4.6";
        assert_eq!(package(registry), of("num-complex", "0.4.6"));
        assert_eq!(
            package("path+file:///a/cell#alephlab-cell@0.1.0"),
            of("alephlab-cell", "0.1.0")
        );
        assert_eq!(package("path+file:///a/mine#0.1.0"), of("mine", "0.1.0"));
        assert_eq!(package("strange"), None);
    }

    #[test]
    fn a_name_a_version_and_a_table_are_understood_and_paths_are_the_notebooks() {
        let here = Path::new("/nowhere/here");
        let line = |text: &str| Spec::parse(text, here).unwrap().line;
        assert_eq!(line("rand"), "rand = \"*\"");
        assert_eq!(line("rand = \"0.9\""), "rand = \"0.9\"");
        assert!(line("mine = { path = \"mine\" }").contains("/nowhere/here/mine"));
        assert!(line("serde = { version = \"1\", features = [\"derive\"] }").contains("derive"));
        for bad in ["", "a b", "= 1", "x = {"] {
            assert!(
                matches!(Spec::parse(bad, here), Err(BundleFault::Malformed(_))),
                "{bad}"
            );
        }
    }
}
