//! A notebook as rust-analyzer sees it: std, the runtime and the crates of `:dep` as libraries, and one file of ours.
//!
//! Libraries are told apart from our file, so that a change of it leaves all that is known of them alone: this is what
//! makes an answer take milliseconds. Crates are found by cargo, offline, with the versions that cells are built with.

use std::fs;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use ra_ap_base_db::{SourceRoot, all_crates};
use ra_ap_hir::{ChangeWithProcMacros, TraitImpls, attach_db, crate_def_map};
use ra_ap_ide::{Analysis, AnalysisHost, RootDatabase};
use ra_ap_ide_db::FxHashMap;
use ra_ap_paths::{AbsPath, AbsPathBuf};
use ra_ap_project_model::{CargoConfig, PackageRoot, ProjectManifest, ProjectWorkspace, RustLibSource};
use ra_ap_vfs::file_set::FileSetConfig;
use ra_ap_vfs::{Change, FileId, Vfs, VfsPath};

use crate::evaluator::STACK_BYTES;
use crate::template::private::write_toolchain;
use crate::{Error, Result};

/// What the notebook's crate depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::evaluator::zygote) struct Manifest {
    /// Folder of the crate, which need not exist.
    pub(in crate::evaluator::zygote) folder: PathBuf,
    /// Lines of its `[dependencies]` table.
    pub(in crate::evaluator::zygote) dependencies: Vec<String>,
    /// The lock file with the versions that cells are built with.
    pub(in crate::evaluator::zygote) lock: PathBuf,
    /// What `rustc --version` said when the runtime was built.
    pub(in crate::evaluator::zygote) rustc: String,
    /// What it was built for, as rustc names it.
    pub(in crate::evaluator::zygote) target: String,
}

impl Manifest {
    /// Writes the crate, empty. Returns its manifest's path.
    fn write(&self) -> Result<PathBuf> {
        let source = self.folder.join("src");
        fs::create_dir_all(&source).map_err(Error::file("make", &source))?;
        let text = format!(
            "[package]\nname = \"notebook\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n\n\
             [dependencies]\n{}\n",
            self.dependencies.join("\n")
        );
        let write = |path: PathBuf, text: &str| fs::write(&path, text).map_err(Error::file("write", path));
        let path = self.folder.join("Cargo.toml");
        write(path.clone(), &text)?;
        write(source.join("lib.rs"), "")?;
        let lock = self.folder.join("Cargo.lock");
        fs::copy(&self.lock, &lock).map_err(Error::file("copy", &self.lock))?;
        write_toolchain(&self.folder, &self.rustc)?;
        Ok(path)
    }
}

/// A loaded project.
pub(super) struct Project {
    host: AnalysisHost,
    vfs: Vfs,
    /// Our file.
    pub(super) file: FileId,
    pub(super) manifest: Manifest,
}

impl Project {
    /// Reads everything: seconds, and hundreds of megabytes.
    pub(super) fn load(manifest: Manifest) -> anyhow::Result<Self> {
        let folder = absolute(&manifest.folder)?;
        let path = absolute(&manifest.write()?)?;
        let cargo = CargoConfig {
            sysroot: Some(RustLibSource::Discover),
            // Not what other systems need.
            target: Some(manifest.target.clone()),
            metadata_extra_args: vec!["--offline".to_owned()],
            ..CargoConfig::default()
        };
        let workspace = ProjectWorkspace::load(ProjectManifest::from_manifest_file(path)?, &cargo, &|_| {})?;
        let mut vfs = Vfs::default();
        let roots = workspace.to_roots();
        roots.iter().for_each(|root| read_root(root, &mut vfs));
        let mut change = ChangeWithProcMacros::default();
        for (file, changed) in vfs.take_changes() {
            if let Change::Create(bytes, _) | Change::Modify(bytes, _) = changed.change {
                change.change_file(file, String::from_utf8(bytes).ok());
            }
        }
        change.set_roots(source_roots(&roots, &folder, &vfs));
        let mut find = |path: &AbsPath| {
            let path = VfsPath::from(path.to_path_buf());
            vfs.file_id(&path).map(|(file, _)| file)
        };
        let (graph, _) = workspace.to_crate_graph(&mut find, &FxHashMap::default());
        change.set_crate_graph(graph);
        let own = VfsPath::from(folder.join("src/lib.rs"));
        let (file, _) = vfs.file_id(&own).context("the notebook's own file is missing")?;
        let mut host = AnalysisHost::default();
        host.apply_change(change);
        Ok(Self {
            host,
            vfs,
            file,
            manifest,
        })
    }

