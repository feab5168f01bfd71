//! The trimmed copy of the runtime's sources, with every version pinned.
//!
//! evcxr writes its own manifest and cargo drops from a lock file what a manifest does not need, so a lock alone
//! does not last: the context's first build (without the runtime) empties it. Therefore the copied runtime depends
//! on a crate `pins` with the exact version of everything, for a target that no machine is
//! (`cfg(any())`): cargo resolves them, so that a later `:dep` cannot move them, and never builds them.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::Template;
use super::metadata::{name_and_version, packages};
use super::stamp::{Toolchain, hash_tree};
use crate::{Error, Result};

/// Stands in for a crate of a registry, see [`patch`].
const PATCH: &str = "runtime/kernels-ptx";
/// The crates that a template holds, as folders of the checkout.
const CRATES: [&str; 9] = [
    "runtime",
    "runtime/cell",
    "runtime/cuda-stubs",
    "runtime/derive",
    "runtime/features",
    PATCH,
    "runtime/link",
    "runtime/ops",
    "gateway/api",
];
/// Compiled by itself, see [`super::build`].
pub(super) const ZYGOTE: &str = "kernel/zygote/src/lib.rs";
/// What a crate is made of, and GPU kernels where there are some. Its other folders are crates of their own, tests or notes.
const PARTS: [&str; 4] = ["Cargo.toml", "build.rs", "ptx", "src"];

/// Fills `source/`; returns how many crates the runtime is built from.
pub(super) fn copy(checkout: &Path, template: &Template) -> Result<usize> {
    let fresh = template.root().join("source.new");
    let _ = fs::remove_dir_all(&fresh);
    for name in CRATES {
        for part in PARTS {
            let from = checkout.join(name).join(part);
            if from.exists() {
                copy_all(&from, &fresh.join(name).join(part))?;
            }
        }
    }
    for file in ["Cargo.lock", ZYGOTE] {
        copy_all(&checkout.join(file), &fresh.join(file))?;
    }
    let manifest = checkout.join("Cargo.toml");
    let manifest = fs::read_to_string(&manifest).map_err(Error::file("read", &manifest))?;
    write(&fresh.join("Cargo.toml"), &trim_workspace(&manifest))?;
    turn_features_on(&fresh)?;
    let toolchain = checkout.join("rust-toolchain.toml");
    if toolchain.exists() {
        copy_all(&toolchain, &fresh.join("rust-toolchain.toml"))?;
    }
    let pins = match pins(&fresh) {
        Ok(pins) => pins,
        Err(_) => {
            // The programs do not depend on the runtime: on a fresh machine its crates are not here yet.
            fetch(checkout)?;
            pins(&fresh)?
        }
    };
    add_pins(&fresh, &pins)?;
    // Once more, so that the lock file knows the pins.
    metadata(&fresh)?;
    settle(&fresh, template)?;
    Ok(pins.len() + CRATES.len())
}

/// The checkout only locks what `alephlab-features` asks for; here it is built.
fn turn_features_on(fresh: &Path) -> Result<()> {
    let path = fresh.join("runtime/features/Cargo.toml");
    let manifest = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
    write(&path, &manifest.replace("[target.'cfg(any())'.", "["))
}

/// Puts the new copy in place, keeping the files that did not change: cargo goes by their times.
fn settle(fresh: &Path, template: &Template) -> Result<()> {
    let source = template.source();
    let same = source.exists() && hash_tree(fresh)? == hash_tree(&source)?;
    if same {
        return fs::remove_dir_all(fresh).map_err(Error::file("remove", fresh));
    }
    let _ = fs::remove_dir_all(&source);
    fs::rename(fresh, &source).map_err(Error::file("write", source))
}

/// What cargo must be told wherever it builds with the runtime: the name of the crate that ours stands in for, and the folder
/// of ours. The workspace says it in its manifest; evcxr and `:dep` have manifests of their own.
pub(super) fn patch(source: &Path) -> (&'static str, PathBuf) {
    ("candle-kernels", source.join(PATCH))
}

/// The workspace's manifest with these members only, and without patches: they name folders that are not copied.
fn trim_workspace(manifest: &str) -> String {
    let mut out = String::new();
    let (mut in_list, mut in_patch) = (false, false);
    for line in manifest.lines() {
        if line.starts_with('[') {
            in_patch = line.starts_with("[patch");
        }
        in_list |= line.starts_with("members") || line.starts_with("default-members");
        if !in_list && !in_patch {
            out.push_str(line);
            out.push('\n');
        }
        if line.trim() == "[workspace]" {
            let _ = writeln!(out, "members = {CRATES:?}");
        }
        in_list &= !line.contains(']');
    }
    out
}

