//! The stamp of a template: which compiler and which sources it was built from.
//!
//! A Rust dylib fits one exact compiler and one exact build, so both are checked at every start.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Template;
use super::private::PROFILE;
use crate::{Error, Result};

/// Version of evcxr whose build folder a template holds.
pub const EVCXR: &str = "0.22.0";

/// Content of `stamp.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// First line of `rustc -vV`.
    pub rustc: String,
    /// Host triple.
    pub target: String,
    /// SHA-256 over names and contents of `source/`, hex.
    pub source_hash: String,
    /// The toolchain's libstd.
    pub libstd: PathBuf,
    /// The runtime, below `evcxr/`.
    pub runtime_lib: PathBuf,
    /// Version of evcxr.
    pub evcxr: String,
    /// How crates were optimised; cargo would build all of them again under another profile.
    #[serde(default)]
    pub profile: String,
    /// Flags for rustc that evcxr built everything with; others would build all of it again.
    #[serde(default)]
    pub rustflags: String,
}

/// A compiler that is installed.
#[derive(Debug, Clone)]
pub(crate) struct Toolchain {
    pub(crate) rustc: String,
    pub(crate) target: String,
    pub(crate) sysroot: PathBuf,
    pub(crate) libstd: PathBuf,
    /// The sources of std are there: without them evcxr cannot tell types of variables.
    pub(crate) has_rust_src: bool,
}

impl Toolchain {
    /// Asks the compiler that is chosen in `folder`.
    pub(crate) fn find(folder: &Path) -> Result<Self> {
        let version = ask(folder, &["-vV"])?;
        let line = |name: &str| {
            version
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .map(str::to_owned)
        };
        let libdir = PathBuf::from(ask(folder, &["--print", "target-libdir"])?.trim());
        let sysroot = PathBuf::from(ask(folder, &["--print", "sysroot"])?.trim());
        let unknown = |what: &str| Error::Program {
            program: "rustc".into(),
            message: format!("it names no {what}"),
        };
        Ok(Self {
            rustc: version.lines().next().unwrap_or_default().to_owned(),
            target: line("host: ").ok_or_else(|| unknown("host"))?,
            libstd: find_file(&libdir, "libstd-", ".so").ok_or_else(|| unknown("shared std"))?,
            has_rust_src: sysroot
                .join("lib/rustlib/src/rust/library/std/src/lib.rs")
                .exists(),
            sysroot,
        })
    }
}

impl Stamp {
    /// Reads the stamp of a template.
    ///
    /// # Errors
    /// [`Error::Template`] when there is none: the template is missing or was not finished.
    pub fn read(template: &Template) -> Result<Self> {
        let text = std::fs::read_to_string(template.stamp())
            .map_err(|_| refused(template, "it is not built, or its build was not finished".into()))?;
        serde_json::from_str(&text)
            .map_err(|error| refused(template, format!("its stamp is damaged: {error}")))
    }

    /// Checks that the template fits the compiler and its own sources.
    ///
    /// # Errors
    /// [`Error::Template`] that names what was expected and what is there.
    pub(crate) fn check(&self, template: &Template, toolchain: &Toolchain) -> Result<()> {
        if self.evcxr != EVCXR {
            return Err(refused(
                template,
                format!("it was built for evcxr {}, this is {EVCXR}", self.evcxr),
            ));
        }
        if self.profile != PROFILE {
            return Err(refused(template, "it was built with another profile".into()));
        }
        if self.rustc != toolchain.rustc {
            let message = format!("it was built by `{}`, here is `{}`", self.rustc, toolchain.rustc);
            return Err(refused(template, message));
        }
        let hash = hash_tree(&template.source())?;
        if self.source_hash != hash {
            let message = format!(
                "it was built from source {:.12}, its source is now {hash:.12}",
                self.source_hash
            );
            return Err(refused(template, message));
        }
        if !template.evcxr().join(&self.runtime_lib).exists() {
            return Err(refused(
                template,
                format!("{} is missing", self.runtime_lib.display()),
            ));
        }
        Ok(())
    }
}