    /// Works out what every library declares and implements, on all cores: the first question would do it on one.
    pub(super) fn warm(&self) {
        let db = self.host.raw_database();
        // Dependencies come first, so that hardly anybody waits for another.
        let crates = all_crates(db);
        let next = AtomicUsize::new(0);
        let work = |db: RootDatabase| {
            while let Some(library) = crates.get(next.fetch_add(1, Ordering::Relaxed)) {
                let done = AssertUnwindSafe(|| {
                    attach_db(&db, || {
                        let _ = crate_def_map(&db, *library);
                        let _ = TraitImpls::for_crate(&db, *library);
                    });
                });
                // A crate that cannot be worked out is asked for again, when somebody needs it.
                let _ = catch_unwind(done);
            }
        };
        std::thread::scope(|scope| {
            let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
            for _ in 0..cores {
                let thread = std::thread::Builder::new()
                    .name("analyzer".into())
                    .stack_size(STACK_BYTES);
                let (work, db) = (&work, db.clone());
                let _ = thread.spawn_scoped(scope, move || work(db));
            }
        });
    }

    /// The notebook as it is with this text in our file.
    pub(super) fn with(&mut self, text: String) -> Analysis {
        let mut change = ChangeWithProcMacros::default();
        change.change_file(self.file, Some(text));
        self.host.apply_change(change);
        self.host.analysis()
    }
}

impl std::fmt::Debug for Project {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Project")
            .field("files", &self.vfs.iter().count())
            .finish_non_exhaustive()
    }
}

fn absolute(path: &Path) -> anyhow::Result<AbsPathBuf> {
    let text = path.to_str().context("the folder's path is not Unicode")?;
    AbsPathBuf::try_from(text).map_err(|_| anyhow::anyhow!("the folder's path is not absolute"))
}

/// Every package its own root; only ours may change.
fn source_roots(roots: &[PackageRoot], own: &AbsPath, vfs: &Vfs) -> Vec<SourceRoot> {
    let mut sets = FileSetConfig::builder();
    for root in roots {
        sets.add_file_set(root.include.iter().cloned().map(VfsPath::from).collect());
    }
    let is_own = |root: &PackageRoot| root.include.iter().any(|folder| folder.starts_with(own));
    let mut is_local: Vec<bool> = roots.iter().map(is_own).collect();
    // What belongs to none comes last.
    is_local.push(false);
    let sets = sets.build().partition(vfs).into_iter();
    sets.zip(is_local)
        .map(|(set, is_local)| {
            if is_local {
                SourceRoot::new_local(set)
            } else {
                SourceRoot::new_library(set)
            }
        })
        .collect()
}

/// Reads a package's Rust files. What cannot be read is not known, and that is all.
fn read_root(root: &PackageRoot, vfs: &mut Vfs) {
    let mut folders: Vec<PathBuf> = root.include.iter().map(|path| path.as_path().into()).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let Some(name) = path.to_str().and_then(|path| AbsPathBuf::try_from(path).ok()) else {
                continue;
            };
            let is_excluded = root.exclude.contains(&name);
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if !is_excluded {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") && !is_excluded {
                vfs.set_file_contents(VfsPath::from(name), fs::read(&path).ok());
            }
        }
    }
}
