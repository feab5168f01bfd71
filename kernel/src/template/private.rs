//! A kernel's private copy of the template's build folder.
//!
//! cargo and rustc write some files in place (sources, manifests, fingerprints, the cell's own artifacts), so
//! those are copied; libraries, build outputs and build scripts are only replaced whole and are hard links:
//! 19 MB and some milliseconds in place of 390 MB. Times are kept, or cargo would build everything again.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::stamp::Stamp;
use super::{Template, source};
use crate::{Error, Result};

/// What evcxr's manifest says of optimisation is for cells. What they link is built once and runs long: it gets the
/// profile of a release.
pub(super) const PROFILE: &str =
    "[profile.dev.package.\"*\"]\nopt-level = 3\ndebug-assertions = false\noverflow-checks = false\n";
/// What of the environment would have cudarc built again: a toolkit of this machine has no say in the runtime's build.
const CUDA: &str = "\n[env]\nCUDARC_CUDA_VERSION = { value = \"13000\", force = true }\n\
    CUDA_HOME = { value = \"\", force = true }\nCUDA_PATH = { value = \"\", force = true }\n\
    CUDA_ROOT = { value = \"\", force = true }\nCUDA_TOOLKIT_ROOT_DIR = { value = \"\", force = true }\n\
    CUDNN_LIB = { value = \"\", force = true }\n";
/// Begins the name of a folder for sockets.
const SOCKETS: &str = "alephlab-sockets-";
/// Begins the name of a copy that is not locked yet.
const NEW: &str = ".new-";
/// Begins the name of a copy that is being removed.
const GONE: &str = ".gone-";
/// In every copy: locked while its kernel lives.
const LOCK: &str = "lock";
/// In every copy: where its folder for sockets is.
const SOCKETS_FILE: &str = "sockets";
/// A copy without a lock that is older than this is nobody's.
const ABANDONED_AFTER: Duration = Duration::from_secs(5 * 60);

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
    /// Makes empty folders: beside the template where that can be written (hard links), else under the temporary
    /// folder.
    pub(crate) fn create(template: &Template) -> Result<Self> {
        let kernels = template.kernels();
        sweep(&kernels);
        let name = uuid::Uuid::new_v4().to_string();
        let beside = fs::create_dir_all(&kernels).and_then(|()| make_locked(&kernels, &name));
        let (root, lock) = match beside {
            Ok(made) => made,
            Err(_) => {
                let folder = std::env::temp_dir();
                make_locked(&folder, &format!("alephlab-kernel-{name}"))
                    .map_err(Error::file("make", folder))?
            }
        };
        match make_sockets(&root) {
            Ok(sockets) => Ok(Self {
                root,
                sockets,
                _lock: lock,
            }),
            Err(error) => {
                remove_folder(&root);
                Err(Error::file("make", std::env::temp_dir())(error))
            }
        }
    }

    /// Copies the template. Fails when [`Private::remove`] came first, and makes nothing again then.
    pub(crate) fn fill(&self, template: &Template, stamp: &Stamp) -> Result<()> {
        copy_tree(&template.evcxr(), &self.evcxr())?;
        // evcxr takes its settings from the current folder before any other place, and rustup its toolchain.
        let settings = format!("[evcxr]\ntmpdir = {:?}\n", self.evcxr());
        write(&self.root.join("evcxr.toml"), &settings)?;
        write_settings(&self.root, template)?;
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
        // Under another name: a compiler that still ends cannot make its files again.
        let name = self.root.file_name().unwrap_or_default().to_string_lossy();
        let gone = self.root.with_file_name(format!("{GONE}{name}"));
        let renamed = fs::rename(&self.root, &gone).is_ok();
        remove_folder(if renamed { &gone } else { &self.root });
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

/// Puts [`PROFILE`], [`CUDA`] and the template's patch where cargo finds them: in a folder above the build folder.
pub(crate) fn write_settings(folder: &Path, template: &Template) -> Result<()> {
    let settings = folder.join(".cargo");
    match fs::create_dir(&settings) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(Error::file("make", &settings)(error));
        }
        _ => {}
    }
    let (name, ours) = source::patch(&template.source());
    let patch = format!("\n[patch.crates-io]\n{name} = {{ path = {ours:?} }}\n");
    write(&settings.join("config.toml"), &format!("{PROFILE}{CUDA}{patch}"))
}

/// Removes copies of kernels that were killed.
fn sweep(kernels: &Path) {
    for entry in fs::read_dir(kernels).into_iter().flatten().flatten() {
        let folder = entry.path();
        let is_new = entry.file_name().to_string_lossy().starts_with(NEW);
        let lock = match File::open(folder.join(LOCK)) {
            // Its kernel may be about to lock it.
            Ok(_) if is_new && !is_old(&folder) => continue,
            Ok(lock) if lock.try_lock().is_ok() => Some(lock),
            Err(error) if error.kind() == io::ErrorKind::NotFound && is_old(&folder) => None,
            _ => continue,
        };
        if let Ok(sockets) = fs::read_to_string(folder.join(SOCKETS_FILE)) {
            remove_sockets(Path::new(&sockets));
        }
        remove_folder(&folder);
        // Held until here: another kernel that starts leaves the folder to us.
        drop(lock);
    }
}

