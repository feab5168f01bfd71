//! A kernel's private copy of the template's build folder.
//!
//! cargo and rustc write some files in place (sources, manifests, fingerprints, the cell's own artifacts), so
//! those are copied; libraries, build outputs and build scripts are only replaced whole and are hard links:
//! 19 MB and some milliseconds in place of 390 MB. Times are kept, or cargo would build everything again.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::Template;
use super::stamp::Stamp;
use crate::{Error, Result};

/// What evcxr's manifest says of optimisation is for cells. What they link is built once and runs long: it gets the
/// profile of a release.
pub(super) const PROFILE: &str =
    "[profile.dev.package.\"*\"]\nopt-level = 3\ndebug-assertions = false\noverflow-checks = false\n";
/// Begins the name of a folder for sockets.
const SOCKETS: &str = "alephlab-sockets-";

/// The folders of one running kernel; removed when it ends.
#[derive(Debug)]
pub(crate) struct Private {
    root: PathBuf,
    /// For sockets and FIFOs: socket paths are limited to about 100 bytes.
    sockets: PathBuf,
    /// Held while this process lives, so that nobody else removes the folder as left over.
    _lock: File,
}

impl Private {
    /// Copies the template, beside it where that can be written (hard links), else under the temporary folder.
    pub(crate) fn create(template: &Template, stamp: &Stamp) -> Result<Self> {
        sweep(&template.kernels());
        let name = uuid::Uuid::new_v4().to_string();
        let beside = template.kernels().join(&name);
        let root = match fs::create_dir_all(&beside) {
            Ok(()) => beside,
            Err(_) => {
                let root = std::env::temp_dir().join(format!("alephlab-kernel-{name}"));
                fs::create_dir_all(&root).map_err(Error::file("make", &root))?;
                root
            }
        };
        let lock = lock_file(&root)?;
        let sockets = tempfile::Builder::new().prefix(SOCKETS).tempdir();
        let sockets = sockets.map_err(Error::file("make", std::env::temp_dir()))?.keep();
        let private = Self {
            root,
            sockets,
            _lock: lock,
        };
        private.fill(template, stamp)?;
        Ok(private)
    }

    fn fill(&self, template: &Template, stamp: &Stamp) -> Result<()> {
        // 0700: other accounts of this machine must not put code into our build folder.
        restrict(&self.root)?;
        copy_tree(&template.evcxr(), &self.evcxr())?;
        // evcxr takes its settings from the current folder before any other place, and rustup its toolchain.
        let settings = format!("[evcxr]\ntmpdir = {:?}\n", self.evcxr());
        write(&self.root.join("evcxr.toml"), &settings)?;
        write_profile(&self.root)?;
        write_toolchain(&self.root, &stamp.rustc)
    }

    /// The folder in which evcxr is started.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// evcxr's build folder.
    pub(crate) fn evcxr(&self) -> PathBuf {
        self.root.join("evcxr")
    }

    /// For sockets and FIFOs, short.
    pub(crate) fn sockets(&self) -> &Path {
        &self.sockets
    }