/// Name and version of every registry crate that the runtime is built from on this machine.
fn pins(source: &Path) -> Result<BTreeSet<(String, String)>> {
    let metadata = metadata(source)?;
    let mut all = metadata["packages"].as_array().into_iter().flatten();
    let root = all.find(|package| package["name"] == "alephlab");
    let root = root.and_then(|root| root["id"].as_str()).unwrap_or_default();
    let built = packages(&metadata, root, |kind| kind != "dev", |_| true);
    let registry = built.into_iter().filter(|package| !package["source"].is_null());
    Ok(registry.filter_map(name_and_version).collect())
}

/// A crate of their own: the runtime may not name a crate twice.
fn add_pins(source: &Path, pins: &BTreeSet<(String, String)>) -> Result<()> {
    let mut text = "[package]\nname = \"alephlab-pins\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n\
        # Exact versions of what the runtime is built from, never built: see the kernel's template/source.rs.\n\
        [target.'cfg(any())'.dependencies]\n"
        .to_owned();
    for (index, (name, version)) in pins.iter().enumerate() {
        let _ = writeln!(
            text,
            "pin-{index} = {{ package = {name:?}, version = \"={version}\", default-features = false }}"
        );
    }
    let pins = source.join("pins");
    fs::create_dir_all(pins.join("src")).map_err(Error::file("make", &pins))?;
    write(&pins.join("src/lib.rs"), "")?;
    write(&pins.join("Cargo.toml"), &text)?;
    let manifest = source.join("runtime/Cargo.toml");
    let mut text = fs::read_to_string(&manifest).map_err(Error::file("read", &manifest))?;
    text.push_str("\n[target.'cfg(any())'.dependencies]\nalephlab-pins = { path = \"../pins\" }\n");
    write(&manifest, &text)
}

/// Downloads every crate that the checkout's lock file names, at exactly those versions.
fn fetch(checkout: &Path) -> Result<()> {
    let failed = |message: String| Error::Program {
        program: "cargo fetch".into(),
        message,
    };
    let output = Command::new("cargo")
        .current_dir(checkout)
        .args(["fetch", "--locked", "--quiet", "--target"])
        .arg(Toolchain::find(checkout)?.target)
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

/// What cargo resolves in a folder, without the network, so that no version moves.
fn metadata(folder: &Path) -> Result<Value> {
    let target = Toolchain::find(folder)?.target;
    let mut command = Command::new("cargo");
    // In the place of the one in a file above this folder: that is for the sources as they were.
    let (name, ours) = patch(folder);
    command.current_dir(folder).args([
        "--config",
        &format!("patch.crates-io.{name}.path = {ours:?}"),
        "metadata",
        "--offline",
        "--format-version",
        "1",
        "--filter-platform",
    ]);
    let failed = |message: String| Error::Program {
        program: "cargo metadata".into(),
        message,
    };
    let output = command
        .arg(target)
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| failed(error.to_string()))
}

fn copy_all(from: &Path, to: &Path) -> Result<()> {
    if !from.is_dir() {
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(Error::file("make", parent))?;
        }
        return fs::copy(from, to).map(drop).map_err(Error::file("copy", from));
    }
    for entry in fs::read_dir(from).map_err(Error::file("read", from))? {
        let entry = entry.map_err(Error::file("read", from))?;
        copy_all(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(Error::file("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trimmed_workspace_has_its_own_members_and_keeps_the_rest() {
        let manifest = "[workspace]\nresolver = \"3\"\nmembers = [\n  \"kernel\",\n  \"x\",\n]\n\
            default-members = [\"x\"]\n\n[patch.crates-io]\nb = { path = \"b\" }\n\n[workspace.dependencies]\na = \"1\"\n";
        let trimmed = trim_workspace(manifest);
        assert!(trimmed.contains(&format!("members = {CRATES:?}")), "{trimmed}");
        assert!(trimmed.contains("resolver = \"3\"") && trimmed.contains("a = \"1\""));
        assert!(!trimmed.contains("\"kernel\"") && !trimmed.contains("default-members"));
        assert!(!trimmed.contains("patch"));
    }
}