fn is_old(folder: &Path) -> bool {
    let changed = fs::metadata(folder).and_then(|meta| meta.modified());
    changed.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > ABANDONED_AFTER))
}

/// Removes a copy. What still writes into it may be in the way once.
fn remove_folder(folder: &Path) {
    if try_remove(folder).is_err() {
        let _ = try_remove(folder);
    }
}

/// The lock goes last: without it nobody could tell at once that the rest is left over.
fn try_remove(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else if entry.file_name() != LOCK {
            fs::remove_file(entry.path())?;
        }
    }
    fs::remove_dir_all(folder)
}

/// Only what carries our name: the path was read from a file.
fn remove_sockets(folder: &Path) {
    let name = folder
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    if name.starts_with(SOCKETS) && folder.parent() == Some(&std::env::temp_dir()) {
        let _ = fs::remove_dir_all(folder);
    }
}

/// Makes a folder with a lock. It gets its name when the lock is held: [`sweep`] of a kernel that starts at the same
/// time would take it for left over.
fn make_locked(folder: &Path, name: &str) -> io::Result<(PathBuf, File)> {
    let (new, root) = (folder.join(format!("{NEW}{name}")), folder.join(name));
    // 0700: other accounts of this machine must not put code into our build folder.
    fs::DirBuilder::new().mode(0o700).create(&new)?;
    let locked = File::create(new.join(LOCK)).and_then(|file| {
        file.lock()?;
        fs::rename(&new, &root)?;
        Ok(file)
    });
    match locked {
        Ok(file) => Ok((root, file)),
        Err(error) => {
            remove_folder(&new);
            Err(error)
        }
    }
}

/// Makes the folder for sockets, and notes it in the copy for [`sweep`].
fn make_sockets(root: &Path) -> io::Result<PathBuf> {
    let sockets = tempfile::Builder::new()
        .prefix(SOCKETS)
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir()?;
    fs::write(
        root.join(SOCKETS_FILE),
        sockets.path().to_string_lossy().as_bytes(),
    )?;
    Ok(sockets.keep())
}

pub(crate) fn copy_tree(from: &Path, to: &Path) -> Result<()> {
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
            rustflags: String::new(),
        };
        (template, stamp)
    }

    fn create(template: &Template, stamp: &Stamp) -> Private {
        let private = Private::create(template).unwrap();
        private.fill(template, stamp).unwrap();
        private
    }

    fn mode(folder: &Path) -> u32 {
        fs::metadata(folder).unwrap().mode() & 0o777
    }

    fn age(folder: &Path, by: Duration) {
        let then = std::time::SystemTime::now() - by;
        File::open(folder).unwrap().set_modified(then).unwrap();
    }

    #[test]
    fn files_that_are_written_in_place_are_copied_and_the_rest_is_linked() {
        let folder = tempfile::tempdir().unwrap();
        let (template, stamp) = template(folder.path());
        let private = create(&template, &stamp);
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
        let living = create(&template, &stamp);
        let killed = create(&template, &stamp);
        let (root, sockets) = (killed.root().to_owned(), killed.sockets().to_owned());
        // As the operating system does with the files of a killed process.
        drop(killed);
        let next = create(&template, &stamp);
        assert!(!root.exists() && !sockets.exists());
        assert!(living.root().exists() && living.sockets().exists());
        living.remove();
        next.remove();
        assert_eq!(fs::read_dir(template.kernels()).unwrap().count(), 0);
    }

    #[test]
    fn both_folders_are_closed_to_other_accounts() {
        let folder = tempfile::tempdir().unwrap();
        let (template, stamp) = template(folder.path());
        let private = create(&template, &stamp);
        assert_eq!((mode(private.root()), mode(private.sockets())), (0o700, 0o700));
        private.remove();
    }

    #[test]
    fn a_copy_without_a_held_lock_is_left_over_only_when_it_is_old() {
        let folder = tempfile::tempdir().unwrap();
        let kernels = folder.path();
        let (without, unlocked) = (kernels.join("without"), kernels.join(format!("{NEW}unlocked")));
        for copy in [&without, &unlocked] {
            fs::create_dir(copy).unwrap();
        }
        fs::write(unlocked.join(LOCK), "").unwrap();
        sweep(kernels);
        assert!(without.exists() && unlocked.exists());
        for copy in [&without, &unlocked] {
            age(copy, ABANDONED_AFTER + Duration::from_secs(1));
        }
        sweep(kernels);
        assert_eq!(fs::read_dir(kernels).unwrap().count(), 0);
    }

    #[test]
    fn a_copy_that_was_removed_while_it_was_made_does_not_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let (template, stamp) = template(folder.path());
        let private = Private::create(&template).unwrap();
        private.remove();
        private.fill(&template, &stamp).unwrap_err();
        write_settings(private.root(), &template).unwrap_err();
        assert_eq!(fs::read_dir(template.kernels()).unwrap().count(), 0);
    }
}