/// SHA-256 over the relative names and contents of all files, hex.
///
/// # Errors
/// [`Error::File`].
pub fn hash_tree(root: &Path) -> Result<String> {
    let mut files = Vec::new();
    list(root, &mut files)?;
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let name = file
            .strip_prefix(root)
            .unwrap_or(&file)
            .to_string_lossy()
            .into_owned();
        let content = std::fs::read(&file).map_err(Error::file("read", &file))?;
        // Lengths keep names and contents apart.
        for part in [name.as_bytes(), &content] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
    }
    Ok(hex::encode(hash.finalize()))
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(Error::file("read", folder))? {
        let path = entry.map_err(Error::file("read", folder))?.path();
        if path.is_dir() {
            list(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// The first file of a folder whose name begins and ends so.
pub(crate) fn find_file(folder: &Path, begin: &str, end: &str) -> Option<PathBuf> {
    let fits = |path: &PathBuf| {
        path.file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.starts_with(begin) && name.ends_with(end))
    };
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .ok()?
        .flatten()
        .map(|e| e.path())
        .filter(fits)
        .collect();
    found.sort();
    found.into_iter().next()
}

fn ask(folder: &Path, args: &[&str]) -> Result<String> {
    let failed = |message: String| Error::Program {
        program: format!("rustc {}", args.join(" ")),
        message,
    };
    let output = Command::new("rustc")
        .args(args)
        .current_dir(folder)
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn refused(template: &Template, message: String) -> Error {
    Error::Template {
        path: template.root().to_owned(),
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(folder: &Path) -> (Template, Stamp, Toolchain) {
        let template = Template::new(folder).unwrap();
        std::fs::create_dir_all(template.source()).unwrap();
        std::fs::create_dir_all(template.evcxr()).unwrap();
        std::fs::write(template.source().join("lib.rs"), "a").unwrap();
        std::fs::write(template.evcxr().join("lib.so"), "").unwrap();
        let stamp = Stamp {
            rustc: "rustc 1.95.0".into(),
            target: "t".into(),
            source_hash: hash_tree(&template.source()).unwrap(),
            libstd: "/libstd.so".into(),
            runtime_lib: "lib.so".into(),
            evcxr: EVCXR.into(),
            profile: PROFILE.into(),
            rustflags: String::new(),
        };
        let toolchain = Toolchain {
            rustc: stamp.rustc.clone(),
            target: "t".into(),
            sysroot: "/".into(),
            libstd: "/libstd.so".into(),
            has_rust_src: true,
        };
        (template, stamp, toolchain)
    }

    #[test]
    fn a_template_without_a_stamp_is_refused_with_the_command_that_mends_it() {
        let folder = tempfile::tempdir().unwrap();
        let error = Stamp::read(&Template::new(folder.path()).unwrap()).unwrap_err();
        assert_eq!(error.code(), "template");
        assert!(error.hint().unwrap().contains("alephlab quickstart"));
    }

    #[test]
    fn another_compiler_or_changed_source_is_refused_and_both_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let (template, stamp, mut toolchain) = template(folder.path());
        stamp.check(&template, &toolchain).unwrap();
        std::fs::write(template.source().join("lib.rs"), "b").unwrap();
        let changed = stamp.check(&template, &toolchain).unwrap_err().to_string();
        assert!(
            changed.contains(&stamp.source_hash[..12]) && changed.contains("is now"),
            "{changed}"
        );
        toolchain.rustc = "rustc 1.96.0".into();
        let other = stamp.check(&template, &toolchain).unwrap_err().to_string();
        assert!(other.contains("1.95.0") && other.contains("1.96.0"), "{other}");
    }

    #[test]
    fn another_profile_or_one_of_before_there_were_profiles_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (template, stamp, toolchain) = template(folder.path());
        let mut old = serde_json::to_value(&stamp).unwrap();
        old.as_object_mut().unwrap().remove("profile");
        let old: Stamp = serde_json::from_value(old).unwrap();
        let other = Stamp {
            profile: PROFILE.replace('3', "1"),
            ..stamp
        };
        for stamp in [old, other] {
            let error = stamp.check(&template, &toolchain).unwrap_err().to_string();
            assert!(error.contains("another profile"), "{error}");
        }
    }

    #[test]
    fn hash_tells_names_from_contents() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), "bc").unwrap();
        let first = hash_tree(folder.path()).unwrap();
        std::fs::rename(folder.path().join("a"), folder.path().join("ab")).unwrap();
        std::fs::write(folder.path().join("ab"), "c").unwrap();
        assert_ne!(hash_tree(folder.path()).unwrap(), first);
    }
}