    /// Removes everything. Called at the end; a killed kernel's folder is removed by the next one.
    pub(crate) fn remove(&self) {
        let _ = fs::remove_dir_all(&self.sockets);
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// Makes rustup choose the compiler of the stamp in a folder, whatever the person's default is.
pub(crate) fn write_toolchain(folder: &Path, rustc: &str) -> Result<()> {
    let version = rustc.split(' ').nth(1).unwrap_or_default();
    // Nightly versions have no number that rustup could install; the stamp check compares them anyway.
    if version.is_empty() || version.contains('-') {
        return Ok(());
    }
    write(
        &folder.join("rust-toolchain.toml"),
        &format!("[toolchain]\nchannel = \"{version}\"\n"),
    )
}

/// Puts [`PROFILE`] where cargo finds it: in a folder above the build folder.
pub(crate) fn write_profile(folder: &Path) -> Result<()> {
    let settings = folder.join(".cargo");
    fs::create_dir_all(&settings).map_err(Error::file("make", &settings))?;
    write(&settings.join("config.toml"), PROFILE)
}

/// Removes copies of kernels that were killed.
fn sweep(kernels: &Path) {
    for entry in fs::read_dir(kernels).into_iter().flatten().flatten() {
        let folder = entry.path();
        let abandoned = File::open(folder.join("lock")).is_ok_and(|file| file.try_lock().is_ok());
        if abandoned {
            if let Ok(sockets) = fs::read_to_string(folder.join("sockets")) {
                remove_sockets(Path::new(&sockets));
            }
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// Only what carries our name: the path was read from a file.
fn remove_sockets(folder: &Path) {
    let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if name.starts_with(SOCKETS) && folder.parent() == Some(&std::env::temp_dir()) {
        let _ = fs::remove_dir_all(folder);
    }
}

fn lock_file(root: &Path) -> Result<File> {
    let path = root.join("lock");
    let file = File::create(&path).map_err(Error::file("make", &path))?;
    file.lock().map_err(Error::file("lock", &path))?;
    Ok(file)
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to).map_err(Error::file("make", to))?;
    for entry in fs::read_dir(from).map_err(Error::file("read", from))? {
        let entry = entry.map_err(Error::file("read", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy_tree(&source, &target)?;
        } else if !(is_only_replaced(&source) && fs::hard_link(&source, &target).is_ok()) {
            copy_file(&source, &target)?;
        }
    }
    Ok(())
}

/// Whether cargo and rustc replace this file whole and never write into it.
fn is_only_replaced(path: &Path) -> bool {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let parents: Vec<&str> = path
        .iter()
        .filter_map(|part| part.to_str())
        .rev()
        .skip(1)
        .take(3)
        .collect();
    match parents.as_slice() {
        ["deps", ..] => {
            name.starts_with("lib") && !name.starts_with("libctx") && !name.starts_with("libcode_")
        }
        ["out", _, "build"] => true,
        [_, "build", _] => name.starts_with("build-script-") || name.starts_with("build_script_"),
        _ => false,
    }
}

fn copy_file(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map_err(Error::file("copy", from))?;
    let times = fs::metadata(from)
        .and_then(|meta| meta.modified())
        .and_then(|modified| {
            let file = File::options().write(true).open(to)?;
            file.set_modified(modified)
        });
    times.map_err(Error::file("set the time of", to))
}

fn restrict(folder: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(Error::file("restrict", folder))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(Error::file("write", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn template(folder: &Path) -> (Template, Stamp) {
        let template = Template::new(folder).unwrap();
        let debug = template.evcxr().join("target/x/debug");
        for (path, text) in [
            ("deps/libcandle.rlib", "a"),
            ("deps/libctx.so", "b"),
            ("deps/ctx.d", "c"),
            ("build/gemm-1/out/data", "d"),
            ("build/gemm-1/build-script-build", "e"),
            ("build/gemm-1/output", "f"),
        ] {
            let path = debug.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        fs::write(template.evcxr().join("Cargo.toml"), "").unwrap();
        let stamp = Stamp {
            rustc: "rustc 1.95.0 (x)".into(),
            target: "x".into(),
            source_hash: String::new(),
            libstd: PathBuf::new(),
            runtime_lib: PathBuf::new(),
            evcxr: String::new(),
            profile: PROFILE.into(),
        };
        (template, stamp)
    }

    #[test]
    fn files_that_are_written_in_place_are_copied_and_the_rest_is_linked() {
        let folder = tempfile::tempdir().unwrap();
        let (template, stamp) = template(folder.path());
        let private = Private::create(&template, &stamp).unwrap();
        let inode = |root: PathBuf, path: &str| {
            fs::metadata(root.join("target/x/debug").join(path))
                .unwrap()
                .ino()
        };
        let linked = |path: &str| inode(template.evcxr(), path) == inode(private.evcxr(), path);
        for path in [
            "deps/libcandle.rlib",
            "build/gemm-1/out/data",
            "build/gemm-1/build-script-build",
        ] {
            assert!(linked(path), "{path}");
        }
        for path in ["deps/libctx.so", "deps/ctx.d", "build/gemm-1/output"] {
            assert!(!linked(path), "{path}");
            let times = |root: PathBuf| {
                fs::metadata(root.join("target/x/debug").join(path))
                    .unwrap()
                    .modified()
                    .unwrap()
            };
            assert_eq!(times(template.evcxr()), times(private.evcxr()));
        }
        let toolchain = fs::read_to_string(private.root().join("rust-toolchain.toml")).unwrap();
        assert!(toolchain.contains("\"1.95.0\""));
        private.remove();
        assert!(!private.root().exists() && !private.sockets().exists());
    }

    #[test]
    fn a_killed_kernels_copy_is_removed_and_a_living_ones_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (template, stamp) = template(folder.path());
        let living = Private::create(&template, &stamp).unwrap();
        let killed = template.kernels().join("killed");
        fs::create_dir_all(&killed).unwrap();
        fs::write(killed.join("lock"), "").unwrap();
        let sockets = tempfile::Builder::new().prefix(SOCKETS).tempdir().unwrap().keep();
        fs::write(killed.join("sockets"), sockets.to_str().unwrap()).unwrap();
        let next = Private::create(&template, &stamp).unwrap();
        assert!(!killed.exists() && !sockets.exists() && living.root().exists());
        living.remove();
        next.remove();
    }
}
